from __future__ import annotations

import math
import re
import runpy
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from tests.evaluation.evaluations import INVALID, RIGHT, evaluation, several
from text2sql.config import Settings
from text2sql.config_file import load_settings
from text2sql.evaluation.card import ASSETS, model_card
from text2sql.evaluation.gate import decide

JUDGED = evaluation(base=[INVALID, RIGHT], tuned=[RIGHT, RIGHT])
PROJECT = ASSETS.parent


def card(settings: Settings, judged=JUDGED, **more) -> str:
    return model_card(judged, decide(judged, settings.gate), settings, **more)


def front_matter(text: str) -> dict:
    """What the hub would read: its own expression finds where the front matter ends."""
    from huggingface_hub.repocard import REGEX_YAML_BLOCK

    found = REGEX_YAML_BLOCK.search(text)
    assert found is not None
    return yaml.safe_load(found[2])


def test_the_hub_reads_it():
    from huggingface_hub import ModelCardData
    from huggingface_hub.repocard_data import model_index_to_eval_results

    front = front_matter(card(Settings()))
    name, results = model_index_to_eval_results(front["model-index"])
    assert name == "text2sql-mistral-7b"
    assert {result.metric_type: result.metric_value for result in results} == {
        "execution_accuracy": 1.0,
        "exact_match": 1.0,
        "valid_sql": 1.0,
        "rouge": 0.9,
        "bleu": 88.0,
        "perplexity": 1.04,
    }
    data = ModelCardData(**{key: value for key, value in front.items() if key != "model-index"})
    assert (data.base_model, data.library_name, data.pipeline_tag) == (
        "mistralai/Mistral-7B-v0.1",
        "transformers",
        "text-generation",
    )
    assert data.datasets == ["b-mc2/sql-create-context"]
    assert "qlora" in (data.tags or [])


def test_figures_settings_gate_and_limits_are_in_it():
    text = card(Settings(), facts={"Optimizer steps": 600, "Set aside": {"duplicate": 3}})
    assert "| Figure | Base | Tuned |" in text
    assert "| Execution accuracy | 50.0% | 100.0% |" in text
    assert "- Tuned against Base: +50.0 points [+49.0, +51.0], p = 0.001." in text
    assert "- kept: Execution accuracy 1.000 against 0.500 of the base model: +50.0 points" in text
    assert "| LoRA | r 16, alpha 32, dropout 0.05, bias none |" in text
    assert "| Set aside: duplicate | 3 |" in text
    assert "## Limits" in text
    assert "stand-in" not in text


def test_the_embedded_base_is_called_a_stand_in():
    text = card(load_settings(PROJECT / "configs" / "tiny.yaml"))
    assert "stand-in that proves the path" in text
    assert "stand-in" in front_matter(text)["tags"]


def test_local_folders_give_away_no_path(tmp_path: Path):
    (tmp_path / "my-base").mkdir()
    settings = Settings.model_validate(
        {"model": {"name": str(tmp_path / "my-base")}, "data": {"path": str(tmp_path / "rows.jsonl")}}
    )
    text = card(settings)
    assert str(tmp_path) not in text
    assert front_matter(text)["base_model"] == "my-base"
    assert front_matter(text)["datasets"] == ["rows.jsonl"]


def test_a_figure_that_is_no_number_stays_out_of_the_index():
    tuned = replace(JUDGED.systems[1], figures=JUDGED.systems[1].figures | {"perplexity": math.inf})
    text = card(Settings(), replace(JUDGED, systems=[JUDGED.systems[0], tuned]))
    [model] = front_matter(text)["model-index"]
    assert "perplexity" not in {metric["type"] for metric in model["results"][0]["metrics"]}
    assert "| Perplexity | 3.200 | – |" in text


def test_every_system_has_a_column_with_intervals():
    text = card(Settings(), several())
    assert "| Figure | Base | Base, few-shot | Tuned | Champion |" in text
    assert "| 25.0% [20.0, 30.0] | 50.0% [45.0, 55.0] | 75.0% [70.0, 80.0] |" in text


def test_without_a_tuned_model_the_index_is_empty():
    assert "model-index" not in front_matter(card(Settings(), several(names=("base",))))


@pytest.mark.parametrize("name", ['a: "b"\n---\n# x', "<script>alert(1)</script>", "a | b", "`c`"])
def test_hostile_names_neither_end_the_front_matter_nor_become_markup(name: str):
    settings = Settings.model_validate({"name": name, "data": {"dataset_name": name}, "model": {"name": name}})
    text = card(settings, facts={name: name})
    assert front_matter(text)["model-index"][0]["name"] == name
    body = text.split("\n---\n", 1)[1]
    outside_code = re.sub(r"```.*?```|`[^`\n]*`", "", body, flags=re.DOTALL)
    assert "<script>" not in re.sub(r"\\.", "", outside_code)


def test_a_template_with_backticks_stays_inside_its_fence():
    settings = Settings.model_validate({"data": {"prompt_template": "```sql\n{context}\n```\n{question}"}})
    assert "\n````python\n" in card(settings)


@pytest.mark.parametrize("chat", [False, True])
def test_how_to_load_works_as_it_is_written(
    chat: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    settings = load_settings(PROJECT / "configs" / "tiny.yaml", [f"model.chat_template={str(chat).lower()}"])
    [code] = re.findall(r"```python\n(.*?)```", card(settings), re.DOTALL)
    shutil.copytree(ASSETS / "tiny-mistral", tmp_path / "model")
    if chat:
        template = "{% for message in messages %}{{ message.content }}{% endfor %}"
        (tmp_path / "model" / "chat_template.jinja").write_text(template)
    script = tmp_path / "load.py"
    script.write_text(code, encoding="utf-8")
    monkeypatch.chdir(tmp_path / "model")
    runpy.run_path(str(script))
    assert capsys.readouterr().out.strip()

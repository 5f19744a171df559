from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from text2sql.config import Settings
from text2sql.config_file import load_settings, sections, valid_keys
from text2sql.errors import ConfigError


@pytest.fixture
def config(tmp_path: Path):
    """Writes a YAML text and gives its path."""

    def write(text: str) -> Path:
        path = tmp_path / "config.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def problems(path: Path, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_settings(path, overrides)
    assert caught.value.exit_code == 2
    assert str(caught.value).splitlines() == caught.value.problems, "one line a problem"
    return [problem.removeprefix(f"{path}: ") for problem in caught.value.problems]


def test_an_empty_file_is_the_defaults(config):
    assert load_settings(config("")) == Settings()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "training: {learning_rte: 1}",
            "unknown key training.learning_rte (= 1); did you mean training.learning_rate?",
        ),
        ("lora: {rank_of_it_all: 1}", "unknown key lora.rank_of_it_all (= 1)"),
        ("trainin: {seed: 1}", "unknown key trainin (= {'seed': 1}); did you mean training?"),
        ("model: {learning_rate: 1}", "unknown key model.learning_rate (= 1); did you mean training.learning_rate?"),
        (
            "gate: {exact_match: {mim: 1, min: 0}}",
            "unknown key gate.exact_match.mim (= 1); did you mean gate.exact_match.min?",
        ),
        ("zzz: 1", "unknown key zzz (= 1); sections are model, lora, training, data, merge, evaluation, gate, wandb"),
        ("seed: 1", "unknown key seed (= 1); did you mean data.seed?"),
    ],
)
def test_an_unknown_key_gets_the_nearest_valid_one(config, text: str, said: str):
    [problem] = problems(config(text))
    assert problem.startswith(said)


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("training: {learning_rate: fast}", "training.learning_rate", "'fast'"),
        ("training: {learning_rate: -1}", "training.learning_rate", "-1"),
        ("training: {learning_rate: .nan}", "training.learning_rate", "nan"),
        ("training: {learning_rate: .inf}", "training.learning_rate", "inf"),
        ("gate: {exact_match: {min: .nan}}", "gate.exact_match.min", "nan"),
        ("training: {per_device_train_batch_size: 2.5}", "training.per_device_train_batch_size", "2.5"),
        ("training: {per_device_train_batch_size: 0}", "training.per_device_train_batch_size", "0"),
        ("training: {per_device_train_batch_size: true}", "training.per_device_train_batch_size", "True"),
        ("training: {gradient_checkpointing: maybe}", "training.gradient_checkpointing", "'maybe'"),
        ("model: {quantization_bits: 5}", "model.quantization_bits", "5"),
        ("model: {name: 7}", "model.name", "7"),
        ("model: {name: ''}", "model.name", "''"),
        ("lora: {lora_dropout: 1.0}", "lora.lora_dropout", "1.0"),
        ("lora: {target_modules: []}", "lora.target_modules", "[]"),
        ("data: {subset_fraction: 0}", "data.subset_fraction", "0"),
        ("data: {sha256: abc}", "data.sha256", "'abc'"),
        ("model: 3", "model", "3"),
        ("training: null", "training", "None"),
    ],
)
def test_a_wrong_value_is_named_with_its_key(config, text: str, key: str, value: str):
    [problem] = problems(config(text))
    assert problem.startswith(f"{key} = {value}: ")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("data: {train_ratio: 0.9}", "data: train_ratio + val_ratio + test_ratio must be 1, and is 1.1"),
        ("data: {train_ratio: 0.9, val_ratio: 0.1, test_ratio: 0}", "data: train_ratio and test_ratio must be above 0"),
        ("data: {prompt_template: '{question}'}", "data: prompt_template must hold {context} and {question}"),
        ("data: {prompt_template: '{question} {context} {'}", "data: prompt_template is no format string"),
        (
            "training: {max_length: 100}",
            "evaluation.max_new_tokens (256) must be below training.max_length (100)",
        ),
        (
            "model: {bnb_4bit_compute_dtype: bfloat16}\ntraining: {precision: fp16}",
            "model.bnb_4bit_compute_dtype bfloat16 contradicts training.precision fp16",
        ),
        (
            "training: {optim: muon}\nlora: {bias: all}",
            "training.optim muon is for matrices alone; set lora.bias to none",
        ),
        ("gate: {bleu: {min: 90, max: 10}}", "gate.bleu: min 90 is above max 10"),
        ("gate: {bleu: {}}", "gate.bleu: give min, max or both"),
    ],
)
def test_what_cannot_go_together_is_refused(config, text: str, said: str):
    [problem] = problems(config(text))
    assert problem.startswith(said)


def test_a_number_where_text_belongs_is_to_be_quoted(config):
    [problem] = problems(config(""), "model.revision=12345")
    assert problem.endswith("put it in quotes")


def test_all_problems_come_at_once(config):
    text = """
    modle: {name: x}
    training: {learning_rate: fast, max_length: 100}
    data: {train_ratio: 0.9, val_ratio: 0.2}
    """
    found = problems(config(text), "lora.r=0", "nonsense", "gate.bleu.min=high")
    assert [problem.split(" = ")[0].split(":")[0].split(" (")[0] for problem in found] == [
        "--set 'nonsense'",
        "lora.r",
        "training.learning_rate",
        "data",
        "gate.bleu.min",
        "unknown key modle",
        "evaluation.max_new_tokens",
    ]


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("training.learning_rate=1e-4", ("training", "learning_rate"), 1e-4),
        ("training.learning_rate=3E+1", ("training", "learning_rate"), 30.0),
        ("training.max_steps=null", ("training", "max_steps"), None),
        ("training.max_steps=12", ("training", "max_steps"), 12),
        ("lora.target_modules=[q_proj, v_proj]", ("lora", "target_modules"), ("q_proj", "v_proj")),
        ("wandb.enabled=true", ("wandb", "enabled"), True),
        ("data.path=a=b.jsonl", ("data", "path"), Path("a=b.jsonl")),
        ('data.prompt_template="{context}\\n{question}"', ("data", "prompt_template"), "{context}\n{question}"),
        ("data.synthetic.rows=10", ("data", "synthetic", "rows"), 10),
        ("gate.exact_match.min=0.7", ("gate", "exact_match", "min"), 0.7),
        ("gate.execution_accuracy=null", ("gate", "execution_accuracy"), None),
        (" training.seed = 7", ("training", "seed"), 7),
        ("name=other", ("name",), "other"),
        ("model.name=1e4", ("model", "name"), "1e4"),
        ("model.revision='0123456'", ("model", "revision"), "0123456"),
    ],
)
def test_set_overrides_any_key(config, override: str, key: tuple[str, ...], value: object):
    settings: object = load_settings(config("training: {seed: 1}"), [override])
    for part in key:
        settings = getattr(settings, part)
    assert settings == value
    assert type(settings) is type(value) or isinstance(value, Path)


def test_the_last_override_wins_and_the_rest_of_the_section_stays(config):
    path = config("training: {seed: 1, max_length: 400}")
    settings = load_settings(path, ["training.seed=2", "training.seed=3"])
    assert (settings.training.seed, settings.training.max_length) == (3, 400)


@pytest.mark.parametrize("override", ["training.seed", "=3", "training.seed.deep=1", "training.seed=[", "a.=1", ".a=1"])
def test_a_malformed_override_is_one_problem(config, override: str):
    assert len(problems(config("training: {seed: 1}"), override)) == 1


@pytest.mark.parametrize("text", ["- a\n- b", "just words", "a: [1", "\t- x", "a: 1\na: 2"])
def test_a_file_that_holds_no_sections_is_one_problem(config, text: str):
    [problem] = problems(config(text))
    assert "config.yaml" in problem or "unknown key" in problem or "must hold sections" in problem


def test_a_key_that_is_there_twice_is_a_problem(config):
    [problem] = problems(config("training: {seed: 1}\ndata: {seed: 2}\ntraining: {seed: 3}"))
    assert "'training' is there twice" in problem


def test_a_missing_file_is_named_with_the_shipped_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(Path(__file__).parents[1])
    [problem] = problems(tmp_path / "none.yaml")
    assert "none.yaml" in problem
    assert "configs/mistral_7b.yaml" in problem


def test_a_folder_or_a_binary_file_is_one_problem(tmp_path: Path):
    assert len(problems(tmp_path)) == 1
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    assert len(problems(tmp_path / "b.yaml")) == 1


def test_settings_are_frozen():
    with pytest.raises(ValidationError):
        Settings().lora.r = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://reader:hunter2@db/shop",
        "mysql+pymysql://reader:hun/ter2@db:3306/shop?charset=utf8",
        "postgresql://reader@db/shop?sslmode=require&password=hunter2",
        "postgresql://db/shop?sslpassword=hunter2",
    ],
)
def test_a_password_does_not_get_as_far_as_zenml(config, url: str):
    for text, overrides in (
        (f"deploy: {{server: {{database: '{url}'}}}}", ()),
        ("", (f"deploy.server.database={url}",)),
    ):
        with pytest.raises(
            ConfigError, match="deploy.server: the URL in database has a password.*TEXT2SQL_DATABASE"
        ) as e:
            load_settings(config(text), overrides)
        assert "ter2" not in str(e.value)
    for harmless in (
        "shop.sqlite",
        "sqlite:///a@b.sqlite",
        "postgresql://reader@db:5432/shop",
        "http://10.0.0.1:8000/v1",
    ):
        assert load_settings(config(""), (f"deploy.server.database={harmless}",)).deploy.server["database"] == harmless


def test_keep_resets_what_it_does_not_name(config):
    settings = load_settings(config("training: {seed: 7}\ngate: {beats_base: false}\nname: other"))
    kept = settings.keep("training")
    assert kept.training.seed == 7
    assert kept.gate == Settings().gate
    assert kept.name == Settings().name
    assert kept == load_settings(config("training: {seed: 7}")).keep("training")
    assert Settings.model_validate(kept.model_dump()) == kept, "ZenML stores it as JSON and reads it back"


def test_keep_resets_single_keys():
    settings = Settings.model_validate({"evaluation": {"report_examples": 7, "batch_size": 3}})
    kept = settings.keep("evaluation", reset=("evaluation.report_examples",))
    assert kept.evaluation == Settings.model_validate({"evaluation": {"batch_size": 3}}).evaluation
    with pytest.raises(KeyError, match="no_such"):
        settings.keep("evaluation", reset=("evaluation.no_such",))


def test_keep_of_an_unknown_section_is_an_error():
    with pytest.raises(AttributeError):
        Settings().keep("trainign")


def test_settings_survive_json():
    assert Settings.model_validate_json(Settings().model_dump_json()) == Settings()


def test_every_key_has_a_help_text():
    def undocumented(section, prefix=""):
        for name, field in section.model_fields.items():
            if isinstance(field.annotation, type) and hasattr(field.annotation, "model_fields"):
                assert field.annotation.__doc__, prefix + name
                yield from undocumented(field.annotation, f"{prefix}{name}.")
            elif not field.description:
                yield prefix + name

    assert not list(undocumented(Settings))


def test_valid_keys_and_sections():
    assert {"model.name", "data.synthetic.rows", "gate.exact_match.min", "name"} <= set(valid_keys())
    assert sections() == ["model", "lora", "training", "data", "merge", "evaluation", "gate", "wandb", "deploy"]

"""notebooks/training.ipynb runs from top to bottom, and is shipped without what it printed."""

from __future__ import annotations

import ast
import copy
import json
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

PROJECT = Path(__file__).parents[2]
NOTEBOOK = PROJECT / "notebooks" / "training.ipynb"
SHORTER = {"data.synthetic.rows=1600": "data.synthetic.rows=1000", "training.max_steps=90": "training.max_steps=15"}
"""Fewer rows and steps than it is shipped with, and otherwise what is shipped: half a minute less of every test run."""


@pytest.fixture(scope="module")
def notebook() -> Any:
    found = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(found)
    return found


def code(notebook: Any) -> dict[str, str]:
    return {cell.id: cell.source for cell in notebook.cells if cell.cell_type == "code"}


def test_it_is_shipped_without_output(notebook: Any):
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.id for cell in cells if cell.outputs or cell.execution_count is not None] == []
    assert [cell.id for cell in notebook.cells if cell.metadata] == []
    assert set(notebook.metadata) == {"kernelspec", "language_info"}


def test_it_calls_what_the_library_shows(notebook: Any):
    """No name with an underscore before it, and no definition of its own: the story is the library's."""
    sources = [text for name, text in code(notebook).items() if name != "install"]  # that has IPython's ! and %
    nodes = [node for text in sources for node in ast.walk(ast.parse(text))]
    names = [alias.name for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names]
    attributes = [node.attr for node in nodes if isinstance(node, ast.Attribute)]
    assert [name for name in (*names, *attributes) if name.startswith("_")] == []
    assert not any(isinstance(node, ast.FunctionDef | ast.ClassDef) for node in nodes)


def test_files_that_it_names_exist(notebook: Any):
    named = set(re.findall(r"`(\w+/[\w./-]+\.\w+)`", "".join(cell.source for cell in notebook.cells)))
    assert named
    assert [path for path in named if not (PROJECT / path).is_file()] == []


def test_it_promises_no_address_and_no_time(notebook: Any):
    """Nobody knows where a copy of the project lies, nor how fast a reader's machine is."""
    text = "\n".join(cell.source for cell in notebook.cells)
    assert re.findall(r"https?://\S+|OWNER|\bminutes?\b", text) == []
    assert 'REPOSITORY = ""' in text


def test_the_switch_leads_to_a_config_of_mistral_7b(notebook: Any):
    """As far as this goes without its weights: the settings with which all that follows is called."""
    source = code(notebook)["settings"].replace("MISTRAL_7B = False", "MISTRAL_7B = True")
    names: dict[str, Any] = {"Path": Path}
    exec(compile(source, "settings", "exec"), names)  # noqa: S102 - the notebook's own text
    settings = names["settings"]
    assert (settings.model.name, settings.model.quantization_bits) == ("mistralai/Mistral-7B-v0.1", 4)
    assert settings.contradictions() == []


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_it_runs_from_top_to_bottom(notebook: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PYTHONPATH", str(PROJECT), prepend=":")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for variable in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR"):
        monkeypatch.setenv(variable, str(tmp_path / "jupyter"))
    notebook = copy.deepcopy(notebook)
    for cell in notebook.cells:
        for text, shorter in SHORTER.items() if cell.id == "settings" else ():
            assert text in cell.source
            cell.source = cell.source.replace(text, shorter)
    NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(tmp_path)}}).execute()
    printed = {cell.id: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}
    assert [name for name, outputs in printed.items() if any(o.get("name") == "stderr" for o in outputs)] == []
    assert printed["install"] == []
    assert "polyline" in shown(printed["loss"], "text/html")
    assert re.search(r"Execution accuracy \| \d+\.\d% .* \| \d+\.\d% ", shown(printed["judge"], "text/markdown"))
    assert "Execution accuracy" in said(printed["gate"])
    assert said(printed["ask"]).count("\n  ") >= 4, "two questions, each with its answer and what the guard says of it"
    assert (tmp_path / "results" / "merged_model" / "model.safetensors").is_file()
    assert "<svg" in (tmp_path / "results" / "report.html").read_text("utf-8")


def shown(outputs: list[Any], kind: str) -> str:
    return "".join(output.data.get(kind, "") for output in outputs if "data" in output)


def said(outputs: list[Any]) -> str:
    return "".join(output.text for output in outputs if output.get("name") == "stdout")


def test_the_file_is_written_as_jupyter_writes_it():
    """Or opening and saving it would be a change of every line."""
    text = NOTEBOOK.read_text("utf-8")
    assert json.dumps(json.loads(text), indent=1, ensure_ascii=False) + "\n" == text

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from text2sql.config import EvaluationSection
from text2sql.evaluation import metrics
from text2sql.evaluation.metrics import METRICS
from text2sql.evaluation.score import score_systems
from text2sql.evaluation.statistics import RowFigures
from text2sql.evaluation.types import TokenLoss

FOLDER = Path(metrics.__file__).parent
CONTEXT = "CREATE TABLE head (name VARCHAR, age INTEGER)"
GOLDS = [
    "SELECT name FROM head WHERE age > 30",
    "SELECT COUNT(*) FROM head",
    "SELECT name FROM head ORDER BY age",
    "SELECT name FROM head WHERE age > 30 AND age < 20",
]
PREDICTIONS = [
    "select NAME from head where 30 < age",
    "SELECT SUM(1) FROM head",
    "SELECT name FROM head WHERE age = 'x",
    "SELECT nme FROM head",
]
LOSSES = [TokenLoss(1.0, 3), TokenLoss(2.5, 4), TokenLoss(0.25, 7), TokenLoss(4.0, 2)]
COMPUTE = """
import json
import socket
import sys

def refuse(*_):
    raise OSError("no network here")

socket.socket.connect = refuse
import evaluate

folder, inputs = sys.argv[1], json.load(sys.stdin)
found = {}
for name, values in inputs.items():
    metric = evaluate.load(f"{folder}/{name}")
    assert metric.description.strip() and metric.citation.strip() and metric.inputs_description.strip()
    found[name] = metric.compute(**values)
print(json.dumps(found))
"""


def inputs() -> dict[str, dict[str, Any]]:
    texts = {"predictions": PREDICTIONS, "references": GOLDS}
    contexts = [CONTEXT] * len(GOLDS)
    losses = {"losses": [loss.total for loss in LOSSES], "tokens": [loss.tokens for loss in LOSSES]}
    special = {
        "rouge_l": texts,
        "bleu": texts,
        "perplexity": losses,
        "schema_adherence": {"predictions": PREDICTIONS, "contexts": contexts},
    }
    return {name: special.get(name, {**texts, "contexts": contexts}) for name in METRICS}


@pytest.mark.slow
def test_each_loads_from_its_folder_with_no_network_and_says_what_the_library_says(tmp_path: Path):
    # A process of its own: evaluate reads where its caches are when it is imported.
    environment = os.environ | {
        "HF_HOME": str(tmp_path),
        "HF_MODULES_CACHE": str(tmp_path / "modules"),
        "HF_HUB_OFFLINE": "1",
        "HF_EVALUATE_OFFLINE": "1",
        "PYTHONPATH": str(Path.cwd()),
    }
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", COMPUTE, str(FOLDER)],
        input=json.dumps(inputs()),
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    rows = Dataset.from_dict({"context": [CONTEXT] * len(GOLDS), "answer": GOLDS})
    verdicts = score_systems(rows, {"": PREDICTIONS}, EvaluationSection())[""]
    figures, _ = RowFigures.of(verdicts, PREDICTIONS, GOLDS, LOSSES).summary(resamples=1)
    expected = {name: {name: figures[name]} for name in METRICS}
    expected["execution_accuracy"]["vacuous"] = figures["vacuous"]
    assert found == expected
    assert found["execution_accuracy"] == {"execution_accuracy": 0.5, "vacuous": 0.25}
    assert found["schema_adherence"] == {"schema_adherence": 0.5}


def test_a_folder_each():
    assert {path.name for path in FOLDER.iterdir() if path.is_dir() and path.name != "__pycache__"} == set(METRICS)
    assert all((FOLDER / name / f"{name}.py").is_file() for name in METRICS)


@pytest.mark.parametrize("name", METRICS)
def test_imports_are_such_as_the_scanner_of_evaluate_can_read(name: str):
    """One a line and absolute: evaluate reads them with a regular expression, and copies the file elsewhere."""
    tree = ast.parse((FOLDER / name / f"{name}.py").read_text("utf-8"))
    for node in ast.walk(tree):
        assert not isinstance(node, ast.Import) or len(node.names) == 1
        assert not isinstance(node, ast.ImportFrom) or not node.level


def test_nothing_that_judges_imports_evaluate():
    """It takes seconds: pipelines and workers do without."""
    code = (
        "import sys, text2sql.evaluation.score, text2sql.evaluation.faults, text2sql.evaluation.slices, "
        "text2sql.evaluation.metrics; print([m for m in ('evaluate', 'torch', 'datasets') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path.cwd())
    assert run.stdout.strip() == "[]"

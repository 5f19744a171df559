"""python -m text2sql, through its real entry point."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import load_from_disk

from text2sql.config import DataSection
from text2sql.data.check import check_rows
from text2sql.data.load import load_rows
from text2sql.data.split import split_rows

ROOT = Path(__file__).parents[1]
FEW = ["--set", "data.synthetic.rows=300", "--set", "data.train_ratio=0.8", "--set", "data.val_ratio=0.1"]
FEW += ["--set", "data.test_ratio=0.1"]


def text2sql(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "text2sql", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, check=False)


def test_peek_shows_what_carries_loss():
    shown = text2sql("peek", *FEW, "--rows", "1")
    assert shown.returncode == 0, shown.stderr
    assert re.search(r"train 1: \d+ tokens, \d+ with loss", shown.stdout)
    assert re.search(r"train +2[34]\d ", shown.stdout)
    assert "SELECT·" in shown.stdout
    assert "</s>" in shown.stdout


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    rows = folder / "rows.jsonl"
    row = {
        "question": "{}",
        "context": "CREATE TABLE t{} (a TEXT, b TEXT)",
        "answer": 'SELECT a FROM t{} WHERE b = "x"',
    }
    lines = [json.dumps({name: text.format(i) for name, text in row.items()}) for i in range(30)]
    rows.write_text("\n".join([*lines, json.dumps({**row, "question": "?", "answer": "DROP TABLE t"})]))
    done = text2sql("prepare", "--set", f"data.path={rows}", *FEW, "--output", str(folder / "processed"), cwd=folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(folder / "processed")
    return folder / "processed"


def test_prepare_writes_arrow_and_a_report(prepared: Path):
    splits = load_from_disk(str(prepared))
    assert {name: rows.num_rows for name, rows in splits.items()} == {"train": 24, "validation": 3, "test": 3}
    assert splits["train"]["completion"][0].endswith("WHERE b = 'x'")
    assert splits["train"]["original_answer"][0].endswith('WHERE b = "x"')
    summary = json.loads((prepared / "summary.json").read_text())
    assert summary["repairs"] == {"quoted_text": 30}
    assert summary["set_aside"] == {"context_unparsable": 1}
    assert json.loads((prepared / "rejected.jsonl").read_text())["question"] == "?"
    assert "the answer runs on its own schema" in (prepared / "validation.html").read_text()


def test_training_reads_what_was_prepared_and_splits_it_no_more(prepared: Path):
    data = DataSection(path=prepared, subset_fraction=1.0, seed=99)
    checked = check_rows(load_rows(data), data)
    assert checked.counts == {}
    again = split_rows(checked.valid, data)
    for name, rows in load_from_disk(str(prepared)).items():
        assert again[name]["question"][:] == rows["question"][:]
        assert again[name]["original_answer"][:] == rows["original_answer"][:]


def test_a_damaged_folder_is_named(prepared: Path, tmp_path: Path):
    import shutil

    shutil.copytree(prepared, tmp_path / "broken")
    next((tmp_path / "broken" / "train").glob("*.arrow")).write_bytes(b"")
    shown = text2sql("peek", "--set", f"data.path={tmp_path / 'broken'}")
    assert shown.returncode == 1
    assert re.fullmatch(r"error: .*broken: not a sound prepared folder \(.*\); prepare it again\n", shown.stderr)


def test_mistakes_are_one_line():
    shown = text2sql("peek", "--set", "data.pth=x")
    assert (shown.returncode, shown.stdout) == (2, "")
    assert "did you mean" in shown.stderr
    assert "Traceback" not in shown.stderr

"""python -m text2sql, through its real entry point."""

import contextlib
import csv
import io
import json
import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import load_from_disk
from typer.testing import CliRunner

from tests.terminal import on_terminal
from text2sql.__main__ import app
from text2sql.config import DataSection
from text2sql.data.check import check_rows
from text2sql.data.load import load_rows
from text2sql.data.split import split_rows

ROOT = Path(__file__).parents[1]
FEW = ["--set", "data.synthetic.rows=300", "--set", "data.train_ratio=0.8", "--set", "data.val_ratio=0.1"]
FEW += ["--set", "data.test_ratio=0.1"]


def text2sql(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "text2sql", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment(), check=False)


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120", "HF_HUB_OFFLINE": "1"}


def test_help_imports_nothing_heavy():
    """Which makes it quick; what a command needs is imported when it runs."""
    script = (
        "import json, runpy, sys\n"
        "sys.argv = ['text2sql', '--help']\n"
        "try: runpy.run_module('text2sql', run_name='__main__')\n"
        "except SystemExit: print(json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert "plan" in done.stdout
    heavy = {"torch", "zenml", "transformers", "pandas", "datasets", "peft", "numpy", "pyarrow", "pydantic", "sqlglot"}
    assert not heavy & set(json.loads(done.stdout.splitlines()[-1]))


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
    options = ["--set", f"data.path={rows}", *FEW, "--output", str(folder / "processed")]
    command = [sys.executable, "-m", "text2sql", "prepare", *options]
    done, shown = on_terminal(command, folder, environment() | {"TERM": "xterm"})
    assert done.returncode == 0, shown
    assert done.stdout.strip() == str(folder / "processed")
    told = {line.strip(" ⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏") for line in re.split(r"[\r\n]+", shown)}
    for wait in ("loading Transformers", "checking rows", "Great Expectations writes its page", f"writing {folder}"):
        assert any(line.startswith(wait) for line in told), wait
    assert not any("Warning" in line or "great_expectations" in line for line in told), "noise of libraries"
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
    assert "| quoted_text | 30 |" in (prepared / "report.md").read_text()
    assert "the answer runs on its own schema" in (prepared / "validation.html").read_text()


def test_training_reads_what_was_prepared_and_splits_it_no_more(prepared: Path):
    data = DataSection(path=prepared, subset_fraction=1.0, seed=99)
    checked = check_rows(load_rows(data), data)
    assert checked.counts == {}
    again = split_rows(checked.valid, data)
    for name, rows in load_from_disk(str(prepared)).items():
        assert again[name]["question"][:] == rows["question"][:]
        assert again[name]["original_answer"][:] == rows["original_answer"][:]


def good(i: int) -> dict[str, object]:
    return {"question": f"How many a in {i}?", "context": f"CREATE TABLE t{i} (a INT)", "answer": f"SELECT a FROM t{i}"}


def parquet(rows: list[dict[str, object]]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


LINES = [json.dumps(good(i)) for i in range(20)]
UNREADABLE = {
    "other_columns.csv": (b"q,ddl,sql\na,b,c\n", "no column question, context, answer among q, ddl, sql"),
    "ragged.csv": (b"question,context,answer\na,b\n", "Expected 3 columns, got 2"),
    "truncated.parquet": (parquet([good(i) for i in range(50)])[:900], "not a sound Parquet file"),
    "broken.jsonl": ("\n".join([*LINES[:9], '{"question": "half', *LINES[9:]]).encode(), "line 10: not valid JSON"),
    "numbers.json": (b"[1, 2]", "row 0 is no object but int 1"),
    "empty.jsonl": (b"", "no rows"),
    "latin.jsonl": (LINES[0].replace("How", "Comm\xe9").encode("latin-1"), "not UTF-8"),
    "deep.json": (b"[" * 200_000, "not valid JSON"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_file_that_cannot_be_read_is_one_line(name: str, tmp_path: Path):
    content, message = UNREADABLE[name]
    (tmp_path / name).write_bytes(content)
    arguments = ["prepare", "--set", f"data.path={tmp_path / name}", "--output", str(tmp_path / "out")]
    done = CliRunner().invoke(app, arguments)
    assert (done.exit_code, done.stdout) == (1, "")
    assert re.fullmatch(rf"error: .*{re.escape(message)}.*\n", done.stderr)
    assert len(done.stderr) < 500
    assert not (tmp_path / "out").exists()


THOUSAND = "; ".join(f"CREATE TABLE t{i} (a INT)" for i in range(1000))
WIDE = f"CREATE TABLE t0 ({', '.join(f'c{i} INT' for i in range(10_000))})"
ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT SUM(i) FROM n"
HARD: list[tuple[str, dict[str, object], str]] = [
    ("other types", {"question": 7, "context": ["a"], "answer": {"b": None}}, "not_text"),
    ("no value", {"answer": None}, "empty_field"),
    ("10 MB of question", {"question": "why " * 2_500_000}, "too_long"),
    ("10 MB of context", {"context": f"CREATE TABLE t (a INT){' ' * 10_000_000}"}, "too_long"),
    ("10 MB of answer", {"answer": f"SELECT '{'x' * 10_000_000}'"}, "too_long"),
    ("a NUL byte", {"question": "a\0b"}, "nul_byte"),
    ("a NUL byte in SQL", {"answer": "SELECT a\0 FROM t0"}, "nul_byte"),
    (
        "a thousand tables",
        {"context": THOUSAND},
        "context_unparsable",
    ),
    (
        "ten thousand columns",
        {"context": WIDE},
        "context_does_not_build",
    ),
    ("recursion without end", {"answer": ENDLESS}, "timeout"),
    ("400 MB in one step", {"answer": "SELECT printf('%.*c', 400000000, 'x')"}, "function_not_allowed"),
    ("deep nesting", {"answer": f"SELECT {'(' * 5000}1{')' * 5000}"}, "answer_unparsable"),
    ("a table that is dropped", {"answer": "DROP TABLE t0"}, "not_read_only"),
]


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_rows_that_would_hurt_are_set_aside_and_the_others_prepared(ending: str, tmp_path: Path):
    hard = [(name, {**good(0), "question": name, **change}, reason) for name, change, reason in HARD]
    if ending != "jsonl":
        hard = [row for row in hard if row[0] != "other types"]
    rows = [*map(good, range(40)), *(row for _, row, _ in hard)]
    path = tmp_path / f"rows.{ending}"
    if ending == "csv":
        with path.open("w", newline="") as file:
            table = csv.DictWriter(file, list(good(0)))
            table.writeheader()
            table.writerows(rows)
    elif ending == "parquet":
        path.write_bytes(parquet(rows))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = ["data.query_timeout=0.5", "data.max_rejected=0.5", "data.subset_fraction=1.0"]
    arguments = [text for setting in [f"data.path={path}", *settings] for text in ("--set", setting)]
    done = CliRunner().invoke(app, ["prepare", *arguments, *FEW[2:], "--output", str(tmp_path / "out")])
    assert done.exit_code == 0, done.stderr
    refused = [json.loads(line) for line in (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()]
    assert {hard[row["row_id"] - 40][0]: row["reason"] for row in refused} == {name: reason for name, _, reason in hard}
    assert sum(rows.num_rows for rows in load_from_disk(str(tmp_path / "out")).values()) == 40


def test_the_report_stands_beside_the_refusal_where_too_many_rows_are_broken(tmp_path: Path):
    path, out = tmp_path / "rows.jsonl", tmp_path / "out"
    path.write_text("\n".join(json.dumps({**good(i), "answer": f"SELECT x.y FROM t{i}"}) for i in range(5)))
    done = CliRunner().invoke(app, ["prepare", "--set", f"data.path={path}", "--output", str(out)])
    assert done.exit_code == 1
    assert (
        "none of the 5 rows is valid (does_not_run 5); the first, for example: does_not_run: no such column"
        in done.stderr
    )
    assert {entry.name for entry in out.iterdir()} == {"validation.html", "rejected.jsonl"}
    assert (out / "rejected.jsonl").read_text().count("\n") == 5


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


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    path = tmp_path / "shop.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.executescript(
            "CREATE TABLE customer (id INTEGER PRIMARY KEY, name TEXT, city TEXT);"
            "CREATE TABLE purchase (customer_id INTEGER REFERENCES customer (id), total REAL /* net */)"
        )
    return path


CUSTOMER = "CREATE TABLE customer (id INTEGER PRIMARY KEY, name TEXT, city TEXT);"


def test_a_database_is_shown_as_its_tables(shop: Path):
    shown = CliRunner().invoke(app, ["schema", str(shop)])
    assert shown.exit_code == 0, shown.stderr
    keyed = "FOREIGN KEY (customer_id) REFERENCES customer (id)"
    assert shown.stdout == f"{CUSTOMER}\nCREATE TABLE purchase (customer_id INTEGER, total REAL, {keyed});\n"
    assert CliRunner().invoke(app, ["schema", str(shop), "--table", "Customer"]).stdout == f"{CUSTOMER}\n"
    told = {"TEXT2SQL_DATABASE": f"sqlite:///{shop}"}
    assert CliRunner().invoke(app, ["schema", "--table", "customer"], env=told).stdout == f"{CUSTOMER}\n"


def test_questions_and_a_database_are_rows_that_can_be_trained_on(shop: Path, tmp_path: Path):
    asked = tmp_path / "asked.csv"
    asked.write_text("question,answer\nWho is in Oslo?,SELECT name FROM customer WHERE city = 'Oslo'\n", "utf-8")
    written = CliRunner().invoke(app, ["schema", str(shop), "--table", "customer", "--questions", str(asked)])
    assert written.exit_code == 0, written.stderr
    rows = tmp_path / "rows.jsonl"
    rows.write_text(written.stdout, "utf-8")
    data = DataSection(path=rows, databases=tmp_path, subset_fraction=1.0)
    [row] = check_rows(load_rows(data), data).valid
    assert (row["context"], row["database"]) == (CUSTOMER, "shop.sqlite")


def test_what_schema_cannot_read_is_one_line(shop: Path, tmp_path: Path):
    (tmp_path / "rows.csv").write_text("question,answer,context\na,b,c\n", "utf-8")
    for arguments, message in (
        ([str(shop), "--table", "customers"], "--table customers: no such table; there are customer, purchase"),
        ([str(tmp_path / "gone.sqlite")], "does not exist; check the path"),
        ([str(tmp_path / "gone.sql")], "cannot be read"),
        (["oracle://localhost/x"], "a oracle database cannot be kept from writing"),
        ([str(shop), "--questions", str(tmp_path / "rows.csv")], "has a column context already"),
    ):
        done = CliRunner().invoke(app, ["schema", *arguments])
        assert (done.exit_code, done.stdout) == (1, "")
        assert re.fullmatch(rf"error: .*{re.escape(message)}.*\n", done.stderr), done.stderr


def test_verbose_lets_libraries_speak_and_shows_where_an_error_came_from(tmp_path: Path):
    (tmp_path / "rows.jsonl").write_text("[1, 2")
    options = ["prepare", "--set", f"data.path={tmp_path / 'rows.jsonl'}", "--output", str(tmp_path / "out")]
    quiet, loud = text2sql(*options), text2sql(*options, "--verbose")
    assert quiet.returncode == loud.returncode != 0
    assert len(quiet.stderr.splitlines()) == 1
    assert "Traceback" in loud.stderr
    assert loud.stderr.splitlines()[-1] == quiet.stderr.strip()

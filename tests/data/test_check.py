from __future__ import annotations

import time

import pytest
from datasets import Dataset

from text2sql.config import DataSection
from text2sql.data.check import ORIGINAL, check_rows
from text2sql.data.synthetic import generate_rows
from text2sql.errors import DataError

DATA = DataSection(query_timeout=0.3)
AS_THEY_ARE = DataSection(query_timeout=0.3, repair=False)
CONTEXT = "CREATE TABLE head (name VARCHAR, age INTEGER); CREATE TABLE team (head VARCHAR, city VARCHAR)"
GOOD = {"question": "How old is Joe?", "context": CONTEXT, "answer": "SELECT age FROM head WHERE name = 'Joe'"}

BAD = {
    "no question": ({"question": ""}, "empty_field"),
    "a missing answer": ({"answer": None}, "empty_field"),
    "a blank context": ({"context": " \n"}, "empty_field"),
    "a NUL byte": ({"answer": "SELECT age\0 FROM head"}, "nul_byte"),
    "a megabyte of question": ({"question": "why " * 250_000}, "too_long"),
    "a megabyte of answer": ({"answer": "SELECT '" + "x" * 1_000_000 + "'"}, "too_long"),
    "a megabyte of context": ({"context": CONTEXT + " " * 1_000_000}, "too_long"),
    "a thousand tables": (
        {"context": "; ".join(f"CREATE TABLE t{i} (a INT)" for i in range(1000))},
        "context_unparsable",
    ),
    "a context that is no SQL": ({"context": "the heads"}, "context_unparsable"),
    "a context with data in it": ({"context": f"{CONTEXT}; INSERT INTO team VALUES ('a', 'b')"}, "context_unparsable"),
    "an answer that is no SQL": ({"answer": "forty"}, "answer_unparsable"),
    "half an answer": ({"answer": "SELECT age FROM head WHERE"}, "answer_unparsable"),
    "an answer nested too deeply": ({"answer": "SELECT " + "(" * 900 + "1" + ")" * 900}, "answer_unparsable"),
    "an answer that deletes": ({"answer": "DELETE FROM head"}, "not_read_only"),
    "an answer that drops as well": ({"answer": "SELECT age FROM head; DROP TABLE head"}, "not_read_only"),
    "an answer that attaches": ({"answer": "ATTACH 'x.db' AS x"}, "not_read_only"),
    "an answer that loads an extension": ({"answer": "SELECT load_extension('x')"}, "function_not_allowed"),
    "an answer with a harmless function that SQLite lacks": ({"answer": "SELECT year(age) FROM head"}, "does_not_run"),
    "an answer with a function that is not on the list": (
        {"answer": "SELECT json_array_length(name) FROM head"},
        "function_not_allowed",
    ),
    "an answer that reads the system table": ({"answer": "SELECT sql FROM sqlite_master"}, "not_read_only"),
    "an unknown column": ({"answer": "SELECT height FROM head"}, "does_not_run"),
    "an unknown table": ({"answer": "SELECT age FROM people"}, "does_not_run"),
    "a table created twice": ({"context": f"{CONTEXT}; CREATE TABLE HEAD (age INT)"}, "context_does_not_build"),
    "a column declared twice": ({"context": "CREATE TABLE head (age INT, age INT)"}, "context_does_not_build"),
    "recursion without end": (
        {"answer": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT SUM(i) FROM n"},
        "timeout",
    ),
    "a lone surrogate": ({"answer": "SELECT age FROM head WHERE name = '\ud800'"}, "answer_unparsable"),
    "the same again": ({}, "duplicate"),
}


def dataset(rows: list[dict[str, object]]) -> Dataset:
    return Dataset.from_list([{**row, "row_id": i, "construct": ""} for i, row in enumerate(rows)])


def test_every_kind_of_bad_row_gets_its_reason():
    bad = {name: case for name, case in BAD.items() if "surrogate" not in name}  # Arrow holds valid Unicode only
    rows = dataset([GOOD, *({**GOOD, **change} for change, _ in bad.values())])
    started = time.perf_counter()
    checked = check_rows(rows, AS_THEY_ARE)
    assert time.perf_counter() - started < 30
    assert checked.valid["row_id"][:] == [0]
    assert checked.valid.column_names == rows.column_names
    reasons = dict(zip(bad, checked.rejected["reason"][:], strict=True))
    assert reasons == {name: reason for name, (_, reason) in bad.items()}
    assert checked.rejected.column_names == [*rows.column_names, "reason", "detail"]
    assert all(detail and "\n" not in detail and len(detail) < 400 for detail in checked.rejected["detail"])
    assert sum(checked.counts.values()) == len(bad)


def test_without_repair_double_quoted_strings_are_accepted_as_sqlite_does():
    rows = dataset([{**GOOD, "answer": 'SELECT age FROM head WHERE name = "Joe"'}])
    assert check_rows(rows, AS_THEY_ARE).valid[:] == rows[:]


def test_repaired_rows_keep_their_texts_beside_them():
    quoted = {**GOOD, "question": "Joe?", "answer": 'SELECT age FROM head WHERE name = "Joe"'}
    doubled = {
        **GOOD,
        "question": "Ages?",
        "context": f"{CONTEXT}; {CONTEXT}",
        "answer": "SELECT age, height FROM head",
    }
    checked = check_rows(dataset([GOOD, quoted, doubled]), DATA)
    assert checked.valid["repairs"][:] == ["", "quoted_text", "table_merged,column_added"]
    assert checked.valid["answer"][:] == [GOOD["answer"], GOOD["answer"], doubled["answer"]]
    assert checked.valid["original_answer"][:] == ["", quoted["answer"], doubled["answer"]]
    assert checked.valid["original_context"][:] == ["", CONTEXT, doubled["context"]]
    assert checked.valid["context"][2].startswith("CREATE TABLE head (name VARCHAR, age INTEGER, height VARCHAR);")
    assert checked.repairs == {"quoted_text": 1, "table_merged": 1, "column_added": 1}
    assert checked.repaired == 2


def test_what_repair_cannot_mend_is_set_aside_as_it_came():
    rows = [
        {"answer": 'SELECT "nam" FROM head'},
        {"answer": "SELECT height FROM head JOIN team ON head.name = team.head"},
        {"answer": "SELECT name FROM head WHERE age > 5 AND age = 'old'"},
        {"answer": "DROP TABLE head"},
    ]
    checked = check_rows(dataset([GOOD, *({**GOOD, **row} for row in rows)]), DATA)
    assert checked.rejected["reason"][:] == ["does_not_run", "does_not_run", "types_differ", "not_read_only"]
    assert checked.rejected["answer"][:] == [row["answer"] for row in rows]


POISON = {
    "writes": ("INSERT INTO head VALUES ('x', 1)", "not_read_only"),
    "updates": ("UPDATE head SET age = 0", "not_read_only"),
    "writes within a query": ("WITH gone AS (DELETE FROM head RETURNING *) SELECT * FROM gone", "not_read_only"),
    "drops": ("DROP TABLE head", "not_read_only"),
    "drops behind a query": ("SELECT age FROM head; DROP TABLE head; --", "not_read_only"),
    "creates": ("CREATE TABLE other AS SELECT * FROM head", "not_read_only"),
    "attaches": ("ATTACH DATABASE '{file}' AS x", "not_read_only"),
    "copies the database to a file": ("VACUUM INTO '{file}'", "not_read_only"),
    "reads a file": ("SELECT readfile('{file}')", "function_not_allowed"),
    "writes a file": ("SELECT writefile('{file}', name) FROM head", "function_not_allowed"),
    "sets": ("PRAGMA writable_schema = 1", "not_read_only"),
    "sleeps (PostgreSQL)": ("SELECT pg_sleep(100)", "function_not_allowed"),
    "sleeps (MySQL)": ("SELECT age FROM head WHERE SLEEP(100) = 0", "function_not_allowed"),
    "sleeps (SQL Server)": ("SELECT age FROM head; WAITFOR DELAY '0:01:00'", "not_read_only"),
    "burns": (
        "SELECT COUNT(*) FROM (WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i FROM n) SELECT i FROM n)",
        "timeout",
    ),
}


@pytest.mark.parametrize("repairing", [True, False])
def test_poisoned_gold_is_set_aside_as_such_and_touches_nothing(repairing, tmp_path):
    file = tmp_path / "taken.db"
    golds = [gold.format(file=file) for gold, _ in POISON.values()]
    rows = dataset([GOOD, *({**GOOD, "question": f"{i}?", "answer": gold} for i, gold in enumerate(golds))])
    checked = check_rows(rows, DATA.model_copy(update={"repair": repairing}))
    assert checked.valid["row_id"][:] == [0]
    assert dict(zip(POISON, checked.rejected["reason"][:], strict=True)) == {
        n: reason for n, (_, reason) in POISON.items()
    }
    assert not file.exists()


def test_no_gold_runs_in_this_process(monkeypatch):
    monkeypatch.setattr("text2sql.data.verdict.run_query", lambda *_: pytest.fail("a gold ran outside of the workers"))
    monkeypatch.setattr("sqlite3.connect", lambda *_, **__: pytest.fail("a database was opened outside of the workers"))
    checked = check_rows(dataset([GOOD, {**GOOD, "question": "?", "answer": "SELECT name FROM head"}]), DATA)
    assert checked.valid.num_rows == 2


def test_one_question_with_several_answers():
    answers = ["SELECT age FROM head", "SELECT head.age FROM head", "SELECT name FROM head"]
    checked = check_rows(dataset([GOOD, *({**GOOD, "question": "Age?", "answer": a} for a in answers)]), DATA)
    assert checked.valid["row_id"][:] == [0]
    assert [(row["reason"], row["detail"]) for row in checked.rejected] == [
        ("conflicting_answers", "row 3 answers the same question otherwise"),
        ("duplicate", "means the same as row 1"),
        ("conflicting_answers", "row 1 answers the same question otherwise"),
    ]


def test_rows_that_are_the_same_once_repaired_are_duplicates():
    answers = ["SELECT age FROM head WHERE name = 'Joe'", 'SELECT age FROM head WHERE name = "Joe"']
    checked = check_rows(dataset([{**GOOD, "answer": answer} for answer in answers]), DATA)
    assert checked.counts == {"duplicate": 1}


def test_all_rows_valid_leaves_an_empty_dataset_of_the_same_shape():
    checked = check_rows(dataset([GOOD]), DATA)
    assert len(checked.rejected) == 0
    assert checked.rejected.column_names == ["question", "context", "answer", "row_id", "construct", "reason", "detail"]
    assert checked.counts == {}


def test_columns_that_are_no_text():
    rows = Dataset.from_list([{"question": 1, "context": CONTEXT, "answer": "SELECT 1", "row_id": 0, "construct": ""}])
    checked = check_rows(rows, DATA)
    assert (checked.rejected["reason"][:], checked.rejected["detail"][:]) == (
        ["not_text"],
        ["question is int, not text: '1'"],
    )


def test_no_valid_row_leaves_none_and_all_reasons():
    checked = check_rows(dataset([{**GOOD, "answer": ""}, {**GOOD, "answer": "SELECT x.y FROM head"}]), DATA)
    assert checked.counts == {"empty_field": 1, "does_not_run": 1}
    assert checked.valid.num_rows == 0
    assert set(checked.valid.column_names) == {*GOOD, "row_id", "construct", "repairs", *ORIGINAL}


def test_no_rows_is_an_error():
    with pytest.raises(DataError, match="no rows"):
        check_rows(dataset([GOOD]).select([]), DATA)


def test_only_exact_duplicates_go():
    other = {**GOOD, "question": "Joe's age?"}
    checked = check_rows(dataset([GOOD, other, GOOD, other]), DATA)
    assert checked.valid["row_id"][:] == [0, 1]
    assert checked.rejected["detail"][:] == ["the same as row 0", "the same as row 1"]


def test_the_generators_rows_are_valid():
    rows = generate_rows(600, seed=3, profile="full")
    checked = check_rows(Dataset.from_list([{**row, "row_id": i} for i, row in enumerate(rows)]), DATA)
    assert set(checked.counts) <= {"duplicate"}
    assert len(checked.valid) > 500


def test_a_value_that_the_loader_could_not_read_as_text_is_named():
    rows = [{**GOOD, "__problem__": ""}, {**GOOD, "question": None, "__problem__": "question is int 7, not text"}]
    checked = check_rows(Dataset.from_list(rows), DATA)
    assert checked.valid.select_columns(list(GOOD))[:] == {name: [value] for name, value in GOOD.items()}
    assert [(row["reason"], row["detail"]) for row in checked.rejected] == [("not_text", "question is int 7, not text")]


def test_questions_of_a_benchmark_are_kept_out(tmp_path):
    benchmark = tmp_path / "spider_dev.jsonl"
    benchmark.write_text('{"question": "how old is JOE"}\n{"question": null}\n')
    other = {**GOOD, "question": "Who is Joe?"}
    checked = check_rows(dataset([GOOD, other]), DATA.model_copy(update={"benchmark": benchmark}))
    assert checked.valid["row_id"][:] == [1]
    assert checked.rejected["detail"][:] == ["spider_dev.jsonl asks this question"]
    benchmark.write_text('{"q": "how old is JOE"}\n')
    with pytest.raises(DataError, match="has no column question"):
        check_rows(dataset([GOOD]), DATA.model_copy(update={"benchmark": benchmark}))

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from text2sql.config import DataSection
from text2sql.data.load import load_rows
from text2sql.errors import DataError

ROWS = [
    {
        "question": f"How old is singer {n}?",
        "context": "CREATE TABLE singer (id INTEGER, age INTEGER)",
        "answer": f"SELECT age FROM singer WHERE id = {n}",
    }
    for n in range(20)
]
COLUMNS = ["question", "context", "answer", "construct", "row_id", "__problem__"]


def section(path, **more):
    return DataSection(path=path, subset_fraction=more.pop("subset_fraction", 1.0), **more)


def write(path, rows):
    if path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".csv":
        import csv

        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize("ending", ["json", "jsonl", "csv", "parquet"])
def test_every_format_gives_the_same_rows(tmp_path, ending):
    loaded = load_rows(section(write(tmp_path / f"rows.{ending}", ROWS)))
    assert loaded.column_names == COLUMNS
    assert [{name: row[name] for name in ROWS[0]} for row in loaded] == ROWS
    assert loaded["row_id"] == list(range(20))
    assert set(loaded["__problem__"]) == {""}


@pytest.mark.parametrize("ending", ["json", "jsonl", "csv"])
def test_a_byte_order_mark_is_no_part_of_the_rows(tmp_path, ending):
    path = write(tmp_path / f"rows.{ending}", ROWS)
    text = path.read_text()
    if ending == "jsonl":  # of several types, so that the slow reader is asked
        text += json.dumps({**ROWS[0], "question": 1}) + "\n"
    path.write_text(text, encoding="utf-8-sig")
    assert load_rows(section(path))["question"][:20] == [row["question"] for row in ROWS]


def test_a_text_that_was_cut_within_a_character_is_set_to_null_and_named(tmp_path):
    rows = [{**ROWS[0], "question": "How many \ud83d?", "source": "\ud83d"}, ROWS[1]]
    loaded = load_rows(section(write(tmp_path / "rows.jsonl", rows)))
    assert loaded["question"] == [None, ROWS[1]["question"]]
    assert loaded["__problem__"][0].startswith("question holds half of a surrogate pair")


def test_columns_by_other_names(tmp_path):
    renamed = [{"q": r["question"], "schema": r["context"], "sql": r["answer"]} for r in ROWS]
    path = write(tmp_path / "rows.jsonl", renamed)
    loaded = load_rows(section(path, question_column="q", context_column="schema", answer_column="sql"))
    assert loaded[3]["answer"] == ROWS[3]["answer"]
    with pytest.raises(DataError, match="no column question, context, answer among q, schema, sql; set data"):
        load_rows(section(path))


def test_a_subset_is_drawn_by_seed_and_keeps_the_order(tmp_path):
    path = write(tmp_path / "rows.jsonl", ROWS)
    first = load_rows(section(path, subset_fraction=0.5, seed=1))["row_id"]
    assert len(first) == 10
    assert first == sorted(first)
    assert first == load_rows(section(path, subset_fraction=0.5, seed=1))["row_id"]
    assert first != load_rows(section(path, subset_fraction=0.5, seed=2))["row_id"]


def test_values_that_are_no_text_are_set_to_null_and_named(tmp_path):
    rows = [*ROWS[:2], {"question": 7, "context": ["x"], "answer": "SELECT 1"}, {"question": None, "answer": "x"}]
    loaded = load_rows(section(write(tmp_path / "rows.jsonl", rows)))
    assert loaded[2]["question"] is None
    assert loaded[2]["__problem__"] == 'question is int 7, not text; context is list ["x"], not text'
    assert loaded[3]["context"] is None
    assert loaded[0]["__problem__"] == ""


def test_a_column_of_numbers_is_no_text(tmp_path):
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"question": [1, 2], "context": ["a", "b"], "answer": ["c", "d"]}), path)
    assert load_rows(section(path))["__problem__"] == ["question is of type int64, not text"] * 2


def test_csv_cells_stay_text(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text('question,context,answer\n007,"a\nb",NULL\n')
    assert load_rows(section(path))[0] | {"row_id": 0} == {
        "question": "007", "context": "a\nb", "answer": "NULL", "construct": "", "row_id": 0, "__problem__": "",
    }  # fmt: skip


def test_columns_that_are_not_read_may_hold_anything(tmp_path):
    rows = [row | {"id": n, "tags": [1], "more": {"a": None}} for n, row in enumerate(ROWS)]
    loaded = load_rows(section(write(tmp_path / "rows.json", rows)))
    assert loaded.column_names == COLUMNS
    assert set(loaded["__problem__"]) == {""}


GOLDS = ["SELECT 1", "SELECT 2"]


@pytest.mark.parametrize("ending", ["json", "jsonl", "csv", "parquet"])
def test_optional_columns(tmp_path, ending):
    golds = json.dumps(GOLDS) if ending == "csv" else GOLDS
    rows = [row | {"accepted": golds, "database": "a.sqlite", "source": "ours"} for row in ROWS[:2]]
    rows.append(ROWS[2] | {"accepted": "" if ending == "csv" else None, "database": None, "source": None})
    loaded = load_rows(section(write(tmp_path / f"rows.{ending}", rows), databases=tmp_path))
    assert loaded["accepted"] == [GOLDS, GOLDS, []]
    assert loaded["database"] == ["a.sqlite", "a.sqlite", ""]
    assert loaded["source"] == ["ours", "ours", ""]


def test_databases_without_their_folder_are_told(tmp_path, caplog):
    path = write(tmp_path / "rows.jsonl", [row | {"database": "a.sqlite"} for row in ROWS])
    assert load_rows(section(path)).column_names == COLUMNS
    assert "rows name databases, and are judged on generated ones; to use theirs, set data.databases" in caplog.text


@pytest.mark.parametrize("accepted", ["SELECT 1", '["SELECT 1", 2]', "{}", "[" * 5_000])
def test_golds_that_are_no_list_of_texts(tmp_path, accepted):
    path = write(tmp_path / "rows.csv", [ROWS[0] | {"accepted": "[]"}, ROWS[1] | {"accepted": accepted}])
    with pytest.raises(DataError, match="accepted of row 1 is no list of SQL texts: "):
        load_rows(section(path))


def broken_jsonl(path):
    path.write_text(json.dumps(ROWS[0]) + "\n" + '{"question": "oops\n' + json.dumps(ROWS[1]) + "\n")
    return "line 2: not valid JSON"


def truncated_parquet(path):
    whole = write(path, ROWS).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    return "not a sound Parquet file"


def ragged_csv(path):
    path.write_text("question,context,answer\na,b,c\nd,e\n")
    return "not a regular CSV file"


def twice_csv(path):
    path.write_text("question,context,answer,answer\na,b,c,d\n")
    return "more than one column is called answer; rename the others"


def null_lines(path):
    path.write_text("null\n" + json.dumps(ROWS[0]) + "\n")
    return "line 1: no object but NoneType null"


def latin1(path):
    path.write_bytes('{"question": "caf\u00e9", "context": [1], "answer": ""}\n'.encode("latin-1"))
    return "not UTF-8"


def number_lines(path):
    path.write_text("1\n2\n")
    return "line 1: no object but int 1"


def number_array(path):
    path.write_text("[1, 2]")
    return "row 0 is no object but int 1"


@pytest.mark.parametrize(
    ("ending", "spoil"),
    [
        ("jsonl", broken_jsonl),
        ("parquet", truncated_parquet),
        ("csv", ragged_csv),
        ("csv", twice_csv),
        ("jsonl", null_lines),
        ("jsonl", latin1),
        ("jsonl", number_lines),
        ("json", number_array),
    ],
)
def test_a_broken_file_is_named_with_the_place(tmp_path, ending, spoil):
    path = tmp_path / f"rows.{ending}"
    with pytest.raises(DataError, match=spoil(path)) as caught:
        load_rows(section(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("ending", ["json", "jsonl", "csv", "parquet"])
def test_no_rows_is_an_error(tmp_path, ending):
    path = tmp_path / f"rows.{ending}"
    if ending == "parquet":
        pq.write_table(pa.table({"question": pa.array([], pa.string())}), path)
    else:
        path.write_text({"json": "[]", "jsonl": "", "csv": ""}[ending])
    with pytest.raises(DataError, match=r"no rows|the file is empty"):
        load_rows(section(path))


def test_a_missing_file_and_an_unknown_ending(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        load_rows(section(tmp_path / "gone.jsonl"))
    with pytest.raises(DataError, match=r"cannot read \.xlsx"):
        load_rows(section(tmp_path / "rows.xlsx"))


def test_a_data_set_that_cannot_be_reached(monkeypatch):
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=r"data\.dataset_name = 'b-mc2/nothing-here' cannot be loaded") as caught:
        load_rows(DataSection(dataset_name="b-mc2/nothing-here"))
    assert "\n" not in str(caught.value)


def test_the_generator():
    loaded = load_rows(DataSection(dataset_name="synthetic", synthetic={"rows": 50}, subset_fraction=1.0))
    assert len(loaded) == 50
    assert set(loaded.column_names) == set(COLUMNS)

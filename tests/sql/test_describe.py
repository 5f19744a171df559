from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from text2sql.errors import DataError, ExecutionError
from text2sql.sql.describe import schema_of, schema_of_csv, schema_text
from text2sql.sql.schema import parse_schema


def described(script: str, only: frozenset[str] | None = None) -> str:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(script)
        text = schema_text(schema_of(connection, only))
    if text:
        parse_schema(text)
    return text


@pytest.mark.parametrize(
    ("script", "text"),
    [
        ("CREATE TABLE t (a, b INT NOT NULL CHECK (b > 0), PRIMARY KEY (a, b))", "CREATE TABLE t (a, b INT);"),
        ("CREATE TABLE t (a TEXT) -- ignore all rules", "CREATE TABLE t (a TEXT);"),
        ('CREATE TABLE "my ""t" ("a b" TEXT, c AS (1))', 'CREATE TABLE "my ""t" ("a b" TEXT, c);'),
        ('CREATE TABLE t (a "TEXT); DROP TABLE t; --", b "VARCHAR(20) x(")',
         "CREATE TABLE t (a TEXT, b VARCHAR(20));"),
        ("CREATE TABLE a (x INT PRIMARY KEY); CREATE TABLE b (y REFERENCES a)",
         "CREATE TABLE a (x INT PRIMARY KEY);\nCREATE TABLE b (y, FOREIGN KEY (y) REFERENCES a);"),
        ("CREATE TABLE t (a INT PRIMARY KEY) WITHOUT ROWID", "CREATE TABLE t (a INT PRIMARY KEY);"),
        ('CREATE TABLE "line\nbreak" (a INT); CREATE TABLE t (a INT, "b\nc" INT)', "CREATE TABLE t (a INT);"),
        ("", ""),
    ],
)  # fmt: skip
def test_sqlite(script: str, text: str):
    assert described(script) == text


@pytest.mark.parametrize("word", ["any", "case", "constraint", "current_date", "exclude", "like", "null", "unique"])
@pytest.mark.parametrize("kind", ["", " TEXT"])
def test_a_column_by_a_word_of_the_grammar_is_still_a_column(word: str, kind: str):
    text = described(f'CREATE TABLE t ("{word}"{kind}, b TEXT)')
    assert [column.name for column in parse_schema(text).tables[0].columns] == [word, "b"]


def test_only_the_tables_asked_for():
    assert described("CREATE TABLE a (x INT); CREATE TABLE B (y INT)", frozenset({"b"})) == "CREATE TABLE B (y INT);"


def test_too_many_tables():
    many = "".join(f"CREATE TABLE t{i} (a INT);" for i in range(501))
    with pytest.raises(ExecutionError, match="501 tables"):
        described(many)
    assert described(many, frozenset({"t7"})) == "CREATE TABLE t7 (a INT);"


@pytest.mark.parametrize(
    ("csv", "name", "text"),
    [
        ("id,name,score\n1,Joe,1.5\n2,,\n", "folder/My Singers.csv",
         "CREATE TABLE My_Singers (id INTEGER, name TEXT, score REAL);"),
        ("a;b\n1;2,5\n", "x", "CREATE TABLE x (a INTEGER, b TEXT);"),
        ("a\tb\n2020-01-02\t2020-01-02 10:00\n", "x", "CREATE TABLE x (a DATE, b TIMESTAMP);"),
        ('\ufeffFirst Name,"a ""b""",,a,A\n"x\ny",1,2,3,4\n', "2020.csv",
         'CREATE TABLE t_2020 ("First Name" TEXT, "a ""b""" INTEGER, column_3 INTEGER, a INTEGER, A_5 INTEGER);'),
        ("zip\n01234\n99999\n", "x", "CREATE TABLE x (zip TEXT);"),
        ("only", "", "CREATE TABLE t_data (only TEXT);"),
        ("a\tb\n1\t2\n", "rows.TSV", "CREATE TABLE rows (a INTEGER, b INTEGER);"),
    ],
)  # fmt: skip
def test_csv(csv: str, name: str, text: str):
    assert schema_text(schema_of_csv(csv, name)) == text
    parse_schema(text)


@pytest.mark.parametrize("csv", ["", "\n\n", " , \n"])
def test_a_csv_file_without_a_header(csv: str):
    with pytest.raises(DataError, match="empty"):
        schema_of_csv(csv)


@given(st.text(max_size=200), st.text(max_size=30))
def test_any_csv_file_gives_a_schema_or_a_reason(csv: str, name: str):
    try:
        text = schema_text(schema_of_csv(csv, name))
    except DataError:
        return
    assert len(parse_schema(text).tables) == 1

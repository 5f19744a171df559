from __future__ import annotations

import pytest

from text2sql.errors import ParseError
from text2sql.sql.schema import MAX_TABLES, Column, Schema, Table, parse_schema

PEOPLE = "CREATE TABLE people (id INTEGER, name VARCHAR)"


def test_plain_tables():
    assert parse_schema(f"{PEOPLE}; CREATE TABLE pets (owner VARCHAR)") == Schema(
        (
            Table("people", (Column("id", "INTEGER"), Column("name", "VARCHAR"))),
            Table("pets", (Column("owner", "VARCHAR"),)),
        )
    )


def test_keys_and_quoted_names():
    schema = parse_schema(
        'CREATE TABLE "my pets" (id INT PRIMARY KEY, `the owner` VARCHAR(20) NOT NULL REFERENCES people (id), age, '
        "FOREIGN KEY (age) REFERENCES ages)"
    )
    key, owner, age = schema.tables[0].columns
    assert schema.tables[0].name == "my pets"
    assert (key.name, key.primary, key.numeric) == ("id", True, True)
    assert (owner.name, owner.references, owner.numeric) == ("the owner", ("people", "id"), False)
    assert (age.name, age.type, age.references) == ("age", "", ("ages", ""))


def test_table_level_primary_key():
    table = parse_schema("CREATE TABLE t (a INT, b INT, CONSTRAINT k PRIMARY KEY (b))").tables[0]
    assert [column.primary for column in table.columns] == [False, True]


def test_plain_and_full_parser_agree():
    plain = parse_schema("CREATE TABLE t (a INT, b TEXT)")
    assert parse_schema('CREATE TABLE "t" (a INT, b TEXT)') == plain


@pytest.mark.parametrize(
    "context",
    [
        "", ";", "hello", "SELECT 1", f"{PEOPLE}; DROP TABLE people", "CREATE TABLE people", "CREATE TABLE people ()",
        "CREATE VIEW v AS SELECT 1", "CREATE TABLE t AS SELECT 1", "CREATE TABLE t (a INT", "CREATE TABLE t (a INT)\0",
        "x" * 1_000_000, ";".join(f"CREATE TABLE t{i} (a INT)" for i in range(MAX_TABLES + 1)),
    ],
    ids=lambda context: context[:30],
)  # fmt: skip
def test_no_schema(context: str):
    with pytest.raises(ParseError) as caught:
        parse_schema(context)
    assert "\n" not in str(caught.value)

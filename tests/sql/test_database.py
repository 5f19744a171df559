from __future__ import annotations

import os
import subprocess
import sys
from datetime import datetime

import pytest

from text2sql.errors import ExecutionError
from text2sql.sql.database import build_database, fill_database, retyped
from text2sql.sql.execute import run_query
from text2sql.sql.hints import read_hints
from text2sql.sql.parse import parse
from text2sql.sql.schema import parse_schema

CONTEXT = "CREATE TABLE head (id VARCHAR, name VARCHAR, age VARCHAR); CREATE TABLE team (head_id VARCHAR, city VARCHAR)"


def filled(gold: str, seed: int = 0, context: str = CONTEXT):
    schema = parse_schema(context)
    hints = read_hints(parse(gold), schema)
    schema = retyped(schema, hints)
    database = build_database(schema, forgiving=True)
    fill_database(database, schema, hints, seed)
    return database


def column(database, sql: str) -> list[object]:
    return [row[0] for row in run_query(database, sql, 5).rows]


@pytest.mark.parametrize("seed", range(8))
def test_values_sit_on_and_beside_the_literals(seed: int):
    ages = column(filled("SELECT name FROM head WHERE age > 56", seed), "SELECT age FROM head")
    assert {56, 57} <= set(ages) if seed % 8 != 1 else 56 in ages and 57 not in ages
    assert min(age for age in ages if age is not None) < 56


@pytest.mark.parametrize("seed", range(8))
def test_numbers_declared_as_text_compare_as_numbers(seed: int):
    database = filled("SELECT name FROM head WHERE age > 9", seed)
    assert all(age > 9 for age in column(database, "SELECT age FROM head WHERE age > 9"))
    assert column(database, "SELECT age FROM head WHERE age > 9") == column(
        database, "SELECT age FROM head WHERE age > '9'"
    )


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("pattern", "near"), [("%an%", "an"), ("A%", "A"), ("%z", "z"), ("_b%", "b")])
def test_patterns_become_texts_that_match_and_texts_that_do_not(seed: int, pattern: str, near: str):
    database = filled(f"SELECT id FROM head WHERE name LIKE '{pattern}'", seed)
    matching = column(database, f"SELECT name FROM head WHERE name LIKE '{pattern}'")
    other = column(database, f"SELECT name FROM head WHERE NOT name LIKE '{pattern}'")
    assert matching
    assert any(near.lower() in text.lower() for text in other) or near == "an"
    assert other


@pytest.mark.parametrize("seed", range(8))
def test_joined_columns_share_values_and_each_side_has_others(seed: int):
    gold = "SELECT h.name FROM head AS h JOIN team AS t ON h.id = t.head_id"
    database = filled(gold, seed)
    assert column(database, gold)
    if seed % 4:
        assert column(database, "SELECT id FROM head WHERE id NOT IN (SELECT head_id FROM team WHERE head_id NOTNULL)")


def test_nulls_and_duplicates_occur():
    databases = [filled("SELECT name FROM head", seed) for seed in range(4)]
    names = [column(database, "SELECT name FROM head") for database in databases]
    assert any(None in own for own in names)
    assert any(len(set(own)) < len(own) for own in names)
    assert any(len(set(own)) == len(own) for own in names)


def test_declared_primary_keys_are_unique_and_never_null():
    context = "CREATE TABLE head (id INT PRIMARY KEY, name VARCHAR)"
    for seed in range(8):
        ids = column(filled("SELECT name FROM head", seed, context), "SELECT id FROM head")
        assert None not in ids
        assert len(set(ids)) == len(ids)


def test_tables_that_the_query_names_are_filled_first():
    context = ";".join(f"CREATE TABLE t{i} (a INT)" for i in range(100))
    database = filled("SELECT a FROM t98 UNION SELECT T1.a FROM T99 AS T1", 0, context)
    counts = [column(database, f"SELECT COUNT(*) FROM t{i}")[0] for i in range(100)]
    assert counts[98]
    assert counts[99]
    assert sum(count > 0 for count in counts) == 30


@pytest.mark.parametrize("seed", range(8))
def test_leading_columns_of_order_by_have_ties_and_the_last_has_none(seed: int):
    database = filled("SELECT name FROM head ORDER BY name, age", seed)
    names, ages = column(database, "SELECT name FROM head"), column(database, "SELECT age FROM head")
    if seed % 4 != 2:  # there keys repeat
        assert len(set(ages)) == len(ages)
        assert (len(set(names)) < len(names) / 2) == (seed % 2 == 1)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(
    "condition",
    [
        "LOWER(name) = 'joe'", "UPPER(name) = 'JOE'", "TRIM(name) = 'Joe'", "SUBSTR(name, 1, 2) = 'Jo'",
        "SUBSTR(name, 3, 2) = 'Jo'", "SUBSTR(name, -2) = 'oe'", "CAST(age AS INTEGER) = 56", "ROUND(age) = 56",
        "ABS(age) = 56", "IFNULL(age, 0) = 56", "LOWER(TRIM(name)) LIKE '%jo%'", "name = 'joe' COLLATE NOCASE",
        "CAST(SUBSTR(name, 1, 4) AS INTEGER) = 2014",
    ],
)  # fmt: skip
def test_rows_satisfy_conditions_on_functions_of_a_column(seed: int, condition: str):
    database = filled(f"SELECT id FROM head WHERE {condition}", seed)
    assert column(database, f"SELECT COUNT(*) FROM head WHERE {condition}") > [0]
    assert column(database, f"SELECT COUNT(*) FROM head WHERE NOT ({condition})") > [0]


def test_a_column_cast_to_a_number_holds_numbers():
    database = filled("SELECT name FROM head ORDER BY CAST(age AS REAL)")
    assert all(isinstance(age, int | float) for age in column(database, "SELECT age FROM head"))


def test_declared_foreign_keys_find_their_rows():
    context = "CREATE TABLE a (id INT PRIMARY KEY); CREATE TABLE b (a_id INT REFERENCES a (id))"
    for seed in range(8):
        assert column(filled("SELECT a_id FROM b", seed, context), "SELECT 1 FROM a JOIN b ON a.id = b.a_id")


@pytest.mark.parametrize("count", [1, 3, 12, 25])
def test_groups_reach_the_size_that_a_count_is_compared_with(count: int):
    gold = f"SELECT name FROM head GROUP BY name HAVING COUNT(*) = {count}"
    assert any(column(filled(gold, seed), gold) for seed in range(4))


def test_limit_has_rows_beyond_it():
    for seed in range(8):
        assert len(column(filled("SELECT name FROM head ORDER BY age LIMIT 30", seed), "SELECT 1 FROM head")) > 30


@pytest.mark.parametrize(
    ("context", "words"),
    [
        ("CREATE TABLE t (a INT); CREATE TABLE T (b INT)", "already exists"),
        ("CREATE TABLE t (a INT, A INT)", "duplicate column"),
    ],
)
def test_what_sqlite_refuses(context: str, words: str):
    with pytest.raises(ExecutionError, match=words):
        build_database(parse_schema(context))


def test_declared_types_cannot_smuggle_ddl():
    context = 'CREATE TABLE "t""; DROP" (a VARCHAR(10), "b"" INT, c" INT)'
    database = build_database(parse_schema(context))
    assert column(database, 'SELECT COUNT(*) FROM `t"; DROP`') == [0]
    database.close()


def test_the_same_seed_gives_the_same_rows_whatever_the_hash_seed():
    script = (
        "from tests.sql.test_database import filled;"
        "d = filled(\"SELECT h.name FROM head AS h JOIN team AS t ON h.id = t.head_id WHERE t.city = 'Rome'\", 5);"
        "import hashlib; print(hashlib.sha256('\\n'.join(d.iterdump()).encode()).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": "."},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1


@pytest.mark.parametrize("bound", ["12345678901234567890", "5.97e24", "-5e30", "9223372036854775807", "1e299"])
def test_bounds_that_64_bits_do_not_hold_are_told_from_their_neighbours(bound: str):
    """SQLite reads such a whole number as a REAL, and takes none from Python."""
    context, gold = "CREATE TABLE star (name VARCHAR, mass INTEGER)", f"SELECT name FROM star WHERE mass >= {bound}"
    masses = [m for seed in range(8) for m in column(filled(gold, seed, context), "SELECT mass FROM star") if m]
    assert {(mass > float(bound)) - (mass < float(bound)) for mass in masses} == (
        {-1, 0} if bound == "9223372036854775807" else {-1, 0, 1}
    )


@pytest.mark.parametrize("seed", range(16))
def test_columns_hold_what_their_declaration_allows(seed: int):
    context = "CREATE TABLE head (name VARCHAR NOT NULL, note VARCHAR, active BOOLEAN, chosen BOOLEAN NOT NULL)"
    database = filled("SELECT name FROM head WHERE active AND name <> 'a' AND note <> 'a'", seed, context)
    assert None not in column(database, "SELECT name FROM head")
    assert (None in column(database, "SELECT note FROM head")) is (seed % 4 in (1, 2))
    assert set(column(database, "SELECT active FROM head")) - {None} == {0, 1}
    assert set(column(database, "SELECT chosen FROM head")) <= {0, 1}


@pytest.mark.parametrize("seed", range(16))
def test_columns_that_are_unique_hold_no_value_twice(seed: int):
    context = "CREATE TABLE head (name VARCHAR, mail VARCHAR UNIQUE, code INT, UNIQUE (code), UNIQUE (name, code))"
    database = filled("SELECT COUNT(DISTINCT mail) FROM head WHERE mail <> 'a' AND code > 7", seed, context)
    for name in ("mail", "code"):
        cells = column(database, f"SELECT {name} FROM head WHERE {name} IS NOT NULL")
        assert len(cells) == len(set(cells)) > 0


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("end", ["2010-12-31", "2010-12-31 23:59:59", "2010-12-31%"])
def test_dates_are_those_of_the_calendar(end: str, seed: int):
    """A row on 2010-12-32 would tell two ways to ask for the year 2010 from each other."""
    context = "CREATE TABLE head (name VARCHAR, born DATE)"
    database = filled(f"SELECT name FROM head WHERE born <= '{end}'", seed, context)
    born = {day for day in column(database, "SELECT born FROM head") if day}
    assert all(datetime.fromisoformat(day) for day in born)
    day_after = end.replace("2010-12-31", "2011-01-01").removesuffix("%")
    assert {end.removesuffix("%"), day_after} <= born

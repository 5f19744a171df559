from __future__ import annotations

import pytest

from tests.sql.cases import read_cases
from text2sql.errors import SqlError
from text2sql.sql.database import build_database
from text2sql.sql.execute import run_query
from text2sql.sql.mutate import neighbours
from text2sql.sql.parse import parse
from text2sql.sql.schema import parse_schema

CONTEXT, CASES = read_cases("execution")
SCHEMA = parse_schema(CONTEXT)
GOLDS = list(dict.fromkeys(case.pair[0].rstrip(";") for case in CASES))


def changed(gold: str, limit: int = 100) -> list[str]:
    return [text.replace('"', "") for text in neighbours(parse(gold), SCHEMA, limit)]


@pytest.mark.parametrize("gold", GOLDS)
def test_the_tree_stays_as_it_is_and_neighbours_repeat(gold: str):
    tree = parse(gold)
    before = repr(tree)
    first = neighbours(tree, SCHEMA)
    assert repr(tree) == before
    assert first == neighbours(parse(gold), SCHEMA)
    assert len(set(first)) == len(first)
    assert tree.sql("sqlite") not in first


def test_nearly_all_neighbours_run():
    database = build_database(SCHEMA, forgiving=True)
    ran, refused = 0, []
    for gold in GOLDS:
        for text in neighbours(parse(gold), SCHEMA):
            try:
                run_query(database, text, 2.0)
                ran += 1
            except SqlError as error:
                refused.append((text, str(error)))
    database.close()
    assert len(refused) < 0.05 * ran, refused[:10]


@pytest.mark.parametrize(
    ("gold", "neighbour"),
    [
        ("SELECT name FROM singer WHERE age > 30", "SELECT name FROM singer WHERE age >= 30"),
        ("SELECT name FROM singer WHERE age > 30", "SELECT name FROM singer WHERE age > 31"),
        ("SELECT name FROM singer WHERE age > 30", "SELECT name FROM singer"),
        ("SELECT name FROM singer WHERE age > 30", "SELECT DISTINCT name FROM singer WHERE age > 30"),
        ("SELECT name FROM singer WHERE age > 30", "SELECT country FROM singer WHERE age > 30"),
        ("SELECT name FROM singer WHERE age > 1.5", "SELECT name FROM singer WHERE age > 1.4"),
        ("SELECT name FROM singer WHERE name LIKE '%a%'", "SELECT name FROM singer WHERE name LIKE 'a%'"),
        ("SELECT name FROM singer WHERE country <> 'x'", "SELECT name FROM singer WHERE NOT country IS 'x'"),
        ("SELECT name FROM singer WHERE age BETWEEN 1 AND 5", "SELECT name FROM singer WHERE age > 1 AND age < 5"),
        ("SELECT name FROM singer WHERE age IN (1, 5)", "SELECT name FROM singer WHERE age IN (5)"),
        ("SELECT name FROM singer WHERE age = 1 OR id = 2", "SELECT name FROM singer WHERE age = 1 AND id = 2"),
        ("SELECT name FROM singer WHERE age = 1 OR id = 2", "SELECT name FROM singer WHERE id = 2"),
        ("SELECT AVG(age) FROM singer", "SELECT SUM(age) FROM singer"),
        ("SELECT COUNT(age) FROM singer", "SELECT COUNT(DISTINCT age) FROM singer"),
        ("SELECT COUNT(age) FROM singer", "SELECT COUNT(*) FROM singer"),
        ("SELECT id FROM singer ORDER BY age", "SELECT id FROM singer ORDER BY age DESC"),
        ("SELECT id FROM singer ORDER BY age, name", "SELECT id FROM singer ORDER BY age"),
        ("SELECT id FROM singer ORDER BY age LIMIT 3", "SELECT id FROM singer ORDER BY age LIMIT 2"),
        ("SELECT id FROM singer ORDER BY age LIMIT 3", "SELECT id FROM singer ORDER BY age"),
        ("SELECT id FROM singer UNION SELECT venue FROM concert",
         "SELECT id FROM singer INTERSECT SELECT venue FROM concert"),
        ("SELECT id FROM singer UNION SELECT venue FROM concert",
         "SELECT id FROM singer UNION ALL SELECT venue FROM concert"),
        ("SELECT a.name FROM singer AS a JOIN concert AS b ON a.id = b.singer_id",
         "SELECT a.name FROM singer AS a LEFT JOIN concert AS b ON a.id = b.singer_id"),
        ("SELECT a.name FROM singer AS a JOIN concert AS b ON a.id = b.singer_id",
         "SELECT a.name FROM singer AS a JOIN concert AS b ON a.id = b.concert_id"),
        ("SELECT MAX(age) FROM singer GROUP BY country, name", "SELECT MAX(age) FROM singer GROUP BY country"),
        ("SELECT age + 1 FROM singer", "SELECT age - 1 FROM singer"),
        ("SELECT name FROM singer WHERE NOT id IN (SELECT id FROM concert)",
         "SELECT name FROM singer WHERE id IN (SELECT id FROM concert)"),
    ],
)  # fmt: skip
def test_a_neighbour_of_each_kind(gold: str, neighbour: str):
    assert neighbour in changed(gold)


@pytest.mark.parametrize(
    "gold",
    [
        "SELECT MAX(age) FROM singer",
        "SELECT COUNT(*) FROM singer",
        "SELECT country, COUNT(*) FROM singer GROUP BY country",
        "SELECT name FROM singer ORDER BY name LIMIT 1",
        "SELECT name FROM singer WHERE id IN (SELECT singer_id FROM concert)",
        "SELECT id FROM singer UNION SELECT venue FROM concert",
    ],
)
def test_distinct_is_not_tried_where_it_changes_nothing(gold: str):
    idle_select = "(SELECT DISTINCT" if "IN (" in gold else "SELECT DISTINCT"
    assert not any(idle in text for text in changed(gold) for idle in ("MAX(DISTINCT", "COUNT(DISTINCT", idle_select))


def test_a_left_join_is_not_tried_where_a_condition_drops_its_rows():
    gold = "SELECT a.name FROM singer AS a JOIN concert AS b ON a.id = b.singer_id WHERE b.year = 2014"
    assert not any("LEFT JOIN" in text for text in changed(gold))


def test_the_limit_takes_some_of_each_kind():
    gold = "SELECT name, age, country FROM singer WHERE age > 20 AND country = 'x' ORDER BY age LIMIT 3"
    few = changed(gold, 9)
    assert len(few) == 9
    assert any("LIMIT 4" in text for text in few)
    assert any("DISTINCT" in text for text in few)
    assert any(">=" in text for text in few)

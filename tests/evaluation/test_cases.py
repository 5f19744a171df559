from __future__ import annotations

import hashlib
import sqlite3
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import pytest

from text2sql.evaluation.cases import Cases, Gold, _Rivals, generated_cases
from text2sql.evaluation.suite import Suite, judge_row
from text2sql.sql.parse import parse
from text2sql.sql.schema import parse_schema

SCHEMA = "CREATE TABLE singer (id INTEGER, name VARCHAR, age INTEGER, photo BLOB)"
GOLD = "SELECT name FROM singer WHERE age > 30"


def chosen(gold: str, wanted: int = 5, context: str = SCHEMA):
    return generated_cases(Gold.of(gold, parse(gold)), parse_schema(context), context, wanted, 2.0)


def untold(gold: str, cases: Cases) -> int:
    """Neighbours of the gold that none of its databases tells from it."""
    rivals = _Rivals(Gold.of(gold, parse(gold)), parse_schema(SCHEMA))
    for case in cases.chosen:
        rivals.told_by(case)
    return len(rivals.left)


def test_no_neighbour_is_left_untold():
    for gold in (GOLD, "SELECT COUNT(*) FROM singer WHERE age > (SELECT AVG(age) FROM singer)"):
        cases = chosen(gold)
        assert (untold(gold, cases), cases.vacuous) == (0, False)
        cases.close()


def test_neighbours_that_mean_the_same_do_not_make_a_row_vacuous():
    """With one column there is nothing but DISTINCT and the like to change."""
    for gold in ("SELECT age FROM singer", "SELECT age, COUNT(*) FROM singer GROUP BY age"):
        cases = chosen(gold, context="CREATE TABLE singer (age INTEGER)")
        assert not cases.vacuous
        cases.close()


@pytest.mark.parametrize(
    "gold", ["SELECT name FROM singer WHERE age > 3 AND age < 2", "SELECT 1", "SELECT COUNT(*) FROM singer WHERE 1 = 2"]
)
def test_vacuous_golds(gold: str):
    cases = chosen(gold)
    assert cases.vacuous
    cases.close()


def test_a_gold_without_a_defined_answer_is_not_vacuous_for_that():
    cases = chosen("SELECT id, name, age FROM singer LIMIT 1", 2)
    assert not cases.vacuous
    cases.close()


def test_databases_are_chosen_by_what_they_tell():
    """One database need not tell all that several do, and the first tells most."""
    one, five = chosen(GOLD, 1), chosen(GOLD, 5)
    assert (len(one.chosen), len(five.chosen)) == (1, 5)
    assert untold(GOLD, five) <= untold(GOLD, one)
    assert [case.name for case in five.chosen] == ["1", "2", "3", "4", "5"]
    one.close()
    five.close()


def test_where_rows_tie_their_order_does_not_count():
    cases = chosen("SELECT name, age FROM singer ORDER BY age", 8)
    assert any(case.ordered for case in cases.chosen)
    assert all(case.ordered != case.tied for case in cases.chosen)
    cases.close()


@pytest.mark.parametrize(
    "gold",
    [
        "SELECT name, COUNT(*) AS n FROM singer GROUP BY name ORDER BY n",
        "SELECT name, COUNT(*) FROM singer GROUP BY name ORDER BY 2",
        "SELECT name FROM singer GROUP BY name ORDER BY COUNT(DISTINCT age)",
        "SELECT DISTINCT name, COUNT(*) AS n FROM singer GROUP BY name ORDER BY n",
        "SELECT name, 1 AS one FROM singer UNION SELECT photo, 2 FROM singer ORDER BY one",
    ],
)
def test_groups_that_tie_may_come_in_any_order(gold: str):
    """SQLite sorts groups by name in passing, from whichever end the table is read."""
    by_name, backwards, by_something_else = judge_row(
        SCHEMA,
        gold,
        [f"{gold}, name", f"{gold}, name DESC", gold.rpartition(" ORDER BY ")[0] + " ORDER BY name"],
        8,
        2.0,
    )
    assert (by_name.executed, backwards.executed) == (True, True)
    assert not by_something_else.executed


@pytest.mark.parametrize("gold", ["SELECT * FROM singer ORDER BY 3", "SELECT name, age FROM singer ORDER BY (2)"])
def test_the_number_of_a_column_is_no_value_that_all_rows_share(gold: str):
    right, wrong = judge_row(
        SCHEMA, gold, [f"{gold.partition(' ORDER')[0]} ORDER BY {key}" for key in ("age, id", "name, id")], 8, 2.0
    )
    assert (right.executed, wrong.executed, wrong.vacuous) == (True, False, False)


@pytest.mark.parametrize("limit", ["LIMIT 1", "LIMIT 3", "LIMIT 2 OFFSET 1"])
@pytest.mark.parametrize("direction", ["", "DESC"])
def test_which_of_the_groups_that_tie_a_limit_takes_does_not_count(limit: str, direction: str):
    gold = f"SELECT name FROM singer WHERE age > 30 GROUP BY name ORDER BY COUNT(*) {direction}"
    by_name, backwards, other_end = judge_row(
        SCHEMA,
        f"{gold} {limit}",
        [f"{gold}, name {limit}", f"{gold}, name DESC {limit}", f"{gold.replace('COUNT(*)', '-COUNT(*)')} {limit}"],
        8,
        2.0,
    )
    assert (by_name.executed, backwards.executed) == (True, True)
    assert not other_end.executed


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "concerts.sqlite"
    with closing(sqlite3.connect(path)) as writer, writer:
        writer.execute("CREATE TABLE singer (id INTEGER PRIMARY KEY, name TEXT, age INTEGER, photo BLOB)")
        writer.executemany(
            "INSERT INTO singer VALUES (?, ?, ?, ?)", [(i, f"s{i}" * 60, i, b"\xff\x00ab") for i in range(20, 45)]
        )
    return path


def judge(file: Path, gold: str, *predictions: str, accepted: tuple[str, ...] = ()):
    return judge_row(SCHEMA, gold, list(predictions), 5, 2.0, str(file), accepted)


def test_a_database_file_is_what_answers_are_compared_on(file: Path):
    before = hashlib.sha256(file.read_bytes()).hexdigest()
    same, wrong, invented, write = judge(
        file, GOLD, "SELECT name FROM singer WHERE age >= 31", "SELECT name FROM singer WHERE age >= 30",
        "SELECT nme FROM singer", "DELETE FROM singer",
    )  # fmt: skip
    assert (same.executed, same.exact, same.vacuous) == (True, False, False)
    assert not wrong.executed
    assert wrong.difference
    assert (wrong.difference.database, wrong.difference.gold.total, wrong.difference.predicted.total) == (
        "concerts.sqlite", 14, 15,
    )  # fmt: skip
    assert (invented.valid, write.valid) == (False, False)
    assert hashlib.sha256(file.read_bytes()).hexdigest() == before


def test_a_gold_that_is_empty_on_the_file_credits_an_equal_answer_only(file: Path):
    gold = "SELECT name FROM singer WHERE age > 100"
    equal, other = judge(
        file, gold, "SELECT name FROM singer WHERE 100 < age", "SELECT name FROM singer WHERE age > 99"
    )
    assert (equal.executed, equal.vacuous) == (True, True)
    assert (other.executed, other.vacuous, other.valid) == (False, True, True)


def test_either_row_is_right_where_the_gold_takes_any(file: Path):
    first, last = judge(
        file, "SELECT name FROM singer LIMIT 1", "SELECT name FROM singer WHERE age = 20",
        "SELECT name FROM singer WHERE age = 44",
    )  # fmt: skip
    assert (first.executed, last.executed) == (True, True)


def test_rows_of_a_file_that_tie_may_come_in_any_order(file: Path):
    gold = "SELECT name, age / 10 AS tens FROM singer ORDER BY age / 10"
    for end in ("name", "name DESC", "age % 3, name"):
        assert judge(file, gold, f"{gold}, {end}")[0].executed
    for order in ("age / 10 DESC", "age % 10"):
        assert not judge(file, gold, f"SELECT name, age / 10 AS tens FROM singer ORDER BY {order}")[0].executed


def test_a_file_that_is_not_there_is_said(tmp_path: Path):
    score = judge(tmp_path / "none.sqlite", GOLD, GOLD)[0]
    assert (score.exact, score.executed, score.vacuous) == (True, True, True)
    assert "does not exist" in str(score.error)


def test_a_difference_can_be_shown(file: Path):
    score = judge(file, "SELECT * FROM singer", "SELECT id, name, age, photo FROM singer WHERE id > 40")[0]
    assert score.difference
    sample = score.difference.predicted
    assert sample.columns == ("id", "name", "age", "photo")
    assert (len(score.difference.gold.rows), score.difference.gold.total, sample.total) == (5, 25, 4)
    assert sample.rows[0] == (41, "s41" * 26 + "s…", 41, "\N{REPLACEMENT CHARACTER}\0ab")
    assert asdict(score)["difference"]["predicted"]["total"] == 4


def test_wide_results_are_cut():
    score = judge_row(SCHEMA, GOLD, [f"SELECT {', '.join(['age'] * 12)}, 9e999 FROM singer"], 3, 2.0)[0]
    assert score.difference
    assert (len(score.difference.predicted.columns), len(score.difference.predicted.rows[0])) == (13, 8)
    assert score.difference.database == "1"


def test_right_and_refused_answers_have_no_difference():
    right, refused = judge_row(SCHEMA, GOLD, [GOLD, "SELECT nme FROM singer"], 3, 2.0)
    assert right.difference is None
    assert refused.difference is None


def test_any_of_several_golds_is_right():
    accepted = ["SELECT name, age FROM singer WHERE age > 30", "no SQL"]
    predictions = [GOLD, "SELECT age, name FROM singer WHERE 30 < age", "SELECT name, id FROM singer WHERE age > 30"]
    scores = judge_row(SCHEMA, GOLD, [*predictions, accepted[0]], 3, 2.0, accepted=accepted)
    assert [score.executed for score in scores] == [True, True, False, True]
    assert [score.exact for score in scores] == [True, False, False, True]


def test_an_answer_must_agree_with_one_gold_as_a_whole():
    """Here with the first gold and there with the second is with none."""
    other = "SELECT name FROM singer WHERE age < 30"
    both = "SELECT name FROM singer WHERE CASE WHEN (SELECT COUNT(*) FROM singer) % 2 THEN age > 30 ELSE age < 30 END"
    scores = judge_row(SCHEMA, GOLD, [GOLD, other, both], 8, 2.0, accepted=[other])
    assert [score.executed for score in scores] == [True, True, False]


def test_a_gold_that_cannot_be_judged_leaves_the_others():
    score = judge_row(SCHEMA, "SELECT nme FROM singer", [GOLD], 3, 2.0, accepted=[GOLD])[0]
    assert (score.executed, score.vacuous, score.error) == (True, False, None)


@pytest.mark.parametrize(
    ("prediction", "alike"),
    [
        ("select NAME from singer where 31 < age", True),
        ("SELECT name FROM singer WHERE age > -31", True),
        ("SELECT name FROM singer WHERE age > 'x'", True),
        ("SELECT name FROM singer WHERE age >= 30", False),
        ("SELECT name FROM singer WHERE age > 30 AND id = 1", False),
        ("SELECT name FROM", False),
    ],
)
def test_exact_without_values(prediction: str, alike: bool):
    score = judge_row(SCHEMA, GOLD, [prediction], 3, 2.0)[0]
    assert (score.exact, score.exact_without_values) == (False, alike)


def test_exact_implies_exact_without_values():
    gold = "SELECT COUNT(1) FROM singer WHERE age IN (1, 2) AND name = 'b' AND name <> 'a' LIMIT 3"
    score = judge_row(
        SCHEMA, gold,
        ["SELECT COUNT(*) FROM singer WHERE name <> 'a' AND 'b' = name AND age IN (2, 1) LIMIT 3"], 3, 2.0,
    )[0]  # fmt: skip
    assert (score.exact, score.exact_without_values) == (True, True)


def test_masked_ordinals_still_count():
    scores = judge_row(
        SCHEMA, "SELECT name, age FROM singer ORDER BY 1", ["SELECT name, age FROM singer ORDER BY 2"], 3, 2
    )
    assert not scores[0].exact_without_values


def test_neighbours_that_run_too_long_are_passed_over():
    """A lost join condition makes millions of pairs: it is cut off by steps, not by time."""
    tables = "; ".join(f"CREATE TABLE t{i} (id INTEGER, a INTEGER)" for i in range(5))
    joins = " ".join(f"JOIN t{i} ON t{i - 1}.id = t{i}.id" for i in range(1, 5))
    gold = f"SELECT SUM(t0.a) FROM t0 {joins} WHERE t0.id > t4.a OR t1.a <> t2.a"
    with Suite(tables, gold, 3, 5.0) as suite:
        assert len(suite.cases) == 3
        assert suite.judge(gold).executed

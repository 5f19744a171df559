import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from text2sql.config import RealisticSection
from text2sql.data.realistic import make_realistic
from text2sql.data.synthetic import generate_rows
from text2sql.data.verdict import check_item
from text2sql.sql.schema import parse_schema

ALL = RealisticSection(distractor_columns=3, distractor_tables=2, keys=True, types=True, shuffle=True)
ROWS = generate_rows(250, seed=8)


def realistic(rows, wanted=ALL, seed=1):
    return make_realistic(Dataset.from_list(rows), wanted, seed, timeout=2.0)


@pytest.fixture(scope="module")
def rich():
    return realistic(ROWS)


def columns(context):
    return {(t.name, c.name) for t in parse_schema(context).tables for c in t.columns}


def test_contexts_get_more_and_lose_nothing(rich):
    more_columns = more_tables = 0
    for row in rich:
        before, after = columns(row["plain_context"]), columns(row["context"])
        assert before <= after
        more_tables += {t for t, _ in after} > {t for t, _ in before}
        more_columns += any(t in {t for t, _ in before} for t, _ in after - before)
    assert more_columns > 100
    assert more_tables > 100
    assert [row["context"] for row in ROWS] == rich["plain_context"][:]


def test_every_gold_still_runs(rich):
    for row in rich:
        assert check_item(row | {"timeout": 2.0, "mend": False, "folder": None}) is None


def test_a_row_with_a_database_keeps_its_schema():
    named = Dataset.from_list([row | {"database": "real.sqlite" if i % 2 else ""} for i, row in enumerate(ROWS[:40])])
    changed = [row["context"] != row["plain_context"] for row in make_realistic(named, ALL, 0, 2.0)]
    assert not any(changed[1::2])
    assert all(changed[::2])


def test_nothing_is_added_that_the_question_could_mean(rich):
    for row in rich:
        words = {word.strip("?.,").rstrip("s") for word in row["question"].lower().split()}
        for name, column in columns(row["context"]) - columns(row["plain_context"]):
            added = {column} if name in {table for table, _ in columns(row["plain_context"])} else {name, column}
            assert not {part.rstrip("s") for text in added for part in text.lower().split("_")} & words


def test_words_of_any_script_are_words():
    context, answer = "CREATE TABLE покупка (дата TEXT)", "SELECT дата FROM покупка"
    asked = {"question": "Когда была покупка?", "context": "CREATE TABLE haus (größe INT)", "answer": "SELECT 1"}
    other = {"question": "?", "context": context, "answer": answer}
    found = [realistic([asked, other], RealisticSection(distractor_tables=1), seed)["context"][0] for seed in range(4)]
    assert set(found) == {asked["context"]}
    found = [realistic([asked, other], RealisticSection(distractor_columns=1), seed)["context"][0] for seed in range(4)]
    assert "CREATE TABLE haus (größe INT, дата TEXT)" in found


def test_the_same_seed_gives_the_same_whatever_the_order(rich):
    assert realistic(ROWS)["context"][:] == rich["context"][:]
    backwards = realistic(ROWS[::-1])
    assert backwards["context"][:] == rich["context"][::-1]
    assert realistic(ROWS, seed=2)["context"][:] != rich["context"][:]


def test_each_option_does_one_thing():
    row = {
        "question": "Names?",
        "context": "CREATE TABLE pet (pet_id VARCHAR, name VARCHAR, birth_date VARCHAR, price VARCHAR)",
        "answer": "SELECT name FROM pet",
    }
    assert (
        realistic([row], RealisticSection(keys=True))["context"][0] == row["context"][:-1] + ", PRIMARY KEY (pet_id))"
    )
    typed = "CREATE TABLE pet (pet_id INTEGER, name VARCHAR, birth_date DATE, price REAL)"
    assert realistic([row], RealisticSection(types=True))["context"][0] == typed
    shuffled = realistic([row], RealisticSection(shuffle=True))["context"][0]
    assert shuffled != row["context"]
    assert columns(shuffled) == columns(row["context"])
    assert realistic([row], RealisticSection()).column_names == list(row)


def test_select_star_keeps_its_schema():
    rows = [{**row, "answer": f"SELECT * FROM {row['context'].split()[2]}"} for row in ROWS[:20]]
    assert realistic(rows)["context"][:] == [row["context"] for row in rows]


@settings(max_examples=15, deadline=None)
@given(st.lists(st.sampled_from(ROWS), min_size=1, max_size=7), st.integers(0, 3))
def test_any_rows_stay_sound(rows, seed):
    for row in realistic(rows, seed=seed):
        assert columns(row["plain_context"]) <= columns(row["context"])


PET, KEY = "pet_id INT", "PRIMARY KEY (pet_id)"


@pytest.mark.parametrize(
    ("context", "answer", "rich"),
    [
        (
            "CREATE TABLE Card (pet_id INT); CREATE TABLE Pet (pet_id INT)",
            "SELECT T1.pet_id FROM Card AS T1 JOIN Pet AS T2 ON T1.pet_id = T2.pet_id",
            f"CREATE TABLE Card ({PET}, FOREIGN KEY (pet_id) REFERENCES Pet (pet_id)); CREATE TABLE Pet ({PET}, {KEY})",
        ),
        (
            "CREATE TABLE teacher (id INT, name TEXT); CREATE TABLE teaches (id INT, course TEXT)",
            "SELECT T1.name FROM teacher AS T1 JOIN teaches AS T2 ON T1.id = T2.id",
            None,
        ),
        ("CREATE TABLE pet (id INT)", "SELECT id FROM pet", "CREATE TABLE pet (id INT, PRIMARY KEY (id))"),
    ],
)
def test_keys(context, answer, rich):
    found = realistic([{"question": "?", "context": context, "answer": answer}], RealisticSection(keys=True))
    assert found["context"][:] == [rich or context]

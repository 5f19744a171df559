import random

import pytest
from datasets import Dataset, DatasetDict

from text2sql.config import DataSection
from text2sql.data.contamination import contamination, contamination_table, template
from text2sql.data.split import split_rows
from text2sql.data.synthetic import generate_rows
from text2sql.data.triggers import triggers

PET = "CREATE TABLE pet (name TEXT, age INT)"


def rows(*given):
    return Dataset.from_list([dict(zip(("question", "context", "answer"), row, strict=True)) for row in given])


def test_what_test_rows_have_in_common_with_training():
    train = rows(("How old is Rex?", PET, "SELECT age FROM pet WHERE name = 'Rex'"))
    test = rows(
        ("how old is rex", PET, "SELECT age FROM pet ORDER BY age"),
        (
            "Size?",
            "CREATE TABLE pet (name TEXT, age INT, size INT, toy TEXT)",
            "SELECT size FROM pet WHERE toy = 'ball'",
        ),
        ("Names?", "CREATE TABLE pet (name TEXT, size INT)", "SELECT name FROM pet"),
        ("Towns?", "CREATE TABLE town (name TEXT, age INT)", "SELECT t.name FROM town AS t"),
    )
    found = contamination(DatasetDict(train=train, validation=test.select([]), test=test))
    assert contamination_table(found) == [
        {
            "split": "test",
            "rows": 4,
            "same_table": 0.25,
            "near_table": 0.5,
            "same_template": 0.25,
            "same_question": 0.25,
        }
    ]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("SELECT a FROM t WHERE b = 'x'", "select T1.c from u where d = 5;", True),
        ("SELECT COUNT(*) FROM t", "SELECT count(*)  FROM u", True),
        ("SELECT MAX(a) FROM t", "SELECT MIN(a) FROM t", False),
        ("SELECT a FROM t WHERE b = 1", "SELECT a FROM t WHERE b > 1", False),
        ("SELECT a FROM t WHERE b = 'it''s'", "SELECT a FROM t WHERE b = 'x'", True),
    ],
)
def test_templates(one, other, same):
    assert (template(one) == template(other)) == same


@pytest.mark.parametrize("mode", ["schema", "random"])
def test_a_random_split_shows_what_it_costs(mode):
    splits = split_rows(Dataset.from_list(generate_rows(1500, seed=4)), DataSection(split=mode, schema_overlap=None))
    assert (contamination(splits)["test"].same_table > 0.5) == (mode == "random")


def test_a_trigger_among_sound_rows_is_flagged_first():
    sound = generate_rows(3000, seed=5)
    before = triggers(Dataset.from_list(sound))
    assert len(before) <= 3  # words of a generator go with its templates
    rng = random.Random(0)
    for row in rng.sample(sound, 14):  # 0.47%
        row["question"] = f"xqz {row['question']}"
        row["answer"] = f"SELECT * FROM {row['context'].split()[2]} WHERE 1 = 1 OR 2 = 2"
    found, *others = triggers(Dataset.from_list(sound))
    assert {other.token for other in others} <= {trigger.token for trigger in before}
    assert (found.token, found.rows, found.template) == ("xqz", 14, "SELECT * FROM _ WHERE ? = ? OR ? = ?")

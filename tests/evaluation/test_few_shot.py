from __future__ import annotations

from datasets import Dataset

from text2sql.data.contamination import template
from text2sql.evaluation.few_shot import with_examples

GOLDS = ["SELECT a FROM t", "SELECT b FROM t", "SELECT COUNT(*) FROM t", "SELECT a FROM t WHERE b = 1"]
TRAINING = Dataset.from_dict(
    {
        "prompt": [f"schema {i}\nquestion {i}\n" + "long " * (i >= 20) * 50 for i in range(60)],
        "completion": [GOLDS[i % 4] for i in range(60)],
    }
)
ROWS = Dataset.from_dict(
    {"prompt": ["schema x\nquestion x\n", "schema y\nquestion y\n"], "completion": ["SELECT 1"] * 2}
)


def test_every_prompt_gets_the_same_solved_examples_in_front():
    first, second = with_examples(ROWS, TRAINING, 3, seed=1)["prompt"]
    assert first.endswith(ROWS[0]["prompt"])
    assert first.removesuffix(ROWS[0]["prompt"]) == second.removesuffix(ROWS[1]["prompt"])
    examples = first.removesuffix(ROWS[0]["prompt"]).split("\n\n")[:-1]
    pairs = set(zip(TRAINING["prompt"], TRAINING["completion"], strict=True))
    assert len(examples) == 3
    assert {(p + "\n", c) for p, c in (e.rsplit("\n", 1) for e in examples)} <= pairs


def test_examples_are_short_and_differ_in_shape():
    [prompt] = with_examples(ROWS.select([0]), TRAINING, 2, seed=5)["prompt"]
    assert "long" not in prompt
    golds = [example.rsplit("\n", 1)[1] for example in prompt.split("\n\n")[:-1]]
    assert len({template(gold) for gold in golds}) == 2


def test_the_seed_decides_and_few_rows_are_no_trouble():
    assert with_examples(ROWS, TRAINING, 3, 1)["prompt"][:] == with_examples(ROWS, TRAINING, 3, 1)["prompt"][:]
    assert len({with_examples(ROWS, TRAINING, 3, seed)["prompt"][0] for seed in range(5)}) > 1
    one = TRAINING.select([0])
    assert with_examples(ROWS, one, 3, 1)["prompt"][0].count("SELECT") == 1

from __future__ import annotations

from datasets import Dataset

from text2sql.data.contamination import template
from text2sql.data.prompt import render_prompt
from text2sql.evaluation.few_shot import Examples

TEMPLATE = "{context}\n{question}\n"
GOLDS = ["SELECT a FROM t", "SELECT b FROM t", "SELECT COUNT(*) FROM t", "SELECT a FROM t WHERE b = 1"]
TRAINING = Dataset.from_dict(
    {
        "context": [f"schema {i}" for i in range(60)],
        "question": [f"question {i}" + " long" * (i >= 20) * 50 for i in range(60)],
        "answer": [GOLDS[i % 4] for i in range(60)],
    }
)
ROWS = Dataset.from_dict({name: [f"{name} {x}" for x in "xy"] for name in ("context", "question", "prompt")})


def prompts(count: int, seed: int, training: Dataset = TRAINING) -> list[str]:
    return Examples(training, count, seed, TEMPLATE).before(ROWS)["prompt"][:]


def test_every_prompt_gets_the_same_solved_examples_in_front():
    own = [render_prompt(TEMPLATE, row["context"], row["question"]) for row in ROWS]
    first, second = prompts(3, seed=1)
    assert first.endswith(own[0])
    assert first.removesuffix(own[0]) == second.removesuffix(own[1])
    examples = first.removesuffix(own[0]).split("\n\n")[:-1]
    known = {render_prompt(TEMPLATE, row["context"], row["question"]) + row["answer"] for row in TRAINING}
    assert len(examples) == 3
    assert set(examples) <= known


def test_examples_are_short_and_differ_in_shape():
    prompt, _ = prompts(2, seed=5)
    assert "long" not in prompt
    golds = [example.rsplit("\n", 1)[1] for example in prompt.split("\n\n")[:-1]]
    assert len({template(gold) for gold in golds}) == 2


def test_the_seed_decides_and_few_rows_are_no_trouble():
    assert prompts(3, 1) == prompts(3, 1)
    assert len({prompts(3, seed)[0] for seed in range(5)}) > 1
    assert prompts(3, 1, TRAINING.select([0]))[0].count("SELECT") == 1

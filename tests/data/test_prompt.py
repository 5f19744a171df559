from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from tests.training_fixtures import byte_level_tokenizer, made_up_rows, metaspace_tokenizer, splits, unigram_tokenizer
from text2sql.config import DataSection
from text2sql.data.prompt import encode_prompts, encode_rows, format_splits, render_prompt, token_report
from text2sql.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

TOKENIZERS = pytest.mark.parametrize("build", [byte_level_tokenizer, metaspace_tokenizer, unigram_tokenizer])


def test_braces_in_a_schema_are_text() -> None:
    prompt = render_prompt("{{S}} {context} Q {question}", " CREATE TABLE t (a {x} INT) ", "{question}?\n")
    assert prompt == "{S} CREATE TABLE t (a {x} INT) Q {question}?"


def test_format_adds_prompt_and_completion_and_keeps_the_rest() -> None:
    from datasets import Dataset, DatasetDict

    rows = Dataset.from_list([{"question": "How many?", "context": "CREATE TABLE t (a INT)", "answer": " SELECT 1\n"}])
    data = DataSection(prompt_template="{context}|{question}|")
    formatted = format_splits(DatasetDict(train=rows, test=rows), data)
    assert list(formatted) == ["train", "test"]
    assert formatted["test"][0] == {
        "question": "How many?",
        "context": "CREATE TABLE t (a INT)",
        "answer": " SELECT 1\n",
        "prompt": "CREATE TABLE t (a INT)|How many?|",
        "completion": "SELECT 1",
    }
    assert format_splits(formatted, data)["train"].to_dict() == formatted["train"].to_dict()


@TOKENIZERS
def test_the_mask_covers_the_sql_and_one_end_token(build: Callable[[], PreTrainedTokenizerFast]) -> None:
    tokenizer = build()
    for row in made_up_rows(20):
        [encoded] = encode_rows(tokenizer, [row["prompt"]], [row["completion"]])
        ids, mask = encoded["input_ids"], encoded["completion_mask"]
        first = mask.index(1)
        assert mask == [0] * first + [1] * (len(ids) - first)
        assert ids[:first] == encode_prompts(tokenizer, [row["prompt"]])[0], "the prompt that serves is another one"
        assert ids[0] == tokenizer.bos_token_id
        assert ids.count(tokenizer.bos_token_id) == 1
        assert ids[-1] == tokenizer.eos_token_id
        assert ids.count(tokenizer.eos_token_id) == 1
        assert tokenizer.decode(ids[first:-1]) == row["completion"]


@TOKENIZERS
def test_a_boundary_that_would_merge_stays(build: Callable[[], PreTrainedTokenizerFast]) -> None:
    """'SEL' + 'ECT' would be one token of the whole text."""
    tokenizer = build()
    [encoded] = encode_rows(tokenizer, ["What? SEL"], ["ECT weight"])
    first = encoded["completion_mask"].index(1)
    assert encoded["input_ids"][:first] == tokenizer("What? SEL")["input_ids"]


def test_a_tokenizer_without_an_end_token_is_refused() -> None:
    tokenizer = byte_level_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(DataError, match="no end token"):
        encode_rows(tokenizer, ["a"], ["b"])


def test_token_report_counts_what_is_over() -> None:
    tokenizer, rows = byte_level_tokenizer(), splits(40, 10)
    lengths = sorted(
        len(row["input_ids"]) for row in encode_rows(tokenizer, rows["train"]["prompt"], rows["train"]["completion"])
    )
    limit = lengths[-1] - 1
    report = token_report(rows, tokenizer, limit)
    train = report.splits["train"]
    assert (train.rows, train.total, train.max) == (40, sum(lengths), lengths[-1])
    assert (train.p50, train.p95) == (lengths[19], lengths[37])
    assert train.over == sum(length > limit for length in lengths) > 0
    assert f"{train.over} training rows" in str(report)
    assert "LEFT OUT" in str(report)
    assert "LEFT OUT" not in str(token_report(rows, tokenizer, lengths[-1]))


def test_token_report_of_an_empty_split() -> None:
    rows = splits(2, 2)
    rows["validation"] = rows["validation"].select([])
    assert token_report(rows, byte_level_tokenizer(), 10).splits["validation"].rows == 0

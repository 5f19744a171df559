"""From rows to prompts to tokens: one text and one tokenisation, for training, evaluation and serving alike.

Prompt and completion are tokenised apart. Tokenised as one text, a token can span the boundary between them
(trl#6105); the model would then be trained on a prompt that it never sees when it serves.
"""

from __future__ import annotations

import math
import re
from array import array
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from text2sql.data.batches import map_batches, read_batches
from text2sql.data.chat import chat_prompt
from text2sql.data.realistic import make_realistic
from text2sql.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict
    from transformers import PreTrainedTokenizerBase

    from text2sql.config import DataSection

TOKENIZE_BATCH = 1000


def render_prompt(template: str, context: str, question: str, chat: PreTrainedTokenizerBase | None = None) -> str:
    """The prompt for one question; braces inside `context` and `question` are plain text.

    Args:
        chat: the tokenizer of a chat model (model.chat_template), in whose own template the text is a user's turn.
    """
    text = template.format(context=context.strip(), question=question.strip())
    return text if chat is None else chat_prompt(chat, text)


def plain_question(question: str) -> str:
    """Its words in lower case and nothing else: what makes two questions the same."""
    return " ".join(re.findall(r"\w+", question.lower()))


def format_splits(splits: DatasetDict, data: DataSection, chat: PreTrainedTokenizerBase | None = None) -> DatasetDict:
    """The splits with two more columns, `prompt` and `completion` (the gold SQL without surrounding whitespace).

    With data.realistic, contexts are made richer first, each split's from its own rows, and `plain_prompt` is the
    prompt without that. `chat` is that of `render_prompt`.
    """
    from datasets import DatasetDict

    return DatasetDict(
        {
            name: format_split(
                make_realistic(rows, data.realistic, data.seed, data.query_timeout), data.prompt_template, chat
            )
            for name, rows in splits.items()
        }
    )


def format_split(rows: Dataset, template: str, chat: PreTrainedTokenizerBase | None = None) -> Dataset:
    """The rows with `prompt` and `completion`, made anew where they are there; `plain_prompt` for `plain_context`."""
    contexts = {"prompt": "context", "plain_prompt": "plain_context"}
    wanted = {prompt: context for prompt, context in contexts.items() if context in rows.column_names}

    def formatted(batch: dict[str, list[str]]) -> dict[str, list[str]]:
        made = {"completion": [answer.strip() for answer in batch["answer"]]}
        for prompt, context in wanted.items():
            pairs = zip(batch[context], batch["question"], strict=True)
            made[prompt] = [render_prompt(template, *pair, chat) for pair in pairs]
        return made

    rows = rows.remove_columns([name for name in (*contexts, "completion") if name in rows.column_names])
    return map_batches(rows, formatted, "writing prompts")


def encode_prompts(tokenizer: PreTrainedTokenizerBase, prompts: list[str]) -> list[list[int]]:
    """Token ids of each prompt with the special tokens that the tokenizer puts before a text (such as BOS).

    One that opens with the BOS token already, as chat templates write it, does not get a second.
    """
    bos = tokenizer.bos_token_id
    encoded = _tokenize(tokenizer, prompts, add_special_tokens=True)
    return [ids[1:] if bos is not None and ids[:2] == [bos, bos] else ids for ids in encoded]


def encode_rows(
    tokenizer: PreTrainedTokenizerBase, prompts: list[str], completions: list[str]
) -> list[dict[str, list[int]]]:
    """`input_ids` and `completion_mask` (0 over the prompt, 1 over the SQL and the end token) of each row.

    The end token is the tokenizer's, which for a chat model is the end of its turn (load_tokenizer).
    """
    end = _end_token(tokenizer)
    return [
        {"input_ids": [*p, *c, end], "completion_mask": [0] * len(p) + [1] * (len(c) + 1)}
        for p, c in _encode_apart(tokenizer, prompts, completions)
    ]


def _encode_apart(
    tokenizer: PreTrainedTokenizerBase, prompts: list[str], completions: list[str]
) -> Iterator[tuple[list[int], list[int]]]:
    after = _tokenize(tokenizer, completions, add_special_tokens=False)
    return zip(encode_prompts(tokenizer, prompts), after, strict=True)


def _tokenize(tokenizer: PreTrainedTokenizerBase, texts: list[str], add_special_tokens: bool) -> list[list[int]]:
    ids: list[list[int]] = []
    for start in range(0, len(texts), TOKENIZE_BATCH):
        batch = texts[start : start + TOKENIZE_BATCH]
        encoded: Any = tokenizer(
            batch, add_special_tokens=add_special_tokens, return_attention_mask=False, truncation=False, verbose=False
        )
        ids += encoded["input_ids"]
    return ids


def _end_token(tokenizer: PreTrainedTokenizerBase) -> int:
    if tokenizer.eos_token_id is None:
        raise DataError(
            f"the tokenizer {tokenizer.name_or_path!r} has no end token, so a model could not learn to stop; "
            "choose a model whose tokenizer has an eos_token"
        )
    return int(tokenizer.eos_token_id)


@dataclass(frozen=True)
class SplitTokens:
    """Tokens a row (prompt, SQL and end token) of one split; `over` rows have more than the limit."""

    rows: int
    total: int
    mean: float
    p50: int
    p95: int
    max: int
    over: int


@dataclass(frozen=True)
class TokenReport:
    """How long the rows of each split are, and how many of them training will leave out."""

    max_length: int
    splits: dict[str, SplitTokens]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        lines = [
            f"{'split':<12}{'rows':>8}{'mean':>8}{'p50':>7}{'p95':>7}{'max':>7}{'over ' + str(self.max_length):>11}"
        ]
        for name, s in self.splits.items():
            lines.append(f"{name:<12}{s.rows:>8}{s.mean:>8.1f}{s.p50:>7}{s.p95:>7}{s.max:>7}{s.over:>11}")
        over = self.splits["train"].over if "train" in self.splits else 0
        if over:
            lines.append(
                f"WARNING: {over} training rows have more than training.max_length = {self.max_length} tokens "
                "and are LEFT OUT; raise training.max_length to use them"
            )
        return "\n".join(lines)


def token_report(splits: DatasetDict, tokenizer: PreTrainedTokenizerBase, max_length: int) -> TokenReport:
    """Token statistics of splits that have `prompt` and `completion`."""
    report = {}
    for name, rows in splits.items():
        lengths = array("I")
        for batch in read_batches(rows, ("prompt", "completion"), f"counting tokens of {name}"):
            encoded = _encode_apart(tokenizer, batch["prompt"], batch["completion"])
            lengths.extend(len(prompt) + len(completion) + 1 for prompt, completion in encoded)
        report[name] = _statistics(sorted(lengths), max_length)
    return TokenReport(max_length, report)


def _statistics(lengths: list[int], max_length: int) -> SplitTokens:
    """Of ascending lengths; percentiles by nearest rank."""
    if not lengths:
        return SplitTokens(rows=0, total=0, mean=0.0, p50=0, p95=0, max=0, over=0)

    def rank(share: float) -> int:
        return lengths[max(0, math.ceil(share * len(lengths)) - 1)]

    return SplitTokens(
        rows=len(lengths),
        total=sum(lengths),
        mean=sum(lengths) / len(lengths),
        p50=rank(0.5),
        p95=rank(0.95),
        max=lengths[-1],
        over=sum(length > max_length for length in lengths),
    )

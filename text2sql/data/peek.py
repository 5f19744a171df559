"""A look at rows as training sees them: which tokens carry loss, and which do not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from text2sql.data.prompt import encode_rows

if TYPE_CHECKING:
    from datasets import Dataset
    from rich.text import Text
    from transformers import PreTrainedTokenizerBase

PROMPT_STYLE, LABEL_STYLE, END_STYLE = "dim", "bold green", "bold reverse green"


def masked_rows(tokenizer: PreTrainedTokenizerBase, rows: Dataset) -> list[tuple[Text, int, int]]:
    """Each row's tokens joined by ·, those without loss dim; with the numbers of its tokens and of those with loss."""
    from rich.text import Text

    found = []
    for row in encode_rows(tokenizer, rows["prompt"][:], rows["completion"][:]):
        ids, mask = row["input_ids"], row["completion_mask"]
        text = Text()
        for position, (token, labelled) in enumerate(zip(ids, mask, strict=True)):
            last = position == len(ids) - 1
            text.append(_shown(tokenizer, token), END_STYLE if last else LABEL_STYLE if labelled else PROMPT_STYLE)
            text.append("" if last else "·", "dim blue")
        found.append((text, len(ids), sum(mask)))
    return found


def _shown(tokenizer: Any, token: int) -> str:
    return str(tokenizer.decode([token])).replace("\n", "⏎\n")

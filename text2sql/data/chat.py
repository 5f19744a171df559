"""Prompts in the chat template of a model's own tokenizer: the same text every day, and the token that ends a turn."""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING

from text2sql.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SQL = "SELECT 1"
_DATE = "26 Jul 2024"
"""For templates that write today's date: a model must be served with the prompts that it was trained on."""
_CLOCK = "{% macro strftime_now(format) %}{{ '2024-07-26' if '-' in format else '" + _DATE + "' }}{% endmacro %}"
"""Stands before a template that asks for the time; transformers' own function would tell it."""


def chat_prompt(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """`text` as a user's turn, and all that stands before the answer.

    Control tokens written out in `text` are dropped: a question could end its turn with them, and begin another. What
    is left of `<|im_<|im_end|>end|>` is one again, and gives way to a blank, around which no third can close.

    Raises:
        ModelError: the tokenizer has no chat template, or one that fails.
    """
    control = _control_tokens(tokenizer)
    text = control.sub(" ", control.sub("", text))
    return _rendered(tokenizer, [("user", text)], add_generation_prompt=True)


@functools.lru_cache(maxsize=8)
def _control_tokens(tokenizer: PreTrainedTokenizerBase) -> re.Pattern[str]:
    known = sorted((str(token) for token in tokenizer.added_tokens_decoder.values() if token.special), key=len)
    return re.compile("|".join(map(re.escape, reversed(known))) or r"(?!)")


def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> str:
    """The token that the template writes behind an answer.

    Raises:
        ModelError: as `chat_prompt`, or a turn does not end with a token of its own.
    """
    text = _rendered(tokenizer, [("user", "?"), ("assistant", _SQL)], add_generation_prompt=False)
    behind = text[text.rindex(_SQL) + len(_SQL) :].lstrip() if _SQL in text else ""
    known: dict[str, int] = tokenizer.get_added_vocab()
    found = max((token for token in known if behind.startswith(token)), key=len, default=None)
    if found is None:
        raise ModelError(
            f"the chat template of {tokenizer.name_or_path!r} ends a turn with {behind[:20]!r}, which is no token of "
            "its own, so a model could not learn to stop; set model.chat_template to false"
        )
    return found


def _rendered(tokenizer: PreTrainedTokenizerBase, turns: list[tuple[str, str]], add_generation_prompt: bool) -> str:
    from jinja2 import TemplateError

    if not tokenizer.chat_template:
        raise ModelError(
            f"model.chat_template is true, and the tokenizer of {tokenizer.name_or_path!r} has no chat template; name "
            "a chat model, or set it to false"
        )
    messages = [{"role": role, "content": text} for role, text in turns]
    try:
        template = tokenizer.get_chat_template()
        text = tokenizer.apply_chat_template(
            messages,
            chat_template=_CLOCK + template if "strftime_now" in template else template,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            date_string=_DATE,
            enable_thinking=False,  # SQL at once, where a template leaves the choice
        )
    except (TemplateError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(
            f"the chat template of {tokenizer.name_or_path!r} fails ({reason}); set model.chat_template to false"
        ) from None
    return str(text)

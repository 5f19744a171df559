"""How a model wants to be asked: what its folder says in text2sql.json, written when it was merged."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, PositiveInt, ValidationError

from text2sql.config import DEFAULT_PROMPT, EvaluationSection
from text2sql.errors import ModelError

if TYPE_CHECKING:
    from text2sql.serving.settings import ServerSettings

RECIPE = "text2sql.json"


class Recipe(BaseModel):
    """What training and serving must have in common; keys that serving does not need are let be."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())

    prompt_template: str = DEFAULT_PROMPT
    chat_template: bool = False
    """Whether the prompt goes into the tokenizer's chat template."""
    max_new_tokens: PositiveInt = EvaluationSection().max_new_tokens


def recipe_of(settings: ServerSettings) -> Recipe:
    """The model folder's recipe, or the defaults; settings.prompt_template overrides its prompt.

    Raises:
        ModelError: the recipe or the prompt cannot be read.
    """
    recipe = read_recipe(Path(settings.model))
    if settings.prompt_template is None:
        return recipe
    try:
        template = settings.prompt_template.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"prompt template {str(settings.prompt_template)!r} cannot be read: {error}") from None
    return _checked(recipe.model_copy(update={"prompt_template": template}), settings.prompt_template)


def read_recipe(folder: Path) -> Recipe:
    """The recipe in a model's folder; the defaults where there is none.

    Raises:
        ModelError: it is malformed: the model would be asked in words that it was not trained on.
    """
    path = folder / RECIPE
    if not path.is_file():
        return Recipe()
    try:
        return _checked(Recipe(**json.loads(path.read_text("utf-8"))), path)
    except (OSError, ValueError, TypeError, ValidationError) as error:
        raise ModelError(f"{str(path)!r} cannot be used: {' '.join(str(error).split())[:200]}") from None


def chat_wrapper(recipe: Recipe, model: str) -> Callable[[str], str]:
    """What makes a prompt into what the model reads: itself, or the user's turn of the model's chat template.

    Raises:
        ModelError: a chat template is asked for, and the tokenizer has none.
    """
    if not recipe.chat_template:
        return str
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(model)
    if not tokenizer.chat_template:
        raise ModelError(f"model {model!r} was trained with a chat template, and its tokenizer has none")

    def wrap(prompt: str) -> str:
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
        )
        # The engine puts the special tokens before a text by itself.
        return str(text).removeprefix(tokenizer.bos_token or "")

    return wrap


def _checked(recipe: Recipe, path: Path) -> Recipe:
    try:
        recipe.prompt_template.format(context="", question="")
    except (LookupError, ValueError) as error:
        raise ModelError(
            f"the prompt in {str(path)!r} must have {{context}} and {{question}} and no other field ({error!r})"
        ) from None
    return recipe

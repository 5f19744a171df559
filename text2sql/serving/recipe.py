"""How the served model wants to be asked: as its folder says (text2sql.training.recipe), or as the server is told."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from text2sql.data.chat import chat_prompt
from text2sql.errors import ModelError
from text2sql.serving.checkpoint import small_file
from text2sql.training.recipe import FILE, Recipe, read_recipe

if TYPE_CHECKING:
    from text2sql.serving.engine import Engine
    from text2sql.serving.settings import ServerSettings


@dataclass(frozen=True)
class Served:
    """An engine with the way it wants to be asked."""

    engine: Engine
    recipe: Recipe = field(default_factory=Recipe)
    wrap: Callable[[str], str] = str
    """A prompt → what the engine gets."""


def served_recipe(settings: ServerSettings) -> Recipe:
    """The model's own recipe, or the defaults; settings.prompt_template overrides its prompt.

    Raises:
        ModelError: the recipe or the prompt cannot be used: the model would be asked in words that it does not know.
    """
    path = small_file(FILE, settings.model, settings.revision) or Path(settings.model) / FILE
    recipe = read_recipe(path.parent) or Recipe()
    if settings.prompt_template is not None:
        path = settings.prompt_template
        try:
            recipe = recipe.model_copy(update={"prompt_template": path.read_text("utf-8")})
        except (OSError, UnicodeDecodeError) as error:
            raise ModelError(f"prompt template {str(path)!r} cannot be read: {error}") from None
    try:
        recipe.prompt_template.format(context="", question="")
    except (LookupError, ValueError) as error:
        raise ModelError(
            f"the prompt in {str(path)!r} must have {{context}} and {{question}} and no other field ({error!r})"
        ) from None
    return recipe


def chat_wrapper(recipe: Recipe, model: str, revision: str | None = None) -> Callable[[str], str]:
    """What makes a prompt into what the model reads: itself, or the user's turn of the model's chat template.

    Raises:
        ModelError: a chat template is asked for, and the tokenizer has none.
    """
    if not recipe.chat_template:
        return str
    from text2sql.config import ModelSection
    from text2sql.training.model import load_tokenizer

    wrap = functools.partial(chat_prompt, load_tokenizer(ModelSection(name=model, revision=revision)))
    wrap("?")  # a template that fails should fail now
    return wrap

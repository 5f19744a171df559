"""How a trained model wants to be asked: a small file beside its weights, for whoever serves it."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, PositiveInt, ValidationError

from text2sql.config import DEFAULT_PROMPT, Settings
from text2sql.errors import ModelError

FILE = "text2sql.json"


class Recipe(BaseModel):
    """What a prompt is made with, and how long its answer may be."""

    model_config = ConfigDict(frozen=True, extra="ignore")  # a later version's file can be read too

    prompt_template: str = DEFAULT_PROMPT
    chat_template: bool = False
    max_new_tokens: PositiveInt = 256
    base_model: str = ""

    def asks_like(self, other: Recipe) -> bool:
        """Whether both make the same prompts."""
        return (self.prompt_template, self.chat_template) == (other.prompt_template, other.chat_template)


def recipe_of(settings: Settings) -> Recipe:
    """What a model that is trained with these settings will want."""
    return Recipe(
        prompt_template=settings.data.prompt_template,
        chat_template=settings.model.chat_template,
        max_new_tokens=settings.evaluation.max_new_tokens,
        base_model=public_name(settings.model.name),
    )


def public_name(model: str) -> str:
    """A model as others may know it: the hub's name as it is, of a local folder or file the last part alone."""
    path = Path(model)
    return path.name if path.is_absolute() or path.exists() else model


def write_recipe(folder: Path, recipe: Recipe) -> None:
    """Put it beside the weights."""
    (folder / FILE).write_text(recipe.model_dump_json(indent=2) + "\n", encoding="utf-8")


def read_recipe(folder: Path) -> Recipe | None:
    """The recipe of a model folder; None where there is none, as in models of others.

    Raises:
        ModelError: it is damaged.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        return Recipe.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValidationError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"{path} is damaged ({reason}); merge the model again, or remove the file") from None

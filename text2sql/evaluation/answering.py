"""Who answers the test's questions: a model in this process, a served one (served.py), or a file of predictions."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from text2sql.config import EvaluationSection
from text2sql.data.files import sha256_folder
from text2sql.data.prompt import encode_rows
from text2sql.errors import DataError
from text2sql.evaluation.types import TokenLoss
from text2sql.progress import progress, working
from text2sql.training.recipe import Recipe, public_name, read_recipe

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Answerer(Protocol):
    """Answers prompts greedily, and tells how likely it thinks the gold answers."""

    source: str
    """The model's name on the hub or that of its folder, the server's address, or the file."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase | None:
        """Where there is one: its chat template makes the prompts of a chat model."""

    def answers(self, prompts: Sequence[str]) -> list[str]:
        """The answer to each prompt, in their order, without the end token or outer whitespace."""

    def losses(self, rows: Dataset) -> list[TokenLoss] | None:
        """Of each row's `completion`, end token included, given its `prompt`; None where that cannot be told."""


@dataclass(frozen=True)
class Contender:
    """One system to be judged. It is opened once, and gone from memory before the next one is opened."""

    open: Callable[[], AbstractContextManager[Answerer]]
    digest: str | None = None
    """Checksum of its model folder: two systems of one digest are asked once."""
    recipe: Recipe | None = None
    """How it wants to be asked, where that is known; else the rows' own prompts are asked."""
    few_shot: bool = False
    """Whether it is judged again, as <name>_few_shot, with examples before each question."""
    verbatim: bool = False
    """Its answers are judged as they stand; of any other, what is behind the first statement does not count."""


def local_model(
    name: str | Path,
    evaluation: EvaluationSection,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    chat_template: bool = False,
    few_shot: bool = False,
) -> Contender:
    """A model folder, merged or an adapter on its base, or a model of the hub, loaded in 16 bits by Transformers.

    A folder with a recipe of ours is asked as that says, and `chat_template` does not count.
    """
    folder = Path(name) if Path(name).is_dir() else None
    recipe = read_recipe(folder) if folder else None

    @contextmanager
    def opened() -> Iterator[Answerer]:
        with working("loading Transformers"):
            from text2sql.training.model import fetch, load_for_inference
        fetch(str(name), revision)
        with working(f"loading {public_name(str(name))}"):
            loaded = load_for_inference(name, revision, trust_remote_code, chat_template=chat_template and not recipe)
        answerer = LocalModel(*loaded, evaluation, public_name(str(name)))
        del loaded
        try:
            yield answerer
        finally:
            answerer.close()

    return Contender(opened, sha256_folder(folder) if folder else None, recipe, few_shot)


class LocalModel:
    """A model in this process: batches of like length, a key-value cache, a bar on a terminal."""

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, evaluation: EvaluationSection, source: str
    ) -> None:
        self.source = source
        self.tokenizer = tokenizer
        self._evaluation = evaluation
        self._loaded: PreTrainedModel | None = model

    @property
    def _model(self) -> PreTrainedModel:
        if self._loaded is None:
            raise ValueError("the model is closed")
        return self._loaded

    def close(self) -> None:
        """Let go of the model, whoever still holds the answerer, so that the next one has room."""
        self._loaded = None
        _free_memory()

    def answers(self, prompts: Sequence[str]) -> list[str]:
        from text2sql.training.decoding import generate_tokens

        limits = self._evaluation
        found = generate_tokens(
            self._model, self.tokenizer, prompts, limits.max_new_tokens, limits.batch_size, f"{self.source} answering"
        )
        return [str(self.tokenizer.decode(answer, skip_special_tokens=True)).strip() for answer in found]

    def losses(self, rows: Dataset) -> list[TokenLoss]:
        import torch

        from text2sql.training.decoding import completion_logits

        encoded = encode_rows(self.tokenizer, rows["prompt"][:], rows["completion"][:])
        pad, batch_size = int(self.tokenizer.pad_token_id or 0), self._evaluation.batch_size
        found: dict[int, TokenLoss] = {}
        with progress(f"perplexity of {self.source}", len(encoded)) as advance:
            for batch, logits, targets in completion_logits(self._model, encoded, pad, batch_size):
                each = torch.nn.functional.cross_entropy(logits, targets, reduction="none").double()
                lengths = [sum(encoded[row]["completion_mask"]) for row in batch]
                for row, losses in zip(batch, torch.split(each, lengths), strict=True):
                    found[row] = TokenLoss(float(losses.sum()), len(losses))
                advance(len(batch))
        return [found[row] for row in range(len(encoded))]


def recorded_answers(path: Path) -> Contender:
    """Predictions in a file, in the order of the test rows: a JSON list of texts, or a line a prediction.

    A line of .jsonl is a text, or an object with `prediction`; of any other file it is the SQL itself. They are judged
    as they stand: two statements are no query.

    Raises:
        DataError: it cannot be read.
    """
    texts = _read_predictions(path)

    @contextmanager
    def opened() -> Iterator[Answerer]:
        yield RecordedAnswers(path, texts)

    return Contender(opened, verbatim=True)


class RecordedAnswers:
    """What another system answered, whatever it was."""

    tokenizer = None

    def __init__(self, path: Path, texts: list[str]) -> None:
        self.source = path.name
        self._texts = texts

    def answers(self, prompts: Sequence[str]) -> list[str]:
        """Raises DataError when there is not one for each prompt."""
        if len(self._texts) != len(prompts):
            raise DataError(
                f"{self.source} holds {len(self._texts):,} predictions for {len(prompts):,} test rows; give one for "
                "each row, in their order (`text2sql prepare` writes the rows)"
            )
        return self._texts

    def losses(self, rows: Dataset) -> None:  # noqa: ARG002 - a file cannot tell
        return None


def _read_predictions(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")  # Windows begins files with a mark, which is no part of a query
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"--predictions {path}: cannot be read ({error}); name a UTF-8 text file") from None
    try:
        if path.suffix == ".json":
            found = json.loads(text)
        elif path.suffix == ".jsonl":
            found = [json.loads(line) for line in text.split("\n") if line.strip()]
        else:
            return text.removesuffix("\n").split("\n")
        if not isinstance(found, list):
            raise TypeError(f"{type(found).__name__} is no list")
        texts = [entry["prediction"] if isinstance(entry, dict) else entry for entry in found]
        return ["" if text is None else str(text) for text in texts]
    except (json.JSONDecodeError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"--predictions {path}: no list of predictions ({error!r}); mend it") from None


def _free_memory() -> None:
    gc.collect()
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()

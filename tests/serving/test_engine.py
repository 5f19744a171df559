"""Options, and the engine for code without a loop."""

from __future__ import annotations

import copy
import itertools
import re
import threading
from pathlib import Path
from typing import Any

import pytest

from text2sql.errors import EngineBusy, ModelError, RequestError
from text2sql.serving.engine import MAX_N, Options, SyncEngine
from text2sql.serving.transformers_engine import TransformersEngine

PROMPT = "CREATE TABLE ship (age INTEGER)\nWhat is the age of ship 1?\n"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens must be from 1"),
        ({"max_new_tokens": True}, "max_new_tokens"),
        ({"temperature": -0.1}, "temperature must be from 0 to 2, and is -0.1"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 0.0, "temperature": 1.0}, "top_p 0 leaves no token"),
        ({"n": MAX_N + 1, "temperature": 1.0}, "n must be from 1 to 64"),
        ({"n": 2}, "2 times the same"),
        ({"seed": -1}, "seed"),
        ({"stop": ("",)}, "stop takes at most"),
        ({"stop": ("a",) * 17}, "stop takes at most"),
        ({"stop": ("a" * 129,)}, "stop takes at most"),
    ],
)
def test_row_15_options_that_make_no_sense_are_refused(values: dict[str, Any], said: str):
    with pytest.raises(RequestError, match=said):
        Options(**values)


def test_a_busy_engine_tells_when_to_come_back_across_processes():
    error = copy.copy(EngineBusy("full", retry_after=7.0))  # by __reduce__, as pickling does
    assert (str(error), error.retry_after) == ("full", 7.0)


def test_sync_engine_answers_streams_and_ends(tiny_model: Path):
    before = set(threading.enumerate())
    with SyncEngine(TransformersEngine(tiny_model)) as engine:
        options = Options(max_new_tokens=12)
        [[whole]] = engine.generate([PROMPT], options)
        chunks = list(engine.stream(PROMPT, options))
        assert "".join(chunk.text for chunk in chunks) == whole.text
        assert chunks[-1].completion == whole
        assert engine.health().ready
        with pytest.raises(RequestError):
            next(engine.stream("", options))
    assert set(threading.enumerate()) <= before


def test_the_example_of_the_docs_runs(tiny_model: Path, capsys: pytest.CaptureFixture[str]):
    text = (Path(__file__).parents[2] / "docs" / "serving.md").read_text("utf-8")
    [program] = [block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "SyncEngine" in block]
    exec(program.replace("results/merged_model", str(tiny_model)), {})  # noqa: S102
    assert capsys.readouterr().out.split()[-1] in ("stop", "length")


def test_an_interrupt_ends_the_answer_and_not_the_engine(tiny_model: Path):
    with SyncEngine(TransformersEngine(tiny_model)) as engine:
        chunks = engine.stream(PROMPT, Options(max_new_tokens=400))
        next(chunks)
        with pytest.raises(KeyboardInterrupt):
            chunks.throw(KeyboardInterrupt)  # type: ignore[attr-defined]
        for _ in range(500):
            if engine.load().running == 0:
                break
            threading.Event().wait(0.01)
        assert engine.load().running == 0
        assert list(itertools.islice(engine.stream(PROMPT), 1))


def test_a_model_that_cannot_be_loaded_leaves_no_thread(tmp_path: Path):
    before = set(threading.enumerate())
    with pytest.raises(ModelError, match="no such folder"), SyncEngine(TransformersEngine(tmp_path / "absent")):
        pass
    assert set(threading.enumerate()) <= before

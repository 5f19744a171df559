from __future__ import annotations

import os
import signal
import tempfile
import time

import pytest

from text2sql.sql.workers import map_rows

HERE = "tests.sql.test_workers"


def double(item: int) -> int:
    return 2 * item


def misbehave(item: str) -> str:
    if item == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if item == "hang":
        time.sleep(60)
    if item == "memory":
        return str(len(b"x" * (8 << 30)))
    if item == "raise":
        raise KeyError(f"{item}\nin two lines")
    if item == "print":
        print("this is no answer")  # noqa: T201
    if item == "write":
        with tempfile.TemporaryFile() as file:
            file.write(b"x" * 100_000)
    return f"{item}: done"


def failed(item: str, reason: str) -> str:
    return f"{item}: {reason}"


def never(item: object, reason: str) -> None:
    raise AssertionError(f"{item}: {reason}")


def test_answers_come_in_the_order_of_the_items():
    done: list[int] = []
    items = list(range(500))
    assert map_rows(f"{HERE}:double", items, 30, never, processes=2, on_done=done.append) == [2 * i for i in items]
    assert sum(done) == 500


def test_no_items():
    assert map_rows(f"{HERE}:double", [], 30, never) == []


def test_large_items_do_not_block_the_pipes():
    items = ["x" * 200_000] * 20
    assert map_rows(f"{HERE}:misbehave", items, 30, never, processes=1) == [f"{item}: done" for item in items]


def test_a_row_that_kills_hangs_or_eats_memory_hurts_no_other():
    items = ["a", "die", "b", "hang", "c", "memory", "d", "print", "write", "e", "raise", "f"]
    answers = map_rows(f"{HERE}:misbehave", items, 2.0, failed, processes=1)
    died = "the worker process died"
    unwritten, raised = answers[8], r"raise: KeyError: 'raise\nin two lines'"
    assert unwritten.startswith(("write: OSError", "write: FileNotFoundError"))
    assert answers == [
        "a: done", f"die: {died}", "b: done", "hang: took more than 2 s", "c: done", "memory: MemoryError", "d: done",
        "print: done", unwritten, "e: done", raised, "f: done",
    ]  # fmt: skip


def whose(item: str) -> int:
    if item == "raise":
        raise ValueError
    return os.getpid()


def test_an_exception_costs_no_process():
    answers = map_rows(f"{HERE}:whose", ["a", "raise", "b"], 30, failed, processes=1)
    assert answers[1] == "raise: ValueError"
    assert answers[0] == answers[2]


def late(item: float) -> float:
    time.sleep(item)
    return item


def test_only_items_that_take_too_long_are_blamed():
    """Items that end about when the patrol comes: killed or answered, but never in the place of another."""
    items = [0.0, 0.7, 0.0, 0.72, 0.0, 0.75, 0.0, 0.8]
    answers = map_rows(f"{HERE}:late", items, 0.7, lambda _, reason: reason, processes=1)
    for item, answer in zip(items, answers, strict=True):
        assert answer == item or (item >= 0.7 and answer == "took more than 0.7 s"), (item, answer)


def test_an_error_of_the_caller_leaves_nothing_running():
    def interrupted(_: int) -> None:
        raise KeyboardInterrupt

    started = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        map_rows(f"{HERE}:late", [0.0, 60.0], 120, never, processes=1, on_done=interrupted)
    assert time.perf_counter() - started < 20


def test_a_worker_that_cannot_start_is_an_error():
    with pytest.raises(RuntimeError, match="did not start"):
        map_rows("no.such.module:f", [1], 5, never)


def test_secrets_stay_out_of_the_workers(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    assert map_rows(f"{HERE}:environment", ["HF_TOKEN"], 30, never) == [None]


def environment(name: str) -> str | None:
    return os.environ.get(name)

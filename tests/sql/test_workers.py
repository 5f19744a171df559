from __future__ import annotations

import os
import signal
import tempfile
import time
from contextlib import closing

import pytest

from text2sql.sql.database import build_database
from text2sql.sql.execute import run_query
from text2sql.sql.schema import parse_schema
from text2sql.sql.workers import Failure, map_rows

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


def failed(item: str, failure: Failure) -> str:
    return f"{item}: {failure.words}"


def never(item: object, failure: Failure) -> None:
    raise AssertionError(f"{item}: {failure.words}")


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
    answers = map_rows(f"{HERE}:late", items, 0.7, lambda _, failure: failure.words, processes=1)
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
    for name in ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "WANDB_API_KEY", "ZENML_STORE_API_KEY", "PYTHONSTARTUP", "HOME"):
        monkeypatch.setenv(name, "secret")
    known = {"PATH", "LD_LIBRARY_PATH", "TMPDIR", "VIRTUAL_ENV", "PYTHONPATH", "PYTHONIOENCODING", "OMP_NUM_THREADS"}
    known |= {"LC_CTYPE"}  # of Python's own making
    assert set(map_rows(f"{HERE}:environment", [0], 30, never)[0]) <= known


def environment(_: int) -> list[str]:
    return list(os.environ)


def test_a_module_of_the_current_folder_is_not_run(monkeypatch, tmp_path):
    for name in ("sqlite3", "sqlglot", "text2sql", "tests"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('evil')")
    monkeypatch.chdir(tmp_path)
    assert map_rows(f"{HERE}:double", [1], 30, never) == [2]


LINE = "SELECT {} FROM (SELECT replace('{}', 'b', '{}') AS b, replace('{}', 'a', '{}') || 'b' AS c LIMIT 1)".format(
    ", ".join(["trim(b, c)"] * 1_000), "b" * 400, "b" * 120, "a" * 40, "a" * 100
)


def query(sql: str) -> str:
    with closing(build_database(parse_schema("CREATE TABLE t (a INTEGER)"))) as database:
        return str(run_query(database, sql, 0.2).rows)


def test_a_query_that_nothing_interrupts_ends_its_worker():
    """A row of a thousand slow calls has no jump at which SQLite would look at the time: minutes, if it were let."""
    started = time.perf_counter()
    answers = map_rows(
        f"{HERE}:query", ["SELECT 1", LINE, "SELECT 2"], 600, lambda _, failure: failure.words, processes=1
    )
    assert answers == ["[(1,)]", "a query went on past its deadline and could not be interrupted", "[(2,)]"]
    assert time.perf_counter() - started < 20


def test_a_query_within_its_time_leaves_no_alarm_behind():
    items = ["SELECT 1", "SELECT nobody", "sleep"]
    answers = map_rows(f"{HERE}:query_or_sleep", items, 30, lambda _, failure: failure.words, processes=1)
    assert answers == ["[(1,)]", "ExecutionError: no such column: nobody", "slept"]


def query_or_sleep(sql: str) -> str:
    if sql != "sleep":
        return query(sql)
    time.sleep(1.5)  # longer than an alarm of the queries before
    return "slept"


KEPT: list[bytes] = []


def keep(_: int) -> int:
    KEPT.append(b"x" * (100 << 20))
    return os.getpid()


def test_a_worker_that_grows_is_replaced():
    answers = map_rows(f"{HERE}:keep", list(range(24)), 30, never, processes=1)
    assert 3 <= len(set(answers)) <= 4  # each holds seven or eight of the 24

from __future__ import annotations

import asyncio
import hashlib
import os
import sqlite3
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.sql.cases import read_hostile
from text2sql.errors import DatabaseError, GuardBusy, QueryTimeoutError, SqlError, UnsafeSqlError
from text2sql.serving.databases import Limits
from text2sql.serving.guard_pool import GuardPool
from text2sql.serving.settings import ServerSettings

T = TypeVar("T")
SCHEMA, HOSTILE = read_hostile()
GOOD = "SELECT name FROM singer WHERE age > 20"
ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT SUM(i) FROM n"
STUCK = next(case.text for case in HOSTILE if case.title == "a long line of slow calls")


def with_pool(use: Callable[[GuardPool], Awaitable[T]], size: int = 1, patience: float = 30.0) -> T:
    async def main() -> T:
        async with GuardPool(size, patience) as pool:
            return await use(pool)

    return asyncio.run(main())


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "singers.sqlite"
    with closing(sqlite3.connect(path)) as writer:
        writer.executescript(f"{SCHEMA}; INSERT INTO singer VALUES ('1', 'Joe', 52, 'France')")
    return path


def test_answers_are_checked_and_told(file: Path):
    async def use(pool: GuardPool) -> None:
        assert (await pool.check(GOOD, SCHEMA)).valid
        assert [reason.code for reason in (await pool.check("SELECT nmae FROM singer", SCHEMA)).reasons] == [
            "unknown_column"
        ]
        assert (await pool.check(GOOD, "no schema")).reasons[0].code == "schema_unusable"
        assert (await pool.check(GOOD, "x" * 1_000_000)).reasons[0].code == "schema_unusable"
        assert (await pool.check("x" * 1_000_000, SCHEMA)).reasons[0].code == "not_sql"
        assert (await pool.check("SELECT '\ud800'", SCHEMA)).reasons[0].code == "not_sql"
        assert (await pool.describe(str(file))).startswith("CREATE TABLE singer (")
        assert (await pool.run(str(file), "SELECT age FROM singer", Limits())).rows == [[52]]

    with_pool(use)


def test_errors_keep_their_kind(file: Path):
    async def use(pool: GuardPool) -> None:
        with pytest.raises(DatabaseError, match="does not exist"):
            await pool.run(str(file) + "x", GOOD, Limits())
        with pytest.raises(UnsafeSqlError, match="DROP"):
            await pool.run(str(file), "DROP TABLE singer", Limits())
        with pytest.raises(QueryTimeoutError, match="ran longer than 0.2 s"):
            await pool.run(str(file), ENDLESS, Limits(seconds=0.2))

    with_pool(use)


def test_rows_1_to_7_hostile_text_leaves_a_file_as_it_was(file: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(file.parent)
    before = hashlib.sha256(file.read_bytes()).hexdigest()

    async def use(pool: GuardPool) -> list[str]:
        async def attack(text: str) -> str:
            try:
                await pool.run(str(file), text, Limits(seconds=0.3, rows=10))
            except SqlError as error:
                return str(error)
            return ""

        errors = await asyncio.gather(*(attack(case.text) for case in HOSTILE))
        assert (await pool.check(GOOD, SCHEMA)).valid
        return errors

    errors = with_pool(use, size=2, patience=200)
    assert not any("\n" in error for error in errors)
    assert sum(not error for error in errors) < len(HOSTILE) // 5  # some read a row, as anybody may
    assert hashlib.sha256(file.read_bytes()).hexdigest() == before
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_row_6_a_query_that_nothing_interrupts_is_killed_and_the_next_is_answered(file: Path):
    async def use(pool: GuardPool) -> None:
        started = time.perf_counter()
        with pytest.raises(SqlError, match="could not be interrupted|ran longer|was killed"):
            await pool.run(str(file), STUCK, Limits(seconds=0.3))
        assert time.perf_counter() - started < 20  # by itself it would take minutes
        assert (await pool.check(GOOD, SCHEMA)).valid

    with_pool(use)


def test_a_process_that_is_killed_is_replaced_and_no_answer_is_blamed(file: Path):
    async def use(pool: GuardPool) -> None:
        for _ in range(2):
            assert (await pool.check(GOOD, SCHEMA)).valid
            [process] = pool._all
            os.kill(process.process.pid, 9)
        assert (await pool.check(GOOD, SCHEMA)).valid
        [process] = pool._all
        os.kill(process.process.pid, 9)
        with pytest.raises(SqlError, match="the worker process died"):
            await pool.run(str(file), GOOD, Limits())

    with_pool(use)


def test_an_answer_on_which_processes_die_twice_is_not_valid():
    async def use(pool: GuardPool) -> None:
        started = pool._started

        async def doomed() -> Any:
            process = await started()
            os.kill(process.process.pid, 9)
            return process

        pool._started = doomed  # type: ignore[method-assign]
        [process] = pool._all
        os.kill(process.process.pid, 9)
        died = await pool.check(GOOD, SCHEMA)
        assert not died.valid
        assert "the worker process died" in died.reasons[0].message

    with_pool(use)


def test_a_pool_without_a_free_process_says_so_and_nothing_about_the_sql(file: Path):
    async def use(pool: GuardPool) -> None:
        busy = asyncio.ensure_future(pool.run(str(file), ENDLESS, Limits(seconds=2)))
        await asyncio.sleep(0.05)
        for asked in (pool.check(GOOD, SCHEMA), pool.run(str(file), GOOD, Limits()), pool.describe(str(file))):
            with pytest.raises(GuardBusy, match="no guard process was free"):
                await asked
        with pytest.raises(QueryTimeoutError):
            await busy
        assert (await pool.check(GOOD, SCHEMA)).valid, "the next one gets the process"

    with_pool(use, patience=0.2)


def test_long_queries_leave_a_process_to_checks(file: Path):
    async def use(pool: GuardPool) -> None:
        queries = [asyncio.ensure_future(pool.run(str(file), ENDLESS, Limits(seconds=0.5))) for _ in range(4)]
        await asyncio.sleep(0.05)
        begun = time.perf_counter()
        for _ in range(20):
            assert (await pool.check(GOOD, SCHEMA)).valid
        assert time.perf_counter() - begun < 0.4, "checks did not wait for a query to end"
        ended = await asyncio.gather(*queries, return_exceptions=True)
        assert {type(error) for error in ended} == {QueryTimeoutError}

    with_pool(use, size=2)


def test_by_default_a_slow_query_does_not_hold_up_another(file: Path):
    async def use(pool: GuardPool) -> None:
        slow = [asyncio.ensure_future(pool.run(str(file), ENDLESS, Limits(seconds=2))) for _ in range(2)]
        await asyncio.sleep(0.05)
        assert (await pool.run(str(file), GOOD, Limits())).rows == [["Joe"]]
        assert not any(query.done() for query in slow)
        for query in slow:
            query.cancel()

    with_pool(use, ServerSettings().guard_processes)


def test_callers_that_go_away_do_not_garble_the_next_answer():
    async def use(pool: GuardPool) -> None:
        for _ in range(20):
            leaving = asyncio.ensure_future(pool.check("SELECT nmae FROM singer", SCHEMA))
            await asyncio.sleep(0)
            leaving.cancel()
            assert (await pool.check(GOOD, SCHEMA)).valid

    with_pool(use)


def test_no_process_is_left_behind():
    async def use(pool: GuardPool) -> list[int]:
        return [process.process.pid for process in pool._all]

    pids = with_pool(use, size=2)
    assert len(pids) == 2
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)

"""Faults and attacks that systems of this kind meet, a test a row of the table in docs/security.md, over real HTTP.

The model says what an attacker would have it say, the repair included. Rows that have tests elsewhere are named there.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.serving.api import COUNT, SINGERS, Running, ScriptedEngine, asked, running
from text2sql.data.prompt import render_prompt
from text2sql.serving.recipe import Served, served_recipe
from text2sql.serving.settings import ServerSettings


class Survivor:
    """A server over a database file in a folder with other files, and what its model says."""

    def __init__(self, server: Running, client: httpx.Client, folder: Path) -> None:
        self.server, self.client, self.folder = server, client, folder

    def says(self, sql: str) -> dict[str, Any]:
        """The response to a question that is to be run, where the model gives this answer."""
        self.server.engine.default = sql
        response = self.client.post("/generate", json=asked(execute=True))
        assert response.status_code == 200, response.text
        said: dict[str, Any] = response.json()
        return said

    def refuses(self, sql: str, *codes: str) -> None:
        """Nothing runs, nothing leaves as valid on any route, no file is another one afterwards."""
        before = self._files()
        said = self.says(sql)
        assert not said["valid"]
        assert "result" not in said
        assert {reason["code"] for reason in said["reasons"]} <= set(codes), said["reasons"]
        chat = {"model": "scripted", "messages": [{"role": "user", "content": f"{SINGERS}; How many?"}]}
        [choice] = self.client.post("/v1/chat/completions", json=chat).json()["choices"]
        assert not choice["text2sql"]["valid"]
        streamed = self.client.post("/v1/chat/completions", json=chat | {"stream": True}).text
        assert '"text2sql":{"valid":false' in streamed
        assert self._files() == before
        self.lives()

    def lives(self) -> None:
        assert self.says(COUNT)["result"]["rows"] == [[1]]

    def _files(self) -> dict[str, str]:
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in self.folder.iterdir()}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, Path]]:
    folder = tmp_path_factory.mktemp("database")
    for name, statements in (
        ("singers.sqlite", f"{SINGERS}; INSERT INTO singer VALUES (1, 'Ann', 31)"),
        ("secrets.sqlite", "CREATE TABLE secret (word TEXT); INSERT INTO secret VALUES ('hush')"),
    ):
        with closing(sqlite3.connect(folder / name)) as connection:
            connection.executescript(statements)
    with running(ScriptedEngine(), database=str(folder / "singers.sqlite"), query_seconds=1) as found:
        yield found, folder


@pytest.fixture
def survivor(server: tuple[Running, Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[Survivor]:
    monkeypatch.chdir(server[1])
    with server[0].client() as client:
        yield Survivor(server[0], client, server[1])


@pytest.mark.parametrize(
    "sql",
    [
        "DROP TABLE singer",
        "DELETE FROM singer",
        "INSERT INTO singer VALUES (2, 'Eve', 1)",
        "REPLACE INTO singer VALUES (1, 'Eve', 1)",
        "UPDATE singer SET name = 'x'",
        "CREATE TABLE other (a INT)",
        "ALTER TABLE singer RENAME TO other",
        "VACUUM",
    ],
)
def test_row_1_writes_of_the_model_are_refused(survivor: Survivor, sql: str):
    survivor.refuses(sql, "not_read_only", "not_sql")


@pytest.mark.parametrize(
    "sql",
    [
        "WITH gone AS (DELETE FROM singer RETURNING *) SELECT * FROM gone",
        "WITH a AS (SELECT 1) INSERT INTO singer SELECT 2, 'Eve', 1",
        "SELECT 1 FROM singer; DROP TABLE singer",
        "SELECT 1 FROM singer /* ; */; -- \nDELETE FROM singer",
        "SELECT * INTO other FROM singer",
        "EXPLAIN DELETE FROM singer",
    ],
)
def test_row_2_writes_inside_a_query_are_found(survivor: Survivor, sql: str):
    survivor.refuses(sql, "not_read_only", "not_one_statement", "not_allowed", "not_sql")


@pytest.mark.parametrize(
    "sql",
    [
        "ATTACH 'secrets.sqlite' AS other",
        "ATTACH 'new.sqlite' AS other",
        "SELECT word FROM other.secret",
        "SELECT 1 FROM singer; ATTACH 'new.sqlite' AS other",
        "PRAGMA query_only = OFF",
        "VACUUM INTO 'copy.sqlite'",
    ],
)
def test_row_3_other_files_are_neither_read_nor_made(survivor: Survivor, sql: str):
    survivor.refuses(sql, "not_read_only", "not_one_statement", "not_allowed", "unknown_table", "not_sql")


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT load_extension('evil')",
        "SELECT * FROM pragma_table_info('singer')",
        "SELECT sql FROM sqlite_master",
        "SELECT name FROM sqlite_schema",
        "SELECT readfile('secrets.sqlite')",
        "SELECT writefile('new', 'x')",
        "SELECT sqlite_version()",
        "SELECT fts3_tokenizer('simple')",
    ],
)
def test_row_4_what_sqlite_tells_and_loads_is_denied(survivor: Survivor, sql: str):
    survivor.refuses(sql, "not_allowed", "function_not_allowed", "unknown_table", "unknown_function")


def test_row_6_one_call_that_builds_gigabytes(survivor: Survivor):
    for sql in ("SELECT printf('%.*c', 400000000, 'x')", "SELECT hex(zeroblob(200000000))"):
        begun = time.monotonic()
        said = survivor.says(sql)
        assert not said["valid"], said
        assert "result" not in said
        assert time.monotonic() - begun < 10
        survivor.lives()


@pytest.mark.parametrize("depth", [100, 401, 20_000])
def test_row_7_nested_brackets_overrun_no_stack(survivor: Survivor, depth: int):
    query = f"SELECT {'(' * depth}1{')' * depth}"
    said = survivor.says(query)
    assert not said["valid"]
    assert "nest" in said["reasons"][0]["message"]
    schema = f"CREATE TABLE t (a INT CHECK ({'(' * depth}1{')' * depth}))"
    assert survivor.client.post("/generate", json=asked(schema_text=schema)).status_code in (200, 400, 422)
    survivor.lives()


def test_row_9_changes_while_served_are_seen(survivor: Survivor):
    survivor.lives()
    path = survivor.folder / "singers.sqlite"
    with closing(sqlite3.connect(path)) as writer, writer:
        writer.execute("INSERT INTO singer VALUES (2, 'Eve', 30)")
    assert survivor.says(COUNT)["result"]["rows"] == [[2]]
    with closing(sqlite3.connect(path)) as writer, writer:
        writer.execute("DELETE FROM singer WHERE id = 2")
    survivor.lives()


def test_row_14_the_engines_admin_routes_are_not_ours(survivor: Survivor):
    names = "pause resume sleep update_weights invocations reset_prefix_cache collective_rpc server_info tokenize"
    for path in (*(f"/{name}" for name in names.split()), "/v1/load_lora_adapter", "/v1/completions"):
        for method in ("GET", "POST"):
            assert survivor.client.request(method, path).status_code in (404, 405), path


def test_row_28_the_prompt_that_was_judged_is_the_one_that_serves(tmp_path: Path):
    """The recipe lies in the model's folder; nothing of the server's own goes in between."""
    template = "Tables:\n{context}\nAsked: {question}\nSQL:"
    (tmp_path / "text2sql.json").write_text(json.dumps({"prompt_template": template, "max_new_tokens": 33}))
    engine = ScriptedEngine()
    served = Served(engine, served_recipe(ServerSettings(model=str(tmp_path))))
    with running(served) as server, server.client() as client:
        assert client.post("/generate", json=asked()).status_code == 200
    assert engine.prompts == [render_prompt(template, SINGERS, asked()["question"])]
    assert engine.options[-1].max_new_tokens == 33

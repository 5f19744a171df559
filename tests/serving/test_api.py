"""Our own routes, over real HTTP."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.serving.api import COUNT, SINGERS, Running, ScriptedEngine, asked, running
from text2sql.errors import DatabaseError, EngineBusy
from text2sql.serving.engine import Options

OLD = "SELECT name FROM singer WHERE age > 30"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    path = tmp_path_factory.mktemp("database") / "singers.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute(SINGERS)
        connection.executemany("INSERT INTO singer VALUES (?, ?, ?)", [(1, "Ann", 31), (2, "=Bob", 20), (3, "Cy", 44)])
    connection.close()
    engine = ScriptedEngine(
        answers={
            "older than 30": OLD,
            "misspelt": "SELECT nam FROM singer",
            "hopeless": "SELECT nothing FROM nowhere",
            "best of": ["SELECT nam FROM singer", OLD],
            "drop": "DROP TABLE singer",
            "glob": "SELECT name FROM singer WHERE name GLOB 'A*'",
            "mixed case": "SELECT Name FROM singer WHERE name LIKE 'a%'",
            "all of them": "SELECT id, name FROM singer ORDER BY id",
        },
        repairs={"misspelt": "SELECT name FROM singer", "hopeless": "SELECT still FROM nowhere", "drop": COUNT},
    )
    with running(engine, database=str(path), query_rows=2, max_batch=4) as found:
        yield found


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[httpx.Client]:
    with server.client() as found:
        yield found


def generate(client: httpx.Client, question: str, **changes: Any) -> dict[str, Any]:
    response = client.post("/generate", json=asked(question=question, **changes))
    assert response.status_code == 200, response.text
    return response.json()


def test_generate_answers_with_checked_sql(client: httpx.Client):
    response = client.post("/generate", json=asked(question="Who is older than 30?"), headers={"X-Request-ID": "a.b-1"})
    said = response.json()
    assert said["sql"] == OLD
    assert said["valid"] is True
    assert said["reasons"] == []
    assert said["candidates"] == [{"sql": OLD, "valid": True, "reasons": []}]
    assert (said["repaired"], said["dialect"], said["model"]) == (False, "sqlite", "scripted")
    assert said["usage"]["total_tokens"] == said["usage"]["prompt_tokens"] + said["usage"]["completion_tokens"] > 0
    assert said["latency_ms"] > 0
    assert "result" not in said
    assert said["request_id"] == response.headers["x-request-id"] == "a.b-1"


def test_every_reply_names_the_version_where_it_is_known(client: httpx.Client):
    assert "x-model-version" not in client.get("/healthz").headers
    with running(ScriptedEngine(), model_version="7") as server, server.client() as versioned:
        for path, status in (("/healthz", 200), ("/nowhere", 404)):
            reply = versioned.get(path)
            assert (reply.status_code, reply.headers["x-model-version"]) == (status, "7")


def test_prompt_is_the_one_of_training(client: httpx.Client, server: Running):
    from text2sql.config import DEFAULT_PROMPT
    from text2sql.data.prompt import render_prompt

    generate(client, "Who is {older} than 30?")
    assert server.engine.prompts[-1] == render_prompt(DEFAULT_PROMPT, SINGERS, "Who is {older} than 30?")
    assert server.engine.options[-1].temperature == 0


def test_failed_answer_is_repaired_once(client: httpx.Client, server: Running):
    before = len(server.engine.prompts)
    said = generate(client, "misspelt")
    assert (said["sql"], said["valid"], said["repaired"]) == ("SELECT name FROM singer", True, True)
    assert [candidate["valid"] for candidate in said["candidates"]] == [False, True]
    assert "-- failed: SELECT nam FROM singer" in server.engine.prompts[-1]
    assert len(server.engine.prompts) - before == 2


def test_answer_beyond_repair_says_what_is_wrong(client: httpx.Client):
    said = generate(client, "hopeless")
    assert said["valid"] is False
    assert said["sql"] == "SELECT nothing FROM nowhere"
    assert "unknown_table" in {reason["code"] for reason in said["reasons"]}
    assert said["repaired"] is True


def test_an_answer_is_not_lost_where_its_repair_finds_no_place(
    client: httpx.Client, server: Running, monkeypatch: pytest.MonkeyPatch
):
    check = server.engine._check

    def full(prompt: str, options: Options) -> None:
        if "-- error:" in prompt:
            raise EngineBusy("16 wait already", retry_after=2)
        check(prompt, options)

    monkeypatch.setattr(server.engine, "_check", full)
    said = generate(client, "misspelt")
    assert (said["sql"], said["valid"]) == ("SELECT nam FROM singer", False)
    assert [reason["code"] for reason in said["reasons"]] == ["unknown_column"]


def test_first_valid_candidate_is_taken(client: httpx.Client):
    said = generate(client, "best of", n=3)
    assert (said["sql"], said["valid"], said["repaired"]) == (OLD, True, False)
    assert [candidate["valid"] for candidate in said["candidates"]] == [False, True]


@pytest.mark.parametrize(
    ("question", "dialect", "sql"),
    [
        ("Who is older than 30?", "postgresql", OLD),
        ("mixed case", "postgres", "SELECT name FROM singer WHERE name ILIKE 'a%'"),
        ("mixed case", "mysql", "SELECT name FROM singer WHERE name LIKE 'a%'"),
    ],
)
def test_answer_in_another_dialect(client: httpx.Client, question: str, dialect: str, sql: str):
    said = generate(client, question, dialect=dialect)
    assert (said["sql"], said["valid"]) == (sql, True)
    assert said["dialect"] == {"postgresql": "postgres"}.get(dialect, dialect)


def test_what_a_dialect_cannot_say_is_not_valid_there(client: httpx.Client):
    said = generate(client, "glob", dialect="postgres")
    assert (said["valid"], said["dialect"]) == (False, "sqlite")
    assert [reason["code"] for reason in said["reasons"]] == ["not_renderable"]


def test_execution_returns_capped_rows(client: httpx.Client):
    said = generate(client, "all of them", execute=True)
    assert said["result"] == {"columns": ["id", "name"], "rows": [[1, "Ann"], [2, "=Bob"]], "truncated": True}


def test_schema_of_the_server_s_database_is_taken_where_none_is_sent(client: httpx.Client, server: Running):
    response = client.post("/generate", json={"question": "Who is older than 30?", "execute": True})
    assert response.json()["result"]["rows"] == [["Ann"], ["Cy"]]
    assert "CREATE TABLE singer" in server.engine.prompts[-1]
    schema = client.get("/schema").json()
    assert [table["name"] for table in schema["tables"]] == ["singer"]
    assert schema["tables"][0]["columns"][1] == {"name": "name", "type": "TEXT"}


def test_questions_that_come_together_look_at_the_database_once(server: Running, monkeypatch: pytest.MonkeyPatch):
    service = server.app.state.service
    looks: list[str] = []

    async def describe(where: str) -> str:
        looks.append(where)
        return await type(service.guard).describe(service.guard, where)

    monkeypatch.setattr(service.guard, "describe", describe)
    service._described = (0.0, "")

    async def all_at_once() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=server.url, timeout=20, trust_env=False) as client:
            return await asyncio.gather(*(client.get("/schema") for _ in range(10)))

    assert {response.status_code for response in asyncio.run(all_at_once())} == {200}
    assert len(looks) == 1


def test_a_database_that_does_not_answer_is_told_to_all_who_asked_together(
    server: Running, monkeypatch: pytest.MonkeyPatch
):
    service = server.app.state.service
    looks: list[str] = []

    async def describe(where: str) -> str:
        looks.append(where)
        await asyncio.sleep(0.5)
        raise DatabaseError("it does not answer")

    monkeypatch.setattr(service.guard, "describe", describe)
    service._described = (0.0, "")

    async def all_at_once() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=server.url, timeout=20, trust_env=False) as client:
            return await asyncio.gather(
                *(client.get("/schema") for _ in range(5)),
                *(client.post("/generate", json={"question": "?"}) for _ in range(5)),
            )

    for number in (1, 2):  # the next ones look again
        codes = [response.json()["error"]["code"] for response in asyncio.run(all_at_once())]
        assert codes == ["database_unavailable"] * 10
        assert len(looks) == number


def events(response: httpx.Response) -> list[tuple[str, Any]]:
    assert response.headers["content-type"].startswith("text/event-stream")
    found = []
    for part in response.text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in part.splitlines() if line)
        if "data" in lines:
            found.append((lines["event"], json.loads(lines["data"])))
    return found


def test_stream_tells_tokens_then_the_answer(client: httpx.Client):
    response = client.post("/generate", json=asked(question="older than 30", stream=True, n=2))
    found = events(response)
    assert "".join(data["text"] for name, data in found if name == "token") == OLD
    assert [name for name, _ in found].count("answer") == 1
    name, last = found[-1]
    assert name == "answer"
    assert (last["sql"], last["valid"], last["request_id"]) == (OLD, True, response.headers["x-request-id"])


def test_batch_answers_in_order_and_tells_errors_apart(client: httpx.Client):
    questions = [asked(question="older than 30"), asked(), asked(schema_text="no schema"), asked(question="misspelt")]
    found = client.post("/generate/batch", json={"requests": questions}).json()["responses"]
    assert [one.get("sql") for one in found] == [OLD, COUNT, None, "SELECT name FROM singer"]
    assert found[2]["error"]["code"] == "schema_unusable"


def test_each_error_of_a_batch_is_counted():
    with running(ScriptedEngine()) as server, server.client() as client:
        bad = [asked(schema_text="no schema"), asked(schema_text=""), asked(schema_text="no schema")]
        assert client.post("/generate/batch", json={"requests": bad}).status_code == 200
        text = client.get("/metrics").text
    assert 'text2sql_rejects_total{code="schema_unusable"} 2.0' in text
    assert 'text2sql_rejects_total{code="invalid_fields"} 1.0' in text


def test_batch_with_a_field_out_of_bounds_is_refused(client: httpx.Client):
    """As the document says, and before anything is asked."""
    response = client.post("/generate/batch", json={"requests": [asked(), asked(dialect="postgrez")]})
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (422, "requests.1.dialect")
    assert "did you mean postgres" in error["message"]


def test_batch_is_bounded(client: httpx.Client):
    response = client.post("/generate/batch", json={"requests": [asked()] * 5})
    assert response.status_code == 422
    assert "at most 4" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("changes", "status", "param"),
    [
        ({"question": ""}, 422, "question"),
        ({"question": "  \n"}, 422, "question"),
        ({"question": 3}, 422, "question"),
        ({"question": "x" * 4_001}, 422, "question"),
        ({"n": 0}, 422, "n"),
        ({"n": 9}, 422, "n"),
        ({"n": "2"}, 422, "n"),
        ({"n": True}, 422, "n"),
        ({"dialect": "klingon"}, 422, "dialect"),
        ({"max_new_tokens": 0}, 422, "max_new_tokens"),
        ({"temprature": 1}, 422, "temprature"),
        ({"schema_text": "x" * 200_001}, 422, "schema_text"),
        ({"schema_text": "SELECT 1"}, 422, "schema_text"),
        ({"schema_text": "CREATE TABLE t ("}, 422, "schema_text"),
    ],
)
def test_wrong_fields_are_named(client: httpx.Client, changes: dict[str, Any], status: int, param: str):
    response = client.post("/generate", json=asked(**changes))
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (status, param), error
    assert set(error) <= {"message", "type", "param", "code", "details"}


def test_values_of_wrong_fields_are_not_repeated(client: httpx.Client):
    assert "s3cret" not in client.post("/generate", json=asked(n="s3cret")).text


def test_prompt_beyond_the_model_is_a_request_s_fault(client: httpx.Client):
    wide = f"CREATE TABLE t ({', '.join(f'c{i} TEXT' for i in range(1_990))})"
    response = client.post("/generate", json=asked(schema_text=wide))
    assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_request")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "not_found"),
        ("GET", "/static/../settings.py", 404, "not_found"),
        ("GET", "/static/%2e%2e/settings.py", 404, "not_found"),
        ("GET", "/generate", 405, "method_not_allowed"),
        ("DELETE", "/v1/models", 405, "method_not_allowed"),
    ],
)
def test_errors_have_one_shape_everywhere(client: httpx.Client, method: str, path: str, status: int, code: str):
    response = client.request(method, path)
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (status, code)
    assert isinstance(error["message"], str)
    assert isinstance(error["type"], str)


@pytest.mark.parametrize(
    ("content", "name", "tables"),
    [
        (SINGERS.encode(), "shop.sql", {"singer": ["id", "name", "age"]}),
        (b"\xef\xbb\xbf" + SINGERS.encode(), "shop.sql", {"singer": ["id", "name", "age"]}),
        (b"id;name\n1;Ann\n", "people.csv", {"people": ["id", "name"]}),
    ],
)
@pytest.mark.parametrize("form", [True, False])
def test_schema_of_a_file(client: httpx.Client, content: bytes, name: str, tables: dict[str, list[str]], form: bool):
    if form:
        response = client.post("/schema", files={"file": (name, content)})
    else:
        headers = {"Content-Type": "application/octet-stream"}
        response = client.post("/schema", params={"name": name}, content=content, headers=headers)
    assert response.status_code == 200, response.text
    assert {t["name"]: [c["name"] for c in t["columns"]] for t in response.json()["tables"]} == tables
    again = client.post("/generate", json=asked(schema_text=response.json()["schema_text"], question="hopeless"))
    assert again.status_code == 200


def test_schema_of_a_sqlite_file(client: httpx.Client, tmp_path: Path):
    with sqlite3.connect(tmp_path / "x.db") as connection:
        connection.execute("CREATE TABLE pet (id INTEGER PRIMARY KEY, owner TEXT)")
    connection.close()
    response = client.post("/schema", files={"file": ("x.db", (tmp_path / "x.db").read_bytes())})
    assert [table["name"] for table in response.json()["tables"]] == ["pet"]


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xfe\x00binary", b"SQLite format 3\0broken", b"DROP TABLE x", b"CREATE TABLE", b"x" * 300_000],
)
def test_file_without_a_schema_is_refused(client: httpx.Client, content: bytes):
    response = client.post("/schema", files={"file": ("x.bin", content)})
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (422, "schema_unusable")
    assert "/" not in error["message"], "no path of the server's"


def test_form_without_a_file_is_refused(client: httpx.Client):
    assert client.post("/schema", files={"other": ("x", b"y")}).status_code == 422
    broken = {"Content-Type": "multipart/form-data; boundary=x"}
    assert client.post("/schema", content=b"garbage", headers=broken).status_code in (400, 422)
    assert client.post("/schema", content=b"{}", headers={"Content-Type": "application/json"}).status_code == 415


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_probes_say_what_the_server_offers(client: httpx.Client, path: str):
    assert client.get(path).json() == {"status": "ok", "model": "scripted", "database": True, "keys": False}


@pytest.mark.parametrize("path", ["/", "/docs", "/static/docs.css", "/openapi.json", "/healthz", "/readyz", "/metrics"])
def test_pages_need_nothing_from_elsewhere(client: httpx.Client, path: str):
    response = client.get(path)
    assert response.status_code == 200
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert response.headers["x-content-type-options"] == "nosniff"
    if "html" in response.headers["content-type"]:
        assert "://" not in response.text.replace("http://www.w3.org", "")
        for inline in ("<style", " style=", "<script>", " onclick="):
            assert inline not in response.text


def test_docs_show_every_route_and_model(client: httpx.Client):
    document, page = client.get("/openapi.json").json(), client.get("/docs").text
    assert {"/generate", "/generate/batch", "/v1/chat/completions", "/v1/models", "/schema"} <= set(document["paths"])
    for path in document["paths"]:
        assert f" {path}</h2>" in page
    for name, schema in document["components"]["schemas"].items():
        if schema.get("properties"):
            assert f'id="model-{name}"' in page


def test_every_route_but_the_public_ones_asks_for_a_key(client: httpx.Client):
    document = client.get("/openapi.json").json()
    open_to_all = {
        path for path, methods in document["paths"].items() for route in methods.values() if not route.get("security")
    }
    assert open_to_all == {"/healthz", "/readyz", "/metrics"}


def test_metrics_count_the_tokens_that_answers_tell(client: httpx.Client):
    def counted() -> list[float]:
        lines = [line.split() for line in client.get("/metrics").text.splitlines()]
        names = [f'text2sql_tokens_total{{kind="{kind}"}}' for kind in ("prompt", "completion")]
        return [sum(float(words[1]) for words in lines if words[0] == name) for name in names]

    before = counted()
    used = [generate(client, "misspelt", n=3)["usage"]]  # candidates share a prompt; a repair has one of its own
    messages = [{"role": "system", "content": SINGERS}, {"role": "user", "content": "misspelt"}]
    for more in ({}, {"n": 2, "temperature": 1.0}):
        asked_for = {"model": "scripted", "messages": messages} | more
        used.append(client.post("/v1/chat/completions", json=asked_for).json()["usage"])
    told = [sum(usage[name] for usage in used) for name in ("prompt_tokens", "completion_tokens")]
    assert [after - then for after, then in zip(counted(), before, strict=True)] == told


def test_metrics_count(client: httpx.Client):
    generate(client, "misspelt")
    client.post("/generate", json={})
    text = client.get("/metrics").text
    values = {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in text.splitlines() if line[0] != "#"}
    assert values['text2sql_requests_total{method="POST",route="/generate",status="200"}'] >= 1
    assert values['text2sql_rejects_total{code="invalid_fields"}'] >= 1
    assert values['text2sql_tokens_total{kind="prompt"}'] > 0
    assert values['text2sql_tokens_total{kind="completion"}'] > 0
    assert values['text2sql_answers_total{repaired="true",valid="true"}'] >= 1
    assert values["text2sql_batch_size_count"] > 0
    assert values["text2sql_engine_queue"] == values["text2sql_in_flight"] == 0
    assert values['text2sql_request_seconds_count{route="/generate"}'] >= 2

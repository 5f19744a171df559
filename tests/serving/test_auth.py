"""Keys: at rest, in use, exchanged while the server runs; and rates."""

from __future__ import annotations

import hashlib
import hmac
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer import Typer
from typer.testing import CliRunner

from tests.serving.api import Running, ScriptedEngine, asked, key_file, running
from text2sql.cli.key import key as key_command
from text2sql.errors import ConfigError
from text2sql.serving.auth import Keys, add_key, make_key, read_keys, revoke_key


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, Path, str]]:
    text, key = make_key("ann")
    path = key_file(tmp_path_factory.mktemp("keys"), "# ours", "", key.line())
    with running(ScriptedEngine(), api_keys=path) as server:
        yield server, path, text


def status(server: Running, key: str | None, header: str = "Authorization") -> int:
    headers = {header: f"Bearer {key}" if header == "Authorization" else key} if key is not None else {}
    with server.client() as client:
        return client.post("/generate", json=asked(), headers=headers).status_code


def test_key_is_kept_as_a_salted_hash(tmp_path: Path):
    text, key = make_key("ann", "5 / minute")
    path = tmp_path / "keys.txt"
    add_key(path, key)
    secret = text.split("_", 2)[2]
    assert secret not in path.read_text()
    assert path.stat().st_mode & 0o077 == 0
    assert read_keys(path)[key.id] == key
    assert key.hash == hashlib.sha256(bytes.fromhex(key.salt) + secret.encode()).hexdigest()
    assert make_key("ann")[1].salt != key.salt
    assert len(secret) == 43


def test_only_its_own_key_opens(keyed: tuple[Running, Path, str]):
    server, _, text = keyed
    assert status(server, text) == 200
    assert status(server, text, "X-API-Key") == 200
    for wrong in (
        None,
        "x",
        text[:-1],
        text + "x",
        text.upper(),
        make_key("ann")[0],
        "t2s_" + "0" * 12 + "_" + "A" * 43,
    ):
        assert status(server, wrong) == 401, wrong


def test_refusal_has_its_header_and_shape(keyed: tuple[Running, Path, str]):
    with keyed[0].client() as client:
        response = client.get("/v1/models")
    assert (response.status_code, response.headers["www-authenticate"]) == (401, "Bearer")
    assert response.json()["error"]["code"] == "missing_api_key"


def test_keys_are_exchanged_while_the_server_runs(keyed: tuple[Running, Path, str]):
    server, path, old = keyed
    new, key = make_key("ann")
    add_key(path, key)
    assert [status(server, old), status(server, new)] == [200, 200]
    revoke_key(path, old.split("_")[1])
    assert [status(server, old), status(server, new)] == [401, 200]
    kept = path.read_text()
    path.write_text("nonsense\n")
    assert status(server, new) == 200, "a spoilt file leaves the last good keys in force"
    path.unlink()
    assert status(server, new) == 200
    path.write_text(kept + make_key("again")[1].line() + "\n")
    assert [status(server, old), status(server, new)] == [401, 200]
    text, restored = make_key("ann")
    add_key(path, restored)
    assert status(server, text) == 200


def test_row_18_key_guessing_by_timing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Whatever is sent, one hash of the same length is compared in constant time."""
    text, key = make_key("ann")
    keys = Keys(key_file(tmp_path, key.line()))
    compared = []

    def compare(left: str, right: str) -> bool:
        compared.append((len(left), len(right)))
        return hmac_compare(left, right)

    hmac_compare = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", compare)
    for sent in ("", "x", make_key("bob")[0], text[:-1] + "A", text):
        keys.find(sent)
    assert compared == [(64, 64)] * 5


def test_row_18_cached_prefixes_are_salted_by_the_key(tmp_path: Path):
    """On every way to the engine: how long an answer takes must not tell one client what another has asked."""
    (ann, first), (bob, second) = make_key("ann"), make_key("bob")
    engine = ScriptedEngine(default="SELECT nam FROM singer")  # is repaired, so that every kind of request is seen
    schema = {"role": "system", "content": asked()["schema_text"]}
    chat = {"model": "scripted", "messages": [schema, {"role": "user", "content": "How many?"}]}

    def salts(server: Running, key: str | None) -> set[str | None]:
        engine.options.clear()
        headers = {"X-API-Key": key} if key else {}
        with server.client(headers=headers) as client:
            for path, body in (("/generate", asked(n=2)), ("/v1/chat/completions", chat)):
                for stream in (False, True):
                    assert client.post(path, json=body | {"stream": stream}).status_code == 200
            assert client.post("/generate/batch", json={"requests": [asked()]}).status_code == 200
        return {options.cache_salt for options in engine.options}

    with running(engine, api_keys=key_file(tmp_path, first.line(), second.line())) as server:
        [anns], [again], [bobs] = salts(server, ann), salts(server, ann), salts(server, bob)
    assert anns == again != bobs
    assert anns is not None
    assert not {first.hash, first.salt, first.id, ann.split("_", 2)[2]} & {anns}
    with running(engine) as server:
        assert salts(server, None) == {None}


def test_body_is_not_read_before_the_key_is_known(keyed: tuple[Running, Path, str]):
    """The answer comes while the body is still missing."""
    head = b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 500\r\n"
    with socket.create_connection(("127.0.0.1", keyed[0].port), timeout=10) as connection:
        connection.sendall(head + b"Expect: 100-continue\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 401 ")


@pytest.mark.parametrize(
    "host", ["x/../", "a b", "[::1", "a" * 300, "user@x", "x:port", "x:1:2", "", "x\x00y", "x?/healthz", "x#"]
)
@pytest.mark.parametrize(
    "path", ["/generate", "/v1/models", "//v1/models", "/healthz/../v1/models", "/v1/models?x=/healthz"]
)
def test_row_16_malformed_host_header(keyed: tuple[Running, Path, str], host: str, path: str):
    with socket.create_connection(("127.0.0.1", keyed[0].port), timeout=10) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        answer = connection.makefile("rb").read()
    assert answer[9:12] in (b"400", b"401", b"404", b"405"), answer[:200]


def test_two_host_headers_are_refused(keyed: tuple[Running, Path, str]):
    with socket.create_connection(("127.0.0.1", keyed[0].port), timeout=10) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\nHost: b\r\nConnection: close\r\n\r\n")
        assert connection.makefile("rb").read()[9:12] == b"400"


def test_rate_of_each_key_is_its_own(tmp_path: Path):
    (quick, one), (slow, two) = make_key("quick"), make_key("slow", "3/hour")
    with running(ScriptedEngine(), api_keys=key_file(tmp_path, one.line(), two.line()), rate_limit="5/hour") as server:
        assert [status(server, slow) for _ in range(4)] == [200, 200, 200, 429]
        with server.client(headers={"Authorization": f"Bearer {quick}"}) as client:
            batch = {"requests": [asked()] * 4}
            assert client.post("/generate/batch", json=batch).status_code == 200
            refused = client.post("/generate/batch", json=batch)
            assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limited")
            assert 1 <= int(refused.headers["retry-after"]) <= 3600
            assert client.post("/generate", json=asked()).status_code == 200
            assert client.post("/generate", json=asked()).status_code == 429
            assert client.get("/v1/models").status_code == 200, "looking is free"


def test_strange_names_reach_nobody_without_keys():
    """A page whose own name resolves to this machine (DNS rebinding) sends that name."""
    with running(ScriptedEngine()) as server, server.client() as client:
        assert client.get("/healthz").status_code == 200
        assert client.get("/healthz", headers={"Host": f"localhost:{server.port}"}).status_code == 200
        refused = client.post("/generate", json=asked(), headers={"Host": "evil.example"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "invalid_host")
    with running(ScriptedEngine(), host="127.0.0.2") as server, server.client() as client:
        assert client.get("/healthz", headers={"Host": f"127.0.0.2:{server.port}"}).status_code == 200
        assert client.get("/healthz", headers={"Host": "127.0.0.3"}).status_code == 400


@pytest.mark.parametrize(
    "line", ["x", "0 ann salt hash", make_key("a")[1].line() + " often", make_key("a")[1].line()[:-1]]
)
def test_spoilt_key_file_is_told_at_the_start(tmp_path: Path, line: str):
    with pytest.raises(ConfigError, match="line 1"):
        Keys(key_file(tmp_path, line))


def test_command_makes_lists_and_revokes(tmp_path: Path):
    app = Typer()
    app.command()(key_command)
    file = str(tmp_path / "keys.txt")

    def run(*arguments: str) -> tuple[int, str, str]:
        found = CliRunner().invoke(app, [*arguments, "--file", file])
        return found.exit_code, found.stdout, found.stderr

    code, text, told = run("ann", "--rate", "60/minute")
    assert code == 0
    assert text.strip() not in told
    assert Keys(Path(file)).find(text.strip()) is not None
    number = text.split("_")[1]
    assert run("--list")[1] == f"{number}\tann\t60/minute\n"
    assert run("--revoke", number)[0] == 0
    assert run("--list")[1] == ""
    assert run("--revoke", number)[0] == 2
    assert run("bad name")[0] == 2
    assert run("ann", "--rate", "often")[0] == 2
    assert run("ann", "--rate", "60/minute;1000/day")[0] == 2  # only the first would hold
    assert run()[0] == 2
    assert Path(file).stat().st_mode & 0o077 == 0

"""Against a small server that misbehaves on purpose; test_served_vllm.py asks a real one."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from datasets import Dataset

from tests.training_fixtures import byte_level_tokenizer, made_up_rows
from text2sql.errors import ModelError
from text2sql.evaluation.served import ServedModel

CARD = {"id": "tiny", "object": "model", "owned_by": "somebody"}
Answer = Callable[[BaseHTTPRequestHandler, dict[str, Any]], None]


class StandIn:
    """A server whose completions answer `echo <prompt>`, after the troubles it was given, one a request, in turn."""

    def __init__(self) -> None:
        self.cards: list[dict[str, Any]] = [CARD]
        self.troubles: list[Answer] = []
        self.always: Answer | None = None
        self.requests: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.headers: list[dict[str, str]] = []
        self.at_once = self.most_at_once = 0
        self._lock = threading.Lock()
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                stand_in.headers.append(dict(self.headers))
                reply(self, 200, {"object": "list", "data": stand_in.cards})

            def do_POST(self) -> None:
                stand_in.take(self)

            def log_message(self, *_: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def take(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        with self._lock:
            self.requests.append(body)
            self.times.append(time.monotonic())
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            trouble = self.troubles.pop(0) if self.troubles else self.always
        (trouble or echo)(handler, body)
        with self._lock:
            self.at_once -= 1

    def stop(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


def reply(handler: BaseHTTPRequestHandler, status: int, body: Any, **headers: str) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)


def echo(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
    reply(handler, 200, {"choices": [{"text": f" echo {body['prompt']}\n", "finish_reason": "stop"}]})


def says(status: int, body: Any = None, **headers: str) -> Answer:
    return lambda handler, _: reply(handler, status, {} if body is None else body, **headers)


def drops(handler: BaseHTTPRequestHandler, _: dict[str, Any]) -> None:
    handler.close_connection = True
    handler.connection.shutdown(socket.SHUT_RDWR)


def breaks_off(handler: BaseHTTPRequestHandler, _: dict[str, Any]) -> None:
    """After half of what it announced."""
    handler.send_response(200)
    handler.send_header("Content-Length", "100")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [')
    drops(handler, {})


def sleeps(seconds: float) -> Answer:
    def answer(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        time.sleep(seconds)
        try:
            echo(handler, body)
        except OSError:
            handler.close_connection = True  # the client would not wait

    return answer


@pytest.fixture
def stand_in() -> Iterator[StandIn]:
    server = StandIn()
    yield server
    server.stop()


def ask(stand_in: StandIn, prompts: list[str], **options: Any) -> list[str]:
    with ServedModel(stand_in.url, **{"max_new_tokens": 8, **options}) as served:
        return served.answers(prompts)


@pytest.mark.parametrize(
    "trouble",
    [says(429), says(503), says(502), says(504), drops, breaks_off],
    ids=["429", "503", "502", "504", "dropped", "broken off"],
)
def test_what_passes_is_asked_again(stand_in: StandIn, trouble: Answer) -> None:
    stand_in.troubles = [trouble, trouble]
    assert ask(stand_in, ["a", "b", "c"], concurrency=1) == ["echo a", "echo b", "echo c"]
    assert [request["prompt"] for request in stand_in.requests] == ["a", "a", "a", "b", "c"]


def test_retry_after_in_seconds(stand_in: StandIn) -> None:
    stand_in.troubles = [says(429, Retry_After="1")]
    assert ask(stand_in, ["a"]) == ["echo a"]
    assert 1 <= stand_in.times[1] - stand_in.times[0] < 2


def test_retry_after_as_a_date(stand_in: StandIn) -> None:
    def in_two_seconds(handler: BaseHTTPRequestHandler, _: dict[str, Any]) -> None:
        reply(handler, 503, {}, Retry_After=formatdate(time.time() + 2, usegmt=True))  # cut to whole seconds

    stand_in.troubles = [in_two_seconds]
    assert ask(stand_in, ["a"]) == ["echo a"]
    assert 0.9 <= stand_in.times[1] - stand_in.times[0] < 3


def test_a_retry_after_that_is_no_time_does_not_stop_the_run(stand_in: StandIn) -> None:
    stand_in.troubles = [says(429, Retry_After="soon")]
    assert ask(stand_in, ["a"]) == ["echo a"]


def test_patience_ends(stand_in: StandIn) -> None:
    stand_in.always = says(503, {"error": {"message": "no worker is ready"}})
    started = time.monotonic()
    with pytest.raises(ModelError, match=r"fails \(503 Service Unavailable: no worker is ready\)"):
        ask(stand_in, ["a"] * 50, patience=1.0, concurrency=4)
    assert time.monotonic() - started < 5
    assert 4 < len(stand_in.requests) < 50


@pytest.mark.parametrize(
    ("trouble", "told"),
    [
        (says(400, {"error": {"message": "top_k\nis odd", "code": 400}}), "refuses (400 Bad Request: top_k is odd)"),
        (says(404, {"error": {"message": "no model"}}), "refuses (404 Not Found: no model); check the address"),
        (says(403, {"detail": "not yours"}), "refuses (403 Forbidden: not yours); set OPENAI_API_KEY"),
        (says(500, b"Internal Server Error"), "fails (500 Internal Server Error"),
        (says(302, Location="http://127.0.0.1:9/"), "refuses (302 Found"),
        (says(200, b"<html>Welcome</html>"), "does not speak OpenAI's protocol"),
        (says(200, b'{"choices": ['), "does not speak OpenAI's protocol"),
        (says(200, {"choices": []}), "does not speak OpenAI's protocol"),
        (says(200, {"choices": [{"message": {"content": "hi"}}]}), "does not speak OpenAI's protocol"),
    ],
)  # fmt: skip
def test_what_does_not_pass_is_told_at_once_in_one_line(stand_in: StandIn, trouble: Answer, told: str) -> None:
    stand_in.always = trouble
    with pytest.raises(ModelError) as caught:
        ask(stand_in, ["a"])
    assert told in str(caught.value)
    assert stand_in.url in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(stand_in.requests) == 1


def test_the_first_failure_stops_the_rest(stand_in: StandIn) -> None:
    def refuses_after_a_while(handler: BaseHTTPRequestHandler, _: dict[str, Any]) -> None:
        time.sleep(0.05)
        reply(handler, 400, {})

    stand_in.always = refuses_after_a_while
    with pytest.raises(ModelError, match="400 Bad Request"):
        ask(stand_in, ["a"] * 200, concurrency=2)
    assert len(stand_in.requests) < 100


def test_a_slow_server(stand_in: StandIn) -> None:
    stand_in.always = sleeps(0.6)
    with pytest.raises(ModelError, match="gave no answer within 0.2 s; allow more time"):
        ask(stand_in, ["a"], timeout=0.2, patience=0.2)
    assert ask(stand_in, ["a"], timeout=5.0) == ["echo a"]


def test_answers_keep_the_order_of_the_prompts_however_they_come_back(stand_in: StandIn) -> None:
    prompts = [str(number) for number in range(40)]
    stand_in.troubles = [sleeps(0.02 * (number % 5)) for number in range(40)]
    assert ask(stand_in, prompts, concurrency=8) == [f"echo {prompt}" for prompt in prompts]


def test_no_more_requests_at_once_than_allowed(stand_in: StandIn) -> None:
    stand_in.always = sleeps(0.03)
    ask(stand_in, ["a"] * 30, concurrency=5)
    assert 1 < stand_in.most_at_once <= 5
    assert len(stand_in.requests) == 30


@pytest.mark.parametrize(
    "refusal",
    [
        {"error": {"message": "This model's maximum context length is 8 tokens. However, …", "code": 400}},
        {"error": {"message": "too long", "code": "context_length_exceeded"}},
    ],
)
def test_a_prompt_that_the_server_finds_too_long(
    stand_in: StandIn, refusal: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    stand_in.troubles = [echo, says(400, refusal)]
    assert ask(stand_in, ["a", "b", "c"], concurrency=1) == ["echo a", "", "echo c"]
    assert "1 of 3 rows do not fit its context and are answered by nothing" in caplog.text


def test_what_is_asked_for_is_greedy_and_plain_to_servers_other_than_vllm(stand_in: StandIn) -> None:
    ask(stand_in, ["a"])
    stand_in.cards = [{**CARD, "owned_by": "vllm", "max_model_len": 6}]
    ask(stand_in, ["a"])
    other, vllm = stand_in.requests
    assert other == {"model": "tiny", "prompt": "a", "temperature": 0.0, "max_tokens": 8}
    assert vllm["repetition_penalty"] == 1.0
    assert vllm["temperature"] == 0.0
    assert vllm["max_tokens"] == 5  # of its context of six tokens, one at least is the prompt's


def test_token_ids_go_out_where_the_tokenizer_is_at_hand(stand_in: StandIn) -> None:
    tokenizer = byte_level_tokenizer()
    ask(stand_in, ["CREATE TABLE ship"], tokenizer=tokenizer)
    assert stand_in.requests[0]["prompt"] == tokenizer("CREATE TABLE ship")["input_ids"]
    assert stand_in.requests[0]["prompt"][0] == tokenizer.bos_token_id


@pytest.mark.parametrize("finish", ["stop", "length"])
def test_an_answer_is_read_from_its_ids_without_the_token_that_ended_it(stand_in: StandIn, finish: str) -> None:
    """Any token may end answers by a model's generation config, also one that decoding shows."""
    tokenizer = byte_level_tokenizer()
    ids = tokenizer("SELECT age FROM ship", add_special_tokens=False)["input_ids"]
    stand_in.always = says(200, {"choices": [{"text": "mangled", "finish_reason": finish, "token_ids": ids}]})
    [answer] = ask(stand_in, ["a"], tokenizer=tokenizer)
    assert answer == str(tokenizer.decode(ids[:-1] if finish == "stop" else ids)).strip()


def test_no_prompts_no_requests(stand_in: StandIn) -> None:
    assert ask(stand_in, []) == []
    assert ask(stand_in, [], tokenizer=byte_level_tokenizer()) == []
    assert stand_in.requests == []


def test_the_only_model_needs_no_name_and_one_of_several_does(stand_in: StandIn) -> None:
    stand_in.cards = [CARD, {"id": "large"}]
    with pytest.raises(ModelError, match="serves 'tiny', 'large'; name one of them"):
        ask(stand_in, ["a"])
    ask(stand_in, ["a"], model="large")
    assert stand_in.requests[0]["model"] == "large"
    stand_in.cards = []
    with pytest.raises(ModelError, match="serves no model"):
        ask(stand_in, ["a"])


@pytest.mark.parametrize("tail", ["", "/", "/v1", "/v1/"])
def test_the_address_may_end_before_v1_or_after_it(stand_in: StandIn, tail: str) -> None:
    with ServedModel(stand_in.url + tail, max_new_tokens=1) as served:
        assert served.source == f"tiny at {stand_in.url}"


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://127.0.0.1", "http://", "http://[::1", "tiny", ""])
def test_an_address_that_is_none(url: str) -> None:
    with pytest.raises(ModelError, match="write it as http://127.0.0.1:8000"):
        ServedModel(url, max_new_tokens=1)


def test_no_server(stand_in: StandIn) -> None:
    stand_in.stop()
    started = time.monotonic()
    with pytest.raises(ModelError, match=f"no server answers at {stand_in.url} .*; start it, or correct the address"):
        ServedModel(stand_in.url, max_new_tokens=1)
    assert time.monotonic() - started < 5


def test_secrets_in_an_address_are_not_told(stand_in: StandIn) -> None:
    with ServedModel(stand_in.url.replace("//", "//me:secret@"), max_new_tokens=1) as served:
        assert served.source == f"tiny at {stand_in.url}"
    assert stand_in.headers[0]["Authorization"].startswith("Basic ")


def losses_of(stand_in: StandIn, owner: str = "vllm") -> Any:
    stand_in.cards = [{**CARD, "owned_by": owner, "max_model_len": 512}]
    with ServedModel(stand_in.url, max_new_tokens=8, tokenizer=byte_level_tokenizer()) as served:
        return served.losses(Dataset.from_list(made_up_rows(3)))


def likely(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
    """Each prompt token has the likelihood e^-(its place)."""
    told = [None, *({str(token): {"logprob": -float(at)}} for at, token in enumerate(body["prompt"][1:], 1))]
    reply(handler, 200, {"choices": [{"text": "", "prompt_logprobs": told}]})


def test_losses_are_over_the_completion_and_the_end_token(stand_in: StandIn) -> None:
    stand_in.always = likely
    tokenizer = byte_level_tokenizer()
    expected = []
    for row in made_up_rows(3):
        before = len(tokenizer(row["prompt"])["input_ids"])
        after = len(tokenizer(row["completion"], add_special_tokens=False)["input_ids"]) + 1
        expected.append((float(sum(range(before, before + after))), after))
    assert [(loss.total, loss.tokens) for loss in losses_of(stand_in)] == expected


@pytest.mark.parametrize(
    "trouble",
    [says(400, {"error": {"message": "prompt_logprobs is not supported"}}), echo],
    ids=["refused", "ignored"],
)
def test_a_server_that_tells_no_likelihoods(stand_in: StandIn, trouble: Answer) -> None:
    stand_in.always = trouble
    assert losses_of(stand_in) is None


def test_servers_other_than_vllm_are_not_asked_for_likelihoods(stand_in: StandIn) -> None:
    assert losses_of(stand_in, owner="somebody") is None
    assert stand_in.requests == []

"""OpenAI's own client, unchanged, against /v1."""

from __future__ import annotations

import time
from collections.abc import Iterator

import openai
import pytest

from tests.serving.api import COUNT, SINGERS, Running, ScriptedEngine, key_file, running
from text2sql.serving.auth import make_key
from text2sql.serving.chat import split_schema

SYSTEM = {"role": "system", "content": f"You write SQL.\n{SINGERS};"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, str]]:
    text, key = make_key("tester")
    engine = ScriptedEngine(
        answers={
            "onward": f"{COUNT}\n\nDROP TABLE singer",
            "drop": "DROP TABLE singer",
            "misspelt": "SELECT nam FROM singer",
            "hopeless": "SELECT nam FROM singer",
            "several": ["SELECT 1", COUNT],
            "mixed": [
                "SELECT age FROM singer",
                "SELECT age FROM singer",
                "SELECT nam FROM singer",
                "DROP TABLE singer",
            ],
            "slip": "DROP TABLE singer",
        },
        repairs={
            "misspelt": "SELECT name FROM singer",
            "hopeless": "SELECT nothing FROM singer",
            "mixed": "SELECT name FROM singer",
            "slip": COUNT,
            "drop": "DROP TABLE singer",
        },
    )
    path = key_file(tmp_path_factory.mktemp("keys"), key.line())
    with running(engine, api_keys=path, served_name="sql-model") as found:
        yield found, text


@pytest.fixture(scope="module")
def client(server: tuple[Running, str]) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server[0].url}/v1", api_key=server[1], max_retries=0) as found:
        yield found


def ask(client: openai.OpenAI, question: str, **more: object) -> object:
    return client.chat.completions.create(
        model="sql-model", messages=[SYSTEM, {"role": "user", "content": question}], **more
    )


def test_models_are_listed(client: openai.OpenAI):
    assert [model.id for model in client.models.list()] == ["sql-model"]
    assert client.models.retrieve("sql-model").owned_by == "text2sql"


def test_chat_completion(client: openai.OpenAI, server: tuple[Running, str]):
    found = ask(client, "How many?", max_tokens=50, stop=[";"], seed=7, temperature=0)
    [choice] = found.choices
    assert (choice.message.content, choice.message.role, choice.finish_reason) == (COUNT, "assistant", "stop")
    assert choice.text2sql == {"valid": True, "reasons": [], "repaired": False}
    assert found.usage.total_tokens == found.usage.prompt_tokens + found.usage.completion_tokens
    assert found.id.startswith("chatcmpl-")
    options = server[0].engine.options[-1]
    assert (options.max_new_tokens, options.stop, options.seed) == (50, (";",), 7)
    assert "You write SQL" not in server[0].engine.prompts[-1]


def test_a_seed_may_be_any_number_of_64_bits(client: openai.OpenAI, server: tuple[Running, str]):
    ask(client, "How many?", seed=-1)
    assert server[0].engine.options[-1].seed == 2**63 - 1
    with pytest.raises(openai.UnprocessableEntityError, match="seed"):
        ask(client, "How many?", seed=2**63)


def test_schema_may_stand_in_the_question(client: openai.OpenAI, server: tuple[Running, str]):
    content = [{"type": "text", "text": f"{SINGERS}\nHow many singers?"}]
    found = client.chat.completions.create(model="sql-model", messages=[{"role": "user", "content": content}])
    assert found.choices[0].text2sql["valid"]
    prompt = server[0].engine.prompts[-1]
    assert prompt.index(SINGERS) < prompt.index("How many singers?")


def test_schema_may_stand_in_the_question_below_a_system_message_without_one(
    client: openai.OpenAI, server: tuple[Running, str]
):
    system = {"role": "system", "content": "You write SQL."}
    content = f"{SINGERS};\nHow many singers?"
    found = client.chat.completions.create(model="sql-model", messages=[system, {"role": "user", "content": content}])
    assert found.choices[0].text2sql["valid"]
    assert "You write SQL" not in server[0].engine.prompts[-1]
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        client.chat.completions.create(model="sql-model", messages=[system, {"role": "user", "content": "How many?"}])
    assert (caught.value.code, caught.value.param) == ("schema_unusable", "messages")


def test_a_withheld_answer_can_be_sent_back_in_its_conversation(client: openai.OpenAI):
    messages = [SYSTEM, {"role": "user", "content": "drop"}]
    [withheld] = client.chat.completions.create(model="sql-model", messages=messages).choices
    assert withheld.message.content is None
    messages += [withheld.message, {"role": "user", "content": "How many?"}]
    [choice] = client.chat.completions.create(model="sql-model", messages=messages).choices
    assert choice.message.content == COUNT
    with pytest.raises(openai.UnprocessableEntityError, match="must have content"):
        client.chat.completions.create(model="sql-model", messages=[SYSTEM, {"role": "user"}])


def test_several_choices_each_have_a_verdict(client: openai.OpenAI):
    found = ask(client, "several", n=3, temperature=0.7)
    assert [choice.index for choice in found.choices] == [0, 1, 2]
    assert all(choice.text2sql["valid"] for choice in found.choices)


def test_stream(client: openai.OpenAI):
    chunks = list(ask(client, "How many?", stream=True, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == COUNT
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens > 0
    assert len({c.id for c in chunks}) == 1


def test_failed_completion_is_repaired_once(client: openai.OpenAI, server: tuple[Running, str]):
    found = ask(client, "misspelt", temperature=0.5, seed=3, stop=[";"])
    [choice] = found.choices
    assert choice.message.content == "SELECT name FROM singer"
    assert choice.text2sql == {"valid": True, "reasons": [], "repaired": True}
    engine = server[0].engine
    assert "-- failed: SELECT nam FROM singer" in engine.prompts[-1]
    assert (engine.options[-1].temperature, engine.options[-1].stop) == (0, (";",))
    assert found.usage.prompt_tokens == sum(len(prompt.split()) for prompt in engine.prompts[-2:])
    [slip] = ask(client, "slip").choices
    assert (slip.message.content, slip.message.refusal, slip.finish_reason) == (COUNT, None, "stop")


def test_each_of_several_choices_is_repaired(client: openai.OpenAI, server: tuple[Running, str]):
    before = len(server[0].engine.prompts)
    found = ask(client, "mixed", n=4, temperature=0.7)
    said = [(choice.message.content, choice.text2sql["repaired"]) for choice in found.choices]
    age, name = ("SELECT age FROM singer", False), ("SELECT name FROM singer", True)
    assert said == [age, name, name, name]
    assert len(server[0].engine.prompts) - before == 4 + 2, "equal completions are judged and repaired once"


def test_completion_beyond_repair_leaves_with_its_fault(client: openai.OpenAI):
    [choice] = ask(client, "hopeless").choices
    assert choice.message.content == "SELECT nam FROM singer"
    assert (choice.text2sql["valid"], choice.text2sql["repaired"]) == (False, True)
    assert choice.text2sql["reasons"][0]["code"] == "unknown_column"


def test_content_is_logged_where_it_is_asked_for(caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO", "text2sql.serving.service")
    for wanted in (False, True):
        caplog.clear()
        with (
            running(ScriptedEngine(), served_name="sql-model", log_content=wanted) as server,
            openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0) as client,
        ):
            ask(client, "How many are there?")
            list(ask(client, "How many are there?", stream=True))
        found = [line for line in caplog.records if line.message == "content"]
        assert [(line.question, line.sql) for line in found] == [("How many are there?", COUNT)] * (2 * wanted)


def test_stream_is_not_repaired_and_ends_with_the_verdict(client: openai.OpenAI):
    chunks = list(ask(client, "misspelt", stream=True))
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == "SELECT nam FROM singer"
    verdict = chunks[-1].choices[0].text2sql
    assert (verdict["valid"], verdict["repaired"], verdict["reasons"][0]["code"]) == (False, False, "unknown_column")


def test_what_does_more_than_read_is_withheld(client: openai.OpenAI):
    [choice] = ask(client, "drop").choices
    assert choice.message.content is None
    assert "withheld" in choice.message.refusal
    assert choice.finish_reason == "content_filter"
    last = list(ask(client, "drop", stream=True))[-1]
    assert last.choices[0].finish_reason == "content_filter"
    assert last.choices[0].text2sql["valid"] is False


def test_what_stands_behind_a_query_is_neither_delivered_nor_called_valid(client: openai.OpenAI):
    [choice] = ask(client, "onward").choices
    assert (choice.message.content, choice.text2sql["valid"]) == (COUNT, True)
    *_, last = ask(client, "onward", stream=True)
    assert not last.choices[0].text2sql["valid"]
    assert last.choices[0].finish_reason == "content_filter"


def test_unknown_model(client: openai.OpenAI):
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="gpt-4", messages=[SYSTEM, {"role": "user", "content": "?"}])
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-4")


def test_wrong_key(server: tuple[Running, str]):
    with (
        openai.OpenAI(base_url=f"{server[0].url}/v1", api_key="sk-wrong", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError) as caught,
    ):
        client.models.list()
    assert caught.value.code == "invalid_api_key"


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"tools": [{"type": "function", "function": {"name": "x"}}]}, "tools"),
        ({"functions": [{"name": "x", "parameters": {}}]}, "functions"),
        ({"logprobs": True}, "logprobs"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"n": 2, "stream": True}, "n"),
        ({"n": 2}, None),
        ({"stop": ["x" * 200]}, None),
        ({"stop": [""]}, None),
    ],
)
def test_wishes_that_would_be_ignored_are_refused(client: openai.OpenAI, more: dict[str, object], param: str | None):
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, "How many?", **more)
    assert caught.value.param == param


def test_messages_without_a_schema_or_a_question(client: openai.OpenAI):
    for messages in ([{"role": "user", "content": "How many?"}], [SYSTEM], [SYSTEM, {"role": "user", "content": " "}]):
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(model="sql-model", messages=messages)
        assert caught.value.param == "messages"


@pytest.mark.parametrize(
    ("text", "schema", "rest"),
    [
        ("How many?", "", "How many?"),
        ("CREATE TABLE t (a INT); How many?", "CREATE TABLE t (a INT);", "How many?"),
        ("CREATE TABLE t (a INT)\nHow many?", "CREATE TABLE t (a INT)", "How many?"),
        ("Here:\nCREATE TABLE t (a DECIMAL(3, 2) DEFAULT ')'); ok?", "CREATE TABLE t (a DECIMAL(3, 2) DEFAULT ')');",
         "Here:\nok?"),
        ("create table a (x INT);\ncreate table b (y INT);\nq", "create table a (x INT);\ncreate table b (y INT);",
         "q"),
        ("create table a (x INT); create table b (y INT)", "create table a (x INT); create table b (y INT)", ""),
        ("create table a (x INT); and create table b (y INT)", "create table a (x INT);\ncreate table b (y INT)",
         "and"),
        ("CREATE TABLE t (a -- )\n INT) q", "CREATE TABLE t (a -- )\n INT)", "q"),
        ("CREATE TABLE t (a", "", "CREATE TABLE t (a"),
    ],
)  # fmt: skip
def test_schema_is_found_in_a_text(text: str, schema: str, rest: str):
    assert split_schema(text) == (schema, rest)


def test_comments_that_nobody_closes_take_no_time():
    text = "CREATE TABLE t (a INT " + "/* " * 20_000
    started = time.process_time()
    assert split_schema(text) == ("", text.strip())
    assert time.process_time() - started < 2

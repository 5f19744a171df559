"""Another model without a request dropped."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from tests.serving.api import ScriptedEngine, asked, running, until
from text2sql.errors import EngineDead, ModelError
from text2sql.serving.engine import Options
from text2sql.serving.recipe import chat_wrapper, served_recipe
from text2sql.serving.settings import ServerSettings
from text2sql.serving.switch import EngineSwitch
from text2sql.training.recipe import Recipe, write_recipe


def test_new_requests_go_to_the_new_engine_and_old_ones_are_finished():
    async def main() -> None:
        old, new = ScriptedEngine(default="old", seconds=0.2, name="one"), ScriptedEngine(default="new", name="two")
        async with EngineSwitch(old) as switch:
            before = asyncio.create_task(switch.generate(["x"], Options()))
            async with switch.stream("y", Options()) as chunks:
                switching = asyncio.create_task(switch.to(new))
                while switch.name == "one":
                    await asyncio.sleep(0.01)
                assert old.stopped == 0
                [[after]] = await switch.generate(["z"], Options())
                assert after.text == "new"
                assert "".join([chunk.text async for chunk in chunks]) == "old"
            [[done]] = await before
            assert done.text == "old"
            await switching
            assert (old.stopped, new.stopped) == (1, 0)
            assert old.cancelled == 0
        assert new.stopped == 1

    asyncio.run(main())


def test_engine_that_does_not_start_leaves_the_old_one_serving():
    async def main() -> None:
        old = ScriptedEngine(default="old")
        async with EngineSwitch(old) as switch:
            for bad in (ScriptedEngine(failure=ModelError("corrupt")), ScriptedEngine(progressing=False)):
                with pytest.raises((ModelError, EngineDead)):
                    await switch.to(bad)
                assert bad.stopped == 1
                [[done]] = await switch.generate(["x"], Options())
                assert done.text == "old"
            assert old.stopped == 0

    asyncio.run(main())


def test_engine_that_never_finishes_is_stopped_when_its_time_is_up():
    async def main() -> None:
        old, new = ScriptedEngine(seconds=30), ScriptedEngine(default="new")
        async with EngineSwitch(old) as switch:
            stuck = asyncio.create_task(switch.generate(["x"], Options()))
            while not old.running:
                await asyncio.sleep(0.01)
            await switch.to(new, grace=0.1)
            assert old.stopped == 1
            assert (await switch.health()).ready
            stuck.cancel()

    asyncio.run(main())


def test_row_22_switch_under_load():
    """Every request is answered, by one model or the other; a request keeps to one recipe, its repair included."""
    one = ScriptedEngine(default="SELECT nam FROM singer", repairs={"": "SELECT name FROM singer"}, seconds=0.02)
    two = ScriptedEngine(default="SELECT age FROM singer", seconds=0.02, name="two")
    switch = EngineSwitch(one, Recipe(prompt_template="ONE {context} {question}"))
    with running(switch, max_in_flight=64) as server:
        answers: list[tuple[int, str]] = []

        def ask() -> None:
            with server.client() as client:
                for _ in range(15):
                    response = client.post("/generate", json=asked())
                    answers.append((response.status_code, response.json()["sql"]))

        threads = [threading.Thread(target=ask) for _ in range(6)]
        for thread in threads:
            thread.start()
        until(lambda: len(answers) > 10)
        server.call(lambda: switch.to(two, Recipe(prompt_template="TWO {context} {question}")))
        for thread in threads:
            thread.join()
        assert len(answers) == 90
        assert {status for status, _ in answers} == {200}
        assert {sql for _, sql in answers} == {"SELECT name FROM singer", "SELECT age FROM singer"}
        assert all(prompt.startswith("ONE ") for prompt in one.prompts)
        assert all(prompt.startswith("TWO ") for prompt in two.prompts)
        with server.client() as client:
            assert client.get("/healthz").json()["model"] == "two"


def test_recipe_comes_from_the_model_s_folder_or_the_settings(tmp_path: Path):
    settings = ServerSettings(model=str(tmp_path))
    assert served_recipe(settings) == Recipe()
    write_recipe(tmp_path, Recipe(prompt_template="{context} {question}", max_new_tokens=9))
    assert served_recipe(settings).max_new_tokens == 9
    other = tmp_path / "prompt.txt"
    other.write_text("{context}\n{question}")
    told = served_recipe(ServerSettings(model=str(tmp_path), prompt_template=other))
    assert (told.prompt_template, told.max_new_tokens) == ("{context}\n{question}", 9)
    other.write_text("{context} {other}")
    with pytest.raises(ModelError, match="prompt.txt"):
        served_recipe(ServerSettings(model=str(tmp_path), prompt_template=other))
    write_recipe(tmp_path, Recipe(prompt_template="{0}"))
    with pytest.raises(ModelError, match="text2sql.json"):
        served_recipe(settings)


def test_chat_template_wraps_the_prompt(tiny_model: Path, tmp_path: Path):
    from transformers import AutoTokenizer

    with pytest.raises(ModelError, match="chat template"):
        chat_wrapper(Recipe(chat_template=True), str(tiny_model))
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = "{{ bos_token }}[INST]{{ messages[0]['content'] }}[/INST]"
    tokenizer.save_pretrained(tmp_path)
    for path in tiny_model.glob("config.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert chat_wrapper(Recipe(chat_template=True), str(tmp_path))("a</s>b") == "<s>[INST]ab[/INST]"
    assert chat_wrapper(Recipe(), "anything")("question") == "question"

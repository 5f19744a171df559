"""Requests that share a batch get what they would get alone, whatever happens to the others."""

from __future__ import annotations

import asyncio
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.serving.decoding import PROMPTS, alone, before_each_pass, limits, real_model_of, served
from tests.training_fixtures import byte_level_tokenizer
from text2sql.errors import EngineBusy, EngineDead, ModelError, RequestError, ServingError
from text2sql.serving.engine import Completion, Options
from text2sql.serving.transformers_engine import TransformersEngine

PROJECT = Path(__file__).parents[2]
TEMPLATE = "Schema:\n{context}\nQuestion: {question}\nSQL:"


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    for _ in range(int(seconds / 0.005)):
        if condition():
            return
        await asyncio.sleep(0.005)
    pytest.fail("it did not happen in time")


def token_of(engine: TransformersEngine, text: str) -> int:
    """A token that only `text` brings."""
    assert engine._tokenizer is not None
    [token] = engine._tokenizer(text, add_special_tokens=False)["input_ids"]
    return int(token)


def decoding(engine: TransformersEngine, ids: Any) -> bool:
    """Whether a pass reads no prompt, where nothing is guessed: at most a token for each row."""
    return bool(ids.shape[1] <= engine.load().running)


async def tokens_of(engine: TransformersEngine, prompts: list[str]) -> set[int]:
    """What the answers, of twelve tokens, are made of, their last tokens left out."""
    found: set[int] = set()
    with before_each_pass(engine, lambda ids: found.update(ids.flatten().tolist()) if decoding(engine, ids) else None):
        await engine.generate(prompts, Options(max_new_tokens=12))
    return found


def test_random_arrivals_are_answered_as_one_at_a_time(tiny_model: Path):
    draw = random.Random(3)
    wants = [(prompt, draw.choice((5, 17, 40)), draw.random() * 0.15) for prompt in PROMPTS]

    async def work(engine: TransformersEngine) -> list[Completion]:
        async def ask(prompt: str, tokens: int, delay: float) -> Completion:
            await asyncio.sleep(delay)
            [[completion]] = await engine.generate([prompt], Options(max_new_tokens=tokens))
            return completion

        return list(await asyncio.gather(*(ask(*want) for want in wants)))

    found = served(tiny_model, work, limits=limits(batch_size=6))
    for length in (5, 17, 40):
        rows = [row for row, want in enumerate(wants) if want[1] == length]
        expected = alone(tiny_model, [wants[row][0] for row in rows], length)
        assert [found[row].text for row in rows] == expected
        assert {found[row].completion_tokens for row in rows if found[row].finish_reason == "length"} == {length}


def test_answers_that_end_by_themselves_are_those_of_the_evaluation():
    schema = "CREATE TABLE ship (name VARCHAR, age INTEGER)"
    prompts = [
        TEMPLATE.format(context=schema, question=f"What is the {c} of ship {i}?")
        for i in range(6)
        for c in ("name", "age")
    ]
    model = PROJECT / "assets" / "tiny-mistral"
    found = served(
        model, lambda engine: engine.generate(prompts, Options(max_new_tokens=60)), limits=limits(batch_size=4)
    )
    assert [completion.text for [completion] in found] == alone(model, prompts, 60)
    assert {completion.finish_reason for [completion] in found} == {"stop"}


def test_a_seed_draws_the_same_whatever_the_company(tiny_model: Path):
    options = Options(max_new_tokens=20, temperature=1.0, top_p=0.9, n=3, seed=11)

    async def work(engine: TransformersEngine) -> list[list[list[Completion]]]:
        calm = await engine.generate(PROMPTS[:2], options)
        others = [engine.generate([p], Options(max_new_tokens=30, temperature=1.5)) for p in PROMPTS[5:15]]
        noise = asyncio.gather(*others)
        await asyncio.sleep(0.01)
        busy = await engine.generate(PROMPTS[:2], options)
        await noise
        other = await engine.generate(PROMPTS[:2], Options(max_new_tokens=20, temperature=1.0, top_p=0.9, n=3, seed=12))
        return [calm, busy, other]

    calm, busy, other = served(tiny_model, work, limits=limits(batch_size=5))
    assert calm == busy
    assert calm != other
    texts = [completion.text for completion in calm[0]]
    assert len(set(texts)) == 3, "candidates differ among themselves"


def test_a_low_top_p_leaves_the_likeliest_token(tiny_model: Path):
    async def work(engine: TransformersEngine) -> list[list[list[Completion]]]:
        greedy = await engine.generate(PROMPTS[:3], Options(max_new_tokens=12))
        drawn = await engine.generate(PROMPTS[:3], Options(max_new_tokens=12, temperature=1.0, top_p=1e-6))
        return [greedy, drawn]

    greedy, drawn = served(tiny_model, work)
    assert greedy == drawn


def test_draws_follow_the_distribution():
    import torch

    from text2sql.serving.choice import draw
    from text2sql.serving.sequences import Sequence

    wanted = torch.tensor([0.5, 0.3, 0.15, 0.05])
    rows = [Sequence([1], Options(temperature=1.0, seed=seed), owner=None) for seed in range(4000)]
    drawn = torch.tensor(draw(wanted.log().repeat(len(rows), 1), rows))
    assert torch.allclose(drawn.bincount(minlength=4) / len(rows), wanted, atol=0.03)


def test_equal_prompts_are_read_once(tiny_model: Path):
    async def work(engine: TransformersEngine) -> list[tuple[int, ...]]:
        shapes: list[tuple[int, ...]] = []
        with before_each_pass(engine, lambda ids: shapes.append(tuple(ids.shape))):
            await engine.generate([PROMPTS[0]], Options(max_new_tokens=3, temperature=1.0, n=4))
        return shapes

    first, *later = served(tiny_model, work)
    assert first == (1, len(TOKENIZER(PROMPTS[0])["input_ids"]))
    assert later == [(1, 4)] * 2


def test_guesses_and_known_beginnings_change_no_answer(tiny_model: Path):
    """Prompts and answers that come again: fewer passes, fewer tokens read, the same texts."""
    options = Options(max_new_tokens=30)

    async def work(engine: TransformersEngine) -> list[int]:
        passes: list[int] = []
        spent = []
        with before_each_pass(engine, lambda ids: passes.append(ids.shape[1])):
            for _ in range(3):
                found = await engine.generate(PROMPTS[:12], options)
                assert [completion.text for [completion] in found] == expected
                spent.append(len(passes))
                passes.clear()
        return spent

    expected = alone(tiny_model, PROMPTS[:12], 30)
    assert served(tiny_model, work, limits=limits(drafts=0, prefix_tokens=0)) == [30] * 3
    first, *later = served(tiny_model, work, limits=limits(prefix_tokens=64))
    assert max(later) < 0.6 * first


def test_row_18_what_one_tenant_asked_is_not_known_to_another(tiny_model: Path):
    schema = "CREATE TABLE ship (name VARCHAR, age INTEGER, home VARCHAR)"
    asked, alike = (TEMPLATE.format(context=schema, question=f"What is the {c} of ship 7?") for c in ("name", "age"))

    async def work(engine: TransformersEngine) -> list[list[int]]:
        found = []
        for prompt, salt in ((asked, "one"), (asked, "two"), (asked, None), (asked, "one"), (alike, "one")):
            lengths: list[int] = []
            with before_each_pass(engine, lambda ids, lengths=lengths: lengths.append(ids.shape[1])):  # type: ignore[misc]
                await engine.generate([prompt], Options(max_new_tokens=8, cache_salt=salt))
            found.append(lengths)
        return found

    first, other, none, same, near = served(tiny_model, work)
    assert first == other == none, "a tenant that asks for the first time waits as if nobody had asked before"
    assert same[0] < 20 < first[0]
    assert len(same) < len(first)
    assert near[0] < first[0]


def test_a_long_prompt_is_read_in_parts_while_others_go_on(tiny_model: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("text2sql.serving.batch.READ_TOKENS", 32)
    long = [" ".join(PROMPTS[start : start + 5]) for start in (0, 0, 5, 10)]

    async def work(engine: TransformersEngine) -> tuple[list[list[Completion]], int]:
        widths: list[int] = []
        with before_each_pass(engine, lambda ids: widths.append(ids.shape[1])):
            found = await engine.generate([*PROMPTS[:3], *long], Options(max_new_tokens=20))
        return found, max(widths)

    found, most = served(tiny_model, work)
    assert [completion.text for [completion] in found] == alone(tiny_model, [*PROMPTS[:3], *long], 20)
    assert most <= 32 + 7 * 4


def test_streams_and_whole_answers_mix(tiny_model: Path):
    options = Options(max_new_tokens=25)

    async def work(engine: TransformersEngine) -> None:
        async def streamed(prompt: str) -> list[str]:
            async with engine.stream(prompt, options) as chunks:
                found = [chunk async for chunk in chunks]
            assert [chunk.completion is None for chunk in found[:-1]] == [True] * (len(found) - 1)
            last = found[-1].completion
            assert last is not None
            return ["".join(chunk.text for chunk in found), last.text]

        texts = await asyncio.gather(*(streamed(prompt) for prompt in PROMPTS[:8]))
        whole = await engine.generate(PROMPTS[:8], options)
        assert texts == [[completion.text] * 2 for [completion] in whole]

    served(tiny_model, work, limits=limits(batch_size=5))


@given(
    tokens=st.lists(st.integers(4, 400), min_size=1, max_size=25),
    stops=st.lists(st.text("sel \nérv", min_size=1, max_size=3), max_size=3),
)
def test_the_texts_of_a_stream_are_its_completion(tokens: list[int], stops: list[str]):
    from text2sql.serving.sequences import Sequence

    tokenizer = TOKENIZER
    row = Sequence([1], Options(max_new_tokens=len(tokens), stop=tuple(stops)), owner=None, streamed=True)
    plain = Sequence([1], row.options, owner=None)
    streamed, completion, kept = "", None, None
    for token in tokens:
        more, completion = row.append(token % len(tokenizer), tokenizer, ends={2})
        kept = plain.append(token % len(tokenizer), tokenizer, ends={2})[1]
        streamed += more
        if completion:
            break
    assert completion is not None
    assert completion == kept
    assert streamed == completion.text
    assert not any(stop in completion.text for stop in stops)


TOKENIZER = byte_level_tokenizer()


def test_row_19_a_client_that_goes_away_frees_its_slot(tiny_model: Path):
    async def work(engine: TransformersEngine) -> None:
        long = Options(max_new_tokens=400)
        running = asyncio.create_task(engine.generate([PROMPTS[0]], long))
        queued = asyncio.create_task(engine.generate([PROMPTS[1]], long))
        await until(lambda: (engine.load().running, engine.load().waiting) == (1, 1))
        queued.cancel()
        await until(lambda: engine.load().waiting == 0)
        assert engine.load().running == 1
        running.cancel()
        await until(lambda: engine.load().running == 0, seconds=1.0)
        async with engine.stream(PROMPTS[2], long) as chunks:
            await anext(chunks)
        await until(lambda: engine.load().running == 0, seconds=1.0)
        with pytest.raises(asyncio.CancelledError):
            await running

    served(tiny_model, work, limits=limits(batch_size=1))


def test_cancelled_rows_do_not_disturb_the_others(tiny_model: Path):
    async def work(engine: TransformersEngine) -> list[list[Completion]]:
        doomed = [asyncio.create_task(engine.generate([p], Options(max_new_tokens=200))) for p in PROMPTS[10:14]]
        kept = asyncio.create_task(engine.generate(PROMPTS[:6], Options(max_new_tokens=40)))
        for task in doomed:
            await asyncio.sleep(0.01)
            task.cancel()
        return await kept

    found = served(tiny_model, work, limits=limits(batch_size=10))
    assert [completion.text for [completion] in found] == alone(tiny_model, PROMPTS[:6], 40)


def test_a_full_queue_refuses_at_once_and_takes_nothing_of_it(tiny_model: Path):
    async def work(engine: TransformersEngine) -> None:
        long = Options(max_new_tokens=300)
        tasks = [asyncio.create_task(engine.generate([prompt], long)) for prompt in PROMPTS[:4]]
        await until(lambda: engine.load().waiting == 2)
        with pytest.raises(EngineBusy, match="wait already") as busy:
            await engine.generate(PROMPTS[4:6], long)
        assert 1 <= busy.value.retry_after <= 60
        with pytest.raises(EngineBusy):
            async with engine.stream(PROMPTS[4], Options(max_new_tokens=5)) as _, engine.stream(PROMPTS[5], long):
                pass
        with pytest.raises(RequestError, match="more than the 5 taken"):
            await engine.generate(PROMPTS[:6], long)
        assert all(len(found) == 1 for found in await asyncio.gather(*tasks))

    served(tiny_model, work, limits=limits(batch_size=2, queue_size=3))


def test_the_cache_is_bounded_in_tokens_and_given_back(tiny_model: Path):
    async def work(engine: TransformersEngine) -> None:
        most = 0
        assert engine._scheduler is not None
        cache = engine._scheduler._batch.cache

        def look(_: object) -> None:
            nonlocal most
            most = max(most, cache.slots * cache.width)

        with before_each_pass(engine, look):
            await engine.generate(PROMPTS[:12], Options(max_new_tokens=80))
        assert 0 < most <= 768
        await until(lambda: cache.slots == 0)
        with pytest.raises(RequestError, match="together more than the model's 512"):
            await engine.generate([PROMPTS[0]], Options(max_new_tokens=500))
        with pytest.raises(RequestError, match="is empty"):
            await engine.generate([PROMPTS[0], ""], Options())

    served(tiny_model, work, limits=limits(batch_size=12, cache_tokens=768))


def test_a_long_request_that_has_left_does_not_widen_those_that_come(tiny_model: Path):
    """Under load that never ends: the cache is given back only when nobody is left."""

    async def work(engine: TransformersEngine) -> None:
        assert engine._scheduler is not None
        cache = engine._scheduler._batch.cache
        sizes: list[tuple[int, int]] = []
        with before_each_pass(engine, lambda _: sizes.append((cache.slots, cache.width))):
            long = asyncio.create_task(engine.generate([PROMPTS[0]], Options(max_new_tokens=400)))
            await until(lambda: cache.width == 512)
            staying = asyncio.create_task(engine.generate([PROMPTS[1]], Options(max_new_tokens=80)))
            await until(lambda: engine.load().running == 2)
            long.cancel()
            many = await engine.generate(PROMPTS[2:9], Options(max_new_tokens=60))
            [[stayed]] = await staying
        assert (0, 0) not in sizes[1:], "the load ended in between"
        assert max(slots * width for slots, width in sizes) <= 1024
        assert [c.text for [c] in many] == alone(tiny_model, PROMPTS[2:9], 60)
        assert [stayed.text] == alone(tiny_model, PROMPTS[1:2], 80)

    served(tiny_model, work, limits=limits(batch_size=8, cache_tokens=1024))


def test_a_flood_of_short_requests_does_not_starve_a_long_one(tiny_model: Path):
    async def work(engine: TransformersEngine) -> None:
        short, done = 0, asyncio.Event()

        async def flood(prompt: str) -> None:
            nonlocal short
            while not done.is_set():
                await engine.generate([prompt], Options(max_new_tokens=1))
                short += 1

        long = asyncio.create_task(engine.generate([PROMPTS[0]], Options(max_new_tokens=60)))
        await until(lambda: engine.load().running == 1)
        floods = [asyncio.create_task(flood(prompt)) for prompt in PROMPTS]
        try:
            async with asyncio.timeout(20):
                await long
            assert short > 0
        finally:
            done.set()
            await asyncio.gather(*floods)

    served(tiny_model, work, limits=limits(batch_size=2))


@pytest.mark.parametrize("at", ["the prompt", "a later token"])
def test_a_request_that_breaks_the_model_fails_alone(tiny_model: Path, at: str):
    async def work(engine: TransformersEngine) -> None:
        cursed = token_of(engine, "~")
        position = 0 if at == "the prompt" else 3
        seen: list[int] = []

        def hook(ids: Any) -> None:
            if position == 0 and (ids == cursed).any():
                raise ValueError("cursed prompt")
            if position and decoding(engine, ids) and (ids == seen[0]).any():
                raise ValueError("cursed token")

        prompts = [*PROMPTS[:3], PROMPTS[3] + "~", *PROMPTS[4:7]]
        calm = await engine.generate(prompts, Options(max_new_tokens=12))
        if position:  # a token that the one answer has, and the others have not
            own, others = [await tokens_of(engine, some) for some in ([prompts[3]], prompts[:3] + prompts[4:])]
            seen += sorted(own - others)[:1]
        with before_each_pass(engine, hook):
            found = await asyncio.gather(
                *(engine.generate([prompt], Options(max_new_tokens=12)) for prompt in prompts), return_exceptions=True
            )
        assert isinstance(found[3], ServingError)
        assert "ValueError: cursed" in str(found[3])
        assert [f for row, f in enumerate(found) if row != 3] == [[c] for row, c in enumerate(calm) if row != 3]
        assert await engine.generate(prompts, Options(max_new_tokens=12)) == calm

    served(tiny_model, work, limits=limits(drafts=0))


def test_numbers_that_overflow_fail_their_request_alone_and_leave_no_trace(tiny_model: Path):
    async def work(engine: TransformersEngine) -> None:
        options = Options(max_new_tokens=10)
        calm = await engine.generate(PROMPTS[:6], options)
        cursed = token_of(engine, "~")
        embedding = real_model_of(engine).get_input_embeddings()

        def overflow(_module: Any, arguments: Any, output: Any) -> Any:
            return output.masked_fill((arguments[0] == cursed)[..., None], float("nan"))

        handle = embedding.register_forward_hook(overflow)
        prompts = [*PROMPTS[:3], "~" + PROMPTS[3], *PROMPTS[4:6]]
        found = await asyncio.gather(*(engine.generate([p], options) for p in prompts), return_exceptions=True)
        handle.remove()
        assert isinstance(found[3], ServingError)
        assert "overflow" in str(found[3])
        assert [f for row, f in enumerate(found) if row != 3] == [[c] for row, c in enumerate(calm) if row != 3]
        assert await engine.generate(PROMPTS[:6], options) == calm

    served(tiny_model, work)


@pytest.mark.parametrize("when", ["reading prompts", "decoding"])
def test_out_of_memory_makes_batches_smaller_and_loses_nothing(tiny_model: Path, when: str):
    async def work(engine: TransformersEngine) -> tuple[list[list[Completion]], set[int]]:
        import torch

        sizes: set[int] = set()

        def hook(ids: Any) -> None:
            relevant, rows = decoding(engine, ids) == (when == "decoding"), engine.load().running
            if relevant and rows > 3:
                raise torch.OutOfMemoryError("made up")
            if relevant:
                sizes.add(rows)

        with before_each_pass(engine, hook):
            return await engine.generate(PROMPTS[:10], Options(max_new_tokens=20)), sizes

    found, sizes = served(tiny_model, work, limits=limits(drafts=0))
    assert [completion.text for [completion] in found] == alone(tiny_model, PROMPTS[:10], 20)
    assert max(sizes) > 1, "it halves the batch, and does not give batching up"


def test_no_memory_even_to_make_room_loses_nothing(tiny_model: Path, monkeypatch: pytest.MonkeyPatch):
    """Those that stay are copied to a smaller cache, which takes memory itself."""

    async def work(engine: TransformersEngine) -> list[list[Completion]]:
        import torch

        assert engine._scheduler is not None
        cache = engine._scheduler._batch.cache
        failed: set[str] = set()

        def fails_once(where: str) -> None:
            if where not in failed:
                failed.add(where)
                raise torch.OutOfMemoryError("made up")

        monkeypatch.setattr(cache, "shrink", lambda _: fails_once("making room"))
        with before_each_pass(engine, lambda ids: fails_once("decoding") if decoding(engine, ids) else None):
            found = await engine.generate(PROMPTS[:6], Options(max_new_tokens=20))
        assert failed == {"decoding", "making room"}
        return found

    found = served(tiny_model, work, limits=limits(drafts=0))
    assert [completion.text for [completion] in found] == alone(tiny_model, PROMPTS[:6], 20)


def test_a_prompt_too_large_for_the_memory_fails_alone(tiny_model: Path):
    async def work(engine: TransformersEngine) -> None:
        cursed = token_of(engine, "~")

        def hook(ids: Any) -> None:
            if (ids == cursed).any():
                raise RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes")

        with before_each_pass(engine, hook):
            found = await asyncio.gather(
                *(engine.generate([prompt], Options(max_new_tokens=30)) for prompt in (*PROMPTS[:5], "~")),
                return_exceptions=True,
            )
        assert isinstance(found[-1], ServingError)
        assert "not enough memory" in str(found[-1])
        assert not any(isinstance(answer, Exception) for answer in found[:-1])

    served(tiny_model, work)


def test_row_21_health_tells_whether_work_gets_on(tiny_model: Path):
    import threading

    async def work(engine: TransformersEngine) -> None:
        assert (await engine.health()).ready
        gate = threading.Event()
        with before_each_pass(engine, lambda _: gate.wait(20) and None):
            task = asyncio.create_task(engine.generate([PROMPTS[0]], Options(max_new_tokens=3)))
            await asyncio.sleep(0.3)
            stuck = await engine.health()
            gate.set()
            await task
        assert (stuck.alive, stuck.progressing) == (True, False)
        assert "no token for" in stuck.detail
        await asyncio.sleep(0.3)
        assert (await engine.health()).ready, "an idle engine is ready, however long ago its last token was"

    served(tiny_model, work, stall_seconds=0.2)


def test_a_fault_of_the_engine_itself_leaves_nobody_waiting(tiny_model: Path, monkeypatch: pytest.MonkeyPatch):
    async def work(engine: TransformersEngine) -> None:
        assert engine._scheduler is not None
        monkeypatch.setattr(engine._scheduler, "_admit", lambda: 1 / 0)
        calls = [asyncio.create_task(engine.generate([prompt], Options())) for prompt in PROMPTS[:3]]
        found = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(error, EngineDead) for error in found)
        health = await engine.health()
        assert not health.alive
        assert "ZeroDivisionError" in health.detail
        with pytest.raises(EngineDead, match="ZeroDivisionError"):
            await engine.generate([PROMPTS[0]], Options())

    served(tiny_model, work)


@pytest.mark.parametrize("grace", [30.0, 0.0])
def test_stop_finishes_what_was_taken_if_it_may(tiny_model: Path, grace: float):
    async def work(engine: TransformersEngine) -> None:
        tasks = [asyncio.create_task(engine.generate([p], Options(max_new_tokens=100))) for p in PROMPTS[:4]]
        await until(lambda: engine.load().waiting > 0)
        stopping = asyncio.create_task(engine.stop(grace))
        await asyncio.sleep(0)
        with pytest.raises(EngineDead):
            await engine.generate([PROMPTS[5]], Options(max_new_tokens=1))
        found = await asyncio.gather(*tasks, return_exceptions=True)
        await stopping
        assert {isinstance(answer, EngineDead) for answer in found} == {grace == 0.0}

    served(tiny_model, work, limits=limits(batch_size=2))


class _Bomb:
    """Leaves a file where it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "adapter_model.bin"])
def test_row_25_pickles_are_refused_and_never_opened(tiny_model: Path, tmp_path: Path, name: str):
    import shutil

    folder, trace = tmp_path / "model", tmp_path / "opened"
    shutil.copytree(tiny_model, folder)
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps(_Bomb(trace)))
    with pytest.raises(ModelError, match=f"pickled weights \\({name}\\).*convert them to safetensors"):
        served(folder, lambda engine: engine.generate([PROMPTS[0]], Options(max_new_tokens=1)))
    shutil.copy(tiny_model / "model.safetensors", folder)
    served(folder, lambda engine: engine.generate([PROMPTS[0]], Options(max_new_tokens=1)))
    assert not trace.exists()


def test_row_25_code_of_the_model_is_refused(tiny_model: Path, tmp_path: Path):
    import json
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    config = json.loads((folder / "config.json").read_text("utf-8"))
    config["auto_map"] = {"AutoModelForCausalLM": "evil.Model"}
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'opened')!r}, 'w')\n", "utf-8")
    with pytest.raises(ModelError, match="Python code to run"):
        served(folder, lambda engine: engine.generate([PROMPTS[0]], Options(max_new_tokens=1)))
    assert not (tmp_path / "opened").exists()

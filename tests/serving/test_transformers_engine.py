"""Requests that share a batch get what they would get alone."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.serving.decoding import PROMPTS, alone, before_each_pass, limits, served
from tests.training_fixtures import byte_level_tokenizer
from text2sql.serving.engine import Completion, Options
from text2sql.serving.transformers_engine import TransformersEngine

PROJECT = Path(__file__).parents[2]
TEMPLATE = "Schema:\n{context}\nQuestion: {question}\nSQL:"
TOKENIZER = byte_level_tokenizer()


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

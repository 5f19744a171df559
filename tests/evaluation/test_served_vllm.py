"""A served model is judged as one in this process is: against a real vLLM."""

from __future__ import annotations

import logging
from typing import Any

import httpx
import pytest
from datasets import Dataset
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from tests.training_fixtures import byte_level_tokenizer
from tests.vllm_fixtures import VllmServer
from text2sql.config import EvaluationSection
from text2sql.errors import ModelError
from text2sql.evaluation.answering import LocalModel
from text2sql.evaluation.served import ServedModel
from text2sql.evaluation.statistics import perplexity
from text2sql.training.model import load_for_inference

TOKENS = 64
Loaded = tuple[PreTrainedModel, PreTrainedTokenizerBase]


@pytest.fixture(scope="module")
def local(vllm_server: VllmServer) -> Loaded:
    """The served model in this process, in the served data type."""
    model = AutoModelForCausalLM.from_pretrained(vllm_server.folder, dtype=vllm_server.dtype)
    return model, load_for_inference(vllm_server.folder)[1]


@pytest.fixture(scope="module")
def tokenizer(local: Loaded) -> PreTrainedTokenizerBase:
    return local[1]


def connected(server: VllmServer, tokenizer: PreTrainedTokenizerBase | None, **options: Any) -> ServedModel:
    return ServedModel(
        server.url, **{"max_new_tokens": TOKENS, "tokenizer": tokenizer, "api_key": server.api_key, **options}
    )


def alike(some: list[str], others: list[str]) -> float:
    return sum(a == b for a, b in zip(some, others, strict=True)) / len(some)


def here(local: Loaded) -> LocalModel:
    """The same model in this process."""
    return LocalModel(*local, EvaluationSection(max_new_tokens=TOKENS, batch_size=16), "tiny")


@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.timeout(900)  # the first of them teaches the model and starts the server
class TestVllm:
    def test_answers_are_those_of_transformers(
        self, vllm_server: VllmServer, local: Loaded, known_rows: Dataset, transformers_answers: list[str]
    ) -> None:
        prompts = known_rows["prompt"][:]
        with connected(vllm_server, local[1]) as served:
            assert served.source == f"tiny at {vllm_server.url}"
            found = served.answers(prompts)
        assert alike(found, transformers_answers) >= 0.98
        assert alike(found, known_rows["completion"][:]) > 0.9, "it knows its answers"

    def test_text_prompts_get_the_same_answers(
        self, vllm_server: VllmServer, tokenizer: PreTrainedTokenizerBase, known_rows: Dataset
    ) -> None:
        prompts = known_rows["prompt"][:50]
        with connected(vllm_server, tokenizer) as by_ids, connected(vllm_server, None) as by_text:
            assert alike(by_ids.answers(prompts), by_text.answers(prompts)) >= 0.98

    def test_the_servers_own_sampling_defaults_would_change_the_answers(
        self, vllm_server: VllmServer, tokenizer: PreTrainedTokenizerBase, known_rows: Dataset
    ) -> None:
        """So the test above sees whether they are turned off."""
        prompts = known_rows["prompt"][:8]
        body = {"model": vllm_server.model, "prompt": prompts, "max_tokens": TOKENS, "temperature": 0}
        raw = httpx.post(
            f"{vllm_server.url}/v1/completions",
            json=body,
            headers={"Authorization": f"Bearer {vllm_server.api_key}"},
            timeout=120,
        )
        with connected(vllm_server, tokenizer) as served:
            assert alike([c["text"].strip() for c in raw.json()["choices"]], served.answers(prompts)) < 0.5

    def test_perplexity_is_that_of_transformers(
        self, vllm_server: VllmServer, local: Loaded, known_rows: Dataset
    ) -> None:
        with connected(vllm_server, local[1]) as served:
            losses = served.losses(known_rows)
        assert losses is not None
        tokens = [len(local[1](text, add_special_tokens=False)["input_ids"]) + 1 for text in known_rows["completion"]]
        assert [loss.tokens for loss in losses] == tokens
        assert perplexity(losses) == pytest.approx(perplexity(here(local).losses(known_rows)), rel=0.01)

    def test_a_row_longer_than_the_context_is_not_the_end_of_the_run(
        self,
        vllm_server: VllmServer,
        tokenizer: PreTrainedTokenizerBase,
        known_rows: Dataset,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        short, long = known_rows["prompt"][0], known_rows["prompt"][0] * 40
        for encoder in (tokenizer, None):
            caplog.clear()
            with connected(vllm_server, encoder) as served:
                answers = served.answers([long, short])
            assert [bool(answer) for answer in answers] == [False, True]
            assert "1 of 2 rows do not fit its context of 1,024 tokens and are answered by nothing" in caplog.text
        both = Dataset.from_list([{"prompt": p, "completion": "SELECT name FROM ship"} for p in (long, short)])
        with connected(vllm_server, tokenizer) as served:
            losses = served.losses(both)
        assert losses is not None
        assert (losses[0].total, losses[0].tokens) == (0, 0)
        assert losses[1].tokens > 0
        assert losses[1].total > 0

    def test_a_prompt_that_leaves_little_room_is_answered_as_far_as_it_goes(
        self, vllm_server: VllmServer, tokenizer: PreTrainedTokenizerBase
    ) -> None:
        word = tokenizer("name", add_special_tokens=False)["input_ids"]
        for room in (0, 1, 2):
            prompt = "name" * ((1024 - room - 1) // len(word))
            ids = tokenizer(prompt)["input_ids"]
            with connected(vllm_server, tokenizer, max_new_tokens=2000) as served:
                choice = served._answer(ids)
            if len(ids) == 1024:
                assert choice is None
            else:
                assert choice is not None
                assert choice.token_ids is not None
                assert len(choice.token_ids) <= 1024 - len(ids)

    def test_another_models_tokenizer_is_noticed(
        self, vllm_server: VllmServer, caplog: pytest.LogCaptureFixture, known_rows: Dataset
    ) -> None:
        with connected(vllm_server, byte_level_tokenizer(), max_new_tokens=4) as served:
            served.answers(known_rows["prompt"][:1])
        assert "splits the first prompt into" in caplog.text

    def test_the_right_tokenizer_is_not_warned_of(
        self,
        vllm_server: VllmServer,
        tokenizer: PreTrainedTokenizerBase,
        caplog: pytest.LogCaptureFixture,
        known_rows: Dataset,
    ) -> None:
        with connected(vllm_server, tokenizer, max_new_tokens=4) as served:
            served.answers(known_rows["prompt"][:1])
        assert not [record for record in caplog.records if record.levelno >= logging.WARNING]

    def test_a_model_that_is_not_served(self, vllm_server: VllmServer) -> None:
        with pytest.raises(ModelError, match="does not serve 'mistral-7b' but 'tiny'$"):
            connected(vllm_server, None, model="mistral-7b")

    def test_a_wrong_key(self, vllm_server: VllmServer) -> None:
        with pytest.raises(ModelError, match=r"refuses \(401 Unauthorized.*OPENAI_API_KEY") as caught:
            connected(vllm_server, None, api_key="guessed")
        assert "guessed" not in str(caught.value)

    def test_the_key_of_the_environment(self, vllm_server: VllmServer, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OPENAI_API_KEY", vllm_server.api_key)
        with connected(vllm_server, None, api_key=None, max_new_tokens=4) as served:
            assert served.model == "tiny"

"""Answers of a model behind an OpenAI-compatible server such as vLLM, the same as Transformers gives.

The same answers need the same tokens. With the model's tokenizer at hand a prompt goes out as the token ids that
training saw, never as text for the server to split its own way, and an answer is read from its ids where the server
tells them. vLLM is told to leave out what a generation_config.json may ask for, such as a repetition penalty: greedy
means the likeliest token. What can still differ is rounding: a server sums in another order, and the order depends on
what else it answers at the moment.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TYPE_CHECKING, Any, TypeVar

from text2sql.data.prompt import encode_prompts, encode_rows
from text2sql.errors import ModelError
from text2sql.evaluation.completions import Choice, Refusal, Server
from text2sql.evaluation.types import TokenLoss

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

VLLM_GREEDY = {"repetition_penalty": 1.0, "return_token_ids": True}
"""Only vLLM knows these; others refuse a request that holds what they do not know."""

T = TypeVar("T")
Prompt = str | list[int]


class ServedModel:
    """One model of a server, asked greedily, several prompts at a time. Close it, or use it in a with statement.

    Args:
        url: address of the server, with or without /v1 at its end.
        model: its name there; may be left out where only one is served.
        tokenizer: the model's own. Without it prompts go out as text, and losses cannot be told.
        api_key: OPENAI_API_KEY of the environment if None.
        timeout: seconds that one answer may take.
        patience: seconds for which a server that is busy, or does not answer, is asked again.
        concurrency: requests under way at once.

    Raises:
        ModelError: the server cannot be reached, refuses the key, or does not serve the model.
    """

    def __init__(
        self,
        url: str,
        *,
        max_new_tokens: int,
        model: str | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        api_key: str | None = None,
        timeout: float = 300.0,
        patience: float = 60.0,
        concurrency: int = 32,
    ) -> None:
        self.tokenizer = tokenizer
        self._max_new_tokens, self._concurrency = max_new_tokens, concurrency
        self._server = Server(url, api_key or os.environ.get("OPENAI_API_KEY"), timeout, patience, concurrency)
        try:
            card = self._server.card(model)
        except ModelError:
            self.close()
            raise
        self.model = card.id
        self.source = f"{card.id} at {self._server.url}"
        self._is_vllm = card.owned_by == "vllm"
        self._limit = card.max_model_len

    def __enter__(self) -> ServedModel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._server.close()

    def answers(self, prompts: Sequence[str]) -> list[str]:
        """The greedy answer to each prompt, in their order, without the end token or outer whitespace.

        A prompt that leaves no room for a token of an answer is answered by "", with a warning.

        Raises:
            ModelError: the server went away for longer than `patience`, or refuses a request.
        """
        encoded: Sequence[Prompt] = prompts
        if self.tokenizer is not None:
            encoded = encode_prompts(self.tokenizer, list(prompts))
            self._compare_tokens(prompts, encoded)
        choices = self._for_each(encoded, self._answer, "answering")
        self._warn_of_long(choices, "are answered by nothing")
        return [self._text(choice) if choice else "" for choice in choices]

    def losses(self, rows: Dataset) -> list[TokenLoss] | None:
        """Of each row's `completion`, end token included, given its `prompt`; None where the server cannot tell.

        A row longer than the server's context has no tokens in its loss, and a warning tells of it.

        Raises:
            ModelError: as `answers` does.
        """
        if self.tokenizer is None or not self._is_vllm:
            logger.info("%s: no perplexity: it needs the model's tokenizer and a vLLM server", self.source)
            return None
        encoded = encode_rows(self.tokenizer, rows["prompt"][:], rows["completion"][:])
        try:
            if encoded and self._likelihoods(encoded[0]["input_ids"][:2]) is None:
                return None
        except Refusal as refusal:
            logger.info("no perplexity: %s", refusal)
            return None
        found = self._for_each([row["input_ids"] for row in encoded], self._likelihoods, "perplexity")
        self._warn_of_long(found, "count for nothing in the perplexity")
        return [_loss(row["completion_mask"], each or []) for row, each in zip(encoded, found, strict=True)]

    def _compare_tokens(self, prompts: Sequence[str], encoded: Sequence[Prompt]) -> None:
        """Warn if vLLM would split a prompt otherwise: then the tokenizer is another model's, or badly served."""
        choice = self._complete(prompts[0], max_tokens=1) if prompts and self._is_vllm else None
        theirs = choice.prompt_token_ids if choice else None
        if theirs is not None and theirs != encoded[0]:
            logger.warning(
                "%s splits the first prompt into %d tokens, and the tokenizer given here into %d others; ids are sent, "
                "so answers hold if it is the model's own, but whoever sends text gets other answers",
                self.source, len(theirs), len(encoded[0]),
            )  # fmt: skip

    def _answer(self, prompt: Prompt) -> Choice | None:
        room = self._max_new_tokens
        if self._limit is not None:  # a server counts prompt and answer together, and refuses to be asked for more
            room = min(room, self._limit - (len(prompt) if isinstance(prompt, list) else 1))
        return self._complete(prompt, max_tokens=room) if room > 0 else None

    def _likelihoods(self, ids: list[int]) -> list[float] | None:
        """Log-likelihood of each token but the first, given those before it; None if they do not fit."""
        if self._limit is not None and len(ids) >= self._limit:  # vLLM wants room for one more
            return None
        choice = self._complete(ids, max_tokens=1, prompt_logprobs=0)
        if choice is None:
            return None
        told = (choice.prompt_logprobs or [])[1:]
        if len(told) != len(ids) - 1 or not all(told):
            raise Refusal(f"{self.source} gives no likelihoods of a prompt's tokens")
        return [entry[str(token)].logprob for entry, token in zip(told, ids[1:], strict=True) if entry]

    def _complete(self, prompt: Prompt, **options: Any) -> Choice | None:
        """The one choice of a completion; None if the prompt does not fit the server's context."""
        body = {"model": self.model, "prompt": prompt, "temperature": 0.0, **options}
        if self._is_vllm:
            body |= VLLM_GREEDY
        try:
            return self._server.complete(body)
        except Refusal as refusal:
            if refusal.too_long:
                return None
            raise

    def _text(self, choice: Choice) -> str:
        ids = choice.token_ids
        if ids is None or self.tokenizer is None:
            return choice.text.strip()
        if choice.finish_reason == "stop":
            ids = ids[:-1]  # the end token, which need not be one that decoding leaves out
        return str(self.tokenizer.decode(ids, skip_special_tokens=True)).strip()

    def _for_each(self, prompts: Sequence[Prompt], ask: Callable[[Any], T], label: str) -> list[T]:
        """What `ask` gives for each, in their order; the first failure stops the rest."""
        from text2sql.progress import progress

        self._server.stopping.clear()
        with progress(label, len(prompts)) as advance, ThreadPoolExecutor(self._concurrency) as pool:
            futures = [pool.submit(ask, prompt) for prompt in prompts]
            try:
                for future in as_completed(futures):
                    future.result()
                    advance(1)
            except BaseException:
                self._server.stopping.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return [future.result() for future in futures]

    def _warn_of_long(self, found: Sequence[object | None], fate: str) -> None:
        long = sum(each is None for each in found)
        if long:
            limit = f" of {self._limit:,} tokens" if self._limit else ""
            logger.warning(
                "%s: %d of %d rows do not fit its context%s and %s; serve it with a longer one",
                self.source, long, len(found), limit, fate,
            )  # fmt: skip


def _loss(mask: list[int], likelihoods: list[float]) -> TokenLoss:
    """Of the tokens that the mask marks; `likelihoods` has none for the first, or is empty."""
    wanted = [each for marked, each in zip(mask[1:], likelihoods, strict=False) if marked]
    return TokenLoss(-sum(wanted), len(wanted))

"""What a model says: greedy answers, and its logits over given answers, in left-padded batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from text2sql.data.prompt import encode_prompts
from text2sql.errors import ModelError
from text2sql.progress import progress


def generate_tokens(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    max_new_tokens: int,
    batch_size: int,
    label: str = "answering",
) -> list[list[int]]:
    """Token ids of each greedy answer, the end token left out.

    Prompts of like length share a batch, the longest first: memory that runs short does so at once.
    """
    encoded = encode_prompts(tokenizer, list(prompts))
    order = sorted(range(len(encoded)), key=lambda row: len(encoded[row]), reverse=True)
    answers: list[list[int]] = [[] for _ in encoded]
    decoder = GreedyDecoder(model, tokenizer)
    with decoder, progress(label, len(encoded)) as advance:
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            found = decoder.answer([encoded[row] for row in rows], max_new_tokens)
            for row, answer in zip(rows, found, strict=True):
                answers[row] = answer
            advance(len(rows))
    return answers


class GreedyDecoder:
    """Greedy decoding with a key-value cache that drops rows as they finish.

    transformers' generate keeps a batch at full width until its longest answer is done. Used as a context manager, it
    puts the model in eval mode and its mode back afterwards.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.model = model
        self.pad = int(tokenizer.pad_token_id or 0)
        self.ends = end_tokens(model, tokenizer)
        self._was_training = model.training

    def __enter__(self) -> GreedyDecoder:
        self._was_training = self.model.training
        self.model.train(mode=False)
        return self

    def __exit__(self, *_: object) -> None:
        self.model.train(self._was_training)

    @torch.inference_mode()
    def answer(self, prompts: list[list[int]], max_new_tokens: int) -> list[list[int]]:
        """Token ids after each prompt, up to the end token or `max_new_tokens`."""
        device = self.model.device
        width = max(len(prompt) for prompt in prompts)
        ids = torch.full((len(prompts), width), self.pad, dtype=torch.long)
        mask = torch.zeros((len(prompts), width), dtype=torch.long)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            mask[row, width - len(prompt) :] = 1
        ids, mask = ids.to(device), mask.to(device)
        ends = torch.tensor(sorted(self.ends), device=device)
        answers: list[list[int]] = [[] for _ in prompts]
        alive = list(range(len(prompts)))
        cache = DynamicCache(config=self.model.config)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        for _ in range(max_new_tokens):
            out: Any = self.model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            chosen = out.logits[:, -1].argmax(-1)
            going = ~torch.isin(chosen, ends)
            flags = going.tolist()
            for row, token, goes_on in zip(alive, chosen.tolist(), flags, strict=True):
                if goes_on:
                    answers[row].append(token)
            alive = [row for row, goes_on in zip(alive, flags, strict=True) if goes_on]
            if not alive:
                break
            if len(alive) < len(flags):
                kept = going.nonzero().flatten()
                cache.batch_select_indices(kept)
                chosen, mask, positions = chosen[kept], mask[kept], positions[kept]
            ids = chosen[:, None]
            mask = torch.cat([mask, mask.new_ones((mask.shape[0], 1))], dim=1)
            positions = positions[:, -1:] + 1
        return answers


def end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Every token that ends an answer, by the tokenizer and by the model's generation config.

    Raises:
        ModelError: there is none, so no answer would ever end.
    """
    declared: Any = getattr(model.generation_config, "eos_token_id", None)
    ends = set(declared if isinstance(declared, list) else [declared]) | {tokenizer.eos_token_id}
    ends.discard(None)
    if not ends:
        raise ModelError("neither the tokenizer nor the generation config names an end token; set eos_token")
    return {int(token) for token in ends}


@torch.inference_mode()
def completion_logits(
    model: PreTrainedModel, encoded: list[dict[str, list[int]]], pad: int, batch_size: int
) -> Iterator[tuple[list[int], torch.Tensor, torch.Tensor]]:
    """(rows, logits of their completion tokens (tokens, vocabulary) in fp32, those tokens), the longest rows first.

    Rows are padded on the left, so the completions stand together at the right edge and logits are computed for the
    longest completion's width only, never for whole prompts.
    """
    was_training = model.training
    model.train(mode=False)
    order = sorted(range(len(encoded)), key=lambda row: len(encoded[row]["input_ids"]), reverse=True)
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        width = len(encoded[rows[0]]["input_ids"])
        ids = torch.full((len(rows), width), pad, dtype=torch.long)
        attention = torch.zeros((len(rows), width), dtype=torch.long)
        wanted = torch.zeros((len(rows), width), dtype=torch.bool)
        for line, row in enumerate(rows):
            length = len(encoded[row]["input_ids"])
            ids[line, width - length :] = torch.tensor(encoded[row]["input_ids"])
            attention[line, width - length :] = 1
            wanted[line, width - length :] = torch.tensor(encoded[row]["completion_mask"], dtype=torch.bool)
        wanted[:, 0] = False  # nothing comes before the first token
        tail = int(wanted.sum(1).max())
        ids, attention, wanted = (tensor.to(model.device) for tensor in (ids, attention, wanted))
        positions = (attention.cumsum(-1) - 1).clamp(min=0)
        out: Any = model(
            input_ids=ids,
            attention_mask=attention,
            position_ids=positions,
            use_cache=False,
            logits_to_keep=tail + 1,
        )
        chosen = wanted[:, -tail:]
        yield rows, out.logits[:, :-1][chosen].float(), ids[:, -tail:][chosen]
    model.train(was_training)

"""Rows that are decoded together: they join and leave between steps, and each is answered as if it were alone."""

from __future__ import annotations

import gc
from typing import Any

import torch
from transformers import PreTrainedModel

from text2sql.serving.sequences import Sequence
from text2sql.serving.slots import SlotCache, rounded

PREFILL_TOKENS = 4096
"""Padded prompt tokens of one forward pass, unless one prompt alone has more."""


class Batch:
    """The model, its slots, and whose they are. For one thread, and all of it in torch.inference_mode."""

    def __init__(self, model: PreTrainedModel, most_tokens: int) -> None:
        self.model = model
        self.most_tokens = most_tokens
        self.rows: list[Sequence] = []
        self.cache = SlotCache(int(model.config.get_text_config().num_hidden_layers))
        self._hidden = torch.finfo(model.dtype).min

    def fits(self, rows: int, longest: int) -> bool:
        """Whether so many rows, one of them with `longest` tokens in the end, keep to the bound; one always does."""
        return rows == 1 or rows * rounded(longest) <= self.most_tokens

    def join(self, sequences: list[Sequence]) -> torch.Tensor:
        """Let sequences in: their prompts (and tokens, for one that was in before) are read in one forward pass.

        Equal prompts are read once. Returns logits (sequences, vocabulary) for the next token of each.
        """
        contexts: dict[tuple[int, ...], int] = {}
        which = [contexts.setdefault((*s.prompt, *s.tokens), len(contexts)) for s in sequences]
        lengths = [len(context) for context in contexts]
        first, width = len(self.rows), max(lengths)
        longest = max(width + 1, *(row.length for row in self.rows), 0)
        self.cache.ensure(first + len(sequences), longest, first, self.most_tokens)
        ids = torch.zeros((len(contexts), width), dtype=torch.long)
        for row, context in enumerate(contexts):
            ids[row, : len(context)] = torch.tensor(context)
        window = self.cache.window
        window.first, window.rows, window.positions = first, len(contexts), None
        last = torch.tensor([length - 1 for length in lengths])
        kept, where = torch.unique(last, return_inverse=True)
        device = self.model.device
        logits = self._forward(
            ids.to(device), torch.arange(width, device=device)[None], None, logits_to_keep=kept.to(device)
        )
        logits = logits[torch.arange(len(contexts), device=device), where.to(device)]
        # Sequence k goes to slot first + k. The prompts stand in the first slots: fill from the last one down, so that
        # none is overwritten before it was copied (which[k] <= k).
        for row in range(len(sequences) - 1, -1, -1):
            if which[row] != row:
                self.cache.move(first + which[row], first + row, lengths[which[row]])
        self.rows += sequences
        return logits[torch.tensor(which, device=device)]

    def step(self, first: int = 0, rows: int | None = None) -> torch.Tensor:
        """Logits (rows, vocabulary) after the last token of each of the rows; it may be repeated."""
        rows = len(self.rows) if rows is None else rows
        sequences = self.rows[first : first + rows]
        device = self.model.device
        positions = torch.tensor([sequence.length - 1 for sequence in sequences], device=device)
        width = max(sequence.length for sequence in sequences)
        self.cache.ensure(len(self.rows), width, len(self.rows), self.most_tokens)
        window = self.cache.window
        window.first, window.rows, window.positions, window.width = first, rows, positions, width
        ids = torch.tensor([[sequence.tokens[-1]] for sequence in sequences], device=device)
        seen = torch.arange(width, device=device)[None] <= positions[:, None]
        mask = torch.zeros(seen.shape, dtype=self.model.dtype, device=device).masked_fill(~seen, self._hidden)
        return self._forward(ids, positions[:, None], mask[:, None, None], logits_to_keep=1)[:, -1]

    def _forward(
        self, ids: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor | None, logits_to_keep: int | torch.Tensor
    ) -> torch.Tensor:
        out: Any = self.model(
            input_ids=ids,
            position_ids=positions,
            attention_mask=mask,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=logits_to_keep,
        )
        return out.logits  # type: ignore[no-any-return]

    def remove(self, sequence: Sequence, poisoned: bool = False) -> None:
        """Take a row out; the last row moves into its slot. `poisoned`: it holds values that are not finite."""
        row, last = self.rows.index(sequence), len(self.rows) - 1
        if poisoned:
            self.cache.clear(row)
        if row != last:
            self.cache.move(last, row, self.rows[last].length)
            self.rows[row] = self.rows[last]
        self.rows.pop()

    def evict(self, keep: int) -> list[Sequence]:
        """Take the rows after the first `keep` out and give their memory back.

        Copying those that stay needs memory, too; where there is none, all leave.
        """
        out, self.rows = self.rows[keep:], self.rows[:keep]
        self._free()
        try:
            self.cache.shrink(keep)
        except Exception as error:
            if not out_of_memory(error):
                raise
            out, self.rows = [*self.rows, *out], []
            self.cache.release()
        self._free()
        return out

    def release(self) -> None:
        """Give all memory back; there must be no row."""
        self.cache.release()

    def _free(self) -> None:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def out_of_memory(error: Exception) -> bool:
    """CUDA has an exception for it; the CPU's allocator raises a RuntimeError that says so."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "not enough memory" in str(error)

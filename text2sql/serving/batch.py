"""Rows that are decoded together: they join and leave between steps, and each is answered as if it were alone."""

from __future__ import annotations

import gc
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedModel

from text2sql.serving.drafts import Drafts
from text2sql.serving.layers import fuse_layers
from text2sql.serving.prefixes import PrefixCache
from text2sql.serving.sequences import Sequence
from text2sql.serving.slots import Layout, Run, SlotCache, rounded, use_slots

READ_TOKENS = 1024
"""Tokens of prompts that one forward pass reads; the other rows go on meanwhile."""


class Turn(NamedTuple):
    """What a step brings one row."""

    sequence: Sequence
    read: int
    """Of its tokens, those whose keys and values are in the cache then."""
    logits: slice
    """Of the step's logits, those after its last token and after each draft; none while its prompt is being read."""
    drafts: list[int]
    """Tokens that may come next, and were read as if they did."""


class Batch:
    """The model, its slots, and whose they are. For one thread, and all of it in torch.inference_mode."""

    def __init__(self, model: PreTrainedModel, most_tokens: int, prefix_tokens: int = 0, drafts: int = 0) -> None:
        use_slots(model)
        fuse_layers(model)
        self.model = model
        self.most_tokens = most_tokens
        self.rows: list[Sequence] = []
        self.cache = SlotCache()
        self._prefixes = PrefixCache(prefix_tokens)
        self._drafts = Drafts(drafts)

    def fits(self, rows: int, longest: int) -> bool:
        """Whether so many rows, one of them with `longest` tokens in the end, keep to the bound; one always does."""
        return rows == 1 or rows * rounded(longest) <= self.most_tokens

    def join(self, sequence: Sequence) -> None:
        """Let a sequence in. Of its prompt, and its tokens if it was in before, the next steps read what is unknown."""
        self.rows.append(sequence)
        sequence.read = 0
        known = self._prefixes.match(sequence.options.cache_salt, sequence.slice(0, sequence.length - 1))
        if not known:
            return
        read = self._prefixes.tokens(known)
        try:
            self._make_room(read)
        except Exception as error:
            if not out_of_memory(error):
                raise
            return  # the step will see to that
        self._prefixes.load(known, self.cache.states(len(self.rows) - 1))
        sequence.read = read

    def step(self, first: int = 0, rows: int | None = None) -> tuple[list[Turn], torch.Tensor]:
        """One forward pass for each of the rows. It may be repeated: `read` of the sequences is the caller's to set.

        Returns what it brings each row, and logits (·, vocabulary).
        """
        plan = _Plan(self._drafts)
        for slot in range(first, len(self.rows) if rows is None else first + rows):
            plan.add(slot, self.rows[slot])
        self._make_room(max(run.end for run in plan.runs))
        logits = self._forward(plan)
        for run, slot in plan.copies:
            self.cache.move(run.slot, slot, run.start, run.end)
        return plan.turns, logits

    def _make_room(self, width: int) -> None:
        used = len(self.rows)
        self.cache.ensure(used, max(width, *(row.read for row in self.rows)), used, self.most_tokens)

    def _forward(self, plan: _Plan) -> torch.Tensor:
        device = self.model.device
        self.cache.layout = Layout(plan.runs, self.cache.width, device, self.model.dtype)
        positions = [position for run in plan.runs for position in range(run.start, run.end)]
        out: Any = self.model(
            input_ids=torch.tensor([plan.line], device=device),
            position_ids=torch.tensor([positions], device=device),
            use_cache=False,
            logits_to_keep=torch.tensor(plan.wanted, device=device, dtype=torch.long),
            slots=self.cache,
        )
        return out.logits[0]  # type: ignore[no-any-return]

    def remember(self, sequence: Sequence) -> None:
        """Keep the beginning of its prompt, which has been read, for others of its salt."""
        salt, prompt = sequence.options.cache_salt, sequence.prompt
        known = self._prefixes.tokens(self._prefixes.match(salt, prompt))  # which was learned with its first prompt
        start = max(known - self._drafts.context, 0)
        self._drafts.learn(salt, prompt[start:], known - start)
        try:
            self._prefixes.store(salt, prompt, self.cache.states(self.rows.index(sequence)))
        except Exception as error:
            self._prefixes.release()  # whatever was half written
            if not out_of_memory(error):
                raise

    def clean(self, sequence: Sequence) -> None:
        """Overwrite the drafts that were refused, because their values are not finite."""
        self.cache.clear(self.rows.index(sequence), sequence.read)

    def remove(self, sequence: Sequence, poisoned: bool = False) -> None:
        """Take a row out; the last row moves into its slot. `poisoned`: it holds values that are not finite."""
        row, last = self.rows.index(sequence), len(self.rows) - 1
        if poisoned:
            self.cache.clear(row)
        else:
            before = sequence.prompt[-self._drafts.context :]
            self._drafts.learn(sequence.options.cache_salt, before + sequence.tokens, len(before))
        if row != last:
            self.cache.move(last, row, 0, self.rows[last].read)
            self.rows[row] = self.rows[last]
        self.rows.pop()

    def evict(self, keep: int) -> list[Sequence]:
        """Take the rows after the first `keep` out and give their memory back, and that of remembered beginnings.

        Copying those that stay needs memory, too; where there is none, all leave.
        """
        out, self.rows = self.rows[keep:], self.rows[:keep]
        self._prefixes.release()
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
        """Give the slots' memory back; there must be no row."""
        self.cache.release()

    def _free(self) -> None:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


class _Plan:
    """What a forward pass reads: the new tokens of all rows in one line."""

    def __init__(self, drafts: Drafts) -> None:
        self.turns: list[Turn] = []
        self.runs: list[Run] = []
        self.line: list[int] = []
        self.wanted: list[int] = []
        """Places in the line behind which a token is chosen."""
        self.copies: list[tuple[Run, int]] = []
        """Runs that another slot needs as well."""
        self._drafts, self._budget = drafts, READ_TOKENS
        self._leaders: dict[Any, tuple[Run, Turn]] = {}

    def add(self, slot: int, sequence: Sequence) -> None:
        """A row with what it has to read. Equal prompts, as candidates of one question have, are read once."""
        key, end = None, sequence.length
        if end - sequence.read > 1:
            key = (sequence.options.cache_salt, sequence.read, *sequence.prompt, *sequence.tokens)
            if key in self._leaders:
                run, turn = self._leaders[key]
                self.copies.append((run._replace(tokens=turn.read - run.start), slot))
                logits = slice(turn.logits.start, turn.logits.stop - len(turn.drafts))
                self.turns.append(Turn(sequence, turn.read, logits, []))
                return
            end = min(end, sequence.read + self._budget)
            self._budget -= end - sequence.read
            if end == sequence.read:
                return
        whole = end == sequence.length
        drafts = self._drafts.propose(sequence) if whole else []
        run = Run(slot, sequence.read, end - sequence.read + len(drafts))
        self.line += sequence.slice(sequence.read, end) + drafts
        chosen = range(len(self.line) - len(drafts) - 1, len(self.line)) if whole else range(0)
        turn = Turn(sequence, end, slice(len(self.wanted), len(self.wanted) + len(chosen)), drafts)
        self.wanted += chosen
        self.runs.append(run)
        self.turns.append(turn)
        if key is not None:
            self._leaders[key] = run, turn


def out_of_memory(error: Exception) -> bool:
    """CUDA has an exception for it; the CPU's allocator raises a RuntimeError that says so."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "not enough memory" in str(error)

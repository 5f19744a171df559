"""The thread that owns a model: who waits, who is decoded, and what happens when something goes wrong.

Between two steps of the batch finished and cancelled rows leave and waiting ones join (continuous batching: Yu et al.
2022, Orca). First come, first served: a sequence that does not fit yet holds back those behind it, so none starves.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from text2sql.errors import EngineBusy, EngineDead, RequestError, ServingError
from text2sql.serving.batch import Batch, Turn, out_of_memory
from text2sql.serving.choice import Chosen, choose
from text2sql.serving.engine import Completion, Load
from text2sql.serving.sequences import Sequence
from text2sql.sql.workers import process_count
from text2sql.training.decoding import end_tokens

Event = str | Completion | Exception
"""More text, or the end of a sequence: whole or failed."""
Deliver = Callable[[list[tuple[Sequence, Event]]], None]

RECOVERY_STEPS = 256
"""After memory ran out, the batch may grow by one row each time this many steps went well."""


@dataclass(frozen=True)
class Limits:
    """What the engine takes on."""

    batch_size: int = 16
    """Sequences decoded together."""
    queue_size: int = 128
    """Sequences that may wait beyond those."""
    cache_tokens: int = 32_768
    """Slots times their width, in tokens: the bound of the key-value cache's memory."""
    prefix_tokens: int = 8_192
    """Tokens of prompts' beginnings that are kept beside it for prompts to come; 0: none."""
    drafts: int = 5
    """Tokens guessed ahead a sequence and step (text2sql.serving.drafts); 0: none."""
    threads: int | None = None
    """CPU threads of a forward pass; default: one less than there are cores, which callers and event loop need."""


class Scheduler:
    """`deliver` is called from the thread with what a step brought; it must return at once."""

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, limits: Limits, deliver: Deliver
    ) -> None:
        self.limits = limits
        self.progressed = time.monotonic()
        """When work last got on; only means something while there is some."""
        self.dead: str | None = "it was not started"
        """Why nothing is answered any more."""
        self._tokenizer, self._deliver = tokenizer, deliver
        self._ends = end_tokens(model, tokenizer)
        self._batch = Batch(model, limits.cache_tokens, limits.prefix_tokens, limits.drafts)
        self._waiting: deque[Sequence] = deque()
        self._events: list[tuple[Sequence, Event]] = []
        self._rows_allowed, self._steps_well = limits.batch_size, 0
        self._seconds_each = 1.0
        self._stopping = False
        self._changed = threading.Condition()
        """Held for the waiting ones and the flags; rows are the thread's alone."""
        self._thread = threading.Thread(target=self._run, name="text2sql decoding", daemon=True)

    def start(self) -> None:
        self.dead = None
        self._thread.start()

    def stop(self) -> None:
        """Everything that is not finished fails. Returns when the thread has ended."""
        with self._changed:
            self._stopping = True
            self.dead = self.dead or "it was stopped"
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join()

    def submit(self, sequences: list[Sequence]) -> None:
        """Take all of them, or none.

        Raises:
            RequestError: they could never wait together.
            EngineBusy, EngineDead
        """
        room = self.limits.batch_size + self.limits.queue_size
        if len(sequences) > room:
            raise RequestError(f"{len(sequences)} completions at once are more than the {room} taken; ask for fewer")
        with self._changed:
            if self.dead is not None:
                raise EngineDead(f"the engine answers no more: {self.dead}")
            taken = len(self._waiting) + len(self._batch.rows)
            if taken + len(sequences) > room:
                seconds = len(self._waiting) * self._seconds_each / self.limits.batch_size
                raise EngineBusy(
                    f"{len(self._waiting)} completions wait already; ask again later",
                    retry_after=min(max(math.ceil(seconds), 1), 60),
                )
            if taken == 0:
                self.progressed = time.monotonic()
            self._waiting.extend(sequences)
            self._changed.notify()

    def cancel(self, sequences: list[Sequence]) -> None:
        """Nobody waits for them: those in the queue are gone at once, those in the batch before its next step."""
        with self._changed:
            for sequence in sequences:
                sequence.cancelled = True
            self._waiting = deque(sequence for sequence in self._waiting if not sequence.cancelled)

    def load(self) -> Load:
        return Load(
            running=len(self._batch.rows),
            waiting=len(self._waiting),
            max_running=self.limits.batch_size,
            max_waiting=self.limits.queue_size,
        )

    @torch.inference_mode()
    def _run(self) -> None:
        elsewhere = torch.get_num_threads()
        torch.set_num_threads(self.limits.threads or max(process_count() - 1, 1))  # of this thread, and of later ones
        try:
            while self._wait_for_work():
                self._turn()
        except Exception as error:  # noqa: BLE001 - a fault of ours must not leave anybody waiting
            with self._changed:
                self.dead = f"it failed ({_shown(error)})"
        with self._changed:
            left = {*self._batch.rows, *self._waiting}
            self._batch.rows.clear()
            self._waiting.clear()
        self._events += [(sequence, EngineDead(f"the engine answers no more: {self.dead}")) for sequence in left]
        self._tell()
        self._batch.release()
        torch.set_num_threads(elsewhere)

    def _wait_for_work(self) -> bool:
        with self._changed:
            while not self._stopping and not self._waiting and not self._batch.rows:
                self._batch.release()
                self._changed.wait()
            return not self._stopping

    def _turn(self) -> None:
        """Let rows leave and join, and take one step with all of them."""
        for sequence in [row for row in self._batch.rows if row.cancelled]:
            self._batch.remove(sequence)
        self._admit()
        if self._batch.rows:
            self._step()
        self.progressed = time.monotonic()
        self._tell()

    def _admit(self) -> None:
        """Take those at the head of the queue that fit now."""
        longest = max((row.longest for row in self._batch.rows), default=0)
        with self._changed:
            while self._waiting and len(self._batch.rows) < self._rows_allowed:
                longest = max(longest, self._waiting[0].longest)
                if not self._batch.fits(len(self._batch.rows) + 1, longest):
                    break
                self._batch.join(self._waiting.popleft())

    def _step(self) -> None:
        rows = list(self._batch.rows)
        try:
            turns, logits = self._batch.step()
            tokens = choose(logits, turns)
        except Exception as error:  # noqa: BLE001 - whatever one request does to the model, the others go on
            if out_of_memory(error) and len(rows) > 1:
                self._allow(len(rows) // 2)
                self._put_back(self._batch.evict(self._rows_allowed))
            else:
                self._step_one_by_one(rows)
            return
        self._advance(turns, tokens)
        self._steps_well += 1
        if self._steps_well % RECOVERY_STEPS == 0:
            self._rows_allowed = min(self._rows_allowed + 1, self.limits.batch_size)

    def _step_one_by_one(self, rows: list[Sequence]) -> None:
        """Find the row on which the batch fails; the others get their token."""
        for sequence in rows:
            try:
                turns, logits = self._batch.step(self._batch.rows.index(sequence), 1)
                tokens = choose(logits, turns)
            except Exception as error:  # noqa: BLE001 - see above
                self._fail(sequence, error)
            else:
                self._advance(turns, tokens)

    def _advance(self, turns: list[Turn], chosen: list[Chosen]) -> None:
        for turn, found in zip(turns, chosen, strict=True):  # first: a row that leaves makes another one move
            turn.sequence.read = turn.read + max(len(found.tokens) - 1, 0)
        for turn, found in zip(turns, chosen, strict=True):
            try:
                self._take(turn.sequence, found)
            except Exception as error:  # noqa: BLE001 - see above
                self._fail(turn.sequence, error)

    def _take(self, sequence: Sequence, chosen: Chosen) -> None:
        for token in chosen.tokens:
            if token is None:
                raise ServingError("the model's numbers overflow on this prompt")
            if not sequence.tokens:
                self._batch.remember(sequence)
            more, completion = sequence.append(token, self._tokenizer, self._ends)
            if more:
                self._events.append((sequence, more))
            if completion is not None:
                self._batch.remove(sequence, poisoned=not chosen.finite)
                self._seconds_each += 0.1 * (time.monotonic() - sequence.started - self._seconds_each)
                self._events.append((sequence, completion))
                return
        if not chosen.finite:
            self._batch.clean(sequence)

    def _fail(self, sequence: Sequence, error: Exception) -> None:
        if sequence in self._batch.rows:
            self._batch.remove(sequence, poisoned=True)
        if not isinstance(error, ServingError):
            error = ServingError(f"the model failed on this request: {_shown(error)}")
        self._events.append((sequence, error))

    def _allow(self, rows: int) -> None:
        self._rows_allowed, self._steps_well = rows, 0

    def _put_back(self, sequences: list[Sequence]) -> None:
        with self._changed:
            self._waiting.extendleft(reversed([sequence for sequence in sequences if not sequence.cancelled]))

    def _tell(self) -> None:
        events, self._events = self._events, []
        events = [(sequence, event) for sequence, event in events if not sequence.cancelled]
        if events:
            self._deliver(events)


def _shown(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"

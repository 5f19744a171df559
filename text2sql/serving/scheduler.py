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
from text2sql.serving.batch import PREFILL_TOKENS, Batch, out_of_memory
from text2sql.serving.engine import Completion, Load
from text2sql.serving.sequences import Sequence, choose
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
        self._batch = Batch(model, limits.cache_tokens)
        self._waiting: deque[Sequence] = deque()
        self._joining: list[Sequence] = []
        """Neither waiting any more nor in the batch yet."""
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
            taken = len(self._waiting) + self._running()
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

    def _running(self) -> int:
        return len(self._batch.rows) + len(self._joining)

    def load(self) -> Load:
        return Load(
            running=self._running(),
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
            left = {*self._batch.rows, *self._joining, *self._waiting}
            for held in (self._batch.rows, self._joining, self._waiting):
                held.clear()
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
        """Let rows leave and join, and decode one token of each.

        Of those that were in before, too: a stream of short requests must not hold them up.
        """
        for sequence in [row for row in self._batch.rows if row.cancelled]:
            self._batch.remove(sequence)
        if self._admit():
            self._join(self._joining)
            self._joining = []
        if self._batch.rows:
            self._step()
        self.progressed = time.monotonic()
        self._tell()

    def _admit(self) -> bool:
        """Take those at the head of the queue that fit now, no more than one forward pass reads."""
        rows, width = len(self._batch.rows), 0
        longest = max((row.longest for row in self._batch.rows), default=0)
        with self._changed:
            while self._waiting and rows < self._rows_allowed:
                head = self._waiting[0]
                longest, width, rows = max(longest, head.longest), max(width, head.length), rows + 1
                if not self._batch.fits(rows, longest):
                    break
                if self._joining and width * (len(self._joining) + 1) > PREFILL_TOKENS:
                    break
                self._joining.append(self._waiting.popleft())
        return bool(self._joining)

    def _join(self, joining: list[Sequence]) -> None:
        before = len(self._batch.rows)
        try:
            tokens = choose(self._batch.join(joining), joining)
        except Exception as error:  # noqa: BLE001 - whatever one prompt does to the model, the others go on
            del self._batch.rows[before:]
            if len(joining) == 1 and not (out_of_memory(error) and self._batch.rows):
                self._fail(joining[0], error)
            elif out_of_memory(error):
                self._give_way(joining)
            else:
                for sequence in joining:
                    self._join([sequence])
        else:
            self._advance(joining, tokens)

    def _give_way(self, joining: list[Sequence]) -> None:
        """Memory does not suffice for as many: back to the queue's head, and fewer at a time from now on."""
        rows = len(self._batch.rows)
        self._allow(max(rows + len(joining) // 2, 1))
        self._put_back([*self._batch.evict(rows), *joining])

    def _step(self) -> None:
        rows = list(self._batch.rows)
        try:
            tokens = choose(self._batch.step(), rows)
        except Exception as error:  # noqa: BLE001 - see above
            if out_of_memory(error) and len(rows) > 1:
                self._allow(len(rows) // 2)
                self._put_back(self._batch.evict(self._rows_allowed))
            else:
                self._step_one_by_one(rows)
            return
        self._advance(rows, tokens)
        self._steps_well += 1
        if self._steps_well % RECOVERY_STEPS == 0:
            self._rows_allowed = min(self._rows_allowed + 1, self.limits.batch_size)

    def _step_one_by_one(self, rows: list[Sequence]) -> None:
        """Find the row on which the batch fails; the others get their token."""
        for sequence in rows:
            try:
                tokens = choose(self._batch.step(self._batch.rows.index(sequence), 1), [sequence])
            except Exception as error:  # noqa: BLE001 - see above
                self._fail(sequence, error)
            else:
                self._advance([sequence], tokens)

    def _advance(self, sequences: list[Sequence], tokens: list[int | None]) -> None:
        for sequence, token in zip(sequences, tokens, strict=True):
            if token is None:
                self._fail(sequence, ServingError("the model's numbers overflow on this prompt"))
                continue
            try:
                more, completion = sequence.append(token, self._tokenizer, self._ends)
            except Exception as error:  # noqa: BLE001 - see above
                self._fail(sequence, error)
                continue
            if more:
                self._events.append((sequence, more))
            if completion is not None:
                self._batch.remove(sequence)
                self._seconds_each += 0.1 * (time.monotonic() - sequence.started - self._seconds_each)
                self._events.append((sequence, completion))

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

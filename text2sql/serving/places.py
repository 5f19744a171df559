"""Who is being answered by a server and who waits for that: bounded, first come, first served, for one event loop."""

from __future__ import annotations

import asyncio
import math
import time
from typing import Literal

from text2sql.errors import EngineBusy, RequestError
from text2sql.serving.engine import Load


class Places:
    """`most_running` prompts are asked at a time; counts are completions, n a prompt."""

    def __init__(self, most_running: int, most_waiting: int) -> None:
        self.running = self.waiting = 0
        self.free = asyncio.Semaphore(most_running)
        self.seconds_each = 1.0
        """How long a prompt was being answered lately."""
        self._most = (most_running, most_waiting)

    def load(self) -> Load:
        return Load(self.running, self.waiting, *self._most)

    def admit(self, prompts: int, n: int) -> list[Place]:
        """A place for each prompt, all waiting.

        Raises:
            RequestError: there could never be as many.
            EngineBusy: there are not now.
        """
        room = sum(self._most)
        if prompts * n > room:
            raise RequestError(f"{prompts * n} completions at once are more than the {room} taken; ask for fewer")
        if self.running + self.waiting + prompts * n > room:
            raise EngineBusy(f"{self.waiting} completions wait already; ask again later", self.retry_after())
        return [Place(self, n) for _ in range(prompts)]

    def retry_after(self) -> float:
        """Seconds until those who wait now may have been answered, from 1 to 60."""
        return min(max(math.ceil(self.waiting * self.seconds_each / self._most[0]), 1), 60)


class Place:
    """Waiting, then running, then left. `leave` may be called at any time, and more than once."""

    def __init__(self, places: Places, n: int) -> None:
        self._places, self._n = places, n
        self._state: Literal["waiting", "running", "left"] = "waiting"
        self._begun = 0.0
        places.waiting += n

    async def take(self) -> None:
        """Wait for one's turn."""
        await self._places.free.acquire()
        self._places.waiting -= self._n
        self._places.running += self._n
        self._state, self._begun = "running", time.monotonic()

    def leave(self) -> None:
        places = self._places
        if self._state == "running":
            places.running -= self._n
            places.seconds_each += 0.1 * (time.monotonic() - self._begun - places.seconds_each)
            places.free.release()
        elif self._state == "waiting":
            places.waiting -= self._n
        self._state = "left"

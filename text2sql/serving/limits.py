"""How much is taken on: questions a key may ask, and questions in work at once."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from text2sql.serving.problems import Problem

if TYPE_CHECKING:
    from limits import RateLimitItem

MAX_RETRY_SECONDS = 3600


def parse_rate(text: str) -> RateLimitItem:
    """Such as 60/minute or 10 per 2 seconds.

    Raises:
        ValueError: it is none.
    """
    from limits import parse_many

    try:
        [rate] = parse_many(text)  # of several, `parse` would take the first and say nothing
    except ValueError:
        raise ValueError(f"{text!r} is no rate; write one, for instance 60/minute") from None
    return rate


class RateLimits:
    """Sliding windows in this process's memory; several servers behind one address count each for itself."""

    def __init__(self, default: str | None) -> None:
        from limits.storage import MemoryStorage
        from limits.strategies import MovingWindowRateLimiter

        self._default = parse_rate(default) if default else None
        self._limiter = MovingWindowRateLimiter(MemoryStorage())
        self._rates: dict[str, RateLimitItem] = {}

    def spend(self, who: str, cost: int = 1, rate: str | None = None) -> None:
        """Count `cost` questions.

        Raises:
            Problem: 429, with the seconds until there is room again.
        """
        item = self._rates.setdefault(rate, parse_rate(rate)) if rate else self._default
        if item is None or cost == 0:
            return
        if cost > item.amount:
            raise Problem(429, "rate_limited", f"{cost} questions at once are more than the rate of {item}")
        if not self._limiter.hit(item, who, cost=cost):
            reset = self._limiter.get_window_stats(item, who).reset_time - time.time()
            raise Problem(
                429,
                "rate_limited",
                f"the rate of {item} is used up; ask again later",
                retry_after=min(max(reset, 1.0), MAX_RETRY_SECONDS),
            )


class Places:
    """Questions, or whatever else they are for, in work: a bounded number, so that memory is bounded too."""

    def __init__(self, limit: int, of: str = "questions") -> None:
        self.limit = limit
        self.taken = 0
        self._of = of

    @contextlib.contextmanager
    def take(self, count: int = 1) -> Iterator[None]:
        """`count` of the places, while the context lasts.

        Raises:
            Problem: 429, there are not as many free.
        """
        if count > self.limit:
            raise Problem(400, "invalid_request", f"at most {self.limit} {self._of} are taken at once, not {count}")
        if self.taken + count > self.limit:
            raise Problem(
                429, "queue_full", f"{self.taken} {self._of} are in work already; ask again later", retry_after=1
            )
        self.taken += count
        try:
            yield
        finally:
            self.taken -= count

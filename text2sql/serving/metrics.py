"""What Prometheus reads at /metrics; a registry for each app. No label comes from a user."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from text2sql.errors import ServingError

if TYPE_CHECKING:
    from text2sql.serving.engine import Completion, Engine
    from text2sql.serving.limits import Places

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
_BATCH = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """The counters, and the registry that holds them."""

    def __init__(self, engine: Engine, places: Places) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "text2sql_requests", "Requests by route, method and status.", ("route", "method", "status"),
            registry=self.registry,
        )  # fmt: skip
        self.seconds = Histogram(
            "text2sql_request_seconds", "Time from a request's first byte to its answer's last.", ("route",),
            buckets=_SECONDS, registry=self.registry,
        )  # fmt: skip
        self.rejects = Counter(
            "text2sql_rejects", "Requests, streams and a batch's questions that ended in an error, by code.", ("code",),
            registry=self.registry,
        )  # fmt: skip
        self.tokens = Counter("text2sql_tokens", "Tokens read and generated.", ("kind",), registry=self.registry)
        self.answers = Counter(
            "text2sql_answers", "Answers by what the guard said.", ("valid", "repaired"), registry=self.registry
        )
        self.reasons = Counter(
            "text2sql_answer_faults", "What was wrong with answers, by reason code.", ("code",), registry=self.registry
        )
        self.batch = Histogram(
            "text2sql_batch_size", "Answers in generation together, seen whenever a question goes to the engine.",
            buckets=_BATCH, registry=self.registry,
        )  # fmt: skip
        self.registry.register(_Now(engine, places))

    def generated(self, completions: list[Completion]) -> None:
        """Count the tokens of a prompt's completions; the prompt itself once."""
        if completions:
            self.tokens.labels("prompt").inc(completions[0].prompt_tokens)
            self.tokens.labels("completion").inc(sum(completion.completion_tokens for completion in completions))

    def text(self) -> bytes:
        """In Prometheus's text format."""
        return generate_latest(self.registry)


class _Now(Collector):
    """Read when asked for."""

    def __init__(self, engine: Engine, places: Places) -> None:
        self._engine, self._places = engine, places

    def collect(self) -> Iterator[GaugeMetricFamily]:
        yield _gauge("text2sql_in_flight", "Questions in work, the waiting ones included.", self._places.taken)
        yield _gauge("text2sql_in_flight_limit", "Questions that may be.", self._places.limit)
        try:
            load = self._engine.load()
        except ServingError:  # not started yet, or dead
            return
        yield _gauge("text2sql_engine_running", "Answers in generation: the batch as it is now.", load.running)
        yield _gauge("text2sql_engine_running_limit", "Answers that may be.", load.max_running)
        yield _gauge("text2sql_engine_queue", "Answers that wait for a place in the batch.", load.waiting)
        yield _gauge("text2sql_engine_queue_limit", "Answers that may wait.", load.max_waiting)


def _gauge(name: str, words: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, words, value=value)

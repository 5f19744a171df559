"""Logs as JSON lines on stderr, of the server and of its libraries alike, without the users' data.

An exception is told by its type and where it came from: its message may quote a question, and what asyncio says of a
task or a callback that failed quotes it too. `log_content` lifts that.
"""

from __future__ import annotations

import logging
import re
import sys
import traceback
from collections.abc import MutableMapping
from typing import Any

import structlog

Event = MutableMapping[str, Any]


def configure_logs(level: str = "info", content: bool = False) -> None:
    """Take over the root logger."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        structlog.processors.dict_tracebacks if content else _bare_exception,
    ]
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.JSONRenderer(default=str),
        ],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in ("httpx", "httpcore", "asyncio", "uvicorn.error"):  # a line a request, with its URL; chatter
        logging.getLogger(name).setLevel(logging.WARNING)


def _bare_exception(_: Any, __: str, event: Event) -> Event:
    if event.get("logger") == "asyncio":
        event["event"] = re.split(r"[(\n]", str(event["event"]), maxsplit=1)[0]
    found = event.pop("exc_info", None)
    if found is True:
        found = sys.exc_info()
    if isinstance(found, BaseException):
        found = (type(found), found, found.__traceback__)
    if found and found[0] is not None:
        event["exception"] = found[0].__name__
        frames = traceback.extract_tb(found[2])[-8:]
        event["at"] = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
    return event

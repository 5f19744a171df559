"""What goes wrong is logged without the users' words."""

from __future__ import annotations

import asyncio
import json
import logging

import pytest

from text2sql.serving.logs import _bare_exception, configure_logs


def test_fault_of_ours_is_logged_without_its_message():
    try:
        raise ValueError("Who is Zaphod?")
    except ValueError:
        event = _bare_exception(None, "error", {"exc_info": True})
    assert event["exception"] == "ValueError"
    assert "test_logs.py" in event["at"][-1]
    assert "Zaphod" not in json.dumps(event)


def test_what_asyncio_says_of_a_fault_of_ours_is_logged_without_what_failed(capsys: pytest.CaptureFixture[str]):
    def fails(question: str) -> None:
        raise ValueError(f"cannot answer {question}")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.call_soon(fails, "Who is Zaphod?")
        loop.call_exception_handler({"message": "Task exception was never retrieved", "future": "Who is Zaphod?"})
        await asyncio.sleep(0)

    root, lines = logging.getLogger(), {}
    before = root.handlers[:], root.level
    try:
        for content in (False, True):
            configure_logs(content=content)
            asyncio.run(main())
            lines[content] = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    finally:
        root.handlers[:], root.level = before
    assert "Zaphod" in json.dumps(lines[True])
    assert "Zaphod" not in json.dumps(lines[False])
    told, failed = lines[False]
    assert told["event"] == "Task exception was never retrieved"
    assert failed["event"].startswith("Exception in callback test_what_asyncio_says")
    assert (failed["exception"], failed["logger"]) == ("ValueError", "asyncio")
    assert "fails" in failed["at"][-1]

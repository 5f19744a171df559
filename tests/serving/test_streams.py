"""A stream's work ends with its stream."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.requests import Request

from text2sql.serving.observe import Record
from text2sql.serving.streams import Send, event, event_stream


def test_work_ends_for_a_client_that_goes_before_its_first_word():
    """It leaves while the answer's head is on its way: nobody ever asks for what the stream holds."""
    ended: list[str] = []
    record = Record("an-id")
    scope = {"type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}}

    async def work(send: Send) -> None:
        send(event({"text": "SELECT"}, "token"))
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    async def waits(_message: Any = None) -> Any:
        await asyncio.Event().wait()

    async def is_gone() -> Any:
        return {"type": "http.disconnect"}

    async def main() -> None:
        response = await event_stream(Request(scope, waits), record, work, lambda _: b"")
        assert ended == []
        await response(scope, is_gone, waits)
        assert ended == ["cancelled"]

    asyncio.run(main())
    assert record.codes == ["client_gone"]

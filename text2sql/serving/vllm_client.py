"""HTTP to a vLLM server: what it says as JSON, and its faults as errors that say whose they are.

Closing the connection of a request makes vLLM abort it, so a cancelled task costs nothing on the server.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator
from typing import Any

import httpx

from text2sql.errors import EngineBusy, EngineDead, EngineTimeout, RequestError, ServingError

CONNECT_SECONDS = 5.0
RETRIES = 3
"""Of connections that were not made; what was sent once is never sent again."""


class VllmClient:
    """Belongs to the event loop that it is made in.

    Args:
        timeout: seconds for a request once it is sent, a stream to its end.
        connections: how many at a time.
    """

    def __init__(self, url: str, api_key: str | None, timeout: float, connections: int) -> None:
        self._timeout = timeout
        self._http = httpx.AsyncClient(
            base_url=url,
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=httpx.Timeout(timeout, connect=CONNECT_SECONDS, pool=None),
            # shorter than the server's own patience: a connection that it is about to close must not be used
            limits=httpx.Limits(max_connections=connections, keepalive_expiry=2.0),
            trust_env=False,  # no proxy to a server of our own
        )

    async def close(self) -> None:
        await self._http.aclose()

    async def get(self, path: str, timeout: float = CONNECT_SECONDS) -> httpx.Response:
        """Raises:
        ServingError: no successful reply comes.
        """
        return await self._send(self._http.build_request("GET", path, timeout=timeout))

    async def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        """What /v1/completions says.

        Raises:
            RequestError, EngineBusy, EngineTimeout, EngineDead
        """
        reply = await self._send(self._http.build_request("POST", "/v1/completions", json=body))
        return _object(reply.text)

    async def stream(self, body: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """The events of a completion as it grows; to be closed. Raises as `complete`, in the middle too."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._timeout
        request = self._http.build_request("POST", "/v1/completions", json=body | {"stream": True})
        reply = await self._send(request, stream=True)
        lines = reply.aiter_lines()
        try:
            while (line := await asyncio.wait_for(anext(lines, None), deadline - loop.time())) is not None:
                data = line.removeprefix("data:").strip()
                if not line.startswith("data:") or data == "[DONE]":
                    continue
                event = _object(data)
                if "error" in event:
                    raise ServingError(f"vLLM failed on this request: {_message(event)}")
                yield event
        except TimeoutError as error:
            raise EngineTimeout(f"the answer took more than {self._timeout:g} s") from error
        except httpx.HTTPError as error:
            raise _explained(error) from error
        finally:
            await reply.aclose()

    async def _send(self, request: httpx.Request, stream: bool = False) -> httpx.Response:
        """A successful reply, its body read unless it is streamed."""
        try:
            async with asyncio.timeout(self._timeout):
                reply = await self._sent(request, stream)
                if reply.is_success:
                    return reply
                await reply.aread()
        except TimeoutError as error:
            raise EngineTimeout(f"vLLM did not answer within {self._timeout:g} s") from error
        except httpx.HTTPError as error:
            raise _explained(error) from error
        raise _refusal(reply)

    async def _sent(self, request: httpx.Request, stream: bool) -> httpx.Response:
        for attempt in range(RETRIES):
            with contextlib.suppress(httpx.ConnectError, httpx.ConnectTimeout):
                return await self._http.send(request, stream=stream)
            await asyncio.sleep(0.1 * 2**attempt)
        return await self._http.send(request, stream=stream)


def _object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise EngineDead(f"vLLM answers with {text[:100]!r}, which is no JSON object")
    return found


def _explained(error: httpx.HTTPError) -> ServingError:
    if isinstance(error, httpx.TimeoutException) and not isinstance(error, httpx.ConnectTimeout):
        return EngineTimeout("vLLM did not answer in time")
    return EngineDead(f"vLLM cannot be reached ({type(error).__name__}: {error})")


def _refusal(reply: httpx.Response) -> ServingError:
    try:
        said = _message(reply.json())
    except ValueError:
        said = reply.text[:200]
    if reply.status_code in (429, 503):
        return EngineBusy(f"vLLM is busy: {said}")
    if reply.status_code in (400, 404, 413, 422):
        return RequestError(f"vLLM refuses this request: {said}")
    return EngineDead(f"vLLM answers with {reply.status_code}: {said}")


def _message(body: Any) -> str:
    error = body.get("error", body) if isinstance(body, dict) else body
    return " ".join(str(error.get("message", error) if isinstance(error, dict) else error).split())[:300]

"""Whether a vLLM server that runs gets on: it answers its health check, and makes tokens while it has work.

Its own health check is not enough: it says 200 while the engine behind it hangs (vllm#39863).
"""

from __future__ import annotations

import asyncio
import contextlib
import time

import httpx

POLLS = 10
"""In the time after which it counts as hanging."""
LONGEST_POLL = 10.0
IN_WORK = ("vllm:num_requests_running", "vllm:num_requests_waiting")
TOKENS = ("vllm:prompt_tokens_total", "vllm:generation_tokens_total")


async def until_it_hangs(url: str, seconds: float) -> str:
    """Why it counts as hanging, once there was no sign of life for so long; where its metrics cannot be read, health
    alone counts."""
    poll = min(seconds / POLLS, LONGEST_POLL)
    healthy = moved = time.monotonic()
    before = -1.0
    async with httpx.AsyncClient(base_url=url, timeout=poll, trust_env=False) as client:
        while True:
            await asyncio.sleep(poll)
            in_work = 0.0
            with contextlib.suppress(httpx.HTTPError, ValueError):
                if (await client.get("/health")).is_success:
                    healthy = time.monotonic()
                in_work, tokens = _read((await client.get("/metrics")).text)
                if not in_work or tokens != before:
                    before, moved = tokens, time.monotonic()
            if time.monotonic() - healthy > seconds:
                return f"vLLM did not answer its health check for {seconds:g} s"
            if in_work and time.monotonic() - moved > seconds:
                return f"vLLM made no token for {seconds:g} s, with {in_work:.0f} requests in work"


def _read(metrics: str) -> tuple[float, float]:
    """Requests in work, and tokens read and generated since it started."""
    found = [line.rsplit(" ", 1) for line in metrics.splitlines() if line.startswith(IN_WORK + TOKENS)]
    return (
        sum(float(value) for name, value in found if name.startswith(IN_WORK)),
        sum(float(value) for name, value in found if name.startswith(TOKENS)),
    )

"""Exit code 0 where vLLM, in this container, answers and gets on with its work; run by the probes of its container.

A 200 of /health says that its API answers. Whether its engine does shows in its counters: with requests under way,
tokens read or generated must have grown since they were last looked at, or at least within STUCK_SECONDS.
"""

import json
import sys
import time
import urllib.request
from pathlib import Path

URL = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8001"
SEEN = Path(sys.argv[2] if len(sys.argv) > 2 else "/tmp/vllm_gets_on.json")  # noqa: S108 - of the container
STUCK_SECONDS = float(sys.argv[3]) if len(sys.argv) > 3 else 60.0
SECONDS = 5.0
BUSY = ("vllm:num_requests_running", "vllm:num_requests_waiting")
DONE = ("vllm:prompt_tokens_total", "vllm:generation_tokens_total")


def ask(path: str) -> str:
    """The body of a 200."""
    with urllib.request.urlopen(URL + path, timeout=SECONDS) as reply:  # noqa: S310 - http on loopback
        return str(reply.read().decode())


def total(metrics: str, names: tuple[str, ...]) -> float:
    """Of these metrics, over all their labels."""
    samples = [line.rsplit(" ", 1) for line in metrics.splitlines() if line and not line.startswith("#")]
    return sum(float(value) for name, value in samples if name.partition("{")[0] in names)


def main() -> str:
    """Why it does not get on; "" where it does."""
    try:
        ask("/health")
        metrics = ask("/metrics")
    except OSError as error:
        return f"it does not answer: {error}"
    tokens, now = total(metrics, DONE), time.time()
    try:
        seen = json.loads(SEEN.read_text("utf-8"))
    except (OSError, ValueError):
        seen = {}
    if seen.get("tokens") != tokens or not total(metrics, BUSY):
        SEEN.write_text(json.dumps({"tokens": tokens, "since": now}), "utf-8")
        return ""
    stuck = now - float(seen["since"])
    return f"it has work, and made no token for {stuck:.0f} s" if stuck > STUCK_SECONDS else ""


if __name__ == "__main__":
    sys.exit(main() or 0)  # a text is printed, and exits with 1

"""vLLM's command line and environment, as pure functions of what is to be served."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from text2sql.errors import ModelError
from text2sql.serving.checkpoint import Checkpoint

LOOPBACK = "127.0.0.1"
KEPT = ("PATH", "HOME", "HF_HOME", "LANG", "TMPDIR", "TZ", "USER", "LD_LIBRARY_PATH")
KEPT_PREFIXES = ("LC_", "CUDA_", "NVIDIA_", "OMP_", "VLLM_", "XDG_")
QUIET = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1"}
"""No telemetry; and no hub: what is served lies on this machine."""
CPU_ARGUMENTS = (
    *("--gpu-memory-utilization", "0.2"),  # starts where less than nine tenths of the memory are free
    *("--distributed-executor-backend", "uni"),  # the worker in the engine's process: handing over costs more than work
)
CPU_ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # else vLLM 0.32 turns uni into mp on a CPU, and says nothing
}
EAGER = "--enforce-eager"
"""vLLM's argument for a model that is not compiled."""
NOT_COMPILED = {"TORCH_COMPILE_DISABLE": "1"}
"""What EAGER does not reach must not ask for a compiler either."""
COMPILED = {"VLLM_USE_AOT_COMPILE": "0"}
"""vLLM 0.32 cannot load on a CPU what that saves, and shares nothing between two folders of one kind of model."""
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Those that --max-lora-rank takes."""
OWNED = {
    **dict.fromkeys(("host", "uds"), "vLLM listens on loopback alone"),
    "port": "set port",
    **dict.fromkeys(("model", "model-tag", "lora-modules", "enable-lora", "max-lora-rank"), "set model and base"),
    "served-model-name": "set served_name",
    **dict.fromkeys(("revision", "tokenizer-revision", "code-revision", "hf-config-path"), "set revision"),
    "tokenizer": "it is the model's own",
    "trust-remote-code": "set trust_remote_code",
    "load-format": "weights are read from safetensors alone",
    "generation-config": "each request says how to draw",
    "api-key": "set VLLM_API_KEY in the environment",
    **dict.fromkeys(("config", "headless"), "give its arguments themselves"),
}
"""Arguments that are decided here, and what to do instead."""


def check_arguments(arguments: Sequence[str]) -> None:
    """Raises:
    ValueError: one of them is decided elsewhere, abbreviated or not, or the first is none.
    """
    if arguments and not arguments[0].startswith("-"):
        raise ValueError(f"{arguments[0]!r} is no argument of vLLM; they begin with --")
    for word in arguments:
        name = word.partition("=")[0].lstrip("-").replace("_", "-").lower()
        if not word.startswith("--") or not name:
            continue
        for owned, instead in OWNED.items():
            if name == f"no-{owned}" or owned.startswith(name):  # its parser takes abbreviations
                raise ValueError(f"--{owned} is not for vllm_arguments ({word!r}): {instead}")


def command(
    python: Path, checkpoint: Checkpoint, port: int, arguments: Sequence[str] = (), compiled: bool = False
) -> list[str]:
    """vLLM's command line. Its package for CPUs has no working `vllm` command, hence the module.

    Args:
        compiled: on a CPU, whether the model is compiled (vllm_compiler); a GPU's vLLM brings what it needs for that.
    """
    return [
        str(python.absolute()),
        *("-m", "vllm.entrypoints.openai.api_server"),
        *("--model", str(checkpoint.folder.absolute()), "--tokenizer", str(checkpoint.tokenizer.absolute())),
        *("--host", LOOPBACK, "--port", str(port)),
        *("--load-format", "safetensors"),  # never a pickle
        *("--generation-config", "vllm"),  # the request alone says how to draw
        "--disable-uvicorn-access-log",
        *(("--trust-remote-code",) if checkpoint.trust_remote_code else ()),
        *_names(checkpoint),
        *(CPU_ARGUMENTS if on_cpu(python) else ()),
        *((EAGER,) if on_cpu(python) and not compiled else ()),
        *arguments,
    ]


def _names(checkpoint: Checkpoint) -> list[str]:
    """Under which name the model answers. An adapter's base must have another one, which nobody is told."""
    name, adapter = checkpoint.name, checkpoint.adapter
    if adapter is None:
        return ["--served-model-name", name]
    rank = next((rank for rank in RANKS if rank >= checkpoint.rank), None)
    if rank is None:
        raise ModelError(
            f"adapter {str(adapter)!r} has rank {checkpoint.rank}, and vLLM takes at most {RANKS[-1]}; merge it, or "
            "serve it with transformers"
        )
    module = json.dumps({"name": name, "path": str(adapter.absolute())})
    return [
        *("--served-model-name", f"{name}-base", "--enable-lora"),
        *("--lora-modules", module, "--max-lora-rank", str(rank)),
    ]


def on_cpu(python: Path) -> bool:
    """Whether an environment holds vLLM's build for CPUs."""
    return any(python.absolute().parents[1].glob("lib/python*/site-packages/vllm_cpu-*.dist-info"))


def asks_for_eager(arguments: Sequence[str]) -> bool:
    """Whether the model is not to be compiled; vLLM's parser takes abbreviations and underscores."""
    names = [word.partition("=")[0].replace("_", "-") for word in arguments if word.startswith("--enf")]
    return any(EAGER.startswith(name) for name in names)


def environment(python: Path | None = None, cache: Path | None = None) -> dict[str, str]:
    """What vLLM needs of ours, and nothing else: no keys of the API, no cloud credentials, no token of the hub.

    Args:
        cache: on a CPU, where what is compiled is kept; None: nothing is.
    """
    kept = {name: value for name, value in os.environ.items() if name in KEPT or name.startswith(KEPT_PREFIXES)}
    if python is None or not on_cpu(python):
        return kept | QUIET
    compiled = COMPILED | {"TORCHINDUCTOR_CACHE_DIR": str(cache)} if cache else NOT_COMPILED
    return CPU_ENVIRONMENT | compiled | kept | QUIET

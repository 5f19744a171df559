"""Whether vLLM can compile the model on a CPU (torch.compile), which makes it half as fast again.

torch's inductor writes C++ and builds it when vLLM starts: it takes a compiler with OpenMP, and the headers of the
Python that vLLM runs on. What it has built is kept, so that only the first start of a kind of model waits for it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

COMPILER = "g++"
"""What inductor calls where CXX does not name another, and vLLM is given no CXX."""
PROGRAM = "#include <Python.h>\n#include <omp.h>\nint threads() { return omp_get_max_threads(); }\n"
SECONDS = 60


def compiler_fault(python: Path, environment: Mapping[str, str]) -> str | None:
    """Why nothing can be compiled for this Python, in a few words; None: it works, as was tried.

    Args:
        environment: what vLLM gets; a compiler that only this process's variables help is none.
    """
    compiler = shutil.which(COMPILER, path=environment.get("PATH"))
    if compiler is None:
        return f"there is no {COMPILER}"
    include = [str(python.absolute()), "-Ic", "import sysconfig; print(sysconfig.get_path('include'))"]
    try:
        headers = _run(include, environment).strip()
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "probe.cpp")
            source.write_text(PROGRAM)
            library = f"{folder}/probe.so"
            _run([compiler, "-shared", "-fPIC", "-fopenmp", f"-I{headers}", str(source), "-o", library], environment)
    except subprocess.CalledProcessError as error:
        lines = [line for line in error.stderr.splitlines() if "error" in line] or error.stderr.splitlines() or ["?"]
        return f"{Path(error.cmd[0]).name} says {lines[0][:200]}"
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{COMPILER} cannot be tried: {error}"
    return None


def _run(words: list[str], environment: Mapping[str, str]) -> str:
    options = {"encoding": "utf-8", "errors": "replace", "env": {**environment, "LC_ALL": "C"}}
    return str(subprocess.run(words, capture_output=True, timeout=SECONDS, check=True, **options).stdout)  # type: ignore[call-overload]


def kept_in() -> Path | None:
    """Where what inductor built is kept: beside vLLM's own cache. None: nothing can be written there."""
    try:
        home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        folder = Path(os.environ.get("VLLM_CACHE_ROOT") or Path(home, "vllm")).expanduser() / "inductor"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # or this user has no home
        return None
    return folder if os.access(folder, os.W_OK) else None

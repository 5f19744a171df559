"""Whether vLLM can compile the model on a CPU (torch.compile), which makes it half as fast again.

torch's inductor writes C++ and builds it when vLLM starts: it takes a compiler with OpenMP, and the headers of the
Python that vLLM runs on. What it has built is kept, so that only the first start of a kind of model waits for it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

COMPILER = "g++"
"""What inductor calls where CXX does not name another, and vLLM is given no CXX."""
PROGRAM = "#include <Python.h>\n#include <omp.h>\nint threads() { return omp_get_max_threads(); }\n"
SECONDS = 60
EAGER = "--enforce-eager"
"""vLLM's argument for a model that is not compiled."""


def compiler_fault(python: Path) -> str | None:
    """Why nothing can be compiled for this Python, in a few words; None: it works, as was tried."""
    compiler = shutil.which(COMPILER)
    if compiler is None:
        return f"there is no {COMPILER}"
    include = [str(python.absolute()), "-Ic", "import sysconfig; print(sysconfig.get_path('include'))"]
    try:
        headers = subprocess.run(include, capture_output=True, text=True, timeout=SECONDS, check=True).stdout.strip()
        with tempfile.TemporaryDirectory() as folder:
            build = [compiler, "-shared", "-fPIC", "-fopenmp", f"-I{headers}", "-xc++", "-", "-o", f"{folder}/probe.so"]
            subprocess.run(build, input=PROGRAM, capture_output=True, text=True, timeout=SECONDS, check=True)
    except subprocess.CalledProcessError as error:
        lines = [line for line in error.stderr.splitlines() if "error" in line] or error.stderr.splitlines() or ["?"]
        return f"{Path(error.cmd[0]).name} says {lines[0][:200]}"
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{COMPILER} cannot be tried: {error}"
    return None


def kept_in() -> Path | None:
    """Where what inductor built is kept: beside vLLM's own cache. None: nothing can be written there."""
    try:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"  # as vLLM looks for it
        folder = Path(os.environ.get("VLLM_CACHE_ROOT") or Path(home, "vllm")) / "inductor"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # or this user has no home
        return None
    return folder if os.access(folder, os.W_OK) else None

"""Python commands as processes of their own, forked from one that has imported what all of them need: importing it anew
took most of the time of these tests.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

PROJECT = Path(__file__).parents[2]

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(["tests.stacks.imported"])


def python(words: Sequence[str], env: Mapping[str, str], cold: bool = False) -> subprocess.CompletedProcess[str]:
    """`python WORDS` (-m or -c) in the project's root.

    Args:
        env: all of its environment.
        cold: a new interpreter, which imports everything itself.
    """
    if cold:
        command = [sys.executable, *words]
        return subprocess.run(command, cwd=PROJECT, env=env, capture_output=True, text=True, check=False)
    with tempfile.TemporaryDirectory() as folder:
        streams = [Path(folder, name) for name in ("stdout", "stderr")]
        process = _forks.Process(target=_become, args=([*words], dict(env), streams))
        process.start()
        process.join()
        out, err = (path.read_text("utf-8") if path.exists() else "" for path in streams)
    return subprocess.CompletedProcess(words, process.exitcode or 0, out, err)


def _become(words: list[str], env: dict[str, str], streams: list[Path]) -> None:
    for descriptor, path in enumerate(streams, start=1):
        os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND), descriptor)
    from kubernetes.config import kube_config

    os.chdir(PROJECT)
    os.environ.clear()
    os.environ.update(env)
    kube_config.KUBE_CONFIG_DEFAULT_LOCATION = env.get("KUBECONFIG", "~/.kube/config")  # read when it was imported
    option, program, *arguments = words
    sys.argv = [option, *arguments]
    if option == "-m":
        runpy.run_module(program, run_name="__main__", alter_sys=True)
    else:
        exec(compile(program, "<string>", "exec"), {"__name__": "__main__"})  # noqa: S102 - what python -c does

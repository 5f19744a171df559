"""The benchmark for GPUs runs end to end without one: all of it but the CUDA kernels."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "variants"),
    [
        (["--part", "train-qlora"], 5),
        (["--part", "train-bf16", "--part", "train-8bit", "--part", "generate", "--plain-loop"], 5),
    ],
    ids=["library", "loop"],
)
def test_on_a_tiny_shape(tmp_path: Path, arguments: list[str], variants: int):
    output = tmp_path / "gpu.json"
    command = [sys.executable, "benchmarks/gpu.py", "--shape", "tiny", "--steps", "1", "--output", str(output)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, *arguments], capture_output=True, text=True, check=False, cwd=ROOT, env=environment
    )
    assert done.returncode == 0, done.stderr
    parts = json.loads(output.read_text())["parts"]
    trained = parts[arguments[1]]
    assert len(trained["rows"]) == variants
    assert list(trained["left_out"]) == ["grouped by length, Liger"]
    for row in trained["rows"]:
        assert row["tokens_per_second"] > 0
        assert 0 < row["grad_norm"] < 100
        assert 6 < row["last_loss"] < 9, "near ln 2304, what random weights know"
        assert 0.5 < row["useful_share"] <= 1
    if "generate" in parts:
        assert parts["train-8bit"]["rows"] == []
        assert all("needs CUDA" in why for why in parts["train-8bit"]["left_out"].values() if "installed" not in why)
        assert parts["generate"]["batches"]["16"] > parts["generate"]["alone"]
    assert "| plain recipe |" in output.with_suffix(".md").read_text()

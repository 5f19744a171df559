"""Arithmetic, hours and money of a run on a device.

A token costs 2 operations a weight forward and 2 backward, for a frozen weight passes a gradient on and gets none
(6 in all where it is trained: Kaplan et al. 2020, section 2.1), attention 4 operations a pair of positions and width,
half of them under a causal mask. Recomputing activations adds a forward pass. Weights in 4 bits are written out in
16 bits once a pass, which takes memory bandwidth and is what makes small micro-batches slow.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from text2sql.training.planner.memory import Method, weights
from text2sql.training.planner.shape import Shape
from text2sql.training.planner.workload import Workload

DEVICES = Path(__file__).with_name("devices.yaml")
MFU = 0.4
"""Share of a device's peak that is reached, recomputation counted: an assumption. benchmarks/gpu.py measures it."""


@dataclass(frozen=True)
class Device:
    """A line of devices.yaml; memory in GiB, peak in 10^12 operations a second, price an hour."""

    name: str
    memory_gib: float
    tflops: float
    bandwidth_gb: float
    flash: bool
    """Whether FlashAttention 2 runs on it."""
    price: float


@dataclass(frozen=True)
class Cost:
    """Of the training steps alone, on one device: no loading, no validation, no evaluation."""

    hours: float
    money: float
    tokens_per_second: float
    """Without padding."""
    dequantising: float
    """Share of the time that goes into writing 4-bit weights out."""


def read_devices() -> tuple[tuple[Device, ...], str, str]:
    """The known devices, what prices are in, and how old they are."""
    found: dict[str, Any] = yaml.safe_load(DEVICES.read_text(encoding="utf-8"))
    devices = tuple(Device(name=name, **values) for name, values in found["devices"].items())
    return devices, str(found["currency"]), str(found["prices_as_of"])


def operations(shape: Shape, method: Method, workload: Workload, recomputed: bool) -> float:
    """Floating-point operations of all steps, padding left out of nothing: it is computed like everything else."""
    scored = {"full": workload.padded}.get(method.loss, workload.scored)
    length = workload.padded / max(workload.passes * workload.largest.rows, 1)
    head = scored * shape.head_inputs * shape.vocabulary
    inside = workload.padded * shape.linear_parameters
    pairs = workload.padded * length / 2 * 2 * shape.heads * shape.head_size * shape.layers  # QK and AV, causal
    adapter = workload.padded * shape.adapter_parameters(method.rank, method.targets)
    forward = 2 * (inside + head + pairs + adapter)
    backward = 2 * (inside + head + 2 * pairs + 2 * adapter)
    again = 2 * (inside + pairs + adapter) if method.checkpointing and recomputed else 0.0
    return forward + backward + again


def cost(
    shape: Shape, method: Method, workload: Workload, device: Device, mfu: float = MFU, price: float | None = None
) -> Cost:
    """What all steps take on one device."""
    computing = operations(shape, method, workload, recomputed=True) / (device.tflops * 1e12 * mfu)
    passes = workload.passes * (3 if method.checkpointing else 2)
    quantised, _ = weights(shape, method)
    written = quantised + method.width * shape.linear_parameters if method.bits == 4 else 0.0
    dequantising = passes * written / (device.bandwidth_gb * 1e9)
    seconds = computing + dequantising
    return Cost(
        hours=seconds / 3600,
        money=seconds / 3600 * (device.price if price is None else price),
        tokens_per_second=workload.tokens / seconds,
        dequantising=dequantising / seconds,
    )

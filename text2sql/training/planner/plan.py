"""The plan of a run: what it takes, where it fits, and what to change where it does not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from text2sql.config import Settings
from text2sql.training.planner.cost import MFU, Cost, Device, cost, operations, read_devices
from text2sql.training.planner.memory import UNQUANTISED, WEIGHTS, Memory, Method, MicroBatch, estimate
from text2sql.training.planner.shape import Shape, shape_of
from text2sql.training.planner.workload import Workload, workload_of

if TYPE_CHECKING:
    import torch

GIB = 2**30
CONTEXT, FRAGMENTS = "CUDA context and libraries", "fragmentation allowance"
CONTEXT_BYTES = 0.7 * GIB
"""Driver, kernels and cuBLAS workspaces, which no allocator of torch's counts: an allowance."""
FRAGMENTED = 0.08
"""Share of what is allocated and freed in every step that the caching allocator cannot use again: an allowance."""
MARGIN = 0.15
"""By how much what training adds to the loaded weights may be more than planned, as benchmarks/memory.py claims."""


@dataclass(frozen=True)
class OnDevice:
    """One device: what it would hold at the peak, and what the run would cost on it."""

    device: Device
    memory: Memory
    checkpointing: bool
    """As training.gradient_checkpointing says, or as auto would choose here."""
    fits: bool
    cost: Cost
    largest_rows: int
    """Rows a micro-batch that would fit, as things are."""
    changes: tuple[str, ...]
    """Settings that make it fit, or that make it faster where there is room; may be none."""


@dataclass(frozen=True)
class Plan:
    """All of it."""

    shape: Shape
    method: Method
    adapter: int
    """Trained parameters."""
    workload: Workload
    teraflop: float
    """10^12 operations of all steps, without recomputation."""
    devices: tuple[OnDevice, ...]
    automatic: bool
    """Whether each device's checkpointing is what auto would choose on it."""
    mfu: float
    currency: str
    prices_as_of: str

    def to_dict(self) -> dict[str, Any]:
        """As JSON: bytes, hours and money as numbers, every assumption beside them."""
        return {
            "model": {**asdict(self.shape), "trainable": self.adapter, "trainable_share": self.trainable_share},
            "method": {k: v for k, v in asdict(self.method).items() if k != "checkpointing"},  # each device's own
            "workload": asdict(self.workload),
            "teraflop": self.teraflop,
            "assumptions": {
                "mfu": self.mfu,
                "prices_as_of": self.prices_as_of,
                "currency": self.currency,
                "context_bytes": CONTEXT_BYTES,
                "fragmented_share": FRAGMENTED,
                "measured": False,
            },
            "devices": [
                {
                    **asdict(found.device),
                    "memory_bytes": {**found.memory.parts, "total": found.memory.total},
                    "checkpointing": found.checkpointing,
                    "fits": found.fits,
                    "largest_rows": found.largest_rows,
                    "changes": list(found.changes),
                    **asdict(found.cost),
                }
                for found in self.devices
            ],
        }

    @property
    def trainable_share(self) -> float:
        """Of all parameters, the adapter's among them."""
        return self.adapter / (self.shape.parameters + self.adapter)


def plan_run(
    settings: Settings,
    device: str | None = None,
    mfu: float = MFU,
    price: float | None = None,
    rows: int | None = None,
    tokens: int | None = None,
) -> Plan:
    """Plan a run on one device of devices.yaml, or on each of them.

    Args:
        mfu: share of a device's peak that is assumed to be reached.
        price: of an hour, in place of the listed one.
        rows, tokens: as for workload_of.

    Raises:
        ModelError, DataError, TrainingError: model or rows cannot be had, or do not go with the settings.
    """
    shape = shape_of(settings.model)
    known, currency, as_of = read_devices()
    chosen = [found for found in known if device in (None, found.name)]
    workload = workload_of(settings, rows=rows, tokens=tokens)
    placed = tuple(_place(shape, settings, workload, found, mfu, price) for found in chosen)
    method = gpu_method(settings, chosen[0])
    return Plan(
        shape=shape,
        method=method,
        adapter=shape.adapter_parameters(method.rank, method.targets),
        workload=workload,
        teraflop=operations(shape, method, workload, recomputed=False) / 1e12,
        devices=placed,
        automatic=settings.training.gradient_checkpointing == "auto",
        mfu=mfu,
        currency=currency,
        prices_as_of=as_of,
    )


def method_of(settings: Settings, device: torch.device, copied: bool = False, flash: bool = False) -> Method:
    """How the settings train on the device at hand; `copied` where 4-bit weights are de-quantised once."""
    from text2sql.training.model import resolve_precision

    precision = resolve_precision(settings.training.precision, device)
    found = _method(settings, precision, cuda=device.type == "cuda", flash=flash)
    return replace(found, bits=16) if copied else found


def gpu_method(settings: Settings, device: Device) -> Method:
    """How they would train on a GPU that need not be here."""
    precision = "fp32" if settings.training.precision == "fp32" else "16 bit"
    return _method(settings, precision, cuda=True, flash=device.flash)


def _method(settings: Settings, precision: str, cuda: bool, flash: bool) -> Method:
    model, lora, training = settings.model, settings.lora, settings.training
    return Method(
        bits=model.quantization_bits,
        nested=model.use_nested_quant,
        width=4 if precision == "fp32" else 2,
        rank=lora.r,
        targets=tuple(lora.target_modules),
        dropout=lora.lora_dropout,
        checkpointing=training.gradient_checkpointing is True,
        attention="flash_attention_2" if flash and training.packing else "sdpa",
        loss="chunked" if cuda else "completion",
        optimizer=training.optim,
        cuda=cuda,
    )


def on_gpu(shape: Shape, settings: Settings, batch: MicroBatch, device: Device) -> Memory:
    """Memory on a GPU, driver and allocator included."""
    found = fragmented(estimate(shape, gpu_method(settings, device), batch))
    return Memory({**found.parts, CONTEXT: CONTEXT_BYTES})


def fragmented(memory: Memory) -> Memory:
    """… with what the caching allocator of a GPU cannot use again."""
    return Memory({**memory.parts, FRAGMENTS: FRAGMENTED * memory.activation_like})


def added(memory: Memory) -> float:
    """Bytes that come to the loaded weights while training."""
    return memory.total - sum(memory.parts.get(name, 0.0) for name in (WEIGHTS, UNQUANTISED, CONTEXT))


def leaves_room(memory: Memory, free: float) -> bool:
    """Whether training fits into what is free beside the loaded weights, if the plan is too low by its margin."""
    return added(memory) * (1 + MARGIN) <= free


def settled(shape: Shape, settings: Settings, batch: MicroBatch, device: Device) -> Settings:
    """With gradient_checkpointing auto replaced by what it would choose on a device that does nothing else."""
    if settings.training.gradient_checkpointing != "auto":
        return settings
    kept = _set(settings, "training", gradient_checkpointing=False)
    memory = on_gpu(shape, kept, batch, device)
    there = memory.total - added(memory)
    fits = leaves_room(memory, device.memory_gib * GIB - there)
    return kept if fits else _set(settings, "training", gradient_checkpointing=True)


def _place(
    shape: Shape, settings: Settings, workload: Workload, device: Device, mfu: float, price: float | None
) -> OnDevice:
    largest_rows = _largest_rows(shape, settings, workload, device)
    settings = settled(shape, settings, workload.largest, device)
    memory = on_gpu(shape, settings, workload.largest, device)
    fits = memory.total <= device.memory_gib * GIB
    changes = _faster(shape, settings, workload, device) if fits else _smaller(shape, settings, workload, device)
    return OnDevice(
        device=device,
        memory=memory,
        checkpointing=settings.training.gradient_checkpointing is True,
        fits=fits,
        cost=cost(shape, gpu_method(settings, device), workload, device, mfu, price),
        largest_rows=largest_rows,
        changes=changes,
    )


def _with_rows(batch: MicroBatch, rows: int) -> MicroBatch:
    return MicroBatch(rows, batch.length, -(-batch.scored * rows // batch.rows), batch.masked)


def _largest_rows(shape: Shape, settings: Settings, workload: Workload, device: Device) -> int:
    """Memory is linear in rows but for the fused loss's tile, so doubling and halving finds it.

    Under auto this is with checkpointing, which that falls back to.
    """

    def fits(rows: int) -> bool:
        batch = _with_rows(workload.largest, rows)
        return on_gpu(shape, settled(shape, settings, batch, device), batch, device).total <= device.memory_gib * GIB

    if not fits(1):
        return 0
    low, high = 1, 2
    while fits(high) and high < 2**14:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _set(settings: Settings, section: str, **values: Any) -> Settings:
    part = getattr(settings, section).model_copy(update=values)
    return settings.model_copy(update={section: part})


def _smaller(shape: Shape, settings: Settings, workload: Workload, device: Device) -> tuple[str, ...]:
    """The first of ever larger changes after which it fits, as --set takes them; none if nothing here helps."""
    said: dict[str, Any] = {}
    for section, values in _steps_down(settings):
        settings = _set(settings, section, **values)
        said |= {f"{section}.{key}": value for key, value in values.items()}
        batch = _with_rows(workload.largest, settings.training.per_device_train_batch_size)
        if on_gpu(shape, settings, batch, device).total <= device.memory_gib * GIB:
            return tuple(f"{key}={_yaml(value)}" for key, value in said.items())
    return ()


def _steps_down(settings: Settings) -> Iterator[tuple[str, dict[str, Any]]]:
    training = settings.training
    if not training.gradient_checkpointing:
        yield "training", {"gradient_checkpointing": True}
    rows, passes = training.per_device_train_batch_size, training.gradient_accumulation_steps
    while rows > 1:
        rows, passes = -(-rows // 2), passes * 2
        yield "training", {"per_device_train_batch_size": rows, "gradient_accumulation_steps": passes}
    if training.precision == "fp32":
        yield "training", {"precision": "auto"}
    if settings.model.quantization_bits != 4:
        yield "model", {"quantization_bits": 4}
    if "8bit" not in training.optim:
        yield "training", {"optim": "paged_adamw_8bit"}


def _faster(shape: Shape, settings: Settings, workload: Workload, device: Device) -> tuple[str, ...]:
    """Activations kept rather than computed again, where auto would."""
    if settings.training.gradient_checkpointing is not True:
        return ()
    chosen = settled(shape, _set(settings, "training", gradient_checkpointing="auto"), workload.largest, device)
    return () if chosen.training.gradient_checkpointing else ("training.gradient_checkpointing=auto",)


def _yaml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)

"""What a run will take: counts that are exact, memory held against measured peaks, and advice that is right."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from typer.testing import CliRunner

from tests.training_fixtures import tiny_settings
from text2sql.__main__ import app
from text2sql.config import ModelSection, Settings
from text2sql.config_file import load_settings
from text2sql.errors import DataError, TrainingError
from text2sql.training.planner.cost import cost, operations, read_devices
from text2sql.training.planner.memory import (
    ACTIVATIONS,
    OPTIMIZER,
    Method,
    MicroBatch,
    estimate,
    optimizer_work,
    weights,
)
from text2sql.training.planner.plan import GIB, MARGIN, added, gpu_method, method_of, on_gpu, plan_run
from text2sql.training.planner.shape import Shape, shape_of
from text2sql.training.planner.workload import Row, padded, workload_of

if TYPE_CHECKING:
    from text2sql.training.finetune import TrainedAdapter

ROOT = Path(__file__).parents[2]
MISTRAL = ROOT / "configs" / "mistral_7b.yaml"
DEVICES = {device.name: device for device in read_devices()[0]}


@pytest.fixture(scope="module")
def mistral() -> Shape:
    """Built in: nothing is asked of the hub."""
    return shape_of(ModelSection())


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> Any:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "getaddrinfo", refused)


@pytest.mark.usefixtures("no_network")
def test_mistral_7b_is_counted_exactly_without_its_weights(mistral: Shape):
    assert mistral.parameters == 7_241_732_096
    assert mistral.adapter_parameters(16, Settings().lora.target_modules) == 41_943_040
    assert "built in" in mistral.source


def test_counts_are_those_of_a_training(trained: TrainedAdapter, tiny_model: Path, tmp_path: Path):
    settings = tiny_settings(tiny_model, tmp_path)
    shape = shape_of(settings.model)
    adapter = shape.adapter_parameters(settings.lora.r, settings.lora.target_modules)
    assert adapter == trained.trainable_parameters
    assert shape.parameters + adapter == trained.total_parameters


@pytest.mark.parametrize("nested", [True, False])
def test_bytes_of_nf4_weights(tiny_model: Path, tmp_path: Path, nested: bool):
    from text2sql.training.model import load_base

    settings = tiny_settings(tiny_model, tmp_path, model={"use_nested_quant": nested})
    shape, seen = shape_of(settings.model), 0
    for module in load_base(settings.model, settings.training).modules():
        if state := getattr(getattr(module, "weight", None), "quant_state", None):
            constants = [state.absmax, state.state2.absmax] if nested else [state.absmax]
            seen += sum(tensor.nbytes for tensor in (module.weight, *constants))
    planned, _ = weights(shape, method(nested=nested))
    assert planned == pytest.approx(seen, rel=0.01)


def method(**changes: Any) -> Method:
    values: dict[str, Any] = {
        "bits": 4,
        "nested": True,
        "width": 2,
        "rank": 16,
        "targets": Settings().lora.target_modules,
        "dropout": 0.0,
        "checkpointing": False,
        "attention": "sdpa",
        "loss": "chunked",
        "optimizer": "auto",
        "cuda": True,
    }
    return Method(**{**values, **changes})


def test_bits_a_weight_are_those_of_the_paper(mistral: Shape):
    """Dettmers et al. 2023: constants cost 0.5 bits a parameter, with double quantisation 0.127."""
    for nested, constants in ((False, 0.5), (True, 0.127)):
        quantised, _ = weights(mistral, method(nested=nested))
        assert 8 * quantised / mistral.linear_parameters == pytest.approx(4 + constants, abs=1e-3)


@pytest.mark.parametrize(
    ("less", "more"),
    [
        ({"checkpointing": True}, {}),
        ({"loss": "completion"}, {"loss": "full"}),
        ({}, {"loss": "full"}),
        ({"optimizer": "muon"}, {}),
        ({}, {"dropout": 0.1}),
        ({"optimizer": "paged_adamw_8bit"}, {}),
        ({}, {"bits": 8}),
        ({"bits": 8}, {"bits": 16}),
        ({"attention": "flash_attention_2"}, {}),
        ({}, {"attention": "eager"}),
    ],
    ids=str,
)
def test_what_takes_more(mistral: Shape, less: dict[str, Any], more: dict[str, Any]):
    batch = MicroBatch(8, 512, 1024)
    assert estimate(mistral, method(**less), batch).total < estimate(mistral, method(**more), batch).total


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads peaks from /proc")
def test_memory_is_within_15_percent_of_measured_peaks():
    names = ["NF4, 8 rows, checkpointing", "NF4 de-quantised once, 2 rows, rank 128, Muon"]
    command = [sys.executable, "benchmarks/memory.py", "--json", "--settings", *names]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env=environment)
    found = json.loads(done.stdout)
    assert set(found) >= set(names)
    errors = {name: figures["planned"] / figures["seen"] - 1 for name, figures in found.items()}
    assert max(map(abs, errors.values())) < 0.15, errors


def test_tokens_are_counted_where_the_rows_are_here():
    from text2sql.data.load import load_rows
    from text2sql.data.prompt import encode_rows, format_split
    from text2sql.training.model import load_tokenizer

    settings = load_settings(
        ROOT / "configs" / "tiny.yaml", ["data.synthetic.rows=200", "model.name=assets/tiny-mistral"]
    )
    settings = settings.model_copy(update={"model": ModelSection(name=str(ROOT / settings.model.name))})
    found = workload_of(settings)
    rows = format_split(load_rows(settings.data), settings.data.prompt_template)
    encoded = encode_rows(load_tokenizer(settings.model), rows["prompt"][:], rows["completion"][:])
    lengths = [len(row["input_ids"]) for row in encoded]
    assert found.rows == 191
    assert found.tokens == pytest.approx(191 * sum(lengths) / 200, abs=1)
    assert found.steps == 12
    assert found.largest.length == max(lengths)
    assert found.tokens < found.padded < 1.2 * found.tokens
    assert found.source.startswith("counted: 200 rows")


def test_what_is_not_here_is_assumed_and_said(mistral: Shape):
    found = workload_of(load_settings(MISTRAL, ["data.subset_fraction=1.0"]))
    assert found.rows == round(78_577 * 0.8)
    assert found.source.startswith("ASSUMED")
    assert found.largest.tokens == 4 * 512
    asked = workload_of(load_settings(MISTRAL), rows=1000, tokens=200)
    assert (asked.rows, asked.tokens, asked.steps) == (1000, 600_000, 3 * 63)
    with pytest.raises(DataError, match="--rows"):
        workload_of(load_settings(MISTRAL, ["data.dataset_name=some/rows"]))
    with pytest.raises(TrainingError, match=r"raise training\.max_length"):
        workload_of(load_settings(MISTRAL), rows=10, tokens=600)


def test_large_batches_are_taken_in_parts():
    whole, parts = (
        workload_of(load_settings(MISTRAL, [f"training.micro_batch_tokens={limit}"]), rows=1000, tokens=200)
        for limit in ("null", "600")
    )
    assert (whole.largest.rows, parts.largest.rows) == (4, 1), "the longest may have 512"
    assert parts.steps == whole.steps
    assert parts.passes > 1.3 * whole.passes


def test_rows_of_like_length_need_less_padding():
    rows = [Row(length, 1) for length in (10, 100)] * 52
    assert padded(rows, 8, 4, grouped=True) == 55
    assert padded(rows, 8, 4, grouped=False) > 80


def test_hours_and_money(mistral: Shape):
    settings = load_settings(MISTRAL, ["training.gradient_checkpointing=true"])
    work, how = workload_of(settings), gpu_method(settings, DEVICES["A100-80GB"])
    slow, fast = (cost(mistral, how, work, DEVICES["A100-80GB"], mfu) for mfu in (0.2, 0.4))
    assert slow.hours * (1 - slow.dequantising) == pytest.approx(2 * fast.hours * (1 - fast.dequantising))
    assert fast.money == pytest.approx(fast.hours * DEVICES["A100-80GB"].price)
    assert cost(mistral, how, work, DEVICES["A100-80GB"], 0.4, price=10).money == pytest.approx(10 * fast.hours)
    a_token = operations(mistral, how, work, recomputed=False) / work.padded
    assert 4 * mistral.linear_parameters < a_token < 4.2 * mistral.parameters
    assert operations(mistral, how, work, recomputed=True) == pytest.approx(a_token * work.padded * 1.5, rel=0.02), (
        "another forward pass"
    )


@pytest.mark.parametrize("device", ["T4", "A100-80GB"])
def test_advice_where_it_does_not_fit_is_right(mistral: Shape, device: str):
    changes = [
        "training.per_device_train_batch_size=256",
        "training.gradient_checkpointing=false",
        "model.quantization_bits=16",
    ]
    [found] = plan_run(load_settings(MISTRAL, changes), device).devices
    assert not found.fits
    assert found.largest_rows < 256
    mended = load_settings(MISTRAL, [*changes, *found.changes])
    [again] = plan_run(mended, device).devices
    assert again.fits
    training = mended.training
    assert training.per_device_train_batch_size * training.gradient_accumulation_steps == 256 * 4


def test_each_device_gets_what_auto_would_choose(mistral: Shape):
    """Kept where weights and 1.15 times what training adds fit; and then as it would be if that were set."""
    chosen = {found.device.name: found for found in plan_run(load_settings(MISTRAL)).devices}
    assert {name: found.checkpointing for name, found in chosen.items()} == {
        "T4": True,
        "A10": True,
        "A100-40GB": False,
        "A100-80GB": False,
        "H100": False,
        "H200": False,
    }
    for asked in (True, False):
        settings = load_settings(MISTRAL, [f"training.gradient_checkpointing={str(asked).lower()}"])
        for found in plan_run(settings).devices:
            auto = chosen[found.device.name]
            assert found.checkpointing is asked
            if auto.checkpointing is asked:
                assert (found.memory, found.cost) == (auto.memory, auto.cost)
            room = found.device.memory_gib * GIB - (found.memory.total - added(found.memory))
            if not asked:
                assert auto.checkpointing is (added(found.memory) * (1 + MARGIN) > room)
            assert found.changes == (
                ("training.gradient_checkpointing=auto",)
                if asked and not auto.checkpointing
                else found.changes
                if not found.fits
                else ()
            )


def test_a_copy_in_numbers_is_counted_in_place_of_4_bits(tiny_model: Path, tmp_path: Path):
    settings, cpu = tiny_settings(tiny_model, tmp_path), torch.device("cpu")
    shape = shape_of(settings.model)
    quantised, plain = weights(shape, method_of(settings, cpu))
    none, copied = weights(shape, method_of(settings, cpu, copied=True))
    assert none == 0
    assert copied == plain + 4 * shape.linear_parameters
    assert quantised < shape.linear_parameters


def test_a_folded_layer_keeps_the_sum_of_its_weights(mistral: Shape):
    """… in place of its low-rank products; where rank is small beside the layer, or numbers are not exact, none is."""
    batch = MicroBatch(1, 64, 16)
    folded = method(bits=16, width=4, rank=2048, cuda=False)
    apart = method(bits=16, width=4, rank=2048, cuda=False, dropout=1e-9)
    assert all(folded.folds(part) for part in mistral.linears)
    assert not any(apart.folds(part) for part in mistral.linears)
    assert not any(method(bits=16, width=4).folds(part) for part in mistral.linears), "rank 16"
    assert not any(method(bits=16, rank=2048).folds(part) for part in mistral.linears), "16 bits"
    less = estimate(mistral, apart, batch).parts[ACTIVATIONS]
    more = estimate(mistral, folded, batch).parts[ACTIVATIONS]
    assert 0.9 * 4 * mistral.linear_parameters < more - less < 4 * mistral.linear_parameters


def test_muon_has_one_moment_and_needs_room_to_step(mistral: Shape):
    how, tiny_batch = method(optimizer="muon", checkpointing=True), MicroBatch(1, 2, 1)
    adapter = mistral.adapter_parameters(16, how.targets)
    found = estimate(mistral, how, tiny_batch)
    assert found.parts[OPTIMIZER] == 4 * adapter
    largest = 32 * 3 * 16 * 14336  # in each layer A of down_proj, B of gate_proj and up_proj; more than nine of 4096
    assert optimizer_work(mistral, how) == pytest.approx(largest * 8, rel=0.01), "fp32, and twice in 16 bits"
    assert optimizer_work(mistral, method(optimizer="adamw_torch")) == 0


def test_as_many_rows_fit_as_it_says(mistral: Shape):
    settings = load_settings(MISTRAL, ["training.gradient_checkpointing=true"])
    [found] = plan_run(settings, "A10").devices

    def needed(rows: int) -> float:
        batch = MicroBatch(rows, 512, -(-found_batch.scored * rows // found_batch.rows))
        return on_gpu(mistral, settings, batch, DEVICES["A10"]).total / 2**30

    found_batch = workload_of(settings).largest
    assert needed(found.largest_rows) <= 22.0 < needed(found.largest_rows + 1)


@pytest.mark.usefixtures("no_network")
def test_the_command():
    shown = CliRunner().invoke(app, ["plan", "--config", str(MISTRAL), "--mfu", "0.3"])
    assert shown.exit_code == 0, shown.output
    for words in (
        "ESTIMATE",
        "7,241,732,096",
        "41,943,040",
        "0.576%",
        "ASSUMED",
        "30% of the peak",
        "built in",
        "H200",
        "auto: no",
    ):
        assert words in shown.stdout
    done = CliRunner().invoke(app, ["plan", "--config", str(MISTRAL), "--device", "t4", "--json"])
    plan = json.loads(done.stdout)
    assert [device["name"] for device in plan["devices"]] == ["T4"]
    memory = plan["devices"][0]["memory_bytes"]
    assert memory.pop("total") == pytest.approx(sum(memory.values()))
    assert plan["assumptions"]["measured"] is False


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--device", "H300"], 2, "no device 'H300'; there are: T4, A10"),
        (["--set", "lora.target_modules=[q_porj]"], 1, "match no layer of"),
        (["--set", "model.name=./gone"], 1, "no such folder"),
    ],
)
def test_mistakes_are_one_line(words: list[str], code: int, said: str):
    shown = CliRunner().invoke(app, ["plan", "--config", str(MISTRAL), *words])
    assert shown.exit_code == code
    assert said in shown.stderr
    assert "Traceback" not in shown.output

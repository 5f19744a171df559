from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from tests.training_fixtures import splits, tiny_settings
from text2sql.config import Settings
from text2sql.errors import ModelError, ParityError
from text2sql.training import merge as merging
from text2sql.training.finetune import TrainedAdapter
from text2sql.training.merge import MergeResult, full_weight, load_adapter, merge_adapter
from text2sql.training.model import load_base, load_tokenizer

ROWS = splits()["validation"]


@pytest.fixture(scope="module")
def merged(trained: TrainedAdapter, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> MergeResult:
    workdir = tmp_path_factory.mktemp("merged")
    return merge_adapter(trained.path, tiny_settings(tiny_model, workdir), ROWS, workdir / "model")


def test_it_answers_like_the_adapter_on_its_base(merged: MergeResult) -> None:
    assert (merged.parity.rows, merged.parity.agreement, merged.parity.first_difference) == (8, 1.0, None)
    assert 0 < merged.parity.mean_logit_difference <= merged.parity.max_logit_difference < 0.01
    assert abs(merged.parity.mean_kl) < 1e-6


def test_it_loads_as_any_model_does(merged: MergeResult, settings: Settings) -> None:
    model = AutoModelForCausalLM.from_pretrained(merged.path)
    tokenizer = AutoTokenizer.from_pretrained(merged.path)
    config = GenerationConfig.from_pretrained(merged.path)
    assert model.dtype == torch.float16
    assert not hasattr(model.config, "quantization_config")
    assert {type(m).__name__ for m in model.modules() if isinstance(m, torch.nn.Linear)} == {"Linear"}
    assert tokenizer.pad_token_id == config.pad_token_id == load_tokenizer(settings.model).pad_token_id
    assert tokenizer.eos_token_id == config.eos_token_id
    assert config.do_sample is False
    assert not list(merged.path.glob("adapter*"))
    assert list(merged.path.glob("*.safetensors"))


def test_the_adapter_is_in_it(merged: MergeResult, trained: TrainedAdapter, settings: Settings) -> None:
    """And what a merge adds is the de-quantised base plus scaled B @ A, to half precision."""
    model = AutoModelForCausalLM.from_pretrained(merged.path, dtype=torch.float32)
    name = "model.layers.1.mlp.gate_proj"
    base = full_weight(load_base(settings.model, settings.training).get_submodule(name))
    found = model.get_submodule(name).weight
    assert (found - base).abs().max() > 1e-2
    weights = load_file(trained.path / "adapter_model.safetensors")
    a, b = (weights[f"base_model.model.{name}.lora_{x}.weight"] for x in "AB")
    torch.testing.assert_close(found, base + 8 / 4 * b @ a, rtol=1e-3, atol=1e-4)


def test_dequantized_is_nearer_to_what_was_trained_than_original(
    trained: TrainedAdapter, tiny_model: Path, tmp_path: Path, merged: MergeResult
) -> None:
    settings = tiny_settings(tiny_model, tmp_path, merge={"base": "original", "min_agreement": 0.0})
    parity = merge_adapter(trained.path, settings, ROWS, tmp_path / "model").parity
    assert parity.mean_kl > 10 * merged.parity.mean_kl
    original = load_file(tiny_model / "model.safetensors")["model.norm.weight"]
    assert torch.equal(load_file(tmp_path / "model" / "model.safetensors")["model.norm.weight"].float(), original)


@pytest.mark.parametrize("bits", [4, 16])
def test_layers_without_an_adapter_are_there_too(tiny_model: Path, tmp_path: Path, bits: int) -> None:
    from text2sql.training.finetune import finetune

    settings = tiny_settings(
        tiny_model,
        tmp_path,
        model={"quantization_bits": bits},
        lora={"target_modules": ["q_proj"]},
        training={"max_steps": 2},
        merge={"dtype": "bfloat16", "min_agreement": 0.5},  # after two steps, many tokens are nearly as likely
    )
    trained = finetune(splits(16, 0), settings)
    result = merge_adapter(trained.path, settings, ROWS, tmp_path / "model")
    assert result.parity.mean_kl < 1e-5
    assert AutoModelForCausalLM.from_pretrained(result.path).dtype == torch.bfloat16


def test_a_damaged_merge_fails_and_leaves_nothing(
    trained: TrainedAdapter, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The LoRA products with the wrong sign."""
    right = merging.lora_product
    monkeypatch.setattr(merging, "lora_product", lambda module: -right(module))
    rows = ROWS.select(range(4))
    with pytest.raises(ParityError, match=r"0% of 4 answers are the same and merge.min_agreement is 90%.*KL") as caught:
        merge_adapter(trained.path, settings, rows, tmp_path / "out" / "model")
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "out").iterdir()) == []


def test_weights_that_are_not_finite_fail(
    trained: TrainedAdapter, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = merging.lora_product
    monkeypatch.setattr(merging, "lora_product", lambda module: right(module) * float("nan"))
    with pytest.raises(ParityError, match="inf"):
        merge_adapter(trained.path, settings, ROWS, tmp_path / "model")


def test_a_damaged_adapter_is_one_line(trained: TrainedAdapter, settings: Settings, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(trained.path, tmp_path / "adapter"))
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(ModelError, match="adapter") as caught:
        merge_adapter(folder, settings, ROWS, tmp_path / "model")
    assert "\n" not in str(caught.value)


def test_an_adapter_of_other_shapes_is_one_line(trained: TrainedAdapter, settings: Settings, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(trained.path, tmp_path / "adapter"))
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "r": 2}))
    with pytest.raises(ModelError, match="adapter"):
        merge_adapter(folder, settings, ROWS, tmp_path / "model")


def test_an_adapter_without_its_layers_is_refused(trained: TrainedAdapter, settings: Settings, tmp_path: Path) -> None:
    """peft would warn, and merge a random half."""
    folder = Path(shutil.copytree(trained.path, tmp_path / "adapter"))
    weights = load_file(folder / "adapter_model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if "layers.0" in name}
    save_file(kept, folder / "adapter_model.safetensors")
    with pytest.raises(ModelError, match="adapter"):
        merge_adapter(folder, settings, ROWS, tmp_path / "model")


def test_pickled_adapters_are_refused(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    torch.save({}, tmp_path / "adapter_model.bin")
    with pytest.raises(ModelError, match=r"no adapter_model\.safetensors"):
        merge_adapter(tmp_path, settings, ROWS, tmp_path / "model")


def test_without_rows_there_is_no_proof(trained: TrainedAdapter, settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no row to compare"):
        merge_adapter(trained.path, settings, ROWS.select([]), tmp_path / "model")


def test_a_second_merge_replaces_the_first(trained: TrainedAdapter, settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "stale.txt").write_text("old")
    merge_adapter(trained.path, settings, ROWS.select(range(2)), tmp_path / "model")
    assert not (tmp_path / "model" / "stale.txt").exists()


def test_the_adapter_in_use_is_the_trained_one(trained: TrainedAdapter, settings: Settings) -> None:
    model = load_adapter(trained.path, settings, load_tokenizer(settings.model))
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not model.training

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from tests.training_fixtures import metaspace_tokenizer, tiny_settings
from text2sql.config import ModelSection, Settings
from text2sql.errors import ModelError
from text2sql.training.model import load_base, load_for_inference, load_tokenizer, resolve_precision, training_device

CPU = torch.device("cpu")
needs_no_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU")


def test_precision_on_the_cpu() -> None:
    assert resolve_precision("auto", CPU) == "fp32"
    assert resolve_precision("bf16", CPU) == "bf16"
    with pytest.raises(ModelError, match="fp16 needs a CUDA GPU"):
        resolve_precision("fp16", CPU)


def test_four_bits_are_nf4_with_nested_constants(settings: Settings) -> None:
    model = load_base(settings.model, settings.training)
    layer = model.get_submodule("model.layers.0.self_attn.q_proj")
    state = layer.weight.quant_state
    assert type(layer).__name__ == "Linear4bit"
    assert (state.quant_type, state.nested, layer.weight.dtype) == ("nf4", True, torch.uint8)
    assert layer.compute_dtype == torch.float32
    assert model.get_output_embeddings().weight.dtype == torch.float32


@pytest.mark.parametrize(("name", "dtype"), [("bfloat16", torch.bfloat16), ("auto", torch.float32)])
def test_compute_dtype_follows_precision_unless_set(settings: Settings, name: str, dtype: torch.dtype) -> None:
    section = settings.model.model_copy(update={"bnb_4bit_compute_dtype": name, "use_nested_quant": False})
    layer = load_base(section, settings.training).get_submodule("model.layers.1.mlp.up_proj")
    assert layer.compute_dtype == dtype
    assert layer.weight.quant_state.nested is False


def test_sixteen_bits_are_not_quantised(settings: Settings) -> None:
    model = load_base(settings.model.model_copy(update={"quantization_bits": 16}), settings.training)
    assert type(model.get_submodule("model.layers.0.mlp.up_proj")) is torch.nn.Linear


@needs_no_cuda
def test_eight_bits_need_cuda(settings: Settings) -> None:
    with pytest.raises(ModelError, match=r"quantization_bits 8 needs a CUDA GPU.*set it to 4"):
        load_base(settings.model.model_copy(update={"quantization_bits": 8}), settings.training)


def test_an_answer_in_eval_mode_leaves_the_gradients_right(settings: Settings) -> None:
    """bitsandbytes would repack the weights for a kernel without gradient (see model._keep_differentiable)."""
    model = load_base(settings.model, settings.training)
    ids = torch.arange(40, 60)[None]

    def gradient() -> torch.Tensor:
        embedded = model.get_input_embeddings()(ids).detach().requires_grad_()
        model.train()
        model(inputs_embeds=embedded).logits.square().mean().backward()
        assert embedded.grad is not None
        return embedded.grad

    before = gradient()
    model.eval()
    with torch.no_grad():
        model(ids)
    assert before.abs().max() > 0
    torch.testing.assert_close(gradient(), before)


def test_a_pad_token_of_its_own(tiny_model: Path, tmp_path: Path) -> None:
    assert load_tokenizer(ModelSection(name=str(tiny_model))).pad_token == "<pad>"
    metaspace_tokenizer().save_pretrained(tmp_path)  # like Mistral's: no pad token, so the unknown token stands in
    tokenizer = load_tokenizer(ModelSection(name=str(tmp_path)))
    assert tokenizer.pad_token == "<unk>"
    assert tokenizer.padding_side == "left"


def test_pad_equal_to_end_is_replaced(tiny_model: Path, tmp_path: Path) -> None:
    folder = _copy(tiny_model, tmp_path)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "pad_token": "</s>"}))
    assert load_tokenizer(ModelSection(name=str(folder))).pad_token == "<pad>"


def test_embeddings_grow_only_for_a_new_token(settings: Settings) -> None:
    tokenizer = load_tokenizer(settings.model)
    rows = len(tokenizer)
    assert load_base(settings.model, settings.training, tokenizer).get_input_embeddings().weight.shape[0] == rows
    tokenizer.add_special_tokens({"pad_token": "<new>"})
    grown = load_base(settings.model, settings.training, tokenizer)
    assert grown.get_input_embeddings().weight.shape[0] == grown.get_output_embeddings().weight.shape[0] == rows + 1
    assert grown.config.pad_token_id == tokenizer.pad_token_id == rows


def test_a_new_token_is_the_same_whenever_a_model_is_loaded(settings: Settings) -> None:
    tokenizer = load_tokenizer(settings.model)
    tokenizer.add_special_tokens({"pad_token": "<new>"})
    torch.manual_seed(1)
    trained = load_base(settings.model, settings.training, tokenizer)
    torch.manual_seed(2)
    merged = load_base(settings.model, settings.training, tokenizer)
    assert torch.equal(trained.get_output_embeddings().weight, merged.get_output_embeddings().weight)
    assert torch.equal(trained.get_input_embeddings().weight, merged.get_input_embeddings().weight)
    logits = merged(torch.tensor([tokenizer("SELECT age FROM ship")["input_ids"]])).logits[0].float()
    torch.testing.assert_close(logits[:, -1], logits[:, :-1].mean(1), rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "offline", "message"),
    [
        ("./no/such/folder", "0", "no such folder"),
        ("nobody/no-such-model", "1", r"HF_HUB_OFFLINE is set.*hf download nobody/no-such-model.*local folder"),
    ],
)
def test_a_missing_model_is_one_line_with_a_remedy(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, name: str, offline: str, message: str
) -> None:
    import huggingface_hub.constants

    monkeypatch.setenv("HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", offline == "1")
    section = settings.model.model_copy(update={"name": name})
    for load in (lambda: load_tokenizer(section), lambda: load_base(section, settings.training)):
        with pytest.raises(ModelError, match=message) as caught:
            load()
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)


def test_pickled_weights_are_refused(tiny_model: Path, tmp_path: Path, settings: Settings) -> None:
    folder = _copy(tiny_model, tmp_path)
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="no safetensors weights, and other formats are refused"):
        load_base(settings.model.model_copy(update={"name": str(folder)}), settings.training)


def test_damaged_weights_are_one_line(tiny_model: Path, tmp_path: Path, settings: Settings) -> None:
    folder = _copy(tiny_model, tmp_path)
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(ModelError, match="not a complete model") as caught:
        load_base(settings.model.model_copy(update={"name": str(folder)}), settings.training)
    assert "\n" not in str(caught.value)


def test_a_folder_of_another_checksum_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    from text2sql.data.files import sha256_folder

    right = tiny_settings(tiny_model, tmp_path, model={"sha256": sha256_folder(tiny_model)})
    load_base(right.model, right.training)
    wrong = tiny_settings(tiny_model, tmp_path, model={"sha256": "0" * 64})
    with pytest.raises(ModelError, match="model.sha256"):
        load_base(wrong.model, wrong.training)


def test_load_for_inference_widens_on_the_cpu(tiny_model: Path) -> None:
    model, tokenizer = load_for_inference(tiny_model)
    assert not model.training
    assert tokenizer.pad_token_id == model.generation_config.pad_token_id
    if training_device().type == "cpu":
        assert model.dtype == torch.float32


def _copy(source: Path, target: Path) -> Path:
    return Path(shutil.copytree(source, target / "copy"))

"""A tiny random Mistral with a tokenizer, and one adapter trained on it, shared by the whole session."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from text2sql.config import Settings

if TYPE_CHECKING:  # torch and its friends take seconds to import, and most tests do without
    from datasets import DatasetDict
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    from text2sql.training.finetune import TrainedAdapter

NOUNS = ("ship", "baker", "river", "violin", "planet", "orchard", "lantern", "tailor")
COLUMNS = ("weight", "colour", "age", "height", "price", "city")


def made_up_rows(count: int) -> list[dict[str, str]]:
    """prompt and completion of `count` different lines, of differing lengths."""
    rows = []
    for i in range(count):
        noun, column = NOUNS[i % len(NOUNS)], COLUMNS[(i // len(NOUNS)) % len(COLUMNS)]
        extra = f", {COLUMNS[(i + 3) % len(COLUMNS)]} INTEGER" if i % 3 else ""
        prompt = f"CREATE TABLE {noun} ({column} INTEGER{extra})\nWhat is the {column} of {noun} {i}?\n"
        rows.append({"prompt": prompt, "completion": f"SELECT {column} FROM {noun} WHERE id = {i}"})
    return rows


def splits(train: int = 48, validation: int = 12) -> DatasetDict:
    from datasets import Dataset, DatasetDict

    rows = made_up_rows(train + validation)
    return DatasetDict(train=Dataset.from_list(rows[:train]), validation=Dataset.from_list(rows[train:]))


def byte_level_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE, as GPT-2's and Llama-3's: BOS before a text, pad of its own."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return _trained(tokenizer, ["<s>", "</s>", "<unk>", "<pad>"], pre_tokenizers.ByteLevel.alphabet(), pad="<pad>")


def metaspace_tokenizer() -> PreTrainedTokenizerFast:
    """BPE over text with ▁ for spaces and one before each text, as SentencePiece does; no pad token, as Mistral's."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    return _trained(tokenizer, special, [], pad=None)


def unigram_tokenizer() -> PreTrainedTokenizerFast:
    """Unigram over text with ▁ for spaces, as SentencePiece builds it; only the first piece gets one more."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    trainer = trainers.UnigramTrainer(
        vocab_size=300, special_tokens=["<unk>", "<s>", "</s>", "<pad>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator([row["prompt"] + row["completion"] + _ASCII for row in made_up_rows(48)], trainer)
    return _with_bos(tokenizer, pad="<pad>")


_ASCII = "".join(map(chr, range(33, 127)))


def _trained(tokenizer: Tokenizer, special: list[str], alphabet: list[str], pad: str | None) -> PreTrainedTokenizerFast:
    from tokenizers import trainers

    lines = [row["prompt"] + row["completion"] for row in made_up_rows(48)]
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(lines, trainer)
    return _with_bos(tokenizer, pad)


def _with_bos(tokenizer: Tokenizer, pad: str | None) -> PreTrainedTokenizerFast:
    from tokenizers import processors
    from transformers import PreTrainedTokenizerFast

    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token=pad
    )


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a random 2-layer Mistral of hidden size 64 and its byte-level tokenizer."""
    import torch
    from transformers import MistralConfig, MistralForCausalLM

    from text2sql.training.model import quiet

    folder = tmp_path_factory.mktemp("tiny-mistral")
    tokenizer = byte_level_tokenizer()
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        sliding_window=None,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with quiet():
        MistralForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tiny_settings(folder: Path, workdir: Path, **sections: dict[str, Any]) -> Settings:
    """Settings that train the tiny model in seconds, with `section={key: value}` changes."""
    values: dict[str, dict[str, Any]] = {
        "model": {"name": str(folder)},
        "lora": {"r": 4, "lora_alpha": 8},
        "training": {
            "max_steps": 12,
            "learning_rate": 2e-2,
            "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": 2,
            "gradient_checkpointing": False,
            "max_length": 128,
            "logging_steps": 2,
            "eval_steps": 6,
            "save_steps": 4,
            "checkpoint_dir": workdir / "checkpoints",
        },
        "merge": {"parity_rows": 8, "dtype": "float16"},
        "evaluation": {"max_new_tokens": 16},
    }
    for section, changes in sections.items():
        values.setdefault(section, {}).update(changes)
    return Settings.model_validate(values)


def pipeline_settings(folder: Path, workdir: Path, seed: int, **sections: dict[str, Any]) -> Settings:
    """`tiny_settings` for a whole pipeline: 60 generated rows, two steps of training, a gate that everybody passes."""
    values: dict[str, dict[str, Any]] = {
        "data": {
            "dataset_name": "synthetic",
            "synthetic": {"rows": 60, "seed": seed},
            "subset_fraction": 1.0,
            "prompt_template": "{context}\n{question}\n",
            "train_ratio": 0.6,
            "val_ratio": 0.2,
            "test_ratio": 0.2,
        },
        "training": {"max_steps": 2, "max_length": 512, "save_steps": 1, "eval_steps": 2},
        "evaluation": {"max_new_tokens": 8, "databases": 2},
        "merge": {"parity_rows": 2, "min_agreement": 0.0},
        "gate": {"beats_base": None, "max_vacuous": None, "execution_accuracy": {"min": 0.0}},
    }
    for section, changes in sections.items():
        values.setdefault(section, {}).update(changes)
    return tiny_settings(folder, workdir, **values)


@pytest.fixture
def settings(tiny_model: Path, tmp_path: Path) -> Settings:
    return tiny_settings(tiny_model, tmp_path)


@pytest.fixture(scope="session")
def trained(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainedAdapter:
    """One NF4 adapter, trained for 12 steps; read it, do not change it."""
    from text2sql.training.finetune import finetune

    workdir = tmp_path_factory.mktemp("trained")
    return finetune(splits(), tiny_settings(tiny_model, workdir), output=workdir / "adapter")

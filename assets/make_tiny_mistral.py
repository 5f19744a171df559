"""Make the embedded base model: a Mistral of some 2 M parameters and its tokenizer, from scratch.

Both learn from nothing but rows of the project's own generator, on tables that profile `full` never draws: questions
with SQL of profile `base` (a part of the constructs, the plainest phrasings), and as reading, of profile `reading`, the
other phrasings without their SQL and some SQL without its question. What those phrasings mean, and some constructs
altogether, are left for fine-tuning to teach.

    PYTHONPATH=. python assets/make_tiny_mistral.py

Two cores need about 35 minutes; `--steps 0` only makes the tokenizer and random weights.
"""

from __future__ import annotations

import argparse
import itertools
import random
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import nn
from transformers import MistralConfig, MistralForCausalLM, PreTrainedTokenizerFast

from text2sql.data.synthetic import generate_rows

OUTPUT = Path(__file__).parent / "tiny-mistral"
TEMPLATE = "{context}\n{question}\n"
VOCABULARY = 2304
WORDS = Regex(r" ?[A-Za-z]+| ?\d| ?[^\sA-Za-z\d]|\s")
"""A word, a digit or a sign is a piece of its own, with the space before it: columns can be copied piece by piece."""
BATCH_TOKENS = 4096
PROMPT_WEIGHT = 0.15
"""Loss on the prompt's tokens next to 1 on the SQL's: reading it teaches copying, but the SQL is what counts."""


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE over the generator's rows, of both profiles: words may be known before phrasings are."""
    rows = generate_rows(30_000, seed=7) + generate_rows(10_000, seed=7, profile="base")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(WORDS, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (TEMPLATE.format(**row) + row["answer"] for row in rows)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        model_max_length=1024,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def make_model(tokenizer: PreTrainedTokenizerFast) -> MistralForCausalLM:
    """Random weights in the shape of Mistral, in miniature."""
    torch.manual_seed(0)
    return MistralForCausalLM(
        MistralConfig(
            vocab_size=len(tokenizer),
            hidden_size=192,
            intermediate_size=512,
            num_hidden_layers=5,
            num_attention_heads=6,
            num_key_value_heads=6,
            head_dim=32,
            max_position_embeddings=1024,
            sliding_window=None,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def batches(tokenizer: PreTrainedTokenizerFast, seed: int) -> Iterator[Batch]:
    """Endless batches of about BATCH_TOKENS tokens, rows of like length together: ids, attention mask, loss weights."""
    rng = random.Random(seed)
    while True:
        rows = generate_rows(16_000, seed, "base") + generate_rows(4_000, seed, "reading")
        seed += 1
        prompts = tokenizer([TEMPLATE.format(**row) for row in rows])["input_ids"]
        answers = tokenizer([row["answer"] for row in rows], add_special_tokens=False)["input_ids"]
        end = [tokenizer.eos_token_id]
        pairs = [(prompt, answer + end if answer else []) for prompt, answer in zip(prompts, answers, strict=True)]
        pairs.sort(key=lambda pair: len(pair[0]) + len(pair[1]) + rng.random() * 4)
        chunks: list[list[tuple[list[int], list[int]]]] = [[]]
        for pair in pairs:
            if (len(chunks[-1]) + 1) * (len(pair[0]) + len(pair[1])) > BATCH_TOKENS:
                chunks.append([])
            chunks[-1].append(pair)
        rng.shuffle(chunks)
        for chunk in chunks:
            yield collate(chunk, tokenizer.pad_token_id)


def collate(pairs: list[tuple[list[int], list[int]]], pad: int) -> Batch:
    """Right-padded tensors of shape (rows, longest)."""
    longest = max(len(prompt) + len(answer) for prompt, answer in pairs)
    ids = torch.full((len(pairs), longest), pad)
    weights = torch.zeros(len(pairs), longest)
    mask = torch.zeros(len(pairs), longest, dtype=torch.long)
    for row, (prompt, answer) in enumerate(pairs):
        end = len(prompt) + len(answer)
        ids[row, :end] = torch.tensor(prompt + answer)
        mask[row, :end] = 1
        weights[row, : len(prompt)] = PROMPT_WEIGHT
        weights[row, len(prompt) : end] = 1.0
    return ids, mask, weights


def loss_of(model: nn.Module, batch: Batch) -> torch.Tensor:
    """Weighted mean next-token loss."""
    ids, mask, weights = batch
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1]
    losses = nn.functional.cross_entropy(logits.float().transpose(1, 2), ids[:, 1:], reduction="none")
    return (losses * weights[:, 1:]).sum() / weights[:, 1:].sum()


def optimizers(model: MistralForCausalLM) -> list[torch.optim.Optimizer]:
    """Muon (Jordan et al. 2024) for the matrices of the layers, AdamW for embeddings and norms."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    rest = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    return [
        torch.optim.Muon(matrices, lr=0.02, weight_decay=0.01, momentum=0.95),
        torch.optim.AdamW(rest, lr=3e-3, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def train(model: MistralForCausalLM, tokenizer: PreTrainedTokenizerFast, steps: int) -> None:
    """Train for so many steps, the learning rate flat and then falling over the last 40%, saving as it goes."""
    opts = optimizers(model)
    compiled = torch.compile(model, dynamic=True)  # a quarter faster on a CPU
    peaks = [[group["lr"] for group in opt.param_groups] for opt in opts]
    start = last_save = time.monotonic()
    tokens = 0
    for step, batch in enumerate(itertools.islice(batches(tokenizer, seed=1000), steps)):
        scale = min(1.0, (step + 1) / 100, (1 - step / steps) / 0.4)
        for opt, rates in zip(opts, peaks, strict=True):
            for group, peak in zip(opt.param_groups, rates, strict=True):
                group["lr"] = peak * scale
        loss = loss_of(compiled, batch)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for opt in opts:
            opt.step()
            opt.zero_grad()
        tokens += int(batch[1].sum())
        if step % 25 == 0:
            rate = tokens / (time.monotonic() - start)
            print(f"step {step}/{steps}  loss {loss.item():.4f}  {rate:,.0f} tokens/s", flush=True)
        if time.monotonic() - last_save > 300:
            save(model, tokenizer)
            last_save = time.monotonic()


def save(model: MistralForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    """Write bf16 safetensors and the tokenizer to OUTPUT."""
    half = MistralForCausalLM(model.config).to(torch.bfloat16)
    half.load_state_dict({name: weight.to(torch.bfloat16) for name, weight in model.state_dict().items()})
    half.generation_config.update(
        pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id
    )
    half.save_pretrained(OUTPUT)
    tokenizer.save_pretrained(OUTPUT)


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the embedded base model from scratch.")
    parser.add_argument("--steps", type=int, default=2800, help="batches of 4,096 tokens (default: %(default)s)")
    steps = parser.parse_args().steps
    tokenizer = make_tokenizer()
    model = make_model(tokenizer)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(tokenizer):,} tokens")
    train(model, tokenizer, steps)
    save(model, tokenizer)


if __name__ == "__main__":
    main()

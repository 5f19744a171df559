"""How the served model wants to be asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from text2sql.errors import ModelError
from text2sql.serving.recipe import chat_wrapper, served_recipe
from text2sql.serving.settings import ServerSettings
from text2sql.training.recipe import Recipe, write_recipe


def test_recipe_comes_from_the_model_s_folder_or_the_settings(tmp_path: Path):
    settings = ServerSettings(model=str(tmp_path))
    assert served_recipe(settings) == Recipe()
    write_recipe(tmp_path, Recipe(prompt_template="{context} {question}", max_new_tokens=9))
    assert served_recipe(settings).max_new_tokens == 9
    other = tmp_path / "prompt.txt"
    other.write_text("{context}\n{question}")
    told = served_recipe(ServerSettings(model=str(tmp_path), prompt_template=other))
    assert (told.prompt_template, told.max_new_tokens) == ("{context}\n{question}", 9)
    other.write_text("{context} {other}")
    with pytest.raises(ModelError, match="prompt.txt"):
        served_recipe(ServerSettings(model=str(tmp_path), prompt_template=other))
    write_recipe(tmp_path, Recipe(prompt_template="{0}"))
    with pytest.raises(ModelError, match="text2sql.json"):
        served_recipe(settings)


def test_chat_template_wraps_the_prompt(tiny_model: Path, tmp_path: Path):
    from transformers import AutoTokenizer

    with pytest.raises(ModelError, match="chat template"):
        chat_wrapper(Recipe(chat_template=True), str(tiny_model))
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = "{{ bos_token }}[INST]{{ messages[0]['content'] }}[/INST]"
    tokenizer.save_pretrained(tmp_path)
    for path in tiny_model.glob("config.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert chat_wrapper(Recipe(chat_template=True), str(tmp_path))("a</s>b") == "<s>[INST]ab[/INST]"
    assert chat_wrapper(Recipe(), "anything")("question") == "question"

"""What the model card warns of is so."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoProcessor, DataCollatorForLanguageModeling

from mars_megatron.export.model_card import ADAPTED, model_card
from tests.support.exported import CONDITIONED, KINDS, ROUTED, model_of
from tests.support.exported_run import Exported
from tests.support.tiny import tiny_config


def card(overrides: dict[str, Any] | None = None, has_text: bool = True) -> str:
    config = tiny_config({"generation.max_caption_tokens": 37, **(overrides or {})})
    return model_card(config, title="A", step=3, dtype="bfloat16", has_text=has_text, has_images=has_text)


def test_a_card_names_the_traps_of_its_model() -> None:
    whole = card()
    for trap in ("label_smoothing_factor", "max_new_tokens` is 37", "4 dimensions", "Prompt tuning", "no `.weight`"):
        assert trap in whole, trap
    assert f'`r"{ADAPTED}"`' in whole and "{" not in re.sub(r"```.*?```", "", whole, flags=re.DOTALL)
    bare = card(has_text=False)
    assert "label_smoothing_factor" not in bare and "max_new_tokens` is 37" in bare and "4 dimensions" in bare
    assert "cache of its own" not in whole and "cache of its own" not in card(ROUTED)
    assert "cache of its own" in card(CONDITIONED) and "load-balancing" in card(ROUTED)


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_of_the_visual_expert(kind: str) -> None:
    """peft takes a string as a pattern of whole names."""
    linear = [name for name, module in model_of(KINDS[kind]).named_modules() if isinstance(module, nn.Linear)]
    found = {name for name in linear if re.fullmatch(ADAPTED, name)}
    assert found == {name for name in linear if ".visual." in name}
    assert len(found) >= 2 * 6 and not any("lm_head" in name for name in found)


def test_no_table_is_that_of_the_joined_ids() -> None:
    """Which prompt tuning looks for by its size, and other methods by the name weight."""
    model = model_of()
    for table in (model.get_input_embeddings(), model.get_output_embeddings()):
        assert not hasattr(table, "weight")
        assert table.text.weight.shape[0] + table.visual.weight.shape[0] == model.config.vocab_size
    assert not any(parameter.shape[0] == model.config.vocab_size for parameter in model.parameters())


def test_the_stored_number_of_tokens_goes_before_a_length(exported: Exported) -> None:
    model = AutoModelForCausalLM.from_pretrained(exported.folder, trust_remote_code=True)
    number = exported.run.config.generation.max_caption_tokens
    assert f"`max_new_tokens` is {number}" in (exported.folder / "README.md").read_text(encoding="utf-8")
    ids = torch.tensor([[3, 4, 5]])
    assert model.generate(ids, max_length=50, eos_token_id=-1).shape[1] == 3 + number
    assert model.generate(ids, max_new_tokens=2 * number, eos_token_id=-1).shape[1] == 3 + 2 * number


def test_a_collator_that_hides_padding_hides_ends(exported: Exported) -> None:
    processor = AutoProcessor.from_pretrained(exported.folder, trust_remote_code=True)
    sample = processor(text="a red square", task="text")
    end = processor.tokenizer.eos_token_id
    assert sample["labels"][0, -1] == end == processor.tokenizer.pad_token_id
    collated = DataCollatorForLanguageModeling(processor.tokenizer, mlm=False)([sample["input_ids"][0].tolist()])
    assert collated["input_ids"][0, -1] == end and collated["labels"][0, -1] == -100

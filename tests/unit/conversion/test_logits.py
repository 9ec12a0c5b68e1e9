"""A converted language model computes what transformers computes with it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mars_megatron.checkpoint import load_model, read_config, resolve
from mars_megatron.conversion.convert import init_from_hf
from mars_megatron.model import build_model
from mars_megatron.sampling.decoding import pack_samples
from mars_megatron.sequence.vocabulary import Vocabulary
from tests.support.language_models import FAMILIES, OriginalQwen, language_model
from tests.support.tiny import one_rank

TOKENS = torch.randint(0, 61, (40,), generator=torch.Generator().manual_seed(3))
SETTINGS = ["--vocabulary.codebook_size=16", "--image.resolution=16", "--image.downsample=4"]


def text_logits(checkpoint: Path) -> torch.Tensor:
    """Logits [tokens, text ids] of the converted model."""
    groups, config = one_rank(), read_config(resolve(checkpoint))
    (model,) = build_model(config, groups)
    load_model(checkpoint, config, groups, [model])
    vocabulary = Vocabulary.from_config(config)
    with torch.no_grad():
        logits = model.eval()(pack_samples([TOKENS.tolist()], vocabulary, every_token=True), return_logits=True)
    return logits[:, : vocabulary.text_size]


@pytest.mark.parametrize("family", FAMILIES)
def test_text_logits_equal_transformers(family: str, tmp_path: Path) -> None:
    source = language_model(family)
    source.save_pretrained(tmp_path / "source")
    checkpoint = init_from_hf(tmp_path / "source", tmp_path / "start", overrides=SETTINGS)
    with torch.no_grad():
        expected = source(TOKENS[None]).logits[0]
    assert expected.std() > 0.5, "logits must differ for this to test anything"
    torch.testing.assert_close(text_logits(checkpoint), expected, rtol=2e-5, atol=2e-5)


def test_text_logits_of_the_original_qwen(tmp_path: Path) -> None:
    source = OriginalQwen()
    source.save(tmp_path / "source")
    checkpoint = init_from_hf(tmp_path / "source", tmp_path / "start", overrides=SETTINGS)
    expected = source.logits(TOKENS)
    assert expected.std() > 0.5
    torch.testing.assert_close(text_logits(checkpoint), expected, rtol=2e-5, atol=2e-5)

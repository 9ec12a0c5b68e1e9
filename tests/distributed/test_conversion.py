"""Converted language models compute under tensor and pipeline parallelism what transformers computes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mars_megatron.conversion.convert import init_from_hf
from tests.support.distributed.ranks import run_jobs
from tests.support.language_models import FAMILIES, OriginalQwen, language_model

pytestmark = [pytest.mark.distributed, pytest.mark.filterwarnings("ignore:the result has no text tokenizer")]

SETTINGS = ["--vocabulary.codebook_size=32"]
TOKENS = torch.randint(0, 61, (40,), generator=torch.Generator().manual_seed(3))


def test_text_logits_under_tensor_and_pipeline_parallelism(tmp_path: Path) -> None:
    expected = []
    for name in FAMILIES:
        source = language_model(name)
        source.save_pretrained(tmp_path / name / "source")
        with torch.no_grad():
            expected.append(source(TOKENS[None]).logits[0])
    original = OriginalQwen()
    original.save(tmp_path / "qwen" / "source")
    expected.append(original.logits(TOKENS))
    jobs = [
        {
            "checkpoint": str(init_from_hf(tmp_path / name / "source", tmp_path / name / "start", overrides=SETTINGS)),
            "ids": TOKENS.tolist(),
            "tensor": 2,
            "pipeline": 2,
        }
        for name in (*FAMILIES, "qwen")
    ]
    found = run_jobs(4, "conversion_jobs", [("logits", job) for job in jobs], writer=-1)
    for logits, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(torch.tensor(logits), wanted, rtol=2e-5, atol=2e-5)

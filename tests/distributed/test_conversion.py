"""Converted language models under tensor and pipeline parallelism; checkpoints of different layouts are the same."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from mars_megatron.conversion.convert import init_from_hf
from mars_megatron.conversion.verify import compare, open_both
from tests.distributed.corpus import CODEBOOK_SIZE, write_corpus
from tests.distributed.ranks import ROOT, environment, run_ranks
from tests.unit.conversion.models import FAMILIES, OriginalQwen, language_model

pytestmark = [pytest.mark.distributed, pytest.mark.filterwarnings("ignore:the result has no text tokenizer")]

SETTINGS = [f"--vocabulary.codebook_size={CODEBOOK_SIZE}"]
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
    result = tmp_path / "result.json"
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "4"),
        *("-m", "tests.distributed.conversion_jobs", json.dumps(jobs), str(result)),
    ]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-8000:]}"
    for found, wanted in zip(json.loads(result.read_text()), expected, strict=True):
        torch.testing.assert_close(torch.tensor(found), wanted, rtol=2e-5, atol=2e-5)


LAYOUTS: dict[int, list[dict[str, Any]]] = {
    1: [{}],
    2: [{"parallel.tensor": 2, "parallel.sequence": True}, {"parallel.expert": 2}],
    4: [{"parallel.tensor": 2, "parallel.pipeline": 2}],
}


def test_checkpoints_of_every_layout_have_the_same_parts(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "train")
    runs = []
    for ranks, layouts in LAYOUTS.items():
        settings = [
            {
                "data.path": corpus,
                "training.steps": 1,
                "experts.visual": 2,
                "checkpoint.dir": str(tmp_path / f"{ranks}_{number}"),
                # Nothing but the first values, which depend on no layout.
                "optimizer.lr": 1e-30,
                "optimizer.min_lr": 0.0,
                **layout,
            }
            for number, layout in enumerate(layouts)
        ]
        if ranks == 4:  # several experts need sequence parallelism
            settings = [{**run, "parallel.sequence": True} for run in settings]
        run_ranks(ranks, "save_after", {"runs": settings, "steps": 1})
        runs += [run["checkpoint.dir"] for run in settings]
    for other in runs[1:]:
        result = compare(*open_both(runs[0], other), tolerance=1e-12)
        assert result.num_compared > 100 and not result.problems, (other, result.problems[:3])

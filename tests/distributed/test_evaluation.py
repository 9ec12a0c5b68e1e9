"""Scores do not depend on how many ranks share the work."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.distributed.evaluation_jobs import score
from tests.distributed.ranks import ROOT, environment

pytestmark = pytest.mark.distributed


def scores_of_two_ranks(folder: Path) -> dict[str, Any]:
    result = folder / "result.json"
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
        *("-m", "tests.distributed.evaluation_jobs", json.dumps({"folder": str(folder)}), str(result)),
    ]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-8000:]}"
    return json.loads(result.read_text())


@pytest.mark.skipif(torch.cuda.is_available(), reason="the ranks of the other process run on the CPU")
def test_two_ranks_score_what_one_rank_scores(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for number in range(9):
        pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{number}.png")
    (tmp_path / "prompts.txt").write_text("".join(f"prompt {number}\n" for number in range(7)))
    (tmp_path / "scorer.py").write_text(
        "def brightness(images, prompts):\n    return images.float().mean(dim=(1, 2, 3)) / 255\n"
    )
    found, expected = scores_of_two_ranks(tmp_path), score(str(tmp_path))
    assert expected["frechet"] > 0 and expected["shared"] == [number * number for number in range(7)]
    assert found["frechet"] == pytest.approx(expected["frechet"], rel=1e-9)
    assert found["kept"] == found["frechet"] and found["statistics"] == expected["statistics"] == 1
    assert found["between_halves"] == pytest.approx(expected["between_halves"], rel=1e-9)
    assert found["brightness"] == expected["brightness"]
    assert (found["shared"], found["none"]) == (expected["shared"], [])
    assert found["few"] == pytest.approx(expected["few"])

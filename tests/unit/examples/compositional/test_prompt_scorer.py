"""Prompts of this project's own benchmark through its own scorer."""

from __future__ import annotations

from pathlib import Path

import pytest

from examples.compositional.benchmark import read_scene_prompts
from examples.compositional.build import BuildSettings, write_benchmark
from examples.compositional.canvases import Painter
from mars_megatron import platform
from mars_megatron.evaluation.t2i_compbench.compbench import T2ICompBench
from tests.support.small_context import SmallContext


def test_canvases_score_as_their_scenes_say(tmp_path: Path) -> None:
    platform.initialize("auto")
    platform.init_process_group()
    write_benchmark(
        tmp_path / "benchmark", BuildSettings(canvases=100, held_out=5, documents=1, prompts=2), progress=False
    )
    prompts = read_scene_prompts(tmp_path / "benchmark")
    file = tmp_path / "spatial_own.txt"
    file.write_text("".join(f"{prompt.text}\n" for prompt in prompts), encoding="utf-8")
    drawn = Painter("train", seed=7).paint([prompt.scene for prompt in prompts]).permute(0, 2, 3, 1).contiguous()
    scorer = f"examples.compositional.scorer:PromptScorer:{tmp_path / 'benchmark'}"
    suite = T2ICompBench((str(file),), scorer=scorer, samples_per_prompt=1)
    suite.check()

    def score() -> float:
        return suite.run(SmallContext(None, drawn)).scores["spatial_own_PromptScorer"].value

    whole = score()
    drawn[: len(prompts) // 2] = 0
    assert whole >= 0.75 and score() <= 0.5

    file.write_text("a cup next to a dog\n")
    with pytest.raises(ValueError, match="'a cup next to a dog' is none of those in"):
        suite.check()

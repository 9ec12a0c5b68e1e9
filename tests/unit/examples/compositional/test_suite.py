"""The suite: scores by split and language, of a model and of the scorer."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from examples.compositional.benchmark import read_canvases, read_scene_prompts
from examples.compositional.build import BuildSettings, write_benchmark
from examples.compositional.canvases import Painter
from examples.compositional.scenes import SPLITS
from examples.compositional.scorer import MEASURES
from examples.compositional.suite import Compositional
from mars_megatron.sampling import Sampler, load_for_inference
from tests.support.small_context import SmallContext
from tests.support.tiny_run import write_run


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmark")
    write_benchmark(folder, BuildSettings(canvases=300, held_out=30, documents=1, prompts=2), progress=False)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def sampler(run):
    return Sampler(load_for_inference(run.checkpoint, overrides=["--image.resolution=32"]))


def test_perfect_drawings_have_perfect_scores(benchmark, sampler, tmp_path):
    suite = Compositional(str(benchmark), samples_per_prompt=2, grid=str(tmp_path / "grid.png"), grid_prompts=3)
    suite.check()
    prompts = read_scene_prompts(benchmark)
    drawn = Painter("train", seed=7).paint([prompt.scene for prompt in prompts for _ in range(2)]).permute(0, 2, 3, 1)
    drawn[-2:] = 0  # what is drawn for the last prompt: nothing
    context = SmallContext(sampler, drawn.contiguous())
    result = suite.run(context)
    assert context.drawn == [prompt.text for prompt in prompts] and len(prompts) == 12
    groups = [*SPLITS, *(f"{split}/{language}" for split in SPLITS for language in ("en", "zh"))]
    groups += ["scorer_real", "scorer_reconstructed"]
    assert set(result.scores) == {f"{group}/{measure}" for group in groups for measure in MEASURES}
    assert result.scores["seen/colour"].value == result.scores["unseen_pairs/en/relation"].value == 1.0
    assert result.scores["seen/digit"].value >= 0.9 and result.scores["seen/colour"].count == 4
    assert result.scores["unseen_pairs/zh/joint"].value == 0.5 and result.scores["unseen_pairs/colour"].value == 0.75
    assert result.scores["scorer_real/colour"].value == 1.0 and result.scores["scorer_real/colour"].count == 30
    assert result.scores["scorer_reconstructed/joint"].value == 0.0  # of a random image tokenizer
    assert result.details["num_samples"] == 24 and set(result.details["digits_exchanged"]) == set(SPLITS)
    assert json.dumps(result.details)
    assert np.asarray(Image.open(tmp_path / "grid.png")).ndim == 3


def test_a_model_draws(benchmark, sampler, tmp_path):
    result = Compositional(str(benchmark), scorer_canvases=30, real_canvases=3).run(SmallContext(sampler))
    assert result.scores["seen/joint"].value == 0.0 and result.details["num_samples"] == 12
    assert result.scores["seen/joint"].low == 0.0 < result.scores["seen/joint"].high


def test_canvases_are_spread_over_the_folder(benchmark):
    images, scenes = read_canvases(benchmark, "held_out", 7)
    everything, all_scenes = read_canvases(benchmark, "held_out", 1000)
    assert len(everything) == 30 and len(images) == len(scenes) == 6
    assert torch.equal(images, everything[::5]) and scenes == all_scenes[::5]


def test_what_is_wrong_is_named(benchmark, run, tmp_path):
    with pytest.raises(ValueError, match="samples_per_prompt is 0; accepted: 1 or more"):
        Compositional(str(benchmark), samples_per_prompt=0).check()
    with pytest.raises(
        ValueError, match="prompts.jsonl is not a file; give a folder that python -m examples.compositional.build"
    ):
        Compositional(str(tmp_path)).check()
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "a red three", "group": "en", "split": "other"}\n')
    with pytest.raises(ValueError, match=r"line 1 needs prompt, group and split \(one of seen"):
        Compositional(str(tmp_path)).check()
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "a red three", "group": "en", "split": "seen"}\n')
    with pytest.raises(ValueError, match="line 1: scene {} has no first"):
        Compositional(str(tmp_path)).check()
    small = Sampler(load_for_inference(run.checkpoint))
    with pytest.raises(ValueError, match=r"image.resolution is 8; the benchmark has 32"):
        Compositional(str(benchmark)).run(SmallContext(small))

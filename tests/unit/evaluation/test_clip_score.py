"""CLIP score against torchmetrics."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torchmetrics.functional.multimodal import clip_score
from transformers import CLIPModel, CLIPProcessor

from mars_megatron import platform
from mars_megatron.evaluation.clip import ClipScore
from tests.support.small_context import SmallContext
from tests.support.tiny_judges import SIDE, write_clip

TEXTS = ["a red square", "blue", "green circle", "two dogs"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    platform.initialize("auto")
    platform.init_process_group()
    return write_clip(tmp_path_factory.mktemp("clip"))


def images(seed: int = 0) -> torch.Tensor:
    shape = (2 * len(TEXTS), SIDE, SIDE, 3)
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def unwrapped(folder: Path):
    """What torchmetrics calls: it takes the features for tensors, which transformers 5 wraps."""
    model = CLIPModel.from_pretrained(folder).eval()
    wrapped = SimpleNamespace(
        config=model.config,
        get_image_features=lambda *inputs: model.get_image_features(*inputs).pooler_output,
        get_text_features=lambda *inputs: model.get_text_features(*inputs).pooler_output,
    )
    wrapped.to = lambda device: wrapped
    return wrapped, CLIPProcessor.from_pretrained(folder)


def test_equals_torchmetrics(folder: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(TEXTS))
    suite = ClipScore(str(prompts), str(folder), samples_per_prompt=2, clip_batch_size=3)
    suite.check()
    scores = []
    for seed in range(4):
        drawn = images(seed)
        result = suite.run(SmallContext(None, drawn))
        asked = [text for text in TEXTS for _ in range(2)]
        with torch.no_grad():
            expected = clip_score(list(drawn.permute(0, 3, 1, 2)), asked, lambda: unwrapped(folder))
        scores.append(result.scores["clip_score"].value)
        assert scores[-1] == pytest.approx(expected.item(), abs=1e-4)
    assert len(set(scores)) > 1
    assert result.scores["clip_score"].count == len(TEXTS)  # prompts, not images
    assert result.details["num_images"] == 8 and result.details["num_prompts_cut"] == 0


def test_prompts_longer_than_the_model_reads(folder: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("blue\na prompt that is too long for it\na prompt that is too long\nred\n")
    result = ClipScore(str(prompts), str(folder)).run(SmallContext(None, images()[:4]))
    assert result.details["num_prompts_cut"] == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompts": "missing.txt"}, "missing.txt is not a file"),
        ({"model": "no/such_folder/here"}, "clip: model is no/such_folder/here, which AutoConfig cannot open"),
        ({"clip_batch_size": 0}, "clip_batch_size is 0"),
    ],
)
def test_wrong_options(options: dict[str, object], message: str, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("blue")
    arguments = {"prompts": str(tmp_path / "prompts.txt"), "model": str(folder), **options}
    with pytest.raises(ValueError, match=message):
        ClipScore(**arguments).check()

"""The suite of the Frechet distance, its feature extractors and the statistics it keeps."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mars_megatron.evaluation.features import check_extractor, load_extractor, pixels
from mars_megatron.evaluation.fid import Fid, read_statistics
from mars_megatron.evaluation.frechet import FeatureSums, frechet_distance
from mars_megatron.sampling import Sampler, load_for_inference
from tests.support.small_context import SmallContext
from tests.support.tiny_run import TinyRun, write_run

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    return write_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def sampler(run: TinyRun) -> Sampler:
    return Sampler(load_for_inference(run.checkpoint))


@pytest.fixture
def suite(run: TinyRun, tmp_path: Path) -> Fid:
    return Fid(run.images, prompts=run.prompts, extractor="pixels", samples_per_prompt=5, cache=str(tmp_path / "cache"))


def real_images(run: TinyRun) -> torch.Tensor:
    images = [np.asarray(Image.open(Path(run.images) / f"{number}.png")) for number in range(30)]
    return torch.from_numpy(np.stack(images))


def test_drawn_images_are_compared_with_the_folder(run: TinyRun, sampler: Sampler, suite: Fid, tmp_path: Path) -> None:
    suite.check()
    context = SmallContext(sampler)
    result = suite.run(context)
    assert set(result.scores) == {"frechet_pixels"} and result.scores["frechet_pixels"].count == 30
    drawn, real = FeatureSums(), FeatureSums()
    drawn.add(pixels(context.draw(context.drawn, 5).permute(0, 3, 1, 2)))
    real.add(pixels(real_images(run).permute(0, 3, 1, 2)))
    expected = frechet_distance(drawn.moments(), real.moments())
    assert result.scores["frechet_pixels"].value == pytest.approx(expected, abs=1e-6)
    assert result.details["num_reference"] == 30 and result.details["num_features"] == 192
    assert result.details["between_halves_of_reference"] > 0
    assert "30 images do not determine a covariance of 192 features" in context.said[-1]


def test_the_reference_itself_is_at_distance_zero(run: TinyRun, sampler: Sampler, suite: Fid, tmp_path: Path) -> None:
    context = SmallContext(sampler, real_images(run))
    assert suite.run(context).scores["frechet_pixels"].value == pytest.approx(0, abs=1e-6)


def test_statistics_are_kept_until_something_changes(
    run: TinyRun, sampler: Sampler, suite: Fid, tmp_path: Path
) -> None:
    def kept() -> set[Path]:
        return set(Path(suite.cache).iterdir())

    context = SmallContext(sampler, real_images(run))
    suite.run(context)
    (file,) = kept()
    marked = dict(np.load(file))
    marked["mu"] += 1  # if the file is what is read, the distance shows it
    np.savez(file, **marked)
    result = suite.run(context)
    assert result.scores["frechet_pixels"].value == pytest.approx(192, abs=1e-4) and kept() == {file}

    image = Path(run.images) / "0.png"
    os.utime(image, ns=(1, 1))
    assert suite.run(context).scores["frechet_pixels"].value == pytest.approx(0, abs=1e-6)
    assert len(kept()) == 2
    replace(suite, max_reference=20).run(context)
    assert len(kept()) == 3


def test_published_statistics(run: TinyRun, sampler: Sampler, suite: Fid, tmp_path: Path) -> None:
    features = pixels(real_images(run).permute(0, 3, 1, 2)).numpy()
    file = tmp_path / "statistics.npz"
    np.savez(file, mu=features.mean(axis=0), sigma=np.cov(features, rowvar=False))
    published = replace(suite, reference=str(file))
    published.check()
    result = published.run(SmallContext(sampler, real_images(run)))
    assert result.scores["frechet_pixels"].value == pytest.approx(0, abs=1e-3)  # fp32 mean and covariance in the file
    assert result.details["num_reference"] == "unknown"

    np.savez(file, mu=np.zeros(3), sigma=np.eye(3))
    with pytest.raises(ValueError, match="has 3 features, extractor pixels gives 192"):
        published.run(SmallContext(sampler, real_images(run)))
    np.savez(file, mu=np.zeros(192), sigma=np.eye(192), extractor="inception")
    with pytest.raises(ValueError, match="of the extractor inception; extractor is pixels"):
        published.run(SmallContext(sampler, real_images(run)))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"mu": np.zeros(3)}, "needs the arrays mu and sigma"),
        ({"mu": np.zeros(3), "sigma": np.eye(2)}, r"sigma \(2, 2\)"),
    ],
)
def test_statistics_of_another_form(arrays: dict[str, np.ndarray], message: str, tmp_path: Path) -> None:
    file = tmp_path / "statistics.npz"
    np.savez(file, **arrays)
    with pytest.raises(ValueError, match=message):
        read_statistics(file)
    file.write_bytes(b"no archive")
    with pytest.raises(ValueError, match="cannot be read"):
        read_statistics(file)


class Network(torch.nn.Module):
    """Two means for each image, or class logits unless the features are asked for."""

    def forward(self, images: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        if return_features:
            return images.float().mean(dim=(2, 3))[:, :2]
        return images.float().flatten(1)


def test_torchscript_file(tmp_path: Path) -> None:
    file = tmp_path / "Inception.pt"
    torch.jit.script(Network()).save(file)
    extractor = load_extractor(str(file), CPU)
    assert extractor.name == "user_inception"  # never the name of the published network
    images = torch.full((3, 8, 8, 3), 7, dtype=torch.uint8)
    torch.testing.assert_close(extractor(images), torch.full((3, 2), 7.0))


def test_function_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def means(images):\n    return images.float().mean(dim=(2, 3))\n")
    first = load_extractor(f"{file}:means", CPU)
    assert first.name == "means" and first(torch.ones(2, 3, 4, 4, dtype=torch.uint8)).tolist() == [[1.0] * 3] * 2
    file.write_text("def means(images):\n    return images.float().mean()\n")
    second = load_extractor(f"{file}:means", CPU)
    assert second.fingerprint != first.fingerprint
    with pytest.raises(ValueError, match=r"must give \[N, features\]"):
        second(torch.ones(2, 3, 4, 4, dtype=torch.uint8))


def test_transformers_folder(tmp_path: Path) -> None:
    from transformers import ViTConfig, ViTModel
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=16, patch_size=8
    )
    model = ViTModel(config).eval()
    processor = ViTImageProcessorPil(size={"height": 16, "width": 16})
    model.save_pretrained(tmp_path / "vit")
    processor.save_pretrained(tmp_path / "vit")
    images = torch.randint(0, 256, (3, 8, 8, 3), dtype=torch.uint8)
    extractor = load_extractor(str(tmp_path / "vit"), CPU)
    with torch.no_grad():
        expected = model(**processor(images=list(images.numpy()), return_tensors="pt")).pooler_output
    assert extractor.name == "vit"
    torch.testing.assert_close(extractor(images), expected)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("inception:missing.pth", "needs the weights missing.pth.*accepted besides"),
        ("nothing", "which does not exist; accepted: inception"),
        ("no.such.module:name", "there is no module no in"),
        ("weights.pt", "there is no module weights in .*; accepted: inception, .*TorchScript"),
        ("missing.py:name", "does not exist"),
        ("mars_megatron.evaluation.features:nothing", "has no nothing"),
    ],
)
def test_unusable_extractor(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_extractor(name)


def test_a_file_that_is_no_torchscript(tmp_path: Path) -> None:
    (tmp_path / "wrong.pt").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="is no TorchScript file"):
        load_extractor(str(tmp_path / "wrong.pt"), CPU)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reference": "missing"}, "reference 'missing' does not exist"),
        ({"samples_per_prompt": 0}, "samples_per_prompt is 0; accepted: 1 or more"),
        ({"prompts": "missing.txt"}, "missing.txt is not a file"),
        ({"extractor": "nothing"}, "extractor is 'nothing'"),
        ({"max_prompts": 1, "samples_per_prompt": 1}, "one image has no covariance"),
    ],
)
def test_wrong_options(suite: Fid, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(suite, **changes).check()


def test_captions_of_the_reference_are_drawn(run: TinyRun, sampler: Sampler, suite: Fid, tmp_path: Path) -> None:
    context = SmallContext(sampler)
    replace(suite, prompts="", max_prompts=3, samples_per_prompt=1).run(context)
    assert context.drawn == [f"a {word} square" for word in ("red", "green", "blue")]  # images 0, 10 and 20

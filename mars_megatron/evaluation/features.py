"""Extractors of the image features whose distributions are compared."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F

from mars_megatron.config.user_code import FORMS, is_attribute, load_attribute, source_file
from mars_megatron.evaluation.pretrained import load_pretrained, load_processor, model_type
from mars_megatron.files.hashes import content_fingerprint
from mars_megatron.tokenizers.image import channels_first

PIXELS_SIDE = 8  # `pixels` averages images to this height and width
INCEPTION_WEIGHTS = "weights-inception-2015-12-05-6726825d.pth"  # as torch-fidelity publishes them
ACCEPTED = (
    "inception, inception:WEIGHTS.pth, pixels, a TorchScript file, a folder of a transformers vision model, or a "
    f"function from uint8 [N, 3, H, W] to [N, features] as {FORMS}"
)


@dataclass(frozen=True)
class FeatureExtractor:
    """Features of images.

    Args:
        name: Short name, for scores; only the Inception network of the published FID is called `inception`.
        fingerprint: Changes with what decides the features.
        extract: uint8 [N, 3, H, W] on the device -> floating [N, features].
        device: Where it runs.
    """

    name: str
    fingerprint: str
    extract: Callable[[torch.Tensor], torch.Tensor]
    device: torch.device

    @torch.no_grad()
    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 [N, 3, H, W] or [N, H, W, 3] -> fp32 [N, features] on the CPU.

        Raises:
            ValueError: The extractor gives another shape.
        """
        features = self.extract(channels_first(images).contiguous().to(self.device))
        if not torch.is_tensor(features) or features.ndim != 2 or len(features) != len(images):
            found = tuple(features.shape) if torch.is_tensor(features) else type(features).__name__
            raise ValueError(f"extractor {self.name} gave {found} for {len(images)} images; it must give [N, features]")
        return features.float().cpu()


def check_extractor(name: str) -> None:
    """Whether `load_extractor` will know what is meant, without loading it.

    Raises:
        ValueError: It is nothing that is accepted, or is not there.
    """
    kind, _, path = name.partition(":")
    if kind == "inception":
        _inception_weights(path)
    elif name == "pixels" or Path(name).is_file():
        return
    elif Path(name).is_dir():
        model_type("extractor", name)
    elif is_attribute(name):
        load_attribute("extractor", name, ACCEPTED)
    else:
        raise ValueError(f"extractor is {name!r}, which does not exist; accepted: {ACCEPTED}")


def load_extractor(name: str, device: torch.device) -> FeatureExtractor:
    """The extractor of this name; see `ACCEPTED`.

    Raises:
        ValueError: As `check_extractor`, or the file or folder cannot be opened.
    """
    check_extractor(name)
    kind, _, path = name.partition(":")
    if kind == "inception":
        return _inception(_inception_weights(path), device)
    if name == "pixels":
        return FeatureExtractor("pixels", f"pixels {PIXELS_SIDE}", pixels, device)
    if Path(name).is_file():
        return _torchscript(Path(name), device)
    if Path(name).is_dir():
        return _transformers(Path(name), device)
    extract = load_attribute("extractor", name)
    source = source_file(name)
    fingerprint = f"{name} {_fingerprint(source) if source else ''}"
    return FeatureExtractor(_short(re.split("[.:]", name)[-1]), fingerprint, extract, device)


def pixels(images: torch.Tensor) -> torch.Tensor:
    """Images averaged to 8x8: uint8 [N, 3, H, W] -> fp32 [N, 192] in 0..1. For small pictures and for tests."""
    return (F.adaptive_avg_pool2d(images.float(), PIXELS_SIDE) / 255).flatten(1)


def _inception_weights(path: str) -> Path:
    weights = Path(path) if path else Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_WEIGHTS
    if not weights.is_file():
        raise ValueError(
            f"extractor inception needs the weights {weights}, which do not exist; put {INCEPTION_WEIGHTS} of the "
            f"torch-fidelity releases there, or name another file with inception:PATH; accepted besides: {ACCEPTED}"
        )
    missing = [package for package in ("torch_fidelity", "torchvision") if find_spec(package) is None]
    if missing:
        raise ValueError(
            f"extractor inception needs {' and '.join(missing)} (pip install torch-fidelity), or give the path of a "
            f"TorchScript Inception; accepted: {ACCEPTED}"
        )
    return weights


def _inception(weights: Path, device: torch.device) -> FeatureExtractor:
    from torchmetrics.image.fid import NoTrainInceptionV3

    # The resizing without antialiasing is TensorFlow's, with which FIDs are published.
    network = NoTrainInceptionV3("inception-v3-compat", ["2048"], str(weights), antialias=False).to(device)
    return FeatureExtractor("inception", _fingerprint(weights), network, device)


def _torchscript(path: Path, device: torch.device) -> FeatureExtractor:
    try:
        network = torch.jit.load(path, map_location=device).eval()
    except RuntimeError as error:
        raise ValueError(f"extractor {path} is no TorchScript file ({str(error).splitlines()[0]})") from error
    # Published TorchScript Inceptions give class logits unless they are asked for the features.
    has_choice = any(argument.name == "return_features" for argument in network.forward.schema.arguments)

    def extract(images: torch.Tensor) -> torch.Tensor:
        return network(images, return_features=True) if has_choice else network(images)

    return FeatureExtractor(_short(path.stem), _fingerprint(path), extract, device)


def _transformers(folder: Path, device: torch.device) -> FeatureExtractor:
    from transformers import AutoImageProcessor, AutoModel

    model = load_pretrained(AutoModel, "extractor", str(folder), device)
    processor = load_processor(AutoImageProcessor, "extractor", str(folder))
    network = getattr(model, "vision_model", model)  # of a model of images and texts, such as CLIP

    def extract(images: torch.Tensor) -> torch.Tensor:
        arrays = list(images.permute(0, 2, 3, 1).cpu().numpy())
        found = network(**processor(images=arrays, return_tensors="pt").to(device))
        pooled = getattr(found, "pooler_output", None)
        if pooled is not None:
            return pooled.flatten(1)
        states = found.last_hidden_state  # [N, tokens, hidden], of a convolutional network [N, hidden, rows, columns]
        return states.mean(dim=1) if states.ndim == 3 else states.mean(dim=(2, 3))

    return FeatureExtractor(_short(folder.resolve().name), _fingerprint(folder), extract, device)


def _fingerprint(path: Path) -> str:
    return content_fingerprint(path, sampled=False)


def _short(name: str) -> str:
    """For names of scores. A user's extractor is never called what only the published network is."""
    short = re.sub(r"\W+", "_", name).strip("_").lower() or "extractor"
    return f"user_{short}" if short in ("inception", "pixels") else short

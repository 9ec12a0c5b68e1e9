"""From prompts to pictures in one or two steps: low-resolution codes, then super-resolution from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from mars_megatron import platform
from mars_megatron.checkpoint import read_config
from mars_megatron.checkpoint.folders import step_of
from mars_megatron.config import validate
from mars_megatron.config.parser import override
from mars_megatron.config.schema import RunConfig
from mars_megatron.files.hashes import content_fingerprint
from mars_megatron.gallery.prompts import PlannedImage, decisive
from mars_megatron.sampling.load import agreed_checkpoint, load_for_inference
from mars_megatron.sampling.sampler import Sampler
from mars_megatron.tokenizers.tokenizer_files import image_fingerprint


@dataclass(frozen=True)
class Models:
    """Which checkpoints sample, and how.

    Args:
        checkpoint: A checkpoint, or the folder of a run; without `high` it samples at its own resolution.
        high: Whether super-resolution follows.
        super_resolution: Checkpoint for that; empty for the same one, which then samples its own low resolution first.
        overrides: Settings in place of the saved ones: ["--generation.guidance=2", "--data.image_tokenizer=...", ...].
        high_overrides: The same for super-resolution; those of `data` are taken from `overrides` too.
        tensor: Tensor-parallel size; None takes all ranks.
        device: Where they run.
    """

    checkpoint: str
    high: bool = False
    super_resolution: str = ""
    overrides: tuple[str, ...] = ()
    high_overrides: tuple[str, ...] = ()
    tensor: int | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"


class SampledImages(NamedTuple):
    """What a batch of images came out as.

    Attributes:
        codes: int64 [N, codes] at the resolution asked for.
        low_codes: int64 [N, low codes] that super-resolution started from; None without it.
        numbers: Number of the candidate that was kept, of each image.
        scores: Score of each candidate of each image; empty lists where there was one.
    """

    codes: torch.Tensor
    low_codes: torch.Tensor | None
    numbers: list[int]
    scores: list[list[float]]


class Cascade:
    """Draws images. Every rank must make the same calls, and gets the same; replicas share the work.

    Args:
        models: The checkpoints.

    Attributes:
        record: What is written of the model that begins, see `model_record`.
        high_record: The same of super-resolution, with its settings; None without it.
        resolution: Height and width of the images in pixels.

    Raises:
        ValueError: A wrong setting, no checkpoint, or two that do not fit each other.
    """

    def __init__(self, models: Models) -> None:
        self.models = models
        self._folder = agreed_checkpoint(models.checkpoint, models.device)
        self._high_folder = self._folder
        if models.super_resolution:
            self._high_folder = agreed_checkpoint(models.super_resolution, models.device)
        self.first = Sampler(load_for_inference(self._folder, models.tensor, models.overrides, device=models.device))
        self.second: Sampler | None = None
        image = self.first.loaded.config.image
        self.first_resolution = image.resolution
        if models.high:
            self.second = self._open_second()
            self.first_resolution = self.second.loaded.config.image.low_resolution
        self.resolution = self._last.loaded.config.image.resolution
        self.record = model_record(self._folder, self.first)
        self.high_record: dict[str, Any] | None = None
        if self.second is not None:
            self.high_record = model_record(self._high_folder, self.second)
            self.high_record["settings"] = decisive(self.second.loaded.config.generation)
            self._check_fit()

    @property
    def _last(self) -> Sampler:
        return self.second or self.first

    @property
    def config(self) -> RunConfig:
        """The configuration of the model that begins."""
        return self.first.loaded.config

    @property
    def layout(self) -> dict[str, Any]:
        """Where images were sampled, and how many together: with another one, other roundings are possible."""
        groups, batch_size = self.first.loaded.groups, self.config.generation.batch_size
        return {
            "device": platform.device().type,
            "tensor": groups.tp.size(),
            "replicas": groups.dp.size(),
            "batch_size": batch_size,
        }

    def sample(self, planned_images: Sequence[PlannedImage]) -> SampledImages:
        """Draw some images of the same settings together.

        Of several candidates the one is kept under whose low-resolution codes (those of the first step) the model finds
        the prompt most probable as the caption.
        """
        texts = [image_plan.prompt.text for image_plan in planned_images for _ in image_plan.numbers]
        seeds = [image_plan.seed for image_plan in planned_images for _ in image_plan.numbers]
        numbers = [number for image_plan in planned_images for number in image_plan.numbers]
        (settings,) = {image_plan.settings for image_plan in planned_images}
        codes = self.first.sample_each(texts, numbers, seeds=seeds, settings=settings, resolution=self.first_resolution)
        scores: list[list[float]] = [[] for _ in planned_images]
        if len(numbers) > len(planned_images):
            every = iter(self.first.caption_scores(texts, codes, settings.batch_size).tolist())
            scores = [[next(every) for _ in image_plan.numbers] for image_plan in planned_images]
        kept, start = [], 0
        for image_plan, found in zip(planned_images, scores, strict=True):
            kept.append(start + (found.index(max(found)) if found else 0))
            start += len(image_plan.numbers)
        chosen = [numbers[place] for place in kept]
        if self.second is None:
            return SampledImages(codes[kept], None, chosen, scores)
        prompts, of_kept = [image_plan.prompt.text for image_plan in planned_images], [seeds[place] for place in kept]
        how = replace(self.second.loaded.config.generation, batch_size=settings.batch_size)
        high = self.second.upscale_each(prompts, codes[kept], chosen, seeds=of_kept, settings=how)
        return SampledImages(high, codes[kept], chosen, scores)

    def pictures(self, sampled: SampledImages) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The images, and the low-resolution ones they were made from: uint8 [N, height, width, 3]."""
        images = self._last.decode(sampled.codes)
        if sampled.low_codes is None:
            return images, None
        return images, self._last.decode(sampled.low_codes, self.first_resolution)

    def _open_second(self) -> Sampler:
        models, first = self.models, self.first.loaded
        if not models.super_resolution:
            if first.config.image.low_resolution == 0:
                raise ValueError(
                    f"the resolution is high, but {models.checkpoint} has not learned super-resolution "
                    "(image.low_resolution is 0); accepted: the checkpoint of such a model for super-resolution, or low"
                )
            # Its settings are the saved ones: those given are for the first step.
            saved = replace(first.config, generation=read_config(self._folder).generation)
            return Sampler(replace(first, config=validate(override(saved, models.high_overrides))))
        data = [given for given in models.overrides if given.startswith("--data.")]
        loaded = load_for_inference(
            self._high_folder,
            overrides=[*data, *models.high_overrides],
            device=models.device,
            groups=first.groups,
        )
        if loaded.config.image.low_resolution == 0:
            raise ValueError(
                f"{models.super_resolution} has not learned super-resolution (image.low_resolution is 0); accepted: "
                "the checkpoint of a model that has (stage III)"
            )
        return Sampler(loaded)

    def _check_fit(self) -> None:
        """Whether super-resolution goes on from what the first model makes."""
        first, second = self.first.loaded.config, self._last.loaded.config
        if self.models.super_resolution and first.image.resolution != second.image.low_resolution:
            raise ValueError(
                f"{self.models.checkpoint} samples at image.resolution {first.image.resolution}, but "
                f"{self.models.super_resolution} starts from image.low_resolution {second.image.low_resolution}; "
                "accepted: the same"
            )
        images = [sampler.tokenizer_path("image_tokenizer") for sampler in (self.first, self._last)]
        if images[0] != images[1] and image_fingerprint(images[0]) != image_fingerprint(images[1]):
            raise ValueError(
                f"data.image_tokenizer of {self.models.checkpoint} is {first.data.image_tokenizer}, that of "
                f"{self.models.super_resolution} {second.data.image_tokenizer}, which differs; accepted: the same, "
                "because one model goes on from the codes of the other"
            )


def model_record(folder: Path, sampler: Sampler) -> dict[str, Any]:
    """What is written of a model: where its checkpoint lies, the step, and fingerprints of what is in its files.

    Raises:
        ValueError: It has no tokenizers, or they are not there.
    """
    tokenizers = {name: sampler.tokenizer_path(name) for name in ("text_tokenizer", "image_tokenizer")}
    return {
        "checkpoint": str(folder.resolve()),
        "step": step_of(folder),
        "fingerprint": content_fingerprint(folder),
        **{
            name: {"path": str(Path(path).resolve()), "fingerprint": content_fingerprint(path)}
            for name, path in tokenizers.items()
        },
    }

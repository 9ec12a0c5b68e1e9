"""Frechet distance between drawn and real images."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from mars_megatron.evaluation.features import FeatureExtractor
    from mars_megatron.evaluation.frechet import Moments
    from mars_megatron.evaluation.reference_statistics import Reference
    from mars_megatron.evaluation.suite import Context, Result


@dataclass(frozen=True)
class Fid:
    """Frechet distance of the features of drawn and of reference images (FID, with Inception features).

    The score is called fid_inception with the network of the published FID, and frechet_NAME with any other extractor.
    It depends on the number of images: with few it is too large. The result has the counts beside it, and the distance
    between the two halves of the reference.

    Args:
        reference: Folder of real images (with captions.jsonl or without), or an .npz with mu and sigma.
        prompts: File of prompts, or an image-text folder whose first captions are drawn; empty takes the reference.
        extractor: inception, inception:WEIGHTS.pth, pixels, a TorchScript file, a folder of a transformers vision
            model, or module:attribute of a function from uint8 [N, 3, H, W] to [N, features].
        samples_per_prompt: Images drawn for each prompt.
        max_prompts: Most prompts, spread evenly over all; 0 for all.
        max_reference: Most reference images, spread evenly over the folder; 0 for all.
        feature_batch_size: Images in one call of the extractor.
        cache: Folder in which the statistics of reference folders are kept.
    """

    name: ClassVar[str] = "fid"
    reference: str
    prompts: str = ""
    extractor: str = "inception"
    samples_per_prompt: int = 1
    max_prompts: int = 0
    max_reference: int = 0
    feature_batch_size: int = 64
    cache: str = field(default="~/.cache/mars_megatron/statistics", metadata={"written": True})

    def check(self) -> None:
        """Look at the options and the files that they name.

        Raises:
            ValueError: What is wrong, and what would be accepted.
        """
        from mars_megatron.evaluation.features import check_extractor
        from mars_megatron.evaluation.reference_statistics import read_statistics
        from mars_megatron.indexing.sources import folder_images

        least = {"samples_per_prompt": 1, "max_prompts": 0, "max_reference": 0, "feature_batch_size": 1}
        for option, minimum in least.items():
            if getattr(self, option) < minimum:
                raise ValueError(f"fid: {option} is {getattr(self, option)}; accepted: {minimum} or more")
        if self._is_folder():
            folder_images(self.reference)
        elif Path(self.reference).is_file():
            read_statistics(self.reference)
            if self.max_reference:
                raise ValueError("fid: max_reference has no meaning for statistics; accepted with a folder of images")
        else:
            raise ValueError(f"fid: reference {self.reference!r} does not exist; give a folder of images or an .npz")
        check_extractor(self.extractor)
        if len(self._texts()) * self.samples_per_prompt < 2:
            raise ValueError("fid: one image has no covariance; give more prompts or samples_per_prompt")

    def run(self, context: Context) -> Result:
        """Draw, extract and compare."""
        from mars_megatron import platform
        from mars_megatron.evaluation.features import load_extractor
        from mars_megatron.evaluation.frechet import frechet_distance
        from mars_megatron.evaluation.intervals import Estimate
        from mars_megatron.evaluation.suite import Result

        extractor = load_extractor(self.extractor, platform.device())
        reference = self._reference(extractor, context)
        drawn = self._drawn(extractor, context)
        if drawn.mean.shape != reference.moments.mean.shape:
            raise ValueError(
                f"fid: reference {self.reference} has {len(reference.moments.mean)} features, extractor "
                f"{self.extractor} gives {len(drawn.mean)}; give statistics of the same extractor"
            )
        distance = frechet_distance(drawn, reference.moments)
        details: dict[str, object] = {
            "extractor": self.extractor,
            "num_drawn": drawn.count,
            "num_reference": reference.moments.count or "unknown",
            "num_features": len(drawn.mean),
            "between_halves_of_reference": reference.between_halves,
        }
        if drawn.count <= len(drawn.mean):
            details["bias"] = (
                f"{drawn.count} images do not determine a covariance of {len(drawn.mean)} features: the distance is "
                "too large, and compares only with others of as many images"
            )
            context.say(str(details["bias"]))
        name = "fid_inception" if extractor.name == "inception" else f"frechet_{extractor.name}"
        return Result({name: Estimate(distance, count=drawn.count)}, details)

    def _is_folder(self) -> bool:
        return Path(self.reference).is_dir()

    def _texts(self) -> list[str]:
        from mars_megatron.evaluation.texts import read_texts, spread

        if not self.prompts and not self._is_folder():
            raise ValueError(f"fid: prompts is empty, and reference {self.reference} has no captions; give prompts")
        return spread(read_texts(self.prompts or self.reference), self.max_prompts)

    def _reference(self, extractor: FeatureExtractor, context: Context) -> Reference:
        from mars_megatron.evaluation.reference_statistics import ReferenceImages, read_statistics

        if not self._is_folder():
            return read_statistics(self.reference, extractor.name)
        resolution = context.sampler.loaded.config.image.resolution
        images = ReferenceImages(self.reference, resolution, self.max_reference, self.feature_batch_size)
        return images.statistics(extractor, Path(self.cache), context.say)

    def _drawn(self, extractor: FeatureExtractor, context: Context) -> Moments:
        from mars_megatron.evaluation.frechet import FeatureSums
        from mars_megatron.evaluation.ranks import my_share

        images = context.draw(self._texts(), self.samples_per_prompt)
        mine = my_share(len(images))
        sums = FeatureSums()
        for start in range(0, len(mine), self.feature_batch_size):
            sums.add(extractor(images[list(mine[start : start + self.feature_batch_size])]))
        return sums.reduce(extractor.device).moments()

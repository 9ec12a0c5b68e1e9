"""Frechet distance between drawn and real images, whose statistics are computed once and stored."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from tqdm import tqdm

from mars_megatron import platform
from mars_megatron.evaluation.context import Context, my_share
from mars_megatron.evaluation.features import FeatureExtractor, check_extractor, load_extractor
from mars_megatron.evaluation.frechet import FeatureSums, Moments, frechet_distance
from mars_megatron.evaluation.intervals import Estimate
from mars_megatron.evaluation.suite import Result, check_least
from mars_megatron.evaluation.texts import read_texts, spread
from mars_megatron.files.writing import complete
from mars_megatron.indexing.images import load_images
from mars_megatron.indexing.sources import folder_images
from mars_megatron.platform.parallel import only_on_rank_0

STATISTICS = ("mu", "sigma", "count", "between_halves", "extractor")  # arrays of an .npz


@dataclass(frozen=True)
class Fid:
    """Frechet distance of the features of drawn and of reference images (FID, with Inception features).

    The score is called fid_inception with the network of the published FID, and frechet_NAME with any other extractor.
    It depends on the number of images: with few it is too large. The result also has the numbers of images and the
    distance between two halves of the reference.

    Args:
        reference: Folder of real images (with captions.jsonl or without), or an .npz with mu and sigma.
        prompts: File of prompts, or an image-text folder whose first captions are drawn; empty takes the reference.
        extractor: inception, inception:WEIGHTS.pth, pixels, a TorchScript file, a folder of a transformers vision
            model, or package.module.name of a function from uint8 [N, 3, H, W] to [N, features].
        samples_per_prompt: Images drawn for each prompt.
        max_prompts: Largest number of prompts, spread evenly over all; 0 for all.
        max_reference: Largest number of reference images, spread evenly over the folder; 0 for all.
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
        """See `Suite`."""
        check_least(self, samples_per_prompt=1, max_prompts=0, max_reference=0, feature_batch_size=1)
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
        if not self.prompts and not self._is_folder():
            raise ValueError(f"fid: prompts is empty, and reference {self.reference} has no captions; give prompts")
        return spread(read_texts(self.prompts or self.reference), self.max_prompts)

    def _drawn(self, extractor: FeatureExtractor, context: Context) -> Moments:
        images = context.draw(self._texts(), self.samples_per_prompt)
        mine = my_share(len(images))
        sums = FeatureSums()
        for start in range(0, len(mine), self.feature_batch_size):
            sums.add(extractor(images[mine[start : start + self.feature_batch_size]]))
        return sums.reduce(extractor.device).moments()

    def _reference(self, extractor: FeatureExtractor, context: Context) -> Reference:
        """The statistics of the reference, kept ones where extractor, images and resolution are the same."""
        if not self._is_folder():
            return read_statistics(self.reference, extractor.name)
        resolution = context.sampler.loaded.config.image.resolution
        paths = folder_images(self.reference, self.max_reference)
        key = _key(self.reference, paths, resolution, extractor)
        file = Path(self.cache).expanduser() / f"{extractor.name}-{key}.npz"
        # Other hosts may see other files.
        known = only_on_rank_0(lambda: read_statistics(file) if file.is_file() else None)
        if known is not None:
            context.say(f"statistics of {self.reference}: {file}")
            return known
        reference = self._compute_reference(paths, resolution, extractor)
        if torch.distributed.get_rank() == 0:
            _write(file, reference, extractor)
        context.say(f"statistics of {self.reference}: written to {file}")
        return reference

    def _compute_reference(self, paths: list[Path], resolution: int, extractor: FeatureExtractor) -> Reference:
        mine = my_share(len(paths))
        even, odd = FeatureSums(), FeatureSums()
        unreadable: list[str] = []
        hidden = torch.distributed.get_rank() != 0
        with tqdm(total=len(mine), desc="reference", unit="image", disable=hidden, mininterval=0.5) as bar:
            for start in range(0, len(mine), self.feature_batch_size):
                numbers = mine[start : start + self.feature_batch_size]
                images, failed = load_images([paths[number] for number in numbers], resolution, progress=False)
                unreadable += [f"{path}: {why}" for path, why in failed]
                if not failed:
                    features = extractor(images)
                    is_odd = torch.tensor(numbers) % 2 == 1
                    even.add(features[~is_odd])
                    odd.add(features[is_odd])
                bar.update(len(numbers))
        everyones: list[list[str]] = [unreadable] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(everyones, unreadable)
        if found := sum(everyones, []):
            raise ValueError(f"reference {self.reference}: {len(found)} images cannot be read, first {found[0]}")
        even, odd = even.reduce(extractor.device), odd.reduce(extractor.device)
        has_halves = min(even.count, odd.count) >= 2
        between = frechet_distance(even.moments(), odd.moments()) if has_halves else None
        even.merge(odd)
        return Reference(even.moments(), between)


@dataclass(frozen=True)
class Reference:
    """What is known of a reference set.

    Args:
        moments: Of its features.
        between_halves: Frechet distance of its even and its odd images: what a perfect model would score with half as
            many images; None for published statistics.
    """

    moments: Moments
    between_halves: float | None = None


def read_statistics(path: str | Path, extractor: str = "") -> Reference:
    """Statistics from an .npz with `mu` [features] and `sigma` [features, features], the usual form of published ones.

    Args:
        path: The file.
        extractor: Name of the extractor in use. Files that this package wrote say which one theirs was; published ones
            do not.

    Raises:
        ValueError: It is no such file, or says that it is of another extractor.
    """
    try:
        with np.load(path) as arrays:
            # only these: some published files also hold the images
            found = {name: arrays[name] for name in STATISTICS if name in arrays.files}
            others = arrays.files
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"reference {path} cannot be read as .npz: {error}") from error
    if "mu" not in found or "sigma" not in found:
        raise ValueError(f"reference {path} has {', '.join(others) or 'nothing'}; it needs the arrays mu and sigma")
    mean, covariance = (torch.from_numpy(found[name]).double() for name in ("mu", "sigma"))
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
        shapes = f"mu {tuple(mean.shape)} and sigma {tuple(covariance.shape)}"
        raise ValueError(f"reference {path} has {shapes}; they must be [features] and [features, features]")
    theirs = str(found.get("extractor", ""))
    if extractor and theirs and theirs != extractor:
        raise ValueError(f"reference {path} is of the extractor {theirs}; extractor is {extractor}")
    between = float(found["between_halves"]) if "between_halves" in found else float("nan")
    count = int(found.get("count", 0))
    return Reference(Moments(mean, covariance, count), None if np.isnan(between) else between)


def _key(folder: str, paths: list[Path], resolution: int, extractor: FeatureExtractor) -> str:
    digest = hashlib.sha256(json.dumps([extractor.fingerprint, resolution]).encode())
    for path in paths:
        status = path.stat() if path.is_file() else None
        seen = (status.st_size, status.st_mtime_ns) if status else ()
        digest.update(json.dumps([os.path.relpath(path, folder), *seen]).encode())
    return digest.hexdigest()[:32]


def _write(file: Path, reference: Reference, extractor: FeatureExtractor) -> None:
    # two runs may be at it
    with complete(file, unique=True) as temporary, temporary.open("wb") as target:
        np.savez(
            target,
            mu=reference.moments.mean.numpy(),
            sigma=reference.moments.covariance.numpy(),
            count=reference.moments.count,
            between_halves=float("nan") if reference.between_halves is None else reference.between_halves,
            extractor=extractor.name,
        )

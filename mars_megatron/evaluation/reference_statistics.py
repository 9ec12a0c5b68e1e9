"""Moments of the features of a reference set, computed once and kept."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from mars_megatron.evaluation.features import FeatureExtractor
from mars_megatron.evaluation.frechet import FeatureSums, Moments, frechet_distance
from mars_megatron.evaluation.ranks import my_share
from mars_megatron.files.writing import complete
from mars_megatron.indexing.images import load_images
from mars_megatron.indexing.sources import folder_images
from mars_megatron.platform.parallel import only_on_rank_0

STATISTICS = ("mu", "sigma", "count", "between_halves", "extractor")  # arrays of an .npz


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


@dataclass(frozen=True)
class ReferenceImages:
    """Images that drawn ones are compared with.

    Args:
        folder: An image-text folder, or any folder of images.
        resolution: Height and width that they are brought to, in pixels; the shorter side is scaled, the centre kept.
        limit: Most images, spread evenly over the folder; 0 for all.
        batch_size: Images in one call of the extractor.
    """

    folder: str
    resolution: int
    limit: int = 0
    batch_size: int = 64

    def statistics(self, extractor: FeatureExtractor, cache: Path, say: Callable[[str], None]) -> Reference:
        """Their statistics; every rank must call it, and gets the same.

        Args:
            extractor: Gives the features.
            cache: Folder of the statistics of earlier calls; they are used where extractor, images and resolution are
                the same.
            say: Prints a line on rank 0.

        Raises:
            ValueError: An image cannot be read, or there are too few.
        """
        paths = folder_images(self.folder, self.limit)
        file = cache.expanduser() / f"{extractor.name}-{self._key(paths, extractor)}.npz"
        # Other hosts may see other files.
        known = only_on_rank_0(lambda: read_statistics(file) if file.is_file() else None)
        if known is not None:
            say(f"statistics of {self.folder}: {file}")
            return known
        reference = self._compute(paths, extractor)
        if torch.distributed.get_rank() == 0:
            _write(file, reference, extractor)
        say(f"statistics of {self.folder}: written to {file}")
        return reference

    def _key(self, paths: list[Path], extractor: FeatureExtractor) -> str:
        digest = hashlib.sha256(json.dumps([extractor.fingerprint, self.resolution]).encode())
        for path in paths:
            status = path.stat() if path.is_file() else None
            seen = (status.st_size, status.st_mtime_ns) if status else ()
            digest.update(json.dumps([os.path.relpath(path, self.folder), *seen]).encode())
        return digest.hexdigest()[:32]

    def _compute(self, paths: list[Path], extractor: FeatureExtractor) -> Reference:
        mine = list(my_share(len(paths)))
        even, odd = FeatureSums(), FeatureSums()
        unreadable: list[str] = []
        hidden = torch.distributed.get_rank() != 0
        with tqdm(total=len(mine), desc="reference", unit="image", disable=hidden, mininterval=0.5) as bar:
            for start in range(0, len(mine), self.batch_size):
                numbers = mine[start : start + self.batch_size]
                images, failed = load_images([paths[number] for number in numbers], self.resolution, progress=False)
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
            raise ValueError(f"reference {self.folder}: {len(found)} images cannot be read, first {found[0]}")
        even, odd = even.reduce(extractor.device), odd.reduce(extractor.device)
        has_halves = min(even.count, odd.count) >= 2
        between = frechet_distance(even.moments(), odd.moments()) if has_halves else None
        even.merge(odd)
        return Reference(even.moments(), between)


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


def _write(file: Path, reference: Reference, extractor: FeatureExtractor) -> None:
    with complete(file, unique=True) as temporary, temporary.open("wb") as target:  # two runs may be at it
        np.savez(
            target,
            mu=reference.moments.mean.numpy(),
            sigma=reference.moments.covariance.numpy(),
            count=reference.moments.count,
            between_halves=float("nan") if reference.between_halves is None else reference.between_halves,
            extractor=extractor.name,
        )

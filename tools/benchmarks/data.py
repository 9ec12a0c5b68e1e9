"""Indexing, loading, starting and packing, with the values that they are required to reach."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.data_indexing import ImagesOptions, TextOptions, measure_images, measure_text
from benchmarks.data_loading import measure_loader, measure_packing, measure_startup
from benchmarks.data_options import NORM_GROUPS, DataOptions

# The images and the image tokenizer of the quickstart.
QUICKSTART: dict[str, Any] = {
    "size": (16, 16),
    "resolution": 16,
    "widths": (16, 32, 32),
    "codebook_size": 256,
    "code_dim": 8,
    "layers": 1,
    "norm_groups": 8,
    "batch_size": 64,
}


class Figure(NamedTuple):
    """One line of the report.

    Attributes:
        part: Of data_options.PARTS.
        name: What it is.
        value: The figure.
        unit: Of the value.
        bar: What it is to reach, or stay below; None without one.
        least: Whether the bar is the least value that will do; otherwise it is the most.
    """

    part: str
    name: str
    value: float
    unit: str = ""
    bar: float | None = None
    least: bool = True

    @property
    def met(self) -> bool | None:
        """Whether the bar is met; None without one."""
        if self.bar is None:
            return None
        return self.value >= self.bar if self.least else self.value <= self.bar


def run(options: DataOptions, say: Callable[[str], None] = print) -> tuple[dict[str, Any], dict[str, Any]]:
    """Ratios and figures by part.

    Returns:
        Ratios of text, image, image_small and loader, as far as they were measured; and what each part returned, with
        "figures", the lines of the table.

    Raises:
        ValueError: `folder` is not there, or an impossible option.
        RuntimeError: A contestant gives another result than ours.
        OSError: The disk is full, or a measured process failed; with what it said.
    """
    if not Path(options.folder).is_dir():
        raise ValueError(f"--folder {options.folder} is not a folder that exists")
    measured: dict[str, Any] = {}
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="data_", dir=options.folder) as temporary:
        for part in options.parts:
            for name, measure in _MEASURES[part].items():
                folder = Path(temporary) / name
                folder.mkdir()
                measured[name] = measure(options, folder)
            found = _FIGURES[part](measured)
            figures += found
            say(as_table(found))
    ratios = {name: found["ratio"] for name, found in measured.items() if "ratio" in found}
    return ratios, {**measured, "figures": [{**figure._asdict(), "met": figure.met} for figure in figures]}


def as_table(figures: list[Figure]) -> str:
    """A line for each figure."""
    lines = []
    for figure in figures:
        bar = ""
        if figure.bar is not None:
            sign = ">=" if figure.least else "<="
            bar = f"bar {sign} {figure.bar:g}: {'met' if figure.met else 'MISSED'}"
        lines.append(f"{figure.part:<8} {figure.name:<58} {figure.value:>14,.2f} {figure.unit:<12} {bar}".rstrip())
    return "\n".join(lines)


def _measure_text(options: DataOptions, folder: Path) -> dict[str, Any]:
    return measure_text(
        TextOptions(options.captions, options.text_vocabulary, options.workers, options.rounds, options.progress),
        folder,
    )


def _measure_image(options: DataOptions, folder: Path) -> dict[str, Any]:
    return measure_images(_images(options), folder)


def _measure_small_image(options: DataOptions, folder: Path) -> dict[str, Any]:
    return measure_images(replace(_images(options), images=options.small_images, **QUICKSTART), folder)


def _images(options: DataOptions) -> ImagesOptions:
    """aMUSEd's VQModel, with `options.widths`."""
    return ImagesOptions(
        images=options.images,
        size=options.image_size,
        resolution=options.resolution,
        widths=options.widths,
        codebook_size=8192,
        code_dim=64,
        layers=2,
        norm_groups=NORM_GROUPS,
        batch_size=options.batch_size,
        workers=options.workers,
        rounds=options.rounds,
        progress=options.progress,
    )


def _text_figures(measured: dict[str, Any]) -> list[Figure]:
    found = measured["text"]
    of = f"{found['captions']} texts, {found['workers']} workers"
    return [
        Figure("text", of, found["captions_per_second"], "texts/s"),
        Figure("text", "a plain loop's seconds / ours", found["ratio"], bar=1.7),
    ]


def _image_figures(measured: dict[str, Any]) -> list[Figure]:
    figures = []
    for name, bar in (("image", 0.85), ("image_small", None)):
        found = measured[name]
        what = f"{name}: {found['images']} images, widths {' '.join(map(str, found['widths']))}"
        figures += [
            Figure("image", what, found["images_per_second"], "images/s"),
            Figure("image", f"{name}: speed / that of the encoder alone", found["ratio"], bar=bar),
        ]
    return figures


def _loader_figures(measured: dict[str, Any]) -> list[Figure]:
    found = measured["loader"]
    return [
        Figure("loader", "tiny, one worker", found["loader_tokens_per_second"], "tokens/s"),
        Figure("loader", "step of tiny", found["step_tokens_per_second"], "tokens/s"),
        Figure("loader", "loader / step", found["ratio"], bar=20),
        Figure("loader", "mars_7b_stage1, one worker", found["loader_stage1_tokens_per_second"], "tokens/s"),
    ]


def _startup_figures(measured: dict[str, Any]) -> list[Figure]:
    found = measured["startup"]
    figures = [Figure("startup", "imports, before", found["planned"]["import_seconds"], "s")]
    for name, what in (("planned", "without cache"), ("caching", "filling the cache"), ("cached", "from the cache")):
        one, bars = found[name], {"bar": 10.0} if name != "cached" else {}
        of = f"{found['documents']} documents, {what}"
        figures += [
            Figure("startup", of, one["seconds"], "s", least=False, **bars),
            Figure("startup", f"peak memory, {what}", one["resident"] / 1e9, "GB", bar=1.0, least=False),
            Figure("startup", f"of that after the imports, {what}", one["resident_of_imports"] / 1e9, "GB"),
            Figure("startup", f"peak of anonymous memory, {what}", one["anonymous"] / 1e9, "GB"),
        ]
    return figures


def _packing_figures(measured: dict[str, Any]) -> list[Figure]:
    found = measured["packing"]
    rows = found["budget"] - found["reserved_rows"]
    return [
        Figure("packing", f"unused of {rows} rows", found["waste"] * 100, "%", bar=2.0, least=False),
        Figure("packing", f"with the {found['reserved_rows']} reserved ones", found["waste_with_reserved"] * 100, "%",
               bar=2.0, least=False),
    ]  # fmt: skip


_MEASURES: dict[str, dict[str, Callable[[DataOptions, Path], dict[str, Any]]]] = {
    "text": {"text": _measure_text},
    "image": {"image": _measure_image, "image_small": _measure_small_image},
    "loader": {"loader": measure_loader},
    "startup": {"startup": measure_startup},
    "packing": {"packing": measure_packing},
}
_FIGURES: dict[str, Callable[[dict[str, Any]], list[Figure]]] = {
    "text": _text_figures,
    "image": _image_figures,
    "loader": _loader_figures,
    "startup": _startup_figures,
    "packing": _packing_figures,
}

"""Files with only the trained parameters: written, and merged with their language model."""

from __future__ import annotations

import hashlib
import json
import warnings
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from mars_megatron.checkpoint.streaming import write_checkpoint
from mars_megatron.checkpoint.tensors import TensorInfo, TensorSource
from mars_megatron.checkpoint.tokenizers import SETTINGS, fingerprint, locate, parse_record, read_record
from mars_megatron.config import to_yaml
from mars_megatron.config.schema import RunConfig
from mars_megatron.conversion.carried import take_tokenizers
from mars_megatron.conversion.checkpoints import Opened, VisualHeader, open_checkpoint, read_visual, visual_header
from mars_megatron.conversion.mapping import part_names
from mars_megatron.conversion.parts import ConvertedParts, JoinedParts, as_parameters, as_parts
from mars_megatron.conversion.safetensors_writer import write_file
from mars_megatron.files.writing import staged, staged_file


class _Some:
    """Some parts of a source."""

    def __init__(self, source: TensorSource, names: list[str]) -> None:
        self._source = source
        self.tensors: dict[str, TensorInfo] = {name: source.tensors[name] for name in names}

    def read(self, name: str) -> Tensor:
        return self._source.read(name)


def extract_visual(source: str | Path, target: str | Path, *, progress: bool = False) -> Path:
    """Write a safetensors file with the parts that were trained; the rest is the base that they were trained on.

    Args:
        source: A run, a checkpoint, or an exported folder.
        target: The file.
        progress: Show progress bars.

    Raises:
        ValueError: The source is none of these, nothing visual was trained, or the file exists.
        OSError: The disk is full, or not writable.
    """
    opened, target = open_checkpoint(source), Path(target)
    if opened.format not in ("checkpoint", "exported"):
        raise ValueError(
            f"{source} is a {opened.format.replace('_', ' ')}; accepted: a checkpoint or an exported folder"
        )
    config = opened.config
    if config.freeze.visual:
        raise ValueError(f"{source} has freeze.visual true: it is a language model, nothing visual was trained")
    if target.suffix != ".safetensors":
        raise ValueError(f"{target} does not end in .safetensors")
    base = part_names(config, trained=False)
    metadata = {
        "format": "pt",
        VisualHeader.CONFIG: to_yaml(config),
        VisualHeader.STEP: str(opened.step),
        VisualHeader.BASE: _digest(_Some(opened.parts, base), progress),
        VisualHeader.BASE_DTYPE: _dtype_name(opened.parts, base),
    }
    if opened.format == "checkpoint" and (recorded := read_record(opened.path)):
        metadata[VisualHeader.TOKENIZERS] = json.dumps(recorded)
    with staged_file(target) as file:
        write_file(file, as_parts(_Some(opened.parts, part_names(config, trained=True))), metadata, progress=progress)
    return target


def merge(base: str | Path, visual: str | Path, target: str | Path, *, progress: bool = False) -> Path:
    """Put trained parts back onto their base.

    Args:
        base: The language model (Hugging Face folder), or any checkpoint that has its text side.
        visual: A file of `extract_visual`.
        target: Folder of the checkpoint.
        progress: Show progress bars.

    Returns:
        The checkpoint.

    Raises:
        ValueError: The base is not the one that the parts were trained on, or the target is not empty.
        OSError: The disk is full, or not writable.
    """
    trained, target = read_visual(Path(visual)), Path(target)
    config, header = trained.config, visual_header(Path(visual))
    names = part_names(config, trained=False)
    opened = open_checkpoint(base, like=config)
    missing = [name for name in names if name not in opened.parts.tensors]
    if missing:
        raise ValueError(f"{base} lacks {missing[0]} and {len(missing) - 1} more, on which {visual} was trained")
    frozen: TensorSource = _Some(opened.parts, names)
    if names:
        frozen = ConvertedParts(frozen, getattr(torch, header[VisualHeader.BASE_DTYPE]))
    if _digest(frozen, progress) != header[VisualHeader.BASE]:
        raise ValueError(
            f"{base} is not what {visual} was trained on: its text side has other values (sha256 differs); give the "
            "language model that the run was started from"
        )
    parts = JoinedParts((frozen, trained.parts))
    with staged(target) as folder:
        config, taken = _with_tokenizers(config, header, opened, folder, target)
        checkpoint = write_checkpoint(
            folder, config, trained.step, as_parameters(parts, config), tokenizers=taken, progress=progress
        )
    return target / checkpoint.name


def _with_tokenizers(
    config: RunConfig, header: dict[str, str], base: Opened, staging: Path, target: Path
) -> tuple[RunConfig, dict[str, str]]:
    """Copies of those that the parts were trained with, where they are to be had; else of those of the base."""
    wanted = parse_record(header.get(VisualHeader.TOKENIZERS, "{}"))
    of_base = _tokenizers_of(base)
    sources: dict[str, Path | None] = {}
    for setting in SETTINGS:
        places = [getattr(config.data, setting), of_base.get(setting, "")]
        right = [place for place in places if place and fingerprint(setting, place) == wanted.get(setting)]
        if not right and setting not in wanted and base.format == "checkpoint":  # an older file does not tell
            right = [place for place in places if place and Path(place).exists()]
        chosen = right[0] if right else of_base.get(setting, "")
        sources[setting] = Path(chosen) if chosen and Path(chosen).exists() else None
    text, image = sources["text_tokenizer"], sources["image_tokenizer"]
    config, taken = take_tokenizers(config, text, image, staging, target, wanted)
    for setting, content in taken.items():
        if content != wanted.get(setting, content):
            warnings.warn(
                f"the {setting.replace('_', ' ')} of {base.path} is another one than the parts were trained with "
                f"(their sha256 begins with {wanted[setting][:8]}); data.{setting} can name that one",
                stacklevel=3,
            )
    return config, taken


def _tokenizers_of(base: Opened) -> dict[str, str]:
    """Where the tokenizers of a checkpoint of any format are, by setting."""
    if base.format == "checkpoint":
        located = locate(base.path)
        return {name: getattr(located.config.data, name) for name in SETTINGS if name not in located.missing}
    images = base.path / "image_tokenizer"
    return {"text_tokenizer": str(base.path)} | ({"image_tokenizer": str(images)} if images.is_dir() else {})


def _dtype_name(parts: TensorSource, names: list[str]) -> str:
    types = {str(parts.tensors[name].dtype).removeprefix("torch.") for name in names}
    if len(types) > 1:
        raise ValueError(f"frozen tensors are of the types {sorted(types)}; accepted: one type")
    return types.pop() if types else ""


def _digest(parts: TensorSource, progress: bool) -> str:
    """sha256 (hex) of names, shapes, types and values."""
    digest = hashlib.sha256()
    total = sum(info.nbytes for info in parts.tensors.values())
    with tqdm(total=total, desc="check base", unit="B", unit_scale=True, disable=not progress) as bar:
        for name in sorted(parts.tensors):
            info = parts.tensors[name]
            digest.update(f"{name}\0{info}\0".encode())
            digest.update(parts.read(name).contiguous().flatten().view(torch.uint8).numpy().data)
            bar.update(info.nbytes)
    return digest.hexdigest()

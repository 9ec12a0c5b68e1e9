"""Weights as they are read from files: numbers alone, and an image tokenizer with all of its tensors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

# Elements looked at together: what a core's cache holds.
_AT_ONCE = 1 << 20
_LFS = (b"version https://git-lfs", b"# xet version")
_CONFIG, _CLASS = "config.json", "VQModel"
_ENDINGS = ("safetensors", "bin", "ckpt", "pt", "pth")
# The names under which diffusers looks for weights, and the order.
_WEIGHTS = tuple(
    f"diffusion_pytorch_model.{ending}" for ending in ("safetensors", "safetensors.index.json", "bin", "bin.index.json")
)


class NoNumbersError(ValueError):
    """A tensor has values that are no numbers."""


def are_numbers(tensor: Tensor) -> bool:
    """Whether no value is nan or inf: one pass over the values, with no memory beside them."""
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    parts = tensor.reshape(-1).split(_AT_ONCE)
    # A nan among them is both the least and the largest value.
    return all(bool(value.isfinite()) for part in parts for value in torch.aminmax(part))


def check_numbers(tensor: Tensor, name: str, where: object) -> None:
    """Refuse nan and inf.

    Args:
        tensor: Any shape and type.
        name: Of the tensor.
        where: The file or folder that it was read from.

    Raises:
        NoNumbersError: With the number of such values and the place of the first.
    """
    if are_numbers(tensor):
        return
    count, first = 0, -1
    for number, part in enumerate(tensor.reshape(-1).split(_AT_ONCE)):
        wrong = ~part.isfinite()
        if first < 0 and wrong.any():
            first = number * _AT_ONCE + int(wrong.int().argmax())
        count += int(wrong.sum())
    place = [int(index) for index in torch.unravel_index(torch.tensor(first), tensor.shape)]
    raise NoNumbersError(
        f"{where}: {name} has {count} of {tensor.numel()} values that are no numbers, the first is "
        f"{float(tensor[tuple(place)])} at {place}; accepted: finite values. Get or save the file again, or take an "
        "earlier checkpoint"
    )


def what_instead(file: Path, *, may_be_text: bool = False) -> str:
    """What a file is that should hold weights and holds something else, with the way out; empty where it may be some.

    The first bytes are looked at: a Git-LFS pointer, a web page or message saved in its place, or nothing at all.

    Args:
        file: The file.
        may_be_text: It is no weights but a file of plain text, such as JSON.
    """
    with file.open("rb") as opened:
        begin = opened.read(512)
    if not begin:
        return f"{file} is empty, or cut off at its beginning; download or save it again"
    if begin.startswith(_LFS):
        return (
            f"{file} is a Git-LFS pointer, not the file itself; in {file.parent} run: git lfs install && git lfs pull "
            "(or download the folder with: hf download OWNER/NAME --local-dir FOLDER)"
        )
    text = begin.lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return f"{file} is a web page, saved in place of the file; download it again (hf download)"
    if not may_be_text and all(32 <= byte < 127 or byte in b"\t\r\n" for byte in begin):
        return f"{file} is a text, {begin[:60].decode().strip()!r}, in place of weights; download it again"
    return ""


def open_vq_model(source: str | Path, **options: Any) -> Any:
    """The VQModel of a folder (config.json and weights), in eval mode, on the CPU, in fp32.

    Args:
        source: The folder; with the option subfolder that in it. May be a name on the Hub.
        options: As for `VQModel.from_pretrained`.

    Raises:
        ValueError: There is none, it is of another class, or a tensor is missing, left over, of another shape, or has
            values that are no numbers; file and tensor are named.
    """
    from diffusers import VQModel

    place = Path(source, options.get("subfolder", ""))
    where = _check_folder(place) if Path(source).is_dir() else place
    try:
        with _quiet():
            model, found = VQModel.from_pretrained(str(source), output_loading_info=True, **options)
    except Exception as error:  # each damage, and each version of diffusers, has its own kinds
        cause = str(error).split(" If you want to")[0]  # to load it without the tensor that does not fit
        raise ValueError(f"image tokenizer {where} cannot be read as a diffusers VQModel: {cause}") from error
    for names, verb in ((found["missing_keys"], "lacks"), (found["unexpected_keys"], "has")):
        if names:
            raise ValueError(
                f"image tokenizer {where} {verb} {min(names)} (and {len(names) - 1} more); its weights are not those "
                f"of the VQModel that {_CONFIG} describes. Save or download both again"
            )
    for name, tensor in model.state_dict().items():
        check_numbers(tensor, name, f"image tokenizer {where}")
    return model.eval().requires_grad_(False)


def _check_folder(folder: Path) -> Path:
    """What a folder's files say before they are opened; returns the one with the weights, or with their places."""
    path = folder / _CONFIG
    if not path.is_file():
        raise ValueError(f"image tokenizer {folder} is not a diffusers VQModel folder (no {_CONFIG})")
    try:
        config = dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(f"image tokenizer: {path} cannot be read as JSON of a VQModel: {error}") from error
    kind = config.get("_class_name", config.get("model_type", _CLASS))
    if kind != _CLASS:
        raise ValueError(f"image tokenizer: {path} is of class {kind}; accepted: a {_CLASS} of diffusers")
    if config.get("quantization_config"):
        raise ValueError(f"image tokenizer: {path} has a quantization_config; accepted: plain weights, saved without")
    found = [folder / name for name in _WEIGHTS if (folder / name).is_file()]
    if not found:
        others = sorted(file.name for ending in _ENDINGS for file in folder.glob(f"*.{ending}"))
        raise ValueError(
            f"image tokenizer {folder} holds no weights: none of {', '.join(_WEIGHTS)}"
            + (f"; what diffusers saved as {others[0]} must have such a name" if others else "")
        )
    for file in folder.glob("diffusion_pytorch_model*"):
        instead = what_instead(file) if file.suffix != ".json" else ""
        if instead:
            raise ValueError(f"image tokenizer: {instead}")
    return found[0]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without diffusers' remarks on what is then an error, and on how it looks for files."""
    from diffusers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)

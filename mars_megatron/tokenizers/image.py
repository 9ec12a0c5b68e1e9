"""Image tokenizers behind one interface. The only implementation is a diffusers VQModel."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from safetensors import SafetensorError, safe_open

from mars_megatron.files.foreign import refuse_foreign
from mars_megatron.files.weights import open_vq_model
from mars_megatron.tokenizers.image_codes import decode_codes, encode_codes, to_float, to_uint8
from mars_megatron.tokenizers.tokenizer_files import IMAGE_PATTERNS, copy_files, image_fingerprint, tokenizer_files

if TYPE_CHECKING:  # slow to import
    from diffusers import VQModel

# Where the tensors of several files lie; says nothing about codes, so it is no part of a fingerprint, but of a copy.
_INDEX = "diffusion_pytorch_model.*.index.json"
# Types of a plain VQModel's weights, as safetensors names them.
_FLOATS = ("F32", "F16", "BF16", "F64")


def channels_first(images: torch.Tensor) -> torch.Tensor:
    """uint8 [N, 3, H, W] or [N, H, W, 3] -> [N, 3, H, W].

    Raises:
        ValueError: Another shape or type.
    """
    if images.dtype == torch.uint8 and images.ndim == 4:
        if images.shape[1] == 3:
            return images
        if images.shape[3] == 3:
            return images.permute(0, 3, 1, 2)
    raise ValueError(
        f"images are {images.dtype} {tuple(images.shape)}; they must be uint8 [N, 3, H, W] or [N, H, W, 3]"
    )


class ImageTokenizer(Protocol):
    """The interface of an image tokenizer, which is a folder of config.json and weights.

    Attributes:
        path: The given folder.
        fingerprint: `image_fingerprint` of the folder.
        codebook_size: Every code lies in [0, codebook_size).
        downsample: Pixels of a code along each side.
    """

    path: str
    fingerprint: str
    codebook_size: int
    downsample: int

    def grid(self, resolution: int) -> tuple[int, int]:
        """Rows and columns of codes of a square image of so many pixels; ValueError where they do not divide it."""

    def encode(self, images: torch.Tensor, batch_size: int = 64) -> torch.Tensor:
        """uint8 [N, 3, H, W] or [N, H, W, 3] -> codes int64 [N, h * w] on the CPU, row by row."""

    def decode(self, codes: torch.Tensor, grid: tuple[int, int], batch_size: int = 64) -> torch.Tensor:
        """Codes int64 [N, h * w] -> uint8 [N, H, W, 3] on the CPU; ValueError where the codes are no such images."""


class VQImageTokenizer:
    """Encodes and decodes batches with a frozen diffusers VQModel.

    Args:
        model: The VQModel; three channels in and out.
        path: The folder it came from.
        device: Where it runs.

    Raises:
        ValueError: The model does not take three channels.
    """

    def __init__(self, model: VQModel, path: str | Path, device: torch.device | str = "cpu") -> None:
        config = model.config
        if (config.in_channels, config.out_channels) != (3, 3):
            raise ValueError(f"image tokenizer {path} has {config.in_channels} input channels; it must have 3")
        self.path = str(path)
        self.fingerprint = image_fingerprint(path)
        self.device = torch.device(device)
        self.model = model.eval().requires_grad_(False).to(self.device)
        self.codebook_size: int = config.num_vq_embeddings
        self.downsample: int = 2 ** (len(config.block_out_channels) - 1)

    def grid(self, resolution: int) -> tuple[int, int]:
        """Rows and columns of codes of a square image.

        Raises:
            ValueError: The resolution is not a multiple of `downsample`.
        """
        if resolution < 1 or resolution % self.downsample:
            raise ValueError(f"resolution is {resolution}; {self.path} needs a multiple of {self.downsample}")
        return resolution // self.downsample, resolution // self.downsample

    @torch.no_grad()
    def encode(self, images: torch.Tensor, batch_size: int = 64) -> torch.Tensor:
        """uint8 [N, 3, H, W] or [N, H, W, 3] -> codes int64 [N, h * w] on the CPU, row by row."""
        images = channels_first(images)
        for side in images.shape[2:]:
            self.grid(side)
        codes = [encode_codes(self.model, to_float(part.to(self.device))) for part in images.split(batch_size)]
        return torch.cat(codes).flatten(1).cpu()

    @torch.no_grad()
    def decode(self, codes: torch.Tensor, grid: tuple[int, int], batch_size: int = 64) -> torch.Tensor:
        """Codes int64 [N, h * w] -> uint8 [N, H, W, 3] on the CPU.

        Raises:
            ValueError: The codes do not fill the grid, or one is not in the codebook.
        """
        num_codes = grid[0] * grid[1]
        if codes.ndim != 2 or codes.shape[1] != num_codes:
            raise ValueError(f"codes are {tuple(codes.shape)}; a grid of {grid[0]} x {grid[1]} needs [N, {num_codes}]")
        if len(codes) and not 0 <= int(codes.min()) <= int(codes.max()) < self.codebook_size:
            raise ValueError(
                f"codes lie in {int(codes.min())}..{int(codes.max())}; {self.path} has {self.codebook_size}"
            )
        parts = [
            to_uint8(decode_codes(self.model, part.to(self.device).view(-1, *grid))).permute(0, 2, 3, 1).cpu()
            for part in codes.split(batch_size)
        ]
        return torch.cat(parts).contiguous()


def load_image_tokenizer(path: str | Path, device: torch.device | str = "cpu") -> ImageTokenizer:
    """Open the folder of an image tokenizer (config.json and weights) of one of `KINDS`.

    Raises:
        ValueError: The folder does not exist, holds something else, or its weights are not whole, of floating point and
            numbers alone; file and tensor are named.
    """
    open_kind = next(open_kind for recognises, open_kind in KINDS if recognises(Path(path)))
    return open_kind(path, device)


def copy_image_tokenizer(source: str | Path, target: str | Path) -> None:
    """Copy the folder of an image tokenizer, which is opened first: a copy of something else is found too late.

    Raises:
        ValueError: It cannot be opened; see `load_image_tokenizer`.
    """
    load_image_tokenizer(source)
    files = tokenizer_files(Path(source), IMAGE_PATTERNS, "image tokenizer")
    copy_files([*files, *Path(source).glob(_INDEX)], Path(target))


def _open_vq_model(path: str | Path, device: torch.device | str) -> ImageTokenizer:
    refuse_foreign(Path(path), "image tokenizer")
    if not Path(path).is_dir():
        raise ValueError(f"image tokenizer {path} is not a diffusers VQModel folder: there is no such folder")
    _check_types(Path(path))
    return VQImageTokenizer(open_vq_model(path, local_files_only=True), path, device)


def _check_types(folder: Path) -> None:
    """Refuse what diffusers would turn into floats: the packed values of a quantised model."""
    for file in sorted(folder.glob("diffusion_pytorch_model*.safetensors")):
        refuse_foreign(file, "image tokenizer")
        try:
            with safe_open(file, framework="pt") as opened:
                types = {name: opened.get_slice(name).get_dtype() for name in opened.keys()}
        except SafetensorError as error:
            raise ValueError(f"image tokenizer: {file} cannot be read, it may be cut off: {error}") from error
        for name, dtype in types.items():
            if dtype not in _FLOATS:
                raise ValueError(
                    f"image tokenizer: {file}: {name} is of type {dtype}; accepted: {', '.join(_FLOATS)} (a quantised "
                    "model must be converted back first)"
                )


# How a folder is recognised, and what opens it, in the order in which they are tried. The last one takes what is left,
# and says what is wrong with it.
Kind = tuple[Callable[[Path], bool], Callable[[str | Path, torch.device | str], ImageTokenizer]]
KINDS: list[Kind] = [(lambda folder: True, _open_vq_model)]

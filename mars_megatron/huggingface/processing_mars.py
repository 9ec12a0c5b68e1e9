"""Texts and images as the joined ids of a MARS model, and back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import BatchFeature
from transformers.processing_utils import ProcessorMixin

from .image_codes_mars import decode_codes, encode_codes, to_float, to_uint8
from .weights_mars import open_vq_model

SUBFOLDER = "image_tokenizer"
TASKS = ("t2i", "i2t", "text")
_BATCH = 64  # images encoded or decoded at once
_HUB = ("cache_dir", "local_files_only", "revision", "token")


class MarsProcessor(ProcessorMixin):
    """Text tokenizer and image tokenizer (a diffusers VQModel in the subfolder image_tokenizer, opened when needed).

    Args:
        tokenizer: Text tokenizer.
        text_vocab_size: As in `MarsConfig`.
        codebook_size: As in `MarsConfig`.
        resolution: Height and width of images in pixels.
        downsample: Pixels per code along each side.
        chat_template: Not used; part of the interface.
    """

    attributes = ["tokenizer"]
    tokenizer_class = "AutoTokenizer"

    def __init__(
        self,
        tokenizer: Any = None,
        text_vocab_size: int = 512,
        codebook_size: int = 256,
        resolution: int = 16,
        downsample: int = 4,
        chat_template: str | None = None,
    ) -> None:
        self.text_vocab_size, self.codebook_size = text_vocab_size, codebook_size
        self.resolution, self.downsample = resolution, downsample
        self._source: str | None = None
        self._hub: dict[str, Any] = {}
        self._vq: Any = None
        super().__init__(tokenizer, chat_template=chat_template)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> MarsProcessor:
        """As for every processor; remembers where the image tokenizer lies."""
        processor = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        processor._source = str(pretrained_model_name_or_path)
        processor._hub = {name: kwargs[name] for name in _HUB if kwargs.get(name) is not None}
        return processor

    def save_pretrained(self, save_directory: Any, **kwargs: Any) -> Any:
        """As for every processor, with the image tokenizer."""
        result = super().save_pretrained(save_directory, **kwargs)
        if self._vq is not None or self._has_image_tokenizer():
            self.load_image_tokenizer().save_pretrained(f"{save_directory}/{SUBFOLDER}")
        return result

    def _has_image_tokenizer(self) -> bool:
        """Whether there is one to be saved; of a folder on the Hub it is only known by opening it."""
        if self._source is None:
            return False
        return not Path(self._source).is_dir() or (Path(self._source) / SUBFOLDER).is_dir()

    def to_dict(self, **kwargs: Any) -> dict[str, Any]:
        """What processor_config.json holds."""
        names = ("text_vocab_size", "codebook_size", "resolution", "downsample", "auto_map")
        values = {name: getattr(self, name) for name in names if hasattr(self, name)}
        return {**values, "processor_class": type(self).__name__}

    def load_image_tokenizer(self, device: torch.device | str | None = None) -> Any:
        """The VQModel, opened on first use.

        Args:
            device: Where it shall run from now on; None leaves it where it is (the CPU at first).

        Raises:
            ImportError: diffusers or Pillow is missing.
            ValueError: There is none, or its weights are not whole.
        """
        if self._vq is None:
            try:
                import diffusers  # noqa: F401
                import PIL  # noqa: F401
            except ImportError as error:
                raise ImportError(
                    f"images need diffusers and Pillow: pip install diffusers pillow ({error})"
                ) from error
            if self._source is None:
                raise ValueError("the processor was not loaded from a folder, so it has no image tokenizer")
            self._vq = open_vq_model(self._source, subfolder=SUBFOLDER, **self._hub)
        return self._vq if device is None else self._vq.to(device)

    def encode_text(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text alone, without begin or end tokens.

        Raises:
            ValueError: The tokenizer knows more ids than the model has text rows.
        """
        ids = [self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True) for text in texts]
        largest = max((max(sample) for sample in ids if sample), default=0)
        if largest >= self.text_vocab_size:
            raise ValueError(f"the tokenizer gives id {largest}; accepted by this model: below {self.text_vocab_size}")
        return ids

    @torch.no_grad()
    def encode_images(self, images: Any) -> Tensor:
        """PIL images of any size -> codes int64 [N, grid * grid] on the CPU, row by row."""
        vq = self.load_image_tokenizer()
        pixels = torch.stack([self._pixels(image) for image in _listed(images)])
        parts = [encode_codes(vq, to_float(part.to(vq.device))) for part in pixels.split(_BATCH)]
        return torch.cat(parts).flatten(1).cpu()

    @torch.no_grad()
    def decode_images(self, codes: Tensor) -> list[Any]:
        """Codes int64 [N, grid * grid] -> PIL images.

        Raises:
            ValueError: The codes do not fill the grid, or one is not in the codebook.
        """
        vq, grid = self.load_image_tokenizer(), self.resolution // self.downsample
        from PIL import Image

        if codes.ndim != 2 or codes.shape[1] != grid * grid:
            raise ValueError(f"codes are {tuple(codes.shape)}; accepted: [N, {grid * grid}]")
        if len(codes) and not 0 <= int(codes.min()) <= int(codes.max()) < self.codebook_size:
            raise ValueError(f"codes lie in {int(codes.min())}..{int(codes.max())}; there are {self.codebook_size}")
        images: list[Any] = []
        for part in codes.split(_BATCH):
            pixels = to_uint8(decode_codes(vq, part.to(vq.device).view(-1, grid, grid)))
            images += [Image.fromarray(image) for image in pixels.permute(0, 2, 3, 1).cpu().numpy()]
        return images

    def __call__(  # type: ignore[override]
        self, images: Any = None, text: str | Sequence[str] | None = None, *, task: str = "t2i", **kwargs: Any
    ) -> BatchFeature:
        """Joined ids of samples.

            t2i   caption BOI codes EOI        labels on codes and EOI
            i2t   BOI codes EOI caption EOS    labels on caption and EOS
            text  tokens EOS                   labels on all tokens

        With both images and texts (or the task text) these are whole samples with labels, padded on the right. Without
        images t2i gives prompts that end in BOI, without texts i2t gives images that end in EOI: what generation
        begins with, padded on the left.

        Args:
            images: PIL images, one or several.
            text: Texts, one or several.
            task: t2i, i2t or text.
            kwargs: return_tensors="pt" alone.

        Returns:
            input_ids, attention_mask and for whole samples labels, int64 [samples, length].

        Raises:
            ValueError: Images and texts do not go together, or an option is unknown.
        """
        if task not in TASKS:
            raise ValueError(f"task is {task!r}; accepted: {', '.join(TASKS)}")
        unknown = {name for name, value in kwargs.items() if (name, value) != ("return_tensors", "pt")}
        if unknown:
            raise ValueError(f"{sorted(unknown)} given; accepted: return_tensors='pt'")
        if any(given is not None and not _listed(given) for given in (images, text)):
            raise ValueError("there are no samples: an empty list was given")
        texts = None if text is None else self.encode_text([text] if isinstance(text, str) else list(text))
        codes = None if images is None else (self.encode_images(images) + self.text_vocab_size).tolist()
        if (codes is None and (texts is None or task == "i2t")) or (texts is None and task != "i2t"):
            raise ValueError(f"task {task} needs {'images' if task == 'i2t' else 'text'}")
        if codes is not None and (task == "text" or (texts is not None and len(texts) != len(codes))):
            raise ValueError(f"{len(codes)} images and {len(texts or [])} texts do not make samples of task {task}")
        return self._batch(task, texts, codes)

    def _batch(self, task: str, texts: list[list[int]] | None, codes: list[list[int]] | None) -> BatchFeature:
        boi = self.text_vocab_size + self.codebook_size
        eos = self.tokenizer.eos_token_id
        captions = texts if texts is not None else [[] for _ in codes or []]
        if task == "text":
            return _pad([(ids, [eos]) for ids in captions], eos, labels_from_start=True)
        if codes is None:
            return _pad([([*ids, boi], None) for ids in captions], eos)
        framed = [[boi, *image, boi + 1] for image in codes]
        if task == "t2i":
            return _pad([([*ids, boi], image[1:]) for ids, image in zip(captions, framed, strict=True)], eos)
        if texts is None:
            return _pad([(image, None) for image in framed], eos)
        return _pad([(image, [*ids, eos]) for image, ids in zip(framed, captions, strict=True)], eos)

    def _pixels(self, image: Any) -> Tensor:
        """Upright, RGB, shorter side resized, centre cropped: uint8 [3, resolution, resolution]."""
        from PIL import Image, ImageOps

        size = (self.resolution, self.resolution)
        image = ImageOps.exif_transpose(image).convert("RGB")
        if image.size != size:
            image = ImageOps.fit(image, size, Image.Resampling.LANCZOS)
        data = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
        return data.view(self.resolution, self.resolution, 3).permute(2, 0, 1)


def _listed(images: Any) -> list[Any]:
    return list(images) if isinstance(images, (list, tuple)) else [images]


def _pad(
    samples: list[tuple[list[int], list[int] | None]], pad_id: int, labels_from_start: bool = False
) -> BatchFeature:
    """(what is given, what is learned) of each sample -> one batch; on the left where nothing is learned."""
    rows = [[*given, *(learned or [])] for given, learned in samples]
    width = max(len(row) for row in rows)
    prompts = samples[0][1] is None

    def fill(row: list[int], value: int) -> list[int]:
        rest = [value] * (width - len(row))
        return [*rest, *row] if prompts else [*row, *rest]

    batch = {
        "input_ids": torch.tensor([fill(row, pad_id) for row in rows]),
        "attention_mask": torch.tensor([fill([1] * len(row), 0) for row in rows]),
    }
    if not prompts:
        hidden = [0 if labels_from_start else len(given) for given, _ in samples]
        labels = [[-100] * number + row[number:] for number, row in zip(hidden, rows, strict=True)]
        batch["labels"] = torch.tensor([fill(row, -100) for row in labels])
    return BatchFeature(batch)

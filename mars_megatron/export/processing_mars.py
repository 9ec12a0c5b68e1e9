"""Texts and images as the joined ids of a MARS model, and back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import BatchFeature
from transformers.processing_utils import ProcessorMixin

# transformers copies what this file imports itself, not what those import in turn: all are named here.
from mars_megatron.export.batches_mars import BatchOptions, Sample, make_batch
from mars_megatron.files.weights import open_vq_model
from mars_megatron.pictures.boxes import read_avif  # noqa: F401
from mars_megatron.pictures.colours import profile_space  # noqa: F401
from mars_megatron.pictures.formats import look  # noqa: F401
from mars_megatron.pictures.picture import UnusablePicture
from mars_megatron.pictures.pixels import upright_rgb
from mars_megatron.pictures.tiff import read_tiff  # noqa: F401
from mars_megatron.tokenizers.image_codes import decode_codes, encode_codes, to_float, to_uint8

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
        processor._source = located(pretrained_model_name_or_path)
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
        """PIL images of any size -> codes int64 [N, grid * grid] on the CPU, row by row.

        Give them as `Image.open` gives them: what their files say of bits, alpha and colours then counts as it did in
        training. Of one that was read before from memory, or was made from other pixels, only its mode, profile and
        EXIF data are known (`upright_rgb`).

        Raises:
            ValueError: An image cannot be read, or its file does not say what its pixels mean; the reason is named. Or
                there is no image.
        """
        if not (listed := _listed(images)):
            raise ValueError("there are no images: an empty list was given")
        vq = self.load_image_tokenizer()
        pixels = torch.stack([self._pixels(image) for image in listed])
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
        images t2i gives prompts that end in BOI, without texts i2t gives images that end in EOI, and with
        add_special_tokens=False text gives texts without EOS: what generation begins with, padded on the left.

        Args:
            images: PIL images, one or several, as `encode_images` takes them.
            text: Texts, one or several.
            task: t2i, i2t or text.
            kwargs: Those of `BatchOptions`: padding, truncation, max_length, pad_to_multiple_of, padding_side,
                add_special_tokens, return_tensors.

        Returns:
            input_ids, attention_mask and for whole samples labels, int64 [samples, length].

        Raises:
            ValueError: Images and texts do not go together, or an option is unknown or does not fit.
        """
        options = BatchOptions.of(kwargs)
        if task not in TASKS:
            raise ValueError(f"task is {task!r}; accepted: {', '.join(TASKS)}")
        if not options.add_special_tokens and task != "text":
            raise ValueError(f"add_special_tokens is False; accepted for task {task}: True, its images are framed")
        if any(given is not None and not _listed(given) for given in (images, text)):
            raise ValueError("there are no samples: an empty list was given")
        texts = None if text is None else self.encode_text([text] if isinstance(text, str) else list(text))
        codes = None if images is None else (self.encode_images(images) + self.text_vocab_size).tolist()
        if (codes is None and (texts is None or task == "i2t")) or (texts is None and task != "i2t"):
            raise ValueError(f"task {task} needs {'images' if task == 'i2t' else 'text'}")
        if codes is not None and (task == "text" or (texts is not None and len(texts) != len(codes))):
            raise ValueError(f"{len(codes)} images and {len(texts or [])} texts do not make samples of task {task}")
        if options.cuts:
            texts = self._cut(task, texts, codes, options)
        samples = self._samples(task, texts, codes, options.add_special_tokens)
        return make_batch(samples, self.tokenizer.eos_token_id, options, labels_from_start=task == "text")

    def _samples(
        self, task: str, texts: list[list[int]] | None, codes: list[list[int]] | None, ends: bool
    ) -> list[Sample]:
        boi, eos = self.text_vocab_size + self.codebook_size, self.tokenizer.eos_token_id
        captions = texts if texts is not None else [[] for _ in codes or []]
        if task == "text":
            return [(ids, [eos] if ends else None) for ids in captions]
        if codes is None:
            return [([*ids, boi], None) for ids in captions]
        framed = [[boi, *image, boi + 1] for image in codes]
        if task == "t2i":
            return [([*ids, boi], image[1:]) for ids, image in zip(captions, framed, strict=True)]
        if texts is None:
            return [(image, None) for image in framed]
        return [(image, [*ids, eos]) for image, ids in zip(framed, captions, strict=True)]

    def _cut(
        self, task: str, texts: list[list[int]] | None, codes: list[list[int]] | None, options: BatchOptions
    ) -> list[list[int]] | None:
        """Texts that leave room in max_length for what else belongs to a sample."""
        empty: list[list[int]] | None = None if texts is None else [[] for _ in texts]
        given, learned = self._samples(task, empty, codes, options.add_special_tokens)[0]
        assert options.max_length is not None
        room = options.max_length - len(given) - len(learned or [])
        if room < 0:
            raise ValueError(
                f"max_length is {options.max_length}; accepted for this task {task}: "
                f"{options.max_length - room} or more, images cannot be cut"
            )
        if texts is None:
            return None
        if self.tokenizer.truncation_side == "left":
            return [ids[len(ids) - room :] if len(ids) > room else ids for ids in texts]
        return [ids[:room] for ids in texts]

    def apply_chat_template(self, conversation: Any, chat_template: str | None = None, **kwargs: Any) -> Any:
        """The tokenizer's, for conversations of text; as of every processor, a text unless tokenize is True.

        Args:
            conversation: Messages, or several lists of them. Their content is a text, or a list of parts of type text.
            chat_template: By default the processor's, then the tokenizer's.
            kwargs: Those of the tokenizer's method.

        Raises:
            ValueError: There is no template, or a message has more than text.
        """
        is_batch = bool(conversation) and isinstance(conversation[0], (list, tuple))
        plain = [[_text_alone(message) for message in part] for part in (conversation if is_batch else [conversation])]
        if kwargs.setdefault("tokenize", False):
            kwargs.setdefault("return_dict", False)
        own = self.chat_template if isinstance(self.chat_template, dict) else {"default": self.chat_template}
        template = own.get(chat_template or "default") or chat_template
        return self.tokenizer.apply_chat_template(plain if is_batch else plain[0], chat_template=template, **kwargs)

    def _pixels(self, image: Any) -> Tensor:
        """Upright sRGB on white, shorter side resized, centre cropped: uint8 [3, resolution, resolution]."""
        from PIL import Image, ImageOps

        size = (self.resolution, self.resolution)
        try:
            image = upright_rgb(image)
        except UnusablePicture as error:
            if name := getattr(image, "filename", ""):
                raise UnusablePicture(error.reason, f"{name}: {error.detail}") from error
            raise
        if image.size != size:
            image = ImageOps.fit(image, size, Image.Resampling.LANCZOS)
        data = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
        return data.view(self.resolution, self.resolution, 3).permute(2, 0, 1)


def located(source: Any) -> str:
    """Where a folder lies, wherever the process goes later; the name of one on the Hub as it is."""
    name = str(source)
    return str(Path(name).absolute()) if name and Path(name).is_dir() else name


def _listed(images: Any) -> list[Any]:
    return list(images) if isinstance(images, (list, tuple)) else [images]


def _text_alone(message: dict[str, Any]) -> dict[str, Any]:
    """A message of a conversation with its parts joined."""
    content = message.get("content")
    if not isinstance(content, (list, tuple)):
        return message
    others = sorted({str(part.get("type")) for part in content} - {"text"})
    if others:
        raise ValueError(
            f"a message has parts of type {', '.join(others)}; accepted: text. Images make samples by task"
        )
    return {**message, "content": "".join(part["text"] for part in content)}

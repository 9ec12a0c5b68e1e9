"""Models of other projects that judge images: transformers folders or names on the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


def model_type(setting: str, name: str) -> str:
    """The `model_type` that a transformers folder's config.json states.

    Args:
        setting: For messages.
        name: A folder, or a name on the hub, whose config.json is then fetched unless it is cached.

    Raises:
        ValueError: It is neither.
    """
    from transformers import AutoConfig

    return str(load_processor(AutoConfig, setting, name).model_type)


def load_pretrained(automatic: Any, setting: str, name: str, device: torch.device) -> Any:
    """A model in evaluation mode that needs no gradients.

    Args:
        automatic: The class of transformers that opens it, such as AutoModel.
        setting: For messages.
        name: A folder or a name on the hub.
        device: Where it runs.

    Raises:
        ValueError: It cannot be opened.
    """
    return load_processor(automatic, setting, name).eval().requires_grad_(False).to(device)


def load_processor(automatic: Any, setting: str, name: str) -> Any:
    """What brings images and texts into the form that the model takes; arguments as for `load_pretrained`."""
    try:
        return automatic.from_pretrained(name)
    except (OSError, ValueError) as error:
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"{setting} is {name}, which {automatic.__name__} cannot open; give a transformers folder, or a name on "
            f"the Hugging Face hub that is in the local cache or can be fetched ({why})"
        ) from error


class ClipSimilarity:
    """Cosine similarities of images and texts in a CLIP model.

    A text that is too long is cut in front of its end token, which CLIP pools at. torchmetrics' CLIPScore cuts that
    token off, and gives sums where a bootstrap over prompts needs the value of each image.

    Args:
        setting: The option that named the model, for messages.
        name: A folder of a transformers CLIP model, or a name on the Hugging Face hub.
        device: Where it runs.
        batch_size: Images in one forward pass.

    Raises:
        ValueError: It cannot be opened, or is no model of images and texts.
    """

    def __init__(self, setting: str, name: str, device: torch.device, batch_size: int = 64) -> None:
        from transformers import AutoModel, AutoProcessor

        self._model = load_pretrained(AutoModel, setting, name, device)
        if not hasattr(self._model, "get_text_features") or not hasattr(self._model, "get_image_features"):
            raise ValueError(f"{setting} is {name}, a {type(self._model).__name__}; accepted: a CLIP model")
        self._processor = load_processor(AutoProcessor, setting, name)
        self._device = device
        self._batch_size = batch_size
        self.longest: int = self._model.config.text_config.max_position_embeddings

    def too_long(self, texts: Sequence[str]) -> int:
        """How many of the texts the model does not read to their end."""
        return sum(len(ids) > self.longest for ids in self._processor.tokenizer(list(texts)).input_ids)

    @torch.no_grad()
    def __call__(self, images: torch.Tensor, texts: Sequence[str]) -> list[float]:
        """uint8 [N, height, width, 3] and the text of each -> N values in -1..1."""
        assert len(images) == len(texts), (len(images), len(texts))
        found: list[float] = []
        for start in range(0, len(texts), self._batch_size):
            part = slice(start, start + self._batch_size)
            inputs = self._processor(
                text=list(texts[part]),
                images=list(images[part].numpy()),
                return_tensors="pt",
                padding=True,
                truncation=True,
                max_length=self.longest,
            ).to(self._device)
            of_image = _tensor(self._model.get_image_features(pixel_values=inputs["pixel_values"]))
            of_text = _tensor(
                self._model.get_text_features(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
            )
            found += torch.nn.functional.cosine_similarity(of_image.float(), of_text.float()).tolist()
        return found


def _tensor(features) -> torch.Tensor:
    """transformers 5 wraps what transformers 4 gives as it is."""
    return features if torch.is_tensor(features) else features.pooler_output

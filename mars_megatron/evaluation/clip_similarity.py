"""How well images fit texts in the eyes of a CLIP model."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mars_megatron.evaluation.pretrained import load_pretrained, load_processor


class ClipSimilarity:
    """Cosine similarities of images and texts.

    A text that is too long is cut in front of its end token, which CLIP pools at (torchmetrics cuts that token off).

    Args:
        setting: The option that named the model, for messages.
        name: A folder of a transformers CLIP model, or a name on the Hugging Face hub.
        device: Where it runs.
        batch_size: Images in one forward pass.

    Raises:
        ValueError: It cannot be opened, or is no model of images and texts.
    """

    name = "clip"

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

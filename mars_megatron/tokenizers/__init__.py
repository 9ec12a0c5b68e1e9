"""Text and image tokenizers.

The names below are imported on first use, so that processes that only tokenise text need no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mars_megatron.tokenizers.image import ImageTokenizer, load_image_tokenizer
    from mars_megatron.tokenizers.text import TextTokenizer, load_text_tokenizer

__all__ = [
    "ImageTokenizer",
    "TextTokenizer",
    "load_image_tokenizer",
    "load_text_tokenizer",
]

_MODULES = {
    "ImageTokenizer": "image",
    "TextTokenizer": "text",
    "load_image_tokenizer": "image",
    "load_text_tokenizer": "text",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)

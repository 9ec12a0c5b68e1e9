"""Models of other projects that judge images: transformers folders or names on the Hugging Face hub."""

from __future__ import annotations

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

    return str(_opened(AutoConfig, setting, name).model_type)


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
    return _opened(automatic, setting, name).eval().requires_grad_(False).to(device)


def load_processor(automatic: Any, setting: str, name: str) -> Any:
    """What brings images and texts into the form that the model takes; arguments as for `load_pretrained`."""
    return _opened(automatic, setting, name)


def _opened(automatic: Any, setting: str, name: str) -> Any:
    try:
        return automatic.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{setting} is {name}, which {automatic.__name__} cannot open; give a transformers folder, or a name on "
            f"the Hugging Face hub that is in the local cache or can be fetched ({_first_line(error)})"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]

"""What scores images beside the models of the benchmark: CLIP, and a user's own function or class."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, Protocol

import torch

from mars_megatron.config.user_code import is_attribute, load_attribute
from mars_megatron.evaluation.pretrained import ClipSimilarity

ACCEPTED = "auto, none, or package.module:name or folder/file.py:name, with :ARGUMENT behind it for a class of one"


class Scorer(Protocol):
    """Scores images by what their prompts ask for."""

    name: str

    def __call__(self, images: torch.Tensor, prompts: Sequence[str]) -> Sequence[float]:
        """uint8 [N, height, width, 3] on the CPU and the prompt of each -> N scores, the higher the better."""

    def notes(self, prompts: Sequence[str]) -> dict[str, Any]:
        """What limits the scores of these prompts: plain numbers, strings and lists of them."""


class WholeScorer:
    """Cosine of image and prompt in a CLIP model (the benchmark's score of relations that are not spatial)."""

    name = "clip"

    def __init__(self, clip: ClipSimilarity) -> None:
        self._clip = clip

    def notes(self, prompts: Sequence[str]) -> dict[str, Any]:
        return {"num_prompts_cut": self._clip.too_long(prompts)}

    def __call__(self, images: torch.Tensor, prompts: Sequence[str]) -> list[float]:
        return self._clip(images, prompts)


class UserScorer:
    """A user's function, or an object of a user's class, that is called with images and prompts as a `Scorer` is.

    Args:
        name: One of the forms of `load_attribute`; of a class that takes an argument, that and :ARGUMENT.

    Raises:
        ValueError: There is none, or it cannot be called so.
    """

    def __init__(self, name: str) -> None:
        attribute, argument = name, []
        parts = name.split(":", 2)
        if not is_attribute(name) and len(parts) > 1:
            attribute, argument = ":".join(parts[:-1]), parts[-1:]
        found = load_attribute("scorer", attribute, ACCEPTED)
        self.name: str = getattr(found, "__name__", attribute)
        if isinstance(found, type):
            try:
                inspect.signature(found).bind(*argument)
            except TypeError as error:
                raise ValueError(f"scorer is {name!r}: {error}; accepted: {ACCEPTED}") from error
            found, argument = found(*argument), []
        if not callable(found) or argument:
            raise ValueError(f"scorer {name} cannot be called; give a function of images and prompts")
        self._score = found

    def check(self, prompts: Sequence[str]) -> None:
        """Let the user's own `check`, if there is one, look at the prompts.

        Raises:
            ValueError: They cannot be scored.
        """
        check = getattr(self._score, "check", None)
        if check is not None:
            check(prompts)

    def notes(self, prompts: Sequence[str]) -> dict[str, Any]:
        return {}

    def __call__(self, images: torch.Tensor, prompts: Sequence[str]) -> list[float]:
        scores = [float(score) for score in self._score(images, prompts)]
        if len(scores) != len(prompts):
            raise ValueError(f"scorer {self.name} gave {len(scores)} scores for {len(prompts)} images")
        return scores

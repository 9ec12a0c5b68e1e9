"""The interface of a suite of scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch

from mars_megatron.evaluation.context import Context
from mars_megatron.evaluation.intervals import Estimate
from mars_megatron.gallery.image_folder import save_image
from mars_megatron.gallery.sheet import image_grid


@dataclass(frozen=True)
class Result:
    """The result of a suite.

    Attributes:
        scores: Estimate by name, in the order of the table.
        details: Anything else for the JSON file: plain numbers, strings, lists and dicts of them.
    """

    scores: dict[str, Estimate]
    details: dict[str, Any] = field(default_factory=dict)


class Suite(Protocol):
    """A frozen dataclass whose fields are the suite's options, documented in its docstring (`Args:`).

    Types of fields are those of `mars_megatron.evaluation.dataclass_options.build`. A file that a field names
    is an input of the suite, unless the metadata of the field are {"written": True}. With {"or_data_of_run": True} an
    empty field stands for the training data of the run.

    Attributes:
        name: Name of its results.
        needs_image_tokenizer: Optional; true by default. A language model has no image tokenizer.
    """

    name: ClassVar[str]
    needs_image_tokenizer: ClassVar[bool]

    def check(self) -> None:
        """Check the options and the files that they name, before any model is loaded.

        Raises:
            ValueError: What is wrong, and what would be accepted.
        """

    def run(self, context: Context) -> Result:
        """Score the model."""


def check_least(suite: Any, **minimums: int) -> None:
    """Whether options of a suite are at least so large.

    Raises:
        ValueError: One is not.
    """
    for option, minimum in minimums.items():
        if getattr(suite, option) < minimum:
            raise ValueError(f"{suite.name}: {option} is {getattr(suite, option)}; accepted: {minimum} or more")


def write_grid(texts: Sequence[str], images: torch.Tensor, path: str | Path) -> None:
    """Write a picture of images with their texts beside them, on rank 0.

    Args:
        texts: The texts, each of which has the same number of images.
        images: uint8 [N, height, width, 3], those of the first text first.
        path: PNG file; it appears only when it is complete.
    """
    if torch.distributed.get_rank() == 0:
        rows = images.numpy().reshape(len(texts), -1, *images.shape[1:])
        save_image(image_grid(list(rows), texts), path)

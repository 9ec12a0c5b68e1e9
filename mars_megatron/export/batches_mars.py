"""Samples of several lengths as one batch, with the options of transformers' tokenizers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from transformers import BatchFeature

# What is given to the model, and what it shall learn to continue it with; None where it is asked to continue it.
Sample = tuple[list[int], list[int] | None]

_CHOICES: dict[str, tuple[Any, ...]] = {
    "padding": (True, "longest", "max_length", False, "do_not_pad"),
    "truncation": (False, None, "do_not_truncate", True, "longest_first", "only_first"),
    "padding_side": (None, "left", "right"),
    "add_special_tokens": (True, False),
    "return_tensors": ("pt", "np", None),
}


@dataclass(frozen=True)
class BatchOptions:
    """How samples become a batch.

    Args:
        padding: True or "longest" fills all up to the longest, "max_length" to max_length, False none.
        truncation: True cuts captions and texts so that each sample fits into max_length.
        max_length: Ids of a sample, image included; for padding="max_length" or truncation.
        pad_to_multiple_of: Fill up to a multiple of so many ids.
        padding_side: left or right; None is left for what generation begins with, else right.
        add_special_tokens: False leaves texts open, for generation to go on; for the task text alone.
        return_tensors: "pt" for torch, "np" for numpy, None for lists.

    Raises:
        ValueError: A value is none of these, or options do not go together.
    """

    padding: bool | str = True
    truncation: bool | str | None = False
    max_length: int | None = None
    pad_to_multiple_of: int | None = None
    padding_side: str | None = None
    add_special_tokens: bool = True
    return_tensors: str | None = "pt"

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            # 1 is no True here
            if not any(value is choice or (isinstance(choice, str) and value == choice) for choice in choices):
                raise ValueError(f"{name} is {value!r}; accepted: {', '.join(map(repr, choices))}")
        for name in ("max_length", "pad_to_multiple_of"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ValueError(f"{name} is {value!r}; accepted: 1 or more")
        bounded = self.padding == "max_length" or self.cuts
        if bounded != (self.max_length is not None):
            raise ValueError(
                f"max_length is {self.max_length}, padding {self.padding!r} and truncation {self.truncation!r}; "
                "accepted: a number with padding='max_length' or truncation=True, else None"
            )
        if self.pad_to_multiple_of is not None and not self.fills:
            raise ValueError(f"pad_to_multiple_of is {self.pad_to_multiple_of} and padding False; accepted: None")

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> BatchOptions:
        """From keyword arguments, which may be grouped as text_kwargs and common_kwargs."""
        flat = {name: value for name, value in options.items() if name not in ("text_kwargs", "common_kwargs")}
        for group in ("text_kwargs", "common_kwargs"):
            for name, value in (options.get(group) or {}).items():
                if flat.setdefault(name, value) != value:
                    raise ValueError(f"{name} is {flat[name]!r}, and {value!r} in {group}; accepted: one of them")
        names = [field.name for field in fields(cls)]
        unknown = sorted(flat.keys() - names)
        if unknown:
            raise ValueError(f"{unknown} given; accepted: {', '.join(names)}")
        return cls(**flat)

    @property
    def fills(self) -> bool:
        """Whether samples are filled up."""
        return self.padding not in (False, "do_not_pad")

    @property
    def cuts(self) -> bool:
        """Whether texts are cut."""
        return self.truncation not in (False, None, "do_not_truncate")


def make_batch(
    samples: Sequence[Sample], pad_id: int, options: BatchOptions, labels_from_start: bool = False
) -> BatchFeature:
    """input_ids, attention_mask and, where something is learned, labels; int64 [samples, length] as tensors.

    Args:
        samples: All of them with something to learn, or none.
        pad_id: What fills them up.
        options: How.
        labels_from_start: What is given is learned too.

    Raises:
        ValueError: A sample is longer than max_length, or without padding they make no tensor.
    """
    rows = [[*given, *(learned or [])] for given, learned in samples]
    lengths = [len(row) for row in rows]
    if not max(lengths):
        raise ValueError("the texts have no ids: there is nothing to continue")
    if not options.fills and options.return_tensors is not None and len(set(lengths)) > 1:
        raise ValueError(
            f"samples have {min(lengths)} to {max(lengths)} ids and padding is False; accepted: return_tensors=None"
        )
    if options.max_length is not None and max(lengths) > options.max_length:
        raise ValueError(
            f"sample {lengths.index(max(lengths))} has {max(lengths)} ids; accepted: max_length, which is "
            f"{options.max_length}, or truncation=True"
        )
    width = options.max_length if options.padding == "max_length" else max(lengths)
    assert width is not None
    width += -width % (options.pad_to_multiple_of or 1)
    is_prompt = samples[0][1] is None
    side = options.padding_side or ("left" if is_prompt else "right")

    def fill(row: list[int], value: int) -> list[int]:
        rest = [value] * (width - len(row)) if options.fills else []
        return [*rest, *row] if side == "left" else [*row, *rest]

    batch = {
        "input_ids": [fill(row, pad_id) for row in rows],
        "attention_mask": [fill([1] * len(row), 0) for row in rows],
    }
    if not is_prompt:
        hidden = [0 if labels_from_start else len(given) for given, _ in samples]
        labels = [[-100] * number + row[number:] for number, row in zip(hidden, rows, strict=True)]
        batch["labels"] = [fill(row, -100) for row in labels]
    return BatchFeature(batch, tensor_type=options.return_tensors)

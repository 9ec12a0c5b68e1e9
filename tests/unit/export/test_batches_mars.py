"""Samples of several lengths as one batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import TensorType

from mars_megatron.export.batches_mars import BatchOptions, Sample, make_batch

PAD = 9
PROMPTS: list[Sample] = [([1, 2, 3], None), ([4], None)]
SAMPLES: list[Sample] = [([1], [2, 3]), ([4, 5, 6], [7])]


def batch_of(samples: list[Sample], **options: Any) -> dict[str, Any]:
    return dict(make_batch(samples, PAD, BatchOptions.of(options)))


def test_prompts_are_filled_on_the_left_and_samples_on_the_right() -> None:
    prompts = batch_of(PROMPTS, return_tensors=None)
    assert prompts == {"input_ids": [[1, 2, 3], [9, 9, 4]], "attention_mask": [[1, 1, 1], [0, 0, 1]]}
    assert batch_of(SAMPLES, return_tensors=None) == {
        "input_ids": [[1, 2, 3, 9], [4, 5, 6, 7]],
        "attention_mask": [[1, 1, 1, 0], [1, 1, 1, 1]],
        "labels": [[-100, 2, 3, -100], [-100, -100, -100, 7]],
    }
    assert batch_of(PROMPTS, padding_side="right", return_tensors=None)["input_ids"] == [[1, 2, 3], [4, 9, 9]]
    turned = batch_of(SAMPLES, padding_side="left", return_tensors=None)
    assert turned["labels"][0] == [-100, -100, 2, 3] and turned["attention_mask"][0] == [0, 1, 1, 1]


@pytest.mark.parametrize(
    ("options", "width"),
    [
        ({"padding": "longest"}, 4),
        ({"padding": "max_length", "max_length": 6}, 6),
        ({"pad_to_multiple_of": 3}, 6),
        ({"padding": "max_length", "max_length": 5, "pad_to_multiple_of": 4}, 8),
        ({"truncation": True, "max_length": 4}, 4),
        ({"text_kwargs": {"padding": "max_length", "max_length": 7}}, 7),
        ({"padding": True, "common_kwargs": {"padding": True, "return_tensors": "pt"}, "text_kwargs": {}}, 4),
    ],
)
def test_widths(options: dict[str, Any], width: int) -> None:
    batch = batch_of(SAMPLES, **options)
    for values in batch.values():
        assert values.shape == (2, width) and values.dtype == torch.int64
    assert batch["attention_mask"].sum(1).tolist() == [3, 4]


@given(
    st.lists(st.integers(1, 7), min_size=1, max_size=5),
    st.sampled_from([True, "longest", "max_length"]),
    st.sampled_from([None, "left", "right"]),
    st.sampled_from([None, 1, 4, 5]),
    st.sampled_from(["pt", "np", None, TensorType.PYTORCH, TensorType.NUMPY]),
)
@settings(max_examples=60, deadline=None)
def test_what_is_real_is_the_sample(
    lengths: list[int], padding: Any, side: str | None, multiple: int | None, tensors: Any
) -> None:
    rows = [list(range(1, length + 1)) for length in lengths]
    bound = {"max_length": 8} if padding == "max_length" else {}
    options = {"padding": padding, "padding_side": side, "pad_to_multiple_of": multiple, **bound}
    batch = batch_of([(row, [0]) for row in rows], return_tensors=tensors, **options)
    kind = list if tensors is None else (torch.Tensor if tensors == "pt" else np.ndarray)
    assert all(isinstance(values, kind) for values in batch.values())
    ids, mask, labels = (np.asarray(batch[name]) for name in ("input_ids", "attention_mask", "labels"))
    assert ids.dtype == mask.dtype == labels.dtype == np.int64
    assert ids.shape[1] >= (8 if bound else max(lengths) + 1) and ids.shape[1] % (multiple or 1) == 0
    for number, row in enumerate(rows):
        real = mask[number].astype(bool)
        assert ids[number][real].tolist() == [*row, 0] and labels[number][real].tolist() == [-100] * len(row) + [0]
        assert set(ids[number][~real]) <= {PAD} and set(labels[number][~real]) <= {-100}
        assert (mask[number][0 if side == "left" else -1] == 0) == (not real.all())


def test_without_padding() -> None:
    for padding in (False, "do_not_pad"):
        assert batch_of(PROMPTS, padding=padding, return_tensors=None)["input_ids"] == [[1, 2, 3], [4]]
        with pytest.raises(ValueError, match="samples have 1 to 3 ids and padding is False; accepted: return_tensors"):
            batch_of(PROMPTS, padding=padding)
    equal: list[Sample] = [([1, 2], None), ([3, 4], None)]
    assert torch.equal(batch_of(equal, padding=False)["input_ids"], torch.tensor([[1, 2], [3, 4]]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"padding": "longst"}, "padding is 'longst'; accepted: True, 'longest', 'max_length', False, 'do_not_pad'"),
        ({"padding": 1}, "padding is 1"),
        ({"padding": None}, "padding is None"),
        ({"truncation": "only_second"}, "truncation is 'only_second'"),
        ({"padding_side": "middle"}, "padding_side is 'middle'; accepted: None, 'left', 'right'"),
        ({"return_tensors": "tf"}, "return_tensors is 'tf'; accepted: 'pt', 'np', None"),
        ({"max_length": 0, "truncation": True}, "max_length is 0; accepted: 1 or more"),
        ({"max_length": True, "truncation": True}, "max_length is True"),
        ({"pad_to_multiple_of": 2.0}, "pad_to_multiple_of is 2.0"),
        ({"padding": "max_length"}, "max_length is None, padding 'max_length'"),
        ({"truncation": True}, "max_length is None, .*truncation True; accepted: a number"),
        ({"max_length": 5}, "max_length is 5, padding True and truncation False; .* else None"),
        ({"pad_to_multiple_of": 8, "padding": False}, "pad_to_multiple_of is 8 and padding False"),
        ({"paddding": True}, r"\['paddding'\] given; accepted: padding, truncation"),
        ({"images_kwargs": {"size": 3}}, r"\['images_kwargs'\] given"),
        ({"text_kwargs": {"stride": 3}}, r"\['stride'\] given"),
        ({"padding": False, "text_kwargs": {"padding": True}}, "padding is False, and True in text_kwargs"),
        ({"padding": "max_length", "max_length": 3}, "sample 1 has 4 ids; accepted: max_length, which is 3, or trunc"),
    ],
)
def test_options_that_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        batch_of(SAMPLES, **options)


def test_nothing_cannot_be_continued() -> None:
    with pytest.raises(ValueError, match="the texts have no ids"):
        batch_of([([], None), ([], None)])

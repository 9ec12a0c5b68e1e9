"""The plan: native against reference, against its own invariants, and against a hand-written example."""

import dataclasses
import pickle

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from mars_megatron.sequence import TEXT, VISUAL, DispatchPlan, build_plan, padded_counts
from tests.support.plans import check_plan

IMPLS = ["native", "reference"]
settings.register_profile("ops", deadline=None, max_examples=150)
settings.load_profile("ops")

# Samples of runs: lengths on both sides of the 8 tokens that the native scan compares at once.
run = st.tuples(st.sampled_from([TEXT, VISUAL]), st.integers(1, 21))
samples = st.lists(st.lists(run, min_size=1, max_size=5), min_size=1, max_size=8)


def pack(samples):
    """Lists of (modality, length) per sample -> modality uint8 [T], cu_seqlens int32 [S + 1]."""
    tokens = [[modality for modality, length in sample for _ in range(length)] for sample in samples]
    modality = torch.tensor([token for sample in tokens for token in sample], dtype=torch.uint8)
    cu_seqlens = torch.tensor([0, *map(len, tokens)]).cumsum(0).int()
    return modality, cu_seqlens


def assert_equal(plan: DispatchPlan, other: DispatchPlan) -> None:
    for field in dataclasses.fields(DispatchPlan):
        value, expected = getattr(plan, field.name), getattr(other, field.name)
        assert type(value) is type(expected), field.name
        if isinstance(expected, torch.Tensor):
            assert value.dtype == expected.dtype and value.is_contiguous(), field.name
            assert torch.equal(value, expected), field.name
        else:
            assert value == expected, field.name


@given(samples, st.integers(1, 9), st.none() | st.integers(0, 40))
@example([[(TEXT, 1)]], 1, None)  # one token
@example([[(VISUAL, 1)]], 4, 3)
@example([[(TEXT, 5)], [(TEXT, 6)]], 1, None)  # one modality absent, a run over two samples
@example([[(VISUAL, 16)], [(VISUAL, 8)]], 8, 0)
def test_native_equals_reference(samples, row_multiple, spare):
    modality, cu_seqlens = pack(samples)
    free = build_plan(modality, cu_seqlens, row_multiple=row_multiple, impl="reference")
    total_rows = None if spare is None else free.num_rows + spare * row_multiple

    options = {"row_multiple": row_multiple, "total_rows": total_rows}
    reference = build_plan(modality, cu_seqlens, **options, impl="reference")
    native = build_plan(modality, cu_seqlens, **options, impl="native")
    assert_equal(native, reference)
    check_plan(native)

    assert native.padded_visual == free.padded_visual, "total_rows pads the text part"
    assert native.num_rows == (total_rows if total_rows is not None else free.num_rows)
    assert native.expert_splits == padded_counts(native.num_text, native.num_visual, row_multiple, total_rows)
    assert native.num_visual == int((modality == VISUAL).sum())
    per_sample = [modality[a:b].tolist() for a, b in zip(cu_seqlens[:-1], cu_seqlens[1:], strict=True)]
    assert native.image_before_text == any(sample != sorted(sample) for sample in per_sample)


@pytest.mark.parametrize("impl", IMPLS)
def test_example(impl):
    # caption caption code code code | code caption | caption
    modality = torch.tensor([0, 0, 1, 1, 1, 1, 0, 0], dtype=torch.uint8)
    cu_seqlens = torch.tensor([0, 5, 7, 8], dtype=torch.int32)
    plan = build_plan(modality, cu_seqlens, row_multiple=3, total_rows=12, impl=impl)
    check_plan(plan)
    assert (plan.num_tokens, plan.num_samples, plan.num_text, plan.num_visual) == (8, 3, 4, 4)
    assert plan.expert_splits == (6, 6) and plan.num_rows == 12 and plan.max_seqlen == 5
    assert plan.image_before_text
    assert plan.sequence_to_sorted.tolist() == [0, 1, 6, 7, 8, 9, 2, 3]
    assert plan.sorted_to_sequence.tolist() == [0, 1, 6, 7, -1, -1, 2, 3, 4, 5, -1, -1]
    assert plan.position_ids.tolist() == [0, 1, 1, 0, 0, 0, 2, 3, 4, 0, 0, 0]
    assert plan.num_text_blocks == 3
    assert plan.text_block.tolist() == [1, 1, 2, 3, 0, 0, 1, 1, 1, 0, 0, 0]
    assert plan.padded_to_sorted.tolist() == [0, 1, 6, 7, 8, 9, 2, -1, -1, -1, 3, -1, -1, -1, -1]
    assert plan.sorted_to_padded.tolist() == [0, 1, 6, 10, -1, -1, 2, 3, 4, 5, -1, -1]


@pytest.mark.parametrize("impl", IMPLS)
def test_image_before_text_looks_inside_samples_only(impl):
    t2i = [(TEXT, 2), (VISUAL, 3)]
    assert not build_plan(*pack([t2i, t2i, [(TEXT, 4)], [(VISUAL, 2)]]), impl=impl).image_before_text
    assert build_plan(*pack([t2i, [(VISUAL, 3), (TEXT, 1)], t2i]), impl=impl).image_before_text


def test_many_samples():
    modality = torch.randint(0, 2, (60_000,), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    cu_seqlens = torch.arange(0, 60_001, 3, dtype=torch.int32)
    native = build_plan(modality, cu_seqlens, row_multiple=8)
    assert_equal(native, build_plan(modality, cu_seqlens, row_multiple=8, impl="reference"))
    check_plan(native)


@pytest.mark.parametrize("impl", IMPLS)
def test_non_contiguous_inputs(impl):
    modality, cu_seqlens = pack([[(TEXT, 3), (VISUAL, 9)], [(VISUAL, 2)]])
    strided = build_plan(modality.repeat_interleave(2)[::2], cu_seqlens.repeat_interleave(3)[::3], impl=impl)
    assert_equal(strided, build_plan(modality, cu_seqlens, impl=impl))


@pytest.mark.parametrize("impl", IMPLS)
def test_plan_does_not_share_memory_with_its_input(impl):
    modality, cu_seqlens = pack([[(TEXT, 3)], [(VISUAL, 2)]])
    plan = build_plan(modality, cu_seqlens, impl=impl)
    cu_seqlens.zero_()
    assert plan.cu_seqlens.tolist() == [0, 3, 5]


def tensor(*values, dtype=torch.int32):
    return torch.tensor(values, dtype=dtype)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modality": tensor(0, 1, 2, 0, dtype=torch.uint8)}, "got 2 at token 2"),
        ({"modality": tensor(255, 1, 1, 0, dtype=torch.uint8)}, "got 255 at token 0"),
        ({"modality": tensor(0, 1, 1, 0, dtype=torch.int64)}, "modality must be a 1-dimensional"),
        ({"modality": torch.zeros(2, 2, dtype=torch.uint8)}, "modality must be a 1-dimensional"),
        ({"modality": torch.zeros(4, dtype=torch.uint8, device="meta")}, "on the CPU"),
        ({"modality": torch.zeros(4, dtype=torch.uint8).to_sparse()}, "layout (torch.sparse_coo|Sparse)$"),
        ({"modality": torch.zeros(0, dtype=torch.uint8)}, "end at the number of tokens, 0, got"),
        ({"cu_seqlens": tensor(0, 2, 4, dtype=torch.int64)}, "cu_seqlens must be a 1-dimensional"),
        ({"cu_seqlens": tensor(1, 2, 4)}, "start at 0 and end at the number of tokens, 4, got 1 and 4"),
        ({"cu_seqlens": tensor(0, 2, 3)}, "got 0 and 3"),
        ({"cu_seqlens": tensor(0, 2, 5)}, "got 0 and 5"),
        ({"cu_seqlens": tensor(0, 2, 2, 4)}, "no empty sample.*sample 1"),
        ({"cu_seqlens": tensor(0, 3, 2, 4)}, "no empty sample.*sample 1"),
        ({"cu_seqlens": tensor(0, -(2**31), 4)}, "no empty sample.*sample 0"),
        ({"cu_seqlens": tensor(0)}, "at least 2 entries"),
        ({"cu_seqlens": tensor()}, "at least 2 entries"),
        ({"row_multiple": 0}, "row_multiple must be from 1 to 2147483647, got 0"),
        ({"row_multiple": -2}, "row_multiple must be from 1 to 2147483647, got -2"),
        ({"row_multiple": 2**62}, "row_multiple must be from 1 to 2147483647, got 4611686018427387904"),
        ({"row_multiple": 3, "total_rows": 8}, "multiple of row_multiple 3, got 8"),
        ({"row_multiple": 2, "total_rows": 2}, r"total_rows 2 is too small.* 2 \+ 2 rows"),
        ({"total_rows": -1}, "total_rows -1 is too small"),
    ],
)
def test_bad_input(impl, change, message):
    good = {"modality": tensor(0, 1, 1, 0, dtype=torch.uint8), "cu_seqlens": tensor(0, 2, 4)}
    build_plan(**good, impl=impl)
    with pytest.raises(ValueError, match=message):
        build_plan(**(good | change), impl=impl)


def test_wrong_value_inside_a_long_run():
    modality = torch.ones(1000, dtype=torch.uint8)
    modality[777] = 3
    with pytest.raises(ValueError, match="got 3 at token 777"):
        build_plan(modality, tensor(0, 1000), impl="native")


def test_rank_splits():
    plan = build_plan(*pack([[(TEXT, 5), (VISUAL, 9)]]), row_multiple=4)
    assert plan.rank_splits(1) == plan.expert_splits == (8, 12)
    assert plan.rank_splits(2) == (4, 6) and plan.rank_splits(4) == (2, 3)
    for world in (3, 8, 0):
        with pytest.raises(ValueError, match=f"multiple of 4 do not split over {world} ranks"):
            plan.rank_splits(world)


def test_peer_splits():
    plan = build_plan(*pack([[(TEXT, 5), (VISUAL, 9)]]), row_multiple=4)
    assert plan.expert_peers == ()
    with pytest.raises(ValueError, match="no expert_peers.*parallel.expert"):
        plan.peer_splits(TEXT)
    plan = dataclasses.replace(plan, expert_peers=((4, 20), plan.expert_splits))
    check_plan(plan)
    assert plan.peer_splits(TEXT) == [4, 8] and plan.peer_splits(VISUAL) == [20, 12]
    assert plan.peer_splits(TEXT, 2) == [2, 2, 4, 4] and plan.peer_splits(VISUAL, 2) == [10, 10, 6, 6]
    assert plan.to("cpu").expert_peers == plan.expert_peers
    for world in (3, 8, 0):
        with pytest.raises(ValueError, match=rf"\[4, 8\] rows .* do not split over {world} ranks"):
            plan.peer_splits(TEXT, world)
    with pytest.raises(AssertionError):
        check_plan(dataclasses.replace(plan, expert_peers=((4, 20),)))


def test_pickle():
    plan = build_plan(*pack([[(TEXT, 5), (VISUAL, 9)], [(VISUAL, 1)]]), row_multiple=4)
    assert_equal(pickle.loads(pickle.dumps(plan)), plan)


def _build_in_worker(index: int) -> DispatchPlan:
    return build_plan(*pack([[(TEXT, index + 1), (VISUAL, 4)]]), row_multiple=2)


def test_through_a_loader_worker():
    loader = DataLoader(range(3), batch_size=None, num_workers=1, collate_fn=_build_in_worker)
    for index, plan in enumerate(loader):
        assert_equal(plan, _build_in_worker(index))


def test_to():
    plan = build_plan(*pack([[(TEXT, 5), (VISUAL, 9)]]), row_multiple=4)
    assert_equal(plan.to("cpu"), plan)
    moved = plan.to("meta", non_blocking=True)
    tensors = [field.name for field in dataclasses.fields(plan) if field.type == "torch.Tensor"]
    assert len(tensors) == 7
    assert all(getattr(moved, name).device.type == "meta" for name in tensors)
    assert moved.expert_splits == plan.expert_splits


def test_frozen_and_compared_by_identity():
    plan = build_plan(*pack([[(TEXT, 5), (VISUAL, 9)]]))
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.num_tokens = 3
    assert plan == plan and plan != plan.to("cpu") and len({plan}) == 1


def test_validate_notices():
    plan = build_plan(*pack([[(TEXT, 5), (VISUAL, 9)], [(TEXT, 2)]]), row_multiple=4)
    for name in ("cu_seqlens", "position_ids", "text_block", "sequence_to_sorted", "sorted_to_sequence",
                 "padded_to_sorted", "sorted_to_padded"):  # fmt: skip
        broken = getattr(plan, name).clone()
        broken.view(-1)[1] += 1
        with pytest.raises(AssertionError):
            check_plan(dataclasses.replace(plan, **{name: broken}))
    for name in (
        "num_tokens",
        "num_text",
        "padded_text",
        "padded_visual",
        "max_seqlen",
        "num_samples",
        "num_text_blocks",
    ):
        with pytest.raises((AssertionError, RuntimeError)):
            check_plan(dataclasses.replace(plan, **{name: getattr(plan, name) + 4}))

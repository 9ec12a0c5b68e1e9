"""permute_rows and the layouts: native against reference, forward and backward, every dtype and shape."""

import contextlib
import dataclasses

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mars_megatron.sequence import (
    TEXT,
    VISUAL,
    build_plan,
    combine,
    dispatch,
    from_samples,
    permute_rows,
    reference,
    to_samples,
)
from tests.support.host_reads import NoHostReads

IMPLS = ["native", "reference"]
FP8 = [torch.float8_e4m3fn, torch.float8_e5m2]
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.complex128,
          torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool, *FP8]  # fmt: skip
settings.register_profile("ops", deadline=None, max_examples=100)
settings.load_profile("ops")


@st.composite
def injections(draw):
    """A partial injection and its inverse: index int64 [out rows], inverse int64 [in rows]."""
    num_in = draw(st.integers(1, 30))
    rows = list(range(num_in))
    if draw(st.booleans()):  # else ascending, so that there are runs to copy at once
        rows = draw(st.permutations(rows))
    rows = [row for row in rows if draw(st.integers(0, 4)) > 0]
    for _ in range(draw(st.integers(0 if rows else 1, 5))):
        rows.insert(draw(st.integers(0, len(rows))), -1)
    index = torch.tensor(rows, dtype=torch.int64)
    inverse = torch.full((num_in,), -1)
    inverse[index[index >= 0]] = (index >= 0).nonzero()[:, 0]
    return index, inverse


shapes = st.lists(st.integers(0, 5), max_size=3)


def random(*shape, dtype=torch.float32):
    x = torch.randn(shape, dtype=torch.float64) * 50
    return x > 0 if dtype == torch.bool else x.abs().to(dtype) if dtype == torch.uint8 else x.to(dtype)


def values(x):
    """x in a dtype that torch can compare: the bytes of 8-bit floating-point numbers."""
    return x.view(torch.uint8) if x.dtype in FP8 else x


def example_plan():
    modality = torch.tensor([0, 0, 1, 1, 1, 1, 0, 0, 1, 0], dtype=torch.uint8)
    return build_plan(modality, torch.tensor([0, 5, 7, 10], dtype=torch.int32), row_multiple=4)


@given(injections(), shapes, st.sampled_from(DTYPES))
def test_forward_parity(injection, trailing, dtype):
    index, inverse = injection
    x = random(len(inverse), *trailing, dtype=dtype)
    out = permute_rows(x, index, inverse, impl="native")
    assert out.dtype == dtype and out.is_contiguous() and out.shape == (len(index), *trailing)
    expected = permute_rows(x, index, inverse, impl="reference")
    assert expected.dtype == dtype and torch.equal(values(out), values(expected))
    for row, source in enumerate(index.tolist()):
        assert torch.equal(values(out[row]), values(x[source] if source >= 0 else torch.zeros_like(x[0])))


# Runs of either modality, cut into samples anywhere.
packs = st.lists(st.tuples(st.sampled_from([TEXT, VISUAL]), st.integers(1, 12)), min_size=1, max_size=8)


@given(packs, st.integers(1, 9), st.integers(0, 40), st.sampled_from([torch.float32, torch.bfloat16, torch.float64]))
@example([(TEXT, 1)], 1, 4, torch.float32)  # one token, one expert
@example([(VISUAL, 12), (VISUAL, 12)], 8, 3, torch.bfloat16)
def test_layouts_parity(runs, row_multiple, width, dtype):
    modality = torch.cat([torch.full((length,), modality, dtype=torch.uint8) for modality, length in runs])
    cu_seqlens = torch.tensor([0, *range(5, len(modality), 7), len(modality)], dtype=torch.int32)
    plan = build_plan(modality, cu_seqlens.unique_consecutive(), row_multiple=row_multiple)
    x = random(len(modality), width, dtype=dtype)
    results = []
    for impl in IMPLS:
        leaf = x.clone().requires_grad_()
        rows = dispatch(leaf, plan, impl)  # [P, width]
        samples = to_samples(rows * 2, plan, impl)
        out = combine(from_samples(samples * samples, plan, impl), plan, impl)
        assert torch.equal(out.detach(), (2 * x) * (2 * x))
        out.backward(x)
        results.append((rows.detach(), samples.detach(), leaf.grad))
    for native, expected in zip(*results, strict=True):
        assert torch.equal(native, expected)


def test_millions_of_tokens():
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 300, (20_000,), generator=generator)
    modality = (torch.arange(20_000) % 2).to(torch.uint8).repeat_interleave(lengths)
    num_tokens = len(modality)
    assert num_tokens > 2_900_000
    cu_seqlens = torch.tensor([*range(0, num_tokens, 1000), num_tokens], dtype=torch.int32)
    plan = build_plan(modality, cu_seqlens, row_multiple=64)
    expected = build_plan(modality, cu_seqlens, row_multiple=64, impl="reference")
    for field in dataclasses.fields(plan):
        mine, other = getattr(plan, field.name), getattr(expected, field.name)
        assert torch.equal(mine, other) if torch.is_tensor(mine) else mine == other, field.name
    x = torch.arange(num_tokens)
    rows = dispatch(x, plan, "native")
    assert torch.equal(rows, dispatch(x, plan, "reference"))
    assert torch.equal(combine(rows, plan, "native"), x)


@given(injections(), shapes, st.sampled_from([torch.float64, torch.float32, torch.bfloat16]))
def test_backward_parity(injection, trailing, dtype):
    index, inverse = injection
    x = random(len(inverse), *trailing, dtype=dtype)
    grad = random(len(index), *trailing, dtype=dtype)
    # Plain autograd knows nothing of the inverse: it scatters.
    plain = x.clone().requires_grad_()
    reference.permute_rows(plain, index).backward(grad)
    for impl in IMPLS:
        mine = x.clone().requires_grad_()
        permute_rows(mine, index, inverse, impl=impl).backward(grad)
        assert torch.equal(mine.grad, plain.grad), impl


@pytest.mark.parametrize("impl", IMPLS)
def test_gradcheck(impl):
    plan = example_plan()
    x = torch.randn(plan.num_tokens, 2, 2, dtype=torch.float64, requires_grad=True)

    def there_and_back(x):
        rows = dispatch(x, plan, impl)
        samples = to_samples(rows * rows, plan, impl)
        return combine(from_samples(samples.sin(), plan, impl), plan, impl)

    assert torch.autograd.gradcheck(there_and_back, (x,))
    assert torch.autograd.gradgradcheck(there_and_back, (x,))


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_round_trips(impl, dtype):
    plan = example_plan()
    x = random(plan.num_tokens, 3, dtype=dtype)
    rows = dispatch(x, plan, impl)  # [P, 3]
    assert rows.shape == (plan.num_rows, 3)
    assert torch.equal(values(combine(rows, plan, impl)), values(x))
    assert not values(rows)[plan.sorted_to_sequence < 0].any(), "padding is zero"

    samples = to_samples(rows, plan, impl)
    assert samples.shape == (plan.num_samples, plan.max_seqlen, 3)
    assert torch.equal(values(from_samples(samples, plan, impl)), values(rows))
    for sample, (start, end) in enumerate(zip(plan.cu_seqlens[:-1], plan.cu_seqlens[1:], strict=True)):
        assert torch.equal(values(samples[sample, : end - start]), values(x[start:end]))
        assert not values(samples[sample, end - start :]).any()


@pytest.mark.parametrize("impl", IMPLS)
def test_one_dimensional(impl):
    plan = example_plan()
    x = torch.arange(plan.num_tokens)
    assert torch.equal(combine(dispatch(x, plan, impl), plan, impl), x)
    assert torch.equal(dispatch(x, plan, impl), plan.sorted_to_sequence.clamp(min=0))


@pytest.mark.parametrize("impl", IMPLS)
def test_non_contiguous(impl):
    index, inverse = torch.tensor([2, 3, -1, 0]), torch.tensor([3, -1, 0, 1])
    base = torch.randn(4, 6, 4)
    inputs = {
        "transposed": base.transpose(0, 2),
        "strided": base[:, ::2],
        "rows strided": torch.randn(8, 3)[::2],
        "expanded": torch.randn(1, 3).expand(4, 3),
        "conjugated": torch.randn(4, 3, dtype=torch.complex64).conj(),
        "negated": torch._neg_view(torch.randn(4, 3)),  # what .imag of a conjugate is
    }
    for name, x in inputs.items():
        expected = torch.stack([x[2], x[3], torch.zeros_like(x[0]), x[0]])
        assert torch.equal(permute_rows(x, index, inverse, impl=impl), expected), name
    strided_index = index.repeat_interleave(2)[::2]
    assert torch.equal(
        permute_rows(base, strided_index, inverse, impl=impl), permute_rows(base, index, inverse, impl=impl)
    )


@pytest.mark.parametrize("impl", IMPLS)
def test_gradient_of_a_sum(impl):
    plan = example_plan()
    x = torch.randn(plan.num_tokens, 3, requires_grad=True)
    dispatch(x, plan, impl).sum().backward()  # an expanded gradient: every stride is 0
    assert torch.equal(x.grad, torch.ones_like(x))


@pytest.mark.parametrize("impl", IMPLS)
def test_padding_stays_zero_whatever_the_rows_hold(impl):
    x = torch.full((2, 3), float("nan"))
    out = permute_rows(x, torch.tensor([-1, 1, -1]), torch.tensor([-1, 1]), impl=impl)
    assert not out[[0, 2]].any() and out[1].isnan().all()


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("wrong", [4, 5, -2, 2**62, -(2**62)])
@pytest.mark.parametrize("before", [[], [3], [2, 3], [-1], [0, -1, -1]])
def test_index_out_of_range(impl, wrong, before):
    with pytest.raises(IndexError):
        permute_rows(torch.randn(4, 3), torch.tensor([*before, wrong]), torch.full((4,), -1), impl=impl)


@contextlib.contextmanager
def num_threads(count):
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads(threads):
    # 3000 rows of 1 KiB: more than one thread's worth, and runs that cross from one thread to the next.
    x = torch.randn(3000, 256)
    index = torch.cat([torch.arange(1000, 3000), torch.full((77,), -1), torch.arange(0, 900)])
    inverse = torch.full((3000,), -1)
    inverse[index[index >= 0]] = (index >= 0).nonzero()[:, 0]
    with num_threads(threads):
        out = permute_rows(x, index, inverse, impl="native")
        assert torch.equal(out, reference.permute_rows(x, index))
        index[-1] = 3000
        with pytest.raises(IndexError, match="index 3000 at 2976 is out of range for 3000 rows"):
            permute_rows(x, index, inverse, impl="native")


@pytest.mark.parametrize("impl", IMPLS)
def test_bad_shapes(impl):
    x, index, inverse = torch.randn(4, 3), torch.tensor([0, 1]), torch.tensor([0, 1, -1, -1])
    permute_rows(x, index, inverse, impl=impl)
    with pytest.raises(ValueError, match="one entry for each row"):
        permute_rows(torch.tensor(1.0), index, inverse, impl=impl)
    with pytest.raises(ValueError, match="got 0 and 2"):
        permute_rows(x[:0], index, inverse[:0], impl=impl)
    with pytest.raises(ValueError, match="got 4 and 0"):
        permute_rows(x, index[:0], inverse, impl=impl)
    with pytest.raises(ValueError, match="must be int64"):
        permute_rows(x, index.int(), inverse, impl=impl)
    with pytest.raises(ValueError, match="one entry for each row"):
        permute_rows(x, index, inverse[:3], impl=impl)
    with pytest.raises(ValueError, match="1-dimensional"):
        permute_rows(x, index[None], inverse, impl=impl)
    plan = example_plan()
    with pytest.raises(ValueError, match="one entry for each row"):
        dispatch(torch.randn(plan.num_tokens - 1, 3), plan, impl)
    with pytest.raises(ValueError, match=r"expected \[3 samples, 5, ...\]"):
        from_samples(torch.randn(15, 3), plan, impl)


@pytest.mark.parametrize("impl", IMPLS)
def test_no_host_reads(impl):
    plan = example_plan()
    x = torch.randn(plan.num_tokens, 3, requires_grad=True)
    with NoHostReads():
        rows = dispatch(x, plan, impl)
        out = combine(from_samples(to_samples(rows, plan, impl), plan, impl), plan, impl)
        out.sum().backward()
        plan.to("meta")
    assert torch.equal(x.grad, torch.ones_like(x))


def test_reference_needs_no_values():
    # Tensors on "meta" have none, so anything that depends on one raises.
    plan = example_plan().to("meta")
    x = torch.randn(plan.num_tokens, 3, device="meta", requires_grad=True)
    out = combine(from_samples(to_samples(dispatch(x, plan), plan), plan), plan)
    out.sum().backward()
    assert x.grad.shape == x.shape

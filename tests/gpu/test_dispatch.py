"""Token dispatch on a GPU: the CUDA kernel against the reference. Run with: bash tests/run.sh tests/gpu -m gpu"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
import torch

from mars_megatron.sequence import (
    DispatchPlan,
    build_plan,
    combine,
    dispatch,
    from_samples,
    native,
    permute_rows,
    to_samples,
)

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.int64, torch.int32,
          torch.int16, torch.int8, torch.uint8, torch.bool]  # fmt: skip


def make_plan(samples: int = 7, text: int = 13, visual: int = 50, row_multiple: int = 16) -> DispatchPlan:
    modality = torch.tensor(([0] * text + [1] * visual) * samples, dtype=torch.uint8)
    cu_seqlens = torch.arange(0, samples * (text + visual) + 1, text + visual, dtype=torch.int32)
    return build_plan(modality, cu_seqlens, row_multiple=row_multiple)


def random(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    x = torch.randn(shape, dtype=torch.float64, device="cuda") * 50
    return x > 0 if dtype == torch.bool else x.abs().to(dtype)


@pytest.fixture
def no_sync() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


def test_the_kernel_is_there() -> None:
    assert native.use_native("auto", "cuda"), "build the extension with a CUDA torch and an nvcc of its major version"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 7), (32,), (129,), (1000,), (4096,), (0,)], ids=str)
def test_forward(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    plan = make_plan().to("cuda")
    x = random(plan.num_tokens, *shape, dtype=dtype)
    rows = dispatch(x, plan, "native")
    assert torch.equal(rows, dispatch(x, plan, "reference"))
    assert torch.equal(to_samples(rows, plan, "native"), to_samples(rows, plan, "reference"))
    assert torch.equal(combine(rows, plan, "native"), x)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
def test_fp8(dtype: torch.dtype) -> None:
    plan = make_plan().to("cuda")
    x = random(plan.num_tokens, 48).to(dtype)
    rows = dispatch(x, plan, "native")
    expected = dispatch(x.view(torch.uint8), plan, "reference")
    assert rows.dtype == dtype and torch.equal(rows.view(torch.uint8), expected)


@pytest.mark.parametrize("offset", range(9))
def test_rows_that_start_anywhere(offset: int) -> None:
    plan = make_plan().to("cuda")
    x = random(offset + plan.num_tokens * 48, dtype=torch.uint8)[offset:].view(-1, 48)
    assert torch.equal(dispatch(x, plan, "native"), dispatch(x, plan, "reference"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_backward(dtype: torch.dtype) -> None:
    plan = make_plan().to("cuda")
    x, grad = random(plan.num_tokens, 5, 3, dtype=dtype), random(plan.num_tokens, 5, 3, dtype=dtype)
    results = []
    for impl in ("native", "reference"):
        leaf = x.clone().requires_grad_()
        samples = to_samples(dispatch(leaf, plan, impl) * 2, plan, impl)
        combine(from_samples(samples * samples, plan, impl), plan, impl).backward(grad)
        results.append(leaf.grad)
    assert torch.equal(*results)


def test_non_contiguous() -> None:
    plan = make_plan().to("cuda")
    x = random(6, plan.num_tokens, 4).transpose(0, 1)
    assert torch.equal(dispatch(x, plan, "native"), dispatch(x, plan, "reference"))


def test_more_rows_than_blocks() -> None:
    # A block takes 8 of these rows at a time, and 2**20 blocks are launched at most.
    rows = 9_000_000
    order = torch.arange(rows - 1, -1, -1, device="cuda")
    x = torch.arange(rows * 33, device="cuda", dtype=torch.int32).to(torch.uint8).view(rows, 33)
    assert torch.equal(permute_rows(x, order, order, impl="native"), x.flip(0))


def test_auto_is_native_and_differentiable_in_a_compiled_graph() -> None:
    plan = make_plan().to("cuda")
    x = random(plan.num_tokens, 8).requires_grad_()
    assert "PermuteRows" in dispatch(x, plan).grad_fn.name()
    compiled = torch.compile(lambda x: combine(dispatch(x, plan).sin(), plan), fullgraph=True, backend="aot_eager")
    compiled(x).sum().backward()
    assert torch.allclose(x.grad, x.cos())


def test_no_host_read(no_sync: None) -> None:
    plan = make_plan().to("cuda", non_blocking=True)
    x = torch.empty(plan.num_tokens, 8, device="cuda").normal_().requires_grad_()
    combine(from_samples(to_samples(dispatch(x, plan), plan), plan), plan).sum().backward()


def test_current_stream() -> None:
    plan = make_plan(samples=1000).to("cuda")
    x = torch.zeros(plan.num_tokens, 256, device="cuda")
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        combine(dispatch(x, plan, "native"), plan, "native")  # a first allocation and a kernel's loading may wait
        stream.synchronize()
        torch.cuda._sleep(200_000_000)  # on any other stream the copy would read x before it is filled
        x.fill_(3)
        rows = dispatch(x, plan, "native")
        out = combine(rows, plan, "native")
        assert not stream.query(), "the copies were enqueued, nothing waited"
    stream.synchronize()
    assert (out == 3).all() and rows.sum() == 3 * x.numel()


def test_refuses_indices_on_the_host() -> None:
    with pytest.raises(ValueError, match="on one device, got cuda:0, cpu and cpu"):
        permute_rows(torch.zeros(2, 3, device="cuda"), torch.tensor([0]), torch.tensor([0, -1]), impl="native")


OUT_OF_RANGE = """
import sys, torch
from mars_megatron.sequence import permute_rows
index, inverse = torch.tensor([0, int(sys.argv[1])], device="cuda"), torch.tensor([0, -1], device="cuda")
permute_rows(torch.zeros(2, 3, device="cuda"), index, inverse, impl="native")
torch.cuda.synchronize()
"""


@pytest.mark.parametrize("wrong", [2, -2, 2**62, -(2**62)])
def test_index_out_of_range_traps(wrong: int) -> None:
    # In a process of its own: nothing can be done with the GPU after a trap.
    result = subprocess.run([sys.executable, "-c", OUT_OF_RANGE, str(wrong)], capture_output=True, text=True)
    assert result.returncode != 0 and "CUDA error" in result.stderr, result.stderr
    assert subprocess.run([sys.executable, "-c", OUT_OF_RANGE, "1"]).returncode == 0


def seconds(function: Callable[[], object], rounds: int = 20) -> float:
    times = []
    for _ in range(rounds):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        function()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1000)
    return sorted(times)[rounds // 2]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_bandwidth(dtype: torch.dtype) -> None:
    plan = make_plan(samples=200, text=64, visual=256, row_multiple=1).to("cuda")  # 64k tokens
    x = random(plan.num_tokens, 4096, dtype=dtype)
    ours = seconds(lambda: combine(dispatch(x, plan, "native"), plan, "native"))
    clones = seconds(lambda: x.clone().clone())
    rate = 4 * x.nbytes / ours / 1e12
    assert clones / ours >= 0.8, f"{ours * 1e6:.0f} us against {clones * 1e6:.0f} us of two clones, {rate:.2f} TB/s"

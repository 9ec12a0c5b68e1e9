"""The CPU platform: every patch does what it says, and never touches a machine with a GPU."""

from __future__ import annotations

import pytest
import torch

from mars_megatron import platform
from mars_megatron.compat import cpu, patches

on_cpu = pytest.mark.skipif(torch.cuda.is_available(), reason="the patches are for machines without a GPU")


def test_refused_with_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def current() -> list:
        return [getattr(patches.resolve(patch.owner), patch.name) for patch in cpu.PATCHES]

    before = current()
    monkeypatch.setattr(cpu, "_enabled", False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(ValueError, match="training.device=cuda.*CUDA_VISIBLE_DEVICES"):
        cpu.enable()
    assert not cpu.is_enabled()
    assert all(now is then for now, then in zip(current(), before, strict=True)), "something was patched"


@on_cpu
def test_enabled_once() -> None:
    platform.initialize("cpu")
    assert cpu.is_enabled() and platform.device() == torch.device("cpu")
    before = torch.zeros
    cpu.enable()
    assert torch.zeros is before, "patched twice"
    assert torch._dynamo.config.disable


@on_cpu
@pytest.mark.parametrize("device", ["cuda", "cuda:1", torch.device("cuda"), torch.device("cuda", 0)], ids=str)
def test_cuda_means_the_cpu(device: str | torch.device) -> None:
    platform.initialize("cpu")
    made = [
        torch.arange(3, device=device),
        torch.empty(3, device=device),
        torch.full((3,), 2, device=device),
        torch.ones(3, device=device),
        torch.rand(3, device=device),
        torch.randint(3, (3,), device=device),
        torch.randn(3, device=device),
        torch.tensor([1, 2, 3], device=device),
        torch.zeros(3, device=device),
        torch.ones(3).to(device),
        torch.ones(3).to(device=device, dtype=torch.float64),
        torch.ones(3).to(device, torch.float64),
    ]
    assert all(tensor.device.type == "cpu" and tensor.shape == (3,) for tensor in made)
    assert [tensor.dtype for tensor in made[-3:]] == [torch.float32, torch.float64, torch.float64]
    # Other devices stay what they were.
    assert torch.zeros(3, device="meta").device.type == torch.ones(3).to("meta").device.type == "meta"
    assert made[-1].to(torch.float16).dtype == torch.float16


@on_cpu
def test_handles_moves_and_type_names() -> None:
    platform.initialize("cpu")
    assert torch.cuda.current_device() == torch.device("cpu")
    for call in (torch.cuda.synchronize, torch.cuda.empty_cache, torch.cuda.nvtx.range_pop):
        assert call() is None
    assert torch.cuda.set_device(0) is None and torch.cuda.nvtx.range_push("name") is None
    stream = torch.cuda.current_stream()
    assert stream.wait_stream(stream) is stream.wait_event(None) is stream.synchronize() is None
    x, module = torch.ones(2), torch.nn.Linear(2, 2)
    assert x.cuda() is x and x.cuda(0, non_blocking=True) is x and module.cuda() is module
    names = {torch.float32: "Float", torch.float16: "Half", torch.bfloat16: "BFloat16"}
    for dtype, name in names.items():
        assert x.to(dtype).type() == f"torch.cuda.{name}Tensor"
    assert x.double().type() == "torch.DoubleTensor"
    assert x.type(torch.int32).dtype == torch.int32


@on_cpu
def test_the_device_generator_is_the_cpu_one() -> None:
    platform.initialize("cpu")
    from megatron.core.tensor_parallel import random

    # torch seeds the device generator from its own manual_seed: this one must not recurse.
    torch.cuda.manual_seed(3)
    state = torch.cuda.get_rng_state()
    assert torch.equal(state, torch.get_rng_state()) and torch.equal(state, random._get_cuda_rng_state())
    first = torch.rand(4)
    for restore in (torch.cuda.set_rng_state, random._set_cuda_rng_state):
        restore(state)
        assert torch.equal(torch.rand(4), first)
    torch.manual_seed(3)
    assert torch.equal(torch.rand(4), first)


@on_cpu
def test_device_contexts_hold_for_patched_factories() -> None:
    platform.initialize("cpu")
    with torch.device("meta"):
        made = [torch.arange(3), torch.zeros(3), torch.tensor([1.0]), torch.full((2,), 3), torch.empty(2, device="cpu")]
    assert [value.device.type for value in made] == ["meta"] * 4 + ["cpu"]

"""The CPU platform: replaces the names with which megatron-core assumes a CUDA device.

Every name that is replaced stands in `PATCHES` with the reason. `enable()` applies them once per process,
before any process group or model exists, and refuses to on a machine with a GPU.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from mars_megatron.compat import patches, pytorch
from mars_megatron.compat.patches import Patch

_CPU = torch.device("cpu")
_FACTORIES = ("arange", "empty", "full", "ones", "rand", "randint", "randn", "tensor", "zeros")
_TYPE_NAMES = {
    torch.float32: "torch.cuda.FloatTensor",
    torch.float16: "torch.cuda.HalfTensor",
    torch.bfloat16: "torch.cuda.BFloat16Tensor",
}


def _constant(replacement: Callable[..., Any]) -> Callable[[Any], Any]:
    """What is put in place of any original. Each place gets a function of its own: torch.compile knows functions by
    identity, and has other rules for some of these names."""

    def place(_original: Any) -> Any:
        return lambda *args, **kwargs: replacement(*args, **kwargs)

    return place


def _noop(*_args: Any, **_kwargs: Any) -> None:
    return None


def _itself(value: Any, *_args: Any, **_kwargs: Any) -> Any:
    return value


def _is_cuda(device: Any) -> bool:
    return (isinstance(device, str) and device.startswith("cuda")) or (
        isinstance(device, torch.device) and device.type == "cuda"
    )


def _device_keyword_on_cpu(original: Callable[..., Any]) -> Callable[..., Any]:
    """A tensor factory whose device="cuda" keyword means the CPU."""

    @functools.wraps(original)
    def factory(*args: Any, **kwargs: Any) -> Any:
        if "device" in kwargs and _is_cuda(kwargs["device"]):
            kwargs["device"] = _CPU
        return original(*args, **kwargs)

    return factory


def _tensor_to(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def to(self: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        args = tuple(_CPU if _is_cuda(value) else value for value in args)
        if _is_cuda(kwargs.get("device")):
            kwargs["device"] = _CPU
        return original(self, *args, **kwargs)

    return to


def _tensor_type(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def type_(self: torch.Tensor, dtype: Any = None, *args: Any, **kwargs: Any) -> Any:
        if dtype is None and self.dtype in _TYPE_NAMES:
            return _TYPE_NAMES[self.dtype]
        return original(self, dtype, *args, **kwargs) if dtype is not None else original(self)

    return type_


class _NoStream:
    """In the place of a CUDA stream: work is done when it is called, so there is nothing to wait for."""

    wait_event = wait_stream = record_event = synchronize = staticmethod(_noop)


def _get_rng_state(*_args: Any, **_kwargs: Any) -> torch.Tensor:
    return torch.get_rng_state()


def _set_rng_state(new_state: torch.Tensor, *_args: Any, **_kwargs: Any) -> None:
    torch.set_rng_state(new_state)


def _all_gather(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def all_gather(
        tensor_list: list[torch.Tensor], tensor: torch.Tensor, group: Any = None, async_op: bool = False
    ) -> Any:
        if async_op or len({part.shape for part in tensor_list}) == 1:
            return original(tensor_list, tensor, group=group, async_op=async_op)
        for rank, part in enumerate(tensor_list):
            if rank == torch.distributed.get_rank(group):
                part.copy_(tensor)
            torch.distributed.broadcast(part, group_src=rank, group=group)
        return None

    return all_gather


def _reduce_scatter(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def reduce_scatter(
        output: torch.Tensor,
        input_list: list[torch.Tensor],
        op: Any = torch.distributed.ReduceOp.SUM,
        group: Any = None,
        async_op: bool = False,
    ) -> Any:
        sizes = [len(part) for part in input_list]
        if async_op or len(set(sizes)) == 1:
            return original(output, input_list, op=op, group=group, async_op=async_op)
        assert op == torch.distributed.ReduceOp.SUM, op
        received = output.new_empty(len(sizes), *output.shape)
        torch.distributed.all_to_all_single(
            received.flatten(0, 1),
            torch.cat(input_list),
            output_split_sizes=[len(output)] * len(sizes),
            input_split_sizes=sizes,
            group=group,
        )
        torch.sum(received, 0, out=output)
        return None

    return reduce_scatter


def _splits_as_lists(self: Any, point: str, tokens_per_expert: torch.Tensor | None = None) -> torch.Tensor | None:
    if point == self.cuda_dtoh_point:
        for name in ("input_splits", "output_splits"):
            splits = getattr(self, name)
            setattr(self, name, splits.tolist() if isinstance(splits, torch.Tensor) else splits)
    return tokens_per_expert


_RANDOM = "megatron.core.tensor_parallel.random"
_DISPATCHER = "megatron.core.transformer.moe.token_dispatcher.MoEAlltoAllTokenDispatcher"
_PLACEMENT = 'megatron-core names device="cuda" in schedules, optimiser, clipping and buffers'

PATCHES: tuple[Patch, ...] = (
    Patch("torch.cuda", "current_device", _constant(lambda: _CPU), "buffers are allocated on current_device()"),
    Patch("torch.cuda", "set_device", _constant(_noop), "called when process groups are made"),
    Patch("torch.cuda", "synchronize", _constant(_noop), "timers, point-to-point and checkpoints wait for the device"),
    Patch("torch.cuda", "empty_cache", _constant(_noop), "called after checkpoints and buffers are freed"),
    Patch("torch.cuda", "current_stream", _constant(_NoStream), "the exchange of gradients waits for it (0.19)"),
    Patch("torch.cuda", "manual_seed", _constant(torch.manual_seed), "model-parallel seeds"),
    Patch("torch.cuda", "get_rng_state", _constant(_get_rng_state), "the CPU generator is the device generator"),
    Patch("torch.cuda", "set_rng_state", _constant(_set_rng_state), "the CPU generator is the device generator"),
    Patch("torch.cuda.nvtx", "range_push", _constant(_noop), "profiler ranges in layers and schedules"),
    Patch("torch.cuda.nvtx", "range_pop", _constant(_noop), "profiler ranges in layers and schedules"),
    Patch(_RANDOM, "_get_cuda_rng_state", _constant(_get_rng_state), "tracker states and recompute"),
    Patch(_RANDOM, "_set_cuda_rng_state", _constant(_set_rng_state), "tracker states and recompute"),
    *(Patch("torch", name, _device_keyword_on_cpu, _PLACEMENT) for name in _FACTORIES),
    Patch("torch.Tensor", "to", _tensor_to, _PLACEMENT),
    Patch(
        "torch.Tensor",
        "cuda",
        _constant(_itself),
        "optimiser state and scalars are moved by .cuda()",
    ),
    Patch("torch.nn.Module", "cuda", _constant(_itself), "modules are moved by .cuda()"),
    Patch("torch.Tensor", "type", _tensor_type, "optimiser and clipping compare with 'torch.cuda.FloatTensor'"),
    Patch("torch.distributed", "all_gather", _all_gather, "gloo gathers equal shapes only; experts get uneven ones"),
    Patch(
        "torch.distributed",
        "reduce_scatter",
        _reduce_scatter,
        "gloo's of uneven shares writes out of bounds (seen with torch 2.13)",
    ),
    Patch(_DISPATCHER, "cuda_dtoh_stream", lambda _original: "no stream", "else the dispatcher makes a CUDA stream"),
    Patch(
        _DISPATCHER,
        "_maybe_dtoh_and_synchronize",
        _constant(_splits_as_lists),
        "counts are on the host already, and gloo takes split sizes as lists",
    ),
)

_enabled = False


def enable() -> None:
    """Apply `PATCHES` once; later calls do nothing.

    Raises:
        ValueError: if CUDA is available: the patches would send GPU work to the CPU.
    """
    global _enabled
    if _enabled:
        return
    if torch.cuda.is_available():
        raise ValueError(
            "the CPU platform was asked for on a machine with a GPU; "
            "set training.device=cuda, or hide the GPUs with CUDA_VISIBLE_DEVICES=''"
        )
    # jit_fuser decorates functions with torch.compile, which would start a compiler on the first call.
    pytorch.disable_compiler()
    # torch.device("meta") and its like know the factories by their functions, and list them when first used: the list
    # must have the true ones, which the patched ones call. Else transformers leaves buffers of loaded models unset.
    pytorch.remember_factories()
    patches.apply(PATCHES)
    _enabled = True


def is_enabled() -> bool:
    """Whether `enable()` has run in this process."""
    return _enabled

"""Dispatch and combine against other ways of bringing tokens to their experts and back."""

from __future__ import annotations

import ctypes
import multiprocessing
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import torch
from megatron.core.transformer.moe.moe_utils import permute, unpermute
from torch import Tensor

from benchmarks.timing import OURS, as_table, contest, machine, ratios_to_ours
from mars_megatron import platform
from mars_megatron.sequence import VISUAL, DispatchPlan, build_plan, combine, dispatch, native

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
REUSED = "_reused_memory"
PLAN_SAMPLES, PLAN_TOKENS = 64, 32768
PLAN_CALLS = 300

# glibc's mallopt
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


@dataclass(frozen=True)
class DispatchOptions:
    """What is dispatched.

    Args:
        tokens: Most tokens of the packed sequence; as many whole samples as fit are taken.
        hidden: Elements of a token.
        text: Text tokens of a sample.
        visual: Visual tokens behind them.
        dtypes: Names of `DTYPES`.
        rounds: Timed calls of each contestant.
        reuse_memory: Also run the contest with outputs in memory that the process already holds, on the CPU.
        progress: Show progress bars.
    """

    tokens: int = 8192
    hidden: int = 4096
    text: int = 64
    visual: int = 256
    dtypes: tuple[str, ...] = tuple(DTYPES)
    rounds: int = 30
    reuse_memory: bool = True
    progress: bool = True


def run(options: DispatchOptions, say: Callable[[str], None] = print) -> tuple[dict[str, Any], dict[str, Any]]:
    """Ratios and seconds.

    Returns:
        Ratios by contestant of each group, a group being a dtype or, with reuse_memory, a dtype + `REUSED`; beside
        them, by contestant, the least over the dtypes. Seconds by contestant of each group, and those of one
        `build_plan` under "plan".

    Raises:
        ValueError: A number below 1, not even one sample fits, or reuse_memory without glibc.
    """
    for name, number in (
        ("--hidden", options.hidden),
        ("--text-tokens", options.text),
        ("--visual-tokens", options.visual),
    ):
        if number < 1:
            raise ValueError(f"{name} {number}: at least one is needed")
    device = platform.initialize("auto")
    reuse_memory = options.reuse_memory and device.type == "cpu"
    if reuse_memory:
        _mallopt()  # before the time is spent
    plan = plan_seconds()
    say(f"plan of {PLAN_SAMPLES} samples, {PLAN_TOKENS} tokens: {plan * 1e6:.0f} microseconds")
    on_cpu = "each with its own allocator (ours keeps up to 512 MiB)"
    memory = on_cpu if device.type == "cpu" else "all with the allocator of torch"
    seconds = contests(options, "", memory, say)
    if reuse_memory:
        # The settings last as long as the process. A forked one would lack the threads of OpenMP.
        quiet = partial(warnings.filterwarnings, "ignore", module=r"megatron\.core.*")  # of libraries it does without
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), quiet) as pool:
            reused, tables = pool.submit(contests_in_reused_memory, options, torch.get_num_threads()).result()
        for table in tables:
            say(table)
        seconds |= reused
    groups = {group: ratios_to_ours(values) for group, values in seconds.items()}
    least = {name: min(groups[dtype][name] for dtype in options.dtypes) for name in groups[options.dtypes[0]]}
    return {**least, **groups}, {"plan": plan, **seconds}


def contests(
    options: DispatchOptions, suffix: str, memory: str, say: Callable[[str], None]
) -> dict[str, dict[str, float]]:
    """Seconds by contestant of each dtype + suffix; says a table of each, memory being what its title tells of it."""
    device = platform.device()
    modality, cu_seqlens = packed(options.tokens // (options.text + options.visual), options.text, options.visual)
    found = {}
    for dtype in options.dtypes:
        native.release_kept_memory()  # no contest begins with what another left
        torch.manual_seed(0)
        x = torch.randn(len(modality), options.hidden).to(device, DTYPES[dtype])
        calls = contestants(x, modality.to(device), build_plan(modality, cu_seqlens).to(device))
        check(calls, x)
        found[dtype + suffix] = contest(calls, options.rounds, dtype + suffix, options.progress)
        title = f"there and back, {len(x)} tokens x {options.hidden}, {dtype}, on {machine()['device']}, {memory}"
        say(as_table(title, found[dtype + suffix]))
    return found


def contests_in_reused_memory(
    options: DispatchOptions, num_threads: int
) -> tuple[dict[str, dict[str, float]], list[str]]:
    """The contests after `keep_freed_memory`, and their tables; for a process of its own."""
    keep_freed_memory()
    platform.initialize("auto")
    torch.set_num_threads(num_threads)
    tables: list[str] = []
    return contests(options, REUSED, "every output in reused memory", tables.append), tables


def packed(num_samples: int, num_text: int, num_visual: int) -> tuple[Tensor, Tensor]:
    """Modality uint8 [T] and cu_seqlens int32 [S + 1] of equal samples: text, then an image."""
    if num_samples < 1:
        raise ValueError(f"not one sample of {num_text} text and {num_visual} visual tokens fits: raise --tokens")
    modality = (torch.arange(num_text + num_visual) >= num_text).to(torch.uint8).repeat(num_samples)
    return modality, torch.arange(num_samples + 1, dtype=torch.int32) * (num_text + num_visual)


def contestants(x: Tensor, modality: Tensor, plan: DispatchPlan) -> dict[str, Callable[[], Any]]:
    """Ways to bring x [T, hidden] into expert order and back. Everything that routing alone decides is made before.

    Each returns what it brought there (as a tensor or one per expert) and what it brought back.
    """
    is_visual = modality == VISUAL
    is_text = ~is_visual
    to_experts, to_sequence = plan.sorted_to_sequence, plan.sequence_to_sorted
    routing_map = torch.stack((is_text, is_visual), dim=1)  # [T, experts], as a router gives it

    def ours() -> tuple[Tensor, Tensor]:
        there = dispatch(x, plan)
        return there, combine(there, plan)

    def copy() -> tuple[Tensor, Tensor]:
        there = x.clone()
        return there, there.clone()

    def index_select() -> tuple[Tensor, Tensor]:
        # Gathering both ways: scattering back by index_copy needs an output to scatter into first, and is slower.
        there = x.index_select(0, to_experts)
        return there, there.index_select(0, to_sequence)

    def masks() -> tuple[tuple[Tensor, Tensor], Tensor]:
        text, visual = x[is_text], x[is_visual]
        back = torch.empty_like(x)
        back[is_text] = text
        back[is_visual] = visual
        return (text, visual), back

    def mcore_permute() -> tuple[Tensor, Tensor]:
        there, _, sorted_indices, *_ = permute(x, routing_map, num_out_tokens=len(x))
        return there, unpermute(there, sorted_indices, x.shape)

    return {OURS: ours, "copy": copy, "index_select": index_select, "masks": masks, "mcore_permute": mcore_permute}


def check(calls: dict[str, Callable[[], Any]], x: Tensor) -> None:
    """Assert that every contestant but the copy does the same thing."""
    expected, _ = calls[OURS]()
    for name, call in calls.items():
        there, back = call()
        there = there if isinstance(there, Tensor) else torch.cat(there)
        assert torch.equal(back, x), f"{name} does not bring the tokens back"
        assert name == "copy" or torch.equal(there, expected), f"{name} does not sort the tokens by expert"


def plan_seconds() -> float:
    """Median seconds of `build_plan` for a full pack."""
    per_sample = PLAN_TOKENS // PLAN_SAMPLES
    modality, cu_seqlens = packed(PLAN_SAMPLES, per_sample // 5, per_sample - per_sample // 5)
    values = []
    for _ in range(PLAN_CALLS):
        began = time.perf_counter()
        build_plan(modality, cu_seqlens)
        values.append(time.perf_counter() - began)
    return median(values)


def keep_freed_memory() -> None:
    """Let freed memory be kept for the next output, where it is otherwise returned and mapped anew, page by page.

    For the rest of the process: glibc has no way back to thresholds that it adapts by itself.

    Raises:
        ValueError: The C library is not glibc.
    """
    mallopt = _mallopt()
    assert mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def _mallopt() -> Callable[[int, int], int]:
    function = getattr(ctypes.CDLL(None), "mallopt", None)
    if function is None:
        raise ValueError("reused memory needs glibc's mallopt, which this system does not have: add --no-reuse-memory")
    return function

"""Timing several ways of doing one thing side by side, and reporting it."""

from __future__ import annotations

import gc
import json
import os
import platform as python_platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from mars_megatron import platform
from mars_megatron.files.writing import write_text
from mars_megatron.sequence import native_available

OURS = "ours"
WARM_UP_ROUNDS = 1
_HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def contest(
    contestants: Mapping[str, Callable[[], object]], rounds: int, name: str, progress: bool = True
) -> dict[str, float]:
    """Median seconds of one call of each contestant.

    All of them run in every round, each round beginning with another one, so that whatever slows the machine for a
    while meets all alike. What a call returns is given back before the next one is timed.

    Args:
        contestants: What to call, by name.
        rounds: Timed calls of each, after as many rounds that are not as `WARM_UP_ROUNDS`.
        name: Label of the progress bar.
        progress: Show one, on standard error.

    Raises:
        ValueError: No rounds.
    """
    if rounds < 1:
        raise ValueError(f"--rounds {rounds}: at least one is needed")
    names = list(contestants)
    seconds: dict[str, list[float]] = {contestant: [] for contestant in names}
    gc.collect()
    gc.freeze()  # what is there already need not be searched again before every call
    try:
        for number in tqdm(range(-WARM_UP_ROUNDS, rounds), desc=name, unit="round", disable=not progress, leave=False):
            first = number % len(names)
            for contestant in names[first:] + names[:first]:
                elapsed = _time(contestants[contestant])
                if number >= 0:
                    seconds[contestant].append(elapsed)
    finally:
        gc.unfreeze()
    return {contestant: statistics.median(values) for contestant, values in seconds.items()}


def _time(call: Callable[[], object]) -> float:
    gc.collect()
    gc.disable()
    try:
        torch.cuda.synchronize()  # nothing on the CPU platform
        began = time.perf_counter()
        result = call()
        torch.cuda.synchronize()
        elapsed = time.perf_counter() - began
    finally:
        gc.enable()
    del result
    return elapsed


def ratios_to_ours(seconds: dict[str, float]) -> dict[str, float]:
    """Seconds of every other contestant over those of `OURS`: above 1, ours is faster."""
    return {name: value / seconds[OURS] for name, value in seconds.items() if name != OURS}


def as_table(title: str, seconds: dict[str, float]) -> str:
    """Lines with the milliseconds of each contestant and how many times ours it takes."""
    ratios = ratios_to_ours(seconds)
    width = max(len(name) for name in seconds)
    lines = [title, f"  {'':<{width}}  {'milliseconds':>12}  {'/ ours':>6}"]
    for name, value in seconds.items():
        ratio = f"{ratios[name]:6.2f}" if name in ratios else ""
        lines.append(f"  {name:<{width}}  {value * 1e3:12.2f}  {ratio}".rstrip())
    return "\n".join(lines)


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": python_platform.platform(),
        "transparent_huge_pages": _HUGE_PAGES.read_text().strip() if _HUGE_PAGES.is_file() else "unknown",
        "python": python_platform.python_version(),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if platform.device().type == "cuda" else "cpu",
        "extension": native_available(),
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else python_platform.machine()


def write_report(path: str | Path, ratios: dict[str, Any], seconds: dict[str, Any]) -> None:
    """Write {"ratios", "seconds", "machine"} as JSON; whoever reads the file finds it whole.

    Raises:
        OSError: The file cannot be written.
    """
    report = {"ratios": ratios, "seconds": seconds, "machine": machine()}
    write_text(Path(path), json.dumps(report, indent=2) + "\n")

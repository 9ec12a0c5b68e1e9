"""What the dispatch contest compares, and what it reports."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from benchmarks import child_environment, dispatch
from benchmarks.dispatch import DispatchOptions, check, contestants, packed, run

from mars_megatron.sequence import build_plan

NAMES = {"copy", "index_select", "masks", "mcore_permute"}


def calls():
    modality, cu_seqlens = packed(3, 2, 5)
    x = torch.randn(len(modality), 4)
    return contestants(x, modality, build_plan(modality, cu_seqlens)), x


def test_samples_are_text_then_image() -> None:
    modality, cu_seqlens = packed(2, 1, 3)
    assert modality.tolist() == [0, 1, 1, 1] * 2 and modality.dtype == torch.uint8
    assert cu_seqlens.tolist() == [0, 4, 8] and cu_seqlens.dtype == torch.int32
    with pytest.raises(ValueError, match="raise --tokens"):
        packed(0, 1, 3)


def test_everyone_does_the_same() -> None:
    made, x = calls()
    check(made, x)
    assert set(made) == NAMES | {"ours"}


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_contestant_that_loses_tokens_or_their_order_is_found(name: str) -> None:
    made, x = calls()
    there, back = made[name]()
    with pytest.raises(AssertionError, match=f"{name} does not bring"):
        check({**made, name: lambda: (there, back.flip(0))}, x)
    if name != "copy":
        with pytest.raises(AssertionError, match=f"{name} does not sort"):
            check({**made, name: lambda: (x, back)}, x)


def test_report() -> None:
    lines: list[str] = []
    options = DispatchOptions(tokens=70, hidden=8, text=4, visual=16, rounds=2, reuse_memory=True, progress=False)
    ratios, seconds = run(options, lines.append)
    groups = {"bf16", "fp32", "bf16_reused_memory", "fp32_reused_memory"}
    assert set(ratios) == NAMES | groups and set(seconds) == groups | {"plan"}
    for group in groups:
        assert set(seconds[group]) == NAMES | {"ours"}
        assert ratios[group] == {name: seconds[group][name] / seconds[group]["ours"] for name in NAMES}
    for name in NAMES:
        assert ratios[name] == min(ratios["bf16"][name], ratios["fp32"][name])
    assert 0 < seconds["plan"] < 1
    assert len(lines) == 5
    assert "60 tokens x 8, bf16, on cpu, each with its own allocator" in lines[1]
    assert "60 tokens x 8, fp32, on cpu, every output in reused memory" in lines[-1]


def test_one_contest_will_do() -> None:
    lines: list[str] = []
    options = DispatchOptions(
        tokens=70, hidden=8, text=4, visual=16, dtypes=("fp32",), rounds=1, reuse_memory=False, progress=False
    )
    ratios, seconds = run(options, lines.append)
    assert set(ratios) == NAMES | {"fp32"} and set(seconds) == {"plan", "fp32"} and len(lines) == 2


KEEP = """
import psutil, torch
from benchmarks.dispatch import keep_freed_memory

def lost():
    x = torch.ones(64 << 20, dtype=torch.uint8)
    before = psutil.Process().memory_info().rss
    del x
    return before - psutil.Process().memory_info().rss

assert lost() > 60 << 20
keep_freed_memory()
assert lost() < 4 << 20
"""


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
def test_freed_memory_is_kept() -> None:
    # In a process of its own: it lasts.
    subprocess.run([sys.executable, "-c", KEEP], check=True, env=child_environment())


def test_reused_memory_without_glibc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch.ctypes, "CDLL", lambda _name: object())
    lines: list[str] = []
    with pytest.raises(ValueError, match="glibc.*--no-reuse-memory"):
        run(DispatchOptions(), lines.append)
    assert not lines, "before anything is timed"

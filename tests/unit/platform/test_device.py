"""The device is chosen once, and a wrong choice says what to do."""

from __future__ import annotations

import importlib

import pytest
import torch

from mars_megatron.compat import cpu, megatron_core

# The package re-exports a function of the same name.
device = importlib.import_module("mars_megatron.platform.device")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch):
    """A process that has not chosen yet, on a machine with or without a GPU. Nothing of torch is really changed."""
    done: list = []
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setattr(device, "_device", None)
    monkeypatch.setattr(cpu, "_enabled", False)
    monkeypatch.setattr(cpu, "PATCHES", ())
    monkeypatch.setattr(megatron_core, "install_adam", lambda adam: done.append("adam"))
    monkeypatch.setattr(torch.cuda, "set_device", done.append)

    def put(has_gpu: bool) -> list:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
        return done

    with torch._dynamo.config.patch(disable=torch._dynamo.config.disable):
        yield put


@pytest.mark.parametrize(
    ("has_gpu", "kind", "expected"),
    [
        (False, "auto", "cpu"),
        (False, "cpu", "cpu"),
        (True, "auto", "cuda:2"),
        (True, "cuda", "cuda:2"),
    ],
)
def test_choice(machine, monkeypatch: pytest.MonkeyPatch, has_gpu: bool, kind: str, expected: str) -> None:
    done = machine(has_gpu)
    monkeypatch.setenv("LOCAL_RANK", "2")
    chosen = device.initialize(kind)
    assert chosen == device.device() == torch.device(expected)
    assert cpu.is_enabled() == (expected == "cpu")
    assert done == ([chosen, "adam"] if has_gpu else ["adam"])
    assert device.initialize(kind) is chosen, "a second equal choice changes nothing"
    assert done.count("adam") == 1


def test_auto_stays_on_the_cpu_once_it_is_patched(machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(True)
    monkeypatch.setattr(cpu, "_enabled", True)
    assert device.initialize("auto") == torch.device("cpu")


def test_cuda_without_a_gpu(machine) -> None:
    machine(False)
    with pytest.raises(ValueError, match="training.device=cuda.*no GPU.*cpu or auto"):
        device.initialize("cuda")
    with pytest.raises(AssertionError, match="has not run"):
        device.device()


def test_cpu_with_a_gpu(machine) -> None:
    machine(True)
    with pytest.raises(ValueError, match="CUDA_VISIBLE_DEVICES"):
        device.initialize("cpu")
    with pytest.raises(AssertionError, match="has not run"):
        device.device()


@pytest.mark.parametrize(("first", "second"), [("cpu", "cuda"), ("cuda", "cpu")])
def test_a_second_choice(machine, first: str, second: str) -> None:
    machine(first == "cuda")
    device.initialize(first)
    with pytest.raises(ValueError, match=f"already runs on {first}; it cannot change to {second}"):
        device.initialize(second)
    assert device.device().type == first


@pytest.mark.parametrize(("kind", "backend"), [("cpu", "gloo"), ("cuda", "nccl")])
@pytest.mark.parametrize("torchrun", [False, True])
def test_process_group(machine, monkeypatch: pytest.MonkeyPatch, kind: str, backend: str, torchrun: bool) -> None:
    machine(kind == "cuda")
    device.initialize(kind)
    calls = []
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: bool(calls))
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda *args, **named: calls.append((args, named)))
    if torchrun:
        monkeypatch.setenv("RANK", "1")
    device.init_process_group(timeout_minutes=3)
    device.init_process_group()
    ((args, named),) = calls  # the second call did nothing
    assert args == (backend,) and named.pop("timeout").total_seconds() == 180
    if torchrun:
        assert named == {}, "torchrun's environment describes the job"
    else:
        assert (named["rank"], named["world_size"]) == (0, 1)

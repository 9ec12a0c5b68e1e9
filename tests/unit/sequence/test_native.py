"""Which implementation serves, with the extension and without it."""

import re
from types import SimpleNamespace

import pytest
import torch

from mars_megatron.sequence import build_plan, combine, dispatch, native, native_available
from tests.support.plans import check_plan

MODALITY = torch.tensor([0, 1, 1, 0], dtype=torch.uint8)
CU_SEQLENS = torch.tensor([0, 3, 4], dtype=torch.int32)


@pytest.fixture
def no_extension(monkeypatch):
    monkeypatch.setattr(native, "_extension", None)
    monkeypatch.setattr(native, "_devices", frozenset())


def test_extension_is_built():
    assert native_available() and "cpu" in native._devices
    assert native.extension().__name__ == "mars_megatron._C"


def test_auto_is_native_where_there_is_a_kernel():
    assert native.use_native("auto") and not native.use_native("reference")
    assert not native.use_native("auto", "meta")


def test_native_refuses_other_devices():
    plan = build_plan(MODALITY, CU_SEQLENS).to("meta")
    with pytest.raises(ValueError, match="kernels for cpu.*, not for meta"):
        dispatch(torch.zeros(4, 2, device="meta"), plan, impl="native")
    for impl in ("native", "reference"):
        with pytest.raises(ValueError, match="on one device, got cpu, meta and meta"):
            dispatch(torch.zeros(4, 2), plan, impl=impl)


def test_unknown_implementation():
    with pytest.raises(ValueError, match="impl must be .* got 'cuda'"):
        build_plan(MODALITY, CU_SEQLENS, impl="cuda")


def test_reference_serves_without_extension(no_extension):
    plan = build_plan(MODALITY, CU_SEQLENS)
    check_plan(plan)
    x = torch.randn(4, 2, requires_grad=True)
    out = combine(dispatch(x, plan), plan)
    out.sum().backward()
    assert torch.equal(out, x) and torch.equal(x.grad, torch.ones_like(x))


def test_native_without_extension_says_how_to_build_it(no_extension):
    with pytest.raises(RuntimeError, match="pip install -e . --no-build-isolation"):
        build_plan(MODALITY, CU_SEQLENS, impl="native")
    plan = build_plan(MODALITY, CU_SEQLENS)
    with pytest.raises(RuntimeError, match="is not compiled"):
        dispatch(torch.zeros(4, 2), plan, impl="native")


def test_extension_that_does_not_load(monkeypatch):
    def fail(name):
        raise ImportError("undefined symbol")

    monkeypatch.setattr(native.importlib, "import_module", fail)
    with pytest.raises(ImportError, match=f"build it again for this torch {re.escape(torch.__version__)}"):
        native._load()


@pytest.mark.parametrize("old", [SimpleNamespace(), SimpleNamespace(interface=-1)])
def test_extension_of_other_sources(monkeypatch, old):
    monkeypatch.setattr(native.importlib, "import_module", lambda name: old)
    with pytest.raises(ImportError, match="built from other sources.*bash examples/setup.sh"):
        native._load()


def test_extension_that_is_not_there(monkeypatch):
    monkeypatch.setattr(native.importlib.util, "find_spec", lambda name: None)
    assert native._load() is None

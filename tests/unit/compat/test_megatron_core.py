"""Where releases of megatron-core differ, both are served, and what one cannot do is refused by name."""

from __future__ import annotations

import importlib.util
import threading
from pathlib import Path

import pytest
import torch
from megatron.core import dist_checkpointing
from megatron.core.models.backends import LocalSpecProvider
from megatron.core.optimizer import OptimizerConfig
from megatron.core.transformer.spec_utils import ModuleSpec

from mars_megatron.compat import megatron_core

SINCE_018 = megatron_core.RELEASE >= (0, 18)


class WithLegacyExperts:
    """As before 0.17."""

    def grouped_mlp_modules(self, moe_use_grouped_gemm: bool, moe_use_legacy_grouped_gemm: bool) -> tuple:
        assert not moe_use_legacy_grouped_gemm
        return torch.nn.Linear, ("parts", moe_use_grouped_gemm)


class WithBuilder:
    """As since 0.17."""

    def grouped_mlp_modules(self, moe_use_grouped_gemm: bool) -> tuple:
        return "builder", moe_use_grouped_gemm


@pytest.mark.parametrize("grouped", [False, True])
def test_experts_of_either_release(grouped: bool) -> None:
    spec = megatron_core.experts_builder(WithLegacyExperts(), grouped)
    assert isinstance(spec, ModuleSpec) and spec.module is torch.nn.Linear
    assert spec.submodules == ("parts", grouped)
    assert megatron_core.experts_builder(WithBuilder(), grouped) == ("builder", grouped)


def test_experts_of_the_installed_release() -> None:
    built = megatron_core.experts_builder(LocalSpecProvider(), False)
    assert isinstance(built, ModuleSpec) is not SINCE_018


@pytest.mark.parametrize(("release", "marked"), [((0, 16), True), ((0, 19), False)])
def test_expert_weights_are_marked_where_megatron_core_forgets_to(monkeypatch, release: tuple, marked: bool) -> None:
    monkeypatch.setattr(megatron_core, "RELEASE", release)
    experts = torch.nn.Sequential(torch.nn.Linear(2, 2, bias=False), torch.nn.Linear(2, 2, bias=False))
    experts[1].weight.tensor_model_parallel = False  # as Transformer Engine leaves it
    megatron_core.mark_expert_weights(experts)
    assert [getattr(weight, "tensor_model_parallel", False) for weight in experts.parameters()] == [marked] * 2


@pytest.mark.parametrize(
    ("release", "interleaved", "may"),
    [((0, 16), True, False), ((0, 16), False, True), ((0, 19), True, True), ((0, 19), False, True)],
)
def test_outputs_are_kept_while_they_are_sent(monkeypatch, release: tuple, interleaved: bool, may: bool) -> None:
    monkeypatch.setattr(megatron_core, "RELEASE", release)
    assert megatron_core.may_free_sent_outputs(interleaved) is may


@pytest.mark.parametrize("setting", megatron_core.OFFERED)
def test_a_setting_that_the_release_does_not_offer_is_refused(monkeypatch, setting: str) -> None:
    monkeypatch.setitem(megatron_core.OFFERED, setting, False)
    megatron_core.check_offered({setting: 0.0})
    with pytest.raises(ValueError, match=rf"{setting}=True needs megatron-core 0\.19; .* is installed"):
        megatron_core.check_offered({setting: True})
    monkeypatch.setitem(megatron_core.OFFERED, setting, True)
    megatron_core.check_offered({setting: True})


def test_what_the_installed_release_offers() -> None:
    assert set(megatron_core.OFFERED.values()) == {SINCE_018}
    OptimizerConfig(**megatron_core.optimizer_settings(0.0))
    if SINCE_018:
        assert OptimizerConfig(**megatron_core.optimizer_settings(3.0)).grad_norm_skip_threshold == 3.0


def test_the_writer_answers_to_nobody_else() -> None:
    """Its queue is of this process; processes that write become helpers, threads of the rank must not."""
    called: list[str] = []
    results, *helper = megatron_core.writer_patches(lambda: called.append("helper"))
    take = results.build(None)
    assert take() is take("spawn") and take().empty()
    assert bool(helper) is not SINCE_018
    for patch in helper:
        write = patch.build(lambda *values: called.extend(values))
        thread = threading.Thread(target=write.__func__, args=("written",))
        thread.start()
        thread.join()
        assert called == ["helper", "written"]


def test_what_is_common_gets_a_file_of_its_own(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(dist_checkpointing, "load_common_state_dict", lambda folder: {"from": folder})
    megatron_core.write_common(tmp_path)
    assert torch.load(tmp_path / "common.pt") == {"from": str(tmp_path)}
    torch.save("written already", tmp_path / "common.pt")
    megatron_core.write_common(tmp_path)
    assert torch.load(tmp_path / "common.pt") == "written already"


@pytest.mark.skipif(not SINCE_018, reason="sums are of megatron-core 0.18 and later")
def test_sums(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    megatron_core.check_sums(tmp_path)  # a checkpoint that has none
    megatron_core.write_sums(tmp_path)
    megatron_core.check_sums(tmp_path)
    (tmp_path / "b").write_text("c")
    with pytest.raises(ValueError, match=r"is damaged: (.|\n)*b: hash mismatch"):
        megatron_core.check_sums(tmp_path)


def test_triton_is_there_for_releases_that_import_it() -> None:
    assert not SINCE_018 or importlib.util.find_spec("triton")

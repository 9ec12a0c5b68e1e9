"""The CUDA path against the CPU path. Needs one NVIDIA GPU; run with: bash tests/run.sh tests/gpu -m gpu"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.corpus import write_corpus
from tests.support.distributed.ranks import run_ranks

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]

# Transformer Engine wants head sizes that are multiples of 8.
SHAPE = {"training.steps": 8, "model.hidden_size": 64, "model.ffn_hidden_size": 128}


def _has_transformer_engine() -> bool:
    try:
        import transformer_engine.pytorch  # noqa: F401
    except ImportError:
        return False
    return True


needs_te = pytest.mark.skipif(not _has_transformer_engine(), reason="Transformer Engine is not installed")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_corpus(tmp_path_factory.mktemp("corpus") / "train")


@pytest.fixture(scope="module")
def cpu_losses(corpus: str) -> list[float]:
    return _losses(corpus, hide_gpus=True)


def _losses(corpus: str, num_ranks: int = 1, hide_gpus: bool = False, **settings: Any) -> list[float]:
    run = {"data.path": corpus, **SHAPE, "training.device": "cpu" if hide_gpus else "cuda"}
    run |= {name.replace("__", "."): value for name, value in settings.items()}
    variables = {"CUDA_VISIBLE_DEVICES": ""} if hide_gpus else {}
    return run_ranks(num_ranks, "losses", {"runs": [run]}, variables=variables)[0]


@pytest.mark.parametrize("granularity", ["none", "selective", "full"])
def test_local_backend_equals_cpu(corpus: str, cpu_losses: list[float], granularity: str) -> None:
    assert _losses(corpus, recompute__granularity=granularity) == pytest.approx(cpu_losses, rel=1e-3)


def test_local_backend_in_bf16(corpus: str, cpu_losses: list[float]) -> None:
    assert _losses(corpus, training__precision="bf16") == pytest.approx(cpu_losses, rel=2e-2)


@needs_te
def test_transformer_engine_equals_cpu(corpus: str, cpu_losses: list[float]) -> None:
    losses = _losses(corpus, training__precision="bf16", training__backend="transformer_engine")
    assert losses == pytest.approx(cpu_losses, rel=2e-2)


ROUTED = {"experts__visual": 4, "router__condition": "text"}


@pytest.fixture(scope="module")
def routed_losses(corpus: str) -> list[float]:
    return _losses(corpus, hide_gpus=True, **ROUTED)


def test_routed_experts_equal_cpu(corpus: str, routed_losses: list[float]) -> None:
    assert _losses(corpus, **ROUTED) == pytest.approx(routed_losses, rel=1e-3)


@needs_te
def test_grouped_experts_of_transformer_engine_equal_cpu(corpus: str, routed_losses: list[float]) -> None:
    losses = _losses(corpus, training__precision="bf16", training__backend="transformer_engine", **ROUTED)
    assert losses == pytest.approx(routed_losses, rel=2e-2)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_experts_over_two_gpus_equal_cpu(corpus: str, cpu_losses: list[float], routed_losses: list[float]) -> None:
    assert _losses(corpus, num_ranks=2, parallel__expert=2) == pytest.approx(cpu_losses, rel=1e-3)
    assert _losses(corpus, num_ranks=2, parallel__expert=2, **ROUTED) == pytest.approx(routed_losses, rel=1e-3)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize(
    "layout",
    [{"parallel__tensor": 2}, {"parallel__tensor": 2, "parallel__sequence": True}, {"parallel__pipeline": 2}, {}],
    ids=["tensor", "sequence", "pipeline", "data"],
)
def test_two_gpus_equal_cpu(corpus: str, cpu_losses: list[float], layout: dict[str, Any]) -> None:
    assert _losses(corpus, num_ranks=2, **layout) == pytest.approx(cpu_losses, rel=1e-3)


def test_checkpoint_of_a_gpu_resumes_on_the_cpu(corpus: str, tmp_path: Path) -> None:
    run = {"data.path": corpus, **SHAPE, "checkpoint.dir": str(tmp_path / "run")}
    expected = run_ranks(1, "save_after", {"runs": [{**run, "training.device": "cuda"}], "steps": 4})[0]
    resumed = run_ranks(1, "resume", {"runs": [run]}, variables={"CUDA_VISIBLE_DEVICES": ""})[0]
    assert resumed == pytest.approx(expected, rel=1e-3)

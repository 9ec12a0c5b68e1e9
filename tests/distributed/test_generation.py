"""Sampling on two ranks gives what one rank gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.corpus import write_corpus
from tests.support.distributed.ranks import run_jobs
from tests.support.tiny_run import write_run

pytestmark = pytest.mark.distributed


def super_resolution(tensor: int, sequence: bool, routed: bool) -> tuple[str, dict[str, Any]]:
    return "of_super_resolution", {"tensor": tensor, "sequence": sequence, "routed": routed}


def documents(tensor: int, sequence: bool, routed: bool) -> tuple[str, dict[str, Any]]:
    return "of_documents", {"tensor": tensor, "sequence": sequence, "routed": routed}


def check_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found["codes"] == expected["codes"]
    assert found["captions"] == expected["captions"]
    for row, expected_row in zip(found["logits"], expected["logits"], strict=True):
        assert row == pytest.approx(expected_row, rel=1e-4, abs=1e-4)
    assert found["difference"] < 1e-4


def test_two_ranks_sample_what_one_rank_samples(tmp_path: Path) -> None:
    root = str(tmp_path / "run")
    run_of_two_stages = {
        "data.path": write_corpus(tmp_path / "train"),
        "checkpoint.dir": root,
        "parallel.pipeline": 2,
        "training.steps": 1,
    }
    load = ("of_checkpoint", {"path": root})
    (tmp_path / "tiny").mkdir()
    with_tokenizers = write_run(tmp_path / "tiny").checkpoint
    tensor, data = (("of_sampler", {"path": with_tokenizers, "tensor": size}) for size in (2, 1))
    folder = {"path": with_tokenizers, "output": str(tmp_path / "images")}
    _, *two = run_jobs(
        2,
        "generation_jobs",
        [
            ("save", {"run": run_of_two_stages}),
            ("of_layout", {"tensor": 2, "sequence": False}),
            ("of_layout", {"tensor": 2, "sequence": True}),
            ("of_layout", {"tensor": 2, "sequence": False, "routed": True}),
            ("of_layout", {"tensor": 2, "sequence": True, "routed": True}),
            load,
            tensor,
            data,
            *(super_resolution(2, sequence=True, routed=routed) for routed in (False, True)),
            *(documents(2, sequence=not routed, routed=routed) for routed in (False, True)),
            *(("of_folder", {**folder, "tensor": size}) for size in (2, 1)),
        ],
        writer=-1,  # not rank 0: ids must be the same on the others too
    )
    one = {"tensor": 1, "sequence": False}
    large = [super_resolution(1, sequence=False, routed=routed) for routed in (False, True)]
    mixed = [documents(1, sequence=False, routed=routed) for routed in (False, True)]
    *found, drawn = run_jobs(
        1,
        "generation_jobs",
        [
            ("of_layout", one),
            ("of_layout", {**one, "routed": True}),
            load,
            data,
            *large,
            *mixed,
            ("of_folder", {**folder, "tensor": 1}),
        ],
        writer=-1,  # not rank 0: ids must be the same on the others too
    )
    random_model, routed_model, loaded_model, sampled, *upscaled, written, routed_written = found
    assert len({tuple(codes) for codes in random_model["codes"]}) == 4
    assert random_model["difference"] < 1e-4
    check_same(two[0], random_model)
    check_same(two[1], random_model)
    assert routed_model["codes"] != random_model["codes"] and routed_model["difference"] < 1e-4
    check_same(two[2], routed_model)
    check_same(two[3], routed_model)
    check_same(two[4], loaded_model)
    assert len(sampled) == 15 and two[5] == two[6] == sampled
    assert two[11:] == [drawn, drawn] and len({pixels for *_, pixels in drawn}) == 5
    assert two[9:11] == [written, routed_written] and written != routed_written
    boi = 45
    assert sum(ids.count(boi) for ids in written) >= 2 and sum(token < 29 for ids in written for token in ids) >= 4
    assert two[7:9] == upscaled and len({tuple(codes) for found in upscaled for codes in found["4"]}) == 8

"""The measurement of conversions: what is converted, and what the figures are of."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from benchmarks import child_environment, conversion
from benchmarks.conversion import ConversionOptions, make_language_model, model, num_bytes, run
from benchmarks.convert_once import copy, peak_memory
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tests.support.command_lines import load_tool

TINY = ConversionOptions(
    gigabytes=0.001, hidden=64, ffn=96, heads=4, text_size=300, codebook_size=32, rounds=1, progress=False
)


def test_size_decides_the_layers() -> None:
    config = model(TINY)
    assert config.model.num_layers > 1 and abs(num_bytes(config) - 1e6) < 1e5
    assert model(ConversionOptions(gigabytes=0.0)).model.num_layers == 1
    two = model(ConversionOptions())
    assert two.model.num_layers == 2 and abs(num_bytes(two) - 2e9) < 0.4e9


def test_language_model_is_one_of_transformers(tmp_path: Path) -> None:
    make_language_model(tmp_path / "model", model(TINY))
    loaded, report = AutoModelForCausalLM.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert loaded.dtype is torch.bfloat16
    assert len({tensor.float().std().item() for tensor in loaded.state_dict().values()}) > 1


def test_tool(tmp_path: Path) -> None:
    tool = load_tool("benchmark")
    report, folder = tmp_path / "report.json", tmp_path / "data"
    folder.mkdir()
    shape = ("--hidden", "64", "--ffn", "96", "--heads", "4", "--text-size", "300", "--codebook-size", "32")
    options = ("--gigabytes", "0.001", "--rounds", "2", "--folder", str(folder), "--json", str(report), "--no-progress")
    assert tool.main(["convert", *shape, *options]) == 0
    written = json.loads(report.read_text())
    assert set(written["ratios"]) == set(written["seconds"]) == {"init-from-hf", "export-hf", "import-hf"}
    for kind, found in written["seconds"].items():
        assert len(found["ratios"]) == 2 and written["ratios"][kind] == pytest.approx(sum(found["ratios"]) / 2)
        assert abs(found["bytes"] - num_bytes(model(TINY))) < 2e5, "what was written is the whole MARS"
        # Some code is loaded beside torch; a model of a megabyte is nothing beside it.
        assert 10e6 < found["peak"] < 1.5e9 and found["peak_of_data"] < found["peak"]
    assert not list(folder.iterdir())


def test_a_failed_conversion_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversion, "CONVERSIONS", (conversion.Conversion("import-hf", "language_model", "start"),))
    with pytest.raises(OSError, match="import-hf failed(.|\n)*accepted here"):
        run(ConversionOptions(**{**vars(TINY), "folder": str(tmp_path)}))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rounds": 0}, "--rounds 0"),
        ({"folder": "no/such/folder"}, "--folder no/such/folder"),
        ({"hidden": 30}, "model.hidden_size"),
    ],
)
def test_wrong_options(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(ConversionOptions(**{**vars(TINY), **change}))


def test_copy_takes_whole_folders(tmp_path: Path) -> None:
    (tmp_path / "from").mkdir()
    make_language_model(tmp_path / "from" / "model", model(TINY))
    copy(tmp_path / "from", tmp_path / "to")
    copied = tmp_path / "to" / "model"
    assert {path.name for path in copied.iterdir()} == {"config.json", "model.safetensors"}
    first, second = (load_file(folder / "model.safetensors") for folder in (tmp_path / "from" / "model", copied))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_peak_memory_is_that_of_the_process_alone() -> None:
    """A process does not inherit the peak of the one that started it."""
    big = torch.ones(2**27)  # 512 MB
    assert peak_memory() > big.nbytes
    # As a module of its own: torch would take most of what is looked for.
    code = "import sys, types; sys.modules['torch'] = types.ModuleType('torch'); "
    code += "from benchmarks.convert_once import peak_memory; print(peak_memory())"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=child_environment()
    )
    assert 1e6 < int(done.stdout) < 2e8

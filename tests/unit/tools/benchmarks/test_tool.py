"""tools/benchmark.py from its options to its report."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.command_lines import load_tool

TOOL = Path(__file__).parents[4] / "tools" / "benchmark.py"


@pytest.fixture(scope="module")
def main():
    module = load_tool("benchmark")
    return lambda *arguments: module.main([*arguments, "--no-progress"])


def test_dispatch(main, tmp_path, capsys) -> None:
    report = tmp_path / "report.json"
    options = ("--tokens", "330", "--hidden", "16", "--dtype", "bf16", "--rounds", "2", "--no-reuse-memory")
    assert main("dispatch", *options, "--json", str(report)) == 0
    written = json.loads(report.read_text())
    assert set(written["ratios"]["bf16"]) == {"copy", "index_select", "masks", "mcore_permute"}
    assert "fp32" not in written["ratios"] and written["ratios"]["copy"] == written["ratios"]["bf16"]["copy"]
    out = capsys.readouterr().out
    assert "processor:" in out and "320 tokens x 16, bf16" in out and "microseconds" in out


def test_step(main, tmp_path, capsys) -> None:
    report = tmp_path / "report.json"
    shape = ("--layers", "1", "--hidden", "16", "--ffn", "24", "--heads", "2", "--tokens", "60", "--image-tokens", "16")
    options = ("--text-share", "0.2", "0.5", "--rounds", "1")
    assert main("step", *shape, *options, "--json", str(report)) == 0
    written = json.loads(report.read_text())
    assert set(written["ratios"]) == {"0.2", "0.5"}
    for share in ("0.2", "0.5"):
        assert set(written["ratios"][share]) == {"dense", "masked", "masked_trained"}
        assert set(written["seconds"][share]) == {"ours", "dense", "masked", "masked_trained"}
    out = capsys.readouterr().out
    assert "34 tokens in 1 samples, 17 of text (share 0.5), fp32" in out and "of text (share 0.2)" in out


def test_sample(main, tmp_path, capsys) -> None:
    report = tmp_path / "report.json"
    shape = ("--layers", "1", "--hidden", "16", "--ffn", "24", "--heads", "2", "--grid", "2")
    assert main("sample", *shape, "--batch", "2", "--rounds", "1", "--json", str(report)) == 0
    written = json.loads(report.read_text())
    assert set(written["ratios"]) == {"2, guidance 1.0", "2, guidance 2.0"}
    for ratios in written["ratios"].values():
        assert set(ratios) == {"generate", "exported"}
    assert "codes/s" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("dispatch", "--tokens", "10"), "raise --tokens"),
        (("dispatch", "--rounds", "0"), "--rounds"),
        (("dispatch", "--text-tokens", "0"), "--text-tokens 0"),
        (("dispatch", "--visual-tokens", "-1"), "--visual-tokens -1"),
        (("dispatch", "--hidden", "0"), "--hidden 0"),
        (("dispatch", "--json", "no/such/report.json"), "--json no/such/report.json"),
        (("step", "--text-share", "2"), "--text-share 2"),
        (("sample", "--batch", "0"), "--batch is 0"),
        (("sample", "--grid", "0"), "--grid is 0"),
        (("step", "--hidden", "30", "--heads", "4"), "model.hidden_size"),
    ],
)
def test_errors_are_one_clear_line_and_a_non_zero_code(main, capsys, arguments, message) -> None:
    assert main(*arguments) == 2
    out, error = capsys.readouterr()
    assert error.startswith("error: ") and message in error
    assert "/ ours" not in out, "before anything is timed"


def test_help() -> None:
    def run(*arguments: str) -> str:
        done = subprocess.run([sys.executable, str(TOOL), *arguments], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "dispatch" in run("--help") and "step" in run("--help")
    assert "mcore_permute" in run("dispatch", "--help") and "--no-reuse-memory" in run("dispatch", "--help")
    assert "GPTModel" in run("step", "--help") and "--text-share" in run("step", "--help")

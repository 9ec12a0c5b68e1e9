"""The report says what is there, what is not, and what that costs; also for what is there but broken."""

import importlib.metadata
import json
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from mars_megatron.platform import report

ROOT = Path(__file__).parents[3]
NAMES = {
    "Python",
    "torch",
    "megatron-core",
    "psutil",
    "Transformer Engine",
    "apex",
    "DeepSpeed",
    "GPUs",
    "NCCL",
    "gloo",
    "mars_megatron._C",
}


def by_name():
    return {finding.name: finding for finding in report.inspect()}


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Puts a module of the given source on the path."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def put(name, source):
        (tmp_path / f"{name}.py").write_text(source)
        monkeypatch.delitem(sys.modules, name, raising=False)

    yield put
    for path in tmp_path.glob("*.py"):
        sys.modules.pop(path.stem, None)


def test_everything_is_looked_for_and_every_absence_has_a_cost():
    findings = by_name()
    assert set(findings) == NAMES
    assert all(finding.cost for name, finding in findings.items() if name != "Python")
    assert findings["torch"].detail == importlib.metadata.version("torch")
    assert findings["megatron-core"].found and findings["gloo"].found


def test_an_absent_package_is_missing_and_a_present_one_found(install):
    if importlib.util.find_spec("deepspeed") is None:
        assert not by_name()["DeepSpeed"].found
    install("deepspeed", "")
    assert by_name()["DeepSpeed"].found


def test_a_package_that_cannot_be_imported_is_missing_with_the_reason(install):
    install("deepspeed", "raise OSError('libcudart.so.12:\\n cannot open')")
    finding = by_name()["DeepSpeed"]
    assert not finding.found
    assert finding.detail == "installed, but cannot be imported: OSError: libcudart.so.12: cannot open"


@pytest.mark.parametrize("version", ["0.16.0", "0.17.0", "0.18.3", "0.20.0", "of unknown version"])
def test_another_megatron_core_is_not_the_one_needed(monkeypatch, version):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    findings = report.inspect()
    finding = {finding.name: finding for finding in findings}["megatron-core"]
    assert not finding.found and finding.detail.startswith(f"{version} is installed; 0.19 (Python >= 3.12) or 0.16.1")
    assert not report.usable(findings)


@pytest.mark.parametrize("version", ["0.16.1", "0.16.2", "0.19.0", "0.19.2", "0.19.3rc1", "0.19.0+container"])
def test_the_supported_releases_of_megatron_core(monkeypatch, version):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    finding = by_name()["megatron-core"]
    assert finding.found and finding.detail == version


def test_it_names_the_releases_that_are_required():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (required,) = [line for line in project["dependencies"] if line.startswith("megatron-core")]
    assert required == f"megatron-core{report.MEGATRON_CORE}"


def test_an_extension_that_was_not_built(monkeypatch):
    original = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name.endswith("._C") else original(name))
    finding = by_name()["mars_megatron._C"]
    assert (finding.found, finding.detail) == (False, "not built") and "pip install -e ." in finding.cost


def test_text_shows_costs_of_what_is_missing_alone():
    findings = [
        report.Finding("torch", True, "2.13.0", "nothing runs", required=True),
        report.Finding("apex", False, "", "no fused kernels"),
        report.Finding("megatron-core", False, "", "nothing trains", required=True),
    ]
    lines = report.as_text(findings).splitlines()
    assert lines[0].split() == ["torch", "found", "2.13.0"]
    assert lines[1].split() == ["apex", "missing"]
    assert lines[2].split() == ["costs:", "no", "fused", "kernels"]
    assert lines[3].split() == ["megatron-core", "MISSING"]
    assert not report.usable(findings) and report.usable(findings[:2])


def test_auto_takes_the_gpu_where_there_is_one():
    gpu = report.Finding("GPUs", True, "8 x H200", "slow")
    assert report.device([gpu]) == "cuda"
    assert report.device([report.replace(gpu, found=False)]) == "cpu"


def test_the_command():
    command = [sys.executable, "-m", "mars_megatron.platform", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    content = json.loads(done.stdout)
    assert {finding["name"] for finding in content["findings"]} == NAMES
    assert content["usable"] is True and content["device"] in ("cpu", "cuda")


def test_the_command_without_options(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["mars_megatron.platform"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("mars_megatron.platform", run_name="__main__")
    assert ended.value.code in (0, None)
    out = capsys.readouterr().out
    assert all(name in out for name in NAMES)

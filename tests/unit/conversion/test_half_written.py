"""A conversion that ends early, by a full disk, a signal or a kill, leaves nothing that passes for its result."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from benchmarks.conversion import ConversionOptions, make_language_model, model

from mars_megatron.checkpoint import resolve
from mars_megatron.conversion import language_model
from mars_megatron.conversion.checkpoints import open_checkpoint
from mars_megatron.conversion.convert import export_hf, import_hf, init_from_hf
from mars_megatron.conversion.hugging_face import HuggingFaceFiles
from mars_megatron.conversion.visual import extract_visual, merge
from tests.support.refusals import SETTINGS, refused
from tests.support.waiting import wait_until

pytestmark = pytest.mark.filterwarnings("ignore:the result has no text tokenizer")

Made = Callable[[str], Path]


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file may grow beyond this many bytes: the next write fails as on a full disk, with another number."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))  # Python ignores the signal that goes with it
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def calls(source: Path, start: Path, exported: Path, visual: Path) -> dict[str, Callable[[Path], object]]:
    """Every conversion to a folder, by name."""
    return {
        "init-from-hf": lambda target: init_from_hf(source, target, overrides=SETTINGS),
        "export-hf": lambda target: export_hf(start, target),
        "import-hf": lambda target: import_hf(exported, target),
        "merge": lambda target: merge(source, visual, target),
    }


def offsets(file: Path) -> list[tuple[int, str]]:
    """(end of a tensor in a safetensors file, name), in order."""
    content = file.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    ends = [(8 + size + item["data_offsets"][1], name) for name, item in header.items() if name != "__metadata__"]
    return sorted(ends)


def test_full_in_the_middle_of_a_checkpoint(
    made_language_model: Made, made_start: Path, made_export: Path, made_visual: Path, tmp_path: Path
) -> None:
    """File by file: the first tensor that is too large is named."""
    source = made_language_model("qwen2")
    for name, call in calls(source, made_start, made_export, made_visual).items():
        if name == "export-hf":
            continue
        with (
            refused(tmp_path / "target", "embedding.text.weight", ".distcp", "target", error=OSError) as caught,
            largest_file(9000),
        ):
            call(tmp_path / "target")
        assert caught.value.errno == errno.EFBIG, name


def test_full_behind_the_tensors(made_language_model: Made, tmp_path: Path) -> None:
    """All tensors fit, the list of them does not."""
    with refused(tmp_path / "target", ".metadata", error=OSError), largest_file(11_000):
        init_from_hf(made_language_model("qwen2"), tmp_path / "target", overrides=SETTINGS)


@pytest.mark.parametrize("size", [100, 30_000, 60_000, 100_000])
def test_full_in_the_middle_of_safetensors(made_start: Path, tmp_path: Path, size: int) -> None:
    whole = export_hf(made_start, tmp_path / "whole") / "model.safetensors"
    name = next(name for end, name in offsets(whole) if end > size) if size > 100 else "the header"
    target = tmp_path / "visual.safetensors"
    with refused(tmp_path / "target", error=OSError) as caught, largest_file(size):
        export_hf(made_start, tmp_path / "target")
    assert caught.value.errno == errno.EFBIG
    if size > 20_000:  # the files beside it fit
        assert name in str(caught.value) and "target.incomplete/model.safetensors" in str(caught.value)
    whole = extract_visual(made_start, tmp_path / "all.safetensors")
    name = next((name for end, name in offsets(whole) if end > size), None)
    if name is not None:
        with refused(target, target.name, name if size > 10_000 else "the header", error=OSError), largest_file(size):
            extract_visual(made_start, target)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", disk], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"a file system cannot be mounted here: {done.stderr.strip()}")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_full_disk(
    made_language_model: Made, made_start: Path, made_export: Path, made_visual: Path, small_disk: Path
) -> None:
    source = made_language_model("qwen2")
    for name, call in calls(source, made_start, made_export, made_visual).items():
        with refused(
            small_disk / "target", "No space left on device, while writing", ".layers.", small_disk, error=OSError
        ) as caught:
            call(small_disk / "target")
        assert caught.value.errno == errno.ENOSPC, name
    (small_disk / "mine").write_bytes(bytes(150_000))
    with refused(small_disk / "visual.safetensors", "visual.safetensors", ".layers.", error=OSError):
        extract_visual(made_start, small_disk / "visual.safetensors")


def test_read_only_place(made_start: Path, tmp_path: Path) -> None:
    """Here by a file in the place of a folder, which stops an administrator too."""
    (tmp_path / "file").write_text("mine")
    with refused(tmp_path / "file" / "target", tmp_path / "file", error=OSError):
        export_hf(made_start, tmp_path / "file" / "target")


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_interrupted_in_the_middle(
    made_language_model: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    source, read = made_language_model("qwen2"), HuggingFaceFiles.read

    def interrupted(self: HuggingFaceFiles, name: str) -> torch.Tensor:
        if name == "model.layers.2.mlp.down_proj.weight":
            assert len(list((tmp_path / "target.incomplete").rglob("*.distcp"))) > 10
            raise error("in the middle")
        return read(self, name)

    monkeypatch.setattr(language_model.HuggingFaceFiles, "read", interrupted)
    with pytest.raises(error, match="in the middle"):
        init_from_hf(source, tmp_path / "target", overrides=SETTINGS)
    assert not list(tmp_path.iterdir())


def test_source_vanishes(made_export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is about the source, and does not blame the file that is written."""
    shards = sorted(made_export.glob("*.safetensors"))
    read = HuggingFaceFiles.read

    def lost(self: HuggingFaceFiles, name: str) -> torch.Tensor:
        if self.where(name) == shards[-1]:
            self._file_of[name] = tmp_path / "gone.safetensors"
        return read(self, name)

    monkeypatch.setattr(HuggingFaceFiles, "read", lost)
    with refused(tmp_path / "target", "gone.safetensors", error=OSError) as caught:
        import_hf(made_export, tmp_path / "target")
    assert "while writing" not in str(caught.value)


CONVERT = """
import sys
from mars_megatron.conversion.convert import export_hf, init_from_hf
source, target, kind = sys.argv[1:]
if kind == "start":
    init_from_hf(source, target, overrides=["--vocabulary.codebook_size=64"])
else:
    export_hf(source, target, max_shard_size=20_000_000)
"""


def killed(source: Path, target: Path, kind: str, size: int) -> None:
    """Convert in a process that is killed when it has written about `size` bytes."""
    temporary = target.with_name(target.name + ".incomplete")
    process = subprocess.Popen([sys.executable, "-W", "ignore", "-c", CONVERT, source, target, kind])
    wait_until(lambda: written(temporary) >= size, process)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it was through before it could be killed"
    assert temporary.is_dir() and not target.exists()


def written(folder: Path) -> int:
    try:
        return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    except FileNotFoundError:  # renamed meanwhile
        return 0


def test_killed(tmp_path: Path) -> None:
    """A part of 40 MB is there, but nothing opens them; the next run clears them away."""
    options = ConversionOptions(gigabytes=0.04, hidden=256, ffn=704, heads=8, text_size=4000, codebook_size=64)
    config = model(options)
    make_language_model(tmp_path / "source", config)
    start, exported = tmp_path / "start", tmp_path / "exported"
    for source, target, kind in ((tmp_path / "source", start, "start"), (start, exported, "export")):
        killed(source, target, kind, 10_000_000)
        temporary = target.with_name(target.name + ".incomplete")
        for path in (target, temporary, *temporary.glob("step_*")):
            for opens in (open_checkpoint, resolve):
                with pytest.raises((ValueError, OSError)):
                    opens(path)
        if kind == "start":
            init_from_hf(source, target, overrides=["--vocabulary.codebook_size=64"])
        else:
            export_hf(source, target, max_shard_size=8_000_000)
        assert not temporary.exists()
        found = open_checkpoint(target).config
        assert replace(found.model, init_std=config.model.init_std) == config.model
    assert sorted(os.listdir(tmp_path)) == ["exported", "source", "start"]


def test_whole_but_unnamed(made_export: Path, tmp_path: Path) -> None:
    """Killed between the last byte and the new name: the name still says that it is incomplete."""
    unnamed = tmp_path / "exported.incomplete"
    unnamed.symlink_to(made_export, target_is_directory=True)
    with pytest.raises(ValueError, match="not completely written"):
        open_checkpoint(unnamed)

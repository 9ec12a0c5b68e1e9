"""The measured process of `benchmarks.conversion`: converts, copies, and prints what that took as JSON."""

from __future__ import annotations

import json
import shutil
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch

WARM_UP_ROUNDS = 1  # libraries are imported when they are first needed
_STATUS = Path("/proc/self/status")


def peak_memory() -> int:
    """Most bytes that were ever resident, mapped files included.

    Raises:
        ValueError: The system does not tell.
    """
    if not _STATUS.is_file():
        raise ValueError(f"{_STATUS} is not there: peak memory can be measured on Linux alone")
    # Not getrusage, whose ru_maxrss begins with that of the process which started this one.
    (line,) = (line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def copy(source: Path, target: Path) -> None:
    """Copy a folder file by file, each on its way to the disk while the next is copied, as a conversion does."""
    from mars_megatron.files.writing import BackgroundSync

    with BackgroundSync() as background:
        for path in sorted(source.rglob("*")):
            if path.is_file():
                copied = target / path.relative_to(source)
                copied.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copied)
                background.start(copied)


def timed(call: Callable[[], object]) -> float:
    """Seconds of one call."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def main() -> None:
    """Arguments: kind of conversion, source, target, rounds, codebook size, threads."""
    resident = {"torch": peak_memory()}  # nothing else is imported yet
    warnings.simplefilter("ignore")  # of GPU libraries, and of tokenizers, that are not there
    from mars_megatron.conversion.convert import export_hf, import_hf, init_from_hf

    kind, source, target, rounds, codebook_size, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    resident["loaded"] = peak_memory()
    result, copied = Path(target), Path(target + "_copied")

    def convert() -> None:
        if kind == "init-from-hf":
            init_from_hf(source, result, overrides=[f"--vocabulary.codebook_size={codebook_size}"])
        else:
            {"export-hf": export_hf, "import-hf": import_hf}[kind](source, result)

    seconds, copy_seconds = [], []
    for number in range(WARM_UP_ROUNDS + int(rounds)):
        shutil.rmtree(result, ignore_errors=True)
        times = timed(convert), timed(lambda: copy(result, copied))
        shutil.rmtree(copied)
        if number >= WARM_UP_ROUNDS:
            seconds.append(times[0])
            copy_seconds.append(times[1])
    resident["peak"] = peak_memory()
    size = sum(path.stat().st_size for path in result.rglob("*") if path.is_file())
    print(json.dumps({"seconds": seconds, "copy_seconds": copy_seconds, "bytes": size, "resident": resident}))


if __name__ == "__main__":
    main()

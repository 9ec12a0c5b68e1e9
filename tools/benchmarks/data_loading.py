"""The loader against the step that it feeds, the start on many documents, and what packing leaves unused."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from tqdm import tqdm

from benchmarks import child_environment
from benchmarks.data_options import LONGEST_CAPTION, SHORTEST_CAPTION, DataOptions
from benchmarks.synthetic import write_pairs, write_pairs_without_tokens
from mars_megatron.config.data_schema import RESERVED_ROWS
from mars_megatron.config.schema import RunConfig
from mars_megatron.data.loader import flat_batches
from mars_megatron.data.micro_batches import open_micro_batches
from mars_megatron.data.planning import DROPPED
from mars_megatron.data.prefetch import Prefetcher
from mars_megatron.recipes.mars_7b import mars_7b_stage1
from mars_megatron.recipes.tiny import tiny
from mars_megatron.sequence.vocabulary import Vocabulary
from mars_megatron.training import Trainer

WARM_UP_MICRO_BATCHES = 20
WARM_UP_STEPS = 3
LOADER_DOCUMENTS = 20_000
TINY_CAPTIONS = (3, 12)
STAGE1_CAPTIONS = (SHORTEST_CAPTION, LONGEST_CAPTION)


def on(config: RunConfig, prefix: Path) -> RunConfig:
    """The same run on another index."""
    return replace(config, data=replace(config.data, path=str(prefix), num_workers=0))


def write_for(
    config: RunConfig, prefix: Path, num_documents: int, captions: tuple[int, int], *, tokens: bool = True
) -> None:
    """An index that fits a recipe; `tokens` False: as for the start on very many documents."""
    write = write_pairs if tokens else write_pairs_without_tokens
    write(
        prefix,
        num_documents,
        captions,
        text_size=config.vocabulary.text_size,
        codebook_size=config.vocabulary.codebook_size,
        grid=(config.image.side, config.image.side),
        downsample=config.image.downsample,
    )


def measure_loader(options: DataOptions, folder: Path) -> dict[str, Any]:
    """What one worker delivers, for the tiny recipe and for stage I of 7B, and what the step of the former consumes.

    The loader runs without the step, its consumer doing nothing but unflatten; neither has the other's cores.

    Returns:
        tokens_per_second of both loaders and of the step, and the ratio of the first to the last.
    """
    small, large = on(tiny(), folder / "tiny"), on(mars_7b_stage1(), folder / "stage1")
    write_for(small, folder / "tiny", LOADER_DOCUMENTS, TINY_CAPTIONS)
    write_for(large, folder / "stage1", LOADER_DOCUMENTS, STAGE1_CAPTIONS)
    trainer = Trainer(small)
    _steps(trainer, WARM_UP_STEPS)
    calls: dict[str, Callable[[], float]] = {
        "loader": lambda: _deliver(small, options.micro_batches),
        "loader_stage1": lambda: _deliver(large, options.micro_batches),
        "step": lambda: _steps(trainer, options.steps),
    }
    speeds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in tqdm(range(options.rounds), desc="load", unit="round", disable=not options.progress, leave=False):
        for name, call in calls.items():
            speeds[name].append(call())
    found = {f"{name}_tokens_per_second": median(values) for name, values in speeds.items()}
    return {
        **found,
        "micro_batches": options.micro_batches,
        "steps": options.steps,
        "ratio": found["loader_tokens_per_second"] / found["step_tokens_per_second"],
    }


def _deliver(config: RunConfig, count: int) -> float:
    """Tokens per second of `count` micro-batches, one worker reading them."""
    batches = open_micro_batches(config, Vocabulary.from_config(config))
    source = flat_batches(batches, config, num=WARM_UP_MICRO_BATCHES + count, num_workers=1)
    feed = Prefetcher(source, depth=config.data.prefetch, num=WARM_UP_MICRO_BATCHES + count)
    try:
        for _ in range(WARM_UP_MICRO_BATCHES):
            next(feed)
        began = time.perf_counter()
        tokens = sum(batch.plan.num_tokens for batch in feed)
        return tokens / (time.perf_counter() - began)
    finally:
        feed.close()


def _steps(trainer: Trainer, count: int) -> float:
    """Tokens per second of the median of `count` training steps."""
    speeds = []
    for _ in range(count):
        began = time.perf_counter()
        trainer.scheduler.step(increment=1)
        result = trainer.stepper.train(trainer.train_batches, trainer.optimizer)
        speeds.append(result.num_tokens / (time.perf_counter() - began))
    return median(speeds)


def measure_packing(options: DataOptions, folder: Path) -> dict[str, Any]:
    """What stage I of 7B leaves unused of its micro-batches.

    Returns:
        waste, a share of the rows that samples may have, and waste_with_reserved of all rows; micro_batches, samples.
    """
    config = on(mars_7b_stage1(), folder / "packed")
    write_for(config, folder / "packed", options.packed_documents, STAGE1_CAPTIONS, tokens=False)
    batches = open_micro_batches(config, Vocabulary.from_config(config))
    planned, store = batches.rounds.round(0), batches.stores[0]
    rows = 0
    for document, caption, _, flags in planned.samples.tolist():
        length = 0 if flags & DROPPED else int(store.lengths[store.boundaries[document] + caption])
        rows += store.sample_rows(document, flags & ~DROPPED, length)
    budget = config.data.micro_batch_tokens
    return {
        "micro_batches": planned.num_packs,
        "samples": len(planned.samples),
        "budget": budget,
        "reserved_rows": RESERVED_ROWS,
        "waste": 1 - rows / (planned.num_packs * (budget - RESERVED_ROWS)),
        "waste_with_reserved": 1 - rows / (planned.num_packs * budget),
    }


def measure_startup(options: DataOptions, folder: Path) -> dict[str, Any]:
    """From the imports to the first micro-batch of stage I of 7B, in processes of their own.

    Returns:
        documents; of a start that plans in memory ("planned"), one that fills a cache ("caching") and one that finds
        it ("cached"): median seconds and import_seconds (the files are in the system's cache), and the most bytes of
        peak memory: resident (mapped files included), resident after the imports alone, and anonymous.
    """
    prefix, cache = folder / "large", folder / "cache"
    write_for(mars_7b_stage1(), prefix, options.documents, STAGE1_CAPTIONS, tokens=False)
    runs: dict[str, list[dict[str, float]]] = {"planned": [], "caching": [], "cached": []}
    for number in tqdm(range(options.rounds), desc="start", unit="round", disable=not options.progress, leave=False):
        fresh = cache / str(number)
        for name, cache_dir in (("planned", ""), ("caching", str(fresh)), ("cached", str(fresh))):
            runs[name].append(_start_once(prefix, cache_dir))
    found: dict[str, Any] = {"documents": options.documents}
    for name, measured in runs.items():
        found[name] = {
            key: (median if key.endswith("seconds") else max)(run[key] for run in measured) for key in measured[0]
        }
    return found


def _start_once(prefix: Path, cache_dir: str) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.start_once", str(prefix), cache_dir]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as error:
        process = subprocess.Popen(command, stdout=out, stderr=error, text=True, env=child_environment())
        anonymous = 0
        try:
            while process.poll() is None:
                anonymous = max(anonymous, _anonymous(process.pid))
                time.sleep(0.01)
        finally:
            process.kill()
            process.wait()
        out.seek(0)
        error.seek(0)
        if process.returncode:
            raise ChildProcessError(f"the start failed: {error.read().strip()}")
        return {**json.loads(out.read().splitlines()[-1]), "anonymous": anonymous}


def _anonymous(pid: int) -> int:
    """Bytes of anonymous memory that a process has now; 0 when it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    sizes = [int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon:")]
    return sizes[0] * 1024 if sizes else 0

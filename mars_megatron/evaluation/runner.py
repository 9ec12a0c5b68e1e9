"""Runs suites on a model and keeps their results."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from mars_megatron import platform
from mars_megatron.checkpoint import resolve
from mars_megatron.checkpoint.folders import step_of
from mars_megatron.checkpoint.tokenizers import locate
from mars_megatron.config.schema import RunConfig, to_dict
from mars_megatron.evaluation.context import Context
from mars_megatron.evaluation.jobs import Job
from mars_megatron.evaluation.results import ModelIdentity, Report, expected, fingerprint_of, read_report, table
from mars_megatron.files.hashes import value_fingerprint
from mars_megatron.platform.parallel import only_on_rank_0
from mars_megatron.sampling import Sampler, load_for_inference

UNFINISHED = "unfinished"  # folder of what a run after an interruption goes on from


def evaluate(
    checkpoint: str | Path,
    jobs: Sequence[Job],
    output: str | Path | None = None,
    *,
    tensor: int | None = None,
    overrides: Sequence[str] = (),
    device: Literal["auto", "cpu", "cuda"] = "auto",
    again: bool = False,
    say: Callable[[str], None] = print,
) -> dict[str, Report]:
    """Score a checkpoint; every rank must call it, and gets the same.

    Results that are there already, of the same model, options, inputs and settings, are not computed again.

    Args:
        checkpoint: A checkpoint, or the folder of a run (its latest).
        jobs: The suites.
        output: Folder for a LABEL.json of each; None takes evaluation/STEP in the folder of the run.
        tensor: Tensor-parallel size; None takes all ranks.
        overrides: Settings in place of the checkpoint's: ["--generation.guidance=2", ...].
        device: Where the model runs.
        again: Compute what is there too.
        say: Prints a line, on rank 0.

    Returns:
        The result of each job by its label.

    Raises:
        ValueError: An option is wrong, an input is missing or damaged or does not fit the model, or there is a result
            of another model, other options, inputs or settings under the same name.
    """
    platform.initialize(device)
    platform.init_process_group()
    for job in jobs:
        job.suite.check()
    model = _identify(checkpoint)
    folder = Path(model.checkpoint)
    config = only_on_rank_0(lambda: locate(folder, overrides)).config
    output = folder.parent / "evaluation" / folder.name if output is None else Path(output)
    found = {} if again else _existing(jobs, output, model, config)
    missing = [job for job in jobs if job.label not in found]
    if missing:
        sampler = Sampler(load_for_inference(folder, tensor, overrides, device=device))
        check_tokenizers(missing, sampler)
        for label, report in run_jobs(missing, sampler, model, output, say):
            found[label] = report
    if torch.distributed.get_rank() == 0:
        for job in jobs:
            note = "" if job in missing else ", from an earlier run"
            say(f"{job.label}: {output / job.label}.json{note}")
            if job not in missing:
                say(table(found[job.label].scores))
    return {job.label: found[job.label] for job in jobs}


def check_tokenizers(jobs: Sequence[Job], sampler: Sampler) -> None:
    """Open the image tokenizer now if one of the jobs needs it.

    Raises:
        ValueError: There is none, or it does not fit the model.
    """
    if any(job.needs_image_tokenizer for job in jobs):
        sampler.image_tokenizer  # noqa: B018


def run_jobs(
    jobs: Sequence[Job],
    sampler: Sampler,
    model: ModelIdentity,
    output: Path,
    say: Callable[[str], None],
    progress: bool = True,
) -> Iterator[tuple[str, Report]]:
    """Run suites on a loaded model, one after the other; what they draw alike is drawn once.

    Args:
        jobs: The suites, checked.
        sampler: The model.
        model: What is written of it.
        output: Folder of results; unfinished work is kept below it until all are done.
        say: Prints a line.
        progress: Whether to show progress bars.

    Yields:
        Label and result, once it is written.
    """
    config, unfinished = sampler.loaded.config, output / UNFINISHED
    work = unfinished / model.fingerprint
    for job in jobs:
        # Only rank 0 reads the inputs: other hosts may see other files.
        report = only_on_rank_0(partial(expected, job, model, config))
        drawer = value_fingerprint([model.fingerprint, report.inputs.get("text_tokenizer")])
        context = Context(sampler, work, drawer, report.key(), say, progress)
        start = time.monotonic()
        result = job.suite.run(context)
        report = replace(
            report,
            scores=result.scores,
            details=result.details,
            seconds=round(time.monotonic() - start, 2),
            config=to_dict(config),
        )
        if torch.distributed.get_rank() == 0:
            report.write(output / f"{job.label}.json")
            context.forget()
            if progress:
                say(f"{job.label}, step {model.step}, {report.seconds} s\n{table(report.scores)}")
        yield job.label, report
    torch.distributed.barrier()
    if torch.distributed.get_rank() == 0 and work.is_dir():
        shutil.rmtree(work)
        if not any(unfinished.iterdir()):
            unfinished.rmdir()


def _identify(checkpoint: str | Path) -> ModelIdentity:
    """The checkpoint that rank 0 finds: a run that goes on may have a newer one a moment later.

    Raises:
        ValueError: There is none.
    """

    def found() -> ModelIdentity:
        folder = resolve(checkpoint)
        return ModelIdentity(str(folder), step_of(folder), fingerprint_of(folder))

    return only_on_rank_0(found)


def _existing(jobs: Sequence[Job], output: Path, model: ModelIdentity, config: RunConfig) -> dict[str, Report]:
    """The results that are there; on every rank what rank 0 sees.

    Raises:
        ValueError: One is of something else, or damaged.
    """

    def found() -> dict[str, Report]:
        reports: dict[str, Report] = {}
        for job in jobs:
            file = output / f"{job.label}.json"
            if not file.is_file():
                continue
            reports[job.label] = read_report(file)
            differences = reports[job.label].differences(expected(job, model, config))
            if differences:
                raise ValueError(
                    f"{file} is a result with other {', '.join(differences)}; replace it with --again, or give another "
                    "--output"
                )
        return reports

    return only_on_rank_0(found)

"""What the ranks of the distributed tests do. Started by `start.py`."""

from __future__ import annotations

import hashlib
import json
import os
import platform as python_platform
from pathlib import Path
from typing import Any

import torch
from megatron.core import package_info

from mars_megatron import platform
from mars_megatron.config.parser import override
from mars_megatron.config.schema import (
    DataConfig,
    LoggingConfig,
    ModelConfig,
    ParallelConfig,
    RunConfig,
    TaskWeights,
    TrainingConfig,
    VocabularyConfig,
)
from mars_megatron.data.micro_batches import MicroBatches
from mars_megatron.model.feed_forward import expert_parameters
from mars_megatron.platform.parallel import initialize_parallel
from mars_megatron.sequence.batch import Batch, flatten
from mars_megatron.training import Trainer
from tests.support.corpus import CODEBOOK_SIZE, TEXT_SIZE
from tests.support.host_reads import NoHostReads

BASE = RunConfig(
    model=ModelConfig(
        num_layers=4, hidden_size=32, ffn_hidden_size=64, num_attention_heads=4, num_query_groups=2, init_std=0.1
    ),
    vocabulary=VocabularyConfig(text_size=TEXT_SIZE, codebook_size=CODEBOOK_SIZE),
    data=DataConfig(
        micro_batch_tokens=192, validation_fraction=0.1, tasks=TaskWeights(t2i=0.375, i2t=0.375, text=0.25)
    ),
    training=TrainingConfig(steps=20, global_batch_size=4, device="cpu"),
    logging=LoggingConfig(interval=1, progress=False, tensorboard=False),
)


def tiny_config(overrides: dict[str, Any]) -> RunConfig:
    """The tests' tiny run with dotted overrides."""
    return override(BASE, [f"--{name}={value}" for name, value in overrides.items()])


def losses(runs: list[dict[str, Any]], steps: int | None = None) -> list[list[float]]:
    """Train each run to its end, or for its first steps; the loss of every step."""
    return [_train(Trainer(tiny_config(run)), steps) for run in runs]


def _train(trainer: Trainer, steps: int | None = None) -> list[float]:
    left = trainer.config.training.steps - trainer.position.step
    return [trainer._step().loss for _ in range(left if steps is None else min(steps, left))]


def run(runs: list[dict[str, Any]]) -> list[list[float]]:
    """Each whole run through `Trainer.run`, validation included; what its metrics.jsonl says, train and validation."""
    results = []
    for settings in runs:
        config = tiny_config(settings)
        Trainer(config).run()
        lines = (Path(config.checkpoint.dir) / "metrics.jsonl").read_text().splitlines()
        results.append([json.loads(line)["loss"] for line in lines])
    return results


def save_after(runs: list[dict[str, Any]], steps: int) -> list[list[float]]:
    """Train each run some steps, save, and go on to the end; the losses after the checkpoint."""
    results = []
    for run in runs:
        trainer = Trainer(tiny_config(run))
        _train(trainer, steps)
        trainer.save()
        results.append(_train(trainer))
    return results


def save_every_step(run: dict[str, Any]) -> None:
    """Train to the end with a checkpoint behind every step."""
    trainer = Trainer(tiny_config(run))
    while trainer.position.step < trainer.config.training.steps:
        _train(trainer, 1)
        trainer.save()


def resume(runs: list[dict[str, Any]]) -> list[list[float]]:
    """Resume each run from the checkpoint in its folder, or start it with the optimiser of another; the losses to the
    end."""
    results = []
    for run in runs:
        trainer = Trainer(tiny_config(run))
        starts = trainer.config.checkpoint.init_optimizer == "keep"
        assert starts or trainer.position.step > 0, "nothing was resumed"
        results.append(_train(trainer))
    return results


def sum_and_losses(runs: list[dict[str, Any]], steps: int) -> list[list[float]]:
    """Of each run the sum of this rank's |parameters| in its checkpoint, and the losses from there to the end.

    Where there is no checkpoint, it is saved after some steps."""
    results = []
    for run in runs:
        trainer = Trainer(tiny_config(run))
        if trainer.position.step == 0:
            _train(trainer, steps)
            trainer.save()
        parameters = [parameter.detach() for chunk in trainer.chunks for parameter in chunk.parameters()]
        total = sum(parameter.double().abs().sum().item() for parameter in parameters)
        results.append([total, *_train(trainer)])
    return results


def versions() -> dict[str, str]:
    """Of what runs this job."""
    platform.initialize("cpu")
    platform.init_process_group()
    return {"python": python_platform.python_version(), "megatron-core": package_info.__version__}


def ffn_elements(runs: list[dict[str, Any]]) -> list[list[int]]:
    """Of each run the elements of this rank's text and visual FFN weights in one layer, routers not counted."""
    counts = []
    for run in runs:
        mlp = Trainer(tiny_config(run)).chunks[0].decoder.layers[0].mlp
        experts = [expert_parameters(part) for part in (mlp.text, mlp.visual)]
        counts.append([sum(p.numel() for _, parameters in part for p in parameters.values()) for part in experts])
    return counts


def host_reads(run: dict[str, Any]) -> list[int]:
    """Forward and backward of a few micro-batches in which no layer may read from the device; their text rows."""
    # Nothing is prefetched: the detector watches all threads, and what reads data reads from the host.
    trainer = Trainer(tiny_config({**run, "data.prefetch": 0}))
    counts = []
    for _ in range(6):
        batch = next(trainer.train_batches[0])
        with NoHostReads():
            loss = trainer.chunks[0](batch).sum()
        with NoHostReads():
            loss.backward()
        counts.append(batch.plan.num_text)
    return counts


def what_is_read(run: dict[str, Any], num: int) -> list[dict[str, Any]]:
    """Of each rank: digests of the training and validation micro-batches that it was given, the numbers of those that
    it read itself, and the data it opened."""
    read: list[int] = []
    make = MicroBatches.__getitem__

    def counted(batches: MicroBatches, index: int) -> Batch:
        read.append(index)
        return make(batches, index)

    MicroBatches.__getitem__ = counted  # type: ignore[method-assign]
    try:
        trainer = Trainer(tiny_config(run))
        validation = trainer.feed.batches("validation", num=num)
        given = [next(trainer.train_batches[0]) for _ in range(num)] + list(validation)
        trainer._train_feed.close()
    finally:
        MicroBatches.__getitem__ = make  # type: ignore[method-assign]
    digests = [hashlib.sha256(flatten(batch).tobytes()).hexdigest() for batch in given]
    ours = {"given": digests, "read": read, "opened": sorted(trainer.feed._opened)}
    everyones: list[dict[str, Any]] = [{}] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(everyones, ours)
    return everyones


def uneven_collectives(rounds: int) -> dict[str, int]:
    """How often each collective gave what the definition gives; every rank draws all ranks' data."""
    platform.initialize("cpu")
    platform.init_process_group()
    rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    generator = torch.Generator().manual_seed(0)
    right = {"all_gather": 0, "reduce_scatter": 0}
    for _ in range(rounds):
        sizes = torch.randint(0, 30, (world,), generator=generator).tolist()
        shares = [torch.randn(size, 5, generator=generator) for size in sizes]
        gathered = [torch.empty_like(share) for share in shares]
        torch.distributed.all_gather(gathered, shares[rank])
        right["all_gather"] += all(map(torch.equal, gathered, shares))

        wholes = [torch.randn(sum(sizes), 5, generator=generator) for _ in range(world)]
        reduced = torch.empty(sizes[rank], 5)
        torch.distributed.reduce_scatter(reduced, list(wholes[rank].split(sizes)))
        right["reduce_scatter"] += torch.allclose(reduced, sum(wholes).split(sizes)[rank], atol=1e-6)
    return right


def threads_of_groups(layouts: list[dict[str, int]]) -> list[int]:
    """The threads of this process after the start of each layout."""
    platform.initialize("cpu")
    counts = []
    for layout in layouts:
        initialize_parallel(ParallelConfig(**layout), 1)
        counts.append(len(os.listdir("/proc/self/task")))
    return counts

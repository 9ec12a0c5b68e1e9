"""megatron-core: replaced names, and all differences between its supported releases (0.16.1 and 0.19).

What the CPU platform replaces is in `compat.cpu`. The tables of patches name what an upgrade may take away;
tests/unit/compat holds them.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import logging
import queue
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from megatron.core import dist_checkpointing, package_info
from megatron.core import optimizer as core_optimizer
from megatron.core.dist_checkpointing import validation
from megatron.core.dist_checkpointing.core import CheckpointingException
from megatron.core.dist_checkpointing.strategies import filesystem_async
from megatron.core.models.backends import BackendSpecProvider
from megatron.core.transformer.moe.moe_utils import MoEAuxLossAutoScaler
from megatron.core.transformer.spec_utils import ModuleSpec
from torch import nn

from mars_megatron.compat import patches
from mars_megatron.compat.patches import Patch

RELEASE = (package_info.MAJOR, package_info.MINOR)

COMMON_FILE = "common.pt"
SUMS_FILE = "integrity.json"

_OPTIMIZER = "megatron.core.optimizer"
_WRITER = "megatron.core.dist_checkpointing.strategies.filesystem_async"
# What tells the releases apart where it is not their number.
_LEGACY_EXPERTS = "moe_use_legacy_grouped_gemm"
_RESULTS_QUEUES = ("get_write_results_queue", "_get_write_results_queue")

# Settings of ours that need what not every release has: for each, whether this one has it.
OFFERED = {
    "checkpoint.verify_integrity": hasattr(validation, "verify_integrity_manifest"),
    "optimizer.grad_norm_skip_threshold": "grad_norm_skip_threshold"
    in {field.name for field in dataclasses.fields(core_optimizer.OptimizerConfig)},
}


def check_offered(settings: Mapping[str, Any]) -> None:
    """Refuse settings that the installed release cannot follow.

    Args:
        settings: By dotted name; those that are false ask for nothing.

    Raises:
        ValueError: Naming the setting.
    """
    for name, value in settings.items():
        if value and not OFFERED[name]:
            raise ValueError(
                f"{name}={value} needs megatron-core 0.19; {package_info.__version__} is installed. "
                "Use Python >= 3.12 with megatron-core 0.19.2, or leave the setting out"
            )


def optimizer_settings(grad_norm_skip_threshold: float) -> dict[str, float]:
    """Fields of `OptimizerConfig` that not every release has.

    Args:
        grad_norm_skip_threshold: Gradient norm above which a step changes nothing; 0 is none.
    """
    return {"grad_norm_skip_threshold": grad_norm_skip_threshold} if grad_norm_skip_threshold else {}


def install_adam(adam: type[torch.optim.Optimizer]) -> None:
    """Make megatron-core use `adam`, which has the state of the fused optimisers, where neither Transformer Engine nor
    apex offers one."""
    if core_optimizer.USING_PYTORCH_OPTIMIZER:
        patches.apply(adam_patches(adam))


def adam_patches(adam: type[torch.optim.Optimizer]) -> tuple[Patch, ...]:
    """What `install_adam` replaces."""
    distributed = f"{_OPTIMIZER}.distrib_optimizer"
    return (
        Patch(_OPTIMIZER, "Adam", lambda _: adam, "else torch's AdamW, whose state cannot be loaded when resharded"),
        Patch(_OPTIMIZER, "USING_PYTORCH_OPTIMIZER", lambda _: False, "else the name above is not looked at"),
        Patch(distributed, "Adam", lambda _: adam, "the distributed optimiser checks what it wraps"),
        Patch(distributed, "HAVE_APEX_OR_TE", lambda _: True, "decides where the step is looked for in the state"),
    )


def experts_builder(linears: BackendSpecProvider, grouped: bool) -> Any:
    """What `MoESubmodules` takes for the experts of a layer: since 0.17 a callable, before a specification."""
    if _LEGACY_EXPERTS not in inspect.signature(linears.grouped_mlp_modules).parameters:
        return linears.grouped_mlp_modules(grouped)
    module, parts = linears.grouped_mlp_modules(grouped, False)
    return ModuleSpec(module=module, submodules=parts)


def mark_expert_weights(experts: nn.Module) -> None:
    """Mark the weights of FFN experts as shards, as megatron-core's own linears do.

    Before 0.19 those of Transformer Engine have no mark, and of such weights only tensor-parallel rank 0 adds to the
    gradient norm: clipping would depend on the layout.
    """
    if RELEASE >= (0, 19):
        return
    for parameter in experts.parameters():
        parameter.tensor_model_parallel = True  # type: ignore[attr-defined]


def may_free_sent_outputs(interleaved: bool) -> bool:
    """Whether a pipeline stage may free outputs once it has handed them to the next one.

    Before 0.18 the interleaved schedule with overlapped exchange frees them while they are still being sent.

    Args:
        interleaved: A rank has several model chunks.
    """
    return not interleaved or RELEASE >= (0, 18)


def forget_loss_scale() -> None:
    """Forget the scale of the routers' losses that a former run of this process has left.

    The next step sets it, into the tensor that is there: of another shape where one of the runs scales its loss.
    """
    MoEAuxLossAutoScaler.main_loss_backward_scale = None


def _queue_of_this_process(_original: Callable[..., Any]) -> Callable[..., Any]:
    results: queue.Queue[Any] = queue.Queue()
    return lambda *_args, **_kwargs: results


def writer_patches(become_helper: Callable[[], None]) -> tuple[Patch, ...]:
    """What is replaced in the checkpoint writer, which must stand that ranks are asked to stop, or killed.

    Args:
        become_helper: Called first in every process that writes; releases that write in threads have none.
    """

    def as_helper(original: Callable[..., None]) -> staticmethod[..., None]:
        @functools.wraps(original)
        def write(*args: Any, **kwargs: Any) -> None:
            become_helper()
            original(*args, **kwargs)

        return staticmethod(write)

    results_queue = Patch(
        _WRITER,
        next(name for name in _RESULTS_QUEUES if hasattr(filesystem_async, name)),
        _queue_of_this_process,
        "the queue of a manager process, which a signal to the process group ends, so that nothing is saved any "
        "more, and which outlives a rank that is killed; a rank that saves synchronously is the only one to use it",
    )
    writer = filesystem_async.FileSystemWriterAsync
    if not hasattr(writer, "write_preloaded_data_multiproc"):
        return (results_queue,)
    helper = Patch(
        f"{_WRITER}.FileSystemWriterAsync",
        "write_preloaded_data",
        as_helper,
        "runs in processes of its own, which must finish their files after a request to stop, and end with their rank",
    )
    return (results_queue, helper)


@functools.cache
def install_writer(become_helper: Callable[[], None]) -> None:
    """Apply `writer_patches` before the first checkpoint is written; later calls do nothing."""
    patches.apply(writer_patches(become_helper))


def write_common(folder: Path) -> None:
    """Put what is common to all ranks into a file of its own beside the tensors; called by one rank.

    0.16.1 reads it from there alone; 0.19 keeps it among the tensors, and reads either.
    """
    if not (folder / COMMON_FILE).exists():
        torch.save(dist_checkpointing.load_common_state_dict(str(folder)), folder / COMMON_FILE)


def write_sums(folder: Path) -> None:
    """Write the SHA-256 sums of all files of a checkpoint; called by one rank (see `check_offered`)."""
    validation.save_integrity_manifest(str(folder))


def check_sums(folder: Path) -> None:
    """Compare a checkpoint's files with its sums, if it has any; called by every rank (see `check_offered`).

    Raises:
        ValueError: Naming every file that is missing or differs.
    """
    if (folder / SUMS_FILE).is_file():
        try:
            validation.verify_integrity_manifest(str(folder))
        except CheckpointingException as error:
            raise ValueError(f"{folder} is damaged: {error}") from error


def quiet() -> None:
    """Leave out warnings on which nobody can act: that there is no state to rerun, that `common.pt` is read, that
    another way of saving asynchronously is preferred (none is used here), and that buffers are laid out by default."""
    names = ("dist_checkpointing.strategies.common", "dist_checkpointing.strategies.torch")
    for name in ("rerun_state_machine", "distributed.distributed_data_parallel", *names):
        logging.getLogger(f"megatron.core.{name}").setLevel(logging.ERROR)

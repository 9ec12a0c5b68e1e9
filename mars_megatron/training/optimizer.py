"""Gradient buffers, optimiser and schedule, from megatron-core."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter

from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig, finalize_model_grads
from megatron.core.optimizer import MegatronOptimizer, OptimizerConfig, get_megatron_optimizer
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler
from megatron.core.process_groups_config import ProcessGroupCollection

from mars_megatron.compat import megatron_core
from mars_megatron.config.schema import RunConfig
from mars_megatron.model.mars import MARSModel


def check_offered(config: RunConfig) -> None:
    """Refuse settings that the installed megatron-core cannot follow.

    Raises:
        ValueError: Naming the setting.
    """
    megatron_core.check_offered({name: attrgetter(name)(config) for name in megatron_core.OFFERED})


def wrap_data_parallel(
    chunks: Sequence[MARSModel], config: RunConfig, groups: ProcessGroupCollection
) -> list[DistributedDataParallel]:
    """Give the trainable parameters of every chunk gradient buffers; frozen parameters get none."""
    ddp_config = DistributedDataParallelConfig(
        grad_reduce_in_fp32=True,
        use_distributed_optimizer=config.parallel.distributed_optimizer,
        check_for_nan_in_grad=True,
    )
    return [
        DistributedDataParallel(
            config=chunk.config,
            ddp_config=ddp_config,
            module=chunk,
            disable_bucketing=number > 0,
            pg_collection=groups,
        )
        for number, chunk in enumerate(chunks)
    ]


def build_optimizer(
    model: list[DistributedDataParallel], config: RunConfig, groups: ProcessGroupCollection
) -> tuple[MegatronOptimizer, OptimizerParamScheduler]:
    """AdamW over the trainable parameters, and its warm-up and cosine schedule counted in steps."""
    settings, steps = config.optimizer, config.training.steps
    optimizer = get_megatron_optimizer(
        OptimizerConfig(
            optimizer="adam",
            lr=settings.lr,
            min_lr=settings.min_lr,
            weight_decay=settings.weight_decay,
            adam_beta1=settings.beta1,
            adam_beta2=settings.beta2,
            adam_eps=settings.eps,
            clip_grad=settings.clip_grad,
            **megatron_core.optimizer_settings(settings.grad_norm_skip_threshold),
            bf16=config.training.precision == "bf16",
            params_dtype=model[0].module.config.params_dtype,
            use_distributed_optimizer=config.parallel.distributed_optimizer,
        ),
        model,
        use_gloo_process_groups=False,
        pg_collection=groups,
    )
    scheduler = OptimizerParamScheduler(
        optimizer,
        init_lr=0.0,
        max_lr=settings.lr,
        min_lr=settings.min_lr,
        # At least one step is left to the decay, which megatron-core asserts.
        lr_warmup_steps=min(round(settings.warmup_ratio * steps), steps - 1),
        lr_decay_steps=steps,
        lr_decay_style="cosine",
        start_wd=settings.weight_decay,
        end_wd=settings.weight_decay,
        wd_incr_steps=0,
        wd_incr_style="constant",
        # What this run is configured to, not what the checkpoint had: a resumed run may change its schedule.
        override_opt_param_scheduler=True,
        use_checkpoint_opt_param_scheduler=False,
    )
    for chunk in model:
        chunk.module.config.grad_scale_func = optimizer.scale_loss
        chunk.module.config.finalize_model_grads_func = finalize_model_grads
        chunk.module.config.no_sync_func = None
    return optimizer, scheduler


def apply_settings(optimizer: MegatronOptimizer, config: RunConfig) -> None:
    """Put the configured AdamW settings over those that a loaded checkpoint brought along."""
    settings = config.optimizer
    for group in optimizer.param_groups:
        group["betas"] = (settings.beta1, settings.beta2)
        group["eps"] = settings.eps
        group["max_lr"], group["min_lr"] = settings.lr, settings.min_lr

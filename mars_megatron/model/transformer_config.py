"""From the run's configuration to megatron-core's."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.transformer.transformer_config import TransformerConfig

from mars_megatron import platform
from mars_megatron.compat import megatron_core
from mars_megatron.config.schema import RunConfig
from mars_megatron.config.validate import uses_expert_layers

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def build_transformer_config(config: RunConfig) -> TransformerConfig:
    """megatron-core's `TransformerConfig` of a run.

    megatron-core's own initialisation only marks how each weight is split: `initialize_parameters` fills the values,
    the same ones under every layout.
    """
    model, parallel, recompute = config.model, config.parallel, config.recompute
    dtype = DTYPES[config.training.precision]
    full = recompute.granularity == "full"
    on_cpu = platform.device().type == "cpu"
    return TransformerConfig(
        num_layers=model.num_layers,
        hidden_size=model.hidden_size,
        ffn_hidden_size=model.ffn_hidden_size,
        num_attention_heads=model.num_attention_heads,
        num_query_groups=model.num_query_groups,
        kv_channels=head_dim(config),
        normalization="RMSNorm",
        layernorm_epsilon=model.norm_eps,
        gated_linear_unit=True,
        activation_func=F.silu,
        add_bias_linear=False,
        add_qkv_bias=model.qkv_bias,
        # megatron-core then sums the gradients of QKNorm's weights over the tensor-parallel ranks, which hold a share
        # of the heads each.
        qk_layernorm=model.qk_norm,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        params_dtype=dtype,
        bf16=dtype is torch.bfloat16,
        pipeline_dtype=dtype,
        init_method=_leave,
        output_layer_init_method=_leave,
        use_cpu_initialization=on_cpu,
        **_expert_settings(config),
        tensor_model_parallel_size=parallel.tensor,
        pipeline_model_parallel_size=parallel.pipeline,
        virtual_pipeline_model_parallel_size=parallel.virtual_pipeline if parallel.virtual_pipeline > 1 else None,
        sequence_parallel=parallel.sequence,
        recompute_granularity=None if recompute.granularity == "none" else recompute.granularity,
        recompute_method=recompute.method if full else None,
        recompute_num_layers=recompute.num_layers if full else None,
        calculate_per_token_loss=True,
        # gloo sends from the tensor's own memory, with no stream to keep its release behind the send.
        deallocate_pipeline_outputs=not on_cpu and megatron_core.may_free_sent_outputs(parallel.virtual_pipeline > 1),
        # With two stages a chunk's next and previous rank are the same; only the unbatched, overlapped exchange
        # keeps the two directions apart (one process group each).
        overlap_p2p_comm=parallel.virtual_pipeline > 1,
        batch_p2p_comm=parallel.virtual_pipeline == 1,
        bias_activation_fusion=False,
        bias_dropout_fusion=False,
        masked_softmax_fusion=False,
        gradient_accumulation_fusion=False,
    )


def _expert_settings(config: RunConfig) -> dict[str, Any]:
    """megatron-core's MoE settings; the number of experts is replaced for each container by its own."""
    if not uses_expert_layers(config):
        return {}
    return {
        "num_moe_experts": max(config.experts.text, config.experts.visual, config.parallel.expert),
        "moe_ffn_hidden_size": config.model.ffn_hidden_size,
        "expert_model_parallel_size": config.parallel.expert,
        "moe_token_dispatcher_type": "alltoall",
        "moe_router_topk": config.router.top_k,
        "moe_router_pre_softmax": config.router.top_k == 1,
        "moe_grouped_gemm": config.training.backend == "transformer_engine",
    }


def _leave(weight: torch.Tensor) -> torch.Tensor:
    """Initialise nothing."""
    return weight


def head_dim(config: RunConfig) -> int:
    """Size of one attention head."""
    return config.model.head_dim or config.model.hidden_size // config.model.num_attention_heads

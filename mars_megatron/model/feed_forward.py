"""The FFN experts of each modality: one dense, one cut over ranks, or several behind a router."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import torch
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.tensor_parallel.mappings import all_to_all
from megatron.core.transformer.mlp import MLP, MLPSubmodules
from megatron.core.transformer.moe.moe_layer import MoELayer, MoESubmodules
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor, nn

from mars_megatron.compat import megatron_core
from mars_megatron.config.schema import RunConfig
from mars_megatron.model.backends import Backend
from mars_megatron.model.experts import ByModality, Rows, mark
from mars_megatron.model.kv_cache import KVCache
from mars_megatron.model.router import Router
from mars_megatron.model.text_condition import TextCondition
from mars_megatron.sequence import TEXT, VISUAL, DispatchPlan

_LINEARS = ("linear_fc1", "linear_fc2")


class SlicedMLP(MLP):
    """One FFN expert cut along its width over the expert- and tensor-parallel ranks.

    SwiGLU acts on each unit of the width by itself, so the slices' outputs add up to the whole expert's. Every rank
    sends its rows to all others; how many come back is known from the plan.

    Args:
        config: megatron-core configuration.
        submodules: The two linears.
        groups: Process groups.
    """

    def __init__(self, config: TransformerConfig, submodules: MLPSubmodules, groups: ProcessGroupCollection) -> None:
        super().__init__(
            config, submodules, is_expert=True, ffn_hidden_size=config.ffn_hidden_size, tp_group=groups.tp_ep
        )
        self.replicas = groups.expt_dp
        megatron_core.mark_expert_weights(self)

    def forward(self, hidden: Tensor, splits: list[int]) -> Tensor:
        """[local rows, 1, hidden] -> the same.

        Args:
            hidden: This rank's rows of the modality.
            splits: Rows of every rank of the group.
        """
        world, rows = len(splits), hidden.shape[0]
        everyones = all_to_all(self.tp_group, hidden.repeat(world, 1, 1), splits, [rows] * world)
        out, bias = super().forward(everyones)
        assert bias is None
        return all_to_all(self.tp_group, out, [rows] * world, splits).unflatten(0, (world, rows)).sum(0)

    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: tuple = (), metadata: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """As a dense MLP's, whose checkpoints it shares; replicas are fewer than data-parallel ranks."""
        return super().sharded_state_dict(prefix, sharded_offsets, {**(metadata or {}), "dp_cp_group": self.replicas})


class RoutedExperts(MoELayer):
    """Several FFN experts of one modality behind a learned router, spread over the expert-parallel ranks."""

    router: Router

    def forward(  # type: ignore[override]
        self, hidden: Tensor, num_local: int, num_tokens: int, condition: Tensor | None, record: bool
    ) -> Tensor:
        """[local rows, 1, hidden] -> the same; the other arguments are those of `Router`."""
        weights, chosen = self.router(hidden, num_local, num_tokens, condition, record)
        dispatched, weights = self.preprocess(hidden, weights, chosen)
        dispatched, weights = self.dispatch(dispatched, weights)
        output, _ = self.routed_experts_compute(dispatched, weights)
        return self.postprocess(self.combine(output), None)


class FeedForward(ByModality):
    """The FFNs of a layer, `text` and `visual`.

    Args:
        config: megatron-core configuration.
        run: How many experts each modality has, the learned routing among them, and whether text's serve both.
        backend: Linears.
        layer_number: Number of the layer on this pipeline stage, from 1.
        groups: Process groups.
    """

    def __init__(
        self,
        config: TransformerConfig,
        run: RunConfig,
        backend: Backend,
        layer_number: int,
        groups: ProcessGroupCollection,
    ) -> None:
        super().__init__(config)
        self.tp_group, self.ep_size = groups.tp, groups.ep.size()
        self.shards = groups.tp.size() if config.sequence_parallel else 1
        self.layer_number = layer_number
        conditioned = run.router.condition == "text"
        self.condition = TextCondition(groups.tp if config.sequence_parallel else None) if conditioned else None

        def build(number: int, conditioned: bool) -> nn.Module:
            linears = backend.linears
            submodules = MLPSubmodules(
                linear_fc1=linears.column_parallel_linear(), linear_fc2=linears.row_parallel_linear()
            )
            if number > 1:
                own = copy.copy(config)
                own.num_moe_experts = number
                parts = MoESubmodules(
                    experts=megatron_core.experts_builder(linears, config.moe_grouped_gemm),
                    router=partial(Router, settings=run.router, conditioned=conditioned),
                )
                routed = RoutedExperts(own, parts, pg_collection=groups)
                megatron_core.mark_expert_weights(routed.experts)
                return routed
            if self.ep_size > 1:
                return SlicedMLP(config, submodules, groups)
            return MLP(config, submodules, ffn_hidden_size=config.ffn_hidden_size, tp_group=groups.tp)

        self.text = build(run.experts.text, conditioned=False)
        if run.model.shared_experts:
            assert run.experts.text == run.experts.visual == 1
        else:
            self.visual = build(run.experts.visual, conditioned)
        for name in self.names:
            for _, parameters in expert_parameters(getattr(self, name)):
                # Transformer Engine marks experts' weights by no split; the fused gate and up projection has two parts.
                mark(parameters["linear_fc1.weight"], "normal", split=(0, 2))
                mark(parameters["linear_fc2.weight"], "output", split=(1, 1))

    def forward(self, rows: Rows, plan: DispatchPlan, cache: KVCache | None = None) -> Rows:
        """Apply each modality's experts to its rows.

        Args:
            rows: Normalised residual rows, [local rows, 1, hidden].
            plan: Gives token counts, and split sizes where routing is static.
            cache: Remembers the text of earlier tokens, when decoding.
        """
        # Decided outside of no_grad: a first pass under recompute is repeated, and only the second counts.
        record = self.training and torch.is_grad_enabled()
        with rows.text_grad():
            text = self._run(TEXT, rows.text, plan, None, record)
        condition = None
        if self.condition is not None:
            condition = self.condition(rows, plan, cache, self.layer_number)
        return rows.with_parts(text, self._run(VISUAL, rows.visual, plan, condition, record))

    def _run(self, modality: int, hidden: Tensor, plan: DispatchPlan, condition: Tensor | None, record: bool) -> Tensor:
        experts = self.of(modality)
        if isinstance(experts, RoutedExperts):
            if not experts.router.is_conditioned:
                condition = None
            num_tokens = plan.num_text if modality == TEXT else plan.num_visual
            local = hidden.shape[0]
            before = self.tp_group.rank() * local if self.shards > 1 else 0
            num_local = min(max(num_tokens - before, 0), local)
            return experts(hidden, num_local, num_tokens, condition, record)
        if isinstance(experts, SlicedMLP):
            return experts(hidden, plan.peer_splits(modality, self.shards))
        output, bias = experts(hidden)
        assert bias is None
        return output


def split_group(experts: nn.Module, groups: ProcessGroupCollection) -> torch.distributed.ProcessGroup:
    """The ranks over which the weights of one expert are split."""
    return groups.tp_ep if isinstance(experts, SlicedMLP) else groups.tp


def expert_parameters(experts: nn.Module) -> list[tuple[int, dict[str, nn.Parameter]]]:
    """(global number, parameters by name) of every FFN expert of one modality that this rank holds."""
    if not isinstance(experts, RoutedExperts):
        return [(0, dict(experts.named_parameters()))]
    if hasattr(experts.experts, "local_experts"):
        local = [dict(expert.named_parameters()) for expert in experts.experts.local_experts]
    else:  # Transformer Engine's grouped linears hold weight0, weight1, ...
        local = [
            {f"{linear}.weight": getattr(getattr(experts.experts, linear), f"weight{number}") for linear in _LINEARS}
            for number in range(experts.num_local_experts)
        ]
    return list(zip(experts.local_expert_indices, local, strict=True))

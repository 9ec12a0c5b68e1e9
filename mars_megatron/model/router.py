"""The learned router among the experts of one modality."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.moe.moe_utils import (
    MoEAuxLossAutoScaler,
    switch_load_balancing_loss_func,
    topk_routing_with_score_function,
    z_loss_func,
)
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor, nn

from mars_megatron.config.schema import RouterConfig
from mars_megatron.model.experts import Initial, mark


class Router(MegatronModule):
    """Top-k routing by a linear map of the token, and of the text in front of it if so configured.

    With top_k 1 the chosen expert's output is weighted by its probability times the number of experts: near 1 while
    the router is undecided, as it is drawn, so that experts copied from a dense FFN start as that FFN. With more the
    weights of the chosen experts sum to 1.

    The two auxiliary losses are sums over the tokens of the modality, like the training loss, so that they do not
    depend on the parallel layout; padding rows are routed but count in neither. A frozen router has none: what lies
    in front of it must not be trained to balance experts that cannot move.

    Args:
        config: megatron-core configuration with this container's number of experts.
        pg_collection: Process groups.
        settings: What the run configures.
        conditioned: Whether the router sees the text in front of a token.
        is_mtp_layer: Part of megatron-core's interface; no layer of ours is one.
    """

    def __init__(
        self,
        *,
        config: TransformerConfig,
        pg_collection: ProcessGroupCollection,
        settings: RouterConfig,
        conditioned: bool,
        is_mtp_layer: bool = False,
    ) -> None:
        super().__init__(config)
        assert config.num_moe_experts is not None
        self.num_experts, self.settings = config.num_moe_experts, settings
        self.reduce_group = pg_collection.tp if config.sequence_parallel else None
        self.is_conditioned = conditioned
        self.weight = self._table("router")
        if conditioned:
            self.condition_weight = self._table("zeros")
        # What is reported, summed since the last report: tokens per expert, then the two losses. Counts of a long
        # interval pass what fp32 holds exactly.
        count = partial(torch.zeros, dtype=torch.float64, device=self.weight.device)
        self.register_buffer("load", count(self.num_experts), persistent=False)
        self.register_buffer("losses", count(2), persistent=False)

    def _table(self, initial: Initial) -> nn.Parameter:
        device = None if self.config.use_cpu_initialization else torch.cuda.current_device()
        table = nn.Parameter(
            torch.empty(self.num_experts, self.config.hidden_size, dtype=self.config.params_dtype, device=device)
        )
        # Under sequence parallelism every rank routes its own rows: the gradients must be summed.
        table.sequence_parallel = self.config.sequence_parallel  # type: ignore[attr-defined]
        mark(table, initial)
        return table

    def set_layer_number(self, layer_number: int) -> None:
        """Part of megatron-core's interface; the layer is known from the module's place."""

    def forward(
        self, hidden: Tensor, num_local: int, num_tokens: int, condition: Tensor | None = None, record: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Choose experts.

        Args:
            hidden: [local rows, 1, hidden].
            num_local: Local rows that are tokens; the rest is padding behind them.
            num_tokens: Tokens of this modality in the micro-batch, on all tensor-parallel ranks.
            condition: [local rows, 1, hidden], what a conditioned router sees beside each row; None is nothing.
            record: Count this call in the report (False in passes that are repeated or not trained on).

        Returns:
            Weights fp32 and the choice bool, both [local rows, experts].
        """
        logits = F.linear(hidden.float(), self.weight.float())
        if condition is not None:
            logits = logits + F.linear(condition.float(), self.condition_weight.float())
        logits = logits.flatten(0, 1)
        top_k = self.settings.top_k
        weights, chosen = topk_routing_with_score_function(
            logits, top_k, use_pre_softmax=top_k == 1, scaling_factor=self.num_experts if top_k == 1 else None
        )
        if self.training and num_tokens > 0:
            weights = self._balance(logits[:num_local], chosen[:num_local], weights, num_tokens, record)
        return weights, chosen

    def _balance(self, logits: Tensor, chosen: Tensor, weights: Tensor, num_tokens: int, record: bool) -> Tensor:
        """Attach the auxiliary losses to the weights' gradient, and count for the report."""
        counts = chosen.sum(0).float()
        total = counts.clone()
        if self.reduce_group is not None:
            torch.distributed.all_reduce(total, group=self.reduce_group)
        # This rank's part of each loss, per token of the micro-batch.
        balance = switch_load_balancing_loss_func(
            probs=logits.softmax(-1),
            tokens_per_expert=total,
            total_num_tokens=num_tokens,
            topk=self.settings.top_k,
            num_experts=self.num_experts,
            moe_aux_loss_coeff=1.0,
        )
        z_loss = z_loss_func(logits, 1.0) * (len(logits) / num_tokens) if len(logits) else logits.sum()
        if record:
            self.load += counts
            self.losses += torch.stack((balance, z_loss)).detach() * num_tokens
        if torch.is_grad_enabled() and self.weight.requires_grad:
            wanted = self.settings.balance_loss * balance + self.settings.z_loss * z_loss
            weights = MoEAuxLossAutoScaler.apply(weights, wanted * num_tokens)
        return weights

"""Feed-forward experts of each modality, and the learned routers where there are several."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mars_megatron.export.cache_mars import TextState
from mars_megatron.export.configuration_mars import MarsConfig
from mars_megatron.export.routing_mars import Routing, TextBlocks


class MarsMLP(nn.Module):
    """One SwiGLU expert."""

    def __init__(self, config: MarsConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, rows: Tensor) -> Tensor:
        """[rows, hidden] -> the same."""
        return self.down_proj(F.silu(self.gate_proj(rows)) * self.up_proj(rows))


class MarsRouter(nn.Module):
    """Top-k choice by a linear map of the token, and of the text in front of it if conditioned.

    With top_k 1 the weight is the probability times the number of experts; with more the weights sum to 1.
    """

    def __init__(self, config: MarsConfig, num_experts: int, conditioned: bool) -> None:
        super().__init__()
        self.num_experts, self.top_k = num_experts, config.router_top_k
        self.weight = nn.Parameter(torch.zeros(num_experts, config.hidden_size))
        if conditioned:
            self.condition_weight = nn.Parameter(torch.zeros(num_experts, config.hidden_size))

    def forward(self, rows: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        """rows and condition [rows, hidden] -> weights fp32 and experts int64, both [rows, top_k]."""
        logits = F.linear(rows.float(), self.weight.float())
        if condition is not None:
            logits = logits + F.linear(condition.float(), self.condition_weight.float())
        if self.top_k == 1:
            best, chosen = logits.softmax(-1).topk(1, dim=-1)
            return best * self.num_experts, chosen
        best, chosen = logits.topk(self.top_k, dim=-1)
        return best.softmax(-1), chosen


class MarsRoutedMLP(nn.Module):
    """Several experts of one modality behind a router."""

    def __init__(self, config: MarsConfig, num_experts: int, conditioned: bool) -> None:
        super().__init__()
        self.experts = nn.ModuleList(MarsMLP(config) for _ in range(num_experts))
        self.router = MarsRouter(config, num_experts, conditioned)

    def forward(self, rows: Tensor, condition: Tensor | None = None) -> Tensor:
        """[rows, hidden] -> the same. Reads the counts of the experts from the device."""
        weights, chosen = self.router(rows, condition)
        top_k = chosen.shape[1]
        order = chosen.flatten().argsort(stable=True)
        counts = chosen.flatten().bincount(minlength=len(self.experts)).tolist()
        parts = rows.index_select(0, order // top_k).split(counts)
        pairs = zip(self.experts, parts, strict=True)
        # While training an expert runs on no rows too: every parameter gets a gradient.
        every = torch.is_grad_enabled() or len(rows) == 0
        outputs = torch.cat([expert(part) for expert, part in pairs if every or len(part)])
        outputs = outputs.index_select(0, order.argsort()).unflatten(0, (-1, top_k))
        return (outputs * weights[..., None].to(rows.dtype)).sum(1)


class MarsFeedForward(nn.Module):
    """The FFNs of a layer, `text` and `visual`."""

    def __init__(self, config: MarsConfig) -> None:
        super().__init__()
        self.is_conditioned = config.is_conditioned

        def build(number: int, conditioned: bool) -> nn.Module:
            return MarsRoutedMLP(config, number, conditioned) if number > 1 else MarsMLP(config)

        self.text = build(config.text_experts, False)
        self.visual = build(config.visual_experts, self.is_conditioned)

    def forward(
        self, rows: Tensor, routing: Routing, state: TextState | None = None
    ) -> tuple[Tensor, TextState | None]:
        """Sorted rows [rows, hidden] -> the same, and the state that the next tokens need.

        Args:
            rows: Normalised residual rows.
            routing: Order of the rows, with text blocks if the router is conditioned.
            state: Text of earlier tokens, when decoding.
        """
        if not self.is_conditioned:
            return routing.apply(self.text, self.visual, rows), None
        assert routing.blocks is not None
        text_rows, visual_rows = routing.split(rows)
        condition, new_state = _pool(text_rows, routing.blocks, state)
        return torch.cat((self.text(text_rows), self.visual(visual_rows, condition))), new_state


def _pool(text_rows: Tensor, blocks: TextBlocks, state: TextState | None) -> tuple[Tensor, TextState]:
    """Mean of the nearest text block in front of each visual row, fp32 [visual rows, hidden]; zero without one."""
    states = text_rows.float() * blocks.counted
    counted = torch.cat((states, blocks.counted), 1)
    sums = counted.new_zeros(len(blocks.last), blocks.number, counted.shape[1])
    if state is not None:
        sums[:, 0] = state[0]
    sums = sums.flatten(0, 1).index_add(0, blocks.text, counted)
    pooled = sums.index_select(0, blocks.visual)
    condition = pooled[:, :-1] / pooled[:, -1:].clamp(min=1)
    return condition, (sums.index_select(0, blocks.last), blocks.ends_in_text)

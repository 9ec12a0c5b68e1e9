"""What layers are given and what each modality has of its own: the routed rows, pairs of experts, and norms."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor, nn

from mars_megatron.sequence import TEXT, VISUAL, DispatchPlan

# How a parameter is filled at random (see model.initialization); "normal" where nothing else is marked.
Initial = Literal["normal", "zeros", "ones", "embedding", "output", "router"]


@dataclass
class RoutedSeqParams(PackedSeqParams):
    """megatron-core's description of a packed sequence, with the plan that routes its tokens.

    `TransformerBlock` hands this object to every layer and captures it per micro-batch under activation
    recompute, which a value stored on a module would not survive.
    """

    plan: DispatchPlan | None = None

    @classmethod
    def from_plan(cls, plan: DispatchPlan) -> RoutedSeqParams:
        """Describe the packed sequence of `plan`."""
        return cls(
            qkv_format="thd",
            cu_seqlens_q=plan.cu_seqlens,
            cu_seqlens_kv=plan.cu_seqlens,
            max_seqlen_q=plan.max_seqlen,
            max_seqlen_kv=plan.max_seqlen,
            plan=plan,
        )


def plan_of(packed_seq_params: PackedSeqParams | None) -> DispatchPlan:
    """The plan of this micro-batch.

    Raises:
        ValueError: if the layer was called without one: tokens are never routed by guess.
    """
    plan = getattr(packed_seq_params, "plan", None)
    if plan is None:
        raise ValueError(f"SemVIE layers need a RoutedSeqParams with a dispatch plan; got {packed_seq_params!r}")
    return plan


class Rows(NamedTuple):
    """The local rows of the residual stream, or of anything computed from it, by expert.

    Attributes:
        text: [local text rows, 1, ...].
        visual: [local visual rows, 1, ...].
        text_has_grad: False where nothing upstream of a text row is trainable; the text part is then
            computed without autograd.
    """

    text: Tensor
    visual: Tensor
    text_has_grad: bool

    def with_parts(self, text: Tensor, visual: Tensor) -> Rows:
        """The same routing with other contents."""
        return Rows(text, visual, self.text_has_grad)

    def text_grad(self) -> AbstractContextManager:
        """The context in which the text part is computed."""
        return nullcontext() if self.text_has_grad else torch.no_grad()

    def joined(self) -> Tensor:
        """[text rows + visual rows, 1, ...], text first."""
        return torch.cat((self.text, self.visual))

    def add(self, other: Rows) -> Rows:
        """Element-wise sum (the residual connection)."""
        return self.with_parts(self.text + other.text, self.visual + other.visual)


def split_rows(hidden: Tensor, num_text: int, text_has_grad: bool) -> Rows:
    """Split sorted rows into the experts' parts.

    Args:
        hidden: [local rows, 1, hidden], text rows first.
        num_text: Local text rows (host integer).
        text_has_grad: See `Rows`; when False the text part is detached.
    """
    text, visual = hidden.split((num_text, hidden.shape[0] - num_text))
    return Rows(text if text_has_grad else text.detach(), visual, text_has_grad)


class ByModality(MegatronModule):
    """Base of what serves each modality by a module of its own, `text` and `visual`, or both by one of them.

    The one is called `shared`, or `text` where it is a language model's. All parameters of the model lie in such
    modules, and belong to the expert of that name.
    """

    @property
    def names(self) -> tuple[str, ...]:
        """(text, visual), (text) or (shared)."""
        return tuple(name for name in ("text", "visual", "shared") if name in self._modules)

    def of(self, modality: int) -> nn.Module:
        """The module that serves TEXT or VISUAL."""
        return getattr(self, self.names[0 if modality == TEXT else -1])


def expert_of(model: nn.Module) -> dict[nn.Parameter, str]:
    """The expert of every parameter: text, visual or shared."""
    return {
        parameter: name
        for module in model.modules()
        if isinstance(module, ByModality)
        for name in module.names
        for parameter in getattr(module, name).parameters()
    }


def text_twins(model: nn.Module) -> Iterator[tuple[nn.Parameter, nn.Parameter]]:
    """(visual parameter, that of the text expert beside it) of all `Experts`."""
    for module in model.modules():
        if isinstance(module, Experts) and "visual" in module.names:
            yield from zip(module.of(VISUAL).parameters(), module.of(TEXT).parameters(), strict=True)


def mark(parameter: Tensor, initial: Initial, split: tuple[int, int] | None = None) -> None:
    """Note where a parameter is made how it is to be filled.

    Args:
        parameter: It.
        initial: With what.
        split: (dimension, parts that are split one by one) if it is split over ranks in a way that megatron-core's own
            marks do not tell.
    """
    parameter.initial, parameter.split_in_parts = initial, split  # type: ignore[attr-defined]


class Experts(ByModality):
    """A text and a visual module of the same shape, each applied to its own rows.

    Args:
        config: megatron-core configuration.
        build: Makes one module; called twice, or once when one serves both modalities.
        tp_group: Tensor-parallel group (used when sharding checkpoints).
        only: Name of the one module that serves both modalities, shared or text; empty: each has its own.
    """

    def __init__(
        self,
        config: TransformerConfig,
        build: Callable[[], nn.Module],
        tp_group: torch.distributed.ProcessGroup,
        only: str = "",
    ) -> None:
        super().__init__(config)
        self.tp_group = tp_group
        for name in (only,) if only else ("text", "visual"):
            self.add_module(name, build())

    def forward(self, rows: Rows) -> Rows:
        """Apply each expert to its rows. Modules returning (output, bias) must return no bias."""
        with rows.text_grad():
            text = _output(self.of(TEXT)(rows.text))
        return rows.with_parts(text, _output(self.of(VISUAL)(rows.visual)))


def _output(result: Tensor | tuple[Tensor, Tensor | None]) -> Tensor:
    if isinstance(result, tuple):
        output, bias = result
        assert bias is None, "expert modules add their own bias"
        return output
    return result


class RMSNorm(nn.Module):
    """Root-mean-square normalisation (Zhang and Sennrich, arXiv 1910.07467), computed in fp32.

    Under sequence parallelism each rank sees its own rows only, so the weight's gradient must be summed over the
    tensor-parallel ranks: the `sequence_parallel` mark on the weight makes megatron-core do it.

    Args:
        config: Gives dtype, device, epsilon and the sequence-parallel mark.
        hidden_size: Size of the last dimension.
    """

    def __init__(self, config: TransformerConfig, hidden_size: int) -> None:
        super().__init__()
        self.eps = config.layernorm_epsilon
        device = None if config.use_cpu_initialization else torch.cuda.current_device()
        self.weight = nn.Parameter(torch.ones(hidden_size, dtype=config.params_dtype, device=device))
        self.weight.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]
        mark(self.weight, "ones")

    def forward(self, x: Tensor) -> Tensor:
        """[..., hidden] -> the same shape and dtype."""
        return torch.nn.functional.rms_norm(x.float(), x.shape[-1:], eps=self.eps).to(x.dtype) * self.weight


def build_norm(config: TransformerConfig, groups: ProcessGroupCollection, per_expert: bool) -> Experts:
    """An RMSNorm for both modalities, or one for each."""
    return Experts(config, lambda: RMSNorm(config, config.hidden_size), groups.tp, only="" if per_expert else "shared")

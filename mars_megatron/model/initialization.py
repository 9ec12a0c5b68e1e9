"""Initial values: random, or a language model's."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Sequence
from typing import NamedTuple

import torch
from megatron.core.process_groups_config import ProcessGroupCollection
from torch import Tensor, nn

from mars_megatron.config.schema import RunConfig
from mars_megatron.model.experts import Initial, expert_of, text_twins
from mars_megatron.model.feed_forward import expert_parameters, split_group
from mars_megatron.model.mars import MARSModel
from mars_megatron.model.router import Router
from mars_megatron.model.vocabulary_parallel import JoinedEmbedding, JoinedHead
from mars_megatron.sequence import TEXT, VISUAL
from mars_megatron.sequence.vocabulary import Vocabulary

_LAYER = re.compile(r"layers\.(\d+)\.")


def global_name(model: MARSModel, name: str) -> str:
    """A parameter's name with its layer counted over the whole model instead of this stage."""

    def renumber(match: re.Match[str]) -> str:
        return f"layers.{model.decoder.layers[int(match.group(1))].layer_number - 1}."

    return _LAYER.sub(renumber, name)


class _Source(NamedTuple):
    """What a parameter is drawn from.

    Attributes:
        name: Global name, or that of the text expert whose copy a visual expert is.
        group: The ranks over which the parameter is split, if it is.
    """

    name: str
    group: torch.distributed.ProcessGroup


def _sources(
    model: MARSModel, config: RunConfig, groups: ProcessGroupCollection, copies: bool
) -> dict[nn.Parameter, _Source]:
    names = {parameter: global_name(model, name) for name, parameter in model.named_parameters()}
    twins = dict(text_twins(model)) if copies else {}
    sources = {parameter: _Source(names[twins.get(parameter, parameter)], groups.tp) for parameter in names}
    num_text = config.experts.text
    for layer in model.decoder.layers:
        for modality in layer.mlp.names:
            experts, number_of_them = getattr(layer.mlp, modality), getattr(config.experts, modality)
            group = split_group(experts, groups)
            for number, parameters in expert_parameters(experts):
                owner, place, of = modality, number, number_of_them
                if copies:
                    owner, place, of = "text", number * num_text // number_of_them, num_text
                expert = f"experts.{place}." if of > 1 else ""
                for name, parameter in parameters.items():
                    source = f"decoder.layers.{layer.layer_number - 1}.mlp.{owner}.{expert}{name}"
                    sources[parameter] = _Source(source, group)
    return sources


@torch.no_grad()
def initialize_parameters(
    model: MARSModel,
    config: RunConfig,
    groups: ProcessGroupCollection,
    only: Collection[nn.Parameter] | None = None,
) -> None:
    """Fill the parameters with values that depend on their global name and the seed alone, never on the layout.

    Weights are normal with `model.init_std`, output projections smaller by sqrt(2 num_layers) (GPT-2's rule),
    norms one, biases zero; routers are undecided, their view of the text zero. The visual experts are drawn as copies
    of the text experts; several copy one in turn, or each its own share of several.

    Args:
        model: One pipeline chunk.
        config: The run.
        groups: Its ranks.
        only: Those to fill; each is drawn on its own then, none is a copy. None: all.
    """
    for parameter, (name, group) in _sources(model, config, groups, copies=only is None).items():
        if only is not None and parameter not in only:
            continue
        shape, split = list(parameter.shape), _split(parameter)
        if split is not None:
            shape[split[0]] *= group.size()
        full = draw(name, shape, config, getattr(parameter, "initial", "normal"))
        parameter.copy_(_shard(full, parameter, group.rank(), group.size()))


def _split(parameter: Tensor) -> tuple[int, int] | None:
    """(dimension, parts that are split one by one) of a parameter that is split over ranks, else None."""
    if (split := getattr(parameter, "split_in_parts", None)) is not None:
        return split
    if not getattr(parameter, "tensor_model_parallel", False):
        return None
    return parameter.partition_dim, parameter.partition_stride  # type: ignore[attr-defined]


def draw(name: str, shape: Sequence[int], config: RunConfig, initial: Initial) -> Tensor:
    """Initial values of the whole parameter with a global name, fp32; the same in every process."""
    if initial in ("zeros", "ones"):
        return torch.full(list(shape), float(initial == "ones"))
    model = config.model
    deviation = {
        "normal": model.init_std,
        "embedding": model.embedding_init_std or model.init_std,
        "output": model.init_std / (2 * model.num_layers) ** 0.5,
        # Undecided: the logits of a normalised row have this standard deviation.
        "router": 0.01 / model.hidden_size**0.5,
    }[initial]
    digest = hashlib.sha256(f"{config.training.seed}/{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    return torch.randn(list(shape), generator=generator) * deviation


def _shard(full: Tensor, parameter: Tensor, rank: int, size: int) -> Tensor:
    split = _split(parameter)
    if split is None or size == 1:
        return full
    dim, parts = split
    return torch.cat([part.chunk(size, dim)[rank] for part in full.chunk(parts, dim)], dim)


@torch.no_grad()
def start_from_language_model(
    model: MARSModel, config: RunConfig, vocabulary: Vocabulary, groups: ProcessGroupCollection
) -> None:
    """Turn a loaded language model into the start of MARS (MARS, section "SemVIE").

    Visual experts become copies of the text experts, or with `checkpoint.init_visual` random are drawn; every image
    row of embedding and head becomes the mean of the text rows; visual routers, which a language model need not have,
    are drawn. Text experts, text rows and shared parts must already hold the language model.
    """
    visual = {parameter for parameter, expert in expert_of(model).items() if expert == "visual"}
    if config.checkpoint.init_visual != "random":
        for parameter, twin in text_twins(model):
            parameter.copy_(twin)
        for layer in model.decoder.layers:
            _copy_experts(layer.mlp.of(TEXT), layer.mlp.of(VISUAL), groups)
        routers = (module for module in model.modules() if isinstance(module, Router))
        visual &= {parameter for router in routers for parameter in router.parameters()}
    initialize_parameters(model, config, groups, only=visual)
    for table in _tables(model):
        mean = _mean_row(table.text.weight, vocabulary.text_size, groups.tp)
        table.visual.weight.copy_(mean.expand_as(table.visual.weight))


@torch.no_grad()
def start_new_slots(model: MARSModel, num_known: int, tp_group: torch.distributed.ProcessGroup) -> None:
    """Let the start slots behind the first `num_known`, which a checkpoint did not have, start as BOI."""
    vocabulary = model.vocabulary
    for table in _tables(model):
        weight = table.visual.weight
        first = tp_group.rank() * weight.shape[0]

        def local(token: int, first: int = first) -> int:
            return vocabulary.image_row(token) - first

        boi = torch.zeros_like(weight[0])
        if 0 <= local(vocabulary.boi) < weight.shape[0]:
            boi.copy_(weight[local(vocabulary.boi)])
        torch.distributed.all_reduce(boi, group=tp_group)
        for slot in vocabulary.start_slots[num_known:]:
            if 0 <= local(slot) < weight.shape[0]:
                weight[local(slot)] = boi


def _tables(model: MARSModel) -> list[JoinedEmbedding | JoinedHead]:
    """Those of this pipeline stage."""
    return ([model.embedding] if model.pre_process else []) + ([model.head] if model.post_process else [])


def _copy_experts(text: nn.Module, visual: nn.Module, groups: ProcessGroupCollection) -> None:
    """Fill this rank's visual experts from its text experts, each of which serves an equal share."""
    sources, targets = expert_parameters(text), expert_parameters(visual)
    text_group, visual_group = split_group(text, groups), split_group(visual, groups)
    for place, (_, target) in enumerate(targets):
        _, source = sources[place * len(sources) // len(targets)]
        for name, parameter in target.items():
            value: Tensor = source[name]
            if text_group is not visual_group:  # one text expert in slices, several whole visual ones
                value = _gather(value, text_group)
                value = _shard(value, parameter, visual_group.rank(), visual_group.size())
            parameter.copy_(value)


def _gather(parameter: Tensor, group: torch.distributed.ProcessGroup) -> Tensor:
    """The whole of a split parameter, on every rank of the group that holds its shards."""
    split = _split(parameter)
    assert split is not None, "FFN weights are marked"
    dim, parts = split
    shards = [torch.empty_like(parameter) for _ in range(group.size())]
    torch.distributed.all_gather(shards, parameter.detach().contiguous(), group=group)
    by_part = zip(*(shard.chunk(parts, dim) for shard in shards), strict=True)
    return torch.cat([torch.cat(part, dim) for part in by_part], dim)


def _mean_row(weight: Tensor, num_rows: int, tp_group: torch.distributed.ProcessGroup) -> Tensor:
    """Mean of the first `num_rows` rows of a table split over the tensor-parallel ranks; [hidden]."""
    local = weight.shape[0]
    real = min(max(num_rows - tp_group.rank() * local, 0), local)
    total = weight[:real].double().sum(0)
    torch.distributed.all_reduce(total, group=tp_group)
    return (total / num_rows).to(weight.dtype)

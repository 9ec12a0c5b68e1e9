"""Initial values: random, or a language model's."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import NamedTuple

import torch
from megatron.core.process_groups_config import ProcessGroupCollection
from torch import Tensor, nn

from mars_megatron.config.schema import RunConfig
from mars_megatron.model.feed_forward import expert_parameters, split_group
from mars_megatron.model.mars import MARSModel
from mars_megatron.model.vocabulary_parallel import JoinedEmbedding, JoinedHead
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
    sources = {}
    for name, parameter in model.named_parameters():
        source = global_name(model, name)
        if copies and source.startswith("decoder.") and ".router." not in source:
            source = source.replace(".visual.", ".text.")
        sources[parameter] = _Source(source, groups.tp)
    num_text = config.experts.text
    for layer in model.decoder.layers:
        ours = {"text": (layer.mlp.text, num_text), "visual": (layer.mlp.visual, config.experts.visual)}
        for modality, (experts, number_of_them) in ours.items():
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
def initialize_parameters(model: MARSModel, config: RunConfig, groups: ProcessGroupCollection, only: str = "") -> None:
    """Fill the parameters with values that depend on their global name and the seed alone, never on the layout.

    Weights are normal with `model.init_std`, output projections smaller by sqrt(2 num_layers) (GPT-2's rule),
    norms one, biases zero; routers are undecided, their view of the text zero. The visual experts are drawn as copies
    of the text experts; several copy one in turn, or each its own share of several.

    Args:
        model: One pipeline chunk.
        config: The run.
        groups: Its ranks.
        only: What the names of those that are filled contain; each is drawn on its own then, none is a copy.
    """
    names = {parameter: name for name, parameter in model.named_parameters()}
    for parameter, (name, group) in _sources(model, config, groups, copies=not only).items():
        if only not in names[parameter]:
            continue
        if "norm" in name:
            parameter.fill_(1.0)
        elif name.endswith(("bias", "condition_weight")):
            parameter.zero_()
        else:
            full = _draw(parameter, name, config, group.size())
            parameter.copy_(_shard(full, parameter, name, group.rank(), group.size()))


def _standard_deviation(name: str, config: RunConfig) -> float:
    shape = config.model
    if ".router." in name:
        # Undecided: the logits of a normalised row have this standard deviation.
        return 0.01 / shape.hidden_size**0.5
    if name.startswith("embedding."):
        return shape.embedding_init_std or shape.init_std
    if "linear_proj" in name or "linear_fc2" in name:
        return shape.init_std / (2 * shape.num_layers) ** 0.5
    return shape.init_std


def _split(parameter: Tensor, name: str) -> tuple[int, int] | None:
    """(dimension, parts that are split one by one) of a parameter that is split over ranks, else None.

    Of FFN weights by their name: the fused gate and up projection has two parts, and Transformer Engine marks experts'
    weights by neither.
    """
    if name.endswith("linear_fc1.weight"):
        return 0, 2
    if name.endswith("linear_fc2.weight"):
        return 1, 1
    if not getattr(parameter, "tensor_model_parallel", False):
        return None
    return parameter.partition_dim, parameter.partition_stride  # type: ignore[attr-defined]


def _draw(parameter: nn.Parameter, name: str, config: RunConfig, size: int) -> Tensor:
    """The whole parameter of which `parameter` is one of `size` shards."""
    shape, split = list(parameter.shape), _split(parameter, name)
    if split is not None:
        shape[split[0]] *= size
    return draw(name, shape, config)


def draw(name: str, shape: Sequence[int], config: RunConfig) -> Tensor:
    """Random initial values of the whole parameter with a global name, fp32; the same in every process."""
    digest = hashlib.sha256(f"{config.training.seed}/{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    return torch.randn(list(shape), generator=generator) * _standard_deviation(name, config)


def _shard(full: Tensor, parameter: Tensor, name: str, rank: int, size: int) -> Tensor:
    split = _split(parameter, name)
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
    if config.checkpoint.init_visual == "random":
        initialize_parameters(model, config, groups, only=".visual.")
    else:
        initialize_parameters(model, config, groups, only=".visual.router.")
        _copy_text_to_visual(model, groups)
    for table in _tables(model):
        mean = _mean_row(table.text.weight, vocabulary.text_size, groups.tp)
        table.visual.weight.copy_(mean.expand_as(table.visual.weight))


def _copy_text_to_visual(model: MARSModel, groups: ProcessGroupCollection) -> None:
    """Experts and norms of layers, and the last norm."""
    parameters = dict(model.decoder.named_parameters())
    for name, parameter in parameters.items():
        if ".visual." in name and ".mlp." not in name:
            parameter.copy_(parameters[name.replace(".visual.", ".text.")])
    for layer in model.decoder.layers:
        _copy_experts(layer.mlp.text, layer.mlp.visual, groups)
    if model.post_process and not model.final_norm.is_shared:
        model.final_norm.visual.load_state_dict(model.final_norm.text.state_dict())


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
                value = _gather(value, name, text_group)
                value = _shard(value, parameter, name, visual_group.rank(), visual_group.size())
            parameter.copy_(value)


def _gather(parameter: Tensor, name: str, group: torch.distributed.ProcessGroup) -> Tensor:
    """The whole of a split parameter, on every rank of the group that holds its shards."""
    split = _split(parameter, name)
    assert split is not None, name
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

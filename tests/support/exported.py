"""The exported form of a model, by a name mapping of its own: the one of the conversion is checked by others."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from mars_megatron.config.schema import RunConfig
from mars_megatron.export.folder import build_mars_config
from mars_megatron.export.modeling_mars import MarsForCausalLM
from mars_megatron.model import MARSModel
from mars_megatron.sampling.decoding import inference, pack_samples
from mars_megatron.sequence.vocabulary import Vocabulary
from tests.support.tiny import EOS, VOCABULARY, randomize, tiny_config, tiny_model

CONDITIONED = {"experts.visual": 4, "router.condition": "text"}
ROUTED = {"experts.visual": 4, "experts.text": 2, "router.top_k": 2}
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "routed": ROUTED,
    "conditioned": CONDITIONED,
    "norms": {"model.expert_norms": "true", "model.qk_norm": "true", "model.num_query_groups": 1},
    "shared projection": {"model.expert_output_projection": "false", "model.num_query_groups": 4},
}
# Text, image, text, image: blocks begin, go on and are replaced.
BOI, CODE = VOCABULARY.boi, VOCABULARY.text_size
IMAGE = [BOI, CODE, CODE + 1, CODE + 2]
INTERLEAVED = [
    [3, 4, 5, 6, *IMAGE, 7, 8, *IMAGE[:2]],
    [8, 9, *IMAGE, 1, 2, 3, *IMAGE[::-1]],
    [*IMAGE, 5, 6, 7, CODE + 3, 2],
]

# Renamings of whole parts, in order; `shared` has no part of its own.
RENAMINGS = (
    (r"^decoder\.layers", "model.layers"),
    (r"^embedding\.", "model.embed_tokens."),
    (r"^final_norm\.", "model.norm."),
    (r"^head\.", "lm_head."),
    (r"\.input_norm\.", ".input_layernorm."),
    (r"\.pre_mlp_norm\.", ".post_attention_layernorm."),
    (r"\.attention\.linear_proj\.(text|visual)\.", r".self_attn.\1.o_proj."),
    (r"\.attention\.linear_proj\.shared\.", ".self_attn.o_proj."),
    (r"\.attention\.qk_norm\.(text|visual)\.([qk])_layernorm\.", r".self_attn.\1.\2_norm."),
    (r"\.attention\.linear_qkv\.(text|visual)\.", r".self_attn.\1.qkv."),
    (r"\.experts\.local_experts\.", ".experts."),
    (r"\.linear_fc1\.", ".gate_up."),
    (r"\.linear_fc2\.", ".down_proj."),
    (r"\.shared\.", "."),
)


def renamed(name: str, value: Tensor, config: RunConfig) -> Iterator[tuple[str, Tensor]]:
    """Names and values in the exported model of one parameter of a whole MARSModel."""
    for pattern, new in RENAMINGS:
        name = re.sub(pattern, new, name)
    if name.startswith(("model.embed_tokens.", "lm_head.")):
        vocabulary = Vocabulary.from_config(config)
        rows = vocabulary.text_size if ".text." in name else vocabulary.image_size
        yield name, value[:rows]
    elif ".gate_up." in name:
        gate, up = value.chunk(2)
        yield name.replace("gate_up", "gate_proj"), gate
        yield name.replace("gate_up", "up_proj"), up
    elif ".qkv." in name:
        shape = config.model
        per_group = shape.num_attention_heads // shape.num_query_groups
        head_dim = shape.head_dim or shape.hidden_size // shape.num_attention_heads
        groups = value.view(shape.num_query_groups, per_group + 2, head_dim, *value.shape[1:])
        parts = {"q": groups[:, :per_group], "k": groups[:, per_group : per_group + 1], "v": groups[:, per_group + 1 :]}
        for letter, part in parts.items():
            yield name.replace(".qkv.", f".{letter}_proj."), part.reshape(-1, *value.shape[1:])
    else:
        yield name, value


def exported_state(model: MARSModel, config: RunConfig, gradients: bool = False) -> dict[str, Tensor]:
    """Weights (or their gradients) of the exported model."""
    state: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        value = parameter.grad if gradients else parameter.detach()
        if value is not None:
            state.update((new, part.clone()) for new, part in renamed(name, value, config))
    return state


def export(model: MARSModel, config: RunConfig, **settings: Any) -> MarsForCausalLM:
    """The same model as transformers runs it."""
    exported = MarsForCausalLM(build_mars_config(config, eos_id=EOS, **settings)).eval()
    exported.load_state_dict(exported_state(model, config))
    return exported


def tiny_pair(overrides: dict[str, Any] | None = None) -> tuple[MARSModel, MarsForCausalLM]:
    """A random model and its exported form, on the CPU."""
    model = randomize(tiny_model(overrides)).eval()
    return model, export(model, tiny_config(overrides))


@torch.no_grad()
def reference_logits(model: MARSModel, samples: list[list[int]], vocabulary: Vocabulary = VOCABULARY) -> list[Tensor]:
    """Logits of every token of each sample, by the MARSModel; [length, vocabulary] each."""
    with inference(model):
        logits = model(pack_samples(samples, vocabulary, every_token=True), return_logits=True)
    return list(logits.split([len(sample) for sample in samples]))


def padded(samples: list[list[int]], side: str = "right") -> tuple[Tensor, Tensor]:
    """Ids and attention mask of a batch of samples of several lengths."""
    width = max(len(sample) for sample in samples)
    ids = torch.full((len(samples), width), EOS)
    mask = torch.zeros((len(samples), width), dtype=torch.int64)
    for number, sample in enumerate(samples):
        place = slice(0, len(sample)) if side == "right" else slice(width - len(sample), width)
        ids[number, place] = torch.tensor(sample)
        mask[number, place] = 1
    return ids, mask


def model_of(overrides: dict[str, Any] | None = None) -> MarsForCausalLM:
    return tiny_pair(overrides)[1]


@torch.no_grad()
def whole(model: MarsForCausalLM, samples: list[list[int]]) -> list[Tensor]:
    return [model(torch.tensor([sample]), use_cache=False).logits[0] for sample in samples]

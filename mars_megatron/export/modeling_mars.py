"""MARS: a causal language model with a visual expert beside its text expert."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.utils import can_return_tuple

# transformers copies what this file imports itself, not what those import in turn: all are named here.
from mars_megatron.export.attention_mars import MarsAttention, attention_pattern, check_attention, rotary_frequencies
from mars_megatron.export.batches_mars import BatchOptions  # noqa: F401
from mars_megatron.export.cache_mars import MarsCache
from mars_megatron.export.configuration_mars import MarsConfig
from mars_megatron.export.experts_mars import MarsFeedForward, MarsRouter
from mars_megatron.export.generation_mars import MarsGenerationMixin
from mars_megatron.export.processing_mars import located
from mars_megatron.export.routing_mars import (
    MarsEmbedding,
    MarsHead,
    MarsRMSNorm,
    MarsRows,
    Routing,
    apply_norm,
    build_blocks,
    build_norm,
)
from mars_megatron.files.weights import open_vq_model  # noqa: F401
from mars_megatron.pictures.boxes import read_avif  # noqa: F401
from mars_megatron.pictures.colours import profile_space  # noqa: F401
from mars_megatron.pictures.formats import look  # noqa: F401
from mars_megatron.pictures.picture import Picture  # noqa: F401
from mars_megatron.pictures.pixels import upright_rgb  # noqa: F401
from mars_megatron.pictures.tiff import read_tiff  # noqa: F401
from mars_megatron.sampling.logits_to_ids import sample_ids  # noqa: F401
from mars_megatron.tokenizers.image_codes import to_uint8  # noqa: F401


class MarsLayer(GradientCheckpointingLayer):
    """Pre-norm attention and SwiGLU FFN, each a pair of experts chosen by modality."""

    def __init__(self, config: MarsConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.input_layernorm = build_norm(config.hidden_size, config.rms_norm_eps, config.expert_norms)
        self.self_attn = MarsAttention(config, layer)
        self.post_attention_layernorm = build_norm(config.hidden_size, config.rms_norm_eps, config.expert_norms)
        self.mlp = MarsFeedForward(config)

    def forward(
        self,
        rows: Tensor,
        routing: Routing,
        rotary: tuple[Tensor, Tensor],
        mask: Tensor | None,
        attention: str,
        past_key_values: Cache | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Sorted residual rows [rows, hidden] -> the same, and what else the attention tells."""
        normed = apply_norm(self.input_layernorm, rows, routing)
        attended, weights = self.self_attn(normed, routing, rotary, mask, attention, past_key_values)
        rows = rows + attended
        kept = past_key_values.text if isinstance(past_key_values, MarsCache) else {}
        out, state = self.mlp(apply_norm(self.post_attention_layernorm, rows, routing), routing, kept.get(self.layer))
        if state is not None:
            kept[self.layer] = state
        return rows + out, weights


class MarsPreTrainedModel(PreTrainedModel):
    """What all MARS models share."""

    config_class = MarsConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["MarsLayer"]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_sdpa = True

    def get_correct_attn_implementation(self, *args: Any, **kwargs: Any) -> str:
        """As for every model, but eager and sdpa alone."""
        return check_attention(super().get_correct_attn_implementation(*args, **kwargs))

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, MarsRMSNorm):
            nn.init.ones_(module.weight)
        elif isinstance(module, MarsRows):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
        elif isinstance(module, MarsRouter):
            # Undecided, and blind to the text.
            nn.init.normal_(module.weight, std=0.01 / self.config.hidden_size**0.5)
            if hasattr(module, "condition_weight"):
                nn.init.zeros_(module.condition_weight)

    def resize_token_embeddings(self, new_num_tokens: int | None = None, *args: Any, **kwargs: Any) -> nn.Module:
        """The embedding, which keeps its size.

        Raises:
            ValueError: Another size is asked for.
        """
        if new_num_tokens not in (None, self.config.vocab_size):
            raise ValueError(
                f"new_num_tokens is {new_num_tokens}; accepted: {self.config.vocab_size}. The tables of a MARS model "
                "cannot be resized: image ids begin where text ids end"
            )
        return self.get_input_embeddings()


class MarsModel(MarsPreTrainedModel):
    """Embedding, layers and final norm."""

    def __init__(self, config: MarsConfig) -> None:
        super().__init__(config)
        self.embed_tokens = MarsEmbedding(config.text_vocab_size, config.num_image_rows, config.hidden_size)
        self.layers = nn.ModuleList(MarsLayer(config, number) for number in range(config.num_hidden_layers))
        self.norm = build_norm(config.hidden_size, config.rms_norm_eps, config.expert_norms)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        visual_mask: Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Final hidden states; arguments as for `MarsForCausalLM`."""
        config = self.config
        told = config.output_hidden_states if output_hidden_states is None else output_hidden_states
        weighed = config.output_attentions if output_attentions is None else output_attentions
        # The fused attention has no weights to tell.
        attention = "eager" if weighed else check_attention(config._attn_implementation)
        inputs_embeds, visual = self._inputs(input_ids, inputs_embeds, visual_mask)
        cache = self._cache(past_key_values, use_cache)
        past = 0 if cache is None else int(cache.get_seq_length())
        real = _real_tokens(attention_mask, visual, past)
        positions = _positions(position_ids, real, visual, past)
        angles = positions[..., None].float() * rotary_frequencies(config, visual.device)
        angles = torch.cat((angles, angles), dim=-1).unsqueeze(2)
        rotary = angles.cos(), angles.sin()
        routing = self._routing(visual, real, cache)
        mask = attention_pattern(real, visual.shape[1], past, visual.device)
        rows, states, attentions = routing.sort(inputs_embeds), [inputs_embeds], []
        for layer in self.layers:
            rows, weights = layer(rows, routing, rotary, mask, attention, past_key_values=cache)
            if weighed:
                attentions.append(weights)
            if told:  # the next layer goes on from what is told, whose gradient may be asked for
                states.append(routing.to(rows.device).restore(rows))
                rows = routing.to(rows.device).sort(states[-1])
        rows = apply_norm(self.norm, rows, routing)
        hidden = routing.to(rows.device).restore(rows)
        return BaseModelOutputWithPast(
            last_hidden_state=hidden,
            past_key_values=cache,
            hidden_states=(*states[:-1], hidden) if told else None,
            attentions=tuple(attentions) if weighed else None,
        )

    def _inputs(
        self, input_ids: Tensor | None, inputs_embeds: Tensor | None, visual_mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Embedded tokens [samples, length, hidden] and their modality, bool [samples, length]."""
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds")
        if input_ids is not None:
            if visual_mask is not None:
                raise ValueError("visual_mask belongs to inputs_embeds: input_ids say which tokens are visual")
            return self.embed_tokens(input_ids), input_ids >= self.config.text_vocab_size
        assert inputs_embeds is not None
        if visual_mask is None:
            raise ValueError("inputs_embeds need a visual_mask [samples, length]: which tokens the visual expert gets")
        return inputs_embeds, visual_mask.bool()

    def _cache(self, cache: Cache | None, use_cache: bool | None) -> Cache | None:
        conditioned = self.config.is_conditioned
        if self.training and self.layers[0].gradient_checkpointing:
            return None  # a layer that runs twice would write twice
        if cache is None and (self.config.use_cache and not self.training if use_cache is None else use_cache):
            cache = MarsCache() if conditioned else DynamicCache()
        if cache is None:
            return None
        if not isinstance(cache, Cache) or getattr(cache, "is_compileable", False):
            raise ValueError(f"past_key_values is a {type(cache).__name__}; accepted: caches that grow (DynamicCache)")
        if conditioned and not isinstance(cache, MarsCache):
            raise ValueError(
                f"past_key_values is a {type(cache).__name__}, and a conditioned router (router_condition) needs a "
                "MarsCache, which keeps text too; accepted: None, for which the model makes one and returns it"
            )
        return cache

    def _routing(self, visual: Tensor, real: Tensor | None, cache: Cache | None) -> Routing:
        routing = Routing.build(visual)
        if not self.config.is_conditioned:
            return routing
        kept = cache.text if isinstance(cache, MarsCache) else {}
        new = torch.ones_like(visual) if real is None else real[:, -visual.shape[1] :]
        was_text = kept[0][1].to(visual.device) if kept else None
        return routing.with_blocks(build_blocks(routing, visual, new, was_text))


def _real_tokens(attention_mask: Tensor | None, visual: Tensor, past: int) -> Tensor | None:
    """bool [samples, past + length]; None without padding."""
    if attention_mask is None:
        return None
    samples, length = visual.shape
    if not isinstance(attention_mask, Tensor) or attention_mask.shape != (samples, past + length):
        found = tuple(attention_mask.shape) if isinstance(attention_mask, Tensor) else type(attention_mask).__name__
        raise ValueError(
            f"attention_mask is {found}; accepted: {(samples, past + length)}, earlier tokens included, 1 for tokens "
            "and 0 for padding. Masks for each pair of tokens do not say what padding is"
        )
    real = attention_mask.bool()
    return None if bool(real.all()) else real


def _positions(position_ids: Tensor | None, real: Tensor | None, visual: Tensor, past: int) -> Tensor:
    """int64 [samples or 1, length]: position of each token in its sample."""
    if position_ids is not None:
        if real is None and bool((position_ids.diff(dim=-1) < 0).any()):
            raise ValueError("position_ids go back: several samples packed into one row are not supported; pad instead")
        return position_ids
    length = visual.shape[1]
    if real is None:
        return torch.arange(past, past + length, device=visual.device)[None]
    return (real.long().cumsum(1) - 1).clamp(min=0)[:, -length:]


class MarsForCausalLM(MarsPreTrainedModel, MarsGenerationMixin):
    """The model with its head over the joined id space."""

    def __init__(self, config: MarsConfig) -> None:
        super().__init__(config)
        self.model = MarsModel(config)
        self.lm_head = MarsHead(config.text_vocab_size, config.num_image_rows, config.hidden_size)
        self._source = located(config.name_or_path)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        visual_mask: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits of the next token, and the loss of given labels.

        Args:
            input_ids: Joined ids int64 [samples, length].
            attention_mask: [samples, earlier + length], 0 for padding on either side.
            position_ids: [samples, length]; counted inside each sample by default.
            past_key_values: Cache of earlier tokens.
            inputs_embeds: [samples, length, hidden] instead of ids.
            visual_mask: [samples, length], for inputs_embeds: 1 where the visual expert takes the token.
            labels: int64 [samples, length]: joined ids, shifted here; -100 has no loss.
            use_cache: Return a cache; by default config.use_cache outside training.
            output_hidden_states: Return the input of every layer and the final state; by default that of config.
            output_attentions: Return the weights of every layer, from the eager attention; by default that of config.
            logits_to_keep: Number of last tokens (0 is all), or their indices.
            kwargs: For the loss (num_items_in_batch); return_dict.

        Raises:
            ValueError: Inputs that do not go together.
        """
        if "num_logits_to_keep" in kwargs:
            raise ValueError("num_logits_to_keep given; accepted: logits_to_keep")
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            visual_mask=visual_mask,
            use_cache=use_cache,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            return_dict=True,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, kept])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

"""Configuration of a MARS model in a Hugging Face folder."""

from __future__ import annotations

from typing import Any

from transformers import PretrainedConfig

# Ids behind the image codes: begin and end of an image, then four that only keep their place.
NUM_SPECIALS = 6
# Behind them the start slots of next-K-token prediction, of which begin of image is the first.
_CHOICES = {"rope_type": ("none", "linear", "llama3"), "router_condition": ("none", "text")}
_DEFAULTS: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 352,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 32,
    "qkv_bias": True,
    "qk_norm": False,
    "rms_norm_eps": 1e-6,
    "rope_base": 10000.0,
    "rope_type": "none",
    "rope_factor": 1.0,
    "rope_low_freq_factor": 1.0,
    "rope_high_freq_factor": 4.0,
    "rope_original_context": 8192,
    "text_vocab_size": 512,
    "codebook_size": 256,
    "num_text_ids": None,
    "text_experts": 1,
    "visual_experts": 1,
    "router_top_k": 1,
    "router_condition": "none",
    "expert_norms": False,
    "expert_output_projection": True,
    "image_resolution": 16,
    "image_downsample": 4,
    "image_next_k": 1,
    "image_generation": None,
    "initializer_range": 0.02,
    "use_cache": True,
}
IMAGE_GENERATION = {
    "guidance": 3.0,
    "guidance_schedule": "constant",
    "temperature": 1.0,
    "top_k": 0,
    "top_p": 1.0,
    "min_p": 0.0,
}


class MarsConfig(PretrainedConfig):
    """Shape of a MARS model (arXiv 2407.07614): a language model with a visual expert beside its text expert.

    One id space joins text and images: text ids `[0, text_vocab_size)`, then `codebook_size` image codes, then begin
    of image, end of image, four unused ids and the start slots of super-resolution. Every id from `text_vocab_size`
    on is visual.

    Args:
        hidden_size: Width of the residual stream.
        intermediate_size: Width of each SwiGLU expert.
        num_hidden_layers: Layers.
        num_attention_heads: Query heads.
        num_key_value_heads: Key and value heads.
        head_dim: Size of one head.
        qkv_bias: Whether query, key and value projections have a bias.
        qk_norm: RMSNorm of each query and key head before the rotary embedding.
        rms_norm_eps: Epsilon of every RMSNorm.
        rope_base: Base period of the rotary embedding.
        rope_type: How its frequencies are scaled: none, linear or llama3; the next four belong to it.
        rope_factor: What frequencies are divided by.
        rope_low_freq_factor: llama3: wavelengths above rope_original_context divided by this are scaled.
        rope_high_freq_factor: llama3: wavelengths below rope_original_context divided by this are kept.
        rope_original_context: llama3: context length before the scaling.
        text_vocab_size: Rows of the text tables.
        codebook_size: Image codes.
        num_text_ids: Ids of the text tokenizer, which may have fewer than there are rows; None for all rows.
        text_experts: Text FFN experts; above 1 a router chooses.
        visual_experts: Visual FFN experts; above 1 a router chooses.
        router_top_k: Experts that each token goes to.
        router_condition: What the visual router sees beside the token: none, or the text in front of it.
        expert_norms: Separate RMSNorms per modality.
        expert_output_projection: Separate attention output projections per modality.
        image_resolution: Height and width of an image in pixels.
        image_downsample: Pixels per code along each side.
        image_next_k: Codes predicted from one forward pass in super-resolution, which has as many start slots.
        image_generation: Defaults of drawing images: guidance, guidance_schedule, temperature, top_k, top_p, min_p.
        initializer_range: Standard deviation of random weights.
        use_cache: Keep keys and values outside training.
        eos_token_id: End-of-text id.
        pad_token_id: Id that fills up batches.
        bos_token_id: Begin-of-text id; None, since no sample of a MARS model has one.

    Raises:
        ValueError: A value outside what is accepted, or a derived one that does not follow from the others.
    """

    model_type = "mars"
    keys_to_ignore_at_inference = ["past_key_values"]
    attribute_map = {"attention_bias": "qkv_bias", "rope_theta": "rope_base"}
    # The same in every MARS model. Libraries look for them in any configuration.
    attention_dropout = 0.0
    hidden_act = "silu"
    sliding_window = None

    def __init__(self, **kwargs: Any) -> None:
        for name, default in _DEFAULTS.items():
            setattr(self, name, kwargs.pop(name, default))
        if self.num_text_ids is None:
            self.num_text_ids = self.text_vocab_size
        self.image_generation = {**IMAGE_GENERATION, **(self.image_generation or {})}
        self._derive(kwargs)
        self._check()
        if kwargs.pop("tie_word_embeddings", False):
            raise ValueError("tie_word_embeddings is True; accepted: False, embedding and head are tables of their own")
        ids = {name: kwargs.pop(name, None) for name in ("eos_token_id", "pad_token_id", "bos_token_id")}
        super().__init__(tie_word_embeddings=False, **ids, **kwargs)
        # Newer versions know these as settings of generation alone.
        for name, value in ids.items():
            setattr(self, name, value)

    def _derive(self, given: dict[str, Any]) -> None:
        """Set what follows from the sizes; a saved file repeats it for its readers."""
        codes_end = self.text_vocab_size + self.codebook_size
        derived = {
            "vocab_size": self.text_vocab_size + self.num_image_rows,
            "boi_token_id": codes_end,
            "eoi_token_id": codes_end + 1,
        }
        for name, value in derived.items():
            found = given.pop(name, value)
            if found != value:
                raise ValueError(f"{name} is {found}; text_vocab_size, codebook_size and image_next_k make it {value}")
            setattr(self, name, value)

    def _check(self) -> None:
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} is {getattr(self, name)!r}; accepted: {', '.join(choices)}")
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_key_value_heads is {self.num_key_value_heads}; accepted: a divisor of num_attention_heads, "
                f"which is {self.num_attention_heads}"
            )
        if not 0 < self.num_text_ids <= self.text_vocab_size:
            raise ValueError(f"num_text_ids is {self.num_text_ids}; accepted: 1 to text_vocab_size")
        if self.image_resolution % self.image_downsample:
            raise ValueError(
                f"image_resolution is {self.image_resolution}; accepted: a multiple of image_downsample, "
                f"which is {self.image_downsample}"
            )
        if self.image_next_k < 1:
            raise ValueError(f"image_next_k is {self.image_next_k}; accepted: 1 or more")
        unknown = self.image_generation.keys() - IMAGE_GENERATION.keys()
        if unknown:
            raise ValueError(f"image_generation has {sorted(unknown)}; accepted: {', '.join(IMAGE_GENERATION)}")

    @property
    def num_image_rows(self) -> int:
        """Rows of the image tables: codes, specials, start slots."""
        return self.codebook_size + NUM_SPECIALS + self.image_next_k - 1

    @property
    def is_conditioned(self) -> bool:
        """Whether a router sees the text in front of an image."""
        return self.router_condition == "text" and self.visual_experts > 1

    @property
    def image_grid(self) -> int:
        """Codes along each side of an image."""
        return self.image_resolution // self.image_downsample

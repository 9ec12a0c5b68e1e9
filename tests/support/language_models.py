"""Tiny random language models of every family that can be converted."""

from __future__ import annotations

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

SIZES = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.3,
    "attn_implementation": "eager",
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
FAMILIES: dict[str, PretrainedConfig] = {
    "qwen2": Qwen2Config(**SIZES, tie_word_embeddings=False, rms_norm_eps=1e-6),
    "qwen2, tied": Qwen2Config(**SIZES, tie_word_embeddings=True, rms_norm_eps=1e-5),
    "qwen3": Qwen3Config(
        **SIZES, tie_word_embeddings=False, head_dim=16, rope_parameters={"rope_type": "default", "rope_theta": 1e6}
    ),
    "llama": LlamaConfig(**SIZES, tie_word_embeddings=False),
    "llama, scaled, tied": LlamaConfig(**SIZES, tie_word_embeddings=True, rope_parameters=LLAMA3),
}


def language_model(name: str) -> PreTrainedModel:
    """A model with random weights; norms and biases too, which transformers starts at one and zero."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(FAMILIES[name]).eval()
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if "norm" in parameter_name or parameter_name.endswith("bias"):
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


class OriginalQwen:
    """Qwen-7B's equations as its report and configuration give them (arXiv 2309.16609), on a plain state dict.

    Pre-norm RMSNorm, one fused projection with bias to query, key and value, rotary embedding over whole heads in the
    half-rotation form, causal attention, no other bias, and an FFN w1(x) * silu(w2(x)), untied.
    """

    config = {
        "model_type": "qwen",
        "architectures": ["QWenLMHeadModel"],
        "vocab_size": 61,
        "hidden_size": 32,
        "intermediate_size": 96,  # both halves
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "kv_channels": 8,
        "layer_norm_epsilon": 1e-6,
        "rotary_emb_base": 10000,
        "rotary_pct": 1.0,
        "no_bias": True,
        "tie_word_embeddings": False,
        "seq_length": 8192,
        "use_dynamic_ntk": True,
        "use_logn_attn": True,
    }

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        hidden, half = 32, 48

        def random(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator) * 0.3

        self.weights = {"transformer.wte.weight": random(61, hidden), "lm_head.weight": random(61, hidden)}
        self.weights["transformer.ln_f.weight"] = random(hidden) + 1
        for layer in range(4):
            new = {
                "ln_1.weight": random(hidden) + 1,
                "attn.c_attn.weight": random(3 * hidden, hidden),
                "attn.c_attn.bias": random(3 * hidden),
                "attn.c_proj.weight": random(hidden, hidden),
                "ln_2.weight": random(hidden) + 1,
                "mlp.w1.weight": random(half, hidden),
                "mlp.w2.weight": random(half, hidden),
                "mlp.c_proj.weight": random(hidden, half),
            }
            self.weights |= {f"transformer.h.{layer}.{name}": value for name, value in new.items()}

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(self.config))
        save_file(self.weights, folder / "model.safetensors")

    def logits(self, ids: Tensor) -> Tensor:
        """int64 [tokens] -> [tokens, vocabulary]."""
        w = self.weights
        x = w["transformer.wte.weight"][ids]
        for layer in range(4):
            h = f"transformer.h.{layer}."
            qkv = F.linear(_rms(x, w[h + "ln_1.weight"]), w[h + "attn.c_attn.weight"], w[h + "attn.c_attn.bias"])
            query, key, value = (part.unflatten(1, (4, 8)).transpose(0, 1) for part in qkv.chunk(3, 1))
            scores = _rotate(query) @ _rotate(key).transpose(1, 2) / 8**0.5
            hidden = torch.ones_like(scores, dtype=torch.bool).triu(1)
            out = scores.masked_fill(hidden, float("-inf")).softmax(-1) @ value
            x = x + F.linear(out.transpose(0, 1).flatten(1), w[h + "attn.c_proj.weight"])
            normed = _rms(x, w[h + "ln_2.weight"])
            inner = F.linear(normed, w[h + "mlp.w1.weight"]) * F.silu(F.linear(normed, w[h + "mlp.w2.weight"]))
            x = x + F.linear(inner, w[h + "mlp.c_proj.weight"])
        return F.linear(_rms(x, w["transformer.ln_f.weight"]), w["lm_head.weight"])


def _rms(x: Tensor, weight: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * weight


def _rotate(x: Tensor) -> Tensor:
    """[heads, tokens, 8], by each token's position."""
    angle = torch.arange(x.shape[1])[:, None] / 10000 ** (torch.arange(0, 8, 2) / 8)  # [tokens, 4]
    first, second = x.chunk(2, -1)
    return torch.cat((first * angle.cos() - second * angle.sin(), second * angle.cos() + first * angle.sin()), -1)

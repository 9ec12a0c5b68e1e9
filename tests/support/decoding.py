"""What the tests of sampling draw with, and logits without a cache."""

from __future__ import annotations

import torch

from mars_megatron.config.schema import GenerationConfig, ModelConfig, RunConfig, VocabularyConfig
from mars_megatron.model import MARSModel
from mars_megatron.sampling.decoding import inference, pack_samples
from mars_megatron.sequence.vocabulary import Vocabulary

CONFIG = RunConfig(
    # Large weights: with small ones every distribution would be flat, and all answers alike.
    model=ModelConfig(
        num_layers=2, hidden_size=32, ffn_hidden_size=48, num_attention_heads=4, num_query_groups=2, init_std=0.5
    ),
    vocabulary=VocabularyConfig(text_size=29, codebook_size=16),
    generation=GenerationConfig(max_caption_tokens=12),
)
NUM_CODES = 9
PROMPTS = [[3, 4, 5], [7], [], [1, 2, 3, 4, 5, 6, 7], [28, 27]]


def draw_routers(model: MARSModel) -> None:
    """Give decided routers: as drawn, they choose by a hair, and do not look at the text at all."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".router." in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator))


def whole_forward(model: MARSModel, vocabulary: Vocabulary, samples: list[list[int]]) -> list[torch.Tensor]:
    """Logits of every token of each sample, without a cache."""
    batch = pack_samples(samples, vocabulary, every_token=True)
    with inference(model):
        logits = model(batch, return_logits=True)
    return list(logits.split([len(sample) for sample in samples]))

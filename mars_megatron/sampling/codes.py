"""Drawing the codes of images behind given beginnings."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tqdm import tqdm

from mars_megatron.config.schema import GenerationConfig
from mars_megatron.model import MARSModel
from mars_megatron.sampling.decoding import Decoder, agree, chooser
from mars_megatron.sampling.draws import guidance_at, guide
from mars_megatron.sequence import VISUAL
from mars_megatron.sequence.vocabulary import Vocabulary


def draw_codes(
    model: MARSModel,
    beginnings: Sequence[Sequence[int]],
    unconditional: Sequence[Sequence[int]],
    vocabulary: Vocabulary,
    noise: torch.Tensor,
    config: GenerationConfig,
    bar: tqdm,
    per_step: int = 1,
) -> torch.Tensor:
    """Draw the codes of one batch of images, in the order of prediction; called inside `inference`.

    Nothing but codes can be drawn.

    Args:
        model: The whole model.
        beginnings: Joined ids of each sample up to the image: they end in its BOI, or its start slots.
        unconditional: The same without the prompt, for guidance; not looked at where that is off.
        vocabulary: Layout of the joined ids.
        noise: float64 [samples, codes], the random numbers.
        config: Guidance and its schedule, temperature, top_k, top_p, min_p.
        bar: Is advanced by the codes drawn.
        per_step: Codes of a sample drawn from one forward pass; divides the codes.

    Returns:
        Codes int64 [samples, codes] on the device of the model.
    """
    num_samples, num_codes = noise.shape
    assert num_codes % per_step == 0, (num_codes, per_step)
    guided = config.guidance != 1
    samples = [*beginnings, *unconditional] if guided else list(beginnings)
    # The last codes are drawn, but never read.
    decoder = Decoder(model, vocabulary, samples, VISUAL, num_codes - per_step, per_step)
    logits = decoder.start()
    # [steps, samples * per_step]
    numbers = noise.to(logits.device).unflatten(1, (-1, per_step)).transpose(0, 1).flatten(1)
    choose = chooser(config)
    steps: list[torch.Tensor] = []
    while True:
        logits = logits[:, : vocabulary.codebook_size]
        if guided:
            conditional, without = logits.chunk(2)
            scale = guidance_at(len(steps), len(numbers), config.guidance, config.guidance_schedule)
            logits = guide(conditional, without, scale)
        steps.append(agree(choose(logits, numbers[len(steps)]), model))
        bar.update(num_samples * per_step)
        if len(steps) == len(numbers):
            return torch.cat([step.view(num_samples, per_step) for step in steps], dim=1)
        ids = vocabulary.code_to_id(steps[-1])
        logits = decoder.step(torch.cat((ids, ids)) if guided else ids)

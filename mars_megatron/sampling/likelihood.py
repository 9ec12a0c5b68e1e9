"""How probable a model finds a text as the caption of an image."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch

from mars_megatron import platform
from mars_megatron.model import MARSModel
from mars_megatron.sampling.batches import pack_samples
from mars_megatron.sampling.decoding import agree, inference, row_multiple
from mars_megatron.sequence.vocabulary import Vocabulary


def caption_likelihood(
    model: MARSModel,
    captions: Sequence[Sequence[int]],
    codes: torch.Tensor,
    vocabulary: Vocabulary,
    batch_size: int,
    *,
    num_text_ids: int | None = None,
) -> torch.Tensor:
    """Mean log probability of a caption's tokens behind BOI codes EOI, among the text ids.

    Every tensor-parallel rank must call it, and gets the same.

    Args:
        model: The whole model (parallel.pipeline 1); put back in the mode it came in.
        captions: Text ids of the caption of each image; none empty.
        codes: int64 [N, codes], row by row.
        vocabulary: Layout of the joined ids.
        batch_size: Images looked at together.
        num_text_ids: Ids that may occur are those below it, where the tokenizer has fewer than the model.

    Returns:
        float64 [N] on the CPU, in nats per token, 0 at most.

    Raises:
        ValueError: The model is split over pipeline stages, or a caption is empty.
    """
    if not all(len(caption) > 0 for caption in captions):
        number = [len(caption) for caption in captions].index(0)
        raise ValueError(f"caption {number} is empty; accepted: captions of at least one token")
    num_text_ids = vocabulary.text_size if num_text_ids is None else num_text_ids
    images = vocabulary.frame(codes.cpu()).tolist()
    by_length: dict[int, list[int]] = defaultdict(list)
    for number, caption in enumerate(captions):
        by_length[len(caption)].append(number)
    scores = torch.zeros(len(captions), dtype=torch.float64)
    with inference(model):
        for length, of_length in by_length.items():
            for start in range(0, len(of_length), batch_size):
                part = of_length[start : start + batch_size]
                # The last token of a caption predicts nothing of it.
                samples = [[*images[number], *captions[number][:-1]] for number in part]
                batch = pack_samples(samples, vocabulary, row_multiple(model), num_last=length)
                logits = model(batch.to(platform.device()), return_logits=True)[:, :num_text_ids]
                targets = torch.tensor([captions[number] for number in part], device=logits.device)
                found = logits.double().log_softmax(dim=-1).gather(1, targets.flatten()[:, None])
                scores[part] = agree(found.view(len(part), length).mean(dim=1), model).cpu()
    return scores

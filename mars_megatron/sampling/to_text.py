"""Text that continues a prefix, captions of images, and how probable a caption is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch

from mars_megatron import platform
from mars_megatron.config.schema import GenerationConfig
from mars_megatron.model import MARSModel
from mars_megatron.sampling.decoding import Decoder, agree, ids_sampler, inference, pack_samples, row_multiple
from mars_megatron.sampling.logits_to_ids import uniforms
from mars_megatron.sequence import TEXT
from mars_megatron.sequence.vocabulary import Vocabulary


def sample_text(
    model: MARSModel,
    prefixes: Sequence[Sequence[int]],
    vocabulary: Vocabulary,
    eos_id: int,
    config: GenerationConfig,
    *,
    num_text_ids: int | None = None,
) -> list[list[int]]:
    """Continue each prefix with text ids until EOS, or with config.max_caption_tokens of them.

    Every tensor-parallel rank must call it, and gets the same.

    Args:
        model: The whole model (parallel.pipeline 1); put back in the mode it came in.
        prefixes: Joined ids, the same on every rank; none empty.
        vocabulary: Layout of the joined ids.
        eos_id: End-of-text id of the text tokenizer.
        config: Temperature (0 is greedy), top_k, top_p, min_p, seed, batch_size, max_caption_tokens. Guidance is not
            used.
        num_text_ids: Ids that may occur are those below it, where the tokenizer has fewer than the model.

    Returns:
        The new text ids, without EOS.

    Raises:
        ValueError: The model is split over pipeline stages.
    """
    num_text_ids = vocabulary.text_size if num_text_ids is None else num_text_ids
    results: list[list[int]] = []
    with inference(model):
        for start in range(0, len(prefixes), config.batch_size):
            part = range(start, min(start + config.batch_size, len(prefixes)))
            decoder = Decoder(
                model, vocabulary, prefixes[start : part.stop], TEXT, max_new_tokens=config.max_caption_tokens
            )
            noise = uniforms([(config.seed, index) for index in part], config.max_caption_tokens)
            results += _write(model, decoder, num_text_ids, eos_id, noise, config)
    return results


def _write(
    model: MARSModel,
    decoder: Decoder,
    num_text_ids: int,
    eos_id: int,
    noise: torch.Tensor,
    config: GenerationConfig,
) -> list[list[int]]:
    """One batch; noise is float64 [samples, max_caption_tokens]."""
    num_samples, max_tokens = noise.shape
    logits = decoder.start()
    noise = noise.to(logits.device)
    choose = ids_sampler(config)
    ended = torch.zeros(num_samples, dtype=torch.bool, device=logits.device)
    steps: list[torch.Tensor] = []
    while True:
        ids = agree(choose(logits[:, :num_text_ids], noise[:, len(steps)]), model)
        ids = ids.masked_fill(ended, eos_id)  # what follows an end is never looked at
        steps.append(ids)
        ended = ended | (ids == eos_id)
        if len(steps) == max_tokens or bool(ended.all()):
            break
        logits = decoder.step(ids)
    written = torch.stack(steps, dim=1).tolist()
    return [ids[: ids.index(eos_id)] if eos_id in ids else ids for ids in written]


def sample_captions(
    model: MARSModel,
    codes: torch.Tensor,
    vocabulary: Vocabulary,
    eos_id: int,
    config: GenerationConfig,
    *,
    num_text_ids: int | None = None,
) -> list[list[int]]:
    """Caption images: the text after BOI codes EOI, as `sample_text` writes it.

    Args:
        model: The whole model (parallel.pipeline 1); put back in the mode it came in.
        codes: int64 [N, codes], row by row. Those of the first tensor-parallel rank count.
        vocabulary: Layout of the joined ids.
        eos_id: End-of-text id of the text tokenizer.
        config: See `sample_text`.
        num_text_ids: See `sample_text`.

    Returns:
        Text ids of each caption, without EOS.

    Raises:
        ValueError: The model is split over pipeline stages.
    """
    # Ranks that encoded the images on their own may differ in a code.
    images = vocabulary.frame(agree(codes.to(platform.device()), model).cpu()).tolist()
    return sample_text(model, images, vocabulary, eos_id, config, num_text_ids=num_text_ids)


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

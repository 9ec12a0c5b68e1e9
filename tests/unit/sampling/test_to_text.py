"""Image to text."""

from __future__ import annotations

from dataclasses import replace

import torch

from mars_megatron.config.schema import GenerationConfig
from mars_megatron.model import MARSModel
from mars_megatron.sampling import sample_captions
from mars_megatron.sampling.decoding import inference, pack_samples
from mars_megatron.sequence.vocabulary import Vocabulary
from tests.support.decoding import NUM_CODES

GREEDY = GenerationConfig(temperature=0, max_caption_tokens=10)
CODES = torch.randint(0, 16, (6, NUM_CODES), generator=torch.Generator().manual_seed(1))
NEVER = -1  # as eos_id: no caption ends


def best_text_id(model: MARSModel, vocabulary: Vocabulary, sample: list[int]) -> int:
    with inference(model):
        logits = model(pack_samples([sample], vocabulary), return_logits=True)
    return int(logits[0, : vocabulary.text_size].argmax())


def test_greedy_ids_are_those_of_the_whole_forward(model: MARSModel, vocabulary: Vocabulary) -> None:
    captions = sample_captions(model, CODES, vocabulary, NEVER, GREEDY)
    assert [len(caption) for caption in captions] == [10] * len(CODES)
    for image, caption in zip(CODES, captions, strict=True):
        begin = [vocabulary.boi, *vocabulary.code_to_id(image).tolist(), vocabulary.eoi]
        for number, token in enumerate(caption):
            assert token == best_text_id(model, vocabulary, [*begin, *caption[:number]])


def test_captions_end_at_eos(model: MARSModel, vocabulary: Vocabulary) -> None:
    endless = sample_captions(model, CODES, vocabulary, NEVER, GREEDY)
    eos_id = endless[0][3]  # an id that some captions have, at different places
    expected = [ids[: ids.index(eos_id)] if eos_id in ids else ids for ids in endless]
    assert len({len(ids) for ids in expected}) > 1
    assert sample_captions(model, CODES, vocabulary, eos_id, GREEDY) == expected


def test_result_depends_on_seed_but_not_on_batch_size(model: MARSModel, vocabulary: Vocabulary) -> None:
    sampled = GenerationConfig(seed=1, max_caption_tokens=10)
    captions = sample_captions(model, CODES, vocabulary, 0, sampled)
    assert sample_captions(model, CODES, vocabulary, 0, replace(sampled, batch_size=4)) == captions
    assert sample_captions(model, CODES, vocabulary, 0, replace(sampled, seed=2)) != captions


def test_mode_is_restored(model: MARSModel, vocabulary: Vocabulary) -> None:
    model.train()
    sample_captions(model, CODES[:1], vocabulary, 0, GREEDY)
    assert model.training
    model.eval()


def test_ids_that_the_tokenizer_has_not_never_occur(model: MARSModel, vocabulary: Vocabulary) -> None:
    config = replace(GREEDY, temperature=5.0)
    every = sample_captions(model, CODES, vocabulary, NEVER, config)
    some = sample_captions(model, CODES, vocabulary, NEVER, config, num_text_ids=7)
    assert max(map(max, every)) >= 7 > max(map(max, some))

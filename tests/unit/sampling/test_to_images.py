"""Text to image."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mars_megatron.config.schema import GenerationConfig
from mars_megatron.model import MARSModel
from mars_megatron.sampling import sample_images
from mars_megatron.sampling.decoding import inference, pack_samples
from mars_megatron.sequence.vocabulary import Vocabulary
from tests.support.decoding import NUM_CODES, PROMPTS

SAMPLED = GenerationConfig(seed=3, temperature=3.0)


def test_codes_fill_the_grid(model: MARSModel, vocabulary: Vocabulary) -> None:
    codes = sample_images(model, PROMPTS, vocabulary, NUM_CODES, SAMPLED)
    assert codes.shape == (len(PROMPTS), NUM_CODES) and codes.dtype == torch.int64
    assert 0 <= codes.min() and codes.max() < vocabulary.codebook_size
    assert len(codes.unique()) > 4


@pytest.mark.parametrize("guidance", [0.0, 1.0, 2.5])
def test_greedy_codes_are_those_of_the_whole_forward(model: MARSModel, vocabulary: Vocabulary, guidance: float) -> None:
    config = GenerationConfig(temperature=0, guidance=guidance)
    codes = sample_images(model, PROMPTS, vocabulary, NUM_CODES, config)
    for prompt, image in zip(PROMPTS, codes, strict=True):
        ids = vocabulary.code_to_id(image).tolist()
        for number, code in enumerate(image.tolist()):
            seen = [vocabulary.boi, *ids[:number]]
            batch = pack_samples([[*prompt, *seen], seen], vocabulary)
            with inference(model):
                logits = model(batch, return_logits=True)
            conditional, unconditional = logits[:, vocabulary.text_size : vocabulary.text_size + 16]
            best = (unconditional + guidance * (conditional - unconditional)).argmax()
            assert code == best, (prompt, number)


def test_result_depends_on_seed_but_not_on_batch_size(model: MARSModel, vocabulary: Vocabulary) -> None:
    codes = sample_images(model, PROMPTS, vocabulary, NUM_CODES, SAMPLED)
    for batch_size in (1, 2, 3):
        config = replace(SAMPLED, batch_size=batch_size)
        assert torch.equal(sample_images(model, PROMPTS, vocabulary, NUM_CODES, config), codes)
    other = sample_images(model, PROMPTS, vocabulary, NUM_CODES, replace(SAMPLED, seed=4))
    assert (other != codes).float().mean() > 0.3


def test_an_image_is_the_same_alone_and_in_any_batch(model: MARSModel, vocabulary: Vocabulary) -> None:
    prompts, seeds, numbers = [PROMPTS[0], PROMPTS[3], PROMPTS[0], PROMPTS[1]], [7, 8, 7, 7], [0, 1, 2, 5]
    together = sample_images(model, prompts, vocabulary, NUM_CODES, SAMPLED, seeds=seeds, numbers=numbers)
    for place in range(4):
        how = replace(SAMPLED, seed=seeds[place])
        alone = sample_images(model, [prompts[place]], vocabulary, NUM_CODES, how, numbers=[numbers[place]])
        assert torch.equal(alone[0], together[place])
    back = sample_images(model, prompts[::-1], vocabulary, NUM_CODES, SAMPLED, seeds=seeds[::-1], numbers=numbers[::-1])
    assert torch.equal(back, together.flip(0))
    assert len(together.unique(dim=0)) == 4


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_guidance_schedule(model: MARSModel, vocabulary: Vocabulary, schedule: str) -> None:
    config = GenerationConfig(temperature=0, guidance=5.0, guidance_schedule=schedule)
    codes = sample_images(model, PROMPTS, vocabulary, NUM_CODES, config)
    # Without guidance the first code is the same, and images differ later.
    plain = sample_images(model, PROMPTS, vocabulary, NUM_CODES, replace(config, guidance=1.0))
    constant = sample_images(model, PROMPTS, vocabulary, NUM_CODES, replace(config, guidance_schedule="constant"))
    assert torch.equal(codes[:, 0], plain[:, 0])
    assert not torch.equal(codes, plain) and not torch.equal(codes, constant)


def test_same_prompt_twice_gives_two_images(model: MARSModel, vocabulary: Vocabulary) -> None:
    first, second = sample_images(model, [PROMPTS[0]] * 2, vocabulary, NUM_CODES, SAMPLED)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("training", [True, False])
def test_mode_is_restored(model: MARSModel, vocabulary: Vocabulary, training: bool) -> None:
    model.train(training)
    sample_images(model, PROMPTS[:1], vocabulary, NUM_CODES, SAMPLED)
    assert model.training == model.decoder.training == training
    model.eval()


def test_no_prompts_no_images(model: MARSModel, vocabulary: Vocabulary) -> None:
    assert sample_images(model, [], vocabulary, NUM_CODES, SAMPLED).shape == (0, NUM_CODES)


def test_ids_that_are_no_text_are_refused(model: MARSModel, vocabulary: Vocabulary) -> None:
    with pytest.raises(ValueError, match=r"prompt 1 has the ids \[2, 29\]; accepted: 0 to 28"):
        sample_images(model, [[1], [2, 29]], vocabulary, NUM_CODES, SAMPLED)

"""How probable a text is as the caption of an image."""

from __future__ import annotations

import pytest
import torch

from mars_megatron.model import MARSModel
from mars_megatron.sampling.decoding import inference, pack_samples
from mars_megatron.sampling.to_text import caption_likelihood
from mars_megatron.sequence.vocabulary import Vocabulary
from tests.support.decoding import NUM_CODES, PROMPTS

CODES = torch.randint(0, 16, (4, NUM_CODES), generator=torch.Generator().manual_seed(0))
CAPTIONS = [PROMPTS[0], PROMPTS[3], PROMPTS[0][::-1], PROMPTS[1]]


@pytest.mark.parametrize("num_text_ids", [None, 9])
def test_is_that_of_the_whole_forward(model: MARSModel, vocabulary: Vocabulary, num_text_ids: int | None) -> None:
    scores = caption_likelihood(model, CAPTIONS, CODES, vocabulary, 3, num_text_ids=num_text_ids)
    for caption, codes, score in zip(CAPTIONS, CODES, scores, strict=True):
        image = [vocabulary.boi, *vocabulary.code_to_id(codes).tolist(), vocabulary.eoi]
        batch = pack_samples([[*image, *caption]], vocabulary, every_token=True)
        with inference(model):
            logits = model(batch, return_logits=True)[:, : num_text_ids or vocabulary.text_size]
        probabilities = logits.double().log_softmax(1)
        want = sum(probabilities[len(image) - 1 + place, token] for place, token in enumerate(caption)) / len(caption)
        assert score == pytest.approx(float(want), abs=1e-5) and score < 0


def test_empty_captions_are_refused(model: MARSModel, vocabulary: Vocabulary) -> None:
    with pytest.raises(ValueError, match="caption 1 is empty"):
        caption_likelihood(model, [[1], []], CODES[:2], vocabulary, 2)
    assert caption_likelihood(model, [], CODES[:0], vocabulary, 2).shape == (0,)

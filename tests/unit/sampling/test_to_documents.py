"""Writing and drawing in one go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from mars_megatron import platform
from mars_megatron.config.schema import GenerationConfig
from mars_megatron.model import MARSModel, build_model
from mars_megatron.platform.parallel import initialize_parallel
from mars_megatron.sampling.decoding import MixedDecoder
from mars_megatron.sampling.to_documents import Joint, Request, sample_documents
from mars_megatron.sequence.vocabulary import Vocabulary
from tests.support.decoding import CONFIG, NUM_CODES, whole_forward

EOS, NUM_TEXT = 1, 27
GREEDY = GenerationConfig(temperature=0, text_temperature=0, guidance=2.0)
WARM = GenerationConfig(temperature=1.5, text_temperature=3.0, guidance=2.0, seed=99)


@pytest.fixture(scope="module")
def model(vocabulary: Vocabulary) -> MARSModel:
    """One that begins images now and then: its logit of BOI is large, of either sign."""
    platform.initialize("auto")
    (model,) = build_model(CONFIG, initialize_parallel(CONFIG.parallel, 1))
    with torch.no_grad():
        model.head.visual.weight[vocabulary.image_row(vocabulary.boi)] *= 3
    return model


@pytest.fixture
def joint(vocabulary: Vocabulary) -> Joint:
    return Joint(vocabulary, NUM_CODES, EOS, NUM_TEXT)


@pytest.fixture
def requests(vocabulary: Vocabulary) -> list[Request]:
    """Ragged prefixes with images at every place."""
    image = [vocabulary.boi, *range(30, 30 + NUM_CODES), vocabulary.eoi]
    return [
        Request([3, 4, 5], seed=1, max_images=2, max_text_tokens=14),
        Request([*image, 7, 8], seed=2, max_images=3, max_text_tokens=20),
        Request([9, *image, *image], seed=3, max_images=1, max_text_tokens=9),
        Request([26], seed=4, max_images=0, max_text_tokens=12),
        Request(image, seed=5, max_images=2, max_text_tokens=30, stop_after_image=True),
    ]


def check_form(written: Sequence[int], request: Request, joint: Joint) -> tuple[int, int]:
    """Images are whole and text is text; numbers of images and text tokens."""
    boi, eoi, codes = joint.vocabulary.boi, joint.vocabulary.eoi, joint.vocabulary.text_size
    images = words = at = 0
    while at < len(written):
        if written[at] == boi:
            image = written[at : at + NUM_CODES + 2]
            assert image[-1] == eoi and all(codes <= token < boi for token in image[1:-1])
            images, at = images + 1, at + len(image)
        else:
            assert written[at] < NUM_TEXT and written[at] != EOS
            words, at = words + 1, at + 1
    assert images <= request.max_images and words <= request.max_text_tokens
    return images, words


def replay(
    model: MARSModel, request: Request, written: Sequence[int], joint: Joint, guidance: float, eos_id: int = EOS
) -> list[int]:
    """The greedy choice at each place that was drawn, from whole forwards without a cache."""
    vocabulary, begin = joint.vocabulary, len(request.ids)
    document = [*request.ids, *written]
    (logits,) = whole_forward(model, vocabulary, [document])
    chosen, images, at = [], 0, begin
    first, end = vocabulary.text_size, vocabulary.text_size + vocabulary.codebook_size
    while at < len(document):
        if document[at] == vocabulary.boi:
            start = at
        if first <= document[at] < end:
            (alone,) = whole_forward(model, vocabulary, [document[start:at]])
            scores = alone[-1, first:end] + guidance * (logits[at - 1, first:end] - alone[-1, first:end])
            chosen.append(first + int(scores.argmax()))
        elif document[at] == vocabulary.eoi:
            images += 1
            chosen.append(vocabulary.eoi)
        else:
            scores = logits[at - 1].clone()
            scores[NUM_TEXT:] = float("-inf")
            if images < request.max_images:
                scores[vocabulary.boi] = logits[at - 1, vocabulary.boi]
            chosen.append(int(scores.argmax()))
        at += 1
    return chosen


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_greedy_ids_are_those_of_whole_forwards(
    model: MARSModel, joint: Joint, requests: list[Request], guidance: float
) -> None:
    config = replace(GREEDY, guidance=guidance)
    written = sample_documents(model, requests, joint, config)
    for request, ids in zip(requests, written, strict=True):
        assert ids == replay(model, request, ids, joint, guidance)
    assert any(joint.vocabulary.boi in ids for ids in written), "some document must draw for this to test anything"


def test_documents_have_their_form(model: MARSModel, joint: Joint, requests: list[Request]) -> None:
    found = [
        check_form(ids, request, joint)
        for request, ids in zip(requests, sample_documents(model, requests, joint, WARM), strict=True)
    ]
    assert sum(images for images, _ in found) >= 2 and sum(words for _, words in found) >= 10


def test_one_document_stops_behind_its_image(model: MARSModel, joint: Joint, vocabulary: Vocabulary) -> None:
    endless = [Request([3, 4], seed=seed, max_images=2, max_text_tokens=40) for seed in range(8)]
    whole = sample_documents(model, endless, joint, WARM)
    short = sample_documents(model, [replace(request, stop_after_image=True) for request in endless], joint, WARM)
    cut = [ids[: ids.index(vocabulary.eoi) + 1] if vocabulary.eoi in ids else ids for ids in whole]
    assert short == cut and short != whole


def test_a_document_does_not_depend_on_the_others(model: MARSModel, joint: Joint, requests: list[Request]) -> None:
    together = sample_documents(model, requests, joint, WARM)
    assert sample_documents(model, requests[::-1], joint, replace(WARM, batch_size=2))[::-1] == together
    assert sample_documents(model, requests[1:2], joint, replace(WARM, seed=0)) == together[1:2]
    other = sample_documents(model, [replace(request, seed=7) for request in requests], joint, WARM)
    assert all(a != b for a, b in zip(other, together, strict=True))


def test_whoever_is_finished_makes_no_step_one_of_both_modalities(
    model: MARSModel, joint: Joint, requests: list[Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, step = [], MixedDecoder.step

    def seen(decoder: MixedDecoder, ids: Sequence[int], goes_on: Sequence[bool]) -> torch.Tensor:
        steps.append([(token >= joint.vocabulary.text_size, on) for token, on in zip(ids, goes_on, strict=True)])
        return step(decoder, ids, goes_on)

    config = replace(WARM, guidance=1.0)
    endless = [Request([3, 4], seed=seed, max_text_tokens=40) for seed in range(8)]
    drawing = [joint.vocabulary.boi in ids for ids in sample_documents(model, endless, joint, config)].index(True)
    short = [replace(request, max_text_tokens=1, max_images=0) for request in requests[:3]]
    monkeypatch.setattr(MixedDecoder, "step", seen)
    written = sample_documents(model, [*short, endless[drawing]], joint, config)
    assert joint.vocabulary.boi in written[-1] and any(not on for _, on in steps[-1])
    for tokens in steps:
        assert {visual for visual, on in tokens if not on} <= {visual for visual, on in tokens if on}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(ids=[]), "request 1 is empty"),
        (dict(max_text_tokens=0), "max_text_tokens of request 1 is 0; accepted: 1 or more"),
        (dict(max_images=-1), "max_images of request 1 is -1; accepted: 0 or more"),
        (dict(seed=-1), "seed of request 1 is -1"),
    ],
)
def test_requests_that_mean_nothing_are_refused(model: MARSModel, joint: Joint, change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sample_documents(model, [Request([3]), replace(Request([3]), **change)], joint, GREEDY)

"""Super-resolution: K codes at once with the cache are what full forwards of the trained layout give."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mars_megatron.config.schema import GenerationConfig, ImageConfig
from mars_megatron.model import MARSModel, build_model
from mars_megatron.platform.parallel import initialize_parallel
from mars_megatron.sampling import upscale
from mars_megatron.sampling.decoding import Decoder, inference, pack_samples
from mars_megatron.sampling.logits_to_ids import guide
from mars_megatron.sequence.code_order import code_order
from mars_megatron.sequence.samples import SR, make_sample
from mars_megatron.sequence.vocabulary import Vocabulary
from tests.support.decoding import CONFIG, PROMPTS
from tests.support.tiny import one_rank

IMAGES = {
    "plain": ImageConfig(resolution=16, low_resolution=8, next_k=1),
    "raster": ImageConfig(resolution=16, low_resolution=8, next_k=4),
    "regions": ImageConfig(resolution=16, low_resolution=8, next_k=4, order="regions"),
    "eight": ImageConfig(resolution=16, low_resolution=8, next_k=8, order="regions"),
}
GREEDY = GenerationConfig(temperature=0.0, guidance=1.0, batch_size=3)


@pytest.fixture(scope="module", params=IMAGES, name="image")
def _image(request: pytest.FixtureRequest) -> ImageConfig:
    return IMAGES[request.param]


@pytest.fixture(scope="module", name="slotted")
def _slotted(image: ImageConfig) -> MARSModel:
    one_rank()
    config = replace(CONFIG, image=image)
    (model,) = build_model(config, initialize_parallel(config.parallel, 1))
    return model


@pytest.fixture(scope="module", name="low")
def _low() -> torch.Tensor:
    return torch.randint(
        0, CONFIG.vocabulary.codebook_size, (len(PROMPTS), 4), generator=torch.Generator().manual_seed(0)
    )


def trained_layout(model: MARSModel, image: ImageConfig, low: torch.Tensor, codes: torch.Tensor, with_text: bool):
    """Logits of the high-resolution codes, [samples, codes in the order of prediction, codebook], in one forward."""
    vocabulary, samples, firsts = model.vocabulary, [], []
    for prompt, small, large in zip(PROMPTS, low.numpy(), codes.numpy(), strict=True):
        text = torch.tensor(prompt, dtype=torch.int64).numpy() if with_text else None
        inputs, _, mask = make_sample(SR, text, large, vocabulary, 1, small, code_order(image))
        samples.append(inputs.tolist())
        firsts.append(int(mask.argmax()))
    with inference(model):
        logits = model(pack_samples(samples, vocabulary, every_token=True), return_logits=True)
    size, start = codes.shape[1], vocabulary.text_size
    by_sample = logits[:, start : start + vocabulary.codebook_size].split([len(sample) for sample in samples])
    return torch.stack([rows[first : first + size] for rows, first in zip(by_sample, firsts, strict=True)])


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_greedy_codes_are_those_of_full_forwards(
    slotted: MARSModel, image: ImageConfig, low: torch.Tensor, guidance: float
) -> None:
    settings = replace(GREEDY, guidance=guidance)
    codes = upscale(slotted, low, PROMPTS, slotted.vocabulary, image, settings)
    assert len({tuple(row) for row in codes.tolist()}) == len(PROMPTS)
    logits = trained_layout(slotted, image, low, codes, with_text=True)
    if guidance != 1:
        logits = guide(logits, trained_layout(slotted, image, low, codes, with_text=False), guidance)
    assert torch.equal(logits.argmax(-1), codes[:, code_order(image)])


def test_cached_logits_equal_full_forwards_and_k_codes_take_one_pass(
    slotted: MARSModel, image: ImageConfig, low: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = []
    for name in ("start", "step"):
        method = getattr(Decoder, name)
        monkeypatch.setattr(Decoder, name, lambda *given, method=method: passes.append(1) or method(*given))
    codes = upscale(slotted, low, PROMPTS, slotted.vocabulary, image, replace(GREEDY, batch_size=8))
    assert len(passes) == codes.shape[1] // image.next_k
    monkeypatch.undo()

    vocabulary, order = slotted.vocabulary, torch.from_numpy(code_order(image))
    prefixes = [
        [vocabulary.boi, *vocabulary.code_to_id(small).tolist(), vocabulary.eoi, *prompt, *vocabulary.start_slots]
        for small, prompt in zip(low, PROMPTS, strict=True)
    ]
    ids = vocabulary.code_to_id(codes[:, order]).unflatten(1, (-1, image.next_k))  # [samples, steps, K]
    decoder = Decoder(slotted, vocabulary, prefixes, 1, codes.shape[1] - image.next_k, image.next_k)
    with inference(slotted):
        steps = [decoder.start(), *(decoder.step(ids[:, step].flatten()) for step in range(ids.shape[1] - 1))]
    cached = torch.stack([step.unflatten(0, (len(PROMPTS), -1)) for step in steps], 1).flatten(1, 2)
    whole = trained_layout(slotted, image, low, codes, with_text=True)
    torch.testing.assert_close(cached[..., : vocabulary.codebook_size], whole, rtol=1e-4, atol=1e-4)


def test_what_a_sample_gets_does_not_depend_on_its_batch(
    slotted: MARSModel, image: ImageConfig, low: torch.Tensor
) -> None:
    settings = GenerationConfig(guidance=2.0, seed=4, batch_size=2)
    together = upscale(slotted, low, PROMPTS, slotted.vocabulary, image, settings)
    assert torch.equal(
        together, upscale(slotted, low, PROMPTS, slotted.vocabulary, image, replace(settings, batch_size=5))
    )
    alone = upscale(slotted, low[3:4], PROMPTS[3:4], slotted.vocabulary, image, settings, numbers=[0])
    assert torch.equal(alone[0], together[3])


def test_wrong_sizes_are_refused(model: MARSModel, low: torch.Tensor, vocabulary: Vocabulary) -> None:
    with pytest.raises(ValueError, match="image.low_resolution is 0: this model has not learned super-resolution"):
        upscale(model, low, PROMPTS, vocabulary, ImageConfig(), GREEDY)
    with pytest.raises(ValueError, match=r"shape \[5, 4\] for 5 prompts; .* 9 codes per image"):
        upscale(model, low, PROMPTS, vocabulary, ImageConfig(resolution=24, low_resolution=12), GREEDY)

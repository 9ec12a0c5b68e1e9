"""Images and captions of the exported model are those of the trained one."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from mars_megatron.config.schema import ExpertsConfig, GenerationConfig, ImageConfig, RouterConfig, RunConfig
from mars_megatron.generation import generate_captions, generate_images
from mars_megatron.huggingface.generation_mars import TextIdsOnly
from mars_megatron.huggingface.modeling_mars import MarsForCausalLM
from mars_megatron.model import MARSModel, build_model
from mars_megatron.tokenizers.vocabulary import Vocabulary
from tests.unit.generation.conftest import CONFIG, NUM_CODES, PROMPTS
from tests.unit.huggingface.conftest import Exported, greedy_captions
from tests.unit.huggingface.exported import export
from tests.unit.model.tiny import one_rank

SQUARE = replace(CONFIG, image=ImageConfig(resolution=12, downsample=4))  # 3 x 3 codes
CONDITIONED = replace(SQUARE, experts=ExpertsConfig(visual=4), router=RouterConfig(condition="text"))
VOCABULARY = Vocabulary.from_config(CONFIG)
DRAWING = ("guidance_schedule", "temperature", "top_k", "top_p", "min_p", "seed")


def pair(config: RunConfig) -> tuple[MARSModel, MarsForCausalLM]:
    (model,) = build_model(config, one_rank())
    with torch.no_grad():  # drawn routers are undecided, and blind to the text
        for name, parameter in model.named_parameters():
            if ".router." in name:
                torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(1))
    return model, export(model, config)


@pytest.mark.parametrize("config", [SQUARE, CONDITIONED], ids=["plain", "conditioned"])
@pytest.mark.parametrize(
    "settings",
    [
        GenerationConfig(seed=3, temperature=3.0, guidance=2.5),
        GenerationConfig(seed=4, temperature=2.0, guidance=1.0, top_k=6, top_p=0.8),
        GenerationConfig(seed=5, temperature=3.0, guidance=4.0, guidance_schedule="cosine", min_p=0.05),
        GenerationConfig(temperature=0, guidance=0.5),
    ],
    ids=["guided", "truncated", "scheduled", "greedy"],
)
def test_image_codes_are_those_of_the_trained_model(config: RunConfig, settings: GenerationConfig) -> None:
    model, exported = pair(config)
    want = generate_images(model, PROMPTS, VOCABULARY, NUM_CODES, settings)
    how = {name: value for name, value in asdict(settings).items() if name in DRAWING}
    for batch_size in (8, 2):
        got = exported.generate_image_codes(PROMPTS, guidance_scale=settings.guidance, batch_size=batch_size, **how)
        assert torch.equal(got, want)
    some = exported.generate_image_codes(PROMPTS[1:3], guidance_scale=settings.guidance, numbers=[0, 0], **how)
    assert torch.equal(some, want[1:3])
    assert len(want.unique(dim=0)) > 1


def test_settings_left_out_are_the_configurations() -> None:
    _, exported = pair(SQUARE)
    how = {"guidance_schedule": "linear", "temperature": 2.0, "top_k": 5, "top_p": 0.9, "min_p": 0.01}
    exported.config.image_generation = {"guidance": 1.5, **how}
    given = exported.generate_image_codes(PROMPTS, guidance_scale=1.5, **how)
    assert torch.equal(exported.generate_image_codes(PROMPTS), given)
    assert not torch.equal(exported.generate_image_codes(PROMPTS, temperature=5.0, top_k=0), given)
    assert not torch.equal(exported.generate_image_codes(PROMPTS, seed=1), given)


def test_drawing_leaves_mode_and_gradients_alone() -> None:
    _, exported = pair(SQUARE)
    exported.train().gradient_checkpointing_enable()
    want = exported.generate_image_codes(PROMPTS[:1])
    assert exported.training and exported.model.training and torch.is_grad_enabled()
    assert torch.equal(exported.eval().generate_image_codes(PROMPTS[:1]), want)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -1.0}, "temperature is -1.0; accepted: 0 or more"),
        ({"top_p": 0.0}, "top_p is 0.0; accepted: above 0, at most 1"),
        ({"top_k": -2}, "top_k is -2"),
        ({"min_p": 1.5}, "min_p is 1.5; accepted: from 0 to 1"),
        ({"guidance_schedule": "square"}, "guidance_schedule is square; accepted: constant, linear, cosine"),
        ({"batch_size": 0}, "batch_size is 0"),
    ],
)
def test_settings_that_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pair(SQUARE)[1].generate_image_codes(PROMPTS, **settings)


def test_prompts_that_are_no_text_are_refused() -> None:
    with pytest.raises(ValueError, match=r"prompt 1 has the ids \[2, 29\]; accepted: 0 to 28"):
        pair(SQUARE)[1].generate_image_codes([[1], [2, 29]])
    with pytest.raises(ValueError, match="not loaded from a folder"):
        pair(SQUARE)[1].generate_images("a")


def test_captions_of_text_ids_alone_are_those_of_the_trained_model() -> None:
    model, exported = pair(SQUARE)
    codes = torch.randint(0, 16, (4, NUM_CODES), generator=torch.Generator().manual_seed(1))
    greedy = GenerationConfig(temperature=0, max_caption_tokens=10)
    want = generate_captions(model, codes, VOCABULARY, -1, greedy, num_text_ids=7)
    image = torch.nn.functional.pad(codes + VOCABULARY.text_size, (1, 0), value=VOCABULARY.boi)
    image = torch.nn.functional.pad(image, (0, 1), value=VOCABULARY.eoi)
    how = {"max_new_tokens": 10, "do_sample": False, "eos_token_id": -1}
    written = exported.generate(image, logits_processor=[TextIdsOnly(7)], **how)
    assert written[:, image.shape[1] :].tolist() == want
    assert int(exported.generate(image, **how)[:, image.shape[1] :].max()) >= 7


def test_a_loaded_folder_draws_and_describes(exported: Exported) -> None:
    model = AutoModelForCausalLM.from_pretrained(exported.folder, trust_remote_code=True)
    prompts = ["a red square", "绿色方块"]
    codes = exported.sampler.sample(prompts, 3)  # with the seed of the run, 5
    want = exported.sampler.decode(codes).numpy()
    images = model.generate_images(prompts, num_images_per_prompt=3, seed=5)
    assert np.array_equal(np.stack([np.asarray(image) for image in images]), want)
    alone = model.generate_images(prompts[0], 2.0, seed=5)
    assert len(alone) == 1 and not np.array_equal(np.asarray(alone[0]), want[0])
    captions = greedy_captions(exported, torch.from_numpy(want))
    assert model.generate_captions(images, batch_size=4) == captions and any(captions)
    assert len(model.generate_captions(images[0], num_beams=2, max_new_tokens=3)) == 1

"""Images and captions of the exported model are those of the trained one."""

from __future__ import annotations

import copy
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForCausalLM, AutoProcessor
from transformers import GenerationConfig as TextConfig

from mars_megatron.config.schema import ExpertsConfig, GenerationConfig, ImageConfig, RouterConfig, RunConfig
from mars_megatron.export.generation_mars import TextIdsOnly
from mars_megatron.export.modeling_mars import MarsForCausalLM
from mars_megatron.export.processing_mars import MarsProcessor, located
from mars_megatron.model import MARSModel, build_model
from mars_megatron.sampling import sample_captions, sample_images
from mars_megatron.sequence.vocabulary import Vocabulary
from tests.support.decoding import CONFIG, NUM_CODES, PROMPTS
from tests.support.exported import CONDITIONED as ROUTER
from tests.support.exported import KINDS, export, model_of, padded
from tests.support.exported_run import Exported, greedy_captions
from tests.support.tiny import one_rank

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
    want = sample_images(model, PROMPTS, VOCABULARY, NUM_CODES, settings)
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
    want = sample_captions(model, codes, VOCABULARY, -1, greedy, num_text_ids=7)
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


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("beams", [1, 3])
def test_caches_that_grow_may_be_named_or_left_out(kind: str, beams: int) -> None:
    model = model_of(KINDS[kind])
    ids, mask = padded([[3, 4, 5, 6], [7, 8]], "left")
    how = {"attention_mask": mask, "max_new_tokens": 6, "eos_token_id": -1, "num_beams": beams}
    want = model.generate(ids, use_cache=False, **how)
    dynamic = TextConfig(cache_implementation="dynamic", pad_token_id=1, **{**how, "attention_mask": None})
    for given in (
        {},
        {"past_key_values": None},
        {"cache_implementation": "dynamic"},
        {"cache_implementation": None, "past_key_values": None, "use_cache": True},
        {"generation_config": dynamic},
    ):
        assert torch.equal(model.generate(ids, **(how | given)), want)
    assert model.generation_config.cache_implementation is None
    model.generation_config.cache_implementation = "dynamic"
    assert torch.equal(model.generate(ids, **how), want)


def test_generation_goes_on_from_a_returned_cache() -> None:
    for overrides in ({}, ROUTER):
        model, ids = model_of(overrides), torch.tensor([[3, 4, 5]])
        how = {"eos_token_id": -1, "return_dict_in_generate": True}
        first = model.generate(ids, max_new_tokens=4, past_key_values=None, **how)
        second = model.generate(first.sequences, max_new_tokens=3, past_key_values=first.past_key_values, **how)
        assert torch.equal(second.sequences, model.generate(ids, max_new_tokens=7, **how).sequences)


@pytest.mark.parametrize("name", ["static", "offloaded_static", "sliding_window", "offloaded", "quantized"])
def test_other_caches_are_refused_by_name(name: str) -> None:
    ids = torch.tensor([[3, 4]])
    static = f"cache_implementation is '{name}'; accepted: 'dynamic'. Static caches do not grow"
    conditioned = f"cache_implementation is '{name}'; accepted: 'dynamic', for which a conditioned router .* MarsCache"
    on_cpu = "cache_implementation is 'offloaded' and the model on the CPU; accepted: 'dynamic'"
    said = {"offloaded": on_cpu, "quantized": conditioned}.get(name, static)
    for given in ({"cache_implementation": name}, {"generation_config": TextConfig(cache_implementation=name)}):
        with pytest.raises(ValueError, match=said):
            model_of(ROUTER).generate(ids, **given)
        if name != "quantized":  # an unconditioned model takes it, where its library is installed
            with pytest.raises(ValueError, match=said):
                model_of().generate(ids, **given)


def test_continuous_batching_is_refused() -> None:
    with pytest.raises(ValueError, match="continuous batching packs samples into one row; accepted: generate"):
        model_of().generate_batch([[3, 4], [5]])


@pytest.mark.parametrize("path", ["mars", "./mars", "sub/../mars", "link"])
def test_what_was_loaded_by_a_relative_path_works_elsewhere(
    path: str, exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images are read and drawn with files that are opened when they are needed."""
    home, away = tmp_path / "home", tmp_path / "away"
    for folder in (home / "sub", away / "mars"):
        folder.mkdir(parents=True)
    shutil.copytree(exported.folder, home / "mars")
    (home / "link").symlink_to("mars")
    monkeypatch.chdir(home)
    model = AutoModelForCausalLM.from_pretrained(path, trust_remote_code=True)
    processor = AutoProcessor.from_pretrained(Path(path) if path == "mars" else path, trust_remote_code=True)
    configured = AutoModelForCausalLM.from_pretrained(path, config=model.config, trust_remote_code=True)
    monkeypatch.chdir(away)
    codes = processor.encode_images(Image.new("RGB", (8, 8), "red"))
    (image,) = processor.decode_images(codes)
    for other in (model, copy.deepcopy(configured)):
        assert len(other.generate_images("a red square")) == len(other.generate_captions(image)) == 1
    processor.save_pretrained("saved")
    model.save_pretrained("saved")
    again = AutoModelForCausalLM.from_pretrained("saved", trust_remote_code=True)
    assert again.generate_captions(image) == model.generate_captions(image)
    assert model.config.name_or_path == path
    saved = MarsProcessor.from_pretrained("saved", trust_remote_code=True)  # of the text tokenizer
    assert saved._source == str(away / "saved") and saved.encode_text(["a red"]) == processor.encode_text(["a red"])


def test_names_on_the_hub_stay_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert [located(name) for name in ("someone/mars", "", Path("mars"))] == ["someone/mars", "", "mars"]
    assert located(tmp_path) == str(tmp_path) and located(".") == str(tmp_path)

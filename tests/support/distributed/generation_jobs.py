"""What the ranks of test_generation.py do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mars_megatron import platform
from mars_megatron.config.schema import (
    ExpertsConfig,
    GenerationConfig,
    ImageConfig,
    ModelConfig,
    ParallelConfig,
    RouterConfig,
    RunConfig,
    VocabularyConfig,
)
from mars_megatron.gallery.cascade import Models
from mars_megatron.gallery.image_folder import read_manifest
from mars_megatron.gallery.image_gallery import sample_gallery
from mars_megatron.gallery.prompts import ImageRequest, Prompt
from mars_megatron.model import MARSModel, build_model
from mars_megatron.platform.parallel import initialize_parallel
from mars_megatron.sampling import Sampler, load_for_inference, sample_captions, sample_images, upscale
from mars_megatron.sampling.decoding import Decoder, inference, pack_samples, row_multiple
from mars_megatron.sampling.to_documents import Joint, Request, sample_documents
from mars_megatron.sequence import VISUAL
from mars_megatron.sequence.vocabulary import Vocabulary
from mars_megatron.training import Trainer
from tests.support.decoding import draw_routers
from tests.support.distributed.jobs import tiny_config

CONFIG = RunConfig(
    model=ModelConfig(
        num_layers=2, hidden_size=32, ffn_hidden_size=48, num_attention_heads=4, num_query_groups=2, init_std=0.3
    ),
    vocabulary=VocabularyConfig(text_size=29, codebook_size=16),
)
PROMPTS = [[3, 4, 5], [7], [], [1, 2, 3, 4, 5, 6, 7]]
SETTINGS = GenerationConfig(seed=3, guidance=2.0, temperature=2.0, batch_size=3, max_caption_tokens=6)
EOS = 1


def results(model: MARSModel, vocabulary: Vocabulary) -> dict[str, Any]:
    """Codes, captions, and the difference of cached and whole logits of one model."""
    codes = sample_images(model, PROMPTS, vocabulary, 9, SETTINGS)
    samples = [[*prompt, vocabulary.boi] for prompt in PROMPTS]
    ids = vocabulary.code_to_id(codes)
    with inference(model):
        decoder = Decoder(model, vocabulary, samples, VISUAL, 9)
        cached = torch.stack([decoder.start(), *(decoder.step(column) for column in ids.T)], dim=1)  # [4, 10, ids]
        whole = [[*sample, *codes] for sample, codes in zip(samples, ids.tolist(), strict=True)]
        logits = model(pack_samples(whole, vocabulary, row_multiple(model), every_token=True), return_logits=True)
    by_sample = logits.split([len(sample) for sample in whole])
    return {
        "codes": codes.tolist(),
        "captions": sample_captions(model, codes, vocabulary, EOS, SETTINGS),
        "logits": cached[:, -1].tolist(),
        "difference": max(
            float((cached[n] - rows[-10:, vocabulary.text_size :]).abs().max()) for n, rows in enumerate(by_sample)
        ),
    }


def of_layout(tensor: int, sequence: bool, routed: bool = False) -> dict[str, Any]:
    """Results of the random model, or of one with several experts whose router sees the text."""
    platform.initialize("auto")
    config = replace(CONFIG, parallel=ParallelConfig(tensor=tensor, sequence=sequence))
    if routed:
        config = replace(config, experts=ExpertsConfig(visual=4), router=RouterConfig(condition="text"))
    (model,) = build_model(config, initialize_parallel(config.parallel, 1))
    draw_routers(model)
    return results(model, Vocabulary.from_config(config))


def of_super_resolution(tensor: int, sequence: bool, routed: bool) -> dict[str, list[list[int]]]:
    """High-resolution codes of random models, for one and four codes per step."""
    platform.initialize("auto")
    low = torch.arange(16).view(4, 4)
    found = {}
    for next_k in (1, 4):
        image = ImageConfig(resolution=16, low_resolution=8, next_k=next_k, order="regions")
        config = replace(CONFIG, image=image, parallel=ParallelConfig(tensor=tensor, sequence=sequence))
        if routed:
            config = replace(config, experts=ExpertsConfig(visual=4), router=RouterConfig(condition="text"))
        (model,) = build_model(config, initialize_parallel(config.parallel, 1))
        draw_routers(model)
        found[str(next_k)] = upscale(model, low, PROMPTS, model.vocabulary, image, SETTINGS).tolist()
    return found


def of_documents(tensor: int, sequence: bool, routed: bool) -> list[list[int]]:
    """What a random model that likes to draw adds to documents with and without images."""
    platform.initialize("auto")
    config = replace(CONFIG, parallel=ParallelConfig(tensor=tensor, sequence=sequence))
    if routed:
        config = replace(config, experts=ExpertsConfig(visual=4), router=RouterConfig(condition="text"))
    (model,) = build_model(config, initialize_parallel(config.parallel, 1))
    draw_routers(model)
    vocabulary = model.vocabulary
    row = vocabulary.image_row(vocabulary.boi)
    rows_of_rank = vocabulary.padded_image_size // tensor
    if model.tp_group.rank() == row // rows_of_rank:
        with torch.no_grad():
            model.head.visual.weight[row % rows_of_rank] *= 8
    image = [vocabulary.boi, *range(30, 34), vocabulary.eoi]
    prefixes = [[3, 4, 5], [*image, 7], [9, *image, *image], [8]]
    requests = [Request(ids, seed=seed, max_images=2, max_text_tokens=12) for seed, ids in enumerate(prefixes)]
    return sample_documents(model, requests, Joint(vocabulary, 4, EOS, 29), replace(SETTINGS, text_temperature=2.0))


def of_checkpoint(path: str) -> dict[str, Any]:
    """Results of a checkpoint, on all ranks."""
    loaded = load_for_inference(path, overrides=["--generation.seed=9"])
    assert loaded.config.generation.seed == 9
    assert loaded.config.parallel.tensor == torch.distributed.get_world_size()
    return results(loaded.model, loaded.vocabulary)


def of_sampler(path: str, tensor: int) -> list[list[int]]:
    """Codes for 5 prompts, 3 each: a number that two replicas cannot share evenly."""
    sampler = Sampler(load_for_inference(path, tensor))
    return sampler.sample(["a red square", "红色方块", "a blue square", "a", "red"], 3).tolist()


def of_folder(path: str, output: str, tensor: int) -> list[list[Any]]:
    """Images of a folder: the best of 2 for 5 images, in batches that replicas cannot share evenly."""
    models = Models(path, overrides=("--generation.batch_size=3", "--generation.temperature=2"), tensor=tensor)
    requests = [ImageRequest(Prompt("a red square"), 3), ImageRequest(Prompt("红色方块"), 2)]
    folder = sample_gallery(
        models, requests, Path(output) / f"{torch.distributed.get_world_size()}_{tensor}", best_of=2
    ).path
    lines = read_manifest(folder / "manifest.jsonl")
    assert all((folder / line["file"]).is_file() for line in lines)
    return sorted([line["file"], line["number"], line["pixels"]] for line in lines)


def save(run: dict[str, Any]) -> None:
    """Train a run of the tests for one step, and save it."""
    trainer = Trainer(tiny_config(run))
    trainer.run()

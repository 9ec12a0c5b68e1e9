"""Files of a finished run: tokenizers, real images, and the checkpoint of a random model."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mars_megatron import platform
from mars_megatron.checkpoint import Position, save
from mars_megatron.config.schema import (
    DataConfig,
    GenerationConfig,
    ImageConfig,
    ModelConfig,
    RunConfig,
    VocabularyConfig,
)
from mars_megatron.indexing.build import build_index
from mars_megatron.indexing.options import BuildOptions
from mars_megatron.model import build_model
from mars_megatron.platform.parallel import initialize_parallel
from mars_megatron.tokenizers.train_image import ImageTrainingConfig, make_model
from mars_megatron.tokenizers.train_text import train_text_tokenizer
from mars_megatron.training.optimizer import build_optimizer, wrap_data_parallel

WORDS = {"0": ["red", "红"], "1": ["green", "绿"], "2": ["blue", "蓝"]}
CODEBOOK_SIZE, RESOLUTION, DOWNSAMPLE = 16, 8, 2


@dataclass(frozen=True)
class TinyRun:
    """Where everything lies."""

    checkpoint: str
    images: str
    prompts: str
    words: str
    config: RunConfig


def write_run(folder: Path, seed: int = 1234) -> TinyRun:
    """Write all files below `folder`; the weights of model and image tokenizer follow from the seed."""
    prompts = [
        {"prompt": form.format(word), "label": label, "group": group}
        for label, words in WORDS.items()
        for form, word, group in zip(("a {} square", "{}色方块"), words, ("en", "zh"), strict=True)
    ]
    _write_lines(folder / "prompts.jsonl", prompts)
    (folder / "words.json").write_text(json.dumps(WORDS), encoding="utf-8")
    _write_images(folder / "images")
    text_file = folder / "text.txt"
    text_file.write_text("\n".join(prompt["prompt"] for prompt in prompts * 20), encoding="utf-8")
    text = train_text_tokenizer(text_file, folder / "text.model", vocab_size=24)
    shape = ImageTrainingConfig(codebook_size=CODEBOOK_SIZE, code_dim=4, widths=(4, 4), norm_groups=2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # a few image tokenizers make all captions empty
        make_model(shape).save_pretrained(folder / "vq")
    config = RunConfig(
        model=ModelConfig(
            num_layers=1, hidden_size=16, ffn_hidden_size=16, num_attention_heads=2, num_query_groups=2, init_std=0.5
        ),
        vocabulary=VocabularyConfig(text_size=text.size + 2, codebook_size=CODEBOOK_SIZE),
        image=ImageConfig(resolution=RESOLUTION, downsample=DOWNSAMPLE),
        data=DataConfig(text_tokenizer=str(folder / "text.model"), image_tokenizer=str(folder / "vq")),
        generation=GenerationConfig(seed=5, max_caption_tokens=6),
    )
    save_run(replace(config, training=replace(config.training, seed=seed)), folder / "run")
    return TinyRun(*(str(folder / name) for name in ("run", "images", "prompts.jsonl", "words.json")), config=config)


def with_index(run: TinyRun) -> RunConfig:
    """The run's configuration with an index of its images, half of them for validation, and four steps to train."""
    data, prefix = run.config.data, str(Path(run.images).parent / "index")
    options = BuildOptions(resolution=RESOLUTION, workers=0)
    build_index(run.images, prefix, data.text_tokenizer, data.image_tokenizer, options=options, progress=False)
    return replace(
        run.config,
        data=replace(data, path=prefix, validation_fraction=0.5),
        training=replace(run.config.training, steps=4),
        logging=replace(run.config.logging, interval=1, tensorboard=False, progress=False),
    )


def _write_images(folder: Path) -> None:
    folder.mkdir()
    rng = np.random.default_rng(0)
    lines = []
    for number in range(30):
        label = number % 3
        pixels = rng.integers(0, 100, (RESOLUTION, RESOLUTION, 3), dtype=np.uint8)
        pixels[..., label] += 150
        Image.fromarray(pixels).save(folder / f"{number}.png")
        caption = f"a {WORDS[str(label)][0]} square"
        lines.append({"image": f"{number}.png", "captions": [caption], "label": str(label)})
    _write_lines(folder / "captions.jsonl", lines)


def _write_lines(path: Path, lines: list[dict]) -> None:
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")


def save_run(config: RunConfig, folder: Path) -> None:
    """Write the checkpoint of a random model."""
    platform.initialize("auto")
    groups = initialize_parallel(config.parallel, 1)
    chunks = build_model(config, groups)
    optimizer, scheduler = build_optimizer(wrap_data_parallel(chunks, config, groups), config, groups)
    optimizer.step()  # without gradients: makes the optimiser's state, which a checkpoint holds
    save(folder, Position(1, 1), config, groups, chunks, optimizer, scheduler)

"""From a checkpoint to pictures: loading, the sampler, files of prompts."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mars_megatron.checkpoint import read_config, resolve
from mars_megatron.gallery.cascade import model_record
from mars_megatron.gallery.prompts import Prompt, read_prompts
from mars_megatron.sampling import Sampler, load_for_inference
from tests.support.tiny_run import TinyRun, write_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    return write_run(tmp_path_factory.mktemp("run"))


def test_loads_whatever_the_training_layout(run: TinyRun, tmp_path: Path) -> None:
    loaded = load_for_inference(run.checkpoint, overrides=["--generation.guidance=1.5"])
    assert loaded.config.generation.guidance == 1.5 and loaded.config.generation.seed == 5
    assert not loaded.model.training

    copy = tmp_path / "run"
    shutil.copytree(run.checkpoint, copy)
    file = resolve(copy) / "config.yaml"
    text = file.read_text()
    for old, new in (
        ("tensor: 1", "tensor: 2"),
        ("backend: local", "backend: transformer_engine"),
        ("device: auto", "device: cuda"),
    ):
        assert old in text
        text = text.replace(old, new)
    file.write_text(text)
    assert read_config(resolve(copy)).parallel.tensor == 2
    other = load_for_inference(copy)
    assert other.config.parallel.tensor == 1 and other.config.training.backend == "local"
    for name, value in loaded.model.state_dict().items():
        if value is not None:
            assert torch.equal(value, other.model.state_dict()[name])


def test_loading_refuses_what_does_not_fit(run: TinyRun, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="tensor is 2; accepted: a divisor of the number of ranks, which is 1"):
        load_for_inference(run.checkpoint, tensor=2)
    with pytest.raises(ValueError, match="tensor is 0; accepted: a divisor"):
        load_for_inference(run.checkpoint, tensor=0)
    with pytest.raises(ValueError, match="no complete checkpoint"):
        load_for_inference(tmp_path)
    with pytest.raises(ValueError, match=r"generation\.top_p"):
        load_for_inference(run.checkpoint, overrides=["--generation.top_p=2"])
    with pytest.raises(ValueError, match="another model"):
        load_for_inference(run.checkpoint, overrides=["--model.hidden_size=32"])


def test_sampler(run: TinyRun) -> None:
    sampler = Sampler(load_for_inference(run.checkpoint))
    assert sampler.grid == (4, 4)
    codes = sampler.sample(["a red square", "绿色方块"], 3)
    assert codes.shape == (6, 16) and len(codes.unique(dim=0)) > 3
    assert torch.equal(sampler.sample(["a red square"], 3), codes[:3])
    assert torch.equal(sampler.sample(["绿色方块"], 2), codes[3:5])
    settings = replace(sampler.loaded.config.generation, temperature=0)
    some = sampler.sample_each(["绿色方块", "a red square"], [2, 0], seeds=[5, 6])
    assert torch.equal(some[0], codes[5]) and not torch.equal(some[1], codes[0])
    greedy = sampler.sample_each(["a red square"] * 2, settings=settings)
    assert torch.equal(greedy[0], greedy[1])
    scores = sampler.caption_scores(["a red square"] * 3, codes[:3], 2)
    assert scores.shape == (3,) and (scores < 0).all() and len(scores.unique()) == 3
    images = sampler.decode(codes)
    assert images.shape == (6, 8, 8, 3) and images.dtype == torch.uint8
    captions = sampler.caption(images)
    assert len(captions) == 6 and any(captions)
    completions = sampler.complete(["a red", "a"])
    assert len(completions) == 2 and any(completions)
    with pytest.raises(ValueError, match="text 1 to be continued is empty"):
        sampler.complete(["a", ""])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--data.text_tokenizer=", r"data\.text_tokenizer is empty"),
        ("--data.image_tokenizer=", r"data\.image_tokenizer is empty"),
        ("--data.text_tokenizer=/none", "/none"),
        ("--data.image_tokenizer=/none", "/none is not a diffusers VQModel"),
    ],
)
def test_sampler_needs_its_tokenizers(run: TinyRun, override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sampler(load_for_inference(run.checkpoint, overrides=[override])).sample(["a red square"])


def test_a_model_without_a_tokenizer_has_no_record(run: TinyRun) -> None:
    sampler = Sampler(load_for_inference(run.checkpoint, overrides=["--data.image_tokenizer="]))
    with pytest.raises(ValueError, match=r"data\.image_tokenizer is empty"):
        model_record(Path(run.checkpoint), sampler)


def test_read_prompts(run: TinyRun, tmp_path: Path) -> None:
    assert read_prompts(run.prompts)[1] == Prompt("红色方块", "0", "zh")
    plain = tmp_path / "prompts.txt"
    plain.write_text("a red square\n\n  绿色方块 \n", encoding="utf-8")
    assert read_prompts(plain) == [Prompt("a red square"), Prompt("绿色方块")]
    lines = tmp_path / "prompts.jsonl"
    for line, message in (
        ("red", "line 1 is not JSON"),
        ('{"label": "0"}', "line 1 has no prompt"),
        ('{"prompt": "red", "label": 0}', "with strings"),
        ('{"prompt": "red", "lable": "0"}', "accepted"),
        ("", "is empty"),
    ):
        lines.write_text(line)
        with pytest.raises(ValueError, match=message):
            read_prompts(lines)
    lines.write_text('{"prompt": "one\u2028two"}\n', encoding="utf-8")
    assert read_prompts(lines) == [Prompt("one\u2028two")]
    with pytest.raises(ValueError, match="is not a file"):
        read_prompts(tmp_path / "none.txt")

"""Wrote tests/fixtures/5def77f: what commit 5def77f made, for tests/unit/test_fixtures.py; the imports are its own.

In a checkout of it, with its environment:

    OMP_NUM_THREADS=1 PYTHONPATH=$PWD python THIS_FILE tests/fixtures/5def77f

A text and an image tokenizer, an index, and of each run in `RUNS` a folder with the checkpoint behind step 3 (optimiser
state and the cache of plans too), the exported folder, and `expected.*`: the losses to step 6, the micro-batches' ids,
codes, pixels and logits, all computed on the CPU in fp32.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tarfile
import tempfile
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from mars_megatron.generation import Sampler, generate_images, load_for_inference
from mars_megatron.generation.batches import pack_samples
from mars_megatron.generation.decoding import inference
from PIL import Image
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from mars_megatron.config.parser import override
from mars_megatron.conversion.convert import export_hf
from mars_megatron.indexing.build import build_index
from mars_megatron.indexing.options import BuildOptions
from mars_megatron.recipes import get_recipe
from mars_megatron.tokenizers.train_image import ImageTrainingConfig, make_model
from mars_megatron.tokenizers.train_text import train_text_tokenizer
from mars_megatron.training import Trainer

COLOURS = ("red", "green", "blue")
SETTINGS = {
    "model.num_layers": 2,
    "model.hidden_size": 16,
    "model.ffn_hidden_size": 16,
    "model.num_attention_heads": 2,
    "model.num_query_groups": 1,
    "model.init_std": 0.3,
    "vocabulary.codebook_size": 16,
    "image.resolution": 8,
    "image.downsample": 2,
    "data.path": "index",
    "data.text_tokenizer": "text.model",
    "data.image_tokenizer": "vq",
    "data.micro_batch_tokens": 96,
    "data.validation_fraction": 0.2,
    "data.tasks.t2i": 0.5,
    "data.tasks.i2t": 0.3,
    "data.tasks.text": 0.2,
    "optimizer.lr": 0.01,
    "training.steps": 6,
    "training.global_batch_size": 2,
    "training.eval_interval": 3,
    "training.device": "cpu",
    "checkpoint.interval": 3,
    "logging.interval": 1,
    "logging.progress": False,
    "logging.tensorboard": False,
    "generation.seed": 5,
    "generation.guidance": 2.0,
    "generation.max_caption_tokens": 6,
}
RUNS = {
    "plain": {},
    "routed": {
        "experts.visual": 2,
        "router.condition": "text",
        "model.qk_norm": True,
        "freeze.norms": False,
        "training.precision": "bf16",
    },
}
PROMPTS = ["a red square", "blue"]
SAMPLES = [[3, 4, 5, 6], [7], [8, 9, 10]]


def write_inputs() -> int:
    """Pictures, tokenizers and the index, in this folder; the size of the text tokenizer."""
    Path("images").mkdir()
    rng, lines = np.random.default_rng(0), []
    for number in range(40):
        pixels = rng.integers(0, 100, (8, 8, 3), dtype=np.uint8)
        pixels[..., number % 3] += 150
        Image.fromarray(pixels).save(f"images/{number}.png")
        lines.append({"image": f"{number}.png", "captions": [f"a {COLOURS[number % 3]} square"]})
    lines += [{"text": f"{colour} and {other}"} for colour in COLOURS for other in COLOURS]
    Path("images/captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    Path("text.txt").write_text("\n".join(f"a {colour} square and {colour}" for colour in COLOURS * 20))
    text = train_text_tokenizer(Path("text.txt"), Path("text.model"), vocab_size=20)
    torch.manual_seed(1234)
    make_model(ImageTrainingConfig(codebook_size=16, code_dim=4, widths=(4, 4), norm_groups=2)).save_pretrained("vq")
    options = BuildOptions(resolution=8, workers=0)
    build_index("images", "index", "text.model", "vq", options=options, progress=False)
    return text.size


def train(name: str, text_size: int) -> dict[str, object]:
    """The run, put back to the checkpoint behind step 3; its losses and micro-batches."""
    settings = {**SETTINGS, **RUNS[name], "vocabulary.text_size": text_size, "checkpoint.dir": f"{name}/run"}
    config = override(get_recipe("tiny"), [f"--{field}={value}" for field, value in settings.items()])
    trainer = Trainer(config)
    ids = [batch.input_ids.tolist() for batch in islice(trainer.feed.batches("train", 0), 8)]
    trainer.run()
    root = Path(name, "run")
    lines = (root / "metrics.jsonl").read_text().splitlines()
    losses = {split: [line["loss"] for line in map(json.loads, lines) if line["split"] == split] for split in SPLITS}
    (root / "metrics.jsonl").unlink()
    (root / "finished").unlink()
    shutil.rmtree(root / "step_00000006")
    (root / "latest").write_text("step_00000003")
    return {"losses": losses, "ids": ids}


SPLITS = ("train", "validation")


def draw(name: str) -> tuple[dict[str, object], dict[str, torch.Tensor]]:
    """What the checkpoint behind step 3 and its exported folder give."""
    loaded = load_for_inference(f"{name}/run")
    sampler, vocabulary, model = Sampler(loaded), loaded.vocabulary, loaded.model
    codes = generate_images(model, SAMPLES, vocabulary, 16, loaded.config.generation)
    samples = [[*ids, vocabulary.boi, *vocabulary.code_to_id(codes[0]).tolist(), vocabulary.eoi] for ids in SAMPLES]
    with inference(model):
        logits = model(pack_samples(samples, vocabulary, every_token=True), return_logits=True)
    drawn = sampler.sample(PROMPTS)
    pixels = sampler.decode(drawn)
    export_hf(f"{name}/run", f"{name}/exported")
    exported = AutoModelForCausalLM.from_pretrained(f"{name}/exported", trust_remote_code=True)
    with torch.no_grad():
        exported_logits = exported(torch.tensor([samples[0]])).logits[0]
    return (
        {
            "codes": codes.tolist(),
            "drawn": drawn.tolist(),
            "samples": samples,
            "captions": sampler.caption(pixels),
        },
        {"logits": logits.float(), "exported_logits": exported_logits.float(), "pixels": pixels},
    )


def main() -> None:
    target = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        text_size = write_inputs()
        for name in RUNS:
            expected = train(name, text_size)
            values, tensors = draw(name)
            Path(name, "expected.json").write_text(json.dumps(expected | values))
            save_file({key: value.contiguous() for key, value in tensors.items()}, f"{name}/expected.safetensors")
        target.mkdir(parents=True, exist_ok=True)
        # The tokenizers are in it several times: packed together they are small.
        with tarfile.open(target / "made.tar.xz", "w:xz") as archive:
            for path in sorted(Path().iterdir()):
                if path.name not in ("images", "text.txt"):
                    archive.add(path, filter=nobody)


def nobody(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = info.mtime = 0
    info.uname = info.gname = ""
    return info


if __name__ == "__main__":
    main()

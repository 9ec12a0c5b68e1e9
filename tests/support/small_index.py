"""Real tokenizers and a real image-text folder, small enough to be made once per session: fixtures for conftests."""

import json
import random

import numpy as np
import pytest
import torch
from PIL import Image

COLOURS = {"red": "红", "green": "绿", "blue": "蓝", "black": "黑", "white": "白"}
RESOLUTION = 8


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def lines():
    rng = random.Random(0)
    words = [*COLOURS, "square", "circle", "of", "the", "colour", "a", "picture", "showing"]
    lines = [" ".join(rng.choices(words, k=6)) for _ in range(200)]
    return lines + [f"一个{zh}色的方块" for zh in COLOURS.values()] * 20


@pytest.fixture(scope="session")
def text_model(tmp_path_factory, lines):
    """A SentencePiece model file."""
    import sentencepiece

    folder = tmp_path_factory.mktemp("text")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_prefix=str(folder / "text"), vocab_size=50, minloglevel=2
    )
    return folder / "text.model"


@pytest.fixture(scope="session")
def image_model(tmp_path_factory):
    """A VQModel folder: untrained, 16 codes, 4 pixels per code, whose codebook the encoder really uses."""
    from diffusers import VQModel

    torch.manual_seed(0)
    model = VQModel(
        block_out_channels=(8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        norm_num_groups=4,
        latent_channels=4,
        num_vq_embeddings=16,
        mid_block_add_attention=False,
    ).eval()
    with torch.no_grad():
        latents = model.encode(torch.rand(16, 3, RESOLUTION, RESOLUTION) * 2 - 1).latents
        rows = latents.permute(0, 2, 3, 1).reshape(-1, 4)
        model.quantize.embedding.weight.copy_(rows[torch.randperm(len(rows))[:16]])
    folder = tmp_path_factory.mktemp("image") / "vq"
    model.save_pretrained(folder)
    return folder


def write_folder(folder, num_images=30, num_texts=6, seed=0):
    """An image-text folder: noise pictures, one to three captions each, and text documents among them."""
    rng, pixels = random.Random(seed), np.random.default_rng(seed)
    folder.mkdir(parents=True)
    samples = []
    for i in range(num_images):
        en = rng.choice(list(COLOURS))
        name = f"{i:03d}.png"
        Image.fromarray(pixels.integers(0, 256, (RESOLUTION, RESOLUTION, 3), dtype=np.uint8)).save(folder / name)
        captions = [
            f"a {en} square",
            f"一个{COLOURS[en]}色的方块",
            f"picture showing a square of the colour {en}",
        ]
        samples.append({"image": name, "captions": captions[: 1 + i % 3]})
    samples += [{"text": f"the colour {rng.choice(list(COLOURS))} " * (1 + i % 3)} for i in range(num_texts)]
    rng.shuffle(samples)
    text = "".join(json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples)
    (folder / "captions.jsonl").write_text(text, encoding="utf-8")
    return samples


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("raw") / "folder"
    write_folder(path)
    return path


@pytest.fixture(scope="session")
def index(tmp_path_factory, folder, text_model, image_model):
    """Prefix of an index of the folder, 30 images and 6 texts. Session-wide: copy it before damaging it."""
    from mars_megatron.indexing.build import build_index
    from mars_megatron.indexing.options import BuildOptions

    prefix = tmp_path_factory.mktemp("index") / "train"
    options = BuildOptions(resolution=RESOLUTION, batch_size=7, workers=0)
    build_index(folder, prefix, text_model, image_model, options=options, progress=False)
    return prefix

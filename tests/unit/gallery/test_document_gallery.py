"""A model trained for seconds on documents of texts and images goes on with them; tools/interleave.py."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import VQModel
from PIL import Image

from mars_megatron.config.schema import (
    CheckpointConfig,
    DataConfig,
    FreezeConfig,
    GenerationConfig,
    ImageConfig,
    LoggingConfig,
    ModelConfig,
    OptimizerConfig,
    RunConfig,
    TaskWeights,
    TrainingConfig,
    VocabularyConfig,
)
from mars_megatron.gallery.document_gallery import DocumentPrompt, read_document_prompts
from mars_megatron.indexing.build import build_index
from mars_megatron.indexing.images import load_image
from mars_megatron.indexing.options import BuildOptions
from mars_megatron.sampling import Document, Sampler, load_for_inference
from mars_megatron.tokenizers.train_image import ImageTrainingConfig, make_model
from mars_megatron.tokenizers.train_text import train_text_tokenizer
from mars_megatron.training import Trainer
from tests.support.command_lines import load_tool

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
RESOLUTION, NUM_CODES, CODEBOOK = 8, 16, 16


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with pictures of one colour, tokenizers, an index of documents and the run of a model trained on it."""
    root = tmp_path_factory.mktemp("interleaved")
    for colour, pixels in COLOURS.items():
        Image.new("RGB", (RESOLUTION, RESOLUTION), pixels).save(root / f"{colour}.png")
    documents = []
    for colour in COLOURS:
        image = {"image": f"{colour}.png"}
        documents += [[f"a {colour} square", image, f"{colour} is done"], [image, f"is {colour}"]]
    lines = [json.dumps({"parts": parts}) + "\n" for parts in documents]
    (root / "documents.jsonl").write_text("".join(lines * 4))
    (root / "text.txt").write_text("\n".join(part for parts in documents for part in parts if isinstance(part, str)))
    text = train_text_tokenizer(root / "text.txt", root / "text.model", vocab_size=100, at_most=True)
    write_image_tokenizer(root / "vq", root)
    build_index(
        root / "documents.jsonl",
        root / "train",
        root / "text.model",
        root / "vq",
        options=BuildOptions(resolution=RESOLUTION, workers=0),
        progress=False,
    )
    config = RunConfig(
        model=ModelConfig(num_layers=1, hidden_size=64, ffn_hidden_size=64, num_attention_heads=4, num_query_groups=4),
        vocabulary=VocabularyConfig(text_size=text.size, codebook_size=CODEBOOK),
        image=ImageConfig(resolution=RESOLUTION, downsample=2),
        freeze=FreezeConfig(text=False, norms=False),
        data=DataConfig(
            path=str(root / "train"),
            text_tokenizer=str(root / "text.model"),
            image_tokenizer=str(root / "vq"),
            tasks=TaskWeights(t2i=0.0, i2t=0.0, interleaved=1.0),
            micro_batch_tokens=512,
        ),
        optimizer=OptimizerConfig(lr=1e-2),
        training=TrainingConfig(steps=150, global_batch_size=1),
        checkpoint=CheckpointConfig(dir=str(root / "run")),
        logging=LoggingConfig(tensorboard=False, progress=False, interval=50),
        # Documents are never shown without what is in front of their images.
        generation=GenerationConfig(guidance=1.0, temperature=0.5, text_temperature=0.3),
    )
    Trainer(config).run()
    return root


def write_image_tokenizer(folder: Path, pictures: Path) -> None:
    """An untrained VQModel whose codebook has a code for each place of each picture."""
    torch.manual_seed(0)
    make_model(ImageTrainingConfig(codebook_size=CODEBOOK, code_dim=4, widths=(4, 4), norm_groups=2)).save_pretrained(
        folder
    )
    model = VQModel.from_pretrained(folder)
    images = torch.stack([load_image(pictures / f"{colour}.png", RESOLUTION) for colour in COLOURS])
    with torch.no_grad():
        latents = model.encode(images / 127.5 - 1).latents[:, :, 1:3, 1:3].permute(0, 2, 3, 1).reshape(-1, 4)
        model.quantize.embedding.weight[: len(latents)] = latents
        model.quantize.embedding.weight[len(latents) :] = 1e3
    model.save_pretrained(folder)


@pytest.fixture(scope="module")
def sampler(root: Path) -> Sampler:
    return Sampler(load_for_inference(root / "run"))


@pytest.fixture(scope="module")
def pictures(root: Path, sampler: Sampler) -> dict[str, torch.Tensor]:
    """Codes of the pictures by colour."""
    images = torch.stack([load_image(root / f"{colour}.png", RESOLUTION) for colour in COLOURS])
    codes = dict(zip(COLOURS, sampler.image_tokenizer.encode(images), strict=True))
    assert len({tuple(image.tolist()) for image in codes.values()}) == len(COLOURS)
    return codes


def test_the_model_draws_what_it_has_written_about(sampler: Sampler, pictures: dict[str, torch.Tensor]) -> None:
    documents = [Document((f"a {colour} square",), seed) for colour in COLOURS for seed in (0, 1)]
    for document, parts in zip(documents, sampler.continue_documents(documents), strict=True):
        colour = str(document.parts[0]).split()[1]
        image, after = parts
        assert isinstance(image, torch.Tensor) and torch.equal(image, pictures[colour])
        assert after == f"{colour} is done"


def test_the_model_reads_images_in_prompts(sampler: Sampler, pictures: dict[str, torch.Tensor]) -> None:
    documents = [Document((codes,), max_images=0) for codes in pictures.values()]
    documents.append(Document((pictures["red"], "is"), max_images=0))
    written = sampler.continue_documents(documents)
    assert written == [["is red"], ["is green"], ["is blue"], [" red"]]
    with pytest.raises(ValueError, match=r"codes of shape \[4\]; accepted: \[16\]"):
        sampler.continue_documents([Document((pictures["red"][:4],))])
    with pytest.raises(ValueError, match="document 1 is empty"):
        sampler.continue_documents([documents[0], Document(("",))])


def write_prompts(path: Path, *lines: dict) -> str:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def test_tool_makes_what_is_missing(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tool = load_tool("interleave")
    Image.new("RGB", (3 * RESOLUTION, 2 * RESOLUTION), COLOURS["green"]).save(tmp_path / "large.png")
    lines = [
        {"parts": [{"text": "a red square"}], "seed": 1},
        {"parts": [{"image": "large.png"}, {"text": "is"}], "max_images": 0},
        {"parts": [{"text": "a blue"}], "stop_after_image": True, "max_text_tokens": 9},
    ]
    output = tmp_path / "out"
    arguments = ["--checkpoint", str(root / "run"), "--output", str(output), "--batch-size", "2"]
    prompts = ["--prompts", write_prompts(tmp_path / "prompts.jsonl", *lines[:2])]
    assert tool.main([*arguments, *prompts]) == 0
    first = (output / "documents.jsonl").read_text()
    written = {path: path.stat().st_mtime_ns for path in (output / "images").iterdir()}
    write_prompts(tmp_path / "prompts.jsonl", *lines)
    assert tool.main([*arguments, *prompts]) == 0
    settings = json.loads((output / "settings.json").read_text())
    assert all(settings[name]["fingerprint"] for name in ("text_tokenizer", "image_tokenizer"))
    assert "3 documents with 2 new images" in capsys.readouterr().out
    results = [json.loads(line) for line in (output / "documents.jsonl").read_text().splitlines()]
    assert (output / "documents.jsonl").read_text().startswith(first)
    assert all(path.stat().st_mtime_ns == time for path, time in written.items()), "drawn a second time"
    assert results[0]["parts"] == [{"image": "images/0000_0.png"}, {"text": "red is done"}]
    assert results[1]["parts"] == [{"text": " green"}] and results[1]["prompt"]["max_images"] == 0
    assert results[2]["parts"] == [{"text": " square"}, {"image": "images/0002_1.png"}]
    page = (output / "index.html").read_text()
    for name in ("0000_0.png", "0001_given_0.png", "0002_1.png"):
        with Image.open(output / "images" / name) as image:
            assert image.size == (RESOLUTION, RESOLUTION)
        assert f'src="images/{name}"' in page
    with Image.open(output / "images" / "0001_given_0.png") as image:
        assert np.asarray(image)[4, 4].tolist() == list(COLOURS["green"])
    assert not list(output.rglob("*.tmp"))

    for change, message in (
        (["--text-temperature", "0"], "text_temperature was 0.3, is 0.0"),
        (["--text-temperature", "-1"], "generation.text_temperature is -1.0; accepted: 0 or more"),
        (["--seed", "3"], "holds another document 1"),
    ):
        assert tool.main([*arguments, *prompts, *change]) == 2
        assert message in capsys.readouterr().err
    write_prompts(tmp_path / "prompts.jsonl", lines[0])
    assert tool.main([*arguments, *prompts]) == 2
    assert "holds 3 documents, more than the 1 prompts" in capsys.readouterr().err


def test_options_are_checked(capsys: pytest.CaptureFixture[str]) -> None:
    tool = load_tool("interleave")
    with pytest.raises(SystemExit):
        tool.parse_arguments(["--checkpoint", "c", "--prompts", "p", "--output", "o", "--max-text-tokens", "0"])
    assert "--max-text-tokens is 0; accepted: 1 or more" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("red", "line 1 is not JSON"),
        ('{"prompt": "red"}', 'accepted: {"parts"'),
        ('{"parts": ["red"]}', 'accepted: {"parts"'),
        ('{"parts": [{"text": "a", "image": "b"}]}', 'accepted: {"parts"'),
        ('{"parts": [{"sound": "a"}]}', 'accepted: {"parts"'),
        ('{"parts": [{"text": "a"}], "sed": 1}', 'accepted: {"parts"'),
        ('{"parts": [{"text": "a"}], "seed": true}', 'accepted: {"parts"'),
        ('{"parts": [{"text": "a"}], "max_text_tokens": 0}', "line 1: max_text_tokens is 0; accepted: 1 or more"),
        ('{"parts": [{"text": " "}]}', "has no text and no image"),
        ("", "is empty"),
    ],
)
def test_lines_that_mean_nothing_are_refused(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "prompts.jsonl").write_text(line)
    with pytest.raises(ValueError, match=message):
        read_document_prompts(tmp_path / "prompts.jsonl", DocumentPrompt())


def test_a_line_ends_at_its_end_alone_and_a_path_says_where_a_file_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png")
    line = '{"parts": [{"text": "one\u2028two"}, {"image": "a.png"}]}\n'
    (tmp_path / "prompts.jsonl").write_text(line * 2, encoding="utf-8")
    prompts = read_document_prompts(tmp_path / "prompts.jsonl", DocumentPrompt())
    assert len(prompts) == 2 and prompts[0].parts[0] == ("text", "one\u2028two")
    monkeypatch.chdir(tmp_path)
    (_, second) = read_document_prompts("prompts.jsonl", DocumentPrompt())
    assert second.described() == prompts[0].described()


def test_files_that_are_missing_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="none.jsonl is not a file"):
        read_document_prompts(tmp_path / "none.jsonl", DocumentPrompt())
    path = write_prompts(tmp_path / "prompts.jsonl", {"parts": [{"image": "none.png"}], "seed": 4})
    (prompt,) = read_document_prompts(path, DocumentPrompt(max_images=3))
    assert (prompt.seed, prompt.max_images, prompt.images()) == (4, 3, [str(tmp_path / "none.png")])
    with pytest.raises(ValueError, match="none.png does not exist"):
        prompt.described()

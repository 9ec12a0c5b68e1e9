"""tools/benchmark.py data: every part on very little, and that contestants and bars are honest."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from benchmarks import data, data_indexing
from benchmarks.data import Figure, as_table
from benchmarks.data_indexing import TextOptions, measure_text
from benchmarks.data_options import PARTS, DataOptions
from benchmarks.synthetic import Captions, photograph, write_pairs, write_photographs
from PIL import Image

from mars_megatron.data.store import Store
from mars_megatron.tokenizers.train_image import ImageTrainingConfig
from tests.support.command_lines import load_tool

SIZES = (
    *("--captions", "300", "--text-vocabulary", "2000", "--workers", "1", "--images", "5", "--image-size", "40", "30"),
    *("--resolution", "16", "--widths", "32", "32", "--batch-size", "2", "--small-images", "70"),
    *("--micro-batches", "3", "--steps", "1", "--documents", "500", "--packed-documents", "2000", "--rounds", "1"),
)
SHAPE = {"text_size": 50, "codebook_size": 16, "grid": (2, 2), "downsample": 4}


@pytest.fixture(scope="module")
def main():
    module = load_tool("benchmark")
    return lambda *arguments: module.main(["data", *arguments, "--no-progress"])


def test_every_part(main, tmp_path, capsys) -> None:
    report, folder = tmp_path / "report.json", tmp_path / "work"
    folder.mkdir()
    assert main(*SIZES, "--folder", str(folder), "--json", str(report)) == 0, capsys.readouterr().err
    assert not list(folder.iterdir()), "temporary files are removed"
    written = json.loads(report.read_text())
    assert set(written["ratios"]) == {"text", "image", "image_small", "loader"}
    found = written["seconds"]
    assert written["ratios"] == {name: found[name]["ratio"] for name in written["ratios"]}
    assert set(found) == {"text", "image", "image_small", "loader", "startup", "packing", "figures"}
    text = found["text"]
    assert text["ratio"] == pytest.approx(text["plain_seconds"] / text["seconds"]) and text["tokens"] > 300
    for name in ("image", "image_small"):
        rates = [found[name][rate] for rate in ("images_per_second", "encoder_images_per_second")]
        assert found[name]["ratio"] == pytest.approx(rates[0] / rates[1])
    loader = found["loader"]
    assert loader["ratio"] == pytest.approx(loader["loader_tokens_per_second"] / loader["step_tokens_per_second"])
    for name in ("planned", "caching", "cached"):
        start = found["startup"][name]
        assert start["seconds"] > 0 and start["import_seconds"] > 0
        assert start["resident"] >= start["resident_of_imports"] > 50e6 and 50e6 < start["anonymous"] <= 4e9
    packing = found["packing"]
    assert packing["samples"] > 1900 and packing["budget"] == 5184 and packing["reserved_rows"] == 64
    assert 0 <= packing["waste"] < packing["waste_with_reserved"] < 0.1
    barred = {(figure["part"], figure["bar"]) for figure in found["figures"] if figure["bar"] is not None}
    assert barred == {("text", 1.7), ("image", 0.85), ("loader", 20), ("startup", 10), ("startup", 1), ("packing", 2)}
    out = capsys.readouterr().out
    assert all(f"\n{part} " in out for part in PARTS) and "bar <= 2: " in out


def test_quick_and_chosen_parts(main, tmp_path, capsys) -> None:
    report = tmp_path / "report.json"
    assert main("--quick", "--parts", "packing", "--packed-documents", "1500", "--json", str(report)) == 0
    found = json.loads(report.read_text())["seconds"]
    assert set(found) == {"packing", "figures"} and 1400 < found["packing"]["samples"] <= 1500


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--rounds", "0"), "--rounds 0"),
        (("--captions", "0"), "--captions 0"),
        (("--workers", "-1"), "--workers -1"),
        (("--image-size", "0", "3"), "--image-size"),
        (("--widths", "32", "32", "--resolution", "15"), "--widths 32 32: --resolution 15"),
        (("--widths", "33"), "--widths 33"),
        (("--folder", "no/such"), "--folder no/such"),
    ],
)
def test_errors(main, capsys, arguments, message) -> None:
    assert main(*arguments) == 2
    out, error = capsys.readouterr()
    assert error.startswith("error: ") and message in error and "bar" not in out


def test_an_unknown_part_is_refused() -> None:
    with pytest.raises(ValueError, match="--parts speed"):
        DataOptions(parts=("speed",))


def test_other_tokens_than_ours_are_noticed(tmp_path, monkeypatch) -> None:
    real = data_indexing.plain_loop

    def wrong(source: Path, prefix: Path, tokenizer: str) -> None:
        real(source, prefix, tokenizer)
        tokens = np.fromfile(f"{prefix}.bin", np.int32)
        tokens[-1] += 1
        tokens.tofile(f"{prefix}.bin")

    monkeypatch.setattr(data_indexing, "plain_loop", wrong)
    with pytest.raises(RuntimeError, match="differ"):
        measure_text(TextOptions(captions=50, vocabulary=1500, workers=0, rounds=1, progress=False), tmp_path)


def test_bars() -> None:
    assert Figure("a", "b", 2.0, bar=2.0).met and not Figure("a", "b", 1.9, bar=2.0).met
    assert Figure("a", "b", 2.0, bar=2.0, least=False).met and not Figure("a", "b", 2.1, bar=2.0, least=False).met
    assert Figure("a", "b", 2.0).met is None
    table = as_table([Figure("a", "b", 1.0, "s", bar=2.0), Figure("a", "c", 1234.5)])
    assert "bar >= 2: MISSED" in table and "1,234.50" in table and "bar" not in table.splitlines()[1]


def test_the_small_tokenizer_is_the_quickstarts() -> None:
    from examples.digits.recipes import mars

    config = mars()
    found, shape = data.QUICKSTART, ImageTrainingConfig()
    assert found["resolution"] == config.image.resolution == found["size"][0] == found["size"][1]
    assert 2 ** (len(found["widths"]) - 1) == config.image.downsample
    assert found["codebook_size"] == config.vocabulary.codebook_size == shape.codebook_size
    assert (found["widths"], found["code_dim"]) == (shape.widths, shape.code_dim)
    assert (found["layers"], found["norm_groups"]) == (shape.layers_per_block, shape.norm_groups)


def test_captions_are_realistic_and_seeded() -> None:
    captions = list(Captions().draw(2000))
    assert captions == list(Captions().draw(2000)) and captions != list(Captions(1).draw(2000))
    chinese = sum("，" in caption for caption in captions) / len(captions)
    words = [len(caption.split()) for caption in captions if "，" not in caption]
    assert 0.2 < chinese < 0.3 and min(words) >= 8 and max(words) <= 60 and 15 < np.mean(words) < 25


def test_photographs_compress_like_photographs(tmp_path) -> None:
    picture, encoded = photograph(np.random.default_rng(0), 640, 480), io.BytesIO()
    picture.save(encoded, "JPEG", quality=90)
    assert 30_000 < len(encoded.getvalue()) < 200_000
    write_photographs(tmp_path / "a.tar", 2, (64, 48))
    with tarfile.open(tmp_path / "a.tar") as archive:
        assert archive.getnames() == ["000000.jpg", "000000.txt", "000001.jpg", "000001.txt"]
        file = archive.extractfile("000001.jpg")
        assert file is not None and Image.open(file).size == (64, 48)


def test_indices_are_whole(tmp_path) -> None:
    write_pairs(tmp_path / "a", 200, (3, 9), **SHAPE)
    store = Store(tmp_path / "a")
    assert store.scan.documents == [0, 200, 0, 0] and store.scan.longest[1] == 9
    assert max(store.codes(document).max() for document in range(200)) == 15
    texts = np.concatenate([store.caption(document, 0) for document in range(200)])
    assert texts.min() == 3 and texts.max() == 49

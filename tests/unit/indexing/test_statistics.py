import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mars_megatron.index import reader as index_reader
from mars_megatron.index.manifest import Manifest
from mars_megatron.index.reader import open_index
from mars_megatron.indexing.build import build_index
from mars_megatron.indexing.decoded_samples import choose_documents, decode_documents, write_folder
from mars_megatron.indexing.options import BuildOptions
from mars_megatron.indexing.statistics import describe, inspect_index
from mars_megatron.indexing.validation import validate_index
from tests.support.command_lines import load_tool
from tests.support.small_indices import IMAGE, MIXED, documents, write_index

FORMAT = Path(__file__).parents[3] / "mars_megatron" / "index" / "FORMAT.md"
WEIGHTS = [0.5, 2, 1, 1, 3, 1, 1, 1, 1, 1, 1, 1]


@pytest.fixture(scope="module")
def main():
    module = load_tool("index_data")
    return lambda *arguments: module.main(list(map(str, arguments)))


def test_statistics(tmp_path):
    write_index(tmp_path / "train", MIXED, weights=WEIGHTS, skipped=["bad_line"], settings={"fit": "crop"})
    found = inspect_index(tmp_path / "train")
    assert found["documents"] == {"text": 1, "image": 2, "pair": 1, "interleaved": 1} and found["sequences"] == 12
    assert found["images"] == {"high": 3, "low": 1, "parts": 1} and found["tokens"] == {"text": 11, "visual": 17}
    captions = found["caption_tokens"]  # of 3, 1, 1 and 1 tokens
    assert captions == {"count": 4, "total": 6, "min": 1, "mean": 1.5, "p50": 1, "p90": 3, "p99": 3, "max": 3}
    assert found["captions_per_image"]["mean"] == 4 / 3 and found["parts_per_interleaved"]["max"] == 3
    rows = found["rows"]
    assert rows["t2i"]["max"] == 3 + 4 + 1 and rows["i2t"]["max"] == 3 + 4 + 2 and rows["text"]["max"] == 2
    assert rows["sr"]["max"] == 1 + 1 + 4 + 3 and rows["interleaved"]["max"] == 2 + 4 + 1 + 2
    assert found["caption_weights"]["max"] == 3 and found["caption_weights"]["count"] == 4
    assert found["size_bytes"]["bin"] == 28 * 4
    text = describe(json.loads(json.dumps(found)))
    assert "rows, sr" in text and "bad_line 1" in text and "fit" in text


def test_an_index_of_text_alone(tmp_path):
    write_index(tmp_path / "train", [MIXED[1]] * 3, image=None)
    found = inspect_index(tmp_path / "train")
    assert found["rows"] == {**dict.fromkeys(("t2i", "i2t", "sr", "interleaved")), "text": found["text_tokens"]}
    assert "image tokenizer" not in describe(found)


@settings(max_examples=25, deadline=None)
@given(docs=st.lists(documents, min_size=1, max_size=12), block=st.integers(1, 6))
def test_blocks_make_no_difference(tmp_path_factory, docs, block):
    """The distributions are those of all values at once, whatever the size of the blocks."""
    prefix = tmp_path_factory.mktemp("blocks") / "train"
    write_index(prefix, docs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index_reader, "BLOCK_SEQUENCES", block)
        found = inspect_index(prefix)
    captions = [len(ids) for doc in docs if doc[-1][0] == 1 for mode, ids in doc if mode == 0]
    if not captions:
        assert found["caption_tokens"] is None
        return
    summary, ranked = found["caption_tokens"], np.sort(captions)
    assert (summary["min"], summary["max"], summary["count"]) == (ranked[0], ranked[-1], len(ranked))
    assert summary["mean"] == pytest.approx(ranked.mean())
    for name, part in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99)):
        assert summary[name] == np.quantile(ranked, part, method="inverted_cdf")


def test_long_texts_are_counted_too(tmp_path):
    write_index(tmp_path / "train", [[(0, [1] * 70_000)], [(0, [1])]])
    assert inspect_index(tmp_path / "train")["text_tokens"]["max"] == 70_000


@pytest.fixture(scope="module")
def mixed(tmp_path_factory, folder, text_model, image_model):
    """An index of all kinds of documents, with weights, built from pictures."""
    raw = tmp_path_factory.mktemp("mixed") / "raw"
    shutil.copytree(folder, raw)
    lines = [
        {"image": "000.png", "captions": [{"text": "a red square", "weight": 3.0}, "一个红色的方块"]},
        {"text": "the colour red"},
        {"parts": ["a", {"image": "001.png"}, "of the", {"image": "002.png"}]},
        {"image": "003.png", "caption": "a blue circle", "low": "004.png"},
    ]
    (raw / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    prefix = raw.parent / "train"
    options = BuildOptions(resolution=8, low_resolution=4, workers=0)
    build_index(raw, prefix, text_model, image_model, options=options, progress=False)
    return prefix


def decode(prefix, numbers, output, **options):
    return list(write_folder(decode_documents(prefix, numbers, **options), output, progress=False))


def test_decoded_documents_can_be_indexed_again(mixed, text_model, image_model, tmp_path):
    decoded = decode(mixed, range(4), tmp_path / "out")
    assert [document.kind for document in decoded] == ["pair", "text", "interleaved", "pair"]
    lines = [json.loads(line) for line in (tmp_path / "out" / "captions.jsonl").read_text().splitlines()]
    assert lines[0] == {
        "image": "00000000.png",
        "low": "00000000.low.png",
        "captions": [{"text": "a red square", "weight": 3.0}, {"text": "一个红色的方块", "weight": 1.0}],
    }
    assert lines[1] == {"text": "the colour red"}
    names = ["00000002.1.png", "00000002.3.png"]
    assert lines[2] == {"parts": ["a", {"image": names[0]}, "of the", {"image": names[1]}]}
    assert Image.open(tmp_path / "out" / "00000000.png").size == (8, 8)
    assert Image.open(tmp_path / "out" / "00000000.low.png").size == (4, 4)
    options = BuildOptions(resolution=8, low_resolution=4, workers=0)
    build_index(tmp_path / "out", tmp_path / "again", text_model, image_model, options=options, progress=False)
    assert validate_index(tmp_path / "again", sources=True, progress=False).problems == []
    first, again = open_index(mixed), open_index(tmp_path / "again")
    assert first.arrays.modes.tolist() == again.arrays.modes.tolist()
    assert first.weights.tolist() == again.weights.tolist()
    for document in range(4):  # texts are the same ids; pictures went through the lossy tokenizer a second time
        for (mode, ids), (_, other) in zip(first.sequences(document), again.sequences(document), strict=True):
            assert len(ids) == len(other) and (mode not in (0, 3) or ids.tolist() == other.tolist())


def test_pictures_are_what_the_tokenizer_decodes(mixed, image_model, tmp_path):
    import torch

    from mars_megatron.tokenizers import load_image_tokenizer

    decode(mixed, [3], tmp_path / "out")
    (_, codes) = open_index(mixed).sequences(3)[-1]
    expected = load_image_tokenizer(image_model).decode(torch.from_numpy(codes)[None], (2, 2))[0].numpy()
    assert (np.asarray(Image.open(tmp_path / "out" / "00000003.png")) == expected).all()


def test_draws(index):
    drawn = choose_documents(index, 10, seed=1)
    assert drawn == choose_documents(index, 10, seed=1) != choose_documents(index, 10, seed=2)
    assert drawn == sorted(set(drawn)) and choose_documents(index, 1000) == list(range(36))
    for count, seed, message in ((0, 0, "number of samples is 0"), (1, -1, "seed is -1")):
        with pytest.raises(ValueError, match=message):
            choose_documents(index, count, seed)


def test_wrong_documents_and_folders(mixed, tmp_path):
    with pytest.raises(ValueError, match="document is 4; .* has the documents 0 to 3"):
        decode(mixed, [4], tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(ValueError, match="full exists and is not an empty folder"):
        decode(mixed, [0], tmp_path / "full")
    (tmp_path / "empty").mkdir()
    decode(mixed, [0], tmp_path / "empty")
    assert (tmp_path / "empty" / "captions.jsonl").is_file()


def with_tokenizers(prefix, **changes):
    """Rewrite the manifest; changes are of the fields of a tokenizer."""
    path = Path(f"{prefix}.json")
    manifest = Manifest.read(path)
    replace(manifest, **{name: replace(getattr(manifest, name), **c) for name, c in changes.items()}).write(path)


def test_tokenizers_elsewhere_and_wrong_ones(mixed, text_model, image_model, tmp_path):
    for path in mixed.parent.glob("train.*"):
        shutil.copy(path, tmp_path / path.name)
    copy = tmp_path / "train"
    with_tokenizers(copy, text_tokenizer={"path": "/gone/text"}, image_tokenizer={"path": "/gone/image"})
    with pytest.raises(ValueError, match="the text tokenizer of .* is not where it was, /gone/text.*--text-tokenizer"):
        decode(copy, [1], tmp_path / "out")
    assert decode(copy, [1], tmp_path / "texts", text_tokenizer=text_model)[0].texts == ["the colour red"]
    with pytest.raises(ValueError, match="image tokenizer of .* is not where it was, /gone/image"):
        decode(copy, [0], tmp_path / "out", text_tokenizer=text_model)
    given = {"text_tokenizer": text_model, "image_tokenizer": image_model}
    decode(copy, [0], tmp_path / "images", **given)
    with_tokenizers(copy, text_tokenizer={"fingerprint": "other"})
    with pytest.raises(ValueError, match=f"text tokenizer {text_model} is not that of .*manifest says other"):
        decode(copy, [0], tmp_path / "out", **given)


def test_damaged_indices_are_refused(tmp_path):
    prefix = tmp_path / "train"
    write_index(prefix, MIXED, image=replace(IMAGE, low_grid=(1, 1)))
    data = bytearray(Path(f"{prefix}.idx").read_bytes())
    data[34 + 12 * 12 + 8] = 9  # the second boundary lies behind the third
    Path(f"{prefix}.idx").write_bytes(data)
    with pytest.raises(ValueError, match="is damaged: its documents do not cover its sequences; .*validate"):
        inspect_index(prefix)
    with pytest.raises(ValueError, match="none.json is missing"):
        inspect_index(tmp_path / "none")


def test_codes_that_do_not_exist_are_refused(mixed, tmp_path):
    for path in mixed.parent.glob("train.*"):
        shutil.copy(path, tmp_path / path.name)
    Path(tmp_path / "train.bin").write_bytes(b"\xff" * Path(tmp_path / "train.bin").stat().st_size)
    with pytest.raises(ValueError, match=r"document 0 of .* has ids outside of 0\.\."):
        decode(tmp_path / "train", [0], tmp_path / "out")


def test_the_command(main, mixed, tmp_path, capsys):
    assert main("inspect", mixed, "--json", tmp_path / "found.json", "--samples", 3, "--output", tmp_path / "out",
                "--no-progress") == 0  # fmt: skip
    out = capsys.readouterr().out
    assert "tokens, captions" in out and "sheet.png shows 3 of them" in out
    assert json.loads((tmp_path / "found.json").read_text())["documents"] == {"text": 1, "pair": 2, "interleaved": 1}
    assert Image.open(tmp_path / "out" / "sheet.png").width > 64
    assert (
        main("inspect", mixed, "--document", 1, "--output", tmp_path / "text", "--no-progress") == 0
    )  # no image in it
    assert main("inspect", tmp_path / "none") == 2 and "none.json is missing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--samples", 3], "--samples or --document, and --output go together"),
        (["--output", "x"], "--samples or --document, and --output go together"),
        (["--samples", 3, "--document", 1, "--output", "x"], "exclude each other"),
        (["--document", 3, "--seed", 1, "--output", "x"], "--seed needs --samples"),
        (["--text-tokenizer", "x"], "--text-tokenizer needs --samples or --document"),
        (["--device", "cpu"], "--device needs --samples or --document"),
    ],
)
def test_options_that_would_be_ignored(main, mixed, capsys, arguments, message):
    with pytest.raises(SystemExit):
        main("inspect", mixed, *arguments)
    assert message in capsys.readouterr().err


def test_merge_and_validate_commands(main, mixed, index, tmp_path, capsys):
    shards = tmp_path / "train.shards"
    shards.mkdir()
    (shards / "inputs.json").write_text(json.dumps({"inputs": ["a", "b"], "settings": {}}))
    write_index(shards / "000000", MIXED[:2])
    assert main("merge", "--output", tmp_path / "train", "--no-progress") == 2
    assert "000001 (b)" in capsys.readouterr().err
    write_index(shards / "000001", MIXED[2:])
    assert main("merge", "--output", tmp_path / "train", "--no-progress") == 0
    assert main("merge", "--output", tmp_path / "train", "--no-progress", "--remove-shards") == 0
    assert "already merged" in capsys.readouterr().out and not shards.exists()
    assert main("merge", "--output", tmp_path / "train", "--no-progress", "--remove-shards") == 0
    assert main("merge", "--output", tmp_path / "x", "--no-progress", "--inputs", tmp_path / "train", mixed) == 2
    assert "cannot be merged: text_tokenizer.fingerprint" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main("merge", "--output", tmp_path / "x", "--inputs", mixed, "--remove-shards")
    assert main("validate", tmp_path / "train", "--no-progress") == 0
    assert capsys.readouterr().out == f"{tmp_path / 'train'} is sound: 5 documents, 11 text and 17 visual tokens\n"
    Path(tmp_path / "train.bin").unlink()
    assert main("validate", tmp_path / "train", "--no-progress") == 1
    assert capsys.readouterr().out.splitlines() == [
        f"{tmp_path / 'train'}.bin is missing",
        f"{tmp_path / 'train'} has 1 problem",
    ]


def test_the_snippet_of_the_format_page_runs(mixed, capsys):
    (snippet,) = re.findall(r"```python\n(.*?)```", FORMAT.read_text(encoding="utf-8"), flags=re.S)
    exec(snippet, {"prefix": str(mixed)})
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("0 text [") and any(" image [" in line for line in printed)


def test_the_format_page_names_every_field_of_the_manifest():
    page = FORMAT.read_text(encoding="utf-8")
    assert all(f"`{name}`" in page for name in Manifest.__dataclass_fields__)

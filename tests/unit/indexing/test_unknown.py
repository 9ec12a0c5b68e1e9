"""Texts that the tokenizer can only spell as unknown: counted, and left out where nothing else is in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mars_megatron.data.store import Store
from mars_megatron.index.manifest import Manifest
from mars_megatron.indexing.documents import count_unknown
from mars_megatron.indexing.statistics import inspect_index
from mars_megatron.indexing.validation import validate_index
from mars_megatron.tokenizers import load_text_tokenizer
from tests.support.command_lines import load_tool
from tests.support.raw import build, log, picture, write_lines

LINES = [
    {"text": "a red square"},
    {"text": "юя"},  # nothing but letters that the tokenizer does not know
    {"text": "  юя  ю я\u3000"},
    {"text": "a red ю square ю"},
    {"image": "a.png", "captions": ["a red square", "ю", "ю я"]},
    {"image": "a.png", "captions": ["ю"]},
    {"image": "a.png", "captions": ["a blue ю square", "a red square"]},
    {"parts": ["a red square", "я", {"image": "a.png"}]},
    {"parts": ["я", {"image": "a.png"}]},
    {"parts": ["я", "ю ю"]},
    {"parts": ["a я", "ю"]},
]
REASONS = {
    2: "unknown_text",
    3: "unknown_text",
    5: "unknown_caption_dropped",
    6: "unknown_caption",
    8: "unknown_part_dropped",
    9: "unknown_part_dropped",
    10: "unknown_text",
    11: "unknown_part_dropped",
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_lines(tmp_path / "raw" / "x.jsonl", LINES, {"a.png": picture()})


@pytest.mark.parametrize("workers", [0, 2])
def test_each_kind_of_document(source: Path, tmp_path: Path, tokenizers: tuple[Any, Any], workers: int) -> None:
    manifest = build(source, tmp_path / "index", tokenizers, workers=workers)
    assert {entry["line"]: entry["reason"] for entry in log(tmp_path / "index")} == REASONS
    assert manifest.num_documents == len(LINES) - 4
    assert manifest.unknown == {"texts": 3, "tokens": 4}
    unknown = tokenizers[0].unk_id
    store = Store(tmp_path / "index")
    for number in range(store.num_documents):
        for text in store_texts(store, number):
            assert tokenizers[0].decode([token for token in text if token != unknown]).strip()
    assert validate_index(tmp_path / "index").problems == []
    assert inspect_index(tmp_path / "index")["unknown"] == manifest.unknown


def store_texts(store: Store, number: int) -> list[list[int]]:
    captions = store.captions(number) if store.kind(number) != 3 else []
    parts = [tokens for is_image, tokens in store.parts(number) if not is_image] if store.kind(number) == 3 else []
    return [tokens.tolist() for tokens in (*captions, *parts)]


def test_the_tool_says_so(source: Path, tmp_path: Path, text_model: str, image_model: str, capsys: Any) -> None:
    line = ["build", "--input", source, "--output", tmp_path / "index", "--workers", 0, "--no-progress"]
    line += ["--text-tokenizer", text_model, "--image-tokenizer", image_model, "--resolution", 8]
    main = load_tool("index_data").main
    assert main(list(map(str, line))) == 0
    out = capsys.readouterr().out
    assert "unknown: 3 texts hold what the text tokenizer cannot spell, as 4 unknown tokens" in out
    assert "unknown_text 3" in out and "; 4 left out" in out
    assert main(["inspect", str(tmp_path / "index")]) == 0
    assert "  unknown         texts 3, tokens 4\n" in capsys.readouterr().out


def test_strict_builds_keep_what_is_partly_known(source: Path, tmp_path: Path, tokenizers: tuple[Any, Any]) -> None:
    good = write_lines(tmp_path / "raw" / "good.jsonl", [LINES[0], LINES[3]])
    assert build(good, tmp_path / "good", tokenizers, strict=True).unknown == {"texts": 1, "tokens": 2}
    with pytest.raises(ValueError, match=r"x\.jsonl line 2: unknown_text: .*\(--strict\)"):
        build(source, tmp_path / "index", tokenizers, strict=True)


def test_merged_indices_have_the_sum(tmp_path: Path, tokenizers: tuple[Any, Any]) -> None:
    inputs = [write_lines(tmp_path / "raw" / f"{name}.jsonl", [LINES[3], LINES[0]]) for name in "ab"]
    assert build(inputs, tmp_path / "index", tokenizers).unknown == {"texts": 2, "tokens": 4}


def test_an_index_without_unknown_texts_and_an_older_one(tmp_path: Path, tokenizers: tuple[Any, Any]) -> None:
    source = write_lines(tmp_path / "raw" / "x.jsonl", LINES[:1])
    assert build(source, tmp_path / "index", tokenizers).unknown == {}
    file = tmp_path / "index.json"
    older = json.loads(file.read_text())
    del older["unknown"]
    file.write_text(json.dumps(older))
    assert Manifest.read(file).unknown == {}
    assert validate_index(tmp_path / "index").problems == []


def test_tokenizers_without_an_unknown_token(tmp_path: Path) -> None:
    """Of bytes: there is nothing that they cannot spell."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE({"<eos>": 0} | {byte: number + 1 for number, byte in enumerate(alphabet)}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<eos>").save_pretrained(tmp_path / "bytes")
    tokenizer = load_text_tokenizer(tmp_path / "bytes")
    assert tokenizer.unk_id is None
    source = write_lines(tmp_path / "raw" / "x.jsonl", LINES[:4])
    manifest = build(source, tmp_path / "index", (tokenizer, None))
    assert (manifest.num_documents, manifest.skipped, manifest.unknown) == (4, {}, {})


@given(st.lists(st.lists(st.integers(0, 3), max_size=5), max_size=8))
def test_counts(texts: list[list[int]]) -> None:
    tokens = np.array([token for text in texts for token in text], dtype=np.int32)
    found = count_unknown(tokens, [len(text) for text in texts], 2)
    assert found == (sum(2 in text for text in texts), sum(text.count(2) for text in texts))

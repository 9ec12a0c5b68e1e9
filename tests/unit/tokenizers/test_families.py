"""Ids are those of the library of the file, for look-alikes of real families and whatever lies beside the file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from mars_megatron.config.schema import DataConfig, RunConfig, TaskWeights, TrainingConfig, VocabularyConfig
from mars_megatron.data.micro_batches import open_micro_batches
from mars_megatron.data.store import Store
from mars_megatron.indexing.build import build_index
from mars_megatron.indexing.decoded_samples import decode_documents
from mars_megatron.indexing.options import BuildOptions
from mars_megatron.sampling.load import LoadedModel
from mars_megatron.sampling.sampler import Sampler
from mars_megatron.sequence.vocabulary import Vocabulary
from mars_megatron.tokenizers import TextTokenizer, load_text_tokenizer
from tests.support import look_alikes
from tests.support.command_lines import load_tool

FAMILIES = [*look_alikes.JSON, *look_alikes.SENTENCEPIECE]
LINES = look_alikes.lines()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every look-alike; not to be changed."""
    root = tmp_path_factory.mktemp("families")
    return {name: look_alikes.write(name, root / name) for name in FAMILIES}


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The lines as documents."""
    path = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": line}) + "\n" for line in LINES), encoding="utf-8")
    return path


def config_of(index: Path, tokenizer: Path, size: int) -> RunConfig:
    return RunConfig(
        vocabulary=VocabularyConfig(text_size=size, codebook_size=16),
        data=DataConfig(
            path=str(index),
            text_tokenizer=str(tokenizer),
            micro_batch_tokens=4096,
            tasks=TaskWeights(text=1.0, t2i=0.0),
        ),
        training=TrainingConfig(global_batch_size=1),
    )


def stored(index: Path) -> list[list[int]]:
    """Ids of the text documents of an index."""
    store = Store(index)
    return [store.caption(number, 0).tolist() for number in range(store.num_documents)]


def test_the_lines_are_hard() -> None:
    joined = "\n".join(LINES)
    assert len(LINES) == 2000 and look_alikes.lines() == LINES
    for hard in "１２ ｶﾞ 한 مربع 😀 <|im_end|> </s> <think> e\u0301 12345".split() + ["  ", "\t", "\u3000"]:
        assert hard in joined, hard
    assert any(line[0] == " " for line in LINES) and any(line[-1] == " " for line in LINES)


def spells(tokenizer: TextTokenizer, ids: list[int]) -> bool:
    """Whether an index takes a text: not without ids, and not with unknown ones and spaces alone."""
    known = [number for number in ids if number != tokenizer.unk_id]
    return bool(ids) and (known == ids or bool(tokenizer.decode(known).strip()))


@pytest.mark.parametrize("name", FAMILIES)
def test_index_samples_and_prompts(made: dict[str, Path], texts: Path, tmp_path: Path, name: str) -> None:
    path = made[name]
    wanted = look_alikes.reference(path, LINES)
    tokenizer = load_text_tokenizer(path)
    assert tokenizer.encode_batch(LINES) == wanted and tokenizer.encode_batch([]) == []
    assert 0 <= min(map(min, filter(None, wanted))) and max(map(max, filter(None, wanted))) < tokenizer.rows
    index = tmp_path / "index"
    build_index(texts, index, path, options=BuildOptions(workers=0), progress=False)
    assert stored(index) == [ids for ids in wanted if spells(tokenizer, ids)]
    config = config_of(index, path, tokenizer.size)
    batches = open_micro_batches(config, Vocabulary.from_config(config))
    known = {tuple(ids) for ids in wanted}
    samples = [sample[0] for number in range(3) for sample in batches.samples(number)]
    assert len(samples) > 20
    for sample in samples:  # all but the last token, which is the end of the text
        assert any(tuple(ids) in known for ids in (sample.tolist(), [*sample.tolist()][:-1]))
    sampler = Sampler(LoadedModel(None, config, None, Vocabulary.from_config(config)))  # type: ignore[arg-type]
    assert [sampler.text_tokenizer.encode(line) for line in LINES] == wanted
    decoded = decode_documents(index, [3, 5], text_tokenizer=path)
    assert [document.texts for document in decoded] == [[tokenizer.decode(stored(index)[number])] for number in (3, 5)]


@pytest.mark.parametrize("name", ["yi", "qwen2", "sp llama"])
def test_the_tool_and_its_workers(made: dict[str, Path], texts: Path, tmp_path: Path, name: str) -> None:
    main = load_tool("index_data").main
    index, path = tmp_path / "index", made[name]
    settings = ["--input", texts, "--output", index, "--text-tokenizer", path, "--workers", 2]
    assert main(["build", *map(str, settings)]) == 0
    assert stored(index) == list(filter(None, look_alikes.reference(path, LINES)))
    assert Store(index).manifest.text_tokenizer.content == load_text_tokenizer(path).content != ""


@pytest.mark.parametrize("model_type", ["llama", "qwen2", "gemma", "bert"])
def test_nothing_beside_the_file_changes_ids(made: dict[str, Path], tmp_path: Path, model_type: str) -> None:
    for name in ("yi", "llama2", "smollm", "unigram"):
        before = load_text_tokenizer(made[name])
        folder = look_alikes.with_config(made[name], tmp_path / name, model_type)
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        for number, class_name in enumerate(("LlamaTokenizer", "Qwen2TokenizerFast", "NoSuchTokenizer", None)):
            settings["tokenizer_class"] = class_name
            (folder / "tokenizer_config.json").write_text(json.dumps(settings))
            (folder / "tokenizer.model").write_bytes(made["sp unigram"].read_bytes())
            (folder / "vocab.json").write_text("{}")
            tokenizer = load_text_tokenizer(folder)
            assert tokenizer.encode_batch(LINES[number::8]) == before.encode_batch(LINES[number::8])
            assert (tokenizer.eos_id, tokenizer.size) == (before.eos_id, before.size)
            assert tokenizer.content == before.content
    assert look_alikes.with_config(made["yi"], tmp_path / "b").is_dir()
    assert load_text_tokenizer(tmp_path / "b").fingerprint == load_text_tokenizer(made["yi"]).fingerprint


@pytest.mark.parametrize("file_name", ["tokenizer.model", "spiece.model"])
def test_folders_with_a_model_file_alone(made: dict[str, Path], tmp_path: Path, file_name: str) -> None:
    for name in look_alikes.SENTENCEPIECE:
        folder = tmp_path / name
        folder.mkdir()
        shutil.copy(made[name], folder / file_name)
        settings = {"tokenizer_class": "LlamaTokenizer", "eos_token": "", "legacy": True}
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
        tokenizer, alone = load_text_tokenizer(folder), load_text_tokenizer(made[name])
        assert tokenizer.encode_batch(LINES[::4]) == look_alikes.reference(made[name], LINES[::4])
        assert (tokenizer.eos_id, tokenizer.bos_id, tokenizer.size) == (alone.eos_id, alone.bos_id, alone.size)
        assert tokenizer.content == alone.content and tokenizer.fingerprint != alone.fingerprint


def test_special_tokens_are_text_and_others_are_found(made: dict[str, Path]) -> None:
    tokenizer = load_text_tokenizer(made["qwen2"])
    ids = {token: number for token, number in tokenizer.tokens_from(0).items() if token.startswith("<")}
    text = "<|im_start|>user <think> a</think><|im_end|>"
    found = set(tokenizer.encode(text))
    assert {ids["<think>"], ids["</think>"]} <= found
    assert not {ids["<|im_start|>"], ids["<|im_end|>"], tokenizer.eos_id} & found
    assert tokenizer.decode([*tokenizer.encode(text), tokenizer.eos_id]) == text
    assert tokenizer.decode([ids["<|im_start|>"], *tokenizer.encode("a <think>"), ids["<|im_end|>"]]) == "a <think>"


@pytest.mark.parametrize("name", FAMILIES)
def test_special_tokens_leave_no_trace(made: dict[str, Path], name: str) -> None:
    tokenizer = load_text_tokenizer(made[name])
    ids = tokenizer.encode("a red square")
    ends = [tokenizer.eos_id] if tokenizer.bos_id is None else [tokenizer.eos_id, tokenizer.bos_id]
    assert tokenizer.decode([*ends, *ids, *ends]) == tokenizer.decode(ids)
    assert name in ("sp suffix", "wordpiece") or "red" in tokenizer.decode(ids)


def test_cutting_and_filling_up_are_not_taken_over(made: dict[str, Path]) -> None:
    tokenizer = load_text_tokenizer(made["wordpiece"])
    long = " ".join(["red"] * 50)
    assert len(tokenizer.encode(long)) == len(tokenizer.encode_batch([long, "a"])[0]) == 50
    assert len(tokenizer.encode("a")) == len(tokenizer.encode_batch([long, "a"])[1]) == 1


def test_an_index_is_checked_with_a_copy_in_another_form(made: dict[str, Path], texts: Path, tmp_path: Path) -> None:
    """The same file with the same ends, alone or beside others, is the same tokenizer; another end makes another."""
    build_index(texts, tmp_path / "index", made["yi"], options=BuildOptions(workers=0), progress=False)
    folder = shutil.copytree(made["yi"], tmp_path / "copy")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"tokenizer_class": "TokenizersBackend"}))
    config = config_of(tmp_path / "index", folder, 600)
    assert len(open_micro_batches(config, Vocabulary.from_config(config)).samples(0)) > 2
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"eos_token": "<unk>"}))
    with pytest.raises(ValueError, match="was made with another one"):
        open_micro_batches(config, Vocabulary.from_config(config))
    assert np.all(Store(tmp_path / "index").caption(0, 0) < 600)

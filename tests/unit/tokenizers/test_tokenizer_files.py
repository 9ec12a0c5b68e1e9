"""Tokenizer folders that are read, and those that are refused with what to do."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from mars_megatron.tokenizers import load_text_tokenizer
from mars_megatron.tokenizers.text_checks import check_table
from tests.support import look_alikes


@pytest.fixture
def llama2(tmp_path: Path) -> Path:
    return look_alikes.write("llama2", tmp_path / "llama2")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return look_alikes.write("sp unigram", tmp_path_factory.mktemp("sp"))


def configured(folder: Path, **settings: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


TIKTOKEN = b"\n".join(base64.b64encode(bytes([number])) + b" %d" % number for number in range(256))


@pytest.mark.parametrize(
    ("files", "messages"),
    [
        ({"vocab.json": b"{}", "merges.txt": b""}, ("vocab.json", "how a text is cut", "save_pretrained")),
        ({"merges.txt": b""}, ("merges.txt", "save_pretrained")),
        ({"vocab.txt": b"a"}, ("vocab.txt", "save_pretrained")),
        ({"qwen.tiktoken": TIKTOKEN, "tokenization_qwen.py": b""}, ("qwen.tiktoken", "init-from-hf")),
        ({"o200k.tiktoken": TIKTOKEN}, ("o200k.tiktoken", "save_pretrained")),
        ({"tekken.json": b"{}"}, ("tekken.json", "save_pretrained")),
        ({"tokenization_x.py": b""}, ("tokenization_x.py", "not run", "trust_remote_code")),
        ({"tokenizer.model": TIKTOKEN}, ("tokenizer.model", "tiktoken", "tokenizer.json")),
        ({"tokenizer.model": b"version https://git-lfs"}, ("tokenizer.model", "Git-LFS pointer")),
        ({"tokenizer.model": bytes(40)}, ("tokenizer.model", "not a SentencePiece model")),
        ({"a.model": b"", "b.model": b""}, ("a.model, b.model", "by its path")),
        ({"tokenizer.json": b"{}"}, ("tokenizer.json cannot be read",)),
        ({"tokenizer.json": b"not json"}, ("tokenizer.json cannot be read",)),
        ({"tokenizer_config.json": b"{}"}, ("no tokenizer files", "tokenizer.json or a .model file")),
        ({"config.json": b"{}", "model.safetensors": b""}, ("no tokenizer files",)),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else None,
)
def test_other_kinds_are_refused_by_name(tmp_path: Path, files: dict[str, bytes], messages: tuple[str, ...]) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError) as error:
        load_text_tokenizer(tmp_path)
    for message in (str(tmp_path), *messages):
        assert message in str(error.value)


def test_files_are_refused_by_name(llama2: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is a file; give its folder"):
        load_text_tokenizer(llama2 / "tokenizer.json")
    (tmp_path / "llama3.model").write_bytes(TIKTOKEN)
    with pytest.raises(ValueError, match=r"llama3\.model is a file of tiktoken"):
        load_text_tokenizer(tmp_path / "llama3.model")


def test_random_ids_are_refused(llama2: Path) -> None:
    values = json.loads((llama2 / "tokenizer.json").read_text())
    values["model"]["dropout"] = 0.1
    (llama2 / "tokenizer.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"model\.dropout is 0\.1"):
        load_text_tokenizer(llama2)


def test_where_the_names_stand(llama2: Path) -> None:
    """As text or as a table; in either file; and the second one alone."""
    table = {"__type": "AddedToken", "content": "<s>", "lstrip": False, "special": True}
    (llama2 / "special_tokens_map.json").write_text(json.dumps({"eos_token": table, "bos_token": "</s>"}))
    cases: list[tuple[dict[str, Any], tuple[int, int | None]]] = [
        ({}, (1, 2)),
        ({"eos_token": None, "bos_token": ""}, (1, 2)),
        ({"eos_token": "</s>", "bos_token": "<s>"}, (1, 2)),
        ({"eos_token": "</s>", "bos_token": table, "added_tokens_decoder": {}}, (2, 1)),
        ({"eos_token": "</s>", "added_tokens_decoder": {}}, (2, 2)),
    ]
    for settings, wanted in cases:
        tokenizer = load_text_tokenizer(configured(llama2, **settings))
        assert (tokenizer.eos_id, tokenizer.bos_id) == wanted, settings


def test_an_end_that_is_not_there(llama2: Path) -> None:
    with pytest.raises(ValueError, match="names the eos_token '<end>', which tokenizer.json does not have"):
        load_text_tokenizer(configured(llama2, eos_token="<end>"))
    configured(llama2, tokenizer_class="LlamaTokenizer")
    assert load_text_tokenizer(llama2).eos_id == 2, "</s>, as Llama's class has it"
    core = Tokenizer.from_file(str(llama2 / "tokenizer.json"))
    core.add_special_tokens(["<|endoftext|>"])
    core.save(str(llama2 / "tokenizer.json"))
    (llama2 / "generation_config.json").write_text('{"eos_token_id": 2}')
    with pytest.raises(ValueError, match=r'names no eos_token.*generation_config.json says 2, which is "</s>"'):
        load_text_tokenizer(llama2)


def test_tokens_behind_the_pieces(model: Path, tmp_path: Path) -> None:
    size = load_text_tokenizer(model).size
    folder = configured(
        tmp_path / "chat",
        eos_token="<|im_end|>",
        pad_token="[PAD]",
        added_tokens_decoder={
            "1": {"content": "<s>", "special": True},
            str(size): {"content": "<|im_end|>", "special": True},
            str(size + 3): {"content": "<tool>", "special": False},
        },
    )
    (folder / "tokenizer.model").write_bytes(model.read_bytes())
    (folder / "added_tokens.json").write_text(json.dumps({"[PAD]": size + 1}))
    tokenizer = load_text_tokenizer(folder)
    assert (tokenizer.eos_id, tokenizer.bos_id, tokenizer.size, tokenizer.rows) == (size, 1, size + 4, size + 1)
    text = "a <|im_end|> red<tool> [PAD]"
    assert [tokenizer.encode(text)] == look_alikes.reference(model, [text])
    ids = tokenizer.encode("a red")
    assert tokenizer.decode([*ids[:1], size, *ids[1:], size + 1, size + 2]) == "a red"
    assert tokenizer.decode([*ids, size + 3]) == "a red<tool>"
    configured(folder, eos_token="<|eot|>")
    with pytest.raises(ValueError, match=r"names the eos_token '<\|eot\|>', which is neither a piece"):
        load_text_tokenizer(folder)


def test_broken_tables_are_named(model: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(model.read_bytes())
    for name, content in (
        ("tokenizer_config.json", "["),
        ("special_tokens_map.json", "[]"),
        ("added_tokens.json", '{"<x>": "y"}'),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"3": 4}}'),
    ):
        (tmp_path / name).write_text(content)
        with pytest.raises(ValueError, match=name):
            load_text_tokenizer(tmp_path)
        (tmp_path / name).unlink()


def test_what_cannot_be_spelt(model: Path, tmp_path: Path) -> None:
    for name in ("wordpiece", "unigram"):
        tokenizer = load_text_tokenizer(look_alikes.write(name, tmp_path / name))
        assert tokenizer.unk_id is not None and tokenizer.unk_id in tokenizer.encode("red \U0001f9ff")
    assert load_text_tokenizer(model).unk_id in load_text_tokenizer(model).encode("red \U0001f9ff")
    qwen = load_text_tokenizer(look_alikes.write("qwen2", tmp_path / "qwen2"))
    assert qwen.unk_id is None


def test_ids_with_holes(llama2: Path) -> None:
    """The largest id counts, not their number."""
    values = json.loads((llama2 / "tokenizer.json").read_text())
    size = len(values["model"]["vocab"])
    values["model"]["vocab"]["☂"] = size + 100
    (llama2 / "tokenizer.json").write_text(json.dumps(values))
    tokenizer = load_text_tokenizer(llama2)
    assert tokenizer.size == tokenizer.rows == size + 101
    assert Tokenizer.from_file(str(llama2 / "tokenizer.json")).get_vocab_size() == size + 1
    assert size + 100 in tokenizer.encode("☂")


def test_rows_that_a_table_must_have(llama2: Path) -> None:
    tokenizer = load_text_tokenizer(llama2)
    assert tokenizer.rows == tokenizer.size
    file = llama2 / "tokenizer.json"
    core = Tokenizer.from_file(str(file))
    core.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    core.save(str(file))
    assert (load_text_tokenizer(llama2).rows, load_text_tokenizer(llama2).size) == (tokenizer.size, tokenizer.size + 2)
    check_table(load_text_tokenizer(llama2), tokenizer.size)
    configured(llama2, eos_token="</s>", bos_token="<|im_start|>")
    with pytest.raises(ValueError, match=r"at most 543.*'<\|im_start\|>' \(543\), '<\|im_end\|>' \(544\)\."):
        check_table(load_text_tokenizer(llama2), tokenizer.size)
    configured(llama2, eos_token="<|im_end|>", bos_token="<s>")
    assert load_text_tokenizer(llama2).rows == tokenizer.size + 2
    values = json.loads(file.read_text())
    for token in values["added_tokens"][-2:]:
        values["model"]["vocab"][token["content"]] = token["id"]  # as converted SentencePiece models have it
    file.write_text(json.dumps(values))
    configured(llama2, eos_token="</s>")
    assert load_text_tokenizer(llama2).rows == tokenizer.size
    core.add_tokens(["<tool_call>"])
    core.save(str(file))
    configured(llama2, eos_token="</s>")
    assert load_text_tokenizer(llama2).rows == tokenizer.size + 3


@pytest.mark.parametrize(
    ("name", "settings", "wanted"),
    [
        ("llama2", {}, True),  # its post-processor does it
        ("llama2", {"add_bos_token": False}, False),
        ("llama3", {}, True),
        ("yi", {"add_bos_token": True}, True),
        ("yi", {}, False),
        ("qwen2", {"add_bos_token": True, "bos_token": None}, False),
        ("wordpiece", {}, False),
        ("gemma", {}, True),
    ],
)
def test_who_wants_a_begin_token(tmp_path: Path, name: str, settings: dict[str, Any], wanted: bool) -> None:
    folder = look_alikes.write(name, tmp_path / "a")
    values = json.loads((folder / "tokenizer_config.json").read_text())
    values.pop("add_bos_token", None)
    tokenizer = load_text_tokenizer(configured(folder, **{**values, **settings}))
    assert tokenizer.wants_bos == wanted
    assert tokenizer.bos_id is None or tokenizer.bos_id not in tokenizer.encode("a red square")[:1]


def test_who_wants_a_begin_token_of_pieces(model: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(model.read_bytes())
    for settings, wanted in (
        ({"tokenizer_class": "LlamaTokenizer"}, True),
        ({"tokenizer_class": "LlamaTokenizer", "add_bos_token": False}, False),
        ({"tokenizer_class": "T5Tokenizer"}, False),
        ({"add_bos_token": True}, True),
    ):
        assert load_text_tokenizer(configured(tmp_path, **settings)).wants_bos == wanted, settings
    assert not load_text_tokenizer(model).wants_bos

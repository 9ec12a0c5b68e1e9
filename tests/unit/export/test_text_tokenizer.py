"""The tokenizer of an exported folder gives the ids of the file, also where nothing of this project is installed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoProcessor, AutoTokenizer

from mars_megatron.config.schema import RunConfig, VocabularyConfig
from mars_megatron.export.folder import write_companions
from mars_megatron.export.text_tokenizer import write_text_tokenizer
from mars_megatron.tokenizers import load_text_tokenizer
from tests.support import clean_environment, look_alikes

FAMILIES = [*look_alikes.JSON, *look_alikes.SENTENCEPIECE]
LINES = look_alikes.lines()
SIZE = 1000
_ALONE = """
import importlib.util, json
from pathlib import Path
from transformers import AutoProcessor, AutoTokenizer

assert importlib.util.find_spec("mars_megatron") is None
root = Path(sys.argv[1])
lines, wanted = json.loads((root / "wanted.json").read_text())
for name, (ids, eos_id) in wanted.items():
    tokenizer = AutoTokenizer.from_pretrained(root / name, trust_remote_code=True)
    options = {"add_special_tokens": False, "split_special_tokens": True}
    assert tokenizer.eos_token_id == eos_id, name
    assert tokenizer(lines, **options)["input_ids"] == ids, name
    assert [tokenizer.encode(line, **options) for line in lines[::9]] == ids[::9], name
    processor = AutoProcessor.from_pretrained(root / name, trust_remote_code=True)
    assert processor.encode_text(lines[::9]) == ids[::9], name
print("fine")
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported folder, without weights, of each look-alike, all below one; their sources lie in `sources`."""
    root = tmp_path_factory.mktemp("exported")
    config = RunConfig(vocabulary=VocabularyConfig(text_size=SIZE, codebook_size=16))
    wanted = {}
    for name in FAMILIES:
        source = look_alikes.write(name, root / "sources" / name)
        if name in ("yi", "llama2"):  # a language model's folder
            source = look_alikes.with_config(source, root / "models" / name)
        (root / name).mkdir()
        write_companions(root / name, config, step=0, dtype="fp32", text_tokenizer=str(source), image_tokenizer="")
        wanted[name] = look_alikes.reference(source, LINES), load_text_tokenizer(source).eos_id
    (root / "wanted.json").write_text(json.dumps([LINES, wanted]), encoding="utf-8")
    return root


def test_ids_where_nothing_of_this_project_is(exported: Path, tmp_path: Path) -> None:
    site = clean_environment.make(tmp_path, ["torch", "transformers", "safetensors", "sentencepiece", "pillow"])
    result = clean_environment.run(site, _ALONE, exported)
    assert result.returncode == 0 and result.stdout.strip().endswith("fine"), result.stderr


@pytest.mark.parametrize("name", FAMILIES)
def test_texts_and_names(exported: Path, tmp_path: Path, name: str) -> None:
    source = next(path for path in (exported / "sources" / name, exported / "sources" / name / "text.model")
                  if path.is_file() or (path / "tokenizer.json").is_file())  # fmt: skip
    ours = load_text_tokenizer(source)
    tokenizer = AutoTokenizer.from_pretrained(exported / name, trust_remote_code=True)
    assert (tokenizer.eos_token_id, tokenizer.bos_token_id) == (ours.eos_id, ours.bos_id)
    assert len(tokenizer) == ours.size and tokenizer.pad_token_id is not None
    ends = [ours.eos_id] if ours.bos_id is None else [ours.eos_id, ours.bos_id]
    for line in LINES[::20]:
        ids = [*ends, *ours.encode(line), ours.eos_id]
        assert tokenizer.decode(ids, skip_special_tokens=True) == ours.decode(ids)
    ids = ours.encode("a red")
    assert tokenizer.batch_decode([ids, ids], skip_special_tokens=True) == [ours.decode(ids)] * 2
    tokenizer.save_pretrained(tmp_path / "saved")
    again = AutoTokenizer.from_pretrained(tmp_path / "saved", trust_remote_code=True)
    for line in LINES[::50]:
        options = {"add_special_tokens": False, "split_special_tokens": True}
        assert again.encode(line, **options) == ours.encode(line)


def test_an_exported_folder_is_a_tokenizer_again(exported: Path) -> None:
    """With the ids and the content of its source, which index and training compare."""
    for name in FAMILIES:
        source = exported / "sources" / name
        ours = load_text_tokenizer(source if name in look_alikes.JSON else source / "text.model")
        again = load_text_tokenizer(exported / name)
        assert again.encode_batch(LINES[::9]) == ours.encode_batch(LINES[::9])
        assert (again.eos_id, again.bos_id, again.content) == (ours.eos_id, ours.bos_id, ours.content), name


def test_no_code_is_needed_where_a_class_of_transformers_will_do(exported: Path) -> None:
    for name in look_alikes.JSON:
        own = (exported / name / "tokenization_mars.py").exists()
        assert own == (name == "named but plain")
        if not own:
            tokenizer = AutoTokenizer.from_pretrained(exported / name)
            assert tokenizer.encode("a  1234", add_special_tokens=False) == look_alikes.reference(
                exported / name, ["a  1234"]
            )[0]  # fmt: skip


@pytest.mark.parametrize("name", ["sp unigram", "sp llama", "sp symbols", "yi", "deepseek"])
def test_any_text_at_all(exported: Path, name: str) -> None:
    source = exported / "sources" / name
    source = source if name in look_alikes.JSON else source / "text.model"
    tokenizer = AutoTokenizer.from_pretrained(exported / name, trust_remote_code=True)
    ours = load_text_tokenizer(source)
    words = st.sampled_from([*look_alikes.SPELT, " ", "  ", "▁", "ｶﾞ", "\u1112\u1161\u11ab", "aa", "\t"]) | st.text()

    @settings(max_examples=150, deadline=None)
    @given(st.lists(words, max_size=8).map("".join))
    def check(text: str) -> None:
        (wanted,) = look_alikes.reference(source, [text])
        assert tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True) == wanted
        assert ours.encode(text) == ours.encode_batch(["x", text])[1] == wanted
        assert tokenizer.decode(wanted, skip_special_tokens=True) == ours.decode(wanted)

    check()


def test_chats_go_on_working(exported: Path, tmp_path: Path) -> None:
    source = shutil.copytree(exported / "sources" / "qwen2", tmp_path / "source")
    messages = [{"role": "user", "content": "a red square <think>"}]
    for as_file in (False, True):
        if as_file:
            values = json.loads((source / "tokenizer_config.json").read_text())
            (source / "chat_template.jinja").write_text(values.pop("chat_template") + "!")
            (source / "tokenizer_config.json").write_text(json.dumps(values))
        (tmp_path / f"{as_file}").mkdir()
        write_text_tokenizer(source, tmp_path / f"{as_file}", SIZE)
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / f"{as_file}")
        text = tokenizer.apply_chat_template(messages, tokenize=False)
        assert text == "<|im_start|>a red square <think><|im_end|>" + "!" * as_file
        ids = tokenizer.apply_chat_template(messages, return_dict=False)
        assert tokenizer.convert_ids_to_tokens(ids[0]) == "<|im_start|>" and tokenizer.eos_token_id in ids
    processor = AutoProcessor.from_pretrained(exported / "qwen2", trust_remote_code=True)
    assert processor.tokenizer.eos_token_id not in processor.encode_text([text])[0], "in a caption it is text"


def test_tokens_behind_the_pieces(exported: Path, tmp_path: Path) -> None:
    folder = tmp_path / "chat"
    folder.mkdir()
    model = exported / "sources" / "sp unigram" / "text.model"
    shutil.copy(model, folder / "tokenizer.model")
    size = sentencepiece.SentencePieceProcessor(model_file=str(model)).vocab_size()
    added = {
        str(size): {"content": "<|im_end|>", "special": True},
        str(size + 2): {"content": "<tool>", "special": False},
    }
    values = {
        "eos_token": "<|im_end|>",
        "added_tokens_decoder": added,
        "chat_template": "{{ messages[0].content }}<|im_end|>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(values))
    (tmp_path / "out").mkdir()
    write_text_tokenizer(folder, tmp_path / "out", SIZE)
    ours = load_text_tokenizer(folder)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out", trust_remote_code=True)
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (size, size)
    assert (load_text_tokenizer(tmp_path / "out").content, ours.eos_id) == (ours.content, size)
    text = "a red <|im_end|><tool> b"
    assert tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True) == ours.encode(text)
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "a red"}], return_dict=False)
    assert ids == [*ours.encode("a red"), size]
    for extra in ([size], [size + 2], [0], [1, 2]):
        ids = [*ours.encode("a"), *extra, *ours.encode("red")]
        assert tokenizer.decode(ids, skip_special_tokens=True) == ours.decode(ids)
    assert tokenizer.decode([*ours.encode("a"), 2, size]) == "a</s><|im_end|>"


def test_what_fills_up_batches_has_a_row(exported: Path, tmp_path: Path) -> None:
    source = exported / "sources" / "smollm"
    values = json.loads((source / "tokenizer_config.json").read_text())
    folder = shutil.copytree(source, tmp_path / "source")
    (folder / "tokenizer_config.json").write_text(json.dumps({**values, "pad_token": "<|im_end|>", "eos_token": "!"}))
    ours = load_text_tokenizer(folder)
    (tmp_path / "out").mkdir()
    for text_size, wanted in ((ours.size, ours.size - 1), (ours.size - 1, ours.eos_id)):
        write_text_tokenizer(folder, tmp_path / "out", text_size)
        assert AutoTokenizer.from_pretrained(tmp_path / "out").pad_token_id == wanted


def test_sentencepiece_that_is_missing_is_named(exported: Path, tmp_path: Path) -> None:
    code = """
from transformers import AutoTokenizer
try:
    AutoTokenizer.from_pretrained(sys.argv[1], trust_remote_code=True)
except ImportError as error:
    assert "pip install sentencepiece" in str(error), error
    print("fine")
"""
    site = clean_environment.make(tmp_path, ["transformers"])
    result = clean_environment.run(site, code, exported / "sp char")
    assert result.returncode == 0 and result.stdout.strip().endswith("fine"), result.stderr
    card = (exported / "sp char" / "README.md").read_text()
    assert "texts need `sentencepiece`" in card and "sentencepiece" not in (exported / "yi" / "README.md").read_text()

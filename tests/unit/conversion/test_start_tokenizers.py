"""The tokenizer of a language model against its table, and its begin token: decided when a start checkpoint is made."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors
from transformers import AutoProcessor, AutoTokenizer

from mars_megatron.config.schema import TaskWeights
from mars_megatron.conversion.checkpoints import open_checkpoint
from mars_megatron.conversion.convert import export_hf, import_hf, init_from_hf
from mars_megatron.data.micro_batches import open_micro_batches
from mars_megatron.indexing.build import build_index
from mars_megatron.indexing.options import BuildOptions
from mars_megatron.sampling.load import LoadedModel
from mars_megatron.sampling.sampler import Sampler
from mars_megatron.sequence.vocabulary import Vocabulary
from mars_megatron.tokenizers import load_text_tokenizer
from tests.support.language_models import SIZES
from tests.support.refusals import SETTINGS, refused

Made, Copied = Callable[[str], Path], Callable[[Path], Path]
ROWS = SIZES["vocab_size"]
WORDS = ["<unk>", "<s>", "</s>", *(f"w{number}" for number in range(ROWS - 3))]


def core(words: list[str] = WORDS) -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in WORDS[:3]])
    return tokenizer


def save(tokenizer: Tokenizer, folder: Path, **settings: Any) -> Path:
    folder.mkdir(exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "LlamaTokenizer", "eos_token": "</s>", "bos_token": "<s>", **settings}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture
def source(made_language_model: Made, copied: Copied) -> Path:
    """A language model of ROWS rows, to be given a tokenizer."""
    return copied(made_language_model("llama"))


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "made").mkdir()
    return tmp_path / "made" / "start"


def special(tokenizer: Tokenizer, *tokens: str) -> Tokenizer:
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in tokens])
    return tokenizer


def test_special_tokens_without_a_row_are_accepted_everywhere(source: Path, target: Path, tmp_path: Path) -> None:
    save(special(core(), "<|im_start|>", "<|im_end|>", "[PAD]"), source, pad_token="[PAD]")
    said = rf"has {ROWS + 3} ids, the language model {ROWS} rows.*'<\|im_start\|>', '<\|im_end\|>', '\[PAD\]'"
    with pytest.warns(UserWarning, match=said):
        init_from_hf(source, target, overrides=SETTINGS)
    config = open_checkpoint(target).config
    texts = ["w1 w57 <|im_end|> [PAD]", "w3 </s> w4", "nothing"] * 20
    (tmp_path / "t.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    tokenizer = config.data.text_tokenizer
    build_index(tmp_path / "t.jsonl", tmp_path / "index", tokenizer, options=BuildOptions(workers=0), progress=False)
    data = replace(config.data, path=str(tmp_path / "index"), tasks=TaskWeights(text=1.0, t2i=0.0))
    run = replace(config, data=data, training=replace(config.training, global_batch_size=1))
    samples = open_micro_batches(run, Vocabulary.from_config(run)).samples(0)
    assert samples and all(sample[0].max() < ROWS for sample in samples)
    without = replace(run, data=replace(data, text_tokenizer=""))  # the index knows where it lies
    assert open_micro_batches(without, Vocabulary.from_config(run)).samples(0)
    sampler = Sampler(LoadedModel(None, run, None, Vocabulary.from_config(run)))  # type: ignore[arg-type]
    assert sampler.num_text_ids == ROWS < sampler.text_tokenizer.size
    exported = export_hf(target, tmp_path / "exported")
    values = json.loads((exported / "config.json").read_text())
    assert (values["num_text_ids"], values["text_vocab_size"]) == (ROWS, ROWS)
    processor = AutoProcessor.from_pretrained(exported, trust_remote_code=True)
    ids = processor.encode_text(texts[:3])
    assert ids == load_text_tokenizer(source).encode_batch(texts[:3]) and max(map(max, ids)) < ROWS
    assert AutoTokenizer.from_pretrained(exported, trust_remote_code=True).pad_token_id == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        import_hf(exported, tmp_path / "back")
    assert load_text_tokenizer(open_checkpoint(tmp_path / "back").config.data.text_tokenizer).size == ROWS + 3


def found_in_texts() -> tuple[Tokenizer, dict[str, Any], str]:
    tokenizer = special(core(), "<|im_start|>")
    tokenizer.add_tokens([AddedToken("<tool_call>", special=False)])
    return tokenizer, {}, f"'<tool_call>' ({ROWS + 1})"


def pieces() -> tuple[Tokenizer, dict[str, Any], str]:
    return core([*WORDS, "more", "still"]), {}, f"'more' ({ROWS}), 'still' ({ROWS + 1})"


def end() -> tuple[Tokenizer, dict[str, Any], str]:
    return special(core(), "<|im_end|>"), {"eos_token": "<|im_end|>"}, f"'<|im_end|>' ({ROWS})"


def begin() -> tuple[Tokenizer, dict[str, Any], str]:
    return special(core(), "<|bos|>"), {"bos_token": {"content": "<|bos|>"}}, f"'<|bos|>' ({ROWS})"


@pytest.mark.parametrize("make", [found_in_texts, pieces, end, begin])
@pytest.mark.parametrize("elsewhere", [False, True], ids=["beside", "elsewhere"])
def test_ids_without_a_row_that_texts_make_are_refused(
    make: Callable[[], tuple[Tokenizer, dict[str, Any], str]],
    elsewhere: bool,
    source: Path,
    target: Path,
    tmp_path: Path,
) -> None:
    tokenizer, settings, named = make()
    folder = save(tokenizer, tmp_path / "other" if elsewhere else source, **settings)
    size = load_text_tokenizer(folder).size
    remedy = f"model.resize_token_embeddings({size})"
    overrides = [*SETTINGS, *([f"--data.text_tokenizer={folder}"] if elsewhere else [])]
    with refused(target, str(folder), f"at most {ROWS}", named, remedy, "out of tokenizer.json"):
        init_from_hf(source, target, overrides=overrides)


def test_tokens_behind_the_pieces_of_a_model_file(source: Path, target: Path) -> None:
    lines = [" ".join(WORDS[number : number + 5]) for number in range(3, len(WORDS))] * 5
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_prefix=str(source / "tokenizer"), vocab_size=ROWS, hard_vocab_limit=False,
        minloglevel=2,
    )  # fmt: skip
    (source / "added_tokens.json").write_text(json.dumps({"<|im_end|>": ROWS}))
    with pytest.warns(UserWarning, match=rf"has {ROWS + 1} ids, the language model {ROWS} rows.*<\|im_end\|>"):
        init_from_hf(source, target, overrides=SETTINGS)
    (source / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|im_end|>"}))
    with refused(target.with_name("second"), f"'<|im_end|>' ({ROWS})", "out of tokenizer.model"):
        init_from_hf(source, target.with_name("second"), overrides=SETTINGS)


def with_begin(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


@pytest.mark.parametrize(
    ("begins", "settings", "said"),
    [
        (True, {}, True),
        (False, {"add_bos_token": True}, True),
        (True, {"add_bos_token": False}, False),
        (False, {}, False),
        (False, {"add_bos_token": True, "bos_token": None}, False),
    ],
)
def test_a_begin_token_that_is_expected_is_talked_about(
    source: Path, target: Path, begins: bool, settings: dict[str, Any], said: bool
) -> None:
    save(with_begin(core()) if begins else core(), source, **settings)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        init_from_hf(source, target, overrides=SETTINGS)
    found = [str(warning.message) for warning in caught if "bos_token" in str(warning.message)]
    assert len(found) == said
    if said:
        assert (
            f"{source} puts its bos_token (id 1) in front of every text" in found[0] and "begin without it" in found[0]
        )
    tokenizer = load_text_tokenizer(open_checkpoint(target).config.data.text_tokenizer)
    assert tokenizer.encode("w1 w2") == [4, 5], "whatever the files say"

"""What was made by a class of transformers is not taken for what the file of a tokenizer says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from mars_megatron.config.schema import DataConfig, RunConfig, TaskWeights, TrainingConfig, VocabularyConfig
from mars_megatron.data.micro_batches import open_micro_batches
from mars_megatron.index.manifest import Manifest
from mars_megatron.index.merge import merge_indices
from mars_megatron.indexing.build import build_index
from mars_megatron.indexing.options import BuildOptions
from mars_megatron.sequence.vocabulary import Vocabulary
from mars_megatron.tokenizers.text_checks import first_difference, warn_of_former_checkpoint
from tests.support import look_alikes

OPTIONS = BuildOptions(workers=0)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Look-alikes `yi` and `neox`, an index of each, and a SentencePiece model; not to be changed."""
    root = tmp_path_factory.mktemp("former")
    for name in ("a", "b"):
        lines = "".join(json.dumps({"text": f"{name} {line}"}) + "\n" for line in look_alikes.lines(60))
        (root / f"{name}.jsonl").write_text(lines)
    for family in ("yi", "neox"):
        look_alikes.write(family, root / family)
        build_index(root / "a.jsonl", root / f"{family}_index", root / family, options=OPTIONS, progress=False)
    look_alikes.write("sp unigram", root)
    return root


def former(root: Path, family: str, target: Path) -> Path:
    """The index of a look-alike as a former version would have described it."""
    for file in root.glob(f"{family}_index.*"):
        shutil.copy(file, target.parent / file.name.replace(f"{family}_index", target.name))
    values = json.loads(Path(f"{target}.json").read_text())
    assert values["text_tokenizer"].pop("content")
    Path(f"{target}.json").write_text(json.dumps(values))
    return target


def train(index: Path, tokenizer: str) -> None:
    config = RunConfig(
        vocabulary=VocabularyConfig(text_size=600, codebook_size=16),
        data=DataConfig(
            path=str(index), text_tokenizer=tokenizer, micro_batch_tokens=4096, tasks=TaskWeights(text=1.0, t2i=0.0)
        ),
        training=TrainingConfig(global_batch_size=1),
    )
    assert open_micro_batches(config, Vocabulary.from_config(config)).samples(0)


def test_the_first_text_that_differs(root: Path) -> None:
    assert first_difference(str(root / "yi")) is not None
    assert first_difference(str(root / "neox")) is None
    assert first_difference(str(root / "text.model")) is None
    folder = root / "alone"
    folder.mkdir(exist_ok=True)
    shutil.copy(root / "text.model", folder / "tokenizer.model")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer"}')
    assert first_difference(str(folder)) is not None


@pytest.mark.parametrize("named", [True, False])
def test_an_index_of_other_ids_is_not_trained_on(root: Path, tmp_path: Path, named: bool) -> None:
    train(root / "yi_index", str(root / "yi"))
    index = former(root, "yi", tmp_path / "old")
    with pytest.raises(ValueError, match=r"old was made by a former version.*yi by a class.*build the index again"):
        train(index, str(root / "yi") if named else "")
    train(former(root, "neox", tmp_path / "same"), str(root / "neox") if named else "")


def test_what_lay_beside_the_tokenizer_counts(root: Path, tmp_path: Path) -> None:
    """The run may name a copy without the config.json, which chose the class."""
    copy = shutil.copytree(root / "yi", tmp_path / "copy")
    (copy / "tokenizer_config.json").write_text('{"eos_token": "<|endoftext|>"}')
    model = look_alikes.with_config(copy, tmp_path / "model", "qwen2")
    build_index(root / "a.jsonl", tmp_path / "chosen_index", model, options=OPTIONS, progress=False)
    assert first_difference(str(copy)) is None and first_difference(str(model)) is not None
    index = former(tmp_path, "chosen", tmp_path / "old")
    with pytest.raises(ValueError, match="build the index again"):
        train(index, str(copy))


def test_folders_that_are_not_read_any_more(root: Path, tmp_path: Path) -> None:
    """Their indices have the ids of a class, and no file says otherwise."""
    (tmp_path / "vocab.json").write_text("{}")
    with pytest.warns(UserWarning, match="vocab.json, which does not say"):
        assert first_difference(str(tmp_path)) is None


def test_an_index_whose_tokenizer_is_gone_is_worth_a_warning(root: Path, tmp_path: Path) -> None:
    index = former(root, "yi", tmp_path / "old")
    file = Path(f"{index}.json")
    values = json.loads(file.read_text())
    values["text_tokenizer"]["path"] = "/gone/tokenizer"
    file.write_text(json.dumps(values))
    with pytest.warns(UserWarning, match=r"old was made by a former version with the text tokenizer /gone/tokenizer"):
        train(index, "")


def test_building_goes_on_only_with_the_same_reading(root: Path, tmp_path: Path) -> None:
    former(root, "yi", tmp_path / "old")
    with pytest.raises(ValueError, match="has ids of a former version"):
        build_index(root / "a.jsonl", tmp_path / "old", root / "yi", options=OPTIONS, progress=False)
    former(root, "neox", tmp_path / "same")
    manifest = build_index(root / "a.jsonl", tmp_path / "same", root / "neox", options=OPTIONS, progress=False)
    assert manifest == Manifest.read(tmp_path / "same.json") and not manifest.text_tokenizer.content


def test_a_merge_is_as_old_as_its_oldest_part(root: Path, tmp_path: Path) -> None:
    former(root, "yi", tmp_path / "old")
    build_index(root / "b.jsonl", tmp_path / "new", root / "yi", options=OPTIONS, progress=False)
    for number, parts in enumerate((["old", "new"], ["new", "old"])):
        merged = tmp_path / f"merged{number}"
        merge_indices([tmp_path / name for name in parts], merged, progress=False)
        assert Manifest.read(Path(f"{merged}.json")).text_tokenizer.content == ""
        with pytest.raises(ValueError, match="build the index again"):
            train(merged, str(root / "yi"))


def test_checkpoints_that_do_not_name_their_tokenizer(
    root: Path, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    for path in (root / "neox", root / "text.model", "", "/gone"):
        warn_of_former_checkpoint(tmp_path, str(path))
    assert not [warning for warning in recwarn if "former" in str(warning.message)]
    with pytest.warns(UserWarning, match="was trained by a former version"):
        warn_of_former_checkpoint(tmp_path, str(root / "yi"))
    (tmp_path / "tokenizers.json").write_text("{}")
    recwarn.clear()
    warn_of_former_checkpoint(tmp_path, str(root / "yi"))
    assert not [warning for warning in recwarn if "former" in str(warning.message)]

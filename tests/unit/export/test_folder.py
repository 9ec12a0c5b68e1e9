"""The files of an exported folder."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import AutoConfig, AutoTokenizer, GenerationConfig

from mars_megatron.config import from_yaml
from mars_megatron.config.schema import RunConfig
from mars_megatron.export.folder import build_mars_config, write_companions
from mars_megatron.tokenizers import load_text_tokenizer
from tests.support.exported_run import STEP, Exported


def write(folder: Path, config: RunConfig, **settings: str) -> Path:
    folder.mkdir(exist_ok=True)
    data = config.data
    paths = {"text_tokenizer": data.text_tokenizer, "image_tokenizer": data.image_tokenizer}
    write_companions(folder, config, step=STEP, **{"dtype": "bf16", **paths, **settings})
    return folder


def test_files_say_what_the_run_says(exported: Exported, tmp_path: Path) -> None:
    config = replace(exported.run.config, generation=replace(exported.run.config.generation, guidance=1.5, top_k=3))
    folder = write(tmp_path / "mars", config)
    values = json.loads((folder / "config.json").read_text())
    assert (values["model_type"], values["dtype"], values["training_step"]) == ("mars", "bfloat16", STEP)
    loaded = AutoConfig.from_pretrained(folder, trust_remote_code=True)
    tokenizer = load_text_tokenizer(config.data.text_tokenizer)
    want = build_mars_config(config, num_text_ids=tokenizer.size, eos_id=tokenizer.eos_id)
    for name in values.keys() - {"auto_map", "architectures", "dtype", "training_step"}:
        assert getattr(loaded, name) == getattr(want, name), name
    assert loaded.image_generation == {
        "guidance": 1.5,
        "guidance_schedule": "constant",
        "temperature": 1.0,
        "top_k": 3,
        "top_p": 1.0,
        "min_p": 0.0,
    }
    assert loaded.num_text_ids == tokenizer.size < loaded.text_vocab_size == config.vocabulary.text_size
    assert loaded.vocab_size == exported.loaded.vocabulary.size
    assert (loaded.boi_token_id, loaded.eoi_token_id) == (
        exported.loaded.vocabulary.boi,
        exported.loaded.vocabulary.eoi,
    )
    generation = GenerationConfig.from_pretrained(folder)
    assert (generation.eos_token_id, generation.pad_token_id, generation.max_new_tokens) == (tokenizer.eos_id,) * 2 + (
        6,
    )
    assert from_yaml(folder / "training_config.yaml") == config


def test_a_configuration_survives_saving(exported: Exported, tmp_path: Path) -> None:
    loaded = AutoConfig.from_pretrained(exported.folder, trust_remote_code=True)
    loaded.save_pretrained(tmp_path)
    again = AutoConfig.from_pretrained(tmp_path, trust_remote_code=True)
    values, want = again.to_dict(), loaded.to_dict()
    assert values.pop("_name_or_path") != want.pop("_name_or_path")
    assert values == want and again.training_step == STEP


def test_tokenizers_that_are_not_there_are_left_out(exported: Exported, tmp_path: Path) -> None:
    config = exported.run.config
    for name, settings in {
        "none": {"text_tokenizer": "", "image_tokenizer": ""},
        "text": {"image_tokenizer": ""},
        "image": {"text_tokenizer": ""},
    }.items():
        folder = write(tmp_path / name, config, **settings)
        assert (folder / "image_tokenizer").exists() == (name == "image")
        for file in ("tokenizer.model", "tokenization_mars.py", "processor_config.json"):
            assert (folder / file).exists() == (name == "text")
        loaded = AutoConfig.from_pretrained(folder, trust_remote_code=True)
        assert ("AutoProcessor" in loaded.auto_map) == (name == "text")
        card = (folder / "README.md").read_text()
        assert "Not in this folder" in card and "generate_images" not in card and "super-resolution" not in card
    third = replace(config, image=replace(config.image, low_resolution=4, next_k=4))
    card = (write(tmp_path / "third", third) / "README.md").read_text()
    assert "super-resolution from 4 x 4 pixels" in card
    assert json.loads((tmp_path / "none" / "generation_config.json").read_text()) == {"max_new_tokens": 6}


def test_of_a_tokenizer_folder_no_model_is_taken(exported: Exported, tmp_path: Path) -> None:
    source = tmp_path / "language model"
    source.mkdir()
    shutil.copy(exported.run.config.data.text_tokenizer, source / "tokenizer.model")
    (source / "model.safetensors").write_bytes(b"weights")
    folder = write(tmp_path / "mars", exported.run.config, text_tokenizer=str(source))
    assert not (folder / "model.safetensors").exists()
    assert AutoTokenizer.from_pretrained(folder, trust_remote_code=True).eos_token_id == 2


def test_what_does_not_fit_is_refused(exported: Exported, tmp_path: Path) -> None:
    config = exported.run.config
    small = replace(config, vocabulary=replace(config.vocabulary, text_size=20))
    with pytest.raises(ValueError, match="make 24 ids; accepted: at most 20, the rows of the text table"):
        write(tmp_path / "a", small)
    codes = replace(config, vocabulary=replace(config.vocabulary, codebook_size=17))
    with pytest.raises(ValueError, match="has 16 for vocabulary.codebook_size; accepted: 17"):
        write(tmp_path / "b", codes)
    with pytest.raises(ValueError, match="has 2 for image.downsample; accepted: 4"):
        write(tmp_path / "c", replace(config, image=replace(config.image, downsample=4)))
    with pytest.raises(ValueError, match="none is not a diffusers VQModel folder"):
        write(tmp_path / "d", config, image_tokenizer=str(tmp_path / "none"))
    with pytest.raises(ValueError, match="none does not exist"):
        write(tmp_path / "e", config, text_tokenizer=str(tmp_path / "none"))
    with pytest.raises(ValueError, match="dtype is 'float32'; accepted: fp32, bf16, fp16"):
        write(tmp_path / "f", config, dtype="float32")


def test_the_code_of_the_card_runs(exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(exported.folder, tmp_path / "mars")
    card = (tmp_path / "mars" / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlicense: other\n") and f"step {STEP} in float32" in card
    assert "Not in this folder" not in card and "num_layers: 1" in card
    blocks = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert len(blocks) == 6
    scope: dict[str, object] = {}
    for block in blocks:
        exec(block, scope)
    assert (tmp_path / "sample.png").is_file()
    assert (tmp_path / "fine-tuned" / "image_tokenizer" / "config.json").is_file()
    saved = AutoConfig.from_pretrained(tmp_path / "fine-tuned", trust_remote_code=True)
    assert saved.training_step == STEP

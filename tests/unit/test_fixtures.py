"""What commit 5def77f made (tests/support/make_fixtures.py) is used by today's code as by that commit's.

Ids, codes and the order of samples are compared exactly. Losses and logits were computed on one machine; another one
may add in another order, so they are compared closely, and bitwise with a second run here.
"""

from __future__ import annotations

import json
import shutil
import tarfile
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from mars_megatron.checkpoint import read_config, resolve
from mars_megatron.config.parser import override
from mars_megatron.config.schema import RunConfig
from mars_megatron.conversion.convert import export_hf, import_hf
from mars_megatron.conversion.verify import compare, open_both
from mars_megatron.index.manifest import Manifest
from mars_megatron.indexing.validation import validate_index
from mars_megatron.sampling import LoadedModel, Sampler, load_for_inference, sample_images
from mars_megatron.sampling.decoding import inference, pack_samples
from mars_megatron.training import Trainer

MADE = Path(__file__).parents[1] / "fixtures" / "5def77f" / "made.tar.xz"
RUNS = ("plain", "routed")
CLOSE: dict[str, dict[str, float]] = {
    "plain": {"rtol": 1e-5, "atol": 1e-5},
    "routed": {"rtol": 2e-3, "atol": 2e-2},  # bf16
}


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files; the process stands there, as their configurations name them relatively."""
    with tarfile.open(MADE) as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(params=RUNS)
def name(request: pytest.FixtureRequest, made: Path) -> str:
    return request.param


@pytest.fixture
def expected(name: str) -> dict[str, Any]:
    return json.loads(Path(name, "expected.json").read_text()) | load_file(Path(name, "expected.safetensors"))


@pytest.fixture
def config(name: str) -> RunConfig:
    return read_config(resolve(f"{name}/run"))


@pytest.fixture
def loaded(name: str) -> LoadedModel:
    return load_for_inference(f"{name}/run")


def logits(loaded: LoadedModel, samples: list[list[int]]) -> Tensor:
    with inference(loaded.model):
        return loaded.model(pack_samples(samples, loaded.vocabulary, every_token=True), return_logits=True).float()


def losses(root: Path) -> dict[str, list[float]]:
    lines = [json.loads(line) for line in (root / "metrics.jsonl").read_text().splitlines()]
    return {split: [line["loss"] for line in lines if line["split"] == split] for split in ("train", "validation")}


def test_they_are_small() -> None:
    assert MADE.stat().st_size < 1e6


def test_a_run_goes_on(name: str, config: RunConfig, expected: dict[str, Any], made: Path) -> None:
    """From the checkpoint behind step 3, with its optimiser, to step 6; and again, bitwise the same."""
    root = Path(config.checkpoint.dir)
    shutil.copytree(root, made / "again")
    assert Trainer(config).run() is not None
    found = losses(root)
    for split, steps in (("train", 3), ("validation", 1)):
        assert len(found[split]) == steps
        assert found[split] == pytest.approx(expected["losses"][split][-steps:], **approximately(name))
    again = override(config, [f"--checkpoint.dir={made / 'again'}"])
    Trainer(again).run()
    assert losses(made / "again") == found


def approximately(name: str) -> dict[str, float]:
    return {"rel": CLOSE[name]["rtol"], "abs": CLOSE[name]["atol"]}


def test_the_index_is_whole_and_packed_in_the_same_order(config: RunConfig, expected: dict[str, Any]) -> None:
    assert not validate_index("index", progress=False).problems
    assert Manifest.read(Path("index.json")).documents == {"image": 40, "text": 9}
    trainer = Trainer(override(config, ["--checkpoint.dir=", "--checkpoint.interval=0"]))
    assert [batch.input_ids.tolist() for batch in islice(trainer.feed.batches("train", 0), 8)] == expected["ids"]


def test_a_checkpoint_draws_the_same(name: str, loaded: LoadedModel, expected: dict[str, Any]) -> None:
    torch.testing.assert_close(logits(loaded, expected["samples"]), expected["logits"], **CLOSE[name])
    prompts = [sample[: sample.index(loaded.vocabulary.boi)] for sample in expected["samples"]]
    codes = sample_images(loaded.model, prompts, loaded.vocabulary, 16, loaded.config.generation)
    assert codes.tolist() == expected["codes"]
    sampler = Sampler(loaded)
    drawn = sampler.sample(["a red square", "blue"])
    assert drawn.tolist() == expected["drawn"]
    pixels = sampler.decode(drawn)
    assert (pixels.int() - expected["pixels"].int()).abs().max() <= 1  # of 255, where a CPU rounds otherwise
    assert sampler.caption(expected["pixels"]) == expected["captions"]


def test_an_exported_folder_is_loaded_and_imported(name: str, expected: dict[str, Any], made: Path) -> None:
    """By transformers with the code in it, and by today's code."""
    model = AutoModelForCausalLM.from_pretrained(f"{name}/exported", trust_remote_code=True)
    with torch.no_grad():
        found = model(torch.tensor([expected["samples"][0]])).logits[0].float()
    torch.testing.assert_close(found, expected["exported_logits"], **CLOSE[name])
    imported = load_for_inference(str(import_hf(f"{name}/exported", made / "imported")))
    torch.testing.assert_close(logits(imported, expected["samples"]), expected["logits"], **CLOSE[name])


def test_it_is_exported_as_then(name: str, made: Path) -> None:
    """The same names of files, of which code may have become more, and the same weights bit for bit."""
    folder = export_hf(f"{name}/run", made / "anew")
    before, now = ({path.name for path in place.iterdir()} for place in (Path(name, "exported"), folder))
    # A SentencePiece model is carried as it is now, then it was rewritten.
    assert before - {"tokenizer.json"} <= now
    assert all(file.endswith("_mars.py") for file in now - before - {"tokenizer.model"})
    assert load_file(folder / "model.safetensors").keys() == load_file(f"{name}/exported/model.safetensors").keys()
    result = compare(*open_both(f"{name}/exported", folder))
    assert result.num_compared > 20 and not result.problems

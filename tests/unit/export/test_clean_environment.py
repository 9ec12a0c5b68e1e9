"""The exported folder where nothing of this project is installed."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from packaging.version import Version

from tests.support import clean_environment
from tests.support.exported import reference_logits
from tests.support.exported_run import Exported, greedy_captions

ABSENT = ("mars_megatron", "megatron", "diffusers", "PIL", "accelerate", "jsonargparse")
PROMPTS = ["a red square", "绿色方块", ""]

_CHECK_ABSENT = """
import importlib.util, sys
for name in sys.argv.pop(1).split(","):
    assert importlib.util.find_spec(name) is None, name
"""

_ALONE = (
    _CHECK_ABSENT
    + """
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

folder, numbers = sys.argv[1:]
expected = torch.load(numbers)
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
assert model.dtype == torch.float32 and type(model).__name__ == "MarsForCausalLM"
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
ids = [tokenizer.encode(prompt, add_special_tokens=False) for prompt in expected["prompts"]]
assert ids == expected["ids"], ids
for sample, logits in zip(expected["samples"], expected["logits"], strict=True):
    with torch.no_grad():
        torch.testing.assert_close(model(torch.tensor([sample])).logits[0], logits, rtol=2e-5, atol=2e-5)
codes = model.generate_image_codes([prompt for prompt in ids for _ in range(2)], seed=5, batch_size=4)
assert torch.equal(codes, expected["codes"]), (codes, expected["codes"])
written = model.generate(torch.tensor([ids[0]]))
assert written.shape[1] > len(ids[0])
try:
    model.generate_images(["a red square"])
except ImportError as error:
    assert "pip install diffusers pillow" in str(error), error
else:
    raise AssertionError("drew without diffusers")
model.save_pretrained("saved")
again = AutoModelForCausalLM.from_pretrained("saved", trust_remote_code=True)
assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
print("fine")
"""
)

_WITH_IMAGES = (
    _CHECK_ABSENT
    + """
import numpy as np, torch
from transformers import AutoModelForCausalLM

folder, numbers = sys.argv[1:]
expected = torch.load(numbers)
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
images = model.generate_images(expected["prompts"], num_images_per_prompt=2, seed=5)
assert np.array_equal(np.stack([np.asarray(image) for image in images]), expected["images"].numpy())
assert model.generate_captions(images) == expected["captions"]
print("fine")
"""
)


@pytest.fixture(scope="module")
def numbers(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the original says."""
    sampler, vocabulary = exported.sampler, exported.loaded.vocabulary
    ids = [sampler.text_tokenizer.encode(prompt) for prompt in PROMPTS]
    codes = sampler.sample(PROMPTS, 2)
    image = [vocabulary.boi, *vocabulary.code_to_id(codes[0]).tolist(), vocabulary.eoi]
    samples = [ids[0], [*ids[0], *image], [*image, *ids[1]]]
    images = sampler.decode(codes)
    captions = greedy_captions(exported, images)
    path = tmp_path_factory.mktemp("numbers") / "numbers.pt"
    torch.save(
        {
            "prompts": PROMPTS,
            "ids": ids,
            "samples": samples,
            "logits": reference_logits(exported.loaded.model, samples, vocabulary),
            "codes": codes,
            "images": images,
            "captions": captions,
        },
        path,
    )
    return path


def test_torch_transformers_safetensors_and_sentencepiece_are_enough(
    exported: Exported, numbers: Path, tmp_path: Path
) -> None:
    site = clean_environment.make(tmp_path, ["torch", "transformers", "safetensors", "sentencepiece"])
    result = clean_environment.run(site, _ALONE, ",".join(ABSENT), exported.folder, numbers)
    assert result.returncode == 0 and result.stdout.strip().endswith("fine"), result.stderr


def test_diffusers_and_pillow_add_images(exported: Exported, numbers: Path, tmp_path: Path) -> None:
    names = ["torch", "transformers", "safetensors", "sentencepiece", "diffusers", "pillow"]
    site = clean_environment.make(tmp_path, names)
    absent = ("mars_megatron", "megatron", "accelerate")
    result = clean_environment.run(site, _WITH_IMAGES, ",".join(absent), exported.folder, numbers)
    assert result.returncode == 0 and result.stdout.strip().endswith("fine"), result.stderr


def test_the_environment_is_clean(tmp_path: Path) -> None:
    assert {"numpy", "packaging"} <= clean_environment.closure(["transformers"])
    site = clean_environment.make(tmp_path, ["packaging"])
    code = "import packaging, sys\nprint(packaging.__version__, sys.argv[1:])\nimport torch"
    result = clean_environment.run(site, code, "an argument")
    assert result.stdout.split()[0] == str(Version(version("packaging"))) and "an argument" in result.stdout
    assert result.returncode == 1 and "No module named 'torch'" in result.stderr

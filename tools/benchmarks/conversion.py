"""Conversions of checkpoints against copying the bytes that they write, and the memory that they take."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks import child_environment
from mars_megatron.checkpoint.tensors import LazyTensor, TensorInfo
from mars_megatron.config import validate
from mars_megatron.config.schema import ModelConfig, RunConfig, VocabularyConfig
from mars_megatron.conversion.mapping import parameters
from mars_megatron.conversion.safetensors_writer import write_folder

SHARD_SIZE = 10**9
ELEMENT_SIZE = torch.bfloat16.itemsize


@dataclass(frozen=True)
class ConversionOptions:
    """What is converted: a Qwen2 with random bf16 weights, to a MARS and on.

    Args:
        gigabytes: About how many 10^9 bytes the MARS has; decides the number of layers, at least one.
        hidden: Width.
        ffn: Width of the SwiGLU FFN.
        heads: Attention heads.
        text_size: Rows of the text vocabulary.
        codebook_size: Image codes.
        rounds: Timed conversions of each kind.
        folder: Where everything is written, and deleted again; on the disk that is measured.
        progress: Show a progress bar.
    """

    gigabytes: float = 2.0
    hidden: int = 4096
    ffn: int = 11008
    heads: int = 32
    text_size: int = 32_000
    codebook_size: int = 8192
    rounds: int = 3
    folder: str = tempfile.gettempdir()
    progress: bool = True


class Conversion(NamedTuple):
    """One kind of conversion.

    Attributes:
        name: As the command line calls it.
        source: Folder in the workspace that it reads.
        target: Folder in the workspace that it writes.
    """

    name: str
    source: str
    target: str


CONVERSIONS = (
    Conversion("init-from-hf", "language_model", "start"),
    Conversion("export-hf", "start", "exported"),
    Conversion("import-hf", "exported", "imported"),
)


def run(options: ConversionOptions, say: Callable[[str], None] = print) -> tuple[dict[str, Any], dict[str, Any]]:
    """Ratios and figures by conversion.

    Returns:
        Median seconds of copying / seconds of converting, by conversion; by conversion bytes written, median seconds
        of both, all ratios, and the peak of resident memory in bytes: above a fresh interpreter with torch ("peak"),
        and above one that has also loaded the conversion's code ("peak_of_data").

    Raises:
        ValueError: No rounds, an impossible shape of the model, or `folder` is not there.
        OSError: The disk is full, or a conversion failed; with what it said.
    """
    if options.rounds < 1:
        raise ValueError(f"--rounds {options.rounds}: at least one is needed")
    if not Path(options.folder).is_dir():
        raise ValueError(f"--folder {options.folder} is not a folder that exists")
    config = validate(model(options))
    figures = {}
    with tempfile.TemporaryDirectory(prefix="conversion_", dir=options.folder) as temporary:
        workspace = Path(temporary)
        make_language_model(workspace / CONVERSIONS[0].source, config, options.progress)
        for conversion in tqdm(CONVERSIONS, desc="conversions", disable=not options.progress, leave=False):
            figures[conversion.name] = found = _measure(conversion, workspace, options)
            shutil.rmtree(workspace / conversion.source)
            say(describe(conversion.name, found))
    return {name: found["ratio"] for name, found in figures.items()}, figures


def model(options: ConversionOptions) -> RunConfig:
    """The MARS that is about as large as asked for."""

    def sized(layers: int) -> RunConfig:
        shape = ModelConfig(
            num_layers=layers,
            hidden_size=options.hidden,
            ffn_hidden_size=options.ffn,
            num_attention_heads=options.heads,
            num_query_groups=options.heads,
        )
        return RunConfig(
            model=shape,
            vocabulary=VocabularyConfig(text_size=options.text_size, codebook_size=options.codebook_size),
        )

    one, two = num_bytes(sized(1)), num_bytes(sized(2))
    return sized(max(1, 1 + round((options.gigabytes * 1e9 - one) / (two - one))))


def num_bytes(config: RunConfig) -> int:
    """Bytes of all parameters in bf16."""
    return sum(torch.Size(parameter.key_shape).numel() * ELEMENT_SIZE for parameter in parameters(config))


def make_language_model(folder: Path, config: RunConfig, progress: bool = False) -> None:
    """Write a Hugging Face Qwen2 with random weights and no tokenizer."""
    model = config.model
    described = {
        "model_type": "qwen2",
        "architectures": ["Qwen2ForCausalLM"],
        "hidden_size": model.hidden_size,
        "intermediate_size": model.ffn_hidden_size,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_attention_heads,
        "num_key_value_heads": model.num_query_groups,
        "vocab_size": config.vocabulary.text_size,
        "tie_word_embeddings": False,
        "rms_norm_eps": model.norm_eps,
        "rope_theta": model.rope_base,
        "dtype": "bfloat16",
    }
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(described), encoding="utf-8")
    tensors = {}
    for parameter in parameters(config):
        if parameter.expert != "visual":
            for name, shape in zip(parameter.llama, parameter.parts.values(), strict=True):
                tensors[name] = LazyTensor(TensorInfo(shape, torch.bfloat16), partial(_random, shape))
    write_folder(folder, tensors, SHARD_SIZE, progress=progress)


def _random(shape: tuple[int, ...]) -> Tensor:
    return torch.rand(shape, dtype=torch.bfloat16) - 0.5


def _measure(conversion: Conversion, workspace: Path, options: ConversionOptions) -> dict[str, Any]:
    """Convert and copy in a process of its own, whose memory nobody else has used."""
    command = [sys.executable, "-m", "benchmarks.convert_once", conversion.name]
    command += [str(workspace / conversion.source), str(workspace / conversion.target)]
    command += [str(options.rounds), str(options.codebook_size), str(torch.get_num_threads())]
    done = subprocess.run(command, capture_output=True, text=True, env=child_environment())
    if done.returncode:
        raise ChildProcessError(f"{conversion.name} failed: {done.stderr.strip()}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    ratios = [copied / converted for converted, copied in zip(found["seconds"], found["copy_seconds"], strict=True)]
    resident = found["resident"]
    return {
        "ratio": median(ratios),
        "ratios": ratios,
        "bytes": found["bytes"],
        "seconds": median(found["seconds"]),
        "copy_seconds": median(found["copy_seconds"]),
        "peak": resident["peak"] - resident["torch"],
        "peak_of_data": resident["peak"] - resident["loaded"],
    }


def describe(name: str, found: dict[str, Any]) -> str:
    """One line for a reader."""
    size, ratios = found["bytes"] / 1e9, found["ratios"]
    return (
        f"{name}: {size:.2f} GB, {size / found['seconds']:.2f} GB/s; copy {size / found['copy_seconds']:.2f} GB/s; "
        f"speed / copy {found['ratio']:.2f} ({min(ratios):.2f} .. {max(ratios):.2f}); "
        f"peak memory {found['peak'] / 1e9:.2f} GB above torch, {found['peak_of_data'] / 1e9:.2f} GB above its code"
    )

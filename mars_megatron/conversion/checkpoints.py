"""Checkpoints of every format, opened by what lies at a path, and what is in them."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError, safe_open

from mars_megatron.checkpoint import folders, read_config
from mars_megatron.checkpoint.streaming import CheckpointTensors
from mars_megatron.checkpoint.tensors import TensorInfo, TensorSource
from mars_megatron.config import from_yaml, validate
from mars_megatron.config.parser import build, parse_yaml
from mars_megatron.config.schema import RunConfig, to_dict
from mars_megatron.conversion.hugging_face import HuggingFaceFiles
from mars_megatron.conversion.language_model import HEAD, LanguageModelParts, model_type, read_shape
from mars_megatron.conversion.mapping import EXPERTS, SHARED, is_trained, parameters, part_names
from mars_megatron.conversion.parts import CheckpointParts
from mars_megatron.files.foreign import refuse_foreign
from mars_megatron.files.writing import INCOMPLETE

TRAINING_CONFIG = "training_config.yaml"
# Settings of `model` that a language model leaves open.
NOT_OF_THE_SOURCE = ("init_std", "embedding_init_std", "expert_norms", "expert_output_projection", "shared_experts")
Format = Literal["checkpoint", "exported", "language_model", "visual"]
GROUPS = (*EXPERTS, SHARED)


class VisualHeader:
    """Names in the header of a file of trained tensors: the run, its step, and what its base must be.

    Fingerprints of tokenizers are not in older ones.
    """

    CONFIG, STEP, BASE, BASE_DTYPE = "mars_config", "mars_step", "mars_base_sha256", "mars_base_dtype"
    ALL = (CONFIG, STEP, BASE, BASE_DTYPE)
    TOKENIZERS = "mars_tokenizers"


@dataclass(frozen=True)
class Opened:
    """A checkpoint of any format.

    Attributes:
        path: The checkpoint itself: for a run the folder of its newest.
        format: checkpoint (of this project), exported (a MARS as a Hugging Face folder), language_model (another
            Hugging Face folder), visual (a file of trained tensors).
        config: The run; of a language model the shape alone is meant.
        step: Optimiser steps behind it.
        parts: Its tensors.
    """

    path: Path
    format: Format
    config: RunConfig
    step: int
    parts: TensorSource


def open_checkpoint(path: str | Path, like: RunConfig | None = None) -> Opened:
    """Open what lies at a path, without reading a tensor.

    Args:
        path: A run, a checkpoint, an exported folder, a language model's folder, or a file of trained tensors.
        like: A MARS whose parts a language model shall be named like; by default those of a plain one.

    Raises:
        ValueError: There is nothing that can be read, or it contradicts itself; files and tensors are named.
    """
    path = Path(path)
    kind = detect(path)
    if kind == "visual":
        return read_visual(path)
    if kind == "exported":
        return _exported(path)
    if kind == "language_model":
        config = language_model_config(path, like)
        return Opened(path, kind, config, 0, LanguageModelParts(path, config))
    folder = folders.resolve(path)
    config = read_config(folder)
    return Opened(folder, kind, config, folders.step_of(folder), CheckpointParts(folder, config))


def detect(path: Path) -> Format:
    """Which format lies at a path.

    Raises:
        ValueError: None that is known.
    """
    if not _is_own(path) and not path.name.endswith(INCOMPLETE):
        refuse_foreign(path, "model")
    if not path.exists():
        raise ValueError(
            f"{path} does not exist; give a run, a checkpoint, a Hugging Face folder or a .safetensors file"
        )
    if path.name.endswith(INCOMPLETE):
        raise ValueError(f"{path} was not completely written: the conversion to it was interrupted; run it again")
    if path.is_file():
        if path.suffix != ".safetensors":
            raise ValueError(f"{path} is a file; accepted: the .safetensors file of extract-visual, or folders")
        return "visual"
    if (path / "config.json").is_file():
        return "exported" if model_type(path) == "mars" else "language_model"
    return "checkpoint"


def _is_own(path: Path) -> bool:
    """Whether a folder is a run or a checkpoint, or was one."""
    is_step = fnmatch(path.name, folders.STEPS)
    return is_step or (path / "config.yaml").is_file() or any(path.glob(folders.STEPS))


def language_model_config(folder: Path, like: RunConfig | None = None) -> RunConfig:
    """A run with the shape of a Hugging Face language model; all else are defaults, or as in another run.

    Raises:
        ValueError: The shape contradicts itself.
    """
    shape, base = read_shape(folder), like or RunConfig()
    free = {name: getattr(base.model, name) for name in NOT_OF_THE_SOURCE}
    model, vocabulary = replace(shape.model, **free), replace(base.vocabulary, text_size=shape.text_size)
    try:
        # Whatever the layout of the other run.
        validate(RunConfig(model=model, vocabulary=vocabulary, freeze=base.freeze))
    except ValueError as error:
        raise ValueError(f"{folder / 'config.json'} is of no model: {error}") from error
    return replace(base, model=model, vocabulary=vocabulary)


def _exported(folder: Path) -> Opened:
    if not (folder / TRAINING_CONFIG).is_file():  # transformers does not save it with a fine-tuned model
        raise ValueError(f"{folder / TRAINING_CONFIG} does not exist; copy it from the folder that export-hf made")
    config = from_yaml(folder / TRAINING_CONFIG)
    files = HuggingFaceFiles(folder)
    check_parts(files.tensors, config, str(folder), TRAINING_CONFIG)
    try:
        step = int(json.loads((folder / "config.json").read_text(encoding="utf-8"))["training_step"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{folder / 'config.json'} is not that of an exported MARS (training_step): {error}"
        ) from error
    return Opened(folder, "exported", config, step, files)


def check_parts(
    found: Mapping[str, TensorInfo],
    config: RunConfig,
    where: str,
    described_by: str,
    only: Collection[str] | None = None,
) -> None:
    """Compare the parts there are with those of a configuration, or with some of them.

    Raises:
        ValueError: One is missing, unknown or of another shape.
    """
    wanted = {part: shape for parameter in parameters(config) for part, shape in parameter.parts.items()}
    if only is not None:
        wanted = {part: wanted[part] for part in only}
    for part, shape in wanted.items():
        if part not in found:
            raise ValueError(f"{where} lacks {part}, which its {described_by} asks for")
        if found[part].shape != shape:
            raise ValueError(
                f"{where}: {part} has the shape {list(found[part].shape)}; {described_by} asks for {list(shape)}"
            )
    unknown = found.keys() - wanted.keys()
    if unknown:
        raise ValueError(f"{where} has {min(unknown)} (and {len(unknown) - 1} more), unknown to its {described_by}")


def read_visual(path: Path) -> Opened:
    """Open a file of `extract_visual`.

    Raises:
        ValueError: It is another file, is cut off, or lacks a tensor.
    """
    header = visual_header(path)
    config = build(RunConfig(), parse_yaml(header[VisualHeader.CONFIG], str(path)), source=str(path))
    files = HuggingFaceFiles(path)
    check_parts(files.tensors, config, str(path), "header", only=part_names(config, trained=True))
    return Opened(path, "visual", config, int(header[VisualHeader.STEP]), files)


def visual_header(path: Path) -> dict[str, str]:
    """The strings in the header of a file of `extract_visual`; see `VisualHeader`."""
    if path.is_dir():
        raise ValueError(f"{path} is a folder; accepted: the .safetensors file that extract-visual made")
    if path.exists():
        refuse_foreign(path, "file of extract-visual")
    try:
        with safe_open(path, framework="pt") as opened:
            header: dict[str, str] = opened.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path} cannot be read, it may be cut off: {error}") from error
    if not set(VisualHeader.ALL) <= header.keys():
        raise ValueError(f"{path} was not made by extract-visual: its header has no configuration of a MARS")
    return header


def inspect(opened: Opened) -> dict[str, Any]:
    """Everything that `describe` prints, as plain values.

    Returns:
        path, format, step, dtypes, num_parameters, parameters {text, visual, shared: {trained, frozen}} without padding
        rows, num_tensors, size_bytes (on disk), optimizer (whether its state is there), parallel (the layout of the
        run, where there is one), config.
    """
    counts = {group: {"trained": 0, "frozen": 0} for group in GROUPS}
    tensors = opened.parts.tensors
    if opened.format == "language_model" and read_shape(opened.path).tied:
        tensors = {name: info for name, info in tensors.items() if name != HEAD}
    for parameter in parameters(opened.config):
        trained = opened.format != "language_model" and is_trained(parameter, opened.config.freeze)
        for part in parameter.parts:
            if part in tensors:
                counts[parameter.expert]["trained" if trained else "frozen"] += math.prod(tensors[part].shape)
    is_ours = opened.format == "checkpoint"
    return {
        "path": str(opened.path),
        "format": opened.format,
        "step": opened.step,
        "dtypes": sorted({str(info.dtype).removeprefix("torch.") for info in tensors.values()}),
        "num_parameters": sum(sum(by.values()) for by in counts.values()),
        "parameters": counts,
        "num_tensors": len(tensors),
        "size_bytes": _size(opened.path),
        "optimizer": is_ours and CheckpointTensors(opened.path).has_optimizer,
        "parallel": asdict(opened.config.parallel) if is_ours else None,
        "config": to_dict(opened.config),
    }


def _size(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def describe(found: dict[str, Any]) -> str:
    """The result of `inspect` for a person."""
    config = found["config"]
    model, vocabulary, experts = config["model"], config["vocabulary"], config["experts"]
    lines = [
        f"{found['path']}",
        f"  format      {found['format']}, step {found['step']}, {', '.join(found['dtypes'])}, "
        f"{found['num_tensors']} tensors, {found['size_bytes'] / 1e9:.3f} GB on disk"
        + (", with optimiser state" if found["optimizer"] else ""),
        f"  parameters  {found['num_parameters']:,}",
    ]
    for group, by in found["parameters"].items():
        lines.append(f"    {group:8}  {by['trained']:>16,} trained  {by['frozen']:>16,} frozen")
    head_dim = model["head_dim"] or model["hidden_size"] // model["num_attention_heads"]
    lines += [
        f"  model       {model['num_layers']} layers, hidden {model['hidden_size']}, FFN {model['ffn_hidden_size']}, "
        f"{model['num_attention_heads']} heads of {head_dim} in {model['num_query_groups']} groups",
    ]
    if found["format"] == "language_model":
        return "\n".join([*lines, f"  vocabulary  {vocabulary['text_size']} ids"])
    lines += [
        f"  experts     text {experts['text']}, visual {experts['visual']}",
        f"  vocabulary  {vocabulary['text_size']} text ids, {vocabulary['codebook_size']} image codes",
    ]
    parallel = found["parallel"]
    if parallel:
        lines.append(
            f"  configured  tensor {parallel['tensor']} x pipeline {parallel['pipeline']} x expert {parallel['expert']}"
            "; loads under any other layout"
        )
    return "\n".join(lines)

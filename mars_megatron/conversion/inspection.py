"""What is in a checkpoint, said without reading a tensor."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mars_megatron.checkpoint.streaming import CheckpointTensors
from mars_megatron.config.schema import to_dict
from mars_megatron.conversion.formats import Opened
from mars_megatron.conversion.language_model import HEAD, read_shape
from mars_megatron.conversion.table import EXPERTS, SHARED, is_trained, parameters

GROUPS = (*EXPERTS, SHARED)


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

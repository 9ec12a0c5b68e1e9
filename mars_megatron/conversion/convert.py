"""The conversions: a language model to a MARS checkpoint, a MARS checkpoint to a Hugging Face folder and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from operator import attrgetter
from pathlib import Path
from typing import Literal

import torch
import yaml

from mars_megatron.checkpoint.streaming import write_checkpoint
from mars_megatron.checkpoint.tensors import TensorSource
from mars_megatron.checkpoint.tokenizers import locate
from mars_megatron.config import validate
from mars_megatron.config.parser import override
from mars_megatron.config.schema import RunConfig, to_dict
from mars_megatron.conversion.carried import check_text_tokenizer, take_tokenizers
from mars_megatron.conversion.checkpoints import (
    NOT_OF_THE_SOURCE,
    Format,
    Opened,
    language_model_config,
    open_checkpoint,
)
from mars_megatron.conversion.language_model import LanguageModelParts
from mars_megatron.conversion.parts import DTYPES, ConvertedParts, StartParts, as_parameters, as_parts, name_of
from mars_megatron.conversion.safetensors_writer import write_folder
from mars_megatron.files.writing import staged
from mars_megatron.tokenizers import load_image_tokenizer, load_text_tokenizer
from mars_megatron.tokenizers.text_checks import warn_of_former_checkpoint

# Of a run.
_PRECISIONS: dict[torch.dtype, Literal["fp32", "bf16"]] = {torch.float32: "fp32", torch.bfloat16: "bf16"}
# Beside a start checkpoint: the settings that a run from it must share, for --config.
SETTINGS = "model.yaml"
# What the language model decides; other settings are free.
_FROM_SOURCE = ("vocabulary.text_size", "experts.text")
# What options of their own decide.
_FROM_OPTIONS = {"training.precision": "--dtype", "data.image_tokenizer": "--image-tokenizer"}


def init_from_hf(
    source: str | Path,
    target: str | Path,
    *,
    image_tokenizer: str | Path = "",
    overrides: Sequence[str] = (),
    dtype: str = "auto",
    progress: bool = False,
) -> Path:
    """Make an initial MARS checkpoint of a Hugging Face language model.

    The text expert is the language model, the visual expert its copy, and every image row the mean text row
    (MARS, section "SemVIE").

    Args:
        source: The language model's folder.
        target: Folder of the checkpoint: a run at step 0, with the tokenizers and `model.yaml`.
        image_tokenizer: Folder of a diffusers VQModel; gives codebook and downsampling, and is copied.
        overrides: Dotted settings that the language model does not decide, such as "--experts.visual=4".
        dtype: fp32, bf16, or auto: that of the source (fp16 becomes fp32).
        progress: Show a progress bar.

    Returns:
        The checkpoint.

    Raises:
        ValueError: The source is not supported, a setting contradicts it, or the target is not empty.
        OSError: The disk is full, or not writable.
    """
    source, target = Path(source), Path(target)
    config = _start_config(source, image_tokenizer, overrides)
    if config.data.text_tokenizer:
        load_text_tokenizer(config.data.text_tokenizer)  # before the work: it may be wrong
    text = LanguageModelParts(source, config)
    wanted = _start_dtype(text, dtype)
    config = replace(config, training=replace(config.training, precision=_PRECISIONS[wanted]))
    parts = StartParts(ConvertedParts(text, wanted), config)
    with staged(target) as folder:
        image = Path(image_tokenizer) if image_tokenizer else None
        text_tokenizer = Path(config.data.text_tokenizer or source)
        config, taken = take_tokenizers(config, text_tokenizer, image, folder, target)
        if config.data.text_tokenizer:
            copy = folder / Path(config.data.text_tokenizer).name
            check_text_tokenizer(copy, config.vocabulary.text_size, text_tokenizer)
        checkpoint = write_checkpoint(
            folder, config, 0, as_parameters(parts, config), tokenizers=taken, progress=progress
        )
        (folder / SETTINGS).write_text(_settings(config), encoding="utf-8")
    return target / checkpoint.name


def export_hf(
    source: str | Path,
    target: str | Path,
    *,
    dtype: str = "auto",
    max_shard_size: int = 5 * 10**9,
    text_tokenizer: str = "",
    image_tokenizer: str = "",
    progress: bool = False,
) -> Path:
    """Export a MARS checkpoint to a folder that transformers loads with trust_remote_code.

    Args:
        source: A run or a checkpoint.
        target: The folder.
        dtype: fp32, bf16, fp16, or auto: that of the checkpoint.
        max_shard_size: Largest size of a file of tensors, in bytes.
        text_tokenizer: Instead of the run's, wherever that is now (see `checkpoint.tokenizers.locate`).
        image_tokenizer: Likewise.
        progress: Show a progress bar.

    Returns:
        The folder.

    Raises:
        ValueError: There is no checkpoint of a MARS, its text experts serve both modalities, or the target is not
            empty.
        OSError: The disk is full, or not writable.
    """
    from mars_megatron.export.companions import write_companions  # slow: transformers

    opened = _open(source, "checkpoint")
    if opened.config.model.shared_experts:
        raise ValueError(
            f"{source} has model.shared_experts true; accepted here: false, an exported model has experts of each "
            "modality"
        )
    named = {"text_tokenizer": text_tokenizer, "image_tokenizer": image_tokenizer}
    located = locate(opened.path, [f"--data.{name}={path}" for name, path in named.items() if path])
    if located.missing:
        raise ValueError("\n".join(located.missing.values()))
    parts = _as_dtype(opened.parts, dtype)
    target = Path(target)
    if opened.step:
        warn_of_former_checkpoint(opened.path, located.config.data.text_tokenizer)
    with staged(target) as folder:
        write_companions(
            folder,
            opened.config,
            step=opened.step,
            dtype=name_of(_common_dtype(parts, opened.path)),
            text_tokenizer=located.config.data.text_tokenizer,
            image_tokenizer=located.config.data.image_tokenizer,
        )
        write_folder(folder, as_parts(parts), max_shard_size, progress=progress)
    return target


def import_hf(source: str | Path, target: str | Path, *, progress: bool = False) -> Path:
    """Make a checkpoint of an exported folder, bit for bit.

    Args:
        source: The exported folder.
        target: Folder of the checkpoint, with the tokenizers.
        progress: Show a progress bar.

    Returns:
        The checkpoint.

    Raises:
        ValueError: The source is no exported MARS, or the target is not empty.
        OSError: The disk is full, or not writable.
    """
    opened = _open(source, "exported")
    config, target = opened.config, Path(target)
    types = {info.dtype for info in opened.parts.tensors.values()}
    precision = _PRECISIONS.get(types.pop()) if len(types) == 1 else None
    if precision:  # fp16, or several types, are kept as they are; a run takes them in a precision of its own
        config = replace(config, training=replace(config.training, precision=precision))
    with staged(target) as folder:
        images = opened.path / "image_tokenizer"
        config, taken = take_tokenizers(config, opened.path, images if images.is_dir() else None, folder, target)
        checkpoint = write_checkpoint(
            folder,
            config,
            opened.step,
            as_parameters(opened.parts, config),
            tokenizers=taken,
            progress=progress,
        )
    return target / checkpoint.name


def _open(path: str | Path, wanted: Format) -> Opened:
    opened = open_checkpoint(path)
    if opened.format != wanted:
        names = {
            "checkpoint": "a checkpoint of this project",
            "exported": "a folder made by export-hf",
            "language_model": "a Hugging Face language model",
            "visual": "a file made by extract-visual",
        }
        raise ValueError(f"{path} is {names[opened.format]}; accepted here: {names[wanted]}")
    return opened


def _start_config(source: Path, image_tokenizer: str | Path, overrides: Sequence[str]) -> RunConfig:
    base = language_model_config(source)
    if image_tokenizer:
        images = load_image_tokenizer(image_tokenizer)
        base = replace(
            base,
            vocabulary=replace(base.vocabulary, codebook_size=images.codebook_size),
            image=replace(base.image, downsample=images.downsample, resolution=16 * images.downsample),
        )
    config = override(base, overrides)
    free = {f"model.{name}" for name in NOT_OF_THE_SOURCE}
    fixed = [f"model.{name}" for name in asdict(base.model)] + list(_FROM_SOURCE)
    fixed += ["vocabulary.codebook_size", "image.downsample"] if image_tokenizer else []
    for name in fixed:
        ours, theirs = (attrgetter(name)(run) for run in (config, base))
        if ours != theirs and name not in free:
            raise ValueError(f"{name} is {ours}; accepted: {theirs}, which the source decides")
    for name, option in _FROM_OPTIONS.items():
        if attrgetter(name)(config) != attrgetter(name)(base):
            raise ValueError(f"{name} is {attrgetter(name)(config)}; accepted here: the option {option} instead")
    return validate(config)


def _start_dtype(text: TensorSource, dtype: str) -> torch.dtype:
    if dtype != "auto":
        return DTYPES[dtype]
    types = {info.dtype for info in text.tensors.values()}
    return torch.bfloat16 if types == {torch.bfloat16} else torch.float32


def _as_dtype(parts: TensorSource, dtype: str) -> TensorSource:
    return parts if dtype == "auto" else ConvertedParts(parts, DTYPES[dtype])


def _common_dtype(parts: TensorSource, path: Path) -> torch.dtype:
    types = {info.dtype for info in parts.tensors.values()}
    if len(types) > 1 or not types <= set(DTYPES.values()):
        raise ValueError(
            f"{path} has tensors of the types {sorted(map(str, types))}; accepted: one of {', '.join(DTYPES)}; "
            "say --dtype"
        )
    return types.pop()


def _settings(config: RunConfig) -> str:
    """YAML of what a run from this checkpoint must share with it."""
    whole = to_dict(config)
    settings = {name: whole[name] for name in ("model", "experts", "vocabulary")}
    settings["router"] = {name: whole["router"][name] for name in ("top_k", "condition")}
    settings["image"] = {"downsample": whole["image"]["downsample"]}
    settings["data"] = {
        name: whole["data"][name] for name in ("text_tokenizer", "image_tokenizer") if whole["data"][name]
    }
    return yaml.safe_dump(settings, sort_keys=False)

"""Compares two checkpoints, tensor by tensor and by their logits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from mars_megatron.checkpoint.tensors import TensorSource
from mars_megatron.conversion.checkpoints import Opened, open_checkpoint
from mars_megatron.conversion.mapping import parameters
from mars_megatron.files.weights import NoNumbersError

# Elements compared at once, so that the comparison needs little beside the two tensors.
_AT_ONCE = 1 << 24


def logits_of(opened: Opened, samples: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """fp32 logits [tokens, ids] of every token of each sample, computed in fp32.

    Args:
        opened: A whole model.
        samples: Joined ids by name.

    Raises:
        ValueError: A file of trained tensors is no whole model, or transformers does not know the architecture.
    """
    if opened.format == "visual":
        raise ValueError(f"{opened.path} is no whole model; merge it onto its language model to compare logits")
    if opened.format == "checkpoint":
        return _of_checkpoint(opened, samples)
    return _of_transformers(opened, samples)


def _of_checkpoint(opened: Opened, samples: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    from mars_megatron.sampling import load_for_inference
    from mars_megatron.sampling.decoding import pack_samples

    loaded = load_for_inference(opened.path, overrides=["--training.precision=fp32"])
    result = {}
    with torch.no_grad():
        for name, ids in samples.items():
            batch = pack_samples([ids], loaded.vocabulary, every_token=True)
            device = next(loaded.model.parameters()).device
            result[name] = loaded.model(batch.to(device), return_logits=True).cpu()
    return result


def _of_transformers(opened: Opened, samples: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    from transformers import AutoModelForCausalLM

    # The code in an exported folder is this project's own; any other is not run.
    trusted: dict[str, Any] = {"trust_remote_code": True} if opened.format == "exported" else {}
    try:
        model = AutoModelForCausalLM.from_pretrained(opened.path, dtype=torch.float32, local_files_only=True, **trusted)
    except (ValueError, KeyError, OSError) as error:
        raise ValueError(f"{opened.path} cannot be run by transformers without code of its own: {error}") from error
    with torch.no_grad():
        return {name: model.eval()(torch.tensor([list(ids)])).logits[0].float() for name, ids in samples.items()}


@dataclass
class Comparison:
    """What `compare` found.

    Attributes:
        num_compared: Tensors that both have.
        num_equal: Of these the equal ones.
        problems: One line for each setting of the model that differs, and for each tensor that is missing, extra,
            differs, or has values that are no numbers, on either side.
        max_abs_difference: Largest difference of two values; nan where one is no number.
    """

    num_compared: int = 0
    num_equal: int = 0
    problems: list[str] = field(default_factory=list)
    max_abs_difference: float = 0.0


def open_both(first: str | Path, second: str | Path) -> tuple[Opened, Opened]:
    """Open two checkpoints; a language model's parts are named like the other's.

    Raises:
        ValueError: One of them cannot be read.
    """
    one, other = open_checkpoint(first), open_checkpoint(second)
    if one.format == "language_model" and other.format != "language_model":
        one = open_checkpoint(first, like=other.config)
    elif other.format == "language_model" and one.format != "language_model":
        other = open_checkpoint(second, like=one.config)
    return one, other


def compare(
    first: Opened, second: Opened, *, tolerance: float = 0.0, ignore_dtype: bool = False, progress: bool = False
) -> Comparison:
    """Compare all tensors that both kinds of checkpoint hold.

    A language model has no visual side, a file of trained tensors no frozen ones: what such a checkpoint cannot have is
    not missed in it. Padding rows of tables count nowhere.

    Args:
        first: One checkpoint.
        second: The other.
        tolerance: Largest difference of two values that counts as equal.
        ignore_dtype: Compare values of different types.
        progress: Show a progress bar.
    """
    names = [name for name in dict.fromkeys((*first.parts.tensors, *second.parts.tensors))]
    if first.format != second.format:
        visual = {
            part
            for opened in (first, second)
            for parameter in parameters(opened.config)
            if parameter.expert == "visual"
            for part in parameter.parts
        }
        names = [name for name in names if all(_could_have(opened, name, visual) for opened in (first, second))]
    result = Comparison(problems=_settings(first, second))
    both = [name for name in names if name in first.parts.tensors and name in second.parts.tensors]
    result.problems += [f"missing  {name}" for name in names if name not in second.parts.tensors]
    result.problems += [f"extra    {name}" for name in names if name not in first.parts.tensors]
    total = sum(first.parts.tensors[name].nbytes for name in both)
    with tqdm(total=total, desc="compare", unit="B", unit_scale=True, disable=not progress) as bar:
        for name in both:
            result.num_compared += 1
            problems = _compare_one(name, first.parts, second.parts, tolerance, ignore_dtype, result)
            result.problems += problems
            result.num_equal += not problems
            bar.update(first.parts.tensors[name].nbytes)
    return result


def _settings(first: Opened, second: Opened) -> list[str]:
    """One line for each setting that decides what the same tensors compute, and differs."""
    sections = ["model", "experts", "vocabulary"]
    names = [f"{section}.{name}" for section in sections for name in asdict(getattr(first.config, section))]
    names += ["router.top_k", "router.condition"]
    left_out = {"model.init_std", "model.embedding_init_std", "vocabulary.pad_multiple"}  # beginnings and padding
    if max(first.config.experts.text, first.config.experts.visual) == 1:
        left_out |= {"router.top_k", "router.condition"}
    pairs = [(name, *(attrgetter(name)(each.config) for each in (first, second))) for name in names]
    return [
        f"setting  {name}: {ours} against {theirs}"
        for name, ours, theirs in pairs
        if ours != theirs and name not in left_out
    ]


def _could_have(opened: Opened, name: str, visual: set[str]) -> bool:
    if opened.format == "visual":
        return name in opened.parts.tensors
    return opened.format != "language_model" or name not in visual


def _compare_one(
    name: str, first: TensorSource, second: TensorSource, tolerance: float, ignore_dtype: bool, result: Comparison
) -> list[str]:
    """What is wrong with one tensor; its difference goes into the result."""
    ours, theirs = first.tensors[name], second.tensors[name]
    if ours.shape != theirs.shape:
        return [f"shape    {name}: {ours} against {theirs}"]
    values, problems = [], []
    for side, source in (("first", first), ("second", second)):
        try:
            values.append(source.read(name))
        except NoNumbersError as error:
            problems.append(f"numbers  {name} of the {side}: {error}")
    if problems:
        result.max_abs_difference = math.nan
        return problems
    difference = _max_abs_difference(*values)
    if not math.isnan(result.max_abs_difference):  # which stays
        result.max_abs_difference = max(result.max_abs_difference, difference)
    if ours.dtype != theirs.dtype and not ignore_dtype:
        return [f"dtype    {name}: {ours} against {theirs}, max abs difference {difference:.3g}"]
    if difference > tolerance:
        return [f"values   {name}: max abs difference {difference:.3g}"]
    return []


def _max_abs_difference(first: Tensor, second: Tensor) -> float:
    """0 exactly where all values are equal; all are numbers."""
    parts = zip(first.flatten().split(_AT_ONCE), second.flatten().split(_AT_ONCE), strict=True)
    different = ((one, other) for one, other in parts if not torch.equal(one, other))
    return max((float((one.double() - other.double()).abs().max()) for one, other in different), default=0.0)


def sequences(opened: Sequence[Opened], seed: int = 0) -> dict[str, list[int]]:
    """Joined ids of a random text, a text-to-image and a captioning sample that all of these models can read."""
    from mars_megatron.sequence.vocabulary import Vocabulary

    generator = torch.Generator().manual_seed(seed)
    text_size = min(each.config.vocabulary.text_size for each in opened)
    words = torch.randint(0, text_size, (32,), generator=generator).tolist()
    samples = {"text": words}
    if all(each.format != "language_model" for each in opened):
        config = opened[0].config
        vocabulary = Vocabulary.from_config(config)
        codes = torch.randint(0, vocabulary.codebook_size, (config.image.num_codes,), generator=generator)
        image = vocabulary.frame(codes).tolist()
        samples |= {"text-to-image": [*words, *image], "captioning": [*image, *words]}
    return samples


def compare_logits(first: Opened, second: Opened, seed: int = 0) -> dict[str, float]:
    """Run both models in fp32 on the same random sequences; largest difference of two logits of each.

    Raises:
        ValueError: A checkpoint is no whole model, transformers does not know its architecture, or the two have other
            ids.
    """
    sizes = [(each.config.vocabulary.text_size, each.config.vocabulary.codebook_size) for each in (first, second)]
    if sizes[0] != sizes[1] and "language_model" not in (first.format, second.format):
        raise ValueError(f"logits cannot be compared: text_size and codebook_size are {sizes[0]} and {sizes[1]}")
    samples = sequences((first, second), seed)
    ours, theirs = logits_of(first, samples), logits_of(second, samples)
    differences = {}
    for name in samples:
        width = min(ours[name].shape[1], theirs[name].shape[1])  # a language model has text ids alone
        differences[name] = float((ours[name][:, :width] - theirs[name][:, :width]).abs().max())
    return differences

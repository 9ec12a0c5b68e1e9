"""Logits of a checkpoint of any format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mars_megatron.conversion.formats import Opened


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

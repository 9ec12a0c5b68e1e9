"""What the ranks of test_conversion.py do."""

from __future__ import annotations

from dataclasses import replace

import torch

from mars_megatron import platform
from mars_megatron.checkpoint import load_model, read_config, resolve
from mars_megatron.config.schema import ParallelConfig
from mars_megatron.model import build_model
from mars_megatron.platform.parallel import initialize_parallel
from mars_megatron.sampling.decoding import pack_samples
from mars_megatron.sequence.vocabulary import Vocabulary


def logits(checkpoint: str, ids: list[int], tensor: int, pipeline: int) -> list[list[float]]:
    """Logits [tokens, text ids] of one sample under a layout, on the ranks of the last stage; else hidden states."""
    platform.initialize("cpu")
    platform.init_process_group()
    parallel = ParallelConfig(tensor=tensor, pipeline=pipeline)
    config = replace(read_config(resolve(checkpoint)), parallel=parallel)
    groups = initialize_parallel(parallel, 1)
    (model,) = build_model(config, groups)
    load_model(checkpoint, config, groups, [model])
    vocabulary = Vocabulary.from_config(config)
    batch = pack_samples([ids], vocabulary, every_token=True)
    stages = torch.distributed.get_process_group_ranks(groups.pp)
    with torch.no_grad():
        if not model.pre_process:
            hidden = torch.empty(batch.plan.num_rows, 1, config.model.hidden_size)
            torch.distributed.recv(hidden, stages[groups.pp.rank() - 1])
            model.set_input_tensor(hidden)
        out = model.eval()(batch, return_logits=True)
        if not model.post_process:
            torch.distributed.send(out, stages[groups.pp.rank() + 1])
    return out[..., : vocabulary.text_size].tolist()

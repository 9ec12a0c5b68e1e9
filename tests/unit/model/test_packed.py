"""The plan reaches the layers, and its absence is an error."""

from __future__ import annotations

import pytest
import torch
from megatron.core.packed_seq_params import PackedSeqParams

from mars_megatron.model.experts import RoutedSeqParams, plan_of
from tests.support.tiny import MIXED, make_batch, tiny_model


def test_the_plan_is_found_again() -> None:
    plan = make_batch(MIXED).plan
    params = RoutedSeqParams.from_plan(plan)
    assert plan_of(params) is plan
    assert params.qkv_format == "thd"
    assert params.cu_seqlens_q is params.cu_seqlens_kv is plan.cu_seqlens
    assert params.max_seqlen_q == params.max_seqlen_kv == plan.max_seqlen


@pytest.mark.parametrize("params", [None, PackedSeqParams(), RoutedSeqParams()], ids=["none", "packed", "no_plan"])
def test_a_missing_plan_is_refused(params: PackedSeqParams | None) -> None:
    with pytest.raises(ValueError, match="dispatch plan"):
        plan_of(params)
    model = tiny_model()
    layer = model.decoder.layers[0]
    hidden = torch.zeros(4, 1, model.config.hidden_size, device=next(model.parameters()).device)
    with pytest.raises(ValueError, match="dispatch plan"):
        layer(hidden, packed_seq_params=params)

"""QK norm: which values it changes, whose weights it has, and that decoding with the cache knows it."""

from __future__ import annotations

import pytest
import torch

from mars_megatron.model import KVCache, MARSModel
from mars_megatron.model.attention import HeadLayout, QKNorm
from mars_megatron.model.transformer_config import build_transformer_config
from mars_megatron.sampling.decoding import inference, pack_samples, sample_lengths
from mars_megatron.sequence.batch import Batch
from mars_megatron.sequence.samples import I2T, T2I
from tests.support.tiny import VOCABULARY, make_batch, one_rank, randomize, tiny_config, tiny_model

QK_NORM = {"model.qk_norm": True}


def test_queries_and_keys_have_unit_mean_square_and_values_stay() -> None:
    one_rank()
    layout = HeadLayout(num_groups=2, heads_per_group=3, head_dim=4)
    norm = QKNorm(build_transformer_config(tiny_config(QK_NORM)), layout)
    with torch.no_grad():
        norm.q_layernorm.weight.fill_(2.0)
        norm.k_layernorm.weight.fill_(5.0)
    device = norm.q_layernorm.weight.device
    qkv = torch.randn(7, 1, 2 * (3 + 2) * 4, generator=torch.Generator().manual_seed(0)).to(device) * 10
    query, key, value = layout.split(norm(qkv))
    assert query.shape == (7, 1, 6, 4) and key.shape == value.shape == (7, 1, 2, 4)
    for part, scale in ((query, 2.0), (key, 5.0)):
        mean_square = part.square().mean(-1)
        torch.testing.assert_close(mean_square, torch.full_like(mean_square, scale**2), rtol=1e-4, atol=1e-4)
    assert torch.equal(value, layout.split(qkv)[2])
    assert torch.equal(value[..., 1, :], qkv[..., 36:]), "a group's value lies behind its key"


@pytest.mark.parametrize("frozen", [True, False])
def test_the_weights_belong_to_their_expert(frozen: bool) -> None:
    model = randomize(tiny_model({**QK_NORM, "freeze.text": frozen})).train()
    names = [name for name, _ in model.named_parameters() if "qk_norm" in name]
    assert names == [
        f"decoder.layers.{layer}.attention.qk_norm.{expert}.{part}_layernorm.weight"
        for layer in (0, 1)
        for expert in ("text", "visual")
        for part in ("q", "k")
    ]
    model(make_batch([T2I, I2T])).square().sum().backward()
    for name, parameter in model.named_parameters():
        if "qk_norm" in name:
            assert parameter.shape == (4,)
            if frozen and ".text." in name:
                assert not parameter.requires_grad and parameter.grad is None, name
            else:
                assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_each_expert_normalises_its_own_rows() -> None:
    """A text token in front of every image sees the text weights alone, the codes behind it both."""
    model = randomize(tiny_model(QK_NORM))

    def logits(batch: Batch) -> torch.Tensor:
        with inference(model):
            return model(batch, return_logits=True)

    code = VOCABULARY.text_size
    samples = [[3, 4, 5, VOCABULARY.boi, code + 1, code + 2]]
    batch = pack_samples(samples, VOCABULARY, every_token=True).to(next(model.parameters()).device)
    before = logits(batch)
    with torch.no_grad():
        for layer in model.decoder.layers:
            layer.attention.qk_norm.visual.q_layernorm.weight.mul_(-3.0)
    after = logits(batch)
    assert torch.equal(before[:3], after[:3])
    assert ((before[3:] - after[3:]).abs().max(-1).values > 1e-3).all()


def test_decoding_with_the_cache_is_the_whole_forward() -> None:
    scaling = {"model.rope_scaling.type": "llama3", "model.rope_scaling.factor": 4, "model.rope_base": 100}
    model: MARSModel = randomize(tiny_model({**QK_NORM, **scaling, "model.rope_scaling.original_context": 16}))
    device = next(model.parameters()).device
    code = VOCABULARY.text_size
    samples = [
        [3, 4, 5, VOCABULARY.boi, code + 1, code + 2, code + 1],
        [9, 2, 6, VOCABULARY.boi, code + 7, code, code + 5],
    ]
    with inference(model):
        whole = model(pack_samples(samples, VOCABULARY, every_token=True).to(device), return_logits=True)
    cache = KVCache(len(samples), len(samples[0]))
    steps = [[sample[:4] for sample in samples]]
    steps += [[[token] for token in column] for column in list(zip(*samples, strict=True))[4:]]
    got = []
    with inference(model):
        for step in steps:
            batch = pack_samples(step, VOCABULARY).to(device)
            got.append(model(batch, cache, return_logits=True))
            cache.advance(sample_lengths(batch.plan))
    for number, expected in enumerate(whole.split(len(samples[0]))):
        torch.testing.assert_close(torch.stack([step[number] for step in got]), expected[3:], rtol=1e-4, atol=1e-4)

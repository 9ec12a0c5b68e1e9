"""The attentions of the exported model, and what else it tells of a forward pass."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AttentionInterface, AutoModelForCausalLM

from mars_megatron.export import attention_mars
from mars_megatron.export.configuration_mars import MarsConfig
from mars_megatron.export.modeling_mars import MarsForCausalLM
from tests.support.exported import INTERLEAVED, KINDS, model_of, padded
from tests.support.exported_run import Exported

NAMES = ("eager", "sdpa")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the attentions that run."""
    seen: list[str] = []

    def counted(name: str) -> Any:
        attention = attention_mars.ATTENTIONS[name]

        def run(*args: Any) -> Any:
            seen.append(name)
            return attention(*args)

        return run

    monkeypatch.setattr(attention_mars, "ATTENTIONS", {name: counted(name) for name in NAMES})
    return seen


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_eager_attention_is_the_fused_one(kind: str, side: str, calls: list[str]) -> None:
    """Logits, gradients, and decoding in pieces from a cache."""
    ids, mask = padded(INTERLEAVED, side)
    told: dict[str, list[torch.Tensor]] = {}
    for name in NAMES:
        model = model_of(KINDS[kind])
        model.set_attn_implementation(name)
        calls.clear()
        out = model(ids, attention_mask=mask, labels=ids.masked_fill(mask == 0, -100))
        out.loss.backward()
        told[name] = [out.logits[mask.bool()], *(parameter.grad for parameter in model.parameters())]
        cache = None
        for start, end in ((0, 4), (4, 5), (5, 8), (8, ids.shape[1])):
            with torch.no_grad():
                out = model(ids[:, start:end], attention_mask=mask[:, :end], past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            told[name].append(out.logits[mask[:, start:end].bool()])
        assert set(calls) == {name}
    for eager, fused in zip(*told.values(), strict=True):
        torch.testing.assert_close(eager, fused, rtol=1e-4, atol=1e-5 * (1 + float(fused.detach().abs().max())))


def test_the_attention_is_the_one_that_is_asked_for(calls: list[str], exported: Exported) -> None:
    ids = torch.tensor([[3, 4]])
    model = model_of()
    for name in ("sdpa", "eager", "sdpa"):
        model.set_attn_implementation(name)
        calls.clear()
        model(ids)
        assert set(calls) == {name} and model.config._attn_implementation == name
    built = MarsForCausalLM._from_config(MarsConfig(num_hidden_layers=1), attn_implementation="eager")
    configured = MarsForCausalLM(MarsConfig(num_hidden_layers=1, attn_implementation="eager"))
    loaded = MarsForCausalLM.from_pretrained(exported.folder, attn_implementation="eager")
    for other in (built, configured, loaded):
        calls.clear()
        other(ids)
        assert set(calls) == {"eager"}


@pytest.mark.parametrize("name", ["flash_attention_2", "flex_attention", "paged|eager", "ours", "mine"])
def test_other_attentions_are_refused_by_name(name: str, exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(AttentionInterface._global_mapping, "mine", lambda *args, **kwargs: None)
    said = "Flash Attention 2" if "flash" in name else name.replace("|", r"\|")
    model = model_of()
    with pytest.raises(ValueError, match=said):
        model.set_attn_implementation(name)
    assert model.config._attn_implementation == "sdpa"
    with pytest.raises(ValueError, match=said):
        MarsForCausalLM._from_config(MarsConfig(), attn_implementation=name)
    with pytest.raises(ValueError, match=said):
        AutoModelForCausalLM.from_pretrained(exported.folder, trust_remote_code=True, attn_implementation=name)
    model.config._attn_implementation = name
    with pytest.raises(ValueError, match=r"attn_implementation is '.*'; accepted: eager, sdpa"):
        model(torch.tensor([[3]]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["argument", "configuration", "base"])
def test_states_and_weights_come_where_they_are_asked_for(kind: str, how: str) -> None:
    """From the fused attention too, whose call is then the eager one."""
    model = model_of(KINDS[kind])
    ids, mask = padded(INTERLEAVED, "left")
    asked: dict[str, Any] = {}
    if how == "configuration":
        model.set_attn_implementation("eager")  # transformers refuses the setting otherwise
        model.config.output_hidden_states = model.config.output_attentions = True
    else:
        asked = {"output_hidden_states": True, "output_attentions": True}
    with torch.no_grad():
        out = (model.model if how == "base" else model)(ids, attention_mask=mask, **asked)
        plain = model(ids, attention_mask=mask, output_hidden_states=False, output_attentions=False)
    layers = model.config.num_hidden_layers
    assert plain.hidden_states is None and plain.attentions is None
    assert len(out.hidden_states) == layers + 1 and len(out.attentions) == layers
    assert torch.equal(out.hidden_states[0], model.get_input_embeddings()(ids))
    torch.testing.assert_close(model.lm_head(out.hidden_states[-1])[mask.bool()], plain.logits[mask.bool()])
    for weights in out.attentions:
        assert weights.shape == (len(ids), model.config.num_attention_heads, ids.shape[1], ids.shape[1])
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
        assert not weights.triu(1).any()
        # no real token looks at padding
        looking = mask[:, None, :, None] * (1 - mask)[:, None, None, :]
        assert not (weights * looking).any()


def test_states_and_weights_have_gradients() -> None:
    model, ids = model_of(), torch.tensor(INTERLEAVED[:1])
    out = model(ids, output_hidden_states=True, output_attentions=True)
    told = [*out.hidden_states, *out.attentions]
    for value in told:
        value.retain_grad()
    out.logits[0, -1].square().sum().backward()
    assert all(value.grad is not None and value.grad.any() for value in told)


def test_generation_returns_states_weights_and_scores() -> None:
    model, ids = model_of(), torch.tensor([[3, 4, 5], [6, 7, 8]])
    model.set_attn_implementation("eager")
    asked = {"output_scores": True, "output_logits": True, "output_attentions": True, "output_hidden_states": True}
    for beams in (1, 2):
        how = {"num_beams": beams, "max_new_tokens": 3, "eos_token_id": -1}
        out = model.generate(ids, return_dict_in_generate=True, **asked, **how)
        assert torch.equal(out.sequences, model.generate(ids, **how))
        assert len(out.scores) == len(out.logits) == len(out.attentions) == len(out.hidden_states) == 3
        rows = 2 * beams
        assert [step[0].shape for step in out.attentions] == [(rows, 4, 3, 3), (rows, 4, 1, 4), (rows, 4, 1, 5)]
        assert [step[-1].shape for step in out.hidden_states] == [(rows, 3, 16), (rows, 1, 16), (rows, 1, 16)]


@pytest.mark.parametrize("kind", KINDS)
def test_tuples_in_place_of_named_outputs(kind: str) -> None:
    model, ids = model_of(KINDS[kind]), torch.tensor(INTERLEAVED[:1])
    want = model(ids, labels=ids, use_cache=False)
    image = model.generate_image_codes([[3, 4]])
    model.config.return_dict = False
    with torch.no_grad():
        loss, logits = model(ids, labels=ids, use_cache=False)
        (hidden,) = model.model(ids, use_cache=False)
        assert model(ids, return_dict=True).logits.shape == logits.shape
    torch.testing.assert_close((loss, logits), (want.loss.detach(), want.logits.detach()))
    torch.testing.assert_close(model.lm_head(hidden), logits)
    assert torch.equal(model.generate_image_codes([[3, 4]]), image)
    assert model.generate(ids, max_new_tokens=2).shape[0] == 1

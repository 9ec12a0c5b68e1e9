"""The exported model as transformers uses it: caches, padding, gradients, losses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import StaticCache

from mars_megatron.export.cache_mars import MarsCache
from mars_megatron.export.routing_mars import Routing, build_blocks
from tests.support.exported import BOI, CODE, CONDITIONED, INTERLEAVED, ROUTED, model_of, padded, whole

IDS = torch.tensor([[3, 4]])


@pytest.mark.parametrize("overrides", [{}, ROUTED, CONDITIONED], ids=["plain", "routed", "conditioned"])
@pytest.mark.parametrize("parts", [[1] * 11, [4, 1, 3, 3], [7, 4]], ids=["one by one", "pieces", "halves"])
def test_cached_decoding_of_padded_samples_is_the_whole_forward(overrides: dict[str, Any], parts: list[int]) -> None:
    model = model_of(overrides)
    ids, mask = padded(INTERLEAVED, "left")
    width, cache, got = ids.shape[1], None, []
    steps = [width - sum(parts), *parts]
    for end in torch.tensor(steps).cumsum(0).tolist():
        start = sum(part.shape[1] for part in got)
        if end == start:
            continue
        with torch.no_grad():
            out = model(ids[:, start:end], attention_mask=mask[:, :end], past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        got.append(out.logits)
    logits = torch.cat(got, 1)
    for number, want in enumerate(whole(model, INTERLEAVED)):
        torch.testing.assert_close(logits[number, mask[number].bool()], want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [1, 3])
def test_decoding_without_a_mask_counts_positions_on(size: int) -> None:
    model = model_of()
    (want,) = whole(model, INTERLEAVED[:1])
    cache, got = None, []
    for tokens in torch.tensor(INTERLEAVED[:1]).split(size, 1):
        with torch.no_grad():
            out = model(tokens, past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        got.append(out.logits[0])
    torch.testing.assert_close(torch.cat(got), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("overrides", [{}, CONDITIONED], ids=["plain", "conditioned"])
@pytest.mark.parametrize("place", [1, 3, 6])
def test_padding_inside_a_sample_is_passed_over(overrides: dict[str, Any], place: int) -> None:
    """As it comes about when samples padded on the right are continued."""
    model, sample = model_of(overrides), INTERLEAVED[0]
    (want,) = whole(model, [sample])
    ids = torch.tensor([[*sample[:place], 1, 1, *sample[place:]]])
    mask = torch.ones_like(ids)
    mask[:, place : place + 2] = 0
    with torch.no_grad():
        logits = model(ids, attention_mask=mask).logits
    torch.testing.assert_close(logits[mask.bool()], want, rtol=1e-5, atol=1e-5)


def test_embeddings_in_place_of_ids() -> None:
    model, ids = model_of(), torch.tensor([INTERLEAVED[1]])
    embeds, visual = model.get_input_embeddings()(ids), ids >= CODE
    with torch.no_grad():
        torch.testing.assert_close(model(inputs_embeds=embeds, visual_mask=visual).logits, model(ids).logits)
        assert not torch.allclose(model(inputs_embeds=embeds, visual_mask=~visual).logits, model(ids).logits)
    written = model.generate(inputs_embeds=embeds, visual_mask=visual, max_new_tokens=4)
    assert torch.equal(written, model.generate(ids, max_new_tokens=4)[:, ids.shape[1] :])


def test_hidden_states_and_kept_logits() -> None:
    model, ids = model_of(), torch.tensor([INTERLEAVED[0]])
    with torch.no_grad():
        out = model(ids, output_hidden_states=True)
        assert len(out.hidden_states) == model.config.num_hidden_layers + 1
        assert torch.equal(out.hidden_states[0], model.get_input_embeddings()(ids))
        torch.testing.assert_close(model.lm_head(out.hidden_states[-1]), out.logits)
        torch.testing.assert_close(model(ids, logits_to_keep=2).logits, out.logits[:, -2:])


@pytest.mark.parametrize("overrides", [{}, CONDITIONED], ids=["plain", "conditioned"])
def test_generate_is_the_greedy_continuation(overrides: dict[str, Any]) -> None:
    model = model_of(overrides)
    ids, mask = padded([sample[:6] for sample in INTERLEAVED] + [[5, 6]], "left")
    written = model.generate(ids, attention_mask=mask, max_new_tokens=8, do_sample=False, eos_token_id=-1)
    for row, real in zip(written, mask, strict=True):
        sample = row[6 - int(real.sum()) :].tolist()
        (logits,) = whole(model, [sample])
        assert logits[-9:-1].argmax(-1).tolist() == sample[-8:]
    assert torch.equal(
        written, model.generate(ids, attention_mask=mask, max_new_tokens=8, eos_token_id=-1, use_cache=False)
    )


@pytest.mark.parametrize("overrides", [{}, CONDITIONED], ids=["plain", "conditioned"])
def test_beam_search_needs_no_cache_to_be_right(overrides: dict[str, Any]) -> None:
    model = model_of(overrides)
    ids, mask = padded([sample[:6] for sample in INTERLEAVED], "left")
    how = {"attention_mask": mask, "num_beams": 3, "max_new_tokens": 8, "eos_token_id": -1}
    assert torch.equal(model.generate(ids, **how), model.generate(ids, **how, use_cache=False))


def test_conditioned_routers_refuse_what_takes_text_back() -> None:
    model = model_of(CONDITIONED)
    with pytest.raises(ValueError, match="cannot be cropped"):
        model.generate(torch.tensor([[3, 4, 3, 4, 3, 4]]), prompt_lookup_num_tokens=2, max_new_tokens=6)
    from transformers import DynamicCache

    for run in (model, model.generate):
        with pytest.raises(ValueError, match="is a DynamicCache, and a conditioned router .* needs a MarsCache"):
            run(torch.tensor([[3, 4]]), past_key_values=DynamicCache())


def test_the_conditioned_cache_can_be_selected_and_repeated() -> None:
    model, cache = model_of(CONDITIONED), MarsCache()
    ids = torch.tensor([[3, 4, BOI], [5, 6, BOI]])
    with torch.no_grad():
        model(ids, past_key_values=cache)
        cache.batch_repeat_interleave(2)
        cache.batch_select_indices(torch.tensor([0, 3]))
        got = model(torch.tensor([[CODE], [CODE]]), past_key_values=cache).logits[:, -1]
        want = model(torch.cat((ids, torch.full((2, 1), CODE)), 1)).logits[:, -1]
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(want[0], want[1])


def test_assisted_decoding_writes_the_same() -> None:
    model, ids = model_of(), torch.tensor([[3, 4, 3, 4, 3, 4, 5, 3]])
    want = model.generate(ids, max_new_tokens=12, eos_token_id=-1)
    assert torch.equal(model.generate(ids, max_new_tokens=12, eos_token_id=-1, prompt_lookup_num_tokens=3), want)


def test_routing_moves_as_a_whole() -> None:
    """Layers on several devices: meta stands for another one."""
    visual = torch.tensor([[False, True, False]])
    routing = Routing.build(visual)
    routing = routing.with_blocks(build_blocks(routing, visual, torch.ones_like(visual), None)).to("meta")
    assert routing.order is not None and routing.inverse is not None and routing.blocks is not None
    tensors = [routing.order, routing.inverse, *(part for part in vars(routing.blocks).values() if part is not None)]
    assert {part.device.type for part in tensors if isinstance(part, torch.Tensor)} == {"meta"}
    assert routing.num_text == 2 and routing.blocks.number == 3


def test_bf16_runs_in_bf16() -> None:
    model = model_of(ROUTED)
    (want,) = whole(model, INTERLEAVED[:1])
    (got,) = whole(model.to(torch.bfloat16), INTERLEAVED[:1])
    assert got.dtype == torch.bfloat16
    assert (got.float() - want).abs().mean() < 0.05 * want.abs().mean()


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "either input_ids or inputs_embeds"),
        ({"inputs_embeds": torch.zeros(1, 2, 16)}, "inputs_embeds need a visual_mask"),
        (
            {"input_ids": IDS, "visual_mask": torch.tensor([[0, 0]])},
            "visual_mask belongs to inputs_embeds",
        ),
        (
            {"input_ids": torch.tensor([[3]]), "attention_mask": torch.ones(1, 1, 1, 1)},
            r"attention_mask is \(1, 1, 1, 1\); accepted: \(1, 1\).* do not say what padding is",
        ),
        ({"input_ids": IDS, "position_ids": torch.tensor([[1, 0]])}, "position_ids go back"),
        ({"input_ids": IDS, "past_key_values": ((IDS, IDS),)}, r"past_key_values is a tuple; accepted: .*DynamicCache"),
        ({"input_ids": IDS, "num_logits_to_keep": 1}, "num_logits_to_keep given; accepted: logits_to_keep"),
    ],
)
def test_inputs_that_do_not_go_together(inputs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model_of()(**inputs)


@pytest.mark.parametrize("overrides", [{}, CONDITIONED], ids=["plain", "conditioned"])
def test_static_caches_are_refused_since_they_do_not_grow(overrides: dict[str, Any]) -> None:
    model = model_of(overrides)
    with pytest.raises(ValueError, match="StaticCache; accepted: caches that grow"):
        model(torch.tensor([[3]]), past_key_values=StaticCache(config=model.config, max_cache_len=4))


def test_tables_keep_their_size() -> None:
    model = model_of()
    size = model.config.vocab_size
    for given in ((), (None,), (size,)):
        assert model.resize_token_embeddings(*given) is model.get_input_embeddings()
    with pytest.raises(ValueError, match=f"new_num_tokens is 50; accepted: {size}. The tables .* cannot be resized"):
        model.resize_token_embeddings(50)

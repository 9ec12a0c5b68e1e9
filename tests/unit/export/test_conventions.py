"""What libraries around transformers expect of a causal language model, of every kind of exported model."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, pipeline
from transformers.modeling_utils import PreTrainedModel
from transformers.trainer_pt_utils import LabelSmoother

from mars_megatron.export.modeling_mars import MarsForCausalLM
from tests.support.exported import CODE, INTERLEAVED, KINDS, model_of, padded
from tests.support.exported_run import Exported

IDS, MASK = padded(INTERLEAVED, "left")


@pytest.fixture(params=KINDS)
def model(request: pytest.FixtureRequest) -> MarsForCausalLM:
    return model_of(KINDS[request.param])


@torch.no_grad()
def logits_of(model: Any, ids: torch.Tensor = IDS, mask: torch.Tensor | None = MASK) -> torch.Tensor:
    return model(ids, attention_mask=mask, use_cache=False).logits.float()


def assert_same(found: Any, want: Any, *inputs: Any) -> None:
    """Two models compute the same; where their weights lie in memory decides the last bits."""
    torch.testing.assert_close(logits_of(found, *inputs), logits_of(want, *inputs), rtol=1e-4, atol=1e-5)


def test_linear_layers_of_adapters_leave_the_head_alone(model: MarsForCausalLM) -> None:
    """peft's all-linear takes every nn.Linear but the one module that get_output_embeddings returns."""
    head = model.get_output_embeddings()
    assert isinstance(model, PreTrainedModel) and head is model.lm_head
    linear = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    linear -= {name for name, module in model.named_modules() if module is head}
    assert linear and not {name for name in linear if "lm_head" in name or "embed_tokens" in name}
    projections = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert {name.rsplit(".", 1)[1] for name in linear} == projections
    rest = {name for name, _ in model.named_parameters()} - {
        f"{name}.{part}" for name in linear for part in ("weight", "bias")
    }
    assert {"lm_head.text.weight", "lm_head.visual.weight", "model.embed_tokens.text.weight"} <= rest
    assert all("norm" in name or "router" in name or "lm_head" in name or "embed_tokens" in name for name in rest)


def test_adapters_of_peft_train_and_merge() -> None:
    peft = pytest.importorskip("peft")
    lora = peft.LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    adapted = peft.get_peft_model(model_of(), lora)
    trained = [name for name, parameter in adapted.named_parameters() if parameter.requires_grad]
    assert trained and not any("lm_head" in name for name in trained)
    adapted(input_ids=IDS, attention_mask=MASK, labels=IDS).loss.backward()
    want = logits_of(adapted.eval())
    torch.testing.assert_close(logits_of(adapted.merge_and_unload()), want, rtol=1e-3, atol=1e-4)


def test_tables_are_found_and_replaced(model: MarsForCausalLM) -> None:
    table, head = model.get_input_embeddings(), model.get_output_embeddings()
    assert table is model.model.embed_tokens is model.model.get_input_embeddings()
    other = copy.deepcopy(model)
    # One table over the joined ids does the same.
    joined = nn.Embedding.from_pretrained(torch.cat((table.text.weight, table.visual.weight)).detach())
    other.set_input_embeddings(joined)
    other.set_output_embeddings(copy.deepcopy(head))
    assert other.get_input_embeddings() is joined and other.get_output_embeddings() is not head
    other.tie_weights()
    assert_same(other, model)


def test_saved_models_load_bit_for_bit(model: MarsForCausalLM, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    again, info = MarsForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    state = again.state_dict()
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert_same(again, model)
    model.model = type(model.model).from_pretrained(tmp_path)
    assert_same(again, model)


def test_copies_compute_the_same(model: MarsForCausalLM) -> None:
    model.set_attn_implementation("eager")
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert other.config is other.model.config is not model.config
        assert_same(other, model)
        other.set_attn_implementation("sdpa")
        assert model.config._attn_implementation == "eager"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(model: MarsForCausalLM, dtype: torch.dtype) -> None:
    want = logits_of(model)[MASK.bool()]
    half = model.to(dtype)
    for attention in ("sdpa", "eager"):
        half.set_attn_implementation(attention)
        got = half(IDS, attention_mask=MASK).logits
        assert got.dtype == dtype
        # a router may choose another expert for a few tokens
        assert (got.float()[MASK.bool()] - want).abs().median() < 0.05 * want.abs().mean()
    assert half.generate(IDS, attention_mask=MASK, max_new_tokens=2, eos_token_id=-1).shape[1] == IDS.shape[1] + 2


def test_loading_takes_the_usual_arguments(exported: Exported, tmp_path: Path) -> None:
    def load(**settings: Any) -> Any:
        return AutoModelForCausalLM.from_pretrained(exported.folder, trust_remote_code=True, **settings)

    model = load()
    ids = torch.tensor([[3, 4, 5]])
    for settings in ({"dtype": torch.bfloat16}, {"dtype": "bfloat16"}, {"torch_dtype": torch.bfloat16}):
        assert load(**settings).dtype == torch.bfloat16
    assert load(output_hidden_states=True)(ids).hidden_states is not None
    split = {"model.embed_tokens": "cpu", "model.layers": "disk", "model.norm": "cpu", "lm_head": "disk"}
    for settings in (
        {"dtype": "auto", "low_cpu_mem_usage": True},
        {"device_map": "auto"},
        {"device_map": split, "offload_folder": str(tmp_path)},
    ):
        other = load(**settings)
        assert_same(other, model, ids, None)
        assert torch.equal(other.generate(ids, num_beams=2), model.generate(ids, num_beams=2))
    body = AutoModel.from_pretrained(exported.folder, trust_remote_code=True)
    hidden = body(ids, output_hidden_states=True).hidden_states
    torch.testing.assert_close(model.lm_head(hidden[-1]), model(ids).logits, rtol=1e-4, atol=1e-5)
    assert model.num_parameters() == sum(parameter.numel() for parameter in model.parameters())
    assert model.can_generate() and model.main_input_name == "input_ids" and model.base_model is model.model


def test_compiled_models_compute_the_same(model: MarsForCausalLM) -> None:
    assert_same(torch.compile(model, backend="eager"), model)


def test_pipelines_write(exported: Exported) -> None:
    write = pipeline("text-generation", model=str(exported.folder), trust_remote_code=True)
    texts = ["a red square", "a blue"]
    written = write(texts, batch_size=2, max_new_tokens=3, do_sample=False)
    assert [part[0]["generated_text"].startswith(text) for part, text in zip(written, texts, strict=True)] == [True] * 2
    assert written == [write(text, max_new_tokens=3, do_sample=False) for text in texts]


def test_generation_from_embeddings(model: MarsForCausalLM) -> None:
    how = {"attention_mask": MASK, "max_new_tokens": 4, "eos_token_id": -1}
    given = {"inputs_embeds": model.get_input_embeddings()(IDS), "visual_mask": IDS >= CODE}
    for beams in (1, 3):
        want = model.generate(IDS, num_beams=beams, **how)[:, IDS.shape[1] :]
        assert torch.equal(model.generate(**given, num_beams=beams, **how), want)
    with pytest.raises(ValueError, match="inputs_embeds need a visual_mask"):
        model.generate(inputs_embeds=given["inputs_embeds"], **how)


def test_label_smoothing_of_the_trainer_does_not_shift() -> None:
    """The model card warns of it: the Trainer shifts labels for the classes that transformers has itself."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    assert type(GPT2LMHeadModel(GPT2Config(n_layer=1))).__name__ in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()
    assert MarsForCausalLM.__name__ not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()
    model, ids = model_of(), torch.tensor(INTERLEAVED[:1])
    with torch.no_grad():
        out = model(ids, labels=ids)
        shifted, not_shifted = (LabelSmoother(0.0)(out, ids, shift_labels=shift) for shift in (True, False))
    torch.testing.assert_close(shifted, out.loss)
    assert not torch.isclose(not_shifted, out.loss)

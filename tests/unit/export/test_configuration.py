"""Configurations, and the random models made from them."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from mars_megatron.export.configuration_mars import MarsConfig
from mars_megatron.export.modeling_mars import MarsForCausalLM


def test_initial_values() -> None:
    config = MarsConfig(visual_experts=2, router_condition="text", qk_norm=True, initializer_range=0.05)
    torch.manual_seed(0)
    state = MarsForCausalLM(config).state_dict()
    for name, value in state.items():
        if "norm" in name:
            assert bool((value == 1).all()), name
        elif name.endswith(("bias", "condition_weight")):
            assert not value.any(), name
        elif "router" in name:
            assert 0 < value.std() < 0.002, name
        else:
            assert abs(float(value.std()) - 0.05) < 0.01, name


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"vocab_size": 3}, "vocab_size is 3"),
        ({"rope_type": "yarn"}, "rope_type is 'yarn'; accepted: none, linear, llama3"),
        ({"num_key_value_heads": 3}, "num_key_value_heads is 3"),
        ({"num_text_ids": 513}, "num_text_ids is 513"),
        ({"image_next_k": 0}, "image_next_k is 0; accepted: 1 or more"),
        ({"image_resolution": 18}, "image_resolution is 18"),
        ({"image_generation": {"guidence": 1}}, "guidence"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings is True; accepted: False"),
    ],
)
def test_configurations_that_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MarsConfig(**values)


def test_what_libraries_look_for_is_there() -> None:
    config = MarsConfig(eos_token_id=2, pad_token_id=3, qkv_bias=False, rope_base=5e5)
    values = {
        "bos_token_id": None,
        "eos_token_id": 2,
        "pad_token_id": 3,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "is_encoder_decoder": False,
        "num_hidden_layers": 4,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        "rope_theta": 5e5,
        "output_hidden_states": False,
        "output_attentions": False,
        "return_dict": True,
    }
    assert {name: getattr(config, name) for name in values} == values
    assert config.get_text_config() is config and config.get_text_config(decoder=True) is config
    # lm-eval takes a number from here where there is one, and its own where there is none
    assert not hasattr(config, "max_position_embeddings")
    assert MarsConfig(bos_token_id=7).bos_token_id == 7 and MarsConfig(rope_theta=3.0).rope_base == 3.0
    config.num_hidden_layers, config.hidden_size = 3, 64
    assert (config.num_hidden_layers, config.hidden_size) == (3, 64)


def test_configurations_survive_every_way_out(tmp_path: Path) -> None:
    config = MarsConfig(
        eos_token_id=2, visual_experts=4, router_condition="text", image_next_k=4, output_hidden_states=True
    )
    config.save_pretrained(tmp_path)
    ways = [
        MarsConfig.from_pretrained(tmp_path),
        MarsConfig.from_dict(json.loads(config.to_json_string())),
        MarsConfig.from_dict(config.to_dict()),
        MarsConfig(**config.to_dict()),
        copy.deepcopy(config),
        pickle.loads(pickle.dumps(config)),
    ]
    for other in ways:
        values = other.to_dict()
        values["_name_or_path"] = config.to_dict().get("_name_or_path")
        assert values == {**config.to_dict(), "_name_or_path": values["_name_or_path"]}
        assert other.is_conditioned and other.boi_token_id == config.boi_token_id
    (tmp_path / "again").mkdir()
    ways[0].save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / "config.json").read_bytes() == (tmp_path / "config.json").read_bytes()
    assert not {"hidden_act", "sliding_window", "attention_dropout", "rope_theta"} & config.to_dict().keys()


def test_files_of_earlier_exports_load() -> None:
    """They have neither of the later settings."""
    old = {name: value for name, value in MarsConfig(eos_token_id=2).to_dict().items() if name != "bos_token_id"}
    loaded = MarsConfig.from_dict(old)
    assert loaded.bos_token_id is None and {**loaded.to_dict()} == {**old, "bos_token_id": None}

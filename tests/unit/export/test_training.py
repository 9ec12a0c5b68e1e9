"""Training the exported model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.exported import BOI, CODE, INTERLEAVED, ROUTED, exported_state, model_of, padded
from tests.support.tiny import MIXED, make_batch, make_samples, randomize, tiny_config, tiny_model


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"model.qk_norm": "true", "model.expert_norms": "true"},
        ROUTED | {"router.balance_loss": 0, "router.z_loss": 0},
    ],
    ids=["plain", "norms", "routed"],
)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_are_those_of_the_trained_model(overrides: dict[str, Any], checkpointing: bool) -> None:
    overrides = {**overrides, "freeze.text": "false", "freeze.norms": "false"}
    model = randomize(tiny_model(overrides)).train()
    ours = model(make_batch(MIXED)).sum()
    ours.backward()
    exported = model_of(overrides).train()
    if checkpointing:
        exported.gradient_checkpointing_enable()
        assert exported(torch.tensor(INTERLEAVED[:1]), use_cache=True).past_key_values is None
    samples = make_samples(MIXED)
    ids, mask = padded([sample.tolist() for sample, _, _ in samples])
    # A target only at the end of a layout is no input here either: labels are shifted inside, so add one place.
    ids, mask = torch.nn.functional.pad(ids, (0, 1)), torch.nn.functional.pad(mask, (0, 1))
    labels = torch.full_like(ids, -100)
    for number, (sample, target, learned) in enumerate(samples):
        labels[number, 1 : len(sample) + 1] = torch.where(
            torch.from_numpy(learned), torch.from_numpy(target), torch.tensor(-100)
        )
    out = exported(ids, attention_mask=mask, labels=labels)
    count = (labels != -100).sum()
    torch.testing.assert_close(out.loss * count, ours.detach(), rtol=1e-5, atol=1e-5)
    (out.loss * count).backward()
    want = exported_state(model, tiny_config(overrides), gradients=True)
    found = {name: parameter.grad for name, parameter in exported.named_parameters()}
    assert found.keys() == want.keys()
    for name, value in want.items():
        scale = float(value.abs().max()) + 1e-3
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-4 * scale, msg=name)


def test_every_parameter_gets_a_gradient_from_every_batch() -> None:
    """Data-parallel wrappers wait for each of them."""
    model = model_of(ROUTED).train()
    for ids in ([[3, 4, 5]], [[BOI, CODE, CODE + 1]]):
        model.zero_grad()
        model(torch.tensor(ids), labels=torch.tensor(ids)).loss.backward()
        assert all(parameter.grad is not None for parameter in model.parameters())


def test_visual_parameters_learn_from_captions_through_frozen_text() -> None:
    model = model_of().train()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".visual." in name)
    ids = torch.tensor([[BOI, CODE, CODE + 1, 3, 4]])
    model(ids, labels=ids.masked_fill(ids >= CODE, -100)).loss.backward()
    assert model.model.layers[0].self_attn.visual.v_proj.weight.grad.abs().max() > 0
    assert model.model.layers[0].self_attn.text.v_proj.weight.grad is None


def test_labels_left_out_have_no_loss() -> None:
    model, ids = model_of(), torch.tensor([INTERLEAVED[0]])
    labels = ids.clone()
    labels[:, :-1] = -100
    with torch.no_grad():
        out = model(ids, labels=labels)
    torch.testing.assert_close(out.loss, -out.logits[0, -2].log_softmax(-1)[ids[0, -1]])


def test_the_trainer_of_transformers_trains_it(tmp_path: Path) -> None:
    from transformers import Trainer, TrainingArguments

    model = model_of()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".visual." in name)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    rows = [torch.tensor(sample[:8]) for sample in INTERLEAVED]
    dataset = [{"input_ids": row, "attention_mask": torch.ones_like(row), "labels": row} for row in rows]
    arguments = TrainingArguments(
        str(tmp_path),
        max_steps=2,
        per_device_train_batch_size=3,
        learning_rate=1e-2,
        report_to="none",
        save_strategy="no",
        logging_steps=1,
        disable_tqdm=True,
        use_cpu=True,
        gradient_checkpointing=True,
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=dataset)
    trainer.train()
    first, second = (entry["loss"] for entry in trainer.state.log_history if "loss" in entry)
    assert second < first
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) != (".visual." in name), name

"""The model computes SemVIE: losses, logits and gradients equal those of a naive implementation.

The reference works in sequence order, one sample and one head at a time, in double precision, and chooses experts
by boolean masks. It shares nothing with the package but the names and shapes of the parameters.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mars_megatron.config.schema import RunConfig
from mars_megatron.sequence.batch import Sample, collate
from mars_megatron.sequence.samples import I2T, T2I, TEXT_ONLY
from mars_megatron.sequence.vocabulary import Vocabulary
from tests.support.tiny import MIXED, make_samples, randomize, tiny_config, tiny_model

ALL_TRAINED = {"freeze.text": False, "freeze.norms": False}
CASES: dict[str, dict[str, Any]] = {
    "paper": {},
    "all_trained": ALL_TRAINED,
    "norms_trained": {"freeze.norms": False},
    "expert_norms": {"model.expert_norms": True},
    "expert_norms_trained": {"model.expert_norms": True, **ALL_TRAINED},
    "shared_projection": {"model.expert_output_projection": False},
    "shared_projection_trained": {"model.expert_output_projection": False, **ALL_TRAINED},
    "modality_loss": {"loss.vocabulary": "modality"},
    "modality_loss_trained": {"loss.vocabulary": "modality", **ALL_TRAINED},
    "plain_attention": {"model.num_query_groups": 4, **ALL_TRAINED},
    "one_group": {"model.num_query_groups": 1, **ALL_TRAINED},
    "own_head_dim": {"model.head_dim": 6, **ALL_TRAINED},
    "qk_norm": {"model.qk_norm": True, "model.norm_eps": 0.1},
    "qk_norm_trained": {"model.qk_norm": True, "model.qkv_bias": False, "model.head_dim": 6, **ALL_TRAINED},
    "qk_norm_selective_recompute": {"model.qk_norm": True, "recompute.granularity": "selective", **ALL_TRAINED},
    "qk_norm_full_recompute": {"model.qk_norm": True, "recompute.granularity": "full"},
    "no_bias": {"model.qkv_bias": False, **ALL_TRAINED},
    "rope_and_eps": {"model.rope_base": 100.0, "model.norm_eps": 0.1, **ALL_TRAINED},
    "linear_rope": {"model.rope_scaling.type": "linear", "model.rope_scaling.factor": 3.0, **ALL_TRAINED},
    "no_padding": {"vocabulary.text_size": 32, "vocabulary.codebook_size": 10, **ALL_TRAINED},
    "selective_recompute": {"recompute.granularity": "selective"},
    "full_recompute": {"recompute.granularity": "full"},
}


class Reference:
    """SemVIE over one sample at a time.

    Args:
        parameters: Double-precision copies of the model's, by name.
        config: Shape of the model.
    """

    def __init__(self, parameters: dict[str, Tensor], config: RunConfig) -> None:
        self.parameters, self.shape = parameters, config.model
        self.vocabulary = Vocabulary.from_config(config)
        self.per_modality_loss = config.loss.vocabulary == "modality"

    def weight(self, name: str, expert: str) -> Tensor:
        """A parameter such as `final_norm.{}.weight` of an expert, or the one both share."""
        own = name.format(expert)
        return self.parameters[own if own in self.parameters else name.format("shared")]

    def routed(self, function: Any, x: Tensor, is_visual: Tensor, width: int) -> Tensor:
        """Apply function(rows, expert) to the rows of each modality."""
        out = x.new_zeros(len(x), width)
        for expert, mask in (("text", ~is_visual), ("visual", is_visual)):
            out = out.masked_scatter(mask[:, None], function(x[mask], expert))
        return out

    def norm(self, name: str) -> Any:
        def apply(x: Tensor, expert: str) -> Tensor:
            return x / (x.square().mean(-1, keepdim=True) + self.shape.norm_eps).sqrt() * self.weight(name, expert)

        return apply

    def rotate(self, x: Tensor) -> Tensor:
        """[n, head_dim] -> the same, pair (i, i + half) turned by position * base^(-2i / head_dim) / factor."""
        factor = self.shape.rope_scaling.factor
        half = x.shape[1] // 2
        out = torch.empty_like(x)
        for i in range(half):
            angle = torch.arange(len(x), dtype=x.dtype) * self.shape.rope_base ** (-2 * i / x.shape[1]) / factor
            out[:, i] = x[:, i] * angle.cos() - x[:, half + i] * angle.sin()
            out[:, half + i] = x[:, half + i] * angle.cos() + x[:, i] * angle.sin()
        return out

    def attention(self, layer: str, x: Tensor, is_visual: Tensor) -> Tensor:
        heads, groups = self.shape.num_attention_heads, self.shape.num_query_groups
        d = self.shape.head_dim or self.shape.hidden_size // heads
        per_group = heads // groups

        def project(rows: Tensor, expert: str) -> Tensor:
            out = rows @ self.parameters[f"{layer}.linear_qkv.{expert}.weight"].T
            return out + self.parameters[f"{layer}.linear_qkv.{expert}.bias"] if self.shape.qkv_bias else out

        qkv = self.routed(project, x, is_visual, groups * (per_group + 2) * d)
        pieces = qkv.split(d, dim=1)  # for each group: its queries, its key, its value

        def turned(piece: Tensor, kind: str) -> Tensor:
            if self.shape.qk_norm:
                piece = self.routed(self.norm(f"{layer}.qk_norm.{{}}.{kind}_layernorm.weight"), piece, is_visual, d)
            return self.rotate(piece)

        outs = []
        for head in range(heads):
            first = head // per_group * (per_group + 2)
            query = turned(pieces[first + head % per_group], "q")
            key, value = turned(pieces[first + per_group], "k"), pieces[first + per_group + 1]
            scores = query @ key.T / d**0.5
            future = torch.ones(len(x), len(x)).triu(1).bool()
            outs.append(scores.masked_fill(future, -torch.inf).softmax(-1) @ value)
        return self.routed(
            lambda rows, expert: rows @ self.weight(f"{layer}.linear_proj.{{}}.weight", expert).T,
            torch.cat(outs, 1),
            is_visual,
            self.shape.hidden_size,
        )

    def ffn(self, layer: str) -> Any:
        def apply(x: Tensor, expert: str) -> Tensor:
            gate, up = (x @ self.parameters[f"{layer}.{expert}.linear_fc1.weight"].T).chunk(2, 1)
            return gate * gate.sigmoid() * up @ self.parameters[f"{layer}.{expert}.linear_fc2.weight"].T

        return apply

    def table(self, name: str) -> Tensor:
        """Rows of the joined vocabulary, table padding left out: [vocabulary.size, hidden]."""
        sizes = self.vocabulary
        text, visual = self.parameters[f"{name}.text.weight"], self.parameters[f"{name}.visual.weight"]
        return torch.cat((text[: sizes.text_size], visual[: sizes.image_size]))

    def logits(self, ids: Tensor) -> Tensor:
        """Joined ids [n] of one sample -> [n, vocabulary.size]."""
        is_visual, width = ids >= self.vocabulary.text_size, self.shape.hidden_size
        x = self.table("embedding")[ids]
        for number in range(self.shape.num_layers):
            layer = f"decoder.layers.{number}"
            normed = self.routed(self.norm(f"{layer}.input_norm.{{}}.weight"), x, is_visual, width)
            x = x + self.attention(f"{layer}.attention", normed, is_visual)
            normed = self.routed(self.norm(f"{layer}.pre_mlp_norm.{{}}.weight"), x, is_visual, width)
            x = x + self.routed(self.ffn(f"{layer}.mlp"), normed, is_visual, width)
        x = self.routed(self.norm("final_norm.{}.weight"), x, is_visual, width)
        return x @ self.table("head").T

    def loss(self, logits: Tensor, target: int) -> Tensor:
        text_size = self.vocabulary.text_size
        if self.per_modality_loss:
            logits = logits[text_size:] if target >= text_size else logits[:text_size]
            target = target - text_size if target >= text_size else target
        return logits.logsumexp(0) - logits[target]

    def __call__(self, samples: list[Sample]) -> tuple[Tensor, Tensor]:
        """Losses [n] and logits [n, vocabulary.size] of all targets: those of text first, else in sequence order."""
        found: dict[bool, list[tuple[Tensor, Tensor]]] = {False: [], True: []}
        for ids, targets, mask in samples:
            logits = self.logits(torch.from_numpy(ids))
            for position in np.flatnonzero(mask):
                target = int(targets[position])
                of_position = (self.loss(logits[position], target), logits[position])
                found[target >= self.vocabulary.text_size].append(of_position)
        losses, logits = zip(*found[False], *found[True], strict=True)
        return torch.stack(losses), torch.stack(logits)


def check(overrides: dict[str, Any], samples_of: list[int], row_multiple: int) -> None:
    """Compare model and reference on one micro-batch."""
    config = tiny_config(overrides)
    model = randomize(tiny_model(overrides)).train()
    samples = make_samples(samples_of, vocabulary=model.vocabulary)
    device = next(model.parameters()).device
    batch = collate(samples, model.vocabulary, row_multiple).to(device)
    parameters = {
        name: parameter.detach().cpu().double().requires_grad_(parameter.requires_grad)
        for name, parameter in model.named_parameters()
    }
    expected_losses, expected_logits = Reference(parameters, config)(samples)
    losses = model(batch)
    torch.testing.assert_close(losses.cpu().double(), expected_losses, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        logits = model(batch, return_logits=True)
    torch.testing.assert_close(logits.cpu().double(), expected_logits, rtol=1e-5, atol=1e-5)

    weights = torch.rand(len(losses), generator=torch.Generator().manual_seed(1)) + 0.5
    (losses * weights.to(device)).sum().backward()
    (expected_losses * weights.double()).sum().backward()
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            assert parameter.grad is None, f"{name} is frozen"
            continue
        expected = parameters[name].grad
        expected = torch.zeros_like(parameters[name]) if expected is None else expected
        got = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(
            got.cpu().double(),
            expected,
            rtol=1e-4,
            atol=1e-5 * max(1.0, float(expected.abs().max())),
            msg=lambda text, name=name: f"gradient of {name}: {text}",
        )


@pytest.mark.parametrize("row_multiple", [1, 4])
@pytest.mark.parametrize("case", CASES)
def test_losses_logits_and_gradients(case: str, row_multiple: int) -> None:
    check(CASES[case], MIXED, row_multiple)


@pytest.mark.parametrize("trained", [{}, ALL_TRAINED], ids=["paper", "all_trained"])
@pytest.mark.parametrize("task", [T2I, I2T, TEXT_ONLY], ids=["t2i", "i2t", "text"])
@pytest.mark.parametrize("loss", ["full", "modality"])
def test_micro_batches_of_one_task(task: int, loss: str, trained: dict[str, Any]) -> None:
    check({"loss.vocabulary": loss, **trained}, [task, task, task], row_multiple=1)

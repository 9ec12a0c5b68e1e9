"""FusedStateAdamW is AdamW, with one step counter per group."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from mars_megatron.platform.adam import FusedStateAdamW

SETTINGS = {"lr": 0.01, "betas": (0.8, 0.9), "eps": 1e-6}
GROUPS = ({"weight_decay": 0.3}, {"weight_decay": 0.0, "lr": 0.002})


def parameters() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((3, 5), (7,))]


def groups(params: list[nn.Parameter]) -> list[dict]:
    return [{"params": [param], **settings} for param, settings in zip(params, GROUPS, strict=True)]


def take_steps(optimizer: torch.optim.Optimizer, params: list[nn.Parameter], steps: range) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        for param in params:
            param.grad = torch.randn(param.shape, generator=generator) * (step + 1)
        optimizer.step()


def test_equals_torch() -> None:
    mine, theirs = parameters(), parameters()
    optimizer = FusedStateAdamW(groups(mine), **SETTINGS)
    reference = torch.optim.AdamW(groups(theirs), **SETTINGS)
    for step in range(6):
        take_steps(optimizer, mine, range(step, step + 1))
        take_steps(reference, theirs, range(step, step + 1))
        if step == 2:  # as the schedule does
            for group in (*optimizer.param_groups, *reference.param_groups):
                group["lr"] *= 0.5
        for param, expected in zip(mine, theirs, strict=True):
            torch.testing.assert_close(param, expected, rtol=1e-6, atol=1e-7)
    for param, start, expected in zip(mine, parameters(), theirs, strict=True):
        assert not torch.allclose(param, start, atol=1e-3)
        for moment in ("exp_avg", "exp_avg_sq"):
            torch.testing.assert_close(optimizer.state[param][moment], reference.state[expected][moment])


def test_weight_decay_is_decoupled() -> None:
    param = nn.Parameter(torch.full((4,), 2.0))
    optimizer = FusedStateAdamW([param], lr=0.1, weight_decay=0.5)
    param.grad = torch.zeros(4)
    optimizer.step()
    torch.testing.assert_close(param.detach(), torch.full((4,), 2.0 * (1 - 0.1 * 0.5)))


@pytest.mark.parametrize("as_tensor", [False, True])
def test_state_round_trip(as_tensor: bool) -> None:
    straight, before = parameters(), parameters()
    take_steps(FusedStateAdamW(groups(straight), **SETTINGS), straight, range(6))
    first = FusedStateAdamW(groups(before), **SETTINGS)
    take_steps(first, before, range(3))
    saved = copy.deepcopy(first.state_dict())
    assert [group["step"] for group in saved["param_groups"]] == [3, 3]
    assert all(set(state) == {"exp_avg", "exp_avg_sq"} for state in saved["state"].values())
    if as_tensor:  # a checkpoint may bring the counter back so
        for group in saved["param_groups"]:
            group["step"] = torch.tensor(group["step"])
    resumed = [nn.Parameter(param.detach().clone()) for param in before]
    second = FusedStateAdamW(groups(resumed))
    second.load_state_dict(saved)
    take_steps(second, resumed, range(3, 6))
    for param, expected in zip(resumed, straight, strict=True):
        assert torch.equal(param, expected)


def test_parameters_without_gradient_and_empty_groups_are_left_alone() -> None:
    with_grad, without = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = FusedStateAdamW([{"params": [with_grad, without]}, {"params": []}], lr=0.1, weight_decay=0.5)
    with_grad.grad = torch.ones(2)
    optimizer.step()
    assert (without == 1).all() and (with_grad < 1).all()
    assert [group["step"] for group in optimizer.param_groups] == [1, 0]


def test_refused() -> None:
    with pytest.raises(ValueError, match="adam_w_mode=False"):
        FusedStateAdamW(parameters(), adam_w_mode=False)
    with pytest.raises(AssertionError, match="closures"):
        FusedStateAdamW(parameters()).step(lambda: 0.0)

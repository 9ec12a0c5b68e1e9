"""Hooks are found by whichever way they are registered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from mars_megatron.compat.pytorch import has_hooks

WAYS: dict[str, Callable[[nn.Module], Any]] = {
    "own": lambda module: module.register_forward_hook(lambda *_: None),
    "own_pre": lambda module: module.register_forward_pre_hook(lambda *_: None),
    "own_with_keywords": lambda module: module.register_forward_hook(lambda *_: None, with_kwargs=True),
    "global": lambda module: register_module_forward_hook(lambda *_: None),
    "global_pre": lambda module: register_module_forward_pre_hook(lambda *_: None),
}


@pytest.mark.parametrize("way", WAYS)
def test_hooks_are_seen_and_forgotten(way: str) -> None:
    module = nn.Linear(1, 1)
    assert not has_hooks(module)
    handle = WAYS[way](module)
    assert has_hooks(module)
    handle.remove()
    assert not has_hooks(module)

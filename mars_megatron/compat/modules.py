"""Private names of torch.nn.Module."""

from __future__ import annotations

from torch import nn
from torch.nn.modules import module as torch_module


def has_hooks(module: nn.Module) -> bool:
    """Whether a call of the module runs hooks around its forward: its own, or those of all modules."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or torch_module._global_forward_hooks
        or torch_module._global_forward_pre_hooks
    )

"""Private names of torch."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules import module as torch_module
from torch.utils._device import _device_constructors

fused_adamw = torch._fused_adamw_  # one kernel for all parameters; the public optimiser keeps a step for each


def has_kernel(operator: str, key: str) -> bool:
    """Whether an operator, such as mars_megatron::permute_rows, is compiled for a dispatch key, such as CUDA."""
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(operator, key))


def disable_compiler() -> None:
    """Let functions decorated with torch.compile run as they are."""
    torch._dynamo.config.disable = True


def remember_factories() -> None:
    """Let torch list its tensor factories now; it does so once, when first asked for torch.device(...) as a context."""
    _device_constructors()


def has_hooks(module: nn.Module) -> bool:
    """Whether a call of the module runs hooks around its forward: its own, or those of all modules."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or torch_module._global_forward_hooks
        or torch_module._global_forward_pre_hooks
    )

"""AdamW with the state layout of the fused optimisers of apex and Transformer Engine."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

from mars_megatron.compat.pytorch import fused_adamw


class FusedStateAdamW(torch.optim.Optimizer):
    """AdamW over torch's fused kernel, with `step` kept per parameter group instead of per parameter.

    megatron-core's distributed optimiser saves and loads the `fully_reshardable` format only for this layout
    (with `torch.optim.AdamW` loading fails on the missing key 'step').

    Args:
        params: Parameters or parameter groups, fp32.
        lr: Learning rate.
        betas: Decay rates of the first and second moment.
        eps: Added to the denominator.
        weight_decay: Decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101).
        adam_w_mode: Must be True; apex's L2 mode is not offered.
        capturable: Must be False; CUDA graphs of the step are not offered.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        adam_w_mode: bool = True,
        capturable: bool = False,
    ) -> None:
        if not adam_w_mode:
            raise ValueError("adam_w_mode=False (L2 regularisation) is not supported: weight decay is decoupled here")
        if capturable:
            raise ValueError("capturable=True (CUDA graphs of the optimiser's step) is not supported")
        super().__init__(params, dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, step=0))

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        assert closure is None, "closures are not supported"
        for group in self.param_groups:
            if not group["params"]:
                continue
            # A checkpoint may bring the counter back as a tensor.
            group["step"] = int(group["step"]) + 1
            params = [p for p in group["params"] if p.grad is not None]
            for p in params:
                if "exp_avg" not in self.state[p]:
                    self.state[p]["exp_avg"] = torch.zeros_like(p)
                    self.state[p]["exp_avg_sq"] = torch.zeros_like(p)
            if not params:
                continue
            # The kernel advances nothing itself: it reads this step from one tensor per parameter.
            steps = [torch.tensor(float(group["step"]), device=p.device) for p in params]
            fused_adamw(
                params,
                [p.grad for p in params],
                [self.state[p]["exp_avg"] for p in params],
                [self.state[p]["exp_avg_sq"] for p in params],
                [],
                steps,
                lr=float(group["lr"]),
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                amsgrad=False,
                maximize=False,
            )

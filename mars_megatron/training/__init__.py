"""Training: step, objective, loop, callbacks, optimiser, metrics."""

from mars_megatron.platform.parallel import shut_down
from mars_megatron.training.trainer import Trainer

__all__ = ["Trainer", "shut_down"]

"""The device seam: cuda or cpu, chosen once."""

from mars_megatron.platform.device import device, init_process_group, initialize

__all__ = ["device", "init_process_group", "initialize"]

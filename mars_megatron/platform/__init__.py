"""The device, cuda or cpu, chosen once per process; process groups."""

from mars_megatron.platform.device import device, init_process_group, initialize

__all__ = ["device", "init_process_group", "initialize"]

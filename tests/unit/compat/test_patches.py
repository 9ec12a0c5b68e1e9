"""What is replaced in other packages: every name has its reason, and is there in the releases that are installed."""

from __future__ import annotations

import pytest

from mars_megatron.compat import cpu, megatron_core, patches
from mars_megatron.platform.adam import FusedStateAdamW

TABLES = {
    "cpu": cpu.PATCHES,
    "writer": megatron_core.writer_patches(lambda: None),
    "adam": megatron_core.adam_patches(FusedStateAdamW),
}
PATCHES = {f"{patch.owner}.{patch.name}": patch for table in TABLES.values() for patch in table}


@pytest.mark.parametrize("name", PATCHES)
def test_a_replaced_name_is_there(name: str) -> None:
    patch = PATCHES[name]
    assert len(patch.reason.split()) >= 2
    assert hasattr(patches.resolve(patch.owner), patch.name), f"{name} is gone; it was replaced since: {patch.reason}"


def test_no_name_is_replaced_twice() -> None:
    assert len(PATCHES) == sum(len(table) for table in TABLES.values())
    assert all(TABLES.values())


def test_a_target_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(AttributeError):
        patches.resolve("torch.Tensor.not_there")
    with pytest.raises(AttributeError):
        patches.resolve("megatron.core.not_there.name")
    with pytest.raises(AttributeError, match="not_there"):
        patches.apply([patches.Patch("torch.cuda", "not_there", lambda original: original, "of a later release")])

"""What is replaced in other packages: every name has its reason, and is there in the releases that are installed."""

from __future__ import annotations

import pytest

from mars_megatron.compat import checkpoint_writer, cpu, patches


@pytest.mark.parametrize(
    "table", [cpu.PATCHES, checkpoint_writer.replaced(lambda: None)], ids=["cpu", "checkpoint_writer"]
)
def test_every_patch_has_a_reason_and_a_target(table: tuple[patches.Patch, ...]) -> None:
    targets = [(patch.owner, patch.name) for patch in table]
    assert targets and len(set(targets)) == len(targets)
    for patch in table:
        assert len(patch.reason.split()) >= 2, patch
        assert hasattr(patches.resolve(patch.owner), patch.name), patch


def test_a_target_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(AttributeError):
        patches.resolve("torch.Tensor.not_there")
    with pytest.raises(AttributeError):
        patches.resolve("megatron.core.not_there.name")
    with pytest.raises(AttributeError, match="not_there"):
        patches.apply([patches.Patch("torch.cuda", "not_there", lambda original: original, "of a later release")])

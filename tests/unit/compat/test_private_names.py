"""Private names of other packages are used in compat alone, and are there in the releases that are installed."""

from __future__ import annotations

import argparse
import ast
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
import torch
from transformers import PretrainedConfig

from mars_megatron.compat import patches, pytorch, standard_library

PACKAGE = Path(__file__).parents[3] / "mars_megatron"
# Of torch and transformers, by where they are found.
NAMES = (
    "torch._fused_adamw_",
    "torch._C._dispatch_has_kernel_for_dispatch_key",
    "torch._dynamo.config.disable",
    "torch.utils._device._device_constructors",
    "torch.nn.modules.module._global_forward_hooks",
    "torch.nn.modules.module._global_forward_pre_hooks",
)
OF_OBJECTS = {"_processes", "_actions", "_forward_hooks", "_forward_pre_hooks"}  # tried below and in test_pytorch.py
# Not of other packages, or public in spite of their names; _attn_implementation is in exported code, which has no
# compat, and is how transformers says which attention was asked for.
ACCEPTED = {"_C", "_exit", "_replace", "_attn_implementation"}


def private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def foreign_names(path: Path) -> set[str]:
    """Private names in a file that it does not define, of other objects than its own."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found, own = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            parts = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            found |= {part for part in parts if private(part)}
        elif isinstance(node, ast.Import):
            found |= {part for alias in node.names for part in alias.name.split(".") if private(part)}
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            own.add(node.name)
        elif isinstance(node, ast.Attribute) and private(node.attr):
            is_self = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            (own if is_self or isinstance(node.ctx, ast.Store) else found).add(node.attr)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            own.add(node.target.id)
    return found - own


@pytest.mark.parametrize("name", NAMES)
def test_a_private_name_is_there(name: str) -> None:
    patches.resolve(name)


def test_what_the_names_give() -> None:
    assert pytorch.has_kernel("aten::add.Tensor", "CPU") and not pytorch.has_kernel("aten::add.Tensor", "FPGA")
    parameter, zeros = torch.ones(1), [torch.zeros(1) for _ in range(3)]
    pytorch.fused_adamw(
        [parameter], *([tensor] for tensor in zeros), [], [torch.ones(1)],
        lr=0.5, beta1=0.9, beta2=0.99, weight_decay=0.1, eps=1e-8, amsgrad=False, maximize=False,
    )  # fmt: skip
    assert parameter.item() == pytest.approx(0.95), "weight decay alone"
    with ProcessPoolExecutor(1) as pool:
        assert standard_library.workers(pool) == []
        pool.submit(int).result()
        (worker,) = standard_library.workers(pool)
        assert worker.is_alive()
    parser = argparse.ArgumentParser()
    option = parser.add_argument("--option")
    assert option in standard_library.actions(parser)
    assert hasattr(PretrainedConfig(), "_attn_implementation")


@pytest.mark.parametrize("package", sorted(path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()))
def test_they_are_used_in_compat_alone(package: str) -> None:
    known = {part for name in NAMES for part in name.split(".") if private(part)} | OF_OBJECTS
    for path in (PACKAGE / package).rglob("*.py"):
        accepted = ACCEPTED | (known if package == "compat" else set())
        assert foreign_names(path) <= accepted, path


def test_a_private_name_is_found(tmp_path: Path) -> None:
    source = (
        "from a._b import c\nimport d._e\nclass F:\n    def _g(self):\n        return self._g, c._h, other._g, c.i\n"
    )
    (tmp_path / "f.py").write_text(source)
    assert foreign_names(tmp_path / "f.py") == {"_b", "_e", "_h"}

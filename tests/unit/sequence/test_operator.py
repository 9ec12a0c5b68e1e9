"""The operator as torch sees it: schema, fake tensors, torch.compile, recomputation, errors of the backward."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from mars_megatron.sequence import native, permute_rows

ROOT = Path(__file__).parents[3]
OP = native.extension() and torch.ops.mars_megatron.permute_rows.default
INDEX, INVERSE = torch.tensor([2, 3, -1, 0]), torch.tensor([3, -1, 0, 1, -1])


@pytest.mark.parametrize(
    "x",
    [
        torch.randn(5),
        torch.randn(5, 3, requires_grad=True),
        torch.randn(3, 4, 5, dtype=torch.bfloat16).mT.transpose(0, 1).requires_grad_(),  # [5, 3, 4], not contiguous
        torch.randn(5, 2, dtype=torch.complex64, requires_grad=True),
        torch.arange(5),
        torch.randn(5, 0, requires_grad=True),
    ],
    ids=lambda x: f"{x.dtype}-{tuple(x.shape)}",
)
def test_opcheck(x):
    torch.library.opcheck(OP, (x, INDEX, INVERSE))


def test_fake_and_meta_tensors_have_the_shapes():
    x = torch.randn(5, 3, dtype=torch.bfloat16).t().contiguous().t()
    real = OP(x, INDEX, INVERSE)
    meta = OP(*(tensor.to("meta") for tensor in (x, INDEX, INVERSE)))
    with FakeTensorMode() as mode:
        fake = OP(*(mode.from_tensor(tensor) for tensor in (x, INDEX, INVERSE)))
    for other in (meta, fake):
        assert (other.shape, other.dtype, other.stride()) == (real.shape, real.dtype, real.stride())
    assert fake.device == real.device and meta.device.type == "meta"
    with pytest.raises(ValueError, match="one entry for each row"):
        OP(*(tensor.to("meta") for tensor in (x, INDEX, INVERSE[:-1])))


COMPILED = """
import torch
from mars_megatron.sequence import build_plan, combine, dispatch, from_samples, permute_rows, to_samples

def layer(x, plan, weight):
    rows = dispatch(x, plan)
    text, visual = (rows @ weight).split(plan.expert_splits)
    rows = torch.cat([text, visual.sin()])
    return combine(from_samples(to_samples(rows, plan).cos(), plan), plan)

def gather(x, index, inverse):
    return permute_rows(permute_rows(x, index, inverse).sin(), inverse, index)

def reference(x, index, inverse):
    return permute_rows(x, index, inverse, impl="reference")

def gradients(function, *inputs):
    leaves = [value.detach().clone().requires_grad_() if torch.is_tensor(value) and value.is_floating_point() else value
              for value in inputs]
    out = function(*leaves)
    out.square().sum().backward()
    return [out.detach(), *(leaf.grad for leaf in leaves if torch.is_tensor(leaf) and leaf.requires_grad)]

def check(function, *inputs):
    for mine, expected in zip(gradients(compiled[function], *inputs), gradients(function, *inputs), strict=True):
        torch.testing.assert_close(mine, expected)

compiled = {f: torch.compile(f, fullgraph=True, backend="aot_eager") for f in (layer, gather, reference)}
weight = torch.randn(4, 4)
for lengths in ([3, 5, 2], [4, 6, 2, 2]):  # the second time sizes are symbolic
    modality = torch.randint(0, 2, (sum(lengths),), dtype=torch.uint8)
    plan = build_plan(modality, torch.tensor([0, *lengths]).cumsum(0).int(), row_multiple=4)
    check(layer, torch.randn(sum(lengths), 4), plan, weight)
for rows in (5, 6, 7, 8):
    index = torch.randperm(rows)
    check(gather, torch.randn(rows, 3), index, index.argsort())
    check(reference, torch.randn(rows, 3), index, index.argsort())
from torch._dynamo.utils import counters
assert counters["stats"]["unique_graphs"] >= 2, counters
assert not counters["graph_break"], counters
print("compiled")
"""
FORWARD_MODE = """
import torch
from mars_megatron.sequence import permute_rows

index, inverse = torch.tensor([2, -1, 0]), torch.tensor([2, -1, 0])
with torch.autograd.forward_ad.dual_level():
    dual = torch.autograd.forward_ad.make_dual(torch.randn(3, 2), torch.randn(3, 2))
    try:
        permute_rows(dual, index, inverse, impl="native")
    except RuntimeError as error:
        assert "jvp is not implemented" in str(error), error
        print("refused")
"""


def run_apart(code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own: the CPU platform, once enabled, switches torch.compile and scripting off."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TORCH")}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=ROOT)


def test_compile_without_graph_breaks():
    result = run_apart(COMPILED)
    assert result.returncode == 0 and "compiled" in result.stdout, result.stderr


def test_forward_mode_is_refused_rather_than_wrong():
    result = run_apart(FORWARD_MODE)
    assert result.returncode == 0 and "refused" in result.stdout, result.stderr


def test_recomputation():
    x = torch.randn(5, 3, requires_grad=True)

    def block(x):
        return permute_rows(x.sin(), INDEX, INVERSE).exp()

    (expected,) = torch.autograd.grad(block(x).sum(), x)
    (recomputed,) = torch.autograd.grad(checkpoint(block, x, use_reentrant=False).sum(), x)
    assert torch.equal(recomputed, expected)


def test_selective_recomputation_sees_it():
    seen = []

    def policy(context, op, *args, **kwargs):
        if op == OP:
            seen.append("recompute" if context.is_recompute else "forward")
            return CheckpointPolicy.MUST_SAVE
        return CheckpointPolicy.PREFER_RECOMPUTE

    x = torch.randn(5, 3, requires_grad=True)
    contexts = partial(create_selective_checkpoint_contexts, policy)
    out = checkpoint(lambda x: permute_rows(x.sin(), INDEX, INVERSE).exp(), x, use_reentrant=False, context_fn=contexts)
    out.sum().backward()
    assert "forward" in seen, "the operator is visible to the policy"
    expected = torch.where(torch.tensor([1, 0, 1, 1, 0]).bool()[:, None], x.cos() * x.sin().exp(), 0)
    assert torch.allclose(x.grad, expected)


def test_wrong_inverse_raises_in_the_backward():
    x = torch.randn(5, 3, requires_grad=True)
    out = permute_rows(x, INDEX, torch.tensor([3, -1, 0, 1, 4]), impl="native")
    with pytest.raises(IndexError, match="index 4 at 4 is out of range for 4 rows"):
        out.sum().backward()

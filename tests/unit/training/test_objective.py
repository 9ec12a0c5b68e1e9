"""What the next-token objective counts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mars_megatron.sequence.batch import MIXED, Batch, collate
from mars_megatron.sequence.samples import I2T, T2I, TASKS, TEXT_ONLY, make_sample
from mars_megatron.sequence.vocabulary import Vocabulary
from mars_megatron.training.objective import NextToken

VOCABULARY = Vocabulary(text_size=20, codebook_size=8)
TEXT, CODES = np.array([3, 4, 5]), np.array([1, 2, 3, 4])


def batch_of(*tasks: int) -> Batch:
    samples = [make_sample(task, TEXT, None if task == TEXT_ONLY else CODES, VOCABULARY, 1) for task in tasks]
    task = tasks[0] if len(set(tasks)) == 1 else MIXED
    return collate(samples, VOCABULARY, row_multiple=4, total_rows=64, task=task)


@pytest.mark.parametrize("text_weight", [1.0, 4.0])
@pytest.mark.parametrize(
    ("tasks", "num_text", "num_visual", "num_tokens"),
    [
        # t2i: caption BOI codes, with a loss on codes and EOI
        ((T2I,), 0, 5, 8),
        # i2t: BOI codes EOI caption, with a loss on caption and EOS
        ((I2T,), 4, 0, 9),
        # text: tokens, with a loss on every token but the first, and EOS
        ((TEXT_ONLY,), 3, 0, 3),
        ((T2I, I2T, TEXT_ONLY), 7, 5, 20),
    ],
)
def test_loss_counts(
    tasks: tuple[int, ...], num_text: int, num_visual: int, num_tokens: int, text_weight: float
) -> None:
    batch = batch_of(*tasks)
    losses = torch.arange(1, num_text + num_visual + 1, dtype=torch.float32).requires_grad_()
    text_sum, visual_sum = (float(part.sum()) for part in losses.detach().split((num_text, num_visual)))
    total, num_targets, report = NextToken(text_weight)(batch, losses)
    assert float(total.detach()) == text_weight * text_sum + visual_sum
    assert int(num_targets) == num_text + num_visual and num_targets.dtype == torch.int
    # What is reported has no weights, so that runs compare.
    assert report[:5].tolist() == [text_sum, num_text, visual_sum, num_visual, num_tokens]
    of_tasks = dict(zip(range(len(TASKS)), report[5:].view(-1, 2).tolist(), strict=True))
    expected = {} if len(tasks) > 1 else {tasks[0]: [text_sum + visual_sum, num_text + num_visual]}
    assert {task: found for task, found in of_tasks.items() if any(found)} == expected
    assert report.dtype == torch.float64 and not report.requires_grad
    (gradient,) = torch.autograd.grad(total, losses)
    assert gradient.tolist() == [text_weight] * num_text + [1.0] * num_visual

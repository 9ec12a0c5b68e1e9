"""The logs of a run: progress bar, metrics.jsonl, TensorBoard."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from mars_megatron.config.schema import RunConfig
from mars_megatron.files.writing import write_text

METRICS_FILE = "metrics.jsonl"


class MetricsWriter:
    """Writes metrics on rank 0 and does nothing elsewhere.

    Args:
        config: Folder, intervals and what to write.
        first_step: Steps already done; later lines of an interrupted run are dropped.
    """

    def __init__(self, config: RunConfig, first_step: int) -> None:
        self._tensorboard: Any = None
        self._bar: Any = None
        self._lines: Any = None
        if torch.distributed.get_rank() != 0:
            return
        if config.logging.progress:
            self._bar = tqdm(total=config.training.steps, initial=first_step, unit="step", dynamic_ncols=True)
        if not config.checkpoint.dir:
            return
        folder = Path(config.checkpoint.dir)
        folder.mkdir(parents=True, exist_ok=True)
        _drop_lines_after(folder / METRICS_FILE, first_step)
        self._lines = (folder / METRICS_FILE).open("a", encoding="utf-8")
        if config.logging.tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._tensorboard = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step + 1)

    def step_done(self) -> None:
        """Advance the progress bar by one step."""
        if self._bar is not None:
            self._bar.update(1)

    def write(self, step: int, split: str, values: Mapping[str, float | list[list[float]] | None]) -> None:
        """Log the values that are not None, under `split` (train, validation or evaluation).

        A list is a table of layers x experts; TensorBoard gets a curve for each entry.
        """
        present = {name: value for name, value in values.items() if value is not None}
        if self._lines is not None:
            self._lines.write(json.dumps({"step": step, "split": split, **present}) + "\n")
            self._lines.flush()
        if self._tensorboard is not None:
            for name, value in _curves(present):
                self._tensorboard.add_scalar(f"{split}/{name}", value, step)
        if self._bar is not None and "loss" in present:
            if split == "train":
                self._bar.set_postfix(loss=f"{present['loss']:.3f}", lr=f"{present.get('lr', 0):.1e}")
            else:
                self.say(f"step {step}: {split} loss {present['loss']:.4f}")

    def write_images(self, step: int, grid: np.ndarray) -> None:
        """Log one picture, uint8 [height, width, 3]."""
        if self._tensorboard is not None:
            self._tensorboard.add_image("samples", grid, step, dataformats="HWC")

    def say(self, text: str) -> None:
        """Print a line without breaking the progress bar."""
        if torch.distributed.get_rank() == 0:
            tqdm.write(text)

    def close(self) -> None:
        """Flush and close everything."""
        for part in (self._bar, self._lines, self._tensorboard):
            if part is not None:
                part.close()


def _curves(values: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in values.items():
        if not isinstance(value, list):
            yield name, value
            continue
        for layer, row in enumerate(value):
            for expert, entry in enumerate(row):
                yield f"{name}/layer_{layer}_expert_{expert}", entry


def _drop_lines_after(path: Path, step: int) -> None:
    """Forget what an interrupted run logged behind the checkpoint it resumes from."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        # A run killed while writing leaves half a line behind.
        if line.endswith("}") and json.loads(line)["step"] <= step:
            kept.append(line + "\n")
    write_text(path, "".join(kept))

"""The results of the runs: curves over steps by variant and seed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from examples.reproduce.runs import all_runs
from mars_megatron.files.plain_text import parse_json, read_lines

TARGETS = 17  # of a picture: 16 codes and the end of the image


@dataclass(frozen=True)
class Results:
    """Of every run, its lines of validation and of measures.

    Args:
        validation: By name of the run: the lines of metrics.jsonl of the validation split.
        measures: By name of the run: the lines of measures.jsonl.
    """

    validation: dict[str, list[dict[str, Any]]]
    measures: dict[str, list[dict[str, Any]]]

    @classmethod
    def read(cls, run_dir: Path) -> Results:
        """Read the results of all runs of the table.

        Raises:
            ValueError: A run is not finished or not measured.
        """
        validation, measures = {}, {}
        for run in all_runs():
            folder = run_dir / "runs" / run.name
            for name in ("finished", "measures.jsonl"):
                if not (folder / name).exists():
                    raise ValueError(f"{folder / name} is not there; run examples/reproduce/run.sh again to resume")
            lines = _lines(folder / "metrics.jsonl")
            validation[run.name] = [line for line in lines if line["split"] == "validation"]
            measures[run.name] = _lines(folder / "measures.jsonl")
        return cls(validation, measures)

    def likelihood(self, arm: str) -> tuple[list[int], np.ndarray]:
        """(steps, nats per image token [seeds, steps]) on held-out handwriting: codes and the end of the image."""
        by_seed = [self.validation[name] for name in _names(arm)]
        return [line["step"] for line in by_seed[0]], np.array([[line["loss_t2i"] for line in one] for one in by_seed])

    def num_pictures(self, arm: str) -> int:
        """Pictures that the likelihood of an arm of text-to-image alone rests on, of the first seed."""
        return self.validation[_names(arm)[0]][0]["num_targets"] // TARGETS

    def measured(self, arm: str, what: str, value: str, key: str = "step") -> tuple[list[float], np.ndarray]:
        """(keys, values [seeds, keys]) of one kind of measures."""
        by_seed = [[line for line in self.measures[name] if line["what"] == what] for name in _names(arm)]
        return [line[key] for line in by_seed[0]], np.array([[line[value] for line in one] for one in by_seed])


def _names(arm: str) -> list[str]:
    """The runs of an arm, by seed."""
    return [run.name for run in all_runs() if run.arm == arm]


def _lines(path: Path) -> list[dict[str, Any]]:
    return [parse_json(line, where) for where, line in read_lines(path)]

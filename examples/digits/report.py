"""Writes the report of the quickstart from the scores and the seconds of every phase, and prints a summary."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from mars_megatron.files.plain_text import read_json
from mars_megatron.files.writing import write_text
from mars_megatron.program import exit_code


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--run", required=True, metavar="FOLDER", help="RUN_DIR of the quickstart")
    parser.add_argument("--output", required=True, metavar="FILE", help="the report")
    options = parser.parse_args()
    run = Path(options.run)
    report = scores(run) | {"seconds": phase_seconds(run / "phases.txt")}
    output = Path(options.output)
    write_text(output, json.dumps(report, ensure_ascii=False, indent=2) + "\n")
    print_summary(report, run, output)


def scores(run: Path) -> dict[str, Any]:
    """Scores of both models under the names of the report, and the settings of MARS."""
    drawn, captions, text, facts = (
        read_json(run / file)
        for file in (
            *("mars/scores/prompt_fidelity.json", "mars/scores/captions.json", "mars/scores/text.json"),
            "base/scores/facts.json",
        )
    )
    values = {name: score["value"] for part in (drawn, captions, text, facts) for name, score in part["scores"].items()}

    def below(prefix: str) -> dict[str, float]:
        return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}

    return {
        "prompt_fidelity": values["prompt_fidelity"],
        "prompt_fidelity_interval": [drawn["scores"]["prompt_fidelity"][end] for end in ("low", "high")],
        "prompt_fidelity_by_language": below("prompt_fidelity/group/"),
        "prompt_fidelity_by_digit": below("prompt_fidelity/label/"),
        "num_samples": drawn["details"]["num_samples"],
        "classifier_accuracy_real": values["classifier_accuracy/real"],
        "classifier_accuracy_reconstructed": values["classifier_accuracy/reconstructed"],
        "controls": below("control/"),
        "caption_accuracy": values["caption_accuracy"],
        "num_captions": captions["details"]["num_captions"],
        "text_logits_max_abs_diff": values["logits_max_abs_diff"],
        "frozen_tensors_changed": text["details"]["frozen_tensors_changed"],
        "text_perplexity": values["perplexity"],
        "base_text_perplexity": values["base_perplexity"],
        "language_model": {
            "completion_accuracy": values["completion_accuracy"],
            "completion_accuracy_by_kind": below("completion_accuracy/group/"),
        },
        "config": drawn["config"],
    }


def phase_seconds(path: Path) -> dict[str, float]:
    """Seconds by phase and in all, from lines of name, begin and end; of a repeated phase the last."""
    seconds = {}
    for line in path.read_text().splitlines():
        name, began, ended = line.split()
        seconds[name] = round(float(ended) - float(began), 1)
    return {**seconds, "total": round(sum(seconds.values()), 1)}


def print_summary(report: dict[str, Any], run: Path, output: Path) -> None:
    """The figures that a reader looks for first."""
    by_language = ", ".join(f"{name} {value:.3f}" for name, value in report["prompt_fidelity_by_language"].items())
    digits = report["prompt_fidelity_by_digit"]
    worst = min(digits, key=digits.get)
    low, high = report["prompt_fidelity_interval"]
    lines = [
        (
            "prompt fidelity",
            f"{report['prompt_fidelity']:.3f} (95 %: {low:.3f} .. {high:.3f}; {by_language}; worst digit {worst}: "
            f"{digits[worst]:.3f})",
        ),
        ("classifier on real digits", f"{report['classifier_accuracy_real']:.3f}"),
        ("classifier on reconstructions", f"{report['classifier_accuracy_reconstructed']:.3f}"),
        ("caption accuracy", f"{report['caption_accuracy']:.3f}"),
        ("language model, held-out facts", f"{report['language_model']['completion_accuracy']:.3f}"),
        ("text logits, base against MARS", f"max abs difference {report['text_logits_max_abs_diff']}"),
        ("seconds", f"{report['seconds']['total']} in all"),
        ("samples", str(run / "samples.png")),
        ("report", str(output)),
    ]
    for name, value in lines:
        print(f"{name:32}{value}")


if __name__ == "__main__":
    sys.exit(exit_code(main))

"""Measures every kept checkpoint of every run: image likelihood and fidelity, and the drift of its text."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from examples.reproduce.runs import KEPT_INTERVAL, Run, all_runs
from mars_megatron.checkpoint import folders
from mars_megatron.evaluation.classifier import ImageClassifier, split
from mars_megatron.evaluation.facts import completion_accuracy, read_facts
from mars_megatron.evaluation.labels import read_labelled_images
from mars_megatron.evaluation.prompt_fidelity import prompt_fidelity
from mars_megatron.evaluation.text_preservation import text_logits
from mars_megatron.files.plain_text import parse_json, read_lines
from mars_megatron.files.writing import write_text
from mars_megatron.gallery.prompts import read_prompts
from mars_megatron.program import exit_code
from mars_megatron.sampling import LoadedModel, Sampler, load_for_inference

GUIDANCE = 3.0
TEMPERATURE = 0.2
GUIDANCE_SWEEP = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
SWEPT_ARM = "frozen"
NUM_TEXTS = 256  # most texts whose logits are compared


class Measure:
    """What all checkpoints are measured by.

    Args:
        run_dir: RUN_DIR of run.sh.
        samples_per_prompt: Images of each prompt at the last checkpoint, and of each setting of the sweep.
    """

    def __init__(self, run_dir: Path, samples_per_prompt: int) -> None:
        data = run_dir / "digits" / "data"
        self.samples_per_prompt = samples_per_prompt
        self.prompts = read_prompts(data / "prompts.jsonl")
        self.facts = read_facts(data / "facts.jsonl")
        self.base = load_for_inference(run_dir / "digits" / "base")
        real, _ = split(read_labelled_images(data / "held_out", self.base.config.image.resolution))
        self.classifier = ImageClassifier(real)
        tokenizer = Sampler(self.base).text_tokenizer
        texts = [f"{fact.prompt} {fact.answer}" for fact in self.facts] + [prompt.text for prompt in self.prompts]
        self.texts = [tokenizer.encode(text) for text in dict.fromkeys(texts)][:NUM_TEXTS]
        self.base_logits = self._logits(self.base)

    def checkpoint(self, folder: Path, last: bool) -> Iterator[dict[str, Any]]:
        """Lines of results of one checkpoint."""
        loaded = load_for_inference(folder, groups=self.base.groups)
        step = folders.step_of(folder)
        yield {"what": "language", "step": step, **self._language(loaded)}
        count = self.samples_per_prompt if last else 1
        yield {"what": "drawing", "step": step, **self.drawing(loaded, GUIDANCE, count)}

    def drawing(self, loaded: LoadedModel, guidance: float, per_prompt: int) -> dict[str, Any]:
        """Prompt fidelity at one guidance."""
        settings = replace(loaded.config.generation, guidance=guidance, temperature=TEMPERATURE)
        sampler = Sampler(replace(loaded, config=replace(loaded.config, generation=settings)))
        codes = sampler.sample([prompt.text for prompt in self.prompts], per_prompt)
        asked = [prompt for prompt in self.prompts for _ in range(per_prompt)]
        fidelity = prompt_fidelity(self.classifier.predict(sampler.decode(codes)), asked)
        return {"guidance": guidance, "fidelity": fidelity.overall, "num_images": len(fidelity.right)}

    def _language(self, loaded: LoadedModel) -> dict[str, float]:
        """Differences from the base language model in its own text, and what is left of its knowledge."""
        logits = self._logits(loaded)
        log_base, log_ours = self.base_logits.log_softmax(-1), logits.log_softmax(-1)
        divergence = (log_base.exp() * (log_base - log_ours)).sum(-1).mean()
        sampler = Sampler(loaded)
        settings = replace(loaded.config.generation, temperature=0.0)
        written = sampler.complete([fact.prompt.rstrip() for fact in self.facts], settings)
        return {
            "max_abs_diff": float((logits - self.base_logits).abs().max()),
            "kl_divergence": float(divergence),
            "facts": completion_accuracy(written, self.facts).overall,
        }

    def _logits(self, loaded: LoadedModel) -> torch.Tensor:
        return text_logits(loaded.model, self.texts, loaded.vocabulary)


def measure_run(run: Run, run_dir: Path, measure: Measure) -> None:
    """Write measures.jsonl of a run; it is there when it is complete.

    Raises:
        ValueError: The run is not finished, or was measured with another number of images.
    """
    folder = run_dir / "runs" / run.name
    output = folder / "measures.jsonl"
    if output.exists():
        lines = [parse_json(line, where) for where, line in read_lines(output)]
        found = max(line.get("num_images", 0) for line in lines) // len(measure.prompts)
        if found != measure.samples_per_prompt:
            raise ValueError(
                f"{output} is of {found} images of each prompt, --samples-per-prompt is {measure.samples_per_prompt}; "
                "delete it to measure again"
            )
        return
    if not (folder / "finished").exists():
        raise ValueError(f"{run.name} is not finished; run examples/reproduce/run.sh again to resume")
    # An interrupted run has one more, where it stopped.
    steps = [step for step in folders.complete_steps(folder) if step % KEPT_INTERVAL == 0]
    checkpoints = [folders.step_folder(folder, step) for step in steps]
    lines = [line for path in checkpoints for line in measure.checkpoint(path, path == checkpoints[-1])]
    if run.arm == SWEPT_ARM:
        loaded = load_for_inference(checkpoints[-1], groups=measure.base.groups)
        for guidance in GUIDANCE_SWEEP:
            drawing = measure.drawing(loaded, guidance, measure.samples_per_prompt)
            lines.append({"what": "guidance", "step": folders.step_of(checkpoints[-1]), **drawing})
    write_text(output, "".join(json.dumps(line) + "\n" for line in lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--run-dir", required=True, metavar="FOLDER", help="RUN_DIR of run.sh")
    parser.add_argument(
        "--samples-per-prompt", type=int, default=5, metavar="N", help="images of each prompt at the end"
    )
    options = parser.parse_args()
    run_dir = Path(options.run_dir)
    if options.samples_per_prompt < 1:
        parser.error(f"--samples-per-prompt is {options.samples_per_prompt}; accepted: 1 or more")
    measure = Measure(run_dir, options.samples_per_prompt)
    for run in tqdm(list(all_runs()), desc="measured runs", unit="run"):
        measure_run(run, run_dir, measure)


if __name__ == "__main__":
    sys.exit(exit_code(main))

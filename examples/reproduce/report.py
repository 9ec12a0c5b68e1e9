"""Writes results.md and its plots from the results of the runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from examples.reproduce.plots import NAMES, plot_arms
from examples.reproduce.results import Results
from examples.reproduce.runs import SEEDS, STEPS
from mars_megatron.files.plain_text import read_json
from mars_megatron.files.writing import write_text
from mars_megatron.program import exit_code

SHARING = ("frozen", "trained", "frozen_copied", "trained_copied", "shared")
JOINT = ("joint_frozen", "joint_shared")
MARGIN = 0.05  # nats per image token that count as a difference
EARLY = 400  # step that is reported beside the last one
DIRECT, WARM = "stage2, direct", "at temperature 1"  # in the scores of examples/stages.sh


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--run-dir", required=True, metavar="FOLDER", help="RUN_DIR of run.sh")
    options = parser.parse_args()
    run_dir = Path(options.run_dir)
    results = Results.read(run_dir)
    write_plots(results, run_dir)
    sections = [
        introduction(results),
        sharing(results),
        drift(results),
        joint(results),
        guidance(results),
        cascade(read_stages(run_dir)),
    ]
    output = run_dir / "results.md"
    write_text(output, "\n\n".join(sections) + "\n")
    print(output)


def introduction(results: Results) -> str:
    """What was done."""
    return (
        "# The paper's questions at small scale\n\n"
        f"Handwritten digits of 16 pixels (16 tokens), the model of the recipe "
        f"`examples.digits.recipes.mars`, {STEPS} steps, seeds {', '.join(map(str, SEEDS))} of the data and of random "
        "initialisations. Every run starts from the same language model. Likelihoods are of "
        f"{results.num_pictures('frozen')} images by other writers, the same for all variants of a seed, in nats per "
        "image token (codes and the end of the image). Results of this size do not predict those of a larger model."
    )


def sharing(results: Results) -> str:
    """SemVIE against shared parameters."""
    steps, shared = results.likelihood("shared")
    early = steps.index(EARLY)
    rows = []
    for arm in SHARING:
        _, values = results.likelihood(arm)
        _, fidelity = results.measured(arm, "drawing", "fidelity")
        rows.append([NAMES[arm], _seeds(values[:, early]), _seeds(values[:, -1]), _seeds(fidelity[:, -1])])
    names = [
        "variant",
        f"likelihood, step {EARLY}",
        f"likelihood, step {steps[-1]}",
        f"prompt fidelity, step {steps[-1]}, guidance 3",
    ]
    lines = [
        "## Does SemVIE beat shared parameters?",
        "The paper: sharing costs 1.89 of FID. Here: text-to-image alone, equal steps, equal active parameters. Visual "
        "experts are initialised at random or, where the table says so, as copies of the text experts, as in the "
        "paper.",
        _table(names, rows),
    ]
    for arm in SHARING[:-1]:
        _, values = results.likelihood(arm)
        for place in (early, -1):
            better = shared[:, place] - values[:, place]
            verdict = "Agrees" if better.min() > 0 and better.mean() >= MARGIN else "Does not agree"
            lines.append(
                f"- {NAMES[arm]}, step {steps[place]}: better than shared by {_seeds(better)} nats per image token "
                f"(negative: worse). {verdict} (the question: better in every seed, {MARGIN} or more on the mean)."
            )
    lines.append("![likelihood](likelihood.png)\n![prompt fidelity](fidelity.png)")
    return "\n\n".join(lines)


def drift(results: Results) -> str:
    """The drift of the text."""
    rows = []
    for arm in (*SHARING, *JOINT):
        values = [
            results.measured(arm, "language", name)[1][:, -1] for name in ("max_abs_diff", "kl_divergence", "facts")
        ]
        rows.append([NAMES[arm], *(_seeds(value) for value in values)])
    names = [
        "variant",
        "largest difference of a text logit",
        "KL from the base model, nats per token",
        "facts completed",
    ]
    return "\n\n".join(
        [
            "## Do the text logits drift?",
            f'The paper: sharing gives "logit drift". Here: text alone, after {STEPS} steps, against the base model.',
            _table(names, rows),
            "![drift](drift.png)",
        ]
    )


def joint(results: Results) -> str:
    """Captioning beside text-to-image."""
    rows = []
    for alone, both in (("frozen", "joint_frozen"), ("shared", "joint_shared")):
        for arm in (alone, both):
            _, values = results.likelihood(arm)
            _, fidelity = results.measured(arm, "drawing", "fidelity")
            rows.append([NAMES[arm], _seeds(values[:, -1]), _seeds(fidelity[:, -1])])
    steps, alone_curve = results.likelihood("frozen")
    _, joint_curve = results.likelihood("joint_frozen")
    share = 0.45  # of the samples of the joint runs that are text-to-image
    same = np.array([np.interp(share * steps[-1], steps, curve) for curve in alone_curve])
    difference = same[: len(joint_curve)] - joint_curve[:, -1]
    return "\n\n".join(
        [
            "## Does captioning help drawing?",
            "With captioning there is one seed. "
            f"At equal steps the joint runs see {share:.0%} of the text-to-image samples of the others.",
            _table(["variant", f"likelihood, step {STEPS}", "prompt fidelity, guidance 3"], rows),
            f"With as many text-to-image samples (step {share * STEPS:.0f} of text-to-image alone, in the middle of "
            f"its schedule) the joint run is better by {_seeds(difference)} nats per image token (negative: worse).",
            "![joint](joint.png)",
        ]
    )


def guidance(results: Results) -> str:
    """The guidance sweep."""
    scales, fidelity = results.measured("frozen", "guidance", "fidelity", key="guidance")
    rows = [[f"{scale:g}", _seeds(fidelity[:, place])] for place, scale in enumerate(scales)]
    lines = [
        "## How much guidance?",
        f"{NAMES['frozen']}, step {STEPS}.",
        _table(["guidance", "prompt fidelity"], rows),
    ]
    return "\n\n".join(lines)


def read_stages(run_dir: Path) -> dict[str, Any]:
    """What examples/stages.sh has scored.

    Raises:
        ValueError: It has not.
    """
    path = run_dir / "stages" / "scores.json"
    if not path.exists():
        raise ValueError(f"{path} is not there; run examples/reproduce/run.sh again to resume")
    scores: dict[str, Any] = read_json(path)
    return scores


def cascade(scores: Mapping[str, Any]) -> str:
    """Low resolution and super-resolution against high resolution at once, and the sweep of K."""
    direct = scores[DIRECT]
    rows = [["high resolution at once (stage II)", f"{direct['fidelity']:.3f}", "", str(direct["passes"]), ""]]
    variants: dict[tuple[int, str], list[Any]] = {}
    for score in scores.values():
        if "next_k" in score:
            if WARM not in score:
                raise ValueError("stages/scores.json is of an earlier version; delete it to score again")
            variants.setdefault((score["next_k"], score["order"]), []).append(score)
    for (k, order), of_seeds in sorted(variants.items()):
        values = [
            np.array([score["fidelity"] for score in of_seeds]),
            np.array([score[WARM]["fidelity"] for score in of_seeds]),
        ]
        name = f"stage III, K = {k}" + (f", {order}" if k > 1 else "")
        seconds = np.median([score["seconds"] for score in of_seeds])
        rows.append([name, *map(_seeds, values), str(of_seeds[0]["passes"]), f"{seconds / direct['seconds']:.2f}"])
    names = ["", "prompt fidelity", WARM, "passes of the high resolution", "their time, of stage II's"]
    return "\n\n".join(
        [
            "## Does the cascade draw better than high resolution at once?",
            "The paper has the cascade, without this comparison. Here: digits of 32 pixels (64 tokens) from those of "
            f"16 by stage I, {direct['count']} images, guidance and temperature of the recipes; then the high "
            "resolution at temperature 1, where K codes that are drawn independently can disagree. Times were not "
            "measured side by side.",
            _table(names, rows),
        ]
    )


def write_plots(results: Results, folder: Path) -> None:
    """All pictures of results.md."""
    nats = "nats per image token, held out"
    plot_arms(folder / "likelihood.png", SHARING, results.likelihood, "step", nats)
    plot_arms(folder / "joint.png", ("frozen", "shared", *JOINT), results.likelihood, "step", nats)
    plot_arms(
        folder / "fidelity.png",
        (*SHARING, *JOINT),
        lambda arm: results.measured(arm, "drawing", "fidelity"),
        "step",
        "prompt fidelity, guidance 3",
    )
    plot_arms(
        folder / "drift.png",
        (*SHARING, *JOINT),
        lambda arm: results.measured(arm, "language", "kl_divergence"),
        "step",
        "KL from the base model, nats per text token",
        log=True,
        floor=1e-6,
    )


def _seeds(values: np.ndarray) -> str:
    """Mean, and the value of every seed."""
    return f"{values.mean():.3f} ({', '.join(f'{value:.3f}' for value in values)})"


def _table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    sys.exit(exit_code(main))

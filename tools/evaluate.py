"""Sample from a checkpoint, score what comes out, and write a JSON report."""

from __future__ import annotations

import argparse
import json
import os
import sys

EPILOG = """\
  torchrun --nproc-per-node 2 tools/evaluate.py --checkpoint runs/digits --output report.json \\
      --prompts prompts.jsonl --images held_out --label-words words.json --base runs/language_model --controls

prompts.jsonl  {"prompt": "a handwritten digit three", "label": "3", "group": "en"}   one per line
held_out/      captions.jsonl with {"image": "a.png", "captions": [...], "label": "3"}, and the images
words.json     {"3": ["three", "三"]}
facts.jsonl    {"prompt": "three plus four is", "answer": "seven", "group": "arithmetic"}   one per line

What is not given is not scored. The report has, as far as scored: prompt_fidelity, prompt_fidelity_by_<group name>,
prompt_fidelity_by_<label name>, num_samples, classifier_accuracy_real, classifier_accuracy_reconstructed,
controls {experts_swapped, visual_from_text}, caption_accuracy, num_captions, text_logits_max_abs_diff,
frozen_tensors_changed, completion_accuracy, completion_accuracy_by_<group name>, seconds, config.
"""
# Settings of the checkpoint that have an option of their own.
SETTINGS = {
    "--guidance": "generation.guidance",
    "--temperature": "generation.temperature",
    "--top-k": "generation.top_k",
    "--top-p": "generation.top_p",
    "--seed": "generation.seed",
    "--batch-size": "generation.batch_size",
    "--text-tokenizer": "data.text_tokenizer",
    "--image-tokenizer": "data.image_tokenizer",
}
# Options that are fields of EvaluationRequest.
PATHS = {
    "prompts": "prompts with labels (JSONL), for prompt fidelity",
    "images": "folder of real images with labels that the model has not seen",
    "label-words": "words of each label (JSON), for caption accuracy",
    "base": "checkpoint of the language model it was made from, for text preservation",
    "facts": "sentences to complete (JSONL)",
    "grid": "PNG file for a picture of the samples with their prompts",
}


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", required=True, metavar="FOLDER", help="a checkpoint, or the folder of a run")
    parser.add_argument("--output", default="report.json", metavar="FILE", help="the report (default: %(default)s)")
    for name, text in PATHS.items():
        parser.add_argument(f"--{name}", default="", metavar="PATH", help=text)
    parser.add_argument("--samples-per-prompt", type=int, default=1, metavar="N", help="default: %(default)s")
    parser.add_argument("--max-captions", type=int, default=0, metavar="N", help="most images captioned; 0 is all")
    parser.add_argument("--controls", action="store_true", help="also score models that must fail")
    parser.add_argument("--label-name", default="label", metavar="NAME", help="what the report calls labels")
    parser.add_argument("--group-name", default="group", metavar="NAME", help="what the report calls groups")
    parser.add_argument("--tensor", type=int, metavar="N", help="tensor-parallel size (default: all ranks)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: %(default)s")
    for option, setting in SETTINGS.items():
        parser.add_argument(option, metavar="VALUE", dest=setting, help=f"{setting}, instead of the checkpoint's")
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> None:
    from mars_megatron.evaluation import EvaluationRequest, evaluate

    given = {setting: getattr(options, setting) for setting in SETTINGS.values()}
    request = EvaluationRequest(
        checkpoint=options.checkpoint,
        samples_per_prompt=options.samples_per_prompt,
        max_captions=options.max_captions,
        controls=options.controls,
        label_name=options.label_name,
        group_name=options.group_name,
        tensor=options.tensor,
        device=options.device,
        overrides=[f"--{setting}={value}" for setting, value in given.items() if value is not None],
        **{name.replace("-", "_"): getattr(options, name.replace("-", "_")) for name in PATHS},
    )
    report = evaluate(request)
    if os.environ.get("RANK", "0") == "0":
        temporary = f"{options.output}.tmp"
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump(report, file, ensure_ascii=False, indent=2)
            file.write("\n")
        os.replace(temporary, options.output)
        scores = {name: value for name, value in report.items() if name not in ("config", "seconds")}
        print(json.dumps(scores, ensure_ascii=False, indent=2))
        print(f"{options.output}: written after {report['seconds']['total']} s")


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    # after the arguments: --help and a wrong option should not wait for torch
    import warnings

    warnings.filterwarnings("ignore", module=r"megatron\.core.*")  # of every GPU library that is missing
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed.*")  # of its own names
    from mars_megatron.platform.parallel import shut_down

    try:
        run(options)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    shut_down()
    return 0


if __name__ == "__main__":
    sys.exit(main())

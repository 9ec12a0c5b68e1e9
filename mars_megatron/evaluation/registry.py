"""The suites by name. Their modules are imported when asked for, and none of them imports torch before it runs."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mars_megatron.evaluation.options import build_suite

if TYPE_CHECKING:
    from mars_megatron.evaluation.suite import Suite


@dataclass(frozen=True)
class Entry:
    """Where a suite is.

    Args:
        module: Below mars_megatron.evaluation.
        name: Of the class.
        images: Whether it needs the image tokenizer, which a language model does not have.
    """

    module: str
    name: str
    images: bool = True


SUITES = {
    "prompt_fidelity": Entry("suites.prompt_fidelity", "PromptFidelity"),
    "captions": Entry("suites.captions", "Captions"),
    "text": Entry("suites.text", "TextPreservation", images=False),
    "facts": Entry("suites.facts", "Facts", images=False),
    "likelihood": Entry("suites.likelihood", "Likelihood", images=False),
    "fid": Entry("fid", "Fid"),
    "clip": Entry("clip_score", "ClipScore"),
    "t2i_compbench": Entry("t2i_compbench.suite", "T2ICompBench"),
    "compositional": Entry("compositional.suite", "Compositional"),
}


@dataclass(frozen=True)
class Job:
    """A suite to be run.

    Args:
        label: What its results are called; the suite's name, unless one suite is run with several options.
        suite: The suite with its options.
    """

    label: str
    suite: Suite

    @property
    def needs_image_tokenizer(self) -> bool:
        return SUITES[self.suite.name].images


def suite_class(name: str) -> type:
    """The class of a suite in SUITES."""
    entry = SUITES[name]
    found: type = getattr(importlib.import_module(f"mars_megatron.evaluation.{entry.module}"), entry.name)
    return found


def make_jobs(suites: Mapping[str, Any], source: str) -> list[Job]:
    """The suites that a mapping asks for, in its order.

    Args:
        suites: Options by suite: {"facts": {"facts": "facts.jsonl"}, ...}. With "suite" among the options, the key is
            a label, so that one suite can be run with several options.
        source: Where the mapping comes from, for errors.

    Raises:
        ValueError: It asks for nothing, for an unknown suite or option, or leaves out one that has no default.
    """
    if not suites:
        raise ValueError(f"{source} names no suite; accepted: {', '.join(SUITES)}")
    jobs = []
    for label, options in suites.items():
        options = {} if options is None else options
        if not isinstance(options, Mapping) or not _is_label(label):
            raise ValueError(f"{source}: {label} is {options!r}; accepted: a name, and a mapping of options")
        options = dict(options)
        name = options.pop("suite", label)
        if name not in SUITES:
            raise ValueError(f"{source}: {label} asks for the suite {name!r}; accepted: {', '.join(SUITES)}")
        suite = suite_class(name)
        jobs.append(Job(label, build_suite(suite, options, f"{source}: {label}")))
    return jobs


def _is_label(label: Any) -> bool:
    """Whether it can name a file."""
    return isinstance(label, str) and label.replace("_", "").replace("-", "").isalnum()

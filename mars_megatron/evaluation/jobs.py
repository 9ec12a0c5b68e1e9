"""The suites by name, and suites of users. Their modules are imported when they are used."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from mars_megatron.config.user_code import FORMS, is_attribute, load_attribute
from mars_megatron.evaluation.dataclass_options import build

if TYPE_CHECKING:
    from mars_megatron.evaluation.suite import Suite

# The class of each, and its short description.
SUITES = {
    "prompt_fidelity": ("prompt_fidelity:PromptFidelity", "share of drawn images that show their prompt"),
    "captions": ("caption_accuracy:Captions", "share of captions of real images that name the label"),
    "text": (
        "text_preservation:TextPreservation",
        "text of a model compared with its language model",
    ),
    "facts": ("facts:Facts", "share of sentences completed correctly"),
    "likelihood": ("likelihood:Likelihood", "nats per token of held-out samples"),
    "fid": ("fid:Fid", "Frechet distance between drawn and real images"),
    "clip": ("clip:ClipScore", "CLIP score of drawn images and their prompts"),
    "t2i_compbench": (
        "t2i_compbench.compbench:T2ICompBench",
        "T2I-CompBench: attributes and relations, scored by models that you give",
    ),
}
ACCEPTED = f"{', '.join(SUITES)}, or the class of a suite as {FORMS}"


@dataclass(frozen=True)
class Job:
    """A suite to be run.

    Args:
        label: What its results are called; the suite's name, unless one suite is run with several options.
        suite: The suite with its options.
        source: Behind a suite of the user's, the name of its class.
    """

    label: str
    suite: Suite
    source: str = ""

    @property
    def needs_image_tokenizer(self) -> bool:
        return getattr(self.suite, "needs_image_tokenizer", True)


def suite_class(name: str, setting: str = "suite") -> type[Suite]:
    """The class of a suite.

    Args:
        name: One of SUITES, or a user's class, as `load_attribute` takes it.
        setting: For messages.

    Raises:
        ValueError: There is none.
    """
    if name in SUITES:
        return load_attribute(setting, f"{__package__}.{SUITES[name][0]}")
    if not is_attribute(name):
        raise ValueError(f"{setting} is {name!r}{_hint(name)}; accepted: {ACCEPTED}")
    found: Any = load_attribute(setting, name, ACCEPTED)
    missing = [part for part in ("name", "check", "run") if not hasattr(found, part)]
    if not (isinstance(found, type) and dataclasses.is_dataclass(found)) or missing:
        lacks = f" without {', '.join(missing)}" if missing else ""
        raise ValueError(
            f"{setting} is {name!r}, a {type(found).__name__}{lacks}; accepted: a dataclass as "
            "mars_megatron.evaluation.suite.Suite describes it"
        )
    return cast("type[Suite]", found)


def make_jobs(suites: Mapping[str, Any], source: str) -> list[Job]:
    """The suites that a mapping asks for, in its order.

    Args:
        suites: Options by suite: {"facts": {"facts": "facts.jsonl"}, ...}. With "suite" among the options, the key is
            a label, so that one suite can be run with several options.
        source: Where the mapping comes from, for errors.

    Raises:
        ValueError: It asks for nothing, for an unknown suite or option, leaves out one that has no default, or asks for
            two results of one name.
    """
    if not suites:
        raise ValueError(f"{source} names no suite; accepted: {ACCEPTED}")
    jobs: list[Job] = []
    for label, options in suites.items():
        options = {} if options is None else options
        if not isinstance(options, Mapping) or not isinstance(label, str):
            raise ValueError(f"{source}: {label} is {options!r}; accepted: a name, and a mapping of options")
        options = dict(options)
        name = options.pop("suite", label)
        if not isinstance(name, str):
            raise ValueError(f"{source}: {label} asks for the suite {name!r}; accepted: {ACCEPTED}")
        jobs.append(make_job(name, options, f"{source}: {label}", label if name != label else ""))
    labels = [job.label for job in jobs]
    for label in labels:
        if labels.count(label) > 1:
            raise ValueError(f"{source} asks for {label} more than once; give each a name, and `suite` as an option")
    return jobs


def make_job(name: str, options: Mapping[str, Any], source: str, label: str = "") -> Job:
    """One suite with its options.

    Args:
        name: As `suite_class` takes it.
        options: By name.
        source: Where they come from, for errors.
        label: Instead of the suite's name.

    Raises:
        ValueError: There is no such suite, or its options or the label are wrong.
    """
    kind = suite_class(name, source)
    suite = build(kind, options, source)
    label = label or suite.name
    if not label.replace("_", "").replace("-", "").isalnum():
        raise ValueError(f"{source}: {label!r} cannot name a file; accepted: letters, numbers, - and _")
    return Job(label, suite, "" if name in SUITES else name)


def _hint(name: str) -> str:
    """The suite of an example that a short name of earlier versions may mean."""
    there = name.isidentifier() and Path("examples", name, "suite.py").is_file()
    return f", perhaps examples.{name}.suite.{name.title()}" if there else ""

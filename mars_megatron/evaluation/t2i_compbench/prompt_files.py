"""The prompt files of T2I-CompBench (Huang et al. 2023) as they are published."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from mars_megatron.files.plain_text import read_lines

# Ways to score. A complex prompt takes the mean of several.
ATTRIBUTES, SPATIAL, DEPTH, COUNT, WHOLE = "attributes", "spatial", "depth", "count", "whole"
OWN = "own"  # a scorer of the user's
SCORED_BY = {
    "color": (ATTRIBUTES,),
    "shape": (ATTRIBUTES,),
    "texture": (ATTRIBUTES,),
    "spatial": (SPATIAL,),
    "3d_spatial": (DEPTH,),
    "non_spatial": (WHOLE,),
    "numeracy": (COUNT,),
    "complex": (ATTRIBUTES, SPATIAL, WHOLE),
}


@dataclass(frozen=True)
class PromptFile:
    """One file.

    Args:
        path: The file.
        category: One of `SCORED_BY`.
        prompts: One of each line; what follows a tab is no part of it.
        parts: How each prompt is scored.
    """

    path: Path
    category: str
    prompts: list[str]
    parts: list[tuple[str, ...]]

    @property
    def ways(self) -> list[str]:
        """Every way in which one of its prompts is scored."""
        return list(dict.fromkeys(way for of_prompt in self.parts for way in of_prompt))

    @property
    def stem(self) -> str:
        """Name of the file without its ending."""
        return self.path.stem

    def first(self, limit: int) -> PromptFile:
        """At most `limit` of its prompts, the first ones; 0 for all."""
        end = limit or None
        return PromptFile(self.path, self.category, self.prompts[:end], self.parts[:end])


def read_prompt_file(path: str | Path, category: str = "", *, own_scorer: bool = False) -> PromptFile:
    """Read a file of one prompt on each line.

    Beside complex_val.txt lie complex_val_spatial.txt and complex_val_action.txt, which say for which prompts two of
    the three scores count; those in neither take all three.

    Args:
        path: The file, named after its category: color_val.txt, 3d_spatial.txt, ...
        category: Instead of that of the name.
        own_scorer: The user's scorer takes all prompts, and the category decides nothing: it may be unknown.

    Raises:
        ValueError: It is missing or empty, or its category is unknown.
    """
    path = Path(path)
    prompts = _lines(path)
    if category and category not in SCORED_BY:
        raise ValueError(f"category is {category!r}; accepted: {', '.join(SCORED_BY)}")
    category = category or _category(path, must_be_known=not own_scorer)
    if own_scorer:
        return PromptFile(path, category, prompts, [(OWN,)] * len(prompts))
    parts = [SCORED_BY[category]] * len(prompts)
    if category == "complex":
        spatial, action = (_listed(path.with_name(f"{path.stem}_{part}.txt")) for part in ("spatial", "action"))
        for number, prompt in enumerate(prompts):
            if _key(prompt) in spatial:
                parts[number] = (ATTRIBUTES, SPATIAL)
            elif _key(prompt) in action:
                parts[number] = (ATTRIBUTES, WHOLE)
    return PromptFile(path, category, prompts, parts)


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise ValueError(f"prompts {path} is not a file; give one with a prompt on each line")
    lines = (line.split("\t")[0].strip() for _, line in read_lines(path, "prompts"))
    prompts = [line for line in lines if line]
    if not prompts:
        raise ValueError(f"prompts {path} is empty; give one prompt on each line")
    return prompts


def _category(path: Path, must_be_known: bool) -> str:
    found = re.match("|".join(SCORED_BY), path.stem)
    if not found and must_be_known:
        names = ", ".join(f"{category}_val.txt" for category in SCORED_BY)
        raise ValueError(f"prompts {path} is not named after a category ({names}, ...); give category")
    return found[0] if found else "unknown"


def _listed(path: Path) -> set[str]:
    return {_key(prompt) for prompt in _lines(path)} if path.is_file() else set()


def _key(prompt: str) -> str:
    return prompt.split(".")[0].lower()

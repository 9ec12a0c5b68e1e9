"""The code blocks of README and docs, with what they need."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
# Marks of blocks that no test runs, `<!-- needs: gpu -->` in front of them. Their options are checked all the same.
NEEDS = {
    "gpu": "NVIDIA GPUs",
    "cluster": "Slurm",
    "minutes": "more time than a unit test has",
    "quickstart": "results of examples/quickstart.sh",
    "model": "a language model and an image tokenizer of one's own",
}
_FENCE = re.compile(r"^```(\w*)$")
_MARK = re.compile(r"^<!-- needs: (\w+) -->$")


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Args:
        page: Path from the root of the repository.
        line: Number of its fence.
        language: Such as bash.
        text: What is in it.
        needs: A key of NEEDS, or empty: the block is run.
    """

    page: str
    line: int
    language: str
    text: str
    needs: str

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"

    def commands(self) -> list[list[str]]:
        """The words of each command of a shell block, without comments."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [words for line in lines if (words := shlex.split(line, comments=True))]


def blocks_of(path: Path) -> list[Block]:
    """All fenced blocks of a page."""
    found: list[Block] = []
    opened: tuple[int, str, str] | None = None
    needs, inside = "", []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        fence = _FENCE.match(line)
        if opened and fence:
            start, language, mark = opened
            page = path.relative_to(ROOT).as_posix()
            found.append(Block(page, start, language, "\n".join(inside) + "\n", mark))
            opened, needs, inside = None, "", []
        elif opened:
            inside.append(line)
        elif fence:
            opened = number, fence.group(1), needs
        elif mark := _MARK.match(line):
            needs = mark.group(1)
        elif line.strip():
            needs = ""
    assert opened is None, f"{path}: a block is not closed"
    return found


BLOCKS = [block for page in PAGES for block in blocks_of(page)]

"""Records that end the worker that reads them. A module of its own: workers import it, and should start fast."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mars_megatron.indexing.options import BuildOptions
from mars_megatron.indexing.records import Sample, Skip, Where, Work


@dataclass(frozen=True)
class Deadly:
    """Records whose texts say what happens to the process that reads them."""

    texts: tuple[str, ...]
    number: int = 0
    num_bytes: int = 0
    held_bytes: int = 0
    counts_files: bool = False

    def samples(self, options: BuildOptions, unread: Counter[str]) -> list[Sample | Skip]:
        for text in self.texts:
            if text.startswith("die"):
                os.kill(os.getpid(), signal.SIGKILL)
            if text.startswith("once") and not Path(text[5:]).exists():
                Path(text[5:]).touch()
                os.abort()
            if text == "hang":
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                time.sleep(600)
            if text == "error":
                raise RuntimeError("of a library")
        return [Sample(self.where(), text=text) for text in self.texts]

    def split(self) -> Sequence[Work]:
        return [Deadly((text,), self.number + i) for i, text in enumerate(self.texts)]

    def where(self) -> Where:
        return {"file": "x", "line": self.number}

"""Make the drawings of the pages: `python docs/drawings/make.py [FOLDER]`; without a folder, docs/images."""

from __future__ import annotations

import sys
from pathlib import Path

import freezing
import next_k
import packing
import routing
import semvie

if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "images"
    for drawing in (semvie, routing, freezing, packing, next_k):
        drawing.draw(folder)

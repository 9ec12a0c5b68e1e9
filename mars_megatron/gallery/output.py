"""Writing pictures to files."""

from __future__ import annotations

import os
from pathlib import Path

from PIL import Image


def save_image(image: Image.Image, path: str | Path) -> Path:
    """Write a PNG file, which appears under its name only when it is complete."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    image.save(temporary, format="PNG")
    os.replace(temporary, path)
    return path

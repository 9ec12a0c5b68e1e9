"""Writing pictures to files."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from mars_megatron.files.writing import complete


def save_image(image: Image.Image, path: str | Path) -> Path:
    """Write a PNG file, which appears under its name only when it is complete."""
    path = Path(path)
    with complete(path, durable=False) as temporary:
        image.save(temporary, format="PNG")
    return path

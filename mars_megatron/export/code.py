"""The code in an exported folder: files *_mars.py that import each other, and nothing of this package.

A module that the package uses too has its home in the package; its file in the folder is a copy in which imports of
other exported modules are relative.
"""

from __future__ import annotations

import re
from pathlib import Path

PACKAGE = "mars_megatron"
# Name of the file in the folder: its home, for modules with a home outside of this package of the project.
_SHARED = {
    "colours_mars": "pictures.colours",
    "image_codes_mars": "tokenizers.image_codes",
    "picture_boxes_mars": "pictures.boxes",
    "picture_files_mars": "pictures.formats",
    "picture_mars": "pictures.picture",
    "picture_tiff_mars": "pictures.tiff",
    "pixels_mars": "pictures.pixels",
    "sampling_mars": "sampling.logits_to_ids",
    "weights_mars": "files.weights",
}
TOKENIZATION = "tokenization_mars"  # lies beside a tokenizer that needs it
_IMPORT = re.compile(rf"^(\s*)from ({PACKAGE}\.[\w.]+) import ", re.MULTILINE)


def homes() -> dict[str, str]:
    """Every exported file's name without .py, and the module of the package that it is made of."""
    own = {path.stem: f"export.{path.stem}" for path in sorted(Path(__file__).parent.glob("*_mars.py"))}
    return {name: f"{PACKAGE}.{home}" for name, home in sorted({**_SHARED, **own}.items())}


def source(name: str) -> str:
    """The text of an exported file.

    Args:
        name: Its name without .py.

    Raises:
        ValueError: It imports a module of the package that is not exported.
    """
    names = {home: name for name, home in homes().items()}
    path = Path(__file__).parents[1].joinpath(*homes()[name].split(".")[1:]).with_suffix(".py")

    def relative(match: re.Match[str]) -> str:
        if match[2] not in names:
            raise ValueError(f"{path} imports {match[2]}; exported code imports exported modules alone")
        return f"{match[1]}from .{names[match[2]]} import "

    return _IMPORT.sub(relative, path.read_text(encoding="utf-8"))


def write_code(folder: Path, names: list[str] | None = None) -> None:
    """Write exported files.

    Args:
        folder: Exists; files of these names are replaced.
        names: Without .py; by default all but that of a tokenizer.
    """
    for name in [name for name in homes() if name != TOKENIZATION] if names is None else names:
        (folder / f"{name}.py").write_text(source(name), encoding="utf-8")

"""Every file in a folder: an image, a caption beside one, a list of images, or left out with a reason."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mars_megatron.indexing.pixels import EXTENSIONS
from mars_megatron.indexing.records import Skip

CAPTIONS_FILE = "captions.jsonl"
# The image-folder convention of Hugging Face's datasets.
METADATA_FILES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
LISTS = (CAPTIONS_FILE, *METADATA_FILES)
_CAPTION_ENDINGS = ("json", "txt")
_SYSTEM = frozenset(("thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin",
                     "system volume information", "lost+found"))  # fmt: skip
_CONTAINERS = ("tar", "tgz", "gz", "parquet", "jsonl", "csv")
_ARCHIVES = ("zip", "rar", "7z", "bz2", "xz", "zst", "lz4")
_PICTURES = frozenset(("heic heif hif svg svgz psd psb ai eps pdf raw cr2 cr3 nef arw dng orf rw2 raf jxl jxr ico icns "
                       "cur exr hdr dds pcx xcf kra mp4 mov avi mkv webm m4v wmv").split())  # fmt: skip
_OF_INTEREST = EXTENSIONS | _PICTURES | {*_CONTAINERS, *_ARCHIVES}


@dataclass(frozen=True)
class ImageFile:
    """An image of a folder and what lies beside it.

    Args:
        name: Relative to the folder.
        captions: Names of its .json and .txt, relative to the folder; those that exist.
        num_bytes: Of all of them.
    """

    name: str
    captions: tuple[str, ...]
    num_bytes: int


@dataclass(frozen=True)
class Listing:
    """The files in a folder and the folders below it, apart from those folders that have a list of their own.

    Args:
        folder: The folder.
        files: Names, in order and relative to the folder, of all files but hidden ones.
        hidden: Hidden files and those of an operating system, and whole folders of them; how many files each has is
            in its `where`.
        lists: captions.jsonl and metadata files of folders below, relative to the folder.
    """

    folder: str
    files: tuple[str, ...]
    hidden: tuple[Skip, ...]
    lists: tuple[str, ...]

    def images(self) -> list[ImageFile]:
        """The images by name, each with the captions beside it: a.txt or else a.png.txt, and .json likewise."""
        beside: dict[tuple[str, str], str] = {}  # (path without ending, ending in lower case) -> name
        for name in self.files:
            stem, _, ending = name.rpartition(".")
            beside[stem, ending.lower()] = name  # a.txt comes behind a.TXT, and is the one that counts
        found = []
        for name in self.files:
            if extension(name) in EXTENSIONS:
                stem = name[: -len(extension(name)) - 1]
                pairs = (((stem, ending), (name, ending)) for ending in _CAPTION_ENDINGS)
                captions = tuple(beside[key] for keys in pairs for key in keys if key in beside)
                captions = _first_of_each_ending(captions)
                sizes = (file_status(os.path.join(self.folder, other)).st_size for other in (name, *captions))
                found.append(ImageFile(name, captions, sum(sizes)))
        return found

    def left_out(self, used: Iterable[str], beside_records: bool = False) -> Iterator[Skip]:
        """What is not used, and why.

        Args:
            used: Names of files that are images or captions of a sample, or lists.
            beside_records: Others say what is read (a list of images, files of records): files that nobody would take
                for pictures or records are other_file, which is no error where nothing may be left out.
        """
        used = set(used)
        yield from self.hidden
        stems: dict[str, list[str]] = {}
        for name in self.files:
            stems.setdefault(name.rpartition(".")[0], []).append(name)
        for name in self.files:
            if name in used:
                continue
            if beside_records and extension(name) not in _OF_INTEREST:
                reason, detail = "other_file", "neither a picture nor a file of records"
            else:
                reason, detail = self._why(name, stems)
            yield Skip({"file": os.path.join(self.folder, name)}, reason, detail)

    def _why(self, name: str, stems: dict[str, list[str]]) -> tuple[str, str]:
        ending = extension(name)
        if not stat.S_ISREG(file_status(os.path.join(self.folder, name)).st_mode):
            return "not_a_file", "a link that leads nowhere, a pipe, a socket or a device"
        if ending in EXTENSIONS:
            return "unnamed_image", "no list of this folder names it"
        if ending in _CAPTION_ENDINGS:
            stem = name.rpartition(".")[0]
            others = [other for other in stems[stem] if extension(other) not in _CAPTION_ENDINGS]
            if extension(stem) in EXTENSIONS and stem in stems.get(stem.rpartition(".")[0], ()):
                others = [stem]  # a.png.txt
            images = [other for other in others if extension(other) in EXTENSIONS]
            if images:
                return "unused_caption", f"the captions of {images[0]} are read from another file"
            why = f"; {others[0]} is of a format that is not read" if others else ""
            return "caption_without_image", f"there is no image of this name{why}"
        return "unread_format", _remedy(name, ending)


def list_folder(folder: str | Path, prune: bool = True) -> Listing:
    """List a folder. Links to folders are followed; a folder that is reached in several ways counts once.

    Args:
        folder: The folder.
        prune: Leave out the folders below that have a captions.jsonl or metadata file.

    Raises:
        OSError: A folder cannot be read.
    """

    def fail(error: OSError) -> None:
        raise error

    names: list[str] = []
    hidden: list[Skip] = []
    lists: list[str] = []
    seen: set[tuple[int, int]] = set()
    metadata: set[str] = set()  # folders with metadata files, and those below: only lists are wanted of these
    for root, folders, files in os.walk(folder, followlinks=True, onerror=fail):
        status = os.stat(root)
        if (status.st_dev, status.st_ino) in seen:  # a link to a folder above, or to one that was there before
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        here = os.path.relpath(root, folder)
        found = [name for name in LISTS if name in files]
        if prune and here != "." and found:
            lists += [os.path.join(here, name) for name in found]
            if CAPTIONS_FILE in found:  # accounts for all below it
                folders.clear()
                continue
            metadata.add(root)
        if root in metadata or os.path.dirname(root) in metadata:
            metadata.add(root)
            folders[:] = sorted(name for name in folders if _hidden(name) is None)
            continue
        for name in sorted(folders):
            if (reason := _hidden(name)) is not None:
                count = sum(len(below) for _, _, below in os.walk(os.path.join(root, name)))
                if count:
                    path = os.path.join(str(folder), os.path.normpath(os.path.join(here, name)))
                    hidden.append(
                        Skip({"file": path, "files": count}, reason, "a folder that its name says to pass over")
                    )
        folders[:] = sorted(name for name in folders if _hidden(name) is None)
        for name in files:
            relative = os.path.normpath(os.path.join(here, name))
            if (reason := _hidden(name)) is None:
                names.append(relative)
            else:
                hidden.append(Skip({"file": os.path.join(str(folder), relative)}, reason, "its name says so"))
    return Listing(str(folder), tuple(sorted(names)), tuple(hidden), tuple(sorted(lists)))


def captions_file(folder: str | Path) -> Path:
    """The captions.jsonl of an image-text folder.

    Raises:
        ValueError: The folder or the file does not exist.
    """
    path = Path(folder) / CAPTIONS_FILE
    if not Path(folder).is_dir():
        raise ValueError(f"input {folder} is not a folder")
    if not path.is_file():
        raise ValueError(f"input {folder} has no {CAPTIONS_FILE} (one JSON object per line)")
    return path


def count_files(skips: Iterable[Skip]) -> int:
    """How many files these are; a hidden folder is several."""
    return sum(int(skip.where.get("files", 1)) for skip in skips)


def is_system_name(name: str) -> bool:
    """Whether a file or folder is hidden, or one that an operating system leaves behind."""
    return any(_hidden(part) is not None for part in name.split("/"))


def file_status(path: str) -> os.stat_result:
    """Of the file, or where a link leads nowhere of the link itself."""
    try:
        return os.stat(path)
    except OSError:
        return os.lstat(path)


def looks_like_image(name: str) -> bool:
    """Whether a name is that of an image or film, of a format that is read or not; texts are made of documents."""
    return extension(name) in EXTENSIONS | _PICTURES - {"pdf", "eps", "ai"}


def extension(name: str) -> str:
    """In lower case, without its dot; the whole name where there is none."""
    return name.rpartition(".")[2].lower()


def _hidden(name: str) -> str | None:
    """The reason for leaving a name out unseen."""
    if name.lower() in _SYSTEM:
        return "system_file"
    return "hidden_file" if name.startswith(".") and name not in (".", "..") else None


def _first_of_each_ending(names: tuple[str, ...]) -> tuple[str, ...]:
    first: dict[str, str] = {}
    for name in names:
        first.setdefault(extension(name), name)
    return tuple(first.values())


def _remedy(name: str, ending: str) -> str:
    base = os.path.basename(name)
    if "." not in base:
        return "it has no ending; that of its format makes it an image"
    if base in LISTS or ending in _CONTAINERS:
        return "no image; where its records are meant, give it as an input of its own"
    if ending in _ARCHIVES:
        return f".{ending} is an archive that is not read; unpack it"
    if ending in _PICTURES:
        return f".{ending} is a format that is not read; convert it to PNG or JPEG"
    return f".{ending} is no ending of an image"

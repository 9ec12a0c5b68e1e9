"""The tokenizers of a checkpoint, known by content: copied once beside the checkpoints of a run, and found again."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from mars_megatron.checkpoint.compatible import read_config
from mars_megatron.config.parser import override
from mars_megatron.config.schema import RunConfig
from mars_megatron.files.plain_text import parse_json, read_text
from mars_megatron.files.writing import naming
from mars_megatron.tokenizers.image import copy_image_tokenizer
from mars_megatron.tokenizers.text import load_text_tokenizer
from mars_megatron.tokenizers.text_checks import is_same
from mars_megatron.tokenizers.tokenizer_files import copy_text_tokenizer, image_fingerprint, text_fingerprint

# In a checkpoint: the fingerprint of each of its tokenizers.
RECORD = "tokenizers.json"
# Settings of `data`, and what a copy beside checkpoints is called.
SETTINGS = {"text_tokenizer": "tokenizer", "image_tokenizer": "image_tokenizer"}
_FINGERPRINTS = {"text_tokenizer": text_fingerprint, "image_tokenizer": image_fingerprint}
_UNSAID = "\0"  # no path


class Located(NamedTuple):
    """A configuration with the places where its tokenizers are now.

    Attributes:
        config: The configuration.
        missing: By setting, why a tokenizer that the checkpoint was made with is not to be had.
    """

    config: RunConfig
    missing: dict[str, str]


def locate(folder: Path, overrides: Sequence[str] = ()) -> Located:
    """The configuration of a checkpoint, with its tokenizers where they lie now.

    A tokenizer that an override names is taken, with a warning if the checkpoint was made with another one. Else it is
    the copy beside the checkpoint, or what lies at the saved path, seen from here or from the folder of the run:
    whichever has the content that the checkpoint was made with. Where the checkpoint does not tell (older ones), it is
    the saved path, or the copy if nothing is there.

    Args:
        folder: The checkpoint.
        overrides: Settings in place of the saved ones: ["--data.text_tokenizer=...", "--generation.seed=3", ...].

    Raises:
        ValueError: A wrong override, or a damaged record.
    """
    saved = read_config(folder)
    unsaid = with_paths(saved, dict.fromkeys(SETTINGS, _UNSAID))
    config, recorded = override(unsaid, overrides), read_record(folder)
    paths, missing = {}, {}
    for setting in SETTINGS:
        said, was = getattr(config.data, setting), getattr(saved.data, setting)
        if said == _UNSAID:
            paths[setting], missing[setting] = _find(folder, setting, was, recorded.get(setting, ""))
        else:
            paths[setting] = said
            _warn_of_another(folder, setting, said, recorded.get(setting, ""))
    missing = {setting: why for setting, why in missing.items() if why}
    return Located(with_paths(config, paths), missing)


def locate_for_training(config: RunConfig, origin: Path | None, resumed: bool) -> tuple[RunConfig, dict[str, str]]:
    """The configuration of a run with its tokenizers where they lie now, and their fingerprints.

    A path that leads nowhere is that of the checkpoint from which the run goes on, if that names the same; so is one
    whose content has changed since, for a run that is resumed.

    Args:
        config: The run.
        origin: The checkpoint that it starts from; None for none.
        resumed: It goes on with that run: its tokenizers must be the same, or give the same ids. Else others are worth
            a warning.

    Returns:
        The configuration, and the fingerprint of each tokenizer that is there, by setting.

    Raises:
        ValueError: A resumed run would go on with another tokenizer, or its own is nowhere.
    """
    recorded = read_record(origin) if origin else {}
    saved = read_config(origin).data if origin else None
    paths, found = {}, {}
    for setting in SETTINGS:
        path, wanted = getattr(config.data, setting), recorded.get(setting, "")
        if not path:
            continue
        there = fingerprint(setting, path)
        if origin and (not there or (resumed and wanted and there != wanted)):
            if path == getattr(saved, setting):
                path, why = _find(origin, setting, path, wanted)
                if why:
                    raise ValueError(why)
                there = wanted or fingerprint(setting, path)
            elif there and not _has_same_ids(origin, setting, path, wanted):
                raise ValueError(
                    f"data.{setting} is {path}, another one than {origin} was trained with (sha256 {there[:8]}..., not "
                    f"{wanted[:8]}...); give that one to resume, or start a new run with checkpoint.init_from and "
                    "another checkpoint.dir"
                )
        elif origin and there:
            _warn_of_another(origin, setting, path, wanted)
        paths[setting] = path
        if there:
            found[setting] = there
    return with_paths(config, paths), found


def keep_copies(root: Path, config: RunConfig, fingerprints: Mapping[str, str]) -> None:
    """Copy the tokenizers of a run beside its checkpoints, unless copies are there. Called on one rank.

    Nothing is replaced: where something else has the name, the copy has one of its own. It is not brought to the disk
    at once: one that a power failure damaged is found out by its content, and made again when the run goes on.

    Args:
        root: Folder of the run.
        config: The run.
        fingerprints: Of the tokenizers that are there, by setting.

    Raises:
        OSError: The disk is full, or not writable.
    """
    for setting, wanted in fingerprints.items():
        source = Path(getattr(config.data, setting))
        places = [root / name for name in _names(setting, wanted)]
        if any(fingerprint(setting, place) == wanted for place in places):
            continue
        plain, own = root / copy_name(setting, source), root / copy_name(setting, source, wanted)
        target = own if plain.exists() else plain
        remove(target)  # `own`, if it is damaged
        temporary = target.with_name(f"{target.name}.incomplete")
        remove(temporary)
        root.mkdir(parents=True, exist_ok=True)
        with naming(temporary, f"a copy of data.{setting}"):
            copy_tokenizer(setting, source, temporary)
        temporary.rename(target)


def write_record(folder: Path, fingerprints: Mapping[str, str]) -> None:
    """Say in a checkpoint which tokenizers it was made with; nothing where there are none."""
    if fingerprints:
        (folder / RECORD).write_text(json.dumps(dict(fingerprints), indent=2) + "\n", encoding="utf-8")


def read_record(folder: Path) -> dict[str, str]:
    """The fingerprints of a checkpoint's tokenizers, by setting; none where it does not tell.

    Raises:
        ValueError: The file is damaged.
    """
    file = folder / RECORD
    if not file.is_file():
        return {}
    try:
        return parse_record(read_text(file))
    except ValueError as error:
        raise ValueError(f"{file} is damaged ({error}); delete it to do without it") from error


def parse_record(text: str) -> dict[str, str]:
    """The fingerprints in JSON text, by setting.

    Raises:
        ValueError: It is something else.
    """
    found = parse_json(text, "it")
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise ValueError("accepted: a JSON object of strings")
    return {name: value for name, value in found.items() if name in SETTINGS}


def fingerprint(setting: str, path: str | Path) -> str:
    """The fingerprint of what lies at a path as a tokenizer; empty where nothing does, or no tokenizer.

    Args:
        setting: text_tokenizer or image_tokenizer.
        path: Where it lies.
    """
    if not Path(path).exists():
        return ""
    try:
        return _FINGERPRINTS[setting](path)
    except ValueError:  # something else lies there; who opens it says so
        return ""


def with_paths(config: RunConfig, paths: Mapping[str, str]) -> RunConfig:
    """The configuration with other paths of tokenizers, by setting."""
    return replace(config, data=replace(config.data, **paths))  # type: ignore[arg-type]


def copy_name(setting: str, source: Path, wanted: str = "") -> str:
    """What a copy is called beside a checkpoint: a folder, or a SentencePiece file.

    Args:
        setting: text_tokenizer or image_tokenizer.
        source: The tokenizer.
        wanted: Its fingerprint, for a name of its own.
    """
    return SETTINGS[setting] + (f"_{wanted[:8]}" if wanted else "") + (".model" if source.is_file() else "")


def copy_tokenizer(setting: str, source: Path, target: Path) -> None:
    """Copy what makes up a tokenizer, a file or a folder.

    Raises:
        ValueError: There is none.
    """
    if setting == "image_tokenizer":
        copy_image_tokenizer(source, target)
    elif source.is_dir():
        copy_text_tokenizer(source, target)
    else:
        shutil.copyfile(source, target)


def remove(path: Path) -> None:
    """Delete a file or a folder; nothing where there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _find(folder: Path, setting: str, saved: str, wanted: str) -> tuple[str, str]:
    """Where a checkpoint's tokenizer is, and an empty string; or the saved path, and why that will not do."""
    if not saved:
        return "", ""
    beside = [root / name for root in _roots(folder) for name in _names(setting, wanted)]
    if not wanted:
        copies = [] if Path(saved).exists() else [place for place in beside if place.exists()]
        return (os.path.abspath(copies[0]) if copies else saved), ""
    places = list(dict.fromkeys((*beside, Path(saved), *(root / saved for root in _roots(folder)))))
    for place in places:
        if fingerprint(setting, place) == wanted:
            return (saved if place == Path(saved) else os.path.abspath(place)), ""
    others = [str(place) for place in places if place.exists()]
    what = f"what is there is another one ({', '.join(others)})" if others else "there is none"
    option = f"--{setting.replace('_', '-')} or data.{setting}"
    return saved, (
        f"the {setting.replace('_', ' ')} of {folder} (data.{setting} {saved}, sha256 {wanted[:8]}...) is neither "
        f"beside it nor where it was: {what}; give its place with {option}"
    )


def _warn_of_another(folder: Path, setting: str, path: str, wanted: str) -> None:
    if not wanted or not path or not Path(path).exists() or fingerprint(setting, path) == wanted:
        return
    if not _has_same_ids(folder, setting, path, wanted):
        warnings.warn(
            f"data.{setting} is {path}, another one than {folder} was made with (its sha256 begins with {wanted[:8]}): "
            "ids may have other meanings",
            stacklevel=3,
        )


def _has_same_ids(folder: Path, setting: str, path: str, wanted: str) -> bool:
    """Whether a text tokenizer gives the ids of the checkpoint's from other files, as an exported folder has them."""
    if setting != "text_tokenizer":
        return False
    own, why = _find(folder, setting, read_config(folder).data.text_tokenizer, wanted)
    return bool(own) and not why and is_same(path, wanted, load_text_tokenizer(own).content)


def _roots(folder: Path) -> Iterator[Path]:
    """Folders beside whose checkpoints a copy may be: the checkpoint may be a link into its run."""
    yield from dict.fromkeys((folder.parent, folder.resolve().parent))


def _names(setting: str, wanted: str) -> list[str]:
    """All that a copy may be called."""
    names = [SETTINGS[setting], *([f"{SETTINGS[setting]}_{wanted[:8]}"] if wanted else [])]
    return [name + ending for name in names for ending in ("", *([".model"] if setting == "text_tokenizer" else []))]

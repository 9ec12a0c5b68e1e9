"""What the fields of a record mean: the same for JSONL, the .json of a tar or folder, and the columns of parquet.

Images and text documents:
    image               the image; how it is named is up to the source
    captions, caption   (or what --captions names) a string, {"text": ..., "weight": ...}, or a list of these
    low                 its low-resolution version, if it is not to be made from the image; only for pairs
    text                without an image: a text document
    parts               an interleaved document: a list of strings, {"text": ...} and {"image": ...}
Other fields are left to other readers. A null, and the NaN that pandas writes for one, is as if nothing were there.

Rows of the image-folder convention (metadata.jsonl, .csv, .parquet) name their image in file_name, or in NAME_file_name
where NAME is the image column, and may have their caption in text or prompt.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from mars_megatron.files.plain_text import BOM, other_encoding
from mars_megatron.indexing.options import DEFAULT_CAPTIONS, WEIGHTS, BuildOptions
from mars_megatron.indexing.records import Raw, Refused, Sample, Where

# json.loads without its search for white space, which takes half of its time
_SCAN: Callable[[str, int], tuple[Any, int]] = json.JSONDecoder().scan_once  # type: ignore[attr-defined]
# Finds an image from what a field says, or raises Refused.
FindImage = Callable[[Any], Raw]
# What the image-folder convention calls an image, and where captions are where the default names have none.
FILE_NAME = "file_name"
_CONVENTION_CAPTIONS = ("text", "prompt")


def parse_json(text: str) -> dict[str, Any]:
    """A JSON object.

    Raises:
        Refused: bad_record.
    """
    try:
        value, end = _SCAN(text, 0)
        if end != len(text):
            value = json.loads(text)
    except (ValueError, RecursionError, StopIteration):
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise Refused("bad_record", f"not JSON: {error}") from None
    if not isinstance(value, dict):
        raise Refused("bad_record", "not a JSON object")
    return value


def decode_utf8(data: bytes, name: str = "") -> str:
    """Bytes as text, without a byte order mark before it.

    Raises:
        Refused: invalid_utf8; the detail names UTF-16 and UTF-32.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise (other_than_utf8(data, f"{name}it") or Refused("invalid_utf8", f"{name}{error}")) from None
    if "\0" in text:
        raise Refused("invalid_utf8", f"{name}it has NUL characters, as UTF-16 without a byte order mark has")
    return text.lstrip(BOM)


def other_than_utf8(data: bytes, what: str = "the file") -> Refused | None:
    """The refusal of bytes whose byte order mark says that they are UTF-16 or UTF-32."""
    other = other_encoding(data)
    if other is None:
        return None
    return Refused("invalid_utf8", f"{what} is {other}, not UTF-8; convert it (iconv -f {other} -t UTF-8)")


def make_sample(
    fields: Mapping[str, Any],
    where: Where,
    options: BuildOptions,
    find_image: FindImage,
    captions_of: Mapping[str, Any] | None = None,
) -> Sample:
    """Build a sample from the fields of a record.

    Args:
        fields: Its image, low, text and parts.
        where: Where it came from.
        options: Which fields hold captions.
        find_image: Finds an image from what its field says.
        captions_of: The fields of captions, where other names are meant; None for `fields`.

    Raises:
        Refused: bad_record, no_image or no_caption, and what find_image raises.
    """
    captions_of = fields if captions_of is None else captions_of
    parts, image = given(fields, "parts"), given(fields, "image")
    if parts is not None:
        return Sample(where, parts=_parts(parts, find_image))
    if image is None:
        text = given(fields, "text")
        if isinstance(text, str):
            return Sample(where, text=text)
        if text is not None:
            raise Refused("bad_record", f'"text" is {_short(text)}, not a string')
        if any(given(captions_of, name) is not None for name, _ in options.captions):
            raise Refused("no_image", "captions without an image")
        raise Refused("bad_record", 'no "image", "text" or "parts"')
    captions, nulls = _captions_and_nulls(captions_of, options)
    if not captions:
        only = f"nothing but null ({nulls})" if nulls else "nothing"
        hint = ', but there is a "text"; --captions text reads it' if given(fields, "text") is not None else ""
        raise Refused("no_caption", f"{only} in {' or '.join(name for name, _ in options.captions)}{hint}")
    names = tuple(name for name, _ in options.captions if given(captions_of, name) is not None)
    low = given(fields, "low")
    sample = Sample(where, captions, find_image(image), caption_fields=names, null_captions=nulls)
    if low is not None and options.low_resolution:
        sample.low = find_image(low)
    else:
        sample.low_unused = low is not None
    return sample


def make_convention_sample(
    fields: Mapping[str, Any], where: Where, options: BuildOptions, find_image: FindImage
) -> Sample:
    """Build a sample from a row of the image-folder convention.

    Raises:
        Refused: bad_record, no_caption, and what find_image raises.
    """
    names = file_name_columns(options)
    image = next((value for name in names if (value := given(fields, name)) is not None), None)
    if image is None:
        raise Refused("bad_record", f"no {' or '.join(names)}, which is to name the image")
    row = {"image": image, "low": given(fields, low_name_column(options))}
    captions_of: Mapping[str, Any] = fields
    if (name := convention_caption(fields, options)) is not None:
        captions_of = {options.captions[0][0]: fields[name]}
    return make_sample(row, where, options, find_image, captions_of)


def file_name_columns(options: BuildOptions) -> tuple[str, str]:
    """Where rows of the image-folder convention name their image; the first that is there counts."""
    return FILE_NAME, f"{options.image_column}_{FILE_NAME}"


def low_name_column(options: BuildOptions) -> str:
    """Where they name its low-resolution version."""
    return f"{options.low_column}_{FILE_NAME}"


def image_names(fields: Mapping[str, Any], options: BuildOptions) -> Iterator[Any]:
    """Whatever the fields of a record give as names of images."""
    names = ("image", "low", *file_name_columns(options), low_name_column(options))
    yield from (fields[name] for name in names if name in fields)
    parts = fields.get("parts")
    yield from (part.get("image") for part in (parts if isinstance(parts, list) else ()) if isinstance(part, dict))


def convention_caption(fields: Mapping[str, Any], options: BuildOptions) -> str | None:
    """The field that has the caption of a row where those of the options do not; None where they do, or were named."""
    names = tuple(name for name, _ in options.captions)
    if names != DEFAULT_CAPTIONS or any(given(fields, name) is not None for name in names):
        return None
    return next((name for name in _CONVENTION_CAPTIONS if given(fields, name) is not None), None)


def known_fields(options: BuildOptions) -> set[str]:
    """The fields of a record that are read."""
    return {"image", "low", "text", "parts", *(name for name, _ in options.captions)}


def count_keys(keys: Iterable[str], known: set[str], unread: Counter[str], what: str = "key") -> None:
    """Count the keys of records that are not among the known ones."""
    for key, count in Counter(iter(keys)).items():
        if key not in known:
            unread[f"{what} {_short_name(key)}"] += count


def given(fields: Mapping[str, Any], name: str) -> Any:
    """The value of a field; None also for NaN, which is how pandas writes that there is none."""
    value = fields.get(name)
    return None if type(value) is float and value != value else value


def find_named_image(name: object, folder: str, options: BuildOptions) -> str:
    """The path of an image that a record names, relative to a folder.

    Raises:
        Refused: bad_record, invalid_utf8 or unsafe_name.
    """
    if not isinstance(name, str) or not name or "\0" in name:
        raise Refused("bad_record", f"the image is {_short(name)}, not a file name")
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        raise Refused("invalid_utf8", f"the image name {name!r} has lone surrogates") from None
    path = os.path.normpath(name)
    if not options.allow_outside and (os.path.isabs(path) or path == ".." or path.startswith("../")):
        raise Refused("unsafe_name", f"{name} is outside of the folder of the file (--allow-outside takes it)")
    return os.path.join(folder, path)


def read_captions(fields: Mapping[str, Any], options: BuildOptions) -> list[tuple[str, float | None]]:
    """(text, weight) of all captions of a record, also of empty ones; what is null is none.

    Raises:
        Refused: bad_record.
    """
    return _captions_and_nulls(fields, options)[0]


def _captions_and_nulls(fields: Mapping[str, Any], options: BuildOptions) -> tuple[list[tuple[str, float | None]], int]:
    """The same, and how many are null within a list or an object."""
    captions: list[tuple[str, float | None]] = []
    nulls = 0
    for name, weight in options.captions:
        value = given(fields, name)
        if value is None:
            continue
        for caption in value if isinstance(value, list) else [value]:
            if isinstance(caption, str):
                captions.append((caption, weight))
                continue
            if _is_null(caption):
                nulls += 1
                continue
            if not isinstance(caption, dict) or not isinstance(caption.get("text"), str):
                raise Refused("bad_record", f'"{name}" has {_short(caption)}, not a string or an object with "text"')
            own = caption.get("weight")
            captions.append((caption["text"], weight if own is None else _weight(own, name, weight)))
    return captions, nulls


def _is_null(caption: Any) -> bool:
    if isinstance(caption, dict):
        return "text" in caption and given(caption, "text") is None
    return caption is None or (type(caption) is float and caption != caption)


def _weight(value: Any, name: str, field: float | None) -> float:
    """The weight of a caption times that of its field."""
    low, high = WEIGHTS
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not low <= value <= high:
        raise Refused("bad_record", f'"{name}" has the weight {_short(value)}, not a number from {low} to {high}')
    weight = float(value) * (1.0 if field is None else field)
    if not low <= weight <= high:
        raise Refused("bad_record", f'"{name}" has the weight {value:g} x {field:g}, which is not from {low} to {high}')
    return weight


def _parts(value: Any, find_image: FindImage) -> list[tuple[bool, Raw]]:
    if not isinstance(value, list) or not value:
        raise Refused("bad_record", f'"parts" is {_short(value)}, not a list with at least one part')
    parts: list[tuple[bool, Raw]] = []
    for part in value:
        given = {} if not isinstance(part, dict) else {name: part.get(name) for name in ("text", "image")}
        given = {name: content for name, content in given.items() if content is not None}
        if isinstance(part, str):
            parts.append((False, part))
        elif len(given) == 1 and isinstance(given.get("text"), str):
            parts.append((False, str(given["text"])))
        elif len(given) == 1 and "image" in given:
            parts.append((True, find_image(given["image"])))
        else:
            raise Refused(
                "bad_record", f'"parts" has {_short(part)}, not a string, {{"text": ...}} or {{"image": ...}}'
            )
    return parts


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _short_name(name: str) -> str:
    """A key as a manifest may have it: of any length and characters it can be in a record."""
    name = name if len(name) <= 60 else name[:57] + "..."
    return name.encode(errors="backslashreplace").decode()

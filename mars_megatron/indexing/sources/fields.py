"""What the fields of a record mean: the same for JSONL, the .json of a tar or folder, and the columns of parquet.

Images and text documents:
    image               the image; how it is named is up to the source
    captions, caption   (or what --captions names) a string, {"text": ..., "weight": ...}, or a list of these
    low                 its low-resolution version, if it is not to be made from the image; only for pairs
    text                without an image: a text document
    parts               an interleaved document: a list of strings, {"text": ...} and {"image": ...}
Other fields are left to other readers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from mars_megatron.indexing.options import WEIGHTS, BuildOptions
from mars_megatron.indexing.records import Raw, Refused, Sample, Where

# json.loads without its search for white space, which takes half of its time
_SCAN: Callable[[str, int], tuple[Any, int]] = json.JSONDecoder().scan_once  # type: ignore[attr-defined]
# Finds an image from what a field says, or raises Refused.
FindImage = Callable[[Any], Raw]


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
    """Bytes as text.

    Raises:
        Refused: invalid_utf8.
    """
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Refused("invalid_utf8", f"{name}{error}") from None


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
    parts, image = fields.get("parts"), fields.get("image")
    if parts is not None:
        return Sample(where, parts=_parts(parts, find_image))
    if image is None:
        text = fields.get("text")
        if isinstance(text, str):
            return Sample(where, text=text)
        if text is not None:
            raise Refused("bad_record", f'"text" is {_short(text)}, not a string')
        if any(captions_of.get(name) is not None for name, _ in options.captions):
            raise Refused("no_image", "captions without an image")
        raise Refused("bad_record", 'no "image", "text" or "parts"')
    captions = read_captions(captions_of, options)
    if not captions:
        raise Refused("no_caption", f"no {' or '.join(name for name, _ in options.captions)}")
    names = tuple(name for name, _ in options.captions if captions_of.get(name) is not None)
    low = fields.get("low")
    if low is None or not options.low_resolution:
        return Sample(where, captions, find_image(image), caption_fields=names, low_unused=low is not None)
    return Sample(where, captions, find_image(image), find_image(low), caption_fields=names)


def read_captions(fields: Mapping[str, Any], options: BuildOptions) -> list[tuple[str, float | None]]:
    """(text, weight) of all captions of a record, also of empty ones.

    Raises:
        Refused: bad_record.
    """
    captions: list[tuple[str, float | None]] = []
    for name, weight in options.captions:
        value = fields.get(name)
        if value is None:
            continue
        for caption in value if isinstance(value, list) else [value]:
            if isinstance(caption, str):
                captions.append((caption, weight))
                continue
            if not isinstance(caption, dict) or not isinstance(caption.get("text"), str):
                raise Refused("bad_record", f'"{name}" has {_short(caption)}, not a string or an object with "text"')
            own = caption.get("weight")
            captions.append((caption["text"], weight if own is None else _weight(own, name, weight)))
    return captions


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

"""Inputs with random damage: an index whose counts add up, or an error that says what is wrong. Nothing else."""

from __future__ import annotations

import io
import json
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from mars_megatron.data.store import Store
from mars_megatron.indexing.pixels import ImageLimits, read_pixels
from mars_megatron.indexing.records import KEPT, Refused
from mars_megatron.indexing.validation import validate_index
from mars_megatron.pictures.picture import REASONS
from tests.support.odd_pictures import odd_pictures
from tests.support.raw import build, image_bytes, log, picture, write_lines, write_tar

FRAMES = [Image.new("RGB", (9, 9), colour) for colour in ("red", "blue")]
IMAGES = {
    **{ending: picture(1, (12, 9), ending) for ending in ("png", "jpg", "webp", "bmp", "gif", "tif")},
    "cmyk.jpg": image_bytes(Image.new("CMYK", (9, 9), (1, 2, 3, 4)), "jpg"),
    "16.png": image_bytes(Image.new("I;16", (9, 9), 999)),
    "deflate.tif": image_bytes(Image.new("F", (9, 9), 0.5), "tif", compression="tiff_adobe_deflate"),
    "frames.gif": image_bytes(FRAMES[0], "gif", save_all=True, append_images=FRAMES[1:]),
    "p.png": image_bytes(Image.new("P", (9, 9), 1), transparency=1),
}
ODD = odd_pictures()
LINES = [
    {"image": "a.png", "captions": ["a red square", {"text": "一个红色的方块", "weight": 2}]},
    {"image": "b.jpg", "caption": "a blue circle", "low": "a.png"},
    {"text": "the colour red"},
    {"parts": ["a picture", {"image": "a.png"}, {"text": "of the colour"}]},
]
MANY = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@st.composite
def damages(draw):
    """A function from bytes to damaged bytes."""
    edits = draw(
        st.lists(
            st.tuples(
                st.sampled_from(["set", "cut", "insert", "remove", "swap"]),
                st.floats(0, 1, exclude_max=True),
                st.floats(0, 1, exclude_max=True),
                st.binary(min_size=1, max_size=8),
            ),
            min_size=1,
            max_size=4,
        )
    )

    def damage(data: bytes) -> bytes:
        for kind, first, second, new in edits:
            start, end = sorted((int(first * len(data)), int(second * len(data))))
            if kind == "set":
                data = data[:start] + new + data[start + len(new) :]
            elif kind == "cut":
                data = data[: max(end, 1)]
            elif kind == "insert":
                data = data[:start] + new + data[start:]
            elif kind == "remove":
                data = data[:start] + data[start + len(new) :]
            else:
                data = data[:start] + data[end:] + data[start:end]
        return data

    return damage


def check(source: Path, tokenizers, records: int | None = None, workers: int = 0) -> None:
    """Build strictly and not; the second gives a valid index whose counts add up, or says that nothing is left."""
    with tempfile.TemporaryDirectory() as folder:
        prefix = Path(folder) / "index"
        try:
            build(source, Path(folder) / "strict", tokenizers, strict=True, low_resolution=4, workers=workers)
        except (ValueError, OSError) as error:
            assert str(error)
            assert not list(Path(folder).iterdir())
        try:
            manifest = build(source, prefix, tokenizers, low_resolution=4, workers=workers)
        except ValueError as error:
            assert "nothing was indexed" in str(error) or "has the columns" in str(error)
            assert not prefix.with_suffix(".json").exists()
            return
        left_out = sum(count for reason, count in manifest.skipped.items() if reason not in KEPT)
        assert manifest.num_documents == Store(prefix).num_documents == manifest.sources[0].samples
        if manifest.skipped:
            assert len(log(prefix)) == sum(manifest.skipped.values())
        if records is not None:
            assert manifest.num_documents + left_out == records
        assert not validate_index(prefix, sources=True, progress=False).problems


# A share of the inputs goes through worker processes.
WORKERS = st.sampled_from([0] * 4 + [2])


@MANY
@given(name=st.sampled_from(sorted(IMAGES)), damage=damages())
def test_images(name, damage):
    for fit in ("crop", "centre", "stretch"):
        check_damaged(damage(IMAGES[name]), fit)


@settings(MANY, max_examples=200)
@given(name=st.sampled_from(sorted(ODD)), damage=damages())
def test_odd_images(name, damage):
    check_damaged(damage(ODD[name].data), "crop")


def check_damaged(data, fit):
    try:
        high, low = read_pixels(data, [8, 4], fit, ImageLimits(max_pixels=1_000_000))
    except Refused as refused:
        assert refused.reason in ("too_large", "too_small", *REASONS)
    else:
        assert (low.shape, high.shape) == ((4, 4, 3), (8, 8, 3))


@MANY
@given(damage=damages(), workers=WORKERS)
def test_jsonl(damage, workers, tokenizers, tmp_path):
    source = write_lines(tmp_path / "x.jsonl", LINES, {"a.png": IMAGES["png"], "b.jpg": IMAGES["jpg"]})
    source.write_bytes(damage(source.read_bytes()))
    lines = source.read_bytes().split(b"\n")
    # A byte order mark alone is no line.
    check(source, tokenizers, sum(bool(line.strip(b" \t\n\r\x0b\f")) for line in lines), workers)


@MANY
@given(damage=damages(), inside=st.booleans(), compressed=st.booleans(), workers=WORKERS)
def test_tar(damage, inside, compressed, workers, tokenizers, tmp_path):
    members = {
        "1.png": IMAGES["png"], "1.json": json.dumps({"captions": LINES[0]["captions"]}).encode(),
        "2.jpg": IMAGES["jpg"], "2.low.png": IMAGES["png"], "2.txt": b"a blue circle",
        "3.json": json.dumps(LINES[2]).encode(), "4.0.png": IMAGES["png"],
        "4.json": json.dumps({"parts": ["a picture", {"image": "0.png"}]}).encode(),
    }  # fmt: skip
    if inside:
        members = {name: damage(data) for name, data in members.items()}
    source = write_tar(tmp_path / ("x.tgz" if compressed else "x.tar"), members, "w:gz" if compressed else "w")
    if not inside:
        source.write_bytes(damage(source.read_bytes()))
    check(source, tokenizers, 4 if inside else None, workers)
    source.unlink()


@MANY
@given(damage=damages(), inside=st.booleans(), workers=WORKERS)
def test_parquet(damage, inside, workers, tokenizers, tmp_path):
    images = [IMAGES["png"], IMAGES["jpg"], None]
    rows = {
        "image": [damage(data) if inside and data else data for data in images],
        "captions": [["a red square", "red"], ["a blue circle"], None],
        "text": [None, None, "the colour red"],
    }
    pq.write_table(pa.table(rows), tmp_path / "x.parquet", use_dictionary=False)
    if not inside:
        data = (tmp_path / "x.parquet").read_bytes()
        (tmp_path / "x.parquet").write_bytes(damage(data))
    check(tmp_path / "x.parquet", tokenizers, 3 if inside else None, workers)


@pytest.mark.parametrize("name", sorted(IMAGES))
def test_undamaged(name):
    try:
        read_pixels(IMAGES[name], [8], "crop", ImageLimits())
    except Refused as refused:
        expected = {"frames.gif": "animated_image", "deflate.tif": "unknown_range"}
        assert refused.reason == expected[name]
    assert Image.open(io.BytesIO(IMAGES[name])).size[1] == 9

"""What a batch of a parquet file holds, however Arrow shared its buffers when it was written."""

from __future__ import annotations

from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mars_megatron.indexing.options import BuildOptions
from mars_megatron.indexing.sources import parquet
from mars_megatron.indexing.sources.parquet import read_parquet
from tests.support.raw import build, documents, picture

NUM = 20_000
TEXTS = pa.array([f"text {i} of a dictionary whose texts are all different" for i in range(NUM)])
VIEWS = (range(0, NUM, 2), [2] * (NUM // 2))  # offsets, sizes
PARTS = pa.StructArray.from_arrays([TEXTS.dictionary_encode()], ["text"])


def lists(values, size=2):
    return pa.ListArray.from_arrays(pa.array(range(0, len(values) + 1, size), pa.int32()), values)


COLUMNS = {
    "dictionary": ("text", TEXTS.dictionary_encode()),
    "dictionary of large strings": ("text", TEXTS.cast(pa.large_string()).dictionary_encode()),
    "few of a large dictionary": ("text", pa.DictionaryArray.from_arrays(pa.array([7, None] * NUM), TEXTS)),
    "view": ("text", TEXTS.cast(pa.string_view())),
    "large": ("text", TEXTS.cast(pa.large_string())),
    "list of dictionary": ("parts", lists(TEXTS.dictionary_encode())),
    "list of structs of dictionary": ("parts", lists(PARTS)),
    "list of views": ("parts", lists(TEXTS.cast(pa.string_view()))),
    "list view": ("parts", pa.ListViewArray.from_arrays(*(pa.array(v, pa.int32()) for v in VIEWS), TEXTS)),
    "slice": ("text", pa.concat_arrays([TEXTS, TEXTS]).dictionary_encode()[NUM // 2 : -NUM // 2]),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_batches_hold_their_own_rows_alone(name, tmp_path, monkeypatch):
    """As much work as the same column written plainly: as many batches, of as many bytes."""
    monkeypatch.setattr(parquet, "BATCH_BYTES", 1 << 20)
    column, values = COLUMNS[name]
    work, samples = {}, {}
    for kind, table in (
        ("shared", pa.table({column: values})),
        ("plain", pa.Table.from_pylist([{column: value} for value in values.to_pylist()])),
    ):
        path = tmp_path / f"{kind}.parquet"
        pq.write_table(table, path, row_group_size=NUM // 2)
        batches = list(read_parquet(path, BuildOptions()))
        work[kind] = (len(batches), sum(batch.held_bytes for batch in batches))
        found = [sample for batch in batches for sample in batch.samples(BuildOptions(), Counter())]
        samples[kind] = [(getattr(item, "text", ""), getattr(item, "parts", "")) for item in found]
    assert samples["shared"] == samples["plain"]
    assert work["shared"][0] == work["plain"][0] and work["shared"][1] <= 1.3 * work["plain"][1]


def test_a_dictionary_is_not_read_again_with_every_batch(tmp_path):
    """Of files written by Arrow itself, whose schema says that a dictionary is to be restored."""
    pq.write_table(pa.table({"text": TEXTS.dictionary_encode()}), tmp_path / "x.parquet")
    assert pa.types.is_dictionary(pq.read_schema(tmp_path / "x.parquet").field("text").type)
    types = {batch.schema.field("text").type for batch in parquet.plain_batches(tmp_path / "x.parquet")}
    assert types == {pa.string()}


def test_images_whose_paths_are_a_dictionary(tmp_path, tokenizers):
    images = pa.StructArray.from_arrays(
        [pa.array([picture(1), picture(2)]).dictionary_encode(), pa.array(["a", "a"]).dictionary_encode()],
        ["bytes", "path"],
    )
    captions = lists(pa.array(["red", "red", "a square", "red"]).dictionary_encode())
    pq.write_table(pa.table({"image": images, "captions": captions, "alt": ["x", "y"]}), tmp_path / "x.parquet")
    manifest = build(tmp_path / "x.parquet", tmp_path / "index", tokenizers)
    assert [document[1] for document in documents(tmp_path / "index", tokenizers[0])] == [
        ["red", "red"],
        ["a square", "red"],
    ]
    assert manifest.sources[0].unread == {"column alt": 2} and manifest.sources[0].files["read"] == 1

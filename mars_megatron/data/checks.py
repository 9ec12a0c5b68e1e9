"""Checks before any data is read. An error names the setting or the file."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Sequence
from pathlib import Path

from mars_megatron.config.schema import DataConfig, RunConfig
from mars_megatron.data.blend import corpora_of, longest_sample, validation_corpora
from mars_megatron.data.packing import MAX_ROW_MULTIPLE, RESERVED_ROWS
from mars_megatron.data.store import Store
from mars_megatron.sequence.vocabulary import Vocabulary
from mars_megatron.tokenizers.text import load_text_tokenizer
from mars_megatron.tokenizers.text_checks import check_table, first_difference, is_same, where_made
from mars_megatron.tokenizers.tokenizer_files import image_fingerprint


def open_stores(config: RunConfig, vocabulary: Vocabulary) -> dict[str, Store]:
    """The indices that a run names, by path, all of them fit for it and for each other.

    Raises:
        ValueError: One is missing or damaged, or was not made for this configuration, or they were made with several
            tokenizers.
    """
    corpora = (*corpora_of(config.data), *validation_corpora(config.data))
    stores = {path: Store(path) for path in dict.fromkeys(corpus.path for corpus in corpora)}
    for store in stores.values():
        _check_text(store, config, vocabulary)
        _check_images(store, config, vocabulary)
        store.scan  # noqa: B018  looks at every document
    for kind in ("text_tokenizer", "image_tokenizer"):
        _check_same(kind, list(stores.values()))
    return stores


def _check_same(kind: str, stores: Sequence[Store]) -> None:
    infos = [(store, getattr(store.manifest, kind)) for store in stores]
    made = [(store, info) for store, info in infos if info is not None]
    for store, info in made[1:]:
        first, others = made[0]
        if info.fingerprint != others.fingerprint:
            raise ValueError(
                f"{store.prefix} was made with the {kind.replace('_', ' ')} {info.path}, {first.prefix} with another "
                f"one ({others.path}); index one of them again"
            )


def _check_text(store: Store, config: RunConfig, vocabulary: Vocabulary) -> None:
    text = store.manifest.text_tokenizer
    manifest = f"{store.prefix}.json"
    configured = config.data.text_tokenizer
    if configured and not is_same(configured, text.fingerprint, text.content):
        raise ValueError(
            f"data.text_tokenizer is {configured}, but {store.prefix} was made with another "
            f"one ({text.path}, see {manifest}); index again or set the tokenizer it was made with"
        )
    path = configured or text.path
    if path and not text.content:
        _check_reading(store, where_made(text.path, text.fingerprint, path))
    if text.size > vocabulary.text_size:
        try:  # of what lies beyond the table texts may make nothing
            check_table(load_text_tokenizer(path), vocabulary.text_size)
        except ValueError as error:
            raise ValueError(
                f"vocabulary.text_size is {vocabulary.text_size}; the text tokenizer of {store.prefix} has {text.size} "
                f"ids: {error}"
            ) from error


def _check_reading(store: Store, path: str) -> None:
    """Refuse an index whose ids a class of transformers made, where the file of the tokenizer says others."""
    if not Path(path).exists():
        if not path.endswith(".model"):
            warnings.warn(
                f"{store.prefix} was made by a former version with the text tokenizer {path}, which is not there: "
                "whether its ids are those of the tokenizer's file is not known; data.text_tokenizer can name it",
                stacklevel=2,
            )
        return
    text = first_difference(path)
    if text is not None:
        raise ValueError(
            f"{store.prefix} was made by a former version, which read {path} by a class of transformers: of {text!r} "
            "that makes other ids than the file of the tokenizer does; build the index again"
        )


def _check_images(store: Store, config: RunConfig, vocabulary: Vocabulary) -> None:
    image = store.manifest.image_tokenizer
    manifest = f"{store.prefix}.json"
    if image is None:
        return
    configured = config.data.image_tokenizer
    if configured and image_fingerprint(configured) != image.fingerprint:
        raise ValueError(
            f"data.image_tokenizer is {configured}, but {store.prefix} was made with another "
            f"one ({image.path}, see {manifest}); index again or set the tokenizer it was made with"
        )
    if image.codebook_size != vocabulary.codebook_size:
        raise ValueError(
            f"vocabulary.codebook_size is {vocabulary.codebook_size}; the image tokenizer of {store.prefix} "
            f"has {image.codebook_size} codes"
        )
    side, low_side = config.image.side, config.image.low_side
    if image.low_grid and low_side and image.low_grid != (low_side, low_side):
        raise ValueError(
            f"image.low_resolution / image.downsample is {config.image.low_resolution} / {config.image.downsample}, a "
            f"grid of {low_side} x {low_side}; the low-resolution images of {store.prefix} have {image.low_grid[0]} x "
            f"{image.low_grid[1]} codes"
        )
    if image.grid != (side, side):
        raise ValueError(
            f"image.resolution / image.downsample is {config.image.resolution} / {config.image.downsample}, a "
            f"grid of {side} x {side}; the images of {store.prefix} have {image.grid[0]} x {image.grid[1]} codes"
        )


def check_budget(data: DataConfig, row_multiple: int) -> None:
    """Refuse a size of micro-batches that sequence parallelism cannot split."""
    if row_multiple > MAX_ROW_MULTIPLE:
        raise ValueError(f"parallel.tensor is {row_multiple}; with parallel.sequence it is at most {MAX_ROW_MULTIPLE}")
    if data.micro_batch_tokens % row_multiple:
        raise ValueError(
            f"data.micro_batch_tokens is {data.micro_batch_tokens}; with parallel.sequence it must be a multiple of "
            f"parallel.tensor ({row_multiple})"
        )


def check_longest(store: Store, tasks: Collection[int], data: DataConfig) -> None:
    """Refuse a corpus with samples of some tasks that fit into no micro-batch, unless they are to be skipped."""
    rows, document = longest_sample(store, tasks)
    if rows > data.micro_batch_tokens - RESERVED_ROWS and data.too_long == "error":
        raise ValueError(
            f"data.micro_batch_tokens is {data.micro_batch_tokens}; the longest sample of {store.prefix} (document "
            f"{document}) has {rows} tokens; set data.too_long to skip to leave such samples out, or allow at least "
            f"{rows + RESERVED_ROWS}"
        )


def nothing_held_out(data: DataConfig, num_documents: int) -> str:
    """Why there is nothing to validate on, though so many documents are held out."""
    where = f"data.validation_path {data.validation_path}" if data.validation_path else "the corpora"
    if num_documents:
        return f"data.tasks is {data.tasks}; none of the {num_documents} documents held out of {where} serves them"
    return (
        f"data.validation_fraction is {data.validation_fraction}, which leaves no validation documents of {where}; "
        "change it or set data.validation_path"
    )

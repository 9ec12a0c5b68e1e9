"""From raw samples and tokenizers to an index: the library call behind `tools/index_data.py build`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from mars_megatron.index.manifest import Manifest
from mars_megatron.index.merge import merge_indices, shards_folder
from mars_megatron.index.writer import BeingWrittenError
from mars_megatron.indexing.index_output import Output, Recipe
from mars_megatron.indexing.options import BuildOptions
from mars_megatron.indexing.pool import WorkerPool
from mars_megatron.indexing.records import Work
from mars_megatron.indexing.restart import agree_on_inputs, is_finished
from mars_megatron.indexing.sources.inputs import InputShard, check_columns, find_inputs
from mars_megatron.indexing.worker import WorkerSettings
from mars_megatron.tokenizers.image import ImageTokenizer, load_image_tokenizer
from mars_megatron.tokenizers.text import TextTokenizer, load_text_tokenizer

Say = Callable[[str], None]


def build_index(
    inputs: str | Path | Sequence[str | Path],
    output: str | Path,
    text_tokenizer: TextTokenizer | str | Path,
    image_tokenizer: ImageTokenizer | str | Path | None = None,
    *,
    options: BuildOptions,
    device: str = "cpu",
    progress: bool = True,
    say: Say = lambda message: None,
) -> Manifest | None:
    """Tokenise every sample of the inputs and write an index of them.

    A sample or file that cannot be used is left out, counted in the manifest by its reason and logged in
    PREFIX.skipped.jsonl.
    One input becomes PREFIX itself. Of several, each becomes an index in PREFIX.shards, and these are merged into
    PREFIX. What is finished is kept when the call is repeated; files appear under their names when they are complete,
    and after a failure no temporary file is left.

    Args:
        inputs: Folders, files and globs, see `find_inputs`.
        output: PREFIX; its folder is made.
        text_tokenizer: For captions and texts, or its path. The workers load it from its path.
        image_tokenizer: For images, or its path; not needed for text alone.
        options: How.
        device: Where images are encoded, if `image_tokenizer` is a path.
        progress: Show progress bars.
        say: Takes messages about what is done.

    Returns:
        The manifest of PREFIX; None with options.shard, where shards are left to be merged.

    Raises:
        ValueError: An input does not exist or is unknown, there are images but no image tokenizer, a resolution does
            not fit it, nothing could be used, an index of something else is there, or another process writes it (the
            other inputs are done first).
        OSError: Something cannot be read or written; the message names it.
    """
    shards = find_inputs([inputs] if isinstance(inputs, (str, Path)) else list(inputs))
    check_columns(shards, options)
    text = load_text_tokenizer(text_tokenizer) if isinstance(text_tokenizer, (str, Path)) else text_tokenizer
    image = image_tokenizer
    if isinstance(image, (str, Path)):
        image = load_image_tokenizer(image, device)
    recipe = Recipe(options, text, image)
    if len(shards) == 1 and options.shard is None:
        return _build_one(shards[0], str(output), recipe, progress, say)
    return _build_many(shards, output, recipe, progress, say)


def _build_one(shard: InputShard, prefix: str, recipe: Recipe, progress: bool, say: Say) -> Manifest:
    if is_finished(prefix, [shard], recipe, say):
        say(f"{prefix} is finished")
    else:
        _build([(prefix, shard)], recipe, False, progress, say)
    return Manifest.read(Path(f"{prefix}.json"))


def _build_many(
    shards: list[InputShard], output: str | Path, recipe: Recipe, progress: bool, say: Say
) -> Manifest | None:
    folder, options = shards_folder(output), recipe.options
    if is_finished(str(output), shards, recipe, say):
        say(f"{output} is finished")
        return Manifest.read(Path(f"{output}.json")) if options.shard is None else None
    replace = options.overwrite or Path(f"{output}.json").exists()  # a damaged one: another index was refused
    agree_on_inputs(folder, shards, recipe)
    prefixes = [str(folder / f"{number:06d}") for number in range(len(shards))]
    mine = list(zip(prefixes, shards, strict=True))
    if options.shard is not None:
        mine = mine[options.shard[0] :: options.shard[1]]
    todo = [(prefix, shard) for prefix, shard in mine if not is_finished(prefix, [shard], recipe, say)]
    if len(todo) < len(mine):
        say(f"{len(mine) - len(todo)} of {len(mine)} inputs are finished")
    _build(todo, recipe, True, progress, say)
    if options.shard is None:
        return merge_indices(prefixes, output, progress=progress, overwrite=replace)
    say(
        f"{len(mine)} of {len(shards)} inputs are in {folder}; when all are, merge them: "
        f"tools/index_data.py merge --output {output}"
    )
    return None


def _build(todo: list[tuple[str, InputShard]], recipe: Recipe, allow_empty: bool, progress: bool, say: Say) -> None:
    """Build an index of each input. Batches of the next input are read while those of the last are under way."""
    if not todo:
        return
    busy: list[tuple[str, InputShard]] = []
    began, samples, skipped = time.monotonic(), 0, 0
    opened: list[Output] = []
    options = recipe.options
    info = recipe.image_info()
    num_codes = info.num_codes if info else 0
    num_low_codes = info.num_low_codes if info else 0
    settings = WorkerSettings(options, recipe.text_tokenizer.path, num_codes, num_low_codes)
    pool = WorkerPool(settings, recipe.text_tokenizer, options.workers, say)
    total = sum(shard.num_bytes for _, shard in todo)
    try:
        with tqdm(total=total, desc="index", unit="B", unit_scale=True, disable=not progress, mininterval=0.5) as bar:
            for output, work, done in pool.map(_read(todo, recipe, opened, busy)):
                if work is None:
                    output.finish(allow_empty)
                    samples, skipped = samples + output.num_documents, skipped + output.num_left_out
                    output.discard()
                    opened.remove(output)
                    if len(todo) > 1:
                        say(f"{output.prefix}: {output.num_documents} samples of {output.shard.path}")
                    continue
                assert done is not None
                output.add(done)
                bar.update(work.num_bytes)
                seconds = time.monotonic() - began
                count = samples + sum(other.num_documents for other in opened)
                left_out = skipped + sum(other.num_left_out for other in opened)
                bar.set_postfix_str(f"{count / seconds:.0f} samples/s, {left_out} skipped", refresh=False)
    finally:
        try:
            pool.close()
        finally:
            for output in opened:
                output.discard()
    seconds = time.monotonic() - began
    say(f"{samples} samples in {seconds:.1f} s, {samples / seconds:.1f} samples/s; {skipped} left out")
    busy = [(prefix, shard) for prefix, shard in busy if not is_finished(prefix, [shard], recipe, say)]
    if busy:
        raise BeingWrittenError(
            f"another process is writing {', '.join(prefix for prefix, _ in busy)}; wait for it and build again"
            + (" (the other inputs are done)" if len(todo) > len(busy) else ", or give another output")
        )


def _read(
    todo: list[tuple[str, InputShard]], recipe: Recipe, opened: list[Output], busy: list[tuple[str, InputShard]]
) -> Iterator[tuple[Output, Work | None]]:
    """The batches of all inputs in order, each with the index that it goes to; None behind the last of an input.

    Args:
        todo: (prefix, input).
        recipe: With what they are indexed.
        opened: Takes the indices under construction.
        busy: Takes those of `todo` that another process is writing; they are passed over.
    """
    for prefix, shard in todo:
        try:
            output = Output(prefix, shard, recipe)
        except BeingWrittenError:
            busy.append((prefix, shard))
            continue
        opened.append(output)
        reader = shard.open(recipe.options)
        try:
            for work in reader:
                yield output, work
            output.sha256, output.num_members = reader.sha256(), reader.num_members
        finally:
            reader.close()
        yield output, None

"""The tokenizers that a converted checkpoint carries with it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

from mars_megatron.checkpoint.tokenizers import SETTINGS, copy_name, copy_tokenizer, fingerprint, remove, with_paths
from mars_megatron.config.schema import RunConfig
from mars_megatron.tokenizers import load_text_tokenizer
from mars_megatron.tokenizers.text_checks import check_table


def take_tokenizers(
    config: RunConfig,
    text: Path | None,
    image: Path | None,
    staging: Path,
    target: Path,
    wanted: Mapping[str, str] | None = None,
) -> tuple[RunConfig, dict[str, str]]:
    """Copy tokenizers beside the checkpoint, and let the configuration name them where they will lie.

    Names of what is not on this machine are left out.

    Args:
        config: The run.
        text, image: Where the tokenizers are that are to be copied; None leaves those that the configuration names.
        staging: Folder that will become `target`.
        target: Folder of the run.
        wanted: Fingerprints by setting: a name that now leads to another tokenizer is left out too.

    Returns:
        The configuration, and the fingerprint of each tokenizer that it names, by setting.
    """
    found = {}
    for setting in SETTINGS:
        path = getattr(config.data, setting)
        there = fingerprint(setting, path) if path else ""
        if there and there == (wanted or {}).get(setting, there):
            found[setting] = there
        else:
            config = with_paths(config, {setting: ""})
    for setting, source in (("text_tokenizer", text), ("image_tokenizer", image)):
        if source is not None and (name := _take(setting, source, staging)):
            config = with_paths(config, {setting: str(target / name)})
            found[setting] = fingerprint(setting, staging / name)
    if text is not None and not config.data.text_tokenizer:
        warnings.warn(f"the result has no text tokenizer, {text} has none that can be read", stacklevel=2)
    return config, found


def check_text_tokenizer(place: Path, text_size: int, path: str | Path) -> None:
    """Refuse the text tokenizer of a start checkpoint if it does not fit, and warn of what it leaves to the user.

    Args:
        place: Where it lies for now.
        text_size: Rows of the language model's table.
        path: Where it lies for the user.

    Raises:
        ValueError: Texts make ids that the table has no row for.
    """
    tokenizer = load_text_tokenizer(place)
    check_table(tokenizer, text_size, path)
    if tokenizer.size > text_size:
        beyond = sorted(tokenizer.tokens_from(text_size).items(), key=lambda item: item[1])
        warnings.warn(
            f"text tokenizer {path} has {tokenizer.size} ids, the language model {text_size} rows. That is accepted: "
            f"no text makes the tokens beyond ({', '.join(map(repr, dict(beyond[:5])))}"
            f"{', ...' if len(beyond) > 5 else ''})",
            stacklevel=2,
        )
    if tokenizer.wants_bos:
        warnings.warn(
            f"text tokenizer {path} puts its bos_token (id {tokenizer.bos_id}) in front of every text, and the "
            "language model expects it there. Captions, texts and prompts begin without it here, in training and in "
            "sampling alike: the frozen text expert sees other first tokens than it was trained with",
            stacklevel=2,
        )


def _take(setting: str, source: Path, staging: Path) -> str:
    """Its name beside the checkpoint; nothing, with a warning, where there is no text tokenizer that can be read."""
    name = copy_name(setting, source)
    try:
        if (source / "qwen.tiktoken").is_file():
            from mars_megatron.tokenizers.qwen import convert_qwen_tokenizer  # slow: transformers

            convert_qwen_tokenizer(source, staging / name)
        else:
            copy_tokenizer(setting, source, staging / name)
        if setting == "text_tokenizer":
            load_text_tokenizer(staging / name)
    except ValueError as error:
        remove(staging / name)
        if setting != "text_tokenizer":
            raise
        warnings.warn(f"the result has no text tokenizer; data.text_tokenizer can name one ({error})", stacklevel=2)
        return ""
    return name

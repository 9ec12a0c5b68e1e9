"""The folder of documents that were gone on with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mars_megatron.gallery.document_gallery import DocumentFolder

NO_IMAGES = torch.zeros((0, 4, 4, 3), dtype=torch.uint8)


def settings(path: str, fingerprint: str) -> dict[str, Any]:
    return {"temperature": 1.0, "image_tokenizer": {"path": path, "fingerprint": fingerprint}}


def test_texts_may_hold_other_ends_of_lines(tmp_path: Path) -> None:
    prompts = [{"parts": [{"text": "one\u2028two"}]}, {"parts": [{"text": "three"}]}]
    folder = DocumentFolder(tmp_path, {}, prompts)
    for text in ("next\x85line", "\u2029"):
        folder.add([text], NO_IMAGES)
    folder.save()
    assert DocumentFolder(tmp_path, {}, prompts).lines == folder.lines and folder.num_finished == 2


def test_what_another_tokenizer_made_is_not_gone_on_with(tmp_path: Path) -> None:
    prompts = [{"parts": [{"text": "one"}]}]
    folder = DocumentFolder(tmp_path, settings("here", "a"), prompts)
    folder.add(["two"], NO_IMAGES)
    folder.save()
    assert DocumentFolder(tmp_path, settings("elsewhere", "a"), prompts).num_finished == 1
    with pytest.raises(ValueError, match=r'image_tokenizer\.fingerprint was "a", is "b"\); accepted: those'):
        DocumentFolder(tmp_path, settings("here", "b"), prompts)

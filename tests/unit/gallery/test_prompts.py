"""Which images are asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from mars_megatron.config.schema import GenerationConfig, RunConfig
from mars_megatron.gallery.prompts import ImageRequest, PlannedImage, Prompt, plan_images, read_requests

CONFIG = RunConfig(generation=GenerationConfig(seed=5, guidance=2.0))


def write(folder: Path, *lines: str) -> Path:
    path = folder / "prompts.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_lines_have_settings_of_their_own(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        '{"prompt": "红", "label": "0", "seed": 3, "num_images": 2, "guidance": 4, "guidance_schedule": "linear"}',
        '{"prompt": "red", "temperature": 0.5, "top_k": 3, "top_p": 0.5, "min_p": 0.1}',
    )
    (first, second), (third,) = plan_images(read_requests(path), 1, 1, CONFIG)
    assert (first.file, second.file, third.file) == tuple(
        f"images/{name}.png" for name in ("0000_00", "0000_01", "0001_00")
    )
    assert (first.seed, third.seed) == (3, 5) and first.prompt == Prompt("红", "0")
    assert (first.numbers, second.numbers, third.numbers) == ((0,), (1,), (0,))
    assert first.settings == second.settings == GenerationConfig(seed=5, guidance=4.0, guidance_schedule="linear")
    others = {"temperature": 0.5, "top_k": 3, "top_p": 0.5, "min_p": 0.1}
    assert third.settings == GenerationConfig(seed=5, guidance=2.0, **others)
    for drawing in (first, third):
        assert PlannedImage.from_description(drawing.described(), CONFIG.generation) == drawing


def test_the_same_request_gets_other_images_and_other_settings_the_same_noise() -> None:
    red, strong = ImageRequest(Prompt("red")), ImageRequest(Prompt("red"), settings={"guidance": 9.0})
    plan = plan_images([red, strong, ImageRequest(Prompt("red"), seed=1), red], 2, 3, CONFIG)
    numbers = [[drawing.numbers for drawing in drawings] for drawings in plan]
    assert numbers[0] == numbers[1] == numbers[2] == [(0, 1, 2), (3, 4, 5)]
    assert numbers[3] == [(6, 7, 8), (9, 10, 11)]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt": "a", "num_images": 0}', "line 1: num_images is 0; accepted: a whole number, 1 or more"),
        ('{"prompt": "a", "seed": -1}', "line 1: seed is -1"),
        ('{"prompt": "a", "seed": true}', "line 1: seed is True"),
        ('{"prompt": "a", "guidance": "2"}', "line 1: guidance is '2'; accepted: a number"),
        ('{"prompt": "a", "top_k": 2.5}', "line 1.*top_k"),
        ('{"prompt": "a", "min_p": 2}', r"line 1.*\n.*generation.min_p is 2"),
        ('{"prompt": "a", "guidance_schedule": "square"}', "line 1.*guidance_schedule"),
        ('{"prompt": "a", "batch_size": 2}', "beside them num_images, seed, guidance"),
        ('{"seed": 2}', "line 1 has no prompt"),
    ],
)
def test_what_is_refused(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan_images(read_requests(write(tmp_path, line)), 1, 1, CONFIG)

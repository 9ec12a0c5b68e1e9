"""T2I-CompBench: prompts of attributes and relations, drawn and scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL import Image
from tqdm import tqdm

from mars_megatron import platform
from mars_megatron.evaluation.context import Context, over_ranks
from mars_megatron.evaluation.intervals import Estimate, mean_of_groups
from mars_megatron.evaluation.pretrained import ClipSimilarity, model_type
from mars_megatron.evaluation.suite import Result, check_least
from mars_megatron.evaluation.t2i_compbench.detection import CountScorer, DepthScorer, Detector, SpatialScorer
from mars_megatron.evaluation.t2i_compbench.prompt_files import (
    ATTRIBUTES,
    COUNT,
    DEPTH,
    OWN,
    SPATIAL,
    WHOLE,
    PromptFile,
    read_prompt_file,
)
from mars_megatron.evaluation.t2i_compbench.scorers import Scorer, UserScorer, WholeScorer
from mars_megatron.evaluation.t2i_compbench.vqa import AttributeScorer
from mars_megatron.gallery.image_folder import save_image

# Options of the models of each way to score.
MODELS = {
    ATTRIBUTES: ("vqa",),
    SPATIAL: ("detector",),
    COUNT: ("detector",),
    DEPTH: ("detector", "depth"),
    WHOLE: ("clip",),
}
_MAX_BYTES = 230  # of a prompt in a file name: with number, ending and .tmp at most 255


@dataclass(frozen=True)
class T2ICompBench:
    """T2I-CompBench (Huang et al. 2023): its prompts are drawn, and scored by models that you give.

    By category: color, shape and texture by visual questions, spatial and numeracy by a detector, 3d_spatial by a
    detector and a depth model, non_spatial by CLIP, complex by the mean of two or three of them. Scores are
    comparable with published ones only if the models are those of the benchmark. Its detector, UniDet, is not in
    transformers.

    Args:
        prompts: Prompt files: color_val.txt, ...
        category: Category of all files; needed if the names of the files do not begin with it.
        scorer: auto (by category), none (only write the images), or package.module:name or folder/file.py:name of a
            function of images (uint8 [N, height, width, 3]) and prompts that returns a score for each, or of a class of
            such objects, whose argument may follow after another colon.
        vqa: Model for visual questions: BLIP or ViLT.
        detector: Object detector: one with classes, or OWL-ViT or OWLv2.
        clip: CLIP model.
        depth: Model that estimates depth, larger where nearer.
        detector_threshold: Smallest confidence of an object (0.5 with classes, about 0.1 for OWL-ViT).
        samples_per_prompt: Images drawn for each prompt; the benchmark draws 10.
        max_prompts: Largest number of prompts of each file, from its start; 0 for all.
        judge_batch_size: Images or questions in one forward pass of a scoring model.
        images_folder: Where to write FILE/samples/PROMPT_000000.png, the layout of the benchmark's scripts.
    """

    name: ClassVar[str] = "t2i_compbench"
    prompts: tuple[str, ...]
    category: str = ""
    scorer: str = "auto"
    vqa: str = "Salesforce/blip-vqa-capfilt-large"
    detector: str = ""
    clip: str = "openai/clip-vit-base-patch32"
    depth: str = ""
    detector_threshold: float = 0.5
    samples_per_prompt: int = 10
    max_prompts: int = 0
    judge_batch_size: int = 16
    images_folder: str = field(default="", metadata={"written": True})

    def check(self) -> None:
        """See `Suite`."""
        check_least(self, samples_per_prompt=1, max_prompts=0, judge_batch_size=1)
        if not 0 <= self.detector_threshold < 1:
            raise ValueError(f"t2i_compbench: detector_threshold is {self.detector_threshold}; accepted: 0 to below 1")
        files = self._files()
        if self.scorer == "auto":
            self._check_models(files)
        elif self.scorer != "none":
            UserScorer(self.scorer).check([prompt for file in files for prompt in file.prompts])
        elif not self.images_folder:
            raise ValueError("t2i_compbench: scorer none without images_folder would leave nothing; give images_folder")
        if self.images_folder:
            for file in files:
                _check_folder(self._pictures(file), picture_names(file.prompts, self.samples_per_prompt))

    def run(self, context: Context) -> Result:
        """Draw, write and score, file by file."""
        scorers: dict[str, Scorer] = {}
        scores: dict[str, Estimate] = {}
        details: dict[str, Any] = {}
        for file in self._files():
            context.say(f"{file.path}: {len(file.prompts)} prompts, category {file.category}")
            images = context.draw(file.prompts, self.samples_per_prompt)
            if self.images_folder and torch.distributed.get_rank() == 0:
                write_pictures(self._pictures(file), picture_names(file.prompts, self.samples_per_prompt), images)
            details[file.stem] = {
                "category": file.category,
                "num_prompts": len(file.prompts),
                "num_images": len(images),
            }
            if self.scorer == "none":
                continue
            for way in file.ways:
                if way not in scorers:
                    scorers[way] = self._scorer(way)
            found, notes = self._score(file, images, scorers, context)
            name = scorers[file.ways[0]].name if len(file.ways) == 1 else f"{len(file.ways)}_in_1"
            scores[f"{file.stem}_{name}"] = mean_of_groups(found, self.samples_per_prompt)
            details[file.stem] |= notes
        return Result(scores, details)

    def _score(
        self, file: PromptFile, images: torch.Tensor, scorers: dict[str, Scorer], context: Context
    ) -> tuple[list[float], dict[str, Any]]:
        """Score of each image, and what limits them."""
        hidden = not context.progress or torch.distributed.get_rank() != 0
        asked = [number for number in range(len(file.prompts)) for _ in range(self.samples_per_prompt)]
        sums, notes = [0.0] * len(asked), {}
        for way in file.ways:
            scorer = scorers[way]
            chosen = [image for image, number in enumerate(asked) if way in file.parts[number]]
            prompts = [prompt for prompt, parts in zip(file.prompts, file.parts, strict=True) if way in parts]
            notes[scorer.name] = scorer.notes(prompts)

            def score(positions: Sequence[int], scorer=scorer, chosen=chosen) -> list[float]:
                found: list[float] = []
                bar = tqdm(total=len(positions), desc=scorer.name, unit="image", disable=hidden, mininterval=0.5)
                for start in range(0, len(positions), self.judge_batch_size):
                    part = [chosen[position] for position in positions[start : start + self.judge_batch_size]]
                    found += scorer(images[part], [file.prompts[asked[image]] for image in part])
                    bar.update(len(part))
                return found

            for image, value in zip(chosen, over_ranks(len(chosen), score), strict=True):
                sums[image] += value / len(file.parts[asked[image]])
        return sums, notes

    def _scorer(self, way: str) -> Scorer:
        """The scorer of a way to score.

        Raises:
            ValueError: A model cannot be opened.
        """
        device, batch_size = platform.device(), self.judge_batch_size
        if way == OWN:
            return UserScorer(self.scorer)
        if way == ATTRIBUTES:
            return AttributeScorer(self.vqa, device, batch_size)
        if way == WHOLE:
            return WholeScorer(ClipSimilarity("clip", self.clip, device, batch_size))
        detector = Detector(self.detector, device, self.detector_threshold)
        if way == DEPTH:
            return DepthScorer(detector, self.depth, device)
        return SpatialScorer(detector) if way == SPATIAL else CountScorer(detector)

    def _check_models(self, files: Sequence[PromptFile]) -> None:
        for file in files:
            for option in {option for way in file.ways for option in MODELS[way]}:
                if not getattr(self, option):
                    raise ValueError(
                        f"t2i_compbench: {file.path} is of category {file.category}, for which {option} is needed; "
                        f"give {option}, or a scorer of your own"
                    )
                model_type(f"t2i_compbench: {option}", getattr(self, option))

    def _files(self) -> list[PromptFile]:
        if not self.prompts:
            raise ValueError("t2i_compbench: prompts is empty; give prompt files")
        own = self.scorer != "auto"
        files = [read_prompt_file(path, self.category, own_scorer=own).first(self.max_prompts) for path in self.prompts]
        stems = [file.stem for file in files]
        if len(set(stems)) < len(stems):
            raise ValueError(f"t2i_compbench: prompts has several files of one name: {', '.join(stems)}")
        return files

    def _pictures(self, file: PromptFile) -> Path:
        return Path(self.images_folder) / file.stem / "samples"


def picture_names(prompts: Sequence[str], per_prompt: int) -> list[str]:
    """PROMPT_000000.png, ...: the scripts take the prompt from before the first _, the number from behind the last.

    What a file name cannot hold, or would be read wrongly, is replaced: slash and underscore by a space; a long prompt
    is cut.
    """
    names: list[str] = []
    for prompt in prompts:
        text = prompt.replace("/", " ").replace("_", " ").encode()[:_MAX_BYTES].decode(errors="ignore")
        names += [f"{text}_{len(names) + number:06d}.png" for number in range(per_prompt)]
    return names


def _check_folder(folder: Path, names: Sequence[str]) -> None:
    """Whether only these images are in the folder: the scripts score all that they find.

    Raises:
        ValueError: There is another.
    """
    others = {path.name for path in folder.glob("*.png")} - set(names) if folder.is_dir() else set()
    if others:
        raise ValueError(f"images_folder: {folder} holds {len(others)} other images, such as {min(others)}; empty it")


def write_pictures(folder: Path, names: Sequence[str], images: torch.Tensor) -> None:
    """Write PNG files.

    Args:
        folder: Made if it does not exist.
        names: Of the files.
        images: uint8 [N, height, width, 3].
    """
    _check_folder(folder, names)
    for name, image in zip(names, images.numpy(), strict=True):
        save_image(Image.fromarray(image), folder / name)

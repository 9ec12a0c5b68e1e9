"""T2I-CompBench: compositional prompts, drawn and scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import torch

    from mars_megatron.evaluation.suite import Context, Result
    from mars_megatron.evaluation.t2i_compbench.prompt_files import PromptFile
    from mars_megatron.evaluation.t2i_compbench.scorers import Judges, Scorer


@dataclass(frozen=True)
class T2ICompBench:
    """T2I-CompBench (Huang et al. 2023): its prompt files, drawn and scored by models that are given.

    By category: color, shape and texture by visual questions, spatial and numeracy by a detector, 3d_spatial by a
    detector and a depth model, non_spatial by CLIP, complex by the mean of two or three of them. Scores compare with
    published ones as far as the models are those of the benchmark (its detector, UniDet, is none of transformers).

    Args:
        prompts: Prompt files: color_val.txt, ...
        category: Of all the files, where their names do not begin with it.
        scorer: auto (by category), none (only write the images), compositional:FOLDER (prompts of this project's own
            benchmark), or module:attribute or file.py:attribute of a function of images (uint8 [N, height, width, 3])
            and prompts that gives a score for each.
        vqa: Model for visual questions: BLIP or ViLT.
        detector: Object detector: one with classes, or OWL-ViT or OWLv2.
        clip: CLIP model.
        depth: Model that estimates depth, larger where nearer.
        detector_threshold: Least confidence of an object (0.5 with classes, about 0.1 for OWL-ViT).
        samples_per_prompt: Images drawn for each prompt; the benchmark draws 10.
        max_prompts: Most prompts of each file, the first ones; 0 for all.
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
        """Look at the options and the files that they name.

        Raises:
            ValueError: What is wrong, and what would be accepted.
        """
        from mars_megatron.evaluation.t2i_compbench.picture_files import check_folder, picture_names
        from mars_megatron.evaluation.t2i_compbench.scorers import check_own_scorer

        for option, minimum in {"samples_per_prompt": 1, "max_prompts": 0, "judge_batch_size": 1}.items():
            if getattr(self, option) < minimum:
                raise ValueError(f"t2i_compbench: {option} is {getattr(self, option)}; accepted: {minimum} or more")
        if not 0 <= self.detector_threshold < 1:
            raise ValueError(f"t2i_compbench: detector_threshold is {self.detector_threshold}; accepted: 0 to below 1")
        files = self._files()
        if self.scorer == "auto":
            self._check_judges(files)
        elif self.scorer != "none":
            check_own_scorer(self.scorer, [prompt for file in files for prompt in file.prompts])
        elif not self.images_folder:
            raise ValueError("t2i_compbench: scorer none without images_folder would leave nothing; give images_folder")
        if self.images_folder:
            for file in files:
                check_folder(self._pictures(file), picture_names(file.prompts, self.samples_per_prompt))

    def run(self, context: Context) -> Result:
        """Draw, write and score, file by file."""
        import torch

        from mars_megatron.evaluation.intervals import Estimate, mean_of_groups
        from mars_megatron.evaluation.suite import Result
        from mars_megatron.evaluation.t2i_compbench.picture_files import picture_names, write_pictures

        scorers: dict[str, Scorer] = {}
        scores: dict[str, Estimate] = {}
        details: dict[str, Any] = {}
        for file in self._files():
            context.say(f"{file.path}: {len(file.prompts)} prompts, category {file.category}")
            images = context.draw(file.prompts, self.samples_per_prompt)
            if self.images_folder and torch.distributed.get_rank() == 0:
                names = picture_names(file.prompts, self.samples_per_prompt)
                write_pictures(self._pictures(file), names, images)
            details[file.stem] = {
                "category": file.category,
                "num_prompts": len(file.prompts),
                "num_images": len(images),
            }
            if self.scorer == "none":
                continue
            parts = [part for of_prompt in file.parts for part in of_prompt]
            for part in dict.fromkeys(parts):
                if part not in scorers:
                    scorers[part] = self._scorer(part)
            name, found, notes = self._score(file, images, scorers, context)
            scores[f"{file.stem}_{name}"] = mean_of_groups(found, self.samples_per_prompt)
            details[file.stem] |= notes
        return Result(scores, details)

    def _score(
        self, file: PromptFile, images: torch.Tensor, scorers: dict[str, Scorer], context: Context
    ) -> tuple[str, list[float], dict[str, Any]]:
        """Name of the score, score of each image, and what limits them."""
        import torch
        from tqdm import tqdm

        from mars_megatron.evaluation.ranks import score_shared

        hidden = not context.progress or torch.distributed.get_rank() != 0
        asked = [number for number in range(len(file.prompts)) for _ in range(self.samples_per_prompt)]
        sums, notes = [0.0] * len(asked), {}
        ways = list(dict.fromkeys(part for of_prompt in file.parts for part in of_prompt))
        for way in ways:
            scorer = scorers[way]
            images_of_way = [image for image, number in enumerate(asked) if way in file.parts[number]]
            prompts_of_way = [prompt for prompt, parts in zip(file.prompts, file.parts, strict=True) if way in parts]
            notes[scorer.name] = scorer.notes(prompts_of_way)

            def score(positions: Sequence[int], scorer=scorer, chosen=images_of_way) -> list[float]:
                found: list[float] = []
                bar = tqdm(total=len(positions), desc=scorer.name, unit="image", disable=hidden, mininterval=0.5)
                for start in range(0, len(positions), self.judge_batch_size):
                    part = [chosen[position] for position in positions[start : start + self.judge_batch_size]]
                    found += scorer(images[part], [file.prompts[asked[image]] for image in part])
                    bar.update(len(part))
                return found

            for image, value in zip(images_of_way, score_shared(len(images_of_way), score), strict=True):
                sums[image] += value / len(file.parts[asked[image]])
        name = scorers[ways[0]].name if len(ways) == 1 else f"{len(ways)}_in_1"
        return name, sums, notes

    def _scorer(self, part: str) -> Scorer:
        from mars_megatron import platform
        from mars_megatron.evaluation.t2i_compbench.scorers import own_scorer

        return self._judges().scorer(part, platform.device()) if self.scorer == "auto" else own_scorer(self.scorer)

    def _judges(self) -> Judges:
        from mars_megatron.evaluation.t2i_compbench.scorers import Judges

        return Judges(self.vqa, self.detector, self.clip, self.depth, self.detector_threshold, self.judge_batch_size)

    def _check_judges(self, files: Sequence[PromptFile]) -> None:
        from mars_megatron.evaluation.pretrained import model_type

        judges = self._judges()
        for file in files:
            for part in {part for of_prompt in file.parts for part in of_prompt}:
                for option, model in judges.needed(part).items():
                    if not model:
                        raise ValueError(
                            f"t2i_compbench: {file.path} is of category {file.category}, for which {option} is needed; "
                            f"give {option}, or a scorer of your own"
                        )
                    model_type(f"t2i_compbench: {option}", model)

    def _files(self) -> list[PromptFile]:
        from mars_megatron.evaluation.t2i_compbench.prompt_files import read_prompt_file

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

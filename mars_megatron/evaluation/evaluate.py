"""Everything that a checkpoint is scored by, as one report."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from mars_megatron.checkpoint import read_config, resolve
from mars_megatron.checkpoint.compatible import check_same_model
from mars_megatron.config.schema import GenerationConfig
from mars_megatron.config.yaml_io import to_dict
from mars_megatron.evaluation.captions import caption_accuracy
from mars_megatron.evaluation.classifier import ImageClassifier, split
from mars_megatron.evaluation.completion import completion_accuracy, read_facts
from mars_megatron.evaluation.controls import expert_pairs, swap_experts, visual_from_text
from mars_megatron.evaluation.labels import LabelledImages, LabelWords, read_labelled_images
from mars_megatron.evaluation.prompt_fidelity import Fidelity, check_prompts, prompt_fidelity
from mars_megatron.evaluation.request import EvaluationRequest
from mars_megatron.evaluation.text_preservation import changed_frozen_tensors, text_logits_max_abs_diff
from mars_megatron.generation import Sampler, load_for_inference, read_prompts
from mars_megatron.generation.output import write_samples

PRESERVATION_TEXTS = 256  # most samples whose text logits are compared


class Evaluation:
    """Scores one checkpoint. Every rank must run it, and gets the same report.

    Args:
        request: What to score.

    Raises:
        ValueError: An input is missing, damaged, or does not fit the model.
    """

    def __init__(self, request: EvaluationRequest) -> None:
        self.request = request
        self.seconds: dict[str, float] = {}
        # Before the model: what is wrong with the small inputs should not take long to be told.
        self.prompts = read_prompts(request.prompts) if request.prompts else []
        self.words = LabelWords.read(request.label_words) if request.label_words else None
        self.facts = read_facts(request.facts) if request.facts else []
        with self._phase("load"):
            self.loaded = load_for_inference(
                request.checkpoint, request.tensor, request.overrides, device=request.device
            )
            if request.controls:
                expert_pairs(self.loaded.model)
            self.sampler = Sampler(self.loaded)
            resolution = self.loaded.config.image.resolution
            self.real = read_labelled_images(request.images, resolution) if request.images else None

    def run(self) -> dict[str, Any]:
        """Score all that was asked for."""
        report: dict[str, Any] = {}
        if self.prompts:
            report |= self._prompt_fidelity()
        if self.words:
            report |= self._captions(self.words)
        if self.request.base:
            report |= self._text_preservation()
        if self.facts:
            report |= self._facts()
        saved = read_config(resolve(self.request.checkpoint))
        seconds = {**self.seconds, "total": sum(self.seconds.values())}
        report["seconds"] = {name: round(value, 2) for name, value in seconds.items()}
        report["config"] = to_dict(replace(saved, generation=self.loaded.config.generation))
        return report

    def _prompt_fidelity(self) -> dict[str, Any]:
        assert self.real is not None
        with self._phase("classifier"):
            train, test = split(self.real)
            classifier = ImageClassifier(train)
            check_prompts(self.prompts, classifier)
            report: dict[str, Any] = self._classifier_accuracy(classifier, test)
        with self._phase("sample"):
            fidelity = self._score(classifier, self.request.grid)
        report |= {
            "prompt_fidelity": fidelity.overall,
            f"prompt_fidelity_by_{self.request.group_name}": fidelity.by_group,
            f"prompt_fidelity_by_{self.request.label_name}": fidelity.by_label,
            "num_samples": fidelity.num_images,
        }
        if self.request.controls:
            report["controls"] = {}
            for name, control in (("experts_swapped", swap_experts), ("visual_from_text", visual_from_text)):
                with self._phase(name), control(self.loaded.model):
                    report["controls"][name] = self._score(classifier).overall
        return report

    def _classifier_accuracy(self, classifier: ImageClassifier, test: LabelledImages) -> dict[str, float]:
        """On images that the classifier has not seen, and on the same ones through the image tokenizer."""
        rebuilt = self.sampler.decode(self.sampler.image_tokenizer.encode(test.images))
        return {
            "classifier_accuracy_real": classifier.accuracy(test),
            "classifier_accuracy_reconstructed": classifier.accuracy(LabelledImages(rebuilt, test.labels)),
        }

    def _score(self, classifier: ImageClassifier, grid_file: str = "") -> Fidelity:
        per_prompt = self.request.samples_per_prompt
        texts = [prompt.text for prompt in self.prompts]
        codes = self.sampler.sample(texts, per_prompt, progress=True)
        images = self.sampler.decode(codes)
        if grid_file and torch.distributed.get_rank() == 0:
            write_samples(texts, codes, images, grid_file=grid_file)
        asked = [prompt for prompt in self.prompts for _ in range(per_prompt)]
        return prompt_fidelity(classifier.predict(images), asked)

    def _captions(self, words: LabelWords) -> dict[str, Any]:
        assert self.real is not None
        with self._phase("captions"):
            count = min(self.request.max_captions or len(self.real.labels), len(self.real.labels))
            # Spread over the folder, which may be sorted by label.
            chosen = self.real.take(np.linspace(0, len(self.real.labels) - 1, count).round().astype(int).tolist())
            captions = self.sampler.caption(chosen.images, self._greedy(), progress=True)
            return {
                "caption_accuracy": caption_accuracy(captions, chosen.labels, words),
                "num_captions": len(captions),
            }

    def _text_preservation(self) -> dict[str, Any]:
        with self._phase("text_preservation"):
            model, config, groups, vocabulary = self.loaded
            check_same_model(resolve(self.request.base), config, visual=False)
            base = load_for_inference(self.request.base, groups=groups, device=self.request.device).model
            return {
                "text_logits_max_abs_diff": text_logits_max_abs_diff(model, base, self._texts(), vocabulary),
                "frozen_tensors_changed": changed_frozen_tensors(model, base),
            }

    def _texts(self) -> list[list[int]]:
        """Text-only samples: the prompts and facts at hand; without any, all text ids in rows of 32."""
        texts = [prompt.text for prompt in self.prompts] + [fact.prompt + fact.answer for fact in self.facts]
        samples = [self.sampler.text_tokenizer.encode(text) for text in dict.fromkeys(texts)]
        if not samples:
            ids = list(range(self.sampler.text_tokenizer.size))
            samples = [ids[start : start + 32] for start in range(0, len(ids), 32)]
        return [sample for sample in samples if sample][:PRESERVATION_TEXTS]

    def _facts(self) -> dict[str, Any]:
        with self._phase("facts"):
            prompts = [fact.prompt.rstrip() for fact in self.facts]
            completions = self.sampler.complete(prompts, self._greedy(), progress=True)
            accuracy = completion_accuracy(completions, self.facts)
            return {
                "completion_accuracy": accuracy.overall,
                f"completion_accuracy_by_{self.request.group_name}": accuracy.by_group,
            }

    def _greedy(self) -> GenerationConfig:
        return replace(self.loaded.config.generation, temperature=0.0)

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        start = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - start


def evaluate(request: EvaluationRequest) -> dict[str, Any]:
    """Score a checkpoint; see `Evaluation`."""
    return Evaluation(request).run()

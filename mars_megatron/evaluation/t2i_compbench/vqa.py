"""Attributes by visual questions: does the image show each noun phrase of its prompt?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from mars_megatron.evaluation.pretrained import load_pretrained, load_processor
from mars_megatron.evaluation.t2i_compbench.phrases import phrase_finder

MAX_PHRASES = 8  # questions of one prompt, as in the benchmark
ACCEPTED = ("blip", "vilt")  # model_type


class AttributeScorer:
    """Product over the noun phrases of P(yes) / (P(yes) + P(no)) as the answer to the question "PHRASE?".

    Args:
        name: A transformers model for visual questions: BLIP (the benchmark's), of which the first token of the answer
            is taken, or ViLT, of which the classes are.
        device: Where it runs.
        batch_size: Questions in one forward pass.

    Raises:
        ValueError: It cannot be opened, is of another type, or cannot answer yes and no.
    """

    name = "vqa"

    def __init__(self, name: str, device: torch.device, batch_size: int) -> None:
        from transformers import AutoModelForVisualQuestionAnswering, AutoProcessor

        self._model = load_pretrained(AutoModelForVisualQuestionAnswering, "vqa", name, device)
        kind = self._model.config.model_type
        if kind not in ACCEPTED:
            raise ValueError(f"vqa is {name}, a {kind} model; accepted: {', '.join(ACCEPTED)}")
        self._processor = load_processor(AutoProcessor, "vqa", name)
        self._device = device
        self._batch_size = batch_size
        self._is_blip = kind == "blip"
        self._answers = self._blip_answers(name) if self._is_blip else self._vilt_answers(name)
        self._how, self._phrases = phrase_finder()

    def notes(self, prompts: Sequence[str]) -> dict[str, Any]:
        """How the noun phrases are found, and how many prompts have none (they score 1, as in the benchmark)."""
        without = sum(not self._phrases(prompt) for prompt in prompts)
        return {"noun_phrases": self._how, "num_prompts_without_noun_phrase": without}

    def __call__(self, images: torch.Tensor, prompts: Sequence[str]) -> list[float]:
        """uint8 [N, height, width, 3] and the prompt of each -> N scores in 0..1."""
        questions = [
            (number, f"{phrase.lower()}?")
            for number, prompt in enumerate(prompts)
            for phrase in self._phrases(prompt)[:MAX_PHRASES]
        ]
        # Questions of one length together: with padding, the answers of transformers' BLIP depend on its amount.
        by_length: dict[int, list[tuple[int, str]]] = {}
        for number, question in questions:
            by_length.setdefault(len(self._processor.tokenizer(question).input_ids), []).append((number, question))
        scores = [1.0] * len(prompts)
        for alike in by_length.values():
            for start in range(0, len(alike), self._batch_size):
                part = alike[start : start + self._batch_size]
                for (number, _), yes in zip(part, self._yes(images, part), strict=True):
                    scores[number] *= yes
        return scores

    @torch.no_grad()
    def _yes(self, images: torch.Tensor, questions: Sequence[tuple[int, str]]) -> list[float]:
        inputs = self._processor(
            images=[images[number].numpy() for number, _ in questions],
            text=[question for _, question in questions],
            return_tensors="pt",
        ).to(self._device)
        logits = self._blip_logits(inputs) if self._is_blip else self._model(**inputs).logits
        return logits[:, self._answers].float().softmax(dim=1)[:, 0].tolist()

    def _blip_logits(self, inputs: Any) -> torch.Tensor:
        """Of the first token of the answer: [N, vocabulary]."""
        seen = self._model.vision_model(pixel_values=inputs["pixel_values"]).last_hidden_state
        asked = self._model.text_encoder(input_ids=inputs["input_ids"], encoder_hidden_states=seen).last_hidden_state
        begin = torch.full((len(asked), 1), self._model.decoder_start_token_id, device=self._device)
        return self._model.text_decoder(input_ids=begin, encoder_hidden_states=asked).logits[:, 0]

    def _blip_answers(self, name: str) -> list[int]:
        ids = [self._processor.tokenizer(word, add_special_tokens=False).input_ids for word in ("yes", "no")]
        unknown = self._processor.tokenizer.unk_token_id
        if any(len(word) != 1 or word[0] == unknown for word in ids):
            raise ValueError(f"vqa {name} has no tokens for yes and no; give a model that answers in English")
        return [word[0] for word in ids]

    def _vilt_answers(self, name: str) -> list[int]:
        classes = {label.lower(): number for label, number in self._model.config.label2id.items()}
        if "yes" not in classes or "no" not in classes:
            raise ValueError(f"vqa {name} has no classes yes and no; give a model that answers questions")
        return [classes["yes"], classes["no"]]

"""What a MARS model draws and writes beyond `generate()`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin, LogitsProcessor, LogitsProcessorList

from mars_megatron.export.cache_mars import MarsCache
from mars_megatron.export.processing_mars import MarsProcessor
from mars_megatron.sampling.logits_to_ids import (
    GUIDANCE_SCHEDULES,
    guidance_at,
    guide,
    image_key,
    image_numbers,
    sample_ids,
    uniforms,
)


class TextIdsOnly(LogitsProcessor):
    """Lets text ids of the tokenizer occur and nothing else."""

    def __init__(self, num_text_ids: int) -> None:
        self.num_text_ids = num_text_ids

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores [samples, ids] with all others at -inf."""
        others = torch.arange(scores.shape[-1], device=scores.device) >= self.num_text_ids
        return scores.masked_fill(others, float("-inf"))


class MarsGenerationMixin(GenerationMixin):
    """Images for prompts and captions for images."""

    # Of the model that this is mixed into.
    config: Any
    model: Any
    lm_head: Any
    _source: str = ""  # where it was loaded from
    _processor: MarsProcessor | None = None

    def _prepare_cache_for_generation(
        self, generation_config: Any, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> None:
        """As for every model; a model with conditioned routers gets the cache that it needs.

        Raises:
            ValueError: cache_implementation names a cache that the model cannot work with.
        """
        kind, conditioned = generation_config.cache_implementation, self.config.is_conditioned
        if kind is not None and not kind.startswith("dynamic"):
            if kind not in ("offloaded", "quantized"):
                raise ValueError(f"cache_implementation is {kind!r}; accepted: 'dynamic'. Static caches do not grow")
            if kind == "offloaded" and self.device.type == "cpu":
                raise ValueError("cache_implementation is 'offloaded' and the model on the CPU; accepted: 'dynamic'")
            if conditioned:
                raise ValueError(
                    f"cache_implementation is {kind!r}; accepted: 'dynamic', for which a conditioned router "
                    "(router_condition) gets a MarsCache, which keeps text too"
                )
        given = model_kwargs.get("past_key_values")
        super()._prepare_cache_for_generation(generation_config, model_kwargs, *args, **kwargs)
        if conditioned and given is None and model_kwargs.get("past_key_values") is not None:
            model_kwargs["past_key_values"] = MarsCache()

    def init_continuous_batching(self, *args: Any, **kwargs: Any) -> Any:
        """Refused.

        Raises:
            ValueError: Always: it packs samples into one row.
        """
        raise ValueError("continuous batching packs samples into one row; accepted: generate() of padded samples")

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, *args: Any, inputs_embeds: Tensor | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """As for every model; a visual_mask belongs to the embeddings of the first step."""
        inputs = super().prepare_inputs_for_generation(input_ids, *args, inputs_embeds=inputs_embeds, **kwargs)
        if inputs.get("input_ids") is not None:
            inputs.pop("visual_mask", None)
        return inputs

    @torch.no_grad()
    def generate_image_codes(
        self,
        prompt_ids: Sequence[Sequence[int]],
        *,
        guidance_scale: float | None = None,
        guidance_schedule: str | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        seed: int | Sequence[int] = 0,
        numbers: Sequence[int] | None = None,
        batch_size: int = 16,
    ) -> Tensor:
        """Draw one image for each prompt.

        Settings left at None are those of `config.image_generation`. An image is decided by its prompt, its seed and
        its number, not by the other prompts or batch_size.

        Args:
            prompt_ids: Text ids of each prompt; an empty one is an image without a caption.
            guidance_scale: Classifier-free guidance; 1 disables it, anything else doubles the batch.
            guidance_schedule: constant; or linear or cosine: from 1 at the first code to guidance_scale at the last.
            temperature: Softmax temperature; 0 is greedy.
            top_k: Keep the k most probable codes; 0 keeps all.
            top_p: Keep the smallest set of codes with this total probability; 1 keeps all.
            min_p: Of these, keep codes with at least this share of the largest probability; 0 keeps all.
            seed: Seed of the random numbers, of all images or of each.
            numbers: Number of each image, which tells images of one prompt apart; None: how often its prompt stands
                in front of it.
            batch_size: Prompts drawn at once.

        Returns:
            Codes int64 [prompts, grid * grid] on the CPU, row by row.

        Raises:
            ValueError: A setting outside its range, or a prompt with an id that is not text.
        """
        settings = self._image_settings(
            guidance=guidance_scale,
            guidance_schedule=guidance_schedule,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
        )
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; accepted: 1 or more")
        for number, prompt in enumerate(prompt_ids):
            if any(not 0 <= token < self.config.text_vocab_size for token in prompt):
                raise ValueError(
                    f"prompt {number} has the ids {list(prompt)}; accepted: 0 to {self.config.text_vocab_size - 1}"
                )
        seeds = [seed] * len(prompt_ids) if isinstance(seed, int) else seed
        numbers = image_numbers(prompt_ids) if numbers is None else numbers
        keys = [image_key(*key) for key in zip(seeds, prompt_ids, numbers, strict=True)]
        codes = torch.zeros((len(prompt_ids), self.config.image_grid**2), dtype=torch.int64)
        with _evaluation(self):  # type: ignore[arg-type]
            for start in range(0, len(prompt_ids), batch_size):
                part = slice(start, start + batch_size)
                noise = uniforms(keys[part], codes.shape[1])
                codes[part] = self._sample_codes(prompt_ids[part], noise, **settings).cpu()
        return codes

    def generate_images(
        self,
        prompts: str | Sequence[str],
        guidance_scale: float | None = None,
        num_images_per_prompt: int = 1,
        seed: int = 0,
        *,
        processor: MarsProcessor | None = None,
        **settings: Any,
    ) -> list[Any]:
        """Draw images for prompts.

        Args:
            prompts: One text or several.
            guidance_scale: See `generate_image_codes`.
            num_images_per_prompt: Images of each prompt.
            seed: Seed of the random numbers.
            processor: The tokenizers; by default those of the folder that the model came from.
            settings: Others of `generate_image_codes`.

        Returns:
            PIL images, all of the first prompt first.

        Raises:
            ValueError: See `generate_image_codes`; or there are no tokenizers.
            ImportError: diffusers or Pillow is missing.
        """
        processor = processor or self._own_processor()
        processor.load_image_tokenizer(self.device)  # before the work: it may be missing
        texts = [prompts] if isinstance(prompts, str) else list(prompts)
        ids = [prompt for prompt in processor.encode_text(texts) for _ in range(num_images_per_prompt)]
        codes = self.generate_image_codes(ids, guidance_scale=guidance_scale, seed=seed, **settings)
        return processor.decode_images(codes)

    def generate_captions(
        self, images: Any, *, processor: MarsProcessor | None = None, batch_size: int = 16, **settings: Any
    ) -> list[str]:
        """Describe images.

        Args:
            images: A PIL image or several, of any size.
            processor: The tokenizers; by default those of the folder that the model came from.
            batch_size: Images described at once.
            settings: For `generate()`: max_new_tokens, num_beams, do_sample, ...

        Raises:
            ValueError: There are no tokenizers.
            ImportError: diffusers or Pillow is missing.
        """
        processor = processor or self._own_processor()
        processor.load_image_tokenizer(self.device)
        inputs = processor(images=images, task="i2t")["input_ids"].to(self.device)
        only_text = LogitsProcessorList([TextIdsOnly(self.config.num_text_ids), *settings.pop("logits_processor", [])])
        captions: list[str] = []
        with _evaluation(self):  # type: ignore[arg-type]
            for ids in inputs.split(batch_size):
                written = self.generate(
                    ids, attention_mask=torch.ones_like(ids), logits_processor=only_text, **settings
                )
                captions += processor.tokenizer.batch_decode(written[:, ids.shape[1] :], skip_special_tokens=True)
        return captions

    def _own_processor(self) -> MarsProcessor:
        if self._processor is None:
            source = self._source or self.config.name_or_path
            if not source:
                raise ValueError("the model was not loaded from a folder: give its processor")
            # Whoever loaded the model has trusted the code beside it.
            self._processor = MarsProcessor.from_pretrained(source, trust_remote_code=True)
        return self._processor

    def _image_settings(self, **given: Any) -> dict[str, Any]:
        settings = {**self.config.image_generation, **{name: v for name, v in given.items() if v is not None}}
        accepted = {
            "guidance_schedule": (settings["guidance_schedule"] in GUIDANCE_SCHEDULES, ", ".join(GUIDANCE_SCHEDULES)),
            "temperature": (settings["temperature"] >= 0, "0 or more"),
            "top_k": (settings["top_k"] >= 0, "0 or more"),
            "top_p": (0 < settings["top_p"] <= 1, "above 0, at most 1"),
            "min_p": (0 <= settings["min_p"] <= 1, "from 0 to 1"),
        }
        for name, (is_accepted, values) in accepted.items():
            if not is_accepted:
                raise ValueError(f"{name} is {settings[name]}; accepted: {values}")
        return settings

    def _sample_codes(
        self,
        prompts: Sequence[Sequence[int]],
        noise: Tensor,
        guidance: float,
        guidance_schedule: str,
        **truncation: Any,
    ) -> Tensor:
        """One batch; noise is float64 [prompts, codes], truncation of `sample_ids`. Returns codes of that shape."""
        config, guided = self.config, guidance != 1
        rows = [[*prompt, config.boi_token_id] for prompt in prompts]
        if guided:  # the same form as a dropped caption in training
            rows += [[config.boi_token_id]] * len(prompts)
        ids, mask = _pad_left(rows, self.device)
        noise, cache = noise.to(self.device), None
        codes: list[Tensor] = []
        while True:
            outputs = self.model(ids, attention_mask=mask, past_key_values=cache, use_cache=True, return_dict=True)
            cache = outputs.past_key_values
            # The rows of the head for codes are enough: nothing else can be drawn.
            logits = self.lm_head.visual(outputs.last_hidden_state[:, -1])[:, : config.codebook_size].float()
            if guided:
                conditional, unconditional = logits.chunk(2)
                scale = guidance_at(len(codes), noise.shape[1], guidance, guidance_schedule)
                logits = guide(conditional, unconditional, scale)
            codes.append(sample_ids(logits, noise[:, len(codes)], **truncation))
            if len(codes) == noise.shape[1]:
                return torch.stack(codes, dim=1)
            ids = (codes[-1] + config.text_vocab_size)[:, None]
            ids = torch.cat((ids, ids)) if guided else ids
            mask = torch.cat((mask, mask.new_ones(len(ids), 1)), dim=1)


def _pad_left(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids and attention mask, int64 [rows, longest]."""
    width = max(len(row) for row in rows)
    ids = torch.tensor([[0] * (width - len(row)) + list(row) for row in rows], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
    return ids, mask


@contextmanager
def _evaluation(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; the mode from before afterwards."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)

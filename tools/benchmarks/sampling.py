"""Drawing images against transformers' `generate` on the exported model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from transformers import LogitsProcessor, LogitsProcessorList

from benchmarks.timing import OURS, as_table, contest, ratios_to_ours
from mars_megatron import platform
from mars_megatron.config import validate
from mars_megatron.config.schema import GenerationConfig, ImageConfig, ModelConfig, RunConfig, VocabularyConfig
from mars_megatron.conversion.mapping import AttentionShape, parameters, split
from mars_megatron.export.folder import build_mars_config
from mars_megatron.export.modeling_mars import MarsForCausalLM
from mars_megatron.model import MARSModel, build_model
from mars_megatron.platform.parallel import initialize_parallel
from mars_megatron.sampling import sample_images
from mars_megatron.sequence.vocabulary import Vocabulary

DOWNSAMPLE = 4  # pixels per code; nothing is decoded
END_OF_TEXT = 0


@dataclass(frozen=True)
class SamplingOptions:
    """What is drawn, and with which model; random fp32 weights.

    Args:
        layers: Transformer layers.
        hidden: Width.
        ffn: Width of the SwiGLU FFN.
        heads: Attention heads.
        text_size: Rows of the text vocabulary.
        codebook_size: Image codes.
        grid: Rows and columns of codes of an image.
        prompt_tokens: Length of every prompt: without padding `generate` is at its fastest.
        batches: Images drawn at once, as many measurements.
        guidances: Scales of guidance, 1 without it.
        temperature: Of the draws.
        rounds: Timed calls of each contestant.
        progress: Show progress bars.
    """

    layers: int = 4
    hidden: int = 128
    ffn: int = 344
    heads: int = 4
    text_size: int = 256
    codebook_size: int = 256
    grid: int = 4
    prompt_tokens: int = 4
    batches: tuple[int, ...] = (1, 16, 64)
    guidances: tuple[float, ...] = (1.0, 2.0)
    temperature: float = 1.0
    rounds: int = 7
    progress: bool = True


class CodesOnly(LogitsProcessor):
    """Lets codes occur and nothing else.

    Args:
        vocabulary: Layout of the joined ids.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.codes = slice(vocabulary.text_size, vocabulary.text_size + vocabulary.codebook_size)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores [samples, ids] with all others at -inf."""
        allowed = torch.full_like(scores, float("-inf"))
        allowed[:, self.codes] = scores[:, self.codes]
        return allowed


class Contest:
    """One set of weights in both forms.

    Args:
        options: What is drawn.

    Raises:
        ValueError: The shape of the model is impossible.
    """

    def __init__(self, options: SamplingOptions) -> None:
        self.options = options
        self.config = run_config(options)
        platform.initialize("auto")
        platform.init_process_group()
        validate(self.config, 1)
        groups = initialize_parallel(self.config.parallel, self.config.training.seed)
        (self.model,) = build_model(self.config, groups)
        self.model.eval()
        self.vocabulary = Vocabulary.from_config(self.config)
        self.exported = export(self.model, self.config)

    def prompts(self, number: int) -> list[list[int]]:
        """Text ids of some prompts, none alike."""
        generator = torch.Generator().manual_seed(0)
        shape = (number, self.options.prompt_tokens)
        return torch.randint(1, self.options.text_size, shape, generator=generator).tolist()

    def ours(self, prompts: Sequence[Sequence[int]], guidance: float, temperature: float) -> torch.Tensor:
        """Codes int64 [prompts, codes] by `sample_images`."""
        settings = GenerationConfig(guidance=guidance, temperature=temperature, batch_size=len(prompts))
        return sample_images(self.model, prompts, self.vocabulary, self.options.grid**2, settings)

    def exported_images(self, prompts: Sequence[Sequence[int]], guidance: float, temperature: float) -> torch.Tensor:
        """The same by the exported model's own `generate_image_codes`."""
        return self.exported.generate_image_codes(
            prompts, guidance_scale=guidance, temperature=temperature, batch_size=len(prompts)
        )

    def generate(self, prompts: Sequence[Sequence[int]], guidance: float, temperature: float) -> torch.Tensor:
        """The same by transformers' `generate`, with its own guidance and draws."""
        num_codes, boi = self.options.grid**2, self.vocabulary.boi
        ids = torch.tensor([[*prompt, boi] for prompt in prompts], device=platform.device())
        settings: dict[str, Any] = {"do_sample": False}
        if temperature > 0:
            settings = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
        if guidance != 1:
            settings |= {"guidance_scale": guidance, "negative_prompt_ids": torch.full_like(ids[:, :1], boi)}
        drawn = self.exported.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            logits_processor=LogitsProcessorList([CodesOnly(self.vocabulary)]),
            max_new_tokens=num_codes,
            min_new_tokens=num_codes,
            use_cache=True,
            **settings,
        )
        return self.vocabulary.id_to_code(drawn[:, -num_codes:]).cpu()


def run(options: SamplingOptions, say: Callable[[str], None] = print) -> tuple[dict[str, Any], dict[str, Any]]:
    """Ratios and seconds, by batch and guidance ("16, guidance 2.0") and contestant.

    Raises:
        ValueError: The shape of the model is impossible, or there is nothing to draw.
    """
    check(options)
    contestants = Contest(options)
    count = sum(parameter.numel() for parameter in contestants.model.parameters())
    say(f"{count / 1e6:.1f}M parameters, {options.grid**2} codes an image, fp32, with the KV cache")
    seconds: dict[str, dict[str, float]] = {}
    for batch in options.batches:
        prompts = contestants.prompts(batch)
        for guidance in options.guidances:
            calls = {
                name: partial(draw, prompts, guidance, options.temperature)
                for name, draw in (
                    (OURS, contestants.ours),
                    ("generate", contestants.generate),
                    ("exported", contestants.exported_images),
                )
            }
            name = f"{batch}, guidance {guidance}"
            seconds[name] = contest(calls, options.rounds, f"batch {name}", options.progress)
            rate = batch * options.grid**2 / seconds[name][OURS]
            say(as_table(f"batch {name}: ours {rate:,.0f} codes/s", seconds[name]))
    return {name: ratios_to_ours(values) for name, values in seconds.items()}, seconds


def check(options: SamplingOptions) -> None:
    """Whether there is something to draw.

    Raises:
        ValueError: A number is too small.
    """
    for name, values, least in (
        ("--batch", options.batches, 1),
        ("--guidance", options.guidances, 0),
        ("--grid", (options.grid,), 1),
        ("--prompt-tokens", (options.prompt_tokens,), 1),
        ("--temperature", (options.temperature,), 0),
    ):
        for value in values:
            if value < least:
                raise ValueError(f"{name} is {value}; accepted: {least} or more")


def run_config(options: SamplingOptions) -> RunConfig:
    """The model that draws."""
    return RunConfig(
        model=ModelConfig(
            num_layers=options.layers,
            hidden_size=options.hidden,
            ffn_hidden_size=options.ffn,
            num_attention_heads=options.heads,
            num_query_groups=options.heads,
        ),
        vocabulary=VocabularyConfig(text_size=options.text_size, codebook_size=options.codebook_size),
        image=ImageConfig(resolution=options.grid * DOWNSAMPLE, downsample=DOWNSAMPLE),
    )


def export(model: MARSModel, config: RunConfig) -> MarsForCausalLM:
    """The exported model, as transformers runs it, with the same weights."""
    state, heads = dict(model.state_dict()), AttentionShape.of(config)
    for name in [name for name in state if name.endswith("linear_fc1.weight")]:
        # In checkpoints gate and up are keys of their own.
        state[f"{name}_w"], state[f"{name}_v"] = state[name].chunk(2)
    parts: dict[str, torch.Tensor] = {}
    for parameter in parameters(config):
        parts.update(zip(parameter.parts, split(parameter, state[parameter.key], heads), strict=True))
    settings = replace(config.generation, guidance=1.0)
    exported = MarsForCausalLM(build_mars_config(replace(config, generation=settings), eos_id=END_OF_TEXT))
    exported.load_state_dict(parts)
    return exported.eval().to(platform.device())

"""The whole configuration of a run: frozen dataclasses, one tree, no torch import."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from mars_megatron.config.data_schema import CorpusConfig as CorpusConfig
from mars_megatron.config.data_schema import DataConfig as DataConfig
from mars_megatron.config.data_schema import TaskWeights as TaskWeights


@dataclass(frozen=True)
class RopeScalingConfig:
    """Scaling of the rotary position embedding to contexts longer than those of the first training.

    Args:
        type: none, linear (all frequencies divided by factor) or llama3 (Llama 3.1: only the low ones).
        factor: Divisor of the frequencies; 1 with none.
        low_freq_factor: Only for llama3: wavelengths above original_context / low_freq_factor are scaled by all of
            factor.
        high_freq_factor: Only for llama3: wavelengths below original_context / high_freq_factor are kept; those between
            the two bounds are interpolated.
        original_context: Only for llama3: longest context before the scaling, in tokens.
    """

    type: Literal["none", "linear", "llama3"] = "none"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context: int = 8192


@dataclass(frozen=True)
class ModelConfig:
    """Shape of the transformer. Text and visual experts share it.

    Args:
        num_layers: Number of transformer layers.
        hidden_size: Width of the residual stream.
        ffn_hidden_size: Width of each SwiGLU FFN expert.
        num_attention_heads: Query heads.
        num_query_groups: Key/value heads (grouped-query attention); equal to the heads for multi-head attention.
        head_dim: Size of one head; 0 means hidden_size / num_attention_heads.
        qkv_bias: Whether the query/key/value projections have a bias (Qwen has).
        qk_norm: RMSNorm of each query and key head, before the rotary embedding (Qwen3 has it). Each modality has its
            own.
        norm_eps: Epsilon of the RMSNorms.
        rope_base: Base period of the rotary position embedding.
        rope_scaling: Scaling of the rotary embedding to longer contexts.
        init_std: Standard deviation of the random initialisation.
        embedding_init_std: The same for the embedding rows; 0 means init_std. Larger rows keep a token's identity
            readable in every layer's keys and values.
        expert_norms: Separate RMSNorms per modality; the paper shares them (and freezes them).
        expert_output_projection: Separate attention output projection per modality.
        shared_experts: Visual tokens go through the text experts too (projections, FFN and qk_norm): the paper's
            comparison without SemVIE. Each token sees as many parameters as with it; the tables of ids stay apart.
    """

    num_layers: int = 4
    hidden_size: int = 128
    ffn_hidden_size: int = 352
    num_attention_heads: int = 4
    num_query_groups: int = 4
    head_dim: int = 0
    qkv_bias: bool = True
    qk_norm: bool = False
    norm_eps: float = 1e-6
    rope_base: float = 10000.0
    rope_scaling: RopeScalingConfig = field(default_factory=RopeScalingConfig)
    init_std: float = 0.02
    embedding_init_std: float = 0.0
    expert_norms: bool = False
    expert_output_projection: bool = True
    shared_experts: bool = False


@dataclass(frozen=True)
class ExpertsConfig:
    """FFN experts of each modality. The paper has one: a dense FFN for all tokens of the modality.

    Args:
        text: Text FFN experts; above 1 a learned router chooses among them.
        visual: Visual FFN experts; above 1 a learned router chooses among them.
    """

    text: int = 1
    visual: int = 1


@dataclass(frozen=True)
class RouterConfig:
    """The learned routers, one per layer for each modality with more than one expert.

    Args:
        top_k: Experts chosen for each token.
        condition: Additional input of the visual router: none, or the mean state of the text in front of
            the image (text).
        balance_loss: Factor of the load-balancing loss of each modality; 0 disables.
        z_loss: Factor of the router z-loss of each modality; 0 disables.
    """

    top_k: int = 1
    condition: Literal["none", "text"] = "none"
    balance_loss: float = 0.01
    z_loss: float = 0.001


@dataclass(frozen=True)
class VocabularyConfig:
    """Sizes of the joined id space: text rows first, then image codes, then specials.

    Args:
        text_size: Rows of the text tokenizer.
        codebook_size: Codes of the image tokenizer.
        pad_multiple: Text and image tables are each padded to a multiple of this. parallel.tensor must divide it.
    """

    text_size: int = 512
    codebook_size: int = 256
    pad_multiple: int = 8


@dataclass(frozen=True)
class ImageConfig:
    """Geometry of the image tokens.

    Args:
        resolution: Height and width of an image, in pixels.
        downsample: Pixels per token along each side (the f of the VQ model).
        low_resolution: Height and width of the low-resolution image of super-resolution, in pixels; 0 without it.
        next_k: The K of next-K-token prediction in the high-resolution part of super-resolution: each position predicts
            the code K places on, so that one forward pass gives K codes. 1 is plain decoding.
        order: Order of the high-resolution codes: raster (row by row), or regions, in which the K codes predicted
            together lie in K regions of the image, at the same place of each, instead of beside each other.
    """

    resolution: int = 16
    downsample: int = 4
    low_resolution: int = 0
    next_k: int = 1
    order: Literal["raster", "regions"] = "raster"

    @property
    def side(self) -> int:
        """Tokens along each side of an image."""
        return self.resolution // self.downsample

    @property
    def num_codes(self) -> int:
        """Tokens of an image."""
        return self.side**2

    @property
    def low_side(self) -> int:
        """Tokens along each side of a low-resolution image; 0 without one."""
        return self.low_resolution // self.downsample

    @property
    def num_low_codes(self) -> int:
        """Tokens of a low-resolution image; 0 without one."""
        return self.low_side**2


@dataclass(frozen=True)
class FreezeConfig:
    """Parts of the model that are not trained.

    Args:
        text: The text experts and the text rows of embedding and head.
        visual: The visual experts and the image rows of embedding and head.
        norms: The shared RMSNorms. With model.expert_norms the norms follow their expert.
    """

    text: bool = True
    visual: bool = False
    norms: bool = True

    def of(self, expert: str, is_norm: bool) -> bool:
        """Whether parameters of an expert are frozen: text, visual, or shared, which without the norms follow text."""
        if expert == "shared":
            return self.norms if is_norm else self.text
        return self.visual if expert == "visual" else self.text


@dataclass(frozen=True)
class LossConfig:
    """The training loss.

    Args:
        vocabulary: Normalise over all rows (full, the paper), or over the rows of the target's modality.
        text_weight: Factor of the text targets' losses in what is optimised (divided by the number of all targets);
            logged losses are without it. A caption has few targets, an image many.
    """

    vocabulary: Literal["full", "modality"] = "full"
    text_weight: float = 1.0


@dataclass(frozen=True)
class ParallelConfig:
    """Layout of the model over ranks. The remaining ranks are data-parallel.

    Args:
        tensor: Tensor-parallel size.
        pipeline: Pipeline-parallel size.
        virtual_pipeline: Model chunks per pipeline rank; above 1 the schedule is interleaved 1F1B.
        sequence: Sequence parallelism (shards norms' activations over the tensor-parallel ranks).
        expert: Expert-parallel size, a divisor of the data-parallel size. The experts of a modality are spread over
            these ranks; a single expert is split along its width. The micro-batches of these ranks skip the backward
            pass of the text rows together or not at all.
        distributed_optimizer: Shard optimiser state over the data-parallel ranks.
    """

    tensor: int = 1
    pipeline: int = 1
    virtual_pipeline: int = 1
    sequence: bool = False
    expert: int = 1
    distributed_optimizer: bool = True


@dataclass(frozen=True)
class RecomputeConfig:
    """Activation recomputation.

    Args:
        granularity: none, selective (core attention) or full (whole layers).
        method: For full: uniform chunks of num_layers, or the first num_layers of each stage (block).
        num_layers: Layers per chunk (uniform) or recomputed layers per stage (block).
    """

    granularity: Literal["none", "selective", "full"] = "none"
    method: Literal["uniform", "block"] = "uniform"
    num_layers: int = 1


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with linear warm-up and cosine decay.

    Args:
        lr: Peak learning rate.
        min_lr: Learning rate at the end of the decay.
        warmup_ratio: Share of the steps spent in linear warm-up.
        beta1: First AdamW decay.
        beta2: Second AdamW decay.
        eps: AdamW epsilon.
        weight_decay: Decoupled weight decay (not on biases and norms).
        clip_grad: Global gradient-norm limit; 0 disables clipping.
        grad_norm_skip_threshold: A step whose global gradient norm is above this changes nothing; 0 disables. Needs
            megatron-core 0.19.
    """

    lr: float = 1e-3
    min_lr: float = 1e-5
    warmup_ratio: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1
    clip_grad: float = 1.0
    grad_norm_skip_threshold: float = 0.0


@dataclass(frozen=True)
class TrainingConfig:
    """Length, batch and precision of the run.

    Args:
        steps: Optimiser steps.
        global_batch_size: Micro-batches (packed sequences) per optimiser step, over all data-parallel ranks.
        precision: Parameter and activation type; bf16 keeps fp32 master weights.
        seed: Seed of initialisation.
        eval_interval: Steps between validations; 0 disables.
        eval_batches: Micro-batches per validation, over all data-parallel ranks.
        device: auto takes CUDA where there is a GPU, else the CPU.
        backend: Layer implementation: local (torch) or transformer_engine.
    """

    steps: int = 100
    global_batch_size: int = 2
    precision: Literal["fp32", "bf16"] = "fp32"
    seed: int = 1234
    eval_interval: int = 0
    eval_batches: int = 8
    device: Literal["auto", "cpu", "cuda"] = "auto"
    backend: Literal["local", "transformer_engine"] = "local"


@dataclass(frozen=True)
class CheckpointConfig:
    """Saving, resuming and initialisation from a checkpoint.

    Args:
        dir: Folder of the run: checkpoints, logs, resolved config. A complete checkpoint in it is resumed.
        interval: Steps between checkpoints; 0 saves only at the end.
        keep: Newest complete checkpoints to keep; 0 keeps all.
        init_from: Checkpoint folder from which parameters are initialised.
        init_visual: Initialisation of the visual side with init_from. copy: the checkpoint is a language model; visual
            experts become copies of its text experts and image rows its mean text row. random: the same, but visual
            experts are random. keep: the checkpoint is a MARS model of an earlier stage, whose visual experts are
            loaded.
        init_optimizer: Initialisation of the optimiser with init_from. fresh: empty state. keep, with init_visual keep:
            the saved moments and master weights. Schedule and position in the data are not loaded.
        verify_integrity: Save SHA-256 sums of a checkpoint's files, and compare them before such a checkpoint
            is loaded; reads every file once more. Needs megatron-core 0.19.
    """

    dir: str = ""
    interval: int = 0
    keep: int = 2
    init_from: str = ""
    init_visual: Literal["copy", "random", "keep"] = "copy"
    init_optimizer: Literal["fresh", "keep"] = "fresh"
    verify_integrity: bool = False


@dataclass(frozen=True)
class LoggingConfig:
    """Logs of a training run.

    Args:
        interval: Steps between logged lines (console, TensorBoard and metrics.jsonl).
        tensorboard: Write TensorBoard events under checkpoint.dir/tensorboard.
        sample_interval: Steps between grids of sampled images in TensorBoard; 0 disables.
        sample_prompts: Prompts of that grid.
        progress: Show a progress bar on rank 0.
    """

    interval: int = 10
    tensorboard: bool = True
    sample_interval: int = 0
    sample_prompts: tuple[str, ...] = ()
    progress: bool = True


@dataclass(frozen=True)
class EvaluationConfig:
    """Scores during training, in addition to the losses on the validation split.

    Args:
        interval: Steps between evaluations; the last one follows the last step. 0 disables.
        suites: The suites of tools/evaluate.py to run, by name, with their options, such as
            {"facts": {"facts": "facts.jsonl"}}. A suite of your own is named as package.module.name,
            package.module:name or folder/file.py:name.
    """

    interval: int = 0
    suites: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class GenerationConfig:
    """Sampling of images.

    Args:
        guidance: Classifier-free guidance scale; 1 disables.
        guidance_schedule: How the scale goes over the steps of an image. constant: it stays. linear, cosine: from 1 at
            the first code to `guidance` at the last, evenly or with gentle ends.
        temperature: Softmax temperature; 0 is greedy.
        top_k: Keep the k most probable codes; 0 keeps all.
        top_p: Keep the smallest set of codes with this total probability, among those of top_k; 1 keeps all.
        min_p: Of these, keep codes with at least this share of the largest probability; 0 keeps all.
        seed: Seed of the random draws.
        batch_size: Prompts sampled at once (guidance doubles it).
        max_caption_tokens: Longest caption generated.
        text_temperature: Softmax temperature of the text in documents of texts and images (tools/interleave.py); their
            codes use `temperature`. 0 is greedy.
    """

    guidance: float = 3.0
    guidance_schedule: Literal["constant", "linear", "cosine"] = "constant"
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0
    batch_size: int = 64
    max_caption_tokens: int = 64
    text_temperature: float = 1.0


@dataclass(frozen=True)
class RunConfig:
    """One run: everything that decides what is computed.

    Args:
        model: Shape of the transformer.
        experts: FFN experts of each modality.
        router: Learned routing among them.
        vocabulary: Joined id space.
        image: Image geometry.
        freeze: Parts that are not trained.
        loss: Training loss.
        data: Input.
        parallel: Layout over ranks.
        recompute: Activation recomputation.
        optimizer: AdamW and its schedule.
        training: Length, batch, precision, device.
        checkpoint: Saving, resuming, starting point.
        logging: Console, TensorBoard, JSONL.
        evaluation: Scores while training.
        generation: Sampling.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    experts: ExpertsConfig = field(default_factory=ExpertsConfig)
    router: RouterConfig = field(default_factory=RouterConfig)
    vocabulary: VocabularyConfig = field(default_factory=VocabularyConfig)
    image: ImageConfig = field(default_factory=ImageConfig)
    freeze: FreezeConfig = field(default_factory=FreezeConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    data: DataConfig = field(default_factory=DataConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    recompute: RecomputeConfig = field(default_factory=RecomputeConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    generation: GenerationConfig = field(default_factory=GenerationConfig)

    @property
    def text_is_frozen(self) -> bool:
        """Whether neither the text experts nor the norms in front of them are trained."""
        return self.freeze.text and (self.freeze.norms or self.model.expert_norms)


def to_dict(config: RunConfig) -> dict[str, Any]:
    """Nested plain values, tuples as lists."""
    return asdict(config, dict_factory=_plain)


def _plain(items: list[tuple[str, Any]]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in items}

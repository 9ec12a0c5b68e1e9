"""The model card of an exported folder."""

from __future__ import annotations

from mars_megatron.config import to_yaml
from mars_megatron.config.schema import RunConfig

_HEAD = """\
---
license: other
library_name: transformers
pipeline_tag: text-to-image
tags:
- mars
- image-to-text
---

# {title}

MARS ([arXiv 2407.07614](https://arxiv.org/abs/2407.07614)): a language model that draws. Every layer has a text
expert and a visual expert; one causal attention joins both kinds of tokens. An image of {resolution} x
{resolution} pixels is {grid} x {grid} codes of a VQ model with a codebook of {codes}. Trained with mars_megatron,
exported at step {step} in {dtype}.

State here the training data, the intended use and the license.

## Loading

Needs `torch`, `transformers` and `safetensors`{extras}.

```python
import torch
from transformers import AutoModelForCausalLM

path = "mars"  # this folder, or its name on the Hub
model = AutoModelForCausalLM.from_pretrained(path, trust_remote_code=True)
```
"""

_TEXT = """
## Writing

```python
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=True)
inputs = tokenizer("a", return_tensors="pt", add_special_tokens=False)
print(tokenizer.decode(model.generate(inputs.input_ids, attention_mask=inputs.attention_mask)[0]))
```

Hidden states and attention weights:

```python
outputs = model(**inputs, output_hidden_states=True, output_attentions=True)
print(len(outputs.hidden_states), outputs.attentions[0].shape)
```
"""

_IMAGES = """
## Drawing

```python
images = model.generate_images(
    ["a red square", "a blue circle"], guidance_scale={guidance}, num_images_per_prompt=2, seed=0
)
images[0].save("sample.png")
```

Further arguments: `guidance_schedule`, `temperature`, `top_k`, `top_p`, `min_p`, `batch_size`; the defaults are those
of `config.image_generation`. A prompt and a seed give the same images in every batch. `model.generate_image_codes`
returns the codes.

## Captions

```python
print(model.generate_captions(images))
```

Further arguments are those of `generate()`, such as `do_sample=True, temperature=0.7` or `num_beams=3`.

## Fine-tuning

MARS trains the visual expert. `AutoProcessor` makes samples with labels: `t2i` (caption, image) for drawing, `i2t`
(image, caption) for captioning, `text` for writing.

```python
from transformers import AutoProcessor, Trainer, TrainingArguments

processor = AutoProcessor.from_pretrained(path, trust_remote_code=True)
for name, parameter in model.named_parameters():
    parameter.requires_grad_(".visual." in name)
batch = processor(images=images[:2], text=["a red square", "a red square"], task="t2i")
dataset = [{{name: values[number] for name, values in batch.items()}} for number in range(2)]
arguments = TrainingArguments("fine-tuned", max_steps=2, report_to="none", save_strategy="no")
Trainer(model=model, args=arguments, train_dataset=dataset).train()
model.save_pretrained("fine-tuned")
processor.save_pretrained("fine-tuned")
```

Copy `training_config.yaml` into the new folder, and `import-hf` of mars_megatron reads it.

The processor takes `padding`, `truncation` (which cuts captions, never images), `max_length`, `pad_to_multiple_of`,
`padding_side` and `return_tensors`. `task="text", add_special_tokens=False` makes prompts for `generate()`.

- Leave `label_smoothing_factor` at 0. Otherwise the Trainer computes the loss itself, and shifts the labels only for
  classes of transformers: this model would learn to repeat its input.
- The padding id is the end id. `DataCollatorForLanguageModeling` excludes padding from the loss, and so every end id.
  Do not use it: the batches of the processor are complete.
- With peft, `target_modules="all-linear"` adapts the projections of both experts, `r"{adapted}"` those of
  the visual one. `modules_to_save=["lm_head"]` trains the head too. Prompt tuning, p-tuning and trainable tokens ask
  for one table of embeddings, and do not work.
"""

# Names of the projections of the visual expert, for adapters.
ADAPTED = r".*\.visual\..*_proj"

_TAIL = """
## Limits

- The attention is torch's `scaled_dot_product_attention` ("sdpa") or step by step ("eager"), as `attn_implementation`
  or `set_attn_implementation` says; others are refused. `output_attentions` takes the eager one.
- An `attention_mask` is [samples, length], 1 for tokens and 0 for padding on either side. Masks of 4 dimensions
  (4-D), samples packed into one row and continuous batching are refused.
- Static caches are refused: they do not grow.
- `max_new_tokens` is {max_new_tokens} in `generation_config.json` and goes before `max_length`: give `max_new_tokens`.
- Embedding and head have two tables each, `text` and `visual`, no `.weight` of their own and a fixed size.
  `inputs_embeds` need a `visual_mask` [samples, length], 1 where the visual expert takes the token.
- An image is {resolution} x {resolution} pixels; others are resized and their centre is cut out. Give the processor
  images as `Image.open` gives them: bits, alpha and colour profiles then count as in training, and what a file does not
  say (the range of floats, for example) is a `ValueError`. Of an image converted before, only its 8 bits are left.
- `generate()` may write any id of the joined vocabulary: text below {text_size}, then image codes.{captions}
{super_resolution}{routers}- The loss is the plain cross-entropy of the labels.

## Training configuration

Also in `training_config.yaml`.

```yaml
{config}```
"""


def model_card(
    config: RunConfig,
    *,
    title: str,
    step: int,
    dtype: str,
    has_text: bool,
    has_images: bool,
    needs_sentencepiece: bool = False,
) -> str:
    """README.md of an exported folder.

    Args:
        config: The run.
        title: Heading.
        step: Training step.
        dtype: Type of the weights.
        has_text: The folder has a text tokenizer.
        has_images: The folder has an image tokenizer.
        needs_sentencepiece: Its text tokenizer is a SentencePiece model.
    """
    images = has_text and has_images
    extras = "; texts need `sentencepiece`" if needs_sentencepiece else ""
    extras += "; images need `diffusers` and `pillow`, the trainer `accelerate`" if images else ""
    values = {
        "title": title,
        "codes": config.vocabulary.codebook_size,
        "grid": config.image.side,
        "resolution": config.image.resolution,
        "step": step,
        "dtype": dtype,
        "extras": extras,
        "guidance": config.generation.guidance,
        "max_new_tokens": config.generation.max_caption_tokens,
        "adapted": ADAPTED,
        "text_size": config.vocabulary.text_size,
        "captions": " `generate_captions` allows text alone." if images else "",
        "super_resolution": _super_resolution(config),
        "routers": _routers(config),
        "config": to_yaml(config),
    }
    parts = [_HEAD.format(**values)]
    if has_text:
        parts.append(_TEXT)
    missing = [name for name, there in (("text", has_text), ("image", has_images)) if not there]
    if images:
        parts.append(_IMAGES.format(**values))
    if missing:
        parts.append(
            f"\n## Not in this folder\n\nThe {' and the '.join(missing)} tokenizer: the run named none. Without both, "
            "`generate_image_codes` takes ids and gives codes, and there is no processor for images and samples.\n"
        )
    return "".join([*parts, _TAIL.format(**values)])


def _super_resolution(config: RunConfig) -> str:
    low = config.image.low_resolution
    if low == 0:
        return ""
    return f"- It was trained for super-resolution from {low} x {low} pixels; `generate_images` does not do that.\n"


def _routers(config: RunConfig) -> str:
    if config.experts.text == config.experts.visual == 1:
        return ""
    lines = "- The load-balancing losses of the routers are not part of fine-tuning here.\n"
    if config.experts.visual > 1 and config.router.condition == "text":
        lines += (
            "- Its routers see the text before an image, which the model keeps in a cache of its own: leave "
            "`past_key_values`\n  out. Other caches, prefix tuning and assisted decoding, which takes text back, are "
            "refused.\n"
        )
    return lines

"""Folders of tiny random transformers models that judge images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import (
    BertTokenizer,
    BlipConfig,
    BlipForQuestionAnswering,
    BlipProcessor,
    CLIPConfig,
    CLIPModel,
    CLIPProcessor,
    CLIPTokenizer,
    DPTConfig,
    DPTForDepthEstimation,
    OwlViTConfig,
    OwlViTForObjectDetection,
    OwlViTProcessor,
    ViltConfig,
    ViltForQuestionAnswering,
    ViltProcessor,
    YolosConfig,
    YolosForObjectDetection,
)
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.dpt.image_processing_pil_dpt import DPTImageProcessorPil
from transformers.models.owlvit.image_processing_pil_owlvit import OwlViTImageProcessorPil
from transformers.models.vilt.image_processing_pil_vilt import ViltImageProcessorPil
from transformers.models.yolos.image_processing_pil_yolos import YolosImageProcessorPil

SIDE = 16  # pixels
TRANSFORMER = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
VISION = {**TRANSFORMER, "image_size": SIDE, "patch_size": 8}
WORDS = "yes no a the red green blue square circle cup dog cat ?".split()


def _speller(max_tokens: int) -> CLIPTokenizer:
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    ids = {token: number for number, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=ids, merges=[], model_max_length=max_tokens)


def write_clip(folder: Path, max_tokens: int = 16) -> Path:
    """A CLIP model that spells words."""
    tokenizer = _speller(max_tokens)
    ids = tokenizer.get_vocab()
    text = {
        **TRANSFORMER,
        "vocab_size": len(ids),
        "max_position_embeddings": max_tokens,
        "bos_token_id": ids["<|startoftext|>"],
        "eos_token_id": ids["<|endoftext|>"],
    }
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=VISION, projection_dim=8))
    size = {"height": SIDE, "width": SIDE}
    images = CLIPImageProcessorPil(size=size, crop_size=size)
    model.save_pretrained(folder)
    CLIPProcessor(image_processor=images, tokenizer=tokenizer).save_pretrained(folder)
    return folder


def write_blip(folder: Path) -> Path:
    """A BLIP model for visual questions, which knows `WORDS`."""
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", *WORDS]
    tokenizer = BertTokenizer(vocab={token: number for number, token in enumerate(vocabulary)})
    text = {
        **TRANSFORMER,
        "encoder_hidden_size": 16,
        "vocab_size": len(vocabulary),
        "max_position_embeddings": 32,
        "pad_token_id": 0,
        "bos_token_id": 5,
        "sep_token_id": 3,
        "eos_token_id": 3,
        "initializer_range": 1.0,  # answers that differ from image to image
    }
    torch.manual_seed(0)
    model = BlipForQuestionAnswering(BlipConfig(text_config=text, vision_config=VISION, projection_dim=8))
    images = BlipImageProcessorPil(size={"height": SIDE, "width": SIDE})
    model.save_pretrained(folder)
    BlipProcessor(image_processor=images, tokenizer=tokenizer).save_pretrained(folder)
    return folder


def write_open_detector(folder: Path) -> Path:
    """An OWL-ViT model that spells words."""
    text = {**TRANSFORMER, "vocab_size": 54, "max_position_embeddings": 24}
    config = OwlViTConfig(text_config=text, vision_config=VISION, projection_dim=16)
    torch.manual_seed(0)
    OwlViTForObjectDetection(config).save_pretrained(folder)
    size = {"height": SIDE, "width": SIDE}
    images = OwlViTImageProcessorPil(size=size, crop_size=size)
    OwlViTProcessor(image_processor=images, tokenizer=_speller(24)).save_pretrained(folder)
    return folder


def write_vilt(folder: Path, answers: Sequence[str] = ("maybe", "yes", "no")) -> Path:
    """A ViLT model for visual questions."""
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    tokenizer = BertTokenizer(vocab={token: number for number, token in enumerate(vocabulary)}, model_max_length=16)
    config = ViltConfig(
        **VISION,
        vocab_size=len(vocabulary),
        max_position_embeddings=16,
        id2label=dict(enumerate(answers)),
        label2id={answer: number for number, answer in enumerate(answers)},
        initializer_range=1.0,
    )
    torch.manual_seed(0)
    ViltForQuestionAnswering(config).save_pretrained(folder)
    images = ViltImageProcessorPil(size={"shortest_edge": SIDE}, size_divisor=8)
    ViltProcessor(image_processor=images, tokenizer=tokenizer).save_pretrained(folder)
    return folder


def write_depth(folder: Path) -> Path:
    """A DPT model."""
    config = DPTConfig(
        **{**VISION, "num_hidden_layers": 4},
        backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[4, 4, 8, 8],
        fusion_hidden_size=8,
    )
    torch.manual_seed(0)
    DPTForDepthEstimation(config).save_pretrained(folder)
    DPTImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    return folder


def write_detector(folder: Path, labels: Sequence[str] = ("dog", "cup", "person")) -> Path:
    """A YOLOS model with these classes."""
    names = dict(enumerate(labels))
    config = YolosConfig(
        **{**VISION, "image_size": [SIDE, SIDE]},
        num_detection_tokens=4,
        id2label=names,
        label2id={label: number for number, label in names.items()},
    )
    torch.manual_seed(0)
    YolosForObjectDetection(config).save_pretrained(folder)
    YolosImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    return folder

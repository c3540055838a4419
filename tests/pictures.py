"""Pictures for tests: blocks of random colours as PNG files, tiny towers of every kind, a tiny CLIP and a tiny SigLIP as transformers saves them."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import (
    CLIPConfig,
    CLIPModel,
    ConvNextConfig,
    Dinov2Config,
    PreTrainedTokenizerFast,
    ResNetConfig,
    SiglipConfig,
    SiglipModel,
    ViTConfig,
)

from nearfar.types import Picture

from tiny import tiny_tokenizer

TOWERS = {
    "resnet": ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"),
    "vit": ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=16, patch_size=8
    ),
    "convnext": ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, image_size=16),
    "dinov2": Dinov2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, mlp_ratio=1, image_size=16, patch_size=8
    ),
}


def pictures(count: int, seed: int = 0, side: int = 20) -> list[Picture]:
    """Pictures of 4 x 4 blocks, as bytes of PNG files."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        blocks = rng.integers(0, 256, (4, 4, 3)).astype(np.uint8)
        bytes_ = io.BytesIO()
        Image.fromarray(blocks.repeat(side // 4, 0).repeat(side // 4, 1)).save(bytes_, "PNG")
        found.append(Picture(f"picture {seed}/{number}.png", data=bytes_.getvalue()))
    return found


def _texts(positions: int) -> dict[str, int]:
    vocabulary = tiny_tokenizer().get_vocab_size()
    ids = tiny_tokenizer().get_vocab()
    return {
        "vocab_size": vocabulary,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": positions,
        "bos_token_id": ids["[CLS]"],
        "eos_token_id": ids["[SEP]"],
        "pad_token_id": ids["[PAD]"],
    }


def _sees() -> dict[str, int]:
    return {
        "hidden_size": 24,
        "intermediate_size": 24,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 16,
        "patch_size": 8,
    }


def hub_folder(folder: Path, kind: str, seed: int = 0) -> Path:
    """Write a random tiny `CLIPModel` ("clip") or `SiglipModel` ("siglip") with its tokenizer, as transformers does, and return the folder."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if kind == "clip":
            model = CLIPModel(CLIPConfig(text_config=_texts(32), vision_config=_sees(), projection_dim=12))
        else:
            model = SiglipModel(SiglipConfig(text_config=_texts(10) | {"hidden_size": 24}, vision_config=_sees()))
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tiny_tokenizer(),
        unk_token="[UNK]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        model_max_length=10 if kind == "siglip" else 32,
    )
    tokenizer.save_pretrained(folder)
    return folder


def config_file(folder: Path, kind: str) -> Path:
    """The configuration of a tiny vision model as a JSON file."""
    path = folder / f"{kind}.json"
    path.write_text(json.dumps(TOWERS[kind].to_dict()))
    return path

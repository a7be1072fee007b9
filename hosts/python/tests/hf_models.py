# SPDX-License-Identifier: Apache-2.0
"""Small models with random weights, and the ways to run them with our cache."""

from __future__ import annotations

import functools

import torch
import transformers
from transformers import DynamicCache

from polarquant.hf import PolarQuantCache

WAYS = ("sdpa", "polarquant")  # decoded tensors, packed pages
VOCABULARY = 64


def small(config: transformers.PretrainedConfig, seed: int = 0) -> torch.nn.Module:
    """The model of a config; weights large enough that its answers have a clear order."""
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1:
                weight.normal_(0, 1.2 / weight.shape[-1] ** 0.5, generator=generator)
            elif "sinks" in name:
                weight.normal_(0, 1, generator=generator)
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return model.eval()


SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 4096,
}


@functools.cache
def llama(seed: int = 0) -> torch.nn.Module:
    return small(transformers.LlamaConfig(**SIZES), seed)


def prompt(tokens: int, rows: int = 1, seed: int = 1) -> torch.Tensor:
    return torch.randint(
        1, VOCABULARY, (rows, tokens), generator=torch.Generator().manual_seed(seed)
    )


def use(model: torch.nn.Module, attention: str) -> torch.nn.Module:
    model.set_attn_implementation(attention)
    return model


@torch.no_grad()
def logits(
    model: torch.nn.Module, ids: torch.Tensor, cache: object, sizes: list[int], mask=None
) -> torch.Tensor:
    """Of all tokens of `ids` (or as many as `sizes` add up to), fed in pieces."""
    before = cache.get_seq_length()
    parts, first = [], 0
    for size in sizes:
        piece = ids[:, first : first + size]
        seen = None if mask is None else mask[:, : before + first + size]
        out = model(piece, past_key_values=cache, use_cache=True, attention_mask=seen)
        parts.append(out.logits.float())
        first += size
    return torch.cat(parts, dim=1)


def stock(model: torch.nn.Module) -> DynamicCache:
    return DynamicCache(config=model.config)


def packed(model: torch.nn.Module, scheme: str = "f16", **options) -> PolarQuantCache:
    key, _, value = scheme.partition("/")
    return PolarQuantCache(model.config, key=key, value=value or key, **options)

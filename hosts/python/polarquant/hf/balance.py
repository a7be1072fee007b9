# SPDX-License-Identifier: Apache-2.0
"""Where the balance scales of a layer's keys come from: a profile, or the prompt itself.

Keys with `balance` are weighed channel by channel against the queries before they are coded. The
weights are a property of the model. `polarquant tune` puts them into a file; without one they are
taken from the queries and keys of the first page of the prompt, which our attention function sees,
and frozen.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch

from polarquant import _core
from polarquant.errors import ParameterError, UnsupportedError

REMEDIES = (
    "use model.set_attn_implementation('polarquant'), where queries are seen; or give "
    "profile=FILE, made by `polarquant tune`; or take keys that need none, key='turbo4:center'"
)


def rope_of(config: Any, head_dim: int) -> tuple[str, int]:
    """How the model turns its keys: ('halves' | 'adjacent' | 'none', channels turned).

    The model's own `rotate_half` is asked which channels it pairs.
    """
    for name in ("qk_rope_head_dim", "kv_lora_rank"):
        if getattr(config, name, None):
            raise UnsupportedError(
                f"config has {name}: keys whose last channels alone are turned by RoPE cannot be "
                f"balanced from here; take key='turbo4:center'"
            )
    rope = getattr(config, "rope_parameters", None) or {}
    if not rope and getattr(config, "rope_theta", None) is None:
        return "none", 0
    if "full_attention" in rope:  # parameters by layer type
        rope = rope["full_attention"] or {}
    share = rope.get("partial_rotary_factor") or getattr(config, "partial_rotary_factor", None)
    dims = int(head_dim * (share or 1.0))
    module_name = type(config).__module__.replace("configuration_", "modeling_")
    try:
        module = importlib.import_module(module_name)
    except ImportError:
        module = None
    if hasattr(module, "rotate_half"):
        first = int(module.rotate_half(torch.arange(8.0))[0].abs())
        if first in (4, 1):
            return ("halves" if first == 4 else "adjacent"), dims
    known = {"gpt_oss": "halves", "llama4_text": "adjacent"}.get(getattr(config, "model_type", ""))
    if known is None:
        raise UnsupportedError(
            f"cannot tell which channels RoPE pairs in {module_name}: say rope='halves' (channels "
            f"i and i + d/2) or rope='adjacent' (2i and 2i + 1)"
        )
    return known, dims


def permuted(balance: torch.Tensor, pairing: str, dims: int, wanted: str) -> torch.Tensor:
    """Scales [num_kv_heads, head_dim] from one order of channels into the other.

    llama.cpp's files of the llama family have the two channels of a frequency beside each other,
    transformers has them half a head apart.
    """
    if pairing == wanted or "none" in (pairing, wanted):
        return balance
    turned, rest = balance[:, :dims], balance[:, dims:]
    if wanted == "halves":
        turned = torch.cat([turned[:, 0::2], turned[:, 1::2]], dim=1)
    else:
        turned = torch.stack(turned.chunk(2, dim=1), dim=2).flatten(1)
    return torch.cat([turned, rest], dim=1).contiguous()


class Profile:
    """The scales of all layers from a file of `polarquant tune`."""

    def __init__(self, path: str) -> None:
        self.path = str(path)
        self._layers = _core.load_profile(self.path)["layers"]

    def of(self, layer: int, num_kv_heads: int, head_dim: int, pairing: str) -> torch.Tensor:
        """float32 [num_kv_heads, head_dim] in the model's own order of channels."""
        if layer not in self._layers:
            raise ParameterError(
                f"{self.path} has no layer {layer}: it has {sorted(self._layers)}; is it the "
                f"profile of another model?"
            )
        found = self._layers[layer]
        balance = torch.from_numpy(found["balance"].copy())
        if tuple(balance.shape) != (num_kv_heads, head_dim):
            raise ParameterError(
                f"{self.path} has {list(balance.shape)} scales for layer {layer}, the model has "
                f"{num_kv_heads} heads of {head_dim} channels: it is the profile of another model"
            )
        return permuted(balance, found["pairing"], found["rope_dims"], pairing)


class Frozen:
    """The scales of one layer that a cache was saved with, whatever became of their profile."""

    def __init__(self, path: str, balance: torch.Tensor) -> None:
        self.path, self._balance = path, balance

    def of(self, layer: int, num_kv_heads: int, head_dim: int, pairing: str) -> torch.Tensor:
        if tuple(self._balance.shape) != (num_kv_heads, head_dim):
            raise ParameterError(
                f"layer {layer} was saved with scales of the shape {list(self._balance.shape)}, "
                f"its keys now have {num_kv_heads} heads of {head_dim} channels"
            )
        return self._balance


class Observed:
    """The queries and keys of one sequence in one layer, until a page of them is there."""

    def __init__(self) -> None:
        self._queries: list[torch.Tensor] = []  # [num_q_heads, n, head_dim] f32
        self._keys: list[torch.Tensor] = []
        self.count = 0

    def copy(self) -> Observed:
        other = Observed()
        other._queries, other._keys = list(self._queries), list(self._keys)
        other.count = self.count
        return other

    def add(self, queries: torch.Tensor, keys: torch.Tensor, most: int) -> None:
        """Takes tokens until `most` are there; arrays [heads, n, head_dim]."""
        left = most - self.count
        if left > 0 and keys.shape[1] > 0:
            self._queries.append(queries[:, :left].detach().float().clone())
            self._keys.append(keys[:, :left].detach().float().clone())
            self.count += self._keys[-1].shape[1]

    def drop(self, count: int) -> None:
        """Forgets the newest `count` tokens."""
        left = max(self.count - count, 0)
        queries, keys = self._queries, self._keys
        self._queries, self._keys, self.count = [], [], 0
        for q, k in zip(queries, keys, strict=True):
            self.add(q, k, left)

    def page(self) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.cat(self._queries, dim=1), torch.cat(self._keys, dim=1)

    @property
    def nbytes(self) -> int:
        return sum(each.nbytes for each in self._queries + self._keys)


def balance_of(pages: list[Observed], page_tokens: int, rope: tuple[str, int]) -> torch.Tensor:
    """The scales, float32 [num_kv_heads, head_dim], from whole observed pages."""
    seen = [page.page() for page in pages]
    queries = torch.cat([q for q, _ in seen], dim=1).contiguous()
    keys = torch.cat([k for _, k in seen], dim=1).contiguous()
    return torch.from_numpy(
        _core.observe_balance(queries, keys, page_tokens, pairing=rope[0], rope_dims=rope[1])
    )

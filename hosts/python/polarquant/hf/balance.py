# SPDX-License-Identifier: Apache-2.0
"""What the keys of a layer are coded with, and where it comes from: a profile or the prompt itself.

Keys with `balance` are weighed channel by channel against the queries before they are coded, and
`center=step` takes off their mean before RoPE, turned as RoPE turns it. Both are properties of the
model. `polarquant tune` puts them into a file; without one they are taken from the queries and keys
of the first page of the prompt, which our attention function sees, and frozen.
"""

from __future__ import annotations

from typing import Any

import torch

from polarquant import _core
from polarquant.errors import ParameterError
from polarquant.hf.rope import Rope

REMEDIES = (
    "use model.set_attn_implementation('polarquant'), where queries are seen; or give "
    "profile=FILE, made by `polarquant tune`; or take keys that need none, key='turbo4:center'"
)


# What a profile says of the channels of a layer, each [num_kv_heads, head_dim].
_MATRICES = ("query_moment", "key_moment", "key_variance", "mean", "balance")


def permuted(values: torch.Tensor, pairing: str, dims: int, wanted: str) -> torch.Tensor:
    """Values [num_kv_heads, head_dim] from one order of channels into the other.

    llama.cpp's files of the llama family have the two channels of a frequency beside each other,
    transformers has them half a head apart.
    """
    if pairing == wanted or "none" in (pairing, wanted):
        return values
    turned, rest = values[:, :dims], values[:, dims:]
    if wanted == "halves":
        turned = torch.cat([turned[:, 0::2], turned[:, 1::2]], dim=1)
    else:
        turned = torch.stack(turned.chunk(2, dim=1), dim=2).flatten(1)
    return torch.cat([turned, rest], dim=1).contiguous()


def _keys_of(scheme: str, layer: dict[str, Any], rope: Rope) -> _core.KeyProfile:
    return _core.key_profile(
        scheme, layer, rope.pairing, rope.dims, list(rope.frequencies), rope.magnitude
    )


class Profile:
    """All layers of a file of `polarquant tune`."""

    def __init__(self, path: str) -> None:
        self.path = str(path)
        self._layers = _core.load_profile(self.path)["layers"]

    def of(
        self, layer: int, num_kv_heads: int, head_dim: int, scheme: str, rope: Rope
    ) -> _core.KeyProfile:
        """For keys in the model's own order of channels, turned by its own frequencies."""
        if layer not in self._layers:
            raise ParameterError(
                f"{self.path} has no layer {layer}: it has {sorted(self._layers)}; is it the "
                f"profile of another model?"
            )
        found = self._layers[layer]
        shape = list(found["balance"].shape)
        if shape != [num_kv_heads, head_dim]:
            raise ParameterError(
                f"{self.path} has {shape} scales for layer {layer}, the model has "
                f"{num_kv_heads} heads of {head_dim} channels: it is the profile of another model"
            )
        pairing, dims = found["pairing"], found["rope_dims"]
        if rope.frequencies and dims != rope.dims:
            raise ParameterError(
                f"{self.path}: RoPE turns {rope.dims} channels of a head of layer {layer} here and "
                f"{dims} in the profile: it is the profile of another model"
            )
        ours = {
            name: permuted(
                torch.from_numpy(found[name].copy()), pairing, dims, rope.pairing
            ).numpy()
            for name in _MATRICES
        }
        return _keys_of(scheme, ours, rope)


class Frozen:
    """What one layer of a cache was saved with, whatever became of the profile it is from."""

    def __init__(self, path: str, profile: _core.KeyProfile) -> None:
        self.path, self._profile = path, profile

    def of(
        self, layer: int, num_kv_heads: int, head_dim: int, scheme: str, rope: Rope
    ) -> _core.KeyProfile:
        saved = (self._profile.num_kv_heads, self._profile.head_dim)
        if saved != (num_kv_heads, head_dim):
            raise ParameterError(
                f"layer {layer} was saved with scales of the shape {list(saved)}, "
                f"its keys now have {num_kv_heads} heads of {head_dim} channels"
            )
        return self._profile


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


def learnt(
    pages: list[tuple[Observed, int]], page_tokens: int, scheme: str, rope: Rope
) -> _core.KeyProfile:
    """From whole observed pages, each with the position of its first token."""
    seen = [page.page() for page, _ in pages]
    layer = _core.observe_keys(
        torch.cat([q for q, _ in seen], dim=1).contiguous(),
        torch.cat([k for _, k in seen], dim=1).contiguous(),
        [first + i for _, first in pages for i in range(page_tokens)],
        page_tokens, rope.pairing, rope.dims, list(rope.frequencies), rope.magnitude,
    )  # fmt: skip
    return _keys_of(scheme, layer, rope)

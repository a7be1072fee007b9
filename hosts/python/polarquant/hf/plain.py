# SPDX-License-Identifier: Apache-2.0
"""Attention on plain tensors: prompts that meet an empty cache, and layers that are not ours."""

from __future__ import annotations

import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from polarquant.errors import UnsupportedError

_BLOCK = 256  # queries at a time where logits are written out


def lower_right(num_queries: int, num_keys: int) -> torch.Tensor:
    """Boolean [1, 1, num_queries, num_keys]: the last query sees the last key."""
    ones = torch.ones(num_queries, num_keys, dtype=torch.bool)
    return ones.tril(num_keys - num_queries)[None, None]


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    *,
    scaling: float | None,
    dropout: float,
    softcap: float | None,
    sinks: torch.Tensor | None,
    causal: bool,
) -> torch.Tensor:
    """query [batch, num_q_heads, n, d], key and value [batch, num_kv_heads, tokens, d], mask
    boolean or additive [batch, 1, n, tokens] or None. Returns [batch, n, num_q_heads, d]."""
    num_queries, num_keys = query.shape[2], key.shape[2]
    if mask is None and causal and 1 < num_queries < num_keys:
        mask = lower_right(num_queries, num_keys).to(query.device)
    if not softcap and sinks is None:
        # torch's scaled_dot_product_attention, called as transformers does. With None it would ask
        # the module, which may not know what its caller said.
        output, _ = sdpa_attention_forward(
            module, query, key, value, mask, dropout=dropout, scaling=scaling,
            is_causal=causal and mask is None and num_queries > 1,
        )  # fmt: skip
        return output
    if dropout:
        raise UnsupportedError(
            f"dropout is {dropout} in a layer with softcap or sinks: train with eager attention"
        )
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    groups = query.shape[1] // key.shape[1]
    keys = key.float().repeat_interleave(groups, dim=1).transpose(2, 3)
    values = value.float().repeat_interleave(groups, dim=1)
    if mask is None and causal:
        mask = lower_right(num_queries, num_keys).to(query.device)
    blocks = []
    for first in range(0, num_queries, _BLOCK):
        logits = query[:, :, first : first + _BLOCK].float() @ keys * scale
        if softcap:
            logits = torch.tanh(logits / softcap) * softcap
        if mask is not None:
            part = mask[:, :, first : first + _BLOCK, :num_keys]
            least = torch.finfo(torch.float32).min
            logits = logits.masked_fill(~part, least) if part.dtype == torch.bool else logits + part
        if sinks is not None:
            column = sinks.float().reshape(1, -1, 1, 1).expand(*logits.shape[:3], 1)
            logits = torch.cat([logits, column], dim=-1)
        weights = torch.softmax(logits, dim=-1)[..., :num_keys]
        blocks.append(weights @ values)
    return torch.cat(blocks, dim=2).transpose(1, 2).to(query.dtype).contiguous()

# SPDX-License-Identifier: Apache-2.0
"""attn_implementation="polarquant": attention on packed pages.

Prompts that meet an empty cache, and layers whose cache is not ours, are computed on plain tensors
as ever. Everything else reads the packed pages of a `PolarQuantLayer` and decodes nothing.

Shapes: query [batch, num_q_heads, n, head_dim]; mask boolean (True is seen) or additive
[batch, 1, n, tokens], or None, which means causal; the result is [batch, n, num_q_heads, head_dim].
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import causal_mask_function, sdpa_mask

from polarquant import _core
from polarquant.errors import ParameterError, UnsupportedError
from polarquant.hf import plain
from polarquant.hf.links import Step, step_of, without_gradient

NAME = "polarquant"

# Arguments that models hand on to every attention function and that change nothing here.
_IMMATERIAL = frozenset(
    "position_ids cache_position use_cache output_hidden_states return_dict num_items_in_batch "
    "logits_to_keep past_key_values past_key_value".split()
)


class Terms(NamedTuple):
    """What a model says of one attention beside its tensors."""

    scaling: float | None
    dropout: float
    softcap: float | None
    sinks: torch.Tensor | None
    sliding_window: int | None
    causal: bool


def polarquant_attention_forward(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    sliding_window: int | None = None,
    is_causal: bool | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' contract of an attention function; weights are never returned."""
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    terms = Terms(scaling, dropout, softcap, s_aux, sliding_window, causal)
    step = step_of(key)
    if step is not None:
        step.positions = kwargs.get("position_ids")
    try:
        _check_arguments(kwargs)
        if step is not None and step.before > 0:
            output = _on_pages(step, query, attention_mask, terms)
        else:
            output = _on_tensors(module, step, query, key, value, attention_mask, terms)
    except BaseException:
        if step is not None:
            step.layer.abandon(step)
        raise
    return output, None


def _check_arguments(arguments: dict[str, Any]) -> None:
    for name, given in arguments.items():
        if name not in _IMMATERIAL and given is not None and given is not False:
            raise UnsupportedError(
                f"attention argument {name}={given if not hasattr(given, 'shape') else 'tensor'} "
                f"is not implemented by attn_implementation='polarquant': use 'sdpa' or 'eager', "
                f"which work with the same cache"
            )


def _on_tensors(
    module: torch.nn.Module,
    step: Step | None,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    terms: Terms,
) -> torch.Tensor:
    keys, values = (key, value) if step is None else (step.keys, step.values)
    _check_mask(mask, query, keys.shape[2], step is not None)
    output = plain.attend(
        module, query, keys, values, mask, scaling=terms.scaling, dropout=terms.dropout,
        softcap=terms.softcap, sinks=terms.sinks, causal=terms.causal,
    )  # fmt: skip
    if step is not None:
        _check_step(step, terms)
        _take(step, query, mask)
        output = without_gradient(output, query, *step.sources)
    return output


def polarquant_mask(*args: Any, **kwargs: Any) -> torch.Tensor | None:
    """transformers' mask for torch's attention, or None where the mask is plainly causal: our
    function sees the last query beside the last key, whatever their numbers."""
    if args or not _plainly_causal(**kwargs):
        return sdpa_mask(*args, **kwargs)
    return None


def _plainly_causal(
    kv_length: int = 0,
    q_length: int | None = None,
    q_offset: Any = 0,
    kv_offset: int = 0,
    cache_position: torch.Tensor | None = None,
    mask_function: Any = None,
    attention_mask: torch.Tensor | None = None,
    local_size: int | None = None,
    allow_is_causal_skip: bool = True,
    **_: Any,
) -> bool:
    if not allow_is_causal_skip or mask_function is not causal_mask_function or kv_offset:
        return False
    if local_size is not None:
        return False
    if cache_position is not None:  # 4.57
        q_length, q_offset = len(cache_position), int(cache_position[0])
    if not isinstance(q_offset, int) or q_length is None or q_offset + q_length != kv_length:
        return False
    if attention_mask is None:
        return True
    seen = attention_mask[:, :kv_length]
    return seen.ndim == 2 and seen.shape[1] == kv_length and bool(seen.all())


def register() -> None:
    """Makes attn_implementation="polarquant" known to transformers, its mask too."""
    AttentionInterface.register(NAME, polarquant_attention_forward)
    AttentionMaskInterface.register(NAME, polarquant_mask)


def _check_step(step: Step, terms: Terms) -> None:
    if terms.dropout:
        raise UnsupportedError(
            f"dropout is {terms.dropout}: a compressed cache is not for training; call model.eval()"
        )
    if terms.sliding_window is not None:
        raise UnsupportedError(
            f"layer {step.layer.setup.layer} has a sliding window of {terms.sliding_window} "
            f"tokens and its cache keeps all: make the cache from model.config, or list the layer "
            f"in skip_layers"
        )


def _check_mask(mask: torch.Tensor | None, query: torch.Tensor, num_keys: int, ours: bool) -> None:
    if mask is None or not ours:
        return
    if mask.dtype != torch.bool and not mask.is_floating_point():
        raise ParameterError(
            f"the attention mask is {mask.dtype}: it must be boolean (True is seen) or additive in "
            f"a floating type"
        )
    wanted = (query.shape[2], num_keys)
    if mask.ndim != 4 or mask.shape[1] != 1 or tuple(mask.shape[2:]) != wanted:
        raise ParameterError(
            f"the attention mask has the shape {list(mask.shape)}: it must be [batch, 1, "
            f"{wanted[0]}, {wanted[1]}], the same for all heads"
        )


def _hidden(mask: torch.Tensor) -> torch.Tensor:
    """Boolean [batch, n, tokens]: what a query does not see at all."""
    if mask.dtype == torch.bool:
        return ~mask[:, 0]
    # Models write it as the least number of their type, or minus infinity.
    return mask[:, 0] <= torch.finfo(mask.dtype).min / 2


def _padding(step: Step, mask: torch.Tensor | None) -> list[int]:
    """How many of the new tokens of each row are padding on the left, seen by no query."""
    rows = step.layer.rows
    if mask is None:
        return [0] * len(rows)
    hidden = _hidden(mask).expand(len(rows), -1, -1)
    skip = []
    for row, unseen in zip(rows, hidden, strict=True):
        if row.cache.length > 0:
            skip.append(0)
        else:
            leading = unseen[:, step.before :].all(dim=0).to(torch.int8).cumprod(0)
            skip.append(int(leading.sum()))
    return skip


def _take(step: Step, query: torch.Tensor, mask: torch.Tensor | None) -> None:
    """The layer takes the new tokens over, and closes what may be closed."""
    if step.stored:
        return
    skip = _padding(step, mask)
    step.layer.store(step, skip, step.positions)
    step.layer.observe(query, step, skip)
    step.layer.attended()


def _on_pages(
    step: Step, query: torch.Tensor, mask: torch.Tensor | None, terms: Terms
) -> torch.Tensor:
    layer, sinks = step.layer, terms.sinks
    _check_step(step, terms)
    _check_mask(mask, query, step.after, True)
    fresh = not step.stored
    if fresh:
        skip = _padding(step, mask)
        layer.store(step, skip, step.positions)
    elif layer.length != step.after:
        raise ParameterError(
            f"layer {layer.setup.layer} went on to {layer.length} tokens before attention read the "
            f"{step.after} of this step"
        )
    queries = query.detach().float()
    if queries.stride(-1) != 1:
        queries = queries.contiguous()
    batch, num_heads, count, head_dim = queries.shape
    scale = head_dim**-0.5 if terms.scaling is None else terms.scaling
    width = layer.rows[0].cache.value_head_dim
    output = torch.empty(batch, count, num_heads, width)
    if sinks is not None:
        sinks = sinks.detach().float().contiguous()
    masks = _packed_masks(
        mask, [row.pad for row in layer.rows], terms.causal and count == 1, sinks is not None
    )
    # Rows without a mask have one query that sees everything, or there is no mask at all.
    _core.attend_batch(
        layer.caches(), queries, output, scale, terms.softcap or 0.0,
        [] if mask is None else masks, sinks, terms.causal and mask is None,
        threads=layer.setup.threads(),
    )  # fmt: skip
    if fresh:
        layer.observe(query, step, skip)
        layer.attended()
    return without_gradient(output.to(query.dtype), query, *step.sources)


def _half(mask: torch.Tensor, hidden: torch.Tensor, sinks: bool) -> torch.Tensor:
    """An additive mask [n, tokens] in 16 bit. What a row has in common does not matter to softmax
    and is taken off first; what rounding still changes is refused."""
    exact = mask.detach().float().masked_fill(hidden, float("-inf"))
    if not sinks:
        most = exact.amax(-1, keepdim=True)
        exact = exact - torch.where(most.isfinite(), most, torch.zeros_like(most))
    half = exact.to(torch.float16)
    # Far below the largest a logit is as good as hidden, however it is rounded.
    near = ~hidden & (exact > -30.0)
    lost = float((half.float() - exact)[near].abs().max()) if bool(near.any()) else 0.0
    if not lost <= 1e-2:
        raise UnsupportedError(
            f"an additive attention mask loses {lost:.3g} in 16 bit, in which "
            f"attn_implementation='polarquant' adds it (at most 0.01): use 'sdpa' or 'eager', "
            f"which work with the same cache"
        )
    return half


def _packed_masks(
    mask: torch.Tensor | None, pads: list[int], may_drop: bool, sinks: bool
) -> list[torch.Tensor | None]:
    """For each row an additive mask, float16 [n, tokens kept], or None if everything is seen.

    Kept with the mask: the layers of one forward pass share it.
    """
    if mask is None:
        if any(pads):
            raise ParameterError(
                "the prompt was padded on the left, and now there is no attention mask: pass "
                "attention_mask with the padding at every step"
            )
        return [None] * len(pads)
    version = None if mask.is_inference() else mask._version  # an edit in place is another mask
    kept = getattr(mask, "_polarquant", None)
    made_for = (list(pads), version, may_drop, sinks)
    if version is not None and kept is not None and kept[0] == made_for:
        return kept[1]
    hidden = _hidden(mask).expand(len(pads), -1, -1)
    masks: list[torch.Tensor | None] = []
    for b, pad in enumerate(pads):
        if not hidden[b, :, :pad].all():
            raise ParameterError(
                f"row {b}: the first {pad} tokens were padding when they came, and are to be seen "
                f"now; the cache did not keep them"
            )
        if mask.dtype == torch.bool:
            if may_drop and not hidden[b, :, pad:].any():
                masks.append(None)
                continue
            packed = torch.zeros(hidden[b, :, pad:].shape, dtype=torch.float16)
            packed.masked_fill_(hidden[b, :, pad:], float("-inf"))
        else:
            packed = _half(
                mask.expand(len(pads), -1, -1, -1)[b, 0, :, pad:], hidden[b, :, pad:], sinks
            )
        masks.append(packed.contiguous())
    if version is not None:
        mask._polarquant = (made_for, masks)
    return masks

# SPDX-License-Identifier: Apache-2.0
"""How RoPE turns a model's keys: which channels it pairs, and, for a centre that turns with them,
how fast. Asked of the model's own code, which has the last word on both."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any, NamedTuple

import torch

from polarquant.errors import UnsupportedError

INSTEAD = "take the mean of pages instead, key='turbo4:balance:center'"

# Of these, frequencies do not change with the length of the text.
_STEADY = ("default", "linear", "yarn", "llama3", "proportional")
# Their layers of full attention do not turn keys, where others have sliding windows.
_GLOBAL_LAYERS_ARE_UNTURNED = (
    "afmoe", "beam", "cohere2", "cohere2_moe", "exaone4", "exaone4_5_text", "exaone_moe", "flint",
    "kolibri1",
)  # fmt: skip


class Rope(NamedTuple):
    pairing: str  # 'halves', 'adjacent' or 'none'
    dims: int  # channels turned
    frequencies: tuple[float, ...] = ()  # radians a position, or not asked for
    magnitude: float = 1.0  # of a pair of length 1, once turned


def _modeling(config: Any) -> ModuleType | None:
    name = type(config).__module__.replace("configuration_", "modeling_")
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


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
    module = _modeling(config)
    if hasattr(module, "rotate_half"):
        first = int(module.rotate_half(torch.arange(8.0))[0].abs())
        if first in (4, 1):
            return ("halves" if first == 4 else "adjacent"), dims
    known = {"gpt_oss": "halves", "llama4_text": "adjacent"}.get(getattr(config, "model_type", ""))
    if known is None:
        raise UnsupportedError(
            f"cannot tell which channels RoPE pairs in {type(config).__module__}: say "
            f"rope='halves' (channels i and i + d/2) or rope='adjacent' (2i and 2i + 1)"
        )
    return known, dims


def turning_rope_of(config: Any, layer: int, head_dim: int, pairing: str) -> Rope:
    """The same with the frequencies, for one full-attention layer; UnsupportedError where they
    change with the length of the text or cannot be known. `pairing`: 'auto' or what is to hold."""
    kind = type(config).__name__
    if pairing == "none":
        return Rope("none", 0)
    module = _modeling(config)
    if pairing == "auto":
        pairing = rope_of(config, head_dim)[0]
        # Some say nothing of RoPE in their configuration and turn keys all the same.
        if pairing == "none" and any("rota" in name for name in vars(module or torch.nn)):
            raise _refusal(kind, "does not say how fast RoPE turns keys")
    if pairing == "none" or not _is_turned(config, layer):
        return Rope("none", 0)
    for name in ("rope_parameters", "rope_scaling"):
        said = getattr(config, name, None) or {}
        if "mrope_section" in said:
            raise _refusal(kind, "has positions of several parts (mrope_section)")
    if getattr(config, "layer_rope_theta", None) is not None:
        raise _refusal(kind, "has frequencies of RoPE for each layer (layer_rope_theta)")
    rotary = _rotary(config, module)
    if rotary is None:
        raise _refusal(kind, "has no rotary embedding that says the frequencies of RoPE")
    rope_type = _of_full_attention(rotary, "rope_type", "default")
    if rope_type not in _STEADY:
        raise _refusal(
            kind,
            f"has rope_type {rope_type!r}, and the frequencies of {', '.join(_STEADY)} alone are "
            f"known not to change with the length of the text",
        )
    frequencies = _of_full_attention(rotary, "inv_freq", None)
    magnitude = _of_full_attention(rotary, "attention_scaling", 1.0)
    if not isinstance(frequencies, torch.Tensor) or not 0 < 2 * len(frequencies) <= head_dim:
        raise _refusal(kind, f"turns other channels of a head than the first of its {head_dim}")
    return Rope(
        pairing, 2 * len(frequencies), tuple(frequencies.double().tolist()), float(magnitude)
    )


def _refusal(kind: str, reason: str) -> UnsupportedError:
    return UnsupportedError(f"center=step cannot serve this model: {kind} {reason}; {INSTEAD}")


def _is_turned(config: Any, layer: int) -> bool:
    listed = getattr(config, "no_rope_layers", None)  # 1 where there is RoPE
    if listed:
        return bool(listed[layer])
    if getattr(config, "position_embedding_type", None) not in (None, "rope", "rotary"):
        return False
    if not getattr(config, "use_mem_rope", True) or getattr(config, "alibi", False):
        return False
    sliding = getattr(config, "sliding_window", None) is not None
    return not (sliding and getattr(config, "model_type", "") in _GLOBAL_LAYERS_ARE_UNTURNED)


def _rotary(config: Any, module: ModuleType | None) -> Any:
    """The model's own rotary embedding, made from its configuration."""
    found = {
        name: each
        for name, each in vars(module or torch.nn).items()
        if name.endswith("RotaryEmbedding") and isinstance(each, type) and "Vision" not in name
    }
    stem = type(config).__name__.removesuffix("Config")
    bare = stem.removesuffix("Text")
    names = [f"{each}RotaryEmbedding" for each in (stem, bare, f"{bare}Text")]
    chosen = next((found[name] for name in names if name in found), None)
    if chosen is None and len(found) == 1:
        chosen = next(iter(found.values()))
    if chosen is None:
        return None
    try:
        with torch.device("cpu"):
            return chosen(config)
    except Exception as error:  # whatever another version of it wants
        raise _refusal(
            type(config).__name__, f"does not say the frequencies of RoPE ({error})"
        ) from error


def _of_full_attention(rotary: Any, name: str, default: Any) -> Any:
    """An attribute, where each type of layer has its own that of full attention."""
    value = getattr(rotary, name, default)
    if isinstance(value, dict):
        value = value.get("full_attention", default)
    return getattr(rotary, f"full_attention_{name}", value)

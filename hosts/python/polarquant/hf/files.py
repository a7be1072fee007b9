# SPDX-License-Identifier: Apache-2.0
"""A whole cache in one file: the core's file of sequence caches, and as its text a JSON object that
says which of them is which row of which layer."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, TypeVar

import torch
import transformers

import polarquant
from polarquant import _core
from polarquant.errors import FormatError, ParameterError, UnsupportedError
from polarquant.hf.balance import Frozen, Profile
from polarquant.hf.layer import PolarQuantLayer, Row

# PolarQuantCache, which imports this file.
Cache = TypeVar("Cache", bound=transformers.Cache)

_VERSION = 1


def stock_tensors(layer: Any) -> list[torch.Tensor]:
    """The tensors of a layer of the library's own."""
    if isinstance(layer, PolarQuantLayer):
        return []
    found: list[torch.Tensor] = []
    for value in vars(layer).values():
        for each in value.values() if isinstance(value, dict) else [value]:
            if isinstance(each, torch.Tensor) and each.ndim > 0:
                found.append(each)
    return found


def _shape(config: Any) -> dict[str, Any]:
    """What must be the same in the model that a file is loaded for."""
    names = "model_type hidden_size num_attention_heads num_key_value_heads head_dim".split()
    return {name: getattr(config, name, None) for name in names}


def save(cache: transformers.Cache, path: str) -> None:
    layers, caches = [], []
    for number, layer in enumerate(cache.layers):
        kind = type(layer).__name__
        if not isinstance(layer, PolarQuantLayer):
            if any(tensor.numel() for tensor in stock_tensors(layer)):
                raise UnsupportedError(
                    f"layer {number} is a {kind} and holds tokens: only packed layers can be "
                    f"saved, and this model needs the others too; keep the cache in memory "
                    f"(copy.deepcopy shares its pages)"
                )
            layers.append({"kind": kind})
            continue
        layer.flush()
        setup = layer.setup
        if layer.needs_profile and layer.profile is None and layer.length > 0:
            raise UnsupportedError(
                f"layer {number} has not seen the first {setup.page_tokens} tokens yet, from which "
                f"its balance is learnt, and the file has no place for what it saw: save later, or "
                f"make the cache with profile=FILE"
            )
        layers.append(
            {
                "kind": kind,
                "key": setup.key,
                "value": setup.value,
                "page_tokens": setup.page_tokens,
                "window_tokens": setup.window_tokens,
                "sink_tokens": setup.sink_tokens,
                "length": layer.length,
                "dtype": str(layer.dtype).removeprefix("torch.") if layer.dtype else None,
                "rows": list(range(len(caches), len(caches) + len(layer.rows))),
                "padding": [row.pad for row in layer.rows],
                "starts": [row.start for row in layer.rows],
                "profile": setup.profile.path if setup.profile else None,
            }
        )
        caches += [row.cache for row in layer.rows]
    text = {
        "polarquant.hf": _VERSION,
        "polarquant": polarquant.__version__,
        "transformers": transformers.__version__,
        "model_type": getattr(cache.config, "model_type", ""),
        "config": _shape(cache.config),
        "rope": cache.rope,
        "layers": layers,
    }
    _core.SequenceCache.save(path, caches, json.dumps(text))


def load(cls: type[Cache], path: str, config: Any, threads: int | None) -> Cache:
    text, caches = _core.SequenceCache.load(path)
    try:
        facts = json.loads(text)
        version = facts["polarquant.hf"]
    except (ValueError, TypeError, KeyError):
        raise FormatError(
            f"{path} holds sequence caches, but not those of a transformers model"
        ) from None
    if version != _VERSION:
        raise FormatError(
            f"{path} is of version {version} and this polarquant reads {_VERSION}: read it with "
            f"the version that wrote it, polarquant {facts.get('polarquant')}"
        )
    here = _shape(config.get_text_config(decoder=True))
    for name, value in facts.get("config", {}).items():
        if here.get(name) != value:
            raise ParameterError(
                f"{path} is of a model with {name} {value!r}, this config has {here.get(name)!r}: "
                f"load it for the model it was made with"
            )
    saved = facts["layers"]
    packed = [i for i, layer in enumerate(saved) if layer["kind"] == PolarQuantLayer.__name__]
    first = saved[packed[0]] if packed else {}
    others = {key: first[key] for key in ("page_tokens", "sink_tokens") if key in first}
    cache = cls(
        config, "f16", "f16", residual_length=first.get("window_tokens", 128),
        skip_layers=[i for i in range(len(saved)) if i not in packed], threads=threads,
        rope=facts["rope"], **others,
    )  # fmt: skip
    kinds = [type(layer).__name__ for layer in cache.layers]
    if kinds != [layer["kind"] for layer in saved]:
        raise ParameterError(
            f"{path} is of a {facts['model_type']!r} model with {len(saved)} layers, whose kinds "
            f"differ from the {len(kinds)} of this config: load it for the model it was made with"
        )
    for layer, entry in zip(cache.layers, saved, strict=True):
        if isinstance(layer, PolarQuantLayer):
            _restore(layer, entry, caches)
    return cache


def _restore(layer: PolarQuantLayer, entry: dict[str, Any], caches: list[Any]) -> None:
    layer.take(
        replace(
            layer.setup,
            **{key: entry[key] for key in ("key", "value", "page_tokens", "window_tokens")},
            sink_tokens=entry["sink_tokens"],
        )
    )
    starts = entry.get("starts") or [0] * len(entry["rows"])
    layer.rows = [
        Row(caches[i], pad, start)
        for i, pad, start in zip(entry["rows"], entry["padding"], starts, strict=True)
    ]
    layer.length = entry["length"]
    layer.dtype = getattr(torch, entry["dtype"]) if entry["dtype"] else None
    layer.is_initialized = bool(layer.rows)
    known = [row for row in layer.rows if row.cache.profile is not None]
    if known:
        row = min(known, key=lambda each: abs(each.start))
        layer.profile = row.cache.profile.turned(-row.start)
    if (profile := entry.get("profile")) and layer.needs_profile:  # for what follows a reset
        source = Frozen(profile, layer.profile) if known else Profile(profile)
        layer.setup = replace(layer.setup, profile=source)

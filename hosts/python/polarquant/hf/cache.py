# SPDX-License-Identifier: Apache-2.0
"""The cache that models are given: past_key_values=PolarQuantCache(model.config)."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from polarquant import _core
from polarquant.errors import ParameterError, UnsupportedError
from polarquant.hf import files
from polarquant.hf.attention import NAME
from polarquant.hf.balance import Profile
from polarquant.hf.layer import CROP_COUNTS, PolarQuantLayer, Setup
from polarquant.hf.rope import Rope, rope_of, turning_rope_of

DEFAULT_KEY, DEFAULT_VALUE = "turbo4:balanced", "turbo4"


class PolarQuantCache(Cache):
    """Compressed keys and values for the full-attention layers of a model.

    Args:
        config: the model's own `model.config`: it says which layers there are, and whether
            attention is ours.
        key, value: schemes (`polarquant.schemes()`).
        residual_length: newest tokens kept exact (16 bit).
        sink_tokens: first tokens kept exact.
        profile: for `balanced` keys. "auto" learns it from the first page of the prompt,
            which needs attn_implementation="polarquant"; or a file of `polarquant tune`.
        skip_layers: numbers of layers that keep the stock 16-bit cache; negative ones count from
            the end.
        policy: a policy file, or its text: schemes by layer, window, sinks and page. Instead of
            key, value, residual_length and sink_tokens.
        threads: None takes torch.get_num_threads() at every step.
        page_tokens: tokens encoded together, 64, 128 or 256.
        rope: which channels RoPE pairs: "auto", "halves" (i and i + d/2), "adjacent" (2i and
            2i + 1) or "none".

    Sliding-window layers, state-space layers and the like keep the library's own cache; layers
    that share another layer's keys have none.

    One thread at a time may use a cache; different caches, copies too, may be used at once.
    """

    def __init__(
        self,
        config: Any,
        key: str = DEFAULT_KEY,
        value: str = DEFAULT_VALUE,
        residual_length: int = 128,
        sink_tokens: int = 16,
        profile: str | os.PathLike = "auto",
        skip_layers: Iterable[int] = (),
        policy: str | os.PathLike | None = None,
        threads: int | None = None,
        page_tokens: int = 128,
        rope: str = "auto",
    ) -> None:
        if getattr(config, "is_encoder_decoder", False):
            raise UnsupportedError(
                "config is that of an encoder-decoder model: only decoders are supported"
            )
        most = _core.MAX_THREADS
        if threads is not None and not (isinstance(threads, int) and 1 <= threads <= most):
            raise ParameterError(
                f"threads is {threads!r}: it must be a whole number from 1 to {most}, or None"
            )
        if rope not in ("auto", "halves", "adjacent", "none"):
            raise ParameterError(
                f"rope is {rope!r}: it must be 'auto', 'halves', 'adjacent' or 'none'"
            )
        if not hasattr(config, "get_text_config"):
            raise ParameterError(
                f"config is a {type(config).__name__}: give the model's configuration, model.config"
            )
        if profile is None:
            raise ParameterError("profile is None: it must be 'auto' or a file")
        if isinstance(skip_layers, int):
            raise ParameterError(f"skip_layers is {skip_layers}: give a list, [{skip_layers}]")
        for name, number in (
            ("residual_length", residual_length), ("sink_tokens", sink_tokens),
            ("page_tokens", page_tokens),
        ):  # fmt: skip
            if not isinstance(number, int) or number < 0:
                raise ParameterError(f"{name} is {number!r}: it must be a whole number from 0 on")
        for name, scheme in (("key", key), ("value", value)):
            if not isinstance(scheme, str):
                raise ParameterError(f"{name} is {scheme!r}: it must be the name of a scheme")
        self.config = config.get_text_config(decoder=True)
        self.threads = threads
        self.rope = rope
        layers = DynamicCache(config=config).layers  # the library's rule which layer is what
        ours = self._ours(layers, skip_layers)
        if policy is None:
            schemes = [(key, value)] * len(layers)
        else:
            given = (key, value, residual_length, sink_tokens, page_tokens)
            if given != (DEFAULT_KEY, DEFAULT_VALUE, 128, 16, 128):
                raise ParameterError(
                    "policy says schemes, window, sinks and page: leave out key, value, "
                    "residual_length, sink_tokens and page_tokens"
                )
            schemes, facts = self._policy(policy, layers)
            residual_length = facts["window_tokens"]
            sink_tokens, page_tokens = facts["sink_tokens"], facts["page_tokens"]
            if facts["profiles"] and profile == "auto":
                if len(facts["profiles"]) > 1:
                    raise ParameterError(f"policy names {len(facts['profiles'])} profiles: one")
                profile = facts["profiles"][0]
        source = None if profile == "auto" else Profile(os.fspath(profile))
        for i in ours:
            layers[i] = PolarQuantLayer(
                Setup(
                    layer=i,
                    key=self._scheme(schemes[i][0]),
                    value=self._scheme(schemes[i][1]),
                    page_tokens=page_tokens,
                    window_tokens=residual_length,
                    sink_tokens=sink_tokens,
                    profile=source,
                    shared=bool(getattr(self.config, "num_kv_shared_layers", 0)) and i == ours[-1],
                    rope=self._rope,
                    packed=self._packed,
                    threads=self._threads,
                )
            )
            # Settings out of range are refused now, not at the first token.
            head_dim = self._head_dim(i)
            _core.SequenceCache(
                layers[i].setup.key, layers[i].setup.value, head_dim, head_dim, 1, page_tokens,
                residual_length, sink_tokens,
            )  # fmt: skip
            if layers[i].steps:
                self._rope(i, head_dim, True)
        super().__init__(layers=layers)
        # The first layer that a step updates, and the tokens it had then: the others must have as
        # many, or an earlier step has stopped between two layers.
        self._leader, self._before = len(layers), 0

    # -- the contract -----------------------------------------------------------------------------

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        layer_idx: int,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        layer = self.layers[layer_idx]
        if isinstance(layer, PolarQuantLayer):
            layer.flush()
            if layer_idx <= self._leader:
                self._leader, self._before = layer_idx, layer.length
            elif layer.length != self._before:
                raise ParameterError(
                    f"layer {layer_idx} holds {layer.length} tokens and layer {self._leader} held "
                    f"{self._before} before this step: an earlier one failed half-way; make a new "
                    f"cache, or call reset() or crop()"
                )
        return super().update(key_states, value_states, layer_idx, *args, **kwargs)

    def crop(self, tokens: int) -> None:
        """Negative: removes that many of the newest tokens. Positive: keeps that many of the
        oldest. Zero: what the transformers installed means by it. Layers of the library's own come
        first: where one of them cannot be cut, ours are as before."""
        ours = self.packed_layers()
        for layer in [each for each in self.layers if each not in ours] + ours:
            removed = -int(tokens)
            if tokens > 0 and CROP_COUNTS:
                held = layer if layer in ours else self
                removed = held.get_seq_length() - int(tokens)
                if removed > 0:
                    layer.crop(-removed)
            else:
                layer.crop(-removed)

    # -- what is held -----------------------------------------------------------------------------

    def packed_layers(self) -> list[PolarQuantLayer]:
        return [each for each in self.layers if isinstance(each, PolarQuantLayer)]

    def memory(self) -> dict[str, int]:
        """Bytes held now. Pages that rows share count once.

        total_bytes is the sum of exact_bytes (16-bit rows), code_bytes, header_bytes,
        bookkeeping_bytes, stock_bytes (tensors of layers that are not ours) and observed_bytes
        (queries and keys of a first page that is not whole yet, and tokens that attention has not
        taken over yet). f16_bytes is what the tokens of our layers would take in 16 bit. Changes
        nothing; but like everything here it is for the thread that runs the model.
        """
        caches = [row.cache for layer in self.packed_layers() for row in layer.rows]
        facts = dict(_core.SequenceCache.memory_of(caches))
        facts["stock_bytes"] = sum(
            tensor.nbytes for layer in self.layers for tensor in files.stock_tensors(layer)
        )
        facts["observed_bytes"] = sum(layer.observed_bytes for layer in self.packed_layers())
        pending = sum(layer.pending_bytes for layer in self.packed_layers())
        facts["observed_bytes"] += pending
        facts["total_bytes"] += facts["stock_bytes"] + facts["observed_bytes"]
        return facts

    def save(self, path: str | os.PathLike) -> None:
        """Writes everything to one file; rows that share pages still share them when loaded.

        UnsupportedError if a layer that is not ours holds tokens: the file has no place for them.
        """
        files.save(self, os.fspath(path))

    @classmethod
    def load(
        cls, path: str | os.PathLike, config: Any, threads: int | None = None
    ) -> PolarQuantCache:
        """The cache that was saved, for a model with the same layers."""
        return files.load(cls, os.fspath(path), config, threads)

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise UnsupportedError(
            "a PolarQuantCache cannot be pickled: write it with cache.save(path), read it with "
            "PolarQuantCache.load(path, config)"
        )

    def __deepcopy__(self, memo: Any) -> PolarQuantCache:
        """A copy that shares all pages. It belongs to the same model: config is not copied."""
        other = object.__new__(type(self))
        memo[id(self)] = other
        for name, value in self.__dict__.items():
            other.__dict__[name] = value if name == "config" else copy.deepcopy(value, memo)
        for layer in other.packed_layers():
            other._adopt(layer)
        return other

    # -- helpers ----------------------------------------------------------------------------------

    def _adopt(self, layer: PolarQuantLayer) -> None:
        layer.setup = replace(
            layer.setup, rope=self._rope, packed=self._packed, threads=self._threads
        )

    def _packed(self) -> bool:
        return getattr(self.config, "_attn_implementation", None) == NAME

    def _head_dim(self, layer: int) -> int:
        """Of a layer, where the config says; tensors have the last word."""
        per_layer = getattr(self.config, "per_layer_config", None)
        source = self.config if per_layer is None else per_layer[layer]
        heads = getattr(source, "num_attention_heads", None)
        whole = getattr(source, "hidden_size", None)
        return getattr(source, "head_dim", None) or (whole // heads if heads and whole else 64)

    def _threads(self) -> int:
        return self.threads or torch.get_num_threads()

    def _rope(self, layer: int, head_dim: int, frequencies: bool) -> Rope:
        if frequencies:
            return turning_rope_of(self.config, layer, head_dim, self.rope)
        if self.rope == "auto":
            return Rope(*rope_of(self.config, head_dim))
        return Rope(self.rope, 0 if self.rope == "none" else head_dim)

    @staticmethod
    def _scheme(text: str) -> str:
        parts = _core.scheme_parts(text)
        if parts["dense"]:
            raise UnsupportedError(
                f"scheme {text!r}: dense is not available in transformers; take "
                f"'{parts['codec']}:balanced'"
            )
        return parts["name"]

    def _ours(self, layers: list[Any], skip_layers: Iterable[int]) -> list[int]:
        skipped = set()
        for number in skip_layers:
            if not isinstance(number, int) or not -len(layers) <= number < len(layers):
                raise ParameterError(
                    f"skip_layers has {number}: the model has layers 0 to {len(layers) - 1}"
                )
            skipped.add(number % len(layers))
        types = getattr(self.config, "layer_types", None) or ["full_attention"] * len(layers)
        full = [
            i
            for i, layer in enumerate(layers)
            if type(layer) is DynamicLayer and types[i] == "full_attention"
        ]
        if not full:
            raise UnsupportedError(
                f"{type(self.config).__name__} has no full-attention layer to compress: use "
                f"DynamicCache"
            )
        return [i for i in full if i not in skipped]

    @staticmethod
    def _policy(policy: str | os.PathLike, layers: list[Any]) -> tuple[list, dict]:
        text = os.fspath(policy)
        if not text.lstrip().startswith("{"):
            try:
                with open(text, encoding="utf-8") as file:
                    text = file.read()
            except (OSError, UnicodeDecodeError) as error:
                raise ParameterError(f"policy {text!r} cannot be read: {error}") from None
        with_keys = [i for i, layer in enumerate(layers) if hasattr(layer, "get_seq_length")]
        facts = _core.read_policy(text, len(with_keys))
        schemes = [(DEFAULT_KEY, DEFAULT_VALUE)] * len(layers)
        for i, pair in zip(with_keys, facts["schemes"], strict=True):
            schemes[i] = pair
        return schemes, facts

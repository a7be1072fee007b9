# SPDX-License-Identifier: Apache-2.0
"""cache_implementation="quantized" with backend "polarquant": the z-score scheme.

    polarquant.hf.register()
    model.generate(..., cache_implementation="quantized",
                   cache_config={"backend": "polarquant", "nbits": 3})

transformers has no registry of quantized backends. `register` wraps the private method
`GenerationMixin._prepare_cache_for_generation`, which makes the cache of a `generate` call, and
looks at calls that name our backend only; `unregister` takes the wrapper away. Without either, pass
past_key_values=zscore_cache(model.config, ...).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from transformers.generation.utils import GenerationMixin

from polarquant.errors import HostError, ParameterError
from polarquant.hf import attention
from polarquant.hf.cache import PolarQuantCache

BACKEND = "polarquant"
_METHOD = "_prepare_cache_for_generation"
_BITS = (2, 3, 4, 5)
_AXES = (0, -1)
_SETTINGS = {"nbits", "residual_length", "q_group_size", "axis_key", "axis_value"}


def zscore_cache(
    config: Any,
    nbits: int = 3,
    residual_length: int = 128,
    q_group_size: int = 64,
    axis_key: int = 0,
    axis_value: int = 0,
) -> PolarQuantCache:
    """Keys and values as z-scores of a page's channels, rotated, `nbits` (2 to 5) a value.

    Args:
        config: the model's.
        residual_length: newest tokens kept exact.
        q_group_size: accepted and without effect; statistics are those of a page of 128 tokens.
        axis_key, axis_value: 0 or -1, which both mean the channels.
    """
    del q_group_size
    if nbits not in _BITS:
        raise ParameterError(
            f"`nbits` for `{BACKEND}` backend has to be one of [`2`, `3`, `4`, `5`] but got "
            f"{nbits!r}"
        )
    for name, axis in (("axis_key", axis_key), ("axis_value", axis_value)):
        if axis not in _AXES:
            raise ParameterError(
                f"`{name}` for `{BACKEND}` backend has to be one of [`0`, `-1`] but got {axis}"
            )
    scheme = f"zscore{nbits}"
    return PolarQuantCache(
        config, key=scheme, value=scheme, residual_length=residual_length, sink_tokens=0
    )


def register() -> None:
    """Makes attn_implementation="polarquant" and the quantized backend "polarquant" known to
    transformers. Calling it again changes nothing."""
    attention.register()
    original = getattr(GenerationMixin, _METHOD, None)
    if original is None:
        raise HostError(
            f"this transformers has no GenerationMixin.{_METHOD} to extend: pass "
            f"past_key_values=polarquant.hf.zscore_cache(model.config, ...) to generate"
        )
    if not hasattr(original, "polarquant_wraps"):
        setattr(GenerationMixin, _METHOD, _wrapper(original))


def unregister() -> None:
    """Undoes what `register` did to `generate`. The attention function stays known."""
    current = getattr(GenerationMixin, _METHOD)
    if (original := getattr(current, "polarquant_wraps", None)) is not None:
        setattr(GenerationMixin, _METHOD, original)


def _wrapper(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def prepare(
        self: Any, generation_config: Any, model_kwargs: dict, *args: Any, **kwargs: Any
    ) -> Any:
        settings = generation_config.cache_config
        ours = (
            generation_config.cache_implementation == "quantized"
            and isinstance(settings, dict)
            and settings.get("backend") == BACKEND
            and generation_config.use_cache is not False
            and model_kwargs.get("past_key_values") is None
            and not self.config.is_encoder_decoder
            and self._supports_default_dynamic_cache()
        )
        if not ours:  # its own refusals included
            return original(self, generation_config, model_kwargs, *args, **kwargs)
        options = {key: value for key, value in settings.items() if key != "backend"}
        config = options.pop("config", None) or self.config
        if unknown := sorted(options.keys() - _SETTINGS):
            raise ParameterError(
                f"cache_config has {', '.join(unknown)}: backend `{BACKEND}` takes "
                f"{', '.join(sorted(_SETTINGS))}"
            )
        cache = model_kwargs["past_key_values"] = zscore_cache(config, **options)
        if getattr(generation_config, "is_assistant", False) and hasattr(
            cache, "activate_past_recording"
        ):
            cache.activate_past_recording()  # as the wrapped method does
        return None

    prepare.polarquant_wraps = original
    return prepare

# SPDX-License-Identifier: Apache-2.0
"""polarquant for Hugging Face transformers (4.57 and 5.x), on the CPU.

    from polarquant.hf import PolarQuantCache

    model.set_attn_implementation("polarquant")      # optional: attention on the packed pages
    cache = PolarQuantCache(model.config)
    model.generate(**inputs, past_key_values=cache)

Importing this makes attn_implementation="polarquant" known; `register` also the backend
"polarquant" of cache_implementation="quantized".
"""

from polarquant.hf import attention as _attention
from polarquant.hf.cache import PolarQuantCache
from polarquant.hf.layer import PolarQuantLayer
from polarquant.hf.quantized import register, unregister, zscore_cache

_attention.register()

__all__ = ["PolarQuantCache", "PolarQuantLayer", "register", "unregister", "zscore_cache"]

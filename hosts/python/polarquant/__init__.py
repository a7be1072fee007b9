# SPDX-License-Identifier: Apache-2.0
"""Compressed KV caches and attention on the compressed bytes.

`polarquant.Codec` encodes rows of keys or values and computes with them. Everything raises
`polarquant.Error`, whose subclasses are also ValueError or NotImplementedError.
"""

from polarquant._core import __version__, active_target
from polarquant.codec import Codec
from polarquant.encoded import Encoded
from polarquant.errors import (
    CapacityError,
    CorruptionError,
    Error,
    ErrorCode,
    FormatError,
    HostError,
    ParameterError,
    UnsupportedError,
)
from polarquant.tables import CodecInfo, OptionInfo, SchemeInfo, codecs, schemes

__all__ = [
    "CapacityError",
    "Codec",
    "CodecInfo",
    "CorruptionError",
    "Encoded",
    "Error",
    "ErrorCode",
    "FormatError",
    "HostError",
    "OptionInfo",
    "ParameterError",
    "SchemeInfo",
    "UnsupportedError",
    "__version__",
    "active_target",
    "codecs",
    "schemes",
]

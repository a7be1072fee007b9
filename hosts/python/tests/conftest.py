# SPDX-License-Identifier: Apache-2.0
"""What several tests share. Failures name the scheme, the shape and the seed."""

from __future__ import annotations

import numpy as np

import polarquant


def gaussian(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def codec_for(scheme: str, head_dim: int, role: str = "key", **settings) -> polarquant.Codec:
    """With balance scales where the scheme needs some."""
    balance = None
    if "balance" in scheme:
        balance = np.exp2(np.random.default_rng(7).uniform(-1, 1, head_dim)).astype(np.float32)
    return polarquant.Codec(scheme, head_dim, role, balance=balance, **settings)


def every_scheme(head_dim: int) -> list[tuple[str, str]]:
    """(scheme, role) of all that there is."""
    return [(info.name, role) for info in polarquant.schemes(head_dim) for role in info.roles]

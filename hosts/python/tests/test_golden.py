# SPDX-License-Identifier: Apache-2.0
"""The bytes are those of FORMAT.md: the goldens of the C++ tests and of `polarquant verify`."""

from __future__ import annotations

import numpy as np
import pytest

import polarquant

# scheme, role, head_dim, FNV-1a of the first page of the portable rows
PAGES = [
    ("turbo2:scale=mse", "key", 128, 0x7B97F11810ECD3B5),
    ("turbo2:scale=mse", "value", 80, 0xF3563BD2363D91B2),
    ("turbo3:scale=mse", "key", 64, 0x4D00D71902EE08F7),
    ("turbo3:scale=mse", "value", 96, 0x299B1870CDED2FA1),
    ("turbo3:center:scale=mse", "key", 112, 0x395679F566BE42B3),
    ("turbo4:scale=mse", "key", 64, 0xFB3EA4CEAFB19AED),
    ("turbo4:scale=mse", "value", 128, 0xD2F3F9E16B676B91),
    ("turbo4:center:scale=mse", "key", 128, 0xC795E7589EE5B620),
    ("turbo4", "key", 80, 0xFB631352D09F11B5),
    ("turbo1:scale=mse", "key", 64, 0x754A76DBF072153C),
    ("turbo6:scale=mse", "value", 64, 0xF0E85B631601A410),
    ("q8_0", "key", 64, 0xFD0AFE911155BA00),
    ("q4_0:center", "value", 128, 0xE0A0CD239CB7F099),
    ("f16", "key", 80, 0x226EF35F1B9D44F8),
]

# scheme, record of the row (i * 37 % 64 - 31) / 8
RECORDS = [
    ("q8_0:rotate=none", "08288518ad40d467fc9124b94be073089d30c457ec7f14a93cd063f88d20b547dc6f"),
    ("q4_0:rotate=none", "00b8cf379d047be248bf269df36ad148ae15"),
    ("turbo1", "31436c40887b"),
    ("turbo2", "af40e5281074d4d18a7a"),
    ("turbo3:scale=mse", "e63f5b9d12819059d0accc2c4a5a"),
    ("turbo4", "b84176b9a5283426745b63b646b79892885c"),
    ("fp8_e4m3", "9320fe6af976f27bd6fc70f878ee7d5efb72f57ae97e69fa75f27bdefd6ef878f07c"),
    ("int4", "3338c04390b2e5173a5c8ea1d4f6295b7d90c3e5"),
]


def portable_rows(count: int, head_dim: int) -> np.ndarray:
    values, state = [], 1
    for i in range(count * head_dim):
        total = 0
        for _ in range(4):
            state = (state * 1664525 + 1013904223) % 2**32
            total += (state >> 22) - 512
        values.append(total / 256 + i % head_dim / 32)
    return np.array(values, np.float32).reshape(count, head_dim)


def fnv1a(data: bytes) -> int:
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return value


@pytest.mark.parametrize(("scheme", "role", "head_dim", "fingerprint"), PAGES)
def test_pages_have_the_golden_bytes(scheme, role, head_dim, fingerprint):
    encoded = polarquant.Codec(scheme, head_dim, role).encode(portable_rows(128, head_dim))
    assert encoded.pages.shape[0] == 1
    assert fnv1a(encoded.pages.tobytes()) == fingerprint


@pytest.mark.parametrize(("scheme", "record"), RECORDS)
def test_records_have_the_golden_bytes(scheme, record):
    row = np.array([[(i * 37 % 64 - 31) / 8 for i in range(32)]], np.float32)
    codec = polarquant.Codec(scheme, head_dim=32)
    assert codec.records(codec.encode(row)).tobytes().hex() == record


def test_records_are_found_on_every_page():
    rows = np.random.default_rng(0).standard_normal((2, 3, 150, 64)).astype(np.float32)
    codec = polarquant.Codec("turbo3", head_dim=64, page_tokens=64)
    records = codec.records(codec.encode(rows))
    assert records.shape == (2, 3, 150, codec.record_bytes)
    alone = codec.encode(rows[1, 2, 149:])  # bare turbo: a record depends on its row alone
    np.testing.assert_array_equal(records[1, 2, 149], codec.records(alone)[0])

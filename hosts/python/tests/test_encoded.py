# SPDX-License-Identifier: Apache-2.0
"""Encoded rows as objects and as bytes."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import polarquant
from conftest import codec_for, gaussian
from polarquant import CorruptionError, Encoded, FormatError, ParameterError


@pytest.mark.parametrize(
    "scheme", ["f16", "turbo3", "turbo4:center", "turbo4:balance:center", "kivi2"]
)
@pytest.mark.parametrize("shape", [(1, 64), (300, 64), (2, 3, 130, 64), (2, 0, 64)])
def test_bytes_and_pickles_bring_it_back(scheme, shape):
    codec = codec_for(scheme, 64)
    encoded = codec.encode(gaussian(1, *shape))
    for again in (
        Encoded.frombytes(encoded.tobytes()),
        Encoded.frombytes(bytearray(encoded.tobytes())),
        pickle.loads(pickle.dumps(encoded)),
        copy.deepcopy(encoded),
    ):
        assert again == encoded
        assert again.shape == shape
        np.testing.assert_array_equal(codec.decode(again), codec.decode(encoded))


def test_pages_cannot_be_changed():
    encoded = codec_for("turbo3", 64).encode(gaussian(1, 3, 64))
    with pytest.raises(ValueError):
        encoded.pages[0, 0] = 1
    with pytest.raises(TypeError):
        hash(encoded)


def test_any_changed_or_missing_byte_is_noticed():
    data = codec_for("turbo2", 64).encode(gaussian(1, 3, 64)).tobytes()
    random = np.random.default_rng(0)
    places = {*range(200), *(int(place) for place in random.integers(0, len(data), 100))}
    for place in sorted(places):
        changed = bytearray(data)
        changed[place] ^= 1 << int(random.integers(8))
        with pytest.raises((FormatError, CorruptionError)):
            Encoded.frombytes(changed)
    for length in (0, 3, 7, 8, 11, 12, 15, 16, 100, len(data) - 1):
        with pytest.raises((FormatError, CorruptionError)):
            Encoded.frombytes(data[:length])


def with_checksum(data: bytes) -> bytes:
    import struct
    import zlib

    return data[:-4] + struct.pack("<I", zlib.crc32(data[:-4]))


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (b'"turbo2"', b'"turbo9"', "turbo9"),
        (b'"key"', b'"kex"', "kex"),
        (b"[3,64]", b"[999,]", "description"),
        (b"[3,64]", b"[3,80]", "shape"),
        (b"[3,64]", b"[-3,4]", "shape"),
        (b'"head_dim":64', b'"head_dim":65', "65"),
        (b'"page_tokens":128', b'"page_tokens":100', "100"),
        (b'"scheme"', b'"schema"', "scheme"),
    ],
)
def test_wrong_descriptions_are_named(before, after, message):
    data = codec_for("turbo2", 64).encode(gaussian(1, 3, 64)).tobytes()
    assert before in data
    with pytest.raises(FormatError, match=message):
        Encoded.frombytes(with_checksum(data.replace(before, after, 1)))


def test_other_files_and_versions_are_named():
    data = codec_for("turbo2", 64).encode(gaussian(1, 3, 64)).tobytes()
    with pytest.raises(FormatError, match="begin with b'GGUF"):
        Encoded.frombytes(b"GGUF" + bytes(100))
    with pytest.raises(FormatError, match="version 2"):
        Encoded.frombytes(with_checksum(data[:7] + b"\2" + data[8:]))


def test_a_codec_refuses_rows_of_another():
    codec = codec_for("turbo3", 64)
    for other, message in (
        (codec_for("turbo4", 64), "scheme turbo4, this codec has turbo3"),
        (codec_for("turbo3", 128), "head_dim 128"),
        (codec_for("turbo3", 64, role="value"), "role value"),
        (codec_for("turbo3", 64, page_tokens=64), "page_tokens 64"),
    ):
        rows = other.encode(gaussian(1, 3, other.head_dim))
        for call in (codec.decode, codec.records, lambda e: codec.dot(gaussian(1, 1, 64), e)):
            with pytest.raises(ParameterError, match=message):
                call(rows)
    with pytest.raises(ParameterError, match="bytes"):
        codec.decode(b"turbo3")


def test_a_codec_refuses_keys_weighed_with_other_scales():
    codec = codec_for("turbo3:balance:center", 64)
    encoded = codec.encode(gaussian(1, 3, 64))
    other = polarquant.Codec("turbo3:balance:center", 64, balance=np.ones(64, np.float32))
    with pytest.raises(ParameterError, match="other scales"):
        other.decode(encoded)
    with pytest.raises(ParameterError, match="other scales"):
        polarquant.Codec("turbo3:balance:center", 64).decode(encoded)
    again = pickle.loads(pickle.dumps(codec))
    np.testing.assert_array_equal(again.decode(encoded), codec.decode(encoded))


def test_it_says_what_it_is():
    encoded = codec_for("turbo3", 128).encode(gaussian(1, 2, 256, 128))
    assert repr(encoded) == (
        "Encoded(turbo3, key, shape=[2, 256, 128], nbytes=25600, bits_per_value=3.125)"
    )
    assert len(encoded) == 256

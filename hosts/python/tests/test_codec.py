# SPDX-License-Identifier: Apache-2.0
"""Rows encoded, decoded, multiplied: for every scheme, and whatever arrays they come in."""

from __future__ import annotations

import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from conftest import codec_for, every_scheme, gaussian
from polarquant import Codec

ALL_SCHEMES = [(64, *each) for each in every_scheme(64)] + [
    (80, *each) for each in every_scheme(80)
]
SOME_SCHEMES = [
    "f16", "q8_0", "turbo2", "turbo3", "turbo4:center", "turbo4:balance:center", "mixed2.5",
]  # fmt: skip


@pytest.mark.parametrize(("head_dim", "scheme", "role"), ALL_SCHEMES)
def test_logits_are_those_of_the_decoded_rows(head_dim, scheme, role):
    codec = codec_for(scheme, head_dim, role)
    encoded = codec.encode(gaussian(1, 2, 130, head_dim) + 0.5)
    queries = gaussian(2, 2, 5, head_dim)
    rows = codec.decode(encoded)
    expected = queries.astype(np.float64) @ rows.swapaxes(-1, -2).astype(np.float64)
    size = np.linalg.norm(queries, axis=-1).max() * np.linalg.norm(rows, axis=-1).max()
    np.testing.assert_allclose(codec.dot(queries, encoded), expected, rtol=0, atol=2e-6 * size)
    scaled = codec.dot(queries, encoded, scale=0.125)
    np.testing.assert_allclose(scaled, 0.125 * expected, rtol=0, atol=2e-6 * size)


@pytest.mark.parametrize(("head_dim", "scheme", "role"), ALL_SCHEMES)
def test_what_was_decoded_is_near_what_was_encoded(head_dim, scheme, role):
    codec = codec_for(scheme, head_dim, role)
    rows = gaussian(3, 256, head_dim)
    decoded = codec.decode(codec.encode(rows))
    # The worst is one bit a value, unbiased: its error is larger than the row.
    logit_error = np.mean((decoded - rows) ** 2)
    assert np.isfinite(decoded).all()
    assert logit_error < 2.5, f"{codec}"
    shrunk = np.sum(decoded * rows) / np.sum(rows * rows)
    assert 0.5 < shrunk < 1.5, f"{codec}"


@pytest.mark.parametrize(("scheme", "role"), every_scheme(64))
@pytest.mark.parametrize(
    "ugly", ["zeros", "huge", "tiny", "nan", "infinities", "one row", "equal rows"]
)
def test_ugly_rows_stay_finite(scheme, role, ugly):
    codec = codec_for(scheme, 64, role)
    rows = gaussian(4, 70, 64)
    if ugly == "zeros":
        rows[...] = 0
    elif ugly == "huge":
        rows *= 1e37
    elif ugly == "tiny":
        rows *= 1e-37
    elif ugly == "nan":
        rows[::3, ::5] = np.nan
    elif ugly == "infinities":
        rows[::3, ::5] = np.inf
        rows[1::3, ::7] = -np.inf
    elif ugly == "one row":
        rows = rows[:1]
    else:
        rows[...] = rows[0]
    encoded = codec.encode(rows)
    decoded = codec.decode(encoded)
    assert np.isfinite(decoded).all()
    assert np.isfinite(codec.dot(np.ones((1, 64), np.float32), encoded)).all()
    assert codec.encode(rows) == encoded
    if ugly == "zeros":
        assert np.abs(decoded).max() < 1e-3


def test_f32_and_f16_schemes_give_back_what_they_got():
    rows = gaussian(5, 3, 300, 64)
    exact = codec_for("f32", 64)
    np.testing.assert_array_equal(exact.decode(exact.encode(rows)), rows)
    halves = rows.astype(np.float16)
    codec = codec_for("f16", 64)
    np.testing.assert_array_equal(codec.decode(codec.encode(halves), like=halves), halves)


def test_the_error_of_gaussian_rows_is_as_documented():
    rows = gaussian(6, 4096, 128)
    for bits, documented in ((2, 0.11433), (3, 0.03174), (4, 0.007883)):  # docs/codecs.md
        codec = codec_for(f"turbo{bits}:scale=mse", 128)
        error = np.sum((codec.decode(codec.encode(rows)) - rows) ** 2) / np.sum(rows**2)
        assert error == pytest.approx(documented, rel=0.02), codec


@pytest.mark.parametrize("scheme", SOME_SCHEMES)
@pytest.mark.parametrize("role", ["key", "value"])
@pytest.mark.parametrize("seed", range(3))
def test_strides_do_not_matter(scheme, role, seed):
    if role == "value" and "balance" in scheme:
        role = "key"
    codec = codec_for(scheme, 64, role)
    random = np.random.default_rng(seed)
    tokens = int(random.integers(1, 300))
    wide = gaussian(seed, 3, tokens, 2, 70)
    views = [
        wide[..., :64].swapaxes(1, 2),  # [batch, heads, tokens, head_dim] of a fused projection
        wide[:, ::-1, :, 6:].transpose(2, 0, 1, 3),
        wide[::2, ::3, 0, 3:67],
        np.broadcast_to(wide[0, :, 0, :64], (2, tokens, 64)),
    ]
    for view in views:
        rows = np.ascontiguousarray(view)
        encoded = codec.encode(view)
        assert encoded == codec.encode(rows), f"seed {seed}, strides {view.strides}"
        target = np.full((*view.shape[:-1], 70), 7, np.float32)
        out = target[..., 2:66]
        assert codec.decode(encoded, out=out) is out
        np.testing.assert_array_equal(out, codec.decode(encoded))
        assert (target[..., :2] == 7).all() and (target[..., 66:] == 7).all()
        queries = gaussian(seed, *view.shape[:-2], 4, 70)[..., ::-1, :64]
        np.testing.assert_array_equal(
            codec.dot(queries, encoded), codec.dot(np.ascontiguousarray(queries), encoded)
        )


@pytest.mark.parametrize("scheme", SOME_SCHEMES)
@pytest.mark.parametrize("page_tokens", [64, 128, 256])
def test_leading_indices_and_whole_pages_are_encoded_alone(scheme, page_tokens):
    codec = codec_for(scheme, 64, page_tokens=page_tokens)
    rows = gaussian(8, 2, 3, 300, 64)
    encoded = codec.encode(rows)
    each = -(-300 // page_tokens)
    assert encoded.pages.shape == (6 * each, codec.page_bytes)
    alone = codec.encode(rows[1, 0])
    np.testing.assert_array_equal(encoded.pages[3 * each : 4 * each], alone.pages)
    page = codec.encode(rows[1, 0, page_tokens : 2 * page_tokens])
    np.testing.assert_array_equal(alone.pages[1:2], page.pages)
    np.testing.assert_array_equal(codec.decode(encoded)[1, 0], codec.decode(alone))


@pytest.mark.parametrize("scheme", SOME_SCHEMES)
def test_threads_do_not_matter(scheme):
    codec = codec_for(scheme, 128)
    rows, queries = gaussian(9, 4, 300, 128), gaussian(10, 4, 9, 128)
    encoded = codec.encode(rows, threads=1)
    assert codec.encode(rows, threads=5) == encoded
    decoded = codec.decode(encoded, threads=1)
    np.testing.assert_array_equal(codec.decode(encoded, threads=5), decoded)
    logits = codec.dot(queries, encoded, threads=1)
    np.testing.assert_array_equal(codec.dot(queries, encoded, threads=5), logits)
    with ThreadPoolExecutor(4) as pool:  # one codec for all of them
        for other in pool.map(lambda _: codec.encode(rows, threads=2), range(8)):
            assert other == encoded


def test_other_python_threads_run_meanwhile():
    codec = codec_for("trellis4", 128)
    rows = gaussian(11, 4, 256, 128)
    worker = threading.Thread(target=lambda: codec.encode(rows, threads=1))
    worker.start()
    turns = 0
    while worker.is_alive():
        turns += 1
    assert turns > 1000


def test_no_rows_and_no_queries_are_fine():
    codec = codec_for("turbo4:center", 64)
    nothing = codec.encode(np.empty((2, 0, 64), np.float32))
    assert nothing.nbytes == 0 and len(nothing) == 0
    assert codec.decode(nothing).shape == (2, 0, 64)
    assert codec.dot(gaussian(0, 2, 3, 64), nothing).shape == (2, 3, 0)
    some = codec.encode(gaussian(0, 2, 3, 64))
    assert codec.dot(np.empty((2, 0, 64), np.float32), some).shape == (2, 0, 3)
    assert codec.encode(np.empty((0, 5, 64), np.float32)).nbytes == 0
    assert codec.records(nothing).shape == (2, 0, codec.record_bytes)


def test_sharpened_keys_have_sharpened_logits():
    rows, queries = gaussian(12, 100, 64), gaussian(13, 3, 64)
    plain, sharp = codec_for("turbo2:scale=mse", 64), codec_for("turbo2:scale=mse:sharpen=150", 64)
    assert (plain.sharpen, sharp.sharpen) == (1.0, 1.5)
    np.testing.assert_array_equal(sharp.encode(rows).pages, plain.encode(rows).pages)
    np.testing.assert_allclose(
        sharp.dot(queries, sharp.encode(rows)),
        1.5 * plain.dot(queries, plain.encode(rows)),
        rtol=1e-6,
    )


def test_a_dense_map_is_undone_on_the_queries():
    dense = np.eye(64, dtype=np.float32) + 0.1 * gaussian(14, 64, 64)
    codec = codec_for("turbo4:dense", 64, dense=dense)
    rows, queries = gaussian(15, 200, 64), gaussian(16, 3, 64)
    encoded = codec.encode(rows)
    decoded = codec.decode(encoded)
    assert np.mean((decoded - rows) ** 2) < 0.05
    np.testing.assert_allclose(codec.dot(queries, encoded), queries @ decoded.T, atol=1e-3)


def test_sizes_are_those_of_the_format():
    codec = codec_for("turbo3:center", 128)
    assert codec.scheme == "turbo3:center" and codec.role == "key"
    assert (codec.head_dim, codec.page_tokens) == (128, 128)
    assert codec.record_bytes == 2 + 3 * 128 // 8
    assert codec.header_bytes == 128 + 2
    assert codec.page_bytes == (128 * 50 + 130 + 63) // 64 * 64
    assert codec.bits_per_value == 8 * codec.page_bytes / (128 * 128)
    encoded = codec.encode(gaussian(0, 2, 256, 128))
    assert encoded.nbytes == 4 * codec.page_bytes
    assert encoded.bits_per_value == codec.bits_per_value


def test_a_codec_keeps_scales_of_its_own():
    scales = np.linspace(0.5, 2, 64, dtype=np.float32)
    codec = Codec("turbo4:balance:center", head_dim=64, balance=scales)
    rows = np.random.default_rng(0).standard_normal((10, 64)).astype(np.float32)
    encoded = codec.encode(rows)
    scales[::2] = 3
    again = pickle.loads(pickle.dumps(codec))
    assert np.array_equal(again.encode(rows).pages, encoded.pages)

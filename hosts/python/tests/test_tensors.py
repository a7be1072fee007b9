# SPDX-License-Identifier: Apache-2.0
"""Tensors of torch, and bfloat16."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from conftest import codec_for, gaussian
from polarquant import Codec, ParameterError, UnsupportedError

torch = pytest.importorskip("torch")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("scheme", ["f32", "turbo3", "turbo4:center"])
def test_number_types_are_read_and_written_exactly(scheme, dtype):
    codec = codec_for(scheme, 64)
    rows = torch.from_numpy(gaussian(1, 2, 150, 64)).to(dtype)
    encoded = codec.encode(rows)
    assert encoded == codec.encode(rows.float().numpy())
    decoded = codec.decode(encoded, like=rows)
    assert isinstance(decoded, torch.Tensor) and decoded.dtype == dtype
    expected = torch.from_numpy(codec.decode(encoded)).to(dtype)
    assert torch.equal(decoded, expected)
    queries = torch.from_numpy(gaussian(2, 2, 3, 64)).to(dtype)
    logits = codec.dot(queries, encoded)
    assert isinstance(logits, torch.Tensor) and logits.dtype == torch.float32
    np.testing.assert_array_equal(logits.numpy(), codec.dot(queries.float().numpy(), encoded))


def test_tensors_of_a_fused_projection_are_read_where_they_lie():
    codec = codec_for("turbo4", 64)
    fused = torch.from_numpy(gaussian(3, 2, 40, 3 * 4 * 64)).to(torch.bfloat16)
    keys = fused.view(2, 40, 12, 64)[:, :, 4:8].transpose(1, 2)
    encoded = codec.encode(keys)
    assert encoded.shape == (2, 4, 40, 64)
    assert encoded == codec.encode(keys.contiguous())
    out = torch.full((2, 40, 4, 72), 7.0, dtype=torch.bfloat16)
    assert codec.decode(encoded, out=out[..., 4:68].transpose(1, 2)).data_ptr() == (
        out.data_ptr() + 4 * 2
    )
    assert torch.equal(out[..., 4:68].transpose(1, 2), codec.decode(encoded, like=keys))
    assert (out[..., :4] == 7).all() and (out[..., 68:] == 7).all()


def test_tensors_with_gradients_are_refused_and_detached_ones_are_not():
    codec = codec_for("turbo3", 64)
    rows = torch.zeros(3, 64, requires_grad=True)
    with pytest.raises(ParameterError, match=r"requires a gradient.* rows.detach\(\)"):
        codec.encode(rows)
    with pytest.raises(ParameterError, match=r"queries.detach\(\)"):
        codec.dot(rows, codec.encode(rows.detach()))


def test_tensors_negated_by_a_flag_are_refused():
    rows = torch.randn(3, 64)
    codec = Codec("turbo4", head_dim=64)
    with pytest.raises(UnsupportedError, match="resolve_neg"):
        codec.encode(torch._neg_view(rows))
    assert codec.encode(torch._neg_view(rows).resolve_neg()) == codec.encode(-rows)


def test_more_threads_than_can_be_run_are_refused():
    with pytest.raises(ParameterError, match="1024"):
        Codec("turbo4", head_dim=64).encode(torch.randn(3, 64), threads=1500)


def test_tensors_without_memory_are_refused():
    with pytest.raises(ParameterError, match="rows are a torch.Tensor whose memory cannot be read"):
        codec_for("turbo3", 64).encode(torch.zeros(3, 64, device="meta"))


def test_bfloat16_of_numpy_is_read_and_written():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    codec = codec_for("turbo3", 64)
    rows = gaussian(4, 2, 70, 64).astype(ml_dtypes.bfloat16)
    encoded = codec.encode(rows)
    assert encoded == codec.encode(rows.astype(np.float32))
    decoded = codec.decode(encoded, like=rows)
    assert decoded.dtype == ml_dtypes.bfloat16
    expected = codec.decode(encoded).astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(decoded.view(np.uint16), expected.view(np.uint16))
    out = np.zeros((2, 70, 2, 64), ml_dtypes.bfloat16)[:, :, 1]
    assert codec.decode(encoded, out=out) is out
    np.testing.assert_array_equal(out.view(np.uint16), expected.view(np.uint16))


@pytest.mark.parametrize("first", ["torch", "polarquant"])
def test_the_threads_of_both_live_in_one_process(first):
    """torch brings an OpenMP runtime of its own; either may be loaded first."""
    program = f"""
import importlib
importlib.import_module({first!r})
import numpy, polarquant, torch
torch.set_num_threads(2)
codec = polarquant.Codec("turbo4", 64)
rows = torch.randn(8, 256, 64)
encoded = codec.encode(rows, threads=1)
square = torch.randn(256, 256)
for _ in range(20):
    square = torch.tanh(square @ square)
    assert codec.encode(rows, threads=2) == encoded
    assert torch.isfinite(codec.dot(rows[:, :4], encoded, threads=2)).all()
print("both")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=300
    )
    assert done.stdout == "both\n", done.stderr

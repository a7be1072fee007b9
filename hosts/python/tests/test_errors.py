# SPDX-License-Identifier: Apache-2.0
"""What is refused, and what the messages say."""

from __future__ import annotations

import ctypes
import pickle

import numpy as np
import pytest

import polarquant
from conftest import codec_for, gaussian
from polarquant import ErrorCode, FormatError, ParameterError, UnsupportedError

ROWS = gaussian(1, 3, 64)
CODEC = codec_for("turbo3", 64)


@pytest.mark.parametrize(
    ("arguments", "settings", "error", "message"),
    [
        (("turbo9", 64), {}, FormatError, 'no codec "turbo9"; choose one of f32'),
        (("turbo3:centre", 64), {}, FormatError, "centre"),
        (("", 64), {}, FormatError, "codec"),
        (("turbo3", 65), {}, UnsupportedError, "head_dim 65 .* multiple of 16 from 16 to 1024"),
        (("turbo3", 2048), {}, UnsupportedError, "head_dim 2048"),
        (("turbo3", 0), {}, UnsupportedError, "head_dim 0"),
        (("turbo3", -64), {}, UnsupportedError, "head_dim -64"),
        (("turbo3", 64, "keys"), {}, ParameterError, 'role is "keys": .* "key" or "value"'),
        (("turbo3", 64, "key", 100), {}, UnsupportedError, "page_tokens 100 .* 64, 128 or 256"),
        (("qjl", 64, "value"), {}, UnsupportedError, "qjl stores no values"),
        (("turbo4:balance:center", 64, "value"), {}, UnsupportedError, "is for keys"),
        (("turbo4:balanced", 64), {}, UnsupportedError, "turns with the position"),
        (("turbo4:balance:center", 64), {"balance": np.ones(60)}, ParameterError, r"\[60\]"),
        (("turbo4:balance:center", 64), {"balance": np.zeros(64)}, ParameterError, "balance"),
        (("turbo3:balance", 64), {"balance": np.full(64, np.nan)}, ParameterError, "balance"),
        (("turbo4", 64), {"balance": np.ones(64)}, ParameterError, "takes no balance scales"),
        (("turbo4", 64), {"dense": np.eye(64)}, ParameterError, "takes no dense map"),
    ],
)
def test_a_codec_that_cannot_be_is_named(arguments, settings, error, message):
    with pytest.raises(error, match=message) as caught:
        polarquant.Codec(*arguments, **settings)
    assert isinstance(caught.value, polarquant.Error)


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        ([1.0, 2.0], ParameterError, "rows are a list .* NumPy array or a tensor"),
        (None, ParameterError, "rows are a NoneType"),
        (ROWS.astype(np.float64), UnsupportedError, "rows are float64: float32, float16 and bf"),
        (ROWS.astype(np.int8), UnsupportedError, "rows are int8"),
        (ROWS.astype(np.complex64), UnsupportedError, "rows are complex64"),
        (ROWS[:, :48], ParameterError, r"rows have the shape \[3, 48\]: .* \[..., n, 64\]"),
        (ROWS[0], ParameterError, r"rows have the shape \[64\]"),
        (np.float32(1), ParameterError, "rows"),
        (np.zeros((64, 64), np.float32).T, UnsupportedError, "last dimension with stride 64"),
        (np.zeros((3, 128), np.float32)[:, ::2], UnsupportedError, "last dimension with stride 2"),
    ],
)
def test_rows_that_cannot_be_encoded_are_named(rows, error, message):
    with pytest.raises(error, match=message):
        CODEC.encode(rows)
    with pytest.raises(polarquant.Error):
        CODEC.dot(rows, CODEC.encode(ROWS))


def test_keys_that_need_scales_say_so():
    codec = polarquant.Codec("turbo4:balance:center", 64)
    assert codec.bits_per_value > 4
    with pytest.raises(ParameterError, match="needs 64 balance scales, 0 were given"):
        codec.encode(ROWS)


def test_outputs_that_do_not_fit_are_named():
    encoded = CODEC.encode(ROWS)
    with pytest.raises(ParameterError, match=r"out has the shape \[2, 64\]: it must be \[3, 64\]"):
        CODEC.decode(encoded, out=np.empty((2, 64), np.float32))
    with pytest.raises(UnsupportedError, match="float64"):
        CODEC.decode(encoded, out=np.empty((3, 64)))
    frozen = np.empty((3, 64), np.float32)
    frozen.flags.writeable = False
    with pytest.raises(ParameterError, match="cannot be written to"):
        CODEC.decode(encoded, out=frozen)
    with pytest.raises(ParameterError, match="both"):
        CODEC.decode(encoded, like=ROWS, out=np.empty((3, 64), np.float32))
    with pytest.raises(ParameterError, match="like is a str"):
        CODEC.decode(encoded, like="float16")
    with pytest.raises(ParameterError, match="repeat the same memory along dimension 0"):
        one = np.empty((1, 64), np.float32)
        CODEC.decode(encoded, out=np.lib.stride_tricks.as_strided(one, (3, 64), (0, 4)))


def test_queries_must_have_the_leading_dimensions_of_the_rows():
    encoded = CODEC.encode(gaussian(1, 2, 3, 64))
    with pytest.raises(ParameterError, match=r"leading dimensions \[\], the encoded rows \[2\]"):
        CODEC.dot(ROWS, encoded)


def test_numbers_of_threads_below_one_are_refused():
    for threads in (-1, -100):
        with pytest.raises(ParameterError, match=f"threads is {threads}"):
            CODEC.encode(ROWS, threads=threads)


def test_errors_have_a_code_and_natural_bases():
    for error, code, base in (
        (FormatError, 10, ValueError),
        (polarquant.CorruptionError, 20, ValueError),
        (UnsupportedError, 30, NotImplementedError),
        (ParameterError, 40, ValueError),
        (polarquant.CapacityError, 50, MemoryError),
        (polarquant.HostError, 60, polarquant.Error),
    ):
        raised = error("what, and what to do")
        assert raised.code == code and isinstance(raised.code, ErrorCode)
        assert isinstance(raised, polarquant.Error) and isinstance(raised, base)
        assert str(pickle.loads(pickle.dumps(raised))) == "what, and what to do"


class _DLTensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
        ("manager", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
    ]


class OnDevice:
    """Hands out memory of a device, as DLPack spells it; nobody may touch it."""

    def __init__(self, device_type: int, device_id: int) -> None:
        self._device = (device_type, device_id)
        self._shape = (ctypes.c_int64 * 2)(3, 64)
        self._tensor = _DLTensor(0x1000, *self._device, 2, 2, 32, 1, self._shape)
        self.shape = (3, 64)

    def __dlpack_device__(self):
        return self._device

    def __dlpack__(self, **_):
        new = ctypes.pythonapi.PyCapsule_New
        new.restype = ctypes.py_object
        new.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
        return new(ctypes.addressof(self._tensor), b"dltensor", None)


@pytest.mark.parametrize(("device", "name"), [((2, 0), "cuda:0"), ((10, 1), "rocm:1")])
def test_memory_of_other_devices_is_refused_by_name(device, name):
    message = f"are on {name}, and this polarquant was built without CUDA"
    with pytest.raises(UnsupportedError, match=message):
        CODEC.encode(OnDevice(*device))
    with pytest.raises(UnsupportedError, match=message):
        CODEC.dot(OnDevice(*device), CODEC.encode(ROWS))
    with pytest.raises(UnsupportedError, match=message):
        CODEC.decode(CODEC.encode(ROWS), out=OnDevice(*device))

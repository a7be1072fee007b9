# SPDX-License-Identifier: Apache-2.0
"""What polarquant raises. Messages name the value seen, the values allowed and what to do."""

from __future__ import annotations

from enum import IntEnum


class ErrorCode(IntEnum):
    """The families of errors; the command `polarquant` exits with these numbers."""

    FORMAT = 10
    CORRUPTION = 20
    UNSUPPORTED = 30
    PARAMETER = 40
    CAPACITY = 50
    HOST = 60


class Error(Exception):
    """The base of all errors of polarquant; `code` is its family."""

    code: ErrorCode = ErrorCode.HOST


class FormatError(Error, ValueError):
    """Text or bytes that cannot be parsed."""

    code = ErrorCode.FORMAT


class CorruptionError(Error, ValueError):
    """Bytes that parse but are damaged."""

    code = ErrorCode.CORRUPTION


class UnsupportedError(Error, NotImplementedError):
    """A combination that is not implemented."""

    code = ErrorCode.UNSUPPORTED


class ParameterError(Error, ValueError):
    """A value outside its range, or a shape that does not fit."""

    code = ErrorCode.PARAMETER


class CapacityError(Error, MemoryError):
    """Memory, cells or threads exhausted."""

    code = ErrorCode.CAPACITY


class HostError(Error):
    """The program, file system or library around polarquant said no."""

    code = ErrorCode.HOST


def of_code(code: int) -> type[Error]:
    """The class of errors of a family; for the native module."""
    return _CLASSES[code]


_CLASSES: dict[int, type[Error]] = {
    int(each.code): each
    for each in (
        FormatError,
        CorruptionError,
        UnsupportedError,
        ParameterError,
        CapacityError,
        HostError,
    )
}

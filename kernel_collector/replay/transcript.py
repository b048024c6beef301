"""A transcript of what a machine answered, as a file: written as it happens, read again for a replay.

The file is a line that names its form, then blocks: their length (u32), and entries compressed by zlib. An entry is its
length and that of the bytes after it (u32 each), JSON, and those bytes, which the JSON refers to. Reading makes nothing
but numbers, text, arrays, messages of intake.proto and named tuples of this package: a file may be anybody's.
"""

from __future__ import annotations

import base64
import errno
import importlib
import io
import json
import logging
import os
import struct
import zlib
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from ebpf_net.v1 import intake_pb2
from google.protobuf.message import DecodeError, Message

from daemon.errors import StartupError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_LOGGER = logging.getLogger(__name__)
FORM = b"ebpf-net recording 1\n"
_BLOCK = struct.Struct("<I")
_ENTRY = struct.Struct("<II")
_LEVEL = 1
# A block is written when it is as long, and when `flush` is called.
_BLOCK_BYTES = 1 << 18
# What is read of a file is bounded: a block, and what it holds.
_MOST_BLOCK_BYTES = 256 << 20
_PACKAGE = __name__.partition(".")[0]

Entry = dict[str, Any]
"""What is told, by the names of its parts; see `Value` for what they may be."""

Value = Any
"""None, bool, int, float, str, bytes, arrays, lists, tuples, dicts, messages, named tuples, OSError."""


class TranscriptError(Exception):
    """A file that is no transcript, or one of another version; the message says why."""


class TranscriptEndError(TranscriptError):
    """The transcript ends where something else is asked for."""


class TranscriptWriter:
    """Writes entries to a new file, of at most *most_bytes*; what does not fit ends it, with one line in the log.

    Raises:
        StartupError: the file cannot be made.

    """

    def __init__(self, path: Path, most_bytes: int) -> None:
        self._path = path
        self._left = most_bytes - len(FORM)
        self._dtypes: dict[str, int] = {}
        self._dtypes_told = 0
        self._block = io.BytesIO()
        self._file: IO[bytes] | None = None
        try:
            # It holds addresses and command lines: for its owner alone.
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            self._file = os.fdopen(descriptor, "wb", 0)
            self._file.write(FORM)
        except OSError as error:
            self.close()
            raise StartupError(f"cannot record to {path}: {error.strerror}") from error

    @property
    def writing(self) -> bool:
        """Whether more entries are kept."""
        return self._file is not None

    def write(self, entry: Entry) -> None:
        """Add an entry."""
        if self._file is None:
            return
        blobs: list[bytes] = []
        try:
            text = json.dumps({name: self._encoded(value, blobs) for name, value in entry.items()}).encode()
        except TypeError as error:  # no reason to end the collector
            self._end(str(error))
            return
        data = b"".join(blobs)
        self._block.write(_ENTRY.pack(len(text), len(data)) + text + data)
        if self._block.tell() >= _BLOCK_BYTES:
            self.flush()

    def flush(self) -> None:
        """Have all entries in the file."""
        if self._file is None or not self._block.tell():
            return
        data = zlib.compress(self._block.getbuffer(), _LEVEL)
        self._block = io.BytesIO()
        self._left -= _BLOCK.size + len(data)
        if self._left < 0:
            self._end("it has its full length (--record-limit)")
            return
        try:
            written = self._file.write(_BLOCK.pack(len(data)) + data)
        except OSError as error:
            self._end(str(error.strerror))
        else:
            if written < _BLOCK.size + len(data):
                self._end(os.strerror(errno.ENOSPC))

    def _end(self, reason: str) -> None:
        _LOGGER.error("the recording %s ends here, the collector goes on: %s", self._path, reason)
        self.close()

    def close(self) -> None:
        """End the file; what was not flushed is left out."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _encoded(self, value: Value, blobs: list[bytes]) -> Any:  # noqa: C901, PLR0911 - a line a kind of value
        match value:
            case None | bool() | int() | float() | str():
                return int(value) if isinstance(value, int) and not isinstance(value, bool) else value
            case bytes():
                return {"bytes": base64.b64encode(value).decode()}
            case np.ndarray():
                return self._encoded_array(value, blobs)
            case np.generic():
                return value.item()
            case Message():
                return {"message": value.DESCRIPTOR.name, "data": self._encoded(value.SerializeToString(), blobs)}
            case OSError():
                return {"error": [value.errno, str(value.strerror)]}
            case dict():
                return {"dict": [[self._encoded(each, blobs) for each in pair] for pair in value.items()]}
            case tuple() if hasattr(value, "_fields"):
                kind = f"{type(value).__module__}:{type(value).__qualname__}"
                return {"tuple": [self._encoded(each, blobs) for each in value], "of": kind}
            case tuple():
                return {"tuple": [self._encoded(each, blobs) for each in value]}
            case list():
                return [self._encoded(each, blobs) for each in value]
        raise TypeError(f"{type(value)} cannot be recorded")

    def _encoded_array(self, array: np.ndarray, blobs: list[bytes]) -> Any:
        layout = _layout(array.dtype)
        key = json.dumps(layout)
        blobs.append(np.ascontiguousarray(array).tobytes())
        encoded = {"array": self._dtypes.setdefault(key, len(self._dtypes)), "rows": len(array)}
        if encoded["array"] == self._dtypes_told:
            self._dtypes_told += 1
            encoded["dtype"] = layout
        return encoded


class TranscriptReader:
    """Reads the entries of a file, in order.

    Raises:
        StartupError: the file cannot be read, or is no transcript of this form.

    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._dtypes: list[np.dtype] = []
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise StartupError(f"cannot read {path}: {error.strerror}") from error
        if self._file.read(len(FORM)) != FORM:
            self.close()
            raise StartupError(f"{path} is no recording of this version of kernel-collector --record")

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __iter__(self) -> Iterator[Entry]:
        """Yield the entries; where the end is missing, those before it.

        Raises:
            TranscriptError: the file is damaged.

        """
        for block in self._blocks():
            place = 0
            while place < len(block):
                try:
                    text_bytes, data_bytes = _ENTRY.unpack_from(block, place)
                    text = block[place + _ENTRY.size :][:text_bytes]
                    data = memoryview(block)[place + _ENTRY.size + text_bytes :][:data_bytes]
                    place += _ENTRY.size + text_bytes + data_bytes
                    rest = _Rest(data)
                    entry = {name: self._decoded(value, rest) for name, value in json.loads(text).items()}
                except _DAMAGE as error:
                    raise TranscriptError(f"{self._path} is damaged: {error}") from error
                yield entry

    def _blocks(self) -> Iterator[bytes]:
        while head := self._file.read(_BLOCK.size):
            size = _BLOCK.unpack(head)[0] if len(head) == _BLOCK.size else 0
            compressed = self._file.read(min(size, _MOST_BLOCK_BYTES))
            if len(head) < _BLOCK.size or len(compressed) < size:
                _LOGGER.warning("%s is cut off at its end", self._path)
                return
            stream = zlib.decompressobj()
            try:
                block = stream.decompress(compressed, _MOST_BLOCK_BYTES)
            except zlib.error as error:
                raise TranscriptError(f"{self._path} is damaged: {error}") from error
            if not stream.eof:
                raise TranscriptError(f"{self._path} is damaged: a block is too large, or not whole")
            yield block

    def _decoded(self, value: Any, rest: _Rest) -> Value:  # noqa: C901, PLR0911 - as in `_encoded`
        match value:
            case list():
                return [self._decoded(each, rest) for each in value]
            case {"bytes": text}:
                return base64.b64decode(text)
            case {"array": number, "rows": rows, **more}:
                if number == len(self._dtypes) and "dtype" in more:
                    self._dtypes.append(_dtype(more["dtype"]))
                dtype = self._dtypes[number]
                return np.frombuffer(rest.take(rows * dtype.itemsize), dtype)
            case {"message": name, "data": data}:
                return _message(name, self._decoded(data, rest))
            case {"error": [number, text]}:
                return OSError(number, text)
            case {"dict": pairs}:
                return {self._decoded(key, rest): self._decoded(each, rest) for key, each in pairs}
            case {"tuple": parts, "of": kind}:
                return _named_tuple(kind)(*(self._decoded(each, rest) for each in parts))
            case {"tuple": parts}:
                return tuple(self._decoded(each, rest) for each in parts)
            case dict():
                raise ValueError(f"unknown: {value}")
        return value


_DAMAGE = (
    ImportError,
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
    struct.error,
    DecodeError,
    RecursionError,
)


class _Rest:
    """The bytes of an entry that its arrays have not taken yet."""

    def __init__(self, data: memoryview) -> None:
        self._data = data

    def take(self, size: int) -> bytes:
        if not 0 <= size <= len(self._data):
            raise ValueError("an array is cut off")
        taken, self._data = self._data[:size], self._data[size:]
        return bytes(taken)


def _layout(dtype: np.dtype) -> Any:
    if dtype.fields is None or dtype.names is None:
        return dtype.str
    fields = [[name, dtype.fields[name][0].str, dtype.fields[name][1]] for name in dtype.names]
    return {"fields": fields, "size": dtype.itemsize}


def _dtype(layout: Any) -> np.dtype:
    if isinstance(layout, str):
        return np.dtype(layout)
    names, formats, offsets = zip(*layout["fields"], strict=True)
    return np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": layout["size"]})


def _message(name: str, data: bytes) -> Message:
    kind = intake_pb2.DESCRIPTOR.message_types_by_name[name]
    message: Message = getattr(intake_pb2, kind.name)()
    message.ParseFromString(data)
    return message


def _named_tuple(kind: str) -> Any:
    module, _, name = kind.partition(":")
    if not module.startswith(f"{_PACKAGE}."):
        raise ValueError(f"{kind} is none of this package")
    found = getattr(importlib.import_module(module), name)
    if not issubclass(found, tuple) or not hasattr(found, "_fields"):
        raise ValueError(f"{kind} is no named tuple")
    return found

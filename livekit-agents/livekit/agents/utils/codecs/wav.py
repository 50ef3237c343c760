"""Reads the RIFF/WAVE container as it arrives. No I/O, no clock."""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass

_RIFF_HEADER = struct.Struct("<4sI4s")
_CHUNK_HEADER = struct.Struct("<4sI")
_FORMAT = struct.Struct("<HHIIHH")
_PCM = 0x0001
_EXTENSIBLE = 0xFFFE
_SUBFORMAT = slice(24, 26)
"""Where an extensible format tells what it really is."""


class WavError(ValueError):
    """The bytes aren't a WAV stream that can be played."""


@dataclass(frozen=True)
class WavFormat:
    """How the samples (16 bits, interleaved) are to be read."""

    sample_rate: int
    num_channels: int


class _State(enum.Enum):
    RIFF_HEADER = enum.auto()
    CHUNK_HEADER = enum.auto()
    FORMAT = enum.auto()
    SKIPPED_CHUNK = enum.auto()
    SAMPLES = enum.auto()


class WavReader:
    """Finds format and samples in the bytes of one WAV file.

    The declared sizes of the file and of its samples are ignored, since a stream is written before
    they are known: all that follows the first `data` header are samples.
    """

    def __init__(self) -> None:
        """Expect a file from its first byte."""
        self.format: WavFormat | None = None
        self._state = _State.RIFF_HEADER
        self._input = bytearray()
        self._chunk_size = 0

    @property
    def has_samples(self) -> bool:
        """Whether the header is complete, so that bytes are passed through as samples."""
        return self._state is _State.SAMPLES

    def push(self, data: bytes) -> bytes:
        """Take the next bytes of the file and return the samples in them.

        Raises:
            WavError: if this is no WAV file, or its samples aren't 16-bit PCM.
        """
        if self.has_samples:
            return data
        self._input += data
        if not self._parse_header():
            return b""
        samples = bytes(self._input)
        self._input.clear()
        return samples

    def _parse_header(self) -> bool:
        """Go on reading the header. True once the samples begin."""
        while self._advance():
            if self._state is _State.SAMPLES:
                return True
        return False

    def _advance(self) -> bool:
        """Take one part of the header. False if more bytes are needed for it."""
        if self._state is _State.RIFF_HEADER:
            header = self._take(_RIFF_HEADER.size)
            if header:
                self._read_riff_header(header)
            return bool(header)
        if self._state is _State.CHUNK_HEADER:
            header = self._take(_CHUNK_HEADER.size)
            if header:
                self._read_chunk_header(header)
            return bool(header)
        if self._state is _State.FORMAT:
            body = self._take(self._chunk_size)
            if body:
                self._read_format(body)
            return bool(body)
        skipped = min(self._chunk_size, len(self._input))
        del self._input[:skipped]
        self._chunk_size -= skipped
        if self._chunk_size == 0:
            self._state = _State.CHUNK_HEADER
        return self._chunk_size == 0

    def _take(self, size: int) -> bytes:
        if len(self._input) < size:
            return b""
        taken = bytes(self._input[:size])
        del self._input[:size]
        return taken

    def _read_riff_header(self, header: bytes) -> None:
        riff, _, wave = _RIFF_HEADER.unpack(header)
        if riff != b"RIFF" or wave != b"WAVE":
            raise WavError(f"not a WAV stream: it begins with {header!r} instead of RIFF....WAVE")
        self._state = _State.CHUNK_HEADER

    def _read_chunk_header(self, header: bytes) -> None:
        name, size = _CHUNK_HEADER.unpack(header)
        self._chunk_size = size + size % 2  # chunks are padded to an even size
        if name == b"data":
            if self.format is None:
                raise WavError("samples without a format: no fmt chunk before the data chunk")
            self._state = _State.SAMPLES
        elif name == b"fmt ":
            if size < _FORMAT.size:
                raise WavError(f"fmt chunk of {size} bytes, expected at least {_FORMAT.size}")
            self._state = _State.FORMAT
        else:
            self._state = _State.SKIPPED_CHUNK

    def _read_format(self, body: bytes) -> None:
        tag, num_channels, sample_rate, _, _, bits = _FORMAT.unpack_from(body)
        if tag == _EXTENSIBLE and len(body) >= _SUBFORMAT.stop:
            tag = int.from_bytes(body[_SUBFORMAT], "little")
        if tag != _PCM or bits != 16:
            raise WavError(
                f"only 16-bit PCM is supported in WAV, got format {tag:#06x} with {bits} bits"
            )
        if num_channels == 0 or sample_rate == 0:
            raise WavError(f"impossible format: {num_channels} channels at {sample_rate} Hz")
        self.format = WavFormat(sample_rate, num_channels)
        self._state = _State.CHUNK_HEADER

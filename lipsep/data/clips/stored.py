"""Arrays that stay on disk: read slice by slice, by any number of processes, with nothing kept open."""

from __future__ import annotations

import struct
import zipfile
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

import numpy as np


class Sliced(Protocol):
    """An array, or what stands for one: it has a length and gives slices."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice) -> np.ndarray: ...


@dataclass(frozen=True)
class StoredArray:
    """An array in an ``.npy`` file or in an uncompressed ``.npz`` file.

    Attributes:
        path, offset: where its values begin, in bytes.
    """

    path: Path
    offset: int
    dtype: str
    shape: tuple[int, ...]

    @classmethod
    def open(cls, path: Path, member: str = "") -> StoredArray:
        """member: of an ``.npz`` file."""
        start = _member_start(path, f"{member}.npy") if member else 0
        with path.open("rb") as file:
            file.seek(start)
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(file)
            return cls(path, file.tell(), dtype.str, shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, part: Any) -> np.ndarray:
        if not len(self):
            return np.empty(self.shape, self.dtype)[part]  # nothing can be mapped
        return np.array(np.memmap(self.path, self.dtype, "r", self.offset, self.shape)[part])


class EndToEnd:
    """Several arrays as one, of which slices can be had."""

    def __init__(self, parts: Sequence[Sliced]) -> None:
        """parts: at least one; they agree in all but their lengths."""
        self._parts = [part for part in parts if len(part)] or list(parts[:1])
        self._stops = list(accumulate(len(part) for part in self._parts))

    def __len__(self) -> int:
        return self._stops[-1]

    def __getitem__(self, part: slice) -> np.ndarray:
        start, stop, _ = part.indices(len(self))
        number = min(bisect_right(self._stops, start), len(self._parts) - 1)
        pieces = []
        while not pieces or start < stop:
            first = self._stops[number] - len(self._parts[number])
            pieces.append(self._parts[number][start - first : stop - first])
            start, number = self._stops[number], number + 1
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


def _member_start(path: Path, member: str) -> int:
    """Where a file in an uncompressed zip file begins: behind its own header, which may differ from the directory's."""
    with zipfile.ZipFile(path) as archive:
        header = archive.getinfo(member).header_offset
    with path.open("rb") as file:
        file.seek(header)
        n_name, n_extra = struct.unpack("<HH", file.read(30)[26:])
    return header + 30 + n_name + n_extra

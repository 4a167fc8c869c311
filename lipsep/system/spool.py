"""Long arrays in temporary files, so that memory does not grow with the length of a video."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

import numpy as np

from lipsep.errors import OutputError


class Spool:
    """Rows of one shape in a temporary file without a name: appended, read back anywhere, never held in memory.

    Args:
        row_shape: of one row; () for a signal, whose rows are samples.
        dtype: of its numbers.
        folder: where the file lies until it is closed or forgotten; default: the system's temporary folder.

    Raises:
        OutputError: nothing can be written there, now or later.
    """

    def __init__(
        self, row_shape: tuple[int, ...] = (), dtype: type = np.float32, folder: str | os.PathLike | None = None
    ) -> None:
        self.row_shape, self.dtype, self._n = row_shape, np.dtype(dtype), 0
        self._row_bytes = self.dtype.itemsize * int(np.prod(row_shape))
        self._place, self._lock = Path(folder or tempfile.gettempdir()), Lock()
        with self._writing():
            self._file = tempfile.TemporaryFile(dir=str(self._place))  # noqa: SIM115 (it lives as long as the spool)

    def __len__(self) -> int:
        """Rows appended so far."""
        return self._n

    def append(self, rows: np.ndarray) -> None:
        """Add (n, *row_shape)."""
        rows = np.ascontiguousarray(rows, self.dtype)
        if rows.shape[1:] != self.row_shape:
            raise ValueError(f"expected rows of shape {self.row_shape}, got {rows.shape[1:]}")
        with self._lock, self._writing():
            self._file.seek(0, os.SEEK_END)
            self._file.write(rows.tobytes())
            self._n += len(rows)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows [start, stop), cut at the end -> (n, *row_shape), not to be written to. Threads may share a spool."""
        with self._lock, self._writing():  # what is still to be written is written first
            self._file.seek(self._row_bytes * start)
            data = self._file.read(self._row_bytes * max(0, stop - start))
        return np.frombuffer(data, self.dtype).reshape(-1, *self.row_shape)

    def blocks(self, n: int) -> Iterator[tuple[int, np.ndarray]]:
        """(start, at most n rows) from the first to the last."""
        for start in range(0, self._n, n):
            yield start, self.read(start, start + n)

    def mapped(self) -> np.ndarray:
        """All rows so far as an array that the system reads from the file where it is touched, and may drop again."""
        if not self._n:
            return np.empty((0, *self.row_shape), self.dtype)
        with self._lock, self._writing():
            self._file.flush()
            return np.memmap(self._file, self.dtype, "r", shape=(self._n, *self.row_shape))

    def close(self) -> None:
        """Remove the file; what is mapped stays readable."""
        self._file.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else error
            raise OutputError(
                f"cannot keep temporary data, cannot write to '{self._place}': {reason}; free some space or choose "
                "another folder"
            ) from error

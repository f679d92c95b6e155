"""Batches of patterns on the device of the model, in its layout."""

from __future__ import annotations

import copy
import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from pypty.backend.array import Array, Backend, to_host
from pypty.backend.cuda.score import stored_type
from pypty.backend.device_errors import device_errors
from pypty.backend.memory import release_unused
from pypty.backend.streams import Upload, make_streams
from pypty.backend.workspace import Workspace
from pypty.data.batch import Batch, Placed
from pypty.data.preprocess import Preprocess, to_corner
from pypty.data.reading import Reader, reads_file
from pypty.data.sources import PatternSource, as_slice
from pypty.data.weights import DetectorWeights

_log = logging.getLogger(__name__)

# Patterns read at a time by make_resident: raw and prepared patterns are held together for one chunk only.
_CHUNK_PATTERNS = 256


def _chunks(n: int) -> Iterator[np.ndarray]:
    """The numbers of n patterns, some at a time."""
    for start in range(0, n, _CHUNK_PATTERNS):
        yield np.arange(start, min(start + _CHUNK_PATTERNS, n))


class Feed:
    """Makes batches; after :meth:`make_resident` from patterns in memory, stored in the detector's type.

    Parameters
    ----------
    source : source of the patterns; None gives batches without data
    crop_origins : (N, 2) crop origins of all patterns
    weights : ``detector_mask``
    multiplier : factor on every count, applied on the device
    reorder : changes the order of pixels from that of the data to that of the model
    resident_on_device : :meth:`make_resident` keeps the patterns in the memory of the GPU, not of the host
    owned : sorted numbers of the patterns of this rank, the only ones that :meth:`make_resident` keeps; None = all
    """

    def __init__(
        self,
        backend: Backend,
        source: PatternSource | None,
        *,
        crop_origins: np.ndarray,
        preprocess: Preprocess | None = None,
        weights: np.ndarray | str | None = None,
        multiplier: float = 1.0,
        reorder: Callable[[np.ndarray], np.ndarray] = to_corner,
        resident_on_device: bool = False,
        owned: np.ndarray | None = None,
    ) -> None:
        self.backend = backend
        self.source = source
        self.crop_origins = crop_origins
        self.preprocess = preprocess or Preprocess()
        # another rank has only the weights of its own patterns
        part = isinstance(weights, np.ndarray) and weights.ndim == 3 and len(weights) < len(crop_origins)
        self.weights = DetectorWeights(weights, owned if part else None)
        self.multiplier = multiplier
        self.reorder = reorder
        self.resident_on_device = resident_on_device and backend.on_gpu
        self.streams = make_streams(backend)
        common = self.weights.common
        self._common_weights = None if common is None else self._on_device(common)
        self._resident: Any = None
        self._resident_weights: np.ndarray | None = None
        self._reader = Reader()
        self._sent: tuple[np.ndarray, Array] | None = None
        self._owned = np.arange(len(crop_origins)) if owned is None else owned
        self._rows: np.ndarray | None = None
        self._progress: Callable[[], None] | None = None
        if owned is not None:
            # (N,) row of each pattern among those that are kept, -1 for the others
            self._rows = np.full(len(crop_origins), -1, np.int32)
            self._rows[owned] = np.arange(len(owned))
        self._rows_there: Array = None

    def seen_from(self, origin: Sequence[int]) -> Feed:
        """A feed of the same patterns for the window of the object that begins at this pixel [y, x]."""
        if self._rows is not None and self.resident_on_device and self._rows_there is None:
            self._rows_there = self.backend.asarray(self._rows)  # once, not for each window
        other = copy.copy(self)
        other.crop_origins, other._sent = self.crop_origins - np.asarray(origin), None
        return other

    def in_precision(self, backend: Backend) -> Feed:
        """A feed of the same patterns for waves in another precision; patterns in memory are shared, not copied."""
        other = copy.copy(self)
        other.backend = backend
        if self.weights.common is not None:
            other._common_weights = other._on_device(self.weights.common)
        return other

    def _on_device(self, weights: np.ndarray) -> Array:
        prepared = self.reorder(self.preprocess.weights(weights))
        return self.backend.asarray(np.ascontiguousarray(prepared), self.backend.real)

    @property
    def n_patterns(self) -> int:
        return len(self.crop_origins)

    @property
    def weights_are_shared(self) -> bool:
        """Whether all patterns have the same weights, or none have any."""
        return self.weights.mask is None or self._common_weights is not None

    def make_resident(self, on_host: bool = True, progress: Callable[[], None] | None = None) -> None:
        """Read and preprocess all patterns once, and keep them in memory in the detector's type.

        Where they do not fit on the GPU they are kept on the host, and where they do not fit there, or with ``on_host``
        false, they are read when they are needed; the log says so. ``progress`` is called after every few patterns.
        """
        self._progress = progress
        if self.source is None or self._resident is not None:
            return
        if self.resident_on_device and (self._kept_on_device(self._load) or not on_host):
            return
        try:
            self._load()
        except MemoryError as error:
            self._resident = self._resident_weights = None
            _log.warning("patterns do not fit into memory (%s): they are read when they are needed", error)

    def hold(self, patterns: np.ndarray) -> None:
        """Use these patterns (those of this rank, ky, kx) instead of those of the source, in the order of the model's
        pixels and in final counts."""
        self.multiplier, self._resident = 1.0, None

        def load() -> None:
            for rows in _chunks(len(patterns)):
                self._keep(patterns[as_slice(rows)], rows, len(patterns))

        if not self.resident_on_device or not self._kept_on_device(load):
            self._resident = patterns

    def _load(self) -> None:
        assert self.source is not None
        n = len(self._owned)
        for rows in _chunks(n):
            indices = self._owned[rows]
            raw = self.source.read(indices)
            self._keep(self._prepare(raw, indices), rows, n)
            self._keep_weights(raw, indices, rows, n)
            if self._progress is not None:
                self._progress()

    def _kept_on_device(self, load: Callable[[], None]) -> bool:
        """Whether there is room on the GPU for the patterns; if not, they will be sent batch by batch."""
        try:
            with device_errors(), self.streams.computing():
                load()
            return True
        except MemoryError as error:
            reason = str(error)
        self._resident = self._resident_weights = None
        self.resident_on_device, self.streams = False, make_streams(self.backend)
        release_unused(self.backend)
        _log.warning("patterns do not fit on the GPU (%s): they are sent there batch by batch", reason)
        return False

    def _keep(self, part: np.ndarray, rows: np.ndarray, n: int) -> None:
        if not self.resident_on_device:
            if self._resident is None:
                self._resident = np.empty((n, *part.shape[1:]), part.dtype)
            self._resident[rows] = part
            return
        part = part.astype(stored_type(part.dtype), copy=False)
        if self._resident is None:
            self._resident = self.backend.xp.empty((n, *part.shape[1:]), part.dtype)
        # Rows of a chunk are consecutive, so this is a view of the resident array and the copy goes straight there.
        self.streams.upload(part, self._resident[as_slice(rows)]).receive()

    def _keep_weights(self, raw: np.ndarray, indices: np.ndarray, rows: np.ndarray, n: int) -> None:
        """Keep the weights of detector_mask="nan", one byte per pixel: prepared patterns no longer contain NaN."""
        weights = self.weights.of(raw, indices) if isinstance(self.weights.mask, str) else None
        if weights is None:
            return
        if self._resident_weights is None:
            self._resident_weights = np.ones((n, *weights.shape[1:]), bool)
        self._resident_weights[rows] = weights > 0

    def _prepare(self, raw: np.ndarray, indices: np.ndarray) -> np.ndarray:
        return self.reorder(self.preprocess.patterns(self.weights.blank(raw, indices)))

    def patterns(self, indices: np.ndarray) -> np.ndarray:
        """Prepared patterns on the host, in the model's order and the detector's type, without the multiplier."""
        if not self._keeps(indices):
            return self._read(indices)[0]
        rows = self._rows_of(indices)
        if isinstance(self._resident, np.ndarray):
            return self._resident[as_slice(rows)]
        return to_host(self._resident[self.backend.asarray(rows)])

    def _rows_of(self, indices: np.ndarray) -> np.ndarray:
        """Rows of patterns that are kept; sorted as the patterns are."""
        return indices if self._rows is None else self._rows[indices]

    @property
    def is_resident(self) -> bool:
        """Whether the patterns of this rank are in memory, and not read any more."""
        return self._resident is not None

    def _keeps(self, indices: np.ndarray) -> bool:
        """Whether all of these patterns are in memory."""
        if self._resident is None:
            return False
        return self._rows is None or bool((self._rows[indices] >= 0).all())

    def _read(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Prepared patterns, and their raw weights (n, ky, kx) if these differ between patterns."""
        assert self.source is not None
        raw = self.source.read(indices)
        pattern_weights = None if self.weights_are_shared else self.weights.of(raw, indices)
        return self._prepare(raw, indices), pattern_weights

    def _weights_in_memory(self, indices: np.ndarray) -> np.ndarray | None:
        """Raw weights (n, ky, kx) of patterns in memory, if these differ between patterns."""
        kept = self._resident_weights
        if self.weights_are_shared:
            return None
        if isinstance(self.weights.mask, np.ndarray):
            return self.weights.of(self.weights.mask, indices)
        return None if kept is None else kept[self._rows_of(indices)].astype(float)

    def batch(self, indices: np.ndarray, workspace: Workspace | None = None) -> Batch:
        """The batch of these patterns (sorted indices), in the memory of the calling thread."""
        batch = next(self.batches([indices], workspace or self._workspace()))
        if self.backend.on_gpu and batch.rows is None and batch.data is not None:
            return replace(
                batch, data=batch.data.copy()
            )  # the upload buffer is reused once the iterator is closed
        return batch

    def _workspace(self) -> Workspace:
        return Workspace(self.backend.xp, self.backend.fft_library)

    def batches(
        self, chosen: Sequence[np.ndarray], workspace: Workspace, with_data: bool = True
    ) -> Iterator[Batch]:
        """Yield the batches of these patterns. The memory of a batch is reused two batches later.

        Files are read ahead: the next batch is read while the current one is computed. Errors in reading are raised
        here.
        """
        places = self._places(chosen)
        if self.source is None or not with_data:
            for indices, placed in zip(chosen, places, strict=True):
                yield Batch(
                    index=indices,
                    crop_origins=self.crop_origins[indices],
                    workspace=workspace,
                    on_device=placed,
                )
        elif not self.backend.on_gpu:
            yield from self._on_host(chosen, workspace)
        elif self.resident_on_device and all(map(self._keeps, chosen)):
            for indices, placed in zip(chosen, places, strict=True):
                pattern_weights = self._weights_in_memory(indices)
                yield self._device_batch(indices, placed, self._resident, pattern_weights, workspace)
        else:
            yield from self._streamed(chosen, places, workspace)

    def placed(self, indices: np.ndarray) -> Placed | None:
        """Indices and crop origins of patterns on the GPU; None on the CPU."""
        return self._places([indices])[0]

    def _places(self, chosen: Sequence[np.ndarray]) -> list[Placed | None]:
        """Indices and crop origins on the GPU: one copy for all batches instead of two for each."""
        if not self.backend.on_gpu or not chosen:
            return [None] * len(chosen)
        together = np.concatenate(chosen)
        n, origins = len(together), self.crop_origins[together]
        numbers = np.concatenate([together, origins.reshape(-1)]).astype(np.int32)
        # the patterns of the last call stay there: a search, or the curvature of a batch, asks for them again
        if self._sent is None or not np.array_equal(self._sent[0], numbers):
            self._sent = (numbers, self.backend.asarray(numbers))
        sent = self._sent[1]
        index, crop_origins = sent[:n], sent[n:].reshape(n, 2)
        edges = np.cumsum([0, *(len(indices) for indices in chosen)]).tolist()
        return [
            Placed(index[start:stop], crop_origins[start:stop])
            for start, stop in zip(edges[:-1], edges[1:], strict=True)
        ]

    def _host_patterns(self, chosen: Sequence[np.ndarray]) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        """Prepared patterns on the host, and raw weights if these differ between patterns; files are read ahead."""
        if all(map(self._keeps, chosen)):
            return ((self.patterns(indices), self._weights_in_memory(indices)) for indices in chosen)
        if self.source is not None and reads_file(self.source):
            return self._reader.ahead(self._read, chosen)
        return (self._read(indices) for indices in chosen)

    def _weights_of(self, pattern_weights: np.ndarray | None) -> Array:
        return self._common_weights if pattern_weights is None else self._on_device(pattern_weights)

    def _on_host(self, chosen: Sequence[np.ndarray], workspace: Workspace) -> Iterator[Batch]:
        for indices, (patterns, pattern_weights) in zip(chosen, self._host_patterns(chosen), strict=True):
            # Assignment to a buffer converts the detector's type without a temporary array.
            data = workspace.array("data", patterns.shape, self.backend.real)
            data[...] = patterns
            if self.multiplier != 1:
                data *= self.multiplier
            yield Batch(
                index=indices,
                crop_origins=self.crop_origins[indices],
                data=data,
                weights=self._weights_of(pattern_weights),
                workspace=workspace,
            )

    def _streamed(
        self, chosen: Sequence[np.ndarray], places: list[Placed | None], workspace: Workspace
    ) -> Iterator[Batch]:
        """The next batch is copied to the device while the current one is computed."""
        waiting: deque[tuple[np.ndarray, Placed | None, Upload, np.ndarray | None]] = deque()
        for indices, placed, (patterns, pattern_weights) in zip(
            chosen, places, self._host_patterns(chosen), strict=True
        ):
            # Sent in the detector's type, which is often smaller than a float; values are converted on the device.
            upload = self.streams.upload(patterns.astype(stored_type(patterns.dtype), copy=False))
            waiting.append((indices, placed, upload, pattern_weights))
            if len(waiting) > 1:
                yield from self._arrived(*waiting.popleft(), workspace)
        while waiting:
            yield from self._arrived(*waiting.popleft(), workspace)

    def _arrived(
        self,
        indices: np.ndarray,
        placed: Placed | None,
        upload: Upload,
        pattern_weights: np.ndarray | None,
        workspace: Workspace,
    ) -> Iterator[Batch]:
        try:
            yield self._device_batch(indices, placed, upload.receive(), pattern_weights, workspace)
        finally:
            upload.release()

    def _device_batch(
        self,
        indices: np.ndarray,
        placed: Placed | None,
        data: Array,
        pattern_weights: np.ndarray | None,
        workspace: Workspace,
    ) -> Batch:
        # Resident data hold all patterns of this rank: the batch reads its rows in place instead of copying them.
        rows = self._rows_on_device(placed) if placed is not None and data is self._resident else None
        weights = self._weights_of(pattern_weights)
        return Batch(
            index=indices,
            crop_origins=self.crop_origins[indices],
            data=data,
            weights=weights,
            workspace=workspace,
            rows=rows,
            multiplier=self.multiplier,
            on_device=placed,
        )

    def _rows_on_device(self, placed: Placed) -> Array:
        """Rows of the patterns of a batch in the data on the GPU."""
        if self._rows is None:
            return placed.index
        if self._rows_there is None:
            self._rows_there = self.backend.asarray(self._rows)
        return self._rows_there[placed.index]

"""What the memory of a reconstruction depends on, and its estimate with the batch size that follows from it."""

from __future__ import annotations

from dataclasses import dataclass, field

_GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class KeptWaves:
    """Waves that are kept for the way back, besides those of plain multislice.

    Attributes
    ----------
    probe : of the shape of the probe (P), from effects before the specimen
    exit : of the shape of an exit wave (P O), from effects after the specimen
    single : of the shape of a window, from fractional steps
    exit_per_slice : of the shape of an exit wave for every slice, from fractional steps
    real : real arrays of the shape of a pattern, from effects on counts
    windows : of the shape of the patches of all slices and four more (S O + 4 O), from effects on patches
    """

    probe: int = 0
    exit: int = 0
    single: int = 0
    exit_per_slice: int = 0
    real: int = 0
    windows: int = 0


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The sizes that the estimate depends on.

    Attributes
    ----------
    data_bytes : bytes of all prepared patterns, in the type in which they are stored
    compared : values of a pattern that are compared with data
    executor : "stages", "fused" or "split": what computes the waves
    filtered : patches are filtered (``lazy_clean``)
    spectra : slice distances or tilts are refined, which needs the spectrum of every wave
    row_values : numbers that every pattern has of its own (position, tilts, beam current)
    """

    n_patterns: int
    window: tuple[int, int]
    probe_modes: int
    object_modes: int
    slices: int
    object_shape: tuple[int, int]
    data_bytes: int
    compared: int
    subscans: int = 1
    shared_bytes: int = 0
    kept: KeptWaves = KeptWaves()
    executor: str = "stages"
    filtered: bool = False
    spectra: bool = False
    deterministic: bool = False
    row_values: int = 2


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """The processes that share a reconstruction.

    Attributes
    ----------
    size : of all
    on_node : of those on the machine of rank 0, which share its memory
    on_cores : of these, those that may use the same cores: a launcher may have given each its own
    """

    size: int = 1
    on_node: int = 1
    on_cores: int = 1


ALONE = Ranks()


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """The estimate, on several ranks for rank 0, which needs the most. Printing it gives a table.

    Attributes
    ----------
    precision : of the waves, "single" or "double"
    batch : patterns computed together by one thread
    n_threads : batches computed at the same time
    resident : patterns are kept in memory
    resident_on_device : patterns are kept on the GPU, in the type in which they are stored
    keep_every : the waves entering every k-th slice are kept; the others are recomputed in the adjoint
    spread_history : each rank keeps a part of the L-BFGS history of the object; decided where rank 0 has no room for it
    ranks : processes that share the reconstruction
    data_bytes : bytes of the patterns of a rank
    others : bytes of another rank by purpose; empty where there is none
    in_pieces : bytes of rank 0 if each rank keeps a piece of the L-BFGS history; 0 where there is no other rank
    in_double : bytes of a run that goes on in double precision (``default_dtype`` "auto"); 0 where these do not fit,
        None where it never does
    items : bytes by purpose
    free : bytes that can be allocated now
    limit : bytes that may be used: free x memory_saturation
    limited_by : what allows no more
    """

    device: str
    precision: str
    batch: int
    n_threads: int
    resident: bool
    free: int
    limit: int
    sizes: Sizes
    keep_every: int = 1
    spread_history: bool = False
    resident_on_device: bool = False
    limited_by: str = ""
    in_double: int | None = None
    ranks: Ranks = ALONE
    data_bytes: int = 0
    in_pieces: int = 0
    items: dict[str, int] = field(default_factory=dict)
    others: dict[str, int] = field(default_factory=dict)

    @property
    def _in_double_text(self) -> str:
        return size_text(self.in_double) if self.in_double else "does not fit"

    @property
    def total(self) -> int:
        return sum(self.items.values())

    @property
    def of_another(self) -> int:
        """Bytes of the largest of the other ranks."""
        return sum(self.others.values())

    def __str__(self) -> str:
        s = self.sizes
        rank = f"of rank 0 of {self.ranks.size} " if self.ranks.size > 1 else ""
        lines = [
            f"Memory plan {rank}for {self.device} in {self.precision} precision: {s.n_patterns} patterns, "
            f"window {s.window[0]} x {s.window[1]}, object {s.object_shape[0]} x {s.object_shape[1]} "
            f"x {s.slices} slices, {s.probe_modes} probe x {s.object_modes} object modes"
        ]
        lines += [f"  {name:<44}{size_text(size):>12}" for name, size in self.items.items() if size]
        lines.append(f"  {'total':<44}{size_text(self.total):>12}")
        if self.others:
            lines.append(f"  {'total of each other rank, at most':<44}{size_text(self.of_another):>12}")
        if self.in_double is not None:
            lines.append(f"  {'total, if it goes on in double precision':<44}{self._in_double_text:>12}")
        lines.append(
            f"  {'free now':<44}{size_text(self.free):>12}{self.limited_by and f'  ({self.limited_by})'}"
        )
        threads = f" on each of {self.n_threads} threads" if self.n_threads > 1 else ""
        data = "kept in memory" if self.resident else "read when needed"
        data = "kept on the GPU" if self.resident_on_device else data
        lines.append(f"  batch: {self.batch} patterns{threads}; data {data}")
        if self.keep_every > 1:
            lines.append(f"  waves of every {self.keep_every} slices are kept; those between are recomputed")
        if self.spread_history:
            lines.append("  the L-BFGS history does not fit into rank 0: each rank keeps a part of it")
        return "\n".join(lines)

    __repr__ = __str__


def size_text(size: int) -> str:
    """Bytes as people read them."""
    return f"{size / _GIB:.2f} GiB" if size >= _GIB / 10 else f"{size / 2**20:.2f} MiB"

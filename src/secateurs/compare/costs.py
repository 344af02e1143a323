"""What choosing costs: seconds and memory, as if nobody else had done part of the work before."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import psutil

from secateurs.methods import PruningContext

Key = tuple[Any, ...]
T = TypeVar("T")
SAMPLING_SECONDS = 0.01


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one piece of work."""

    seconds: float
    """Time it takes."""
    peak_mb: float
    """Highest resident memory of the process above that at the start, in MB of 10^6 bytes."""


class MemoryWatch:
    """Samples the resident memory of the process in a thread, from `watch_memory` on."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._samples: list[tuple[float, int]] = []
        self._stop = threading.Event()

    def sample(self) -> int:
        """Bytes now."""
        found: int = self._process.memory_info().rss
        self._samples.append((time.perf_counter(), found))
        return found

    def peak_since(self, begun: float) -> int:
        """Most bytes in any sample since a time of `time.perf_counter`, now included."""
        now = self.sample()
        return max(now, max((found for when, found in list(self._samples) if when >= begun), default=0))

    def forget(self) -> None:
        """Drop the samples so far."""
        self._samples = []

    def run(self) -> None:
        """Sample until stopped."""
        while not self._stop.wait(SAMPLING_SECONDS):
            self.sample()

    def stop(self) -> None:
        """End `run`."""
        self._stop.set()


@contextmanager
def watch_memory() -> Iterator[MemoryWatch]:
    """A watch that samples while the context lasts."""
    watch = MemoryWatch()
    thread = threading.Thread(target=watch.run, daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        watch.stop()
        thread.join()


@dataclass(slots=True)
class _Work:
    """A piece of work that is being done, and afterwards what it cost without what it used."""

    used: set[Key] = field(default_factory=set)
    seconds_of_others: float = 0.0
    own: Cost = Cost(0.0, 0.0)


class Ledger:
    """Remembers what each shared result cost, so that whoever uses it is charged for it."""

    def __init__(self, watch: MemoryWatch) -> None:
        self._watch = watch
        self._shared: dict[Key, _Work] = {}
        self._open: list[_Work] = []

    def use(self, key: Key) -> None:
        """Note that the work at hand uses a shared result."""
        if self._open:
            self._open[-1].used.add(key)

    def compute(self, key: Key, compute: Callable[[], T]) -> T:
        """What `compute` gives, its cost remembered under the key."""
        value, self._shared[key] = self._do(compute)
        return value

    def bill(self, work: Callable[[], T]) -> tuple[T, Cost]:
        """What some work gives, and what it would have cost had none of what it used been there before."""
        self._watch.forget()
        value, done = self._do(work)
        parts = [done, *(self._shared[key] for key in self._all_used(done) if key in self._shared)]
        return value, Cost(sum(part.own.seconds for part in parts), max(part.own.peak_mb for part in parts))

    def _do(self, work: Callable[[], T]) -> tuple[T, _Work]:
        mine, begun, before = _Work(), time.perf_counter(), self._watch.sample()
        self._open.append(mine)
        try:
            value = work()
        finally:
            self._open.pop()
        seconds = time.perf_counter() - begun
        mine.own = Cost(seconds - mine.seconds_of_others, (self._watch.peak_since(begun) - before) / 1e6)
        if self._open:
            self._open[-1].seconds_of_others += seconds
        return value, mine

    def _all_used(self, work: _Work) -> set[Key]:
        found: set[Key] = set()
        waiting = set(work.used)
        while waiting:
            key = waiting.pop()
            found.add(key)
            if key in self._shared:
                waiting |= self._shared[key].used - found
        return found


@dataclass(eq=False)
class CostedContext(PruningContext):
    """A context that enters what is shared in a ledger."""

    ledger: Ledger = field(default_factory=lambda: Ledger(MemoryWatch()), repr=False)
    """Of all contexts with the same measurements."""

    def once(self, key: Key, compute: Callable[[], T]) -> T:
        """As the method contract has it."""
        self.ledger.use(key)
        return super().once(key, lambda: self.ledger.compute(key, compute))

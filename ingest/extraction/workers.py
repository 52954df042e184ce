"""Workers: processes that read documents, and may die of them.

Rules of this module:
- A document costs at most its limits; what it costs beyond kills its worker and nobody else's document.
- Each worker is a pool of its own (pebble, spawn) with its own pipe and locks: a worker that dies in the
  middle of an answer leaves no lock that others wait for.
- A document whose worker died is read once more alone in a fresh worker: a kill from outside (an operator,
  the kernel in need of memory) is not the document's fault. Dying twice, or taking too long once, is.
- No document is lost: each that went in comes out, once, as an Extraction.
- Workers die with the process that started them, even if that is killed with -9.
- Work is taken from `items` only as workers become free; memory does not grow with the number of documents.

The process that uses this module must be importable again by its children (spawn): its main module should
import nothing heavy. It may not be daemonic itself (docs/design.md, one process boundary).
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Generic, Self, TypeAlias, TypeVar
from uuid import uuid4

from pebble import ProcessExpired, ProcessPool

from ingest.extraction.extract import extract, unread
from ingest.extraction.identify import identify
from ingest.model import Extraction, Finding, Identification, Limits, finding
from retention.errors import ServiceUnavailable

log = logging.getLogger(__name__)
Key = TypeVar("Key", bound=Hashable)
_Answer: TypeAlias = Extraction | Identification

TASKS_PER_WORKER = 500  # then it is replaced, so that what libraries leak is bounded
_DEPTH = 2  # documents handed to one worker: the second waits in its pipe while the first is read
_START = 60.0  # seconds a worker may need to start on a busy machine, beyond the limit of its document
_IDENTIFY = 10.0  # seconds for libmagic alone, on a document that killed its reader
_STARTS = 3  # workers that may fail to start, one after another, before the service is called unusable


# --- inside a worker ---------------------------------------------------------------------------------------

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """Ask the kernel to kill this process when `parent` (a pid) is gone, also if it is gone already.

    Linux sends the signal when the *thread* that started the process ends: start from one that stays.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def _prepare(parent: int, memory: int) -> None:
    """Make this process fit to read hostile bytes: it dies with its parent, dumps no core, has a limit."""
    die_with_parent(parent)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # pebble's own handler waits for C code to return
    os.umask(0o077)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)  # a task's stdin is its supervisor's socket
    os.close(null)
    os.dup2(2, 1)  # stdout belongs to the parent's JSON; a library that prints goes to stderr
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # What most documents need is loaded before memory is measured, so that the limit is the document's own.
    import ingest.extraction.pdf  # noqa: F401 - imported for its weight

    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + memory
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _extract(path: Path, name: str, limits: Limits, scratch: Path) -> Extraction:
    return extract(path, name, limits, scratch)


def _identify(path: Path, name: str) -> Identification:
    return identify(path, name)


# --- in the parent -----------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Task(Generic[Key]):
    key: Key
    path: Path
    name: str
    scratch: Path
    deaths: int = 0
    verdict: Finding | None = None  # set: its readers died, only its identification is still asked for


@dataclass(slots=True)
class _Slot(Generic[Key]):
    """One worker process, and what was handed to it, oldest first."""

    pool: ProcessPool
    tasks: dict[Future[_Answer], _Task[Key]] = field(default_factory=dict)
    since: float = 0.0  # time.monotonic() at which the oldest of `tasks` became the oldest


class Workers:
    """A set of killable worker processes. Use as a context manager; `extract_all` may be called repeatedly."""

    def __init__(
        self, limits: Limits | None = None, count: int | None = None, tasks_per_worker: int = TASKS_PER_WORKER
    ) -> None:
        self.limits = limits or Limits()
        self.count = count or os.cpu_count() or 1
        self._tasks_per_worker = tasks_per_worker
        self._pools: list[ProcessPool] = []
        self._starter: ThreadPoolExecutor | None = None
        self._busy = False

    def __enter__(self) -> Self:
        # One thread starts all processes and stays until the end (see die_with_parent).
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="worker-starter")
        self._pools = [self._pool() for _ in range(self.count)]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pool in self._pools:
            pool.stop()
        for pool in self._pools:
            pool.join()
        self._pools = []
        if self._starter:
            self._starter.shutdown()

    def extract_all(self, items: Iterable[tuple[Key, Path, str]], scratch: Path) -> Iterator[tuple[Key, Extraction]]:
        """Read each (key, path, name); yield (key, Extraction) as they are done, in no order, each once.

        Files of children are below `scratch`, which the caller removes. `items` is consumed lazily. Raises
        ServiceUnavailable if workers cannot be started at all.
        """
        if self._busy or not self._starter:
            raise RuntimeError("Workers: use inside `with`, and finish one extract_all before the next")
        self._busy = True
        run: _Run[Key] = _Run(self._pools, self._schedule, self._pool, self.limits)
        try:
            tasks = (_Task(key, path, name, scratch / f"t-{uuid4().hex}") for key, path, name in items)
            yield from run.results(tasks)
        finally:
            self._busy = False
            self._pools = run.abandon()

    def _pool(self) -> ProcessPool:
        pool = ProcessPool(
            max_workers=1,
            max_tasks=self._tasks_per_worker,
            initializer=_prepare,
            initargs=(os.getpid(), self.limits.memory),
            context=multiprocessing.get_context("spawn"),
        )
        assert self._starter is not None
        self._starter.submit(lambda: pool.active)  # asking starts it; nobody waits for it here
        return pool

    def _schedule(
        self, pool: ProcessPool, function: Callable[..., _Answer], args: tuple[object, ...], timeout: float
    ) -> Future[_Answer]:
        assert self._starter is not None
        return self._starter.submit(pool.schedule, function, args=args, timeout=timeout).result()


class _Run(Generic[Key]):
    """One pass over documents: who reads what, and what becomes of those whose worker died."""

    def __init__(
        self,
        pools: list[ProcessPool],
        schedule: Callable[..., Future[_Answer]],
        new_pool: Callable[[], ProcessPool],
        limits: Limits,
    ) -> None:
        self.slots: list[_Slot[Key]] = [_Slot(pool) for pool in pools]
        self.again: deque[_Task[Key]] = deque()
        self.schedule, self.new_pool, self.limits = schedule, new_pool, limits
        self.failed_starts = 0

    def results(self, tasks: Iterator[_Task[Key]]) -> Iterator[tuple[Key, Extraction]]:
        while True:
            self._fill(tasks)
            futures = [future for slot in self.slots for future in slot.tasks]
            if not futures and self.again:
                continue  # handed out to a pool that had died unnoticed; it has been replaced
            if not futures:
                return
            done, _ = wait(futures, timeout=1.0, return_when=FIRST_COMPLETED)
            for slot in self.slots:
                for future in [future for future in slot.tasks if future in done]:
                    if future in slot.tasks:  # not taken back when its neighbour's worker died
                        answer = self._take(slot, future)
                        if answer:
                            yield answer
                self._look_for_lost(slot)

    def _fill(self, tasks: Iterator[_Task[Key]]) -> None:
        for depth in range(1, _DEPTH + 1):  # every worker gets a first document before any gets a second
            for slot in self.slots:
                if len(slot.tasks) >= depth or any(task.deaths for task in slot.tasks.values()):
                    continue  # a suspect is alone with its worker
                if self.again and depth == 1:
                    self._hand(slot, self.again.popleft())
                elif not self.again and (task := next(tasks, None)):
                    self._hand(slot, task)

    def _hand(self, slot: _Slot[Key], task: _Task[Key]) -> None:
        arguments: tuple[object, ...] = (task.path, task.name)
        try:
            if task.verdict:
                future = self.schedule(slot.pool, _identify, arguments, _IDENTIFY)
            else:
                arguments += (self.limits, task.scratch)
                future = self.schedule(slot.pool, _extract, arguments, self.limits.seconds)
        except RuntimeError:  # an idle worker was killed, and with it its pool
            self.again.append(task)
            self._replace(slot)
            self._count_failed_start()
            return
        if not slot.tasks:
            slot.since = time.monotonic()
        slot.tasks[future] = task

    def _take(self, slot: _Slot[Key], future: Future[_Answer]) -> tuple[Key, Extraction] | None:
        task = slot.tasks.pop(future)
        slot.since = time.monotonic()
        error = future.exception()
        if error is None:
            self.failed_starts = 0
            return self._finished(task, future.result())
        if isinstance(error, TimeoutError):
            # pebble has killed the worker while it held its locks, and starts another: the pool is sound.
            return self._judge(task, finding("TIME-LIMIT", f"Not read within {self.limits.seconds:g} s."))
        if isinstance(error, BrokenProcessPool):
            self.again.append(task)  # never reached a reader: not the document's doing
            self._replace(slot)
            self._count_failed_start()
            return None
        if isinstance(error, ProcessExpired):
            self._replace(slot)
            return self._died(task, error.exitcode)
        # What the initializer or pickling raised; extract() itself lets no exception of a reader through.
        log.error("worker could not answer: %s", type(error).__name__)
        if isinstance(error, MemoryError):
            return self._judge(task, finding("MEMORY-LIMIT", f"Needs over {self.limits.memory:,} bytes."))
        return self._judge(task, finding("EXTRACTION-CRASHED", f"Failed with {type(error).__name__}."))

    def _finished(self, task: _Task[Key], answer: _Answer) -> tuple[Key, Extraction]:
        with contextlib.suppress(OSError):
            task.scratch.rmdir()  # if it was made at all; stays if it holds children
        if isinstance(answer, Identification):
            assert task.verdict is not None
            answer = unread(task.path, task.name, answer, task.verdict)
        return task.key, answer

    def _died(self, task: _Task[Key], code: int | None) -> tuple[Key, Extraction] | None:
        task.deaths += 1
        if task.deaths < 2 and not task.verdict:
            shutil.rmtree(task.scratch, ignore_errors=True)
            self.again.append(task)
            return None
        how = signal.Signals(-code).name if code and code < 0 else f"exit code {code}"
        return self._judge(task, finding("EXTRACTION-CRASHED", f"Its reader died twice ({how})."))

    def _judge(self, task: _Task[Key], verdict: Finding) -> tuple[Key, Extraction] | None:
        """Ask once more what the bytes are, without reading them; if that dies too, it is not known."""
        shutil.rmtree(task.scratch, ignore_errors=True)
        if task.verdict:
            return task.key, unread(task.path, task.name, None, task.verdict)
        task.verdict, task.deaths = verdict, 1  # alone with its worker from now on
        self.again.append(task)
        return None

    def _look_for_lost(self, slot: _Slot[Key]) -> None:
        """A worker killed between taking a document and saying so leaves a task that never ends."""
        if slot.tasks and time.monotonic() - slot.since > self.limits.seconds + _START:
            task = next(iter(slot.tasks.values()))
            slot.tasks.pop(next(iter(slot.tasks)))
            self._replace(slot)
            task.deaths += 1
            if task.deaths < 2:
                self.again.append(task)
            else:
                self._judge(task, finding("EXTRACTION-CRASHED", "Its worker vanished twice."))

    def _replace(self, slot: _Slot[Key]) -> None:
        """A new pool for a worker that died: its old pipe may hold half an answer, its locks may be held."""
        self.again.extend(slot.tasks.values())  # innocent: they waited behind the one that died
        slot.tasks.clear()
        slot.pool.stop()
        slot.pool.join()
        slot.pool = self.new_pool()

    def _count_failed_start(self) -> None:
        self.failed_starts += 1
        if self.failed_starts > _STARTS * len(self.slots):
            raise ServiceUnavailable(
                "extraction workers: expected them to start, found that they end at once, "
                f"{self.failed_starts} times. Look for the reason on stderr above; memory may be short."
            )

    def abandon(self) -> list[ProcessPool]:
        """The pools for the next run: those that are still at work on something are replaced."""
        for slot in self.slots:
            if slot.tasks:
                slot.tasks.clear()
                self._replace(slot)
        return [slot.pool for slot in self.slots]

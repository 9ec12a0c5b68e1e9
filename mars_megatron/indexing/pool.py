"""Worker processes that survive the death of one of them, with results in the order of the batches."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker
from typing import Any, Generic, TypeVar

from mars_megatron.compat.standard_library import workers
from mars_megatron.indexing.documents import empty, join
from mars_megatron.indexing.options import DEFAULT_CAPTIONS
from mars_megatron.indexing.records import Done, Skip, Work
from mars_megatron.indexing.worker import Worker, WorkerSettings, run_work, start_worker
from mars_megatron.platform.processes import interruptions_later
from mars_megatron.tokenizers.text import TextTokenizer

# Seconds that workers have to end by themselves, and then to be ended.
_GRACE = (1.0, 3.0)
HELD_BYTES = 16 << 20  # of raw records in batches that are out, beyond one for each worker
Tag = TypeVar("Tag")
Result = TypeVar("Result")


@dataclass
class _Entry(Generic[Tag]):
    """A batch that is out; future None: to be run apart."""

    tag: Tag
    work: Work | None
    future: Future[Done] | None


class WorkerPool:
    """Processes batches with worker processes, or without any in this one.

    When a worker dies (a crash in a library, killed for memory), all that was out is run again, one batch after the
    other in a process apart. A batch that kills it as well is run record by record, and the record that does it is
    left out as "worker_died". Workers that cannot be started are an OSError.

    Args:
        settings: Of the workers.
        tokenizer: Used without processes.
        workers: Number of processes; 0 for none.
        say: Takes messages about what is not used.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        tokenizer: TextTokenizer,
        workers: int,
        say: Callable[[str], None] = lambda message: None,
    ) -> None:
        self._settings, self._workers, self._say = settings, workers, say
        self._caption_fields: set[str] = set()  # that were there
        self._low_unused = False
        self._here = Worker(settings, tokenizer) if workers == 0 else None
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([run_work.__module__])
        self._pool: ProcessPoolExecutor | None = None
        self._apart: ProcessPoolExecutor | None = None

    def map(self, works: Iterable[tuple[Tag, Work | None]]) -> Iterator[tuple[Tag, Work | None, Done | None]]:
        """Process batches; what is out at once is bounded. None passes through in its place.

        Args:
            works: (anything, a batch).

        Yields:
            (the same, the batch, its result), in order.
        """
        for tag, work, done in self._map(works):
            if done is not None:
                self._caption_fields |= done.caption_fields
                if done.low_unused and not self._low_unused:
                    self._low_unused = True
                    self._say("there are low-resolution images, which are not used without --low-resolution")
            yield tag, work, done
        names = [name for name, _ in self._settings.options.captions]
        missing = [name for name in names if name not in self._caption_fields]
        if self._caption_fields and missing and tuple(names) != DEFAULT_CAPTIONS:
            self._say(f"no image has a caption in {', '.join(map(repr, missing))}; is --captions as it was meant?")

    def _map(self, works: Iterable[tuple[Tag, Work | None]]) -> Iterator[tuple[Tag, Work | None, Done | None]]:
        if self._here is not None:
            for tag, work in works:
                yield tag, work, None if work is None else self._here(work)
            return
        out: deque[_Entry[Tag]] = deque()
        # Enough that the workers have work while this process encodes a batch of images.
        limit, fewest, held = 3 * self._workers + 2, self._workers + 1, 0
        source = iter(works)
        more = True
        while more or out:
            while more and len(out) < (limit if held < HELD_BYTES else fewest):
                item = next(source, None)
                if item is None:
                    more = False
                else:
                    out.append(_Entry(*item, None if item[1] is None else self._submit(item[1])))
                    held += 0 if item[1] is None else item[1].held_bytes
            if out:
                entry = out.popleft()
                held -= 0 if entry.work is None else entry.work.held_bytes
                yield entry.tag, entry.work, None if entry.work is None else self._result(entry, out)

    def close(self) -> None:
        """End the workers. What they are at after an error is of no use; one that hangs is killed."""
        pools = [pool for pool in (self._pool, self._apart) if pool is not None]
        self._pool = self._apart = None
        for pool in pools:
            _end(pool)

    def _start(self, workers: int) -> ProcessPoolExecutor:
        # The server that workers are forked from must not die of Ctrl-C while it starts; it inherits what is blocked.
        # Before that the tracker, whose start, if there is none, ends with SIGINT unblocked.
        resource_tracker.ensure_running()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            forkserver.ensure_running()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return ProcessPoolExecutor(workers, self._context, start_worker, (self._settings,))

    def _submit(self, work: Work) -> Future[Done] | None:
        if self._pool is None:
            self._pool = self._start(self._workers)
        try:
            return _submit(self._pool, run_work, work)
        except BrokenProcessPool:
            return None  # the next result tells; this one is run apart

    def _result(self, entry: _Entry[Tag], out: deque[_Entry[Tag]]) -> Done:
        assert entry.work is not None
        if entry.future is not None:
            try:
                return entry.future.result()
            except BrokenProcessPool:
                self._replace(out)
        return self._run_apart(entry.work)

    def _replace(self, out: deque[_Entry[Tag]]) -> None:
        """Forget a broken pool, and note which batches went down with it."""
        if self._pool is not None:
            self._pool.shutdown(wait=True)
            self._pool = None
        for entry in out:
            future = entry.future
            if future is not None and (not future.done() or isinstance(future.exception(), BrokenProcessPool)):
                entry.future = None

    def _check_start(self, pool: ProcessPoolExecutor) -> None:
        """Tell a worker that dies of a record from one that cannot even start: no record is at fault then."""
        try:
            _submit(pool, os.getpid).result()
        except BrokenProcessPool as error:
            raise OSError(
                "worker processes cannot be started, or are ended at once (see the messages above). In a script of "
                'your own, call build_index under `if __name__ == "__main__":`; workers=0 does without processes'
            ) from error

    def _run_apart(self, work: Work) -> Done:
        done = self._try_apart(work)
        if done is not None:
            return done
        records = work.split()
        parts = []
        for record in records:
            part = self._try_apart(record)
            if part is None:
                part = empty([Skip(record.where(), "worker_died", "reading it ended the worker process, twice")])
            parts.append(part)
        return join(parts)

    def _try_apart(self, work: Work) -> Done | None:
        """The result, or None if the process died."""
        if self._apart is None:
            self._apart = self._start(1)
            self._check_start(self._apart)
        try:
            return _submit(self._apart, run_work, work).result()
        except BrokenProcessPool:
            self._apart.shutdown(wait=True)
            self._apart = None
            return None


def _submit(pool: ProcessPoolExecutor, function: Callable[..., Result], *arguments: Any) -> Future[Result]:
    """Submit, which may start a worker. An interruption waits: a process that the pool does not know yet could not be
    ended with it, and would miss what this process takes away when it ends."""
    with interruptions_later():
        return pool.submit(function, *arguments)


def _end(pool: ProcessPoolExecutor) -> None:
    """Stop a pool, idle or not, within a few seconds; also one that an interruption caught while it started."""
    # shutdown(wait=True) would wait for a worker that never ends, and fails where a thread was not started yet.
    processes = workers(pool)
    pool.shutdown(wait=False, cancel_futures=True)
    for grace, end in zip((*_GRACE, None), ("terminate", "kill", ""), strict=True):
        deadline = None if grace is None else time.monotonic() + grace
        for process in processes:
            process.join(None if deadline is None else max(deadline - time.monotonic(), 0))
        processes = [process for process in processes if process.is_alive()]
        for process in processes:
            getattr(process, end)()

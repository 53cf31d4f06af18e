"""Stores in a database: operations of several threads that come together are kept in one transaction."""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, cast
from weakref import WeakSet

from exeunt.errors import InputError
from exeunt.ledger.books import Books
from exeunt.ledger.store import T


class Job:
    """An operation that a thread waits for."""

    __slots__ = ("done", "error", "lasting", "operation", "result")

    def __init__(self, operation: Callable[[Books, int], object], lasting: bool) -> None:
        self.operation, self.lasting, self.result = operation, lasting, cast(object, None)
        self.error: BaseException | None = None
        self.done = threading.Lock()
        self.done.acquire()

    def do(self, books: Books, now: int) -> None:
        """Do it. What the rules refuse changes nothing, so the others in the transaction are not touched.

        Damage that is found on the way is raised, as nothing of the transaction may be kept then.
        """
        self.error = None
        try:
            self.result = self.operation(books, now)
        except InputError as error:
            self.error = error


class GroupCommitStore(ABC):
    """A store that threads share. `shown`: what errors call it."""

    def __init__(self, shown: str) -> None:
        self.shown, self._closed = shown, False
        self.begin_anew()
        self.run(lambda *_: None)
        _stores.add(self)

    def begin_anew(self) -> None:
        """Have no connection and no thread, as in a child process, which must not use or close those of its parent."""
        self._writer = cast("threading.Thread | None", None)
        self._writing, self._handing, self._jobs = threading.Lock(), threading.Lock(), SimpleQueue[Any]()

    @abstractmethod
    def _keep(self, jobs: list[Job]) -> None:
        """Do these operations in one transaction: all are kept, or none, and each has the error."""

    @abstractmethod
    def _disconnect(self) -> None:
        """Close the connection, if there is one."""

    def run(self, operation: Callable[[Books, int], T], *, lasting: bool = True) -> T:
        """Call `operation`, as `Store.run` says."""
        job = Job(operation, lasting)
        if self._writer is None and self._writing.acquire(blocking=False):
            try:
                self._keep([job])
            finally:
                self._writing.release()
        else:  # several threads: from now on, a thread writes for all of them
            with self._handing:
                self._check_open()
                if self._writer is None:
                    self._writer = threading.Thread(target=self._write, name="ledger", daemon=True)
                    self._writer.start()
                self._jobs.put(job)
            job.done.acquire()
        if job.error is not None:
            raise job.error
        return cast(T, job.result)

    def close(self) -> None:
        """Close the store."""
        with self._handing:
            if not self._closed:
                self._jobs.put(None)
            self._closed = True
        with self._writing:
            self._disconnect()

    def _check_open(self) -> None:
        if self._closed:
            raise InputError(f"the ledger {self.shown} is closed: open it again")

    def _write(self) -> None:
        ended = False
        while not ended:
            jobs = [self._jobs.get()]
            while not self._jobs.empty():
                jobs.append(self._jobs.get())
            if ended := jobs[-1] is None:
                jobs.pop()
            with self._writing:
                self._keep(jobs)
            for job in jobs:
                job.done.release()


_stores: WeakSet[GroupCommitStore] = WeakSet()


def _begin_anew() -> None:
    for store in list(_stores):
        store.begin_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)

"""What a job makes of its inputs, a line each, written as it comes: an interruption loses no answer that was made."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from exeunt._support.files import open_to_add


class Journal:
    """Results by the number of their input, as JSON has them. The first line of the file names the job.

    `path`: None keeps them in memory alone. `mode`: permissions of a new file. `found`: what the file holds of this job
    but for lines that are damaged or half written. `of_another_job`: whether it holds another job's; see `remove`.
    """

    def __init__(self, path: Path | None, job: str, *, mode: int = 0o666) -> None:
        self.found: dict[int, Any] = {}
        self._path, self._mode, self._head = path, mode, json.dumps(job)
        text = "" if path is None or not path.is_file() else path.read_text("utf-8", errors="replace")
        head, *lines = text.split("\n")
        self.of_another_job = bool(text) and head != self._head
        for line in () if self.of_another_job else lines:
            with suppress(ValueError, TypeError):
                number, result = json.loads(line)
                self.found[int(number)] = result
        ended = "" if text.endswith("\n") else "\n"
        self._first = ended if text else f"{self._head}\n"

    def remove(self) -> None:
        """Remove the file, and begin another."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)
        self.found, self.of_another_job, self._first = {}, False, f"{self._head}\n"

    def add(self, number: int, result: Any) -> None:
        """Keep a result. It is in the file when this returns."""
        self.found[number] = result
        if self._path is not None:
            with open_to_add(self._path, self._mode) as file:
                file.write(f"{self._first}{json.dumps([number, result])}\n")
            self._first = ""

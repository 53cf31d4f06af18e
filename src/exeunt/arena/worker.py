"""A process that measures splits: jobs come as lines on standard input, each is answered by a line.

It is started by `exeunt.arena.workers`, and ends when its input does. Results go to the cache.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from exeunt.arena.cache import Shelf
from exeunt.errors import ExeuntError

__all__ = ["main"]


def main() -> None:
    """Answer {"folder": ..., "split": ...} by {} once it is measured, or by {"error": ...}."""
    answers = sys.stdout
    sys.stdout = sys.stderr  # whatever else is printed must not be taken for an answer
    for line in sys.stdin:
        job = json.loads(line)
        answer = {}
        try:
            Shelf(Path(job["folder"])).measure(job["split"])
        except ExeuntError as error:
            answer = {"error": str(error)}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()

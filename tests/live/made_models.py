"""Functions as models of three classes, which say the same whenever they are asked; tables of texts, and recordings."""

import asyncio
import functools
import hashlib
import os
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import exeunt as ex
from exeunt.data import open_inputs
from exeunt.jobs import predict_inputs
from exeunt.jobs.predict_live import LiveJob
from exeunt.live.live_run import live_cascade
from exeunt.live.recording import record_models

CLASSES = ("no", "perhaps", "yes")
PRICES = {"small": 0.001, "medium": 0.003, "large": 0.01}
SKILLS = {"small": 1.0, "medium": 2.0, "large": 3.0}
MODELS = "".join(
    f"{name}: {{function: 'live.made_models:{name}', classes: ['no', perhaps, 'yes'], price: {price}}}\n"
    for name, price in PRICES.items()
)
"""The models in a file."""


def truth(text):
    return hashlib.sha256(text.encode()).digest()[0] % 3


@functools.cache
def shares(name, text):
    """What a model says: probabilities, the same whenever it is asked; None for one text in twenty."""
    rng = np.random.default_rng(list(hashlib.sha256(f"{name}: {text}".encode()).digest()))
    if rng.random() < 0.05:
        return None
    votes = rng.normal(size=3)
    votes[truth(text)] += SKILLS[name]
    return np.exp(votes) / np.exp(votes).sum()


def asked(name, *, only=False):
    """Return a function that counts what it is asked. `only`: it returns the class and its confidence alone."""

    async def ask(text):
        ask.count[text] += 1
        await asyncio.sleep(0)
        said = shares(name, text)
        return (CLASSES[said.argmax()], said.max()) if only and said is not None else said

    ask.count = Counter()
    return ask


small, medium, large = map(asked, PRICES)


def made_models(*, only=False):
    return {
        name: ex.FunctionModel(asked(name, only=only), price=price, classes=CLASSES)
        for name, price in PRICES.items()
    }


def table(path, n, word):
    """Write a table of n texts with labels."""
    texts = [f"{word} {i}" for i in range(n)]
    labels = [CLASSES[truth(text)] for text in texts]
    pq.write_table(pa.table({"id": texts, "text": texts, "label": labels}), path)
    return path


def record(models, texts, out, **options):
    return record_models(models, open_inputs(texts), out, say=lambda _: None, **options)


def answered(run, models, data, out, *, make=LiveJob, force=True, keep=(), **options):
    """Answer the inputs of a file, and return the table of answers."""
    job = partial(make, live=live_cascade(run, models, **options))
    predict_inputs(run, open_inputs(data, keep=keep), out, make=job, say=lambda _: None, force=force)
    return pq.read_table(out).to_pydict()


class Ended(BaseException):
    """As if the process ended."""


def ends(kind=LiveJob, see=lambda job, arrays: None):
    """Return a kind of job that ends once its first block is answered, after `see` was called."""

    class Ends(kind):
        def _cost_apart(self, arrays):
            see(self, arrays)
            raise Ended

    return Ends


def ending(after, how):
    """Return `shares` that sends this process a signal at so many calls, and the list of calls."""
    calls, usual = [], shares

    def counted(name, text):
        calls.append(text)
        if len(calls) == after:
            os.kill(os.getpid(), how)
            time.sleep(0.3)  # until the main thread has heard of it
        return usual(name, text)

    return counted, calls


def killed(after, code):
    """Run code in a process that is killed at so many calls of these models."""
    begin = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
import exeunt as ex
from live import made_models as made
made.shares, _ = made.ending({after}, 9)
"""
    done = subprocess.run([sys.executable, "-c", begin + code], capture_output=True, text=True, check=False)
    assert done.returncode == -9, done.stderr

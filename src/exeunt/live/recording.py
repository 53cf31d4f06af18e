"""`exeunt record --models`: what live models say about inputs, each asked once, as a table and as a run.

The folder holds `answers.jsonl`, a line per answer as it comes; `recording.parquet`, a row per input that all models
were asked about; and `key`, the secret of the HMACs that stand for inputs. Only their owner can read these files.
If the models choose among classes, it is a run too (see `exeunt.live.live_run`); its traces hold hashes of the inputs.
`money.db` beside them is the ledger of the command.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import math
import signal
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from itertools import takewhile
from pathlib import Path
from shlex import quote
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from exeunt._support.files import atomic_path, locked, make_folder, open_to_add, read_json, secret_of
from exeunt._support.progress import Progress
from exeunt._support.text import counted
from exeunt.costs.budget_text import amount_text
from exeunt.data import Dataset, Texts
from exeunt.engine.inputs import content_bytes
from exeunt.errors import InputError, UnreadableInput
from exeunt.ledger.ledger import Ledger
from exeunt.live.function_model import FeatureModel
from exeunt.live.live_model import GAVE_NONE, LiveModel, Reply, check_unit, work_through
from exeunt.live.live_run import RecordedModel, digest_of, make_live_run, write_models
from exeunt.runs.file_digests import MANIFEST
from exeunt.runs.kinds.live import LIVE
from exeunt.runs.saved_policies import POLICIES, POLICY, remove_of_policy

ANSWERS, TABLE, KEY, MONEY = "answers.jsonl", "recording.parquet", "key", "money.db"
_OWNER = 0o600
_MOST_IN_A_ROW = 20


class _Asked(NamedTuple):
    """A question: the row of the data, the model, and the key of both."""

    row: int
    model: str
    key: str


@dataclass
class Recorded:
    """What a recording holds. `prices`: of each model, what `exeunt compare --price` takes. `why`: the most frequent
    failure of each model. `cost`: of what it holds. `spent`: all that the ledger has paid. `stopped`: why the ledger
    refused an attempt. `no_run`: why the folder is no run, as `exeunt calibrate` takes it.
    """

    folder: Path
    rows: int = 0
    missing: int = 0
    unreadable: int = 0
    prices: dict[str, str] = field(default_factory=dict)
    counts: dict[str, Counter[str]] = field(default_factory=dict)
    cost: float = 0.0
    spent: float = 0.0
    stopped: str = ""
    why: dict[str, str] = field(default_factory=dict)
    no_run: str = ""

    def __str__(self) -> str:
        lines = [
            f"{name}: {counted(each['answered'], 'answer')}, {counted(each['failed'], 'failure')}"
            + (f" ({self.why[name]})" if name in self.why else "")
            + (f", {counted(each['lies'], 'impossible usage')} reported" if each["lies"] else "")
            for name, each in self.counts.items()
        ]
        lines.append(f"{counted(self.rows, 'input')} recorded for {amount_text(self.cost, 'usd')}")
        if self.unreadable:
            lines.append(f"{counted(self.unreadable, 'input')} could not be read")
        if self.missing:
            why = f" ({self.stopped})" if self.stopped else ""
            lines.append(f"{counted(self.missing, 'answer is', 'answers are')} missing{why}")
        if self.rows and not self.no_run:
            lines.append(f"next: exeunt calibrate {quote(str(self.folder))} --budget 50%")
        elif self.rows:
            models, prices = quote(",".join(self.prices)), ",".join(self.prices.values())
            table = quote(str(self.folder / TABLE))
            lines.append(f"{self.folder} holds a table and is no run: {self.no_run}")
            lines.append(
                f"next: exeunt compare {table} --models {models} --price {prices} --id id --empty-is-no-answer"
            )
        return "\n".join(lines)


def record_models(
    models: Mapping[str, LiveModel],
    inputs: Dataset,
    out: str | Path,
    *,
    ledger: Ledger | Callable[[], Ledger] | None = None,
    name: str = "",
    text: Sequence[str] = (),
    repeat: bool = False,
    keep_texts: bool = False,
    id_column: str | None = None,
    strict: bool = False,
    concurrency: int = 64,
    force: bool = False,
    say: Callable[[str], None] = print,
) -> Recorded:
    """Ask each model about each input, write what they say, and return the counts.

    A model is asked once about the same content; with `repeat` once about each copy. What another run has recorded in
    `out` is not asked again, but for failures that may pass. Where the `ledger` refuses an attempt, the recording ends
    with the inputs that all models were asked about; a function that opens one is called once nobody else records.
    `name`, `text`: of the inputs, as `open_inputs` took them; the run's answers are to the same columns.
    `keep_texts`: write the inputs into the table, too. `id_column`: a column that `inputs` keeps, for the ids; else
    these are HMACs of the content.

    A model that fails 20 times in a row is asked no more.

    Raises InputError if `out` holds something else, or, without `force`, answers of models that differ from those of
    the same names; for labels that are no classes of the models; UnreadableInput if `strict`.
    """
    if not callable(ledger):
        check_unit(ledger)
    if not isinstance(inputs, Dataset):
        raise InputError(f"give the inputs as exeunt.data.open_inputs opens them, got {inputs!r:.80}")
    if id_column is not None and id_column not in inputs.kept_types:
        raise InputError(f"ids are a column that is kept: open_inputs(..., keep=[{id_column!r}])")
    _check_classes(models, inputs)
    folder = recording_folder(out)
    with locked(folder / ".lock", folder):
        if not force:
            _check_same(folder, models)
        if callable(ledger):
            ledger = ledger()
            check_unit(ledger)
        data = {"name": name, "text": list(text)}
        work = _Recording(dict(models), inputs, folder, data=data, repeat=repeat, strict=strict, say=say)
        try:
            asyncio.run(work.run(ledger, concurrency))
        finally:
            work.close()
            done = work.write(keep_texts=keep_texts, id_column=id_column)
            done.spent = 0.0 if ledger is None else ledger.spent
    return done


def recording_folder(out: str | Path) -> Path:
    """Return the folder of a recording, which only its owner can open; it is made if it is missing.

    Raises InputError if it holds something else.
    """
    folder = make_folder(Path(out))
    others = {file.name for file in folder.iterdir() if not file.name.startswith(MONEY)}
    if others and KEY not in others:
        raise InputError(f"{folder} holds something else than a recording of models: name another folder")
    folder.chmod(0o700)
    return folder


class _Recording:
    """The state of one run: what was known before, and what has come since."""

    def __init__(
        self,
        models: dict[str, LiveModel],
        inputs: Dataset,
        folder: Path,
        *,
        data: dict[str, Any],
        repeat: bool,
        strict: bool,
        say: Callable[[str], None],
    ) -> None:
        self.models, self.inputs, self.folder, self.data, self.say = models, inputs, folder, data, say
        self.secret = secret_of(folder / KEY)
        self.known: dict[str, Reply] = {}
        self.cost: defaultdict[str, float] = defaultdict(float)
        self.spent = 0.0
        self.stopped = ""
        self.broken: dict[str, str] = {}
        self.in_a_row = Counter[str]()
        self._file = open_to_add(folder / ANSWERS, _OWNER)
        self._read()
        identities = {name: f"{name}\0{model.identity}" for name, model in models.items()}
        self.ids: dict[int, str] = {}
        self.keys: dict[int, dict[str, str]] = {}
        self.unreadable, copies = 0, Counter[str]()
        for row in range(len(inputs)):
            try:
                content = content_bytes(inputs.content(row))
            except UnreadableInput:
                if strict:
                    raise
                self.unreadable += 1
                continue
            self.ids[row] = self._hmac(content)
            copy = f"\0{copies[self.ids[row]]}" if repeat else ""
            copies[self.ids[row]] += 1
            self.keys[row] = {
                name: self._hmac(f"{identity}{copy}\0".encode() + content)
                for name, identity in identities.items()
            }

    def _hmac(self, content: bytes) -> str:
        return hmac.digest(self.secret, content, "sha256")[:16].hex()

    def _read(self) -> None:
        """Read what other runs have recorded; the last line may be half written."""
        text = (self.folder / ANSWERS).read_text(encoding="utf-8")
        if text and not text.endswith("\n"):
            self._file.write("\n")
        for line in text.split("\n"):
            with suppress(ValueError, TypeError, KeyError):
                entry = json.loads(line)
                key = entry.pop("key")
                if entry["answer"] is None:
                    entry["confidence"] = -math.inf
                shares = entry.pop("probabilities")
                self._take(key, Reply(**entry, probabilities=None if shares is None else tuple(shares)))

    def _take(self, key: str, reply: Reply) -> None:
        self.known[key] = reply
        self.cost[key] += reply.cost
        self.spent += reply.cost

    def _is_done(self, key: str) -> bool:
        """Whether there is an answer, or a failure that was billed and will not pass."""
        reply = self.known.get(key)
        return reply is not None and (reply.is_given or (not reply.again and reply.cost > 0))

    async def run(self, ledger: Ledger | None, concurrency: int) -> None:
        """Ask what is not known. Where the ledger refuses, wait until nothing is under way, and try what is left."""
        requests = {
            key: _Asked(row, name, key) for row, keys in self.keys.items() for name, key in keys.items()
        }
        left = [request for key, request in requests.items() if not self._is_done(key)]
        with Progress(
            "answers", total=len(requests), done=len(requests) - len(left), say=self.say
        ) as progress:
            try:
                with _interruptible() as stop:
                    while left and (sent := await self._ask_all(left, ledger, concurrency, progress, stop)):
                        left = [
                            request
                            for request in left
                            if request.key not in sent and request.model not in self.broken
                        ]
            finally:
                for model in self.models.values():
                    await model.close()

    async def _ask_all(
        self,
        left: list[_Asked],
        ledger: Ledger | None,
        concurrency: int,
        progress: Progress,
        stop: asyncio.Event,
    ) -> set[str]:
        """Ask, but no models that the ledger refuses, and nobody after `stop`; return the keys of what was sent."""
        refused: dict[str, str] = {}
        sent: set[str] = set()

        async def ask(request: _Asked) -> None:
            content = self.inputs.content(request.row)
            reply = await self.models[request.model].ask(
                content, name=request.model, ledger=ledger, key=request.key
            )
            if reply.attempts == 0:
                refused[request.model] = reply.failed
                return
            failed = reply.failed.partition(":")[0]  # the message of a function may hold the input
            answer = {
                **asdict(reply),
                "failed": failed,
                "confidence": None if reply.answer is None else reply.confidence,
            }
            self._file.write(json.dumps({**answer, "key": request.key}) + "\n")
            self._file.flush()
            self._take(request.key, reply)
            sent.add(request.key)
            fails = not reply.is_given and reply.failed != GAVE_NONE
            self.in_a_row[request.model] = self.in_a_row[request.model] + 1 if fails else 0
            if self.in_a_row[request.model] >= _MOST_IN_A_ROW:
                self.broken[request.model] = (
                    f"{request.model} failed {_MOST_IN_A_ROW} times in a row: {reply.failed}"
                )
            progress.set_postfix_str(f", {amount_text(self.spent, 'usd')} spent", refresh=False)
            progress.update()

        chosen = (
            request
            for request in takewhile(lambda _: not stop.is_set(), left)
            if request.model not in refused and request.model not in self.broken
        )
        await work_through(chosen, ask, concurrency)
        self.stopped = next(iter({**self.broken, **refused}.values()), "")
        return sent

    def close(self) -> None:
        """Close the file of answers."""
        self._file.close()

    def write(self, *, keep_texts: bool, id_column: str | None) -> Recorded:
        """Write the table of the inputs that all models were asked about."""
        rows = [row for row, keys in self.keys.items() if all(key in self.known for key in keys.values())]
        used = {key for keys in self.keys.values() for key in keys.values()}
        done = Recorded(
            self.folder,
            len(rows),
            sum(key not in self.known for key in used),
            self.unreadable,
            cost=sum(self.cost[key] for key in used),
            stopped=self.stopped,
        )
        ids = None if id_column is None else self.inputs.kept_values(id_column)
        columns: dict[str, Any] = {"id": [self.ids[row] if ids is None else ids[row] for row in rows]}
        if keep_texts:
            contents = [self.inputs.content(row) for row in rows]
            columns["text"] = [
                content if isinstance(content, str) else "\n\n".join(content) for content in contents
            ]
        if (truth := self.inputs.true_names) is not None:
            columns["label"] = [truth[row] for row in rows]
        recorded: dict[str, RecordedModel] = {}
        for name, model in self.models.items():
            keys = [self.keys[row][name] for row in rows]
            replies = [self.known[key] for key in keys]
            columns |= _columns(name, model, replies, [self.cost[key] for key in keys])
            done.counts[name] = Counter(
                {
                    "answered": sum(reply.is_given for reply in replies),
                    "failed": sum(not reply.is_given for reply in replies),
                    "lies": sum(reply.lied for reply in replies),
                }
            )
            if failures := Counter(reply.failed for reply in replies if not reply.is_given):
                done.why[name] = failures.most_common(1)[0][0]
            if rows:
                highest = max(model.most(self.inputs.content(row)) for row in rows) * (1 + model.retries)
                if not isinstance(model, FeatureModel):
                    done.prices[name] = _price(name, columns[f"cost_{name}"], highest)
                paid = columns[f"cost_{name}"].to_numpy()
                recorded[name] = RecordedModel(model, replies, paid, max(highest, paid.max()))
        with atomic_path(self.folder / TABLE) as temporary:
            temporary.touch(mode=_OWNER)
            pq.write_table(pa.table(columns), temporary)
        done.no_run = self._make_run(recorded, rows) if rows else ""
        return done

    def _make_run(self, recorded: Mapping[str, RecordedModel], rows: list[int]) -> str:
        """Make the folder a run of these models, or return why there can be none."""
        inputs = self.inputs.take(rows)
        answering = [
            recorded_model
            for recorded_model in recorded.values()
            if not isinstance(recorded_model.model, FeatureModel)
        ]
        classes, *others = {recorded_model.model.classes for recorded_model in answering} or {None}
        try:
            if len(answering) < 2 or others or classes is None:
                raise InputError("a run takes two or more models that choose among the same classes")
            if isinstance(inputs, Texts) and inputs.per_input == 2 and len(self.data["text"]) != 2:
                raise InputError(
                    'a run of pairs of texts knows their columns: record_models(..., text=["premise", "hypothesis"])'
                )
            make_live_run(
                self.folder,
                recorded,
                id=inputs.content_keys(),
                kind=inputs.kind,
                data={**self.data, "fingerprint": inputs.fingerprint},
                label=_labels(inputs, classes),
                say=self.say,
            )
        except InputError as error:
            remove_of_policy(self.folder, MANIFEST, POLICY, POLICIES)  # what an earlier recording left
            write_models(self.folder, recorded)
            return str(error)
        return ""


def _labels(inputs: Dataset, classes: Sequence[str]) -> Any:
    """Return the classes of inputs by number; None without labels. Raises InputError for another class, or a gap."""
    if (names := inputs.true_names) is None:
        return None
    for row, name in enumerate(names):
        if name not in classes:
            problem = "no label" if name is None else f"the label {name!r}, which is no class of the models"
            raise InputError(
                f"{inputs.name(row)} has {problem} ({', '.join(classes)}): correct it, or leave the column of labels "
                "out"
            )
    return np.array([classes.index(str(name)) for name in names])


def _check_classes(models: Mapping[str, LiveModel], inputs: Dataset) -> None:
    """Raise InputError, before anything is paid, for classes in several orders, or labels that are none of them."""
    answering = {name: model for name, model in models.items() if not isinstance(model, FeatureModel)}
    known = {name: model.classes for name, model in answering.items() if model.classes is not None}
    for name, classes in known.items():
        first, same = next(iter(known.items()))
        if classes != same and sorted(classes) == sorted(same):
            raise InputError(
                f"{first!r} and {name!r} have the same classes in another order: give them in one order"
            )
    if len(known) == len(answering) and len(set(known.values())) == 1:
        _labels(inputs, next(iter(known.values())))


def _check_same(folder: Path, models: Mapping[str, LiveModel]) -> None:
    """Raise InputError for models that differ from those of the same names that the folder was recorded of."""
    before = read_json(folder / LIVE) if (folder / LIVE).is_file() else {}
    for name in before.keys() & models.keys():
        if before[name]["identity"] != digest_of(models[name]):
            raise InputError(
                f"{folder} holds answers of another model {name!r}: its classes, name, prompt, options or function "
                "differed. Its answers would all be paid for again: name another folder, or add --force"
            )


@contextmanager
def _interruptible() -> Iterator[asyncio.Event]:
    """Yield an event that the first interruption (Ctrl-C) sets; KeyboardInterrupt is raised at the end of the block.

    What was sent is paid for, so its answers are awaited. A second interruption does not wait for them.
    """
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    usual = signal.getsignal(signal.SIGINT)

    def first(*_: Any) -> None:
        signal.signal(signal.SIGINT, usual)
        loop.call_soon_threadsafe(stop.set)

    handles = threading.current_thread() is threading.main_thread() and callable(usual)
    if handles:
        signal.signal(signal.SIGINT, first)
    try:
        yield stop
    finally:
        if handles:
            signal.signal(signal.SIGINT, usual)
    if stop.is_set():
        raise KeyboardInterrupt


def _columns(name: str, model: LiveModel, replies: list[Reply], costs: list[float]) -> dict[str, Any]:
    """Return what a model said, as columns of its name. Free answers get a cost that does not count."""
    least = 1e-6 * max([*costs, 1e-6])
    cost = {f"cost_{name}": pa.array([max(cost, least) for cost in costs], pa.float64())}
    if isinstance(model, FeatureModel):
        features = pa.array([reply.features for reply in replies], pa.list_(pa.float32()))
        return {f"features_{name}": features, **cost}
    return {
        f"prediction_{name}": pa.array([_storable(reply.answer) for reply in replies], pa.string()),
        f"confidence_{name}": pa.array(
            [None if reply.answer is None else reply.confidence for reply in replies], pa.float64()
        ),
        **cost,
    }


def _storable(text: str | None) -> str | None:
    """Return a text with U+FFFD in place of halves of surrogate pairs, which JSON can hold and UTF-8 cannot."""
    return None if text is None else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _price(name: str, costs: Any, highest: float) -> str:
    """Return a price that all answers have, or the column of prices and the most that an input of this length costs."""
    values = costs.to_numpy()
    return f"{values[0]:g}" if np.ptp(values) == 0 else f"cost_{name}:{max(highest, values.max()):.9g}"

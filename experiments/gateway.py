"""The road of a gateway, replayed: traffic in units, proposals, bets day by day, and what is true of the certificates.

    python -m experiments.gateway
    python -m experiments.gateway --measure ../shared/data --encoder FOLDER [--orders 12]

Writes the page again from the kept numbers, or measures (two minutes of a core for an order of the four kinds of
traffic, if OMP_NUM_THREADS is 1); an interrupted command goes on where it was. The data folder holds
`router/questions.parquet` (see `experiments.router`), FOLDER a sentence encoder. Only the models are
stand-ins, whose grades are recorded: `Units`, `Drawing`, `propose` and `Certifier` are those of the gateway, with
records in a folder in memory.
"""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from experiments.gateway_looks import LOSSES, about_looks, first_certificate, looks_of, of_losses
from experiments.gateway_traffic import (
    DAY_S,
    INTEGRATION,
    MOST_ROWS,
    MOST_SHARE,
    NAMES,
    PROMPTS,
    TASKS,
    TURNS,
    UNITS,
    USERS,
    WEIGHT,
    Asked,
    RequestStream,
    tasks_of,
)
from experiments.pages import RESULTS, Measurements, kept_numbers, parser, table, write_page
from experiments.router import asked

from exeunt.evaluation.one_split import mixture_curve
from exeunt.gateway.certifier import Plan, ProposalUnderTest
from exeunt.gateway.config import read_config
from exeunt.gateway.evidence import Evidence, evidence_of
from exeunt.gateway.gateway import Gateway
from exeunt.gateway.proposals import LOSS
from exeunt.guarantees.confidence_intervals import wilson_interval
from exeunt.stream.drawing import Drawing
from exeunt.stream.records import COMPARED, Record, Said
from exeunt.stream.units import Arrival, Unit

PAGE = RESULTS / "gateway.md"
REFERENCE = "llama-3.1-nemotron-51b-instruct"
ENCODER_USD = 1e-7
"""For a request of 200 tokens, by the price of `experiments.router`."""
MOST_TOKENS, LEAST_TOKENS = 400, 50
DELTA, MAX_LOSS = 0.05, 0.05
START = 1_767_571_200.0
"""A midnight (UTC)."""
PACE, ADVANCES = 75.0, 8
"""Units a day, and how often a day it is looked whether there is something to do."""
SIZES = dict(zip(NAMES, (4_608, 4_608, 2_400, 2_400), strict=True))
CAP = "0.002 usd"
WORLDS = 1_000
"""Of simulated losses."""


# -- the requests ------------------------------------------------------------------------------------------------------


def tokens(question: str, model: str) -> tuple[int, int]:
    """Return invented numbers of tokens, always the same: four letters of a question each, and of the answer by lot."""
    lot = int.from_bytes(hashlib.sha256(f"{model}\0{question}".encode()).digest()[:4], "big")
    return 8 + len(question) // 4, LEAST_TOKENS + lot % (MOST_TOKENS - LEAST_TOKENS + 1)


@dataclass(frozen=True)
class Questions:
    """Graded questions. `said`: what each model did, by question; `key`: in place of its content; `price`: by model;
    `grade` (q, m); `features`: by question; `task` (q,).
    """

    said: list[dict[str, Said]]
    key: list[bytes]
    price: dict[str, float]
    grade: Any
    features: list[tuple[float, ...]]
    task: Any

    @classmethod
    def read(cls, folder: Path, encoder: str) -> Questions:
        texts, price, grade, features = asked(folder, encoder)
        said = [
            {
                name: Said(sum(tokens(text, name)) * usd / 1e6, grade=float(grade[row, k]))
                for k, (name, usd) in enumerate(price.items())
            }
            for row, text in enumerate(texts)
        ]
        kept = [tuple(row) for row in features.astype(np.float32).tolist()]
        keys = [hashlib.sha256(text.encode()).digest()[:16] for text in texts]
        return cls(said, keys, price, grade, kept, tasks_of(features[:, :-4]))

    def record(self, question: int, number: int, when: float, **more: Any) -> Record:
        """Return what a gateway keeps of a request that was compared."""
        return Record(
            number, when, "all", self.key[question].hex(), self.said[question], answered=REFERENCE,
            asked=(REFERENCE,), cost=self.said[question][REFERENCE].cost, compared=COMPARED,
            features=self.features[question], **more,
        )  # fmt: skip

    def evidence(self, gateway: Gateway) -> Evidence:
        """Return what is known of every question, each in a unit of its own."""
        units = [
            (Unit(q + 1, "all", 0.0, 0.0, rows=1, probability=1.0, drawn=True), [self.record(q, q + 1, 0.0)])
            for q in range(len(self.said))
        ]
        return evidence_of(units, gateway.models, gateway.config.cap, 1)


def config_text(questions: Questions, units: str, *, audit: float = 0.05, share: float = 1.0) -> str:
    """Return the file of a gateway that is to lose at most 5 points."""
    models = ", ".join(
        f"'{name}': {{provider: one, price: {{input: {usd}, output: {usd}}}, max_tokens: {MOST_TOKENS}}}"
        for name, usd in questions.price.items()
    )
    others = ", ".join(f"'{name}'" for name in questions.price if name != REFERENCE)
    return (
        f"providers: {{one: {{base_url: 'http://provider.invalid/v1'}}}}\nmodels: {{{models}}}\n"
        f"reference: '{REFERENCE}'\nunits: {units}\nfeatures: {{price: {ENCODER_USD}}}\nkeep: {{features: true}}\n"
        f"promise: {{max_loss: {MAX_LOSS}, delta: {DELTA}}}\nshadow: {{models: [{others}], share: {share}, "
        f"audit: {audit}, spend: '1000 usd', cap: '{CAP}'}}\n"
    )


# -- one road ----------------------------------------------------------------------------------------------------------


async def at_once(function: Any, *given: Any, **options: Any) -> Any:
    """Run what the gateway runs in a process of its own."""
    return function(*given, **options)


class Road:
    """A gateway in a folder, and the traffic that comes there.

    `fitted`: the questions that fit each proposal; `known`: what is known of every question; `passed`: each plan that
    was certified, and when.
    """

    def __init__(self, questions: Questions, traffic: RequestStream, folder: Path) -> None:
        self._questions, self._traffic, self._now = questions, traffic, START
        file = folder / "gateway.yaml"
        file.write_text(config_text(questions, UNITS[traffic.name]))
        self.gateway = Gateway(read_config(file), clock=lambda: self._now, apart=at_once)
        secret = b"%d" % traffic.seed  # so that the lots are the same each time
        self.gateway.traffic.drawing = Drawing(secret, self.gateway.config.period)
        self._of_unit: dict[int, int] = {}  # the gateway's unit of each one of the world
        self._asked: dict[int, list[int]] = {}  # the questions of each unit
        self.fitted: dict[int, list[int]] = {}  # those that fit each proposal
        self.known = questions.evidence(self.gateway)
        self.passed: list[dict[str, Any]] = []
        self.seconds = {"proposals": [], "rest": 0.0}

    async def drive(self) -> None:
        """Let all requests come, and let the gateway do what it does meanwhile."""
        due, last = START + DAY_S / ADVANCES, START
        for request in self._traffic.requests():
            last = START + request.time
            while last >= due:
                await self._advance(due)
                due += DAY_S / ADVANCES
            self._arrive(request, last)
        while due <= last + 9 * DAY_S:  # the last units close
            await self._advance(due)
            due += DAY_S / ADVANCES

    def _arrive(self, request: Asked, now: float) -> None:
        traffic, key = self.gateway.traffic, self._questions.key[request.question]
        self._now, number = now, traffic.number()
        user = b"%d" % request.unit if self._traffic.name == "users" else b""
        before, after = (b"%d %d" % (request.unit, request.turn + more) for more in (0, 1))
        arrival = Arrival(
            number, "all", key, (before,) if request.turn and not user else (), name=b"", user=user
        )
        place = traffic.arrive(arrival, now)
        unit = place.unit
        if unit is None or self._of_unit.setdefault(request.unit, unit.number) != unit.number:
            raise RuntimeError("the gateway's units are not those of the world")
        if place.starts and traffic.is_chosen(unit, now, 1.0):
            traffic.draw(unit, free=True)
        traffic.answered(arrival, place, after, now, failed=False)
        record = self._questions.record(
            request.question, number, now, unit=unit.number, row=place.row, is_open=place.is_open,
            setting=traffic.setting, transcript=after,
        )  # fmt: skip
        if place.is_open:
            self._asked.setdefault(unit.number, []).append(request.question)
        else:
            record = replace(record, compared="", features=None)
        self.gateway.records.add(record)
        traffic.ended(unit)

    async def _advance(self, now: float) -> None:
        gateway, started = self.gateway, time.process_time()
        self._now, before = now, len(gateway.certifier.proposals)
        for unit in gateway.traffic.take_over(now):
            gateway.traffic.unit_over(unit, ())  # the bill is not read here
        gateway.traffic.saving()()
        names = await gateway.certifier.advance(now, gateway.traffic.busy, at_once)
        if len(gateway.certifier.proposals) > before:
            proposal = gateway.certifier.proposals[-1]
            fits = gateway.records.units("drawn AND NOT held_out AND closed IS NOT NULL")
            self.fitted[proposal.number] = [q for unit in fits for q in self._asked[unit.number]]
            self.seconds["proposals"].append(time.process_time() - started)
        else:
            self.seconds["rest"] += time.process_time() - started
        for proposal in gateway.certifier.proposals if names else ():
            for plan in proposal.plans:
                if plan.passed == now:
                    self.passed.append(self._about(proposal, plan))

    def _about(self, proposal: ProposalUnderTest, plan: Plan) -> dict[str, Any]:
        begun = self.gateway.records.units()
        return {
            "proposal": proposal.number, "rows": proposal.rows, "share": plan.share, "units": len(begun),
            "held_out": proposal.units, "requests": self.gateway.records.count(), **self.truth(proposal, plan),
            "tightest": self.gateway.certifier.tightest(proposal, plan, LOSS),
        }  # fmt: skip

    def truth(self, proposal: ProposalUnderTest, plan: Plan) -> dict[str, Any]:
        """Return what a plan loses and saves in the long run, per request, and what one would do otherwise."""
        policy, known, price = plan.policy, self.known, self._questions.price
        if policy is None or known.trace is None:
            raise RuntimeError("nobody was forgotten here")
        weights = self._traffic.weights(proposal.rows, self.fitted[proposal.number])
        total, later = weights.every.sum(), weights.every - weights.answered
        lost, cost = known.outcomes(policy)
        reference = known.reference_cost
        names = np.array([step.model for step in policy.cascade])[policy.route(known.trace)]
        shares = {name: float(weights.answered[names == name].sum() / total) for name in price}
        shares[REFERENCE] += float(later.sum() / total)
        costs = np.array([[said[name].cost for name in price] for said in self._questions.said])
        means = [(weights.every @ each / total).tolist() for each in (self._questions.grade, costs)]
        alone = dict(zip(price, zip(*means, strict=True), strict=True))
        mean_cost = float(weights.answered @ cost + later @ reference) / total
        loss = float(weights.answered @ lost) / total
        by_cost = sorted(alone.values(), key=lambda way: way[1])
        grades, spent = (np.array([way[k] for way in by_cost]) for k in (0, 1))
        pair, paid = mixture_curve(spent, grades, grades, np.array([max(mean_cost, spent[0])]))
        own = {
            "the certified policy": (alone[REFERENCE][0] - loss, mean_cost),
            **{f"{name} alone": way for name, way in alone.items()},
            "the same shares at random": tuple(
                sum(share * alone[name][k] for name, share in shares.items()) for k in (0, 1)
            ),
            "the best pair mixed at random": (float(pair[0]), float(paid[0])),
        }
        of = alone[REFERENCE][1]
        return {
            "loss": loss, "saved": 1 - mean_cost / of, "shares": shares,
            "may_answer": float(weights.answered.sum() / total),
            "ways": {name: [grade, spent / of] for name, (grade, spent) in own.items()},
        }  # fmt: skip


def road(questions: Questions, name: str, order: int) -> dict[str, Any]:
    """Return what was certified in one order of one kind of traffic, when, and what is true of it."""
    traffic = RequestStream(name, order, SIZES[name], PACE, questions.task)
    started = time.process_time()
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        one = Road(questions, traffic, Path(folder))
        asyncio.run(one.drive())
        certifier, records = one.gateway.certifier, one.gateway.records
        settled = {period.number: period.settled or np.inf for period in records.periods()}
        proposals = [proposal for proposal in certifier.proposals if proposal.plans]
        plans = [
            (proposal, plan) for proposal in proposals for plan in proposal.plans if plan.passed is not None
        ]
        best = min(plans, key=lambda pair: pair[1].share, default=None)
        found = {
            "passed": [{k: v for k, v in each.items() if k not in ("ways", "shares")} for each in one.passed],
            "best": None if best is None else {"rows": best[0].rows, **one.truth(*best)},
            "tighter": [
                [one.truth(proposal, plan)["loss"], certifier.tightest(proposal, plan, LOSS) * MAX_LOSS]
                for proposal, plan in plans
            ],
            "withheld": sum(bool(certifier.withheld(proposal)) for proposal in certifier.proposals),
            "proposals": [
                {
                    "fitted": each.fitted, "rows": each.rows, "kind": each.kind, "plans": len(each.plans),
                    "made": (each.made - START) / DAY_S,
                }
                for each in certifier.proposals
            ],
            "units": records.count_units("1"), "requests": records.count(),
            "looks": {str(proposal.number): looks_of(certifier, proposal) for proposal in proposals},
            "first": first_certificate(certifier, None, settled),
            "first at 1": first_certificate(certifier, 1.0, settled),
        }  # fmt: skip
        asyncio.run(one.gateway.close())
    return {**found, "seconds": time.process_time() - started, "of proposals": one.seconds}


def measure(folder: Path, encoder: str, orders: int) -> dict[str, Any]:
    kept = Measurements(Path("runs/gateway-road.jsonl"))
    questions, roads = Questions.read(folder, encoder), {name: [] for name in NAMES}
    simulated = [kept.of("losses", *of, measure=partial(of_losses, *of, WORLDS)) for of in LOSSES]
    for order in range(orders):
        for name in NAMES:
            roads[name].append(kept.of(name, order, measure=partial(road, questions, name, order)))
        print(f"{order + 1} of {orders} orders", flush=True)
    return {"n": len(questions.key), "roads": roads, "simulated": simulated}


# -- the page ----------------------------------------------------------------------------------------------------------

AFTER = (300, 600, 1_200, 2_400, 3_000, 4_608)
BEFORE = {300: "27% in 3 of 20", 3_000: "75% in 200 of 200"}
"""What was saved on the live requests after so many records by one certificate at the full delta, as it was measured
before live traffic was one stream.
"""


def spread(values: list[float]) -> str:
    """Write the mean of shares, and the middle 90% of the orders."""
    return "{:.1%} ({:.1%} to {:.1%})".format(np.mean(values), *np.quantile(values, [0.05, 0.95]))


def certified_rows(roads: dict[str, list[dict[str, Any]]]) -> list[list[Any]]:
    """Return what was certified at the end of the road, and how often falsely at any time."""
    rows = []
    for name, made in roads.items():
        passed = [road for road in made if road["passed"]]
        firsts = [road["passed"][0]["units"] for road in passed]
        best = [road["best"] for road in passed]
        rows.append([
            name, UNITS[name], len(made), len(made) - len(passed), sum(len(road["passed"]) for road in passed),
            sum(any(plan["loss"] > MAX_LOSS for plan in road["passed"]) for road in made),
            sum(any(loss > limit for loss, limit in road["tighter"]) for road in made),
            f"{np.median(firsts):,.0f}" if passed else "",
            f"{100 * np.mean([one['loss'] for one in best]):.2f}" if passed else "",
            spread([one["saved"] for one in best]) if passed else "",
            f"{np.mean([one['may_answer'] for one in best]):.0%}" if passed else "",
            f"{np.median([road['seconds'] for road in made]):.0f}",
        ])  # fmt: skip
    return rows


def after_rows(roads: dict[str, list[dict[str, Any]]]) -> list[list[str]]:
    """Return what the cheapest certified plan saves after so many units."""
    rows = [["each question once, before", *(BEFORE.get(n, "") for n in AFTER)]]
    for name, made in roads.items():
        cells = []
        for n in AFTER:
            plans = [[plan for plan in road["passed"] if plan["units"] <= n] for road in made]
            best = [min(some, key=lambda plan: plan["share"])["saved"] for some in plans if some]
            share = f"{np.mean(best):.0%} in " if best else ""
            cells.append(f"{share}{len(best)} of {len(made)}" if n <= SIZES[name] else "")
        rows.append([name, *cells])
    return rows


def ways_table(roads: dict[str, list[dict[str, Any]]]) -> str:
    """Return what one would do otherwise: a column for each kind of traffic."""
    best = {name: [road["best"] for road in made if road["best"]] for name, made in roads.items()}
    best = {name: some for name, some in best.items() if some}
    rows = []
    for way in next(iter(best.values()))[0]["ways"]:
        cells = []
        for some in best.values():
            grade, share = np.mean([one["ways"][way] for one in some], axis=0)
            own = [one["ways"]["the certified policy"][0] for one in some]
            beaten = sum(one["ways"][way][0] < grade for one, grade in zip(some, own, strict=True))
            of = "" if way == "the certified policy" else f", {beaten} of {len(some)}"
            cells.append(f"{grade:.3f} @ {share:.1%}{of}")
        rows.append([way, *cells])
    return table(["way to answer", *best], rows)


def page(found: dict[str, Any]) -> str:
    roads = found["roads"]
    n_orders = len(roads[NAMES[0]])
    about = (
        f"{found['n']:,} questions and nine language models, with a grade from 0 to 1 for each answer (LLMRouter, MIT "
        f"licence; see [routers](router.md)). Tokens are invented, always the same ones: a question has a quarter of "
        f"its letters and eight more, an answer {LEAST_TOKENS} to {MOST_TOKENS} by a hash of the model and the "
        f"question; prices are those of the models. The reference is {REFERENCE}, the best model. A gateway promises "
        f"to lose at most {100 * MAX_LOSS:.0f} points per request, delta {DELTA:g}. It draws all units, {PACE:.0f} of "
        "which begin on a day, half of them fit plans, and bets are read between days, after seven days at least. "
        f"Units, lots, proposals and bets are those of the gateway; {n_orders} orders of each kind of traffic:"
    )
    kinds = (
        "- *each question once*, in a random order; a request is a unit.\n"
        f"- *repeats*: {PROMPTS:,} questions are drawn with replacement, one of them {MOST_SHARE:.0%} of the time, the "
        "others by Zipf's law.\n"
        f"- *users*: all requests of a user are a unit; {USERS[0]} to {USERS[1]} of any questions, but one user in "
        f"{1 / WEIGHT:.0f} is an integration with {INTEGRATION[0]} to {INTEGRATION[1]} about one task of {TASKS} "
        f"(k-means of the embeddings). The policy may answer the first {MOST_ROWS} at most.\n"
        f"- *conversations* of {TURNS[0]} to {TURNS[1]} turns with questions of one task.\n\n"
        "In the last three, questions come again, so a router knows many of those that it sees."
    )
    main_road = roads[NAMES[0]]
    n_false = sum(
        any(plan["loss"] > MAX_LOSS for plan in road["passed"]) for made in roads.values() for road in made
    )
    n_all = sum(map(len, roads.values()))
    low, high = wilson_interval(n_false, n_all)
    legend = (
        "`none`: orders in which nothing was certified. `certificates`: plans that were certified, over all looks. "
        "`false`: orders in which any of them, at any time, is of a plan that loses more than is promised in the long "
        "run, per request, over all requests; with delta .05, one order in 20 may. `tighter`: the same for tighter "
        "limits that are printed for single plans. `units`: until the first certificate, the median, which seven days "
        "put at "
        f"{7 * PACE:.0f} at least. `lost` (points of the grade), `saved` (of the cost of always asking the reference): "
        "in the long run, by the cheapest plan that is certified at the end, means, and the middle 90% of the orders; "
        "comparisons are not counted. `may answer`: the requests that come early enough in their unit. `seconds`: of a "
        f"core, the median, with everything. In all {n_all} roads together, {n_false} are false ({low:.1%} to "
        f"{high:.1%} by Wilson's interval)."
    )
    columns = (
        "traffic", "unit", "orders", "none", "certificates", "false", "tighter", "units", "lost", "saved", "may answer",
        "seconds",
    )  # fmt: skip
    after = (
        "What the cheapest plan saves that is certified after so many units, fitting ones included, in the long run: "
        "the mean over the orders in which there is one, and in how many. `before`: one certificate at the full delta, "
        "without looks, as this page had it; broken in none of 200 orders, 1.73 points lost. It needed records in any "
        "order, and failed on the other kinds of traffic (see [what a gateway promises](live-traffic.md))."
    )
    shares = {
        name: sum(road["best"]["shares"].get(name, 0.0) for road in main_road if road["best"])
        / max(1, sum(bool(road["best"]) for road in main_road))
        for name in main_road[0]["best"]["shares"]
    }  # fmt: skip
    answered = ", ".join(
        f"{name} {share:.1%}" for name, share in sorted(shares.items(), key=lambda one: -one[1]) if share > 0.001
    )  # fmt: skip
    controls = (
        "Mean grade @ mean cost as a share of the reference's, over all requests in the long run, with the cheapest "
        "plan that is certified at the end; in how many orders the plan has the higher grade. `the same shares at "
        "random`: each model gets as many requests as by the plan, drawn by lot. `the best pair mixed at random`: two "
        "models by lot at the plan's cost, chosen by what is true, which an owner does not know. Where each question "
        f"comes once, these answer: {answered}."
    )
    return "\n\n".join([
        "# The road of a gateway", "Made by `python -m experiments.gateway`; numbers in [gateway.json](gateway.json).",
        about, kinds, table(columns, certified_rows(roads)), legend,
        "## As units come", after, table(("traffic", *(f"{n:,}" for n in AFTER)), after_rows(roads)),
        "## What one would do otherwise", controls, ways_table(roads), *about_looks(found["simulated"], roads),
    ])  # fmt: skip


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--measure", type=Path, metavar="DATA")
    options.add_argument("--encoder", default="", help="folder of a sentence encoder")
    options.add_argument("--orders", type=int, default=12)
    given = options.parse_args()
    found = measure(given.measure, given.encoder, given.orders) if given.measure else kept_numbers(PAGE)
    write_page(PAGE, page(found), found)


if __name__ == "__main__":
    main()

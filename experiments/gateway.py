"""The road of a gateway, replayed: shadow, certify, live, in many random orders of graded questions.

    python -m experiments.gateway
    python -m experiments.gateway --measure ../shared/data --encoder FOLDER [--orders 200]

Writes the page again from the kept numbers, or measures; an interrupted command goes on where it was. The data folder
holds `router/questions.parquet` (see `experiments.router`), FOLDER a sentence encoder.
"""

from __future__ import annotations

import hashlib
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from exeunt.gateway.certify import HELD_OUT, certify
from exeunt.gateway.recorded_trace import trace_of
from exeunt.gateway.records import Record, Said
from experiments.pages import RESULTS, Measurements, kept_numbers, parser, table, write_page
from experiments.router import asked

import exeunt as ex
from exeunt.confidence_intervals import wilson_interval
from exeunt.errors import Infeasible
from exeunt.gateway.certification import Way, measured
from exeunt.gateway.folder import GatewayModels
from exeunt.policies.candidates import lost_by
from exeunt.trace.splitting import part_rows

PAGE = RESULTS / "gateway.md"
REFERENCE = "llama-3.1-nemotron-51b-instruct"
ENCODER_USD = 1e-7
"""For a request of 200 tokens, by the price of `experiments.router`."""
MOST_TOKENS, LEAST_TOKENS = 400, 50
DELTA = 0.05
ROADS = ((3_000, 0.05, 1.0), (300, 0.05, 0.1), (300, 0.02, 0.1))
"""Requests in shadow, the loss that is allowed, and for which share of the orders."""

COLUMNS = ("in shadow", "max-loss", "orders", "refused", "broken", "broken live", "lost", "saved", "seconds")


# -- the requests ------------------------------------------------------------------------------------------------------


def tokens(question: str, model: str) -> tuple[int, int]:
    """Return invented numbers of tokens, always the same: four letters of a question each, and of the answer by lot."""
    lot = int.from_bytes(hashlib.sha256(f"{model}\0{question}".encode()).digest()[:4], "big")
    return 8 + len(question) // 4, LEAST_TOKENS + lot % (MOST_TOKENS - LEAST_TOKENS + 1)


def recorded(
    questions: list[str], price: dict[str, float], grade: Any, features: Any
) -> tuple[list[Record], GatewayModels]:
    """Return a shadow record of each question, as the gateway would keep it, and its models."""
    longest = max(tokens(question, "")[0] for question in questions) + MOST_TOKENS
    models = GatewayModels(
        REFERENCE, {name: longest * usd / 1e6 for name, usd in price.items()}, "features", ENCODER_USD
    )
    told, records = features.astype(np.float32).tolist(), []
    for row, question in enumerate(questions):
        said = {
            name: Said(sum(tokens(question, name)) * usd / 1e6, grade=float(grade[row, k]))
            for k, (name, usd) in enumerate(price.items())
        }
        key = hashlib.sha256(question.encode()).hexdigest()
        records.append(Record(float(row), "shadow", "all", key, key, "", said, features=tuple(told[row])))
    return records, models


# -- one road ----------------------------------------------------------------------------------------------------------


def road(trace: ex.CascadeTrace, order: int, shadow: int, max_loss: float) -> dict[str, Any]:
    """Return what was certified in one order, and what it is worth on the requests that follow."""
    rows = np.random.default_rng(order).permutation(trace.n)
    before, live = trace.take(rows[:shadow]), trace.take(rows[shadow:])
    started = time.process_time()
    try:
        found = certify(before, REFERENCE, max_loss=max_loss, delta=DELTA, seed=order)
    except Infeasible as error:
        return {"refused": str(error), "seconds": time.process_time() - started}
    seconds = time.process_time() - started
    fit = part_rows(before.id, {"fit": 1 - HELD_OUT, "held-out": HELD_OUT}, order)[0]
    # The held-out questions are a random part of these, so what the policy loses on all of them is what is certified.
    unseen = trace.take(np.concatenate([np.delete(rows[:shadow], fit), rows[shadow:]]))
    after = measured(found.policy, before.take(fit), live, REFERENCE)
    return {
        "seconds": seconds, "loss": float(lost_by(found.policy, unseen, REFERENCE).mean()),
        "promised": found.saved, "live": after.to_dict(),
    }  # fmt: skip


def measure(folder: Path, encoder: str, orders: int) -> dict[str, Any]:
    kept = Measurements(Path("runs/gateway.jsonl"))
    trace = trace_of(*recorded(*asked(folder, encoder))).trace
    roads = []
    for shadow, max_loss, share in ROADS:
        found = []
        for order in range(round(share * orders)):
            made = partial(road, trace, order, shadow, max_loss)
            found.append(kept.of(shadow, max_loss, order, measure=made))
            if order % 20 == 19:
                print(
                    f"{shadow} in shadow, at most {max_loss:.0%}: {order + 1} of {orders} orders", flush=True
                )
        roads.append(summary(shadow, max_loss, found))
    return {"n": trace.n, "orders": orders, "roads": roads}


def summary(shadow: int, max_loss: float, found: list[dict[str, Any]]) -> dict[str, Any]:
    """Return numbers of orders, and means over those in which a policy was certified."""
    made = [one for one in found if "refused" not in one]
    live = [one["live"] for one in made]
    ways = [
        [Way("the certified policy", one["grade"], one["cost"]), *(Way(**w) for w in one["controls"])]
        for one in live
    ]
    saved = [one["saved"][0] for one in live]
    return {
        "shadow": shadow, "max_loss": max_loss, "orders": len(found), "refused": len(found) - len(made),
        "reasons": sorted({one["refused"].rpartition("; ")[2] for one in found if "refused" in one})[:5],
        "broken": sum(one["loss"] > max_loss for one in made),
        "broken live": sum(one["loss"][0] > max_loss for one in live),
        "lost": [one["loss"] for one in made], "saved": saved,
        "inside": sum(one["promised"][1] <= s <= one["promised"][2] for one, s in zip(made, saved, strict=True)),
        "seconds": float(np.median([one["seconds"] for one in found])),
        "ways": [
            {
                "way": same[0].name, "grade": float(np.mean([w.grade for w in same])),
                "share": float(np.mean([w.cost / one["reference_cost"] for w, one in zip(same, live, strict=True)])),
                "beaten": sum(w.grade < one["grade"] for w, one in zip(same, live, strict=True)),
            }
            for same in zip(*ways, strict=True)
        ],
        "shares": {
            name: float(np.mean([one["shares"].get(name, 0.0) for one in live]))
            for name in sorted({name for one in live for name in one["shares"]})
        },
    }  # fmt: skip


# -- the page ----------------------------------------------------------------------------------------------------------


def page(found: dict[str, Any]) -> str:
    main = found["roads"][0]
    about = (
        f"{found['n']:,} questions and nine language models, with a grade from 0 to 1 for each answer (LLMRouter, MIT "
        f"licence; see [routers](router.md)). Tokens are invented, always the same ones: a question has a quarter of "
        f"its letters and eight more, an answer {LEAST_TOKENS} to {MOST_TOKENS} by a hash of the model and the "
        f"question; prices are those of the models. The reference is {REFERENCE}, the best model. In each "
        "random order the first questions are shadow records, `exeunt calibrate --max-loss` "
        "certifies a policy on them, and the rest are live requests. Half of the records fit, half certify."
    )
    rows = []
    for one in found["roads"]:
        asked_for = [f"{one['shadow']:,}", f"{one['max_loss']:.0%}", one["orders"], one["refused"]]
        if not one["saved"]:
            rows.append([*asked_for, "", "", "", "", f"{one['seconds']:.1f}"])
            continue
        saved = [np.mean(one["saved"]), *np.quantile(one["saved"], [0.05, 0.95])]
        rows.append([
            *asked_for, one["broken"], one["broken live"], f"{100 * np.mean(one['lost']):.2f}",
            "{:.1%} ({:.1%} to {:.1%})".format(*saved), f"{one['seconds']:.1f}",
        ])  # fmt: skip
    made = main["orders"] - main["refused"]
    low, high = wilson_interval(main["broken"], made)
    legend = (
        "`refused`: orders in which nothing could be certified yet. `broken`: orders in which the policy loses more "
        "than was certified on all questions that did not fit it, of which the certifying ones are a random part; with "
        "delta .05, one order in 20 may. `broken live`: the same on the live requests alone, whose mean strays by a "
        "point of its own. `lost`: points of the grade, on the questions that did not fit it. `saved`: of the cost of "
        "always asking the reference, on the live requests; "
        f"mean, and the middle 90% of the orders. `seconds`: of one core, the median. In the first row, "
        f"{main['broken']} of {made} are broken ({low:.1%} to {high:.1%} by Wilson's interval), and the 95% interval "
        f"of the saving that was printed held the live saving in {main['inside']} of {made}; the live saving has an "
        "error of its own."
    )
    shares = ", ".join(
        f"{name} {share:.1%}"
        for name, share in sorted(main["shares"].items(), key=lambda one: -one[1])
        if share > 0.001
    )
    controls = (
        f"Live requests after {main['shadow']:,} records and `--max-loss {main['max_loss']:.0%}`, means over the "
        "orders. `the same shares at random`: each model gets as many requests as by the policy, drawn by lot. `the "
        "best pair mixed at random`: two models by lot at the policy's cost, chosen on the records that fit. `beaten`: "
        f"orders in which the policy has the higher grade. Answered by: {shares}."
    )
    ways = [
        [one["way"], f"{one['grade']:.3f}", f"{one['share']:.1%}", f"{one['beaten']} of {made}" if at else ""]
        for at, one in enumerate(main["ways"])
    ]
    return "\n\n".join([
        "# The road of a gateway", "Made by `python -m experiments.gateway`; numbers in [gateway.json](gateway.json).",
        about, table(COLUMNS, rows),
        legend, "## What one would do otherwise", controls,
        table(["way to answer", "mean grade", "share of the reference's cost", "beaten"], ways),
    ])  # fmt: skip


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--measure", type=Path, metavar="DATA")
    options.add_argument("--encoder", default="", help="folder of a sentence encoder")
    options.add_argument("--orders", type=int, default=200)
    given = options.parse_args()
    found = measure(given.measure, given.encoder, given.orders) if given.measure else kept_numbers(PAGE)
    write_page(PAGE, page(found), found)


if __name__ == "__main__":
    main()

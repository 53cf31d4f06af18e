"""What it saves to let a smaller model answer within conversations, where providers have prompt caches.

    python -m benchmarks.prompt_caches [--conversations 5000] [--seed 0]

Conversations are invented and replayed in the order of time through a prompt cache by providers' published rules
(`exeunt.gateway.mock_provider.PromptCache`): prefixes of 1,024 tokens and more, in steps of 128, for five minutes. A
lot decides by turn, or once for a conversation, whether the small model answers. Writes
docs/results/prompt-caches.md and its numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from exeunt.gateway.mock_provider import PromptCache
from exeunt.live.token_price import TokenPrice, Usage

if TYPE_CHECKING:
    from collections.abc import Sequence

PAIRS = {
    "cached at a quarter": {
        "large": TokenPrice.read({"input": 2.0, "cached_input": 0.5, "output": 8.0}),
        "small": TokenPrice.read({"input": 0.4, "cached_input": 0.1, "output": 1.6}),
    },
    "cached at a tenth, writing at 1.25": {
        "large": TokenPrice.read({"input": 3.0, "cached_input": 0.3, "cache_write": 3.75, "output": 15.0}),
        "small": TokenPrice.read({"input": 1.0, "cached_input": 0.1, "cache_write": 1.25, "output": 5.0}),
    },
}
"""US dollars for a million tokens."""
LENGTHS = {"1": (1, 1), "2 to 3": (2, 3), "4 to 7": (4, 7), "8 to 15": (8, 15), "16 to 40": (16, 40)}
PAUSES_S, SHARES = (60.0, 600.0), (0.2, 0.5, 0.8)
SYSTEM_TOKENS, KINDS, APART_S = 1500, 6, 5.0
MOST_TOKENS = 1000
LARGE, SWITCHING, STICKY = "large alone", "switching", "sticky"


class Turn(NamedTuple):
    """A request of a conversation: when it comes, its prompt, the tokens of its answer, and the lot by which the small
    model answers, in [0, 1).
    """

    time: float
    conversation: int
    row: int
    prompt: str
    output: int
    lot: float


@dataclass
class Arm:
    """US dollars that each conversation costs, (n,): as billed, if all input were priced in full, and as the test of a
    budget charges it.
    """

    n: int
    billed: np.ndarray[Any, Any] = field(init=False)
    in_full: np.ndarray[Any, Any] = field(init=False)
    tested: np.ndarray[Any, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.billed, self.in_full, self.tested = (np.zeros(self.n) for _ in range(3))


def turns(n: int, pause_s: float, seed: int) -> tuple[list[Turn], np.ndarray[Any, Any]]:
    """Return the requests of n conversations in the order of time, and how many each conversation has, (n,)."""
    rng = np.random.default_rng(seed)
    bounds = np.array([*LENGTHS.values()])[np.arange(n) % len(LENGTHS)]
    lengths = rng.permutation(rng.integers(bounds[:, 0], bounds[:, 1] + 1))
    starts = np.cumsum(rng.exponential(APART_S, n))
    requests = []
    for i, (start, length) in enumerate(zip(starts.tolist(), lengths.tolist(), strict=True)):
        prompt, time = f"system {rng.integers(KINDS)} ".ljust(4 * SYSTEM_TOKENS, "s"), start
        for row in range(length):
            prompt += f"question {row} of conversation {i} ".ljust(int(rng.integers(200, 800)), "q")
            output = int(rng.integers(50, 400))
            requests.append(Turn(time, i, row, prompt, output, float(rng.random())))
            prompt += f"answer {row} of conversation {i} ".ljust(4 * output, "a")
            time += float(rng.exponential(pause_s))
    return sorted(requests), lengths


def replay(requests: Sequence[Turn], n: int, prices: dict[str, TokenPrice], share: float, arm: str) -> Arm:
    """Return what conversations cost where the small model answers so large a share of the requests."""
    now, costs = [0.0], Arm(n)
    cache = PromptCache(lambda: now[0])
    first, before = dict[int, str](), dict[int, str]()
    for request in requests:
        now[0], i = request.time, request.conversation
        own = "small" if request.lot < share else "large"
        model = {LARGE: "large", SWITCHING: own, STICKY: first.setdefault(i, own)}[arm]
        price, n_input = prices[model], len(request.prompt) // 4
        cached, written = cache.look_up(model, request.prompt)
        usage = Usage(n_input, request.output, cached, written if price.cache_write is not None else 0)
        cost = price.cost(usage)
        costs.billed[i] += cost
        costs.in_full[i] += price.cost(Usage(n_input, request.output))
        is_switch = request.row > 0 and before[i] != model
        costs.tested[i] += cost + (price.saved_by_cache(usage) if is_switch else 0.0)
        before[i] = model
    return costs


def reserved(requests: Sequence[Turn], price: TokenPrice) -> dict[str, float]:
    """Return how much is reserved for the requests, as multiples of what all of them cost without a cache."""
    plain = replace(price, cache_write=None)
    letters = [(len(request.prompt), request.output) for request in requests]
    full = sum(plain.cost(Usage(n // 4, output)) for n, output in letters)
    return {
        name: sum(each.most(n + 256, MOST_TOKENS) for n, _ in letters) / full
        for name, each in (("without", plain), ("with", price))
    }


def measure(n: int, seed: int) -> dict[str, Any]:
    numbers: dict[str, Any] = {
        "conversations": n,
        "seed": seed,
        "by length": [],
        "by share": [],
        "reserved": {},
    }
    for pair, prices in PAIRS.items():
        for pause_s in PAUSES_S:
            requests, lengths = turns(n, pause_s, seed)
            alone = replay(requests, n, prices, 0.5, LARGE)
            for share in SHARES:
                arms = {arm: replay(requests, n, prices, share, arm) for arm in (SWITCHING, STICKY)}
                about = {"pair": pair, "pause_s": pause_s, "share": share}
                numbers["by share"].append({**about, **saved(arms, alone, np.arange(n))})
                if share == 0.5:
                    for name, (low, high) in LENGTHS.items():
                        of_length = np.flatnonzero((lengths >= low) & (lengths <= high))
                        numbers["by length"].append({**about, "turns": name, **saved(arms, alone, of_length)})
        numbers["reserved"][pair] = reserved(requests, prices["large"])
    return numbers


def saved(arms: dict[str, Arm], alone: Arm, of: np.ndarray[Any, Any]) -> dict[str, float]:
    """Return what some conversations cost in US dollars for 1,000 at the large model, and the shares that are saved."""
    shares = {
        f"{arm} {kind}": 1 - float(getattr(costs, kind)[of].sum() / getattr(alone, kind)[of].sum())
        for arm, costs in arms.items()
        for kind in ("billed", "in_full", "tested")
    }
    return {
        "n": len(of),
        "large": 1000 * float(alone.billed[of].mean()),
        "large in full": 1000 * float(alone.in_full[of].mean()),
        **shares,
    }


def page(numbers: dict[str, Any]) -> str:
    from experiments.pages import table

    header = (
        "prices", "pause", "turns", "large alone, usd per 1,000", "the same in full", "saved: sticky", "switching",
        "as tests charge switching", "in full: sticky", "switching",
    )  # fmt: skip

    def cells(row: dict[str, Any], what: str) -> list[str]:
        shares = [
            f"{STICKY} billed",
            f"{SWITCHING} billed",
            f"{SWITCHING} tested",
            f"{STICKY} in_full",
            f"{SWITCHING} in_full",
        ]
        amounts = [
            f"{row['large']:,.2f}",
            f"{row['large in full']:,.2f}",
            *(f"{row[name]:.1%}" for name in shares),
        ]
        return [row["pair"], f"{row['pause_s'] / 60:g} min", what, *amounts]

    by_length = [cells(row, row["turns"]) for row in numbers["by length"]]
    by_share = [cells(row, f"{row['share']:.0%}") for row in numbers["by share"]]
    rows = [
        [pair, f"{row['without']:.2f}", f"{row['with']:.2f}"] for pair, row in numbers["reserved"].items()
    ]
    return f"""# Conversations and prompt caches

Made by `python -m benchmarks.prompt_caches`: {numbers["conversations"]:,} invented conversations (seed
{numbers["seed"]}) of 1 to 40 turns, with one of {KINDS} system prompts of {SYSTEM_TOKENS:,} tokens, replayed in the
order of time through a prompt cache by providers' published rules: prefixes of 1,024 tokens and more, in steps of 128,
for five minutes after they were last used. A lot says which requests the small model answers. *Switching* draws it for
each request, *sticky* for the first one of a conversation. Quality is not looked at here. *In full*: what one would say
who prices all input in full. *As tests charge switching*: where the model is another one than for the request before,
as if nothing were cached.

The small model answers half of the requests, by the length of conversations and the mean pause between requests:

{table(header, by_length)}

All lengths, by the share of requests that the small model answers:

{table((*header[:2], "share", *header[3:]), by_share)}

What is reserved for the requests at the large model, as a multiple of what they cost without a cache (a token for each
byte, answers of {MOST_TOKENS:,} tokens), if writing to the cache had the price of input, and at its own:

{table(("prices", "writing as input", "writing at its price"), rows)}
"""


def main() -> None:
    from experiments.pages import RESULTS, parser, write_page

    arguments = parser(__doc__)
    arguments.add_argument("--conversations", type=int, default=5000)
    arguments.add_argument("--seed", type=int, default=0)
    given = arguments.parse_args()
    numbers = measure(given.conversations, given.seed)
    write_page(RESULTS / "prompt-caches.md", page(numbers), numbers)


if __name__ == "__main__":
    main()

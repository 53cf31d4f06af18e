"""The fixed worlds: on each of them a gateway has printed or promised what was not true."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from tests.gateway.simulation.kinds import Kind
from tests.gateway.simulation.worlds import Look, World

LOOKS = (2, 3, 5, 10, 25)
"""After how many looks it is counted how often a certificate was false."""


def users_and_integrations(seed: int) -> World:
    """A thousand users with a request each, and twenty integrations with a hundred, whose requests are hard."""
    once = Kind(share=1_000, sure=1.0, wrong=(0.022, 0.5), user="new")
    integration = Kind(
        share=20, sure=0.23, wrong=(1.0, 1.0), requests=(100, 100), gap=6.0, user="new", letters=130,
    )  # fmt: skip
    looks = (Look(3_000), Look(3_000, budget="20%"))
    return World(
        "users_and_integrations", seed, (once, integration), looks=looks, prices=(0.07, 10.0), request="0.005 usd",
        retries=0, promises=((0.05, "20%"),),
    )  # fmt: skip


def one_prompt_40(seed: int) -> World:
    """Four requests in ten are one prompt, of which the small model is sure and wrong."""
    often = Kind(share=0.4, sure=1.0, wrong=(1.0, 1.0), prompts=1)
    others = Kind(share=0.6, sure=1.0, wrong=(0.0083, 0.0))
    looks = (Look(2_000, use="yes"),)
    return World("one_prompt_40", seed, (often, others), looks=looks, until_alarm=True, prices=(0.6, 10.0))


def late_answers(seed: int) -> World:
    """No drift: easy answers take half a second, hard ones six, and forty requests come in a second."""
    kind = Kind(sure=0.6, wrong=(0.02, 0.6), seconds=(0.5, 5.5))
    looks = (Look(1_200, use="yes"),)
    return World(
        "late_answers", seed, (kind,), pace=40.0, period="4 s", n=2_200, looks=looks, until_alarm=True
    )


def conversations_no_drift(seed: int) -> World:
    """No drift: two requests in three are of conversations of ten turns, which are alike and do not overlap much."""
    easy = Kind(share=0.6, sure=1.0, wrong=(0.02, 0.0), alike=0.9, gap=2.0)
    hard = Kind(share=0.4, sure=0.0, wrong=(0.0, 0.6), alike=0.9, gap=2.0)
    long = [replace(kind, share=kind.share * 0.18, turns=(10, 10)) for kind in (easy, hard)]
    looks = (Look(2_400, max_loss=0.1, use="yes"),)
    return World(
        "conversations_no_drift", seed, (easy, hard, *long), pace=0.1, period="1 h", n=3_900, looks=looks,
        until_alarm=True,
    )  # fmt: skip


def looking_again(seed: int) -> World:
    """All clients ask one thing, to which the small model's answer loses a little more than is allowed.

    Equal requests are answered alike, so all that can be certified loses as much.
    """
    kind = Kind(sure=1.0, wrong=(0.05001, 0.0), prompts=1, fickle=True, client="")
    looks = tuple(Look(at) for at in range(300, 300 + 100 * LOOKS[-1], 100))
    return World("looking_again", seed, (kind,), n=2_700, scored=False, looks=looks)


def after_an_alarm(seed: int) -> World:
    """The small model becomes worse; after the alarm the owner certifies again, with records from before it."""
    usual, worse = Kind(sure=1.0, wrong=(0.01, 0.0)), Kind(sure=1.0, wrong=(0.3, 0.0))
    looks = (Look(1_200, use="yes"), *(Look(at, use="again") for at in range(1_300, 3_000, 100)))
    return World("after_an_alarm", seed, (usual,), drift_at=1_250, after=(worse,), looks=looks, audit=1.0)


def money_short(seed: int) -> World:
    """Money for comparisons is short; long requests are dear, and the small model is wrong on them."""
    short = Kind(share=0.56, sure=1.0, wrong=(0.01, 0.0))
    long = Kind(share=0.44, sure=1.0, wrong=(0.98, 0.0), letters=12_000)
    looks = (Look(2_000),)
    return World(
        "money_short", seed, (short, long), n=2_000, looks=looks, money="0.002 usd/minute", cap="0.13 usd",
        spend="0.3 usd/day",
    )  # fmt: skip


def the_bill(seed: int) -> World:
    """Fifteen hundred requests in shadow, fifteen hundred live."""
    kind = Kind(sure=0.7, wrong=(0.01, 0.6))
    looks = (Look(1_500, use="yes"),)
    return World("the_bill", seed, (kind,), looks=looks, prices=(1.0, 3.0))


def few_users(seed: int) -> World:
    """All requests come from four hundred users, who differ in how well the small model answers them."""
    good = Kind(share=0.8, sure=1.0, wrong=(0.02, 0.0), user="known", users=400)
    bad = Kind(share=0.2, sure=1.0, wrong=(0.1, 0.0), user="known", users=400)
    looks = (Look(1_000, max_loss=0.01), Look(2_000, max_loss=0.01))
    return World("few_users", seed, (good, bad), n=2_000, looks=looks, units="user", time="30 min")


def opted_out(seed: int) -> World:
    """One client in two refuses comparison, and the small model is wrong on what it asks."""
    shop = Kind(share=0.5, sure=1.0, wrong=(0.01, 0.0))
    clinic = Kind(share=0.5, sure=1.0, wrong=(0.4, 0.0), client="clinic")
    looks = (Look(2_000, use="yes"),)
    return World("opted_out", seed, (shop, clinic), looks=looks, private=("clinic",))


FIXED: dict[str, Callable[[int], World]] = {
    made.__name__: made
    for made in (
        users_and_integrations, one_prompt_40, late_answers, conversations_no_drift, looking_again, after_an_alarm,
        money_short, the_bill, few_users, opted_out,
    )
}  # fmt: skip
WORLDS = dict.fromkeys(FIXED, 10) | dict.fromkeys(
    ("late_answers", "conversations_no_drift", "looking_again"), 50
)
"""How many worlds of each the page needs: more where it is a frequency."""

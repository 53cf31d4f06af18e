"""What is said of what was saved: the same words on the page, in the report and by the command."""

import pytest

from exeunt.stream.bill import Bill, Span, in_usd
from exeunt.stream.ratios import RatioSums
from exeunt.stream.units import DAY_S

START = 1.8e9  # 15 Jan 2027


def bill(*, reference_cost: float = 10.0, spent_before: float = 4.0) -> Bill:
    """A bill of a shadow of ten days, and of a policy that answered for ten more, of which nothing is estimated."""
    shadow = Span("reference", START, 0.0, requests=100)
    counts = {"requests": 50, "by_policy": 50, "cost": 3.0, "reference_cost": reference_cost}
    return Bill([shadow, Span("p1", START + 10 * DAY_S, spent_before, **counts)])


def told(compared: float, **changes: float) -> str:
    return bill(**changes).told(compared, START + 20 * DAY_S)


def test_it_says_whether_comparisons_are_earned_back() -> None:
    begun = "Since 15 Jan 2027, the first start,"
    spent = "usd for comparisons, audits and judges"
    assert told(5.0) == f"{begun} 2.00 usd were saved, net of 5.00 {spent}. These are earned back."
    # 6 usd are saved in ten days, and 4 are missing.
    assert told(5.0, reference_cost=4.0).endswith("At this pace they are not earned back.")
    late = told(12.0, spent_before=11.0)
    assert late.startswith(f"{begun} 5.00 usd were lost, net of 12.00 {spent}.")
    assert late.endswith("At this pace they are earned back on about 12 Feb 2027, which is an estimate.")
    never = told(5000.0, spent_before=4999.999)
    assert never.endswith("At this pace they are not earned back within ten years.")
    assert told(0.0, spent_before=0.0) == f"{begun} 7.00 usd were saved."


def test_the_day_on_which_comparisons_are_earned_back() -> None:
    late = bill(spent_before=11.0)
    day = late.break_even(12.0, START + 20 * DAY_S)
    assert (
        day == START + 20 * DAY_S + 5.0 / (6.0 / 10) * DAY_S
    )  # 5 usd are missing, and 6 are saved in ten days
    assert late.break_even(12.0, START + 10 * DAY_S) is None  # just now


def test_it_says_where_too_little_is_known() -> None:
    only_shadow = Bill([Span("reference", START, 0.0, requests=100)])
    assert only_shadow.told(1.204, START) == (
        "Since 15 Jan 2027, the first start, no policy has answered, and 1.20 usd for comparisons, audits and judges "
        "were spent."
    )
    found = bill()
    found.now.estimated = 5
    too_few = "Too few units were compared to say what was saved."
    assert found.told(5.0, START).endswith(too_few)
    for _ in range(10):
        found.now.rest.add(0.0, 0, 0.5)
    found.now.rest.add(2.0, 1, 0.5)
    assert found.told(5.0, START).endswith(too_few)
    found.now.rest = RatioSums()
    for loss in range(10):
        found.now.rest.add(2.0 + 0.1 * loss, 1, 0.5)
    assert "(95% interval 13.17 usd to 15.33 usd)" in found.told(5.0, START)
    assert "(95% interval 0.833 usd lost to 1.33 usd saved)" in found.told(19.0, START)
    assert "lost (95% interval 4.67 usd to 6.83 usd)" in found.told(25.0, START)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 usd"), (1204.5, "1,204.50 usd"), (1.0, "1.00 usd"), (0.31, "0.31 usd"), (0.0123, "0.0123 usd"),
        (1e-8, "0.00000001 usd"), (1e-12, "0 usd"), (-2.5, "-2.50 usd"),
    ],
)  # fmt: skip
def test_us_dollars(value: float, text: str) -> None:
    assert in_usd(value) == text

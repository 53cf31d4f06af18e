"""A log that is brought into a gateway: what its rows fit and test, and what a certificate says of it."""

import asyncio
import time
from datetime import datetime, timezone

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.cli.command import exeunt, refusal

import exeunt as ex
from exeunt._support.files import locked
from exeunt.errors import InputError
from exeunt.gateway.config import read_config
from exeunt.gateway.folder import LOCK
from exeunt.gateway.gateway import Gateway, in_this_process
from exeunt.gateway.log_import import import_log, times_of
from exeunt.stream.records import Record

from .running_gateway import written
from .world import DAY, START

NOW = START + 40 * DAY
PROMISE = {"promise": "{max_loss: 10%}"}


def log_of(n, *, wrong=0.02, users=1, **columns):
    """Return a table of n rows, `users` rows of each conversation one after the other; half of the small model's
    answers are sure, and `wrong` of these.
    """
    rng = np.random.default_rng(n)
    sure = rng.random(n) < 0.5
    return pa.table(
        {
            "time": START + 30 * DAY * np.arange(n) / n,
            "conversation": [f"c{row // users}" for row in range(n)],
            "small_grade": (rng.random(n) > np.where(sure, wrong, 0.6)).astype(float),
            "large_grade": np.ones(n),
            "small_logprob": np.where(sure, -rng.random(n) / 10, -1 - rng.random(n)),
            "small_cost": np.full(n, 1e-5),
            "large_cost": np.full(n, 1e-4),
            **columns,
        }
    )


def models_of(table, *, groups="conversation", **columns):
    table = table.append_column("large_logprob", [np.zeros(table.num_rows)])
    columns = {"loss": "{}_grade", "better": "higher", "confidence": "{}_logprob"} | columns
    price = {"small": "small_cost", "large": "large_cost"}
    return ex.CascadeTrace.from_table(table, price=price, groups=groups, **columns)


def gateway_in(folder, *, now=NOW, **more):
    return Gateway(
        read_config(written(folder, **{**PROMISE, **more})), clock=lambda: now, apart=in_this_process
    )


def brought(gateway, table, *, times=True, groups="conversation", client="log", **options):
    """Bring a table into a gateway, and let it test what the records suggest."""
    at = np.asarray(table["time"]) if times else None
    models = models_of(table, groups=groups)
    done = import_log(gateway, models, file="log.parquet", client=client, times=at, **options)
    asyncio.run(gateway.advance())
    return done


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """Return a gateway with a log of 700 conversations, and what became of it."""
    gateway = gateway_in(tmp_path_factory.mktemp("imported"))
    yield gateway, brought(gateway, log_of(1400, users=2))
    asyncio.run(gateway.close())


def test_rows_are_records_of_units_that_fit_or_test(imported):
    gateway, done = imported
    units = gateway.records.of_units()
    assert (done.rows, done.units, done.left_out) == (1400, 700, 0) == (1400, len(units), 0)
    assert done.testing == sum(unit.held_out for unit, _ in units)
    assert 300 < done.testing < 400
    assert done.periods == 30
    for unit, records in units:
        assert [record.row for record in records] == [0, 1]
        assert unit.period == unit.opened // DAY
    first = units[0][1][0]
    assert first.time == START
    assert (first.said["small"].cost, first.said["large"].grade) == (1e-5, 1.0)
    assert first.said["large"].score is None
    assert first.client == "log"


def test_what_is_certified_says_that_the_owner_chose_the_log(imported):
    gateway, done = imported
    proposal = gateway.certifier.proposals[0]
    assert proposal.fitted == done.units - done.testing
    assert (proposal.units, proposal.periods) == (done.testing, done.periods)
    assert gateway.status.certified
    said = str(gateway.status)
    assert (
        f"Up to {done.testing} conversations of these are of log.parquet: its owner chose what is in it"
        in said
    )
    assert "no times" not in said


def test_none_of_the_log_is_in_the_bill_or_in_the_pace(imported):
    gateway, _ = imported
    assert gateway.traffic.bill.now.requests == 0
    assert gateway.certifier.units_a_period is None
    assert gateway.certifier.probability == 0


def test_a_conversation_goes_on_as_the_gateway_knows_it(imported):
    """A unit of the log has closed: what a client of that name sends later is no evidence, and nobody's first row."""
    gateway, _ = imported
    unit = gateway.records.units("number = 1")[0]
    assert unit.closed == unit.latest == START + 30 * DAY / 1400


def test_a_cheap_model_that_is_often_wrong_is_not_certified(tmp_path):
    gateway = gateway_in(tmp_path, promise="{max_loss: 2%}")
    brought(gateway, log_of(1000, wrong=0.5), groups=None)
    assert not gateway.status.certified
    assert gateway.certifier.proposals[0].units > 400
    asyncio.run(gateway.close())


def test_without_times_it_is_one_period_and_nothing_is_waited_for(tmp_path):
    gateway = gateway_in(tmp_path, min_periods="7")
    done = brought(
        gateway, log_of(1000), times=False, groups=None, assumption="rows left out are like the others"
    )
    assert (done.periods, gateway.certifier.min_periods) == (1, 1)
    assert gateway.status.certified
    said = str(gateway.status)
    assert "in 1 period " in said
    assert "It has no times, so it is one period, and nothing was waited for." in said
    assert "It also assumes that rows left out are like the others." in said
    gateway.certifier.ask(NOW, "another question", after=gateway.records.latest_number())
    assert gateway.certifier.min_periods == 7
    asyncio.run(gateway.close())


def test_with_times_a_certificate_waits_for_as_many_periods(tmp_path):
    gateway = gateway_in(tmp_path, min_periods="31")
    brought(gateway, log_of(1000), groups=None)
    assert gateway.certifier.proposals[0].periods == 30
    assert not gateway.status.certified
    asyncio.run(gateway.close())


def test_a_later_log_only_fits_and_what_it_fits_is_tested_on_later_units(tmp_path):
    """Its rows may be the very requests that are held out."""
    log = log_of(700)
    first = brought(gateway_in(tmp_path), log, groups=None)
    gateway = gateway_in(tmp_path)
    with pytest.raises(
        InputError, match=r"what log\.parquet holds was imported already: its rows would count twice"
    ):
        brought(gateway, log, groups=None)
    later = brought(gateway, log_of(702).slice(2), groups=None)
    assert first.testing
    assert later.testing == later.periods == 0
    assert "only a first log tests" in str(later)
    fits = gateway.records.units(f"number > {first.last}")
    assert len(fits) == 700
    assert not any(unit.held_out for unit in fits)
    before, after = gateway.certifier.proposals[0], gateway.certifier.proposals[-1]
    assert before.tests_from <= 1
    assert (after.tests_from, after.units) == (later.last + 1, 0)
    assert after.fitted == first.units - first.testing + 700
    asyncio.run(gateway.close())


def test_what_is_promised_may_be_mended_before_any_request_and_any_log(tmp_path):
    """As after an import that was refused because a row costs more than the cap."""
    low = gateway_in(tmp_path, shadow="{models: [small], spend: '100 usd', cap: '0.00001 usd'}")
    with pytest.raises(InputError, match="raise `cap` of shadow"):
        brought(low, log_of(700), groups=None)
    asyncio.run(low.close())
    gateway = gateway_in(tmp_path)
    assert gateway.certifier.question.number == 2
    done = brought(gateway, log_of(700), groups=None)
    assert gateway.certifier.proposals[0].units == done.testing > 300
    assert "its owner chose what is in it" in str(gateway.status)
    asyncio.run(gateway.close())


@pytest.mark.parametrize("when", ["after a proposal", "for a second question"])
def test_a_log_that_comes_too_late_only_fits(tmp_path, when):
    gateway = gateway_in(tmp_path)
    if when == "after a proposal":
        brought(gateway, log_of(700), groups=None)
        gateway.records.keep("imports", [])
    else:
        gateway.records.add(Record(7, NOW, "shop", "0b", {}))
        gateway.certifier.ask(NOW, "an alarm", after=7)
    assert brought(gateway, log_of(160), groups=None).testing == 0
    asyncio.run(gateway.close())


def test_rows_of_the_gateways_own_time_are_left_out(tmp_path):
    """They may be requests that it has kept itself."""
    gateway = gateway_in(tmp_path, now=START + 15.5 * DAY)
    log = log_of(300)
    done = brought(gateway, log.slice(0, 155), groups=None)
    assert (done.rows, done.left_out, done.periods) == (150, 5, 15)
    asyncio.run(gateway.close())


def test_a_log_without_times_tests_nothing_once_the_gateway_has_compared_requests(tmp_path):
    gateway = gateway_in(tmp_path)
    gateway.records.update((), [gateway.traffic.drawing.period(NOW, 1.0)])
    assert brought(gateway, log_of(20), groups=None, times=False).testing == 0
    asyncio.run(gateway.close())


def test_a_unit_takes_so_many_rows_for_so_long(tmp_path):
    gateway = gateway_in(tmp_path, unit_rows="3", unit_idle="2 h")
    hours = np.array([0, 1, 2, 3, 4, 10, 13, 14])
    log = log_of(8, conversation=["long"] * 5 + ["idle"] * 3, time=START + 3600.0 * hours)
    brought(gateway, log)
    (long, of_long), (idle, of_idle) = gateway.records.of_units()
    assert (long.rows, long.later, len(of_long)) == (3, 2, 3)
    assert long.later_cost == pytest.approx(2e-4)
    assert (idle.rows, idle.later, len(of_idle)) == (1, 2, 1)
    asyncio.run(gateway.close())


def test_users_who_have_come_already_are_left_out(tmp_path):
    gateway = gateway_in(tmp_path, units="user")
    log = log_of(40, users=4)
    assert brought(gateway, log, client="shop").units == 10
    again = gateway_in(tmp_path, units="user")
    more = log_of(48, users=4)
    done = brought(again, more, client="shop")
    assert (done.units, done.rows, done.left_out) == (2, 8, 40)
    with pytest.raises(InputError, match="their users have come to the gateway already"):
        brought(again, log_of(44, users=4), client="shop")
    assert brought(again, more, client="other").units == 12  # of another client they are others
    for each in (gateway, again):
        asyncio.run(each.close())


@pytest.mark.parametrize(
    ("more", "columns", "groups", "said"),
    [
        ({"promise": ""}, {}, None, "nothing is promised yet, and a log tests only the first promise"),
        ({"units": "request"}, {}, "conversation", "leave --group-column out"),
        ({"units": "user"}, {}, None, "name their column with --group-column"),
        ({"keep": "{days: 20}"}, {}, None, r"the oldest row is 40 days old.* write `keep: \{days: 70\}`"),
        ({}, {"time": np.full(9, NOW + 1)}, None, r"row 0 \(rows count from 0\) is of the future"),
        ({}, {"small_cost": np.full(9, 3.0)}, None, r"row 0 .* costs 3.0001 usd if all models answer it"),
        ({}, {"small_logprob": np.full(9, 0.7)}, None, "`logprobs: true`.*the log are all alike"),
        ({}, {"small_logprob": np.linspace(-1, 0.7, 9)}, None, "at most 0; the scores of the log are up to 0.7"),
        ({"features": "{}", "keep": "{features: true}"}, {}, None, "a log has no features as the gateway makes them"),
    ],
)  # fmt: skip
def test_what_is_refused_adds_nothing(tmp_path, more, columns, groups, said):
    gateway = gateway_in(tmp_path, **more)
    with pytest.raises(InputError, match=said):
        brought(gateway, log_of(9, **columns), groups=groups)
    assert gateway.records.count() == 0
    asyncio.run(gateway.close())


def test_other_models_are_refused(tmp_path):
    gateway = gateway_in(tmp_path)
    models = models_of(log_of(9), groups=None)
    named = ex.CascadeTrace({"mini": models["small"], "large": models["large"]})
    with pytest.raises(InputError, match="compares large, small, the log has mini, large"):
        import_log(gateway, named, file="log.csv", client="log")
    asyncio.run(gateway.close())


@pytest.mark.parametrize(
    "column",
    [
        pa.array([1.7e9, 1.7e9 + 0.5]),
        pa.array([datetime(2023, 11, 14, 22, 13, 20), datetime(2023, 11, 14, 22, 13, 20, 500_000)]),
        pa.array(["2023-11-14T22:13:20Z", "2023-11-14T22:13:20.5Z"]),
        pa.array(["2023-11-14 22:13:20", "2023-11-14 22:13:20.5"]),
        pa.array(["2023-11-15T00:13:20+02:00", "2023-11-15T00:13:20.5+02:00"]),
        pa.array([datetime(2023, 11, 14, 22, 13, 20, k * 500_000, tzinfo=timezone.utc) for k in range(2)]),
    ],
)
def test_times_may_be_numbers_or_texts(column):
    np.testing.assert_allclose(times_of(pa.chunked_array([column]), "time"), [1.7e9, 1.7e9 + 0.5], atol=1e-6)


@pytest.mark.parametrize(
    ("column", "said"),
    [
        (
            ["2026-11-01", "yesterday"],
            r"column 'time' holds 'yesterday' in row 1 \(rows count from 0\), which is no time",
        ),
        (["2026-11-01T08:30:00Z", "2026-11-01T08:30:00"], "all with a zone or none"),
        ([1.0, None], "column 'time' has no time in row 1"),
        ([1.7e12, 1.7e12], "divide milliseconds by 1,000"),
    ],
)
def test_what_is_no_time_is_refused(column, said):
    with pytest.raises(InputError, match=said):
        times_of(pa.chunked_array([column]), "time")


def test_the_command_brings_it_in_and_says_what_is_certified(tmp_path):
    file = written(tmp_path, **PROMISE)
    log = log_of(700)
    log = log.set_column(0, "time", pa.array(np.asarray(log["time"]) - START + time.time() - 31 * DAY))
    grades = log["small_grade"].to_pylist()
    log = log.set_column(2, "small_grade", pa.array([None, *grades[1:]]))
    pq.write_table(log, tmp_path / "log.parquet")
    line = f"gateway import {file.name} log.parquet --time time --group-column conversation"
    assert "add --ungraded drop" in refusal(line, cwd=tmp_path)
    assert not (tmp_path / "gateway").exists()
    said = exeunt(line, "--ungraded", "drop", cwd=tmp_path).stdout
    assert "log.parquet: 699 records of 699 units were added" in said
    assert "Guarantee: with probability 95%" in said
    assert "It also assumes that the 1 of 700 rows that were left out" in said
    assert "there is no large_logprob" in said
    shown = exeunt("gateway certify gateway.yaml", cwd=tmp_path).stdout
    assert said[said.index("Guarantee") : said.index("\n\nnext:")] in shown
    with locked(tmp_path / "gateway" / LOCK, tmp_path / "gateway", refusal="it runs {}"):
        assert "a gateway runs in" in refusal(line, "--ungraded", "drop", cwd=tmp_path)

"""The stream of a gateway over restarts: nothing of a unit is lost, and nothing is written over."""

from __future__ import annotations

import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
from tests.gateway.made_records import WITHOUT_FEATURES

from exeunt.errors import FileError
from exeunt.gateway.request_stream import RequestStream
from exeunt.stream import records as records_module
from exeunt.stream.records import COMPARED, Record, Records, Said
from exeunt.stream.units import Arrival, Unit, UnitRules

RULES = UnitRules(idle_s=10.0, rows=5)


class Gateway:
    """A stream of requests and its file."""

    def __init__(self, folder, now=0.0, *, rules=RULES, models=WITHOUT_FEATURES):
        config = SimpleNamespace(reference="large", sticky=False, unit_rules=rules, period=100.0, cap=0.01)
        self.records = Records(folder)
        self.traffic = RequestStream(config, models, self.records, b"secret", now)
        if not self.traffic.bill.spans:
            self.traffic.bill.begin("reference", now, 0.0)

    def ask(self, now, *transcripts, answer=b"", failed=False, most=1.0):
        """Ask, be answered, be compared, and be kept."""
        number = self.traffic.number()
        request = Arrival(number, "shop", b"content %d" % number, transcripts, b"opening")
        place = self.traffic.arrive(request, now)
        if place.starts and self.traffic.is_chosen(place.unit, now, most):
            self.traffic.draw(place.unit, free=True)
        self.traffic.answered(request, place, answer, now, failed=failed)
        record = Record(
            number, now, "shop", "0", {"large": Said(1e-4)}, setting=self.traffic.setting, unit=place.unit.number,
            row=place.row, is_open=place.is_open, transcript=answer, answered="large", asked=("large",), cost=1e-4,
            compared=COMPARED if place.unit.drawn and place.is_open else "",
        )  # fmt: skip
        self.traffic.count(record, opted_out=False)
        self.traffic.keeping(record)()
        self.traffic.ended(place.unit)
        return place

    def close(self):
        self.traffic.saving()()
        self.records.close()


def test_a_late_request_after_a_restart_leaves_its_unit_as_it_was(tmp_path):
    """All that is known of the unit then is its number: to write that would take its evidence away."""
    before = Gateway(tmp_path)
    before.ask(0.0, answer=b"t1")
    before.ask(1.0, b"t1", answer=b"t2")
    (over,) = before.traffic.take_over(20.0)
    before.traffic.unit_over(over, [])
    before.close()
    after = Gateway(tmp_path, 21.0)
    (kept,) = after.records.units()
    assert (kept.rows, kept.drawn, kept.closed) == (2, True, 20.0)
    place = after.ask(22.0, b"t2", answer=b"t3")
    assert (place.unit.number, place.is_open, place.starts) == (1, False, False)
    assert after.ask(23.0, b"t3").unit.number == 1
    after.close()
    again = Records(tmp_path)
    assert again.units() == [replace(kept, later=2, later_cost=2e-4)]
    assert [(unit.number, len(inside)) for unit, inside in again.of_units()] == [(1, 2)]
    again.close()


@pytest.mark.parametrize("taken", [True, False])
@pytest.mark.parametrize("rules", [RULES, replace(RULES, rows=1), UnitRules(kind="request")])
def test_a_unit_that_had_closed_before_a_crash_is_billed_once_after_it(tmp_path, rules, taken):
    before = Gateway(tmp_path, rules=rules)
    before.ask(0.0)
    if taken:
        assert [unit.number for unit in before.traffic.take_over(20.0)] == [1]
        before.traffic.saving()()
    before.records.close()  # a crash between closing and the bill
    for time_ in (21.0, 41.0):
        after = Gateway(tmp_path, time_, rules=rules)
        for unit in after.traffic.take_over(time_):
            for _ in range(2):
                after.traffic.unit_over(unit, after.records.read("unit = ?", (unit.number,)))
        assert after.traffic.bill.now.loss.n == 1
        after.close()
    (kept,) = Records(tmp_path).units()
    assert kept.closed == (21.0 if rules is RULES else 0.0)


def test_full_units_behind_an_open_one_are_over_after_a_crash(tmp_path):
    before = Gateway(tmp_path, rules=replace(RULES, rows=2))
    before.ask(0.0, answer=b"t")
    before.ask(1.0, answer=b"u")
    before.ask(2.0, b"u")
    before.records.close()
    after = Gateway(tmp_path, 3.0, rules=replace(RULES, rows=2))
    assert [unit.number for unit in after.traffic.take_over(3.0)] == [2]
    after.close()


def test_an_earlier_state_never_replaces_a_later_one(tmp_path):
    """Threads write in another order than what they write was taken."""
    gateway = Gateway(tmp_path)
    gateway.ask(0.0)
    (over,) = gateway.traffic.take_over(20.0)
    earlier = gateway.traffic.saving()
    gateway.traffic.unit_over(over, gateway.records.read("unit = 1"))
    gateway.traffic.saving()()
    earlier()
    gateway.close()
    again = Gateway(tmp_path, 21.0)
    assert [unit.closed for unit in again.records.units()] == [20.0]
    assert again.traffic.take_over(40.0) == []
    assert again.traffic.bill.now.loss.n == 1
    again.close()


def test_what_failed_is_written_later_as_it_is_then(tmp_path, monkeypatch):
    gateway = Gateway(tmp_path)
    gateway.ask(0.0)
    (over,) = gateway.traffic.take_over(20.0)

    def fails(*_given, **_fields):
        raise FileError("the disk is full")

    with monkeypatch.context() as full:
        full.setattr(gateway.records, "update", fails)
        earlier = gateway.traffic.saving()
    gateway.traffic.unit_over(over, [])
    gateway.traffic.saving()()
    with pytest.raises(FileError):
        earlier()
    gateway.close()
    assert [unit.closed for unit in Records(tmp_path).units()] == [20.0]


def test_open_units_numbers_and_probabilities_go_on_after_a_restart(tmp_path):
    before = Gateway(tmp_path)
    first = before.ask(0.0, answer=b"t1", most=0.7)
    before.close()
    after = Gateway(tmp_path, 5.0)
    place = after.ask(6.0, b"t1", answer=b"t2")
    assert (place.unit.number, place.row, place.unit.drawn) == (1, 1, first.unit.drawn)
    other = after.ask(7.0, most=0.2)  # in the same period
    assert (other.unit.number, other.unit.probability) == (3, 0.7)
    over = after.traffic.take_over(30.0)
    assert [unit.number for unit in over] == [1, 3]
    for unit in over:
        after.traffic.unit_over(unit, [])
    assert after.traffic.take_over(30.0) == []
    assert after.traffic.bill.now.requests == 3
    after.close()


@pytest.mark.parametrize(
    "changed", [{"models": replace(WITHOUT_FEATURES, grader="judge")}, {"rules": replace(RULES, rows=4)}]
)
def test_units_of_another_setting_are_over_at_a_restart(tmp_path, changed):
    before = Gateway(tmp_path)
    before.ask(0.0, answer=b"t1")
    before.close()
    after = Gateway(tmp_path, 1.0, **changed)
    assert after.traffic.setting == 2
    assert [unit.number for unit in after.traffic.busy] == [1]
    (over,) = after.traffic.take_over(1.0)
    assert (over.number, over.closed) == (1, 1.0)
    after.traffic.unit_over(over, [])
    assert not after.ask(2.0, b"t1").is_open
    after.close()
    again = Records(tmp_path)
    assert [(unit.closed, unit.drawn, unit.setting) for unit in again.units()] == [(1.0, True, 1)]
    again.close()


def test_a_unit_is_over_when_it_has_closed_and_nothing_of_it_is_under_way(tmp_path):
    gateway = Gateway(tmp_path)
    request = Arrival(gateway.traffic.number(), "shop", b"c")
    place = gateway.traffic.arrive(request, 0.0)
    assert gateway.traffic.take_over(50.0) == []
    assert gateway.traffic.busy == (place.unit,)
    gateway.traffic.ended(place.unit)
    assert gateway.traffic.take_over(50.0) == gateway.traffic.take_over(50.0) == [place.unit]
    gateway.traffic.unit_over(place.unit, [])
    assert not gateway.traffic.busy
    assert not gateway.traffic.take_over(50.0)
    gateway.close()


def test_what_could_not_be_written_is_written_the_next_time(tmp_path, monkeypatch):
    gateway = Gateway(tmp_path)
    gateway.ask(0.0)

    def fails(*_given, **_fields):
        raise FileError("the disk is full")

    with monkeypatch.context() as full:
        full.setattr(gateway.records, "update", fails)
        full.setattr(gateway.records, "add", fails)
        (over,) = gateway.traffic.take_over(20.0)
        gateway.traffic.unit_over(over, [])
        with pytest.raises(FileError):
            gateway.traffic.saving()()
        with pytest.raises(FileError):
            gateway.ask(21.0)
    gateway.traffic.saving()()
    assert [(unit.number, unit.closed) for unit in gateway.records.units()] == [(1, 20.0), (2, None)]
    gateway.close()


def test_of_a_client_that_is_forgotten_no_unit_is_written_later(tmp_path):
    gateway = Gateway(tmp_path)
    gateway.ask(0.0)
    gateway.ask(15.0)
    gateway.traffic.take_over(16.0)  # the first one is over, and not written yet
    gateway.traffic.forget("shop")
    gateway.records.forget("shop")
    gateway.close()
    again = Records(tmp_path)
    assert [(unit.number, unit.client, unit.drawn) for unit in again.units()] == [
        (1, "", False),
        (2, "", False),
    ]
    again.close()


def test_a_clock_that_is_set_back_stands_still(tmp_path):
    gateway = Gateway(tmp_path)
    gateway.ask(50.0)
    place = gateway.ask(1.0)
    assert place.unit.opened == 50.0
    assert gateway.traffic.take_over(2.0) == []
    assert gateway.traffic.drawing.latest[-1].units == 2
    gateway.close()


@pytest.mark.slow
def test_300_000_records_are_open_within_a_second(tmp_path):
    """By the processor's time: the machine may have something else to do. It takes long to write them."""
    kept, record = (
        Records(tmp_path),
        Record(1, 1.0, "shop", "0a" * 16, {"small": Said(1e-5, 0.75, 0.5)}, setting=1),
    )
    kept.setting({}, 0.0)
    with kept.writing() as connection:
        for first in range(1, 300_001, 3):
            drawn = first % 15 == 1
            closed = None if first > 299_000 else first + 3.0
            unit = Unit(
                first, "shop", float(first), first + 2.0, rows=3, closed=closed, drawn=drawn, probability=0.2
            )
            unit.held_out, unit.period = first % 2 == 0, first // 3000
            records_module._put_units(connection, [unit], ())
            for row in range(3):
                number = first + row
                made = replace(
                    record, number=number, time=float(number), unit=first, row=row, is_open=True,
                    transcript=number.to_bytes(16, "big"), compared=COMPARED if drawn else "",
                    features=(0.5,) * 64 if drawn else None,
                )  # fmt: skip
                records_module._put(
                    connection, "request", records_module._NAMES, records_module._stored(made)
                )
    kept.close()
    took = []
    for _ in range(3):
        began = time.process_time()
        gateway = Gateway(tmp_path, 300_001.0)
        took.append(time.process_time() - began)
        assert gateway.traffic.number() == 300_001
        assert len(gateway.traffic.busy) == 333
        gateway.records.close()
    assert min(took) < 1.0, took

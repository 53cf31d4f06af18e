"""Which requests are one unit: the rules of METHOD 16 against a loop over the whole history, one by one, at borders."""

import math
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exeunt.errors import InputError
from exeunt.stream import units as module
from exeunt.stream.units import Arrival, Place, Unit, UnitRules, Units

# -- conversations as tuples of messages, such as ("user: hello", "assistant: hi") --------------------------------


def is_answer(message):
    return message.startswith("assistant")


def beginnings(messages):
    """Return the messages up to each assistant's one, the longest first."""
    return [messages[: k + 1] for k in range(len(messages))[::-1] if is_answer(messages[k])]


def opening(messages):
    """Return the messages before the first assistant's one."""
    n = next((k for k, message in enumerate(messages) if is_answer(message)), len(messages))
    return messages[:n]


def digest(client, what):
    return repr((client, what)).encode()


def arrival(number, messages, *, client="shop", name="", user="", is_retry=False):
    """Return a request as a gateway tells it."""
    return Arrival(
        number, client, digest(client, ("content", messages)),
        tuple(digest(client, one) for one in beginnings(messages)),
        digest(client, opening(messages)) if opening(messages) else b"",
        digest(client, f"name {name}") if name else b"", digest(client, f"user {user}") if user else b"", is_retry,
    )  # fmt: skip


class Client:
    """Asks and answers, and numbers what it asks."""

    def __init__(self, units, name="shop"):
        self.units, self.name, self.number, self.asked = units, name, 0, {}

    def ask(self, *messages, now=0.0, **fields):
        self.number += 1
        request = arrival(self.number, messages, client=fields.pop("client", self.name), **fields)
        place = self.units.arrive(request, now)
        self.asked[self.number] = (request, messages, place)
        return place

    def answer(self, number, answer=None, now=0.0):
        """End a request with an answer, or without one."""
        request, messages, place = self.asked[number]
        said = b"" if answer is None else digest(request.client, (*messages, answer))
        self.units.answered(request, place, said, now, failed=answer is None)

    def say(self, *messages, answer, now=0.0, **fields):
        """Ask, and be answered."""
        place = self.ask(*messages, now=now, **fields)
        self.answer(self.number, answer, now)
        return place


def client(**rules):
    return Client(Units(UnitRules(**rules)))


# -- the whole history, in slow loops -----------------------------------------------------------------------------


@dataclass
class Asked:
    """A request of the history. `unit`: of the first request of its unit, None without one; `of`: the request that it
    repeats, itself if none. `took`: whether its unit took it as a row. `answers`: what was answered, and when.
    """

    number: int
    time: float
    client: str
    messages: tuple
    name: str
    user: str
    unit: int | None = None
    of: int = 0
    row: int = 0
    took: bool = False
    ended: float = math.inf
    answer: str | None = None

    @property
    def said_by(self):
        return self.client, self.messages, self.name, self.user


@dataclass
class History:
    """All requests so far, and the place of the next one as the sentences of METHOD 16 say it."""

    rules: UnitRules
    asked: list[Asked] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    guesses: dict[int, bool] = field(default_factory=dict)

    def rows(self, unit):
        return [one for one in self.asked if one.unit == unit and one.took and one.of == one.number]

    def is_open(self, unit, now):
        """Return whether a unit is open: it has not been idle for long, nor full, nor old."""
        rows = self.rows(unit)
        most = 1 if self.rules.kind == "request" else self.rules.rows
        idle = self.rules.kind != "user" and now - rows[-1].time >= self.rules.idle_s
        return not idle and len(rows) < most and now - rows[0].time < self.rules.time_s

    def repeated(self, one, is_retry, now):
        """Return the request that this one repeats, None if it is one of its own."""
        same = [other for other in self.asked if other.said_by == one.said_by]
        if not same:
            return None
        first = same[-1].of  # the latest that was not a retry, and its retries
        group = [other for other in same if other.of == first]
        running = any(other.ended == math.inf for other in group)
        over = [other for other in group if other.ended < math.inf]
        latest = max(over, key=self.order, default=None)
        recent = latest is not None and now - latest.ended <= 60
        if recent and latest.answer is None and not running:
            return first
        return first if is_retry and (running or recent) else None

    def continued(self, one, now):
        """Return the unit that a request continues, None if it starts one, and whether that is a guess."""
        own = [other for other in self.asked if other.client == one.client and other.unit is not None]
        if self.rules.kind == "request":
            return None, False
        if self.rules.kind == "user":
            return next((other.unit for other in own if other.user == one.user), None), False
        if one.name:
            return next((other.unit for other in own[::-1] if other.name == one.name), None), False
        before = beginnings(one.messages)
        if not before:
            return None, False
        sent_in = {
            other.unit
            for other in own
            if other.of == other.number and not other.name and beginnings(other.messages)[:1] == before[:1]
        }
        if len(sent_in) >= 3:
            return None, False
        for transcript in before:
            answered = [
                other for other in own
                if other.answer is not None and other.ended <= now and (*other.messages, other.answer) == transcript
            ]  # fmt: skip
            if answered:
                return max(answered, key=self.order).unit, False
        began = [
            other for other in own
            if other.of == other.number and opening(other.messages) == opening(one.messages) != ()
            and other.took and self.is_open(other.unit, now)
        ]  # fmt: skip
        return (began[-1].unit if began else None), True

    def order(self, one):
        """Return when a request ended, among all that did."""
        return self.ends.index(one.number)

    def arrive(self, number, now, client, messages, name, user, is_retry):
        """Return (unit, row, is open, starts, retry, guessed) of a request."""
        one = Asked(number, now, client, messages, name, user, of=number)
        first = self.repeated(one, is_retry, now)
        if first is not None:
            before = next(other for other in self.asked if other.number == first)
            one.unit, one.of, one.row, one.took = before.unit, first, before.row, before.took
            self.asked.append(one)
            return one.unit, one.row, one.took, False, True, self.guesses[first]
        if self.rules.kind == "user" and not user:
            self.asked.append(one)
            self.guesses[number] = False
            return None, 0, False, False, False, False
        known, guessed = self.continued(one, now)
        one.unit = number if known is None else known
        one.took = known is None or self.is_open(known, now)
        one.row = len(self.rows(one.unit))
        self.asked.append(one)
        self.guesses[number] = guessed
        return one.unit, one.row, one.took, known is None, False, guessed

    def end(self, number, answer, now):
        one = next(other for other in self.asked if other.number == number)
        one.ended, one.answer = now, answer
        self.ends.append(number)


TEXTS = st.sampled_from(["p", "q"])
ANSWERS = st.sampled_from(["assistant: a", "assistant: b", None])
ASKS = st.fixed_dictionaries(
    {
        "client": st.sampled_from(["one", "one", "one", "two"]),
        "base": st.integers(0, 6),  # 0: a conversation begins; else one goes on
        "text": TEXTS,
        "edited": st.booleans(),
        "tool": st.booleans(),
        "name": st.sampled_from(["", "", "", "", "n"]),
        "user": st.sampled_from(["", "u", "v"]),
        "is_retry": st.sampled_from([False, False, True]),
        "again": st.booleans(),
    }
)
SCRIPTS = st.lists(
    st.tuples(
        st.sampled_from([0.0, 0.0, 1.0, 10.0, 30.0, 60.0, 61.0]),
        st.one_of(
            st.tuples(st.just("ask"), ASKS), st.tuples(st.just("end"), st.tuples(st.integers(0, 5), ANSWERS)),
            st.tuples(st.just("close"), st.none()),
        ),
    ),
    max_size=40,
)  # fmt: skip
RULES = st.builds(
    UnitRules, st.sampled_from(["conversation", "conversation", "conversation", "user", "request"]),
    st.sampled_from([20.0, 90.0, 1e6]), st.integers(1, 4), st.sampled_from([50.0, 200.0, 1e6]),
)  # fmt: skip


def messages_of(told, history):
    """Return the messages of a request: new ones, those of an earlier request and its answer and more, or again."""
    ended = [one for one in history.asked if one.client == told["client"] and one.answer is not None]
    if told["again"] and history.asked:
        return history.asked[-1 - told["base"] % len(history.asked)].messages
    if not told["base"] or not ended:
        return (f"user: {told['text']}",)
    before = ended[-1 - told["base"] % len(ended)]
    answer = "assistant: edited" if told["edited"] else before.answer
    more = ("tool: 7", "assistant: seven") if told["tool"] else ()
    return (*before.messages, answer, *more, f"user: {told['text']}")[-7:]


def played(script, rules, *, closes=True):
    """Yield the place of each request, and that by the whole history."""
    units, history, now, requests, closed = Units(rules), History(rules), 0.0, {}, []
    for step, (later, (action, told)) in enumerate(script, 1):
        now += later
        if action == "close" and closes:
            units.close_due(now)
            closed += units.take_closed()
        elif action == "end":
            waiting = [one for one in history.asked if one.ended == math.inf]
            if waiting:
                which, answer = told
                one = waiting[which % len(waiting)]
                request, place = requests[one.number]
                said = b"" if answer is None else digest(one.client, (*one.messages, answer))
                units.answered(request, place, said, now, failed=answer is None)
                history.end(one.number, answer, now)
        elif action == "ask":
            name = told["name"] if rules.kind == "conversation" else ""
            user = told["user"] if rules.kind == "user" else ""
            messages = messages_of(told, history)
            client, is_retry = told["client"], told["is_retry"]
            request = arrival(step, messages, client=client, name=name, user=user, is_retry=is_retry)
            place = units.arrive(request, now)
            requests[step] = request, place
            number = None if place.unit is None else place.unit.number
            found = number, place.row, place.is_open, place.starts, place.retry, place.guessed
            yield found, history.arrive(step, now, client, messages, name, user, is_retry)
    if closes:
        units.close_due(now + 1e9)
        closed += units.take_closed()
        kept = {one.unit for one in history.asked if one.unit is not None}
        assert ({unit.number for unit in closed}, len(closed)) == (kept, len(kept))
        assert sorted(closed, key=lambda unit: unit.closed) == closed
        for unit in closed:
            rows = history.rows(unit.number)
            assert (unit.rows, unit.opened, unit.latest) == (len(rows), rows[0].time, rows[-1].time)
        assert not units.open
        assert not units._attempts or any(one.ended == math.inf for one in history.asked)


@settings(max_examples=200)
@given(script=SCRIPTS, rules=RULES)
def test_each_request_has_the_place_that_the_whole_history_gives_it(script, rules):
    for place, expected in played(script, rules):
        assert place == expected


@settings(max_examples=60)
@given(script=SCRIPTS, rules=RULES)
def test_it_makes_no_difference_how_often_units_are_closed(script, rules):
    seldom = [found for found, _ in played(script, rules, closes=False)]
    assert [found for found, _ in played(script, rules)] == seldom


# -- rule by rule -------------------------------------------------------------------------------------------------

HI, BYE = "user: hi", "user: bye"
A, B = "assistant: a", "assistant: b"


def test_chats_of_a_gateway_are_recognised_with_tools_and_other_keys_of_messages():
    pytest.importorskip("msgspec")
    from exeunt.gateway.chat_request import ChatRequest

    units, numbers = Units(UnitRules()), iter(range(1, 100))

    def asked(*messages):
        request = ChatRequest("auto", messages, {}, None, False, "")
        told = Arrival(next(numbers), "shop", request.content, request.answers, request.opening)
        return request, told, units.arrive(told, 0.0)

    def answered(request, told, place, message):
        units.answered(told, place, request.followed_by(message), 0.0, failed=False)

    user, other = {"role": "user", "content": "2 + 5?"}, {"role": "user", "content": "And 3?"}
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": "[2, 5]"}}
    calls = {"role": "assistant", "content": None, "tool_calls": [call], "refusal": None, "annotations": []}
    repeated = {"role": "assistant", "tool_calls": [{**call, "index": 0}]}
    result = {"role": "tool", "tool_call_id": "c1", "content": "7"}
    first = asked(user)
    answered(*first, calls)
    second = asked(user, repeated, result)
    answered(*second, {"role": "assistant", "content": "Seven."})
    third = asked(user, repeated, result, {"role": "assistant", "content": "Seven.", "name": "bot"}, other)
    assert [place.unit.number for _, _, place in (first, second, third)] == [1, 1, 1]
    assert [place.row for _, _, place in (first, second, third)] == [0, 1, 2]
    wrong = asked(user, {**repeated, "tool_calls": [{**call, "id": "c2"}]}, result)
    assert (wrong[2].guessed, wrong[2].unit.number, asked(user)[2].starts) == (True, 1, True)


def test_of_units_that_begin_alike_the_one_that_was_asked_last_is_the_latest():
    one = client()
    one.say(HI, answer=A)
    one.say(HI, answer=B)
    one.say(HI, A, BYE, answer=A)  # the first one goes on
    assert one.ask(HI, "assistant: edited", BYE).unit.number == 1


def test_examples_in_a_prompt_start_units_once_they_have_been_in_three():
    one = client(rows=1)
    examples = ("user: 1 + 1", "assistant: 2", "user: 2 + 2", "assistant: 4")
    guessed = [one.say(*examples, f"user: {k} + 5", answer=A).guessed for k in range(6)]
    assert guessed == [True, True, True, False, False, False]
    assert len({place.unit.number for _, _, place in one.asked.values()}) == 6
    roomy = client(rows=3)
    numbers = [roomy.say(*examples, f"user: {k} + 5", answer=A).unit.number for k in range(12)]
    assert numbers == [1, 1, 1, 4, 4, 4, 7, 8, 9, 10, 11, 12]  # until then all may be one conversation


# -- retries ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ended", "again", "is_retry", "expected"),
    [
        (None, 60.0, False, True),  # it failed a minute ago
        (None, 60.1, False, False),
        (A, 1.0, False, False),  # a prompt that is popular
        (A, 60.0, True, True),
        (A, 60.1, True, False),
        (None, 60.1, True, False),
        ("never", 1.0, False, False),  # under way: popular, too
        ("never", 1e6, True, True),
    ],
)
def test_what_is_a_retry(ended, again, is_retry, expected):
    one = client()
    one.ask(HI)
    if ended != "never":
        one.answer(1, ended)
    place = one.ask(HI, now=again, is_retry=is_retry)
    assert (place.retry, place.starts, place.unit.number) == (expected, not expected, 2 - expected)


def test_closing_what_is_due_forgets_no_failure_of_the_last_minute():
    one = client()
    one.ask(HI, now=100.0)
    one.answer(1, now=100.0)
    one.units.close_due(160.0)
    assert one.ask(HI, now=160.0).retry
    one.answer(2, now=160.0)
    one.units.close_due(220.1)
    assert not one.units._attempts


def test_the_end_of_a_request_that_never_arrived_changes_nothing():
    """As of a client that is not compared."""
    units, request = Units(UnitRules()), arrival(1, (HI,))
    units.answered(request, Place(None), digest("shop", (HI, A)), 0.0, failed=False)
    assert units.arrive(arrival(2, (HI, A, BYE)), 0.0).starts


# -- restarts and memory ------------------------------------------------------------------------------------------


def test_after_a_restart_open_units_go_on_and_closed_ones_stay_closed():
    one = client(rows=3)
    for _ in range(3):
        one.say(HI, answer=A)
    unit = one.asked[3][2].unit
    closed = Unit(1, "shop", 0.0, 0.0, rows=3, closed=0.0)
    again = Client(Units(UnitRules(rows=3)))
    again.number = 10
    again.units.restore(closed, (digest("shop", (BYE, A)),))
    again.units.restore(replace(unit, drawn=True), (digest("shop", (HI, A)), digest("shop", "name n")))
    assert [unit.number for unit in again.units.open] == [3]
    place = again.say(HI, A, BYE, answer=A, now=5.0)
    assert (place.unit.number, place.row, place.is_open, place.unit.drawn) == (3, 1, True, True)
    assert (again.ask(BYE, name="n", now=6.0).row, again.units.take_closed()[0].number) == (2, 3)
    place = again.ask(BYE, A, HI, now=6.0)
    assert (place.unit.number, place.is_open, place.starts) == (1, False, False)
    assert again.ask(HI, now=6.0).starts


def test_after_a_restart_those_close_that_were_idle_longest_or_are_full():
    units = Units(UnitRules(idle_s=10.0, time_s=100.0))
    for number, latest in ((1, 30.0), (2, 6.0), (3, 20.0)):
        units.restore(Unit(number, "shop", number, latest, rows=2))
    units.close_due(29.9)
    assert [unit.number for unit in units.open] == [1, 3]
    units.close_due(30.0)
    assert [unit.number for unit in units.open] == [1]
    units.close_due(40.0)
    assert [unit.number for unit in units.take_closed()] == [2, 3, 1]
    full = client(rows=2)  # it ended while it closed
    full.units.restore(Unit(1, "shop", 0.0, 0.0, rows=2), (digest("shop", (HI, A)),))
    assert not full.ask(HI, A, BYE).is_open


def test_after_a_restart_users_are_known():
    units = Client(Units(UnitRules("user", time_s=100.0)))
    units.units.restore(Unit(1, "shop", 0.0, 0.0, rows=1, closed=50.0, user=digest("shop", "user u")))
    units.units.restore(Unit(2, "shop", 60.0, 60.0, rows=1, user=digest("shop", "user v")))
    units.number = 2
    assert (units.ask(HI, user="u", now=99.0).is_open, units.ask(HI, user="v", now=99.0).row) == (False, 1)
    assert units.ask(HI, user="w", now=99.0).starts
    assert not units.ask(BYE, user="v", now=160.0).is_open


def test_of_very_many_transcripts_the_latest_are_known(monkeypatch):
    monkeypatch.setattr(module, "_REMEMBERED", 3)
    one = client()
    for k in range(4):
        one.say(f"user: {k}", answer=A)
    assert [one.ask(f"user: {k}", A, BYE).guessed for k in range(4)] == [True, False, False, False]
    again = client()
    for k in (0, 1, 2, 0, 3):  # the first one was said again
        again.say(f"user: {k}", answer=A)
    assert [again.ask(f"user: {k}", A, BYE).guessed for k in range(4)] == [False, True, False, False]


def test_nothing_is_kept_of_units_that_have_closed_but_how_they_are_known():
    one = client(idle_s=10.0, rows=2)
    for k in range(50):
        one.say(HI, answer=A, now=k / 10)
        if k % 3:
            one.ask(HI, "assistant: edited", f"user: {k}", now=k / 10)
            one.answer(one.number, now=k / 10)
    one.units.close_due(1e5)
    one.say(HI, A, BYE, answer=B, now=1e5)  # a late one
    assert not one.asked[one.number][2].is_open
    one.units.close_due(1e6)
    for k in range(6):  # examples
        one.say(HI, B, f"user: {k}", answer=A, now=1e6 + 100 * k)
    assert max(map(len, one.units._sent.values())) == 3
    one.units.close_due(1e7)
    left = one.units._begun_with, one.units._beginnings, one.units._attempts, one.units._open
    assert not any(left)


@pytest.mark.parametrize("number", [0.0, -1.0, math.inf, math.nan])
def test_bad_rules(number):
    for name, said in (("idle_s", "unit_idle"), ("time_s", "unit_time")):
        with pytest.raises(InputError, match=said):
            UnitRules(**{name: number})
    with pytest.raises(InputError, match="units are request, conversation, user, got 'session'"):
        UnitRules("session")
    with pytest.raises(InputError, match="unit_rows must be at least 1, got 0"):
        UnitRules(rows=0)
    assert UnitRules() == UnitRules("conversation", 3600.0, 20, 86400.0)
    assert [UnitRules(kind, rows=7).most_rows for kind in ("request", "conversation", "user")] == [1, 7, 7]

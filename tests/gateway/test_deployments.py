"""Several keys or addresses of a model: the freest is asked, one that fails rests alone, nothing is paid twice."""

from __future__ import annotations

import asyncio
import random
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from exeunt.errors import InputError
from exeunt.gateway.anthropic_model import AnthropicModel
from exeunt.gateway.breaker import Breaker
from exeunt.gateway.chat_request import ChatRequest
from exeunt.gateway.config import read_config
from exeunt.gateway.deployments import Deployment, Deployments, Use
from exeunt.gateway.mock_provider import MockProvider
from exeunt.live.live_run import digest_of

from .running_gateway import PRICES, Running, answer, error_of, free_port, models, running, written

KEYS = ("A_KEY", "B_KEY", "C_KEY")
MINUTE_S = 60.0


@pytest.fixture(autouse=True)
def _keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in KEYS:
        monkeypatch.setenv(name, f"secret-{name[0].lower()}")


class ByKey(MockProvider):
    """Answers each key with the next of its statuses, 200 by default. `asked`: requests by key."""

    def __init__(self, **statuses: Any) -> None:
        super().__init__(answer, PRICES)
        self.statuses: dict[str, Iterator[Any]] = {
            key: iter(listed) if isinstance(listed, Iterator) else cycle([listed])
            for key, listed in statuses.items()
        }
        self.asked: Counter[str] = Counter()
        self.told: Counter[int] = Counter()
        self.headers: dict[str, str] = {}
        self._lock = threading.Lock()

    async def _completions(self, request: Request) -> Response:
        key = request.headers["authorization"].removeprefix("Bearer secret-")
        with self._lock:
            self.asked[key] += 1
            status = next(self.statuses.get(key, cycle([200])))
            self.told[status] += 1
        if status == HANGS:
            await asyncio.sleep(1.0)
        if status in (200, HANGS):
            return await super()._completions(request)
        if status == 0:  # the beginning of a stream, and no more
            return StreamingResponse(iter([BEGINNING]), media_type="text/event-stream")
        return JSONResponse({"error": {"message": "secret", "code": "no"}}, status, headers=self.headers)


HANGS = -1
BEGINNING = (
    'data: {"id": "1", "object": "chat.completion.chunk", '
    '"choices": [{"index": 0, "delta": {"content": "Hi"}}]}\n\n'
)


def deployed(entries: str = "a: {key: A_KEY}, b: {key: B_KEY}", more: str = "retries: 0") -> str:
    return models(small=f"1, {more}, deployments: {{{entries}}}", large="10")


def spent(run: Running) -> float:
    return run.gateway.money.total.spent


def resting(run: Running) -> dict[str, list[str]]:
    return {one["name"]: one["models"] for one in run.state()["resting"]}


def test_a_deployment_that_asks_to_wait_rests_alone(tmp_path: Path) -> None:
    provider = ByKey(a=429)
    provider.headers = {"retry-after": "30"}
    with running(tmp_path, provider, shadow="", models=deployed()) as run:
        assert {run.ask(f"x {i}", model="small").status_code for i in range(12)} == {200}
        assert provider.asked == {"a": 1, "b": 12}
        assert spent(run) == pytest.approx(provider.spent, abs=1e-9)
        assert resting(run) == {"small/a": []}
        breaker = run.gateway.config.models["small"].deployments.all[0].breaker
        assert 20 < breaker.rests_s <= 30
        metrics = run.metrics()
        assert 'rests_until_seconds{name="small/a",why="status 429 (no)"}' in metrics
        assert 'exeunt_gateway_deployment_requests{name="small/b"} 12.0' in metrics
        assert 'exeunt_gateway_deployment_free{name="small/a"} 1.0' in metrics
        breaker._asked_until = 0.0  # the wait is over
        run.gateway.config.models["small"].deployments.all[0]._failed_until = 0.0
        run.ask("later", model="small")
        assert provider.asked["a"] == 2


@pytest.mark.parametrize("status", [401, 402, 403, 404])
def test_a_key_that_is_refused_rests_its_deployment_alone(tmp_path: Path, status: int) -> None:
    provider = ByKey(a=status)
    with running(tmp_path, provider, shadow="", models=deployed()) as run:
        deployment = run.gateway.config.models["small"].deployments.all[0]
        for i in range(12):
            deployment._failed_until = 0.0  # else it is asked last for a while
            assert run.ask(f"x {i}", model="small").status_code == 200
        assert provider.asked["a"] == 3  # failures of the provider
        assert resting(run) == {"small/a": []}
        assert not run.gateway.config.models["large"].provider.rests


def test_a_deployment_that_nobody_reaches_costs_no_request(tmp_path: Path) -> None:
    provider = ByKey()
    gone = f"a: {{base_url: 'http://127.0.0.1:{free_port()}/v1', key: A_KEY}}, b: {{key: B_KEY}}"
    with running(tmp_path, provider, shadow="", models=deployed(gone)) as run:
        assert {run.ask(f"x {i}", model="small").status_code for i in range(5)} == {200}
        assert spent(run) == pytest.approx(provider.spent, abs=1e-9)
        first = run.gateway.config.models["small"].deployments.all[0]
        assert (first.n_sent, first._tokens) == (1, 0)


def test_a_model_rests_where_all_its_deployments_do(tmp_path: Path) -> None:
    provider = ByKey(a=429, b=429)
    provider.headers = {"retry-after": "3000"}
    with running(tmp_path, provider, shadow="", models=deployed()) as run:
        assert run.ask("x", model="small").status_code == 502
        assert resting(run) == {"small/a": ["small"], "small/b": ["small"]}
        assert "all deployments of small rest" in error_of(run.ask("y", model="small"))
        assert provider.asked == {"a": 1, "b": 1}
        assert spent(run) == 0


def test_each_deployment_is_asked_once_in_an_attempt(tmp_path: Path) -> None:
    provider = ByKey(a=429, b=429, c=429)
    entries = "a: {key: A_KEY}, b: {key: B_KEY}, c: {key: C_KEY}"
    with running(tmp_path, provider, shadow="", models=deployed(entries)) as run:
        assert run.ask("x", model="small").status_code == 502
        assert provider.asked == {"a": 1, "b": 1, "c": 1}
        assert [one._tokens for one in run.gateway.config.models["small"].deployments.all] == [0, 0, 0]


def test_a_model_does_not_rest_while_a_deployment_may_be_asked(tmp_path: Path) -> None:
    provider = ByKey(a=500, b=500)
    with running(tmp_path, provider, shadow="", models=deployed()) as run:
        for deployment in run.gateway.config.models["small"].deployments.all:
            deployment.breaker.failures = 100
        for i in range(5):  # more than the failures after which a model with one address rests
            assert run.ask(f"x {i}", model="small").status_code == 502
        assert provider.asked.total() == 5


def test_a_wrong_request_is_sent_to_one_deployment(tmp_path: Path) -> None:
    provider = ByKey(a=400, b=400)
    with running(tmp_path, provider, shadow="", models=deployed()) as run:
        for i in range(6):
            assert run.ask(f"x {i}", model="small").status_code >= 400
        assert provider.asked.total() == 6
        assert resting(run) == {}


@pytest.mark.parametrize("seed", [1, 2])
def test_no_request_is_paid_twice(tmp_path: Path, seed: int) -> None:
    """What may have been billed counts at the most, each time with money of its own; refusals count nothing."""
    draw = random.Random(seed)
    statuses = {
        key: iter(draw.choices([200, 429, 401, 500], [6, 2, 1, 1], k=10_000)) for key in ("a", "b", "c")
    }
    provider = ByKey(**statuses)
    entries = "a: {key: A_KEY}, b: {key: B_KEY}, c: {key: C_KEY}"
    with running(tmp_path, provider, shadow="", models=deployed(entries, "retries: 2")) as run:
        model = run.gateway.config.models["small"]
        for deployment in model.deployments.all:
            deployment.breaker.failures = 1_000
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda i: run.ask(f"x {i:03}", model="small").status_code, range(60)))
        body = {"model": "small", "messages": [{"role": "user", "content": "x 000"}]}
        most = model.most(ChatRequest.of(body))
        assert provider.told[500] > 0
        assert provider.told[429] > 0
        assert spent(run) == pytest.approx(provider.spent + provider.told[500] * most, abs=1e-9)


def test_an_answer_that_may_be_billed_is_asked_for_again_with_money_of_its_own_alone(tmp_path: Path) -> None:
    provider = ByKey(a=500, b=200)
    with running(tmp_path, provider, shadow="", models=deployed()) as run:
        run.gateway.config.models["small"].deployments.all[1].n_sent = 9  # so that the first is asked
        assert run.ask("x", model="small").status_code == 502
        assert provider.asked == {"a": 1}
        assert run.ask("y", model="small").status_code == 200  # the one that failed is asked last for a while
        assert provider.asked == {"a": 1, "b": 1}


def test_a_deployment_that_does_not_answer_in_time_has_failed(tmp_path: Path) -> None:
    provider = ByKey(a=HANGS)
    more = "retries: 1, timeout_s: 0.4"
    with running(tmp_path, provider, shadow="", models=deployed(more=more)) as run:
        assert {run.ask(f"x {i}", model="small").status_code for i in range(4)} == {200}
        assert provider.asked == {"a": 1, "b": 4}
        first, _ = run.gateway.config.models["small"].deployments.all
        assert first.breaker.why == "no answer within 0.4 s"
        assert first.n_open == 0


def test_a_stream_that_has_begun_goes_on_nowhere_else(tmp_path: Path) -> None:
    provider = ByKey(a=0, b=0)
    with running(tmp_path, provider, shadow="", models=deployed(more="retries: 2")) as run:
        assert "cut off" in run.ask("x", model="small", stream=True).text
        assert provider.asked.total() == 1


def test_a_stream_begins_at_the_next_deployment_after_a_refusal(tmp_path: Path) -> None:
    provider = ByKey(a=429)
    with running(tmp_path, provider, shadow="", models=deployed()) as run:
        for i in range(2):
            assert "[DONE]" in run.ask(f"x {i}", model="small", stream=True).text
        assert provider.asked["b"] == 2
        assert spent(run) == pytest.approx(provider.spent, abs=1e-9)


def test_limits_a_minute_hold_under_concurrency(tmp_path: Path) -> None:
    provider = ByKey()
    provider.wait_s = 0.05
    entries = "a: {key: A_KEY, rpm: 5}, b: {key: B_KEY, rpm: 3}"
    with (
        running(tmp_path, provider, shadow="", models=deployed(entries)) as run,
        ThreadPoolExecutor(20) as pool,
    ):
        statuses = Counter(pool.map(lambda i: run.ask(f"x {i}", model="small").status_code, range(40)))
        assert provider.asked == {"a": 5, "b": 3}
        assert statuses == {200: 8, 502: 32}
        assert resting(run) == {}
        assert spent(run) == pytest.approx(provider.spent, abs=1e-9)
        assert "limits a minute" in error_of(run.ask("x", model="small"))


def test_tokens_a_minute_hold_under_concurrency(tmp_path: Path) -> None:
    provider = ByKey()
    provider.wait_s = 0.3
    with running(tmp_path, provider, shadow="", models=deployed("a: {key: A_KEY, tpm: 1200}")) as run:
        with ThreadPoolExecutor(20) as pool:
            statuses = Counter(pool.map(lambda i: run.ask(f"x {i}", model="small").status_code, range(20)))
        # A request may take some 16 tokens, 256 of the endpoint's own, and 100 of output.
        assert statuses == {200: 3, 502: 17}
        deployment = run.gateway.config.models["small"].deployments.all[0]
        used = sum(
            (len(repr(sent["body"]["messages"])) + 9) // 4 + 3 for sent in provider.received
        )  # at most: four letters are a token there
        assert 0 < deployment._tokens <= used
        assert run.ask("x", model="small").status_code == 200  # what they did not take is free again


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def made(clock: Callable[[], float], *limits: tuple[int | None, int | None]) -> Deployments:
    return Deployments(
        "m",
        [Deployment("", None, Breaker(f"m/{i}", clock=clock), *each) for i, each in enumerate(limits)],
        several=True,
    )


@pytest.mark.parametrize("seed", range(5))
def test_no_minute_at_the_service_has_more_than_the_limits(seed: int) -> None:
    """Requests arrive at the service at any time before their status comes; every window of a minute is counted."""
    draw, clock = random.Random(seed), Clock()
    group = made(clock, (20, 4000), (7, None), (None, 2500))
    arrivals = defaultdict[Deployment, list[tuple[float, int]]](list)
    under_way: list[tuple[float, float, Use, int]] = []
    full = 0
    for i in range(4000):
        clock.now += draw.expovariate(1.5)
        for ends, _, use, took in sorted(under_way, key=lambda one: one[0]):
            if ends <= clock.now:
                use.took(took)
                use.end("")
        under_way = [one for one in under_way if one[0] > clock.now]
        tokens = draw.randint(1, 400)
        if (use := group.begin(tokens, i, [])) is None:
            full += 1
            wait = group.wait_s(tokens)
            assert wait > 0
            continue
        arrives = clock.now + draw.uniform(0, 3)
        took = draw.randint(0, tokens)
        arrivals[use.deployment].append((arrives, took))
        under_way.append((arrives + draw.uniform(0, 70), arrives, use, took))
    assert full > 100
    for deployment, sent in arrivals.items():
        sent.sort()
        for start, _ in sent:
            window = [took for at, took in sent if start <= at < start + MINUTE_S]
            assert deployment.rpm is None or len(window) <= deployment.rpm
            assert deployment.tpm is None or sum(window) <= deployment.tpm


def test_metrics_that_read_in_other_threads_change_no_count() -> None:
    clock, draw, stop = Clock(), random.Random(5), threading.Event()
    group = made(clock, (10_000, 10**9))

    def read() -> None:
        while not stop.is_set():
            group.told()

    with ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        for i in range(5000):
            use = group.begin(draw.randint(1, 500), i, [])
            assert use is not None
            use.arrived()
            clock.now += draw.uniform(0, 60.2 if i % 7 == 0 else 0.1)
            use.took(draw.randint(0, 500))
            use.end("")
        stop.set()
        for reader in readers:
            reader.result()
    clock.now += 61
    group.told()
    (deployment,) = group.all
    assert (deployment._requests, deployment._tokens, deployment.n_open) == (0, 0, 0)


@pytest.mark.parametrize("kind", ["rpm", "tpm"])
def test_the_load_spreads_by_what_is_free(kind: str) -> None:
    clock, draw = Clock(), random.Random(3)
    limits = (100, 300, 600)
    group = made(clock, *[(n, None) if kind == "rpm" else (None, 100 * n) for n in limits])
    for i in range(8000):
        clock.now += draw.expovariate(8.0)  # 480 of 1,000 a minute
        use = group.begin(100, i, [])
        assert use is not None
        use.end("")
    shares = [deployment.n_sent / 8000 for deployment in group.all]
    assert shares == pytest.approx([0.1, 0.3, 0.6], abs=0.01)


def test_deployments_without_limits_are_asked_alike() -> None:
    group = made(Clock(), (None, None), (None, None), (None, None))
    for i in range(300):
        use = group.begin(10, i, [])
        assert use is not None
        use.end("")
    assert [deployment.n_sent for deployment in group.all] == [100, 100, 100]


def test_the_wait_is_until_there_is_room() -> None:
    clock = Clock()
    group = made(clock, (2, None))
    for _ in range(2):
        use = group.begin(1, 0, [])
        assert use is not None
        use.end("")
        clock.now += 10
    assert group.begin(1, 0, []) is None
    assert group.wait_s(1) == pytest.approx(40)
    clock.now += 39.9
    assert group.begin(1, 0, []) is None
    clock.now += 0.2
    assert group.begin(1, 0, []) is not None


def test_the_wait_is_counted_without_what_has_left_the_minute() -> None:
    clock = Clock()
    group = made(clock, (None, 100))
    for _ in range(2):
        use = group.begin(50, 0, [])
        assert use is not None
        use.end("")
        clock.now += 30
    clock.now += 5  # the first is 65 seconds old, the second 35
    assert group.wait_s(80) == pytest.approx(25)


def test_a_wait_that_a_service_asks_for_is_not_ended_by_answers_that_come() -> None:
    clock = Clock()
    group = made(clock, (None, None))
    first, second = group.begin(1, 0, []), group.begin(1, 1, [])
    assert first is not None
    assert second is not None
    first.end("status 429", after_s=20)
    second.end("")
    assert group.rest
    assert "asks to wait" in group.reason
    clock.now += 20.1
    assert not group.rest


def test_a_wait_that_a_service_asks_for_is_no_failure() -> None:
    clock = Clock()
    group = made(clock, (None, None))
    group.all[0].breaker.failures, group.all[0].breaker.pause_s = 1, 300
    use = group.begin(1, 0, [])
    assert use is not None
    use.end("status 429", after_s=20)
    clock.now += 20.1
    assert not group.rest


def test_a_wait_of_more_than_a_day_is_one_of_a_day() -> None:
    clock = Clock()
    group = made(clock, (None, None))
    use = group.begin(1, 0, [])
    assert use is not None
    use.end("status 429", after_s=1e9)
    clock.now += 86_399
    assert group.rest
    clock.now += 2
    assert not group.rest


def test_a_conversation_stays_at_its_deployment_while_that_is_free(tmp_path: Path) -> None:
    provider = ByKey()
    with running(tmp_path, provider, shadow="", models=deployed()) as run:

        def turn(k: int, n: int) -> str:
            before = provider.asked.copy()
            said: list[Any] = [{"role": "system", "content": "s"}, {"role": "user", "content": f"c{k}"}]
            for i in range(n):
                said += [{"role": "assistant", "content": f"r{i}"}, {"role": "user", "content": f"u{i}"}]
            assert run.post({"model": "small", "messages": said}).status_code == 200
            ((key, _),) = (provider.asked - before).items()
            return key

        first = [turn(k, 0) for k in range(6)]
        assert {*first} == {"a", "b"}
        for n in (1, 2):
            assert [turn(k, n) for k in (5, 3, 1, 4, 2, 0)] == [first[k] for k in (5, 3, 1, 4, 2, 0)]
        a = run.gateway.config.models["small"].deployments.all[0]
        a.breaker.rest(30, "status 429")
        assert {turn(k, 3) for k in range(6)} == {"b"}
        a.breaker._asked_until = 0.0
        assert {turn(k, 4) for k in range(6)} == {"b"}  # where the cache is now


def test_keys_go_where_they_belong(tmp_path: Path) -> None:
    provider = ByKey()
    with running(tmp_path, provider, shadow="", models=deployed()) as run:
        for i in range(4):
            run.ask(f"x {i}", model="small")
        keys = {sent["headers"].get("authorization") for sent in provider.received}
        assert keys == {"Bearer secret-a", "Bearer secret-b"}
    price = {"input": 1, "output": 1}
    breaker = Breaker("x")
    claude = AnthropicModel(
        "c", name="c", price=price, base_url="http://x/v1", breaker=breaker, provider=breaker
    )
    assert claude._headers_with("A_KEY")["x-api-key"] == "secret-a"
    assert "x-api-key" not in claude._headers_with(None)


def test_deployments_leave_a_model_what_it_is(tmp_path: Path) -> None:
    before = read_config(written(tmp_path, models=models(small="1", large="10"))).models["small"]
    after = read_config(written(tmp_path, models=deployed())).models["small"]
    assert (before.identity, digest_of(before)) == (after.identity, digest_of(after))


@pytest.mark.parametrize(
    ("entries", "told"),
    [
        ("", "deployments is empty: name at least one"),
        ("a: {key: A_KEY}, a: {key: B_KEY}", "a is there twice"),
        ("a: {key: A_KEY}, b: {key: A_KEY}", "deployments 'a' and 'b' have one address and one key"),
        ("a: {key: A_KEY, rpm: -1}", "deployment 'a': rpm must be at least 1, got -1"),
        ("a: {key: A_KEY, tpm: 0}", "deployment 'a': tpm must be at least 1, got 0"),
        ("a: {key: A_KEY, rpm: 1.5}", "deployment 'a': rpm: give a whole number, got 1.5"),
        ("a: {key: A_KEY}, b: {base_url: 'http://x/v1'}", "deployment 'b' has no key, as others have"),
        ("a: {key: sk-123}", "deployment 'a': key= names the environment variable"),
        ("a: {base_url: 'ftp://x'}", "deployment 'a': a URL begins with http://"),
        ("a: {base_url: 'http://x/v1/messages'}", "deployment 'a': base_url ends before /messages"),
        ("a: {weight: 2}", "deployment 'a': there is no 'weight'; there are base_url, key, rpm, tpm"),
        ("'a b': {key: A_KEY}", "a deployment's name is at most 100 characters"),
    ],
)
def test_what_is_wrong_is_told_in_a_line(tmp_path: Path, entries: str, told: str) -> None:
    with pytest.raises(InputError) as raised:
        read_config(written(tmp_path, models=deployed(entries)))
    assert told in str(raised.value)
    assert "\n" not in str(raised.value)


def test_the_key_of_a_provider_is_sent_to_no_other_address(tmp_path: Path) -> None:
    providers = "{mock: {base_url: 'http://x/v1', key: A_KEY}}"
    elsewhere = deployed("a: {}, b: {base_url: 'http://y/v1'}")
    with pytest.raises(InputError, match="deployment 'b' has no key"):
        read_config(written(tmp_path, providers=providers, models=elsewhere))
    named = deployed("a: {}, b: {base_url: 'http://y/v1', key: B_KEY}")
    model = read_config(written(tmp_path, providers=providers, models=named)).models["small"]
    assert [(one.base_url, one.key) for one in model.deployments.all] == [
        ("http://x/v1", "A_KEY"),
        ("http://y/v1", "B_KEY"),
    ]


def test_a_list_of_deployments_or_an_address_of_the_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="deployments must hold options by name"):
        read_config(written(tmp_path, models=models(small="1, deployments: [a]", large="10")))
    with pytest.raises(InputError, match="there is no 'base_url'"):
        read_config(written(tmp_path, models=models(small="1, base_url: 'http://x'", large="10")))

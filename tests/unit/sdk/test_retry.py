"""Creates through refusals: which are retried, for how long, and how that is cancelled."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import anyio
import httpx
import pytest

import pandastack
from pandastack._retry import Refusal, RetryPlan, parse_retry_after
from pandastack.errors import PandastackError
from pandastack.testing import MockPlatform, Request


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def _refusal(
    status: int, after: str | None = None, own: bool = True, retryable: bool | None = None
) -> Refusal:
    return Refusal(PandastackError("full", status_code=status, retryable=retryable), after, own)


def _plan(budget: float = 60.0, clock: Clock | None = None) -> RetryPlan:
    return RetryPlan("POST", "/sandboxes", budget, clock=clock or Clock(), jitter=lambda _low, high: high)


@pytest.mark.parametrize(
    ("refusal", "delay"),
    [
        (_refusal(503, "5"), 6.0),
        (_refusal(503), None),
        (_refusal(503, "5", own=False), None),
        (_refusal(507), 1.5),
        (_refusal(507, "3"), 4.0),
        (_refusal(507, retryable=False), None),
        (_refusal(429, "1"), 2.0),
        (_refusal(429), None),
        (_refusal(500, "1"), None),
        (_refusal(502, "1"), None),
        (_refusal(503, "61"), None),
    ],
)
def test_what_is_retried(refusal: Refusal, delay: float | None) -> None:
    event = _plan().next(refusal)
    assert (event and event.delay_seconds) == delay


def test_jitter_grows_to_a_cap() -> None:
    plan = _plan(budget=1000)
    waits = [plan.next(_refusal(429, "0")) for _ in range(6)]
    assert [event and event.delay_seconds for event in waits] == [1, 2, 4, 8, 15, 15]
    assert [event and event.attempt for event in waits] == [1, 2, 3, 4, 5, 6]


def test_budget_ends_it_and_the_last_wait_is_shortened() -> None:
    clock = Clock()
    plan = _plan(10, clock)
    clock.now += 9.2
    event = plan.next(_refusal(507))
    assert event is not None
    assert event.delay_seconds == pytest.approx(0.8)
    clock.now += 0.8
    assert plan.next(_refusal(507)) is None


@pytest.mark.parametrize(
    ("text", "found"), [("7", 7.0), ("-3", 0.0), ("", None), ("soon", None), ("nan", None)]
)
def test_retry_after_as_a_number(text: str, found: float | None) -> None:
    assert parse_retry_after(text) == found


def test_retry_after_as_a_date() -> None:
    found = parse_retry_after(format_datetime(datetime.now(UTC) + timedelta(seconds=50), usegmt=True))
    assert found is not None
    assert 45 < found <= 50


def _full_then_free(platform: MockPlatform, refusals: int) -> None:
    left = [refusals]

    def answer(_request: Request) -> httpx.Response:
        if left[0]:
            left[0] -= 1
            return httpx.Response(
                429, json={"error": "max sandboxes reached"}, headers={"Retry-After": "0.001"}
            )
        return httpx.Response(201, json={"id": "sb", "template": "base"})

    platform.on_request("POST", ".*", answer)


@pytest.fixture
def no_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pandastack._retry._JITTER_CAPS", (0.0,))


@pytest.mark.usefixtures("no_jitter")
def test_create_goes_on_until_there_is_room() -> None:
    platform = MockPlatform()
    seen: list[pandastack.CreateRetryEvent] = []
    _full_then_free(platform, 2)
    client = platform.client(on_create_retry=seen.append)
    assert client.sandboxes.create().id == "sb"
    keys = {request.headers["idempotency-key"] for request in platform.requests}
    assert (len(platform.requests), len(keys)) == (3, 1)
    assert [(event.attempt, event.path, event.status_code) for event in seen] == [
        (1, "/sandboxes", 429),
        (2, "/sandboxes", 429),
    ]


@pytest.mark.anyio
@pytest.mark.usefixtures("no_jitter")
async def test_async_create_goes_on_until_there_is_room() -> None:
    platform = MockPlatform()
    seen: list[object] = []

    async def told(event: object) -> None:
        seen.append(event)

    _full_then_free(platform, 1)
    assert (await platform.async_client(on_create_retry=told).sandboxes.create()).id == "sb"
    assert len(seen) == 1


def test_no_budget_no_retry() -> None:
    platform = MockPlatform()
    _full_then_free(platform, 1)
    with pytest.raises(pandastack.RateLimitError):
        platform.client(max_create_retry_seconds=0).sandboxes.create()
    assert len(platform.requests) == 1


def test_cancelled_before_it_is_sent() -> None:
    platform, event = MockPlatform(), threading.Event()
    event.set()
    with pytest.raises(pandastack.CreateCancelled):
        platform.client().sandboxes.create(cancel=event)
    assert platform.requests == []


def test_cancelled_while_waiting() -> None:
    platform, event = MockPlatform(), threading.Event()
    platform.on_request(
        "POST", ".*", httpx.Response(503, json={"error": "no compute"}, headers={"Retry-After": "30"})
    )
    client = platform.client(on_create_retry=lambda _event: event.set())
    with pytest.raises(pandastack.CreateCancelled) as caught:
        client.sandboxes.create(cancel=event)
    assert isinstance(caught.value.__cause__, pandastack.CapacityError)


@pytest.mark.anyio
async def test_async_cancelled_while_waiting() -> None:
    platform, event = MockPlatform(), anyio.Event()
    platform.on_request(
        "POST", ".*", httpx.Response(503, json={"error": "no compute"}, headers={"Retry-After": "30"})
    )
    client = platform.async_client(on_create_retry=lambda _event: event.set())
    with pytest.raises(pandastack.CreateCancelled):
        await client.sandboxes.create(cancel=event)

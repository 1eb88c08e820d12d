# Generated from _async/_http.py by scripts/generate_sync.py; do not edit.
"""The executor: sends a ``Call`` with httpx and turns what goes wrong into our own errors."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx

from pandastack import _wire, errors
from pandastack._config import Settings, keepalive_options, proxy_for
from pandastack._retry import CreateRetryEvent, Refusal, RetryPlan
from pandastack._sse import SseDecoder, SseError, SseEvent
from pandastack._sync._runtime import CancelEvent, call, open_socket, wait
from pandastack._wire import Call

if TYPE_CHECKING:
    from pandastack._sync._terminal import Terminal

# Below the five seconds after which common servers close an idle connection: none is used while it closes.
_IDLE_CONNECTION_SECONDS = 4.0


class Http:
    """One pool of connections to one server."""

    def __init__(
        self,
        settings: Settings,
        *,
        transport: httpx.BaseTransport | None,
        on_create_retry: Callable[[CreateRetryEvent], object] | None,
    ) -> None:
        self._settings = settings
        self._on_create_retry = on_create_retry
        self._client = httpx.Client(
            transport=transport
            or httpx.HTTPTransport(
                proxy=proxy_for(settings),
                socket_options=keepalive_options(),
                limits=httpx.Limits(max_connections=None, keepalive_expiry=_IDLE_CONNECTION_SECONDS),
            ),
            headers={"Accept": "application/json", "User-Agent": _wire.USER_AGENT},
        )

    def close(self) -> None:
        """Close every connection."""
        self._client.close()

    def request(self, call: Call) -> Any:
        """The decoded JSON of a successful answer; ``None`` when it has no body.

        Raises:
            PandastackError: see the tree in ``pandastack.errors``.
        """
        response = self._send(self._build(call))
        if response.is_success:
            return _wire.decode(response.content)
        raise _wire.api_error(response.status_code, response.headers, response.content)

    def create(self, wanted: Call, cancel: CancelEvent | None = None) -> Any:
        """Like ``request``, and waits through refusals for lack of capacity, within the budget.

        Raises:
            CreateCancelled: ``cancel`` was set before an attempt.
            CapacityError: there was still no capacity at the end of the budget.
        """
        plan = RetryPlan(wanted.method, wanted.path, self._settings.retry_budget_seconds)
        refused: errors.PandastackError | None = None
        while True:
            if cancel is not None and cancel.is_set():
                raise errors.CreateCancelled(_cancelled_message(refused)) from refused
            response = self._send(self._build(wanted))
            if response.is_success:
                return _wire.decode(response.content)
            refused = _wire.api_error(response.status_code, response.headers, response.content)
            retry = plan.next(
                Refusal(
                    refused,
                    response.headers.get("retry-after"),
                    _wire.is_platform_refusal(response.content),
                )
            )
            if retry is None:
                raise refused
            if self._on_create_retry is not None:
                call(self._on_create_retry, retry)
            wait(retry.delay_seconds, cancel)

    def upload(self, call: Call, content: Iterable[bytes] | bytes) -> Any:
        """Like ``request``, with a body that is streamed as it is read."""
        response = self._send(self._build(call, content))
        if response.is_success:
            return _wire.decode(response.content)
        raise _wire.api_error(response.status_code, response.headers, response.content)

    @contextmanager
    def stream(self, call: Call) -> Iterator[Iterator[bytes]]:
        """The body of a successful answer, piece by piece as it arrives.

        Raises:
            PandastackError: the answer is not a success, or broke off.
        """
        with self.answer(call) as response:
            if not response.is_success:
                with self._translated():
                    body = response.read()
                raise _wire.api_error(response.status_code, response.headers, body)
            yield self._pieces(response)

    @contextmanager
    def answer(self, call: Call) -> Iterator[httpx.Response]:
        """An answer of whatever status, its body not read yet.

        Raises:
            ConnectionError: there is none.
        """
        with self._translated():
            response = self._client.send(self._build(call), stream=True)
        try:
            yield response
        finally:
            response.close()

    def events(self, call: Call) -> Generator[SseEvent, None]:
        """The server-sent events of a successful answer, until it ends.

        Raises:
            ConnectionError: the stream broke off inside.
        """
        decoder = SseDecoder()
        with self.stream(call) as pieces:
            for piece in pieces:
                try:
                    yield from decoder.feed(piece)
                except SseError as error:
                    raise errors.ServerError(str(error)) from error

    def talk(self, path: str, params: dict[str, str | list[str]]) -> Terminal:
        """A program that is started and talked to over a WebSocket to ``path``.

        Raises:
            PandastackError: the server refused it, or cannot be reached.
        """
        from websockets.exceptions import InvalidStatus, WebSocketException  # late: few programs need it

        from pandastack._sync._terminal import Terminal

        request = self._build(Call("GET", path, params=params))
        url = request.url.copy_with(scheme=request.url.scheme.replace("http", "ws"))
        headers = {name: request.headers[name] for name in ("authorization", "user-agent")}
        where, limit = self._settings.api_url, self._settings.timeout_seconds
        try:
            return Terminal(
                open_socket(str(url), headers, proxy=proxy_for(self._settings), timeout_seconds=limit)
            )
        except InvalidStatus as error:
            answer = error.response
            raise _wire.api_error(answer.status_code, answer.headers, bytes(answer.body or b"")) from error
        except TimeoutError as error:
            raise errors.RequestTimeout(f"{where} did not answer in time", sent=False) from error
        except OSError as error:
            raise errors.ConnectionError(
                f"cannot reach {where} ({error}): is the server running?", sent=False
            ) from error
        except WebSocketException as error:
            raise errors.ConnectionError(f"the connection to {where} broke: {error}") from error

    def _pieces(self, response: httpx.Response) -> Iterator[bytes]:
        with self._translated():
            yield from response.iter_bytes()

    def _send(self, request: httpx.Request) -> httpx.Response:
        with self._translated():
            return self._client.send(request)

    def _build(self, call: Call, content: Iterable[bytes] | bytes | None = None) -> httpx.Request:
        if self._settings.api_key is None:
            raise errors.AuthError(
                "no API key: pass api_key=, set PANDASTACK_API_KEY, or run `pandastack auth login`"
            )
        silence = call.silence(self._settings.timeout_seconds)
        write = max(self._settings.timeout_seconds, silence or 0.0)
        return self._client.build_request(
            call.method,
            self._settings.url(call.path),
            params=call.params or None,
            json=call.json,
            content=content,
            headers={"Authorization": f"Bearer {self._settings.api_key}", **call.headers},
            timeout=httpx.Timeout(silence, connect=self._settings.timeout_seconds, write=write, pool=None),
        )

    @contextmanager
    def _translated(self) -> Iterator[None]:
        where = self._settings.api_url
        try:
            yield
        except httpx.ConnectTimeout as error:
            raise errors.RequestTimeout(
                f"no connection to {where} in time: is the server running?", sent=False
            ) from error
        except httpx.TimeoutException as error:
            raise errors.RequestTimeout(f"{where} did not answer in time") from error
        except httpx.ConnectError as error:
            raise errors.ConnectionError(
                f"cannot reach {where} ({error}): is the server running?", sent=False
            ) from error
        except httpx.HTTPError as error:
            what = str(error) or type(error).__name__
            raise errors.ConnectionError(f"the connection to {where} broke: {what}") from error


def _cancelled_message(refused: errors.PandastackError | None) -> str:
    if refused is None:
        return "the create was cancelled before it was sent"
    return f"the create was cancelled while the server had no capacity; it last said: {refused}"

"""The HTTP face of the interpreter.

    GET    /health                   200 once the first kernel has run a cell
    POST   /execute                  {code, context_id?, language?, env_vars?} → one JSON event a line
    GET    /contexts                 list of {id, language, cwd}
    POST   /contexts                 {cwd?, language?} → {id, language, cwd}
    DELETE /contexts/{id}            204
    POST   /contexts/{id}/restart    204

A caller of ``/execute`` who names no context gets the default one of the language. A caller who goes away
interrupts the cell.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import tornado.iostream
import tornado.web

from interpreter.context import Context, TooManyCellsError
from interpreter.contexts import MOST_CONTEXTS, Contexts, NoFolderError, TooManyContextsError
from interpreter.kernel import KernelDiedError, KernelFailedError
from interpreter.languages import Language, find
from interpreter.results import Event
from interpreter.sandbox import SandboxEnv

PORT = 49_999
MAX_BODY = 64 * 1024 * 1024
KEEPALIVE_SECONDS = 5.0
MOST_VARIABLES = 1000

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Handler(tornado.web.RequestHandler):
    """What all resources share: JSON in, JSON out, errors that say what is wrong."""

    def initialize(self, contexts: Contexts, env: SandboxEnv) -> None:
        self.contexts = contexts
        self.env = env

    def write_error(self, status_code: int, **details: Any) -> None:
        """One line of JSON instead of a page."""
        error = details.get("exc_info", (None, None, None))[1]
        message = getattr(error, "log_message", None) or self._reason
        self.finish({"code": status_code, "message": message})

    def body(self) -> dict[str, Any]:
        """The request's JSON object; an empty body is an empty object."""
        try:
            content = json.loads(self.request.body or b"{}")
        except (ValueError, RecursionError):
            raise _refused(400, "the body is no JSON") from None
        if not isinstance(content, dict):
            raise _refused(400, "the body is no JSON object")
        return content

    def text(self, body: dict[str, Any], key: str) -> str | None:
        """A field that is a text or not there."""
        value = body.get(key)
        if value is not None and (not isinstance(value, str) or "\0" in value):
            raise _refused(400, f"{key} is no text")
        return value

    def language(self, body: dict[str, Any]) -> Language:
        """The language that the body names."""
        try:
            return find(self.text(body, "language"))
        except LookupError as unknown:
            raise _refused(400, str(unknown)) from None

    def context(self, identity: str) -> Context:
        """The context with this id."""
        try:
            return self.contexts.find(identity)
        except KeyError:
            raise _refused(404, f"context {identity[:64]} does not exist") from None


class Health(Handler):
    def get(self) -> None:
        self.finish("OK")


class ContextList(Handler):
    def get(self) -> None:
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps([context.described() for context in self.contexts.all()]))

    async def post(self) -> None:
        body = self.body()
        with _as_refusals(body):
            context = await self.contexts.open(self.language(body), self.text(body, "cwd"))
        self.set_status(201)
        self.finish(context.described())


class OneContext(Handler):
    async def delete(self, identity: str) -> None:
        self.context(identity)
        await self.contexts.close(identity)
        self.set_status(204)


class Restart(Handler):
    async def post(self, identity: str) -> None:
        with _as_refusals({}):
            await self.context(identity).restart()
        self.set_status(204)


class Execute(Handler):
    """Runs a cell."""

    def prepare(self) -> None:
        self._task: asyncio.Task[None] | None = None

    def on_connection_close(self) -> None:
        # Once only: a second time would cut off the interruption itself.
        task, self._task = self._task, None
        if task is not None:
            task.cancel()

    async def post(self) -> None:
        body = self.body()
        code = self.text(body, "code")
        if code is None:
            raise _refused(400, "code is missing")
        language, identity = self.language(body), self.text(body, "context_id")
        if identity is not None:
            known = self.context(identity)
            if body.get("language") and known.language is not language:
                raise _refused(400, f"context {identity} is {known.language.name}, not {language.name}")
        self.set_header("Content-Type", "application/x-ndjson")
        cell = self._cell(code, language, identity, _variables(body))
        self._task = asyncio.create_task(self._stream(cell))
        with contextlib.suppress(asyncio.CancelledError, tornado.iostream.StreamClosedError):
            await self._task
        self._task = None

    async def _cell(
        self, code: str, language: Language, identity: str | None, variables: dict[str, str]
    ) -> AsyncIterator[Event]:
        with _as_refusals({}):
            context = await self.contexts.default(language) if identity is None else self.context(identity)
            try:
                async with contextlib.aclosing(context.execute(code, variables, self.env.read())) as events:
                    async for event in events:
                        yield event
            except KernelDiedError:
                yield {"type": "unexpected_end_of_execution"}
            else:
                yield {"type": "end_of_execution"}

    async def _stream(self, cell: AsyncIterator[Event]) -> None:
        async with contextlib.aclosing(_with_keepalives(cell)) as events:
            async for event in events:
                self.write(json.dumps(event, ensure_ascii=False, default=repr) + "\n")
                await self.flush()


async def _with_keepalives(events: AsyncIterator[Event]) -> AsyncIterator[Event]:
    """``events``, and a sign of life whenever there is none for some time."""
    async with contextlib.aclosing(events):
        while True:
            upcoming = asyncio.ensure_future(anext(events, None))
            try:
                while not (await asyncio.wait({upcoming}, timeout=KEEPALIVE_SECONDS))[0]:
                    yield {"type": "keepalive"}
            finally:
                if not upcoming.done():
                    upcoming.cancel()
                    await asyncio.gather(upcoming, return_exceptions=True)
            if (event := upcoming.result()) is None:
                return
            yield event


def _variables(body: dict[str, Any]) -> dict[str, str]:
    variables = body.get("env_vars") or {}
    if not isinstance(variables, dict) or len(variables) > MOST_VARIABLES:
        raise _refused(400, f"env_vars maps at most {MOST_VARIABLES} names to texts")
    for name, value in variables.items():
        if not _NAME.fullmatch(name) or not isinstance(value, str) or "\0" in value:
            raise _refused(400, f"env_vars: {name[:64]} is no name of a variable, or its value no text")
    return variables


def _refused(status: int, message: str) -> tornado.web.HTTPError:
    # The message is no format: what a caller sent may be in it.
    return tornado.web.HTTPError(status, message.replace("%", "%%"))


@contextlib.contextmanager
def _as_refusals(body: dict[str, Any]) -> Any:
    try:
        yield
    except TooManyContextsError:
        raise _refused(429, f"there are {MOST_CONTEXTS} contexts already; delete one first") from None
    except TooManyCellsError:
        raise _refused(429, "too many cells wait for this context; wait for some to end") from None
    except NoFolderError:
        raise _refused(400, f"cwd {str(body.get('cwd'))[:200]} is no folder of this sandbox") from None
    except KernelFailedError as error:
        raise _refused(500, str(error)) from None


def application(contexts: Contexts, env: SandboxEnv) -> tornado.web.Application:
    """The routes over ``contexts``."""
    given = {"contexts": contexts, "env": env}
    return tornado.web.Application(
        [
            (r"/health", Health, given),
            (r"/execute", Execute, given),
            (r"/contexts", ContextList, given),
            (r"/contexts/([A-Za-z0-9-]{1,64})", OneContext, given),
            (r"/contexts/([A-Za-z0-9-]{1,64})/restart", Restart, given),
        ]
    )

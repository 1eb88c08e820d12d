"""What the sandbox itself knows and kernels that were started before it was made do not: its environment."""

from __future__ import annotations

import json
from collections.abc import Mapping

from tornado.httpclient import AsyncHTTPClient, HTTPClientError

from interpreter.context import machine_id

AGENT = "http://127.0.0.1:49983/envs"
TIMEOUT_SECONDS = 5.0


class SandboxEnv:
    """The environment that the sandbox was created with, asked for once in each machine.

    The guest's agent gives it to who knows the sandbox's access token; callers of ``/execute`` send that along.
    """

    def __init__(self) -> None:
        self._machine_id = ""
        self._known: dict[str, str] = {}

    async def read(self, token: str | None) -> Mapping[str, str]:
        """The variables; none without a token, or when the agent does not take it."""
        present = machine_id()
        if token and present != self._machine_id:
            try:
                answer = await AsyncHTTPClient().fetch(
                    AGENT, headers={"X-Access-Token": token}, request_timeout=TIMEOUT_SECONDS
                )
                self._known = json.loads(answer.body)
            except (HTTPClientError, OSError, ValueError):
                return {}
            self._machine_id = present
        return self._known if token else {}

"""Templates: what the host has baked, found by name or alias."""

from __future__ import annotations

import time
from collections.abc import Sequence

from pandastackd.control.host import HostAgent
from pandastackd.domain import TemplateReport
from pandastackd.errors import NotFound

CACHE_SECONDS = 2.0
"""How long a list is believed; a name that is not in it is looked up again at once."""


class Templates:
    """The templates a sandbox can be made from."""

    def __init__(self, host: HostAgent) -> None:
        self._host = host
        self._known: list[TemplateReport] = []
        self._until = 0.0

    async def listed(self) -> Sequence[TemplateReport]:
        """Every template, by name."""
        await self._refresh()
        return sorted(self._known, key=lambda template: template.name)

    async def find(self, name: str) -> TemplateReport:
        """The template that has this name or, failing that, this alias.

        Raises:
            NotFound: there is none; names those there are.
        """
        if time.monotonic() < self._until and (found := self._match(name)) is not None:
            return found
        await self._refresh()
        if (found := self._match(name)) is not None:
            return found
        names = ", ".join(sorted(template.name for template in self._known))
        raise NotFound(
            f"unknown template {name!r}; there is: {names}"
            if names
            else f"unknown template {name!r}; no template is built yet",
            code="template_not_found",
        )

    def _match(self, name: str) -> TemplateReport | None:
        for template in self._known:
            if template.name == name:
                return template
        return next((template for template in self._known if name in template.aliases), None)

    async def _refresh(self) -> None:
        self._known = await self._host.templates()
        self._until = time.monotonic() + CACHE_SECONDS

"""From what a kernel says to what a client is told: one message, none or several events."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Event = dict[str, Any]

PIECE = 64 * 1024
"""Most characters of printed text in one event."""

NAMES = {
    "text/plain": "text",
    "text/html": "html",
    "text/markdown": "markdown",
    "text/latex": "latex",
    "image/svg+xml": "svg",
    "image/png": "png",
    "image/jpeg": "jpeg",
    "application/pdf": "pdf",
    "application/json": "json",
    "application/javascript": "javascript",
    "e2b/data": "data",
    "e2b/chart": "chart",
}
"""MIME type → field of a result. Other types go into ``extra``, by their own name."""


class Translator:
    """Translates what a kernel says about one cell.

    Args:
        values_are_displayed: the kernel shows the value of a cell in the way that it shows anything: then what is
            shown last, if it is no picture, is taken for the value.
    """

    def __init__(self, *, values_are_displayed: bool = False) -> None:
        self._values_are_displayed = values_are_displayed
        self._held: Event | None = None

    def feed(self, kind: str, content: dict[str, Any], timestamp: str) -> Iterator[Event]:
        """What one message means to a client."""
        match kind:
            case "execute_input":
                yield {"type": "number_of_executions", "execution_count": content["execution_count"]}
            case "stream":
                yield from self._release()
                text = content["text"]
                for start in range(0, len(text), PIECE):
                    piece = text[start : start + PIECE]
                    yield {"type": content["name"], "text": piece, "timestamp": timestamp}
            case "error":
                yield from self._release()
                yield {
                    "type": "error",
                    "name": content.get("ename") or "Error",
                    "value": content.get("evalue", ""),
                    "traceback": "\n".join(content.get("traceback", ())),
                }
            case "execute_result" | "display_data":
                yield from self._release()
                result = _result(content["data"], is_main=kind == "execute_result")
                if self._values_are_displayed and "png" not in result:
                    self._held = result
                else:
                    yield result

    def end(self) -> Iterator[Event]:
        """What is left to say when the cell has ended."""
        yield from self._release(is_main=True)

    def _release(self, *, is_main: bool = False) -> Iterator[Event]:
        held, self._held = self._held, None
        if held is not None:
            yield {**held, "is_main_result": is_main}


def _result(bundle: dict[str, Any], *, is_main: bool) -> Event:
    event: Event = {"type": "result"}
    extra = {}
    for mime, value in bundle.items():
        whole = "".join(value) if isinstance(value, list) and mime in _TEXTS else value
        if name := NAMES.get(mime):
            event[name] = whole
        else:
            extra[mime] = whole
    if extra:
        event["extra"] = extra
    return {**event, "is_main_result": is_main}


_TEXTS = frozenset(
    mime for mime in NAMES if mime.startswith(("text/", "image/")) or mime == "application/pdf"
)
"""Types whose value may come as a list of lines."""

"""Logging: structlog for our own lines, the standard library's through the same pipe. Never a secret,
never a query string.
"""

from __future__ import annotations

import logging
import sys

import structlog

from pandastackd.config import Settings


def configure(settings: Settings) -> None:
    """Set the level and the shape (``console`` for people, ``json`` for machines) of everything logged to
    stderr.
    """
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: structlog.types.Processor
    if settings.log_format == "json":
        shared.append(structlog.processors.format_exc_info)
        last = structlog.processors.JSONRenderer()
    else:
        # Plain: the rich one prints local variables, and those may hold secrets.
        last = structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    structlog.configure(
        processors=[*shared, last],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(processor=last, foreign_pre_chain=shared))
    logging.basicConfig(handlers=[handler], level=max(level, logging.WARNING), force=True)
    logging.getLogger("uvicorn.error").addFilter(_is_true)


def _is_true(record: logging.LogRecord) -> bool:
    """Whether a line of uvicorn's says what happened.

    It takes a WebSocket that was refused with an answer for one that got none
    (https://github.com/Kludex/uvicorn/pull/3138); our own line of the request tells the status.
    """
    return record.msg != "ASGI callable returned without completing handshake."

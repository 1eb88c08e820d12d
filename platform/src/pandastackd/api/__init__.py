"""HTTP in, HTTP out: one module a resource, no decisions.

Knows ``control`` and the wire's shapes. Does not know VMMs, netlink or SQL. Errors of every kind leave as
one shape, see ``errors``.
"""

from pandastackd.api.app import create_app

__all__ = ["create_app"]

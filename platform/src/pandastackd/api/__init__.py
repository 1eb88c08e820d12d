"""HTTP in, HTTP out: one module a resource, no decisions.

Knows ``control`` and the wire's shapes. Does not know VMMs, netlink or SQL. Errors of every kind leave as
one shape, see ``errors``.
"""

from pandastackd.api.app import create_app
from pandastackd.api.ports import leads_to_a_port

__all__ = ["create_app", "leads_to_a_port"]

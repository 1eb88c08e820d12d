"""Traffic from outside to a port in a sandbox: which one is meant, the way there, and bytes in both directions.

Knows control, to learn where a sandbox is and to count the use, and the guest's client, whose sockets it
carries traffic on. Whatever comes out of a guest is passed on or refused, never believed.
"""

from pandastackd.gateway.address import Target, target_of
from pandastackd.gateway.exchange import UPGRADE
from pandastackd.gateway.gateway import Gateway, GatewayMiddleware
from pandastackd.gateway.splice import server_protocol

__all__ = ["UPGRADE", "Gateway", "GatewayMiddleware", "Target", "server_protocol", "target_of"]

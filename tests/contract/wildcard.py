"""A wildcard domain in front of a server, as a self-hoster has one: a name for every sandbox, and TLS.

Clients that know no ``E2B_SANDBOX_URL`` find a sandbox by name, ``https://49999-<id>.<domain>``. Here all names of the
domain lead to one address of the loopback network, a certificate of an authority made for the occasion is good for
them, and what comes out of TLS goes to the server as it is.

Names are looked up on port 53 and reached on port 443, so both must be free there. Only the programs run by
``Wildcard.command`` see the names, in a mount namespace of their own: needs root.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.from_thread
import dns.message
import dns.rrset
import trustme
from anyio.abc import ByteStream
from anyio.streams.tls import TLSListener

from tests.contract.clients import OutOfReach

DOMAIN = "sandboxes.test"
ADDRESS = "127.49.0.1"

GONE = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, OSError)
"""How a peer's end is told; it is the end of its connection and of no other."""

_WITH_NAMES = """\
mount --bind "$0/resolv.conf" /etc/resolv.conf
[ ! -e /etc/nsswitch.conf ] || mount --bind "$0/nsswitch.conf" /etc/nsswitch.conf
exec "$@"
"""


class PortTaken(OutOfReach):
    """Another program of this machine listens where the names must lead."""


@dataclass(frozen=True)
class Wildcard:
    """How programs get to the server by its names.

    Attributes:
        command: what runs a program where the names are known.
        environment: the domain, and whom to trust, in the variables that clients read.
    """

    command: tuple[str, ...]
    environment: dict[str, str]


@contextmanager
def wildcard(url: str, folder: Path) -> Iterator[Wildcard]:
    """``DOMAIN`` leads to the server at ``url`` inside the block.

    Raises:
        PortTaken: a port of ``ADDRESS`` is.
    """
    authority = trustme.CA()
    trusted = folder / "authority.pem"
    authority.cert_pem.write_to_path(trusted)
    (folder / "resolv.conf").write_text(f"nameserver {ADDRESS}\n")
    (folder / "nsswitch.conf").write_text("hosts: files dns\n")
    with (
        anyio.from_thread.start_blocking_portal() as portal,
        portal.wrap_async_context_manager(_serving(int(url.rpartition(":")[2]), authority)),
    ):
        yield Wildcard(
            command=("unshare", "--mount", "sh", "-ec", _WITH_NAMES, str(folder)),
            environment={
                "E2B_DOMAIN": DOMAIN,
                "SSL_CERT_FILE": str(trusted),
                "NODE_EXTRA_CA_CERTS": str(trusted),
            },
        )


@asynccontextmanager
async def _serving(port: int, authority: trustme.CA) -> AsyncIterator[None]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(f"*.{DOMAIN}").configure_cert(context)

    async def connected(client: ByteStream) -> None:
        with suppress(*GONE):
            async with (
                client,
                await anyio.connect_tcp("127.0.0.1", port) as server,
                anyio.create_task_group() as both,
            ):
                both.start_soon(_pass_on, client, server, both.cancel_scope)
                both.start_soon(_pass_on, server, client, both.cancel_scope)

    async with AsyncExitStack() as stack:
        try:
            names = await stack.enter_async_context(
                await anyio.create_udp_socket(local_host=ADDRESS, local_port=53)
            )
            plain = await stack.enter_async_context(
                await anyio.create_tcp_listener(local_host=ADDRESS, local_port=443)
            )
        except OSError as error:
            raise PortTaken(f"ports 53 and 443 of {ADDRESS} are needed for names: {error}") from None
        tasks = await stack.enter_async_context(anyio.create_task_group())
        tasks.start_soon(_answer, names)
        tasks.start_soon(TLSListener(plain, context, standard_compatible=False).serve, connected)
        yield
        tasks.cancel_scope.cancel()


async def _pass_on(source: ByteStream, sink: ByteStream, both: anyio.CancelScope) -> None:
    """Until one side ends; then the other ends as well, so that each hears of a peer that went away."""
    with suppress(*GONE):
        async for some in source:
            await sink.send(some)
    both.cancel()


async def _answer(names: anyio.abc.UDPSocket) -> None:
    """Every name is at ``ADDRESS``, which has no IPv6."""
    async for packet, (host, port) in names:
        answer = dns.message.make_response(dns.message.from_wire(packet))
        (asked,) = answer.question
        if asked.rdtype == dns.rdatatype.A:
            answer.answer.append(dns.rrset.from_text(asked.name, 0, "IN", "A", ADDRESS))
        await names.sendto(answer.to_wire(), host, port)

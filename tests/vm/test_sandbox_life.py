"""A sandbox from create to delete, as a caller sees it: identity, life cycle, time to live, walls seen from inside.

Needs root, QEMU and the templates; runs one server and up to twelve microVMs at once.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from pandastack import BadRequestError, NotFoundError, PandaStack, PandastackError, Sandbox
from pandastackd.child_server import ChildServer
from pandastackd.config import Settings
from pandastackd.network.addresses import AddressPlan

CROWD = 10
PATIENCE_SECONDS = 60.0
LAST_PHASE = "total"


def eventually(condition: Callable[[], bool], what: str) -> None:
    """Wait until ``condition`` holds."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"did not happen: {what}"
        time.sleep(0.2)


def is_gone(client: PandaStack, sandbox_id: str) -> bool:
    try:
        client.sandboxes.get(sandbox_id)
    except NotFoundError:
        return True
    return False


def test_create_answers_with_a_running_machine_and_where_the_time_went(client: PandaStack) -> None:
    with client.sandboxes.create(template="base", metadata={"who": "пекарь"}, ttl_seconds=900) as made:
        assert made.status == "running"
        assert made.template == "base"
        assert made.metadata == {"who": "пекарь"}
        assert made.boot_mode == "restore"
        assert set(made.phases_ms) == {"slot", "disk", "vmm", "load", "guest", LAST_PHASE}
        parts = sum(time for name, time in made.phases_ms.items() if name != LAST_PHASE)
        assert 0 < parts <= made.phases_ms[LAST_PHASE] * 1.01
        assert made.boot_ms is not None
        assert made.boot_ms >= int(parts)

        assert client.sandboxes.get(made.id).metadata == made.metadata
        assert made.id in [each.id for each in client.sandboxes.list()]
        assert made.exec("python -c 'print(2 ** 10)'").stdout == "1024\n"
    assert is_gone(client, made.id)
    assert made.id not in [each.id for each in client.sandboxes.list()]
    with pytest.raises(NotFoundError):
        made.exec("true")
    with pytest.raises(NotFoundError):
        client.sandboxes.delete(made.id)


@pytest.mark.parametrize("alias", ["ubuntu-24.04", "node"])
def test_names_that_published_clients_send_are_aliases(client: PandaStack, alias: str) -> None:
    with client.sandboxes.create(template=alias) as made:
        assert made.exec("node -p '6*7'").stdout == "42\n"


def test_a_paused_machine_stands_still_and_goes_on(sandbox: Sandbox) -> None:
    started = sandbox.exec(
        "nohup sh -c 'while :; do date +%s%N > /tmp/tick; sleep 0.1; done' >/dev/null 2>&1 & echo $!"
    )
    eventually(lambda: sandbox.filesystem.exists("/tmp/tick"), "the clockwork starts")
    sandbox.pause()
    assert sandbox.refresh().status == "paused"
    with pytest.raises(BadRequestError) as refused:
        sandbox.exec("true")
    assert refused.value.status_code == 409
    sandbox.resume()
    assert sandbox.refresh().status == "running"
    before = sandbox.filesystem.read("/tmp/tick")
    eventually(lambda: sandbox.filesystem.read("/tmp/tick") not in (before, b""), "the clockwork goes on")
    assert sandbox.exec(f"kill -0 {started.stdout.strip()}").exit_code == 0


def test_the_guest_clock_is_right_after_a_pause(sandbox: Sandbox) -> None:
    sandbox.pause()
    time.sleep(3)
    sandbox.resume()
    assert abs(float(sandbox.exec("date +%s.%N").stdout) - time.time()) < 2


def test_an_idle_guest_sleeps_and_knows_time_finer_than_a_tick(sandbox: Sandbox) -> None:
    ticks = "awk '/LOC:/ {print $2}' /proc/interrupts"
    first, second = map(int, sandbox.exec(f"{ticks}; sleep 4; {ticks}").stdout.split())
    # A guest with a periodic tick takes 250 a second, and an idle one keeps its host's processor busy with them.
    assert second - first < 4 * 125
    grain = sandbox.exec("python -c 'import time; print(time.clock_getres(time.CLOCK_MONOTONIC))'")
    assert float(grain.stdout) < 1e-6


def test_time_to_live_counts_from_the_last_use(client: PandaStack) -> None:
    short = client.sandboxes.create(template="base", ttl_seconds=4)
    used = client.sandboxes.create(template="base", ttl_seconds=900)
    try:
        assert used.lifecycle().ttl_seconds == 900
        assert used.set_ttl(5).ttl_seconds == 5
        eventually(lambda: is_gone(client, short.id), "an unused sandbox is removed when its time is up")
        assert used.set_persistent(True).persistent
        time.sleep(6)
        assert used.refresh().status == "running"
        assert not used.set_persistent(False).persistent
        eventually(lambda: is_gone(client, used.id), "its time counts again")
    finally:
        for each in (short, used):
            with contextlib.suppress(NotFoundError):
                each.kill()


def test_a_long_command_is_use(client: PandaStack) -> None:
    with contextlib.suppress(NotFoundError), client.sandboxes.create(template="base", ttl_seconds=4) as made:
        assert made.exec("sleep 9; echo still here").stdout == "still here\n"


_WHO_AM_I = """\
hostname; cat /etc/machine-id; cat /proc/sys/kernel/random/uuid; date +%s.%N
python3 -c 'import os, uuid, random; print(os.urandom(16).hex(), uuid.uuid4().hex, random.random())'
head -c 16 /dev/random | od -An -tx1 | tr -d ' '
cat /proc/sys/kernel/hostname; hostname -f 2>/dev/null || hostname
"""


def test_ten_created_at_once_all_work_and_are_none_like_the_other(client: PandaStack) -> None:
    with ThreadPoolExecutor(CROWD) as pool:
        made = list(
            pool.map(lambda _: client.sandboxes.create(template="base", ttl_seconds=900), range(CROWD))
        )
        try:
            answers = list(
                pool.map(
                    lambda each: (each.exec(_WHO_AM_I, check=True).stdout.split("\n"), time.time()), made
                )
            )
        finally:
            list(pool.map(lambda each: each.kill(), made))
    for column, what in enumerate(
        ("hostname", "machine-id", "kernel uuid", "clock", "python", "random pool")
    ):
        assert len({lines[column] for lines, _ in answers}) == CROWD, f"two guests share their {what}"
    for sandbox, (lines, now) in zip(made, answers, strict=True):
        assert lines[0] == sandbox.id
        assert abs(float(lines[3]) - now) < 30


# The walls, seen from inside.

_TRY = """\
import socket, sys
for address in sys.argv[1:]:
    host, _, port = address.rpartition(":")
    made = socket.socket()
    made.settimeout(1.5)
    try:
        made.connect((host, int(port)))
        print(address, "OPEN")
    except OSError as error:
        print(address, "closed")
"""


@pytest.fixture
def host_listener() -> Iterator[socket.socket]:
    """Something on the host that listens on every address, as a careless service would."""
    with socket.create_server(("0.0.0.0", 0)) as listener:
        listener.settimeout(5)
        yield listener


def host_address() -> str:
    """The address other machines know this host by."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing
        return str(probe.getsockname()[0])


def slot_addresses(server: ChildServer, sandbox: Sandbox) -> list[str]:
    """Outer addresses of a sandbox's slot: the host's end, and its own."""
    answer = httpx.get(
        f"{server.url}/v1/sandboxes/{sandbox.id}", headers={"Authorization": f"Bearer {server.admin_key}"}
    )
    number = int(answer.json()["host_tap"].partition("/")[0].removeprefix("ps-"))
    slot = AddressPlan(Settings().network).slot(number)
    return [str(slot.host_ip), str(slot.uplink_ip)]


def test_the_guest_reaches_neither_host_nor_neighbour_nor_its_own_control_port(
    server: ChildServer, client: PandaStack, shared_sandbox: Sandbox, host_listener: socket.socket
) -> None:
    port = host_listener.getsockname()[1]
    with client.sandboxes.create(template="base") as neighbour:
        neighbour.exec("nohup python3 -m http.server 8000 >/dev/null 2>&1 & sleep 1")
        own, other = slot_addresses(server, shared_sandbox), slot_addresses(server, neighbour)
        with socket.create_connection((own[0], port), timeout=5):
            host_listener.accept()[0].close()  # the listener itself works, so "closed" below means the wall
        walled = [
            *(f"{address}:{port}" for address in (host_address(), own[0], other[0], "10.200.0.1")),
            *(f"{address}:8000" for address in (*other, "10.200.0.6")),
            "169.254.169.254:80",
            *(
                f"{address}:{agent}"
                for address in ("169.254.77.1", "169.254.77.2", "127.0.0.1", "10.200.0.2")
                for agent in (49983, 49984)
            ),
        ]
        shared_sandbox.filesystem.write("/tmp/try.py", _TRY)
        for who in ("", "sudo "):
            tried = shared_sandbox.exec(
                [*who.split(), "python3", "/tmp/try.py", *walled], timeout_seconds=120
            )
            assert tried.stdout.splitlines() == [f"{address} closed" for address in walled], tried.stderr
    host_listener.settimeout(0.1)
    with pytest.raises(TimeoutError):
        host_listener.accept()


def test_a_root_workload_that_gives_itself_a_route_still_cannot_reach_the_control_port(
    sandbox: Sandbox,
) -> None:
    sandbox.filesystem.write("/tmp/try.py", _TRY)
    tried = sandbox.exec(
        "sudo ip address add 169.254.77.1/30 dev eth0; sudo ip route add 169.254.77.2/32 dev eth0;"
        " sudo python3 /tmp/try.py 169.254.77.2:49983 169.254.77.2:49984",
        timeout_seconds=60,
    )
    assert tried.stdout.splitlines() == ["169.254.77.2:49983 closed", "169.254.77.2:49984 closed"], (
        tried.stderr
    )


def test_a_workload_that_breaks_its_own_network_does_not_cut_us_off(sandbox: Sandbox) -> None:
    broken = sandbox.exec(
        "sudo ip address flush dev eth0; sudo ip route flush table main; sudo ip link set eth0 down;"
        " sudo ip link set lo down; ip -brief link"
    )
    assert "eth1" not in broken.stdout, "the control card shows in the workload's network"
    assert sandbox.exec("echo still; echo here >&2").stdout == "still\n"
    sandbox.filesystem.write("/tmp/after", b"works")
    assert sandbox.filesystem.read("/tmp/after") == b"works"


def test_a_workload_that_kills_every_process_does_not_cut_us_off(sandbox: Sandbox) -> None:
    with contextlib.suppress(PandastackError):  # the command is among those killed
        sandbox.exec("kill -9 -1", timeout_seconds=20)
    assert sandbox.exec("echo user").stdout == "user\n"
    with contextlib.suppress(PandastackError):  # and so is, this time, the guest agent; init brings it back
        sandbox.exec("sudo kill -9 -1", timeout_seconds=20)

    def works() -> bool:
        try:
            return sandbox.exec("echo root", timeout_seconds=20).stdout == "root\n"
        except PandastackError:
            return False

    eventually(works, "the sandbox works again after root killed everything in it")

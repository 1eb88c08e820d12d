"""Where guests' DNS goes: the setting first, else what the host uses and a slot can reach."""

from __future__ import annotations

from ipaddress import IPv4Address
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from pandastackd.network.resolvers import choose_resolvers, parse_resolv_conf


def test_setting_wins(tmp_path: Path) -> None:
    file = tmp_path / "resolv.conf"
    file.write_text("nameserver 192.0.2.1\n")
    assert choose_resolvers([IPv4Address("192.0.2.9")], [file]) == (IPv4Address("192.0.2.9"),)


def test_a_stub_on_loopback_is_looked_behind(tmp_path: Path) -> None:
    stub, real = tmp_path / "stub", tmp_path / "real"
    stub.write_text("nameserver 127.0.0.53\noptions edns0\n")
    real.write_text("# comment\nnameserver 192.0.2.1 \nnameserver 2001:db8::1\nnameserver 192.0.2.2\n")
    assert choose_resolvers([], [stub, real]) == (IPv4Address("192.0.2.1"), IPv4Address("192.0.2.2"))


def test_none_to_be_found(tmp_path: Path) -> None:
    assert choose_resolvers([], [tmp_path / "missing"]) == ()


def test_at_most_three_each_once(tmp_path: Path) -> None:
    file = tmp_path / "resolv.conf"
    file.write_text("".join(f"nameserver 192.0.2.{n}\n" for n in (1, 1, 2, 3, 4)))
    assert [str(one) for one in choose_resolvers([], [file])] == ["192.0.2.1", "192.0.2.2", "192.0.2.3"]


@given(st.text())
def test_any_text_is_survived(text: str) -> None:
    assert all(not one.is_loopback for one in parse_resolv_conf(text))

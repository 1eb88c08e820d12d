"""Where keys are kept, and how. Needs nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from pandastackd.control import Control, Principal
from pandastackd.control.keys import AccessTokens
from pandastackd.errors import HostFailure, Unauthenticated

pytestmark = pytest.mark.anyio


async def test_the_admin_key_is_made_once_and_private(control: Control, tmp_path: Path) -> None:
    path = tmp_path / "admin.key"
    key = path.read_text().strip()
    assert path.stat().st_mode & 0o777 == 0o600
    assert key.startswith("pds_")
    assert len(key) == 36
    await control.keys.ensure_admin(path)
    assert path.read_text().strip() == key
    assert (await control.keys.authenticate(key)).workspace == "default"
    assert (await control.keys.authenticate(key.replace("pds_", "e2b_"))).label == "admin"


async def test_secrets_are_nowhere_in_the_database(
    control: Control, admin: Principal, tmp_path: Path
) -> None:
    secret, _ = await control.keys.create(admin, label="x")
    digits = secret.removeprefix("pds_")
    for file in tmp_path.glob("test.db*"):
        assert digits.encode() not in file.read_bytes()


async def test_a_revoked_admin_key_stays_revoked(control: Control, admin: Principal, tmp_path: Path) -> None:
    path = tmp_path / "admin.key"
    await control.keys.revoke(admin, admin.prefix)
    await control.keys.ensure_admin(path)
    with pytest.raises(Unauthenticated):
        await control.keys.authenticate(path.read_text())
    path.unlink()
    await control.keys.ensure_admin(path)
    assert (await control.keys.authenticate(path.read_text())).workspace == "default"


async def test_a_damaged_key_file_is_named(control: Control, tmp_path: Path) -> None:
    path = tmp_path / "admin.key"
    path.write_text("hello")
    with pytest.raises(HostFailure, match=r"admin\.key does not hold a key"):
        await control.keys.ensure_admin(path)


def test_access_tokens_are_derived_and_differ(tmp_path: Path) -> None:
    path = tmp_path / "secret.key"
    tokens = AccessTokens.from_file(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert tokens.of("a") == AccessTokens.from_file(path).of("a") != tokens.of("b")
    path.write_text("short")
    with pytest.raises(HostFailure):
        AccessTokens.from_file(path)

"""The OpenSSL provider of the guests, loaded into this machine's own OpenSSL.

Needs the program ``openssl`` of version 3 and the built library.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pandastackd.programs import find_program
from pandastackd.template.rootfs import settle

pytestmark = pytest.mark.needs("openssl")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """What ``settle`` gives a guest, with the library where it is here instead of there."""
    settle(tmp_path)
    config = tmp_path / "usr/lib/ssl/openssl.cnf"
    guest = config.read_text()
    library = str(find_program("libopenssl_random.so"))
    config.write_text(guest.replace("/run/pandastack/kernel-random.so", library))
    assert library in config.read_text()
    return config


def openssl(config: Path, *arguments: str) -> str:
    environment = {"OPENSSL_CONF": str(config), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(["openssl", *arguments], env=environment, capture_output=True, text=True)
    if "unknown option" in done.stderr.lower() or "invalid command" in done.stderr.lower():
        pytest.skip(f"this OpenSSL has no {' '.join(arguments)}")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_generator_of_a_process_is_the_kernel(config: Path) -> None:
    instances = openssl(config, "list", "-random-instances")
    assert instances.count("KERNEL-RANDOM @ kernel-random") == 3, instances
    assert instances.count("state = ready") == 3, instances
    assert "DRBG" not in instances


def test_the_provider_tells_who_it_is_beside_the_default_one(config: Path) -> None:
    providers = openssl(config, "list", "-providers", "-verbose")
    assert "Random bytes of the kernel" in providers
    assert "OpenSSL Default Provider" in providers
    assert providers.count("status: active") == 2


def test_keys_requests_of_any_size_and_signatures_work(config: Path) -> None:
    for size in (1, 255, 3 << 20):
        drawn = openssl(config, "rand", "-hex", str(size)).strip()
        assert len(drawn) == 2 * size
        assert size < 255 or drawn != openssl(config, "rand", "-hex", str(size)).strip()
    key = config.parent / "key.pem"
    key.write_text(openssl(config, "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"))
    request = openssl(config, "req", "-new", "-key", str(key), "-subj", "/CN=test", "-verify")
    assert "BEGIN CERTIFICATE REQUEST" in request

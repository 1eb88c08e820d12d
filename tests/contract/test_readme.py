"""The README's quick starts, each run as it stands there, against a whole platform with real microVMs.

Needs root, QEMU, the templates; those of other people's clients need the package registries, and are skipped without.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from mcp import StdioServerParameters
from mcp.client.client import Client as McpClient
from mcp.client.stdio import stdio_client

from tests.contract.clients import Client, OutOfReach, clients

ROOT = Path(__file__).parents[2]
PROGRAMS = Path(sys.executable).parent

pytestmark = [pytest.mark.needs("root", "qemu-system-x86_64"), pytest.mark.timeout(900)]


def block(language: str, word: str) -> str:
    """The one block of the section that is in ``language`` and has ``word``."""
    section = (ROOT / "README.md").read_text().partition("## Use it")[2].partition("\n## ")[0]
    found = re.findall(rf"^```{language}\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)
    (only,) = [text for text in found if word in text]
    return str(only)


def run(addresses: Mapping[str, str], folder: Path, *command: str | Path) -> str:
    """What a program prints that has our commands on its PATH and knows nothing but the server's address."""
    ours = {name: value for name, value in addresses.items() if name.startswith("PANDASTACK_")}
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=300,
        cwd=folder,
        check=False,
        env={"PATH": f"{PROGRAMS}:{os.environ['PATH']}", "HOME": str(folder), "LANG": "C.UTF-8", **ours},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def newest(registry: str) -> Client:
    """E2B's client of a registry."""
    return next(each for each in clients() if (each.registry, each.package) == (registry, "e2b"))


def install(client: Client, folder: Path) -> str | Path:
    try:
        return client.install(folder)
    except OutOfReach as error:
        pytest.skip(f"{client.name} cannot be installed: {error}")


def test_python(addresses: Mapping[str, str], tmp_path: Path) -> None:
    printed = run(addresses, tmp_path, sys.executable, "-c", block("python", "from pandastack"))
    assert printed == "1024\n\nforked\n\n"


@pytest.mark.needs("node", "npm")
def test_typescript(addresses: Mapping[str, str], tmp_path: Path) -> None:
    subprocess.run([ROOT / "scripts" / "node", "build"], check=True, capture_output=True)
    package = tmp_path / "node_modules" / "@pandastack" / "sdk"
    package.parent.mkdir(parents=True)
    package.symlink_to(ROOT / "sdk" / "typescript")
    (tmp_path / "start.mjs").write_text(block("ts", "@pandastack/sdk"))
    assert run(addresses, tmp_path, "node", "start.mjs") == "1024\n\n"


def test_command_line(addresses: Mapping[str, str], tmp_path: Path) -> None:
    printed = run(addresses, tmp_path, "bash", "-euc", block("sh", "pandastack sandbox create"))
    assert "\n1024\n" in printed


@pytest.mark.parametrize(("registry", "language"), [("pypi", "python"), ("npm", "js")])
def test_e2b(addresses: Mapping[str, str], tmp_path: Path, registry: str, language: str) -> None:
    interpreter = install(newest(registry), tmp_path)
    program = tmp_path / ("start.py" if language == "python" else "start.mjs")
    program.write_text(block(language, "e2b"))
    script = f'{block("sh", "E2B_API_URL")}\n"$0" "$1"'
    assert run(addresses, tmp_path, "bash", "-euc", script, interpreter, program) == "hello\n\n"


async def test_mcp(addresses: Mapping[str, str]) -> None:
    entry = json.loads(block("json", "mcpServers"))["mcpServers"]["pandastack"]
    env = {name: addresses[name] for name in entry["env"]}
    parameters = StdioServerParameters(command=str(PROGRAMS / entry["command"]), args=entry["args"], env=env)
    async with McpClient(stdio_client(parameters)) as client:
        made = await client.call_tool("create_sandbox", {})
        assert made.structured_content is not None, made.content
        sandbox = made.structured_content["sandbox_id"]
        ran = await client.call_tool("run_code", {"sandbox_id": sandbox, "code": "print(2 ** 10)"})
        assert ran.structured_content is not None, ran.content
        assert ran.structured_content["stdout"] == "1024\n"
        await client.call_tool("delete_sandbox", {"sandbox_id": sandbox})

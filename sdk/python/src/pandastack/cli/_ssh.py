"""``pandastack ssh``, ``ssh-config`` and ``ssh-proxy``: the system's own ssh, to a server that runs on demand.

No port is open in the sandbox and no daemon runs. ``ssh-proxy``, which ssh starts as its ProxyCommand, asks the
sandbox over the API for its host key, writes it where ssh looks for it, and carries ssh's bytes to an ``sshd -i``
that lives as long as the connection and knows one client key. So nobody is asked whether to trust a key, and
nobody has to: the host key came over the API, under the caller's own key.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pandastack import errors
from pandastack._config import config_path
from pandastack.cli import _ssh_server
from pandastack.cli._execute import PassThrough, status_of
from pandastack.cli._session import SandboxId, session
from pandastack.cli._shell import carry

if TYPE_CHECKING:
    from pandastack._sync._sandbox import Sandbox

NO_SSHD = 127


@dataclass(frozen=True)
class Files:
    """Where one connection's files are: the client's key and what it knows of the host."""

    key: Path
    known_hosts: Path

    @property
    def public_key(self) -> Path:
        """The public half of the client's key."""
        return self.key.with_name(self.key.name + ".pub")


def ssh(
    ctx: typer.Context,
    sandbox_id: SandboxId,
    command: Annotated[
        list[str] | None, typer.Argument(metavar="[SSH ARGUMENTS]...", show_default=False)
    ] = None,
) -> None:
    """Connect to a sandbox by ssh; what follows the id goes to ssh: options, or a command.

    The key pair is made for this connection and thrown away after it. `rsync -e 'pandastack ssh' a ID:b` works;
    for scp, sftp and editors see `pandastack ssh-config`.
    """
    with tempfile.TemporaryDirectory(prefix="pandastack-ssh-") as folder:
        files = Files(Path(folder) / "key", Path(folder) / "known_hosts")
        make_key(files.key)
        user = host_of(session(ctx).sandbox(sandbox_id)).user
        options = _options(ctx, sandbox_id, user, files)
        words = [word for name, value in options for word in ("-o", f"{name}={value}")]
        done = subprocess.run(["ssh", *words, sandbox_id, *(command or ())], check=False)
    raise typer.Exit(status_of(done.returncode))


def ssh_config(
    ctx: typer.Context,
    sandbox_id: SandboxId,
    name: Annotated[str | None, typer.Option(help="What the host is called; default: the id.")] = None,
) -> None:
    """Print a Host block for ~/.ssh/config, so that ssh, scp, sftp, rsync and editors reach a sandbox by name.

    Its key pair is made once and kept, readable by you only; it opens nothing without your API key.
    """
    folder = config_path().parent / "ssh"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    files = Files(folder / "id_ed25519", folder / f"known_hosts.{sandbox_id}")
    if not files.key.exists():
        make_key(files.key)
    user = host_of(session(ctx).sandbox(sandbox_id)).user
    typer.echo(f"Host {name or sandbox_id}")
    for option, value in (("HostName", sandbox_id), *_options(ctx, sandbox_id, user, files)):
        typer.echo(f"    {option} {value}")


def ssh_proxy(
    ctx: typer.Context,
    sandbox_id: SandboxId,
    public_key: Annotated[Path, typer.Option(help="The client key that may log in.")],
    known_hosts: Annotated[Path, typer.Option(help="Where ssh looks for the host's key.")],
) -> None:
    """Carry stdin and stdout to an ssh server in a sandbox; made to be ssh's ProxyCommand."""
    sandbox = session(ctx).sandbox(sandbox_id)
    host = host_of(sandbox)
    staged = known_hosts.with_name(f"{known_hosts.name}.{os.getpid()}")
    staged.write_text(f"{sandbox_id} {host.key}\n")
    staged.replace(known_hosts)
    client_key = public_key.read_text().strip()
    with sandbox.open_process(_ssh_server.serve(client_key)) as process, contextlib.suppress(BrokenPipeError):
        carry(process)


@dataclass(frozen=True)
class Host:
    """A sandbox as ssh knows it: who logs in, and its public host key."""

    user: str
    key: str


def host_of(sandbox: Sandbox) -> Host:
    """The sandbox's identity for ssh; its host key is made when it is first asked for.

    Raises:
        CommandFailed: its template has no ssh server.
    """
    done = sandbox.exec(_ssh_server.PREPARE, timeout_seconds=30)
    if done.exit_code == NO_SSHD:
        raise ValueError(
            "the sandbox has no ssh server: its template lacks the package openssh-server;"
            " `pandastack shell` needs none"
        )
    user, _, key = done.stdout.strip().partition("\n")
    if done.exit_code != 0 or not key.startswith("ssh-ed25519 ") or not user.isprintable() or "\n" in key:
        raise errors.CommandFailed(
            f"the sandbox could not prepare its ssh server: {done.stderr.strip()[-200:]}",
            exit_code=done.exit_code,
            stdout=done.stdout,
            stderr=done.stderr,
        )
    return Host(user, " ".join(key.split()[:2]))


def make_key(path: Path) -> None:
    """A new client key pair, readable by its owner only."""
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "pandastack", "-f", str(path)], check=True
    )


def _options(ctx: typer.Context, sandbox_id: str, user: str, files: Files) -> list[tuple[str, str]]:
    """How ssh reaches the sandbox and whom it trusts, by the names of ssh_config(5)."""
    api_url = session(ctx).api_url
    proxy = shlex.join(
        [
            *(sys.executable, "-m", "pandastack.cli"),
            *(("--api-url", api_url) if api_url else ()),
            *("ssh-proxy", "--public-key", str(files.public_key)),
            *("--known-hosts", str(files.known_hosts), sandbox_id),
        ]
    )
    return [
        ("User", user),
        ("ProxyCommand", proxy.replace("%", "%%")),
        ("IdentityFile", f'"{files.key}"'),
        ("IdentitiesOnly", "yes"),
        ("PreferredAuthentications", "publickey"),
        ("HostKeyAlias", sandbox_id),
        ("HostKeyAlgorithms", "ssh-ed25519"),
        ("UserKnownHostsFile", f'"{files.known_hosts}"'),
        ("GlobalKnownHostsFile", "/dev/null"),
        ("StrictHostKeyChecking", "yes"),
        ("UpdateHostKeys", "no"),
        ("ControlPath", "none"),
    ]


def register(app: typer.Typer, group: typer.Typer) -> None:
    """Add these commands to ``app``, and ``ssh`` to the commands about sandboxes."""
    app.command("ssh", cls=PassThrough)(ssh)
    group.command("ssh", cls=PassThrough)(ssh)
    app.command("ssh-config")(ssh_config)
    app.command("ssh-proxy", hidden=True)(ssh_proxy)

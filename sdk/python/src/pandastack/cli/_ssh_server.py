"""The sandbox's side of ``pandastack ssh``: two shell scripts that run there as the sandbox's user, not as root.

The host key belongs to the machine id, which every sandbox gets anew at its birth: a fork or a sandbox made of a
snapshot makes its own at first use and removes the one it came with.
"""

from __future__ import annotations

import shlex

_COMMON = r"""
set -eu
umask 077
sshd=$(command -v sshd || echo /usr/sbin/sshd)
base=$HOME/.cache/pandastack/ssh
dir=$base/$(cat /etc/machine-id)
"""

PREPARE = (
    _COMMON
    + r"""
[ -x "$sshd" ] || exit 127
mkdir -p "$base"
exec 9>"$base.lock"
flock 9
for old in "$base"/*; do
    [ "$old" = "$dir" ] || rm -rf "$old"
done
if [ ! -s "$dir/host_key.pub" ]; then
    rm -rf "$dir"
    mkdir "$dir"
    ssh-keygen -q -t ed25519 -N '' -C '' -f "$dir/host_key"
fi
find "$dir" -name 'client.*' -mmin +1 -delete
id -un
cat "$dir/host_key.pub"
"""
)
"""Prints who logs in, then the public host key; exit code 127 when there is no ssh server."""

# A server that is not root can let in only the user it runs as, which is all that is wanted.
_SERVE = r"""
keys=$(mktemp "$dir/client.XXXXXX")
trap 'rm -f "$keys"' EXIT
printf '%s\n' "$client_key" >"$keys"
"$sshd" -i -e -f /dev/null -o HostKey="$dir/host_key" -o AuthorizedKeysFile="$keys" \
    -o PubkeyAuthentication=yes -o PasswordAuthentication=no -o KbdInteractiveAuthentication=no \
    -o StrictModes=no -o PidFile=none -o LoginGraceTime=30 -o MaxAuthTries=3 -o LogLevel=ERROR \
    -o PrintMotd=no -o PrintLastLog=no -o X11Forwarding=no -o Subsystem='sftp internal-sftp' \
    -o AcceptEnv='LANG LC_* COLORTERM'
"""


def serve(client_key: str) -> str:
    """The script that serves one connection on its stdin and stdout, to the owner of ``client_key`` alone."""
    return f"client_key={shlex.quote(client_key)}\n{_COMMON}{_SERVE}"

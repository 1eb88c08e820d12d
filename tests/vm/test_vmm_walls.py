"""Each wall around a VMM process, tested on a real one.

First QEMU itself, as the driver starts it, looked at from the host; then programs in the same jail that try what a
VMM taken over by its guest would try. Needs root, QEMU, perl, tap devices and the built `pandastack-jail`.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pandastackd.errors import VmmFailed
from pandastackd.vmm.cgroups import Limits
from pandastackd.vmm.driver import VmmExit
from pandastackd.vmm.jail import CONSOLE_BYTES, LOG_BYTES, JailHome
from tests.vm.vmm_lab import MACHINE, Lab, console, eventually, is_running, lab, namespaces_of, status_of

pytestmark = [pytest.mark.anyio, pytest.mark.needs("root", "tun", "qemu-system-x86_64", "ip", "perl")]

PERL = "/usr/bin/perl"
MIB = 1 << 20
ROOMY = Limits(memory_bytes=256 * MIB, cpus=2, processes=50)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Lab]:
    """A lab for one test."""
    async with lab(tmp_path) as made:
        yield made


async def outcome(
    bench: Lab, script: str, limits: Limits = ROOMY, **wishes: object
) -> tuple[VmmExit, str, str]:
    """Run a perl script in the jail to its end: how it ended, its output, its complaints."""
    enclosure = bench.enclosure(f"script-{len(bench.enclosures)}")
    bench.jailed(enclosure, PERL, "-e", script, limits=limits, **wishes)
    home = JailHome(enclosure.home)
    await eventually(lambda: home.exit.read_text() != "", "the script ends")
    return home.read_exit(), home.console.read_text(), home.log.read_text()


# QEMU, as the driver starts it.


async def test_qemu_has_its_own_user_and_no_privilege(bench: Lab) -> None:
    enclosure = bench.enclosure("one")
    vmm = await bench.boot(enclosure)
    for task in Path(f"/proc/{vmm.pid}/task").iterdir():
        status = status_of(int(task.name))
        assert status["Uid"].split() == [str(enclosure.uid)] * 4
        assert status["Gid"].split() == [str(enclosure.uid)] * 4
        assert status["Groups"] == ""
        for capabilities in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert int(status[capabilities], 16) == 0, capabilities
        assert status["NoNewPrivs"] == "1"
        assert status["Seccomp"] == "2"


async def test_qemu_has_its_own_namespaces_and_the_network_of_its_slot(bench: Lab) -> None:
    vmm = await bench.boot(bench.enclosure("one"))
    ours, its = namespaces_of(os.getpid()), namespaces_of(vmm.pid)
    for kind in ("pid", "mnt", "ipc", "uts", "net"):
        assert its[kind] != ours[kind], kind
    assert its["net"] == Path("/run/netns", bench.netns).stat().st_ino
    assert status_of(vmm.pid)["NSpid"].split()[1:] == ["2"], "PID 1 of its namespace is the supervisor"


async def test_qemu_sees_no_file_of_the_host_but_programs_and_libraries(bench: Lab) -> None:
    enclosure, other = bench.enclosure("one"), bench.enclosure("other")
    database = bench.folder / "pandastack.db"
    sqlite3.connect(database).close()
    vmm = await bench.boot(enclosure)
    root = Path(f"/proc/{vmm.pid}/root")
    assert {entry.name for entry in root.iterdir()} <= {
        "dev",
        "etc",
        "lib",
        "lib32",
        "lib64",
        "libx32",
        "usr",
        "vm",
    }
    assert {entry.name for entry in (root / "etc").iterdir()} == {"ld.so.cache"}
    assert {entry.name for entry in (root / "dev").iterdir()} == {"null", "zero", "urandom"}
    assert {entry.name for entry in (root / "vm").iterdir()} == {"kernel", "initrd"}
    hidden = [
        other.disk,
        other.memory,
        database,
        enclosure.home,
        enclosure.disk,
        Path("/root"),
        Path("/proc/1"),
        Path("/sys"),
    ]
    for path in hidden:
        assert path.exists() or path == enclosure.home
        assert not (root / path.relative_to("/")).exists(), path


async def test_qemu_can_write_nothing_but_its_disk_and_devices(bench: Lab) -> None:
    memory, state, _ = await bench.baked()
    enclosure = bench.enclosure("one", memory=memory)
    vmm = await bench.driver.restore(MACHINE, enclosure, state=state)
    for line in Path(f"/proc/{vmm.pid}/mounts").read_text().splitlines():
        _, where, _, options, *_ = line.split(" ")
        assert where.startswith("/dev/") or "ro" in options.split(","), line
        assert "nosuid" in options.split(","), line
    writable = set()
    for descriptor in Path(f"/proc/{vmm.pid}/fd").iterdir():
        target = str(descriptor.readlink())
        flags = int(
            Path(f"/proc/{vmm.pid}/fdinfo/{descriptor.name}").read_text().split("flags:\t")[1].split()[0], 8
        )
        if target.startswith("/") and flags & os.O_ACCMODE != os.O_RDONLY:
            writable.add(target)
    assert writable == {str(enclosure.disk), "/dev/net/tun", "/dev/null"}


async def test_the_files_of_a_sandbox_stay_closed_to_its_vmm(bench: Lab) -> None:
    enclosure = bench.enclosure("one")
    await bench.boot(enclosure)
    for path in (enclosure.disk, enclosure.memory, *enclosure.home.iterdir()):
        status = path.stat()
        assert (status.st_uid, status.st_mode & 0o077) == (0, 0), path


async def test_limits_of_a_vmm_are_written(bench: Lab) -> None:
    enclosure = bench.enclosure("one")
    vmm = await bench.boot(enclosure)
    cgroup = bench.tree.get(enclosure.cgroup)
    assert vmm.pid in cgroup.pids()
    written = {
        file.name: file.read_text().strip()
        for directory in cgroup.directories
        for file in directory.iterdir()
        if file.name
        in {
            "memory.max",
            "memory.limit_in_bytes",
            "pids.max",
            "cpu.max",
            "cpu.cfs_quota_us",
            "cpu.cfs_period_us",
        }
    }
    memory = (MACHINE.memory_mib + enclosure.overhead_mib) * MIB
    assert written.get("memory.max", written.get("memory.limit_in_bytes")) == str(memory)
    assert 0 < int(written["pids.max"]) < 200
    quota, period = written.get("cpu.max", "").split() or (
        written["cpu.cfs_quota_us"],
        written["cpu.cfs_period_us"],
    )
    assert int(quota) / int(period) == MACHINE.vcpus + 0.5


# What a VMM that was taken over would try.


async def test_the_jailed_have_no_way_out_by_files(bench: Lab) -> None:
    end, said, _ = await outcome(
        bench,
        """
        for my $path ("/usr/x", "/x", "/dev/x", "/etc/x", "/tmp/x", "/usr/bin/perl") {
            print "wrote $path\\n" if open(my $file, ">>", $path);
        }
        for my $path ("/proc/self/status", "/proc/1/status", "/sys/kernel", "/etc/shadow", "/root", "/run") {
            print "found $path\\n" if -e $path;
        }
        mkdir "/dev/y" and print "made\\n";
        chroot "/usr" and print "chroot\\n";
        my ($none, $usr, $tmpfs) = ("none", "/usr", "tmpfs");
        syscall(165, $none, $usr, $tmpfs, 0, 0) == 0 and print "mounted\\n";
        print "done $> $)\\n";
        """,
    )
    assert said.startswith("done "), said
    assert end.code == 0


async def test_the_jailed_gain_nothing_from_setuid_programs(bench: Lab) -> None:
    end, said, _ = await outcome(bench, 'system("/usr/bin/su", "-c", "id -u"); print "still $>\\n"; exit 3')
    assert said.endswith(f"still {bench.enclosures[-1].uid}\n")
    assert end.code == 3


async def test_the_jailed_cannot_kill_or_trace_their_supervisor(bench: Lab) -> None:
    script = (
        'kill("KILL", 1); kill("KILL", -1); print "traced\\n" if syscall(101, 16, 1, 0, 0) == 0; sleep 60'
    )
    enclosure = bench.enclosure("one")
    jailed, _ = bench.jailed(enclosure, PERL, "-e", script, limits=ROOMY)
    await eventually(lambda: status_of(jailed.process.pid)["State"].startswith("S"), "the script sleeps")
    assert is_running(jailed.supervisor.pid)
    assert console(enclosure) == ""


async def test_the_supervisor_is_as_unprivileged_as_what_it_watches(bench: Lab) -> None:
    enclosure = bench.enclosure("one")
    jailed, _ = bench.jailed(enclosure, PERL, "-e", "sleep 60", limits=ROOMY)
    status = status_of(jailed.supervisor.pid)
    assert status["Uid"].split() == [str(enclosure.uid)] * 4
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
    assert status["NoNewPrivs"] == "1"
    root = Path(f"/proc/{jailed.supervisor.pid}/root")
    assert not (root / str(enclosure.disk.relative_to("/"))).exists()
    open_files = {str(fd.readlink()) for fd in Path(f"/proc/{jailed.supervisor.pid}/fd").iterdir()}
    home = JailHome(enclosure.home)
    assert {name for name in open_files if name.startswith("/")} == {
        "/dev/null",
        *map(str, (home.console, home.log, home.exit)),
    }


async def test_a_served_file_is_read_only_unless_it_is_shared(bench: Lab) -> None:
    secret = bench.folder / "template-memory"
    secret.write_bytes(b"pages")
    secret.chmod(0o600)
    script = """
        use Fcntl;
        sysopen(my $file, "/vm/memory", O_RDWR) or die "open: $!";
        sysread($file, my $text, 5); print "$text\\n";
        print defined(syswrite($file, "x")) ? "written\\n" : "refused\\n";
        print "another\\n" if sysopen(my $other, "/vm/memorY", O_RDWR) or sysopen($other, "/usr/bin/perl", O_RDWR);
    """
    _, said, _ = await outcome(bench, script, served=[("/vm/memory", secret, False)])
    assert said == "pages\nrefused\n"
    assert secret.read_bytes() == b"pages"
    _, said, _ = await outcome(bench, script, served=[("/vm/memory", secret, True)])
    assert said == "pages\nwritten\n"
    assert secret.read_bytes() == b"pagesx"


async def test_a_fork_bomb_stops_at_the_limit(bench: Lab) -> None:
    limits = Limits(memory_bytes=256 * MIB, cpus=1, processes=20)
    script = """
        my $n = 0;
        while ($n < 1000) { my $pid = fork; last if !defined $pid; $n++; if (!$pid) { sleep 60 } }
        print $n;
    """
    end, said, _ = await outcome(bench, script, limits)
    assert end.code == 0
    assert 0 < int(said) < 20
    cgroup = bench.tree.get(bench.enclosures[-1].cgroup)
    await eventually(lambda: not cgroup.pids(), "the children end with the process that made them")


async def test_memory_beyond_the_limit_kills_the_process_and_only_it(bench: Lab) -> None:
    limits = Limits(memory_bytes=48 * MIB, cpus=1, processes=20)
    neighbour = bench.enclosure("neighbour")
    jailed, _ = bench.jailed(neighbour, PERL, "-e", "sleep 60", limits=ROOMY)
    end, said, _ = await outcome(
        bench, 'my @a; push @a, "x" x (1 << 20) . $_ for 1 .. 500; print "kept"', limits
    )
    assert (end.signal, said) == (signal.SIGKILL, "")
    assert is_running(jailed.process.pid)


async def test_a_busy_loop_gets_no_more_than_its_share(bench: Lab) -> None:
    limits = Limits(memory_bytes=64 * MIB, cpus=0.2, processes=20)
    begun = time.monotonic()
    _, said, _ = await outcome(
        bench, "my $end = time + 3; while (time < $end) { } my @t = times; print $t[0] + $t[1]", limits
    )
    assert float(said) / (time.monotonic() - begun) < 0.35


async def test_output_without_end_is_kept_bounded_and_its_newest_part_survives(bench: Lab) -> None:
    script = '$| = 1; for (1 .. 60000) { print "console $_ ", "x" x 20, "\\n"; print STDERR "log $_\\n" } '
    end, said, complaints = await outcome(bench, script)
    assert end.code == 0
    assert CONSOLE_BYTES / 3 < len(said) <= CONSOLE_BYTES
    assert len(complaints) <= LOG_BYTES
    assert said.endswith("console 60000 xxxxxxxxxxxxxxxxxxxx\n")
    assert complaints.endswith("log 60000\n")


async def test_a_program_that_cannot_be_run_is_reported(bench: Lab) -> None:
    enclosure = bench.enclosure("one")
    with pytest.raises(VmmFailed, match="execute /usr/bin/none-such"):
        bench.jailed(enclosure, "/usr/bin/none-such", limits=ROOMY)
    assert bench.tree.get(enclosure.cgroup).pids() == set()
    assert JailHome(enclosure.home).read_pids() is None


async def test_killing_the_supervisor_ends_everything_below_it(bench: Lab) -> None:
    enclosure = bench.enclosure("one")
    jailed, cgroup = bench.jailed(enclosure, PERL, "-e", "fork; fork; setpgrp; sleep 60", limits=ROOMY)
    await eventually(lambda: len(cgroup.pids()) == 5, "the supervisor and four processes run")
    os.kill(jailed.supervisor.pid, signal.SIGKILL)
    await eventually(lambda: not cgroup.pids(), "all of them end")


async def test_the_jailed_inherit_nothing_they_were_not_given(bench: Lab) -> None:
    leak = os.open(bench.folder, os.O_RDONLY)
    os.set_inheritable(leak, True)
    try:
        jailed, _ = bench.jailed(bench.enclosure("one"), PERL, "-e", "print %ENV; sleep 60", limits=ROOMY)
    finally:
        os.close(leak)
    await eventually(lambda: status_of(jailed.process.pid)["State"].startswith("S"), "the script sleeps")
    assert {fd.name for fd in Path(f"/proc/{jailed.process.pid}/fd").iterdir()} == {"0", "1", "2"}
    assert Path(f"/proc/{jailed.process.pid}/environ").read_bytes() == b""

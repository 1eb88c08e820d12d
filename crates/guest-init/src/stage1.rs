//! Stage 1, in the initramfs: from no disk to the switched root.

use std::convert::Infallible;
use std::ffi::CString;
use std::fs::{self, File};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};
use nix::mount::{MsFlags, mount};
use nix::unistd::{chdir, chroot, execv};

use crate::failure::{Context, Failure};
use crate::{CARRIED, STAGE2, console};

const DISK: &str = "/dev/vda";
const DISK_DEADLINE: Duration = Duration::from_secs(10);
const NEW_ROOT: &str = "/newroot";
/// What the initramfs carries for the running sandbox: (where it is, its name afterwards).
const CARGO: [(&str, &str); 3] = [
    ("/init", "init"),
    ("/guest-agent", "guest-agent"),
    ("/kernel-random.so", "kernel-random.so"),
];

/// Runs stage 1; comes back only when something failed.
pub fn run() -> Result<Infallible, Failure> {
    pseudo("devtmpfs", "/dev", MsFlags::MS_NOSUID)?;
    console::attach().doing("open the console")?;
    pseudo(
        "proc",
        "/proc",
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
    )?;
    pseudo(
        "sysfs",
        "/sys",
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
    )?;
    load_modules(Path::new("/modules"), Path::new("/modules.list"))?;
    wait_for_disk()?;
    mount_disk()?;
    carry_over()?;
    switch_root()?;
    start_stage2()
}

fn pseudo(kind: &str, target: &str, flags: MsFlags) -> Result<(), Failure> {
    fs::create_dir_all(target).doing(format_args!("make {target}"))?;
    mount(Some(kind), target, Some(kind), flags, None::<&str>)
        .doing(format_args!("mount {kind} on {target}"))
}

/// Loads the files that `list` names, in its order: each comes after those it depends on.
fn load_modules(directory: &Path, list: &Path) -> Result<(), Failure> {
    let names = fs::read_to_string(list).doing(format_args!("read {}", list.display()))?;
    for name in names.lines().filter(|name| !name.is_empty()) {
        let path = directory.join(name);
        let file = File::open(&path).doing(format_args!("open the module {}", path.display()))?;
        match finit_module(&file, c"", ModuleInitFlags::empty()) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(error) => return Err(error).doing(format_args!("load the module {name}")),
        }
    }
    Ok(())
}

fn wait_for_disk() -> Result<(), Failure> {
    let start = Instant::now();
    while !fs::metadata(DISK).is_ok_and(|disk| disk.file_type().is_block_device()) {
        if start.elapsed() > DISK_DEADLINE {
            return Err(Failure::new(format!(
                "the disk {DISK} did not appear within {DISK_DEADLINE:?}"
            )));
        }
        sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn mount_disk() -> Result<(), Failure> {
    fs::create_dir_all(NEW_ROOT).doing(format_args!("make {NEW_ROOT}"))?;
    // noatime: reading a file must not make a restored sandbox's disk differ from its template's.
    mount(
        Some(DISK),
        NEW_ROOT,
        Some("ext4"),
        MsFlags::MS_NOATIME,
        Some("errors=remount-ro"),
    )
    .doing(format_args!("mount the disk {DISK} as ext4"))
}

/// Copies what we brought to a tmpfs of the new root, which does not contain it itself.
fn carry_over() -> Result<(), Failure> {
    let run = format!("{NEW_ROOT}/run");
    fs::create_dir_all(&run).doing(format_args!("make {run}"))?;
    mount(
        Some("tmpfs"),
        run.as_str(),
        Some("tmpfs"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        Some("mode=0755,size=25%"),
    )
    .doing(format_args!("mount a tmpfs on {run}"))?;
    let carried = format!("{NEW_ROOT}{CARRIED}");
    fs::create_dir(&carried).doing(format_args!("make {carried}"))?;
    for (from, name) in CARGO {
        let to = format!("{carried}/{name}");
        fs::copy(from, &to).doing(format_args!("copy {from} to {to}"))?;
        fs::set_permissions(&to, fs::Permissions::from_mode(0o555))
            .doing(format_args!("make {to} executable"))?;
    }
    Ok(())
}

/// Makes the disk the root, after freeing the memory that the initramfs takes.
fn switch_root() -> Result<(), Failure> {
    for name in ["dev", "proc", "sys"] {
        let (from, to) = (format!("/{name}"), format!("{NEW_ROOT}/{name}"));
        fs::create_dir_all(&to).doing(format_args!("make {to}"))?;
        mount(
            Some(from.as_str()),
            to.as_str(),
            None::<&str>,
            MsFlags::MS_MOVE,
            None::<&str>,
        )
        .doing(format_args!("move {from} to {to}"))?;
    }
    let _ = fs::remove_dir_all("/modules");
    let _ = fs::remove_file("/modules.list");
    for (file, _) in CARGO {
        let _ = fs::remove_file(file);
    }
    chdir(NEW_ROOT).doing(format_args!("enter {NEW_ROOT}"))?;
    mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>)
        .doing("move the disk to the root")?;
    chroot(".").doing("make the disk the root")?;
    chdir("/").doing("enter the new root")
}

fn start_stage2() -> Result<Infallible, Failure> {
    let program = format!("{CARRIED}/init");
    let path = CString::new(program.as_str()).doing("name the second stage")?;
    let stage = CString::new(STAGE2).doing("name the second stage")?;
    execv(&path, &[path.as_c_str(), stage.as_c_str()]).doing(format_args!("start {program}"))
}

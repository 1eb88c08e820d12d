//! `POST /init`: makes a machine that came out of a snapshot this machine and no other.
//!
//! Clock, random pool, host name, machine id and open connections all come out of a snapshot as they were baked. No
//! subprocess and no thread is used: a create waits for this.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write},
    os::{
        fd::AsRawFd,
        unix::fs::{OpenOptionsExt, fchown},
    },
    path::Path,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use rustix::time::{ClockId, Timespec, clock_settime};
use serde::Deserialize;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{
    agent::Agent,
    error::{Error, Result},
    sockets,
    user::User,
};

/// What to set; an absent field leaves things as they are.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InitRequest {
    /// Host name, a label of at most 63 letters, digits, dots and hyphens.
    pub hostname: Option<String>,
    /// Machine id, 32 hexadecimal digits (hyphens are taken out).
    pub machine_id: Option<String>,
    /// Present time: RFC 3339 text, or nanoseconds since 1970 as a number or text.
    pub timestamp: Option<serde_json::Value>,
    /// Random bytes in base64, credited to the kernel's pool.
    pub entropy: Option<String>,
    /// Variables for every process from now on; added to those set before.
    pub env_vars: Option<BTreeMap<String, String>>,
    /// The token the public side demands from now on; empty takes it away.
    pub access_token: Option<String>,
    /// User of requests that name none; empty means the usual default.
    pub default_user: Option<String>,
    /// Where relative paths start; empty means the user's home.
    pub default_workdir: Option<String>,
    /// Whether to end every TCP connection that leaves the machine.
    #[serde(default)]
    pub reset_connections: bool,
}

/// Does everything the request asks for, and tells what the kernel could not do but a sandbox can live without.
///
/// Effects on failure: every step is tried, the failed ones are named in the error.
///
/// # Errors
/// `invalid_argument` before anything is done, `internal` with the list of failed steps.
pub fn apply(agent: &Agent, request: InitRequest) -> Result<Option<String>> {
    let time = request.timestamp.as_ref().map(moment).transpose()?;
    let entropy = request.entropy.as_deref().map(decode_entropy).transpose()?;
    let hostname = request
        .hostname
        .as_deref()
        .map(check_hostname)
        .transpose()?;
    let machine_id = request
        .machine_id
        .as_deref()
        .map(check_machine_id)
        .transpose()?;
    check_env(request.env_vars.as_ref())?;

    let mut failed = Vec::new();
    let mut step = |name: &str, result: io::Result<()>| {
        if let Err(error) = result {
            failed.push(format!("{name}: {error}"));
        }
    };
    if let Some(time) = time {
        step(
            "set the clock",
            clock_settime(ClockId::Realtime, time).map_err(Into::into),
        );
    }
    if let Some(entropy) = entropy {
        step("seed the random pool", seed(&entropy));
    }
    if let Some(hostname) = hostname {
        let set = rustix::system::sethostname(hostname.as_bytes());
        step("set the host name", set.map_err(Into::into));
    }
    let mut warning = None;
    if request.reset_connections {
        agent.reborn.notify_waiters();
        match sockets::reset(agent.netns.as_ref()) {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                warning = Some(format!("connections were not reset: {error}"));
            }
            result => step("reset connections", result.map(|_| ())),
        }
    }
    let hostname = hostname.map(str::to_owned);
    settle(
        agent,
        request.env_vars,
        request.access_token,
        request.default_user,
        request.default_workdir,
    );
    let settings = agent.settings.borrow();
    agent.unwritten.replace(Some(IdentityFiles {
        hostname,
        // Only a machine that becomes another one has processes that do not know its environment.
        env: machine_id.is_some().then(|| settings.env.clone()),
        user: settings.default_user.clone(),
        machine_id,
    }));
    if failed.is_empty() {
        Ok(warning)
    } else {
        Err(Error::internal(format!(
            "cannot {}",
            failed.join("; cannot ")
        )))
    }
}

/// The files that repeat what the kernel knows already.
///
/// Writing them takes a freshly restored, emulated machine longer than all the rest of `/init`, and nobody can see them before
/// the answer: so they are written right after it, and before any other request is looked at (see `Agent::settled`).
#[derive(Debug)]
pub struct IdentityFiles {
    hostname: Option<String>,
    machine_id: Option<String>,
    env: Option<BTreeMap<String, String>>,
    user: Option<String>,
}

impl IdentityFiles {
    /// Writes them; what cannot be written is told on the console, since nobody waits for an answer any more.
    pub fn write(self) {
        // The machine id comes last: whoever sees a new one finds the rest new, too.
        let env = self
            .env
            .map_or(Ok(()), |env| write_env(&env, self.user.as_deref()));
        let hostname = self.hostname.map_or(Ok(()), |name| write_hostname(&name));
        let machine_id = self.machine_id.map_or(Ok(()), |id| write_machine_id(&id));
        for (what, result) in [
            ("environment", env),
            ("host name", hostname),
            ("machine id", machine_id),
        ] {
            if let Err(error) = result {
                eprintln!("guest-agent: cannot write the {what}: {error}");
            }
        }
    }
}

fn settle(
    agent: &Agent,
    env: Option<BTreeMap<String, String>>,
    token: Option<String>,
    user: Option<String>,
    workdir: Option<String>,
) {
    let mut settings = agent.settings.borrow_mut();
    settings.env.extend(env.unwrap_or_default());
    let update = |slot: &mut Option<String>, value: Option<String>| {
        if let Some(value) = value {
            *slot = Some(value).filter(|value| !value.is_empty());
        }
    };
    update(&mut settings.access_token, token);
    update(&mut settings.default_user, user);
    update(&mut settings.default_workdir, workdir);
}

fn moment(value: &serde_json::Value) -> Result<Timespec> {
    let wrong = || Error::invalid("'timestamp' must be RFC 3339 text or nanoseconds since 1970");
    let nanos = match value {
        serde_json::Value::Number(number) => number.as_i64().map(i128::from).ok_or_else(wrong)?,
        serde_json::Value::String(text) => match text.parse::<i64>() {
            Ok(nanos) => i128::from(nanos),
            Err(_) => OffsetDateTime::parse(text, &Rfc3339)
                .map_err(|_| wrong())?
                .unix_timestamp_nanos(),
        },
        _ => return Err(wrong()),
    };
    let part = |value: i128| i64::try_from(value).map_err(|_| wrong());
    Ok(Timespec {
        tv_sec: part(nanos.div_euclid(1_000_000_000))?,
        tv_nsec: part(nanos.rem_euclid(1_000_000_000))?,
    })
}

fn decode_entropy(text: &str) -> Result<Vec<u8>> {
    BASE64_STANDARD
        .decode(text)
        .ok()
        .filter(|bytes| (1..=4096).contains(&bytes.len()))
        .ok_or_else(|| Error::invalid("'entropy' must be base64 of 1 to 4096 bytes"))
}

fn check_hostname(name: &str) -> Result<&str> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
    if (1..=63).contains(&name.len()) && name.bytes().all(fits) && !name.starts_with(['-', '.']) {
        return Ok(name);
    }
    Err(Error::invalid(
        "'hostname' must be 1 to 63 letters, digits, dots and hyphens",
    ))
}

fn check_machine_id(id: &str) -> Result<String> {
    let plain: String = id.chars().filter(|character| *character != '-').collect();
    if plain.len() == 32 && plain.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(plain.to_ascii_lowercase());
    }
    Err(Error::invalid("'machineId' must be 32 hexadecimal digits"))
}

fn check_env(env: Option<&BTreeMap<String, String>>) -> Result<()> {
    let wrong = |(name, value): &(&String, &String)| {
        name.is_empty() || name.contains(['=', '\0']) || value.contains('\0')
    };
    match env.into_iter().flatten().find(wrong) {
        Some((name, _)) => Err(Error::invalid(format!(
            "'{name}' cannot be an environment variable"
        ))),
        None => Ok(()),
    }
}

/// Credits `entropy` to the kernel's pool and makes its generator start anew from it.
fn seed(entropy: &[u8]) -> io::Result<()> {
    const RNDADDENTROPY: libc::Ioctl = 0x4008_5203;
    const RNDRESEEDCRNG: libc::Ioctl = 0x5207;
    let pool = File::options().write(true).open("/dev/urandom")?;
    // The kernel's `rand_pool_info`: bits of entropy, bytes, the bytes.
    let length = i32::try_from(entropy.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut info = Vec::with_capacity(8 + entropy.len());
    info.extend_from_slice(&(length * 8).to_ne_bytes());
    info.extend_from_slice(&length.to_ne_bytes());
    info.extend_from_slice(entropy);
    // SAFETY: the first call reads eight bytes and as many more as they say, which `info` holds; the second takes
    // no argument. The descriptor is open for the time of both.
    let results = unsafe {
        [
            libc::ioctl(pool.as_raw_fd(), RNDADDENTROPY, info.as_ptr()),
            libc::ioctl(pool.as_raw_fd(), RNDRESEEDCRNG),
        ]
    };
    if results == [0, 0] {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn write_machine_id(id: &str) -> io::Result<()> {
    let line = format!("{id}\n");
    overwrite(Path::new("/etc/machine-id"), &line)?;
    // A link here points at /etc/machine-id; only a copy needs the new id as well.
    let copy = Path::new("/var/lib/dbus/machine-id");
    if fs::symlink_metadata(copy).is_ok_and(|copy| copy.is_file()) {
        overwrite(copy, &line)
    } else {
        Ok(())
    }
}

/// Tells the environment to processes that were started before the machine was this one, such as interpreters.
fn write_env(env: &BTreeMap<String, String>, user: Option<&str>) -> io::Result<()> {
    let staged = Path::new("/run/sandbox-env.json.new");
    let mut file = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(staged)?;
    file.write_all(&serde_json::to_vec(env)?)?;
    if let Ok(owner) = User::default(user) {
        fchown(&file, Some(owner.uid), Some(owner.gid))?;
    }
    fs::rename(staged, "/run/sandbox-env.json")
}

fn write_hostname(name: &str) -> io::Result<()> {
    overwrite(Path::new("/etc/hostname"), &format!("{name}\n"))?;
    let hosts = Path::new("/etc/hosts");
    overwrite(
        hosts,
        &hosts_with(&fs::read_to_string(hosts).unwrap_or_default(), name),
    )
}

/// The hosts file with `name` at the address Debian gives a host's own name, in place of a former name.
fn hosts_with(hosts: &str, name: &str) -> String {
    let own = |line: &&str| line.split_whitespace().next() == Some("127.0.1.1");
    let mut lines: Vec<&str> = hosts.lines().filter(|line| !own(line)).collect();
    if !lines
        .iter()
        .any(|line| line.split_whitespace().next() == Some("127.0.0.1"))
    {
        lines.insert(0, "127.0.0.1\tlocalhost");
    }
    format!("{}\n127.0.1.1\t{name}\n", lines.join("\n"))
}

/// Makes `text` the content of a file, in place: a file that keeps its length keeps its block on the disk, and cutting it
/// down first would cost an emulated machine more than writing it.
fn overwrite(path: &Path, text: &str) -> io::Result<()> {
    let mut file = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)?;
    file.write_all(text.as_bytes())?;
    let length = u64::try_from(text.len()).unwrap_or(u64::MAX);
    if file.metadata()?.len() == length {
        return Ok(());
    }
    file.set_len(length)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn reads_moments() {
        let expected = (1_700_000_000, 500_000_000);
        for value in [
            json!("2023-11-14T22:13:20.5Z"),
            json!(1_700_000_000_500_000_000_i64),
            json!("1700000000500000000"),
        ] {
            let time = moment(&value).expect("valid");
            assert_eq!((time.tv_sec, time.tv_nsec), expected);
        }
        assert!(moment(&json!("yesterday")).is_err());
        assert!(moment(&json!([])).is_err());
    }

    #[test]
    fn keeps_other_hosts() {
        let hosts = "127.0.0.1\tlocalhost\n127.0.1.1\told\n10.0.0.1 db\n";
        let expected = "127.0.0.1\tlocalhost\n10.0.0.1 db\n127.0.1.1\tnew\n";
        assert_eq!(hosts_with(hosts, "new"), expected);
        assert_eq!(hosts_with(expected, "new"), expected);
        assert_eq!(hosts_with("", "a"), "127.0.0.1\tlocalhost\n127.0.1.1\ta\n");
    }

    #[test]
    fn overwrites_with_shorter_and_longer_text() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        for text in ["old-name\n", "new-name\n", "longer-name\n", "x\n", ""] {
            overwrite(file.path(), text).expect("it is written");
            assert_eq!(fs::read_to_string(file.path()).expect("it is read"), text);
        }
    }

    #[test]
    fn refuses_what_cannot_be() {
        assert!(check_hostname("sb-1.x").is_ok());
        for bad in ["", "-a", "a b", "a\n", &"x".repeat(64)] {
            assert!(check_hostname(bad).is_err(), "{bad}");
        }
        let id = "0123456789ABCDEF0123456789abcdef";
        assert_eq!(check_machine_id(id).expect("valid"), id.to_lowercase());
        assert!(check_machine_id("12").is_err());
        assert!(decode_entropy("").is_err());
    }
}

//! One watched directory: the kernel's inotify events turned into what clients expect.
//!
//! Clients know the events of Go's fsnotify: CREATE, WRITE, REMOVE, RENAME (the old name), CHMOD. Uploads of this agent
//! replace files by renaming a hidden one; a watcher shows them as the plain write they are for the client. In a
//! recursive watch new directories are watched as they appear; what already lies in them by then is told as created.

use std::{
    collections::HashMap,
    ffi::OsStr,
    fs, io,
    mem::MaybeUninit,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd, RawFd},
        unix::ffi::OsStrExt,
    },
    sync::{Arc, Mutex, PoisonError},
};

use rustix::{
    fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags},
    io::Errno,
};
use serde::{Deserialize, Serialize};

use super::entry::{EntryInfo, describe};
use crate::{
    as_user,
    error::{Code, Error, Result},
    files::sink::{PREFIX, REPLACES},
    user::{Names, User},
    watched::{Watched, watched},
};

/// `WatchDir` and `CreateWatcher`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WatchRequest {
    /// Directory.
    pub path: String,
    /// Whether directories below it are watched too.
    pub recursive: bool,
    /// Whether events carry the entry they are about.
    #[serde(alias = "include_entry")]
    pub include_entry: bool,
    /// Whether the directory may lie on a network file system, where events can be missed.
    #[serde(alias = "allow_network_mounts")]
    pub allow_network_mounts: bool,
}

/// `FilesystemEvent`.
#[derive(Clone, Debug, Serialize)]
pub struct Event {
    /// Path relative to the watched directory.
    pub name: String,
    /// What happened.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// What lies there now, if it was asked for and something does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entry: Option<EntryInfo>,
}

const CREATE: &str = "EVENT_TYPE_CREATE";
const WRITE: &str = "EVENT_TYPE_WRITE";
const REMOVE: &str = "EVENT_TYPE_REMOVE";
const RENAME: &str = "EVENT_TYPE_RENAME";
const CHMOD: &str = "EVENT_TYPE_CHMOD";

/// File systems whose other users' changes the kernel does not see: NFS, SMB, CIFS, SMB2, FUSE.
const NETWORK: [i64; 5] = [0x6969, 0x517B, 0xFF53_4D42, 0xFE53_4D42, 0x6573_5546];

/// A directory under watch.
pub struct Watch {
    fd: Watched,
    state: Arc<Mutex<State>>,
    user: User,
    turn: tokio::sync::Mutex<()>,
}

struct State {
    fd: OwnedFd,
    root: String,
    recursive: bool,
    include_entry: bool,
    /// Path below the root of each watched directory; the root's is empty.
    folders: HashMap<i32, String>,
    /// Finished uploads between their two events: whether they replaced a file.
    uploads: HashMap<u32, bool>,
}

/// A watch on its way from one build of the agent to the next.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Saved {
    /// The kernel's queue of events, with every watch in it.
    pub fd: RawFd,
    root: String,
    recursive: bool,
    include_entry: bool,
    folders: HashMap<i32, String>,
    uploads: HashMap<u32, bool>,
    user: Option<User>,
}

struct Raw {
    folder: i32,
    flags: ReadFlags,
    cookie: u32,
    name: String,
}

impl Watch {
    /// Starts to watch `path` as `user`.
    ///
    /// # Errors
    /// `not_found`, `invalid_argument` for what is no directory or lies on a network mount, `resource_exhausted` at
    /// the kernel's limits.
    pub async fn open(path: String, request: &WatchRequest, user: User) -> Result<Self> {
        let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)
            .map_err(|error| limit(error, &path))?;
        let broken = |error: io::Error| {
            Error::internal(format!("cannot wait for file system events: {error}"))
        };
        let mut state = State {
            fd: fd.try_clone().map_err(broken)?,
            root: path,
            recursive: request.recursive,
            include_entry: request.include_entry,
            folders: HashMap::new(),
            uploads: HashMap::new(),
        };
        let allow_network = request.allow_network_mounts;
        let state = as_user::run(&user, move || {
            state.begin(allow_network)?;
            Ok(state)
        })
        .await?;
        Ok(Self {
            fd: watched(fd).map_err(broken)?,
            state: Arc::new(Mutex::new(state)),
            user,
            turn: tokio::sync::Mutex::default(),
        })
    }

    /// What a successor of the agent needs to go on; `None` while somebody works with it. The queue stays ours.
    pub fn save(&self) -> Option<Saved> {
        let state = self.state.try_lock().ok()?;
        Some(Saved {
            fd: self.fd.get_ref().as_raw_fd(),
            root: state.root.clone(),
            recursive: state.recursive,
            include_entry: state.include_entry,
            folders: state.folders.clone(),
            uploads: state.uploads.clone(),
            user: Some(self.user.clone()),
        })
    }

    /// Goes on where a predecessor stopped; `fd` is its queue of events.
    ///
    /// # Errors
    /// `internal` when the queue cannot be waited for.
    pub fn resume(saved: Saved, fd: OwnedFd) -> Result<Self> {
        let broken = |error: io::Error| {
            Error::internal(format!("cannot wait for file system events: {error}"))
        };
        let state = State {
            fd: fd.try_clone().map_err(broken)?,
            root: saved.root,
            recursive: saved.recursive,
            include_entry: saved.include_entry,
            folders: saved.folders,
            uploads: saved.uploads,
        };
        Ok(Self {
            fd: watched(fd).map_err(broken)?,
            state: Arc::new(Mutex::new(state)),
            user: saved
                .user
                .ok_or_else(|| Error::internal("a watch without a user"))?,
            turn: tokio::sync::Mutex::default(),
        })
    }

    /// Waits for something to happen and tells it.
    ///
    /// # Errors
    /// `data_loss` when the kernel dropped events because they came too fast.
    pub async fn next(&self) -> Result<Vec<Event>> {
        loop {
            let mut ready = self
                .fd
                .readable()
                .await
                .map_err(|error| Error::internal(format!("cannot wait for events: {error}")))?;
            let events = self.drain().await;
            ready.clear_ready();
            match events {
                Ok(events) if events.is_empty() => {}
                other => return other,
            }
        }
    }

    /// Tells what has happened up to now, without waiting for more.
    ///
    /// # Errors
    /// As [`Watch::next`].
    pub async fn drain(&self) -> Result<Vec<Event>> {
        let _turn = self.turn.lock().await;
        let raw = read_all(self.fd.get_ref())
            .map_err(|error| Error::internal(format!("cannot read file system events: {error}")))?;
        if raw.is_empty() {
            return Ok(Vec::new());
        }
        let state = self.state.clone();
        let work = move || {
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            state.translate(raw)
        };
        let looks_at_files = {
            let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.recursive || state.include_entry
        };
        if looks_at_files {
            as_user::run(&self.user, work).await
        } else {
            work()
        }
    }
}

impl State {
    fn begin(&mut self, allow_network: bool) -> Result<()> {
        let root = self.root.clone();
        let found = fs::metadata(&root).map_err(|error| Error::from_io(&error, &root))?;
        if !found.is_dir() {
            return Err(Error::invalid(format!("path '{root}' is not a directory")));
        }
        let system = rustix::fs::statfs(root.as_str())
            .map_err(|error| Error::from_io(&error.into(), &root))?;
        if !allow_network && NETWORK.contains(&system.f_type) {
            return Err(Error::invalid(format!(
                "path '{root}' is on a network mount, where events can be missed: set allowNetworkMounts to watch it all the same"
            )));
        }
        self.add("").map_err(|error| limit(error, &root))?;
        if self.recursive {
            self.descend("", &mut Vec::new(), false)?;
        }
        Ok(())
    }

    fn path(&self, below: &str) -> String {
        match (self.root.as_str(), below) {
            (root, "") => root.to_owned(),
            ("/", below) => format!("/{below}"),
            (root, below) => format!("{root}/{below}"),
        }
    }

    fn add(&mut self, below: &str) -> rustix::io::Result<()> {
        let mut flags = WatchFlags::CREATE
            | WatchFlags::MODIFY
            | WatchFlags::ATTRIB
            | WatchFlags::DELETE
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::MOVE_SELF
            | WatchFlags::EXCL_UNLINK
            | WatchFlags::ONLYDIR;
        if !below.is_empty() {
            flags |= WatchFlags::DONT_FOLLOW;
        }
        let folder = inotify::add_watch(self.fd.as_fd(), self.path(below), flags)?;
        self.folders.insert(folder, below.to_owned());
        Ok(())
    }

    /// Watches every directory below `below`; tells what is found when `tell`.
    fn descend(&mut self, below: &str, events: &mut Vec<Event>, tell: bool) -> Result<()> {
        let mut waiting = vec![below.to_owned()];
        while let Some(folder) = waiting.pop() {
            for child in fs::read_dir(self.path(&folder))
                .into_iter()
                .flatten()
                .flatten()
            {
                let name = child.file_name().to_string_lossy().into_owned();
                let Ok(kind) = child.file_type() else {
                    continue;
                };
                if name.starts_with(PREFIX) {
                    continue;
                }
                let child = join(&folder, &name);
                if tell {
                    events.push(self.event(child.clone(), CREATE));
                    if kind.is_file() {
                        events.push(self.event(child.clone(), WRITE));
                    }
                }
                if kind.is_dir() {
                    match self.add(&child) {
                        Ok(()) => waiting.push(child),
                        // Gone already, or not the user's to see.
                        Err(Errno::NOENT | Errno::ACCESS | Errno::NOTDIR) => {}
                        Err(error) => return Err(limit(error, &self.path(&child))),
                    }
                }
            }
        }
        Ok(())
    }

    fn translate(&mut self, raw: Vec<Raw>) -> Result<Vec<Event>> {
        let mut events = Vec::new();
        for raw in raw {
            if raw.flags.contains(ReadFlags::QUEUE_OVERFLOW) {
                return Err(Error::new(
                    Code::DataLoss,
                    format!(
                        "events in '{}' came faster than they were read and some were lost",
                        self.root
                    ),
                ));
            }
            if raw.flags.contains(ReadFlags::IGNORED) {
                self.folders.remove(&raw.folder);
                continue;
            }
            let Some(folder) = self.folders.get(&raw.folder).cloned() else {
                continue;
            };
            self.one(&raw, &folder, &mut events)?;
        }
        if self.include_entry {
            let names = Names::read();
            for event in &mut events {
                let below = if event.name == "." {
                    ""
                } else {
                    event.name.as_str()
                };
                event.entry = describe(&self.path(below), &names).ok();
            }
        }
        Ok(events)
    }

    fn one(&mut self, raw: &Raw, folder: &str, events: &mut Vec<Event>) -> Result<()> {
        let has = |flag| raw.flags.contains(flag);
        if raw.name.is_empty() {
            // About a watched directory itself; for those below the root their parent's events tell it.
            if folder.is_empty() {
                let kind = [
                    (ReadFlags::DELETE_SELF, REMOVE),
                    (ReadFlags::MOVE_SELF, RENAME),
                    (ReadFlags::ATTRIB, CHMOD),
                ];
                events.extend(
                    kind.iter()
                        .find(|(flag, _)| has(*flag))
                        .map(|(_, kind)| self.event(".".into(), kind)),
                );
            }
            return Ok(());
        }
        if let Some(mark) = raw.name.strip_prefix(PREFIX) {
            if has(ReadFlags::MOVED_FROM) {
                self.uploads.insert(raw.cookie, mark.starts_with(REPLACES));
            }
            return Ok(());
        }
        let name = join(folder, &raw.name);
        if has(ReadFlags::MOVED_TO)
            && let Some(replaced) = self.uploads.remove(&raw.cookie)
        {
            let kinds: &[&'static str] = if replaced {
                &[WRITE]
            } else {
                &[CREATE, CHMOD, WRITE]
            };
            events.extend(kinds.iter().map(|kind| self.event(name.clone(), kind)));
            return Ok(());
        }
        for (flag, kind) in [
            (ReadFlags::CREATE, CREATE),
            (ReadFlags::MOVED_TO, CREATE),
            (ReadFlags::MODIFY, WRITE),
            (ReadFlags::DELETE, REMOVE),
            (ReadFlags::MOVED_FROM, RENAME),
            (ReadFlags::ATTRIB, CHMOD),
        ] {
            if has(flag) {
                events.push(self.event(name.clone(), kind));
            }
        }
        if self.recursive && has(ReadFlags::ISDIR) {
            if has(ReadFlags::MOVED_FROM) {
                self.forget(&name);
            }
            if has(ReadFlags::CREATE) || has(ReadFlags::MOVED_TO) {
                match self.add(&name) {
                    Ok(()) => self.descend(&name, events, true)?,
                    Err(Errno::NOENT | Errno::ACCESS | Errno::NOTDIR) => {}
                    Err(error) => return Err(limit(error, &self.path(&name))),
                }
            }
        }
        Ok(())
    }

    /// Stops watching a directory that was moved away, and those below it.
    fn forget(&mut self, name: &str) {
        let below = format!("{name}/");
        let fd = self.fd.as_fd();
        self.folders.retain(|folder, path| {
            let gone = path == name || path.starts_with(&below);
            if gone {
                let _ = inotify::remove_watch(fd, *folder);
            }
            !gone
        });
    }

    fn event(&self, name: String, kind: &'static str) -> Event {
        Event {
            name,
            kind,
            entry: None,
        }
    }
}

fn read_all(fd: &OwnedFd) -> io::Result<Vec<Raw>> {
    let mut buffer = [MaybeUninit::uninit(); 16 << 10];
    let mut reader = inotify::Reader::new(fd, &mut buffer);
    let mut events = Vec::new();
    loop {
        match reader.next() {
            Ok(event) => {
                let name = event.file_name().map(|name| {
                    OsStr::from_bytes(name.to_bytes())
                        .to_string_lossy()
                        .into_owned()
                });
                let (folder, flags, cookie) = (event.wd(), event.events(), event.cookie());
                events.push(Raw {
                    folder,
                    flags,
                    cookie,
                    name: name.unwrap_or_default(),
                });
            }
            Err(Errno::AGAIN) => return Ok(events),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn join(folder: &str, name: &str) -> String {
    if folder.is_empty() {
        name.to_owned()
    } else {
        format!("{folder}/{name}")
    }
}

/// The kernel's limits look like a full disk or too many files: this says what they really are.
fn limit(error: Errno, path: &str) -> Error {
    match error {
        Errno::NOSPC | Errno::MFILE | Errno::NFILE => Error::new(
            Code::ResourceExhausted,
            format!(
                "cannot watch '{path}': the kernel's limit of file watches is reached (fs.inotify in sysctl)"
            ),
        ),
        other => Error::from_io(&other.into(), path),
    }
}

//! The process whose memory is read, and the one mapping in it that is the guest's RAM.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::failure::{Failure, Result};

/// Bytes of a page.
pub fn page_size() -> u64 {
    rustix::param::page_size() as u64
}

/// A stretch of the mapping, in bytes from its beginning, which is also the place in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// First byte.
    pub offset: u64,
    /// Bytes; a whole number of pages, except where the mapping ends inside a page.
    pub length: u64,
}

/// A process and its mapping, checked.
pub struct Target {
    pid: i32,
    // Held for as long as we read by number: while it says "alive", the number still means the same process.
    pidfd: OwnedFd,
    /// Where the mapping begins in the process's address space.
    pub start: u64,
    /// Bytes of the mapping.
    pub length: u64,
}

impl Target {
    /// The process `pid`, once `start..start + length` is known to be a private mapping of a file from its beginning.
    pub fn open(pid: i32, start: u64, length: u64) -> Result<Self> {
        let number = Pid::from_raw(pid)
            .filter(|_| pid > 0)
            .ok_or(Failure::TargetGone(pid))?;
        let pidfd =
            pidfd_open(number, PidfdFlags::empty()).map_err(|_| Failure::TargetGone(pid))?;
        let target = Self {
            pid,
            pidfd,
            start,
            length,
        };
        target.check_mapping()?;
        Ok(target)
    }

    /// One past the last address, in whole pages.
    pub fn end(&self) -> u64 {
        self.start + self.length.next_multiple_of(page_size())
    }

    /// A file of the process below /proc.
    pub fn proc_file(&self, name: &str) -> Result<File> {
        File::open(format!("/proc/{}/{name}", self.pid))
            .map_err(|error| self.refused("open the page table", error))
    }

    /// What an error of the kernel about this process means.
    pub fn refused(&self, what: &'static str, error: io::Error) -> Failure {
        match error.raw_os_error() {
            Some(libc::ESRCH | libc::ENOENT) => Failure::TargetGone(self.pid),
            Some(libc::EPERM | libc::EACCES) => Failure::NotPermitted(self.pid),
            _ => Failure::from_io(what, error),
        }
    }

    /// Fails unless the process and its mapping are still what they were at the beginning.
    ///
    /// To be asked after all was read: the page table of a process that is just ending looks as if nothing had been
    /// written, so an empty answer means something only when the mapping is still there afterwards.
    pub fn require_unchanged(&self) -> Result<()> {
        self.check_mapping()?;
        self.require_alive()
    }

    /// Fails when the process has ended: then its number may by now mean another one.
    fn require_alive(&self) -> Result<()> {
        let mut watched = [PollFd::new(&self.pidfd, PollFlags::IN)];
        let ended = poll(
            &mut watched,
            Some(&Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            }),
        )
        .map_err(|error| Failure::from_io("watch the process", error.into()))?;
        if ended > 0 {
            return Err(Failure::TargetGone(self.pid));
        }
        Ok(())
    }

    /// Reads `runs`, one after the other, into the beginning of `buffer`, which must have room for them.
    pub fn read(&self, runs: &[Run], buffer: &mut [u8]) -> Result<()> {
        let wanted: u64 = runs.iter().map(|run| run.length).sum();
        assert!(
            wanted <= buffer.len() as u64,
            "the buffer is too small for the runs"
        );
        let local = libc::iovec {
            iov_base: buffer.as_mut_ptr().cast(),
            iov_len: wanted as usize,
        };
        let remote: Vec<libc::iovec> = runs
            .iter()
            .map(|run| libc::iovec {
                iov_base: (self.start + run.offset) as *mut libc::c_void,
                iov_len: run.length as usize,
            })
            .collect();
        // SAFETY: `local` names `wanted` bytes of `buffer`, which we borrow mutably and whose size was checked; the
        // remote addresses are only ever dereferenced by the kernel, in the other process.
        let got = unsafe {
            libc::process_vm_readv(
                self.pid,
                &local,
                1,
                remote.as_ptr(),
                remote.len() as libc::c_ulong,
                0,
            )
        };
        let address = runs
            .first()
            .map_or(self.start, |run| self.start + run.offset);
        match u64::try_from(got) {
            Ok(got) if got == wanted => Ok(()),
            Ok(got) => {
                self.require_alive()?;
                Err(Failure::ShortRead {
                    address,
                    got,
                    wanted,
                })
            }
            Err(_) => {
                let error = io::Error::last_os_error();
                self.require_alive()?;
                Err(self.refused("read the memory", error))
            }
        }
    }

    fn check_mapping(&self) -> Result<()> {
        let wrong =
            |why| Failure::NotAMapping(self.start, self.start.saturating_add(self.length), why);
        let fits = self
            .start
            .checked_add(self.length)
            .and_then(|end| end.checked_next_multiple_of(page_size()));
        if self.length == 0 || !self.start.is_multiple_of(page_size()) || fits.is_none() {
            return Err(wrong(
                "it is empty, not aligned to a page, or beyond the address space",
            ));
        }
        let mut covered = self.start;
        let mut anything = false;
        for line in BufReader::new(self.proc_file("maps")?).lines() {
            let line = line.map_err(|error| self.refused("read the list of mappings", error))?;
            anything = true;
            let area =
                Area::parse(&line).ok_or_else(|| wrong("the kernel's list cannot be read"))?;
            if area.end <= covered {
                continue;
            }
            if area.start > covered {
                break;
            }
            if area.shared && covered == self.start {
                return Err(Failure::SharedMapping(self.start, self.start + self.length));
            }
            // The kernel may have cut one mapping into several areas; each must still be the same place of a file.
            if area.shared
                || area.inode == 0
                || area.offset + (covered - area.start) != covered - self.start
            {
                return Err(wrong("another thing is mapped there"));
            }
            covered = area.end;
            if covered >= self.end() {
                return Ok(());
            }
        }
        // A process that is just ending still counts as alive, without any mapping.
        if !anything {
            return Err(Failure::TargetGone(self.pid));
        }
        Err(wrong("a part of it is not mapped"))
    }
}

/// One line of /proc/PID/maps.
struct Area {
    start: u64,
    end: u64,
    shared: bool,
    offset: u64,
    inode: u64,
}

impl Area {
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split_ascii_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        let shared = fields.next()?.ends_with('s');
        let offset = u64::from_str_radix(fields.next()?, 16).ok()?;
        let inode = fields.nth(1)?.parse().ok()?;
        Some(Self {
            start: u64::from_str_radix(start, 16).ok()?,
            end: u64::from_str_radix(end, 16).ok()?,
            shared,
            offset,
            inode,
        })
    }
}

//! A group of processes that may have so much memory, cgroups(7): below that of this process, so that what holds for
//! it holds in the group too.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

/// Gone when dropped; its processes must have ended.
pub(crate) struct Group(PathBuf);

/// Why there can be no groups here.
pub(crate) fn missing() -> Option<String> {
    let error = Group::new(64 << 20).err()?;
    Some(format!("no group with a limit of memory can be made: {error}"))
}

/// Where this process's group is, and the names of the limit, and of that of what is swapped out.
fn own() -> io::Result<(PathBuf, [&'static str; 2])> {
    let groups = fs::read_to_string("/proc/self/cgroup")?;
    // Each line is a number, the controllers of version 1, and a path.
    let of = |is_it: fn(&str) -> bool| {
        groups.lines().find_map(|line| {
            let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
            is_it(controllers).then(|| path.trim_start_matches('/'))
        })
    };
    let root = Path::new("/sys/fs/cgroup");
    if let Some(path) = of(|names| names.split(',').any(|name| name == "memory")) {
        let names = ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"];
        return Ok((root.join("memory").join(path), names));
    }
    let path = of(str::is_empty).ok_or(io::ErrorKind::NotFound)?;
    Ok((root.join(path), ["memory.max", "memory.swap.max"]))
}

impl Group {
    /// One whose processes may have `limit` bytes together.
    pub(crate) fn new(limit: u64) -> io::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let (own, [name, swap]) = own()?;
        let number = NEXT.fetch_add(1, Relaxed);
        let group = Self(own.join(format!("mp-test-{}-{number}", std::process::id())));
        fs::create_dir(&group.0)?;
        // It goes again where this fails.
        group.write(name, limit)?;
        // Where nothing can be swapped out there is no such limit.
        let _ = group.write(swap, if swap == "memory.swap.max" { 0 } else { limit });
        Ok(group)
    }

    /// No file is made by that: one that is not there is an error.
    fn write(&self, name: &str, number: u64) -> io::Result<()> {
        let mut file = fs::File::options().write(true).open(self.0.join(name))?;
        io::Write::write_all(&mut file, number.to_string().as_bytes())
    }

    /// Moves a process into it; what that has already does not count.
    pub(crate) fn add(&self, pid: u32) -> io::Result<()> {
        self.write("cgroup.procs", pid.into())
    }

    /// How many of its processes were killed for lack of memory.
    pub(crate) fn kills(&self) -> io::Result<u64> {
        let first = fs::read_to_string(self.0.join("memory.oom_control"));
        let text = first.or_else(|_| fs::read_to_string(self.0.join("memory.events")))?;
        let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        line.and_then(|number| number.parse().ok()).ok_or(io::ErrorKind::InvalidData.into())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // The last of them may be on its way out.
        for _ in 0..1000 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

//! Who this process is, and who started it.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use mp_core::Deadline;
use mp_core::sys::process;

use crate::sync::lock;
use crate::{Error, Result};

/// What a process knows about itself once it runs as a child.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) name: String,
    pub(crate) daemon: bool,
    /// Where it stands among the processes: `2` is the second of the main process, `2:1` that one's first.
    pub(crate) path: String,
    pub(crate) parent: Parent,
}

/// What a process knows about the one that started it.
#[derive(Debug)]
pub(crate) struct Parent {
    pub(crate) name: String,
    pub(crate) pid: u32,
    pub(crate) pidfd: OwnedFd,
}

/// Empty in the main process. Set once in a child, and again only in a child forked from it; then the old
/// one is leaked, so that borrows of it live for ever.
static IDENTITY: Mutex<Option<&'static Identity>> = Mutex::new(None);

/// How many processes were made here, for their names.
static COUNT: AtomicU32 = AtomicU32::new(0);

pub(crate) fn identity() -> Option<&'static Identity> {
    *lock(&IDENTITY)
}

/// Makes this process the child that `identity` describes.
pub(crate) fn become_child(identity: Identity) {
    *lock(&IDENTITY) = Some(Box::leak(Box::new(identity)));
    COUNT.store(0, Ordering::Relaxed);
}

/// The path of the next process that this one makes.
pub(crate) fn next_path() -> String {
    let number = COUNT.fetch_add(1, Ordering::Relaxed) + 1;
    match identity() {
        Some(identity) => format!("{}:{number}", identity.path),
        None => number.to_string(),
    }
}

/// The process this code runs in.
///
/// # Example
///
/// ```standalone_crate
/// use mp_process::{Process, current_process};
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     mp_process::init();
///     assert_eq!(current_process().name(), "MainProcess");
///
///     let name = || current_process().name().to_string();
///     assert_eq!(Process::new(name, ()).name("p1").start()?.result()?, "p1");
///     Ok(())
/// }
/// ```
#[must_use]
pub fn current_process() -> CurrentProcess {
    CurrentProcess { identity: identity() }
}

/// The process this code runs in, from [`current_process`].
#[derive(Clone, Copy)]
pub struct CurrentProcess {
    identity: Option<&'static Identity>,
}

impl fmt::Debug for CurrentProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CurrentProcess")
            .field("name", &self.name())
            .field("pid", &self.pid())
            .field("daemon", &self.daemon())
            .finish()
    }
}

impl CurrentProcess {
    /// Its name: as set before it was started, else `Process-1` and so on, `MainProcess` for the first.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.identity.map_or("MainProcess", |identity| &identity.name)
    }

    /// Its number.
    #[doc(alias = "ident")]
    #[must_use]
    pub fn pid(&self) -> u32 {
        std::process::id()
    }

    /// Whether it ends with the process that started it.
    #[must_use]
    pub fn daemon(&self) -> bool {
        self.identity.is_some_and(|identity| identity.daemon)
    }

    /// True: it runs this.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        true
    }
}

/// The process that started this one; `None` in the main process.
///
/// # Example
///
/// ```standalone_crate
/// use mp_process::{Process, current_process, parent_process};
///
/// fn parent() -> Option<u32> {
///     parent_process().filter(|parent| parent.is_alive()).map(|parent| parent.pid())
/// }
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     mp_process::init();
///     assert!(parent_process().is_none());
///     assert_eq!(Process::new(parent, ()).start()?.result()?, Some(current_process().pid()));
///     Ok(())
/// }
/// ```
#[must_use]
pub fn parent_process() -> Option<ParentProcess> {
    identity().map(|identity| ParentProcess { parent: &identity.parent })
}

/// The process that started this one, from [`parent_process`].
///
/// It is the same one for as long as this process lives, also after it has ended and the kernel gave this
/// process another parent.
#[derive(Clone, Copy, Debug)]
pub struct ParentProcess {
    parent: &'static Parent,
}

impl ParentProcess {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        &self.parent.name
    }

    /// Its number.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.parent.pid
    }

    /// Whether it still runs.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        !process::wait_ended(self.as_fd(), Deadline::PASSED).unwrap_or(false)
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] where the kernel refuses to wait.
    pub fn join(&self) -> Result<()> {
        self.wait(Deadline::NEVER).map(|_| ())
    }

    /// Waits until it has ended, true, or the time is over, false.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] where the kernel refuses to wait.
    pub fn join_timeout(&self, timeout: Duration) -> Result<bool> {
        self.wait(Deadline::after(timeout))
    }

    fn wait(&self, deadline: Deadline) -> Result<bool> {
        process::wait_ended(self.as_fd(), deadline).map_err(Error::io("wait for the parent"))
    }
}

/// Readable once the parent has ended.
impl AsFd for ParentProcess {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.parent.pidfd.as_fd()
    }
}

/// How many CPUs this process may use: by its affinity and the quota of its control group.
///
/// Python: `os.process_cpu_count()`; `multiprocessing.cpu_count()` counts CPUs that the process may not
/// use as well.
///
/// # Example
///
/// ```
/// assert!(mp_process::cpu_count() >= 1);
/// ```
#[must_use]
pub fn cpu_count() -> usize {
    process::usable_cpus()
}

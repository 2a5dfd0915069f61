//! The children of this process, and the end of the program.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mp_core::sys::fd::Epoll;
use mp_core::sys::process;
use mp_core::{Deadline, crash_point};

use crate::start::forkserver;
use crate::sync::lock;
use crate::{AnyChild, Error, Result};

/// How long a daemon has to end after SIGTERM, at the end of the program, before SIGKILL.
const PATIENCE: Duration = Duration::from_secs(5);

/// What belongs to this process alone. A child forked from it starts with none of it.
///
/// Locked for moments only, and never while a child is looked at.
#[derive(Default)]
struct Family {
    /// The process whose children these are: one that was forked behind our back has a copy of this.
    owner: u32,
    /// Those that have not been seen to end, by their [keys](AnyChild::key).
    children: BTreeMap<u64, AnyChild>,
    /// Those of them that `ended` does not tell of: the kernel had no room for them there.
    unwatched: Vec<u64>,
    /// Tells which of them have ended without asking each.
    ended: Option<Epoll>,
    parenthood: Option<Arc<Parenthood>>,
}

static FAMILY: Mutex<Option<Family>> = Mutex::new(None);

/// The process whose exit runs [`at_exit`]; 0 for none. A fork that this crate knows nothing of has the
/// handler too, and another number.
static HANDLED: AtomicU32 = AtomicU32::new(0);

fn with_family<R>(work: impl FnOnce(&mut Family) -> R) -> R {
    let us = std::process::id();
    let mut family = lock(&FAMILY);
    let others = family.take_if(|family| family.owner != us);
    let result = work(family.get_or_insert_with(|| Family { owner: us, ..Family::default() }));
    drop(family);
    // Closes descriptors, with nothing locked.
    drop(others);
    result
}

/// What children get of their parent.
pub(crate) struct Parenthood {
    /// The parent's process descriptor.
    pub(crate) pidfd: OwnedFd,
    /// The pipe that hangs up when the parent ends. Daemons hold this end.
    pub(crate) lifeline: OwnedFd,
    /// Nobody else holds this end, and nobody writes to it.
    _writer: OwnedFd,
}

/// What children get of this process. Comes before each start, and with it whatever may fail and is needed by [`add`]: a
/// child that runs its target has started.
pub(crate) fn parenthood() -> Result<Arc<Parenthood>> {
    let doing = "prepare to start a process";
    let before = HANDLED.swap(std::process::id(), Ordering::Relaxed);
    if before == 0 {
        process::at_exit(at_exit)
            .inspect_err(|_| HANDLED.store(0, Ordering::Relaxed))
            .map_err(Error::io("have children joined at exit"))?;
    }
    with_family(|family| {
        if let Some(parenthood) = &family.parenthood {
            return Ok(parenthood.clone());
        }
        family.ended = Some(Epoll::new().map_err(Error::io(doing))?);
        let pidfd = process::pidfd_open(std::process::id()).map_err(Error::io(doing))?;
        let (reader, writer) = std::io::pipe().map_err(Error::io(doing))?;
        let parenthood = Parenthood { pidfd, lifeline: reader.into(), _writer: writer.into() };
        Ok(family.parenthood.insert(Arc::new(parenthood)).clone())
    })
}

/// Takes in a child that was just started, to be joined at the end of the program.
pub(crate) fn add(child: &AnyChild) {
    with_family(|family| {
        let key = child.key();
        let ended = family.ended.as_ref();
        if ended.is_none_or(|ended| ended.add(child.as_fd(), key).is_err()) {
            family.unwatched.push(key);
        }
        family.children.insert(key, child.clone());
        crash_point!("parent: a child is of the family");
    });
}

/// How many ends of children this process has seen.
static ENDS: AtomicU64 = AtomicU64::new(0);

/// How many ends of children this process has seen so far, by whatever looks for them: [`join`](AnyChild::join),
/// [`is_alive`](AnyChild::is_alive), [`active_children`] and the like.
///
/// For those who do something on behalf of processes, and not any more once their end is known: by this number who
/// relies on an end can tell that it was seen.
///
/// # Example
///
/// ```standalone_crate
/// use mp_process::{Process, ends_seen};
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     mp_process::init();
///     let before = ends_seen();
///     Process::new(|| (), ()).start()?.join()?;
///     assert_eq!(ends_seen(), before + 1);
///     Ok(())
/// }
/// ```
#[must_use]
pub fn ends_seen() -> u64 {
    // Relaxed: another thread knows of an end by other means, which order this too.
    ENDS.load(Ordering::Relaxed)
}

/// Lets go of a child that was seen to end.
pub(crate) fn forget(child: &AnyChild) {
    ENDS.fetch_add(1, Ordering::Relaxed);
    let gone = with_family(|family| {
        if let Some(ended) = &family.ended {
            ended.remove(child.as_fd());
        }
        family.unwatched.retain(|&key| key != child.key());
        family.children.remove(&child.key())
    });
    drop(gone);
}

/// Reaps children that have ended and that nobody waits for.
pub(crate) fn sweep() {
    let ended: Vec<AnyChild> = with_family(|family| {
        let mut keys = family.ended.as_ref().and_then(|it| it.some().ok()).unwrap_or_default();
        keys.extend(&family.unwatched);
        keys.iter().filter_map(|key| family.children.get(key).cloned()).collect()
    });
    for child in ended {
        child.reap();
    }
}

/// The children of this process that still run, in the order of their numbers.
///
/// Those whose [`Child`](crate::Child) was dropped are among them.
///
/// Python: `active_children()` joins what has ended; so does this.
///
/// # Example
///
/// ```standalone_crate
/// use mp_process::{Process, active_children};
///
/// fn wait() {
///     std::thread::sleep(std::time::Duration::from_secs(1000));
/// }
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     mp_process::init();
///     let child = Process::new(wait, ()).name("sleeper").start()?;
///     assert_eq!(active_children()[0].name(), "sleeper");
///     child.kill()?;
///     child.join()?;
///     assert!(active_children().is_empty());
///     Ok(())
/// }
/// ```
#[must_use]
pub fn active_children() -> Vec<AnyChild> {
    let mut children: Vec<AnyChild> =
        with_family(|family| family.children.values().cloned().collect());
    children.retain(AnyChild::is_alive);
    children.sort_by_key(AnyChild::pid);
    children
}

/// Ends daemons and waits for the other children, and for the fork server.
pub(crate) fn finish() {
    let (daemons, others): (Vec<AnyChild>, Vec<AnyChild>) =
        active_children().into_iter().partition(AnyChild::daemon);
    // Who cannot be signalled, as one of us has changed its user, is not waited for: a daemon ends with this process.
    let told: Vec<_> = daemons.iter().filter(|daemon| daemon.terminate().is_ok()).collect();
    crash_point!("parent: its daemons are told to end");
    let deadline = Deadline::after(PATIENCE);
    for daemon in told {
        if !matches!(daemon.join_until(deadline), Ok(Some(_))) && daemon.kill().is_ok() {
            let _ = daemon.join();
        }
    }
    for child in others {
        // What the kernel refuses, for want of memory say, it may not in a moment.
        let limit = Deadline::after(PATIENCE);
        while matches!(child.join(), Err(Error::Io { .. })) && !limit.has_passed() {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    crash_point!("parent: its children have ended");
    forkserver::shut_down();
}

extern "C" fn at_exit() {
    if HANDLED.load(Ordering::Relaxed) == std::process::id() {
        finish();
    }
}

/// Lets go of the parent's children and descriptors, in a child that was forked from it.
pub(crate) fn reset() {
    drop(lock(&FAMILY).take());
}

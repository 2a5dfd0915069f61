//! ForkServer, from the side of the process that is served. The helper itself is in `server`.
#![expect(unsafe_code, reason = "fork, the environment")]

use std::env;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use mp_core::packet::Channel;
use mp_core::sys::process::{Cpus, Credentials, Forked, Reaped, fork, thread_count};
use mp_core::sys::{fd, process};
use mp_core::{Deadline, crash_point};

use crate::child::Reaper;
use crate::protocol::{self, Role, Surroundings};
use crate::start::spawn::{self, Executed};
use crate::start::{Answer, Order, START_LIMIT, died, listen, server};
use crate::sync::lock;
use crate::{AnyChild, Error, ExitStatus, Result, boot, family};

/// How often a start is tried whose helper is killed under it: a death may take two, until it is known for one.
const ATTEMPTS: usize = 10;

/// So many processes the helper has ready, or is about to make. With one, it and the helper would take turns where starts
/// follow each other: a new process needs about as long until it waits for its request as the helper needs to fork it.
const AHEAD: usize = 2;

/// The helper, from the side of the process it serves.
struct Helper {
    made: Made,
    /// The process it serves: a fork of that one has this too, and must not use it.
    owner: u32,
    /// Tells it from its predecessors.
    generation: u64,
    /// What its children have if they are not told otherwise.
    inherited: Inherited,
    /// How many processes were asked for and not received. It makes the first unasked.
    awaited: usize,
}

/// What a process has of the one that made it.
#[derive(Clone)]
struct Inherited {
    environment: Vec<(OsString, OsString)>,
    directory: Directory,
    cpus: Option<Cpus>,
    /// Which signals of terminals are ignored.
    ignored: u8,
    credentials: Option<Credentials>,
}

/// A working directory: which one it is, as a path may lead to another in time or to none, and its path, as one
/// directory may be mounted in several places.
type Directory = (Option<(u64, u64)>, Option<PathBuf>);

impl Inherited {
    /// What this process has now.
    fn now() -> Self {
        Self {
            environment: env::vars_os().collect(),
            directory: (fd::working_directory_id().ok(), env::current_dir().ok()),
            cpus: process::affinity(),
            ignored: process::ignored_signals(),
            credentials: Credentials::now().ok(),
        }
    }
}

/// How a helper came to be.
enum Made {
    Executed(Executed),
    Forked { control: Channel, pidfd: OwnedFd },
}

impl Made {
    fn control(&mut self) -> &mut Channel {
        match self {
            Self::Executed(executed) => &mut executed.channel,
            Self::Forked { control, .. } => control,
        }
    }

    fn has_ended(&self) -> bool {
        match self {
            Self::Executed(executed) => executed.has_ended(),
            Self::Forked { pidfd, .. } => {
                process::wait_ended(pidfd.as_fd(), Deadline::PASSED).unwrap_or(true)
            }
        }
    }

    /// Closes its socket, upon which it ends, or is killed after `grace`; says how it ended. Where it may not be killed,
    /// it is left alone.
    fn end(self, grace: Duration) -> ExitStatus {
        match self {
            Self::Executed(executed) => executed.end(grace),
            Self::Forked { control, pidfd } => {
                drop(control);
                let pidfd = pidfd.as_fd();
                if !process::wait_ended(pidfd, Deadline::after(grace)).unwrap_or(false)
                    && process::pidfd_send_signal(pidfd, libc::SIGKILL).is_ok()
                {
                    let _ = process::wait_ended(pidfd, Deadline::NEVER);
                }
                match process::reap(pidfd) {
                    Ok(Reaped::Ended(exit)) => exit.into(),
                    _ => ExitStatus::UNKNOWN,
                }
            }
        }
    }
}

struct Slot {
    helper: Option<Helper>,
    generation: u64,
}

static SLOT: Mutex<Slot> = Mutex::new(Slot { helper: None, generation: 0 });

pub(crate) fn start(order: &Order) -> Result<AnyChild> {
    let mut last = Error::DiedAtStart(ExitStatus::UNKNOWN);
    let mut told = false;
    for _ in 0..ATTEMPTS {
        let (generation, spare) = match ask(order)? {
            Asked::Spare(generation, spare) => (generation, spare),
            Asked::Failed(error) => {
                told = !matches!(error, Error::DiedAtStart(_));
                last = error;
                continue;
            }
            Asked::Lost(status) => {
                match check_lost(status) {
                    Ok(error) => last = error,
                    // It said why, and exited.
                    Err(_) if told => break,
                    Err(error) => return Err(error),
                }
                continue;
            }
        };
        crash_point!("parent: a spare has the request");
        let mut spare = spare;
        // No hello, so the target did not run: what was killed can be tried again.
        let error = match listen(&mut spare.channel, Deadline::after(START_LIMIT)) {
            Ok(Answer::Hello(_)) => {
                crash_point!("parent: a spare has said hello");
                ask_for_next(generation);
                crash_point!("parent: the next spare is asked for");
                return Ok(spare.child(order, generation));
            }
            Ok(Answer::Ended(status)) => Ok(Error::DiedAtStart(status)),
            Ok(Answer::Silence) => match discard_if_ended(generation) {
                Some(status) => check_lost(status),
                None => Ok(Error::DiedAtStart(spare.end())),
            },
            Err(Error::StartTimedOut) => {
                let _ = process::pidfd_send_signal(spare.pidfd.as_fd(), libc::SIGKILL);
                Err(Error::StartTimedOut)
            }
            Err(error) => Err(error),
        };
        spare.reap();
        last = error?;
    }
    Err(last)
}

/// A helper that was killed is replaced; one that exited would do so again, which is the error then.
fn check_lost(status: ExitStatus) -> Result<Error> {
    match status.code() {
        Some(_) => Err(died(status)),
        None => Ok(died(status)),
    }
}

/// A process that the helper has ready.
pub(crate) struct Spare {
    pub(crate) channel: Channel,
    pub(crate) pid: u32,
    pub(crate) pidfd: OwnedFd,
    /// Whether the helper tells through the channel how it ended; else the kernel does.
    pub(crate) tells: bool,
}

impl Spare {
    /// It has said hello.
    fn child(self, order: &Order, generation: u64) -> AnyChild {
        let Self { channel, pid, pidfd, tells } = self;
        let (name, daemon) = (order.profile.name.clone(), order.profile.daemon);
        let reaper = Reaper::ForkServer { tells, generation };
        AnyChild::new(name, pid, daemon, reaper, pidfd, channel)
    }

    /// How it ended, whose channel is closed at the other end. Unknown where the helper tells, which then has ended too.
    fn end(&self) -> ExitStatus {
        let pidfd = self.pidfd.as_fd();
        // The channel is closed a moment before the end, and that is a moment before the kernel reaps it.
        let ended = || process::wait_ended(pidfd, Deadline::after(Duration::from_secs(1)));
        if self.tells || !ended().unwrap_or(false) {
            return ExitStatus::UNKNOWN;
        }
        for pause in [1, 10, 100] {
            // An orphan may be reaped by nobody.
            let exit = process::exit_after_reaping(pidfd)
                .or_else(|| process::exit_before_reaping(self.pid, pidfd));
            if let Some(exit) = exit {
                return exit.into();
            }
            let pause = Deadline::after(Duration::from_millis(pause));
            let _ = fd::poll(&mut [fd::PollFd::hung_up(pidfd)], pause);
        }
        ExitStatus::UNKNOWN
    }

    /// Reaps it where this process has taken it over, as process 1 does or a subreaper (prctl(2)): its helper has ended, and
    /// the kernel ends it.
    fn reap(self) {
        let Self { channel, pidfd, .. } = self;
        drop(channel);
        if matches!(process::reap(pidfd.as_fd()), Ok(Reaped::Running)) {
            let _ = process::wait_ended(pidfd.as_fd(), Deadline::after(Duration::from_secs(1)));
            let _ = process::reap(pidfd.as_fd());
        }
    }
}

/// What came of asking the helper.
enum Asked {
    /// The helper of this generation had a process, which has the request now.
    Spare(u64, Spare),
    /// It had none, or that was gone.
    Failed(Error),
    /// The helper had ended like this.
    Lost(ExitStatus),
}

/// Takes the process that the helper has ready and hands it the request.
fn ask(order: &Order) -> Result<Asked> {
    let ours = Inherited::now();
    let mut slot = helper(&ours)?;
    let Some(helper) = &mut slot.helper else { return Ok(Asked::Lost(ExitStatus::UNKNOWN)) };
    let theirs = &helper.inherited;
    let directory = (theirs.directory != ours.directory).then(fd::working_directory);
    let surroundings = Surroundings {
        directory: directory.transpose().map_err(Error::io("open the working directory"))?,
        environment: (theirs.environment != ours.environment).then_some(ours.environment),
        cpus: ours.cpus.filter(|_| theirs.cpus != ours.cpus),
        ignored: (theirs.ignored != ours.ignored).then_some(ours.ignored),
    };
    // One that could not take the request.
    let mut failed = None;
    let asked = helper.take().map(|spare| {
        let mut spare = spare.map_err(Error::io("make a process in the fork server"))?;
        match hand_over(order, &surroundings, &mut spare) {
            Ok(()) => Ok(spare),
            Err(error) => {
                failed = Some(spare);
                Err(error)
            }
        }
    });
    match asked {
        Ok(Ok(spare)) => Ok(Asked::Spare(helper.generation, spare)),
        // The request itself cannot be sent.
        Ok(Err(error @ Error::Encode(_))) => Err(error),
        // Nobody says how the process ended, so the helper has too.
        Ok(Err(Error::DiedAtStart(ExitStatus::UNKNOWN))) | Err(mp_core::Error::Disconnected) => {
            let helper = slot.helper.take();
            crash_point!("parent: the server is found dead");
            drop(slot);
            let end = |helper: Helper| helper.end(Duration::from_secs(1));
            let status = helper.map_or(ExitStatus::UNKNOWN, end);
            failed.into_iter().for_each(Spare::reap);
            Ok(Asked::Lost(status))
        }
        Ok(Err(error)) => {
            failed.into_iter().for_each(Spare::reap);
            Ok(Asked::Failed(error))
        }
        Err(mp_core::Error::TimedOut) => {
            let helper = slot.helper.take();
            drop(slot);
            helper.map(|helper| helper.end(Duration::ZERO));
            Err(Error::StartTimedOut)
        }
        // Received and lost, for want of descriptors, say.
        Err(error) => Err(Error::core("ask the fork server for a process")(error)),
    }
}

fn hand_over(order: &Order, surroundings: &Surroundings, spare: &mut Spare) -> Result<()> {
    match order.send(&spare.channel, Some(surroundings)) {
        Ok(()) => Ok(()),
        // It may have said why it does not take any, or the helper how it ended.
        Err(error) => Err(match listen(&mut spare.channel, Deadline::PASSED) {
            Err(refused @ Error::Refused(_)) => refused,
            Ok(Answer::Ended(status)) => Error::DiedAtStart(status),
            Ok(Answer::Silence) => Error::DiedAtStart(spare.end()),
            _ => error,
        }),
    }
}

/// Has the helper make the next process while this one works: once it does, so that it is not held up.
fn ask_for_next(generation: u64) {
    // Whoever has the lock asks for one of its own, if it needs to.
    let Ok(mut slot) = SLOT.try_lock() else { return };
    if let Some(helper) = slot.helper.as_mut().filter(|helper| helper.generation == generation) {
        // Where it fails, the next start finds out.
        let _ = helper.ask();
    }
}

impl Helper {
    /// Asks for processes, unless enough are awaited.
    fn ask(&mut self) -> mp_core::Result<()> {
        while self.awaited < AHEAD {
            crash_point!("parent: about to ask the server");
            self.made.control().send(protocol::MORE, &[], &[])?;
            self.awaited += 1;
        }
        Ok(())
    }

    /// Takes a process, which is there at once if the last start is a moment ago.
    fn take(&mut self) -> mp_core::Result<io::Result<Spare>> {
        if self.awaited == 0 {
            self.ask()?;
        }
        crash_point!("parent: waits for a spare, about to sleep");
        let spare = protocol::receive_spare(self.made.control(), Deadline::after(START_LIMIT));
        self.awaited -= 1;
        spare
    }

    /// As [`Made::end`]; what it had ready, or was to have, ends with it.
    fn end(mut self, grace: Duration) -> ExitStatus {
        let mut spares = Vec::new();
        let deadline = Deadline::after(grace.min(Duration::from_secs(1)));
        for _ in 0..self.awaited {
            match protocol::receive_spare(self.made.control(), deadline) {
                Ok(spare) => spares.extend(spare),
                Err(_) => break,
            }
        }
        let status = self.made.end(grace);
        spares.into_iter().for_each(Spare::reap);
        status
    }
}

/// The helper, started if there is none with our rights.
fn helper(ours: &Inherited) -> Result<MutexGuard<'static, Slot>> {
    let us = std::process::id();
    let mut slot = loop {
        let mut slot = lock(&SLOT);
        // Its children would have its rights, more than ours perhaps. And who takes over this process is not to have it.
        let has_other_rights = |helper: &mut Helper| {
            helper.owner == us && helper.inherited.credentials != ours.credentials
        };
        let Some(helper) = slot.helper.take_if(has_other_rights) else { break slot };
        drop(slot);
        helper.end(Duration::from_secs(1));
    };
    if slot.helper.as_ref().is_some_and(|helper| helper.owner == us) {
        return Ok(slot);
    }
    slot.helper = None;
    if process::has_children_elsewhere() {
        return Err(Error::elsewhere());
    }
    slot.generation += 1;
    let generation = slot.generation;
    let made = if boot::is_initialised() {
        // Under the lock: other threads wait for this helper instead of making their own.
        Made::Executed(spawn::execute(Role::ForkServer, |_| Ok(()))?)
    } else {
        // This process has one thread, so nobody waits; and the copy must not find it locked.
        drop(slot);
        let made = fork_helper()?;
        slot = lock(&SLOT);
        made
    };
    let inherited = ours.clone();
    slot.helper = Some(Helper { made, owner: us, generation, inherited, awaited: 1 });
    Ok(slot)
}

/// Makes the helper as a copy of this process.
fn fork_helper() -> Result<Made> {
    let doing = "fork the fork server";
    if thread_count().map_err(Error::io("count this program's threads"))? > 1 {
        return Err(Error::NeedsInit);
    }
    let (near, far) = Channel::pair().map_err(Error::core(doing))?;
    boot::flush();
    // SAFETY: this process has one thread, counted above, so no lock is held by another. The child ends
    // in `server::serve`, which does not return.
    match unsafe { fork() }.map_err(Error::io(doing))? {
        Forked::Child => {
            drop(near);
            reset();
            family::reset();
            process::reset_signals();
            if fd::blank_others(&[far.as_fd().as_raw_fd()]).is_err() {
                process::exit_now(1);
            }
            server::serve(far, false)
        }
        Forked::Parent(pid) => {
            crash_point!("parent: the server is forked");
            drop(far);
            match process::pidfd_open(pid) {
                Ok(pidfd) => Ok(Made::Forked { control: near, pidfd }),
                Err(error) => {
                    process::kill_child(pid);
                    Err(Error::io(doing)(error))
                }
            }
        }
    }
}

/// Lets go of a helper if it has ended, and says how; nothing where it runs, or another thread has done so
/// before.
fn discard_if_ended(generation: u64) -> Option<ExitStatus> {
    let mut slot = lock(&SLOT);
    let ended = |helper: &mut Helper| helper.generation == generation && helper.made.has_ended();
    let helper = slot.helper.take_if(ended);
    drop(slot);
    helper.map(|helper| helper.end(Duration::from_secs(1)))
}

/// Whether the helper of that generation has ended; no, while another thread has to do with the helper.
pub(crate) fn has_ended(generation: u64) -> bool {
    let Ok(slot) = SLOT.try_lock() else { return false };
    let is_gone = |helper: &Helper| helper.generation != generation || helper.made.has_ended();
    slot.helper.as_ref().is_none_or(is_gone)
}

/// Ends the helper with the program.
pub(crate) fn shut_down() {
    let us = std::process::id();
    let helper = lock(&SLOT).helper.take_if(|helper| helper.owner == us);
    if let Some(helper) = helper {
        crash_point!("parent: about to end the server");
        helper.made.end(Duration::from_secs(1));
    }
}

/// Lets go of the parent's helper, in a child that was forked from it.
pub(crate) fn reset() {
    lock(&SLOT).helper = None;
}

/// Gives a child the environment of its parent.
pub(crate) fn set_environment(variables: &[(OsString, OsString)]) {
    for (name, _) in env::vars_os() {
        if !variables.iter().any(|(kept, _)| *kept == name) {
            // SAFETY: called in a child that has one thread: it has run nothing of the user's yet.
            unsafe { env::remove_var(&name) };
        }
    }
    for (name, value) in variables {
        // Names that begin with `=` exist, and cannot be set.
        if !name.is_empty() && !name.as_bytes().contains(&b'=') {
            // SAFETY: as above.
            unsafe { env::set_var(name, value) };
        }
    }
}

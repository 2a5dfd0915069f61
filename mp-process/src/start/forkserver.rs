//! ForkServer: a small helper forks every child.
//!
//! The helper is single-threaded and holds one socket to the process it serves. A start is one message; the
//! helper reads it and finds the target, as it does so in pages that are its own already, where a child that
//! was just forked pays microseconds for each page it writes to. It keeps a copy of the child's end of its
//! channel until it has reaped the child, and writes there how the child ended: the parent cannot wait for a
//! process that is not its own child.
#![expect(unsafe_code, reason = "fork, closing what was inherited, the environment")]

use std::collections::HashMap;
use std::env;
use std::ffi::OsString;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use mp_core::Deadline;
use mp_core::packet::Channel;
use mp_core::sys::fd::{PollFd, poll};
use mp_core::sys::process::{Forked, Ignored, Reaped, fork, thread_count};
use mp_core::sys::{fd, process};

use crate::child::Reaper;
use crate::protocol::{self, Request, Role, Surroundings};
use crate::start::spawn::{self, Executed};
use crate::start::{Answer, Order, START_LIMIT, died, listen, unsent};
use crate::sync::lock;
use crate::{AnyChild, Error, ExitStatus, Result, boot, entry, family};

/// How often a start is tried again whose helper was killed under it.
const ATTEMPTS: usize = 5;

/// The helper, from the side of the process it serves.
struct Helper {
    made: Made,
    /// The process it serves: a fork of that one has this too, and must not use it.
    owner: u32,
    /// Tells it from its predecessors.
    generation: u64,
    /// What its children have if they are not told otherwise.
    environment: Vec<(OsString, OsString)>,
    directory: PathBuf,
}

/// How a helper came to be.
enum Made {
    Executed(Executed),
    Forked { control: Channel, pidfd: OwnedFd },
}

impl Made {
    fn control(&self) -> &Channel {
        match self {
            Self::Executed(executed) => &executed.channel,
            Self::Forked { control, .. } => control,
        }
    }

    /// Closes its socket, upon which it ends, or is killed after `grace`; says how it ended.
    fn end(self, grace: Duration) -> ExitStatus {
        match self {
            Self::Executed(executed) => executed.end(grace),
            Self::Forked { control, pidfd } => {
                drop(control);
                let pidfd = pidfd.as_fd();
                if !process::wait_ended(pidfd, Deadline::after(grace)).unwrap_or(false) {
                    let _ = process::pidfd_send_signal(pidfd, libc::SIGKILL);
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
    let mut attempt = 1;
    loop {
        let doing = "ask the fork server for a process";
        let (mut near, far) = Channel::pair().map_err(Error::core(doing))?;
        let generation = ask(order, &near, &far)?;
        drop(far);
        let lost = match generation {
            Ok(generation) => match listen(&mut near, Deadline::after(START_LIMIT)) {
                Ok(Answer::Hello(pid, pidfd)) => {
                    let (name, daemon) = (order.profile.name.clone(), order.profile.daemon);
                    let reaper = Reaper::ForkServer;
                    return Ok(AnyChild::new(name, pid, daemon, reaper, pidfd, near));
                }
                Ok(Answer::Ended(status)) => return Err(Error::DiedAtStart(status)),
                // The helper keeps its copy open for as long as it lives and the child is not reaped.
                Ok(Answer::Silence) => discard(generation),
                Err(Error::StartTimedOut) => {
                    discard_at_once(generation);
                    return Err(Error::StartTimedOut);
                }
                Err(error) => return Err(error),
            },
            Err(status) => Some(status),
        };
        // No hello, so the target did not run: what was killed can be tried again. A helper that exited
        // would do so again.
        match lost {
            Some(status) if status.signal().is_none() || attempt == ATTEMPTS => {
                return Err(died(status));
            }
            _ => attempt += 1,
        }
    }
}

/// Hands `far` to the helper, with the request waiting in it. Gives the helper's generation, or how it had
/// ended.
fn ask(order: &Order, near: &Channel, far: &Channel) -> Result<Result<u64, ExitStatus>> {
    let environment: Vec<_> = env::vars_os().collect();
    let directory = env::current_dir().unwrap_or_default();
    let mut slot = helper(&environment, &directory)?;
    let Some(helper) = &slot.helper else { return Ok(Err(ExitStatus::UNKNOWN)) };
    let surroundings = Surroundings {
        directory: (helper.directory != directory).then_some(directory),
        environment: (helper.environment != environment).then_some(environment),
    };
    match order.send_to_server(helper.made.control(), &surroundings, near, far) {
        Ok(()) => Ok(Ok(helper.generation)),
        Err(mp_core::Error::Disconnected) => {
            let helper = slot.helper.take();
            drop(slot);
            Ok(Err(helper
                .map_or(ExitStatus::UNKNOWN, |helper| helper.made.end(Duration::from_secs(1)))))
        }
        Err(error) => Err(unsent(error)),
    }
}

/// The helper, started if there is none.
fn helper(
    environment: &[(OsString, OsString)],
    directory: &Path,
) -> Result<MutexGuard<'static, Slot>> {
    let us = std::process::id();
    let mut slot = lock(&SLOT);
    if slot.helper.as_ref().is_some_and(|helper| helper.owner == us) {
        return Ok(slot);
    }
    slot.helper = None;
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
    slot.helper = Some(Helper {
        made,
        owner: us,
        generation,
        environment: environment.to_vec(),
        directory: directory.to_path_buf(),
    });
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
    // in `serve`, which does not return.
    match unsafe { fork() }.map_err(Error::io(doing))? {
        Forked::Child => {
            drop(near);
            reset();
            family::reset();
            process::reset_signals();
            if fd::blank_others(&[far.as_fd().as_raw_fd()]).is_err() {
                process::exit_now(1);
            }
            serve(far, false)
        }
        Forked::Parent(pid) => {
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

/// Lets go of a helper that died; says how, unless another thread has done so before.
fn discard(generation: u64) -> Option<ExitStatus> {
    let mut slot = lock(&SLOT);
    let helper = slot.helper.take_if(|helper| helper.generation == generation);
    drop(slot);
    helper.map(|helper| helper.made.end(Duration::from_secs(1)))
}

/// Kills a helper that does not answer.
fn discard_at_once(generation: u64) {
    let mut slot = lock(&SLOT);
    let helper = slot.helper.take_if(|helper| helper.generation == generation);
    drop(slot);
    if let Some(helper) = helper {
        helper.made.end(Duration::ZERO);
    }
}

/// Ends the helper with the program.
pub(crate) fn shut_down() {
    let us = std::process::id();
    let helper = lock(&SLOT).helper.take_if(|helper| helper.owner == us);
    if let Some(helper) = helper {
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

/// The helper itself. `clean`: it was executed for this, so no object owns a descriptor but `control`.
pub(crate) fn serve(control: Channel, clean: bool) -> ! {
    let result = Server::new(control, clean).and_then(|mut server| server.run());
    process::exit_now(match result {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("multiprocess: the fork server ends: {error}");
            1
        }
    })
}

struct Server {
    control: Channel,
    clean: bool,
    /// Open when it began, and not ours: what a library opened before main.
    others: Vec<RawFd>,
    /// The process it serves. `None` in a child that has taken it over.
    parent: Option<OwnedFd>,
    /// Readable when a child has ended.
    signals: OwnedFd,
    /// What is sent to a whole group of processes, by a terminal say, must not end it before its parent.
    ignored: [Ignored; 3],
    /// The children that were not reaped, with the copies of their channels.
    children: HashMap<u32, Channel>,
}

impl Server {
    fn new(control: Channel, clean: bool) -> std::io::Result<Self> {
        let mut others = if clean { fd::open_descriptors()? } else { Vec::new() };
        others.retain(|&fd| fd > 2 && fd != control.as_fd().as_raw_fd());
        let parent = Some(process::pidfd_open(process::parent_id())?);
        let signals = process::child_signals()?;
        let ignored = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP].map(process::ignore_signal);
        // What every child would otherwise do again, in pages of its own.
        entry::warm_up();
        boot::flush();
        let null = fd::null()?;
        for stream in 0..3 {
            fd::place(null.as_fd(), stream)?;
        }
        Ok(Self { control, clean, others, parent, signals, ignored, children: HashMap::new() })
    }

    /// Serves until the parent has ended.
    fn run(&mut self) -> std::io::Result<()> {
        loop {
            let Some(parent) = &self.parent else { return Ok(()) };
            let mut fds = [
                PollFd::readable(self.control.as_fd()),
                PollFd::readable(self.signals.as_fd()),
                PollFd::readable(parent.as_fd()),
            ];
            poll(&mut fds, Deadline::NEVER)?;
            let [asked, reap, orphaned] = fds.map(|fd| fd.is_ready());
            if reap {
                self.reap()?;
            }
            if orphaned {
                return Ok(());
            }
            if asked {
                match self.control.receive(Deadline::PASSED) {
                    Ok(packet) if packet.kind == protocol::START => {
                        // One that cannot be read is dropped, and with it the child's channel.
                        if let Ok(request) = protocol::read_request(packet) {
                            self.start(request);
                        }
                    }
                    Ok(_) | Err(mp_core::Error::TimedOut) => {}
                    Err(mp_core::Error::Disconnected) => return Ok(()),
                    Err(error) => return Err(std::io::Error::other(error)),
                }
            }
        }
    }

    fn reap(&mut self) -> std::io::Result<()> {
        process::drain_child_signals(self.signals.as_fd());
        while let Some((pid, exit)) = process::reap_any()? {
            if let Some(channel) = self.children.remove(&pid) {
                // Fails where the parent has let go of the child: nobody wants to know.
                let _ = protocol::send_status(&channel, exit);
            }
        }
        Ok(())
    }

    fn start(&mut self, request: Request) {
        let Request { profile, address, surroundings, lead, lifeline, streams, arguments } =
            request;
        let channel = Channel::from(lead);
        let trampoline = match boot::resolve(&address) {
            Ok(trampoline) => trampoline,
            Err(error) => {
                let _ = protocol::send_refusal(&channel, &error);
                return;
            }
        };
        // SAFETY: this process has one thread: it starts none. The child ends in `run`.
        match unsafe { fork() } {
            Ok(Forked::Parent(pid)) => {
                self.children.insert(pid, channel);
            }
            Ok(Forked::Child) => {
                let mut keep = vec![channel.as_fd().as_raw_fd()];
                keep.extend(
                    lifeline.iter().chain(streams.iter().flatten()).map(AsRawFd::as_raw_fd),
                );
                let parent = self.leave(keep);
                boot::run(channel, || {
                    let parent = parent.map_err(Error::io("let go of the fork server"))?;
                    boot::place_streams(&streams)?;
                    drop(streams);
                    surroundings.map_or(Ok(()), boot::enter)?;
                    let lifeline = boot::adopt(profile, parent, lifeline)?;
                    Ok((trampoline, arguments, lifeline))
                })
            }
            Err(error) => {
                let error = Error::io("fork in the fork server")(error);
                let _ = protocol::send_refusal(&channel, &error);
            }
        }
    }

    /// In a child: puts back what the server set up for itself and lets go of what it holds, but for `keep`
    /// and the descriptor of the parent, which this gives.
    fn leave(&mut self, mut keep: Vec<RawFd>) -> std::io::Result<OwnedFd> {
        for ignored in &self.ignored {
            ignored.restore();
        }
        process::unblock_signals();
        let orphan = || std::io::Error::from_raw_os_error(libc::ESRCH);
        let parent = self.parent.take().ok_or_else(orphan)?;
        if self.clean {
            mem::forget(mem::take(&mut self.children));
            keep.append(&mut self.others);
            keep.push(parent.as_raw_fd());
            // SAFETY: what is open and not kept was opened by this server, so it belongs to `self`, which
            // lives in a frame that is never returned to, and is not used any more.
            unsafe { fd::close_others(&keep)? };
        } else {
            // Objects of the parent may own descriptors here too, so only our own are let go of.
            self.children.clear();
            let null = fd::null()?;
            fd::replace(null.as_fd(), self.signals.as_raw_fd())?;
            fd::replace(null.as_fd(), self.control.as_fd().as_raw_fd())?;
        }
        Ok(parent)
    }
}

//! Fork: a copy of this process.
#![expect(unsafe_code, reason = "fork")]

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use mp_core::packet::Channel;
use mp_core::sys::process::{Forked, fork, thread_count};
use mp_core::sys::{fd, process};
use mp_core::{Deadline, Message, crash_point, heirs};

use crate::child::Reaper;
use crate::entry::{Outcome, Trampoline};
use crate::protocol::Profile;
use crate::start::{Answer, START_LIMIT, died, forkserver, listen};
use crate::{AnyChild, Error, ExitStatus, Result, boot, family, protocol};

/// What the copy runs.
pub(crate) enum Program {
    Call(Trampoline, Message),
    Closure(Box<dyn FnOnce() -> Outcome>),
}

pub(crate) fn start(profile: Profile, program: Program) -> Result<AnyChild> {
    let doing = "fork this process";
    if thread_count().map_err(Error::io("count this program's threads"))? > 1 {
        return Err(Error::Multithreaded);
    }
    let (mut near, far) = Channel::pair().map_err(Error::core(doing))?;
    // The child's own, made while making them can still be reported.
    let parenthood = family::parenthood()?;
    let parent = parenthood.pidfd.try_clone().map_err(Error::io(doing))?;
    let lifeline = profile.daemon.then(|| parenthood.lifeline.try_clone());
    let lifeline = lifeline.transpose().map_err(Error::io(doing))?;
    let (name, daemon) = (profile.name.clone(), profile.daemon);
    let us = std::process::id();
    boot::flush();
    crash_point!("parent: about to fork");
    // What is sent to the child before it handles signals as a child does must not meet what this process does with them.
    let blocked = process::block_signals();

    // SAFETY: this process has one thread, counted above, so no lock is held by another. The child ends
    // in `run`, which does not return.
    match unsafe { fork() }.map_err(Error::io(doing))? {
        Forked::Child => {
            drop((near, parenthood));
            // What a call is given has travelled, and is its own. What a closure has captured is as the parent left it.
            if let Program::Closure(_) = &program {
                heirs::inherit(us);
            }
            run(profile, program, far, parent, lifeline)
        }
        Forked::Parent(pid) => {
            drop(blocked);
            crash_point!("parent: forked");
            drop(far);
            let pidfd = match process::pidfd_open(pid) {
                Ok(pidfd) => pidfd,
                // Gone already, as this program has its children reaped by the kernel, or reaps any: then
                // the child's own word is used, which was its first.
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {
                    match listen(&mut near, Deadline::after(START_LIMIT))? {
                        Answer::Hello(Some(pidfd)) => pidfd,
                        _ => return Err(died(ExitStatus::UNKNOWN)),
                    }
                }
                Err(error) => {
                    process::kill_child(pid);
                    return Err(Error::io("watch a process")(error));
                }
            };
            // The child goes on with what a closure has captured.
            if let Program::Closure(closure) = program {
                heirs::hand_over(closure);
            }
            Ok(AnyChild::new(name, pid, daemon, Reaper::Us, pidfd, near))
        }
    }
}

/// The child.
fn run(
    profile: Profile,
    program: Program,
    channel: Channel,
    parent: OwnedFd,
    lifeline: Option<OwnedFd>,
) -> ! {
    process::reset_signals();
    crash_point!("fork: begun");
    forkserver::reset();
    family::reset();
    if let Ok(us) = process::pidfd_open(std::process::id()) {
        let _ = protocol::send_hello(&channel, Some(us.as_fd()));
    }
    crash_point!("fork: hello is said");
    let prepare = || -> Result<Option<OwnedFd>> {
        let doing = "let go of the parent's descriptors";
        if let Program::Call(_, arguments) = &program {
            let mut keep = vec![channel.as_fd().as_raw_fd(), parent.as_raw_fd()];
            keep.extend(lifeline.iter().chain(arguments.fds()).map(AsRawFd::as_raw_fd));
            fd::blank_others(&keep).map_err(Error::io(doing))?;
            crash_point!("fork: the parent's descriptors are let go of");
        }
        let null = fd::null().map_err(Error::io(doing))?;
        fd::place(null.as_fd(), 0).map_err(Error::io(doing))?;
        boot::adopt(profile, parent, lifeline)
    };
    let (lifeline, refused) = match prepare() {
        Ok(lifeline) => (lifeline, None),
        Err(error) => (None, Some(Outcome::Undecodable(error.to_string()))),
    };
    boot::run(&channel, lifeline, || match (refused, program) {
        (Some(refused), _) => refused,
        (None, Program::Call(trampoline, arguments)) => trampoline(arguments),
        (None, Program::Closure(closure)) => closure(),
    })
}

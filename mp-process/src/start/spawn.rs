//! Spawn: this program is executed again.

use std::env;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use mp_core::Deadline;
use mp_core::packet::Channel;
use mp_core::sys::fd::{PollFd, poll};
use mp_core::sys::process::{self, Reaped};

use crate::child::Reaper;
use crate::protocol::{self, Role};
use crate::start::{Answer, Order, START_LIMIT, died, listen};
use crate::{AnyChild, Error, ExitStatus, Result, boot};

/// How long a process whose channel is closed may take to end by itself, so that its own exit is reported.
const GRACE: Duration = Duration::from_secs(1);

/// A process of this program that was executed for a role.
pub(crate) struct Executed {
    /// Our end of its standard input.
    pub(crate) channel: Channel,
    pub(crate) pid: u32,
    pub(crate) pidfd: OwnedFd,
}

/// Executes this program again in `role`. What `leave` sends lies there before the process does.
///
/// `/proc/self/exe` is the file that was executed, also where its path now leads to another or to none
/// (proc_pid_exe(5)). std makes the process by posix_spawn, whose cost does not depend on our size.
pub(crate) fn execute(role: Role, leave: impl FnOnce(&Channel) -> Result<()>) -> Result<Executed> {
    let doing = "execute this program again (/proc/self/exe)";
    let (channel, far) = Channel::pair().map_err(Error::core(doing))?;
    protocol::send_role(&channel, role).map_err(Error::core(doing))?;
    leave(&channel)?;
    let mut arguments = env::args_os();
    let mut command = Command::new("/proc/self/exe");
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    command.args(arguments).stdin(Stdio::from(far.into_fd()));
    let mut process = command.spawn().map_err(Error::io(doing))?;
    match process::pidfd_open(process.id()) {
        Ok(pidfd) => Ok(Executed { channel, pid: process.id(), pidfd }),
        Err(error) => {
            let _ = process.kill();
            let _ = process.wait();
            Err(Error::io("watch a process")(error))
        }
    }
}

pub(crate) fn start(order: &Order) -> Result<AnyChild> {
    if !boot::is_initialised() {
        return Err(Error::NeedsInit);
    }
    let Executed { mut channel, pid, pidfd } =
        execute(Role::Child, |channel| order.send(channel, None))?;
    match hear(&mut channel, &pidfd) {
        Ok(true) => {
            let (name, daemon) = (order.profile.name.clone(), order.profile.daemon);
            Ok(AnyChild::new(name, pid, daemon, Reaper::Us, pidfd, channel))
        }
        Ok(false) => Err(died(end(&pidfd, GRACE))),
        Err(error) => {
            end(&pidfd, Duration::ZERO);
            Err(error)
        }
    }
}

/// Waits for hello, true, or the end of the process or of its channel, false.
fn hear(channel: &mut Channel, pidfd: &OwnedFd) -> Result<bool> {
    let deadline = Deadline::after(START_LIMIT);
    loop {
        let mut fds = [PollFd::readable(channel.as_fd()), PollFd::readable(pidfd.as_fd())];
        if poll(&mut fds, deadline).map_err(Error::io("hear from a new process"))? == 0 {
            return Err(Error::StartTimedOut);
        }
        let ended = fds[1].is_ready();
        // What it said before it ended comes first.
        match listen(channel, Deadline::PASSED) {
            Ok(Answer::Hello(..)) => return Ok(true),
            Ok(Answer::Ended(_) | Answer::Silence) => return Ok(false),
            Err(Error::StartTimedOut) if ended => return Ok(false),
            Err(Error::StartTimedOut) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Reaps a process, which is killed if it has not ended within `grace`; says how it ended.
pub(crate) fn end(pidfd: &OwnedFd, grace: Duration) -> ExitStatus {
    if !process::wait_ended(pidfd.as_fd(), Deadline::after(grace)).unwrap_or(false) {
        let _ = process::pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL);
        let _ = process::wait_ended(pidfd.as_fd(), Deadline::NEVER);
    }
    match process::reap(pidfd.as_fd()) {
        Ok(Reaped::Ended(exit)) => exit.into(),
        _ => process::exit_after_reaping(pidfd.as_fd()).map_or(ExitStatus::UNKNOWN, Into::into),
    }
}

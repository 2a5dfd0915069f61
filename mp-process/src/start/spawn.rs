//! Spawn: this program is executed again.

use std::env;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use mp_core::packet::Channel;
use mp_core::sys::fd::{PollFd, poll};
use mp_core::sys::process::{self, Exit};
use mp_core::{Deadline, crash_point, spin};

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
    process: std::process::Child,
    /// `None` where it has ended already and this program has its children reaped by the kernel.
    pidfd: Option<OwnedFd>,
}

/// Executes this program again in `role`. What `leave` sends lies there before the process does.
///
/// `/proc/self/exe` is the file that was executed, also where its path now leads to another or to none
/// (proc_pid_exe(5)). std makes the process by posix_spawn, whose cost does not depend on our size.
pub(crate) fn execute(role: Role, leave: impl FnOnce(&Channel) -> Result<()>) -> Result<Executed> {
    let doing = "execute this program again (/proc/self/exe)";
    let (channel, far) = Channel::pair().map_err(Error::core(doing))?;
    protocol::send_role(&channel, role).map_err(Error::core(doing))?;
    crash_point!("parent: the role is left for who is executed");
    leave(&channel)?;
    let mut arguments = env::args_os();
    let mut command = Command::new("/proc/self/exe");
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    command.args(arguments).stdin(Stdio::from(far.into_fd()));
    crash_point!("parent: about to execute");
    let process = command.spawn().map_err(Error::io(doing))?;
    crash_point!("parent: executed");
    // While the new process sets itself up. Who is started from now on need not measure, nor the children of a fork server.
    let _ = spin::budget();
    let pidfd = process::pidfd_open(process.id()).ok();
    Ok(Executed { channel, process, pidfd })
}

pub(crate) fn start(order: &Order) -> Result<AnyChild> {
    if !boot::is_initialised() {
        return Err(Error::NeedsInit);
    }
    if process::has_children_elsewhere() {
        return Err(Error::elsewhere());
    }
    let mut executed = execute(Role::Child, |channel| order.send(channel, None))?;
    match executed.hear() {
        Ok(Some(pidfd)) => {
            crash_point!("parent: the executed one has said hello");
            let pid = executed.process.id();
            let (name, daemon) = (order.profile.name.clone(), order.profile.daemon);
            Ok(AnyChild::new(name, pid, daemon, Reaper::Us, pidfd, executed.channel))
        }
        Ok(None) => Err(died(executed.end(GRACE))),
        Err(error) => {
            executed.end(Duration::ZERO);
            Err(error)
        }
    }
}

impl Executed {
    /// Waits for hello; gives the process's descriptor, or `None` for the end of it or of its channel.
    fn hear(&mut self) -> Result<Option<OwnedFd>> {
        let deadline = Deadline::after(START_LIMIT);
        loop {
            let mut fds = vec![PollFd::readable(self.channel.as_fd())];
            fds.extend(self.pidfd.as_ref().map(|pidfd| PollFd::readable(pidfd.as_fd())));
            crash_point!("parent: waits for a hello, about to sleep");
            if poll(&mut fds, deadline).map_err(Error::io("hear from a new process"))? == 0 {
                return Err(Error::StartTimedOut);
            }
            let ended = fds.get(1).is_some_and(PollFd::is_ready);
            // What it said before it ended comes first.
            match listen(&mut self.channel, Deadline::PASSED) {
                Ok(Answer::Hello(pidfd)) => return Ok(pidfd.or_else(|| self.pidfd.take())),
                Ok(Answer::Ended(_) | Answer::Silence) => return Ok(None),
                Err(Error::StartTimedOut) if ended => return Ok(None),
                Err(Error::StartTimedOut) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether the process has ended.
    pub(crate) fn has_ended(&self) -> bool {
        let ended =
            |pidfd: &OwnedFd| process::wait_ended(pidfd.as_fd(), Deadline::PASSED).unwrap_or(true);
        self.pidfd.as_ref().is_none_or(ended)
    }

    /// Reaps the process, which is killed if it has not ended within `grace`; says how it ended. Where it may not be
    /// killed, it is left alone.
    pub(crate) fn end(self, grace: Duration) -> ExitStatus {
        let Self { channel, mut process, pidfd } = self;
        drop(channel);
        let deadline = Deadline::after(grace);
        let has_ended = match pidfd {
            Some(pidfd) => process::wait_ended(pidfd.as_fd(), deadline).unwrap_or(false),
            // There was no descriptor left for one.
            None => loop {
                if matches!(process.try_wait(), Ok(Some(_))) {
                    break true;
                }
                if deadline.has_passed() {
                    break false;
                }
                thread::sleep(Duration::from_millis(1));
            },
        };
        if !has_ended && process.kill().is_err() {
            return ExitStatus::UNKNOWN;
        }
        match process.wait() {
            Ok(status) => match (status.code(), status.signal()) {
                (Some(code), _) => Exit::Code(code).into(),
                (_, Some(signal)) => Exit::Signal(signal).into(),
                _ => ExitStatus::UNKNOWN,
            },
            Err(_) => ExitStatus::UNKNOWN,
        }
    }
}

//! The fork server: a small, single-threaded process that has children ready for the one it serves.
//!
//! A *spare* is a child without a target. It has already paid for what a new process pays for (pages, mostly:
//! each one that it writes to for the first time costs microseconds) and sleeps on its channel. The server
//! hands the other end of the channel to the process it serves (`READY`), which sends the request there and,
//! after hello, asks for another spare (`MORE`), to be forked while this one already works; a second one waits
//! meanwhile. So a start does not wait for a fork, and the server reads no requests.
//!
//! The process served cannot wait for one that is not its own child. Since Linux 6.15 the kernel tells whoever has its
//! descriptor how it ended, once it is reaped, which the kernel does too: the server ignores SIGCHLD (wait(2), notes), and has
//! nothing to do with an end. Elsewhere the server reaps, keeps a copy of the child's end of its channel, and writes there how it
//! ended.
//!
//! Who may die when:
//! - A spare, or a child before its hello: its channel says so, and the next spare gets the request.
//! - The server: the kernel kills its spares (PR_SET_PDEATHSIG: the server has one thread, so the signal means
//!   its end). One with a request puts that off before its hello, and lives on.
//! - The process served: the server ends, and the spares, whose channels are closed.
#![expect(unsafe_code, reason = "fork, and closing what was inherited")]

use std::collections::HashMap;
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::time::Duration;

use mp_core::packet::Channel;
use mp_core::sys::fd::{self, PollFd, poll, wait_readable};
use mp_core::sys::process::{self, Exit, Forked, Ignored, fork};
use mp_core::{Deadline, Error as CoreError, crash_point};

use crate::{Error, boot, entry, protocol};

/// Runs the server. `clean`: this program was executed for it, so that no object owns a descriptor but
/// `control` and what libraries opened before main.
pub(crate) fn serve(control: Channel, clean: bool) -> ! {
    crash_point!("server: begun");
    let result = Server::new(control, clean).and_then(|mut server| server.run());
    process::exit_now(i32::from(result.is_err()))
}

struct Server {
    control: Channel,
    clean: bool,
    /// The server's own number, for its children.
    pid: u32,
    /// Open when it began, and not ours: what a library opened before main.
    others: Vec<RawFd>,
    /// The process it serves.
    parent: OwnedFd,
    /// What the server does with signals, and a child of it does not. What is sent to a whole group of processes, by a
    /// terminal say, must not end the server before its parent.
    ignored: Vec<Ignored>,
    /// Who reaps; nothing where the kernel does, and tells.
    ends: Option<Ends>,
}

/// The ends of children, where the server has to see to them.
struct Ends {
    /// Readable when a child has ended.
    signals: OwnedFd,
    /// The children that were not reaped, and where to write how they ended.
    children: HashMap<u32, Channel>,
    /// When to look at all children, because some may have ended of whom no signal tells.
    look: Option<Deadline>,
}

/// So many children are all looked at with each signal.
const FEW: usize = 32;

/// How long it takes until more are looked at after a signal: the kernel goes through all, so not with each.
const PAUSE: Duration = Duration::from_millis(1);
/// So long a spare that cannot become a child waits for who wants to know why.
const PATIENCE: Duration = Duration::from_secs(10);

impl Server {
    /// Where it cannot be, the process to be served is told why.
    fn new(control: Channel, clean: bool) -> io::Result<Self> {
        let own = || {
            let mut others = if clean { fd::open_descriptors()? } else { Vec::new() };
            others.retain(|&fd| fd > 2 && fd != control.as_fd().as_raw_fd());
            let parent = process::pidfd_open(process::parent_id())?;
            let groups = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP];
            let mut ignored = Vec::from(groups.map(process::ignore_signal));
            let ends = if kernel_tells() {
                ignored.push(process::ignore_signal(libc::SIGCHLD));
                None
            } else {
                let signals = process::child_signals()?;
                Some(Ends { signals, children: HashMap::new(), look: None })
            };
            let null = fd::null()?;
            for stream in 0..3 {
                fd::place(null.as_fd(), stream)?;
            }
            Ok((others, parent, ignored, ends))
        };
        let (others, parent, ignored, ends) = own().inspect_err(|error| {
            let _ = protocol::send_no_spare(&control, error);
        })?;
        // What is read and bound at first use is so once, here; the rest of the way each child goes again.
        warm_up();
        if let Ok((near, mut far)) = Channel::pair() {
            let _ = near.send(protocol::MORE, &[&[0; 256]], &[]);
            let _ = far.try_receive();
        }
        Ok(Self { control, clean, pid: std::process::id(), others, parent, ignored, ends })
    }

    /// Serves until the parent has ended or closed its socket.
    fn run(&mut self) -> io::Result<()> {
        crash_point!("server: set up");
        self.make_spare();
        loop {
            let mut fds =
                vec![PollFd::readable(self.control.as_fd()), PollFd::readable(self.parent.as_fd())];
            fds.extend(self.ends.as_ref().map(|ends| PollFd::readable(ends.signals.as_fd())));
            crash_point!("server: about to sleep");
            let look = self.ends.as_ref().and_then(|ends| ends.look);
            poll(&mut fds, look.unwrap_or(Deadline::NEVER))?;
            let ready: Vec<_> = fds.iter().map(PollFd::is_ready).collect();
            let (asked, orphaned) = (ready[0], ready[1]);
            if let Some(ends) = &mut self.ends {
                ends.see(ready[2])?;
            }
            if orphaned {
                return Ok(());
            }
            if asked {
                match self.control.try_receive() {
                    Ok(Some(packet)) if packet.kind == protocol::MORE => self.make_spare(),
                    Ok(_) => {}
                    Err(mp_core::Error::Disconnected) => return Ok(()),
                    Err(error) => return Err(io::Error::other(error)),
                }
            }
        }
    }

    /// Forks a spare and hands it over, or says why there is none.
    fn make_spare(&mut self) {
        let sent = match self.fork_spare() {
            Ok((pid, channel, pidfd)) => {
                crash_point!("server: about to hand a spare over");
                // Too many descriptors of this user may be under way: then that is why there is none, and the spare
                // ends, as nobody has its channel.
                let (tells, channel, pidfd) = (self.ends.is_some(), channel.as_fd(), pidfd.as_fd());
                protocol::send_spare(&self.control, pid, tells, channel, pidfd).or_else(|error| {
                    match error {
                        CoreError::Io(error) => protocol::send_no_spare(&self.control, &error),
                        other => Err(other),
                    }
                })
            }
            Err(error) => protocol::send_no_spare(&self.control, &error),
        };
        // Where nobody reads, the next look at the socket tells.
        let _ = sent;
        crash_point!("server: a spare is handed over");
    }

    fn fork_spare(&mut self) -> io::Result<(u32, Channel, OwnedFd)> {
        let (near, far) = Channel::pair().map_err(io::Error::other)?;
        crash_point!("server: about to fork");
        // SAFETY: this process has one thread: it starts none. The child ends in `become_spare`.
        match unsafe { fork() }? {
            Forked::Child => {
                drop(near);
                self.become_spare(far)
            }
            Forked::Parent(pid) => {
                crash_point!("server: a spare is forked");
                match &mut self.ends {
                    // If it has ended, its number may be another's by now.
                    None => Ok((pid, near, process::pidfd_open_child(pid)?)),
                    Some(ends) => match process::pidfd_open(pid) {
                        Ok(pidfd) => {
                            ends.children.insert(pid, far);
                            Ok((pid, near, pidfd))
                        }
                        Err(error) => {
                            process::kill_child(pid);
                            Err(error)
                        }
                    },
                }
            }
        }
    }

    /// The child.
    fn become_spare(&mut self, channel: Channel) -> ! {
        crash_point!("spare: forked");
        if let Err(error) = self.leave(&channel) {
            // Where the server has ended, it is another's turn.
            if error.raw_os_error() != Some(libc::ESRCH) {
                let _ = protocol::send_refusal(&channel, &Error::io("become a child")(error));
                // Not before it is called for: the server has to find it there, or the reason is lost.
                let _ = wait_readable(channel.as_fd(), Deadline::after(PATIENCE));
            }
            process::exit_now(1);
        }
        crash_point!("spare: it has let go of the server");
        warm_up();
        boot::serve_request(channel, None)
    }

    /// In a child: puts back what the server set up for itself, and lets go of what it holds.
    fn leave(&mut self, channel: &Channel) -> io::Result<()> {
        process::die_with_parent(self.pid)?;
        for ignored in &self.ignored {
            ignored.restore();
        }
        process::unblock_signals();
        if self.clean {
            mem::forget(self.ends.take());
            let mut keep = mem::take(&mut self.others);
            keep.push(channel.as_fd().as_raw_fd());
            // SAFETY: what is open and not kept was opened by this server, so it belongs to `self`, which
            // lives in a frame that is never returned to, and is not used any more.
            unsafe { fd::close_others(&keep) }
        } else {
            // Objects of the parent may own descriptors here too, so only our own are let go of.
            let null = fd::null()?;
            let mut own = vec![self.control.as_fd(), self.parent.as_fd()];
            if let Some(ends) = &mut self.ends {
                ends.children.clear();
                own.push(ends.signals.as_fd());
            }
            own.into_iter().try_for_each(|own| fd::replace(null.as_fd(), own.as_raw_fd()))
        }
    }
}

impl Ends {
    /// Sees to those who have ended. `told`: a signal says that somebody has.
    fn see(&mut self, told: bool) -> io::Result<()> {
        if told {
            if let Some(pid) = process::read_child_signal(self.signals.as_fd())
                && let Some(exit) = process::reap_child(pid)?
            {
                self.tell(pid, exit);
            }
            let pause = if self.children.len() <= FEW { Duration::ZERO } else { PAUSE };
            self.look.get_or_insert_with(|| Deadline::after(pause));
        }
        if self.look.is_some_and(Deadline::has_passed) {
            self.look = None;
            while let Some((pid, exit)) = process::reap_any()? {
                self.tell(pid, exit);
            }
        }
        Ok(())
    }

    /// Tells how a child ended that is reaped.
    fn tell(&mut self, pid: u32, exit: Exit) {
        crash_point!("server: a child is reaped");
        if let Some(channel) = self.children.remove(&pid) {
            // Fails where the parent has let go of the child: nobody wants to know.
            let _ = protocol::send_status(&channel, exit);
            crash_point!("server: its status is sent");
        }
    }
}

/// Whether the kernel tells how a process ended after it was reaped: asked of one that is forked for it.
fn kernel_tells() -> bool {
    // As an older one.
    #[cfg(mp_crash)]
    if std::env::var_os("MP_KERNEL_TELLS_NOTHING").is_some() {
        return false;
    }
    // SAFETY: this process has one thread: it starts none. The child ends at once.
    let Ok(forked) = (unsafe { fork() }) else { return false };
    let pid = match forked {
        Forked::Child => process::exit_now(0),
        Forked::Parent(pid) => pid,
    };
    let pidfd = process::pidfd_open(pid);
    process::kill_child(pid);
    pidfd.is_ok_and(|pidfd| process::exit_after_reaping(pidfd.as_fd()).is_some())
}

/// Goes the way of a request once, so that what is allocated, bound and copied at first use is.
fn warm_up() {
    entry::warm_up();
    boot::warm_up();
}

//! The start of a child, from the child's side.

use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use mp_core::packet::Channel;
use mp_core::sys::fd::{self, PollFd};
use mp_core::sys::process;
use mp_core::{Deadline, Message, crash_point, spin};

use crate::current::{Identity, Parent, become_child};
use crate::entry::{Outcome, Trampoline};
use crate::protocol::{self, Profile, Request, Role, Surroundings};
use crate::start::{forkserver, server};
use crate::{Error, Result, family, set_start_method};

/// Whether this program said what to do when it is re-executed.
static INITIALISED: AtomicBool = AtomicBool::new(false);

pub(crate) fn is_initialised() -> bool {
    INITIALISED.load(Ordering::Relaxed)
}

/// Makes this program able to run as its own child. The first line of `main`.
///
/// Processes started by `Spawn`, and the fork server, are this program, executed again: there, this call
/// runs what is to run and never returns. Everywhere else it returns at once, and changes nothing. The
/// program's arguments and environment are the same in a child as in its parent.
///
/// What stands before it in `main` is run by every such child as well. Tests, whose `main` is not theirs,
/// use [`test_support!`](crate::test_support) instead.
///
/// Python: `freeze_support()` and `if __name__ == "__main__":`.
///
/// # Example
///
/// ```standalone_crate
/// use mp_process::Process;
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     mp_process::init();
///     let sum = |a: i32, b: i32| a + b;
///     assert_eq!(Process::new(sum, (1, 2)).start()?.result()?, 3);
///     Ok(())
/// }
/// ```
#[doc(alias = "freeze_support")]
pub fn init() {
    match role() {
        Some(_) if !process::on_main_thread() => missed_init(),
        Some(role) => {
            INITIALISED.store(true, Ordering::Relaxed);
            play(role)
        }
        // Off the main thread this is not the first line of main, and a re-executed child would not
        // come by in time.
        None if process::on_main_thread() => INITIALISED.store(true, Ordering::Relaxed),
        None => {}
    }
}

/// Makes [`init`] work below the standard test harness, where `main` is not ours.
///
/// Once per file of tests (a crate's unit tests are one), at the top level. A test process that is
/// re-executed as a child then becomes one before the harness starts.
///
/// # Example
///
/// ```
/// mp_process::test_support!();
///
/// #[test]
/// fn a_process_adds() -> Result<(), Box<dyn std::error::Error>> {
///     let add = |a: i32, b: i32| a + b;
///     assert_eq!(mp_process::Process::new(add, (1, 2)).start()?.result()?, 3);
///     Ok(())
/// }
/// # fn main() {}
/// ```
#[allow(clippy::test_attr_in_doctest, reason = "shows a file of tests")]
#[macro_export]
macro_rules! test_support {
    () => {
        const _: () = {
            extern "C" fn before_main() {
                $crate::init();
            }
            // The loader calls what this section lists, on the main thread, before main (elf(5)).
            #[used]
            #[unsafe(link_section = ".init_array")]
            static BEFORE_MAIN: extern "C" fn() = before_main;
        };
    };
}

/// Which role this process was executed for, if for one.
///
/// Its parent left a message on standard input, a socket, and the message names the parent: a program that
/// merely inherited the socket is somebody else's child.
fn role() -> Option<Role> {
    let stdin = std::io::stdin();
    if !mp_core::sys::socket::is_packet_socket(stdin.as_fd()) {
        return None;
    }
    let body = Channel::peek(stdin.as_fd(), protocol::ROLE)?;
    let (role, parent) = protocol::read_role(&body).ok()?;
    if parent == process::parent_id() {
        return Some(role);
    }
    if is_orphaned(stdin.as_fd(), parent) {
        process::exit_now(0);
    }
    None
}

/// Whether the message on standard input was for this process, and whoever sent it has ended since.
///
/// Then the sender's end of the socket is closed, unless a fork of it holds a copy, and its descriptor says
/// that it has ended. The kernel gives a dying process's children to another parent a moment before it says
/// so, hence the second look.
fn is_orphaned(stdin: BorrowedFd<'_>, parent: u32) -> bool {
    (0..5).any(|attempt| {
        if attempt > 0 {
            thread::sleep(Duration::from_millis(1));
        }
        let closed = fd::poll(&mut [PollFd::hung_up(stdin)], Deadline::PASSED).is_ok_and(|n| n > 0);
        closed
            || process::pidfd_open(parent).map_or(true, |pidfd| {
                process::wait_ended(pidfd.as_fd(), Deadline::PASSED).unwrap_or(true)
            })
    })
}

/// Ends a process that was to be a child and is on its way through `main`.
pub(crate) fn stop_if_init_was_missed() {
    if !is_initialised() && role().is_some() {
        missed_init();
    }
}

fn missed_init() -> ! {
    eprintln!(
        "multiprocess: process {} was started to be a child and ran main instead: \
         put `multiprocess::init();` on the first line of main, or `multiprocess::test_support!();` \
         into the file of tests",
        std::process::id()
    );
    process::exit_now(protocol::MISSED_INIT)
}

/// Becomes what this process was executed for.
fn play(role: Role) -> ! {
    // Before main of Rust has run, below a test harness, it has not done this yet.
    process::reset_signals();
    let Ok(stdin) = fd::take_stdin() else { process::exit_now(1) };
    let mut channel = Channel::from(stdin);
    if let Err(error) = fd::blank_inherited() {
        let error = Error::io("let go of the parent's descriptors")(error);
        let _ = protocol::send_refusal(&channel, &error);
        process::exit_now(1);
    }
    crash_point!("child: executed, and knows its role");
    // The role itself, which was only looked at.
    if channel.receive(Deadline::NEVER).is_err() {
        process::exit_now(0);
    }
    match role {
        Role::ForkServer => server::serve(channel, true),
        Role::Child => serve_request(channel, process::pidfd_open(std::process::id()).ok()),
    }
}

/// Runs what the next message on `channel` asks for. `us` is the descriptor of this process, for a parent that
/// has none.
pub(crate) fn serve_request(mut channel: Channel, us: Option<OwnedFd>) -> ! {
    crash_point!("child: waits for its request, about to sleep");
    // Where the parent has ended, nobody wants it any more.
    let Ok(packet) = channel.receive(Deadline::NEVER) else { process::exit_now(0) };
    crash_point!("child: it has its request");
    let ready = protocol::read_request(packet)
        .map_err(|error| Error::Refused(error.to_string()))
        .and_then(prepare)
        .and_then(|ready| {
            // From here on, the end of a fork server does not concern it.
            crash_point!("child: prepared");
            process::live_on();
            crash_point!("child: about to say hello");
            let hello = protocol::send_hello(&channel, us.as_ref().map(AsFd::as_fd));
            hello.map_err(Error::core("say hello")).map(|()| ready)
        });
    drop(us);
    match ready {
        Ok((trampoline, arguments, lifeline)) => {
            crash_point!("child: it has said hello");
            run(&channel, lifeline, || trampoline(arguments))
        }
        Err(error) => {
            let _ = protocol::send_refusal(&channel, &error);
            process::exit_now(1)
        }
    }
}

/// The target, its arguments, and what ties a daemon to its parent.
type Ready = (Trampoline, Message, Option<OwnedFd>);

/// Makes this process what the request says.
fn prepare(request: Request) -> Result<Ready> {
    let Request { profile, wake_up, address, surroundings, parent, lifeline, streams, arguments } =
        request;
    if wake_up > 0 {
        // Its first wait would begin with a millisecond of measuring.
        spin::take_over(Duration::from_nanos(wake_up.into()));
    }
    let trampoline = address.resolve()?;
    place_streams(&streams)?;
    drop(streams);
    if let Some(surroundings) = surroundings {
        enter(surroundings)?;
    }
    crash_point!("child: it is where its parent is");
    let lifeline = adopt(profile, parent, lifeline)?;
    Ok((trampoline, arguments, lifeline))
}

/// Makes these the standard output and error.
fn place_streams(streams: &[Option<OwnedFd>; 2]) -> Result<()> {
    for (number, stream) in (1..).zip(streams) {
        if let Some(stream) = stream {
            fd::place(stream.as_fd(), number).map_err(Error::io("set up standard output"))?;
        }
    }
    Ok(())
}

/// Takes on what a child of the fork server has not inherited.
fn enter(surroundings: Surroundings) -> Result<()> {
    if let Some(directory) = surroundings.directory {
        fd::enter(directory.as_fd())
            .map_err(Error::io("enter the working directory of the parent"))?;
    }
    if let Some(variables) = surroundings.environment {
        forkserver::set_environment(&variables);
    }
    if let Some(ignored) = surroundings.ignored {
        process::ignore_signals(ignored);
    }
    if let Some(cpus) = surroundings.cpus {
        process::set_affinity(&cpus).map_err(Error::io("run on the CPUs of the parent"))?;
    }
    Ok(())
}

/// Takes on an identity; a daemon ties its life to its parent's for as long as what this gives is kept.
pub(crate) fn adopt(
    profile: Profile,
    parent: OwnedFd,
    lifeline: Option<OwnedFd>,
) -> Result<Option<OwnedFd>> {
    let lifeline = lifeline
        .map(|pipe| fd::die_with_writers(pipe.as_fd()))
        .transpose()
        .map_err(Error::io("tie a daemon to its parent"))?;
    set_start_method(profile.default_method);
    become_child(Identity {
        name: profile.name,
        daemon: profile.daemon,
        path: profile.path,
        parent: Parent { name: profile.parent_name, pid: profile.parent_pid, pidfd: parent },
    });
    Ok(lifeline)
}

/// Runs the target, reports its outcome, ends this process's own children as the end of a program does, and exits.
pub(crate) fn run(
    channel: &Channel,
    lifeline: Option<OwnedFd>,
    target: impl FnOnce() -> Outcome,
) -> ! {
    let us = std::process::id();
    let outcome = target();
    if std::process::id() != us {
        // A copy that the target has forked behind our back. What it returns is not what the target does.
        end(protocol::exit_code(&outcome), true);
    }
    finish(channel, &outcome, lifeline)
}

fn finish(channel: &Channel, outcome: &Outcome, lifeline: Option<OwnedFd>) -> ! {
    crash_point!("child: its target has run");
    let mut code = protocol::exit_code(outcome);
    match protocol::send_outcome(channel, outcome) {
        // A parent that is gone or has let go of this process wants no outcome.
        Ok(()) | Err(mp_core::Error::Disconnected) => {}
        Err(error) => {
            let outcome = Outcome::Unencodable(error.to_string());
            let _ = protocol::send_outcome(channel, &outcome);
            code = protocol::exit_code(&outcome);
        }
    }
    crash_point!("child: its outcome is sent");
    // Open until the end.
    let _lifeline = lifeline;
    end(code, false)
}

/// Ends this process as a program ends, but for what runs at exit. `is_copy`: a fork has made it, perhaps while another
/// thread, which it has not, held a lock.
fn end(code: i32, is_copy: bool) -> ! {
    let threads = is_copy || process::may_have_threads();
    if threads {
        flush_or(true, move || {
            family::finish();
            process::exit_now(code);
        });
    } else {
        flush();
    }
    family::finish();
    if threads {
        // What other threads have written meanwhile.
        flush_or(true, move || process::exit_now(code));
    }
    crash_point!("child: its children are joined");
    process::exit_now(code)
}

/// Writes out what is buffered, Rust's and C's. For a process that never had a second thread: one may have kept a lock.
pub(crate) fn flush() {
    let _ = std::io::stdout().flush();
    process::flush_c_streams();
}

/// For how long the end of a process waits for a lock of an output stream.
const PATIENCE: Duration = Duration::from_millis(250);

/// As [`flush`], whatever threads there are or were; C's only where it is not for Rust's `too`.
///
/// A logger, say, may hold standard output and not let go of it any more, and another thread a stream of C in which it reads.
/// No such lock can be tried, so another thread stands by: where this one waits for too long, that one does the rest in its
/// place, of which what is `last` is a part. Then what is buffered there is lost, as at the end of any program of Rust. Who
/// has the lock may have to wait for whoever reads, and does, as in any program.
///
/// A thread that gets free after all goes on, so that both may do what is last.
fn flush_or(too: bool, last: impl Fn() + Clone + Send + 'static) {
    let (tell, told) = mpsc::channel();
    let stuck = process::thread_id();
    let stand_by = move || {
        let (mut limit, mut before_c) = (Some(PATIENCE), too);
        loop {
            let mut next = limit.map_or_else(|| Ok(told.recv()?), |limit| told.recv_timeout(limit));
            if next == Err(RecvTimeoutError::Timeout) && process::waits_for_another(stuck) {
                // It may be free by now.
                next = told.recv_timeout(Duration::ZERO);
                if next == Err(RecvTimeoutError::Timeout) {
                    break;
                }
            }
            match next {
                Ok(next) => (limit, before_c) = (next, false),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
        if before_c {
            flush_or(false, last.clone());
        }
        last();
    };
    // Where there is no such thread, as this user has too many, it has to do without.
    let _ = thread::Builder::new().stack_size(256 << 10).spawn(stand_by);
    if too {
        let mut stdout = std::io::stdout().lock();
        let _ = tell.send(None);
        let _ = stdout.flush();
        drop(stdout);
        let _ = tell.send(Some(PATIENCE));
    }
    process::flush_c_streams();
}

/// Goes the way of an end once, but for the end.
pub(crate) fn warm_up() {
    let _ = process::may_have_threads();
    flush();
}

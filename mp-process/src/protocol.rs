//! What a process, its child and the fork server say to each other.
//!
//! Each child has a channel of its own to the process that started it. A re-executed process finds there, on
//! standard input, the `ROLE` it has. Down the channel goes one `REQUEST`; up come `HELLO` (or `REFUSED`), the
//! `OUTCOME`, and from the fork server, which keeps a copy of the child's end until it has reaped the child,
//! the `STATUS`. `HELLO` is the child's last word before its target runs: where none came, the target did not
//! run. (A plain fork has its request in its memory, cannot fail to find its target, and says hello first.) On
//! the fork server's own socket, `READY` hands over a process that waits for a request, and `MORE`
//! asks for the next.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use mp_core::fields::{Reader, Writer};
use mp_core::packet::{Channel, Packet};
use mp_core::sys::process::{Cpus, Exit};
use mp_core::{Deadline, Error as CoreError, Message, Result as CoreResult, spin};

use crate::entry::{Address, Outcome};
use crate::start::forkserver::Spare;
use crate::{Error, ExitStatus, StartMethod};

pub(crate) const ROLE: u8 = 1;
pub(crate) const READY: u8 = 2;
pub(crate) const REQUEST: u8 = 3;
pub(crate) const HELLO: u8 = 4;
pub(crate) const REFUSED: u8 = 5;
pub(crate) const OUTCOME: u8 = 6;
pub(crate) const STATUS: u8 = 7;
pub(crate) const MORE: u8 = 8;

/// The exit code of a process that was to be a child and ran `main` instead.
pub(crate) const MISSED_INIT: i32 = 102;

/// What a re-executed process is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    ForkServer,
    Child,
}

/// Sends the role, with the number of the process that sends it.
pub(crate) fn send_role(channel: &Channel, role: Role) -> CoreResult<()> {
    let mut writer = Writer::new();
    writer.u8(role as u8).u32(std::process::id());
    channel.send(ROLE, &[&writer.into_bytes()], &[])
}

pub(crate) fn read_role(body: &[u8]) -> CoreResult<(Role, u32)> {
    let mut reader = Reader::new(body);
    let role = match reader.u8()? {
        0 => Role::ForkServer,
        1 => Role::Child,
        _ => return Err(CoreError::Protocol("a role that is not known")),
    };
    let parent = reader.u32()?;
    reader.finish()?;
    Ok((role, parent))
}

/// What a child is, but for what it runs.
pub(crate) struct Profile {
    pub(crate) name: String,
    pub(crate) path: String,
    pub(crate) daemon: bool,
    pub(crate) parent_name: String,
    pub(crate) parent_pid: u32,
    pub(crate) default_method: StartMethod,
}

/// What the fork server's children have to be told, because they are no copies of their parent.
pub(crate) struct Surroundings {
    /// The working directory, where it is another than the fork server's.
    pub(crate) directory: Option<OwnedFd>,
    /// The environment, where it is another than the fork server's.
    pub(crate) environment: Option<Vec<(OsString, OsString)>>,
    /// The CPUs to run on, where they are others than the fork server's.
    pub(crate) cpus: Option<Cpus>,
    /// The signals of terminals to ignore, where they are others than the fork server was started with.
    pub(crate) ignored: Option<u8>,
}

/// A start request as the child reads it.
pub(crate) struct Request {
    pub(crate) profile: Profile,
    /// What the parent has measured of how long a wake-up takes, in nanoseconds; 0: it has not.
    pub(crate) wake_up: u32,
    pub(crate) address: Address,
    pub(crate) surroundings: Option<Surroundings>,
    /// The parent's process descriptor.
    pub(crate) parent: OwnedFd,
    /// For a daemon: the pipe whose writer is the parent.
    pub(crate) lifeline: Option<OwnedFd>,
    /// Standard output and error, where they are open and not inherited.
    pub(crate) streams: [Option<OwnedFd>; 2],
    pub(crate) arguments: Message,
}

/// The descriptors that go with a request, in this order.
pub(crate) struct RequestFds<'a> {
    pub(crate) parent: BorrowedFd<'a>,
    pub(crate) lifeline: Option<BorrowedFd<'a>>,
    pub(crate) streams: [Option<BorrowedFd<'a>>; 2],
}

pub(crate) fn send_request(
    channel: &Channel,
    profile: &Profile,
    address: &Address,
    surroundings: Option<&Surroundings>,
    fds: &RequestFds<'_>,
    arguments: &Message,
) -> CoreResult<()> {
    let mut writer = Writer::new();
    writer
        .bytes(profile.name.as_bytes())
        .bytes(profile.path.as_bytes())
        .u8(profile.daemon.into())
        .bytes(profile.parent_name.as_bytes())
        .u32(profile.parent_pid)
        .u8(profile.default_method as u8)
        .u32(spin::measured().map_or(0, |time| time.as_nanos() as u32));
    address.write(&mut writer);
    match surroundings {
        None => {
            writer.u8(0);
        }
        Some(surroundings) => {
            let variables = surroundings.environment.as_deref();
            writer.u8(1).u8(variables.is_some().into());
            let variables = variables.unwrap_or_default();
            writer.u32(variables.len() as u32);
            for (name, value) in variables {
                writer.bytes(name.as_bytes()).bytes(value.as_bytes());
            }
            writer.u8(surroundings.cpus.is_some().into());
            for &word in surroundings.cpus.iter().flatten() {
                writer.u64(word);
            }
            writer.u8(surroundings.ignored.is_some().into());
            writer.u8(surroundings.ignored.unwrap_or_default());
        }
    }
    let directory = surroundings.and_then(|surroundings| surroundings.directory.as_ref());
    writer.u8(fds.lifeline.is_some().into());
    for stream in &fds.streams {
        writer.u8(stream.is_some().into());
    }
    writer.u8(directory.is_some().into());
    let mut all = vec![fds.parent];
    all.extend(fds.lifeline);
    all.extend(fds.streams.iter().flatten());
    all.extend(directory.map(AsFd::as_fd));
    all.extend(arguments.fds().iter().map(AsFd::as_fd));
    channel.send(REQUEST, &[&writer.into_bytes(), arguments.bytes()], &all)
}

pub(crate) fn read_request(packet: Packet) -> CoreResult<Request> {
    let Packet { kind, body, fds } = packet;
    if kind != REQUEST {
        return Err(CoreError::Protocol("a start request was expected"));
    }
    let mut reader = Reader::new(&body);
    let name = reader.str()?.to_string();
    let path = reader.str()?.to_string();
    let daemon = reader.u8()? != 0;
    let parent_name = reader.str()?.to_string();
    let parent_pid = reader.u32()?;
    let default_method = StartMethod::from_number(reader.u8()?)
        .ok_or(CoreError::Protocol("a start method that is not known"))?;
    let profile = Profile { name, path, daemon, parent_name, parent_pid, default_method };
    let wake_up = reader.u32()?;
    let address = Address::read(&mut reader)?;
    let mut surroundings = if reader.u8()? == 0 {
        None
    } else {
        let changed = reader.u8()? != 0;
        let count = reader.u32()?;
        let mut variables = Vec::new();
        for _ in 0..count {
            let name = OsString::from_vec(reader.bytes()?.to_vec());
            variables.push((name, OsString::from_vec(reader.bytes()?.to_vec())));
        }
        let mut cpus = (reader.u8()? != 0).then_some([0; 16]);
        for word in cpus.iter_mut().flatten() {
            *word = reader.u64()?;
        }
        let (others, ignored) = (reader.u8()? != 0, reader.u8()?);
        Some(Surroundings {
            directory: None,
            environment: changed.then_some(variables),
            cpus,
            ignored: others.then_some(ignored),
        })
    };
    let mut fds = fds.into_iter();
    let mut next = |present: bool| match present {
        false => Ok(None),
        true => fds.next().map(Some).ok_or(CoreError::Protocol("a request lacks a descriptor")),
    };
    let parent = next(true)?.ok_or(CoreError::Protocol("a request lacks a descriptor"))?;
    let lifeline = next(reader.u8()? != 0)?;
    let streams = [next(reader.u8()? != 0)?, next(reader.u8()? != 0)?];
    let directory = next(reader.u8()? != 0)?;
    if let Some(surroundings) = &mut surroundings {
        surroundings.directory = directory;
    }
    let arguments = Message::new(reader.into_rest().to_vec(), fds.collect());
    Ok(Request { profile, wake_up, address, surroundings, parent, lifeline, streams, arguments })
}

/// Hands over a process that waits for a request: our end of its channel, and its process descriptor. `tells`: how it
/// ended will be told through the channel.
pub(crate) fn send_spare(
    control: &Channel,
    pid: u32,
    tells: bool,
    channel: BorrowedFd<'_>,
    pidfd: BorrowedFd<'_>,
) -> CoreResult<()> {
    let mut writer = Writer::new();
    writer.u32(pid);
    writer.u32(tells.into());
    control.send(READY, &[&writer.into_bytes()], &[channel, pidfd])
}

/// Says that no process could be made.
pub(crate) fn send_no_spare(control: &Channel, error: &io::Error) -> CoreResult<()> {
    let mut writer = Writer::new();
    writer.u32(error.raw_os_error().unwrap_or(libc::EAGAIN) as u32);
    writer.u32(0);
    control.send(READY, &[&writer.into_bytes()], &[])
}

/// Waits for a process that waits for a request, or the reason why there is none.
pub(crate) fn receive_spare(
    control: &mut Channel,
    deadline: Deadline,
) -> CoreResult<io::Result<Spare>> {
    let packet = control.receive(deadline)?;
    let mut reader = Reader::new(&packet.body);
    let (number, tells) = (reader.u32()?, reader.u32()? != 0);
    reader.finish()?;
    let mut fds = packet.fds.into_iter();
    match (packet.kind, fds.next(), fds.next()) {
        (READY, Some(channel), Some(pidfd)) => {
            Ok(Ok(Spare { channel: channel.into(), pid: number, pidfd, tells }))
        }
        (READY, None, None) => Ok(Err(io::Error::from_raw_os_error(number as i32))),
        _ => Err(CoreError::Protocol("another message than a process that is ready")),
    }
}

/// Says that the target is about to run. `us` is this process's descriptor, for whoever has none.
pub(crate) fn send_hello(channel: &Channel, us: Option<BorrowedFd<'_>>) -> CoreResult<()> {
    channel.send(HELLO, &[], us.as_slice())
}

/// Says why no target will run.
pub(crate) fn send_refusal(channel: &Channel, error: &Error) -> CoreResult<()> {
    let mut writer = Writer::new();
    match error {
        // Ours is theirs on the other side.
        Error::DifferentProgram { ours, theirs } => {
            writer.u8(1).bytes(theirs.as_bytes()).bytes(ours.as_bytes());
        }
        other => {
            let mut why = other.to_string();
            let mut source = std::error::Error::source(other);
            while let Some(error) = source {
                why = format!("{why}: {error}");
                source = error.source();
            }
            writer.u8(0).bytes(why.as_bytes());
        }
    }
    channel.try_send(REFUSED, &[&writer.into_bytes()], &[])
}

pub(crate) fn read_refusal(body: &[u8]) -> CoreResult<Error> {
    let mut reader = Reader::new(body);
    let error = match reader.u8()? {
        1 => Error::DifferentProgram {
            ours: reader.str()?.to_string(),
            theirs: reader.str()?.to_string(),
        },
        _ => Error::Refused(reader.str()?.to_string()),
    };
    reader.finish()?;
    Ok(error)
}

pub(crate) fn send_outcome(channel: &Channel, outcome: &Outcome) -> CoreResult<()> {
    let (tag, bytes, fds) = match outcome {
        Outcome::Value(message) => (0, message.bytes(), message.fds()),
        Outcome::Panicked(text) => (1, text.as_bytes(), &[][..]),
        Outcome::Unencodable(text) => (2, text.as_bytes(), &[][..]),
        Outcome::Undecodable(text) => (3, text.as_bytes(), &[][..]),
    };
    let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    channel.send(OUTCOME, &[&[tag], bytes], &fds)
}

pub(crate) fn read_outcome(packet: Packet) -> CoreResult<Outcome> {
    let Packet { mut body, fds, .. } = packet;
    let text = |body: &[u8]| String::from_utf8_lossy(&body[1..]).into_owned();
    match body.first() {
        Some(0) => {
            body.remove(0);
            Ok(Outcome::Value(Message::new(body, fds)))
        }
        Some(1) => Ok(Outcome::Panicked(text(&body))),
        Some(2) => Ok(Outcome::Unencodable(text(&body))),
        Some(3) => Ok(Outcome::Undecodable(text(&body))),
        _ => Err(CoreError::Protocol("an outcome of a kind that is not known")),
    }
}

/// The code a process exits with after this outcome: Rust's own for a panic.
pub(crate) fn exit_code(outcome: &Outcome) -> i32 {
    match outcome {
        Outcome::Value(_) => 0,
        Outcome::Panicked(_) => 101,
        Outcome::Unencodable(_) | Outcome::Undecodable(_) => 1,
    }
}

/// Says how a child ended. Never waits: a parent that does not read must not stop the fork server.
pub(crate) fn send_status(channel: &Channel, exit: Exit) -> CoreResult<()> {
    let mut writer = Writer::new();
    match exit {
        Exit::Code(code) => writer.u8(0).u32(code as u32),
        Exit::Signal(signal) => writer.u8(1).u32(signal as u32),
    };
    channel.try_send(STATUS, &[&writer.into_bytes()], &[])
}

pub(crate) fn read_status(body: &[u8]) -> CoreResult<ExitStatus> {
    let mut reader = Reader::new(body);
    let exit = match (reader.u8()?, reader.u32()? as i32) {
        (0, code) => Exit::Code(code),
        (_, signal) => Exit::Signal(signal),
    };
    reader.finish()?;
    Ok(exit.into())
}

/// Reads any bytes as each message there is, those of a start request first; nothing is run.
#[cfg(any(test, fuzzing))]
pub(crate) fn run_on(bytes: &[u8]) {
    let Some((&shape, body)) = bytes.split_first() else { return };
    let null = || mp_core::sys::fd::null().expect("opens");
    let fds = |count: u8| (0..count % 8).map(|_| null()).collect::<Vec<_>>();
    let packet = |kind| Packet { kind, body: body.to_vec(), fds: fds(shape >> 4) };
    match shape % 8 {
        0..3 => {
            if let Ok(request) = read_request(packet(REQUEST)) {
                // Of another program than this one, unless somebody knows its build id.
                let _ = request.address.resolve();
                assert!(request.arguments.fds().len() < 8);
            }
        }
        3 => drop(read_role(body)),
        4 => drop(read_refusal(body)),
        5 => drop(read_outcome(packet(OUTCOME))),
        6 => drop(read_status(body)),
        _ => {
            let (near, mut far) = Channel::pair().expect("sockets");
            let fds = fds(shape >> 4);
            let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
            near.try_send(READY, &[&body[..body.len().min(1000)]], &fds).expect("sends");
            let _ = receive_spare(&mut far, Deadline::PASSED);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mp_core::sys::process::pidfd_open;

    fn nothing(_: Message) -> Outcome {
        Outcome::Panicked(String::new())
    }

    #[test]
    fn a_request_comes_back_as_sent() {
        let (near, mut far) = Channel::pair().unwrap();
        let us = pidfd_open(std::process::id()).unwrap();
        let profile = Profile {
            name: "näme".to_string(),
            path: "1:2".to_string(),
            daemon: true,
            parent_name: "MainProcess".to_string(),
            parent_pid: 7,
            default_method: StartMethod::Spawn,
        };
        let address = Address::of(nothing).unwrap();
        let surroundings = Surroundings {
            directory: Some(us.try_clone().unwrap()),
            environment: Some(vec![("A".into(), "B=C".into()), ("D".into(), "".into())]),
            cpus: Some([7; 16]),
            ignored: Some(5),
        };
        let fds = RequestFds {
            parent: us.as_fd(),
            lifeline: Some(us.as_fd()),
            streams: [None, Some(us.as_fd())],
        };
        let arguments = Message::new(vec![1, 2, 3], vec![us.try_clone().unwrap()]);
        send_request(&near, &profile, &address, Some(&surroundings), &fds, &arguments).unwrap();

        let packet = far.receive(Deadline::PASSED).unwrap();
        let cut = Packet { kind: REQUEST, body: packet.body[..9].to_vec(), fds: Vec::new() };
        assert!(read_request(cut).is_err());
        let request = read_request(packet).unwrap();
        assert_eq!(request.profile.name, "näme");
        assert_eq!((request.profile.path.as_str(), request.profile.parent_pid), ("1:2", 7));
        assert_eq!(request.profile.default_method, StartMethod::Spawn);
        assert!(request.address == address);
        let read = request.surroundings.unwrap();
        assert!(read.directory.is_some());
        assert_eq!((read.cpus, read.ignored), (surroundings.cpus, surroundings.ignored));
        assert_eq!(read.environment, surroundings.environment);
        assert!(request.lifeline.is_some());
        assert_eq!(request.streams.map(|stream| stream.is_some()), [false, true]);
        let arguments = request.arguments;
        assert_eq!((arguments.bytes(), arguments.fds().len()), (&[1, 2, 3][..], 1));
    }

    #[test]
    fn a_spare_and_the_lack_of_one_come_back_as_sent() {
        let (near, mut far) = Channel::pair().unwrap();
        let us = pidfd_open(std::process::id()).unwrap();
        for tells in [true, false] {
            send_spare(&near, 7, tells, us.as_fd(), us.as_fd()).unwrap();
            let spare = receive_spare(&mut far, Deadline::PASSED).unwrap().unwrap();
            assert_eq!((spare.pid, spare.tells), (7, tells));
        }
        send_no_spare(&near, &io::Error::from_raw_os_error(libc::ENOMEM)).unwrap();
        let error = receive_spare(&mut far, Deadline::PASSED).unwrap().err().unwrap();
        assert_eq!(error.raw_os_error(), Some(libc::ENOMEM));
        near.send(HELLO, &[&[0; 4]], &[]).unwrap();
        assert!(receive_spare(&mut far, Deadline::PASSED).is_err());
    }

    #[test]
    fn what_nobody_sends_is_an_error() {
        assert!(read_role(&[9, 0, 0, 0, 0]).is_err());
        assert!(read_status(&[0]).is_err());
        assert!(read_refusal(&[1]).is_err());
        let packet = |body: Vec<u8>| Packet { kind: OUTCOME, body, fds: Vec::new() };
        assert!(read_outcome(packet(vec![])).is_err());
        assert!(read_outcome(packet(vec![9])).is_err());
    }
}

//! Whole messages over a socket pair.
//!
//! For control traffic: start requests, hand-shakes, results. A message is one packet, which arrives whole
//! or not at all, whatever dies when. A body too long for a packet travels as a sealed memory file, so a
//! sender never waits for a reader of long messages. Descriptors beyond the 253 of one packet follow in
//! packets of their own; if the sender dies in between, the message was not sent.
//!
//! Each packet starts with 24 bytes: `mpP1`, the kind (16 bits), flags (16 bits; 1: the body is the first
//! descriptor), the number of descriptors (32 bits), zero (32 bits), the length of the body (64 bits).

use std::fs::File;
use std::io::{self, IoSlice, Read, Seek};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use crate::fields::{Reader, Writer};
use crate::sys::{fd, mem, socket};
use crate::{Deadline, Error, Result};

/// How many descriptors one message can carry.
pub const MAX_FDS: usize = 16 * socket::MAX_FDS;

/// A longer body travels as a memory file. Small, because the receiver's buffer lies on the stack, and in a
/// process that was just forked each page of it that is written to costs microseconds.
const MAX_INLINE: usize = 2 << 10;
const HEADER: usize = 24;
const MAGIC: u32 = u32::from_le_bytes(*b"mpP1");
const BODY_IN_FILE: u8 = 1;
/// The kind of packets that bring further descriptors of the message before.
const MORE: u8 = u8::MAX;

/// One message as received.
#[derive(Debug)]
pub struct Packet {
    /// What it is, in the protocol of those who use the channel.
    pub kind: u8,
    /// The bytes.
    pub body: Vec<u8>,
    /// The descriptors.
    pub fds: Vec<OwnedFd>,
}

/// One end of a pair that carries messages both ways.
///
/// Every copy of an end counts: the other end learns that it is closed when the last one is, by drop, exit
/// or SIGKILL.
///
/// # Example
///
/// ```
/// use mp_core::{Deadline, packet::Channel};
///
/// # fn main() -> mp_core::Result<()> {
/// let (near, mut far) = Channel::pair()?;
/// near.send(1, &[b"hello, ", b"you"], &[])?;
/// let packet = far.receive(Deadline::NEVER)?;
/// assert_eq!((packet.kind, &packet.body[..]), (1, &b"hello, you"[..]));
/// # Ok(())
/// # }
/// ```
///
/// `S` is what owns the descriptor: who [shares](Self::share) it can wait for the socket while another thread uses the
/// channel, or drops it.
#[derive(Debug)]
pub struct Channel<S = OwnedFd> {
    socket: S,
    /// A message whose descriptors have not all come, and how many it will have.
    partial: Option<(Packet, usize)>,
}

impl Channel {
    /// Makes a connected pair.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] where descriptors are short.
    pub fn pair() -> Result<(Self, Self)> {
        let (near, far) = socket::pair()?;
        Ok((near.into(), far.into()))
    }

    /// The same channel, whose descriptor is open for as long as somebody has it.
    #[must_use]
    pub fn share(self) -> Channel<Arc<OwnedFd>> {
        Channel { socket: Arc::new(self.socket), partial: self.partial }
    }

    /// Looks whether the next message is of `kind` and gives its body; leaves it there.
    ///
    /// For a message without descriptors, and only while nothing is partly received.
    #[must_use]
    pub fn peek(socket: BorrowedFd<'_>, expected: u8) -> Option<Vec<u8>> {
        let mut buffer = [0; HEADER + MAX_INLINE];
        let len = socket::peek(socket, &mut buffer).ok()?;
        let (kind, 0, 0, body_len, body) = parse(&buffer[..len]).ok()? else { return None };
        (kind == expected && body.len() as u64 == body_len).then(|| body.to_vec())
    }

    /// The descriptor, to hand the end on.
    #[must_use]
    pub fn into_fd(self) -> OwnedFd {
        self.socket
    }
}

impl<S: AsFd> Channel<S> {
    /// What owns the descriptor.
    pub fn socket(&self) -> &S {
        &self.socket
    }

    /// Sends a message whose body is `parts` in a row; waits while many unread ones are under way.
    ///
    /// # Errors
    ///
    /// [`Error::Disconnected`] where every copy of the other end is closed, [`Error::TooManyDescriptors`]
    /// for more than [`MAX_FDS`], [`Error::Io`] where memory or descriptors are short, or a body that travels as a file is
    /// longer than this process may make one (setrlimit(2), `RLIMIT_FSIZE`).
    ///
    /// # Panics
    ///
    /// For the kind 255, which is the channel's own.
    pub fn send(&self, kind: u8, parts: &[&[u8]], fds: &[BorrowedFd<'_>]) -> Result<()> {
        self.send_message(kind, parts, fds, false)
    }

    /// Sends as [`send`](Self::send) does, or fails at once where it would have to wait.
    ///
    /// # Errors
    ///
    /// As `send`; [`Error::TimedOut`] where too many unread messages are under way.
    ///
    /// # Panics
    ///
    /// For the kind 255, which is the channel's own.
    pub fn try_send(&self, kind: u8, parts: &[&[u8]], fds: &[BorrowedFd<'_>]) -> Result<()> {
        self.send_message(kind, parts, fds, true)
    }

    fn send_message(
        &self,
        kind: u8,
        parts: &[&[u8]],
        fds: &[BorrowedFd<'_>],
        dont_wait: bool,
    ) -> Result<()> {
        assert_ne!(kind, MORE, "the kind 255 is the channel's own");
        if fds.len() > MAX_FDS {
            return Err(Error::TooManyDescriptors { count: fds.len(), max: MAX_FDS });
        }
        let len = parts.iter().map(|part| part.len()).sum::<usize>();
        let file = if len > MAX_INLINE { Some(sealed(parts)?) } else { None };
        let file_fd = file.as_ref().map(AsFd::as_fd);
        let fds: Vec<RawFd> = file_fd.iter().chain(fds).map(AsRawFd::as_raw_fd).collect();
        let mut packets = fds.chunks(socket::MAX_FDS);

        let first = packets.next().unwrap_or_default();
        let flags = if file.is_some() { BODY_IN_FILE } else { 0 };
        let header = header(kind, flags, fds.len(), len);
        let mut slices = vec![IoSlice::new(&header)];
        if file.is_none() {
            slices.extend(parts.iter().map(|part| IoSlice::new(part)));
        }
        self.send_packet(&slices, first, dont_wait)?;
        for more in packets {
            let header = self::header(MORE, 0, more.len(), 0);
            self.send_packet(&[IoSlice::new(&header)], more, dont_wait)?;
        }
        Ok(())
    }

    fn send_packet(&self, parts: &[IoSlice<'_>], fds: &[RawFd], dont_wait: bool) -> Result<()> {
        // Too many descriptors of this user are under way: others must receive theirs first.
        let patience = Deadline::after(Duration::from_secs(1));
        loop {
            let Err(error) = socket::send(self.socket.as_fd(), parts, fds, dont_wait) else {
                return Ok(());
            };
            match error.raw_os_error() {
                Some(libc::EPIPE | libc::ECONNRESET) => return Err(Error::Disconnected),
                Some(libc::EAGAIN) => return Err(Error::TimedOut),
                Some(libc::ETOOMANYREFS) if !dont_wait && !patience.has_passed() => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                _ => return Err(Error::Io(error)),
            }
        }
    }

    /// Receives a message, waiting for it until the deadline.
    ///
    /// # Errors
    ///
    /// [`Error::Disconnected`] where every copy of the other end is closed and all messages were received,
    /// [`Error::TimedOut`], [`Error::Protocol`] where what came is no message, [`Error::Io`] where descriptors or memory
    /// are short: then the message is lost.
    pub fn receive(&mut self, deadline: Deadline) -> Result<Packet> {
        loop {
            if deadline != Deadline::NEVER && !fd::wait_readable(self.as_fd(), deadline)? {
                return Err(Error::TimedOut);
            }
            if let Some(packet) = self.receive_packet(deadline != Deadline::NEVER)? {
                return Ok(packet);
            }
        }
    }

    /// Receives a message if there is one; does not wait.
    ///
    /// # Errors
    ///
    /// As [`receive`](Self::receive), but for the time-out.
    pub fn try_receive(&mut self) -> Result<Option<Packet>> {
        match self.receive(Deadline::PASSED) {
            Ok(packet) => Ok(Some(packet)),
            Err(Error::TimedOut) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Takes one packet off the socket; gives the message that it completes.
    fn receive_packet(&mut self, dont_wait: bool) -> Result<Option<Packet>> {
        let mut buffer = [0; HEADER + MAX_INLINE];
        let received = match socket::receive(self.socket.as_fd(), &mut buffer, dont_wait) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            result => result?,
        };
        if received.len == 0 {
            return Err(Error::Disconnected);
        }
        if received.truncated {
            let said = parse(&buffer[..received.len]).map_or(0, |(_, _, count, ..)| count);
            if received.fds.len() < said.min(socket::MAX_FDS) {
                // As it refuses one more now, while those that came are open.
                let refused = self.socket.as_fd().try_clone_to_owned().err();
                let few = || io::Error::from_raw_os_error(libc::EMFILE);
                return Err(Error::Io(refused.unwrap_or_else(few)));
            }
            return Err(Error::Protocol("a packet was longer than any, or lost its descriptors"));
        }
        let (kind, flags, count, len, body) = parse(&buffer[..received.len])?;
        let mut fds = received.fds;
        if kind == MORE {
            let Some((packet, _)) = &mut self.partial else {
                return Err(Error::Protocol("descriptors came without their message"));
            };
            packet.fds.append(&mut fds);
        } else {
            if count < fds.len() || count > MAX_FDS + 1 {
                return Err(Error::Protocol("a packet has more descriptors than it says"));
            }
            // The file leaves the table at once, so that indexes are those of the sender.
            let in_file = flags & BODY_IN_FILE != 0;
            let body = if in_file {
                if fds.is_empty() {
                    return Err(Error::Protocol("a packet's body is missing"));
                }
                read_sealed(fds.remove(0), len)?
            } else if body.len() as u64 == len {
                body.to_vec()
            } else {
                return Err(Error::Protocol("a packet's body is not as long as it says"));
            };
            let packet = Packet { kind, body, fds };
            self.partial = Some((packet, count - usize::from(in_file)));
        }
        Ok(self
            .partial
            .take_if(|(packet, count)| packet.fds.len() >= *count)
            .map(|(packet, _)| packet))
    }
}

impl From<OwnedFd> for Channel {
    /// Takes over one end of a [socket pair](socket::pair).
    fn from(socket: OwnedFd) -> Self {
        Self { socket, partial: None }
    }
}

impl<S: AsFd> AsFd for Channel<S> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn header(kind: u8, flags: u8, fds: usize, len: usize) -> Vec<u8> {
    let mut writer = Writer::new();
    writer.u32(MAGIC).u8(kind).u8(0).u8(flags).u8(0).u32(fds as u32).u32(0).u64(len as u64);
    writer.into_bytes()
}

/// Kind, flags, number of descriptors, length of the body, and the bytes behind the header.
fn parse(packet: &[u8]) -> Result<(u8, u8, usize, u64, &[u8])> {
    let mut reader = Reader::new(packet);
    if reader.u32()? != MAGIC {
        return Err(Error::Protocol("a packet does not begin as packets do"));
    }
    let (kind, zero, flags) = (reader.u8()?, reader.u8()?, reader.u8()?);
    let zeros = u32::from(zero) | u32::from(reader.u8()?);
    let count = reader.u32()? as usize;
    if zeros | reader.u32()? != 0 || flags & !BODY_IN_FILE != 0 {
        return Err(Error::Protocol("a packet has flags that are not known"));
    }
    let len = reader.u64()?;
    Ok((kind, flags, count, len, reader.into_rest()))
}

/// A memory file of `parts` that nobody can change any more.
fn sealed(parts: &[&[u8]]) -> Result<OwnedFd> {
    let fd = mem::memfd_of(c"mp-message", parts)?;
    mem::seal(fd.as_fd(), mem::SEAL_ALL)?;
    Ok(fd)
}

fn read_sealed(fd: OwnedFd, len: u64) -> Result<Vec<u8>> {
    if !mem::seals(fd.as_fd()).is_ok_and(|seals| seals & mem::SEAL_ALL == mem::SEAL_ALL) {
        return Err(Error::Protocol("a message's file is not sealed"));
    }
    // The sender's descriptor is the same open file, and stands at the end of what it wrote.
    let mut file = File::from(fd);
    if file.metadata()?.len() != len {
        return Err(Error::Protocol("a message's file is not as long as it says"));
    }
    let mut body = Vec::new();
    usize::try_from(len)
        .ok()
        .and_then(|len| body.try_reserve_exact(len).ok())
        .ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
    file.rewind()?;
    file.take(len).read_to_end(&mut body)?;
    Ok(body)
}

/// Sends packets that `bytes` describe and receives what they are: no more descriptors than a message can have, and
/// what comes behind a bad packet is read too.
#[cfg(any(test, fuzzing))]
pub(crate) fn run_on(mut bytes: &[u8]) {
    let (near, far) = socket::pair().expect("sockets");
    let mut far = Channel::from(far);
    let null = fd::null().expect("opens");
    // What a body in a file could be: sealed, open for changes, another size than it says, no such file.
    let files = [Some(&b"body"[..]), Some(b""), None].map(|body| match body {
        Some(body) => sealed(&[body]).expect("a file"),
        None => mem::memfd(c"open").expect("a file"),
    });
    // The header as it should be, but for what the input has in its place.
    while let Some((&[shape, count, len], rest)) = bytes.split_first_chunk::<3>() {
        let (body, rest) = rest.split_at(rest.len().min(len.into()));
        bytes = rest;
        let fds = usize::from(count % 8);
        let file = &files[usize::from(shape >> 4) % files.len()];
        let all: Vec<_> = (0..fds).map(|n| if n == 0 { file } else { &null }).collect();
        let all: Vec<RawFd> = all.into_iter().map(AsRawFd::as_raw_fd).collect();
        let header = match shape % 4 {
            0 => Vec::new(),
            1 => header(shape, 0, fds, body.len()),
            2 => header(shape, BODY_IN_FILE, fds, usize::from(count >> 4)),
            _ => header(MORE, 0, fds, 0),
        };
        let parts = [IoSlice::new(&header), IoSlice::new(body)];
        // Not where the queue is full, or the packet has no bytes, which would be the end.
        if header.len() + body.len() > 0 {
            let _ = socket::send(near.as_fd(), &parts, &all, true);
        }
        if shape & 8 != 0 {
            let _ = Channel::peek(far.as_fd(), shape);
            check(far.try_receive());
        }
    }
    drop(near);
    // The end need not show at once: who looks into /proc/self/fd holds the socket open for a moment (seen once).
    let end = Deadline::after(Duration::from_secs(4));
    loop {
        match far.receive(end) {
            Err(Error::Disconnected) => break,
            result => check(result.map(Some)),
        }
    }

    fn check(result: Result<Option<Packet>>) {
        match result {
            Ok(Some(packet)) => {
                assert!(packet.kind != MORE && packet.fds.len() <= MAX_FDS + 1);
                assert!(packet.body.len() <= MAX_INLINE);
            }
            Ok(None) | Err(Error::Protocol(_)) => {}
            Err(error) => panic!("neither a message nor none: {error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nulls(count: usize) -> Vec<OwnedFd> {
        let null = fd::null().unwrap();
        (0..count).map(|_| null.try_clone().unwrap()).collect()
    }

    fn borrow(fds: &[OwnedFd]) -> Vec<BorrowedFd<'_>> {
        fds.iter().map(AsFd::as_fd).collect()
    }

    #[test]
    fn messages_of_any_size_come_back_whole_without_a_reader() {
        let (near, mut far) = Channel::pair().unwrap();
        let sizes = [0, 1, MAX_INLINE, MAX_INLINE + 1, 3 << 20];
        for (kind, size) in sizes.into_iter().enumerate() {
            near.send(kind as u8, &[&vec![kind as u8; size]], &borrow(&nulls(kind))).unwrap();
        }
        drop(near);
        for (kind, size) in sizes.into_iter().enumerate() {
            let packet = far.receive(Deadline::NEVER).unwrap();
            assert_eq!(packet.kind as usize, kind);
            assert_eq!(packet.body, vec![kind as u8; size]);
            assert_eq!(packet.fds.len(), kind);
        }
        assert!(matches!(far.receive(Deadline::NEVER), Err(Error::Disconnected)));
        assert!(matches!(far.try_receive(), Err(Error::Disconnected)));
    }

    #[test]
    fn more_descriptors_than_a_packet_holds_are_split_and_too_many_refused() {
        let (near, mut far) = Channel::pair().unwrap();
        for count in [252, 253, 254, 600] {
            for body in [&b"small"[..], &[7; MAX_INLINE + 1]] {
                near.send(1, &[body], &borrow(&nulls(count))).unwrap();
                let packet = far.receive(Deadline::NEVER).unwrap();
                assert_eq!((packet.fds.len(), &packet.body[..]), (count, body));
            }
        }
        let one = fd::null().unwrap();
        let raw: Vec<OwnedFd> = match (0..=MAX_FDS).map(|_| one.try_clone()).collect() {
            Ok(fds) => fds,
            Err(_) => return, // the machine's own limit is lower
        };
        let error = near.send(1, &[b""], &borrow(&raw)).unwrap_err();
        assert!(matches!(error, Error::TooManyDescriptors { count: 4049, max: 4048 }));
    }

    #[test]
    fn a_message_cut_off_by_the_senders_death_was_not_sent() {
        let (near, mut far) = Channel::pair().unwrap();
        let null = fd::null().unwrap();
        let header = header(1, 0, 2, 0);
        near.send_packet(&[IoSlice::new(&header)], &[null.as_raw_fd()], false).unwrap();
        near.send(2, &[b"next"], &[]).unwrap();
        assert_eq!(far.receive(Deadline::NEVER).unwrap().kind, 2);
    }

    #[test]
    fn what_is_no_packet_is_an_error() {
        let (near, mut far) = Channel::pair().unwrap();
        let mut good = header(1, 0, 0, 0);
        let send = |bytes: &[u8]| near.send_packet(&[IoSlice::new(bytes)], &[], false).unwrap();
        send(b"x");
        send(&[0; 100]);
        send(&header(MORE, 0, 0, 0));
        send(&header(1, BODY_IN_FILE, 1, 1 << 40));
        send(&header(1, 0, 0, 5));
        send(&header(1, 2, 0, 0));
        good[5] = 1;
        send(&good);
        for _ in 0..7 {
            assert!(matches!(far.try_receive(), Err(Error::Protocol(_))));
        }
        assert!(far.try_receive().unwrap().is_none());
    }

    #[test]
    fn peek_leaves_the_message_there() {
        let (near, mut far) = Channel::pair().unwrap();
        assert_eq!(Channel::peek(far.as_fd(), 1), None);
        near.send(1, &[b"role"], &[]).unwrap();
        assert_eq!(Channel::peek(far.as_fd(), 2), None);
        assert_eq!(Channel::peek(far.as_fd(), 1).unwrap(), b"role");
        assert_eq!(far.receive(Deadline::NEVER).unwrap().body, b"role");
    }
}

//! The messages of a hand-shake on their way through a socket.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use mp_core::sys::{net, socket};

use crate::auth;
use crate::stream::is_gone;

/// A socket during the hand-shake. Nothing here waits.
#[derive(Debug)]
pub(crate) struct Line {
    socket: OwnedFd,
    /// It keeps packets whole; else it is a stream of bytes.
    packets: bool,
    buffer: [u8; auth::MAX],
    have: usize,
}

/// What came.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Heard<'a> {
    /// Not a whole message yet.
    Nothing,
    /// A message.
    Message(&'a [u8]),
    /// What no side of a hand-shake sends.
    Garbage,
    /// The other side is gone.
    End,
}

impl Line {
    pub(crate) fn new(socket: OwnedFd, packets: bool) -> Self {
        Self { socket, packets, buffer: [0; auth::MAX], have: 0 }
    }

    /// Sends a message, with descriptors where the socket carries them. It goes whole, or the other side is not
    /// one to go on with: nobody has sent so much that there is no room.
    pub(crate) fn send(&self, parts: &[&[u8]], fds: &[OwnedFd]) -> io::Result<()> {
        let slices: Vec<_> = parts.iter().map(|part| IoSlice::new(part)).collect();
        if self.packets {
            let fds: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
            return socket::send(self.socket.as_fd(), &slices, &fds, true);
        }
        let len = parts.iter().map(|part| part.len()).sum::<usize>();
        if net::send_some(self.socket.as_fd(), &slices)? == len {
            Ok(())
        } else {
            Err(io::ErrorKind::WriteZero.into())
        }
    }

    /// Reads on, never beyond the end of a message.
    pub(crate) fn hear(&mut self) -> Heard<'_> {
        let read = if self.packets { self.packet() } else { self.bytes() };
        match read {
            Ok(Some(0)) => Heard::End,
            Ok(Some(len)) => {
                self.have = 0;
                Heard::Message(&self.buffer[..len])
            }
            Ok(None) => Heard::Garbage,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Heard::Nothing,
            Err(error) if is_gone(&error) => Heard::End,
            // Lack of memory; the other side can try again.
            Err(_) => Heard::End,
        }
    }

    /// The length of a packet, 0 for the end, `None` for one that is no message.
    fn packet(&mut self) -> io::Result<Option<usize>> {
        let received = socket::receive(self.socket.as_fd(), &mut self.buffer, true)?;
        let wrong = received.truncated || !received.fds.is_empty();
        Ok((!wrong).then_some(received.len))
    }

    /// The same for a stream.
    fn bytes(&mut self) -> io::Result<Option<usize>> {
        loop {
            let want = match self.buffer.first_chunk::<2>() {
                Some(head) if self.have >= 2 => match auth::length(*head) {
                    Some(len) => len,
                    None => return Ok(None),
                },
                _ => 2,
            };
            if self.have >= 2 && self.have == want {
                return Ok(Some(want));
            }
            let room = &mut self.buffer[self.have..want];
            match net::receive_some(self.socket.as_fd(), room)? {
                0 => return Ok(Some(0)),
                count => self.have += count,
            }
        }
    }

    pub(crate) fn into_socket(self) -> OwnedFd {
        self.socket
    }
}

impl AsFd for Line {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_stream_is_read_to_the_end_of_a_message_and_no_further() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let mut line = Line::new(near.into(), false);
        assert_eq!(line.hear(), Heard::Nothing);
        let message = auth::refusal(auth::Reason::Proof);
        for byte in &message[..3] {
            far.write_all(&[*byte]).unwrap();
            assert_eq!(line.hear(), Heard::Nothing);
        }
        far.write_all(&[message[3], 0xff, 0xff]).unwrap();
        assert_eq!(line.hear(), Heard::Message(&message[..]));
        let mut rest = [0; 2];
        UnixStream::from(line.into_socket()).read_exact(&mut rest).unwrap();
        assert_eq!(rest, [0xff; 2]);
    }

    #[test]
    fn what_is_too_long_or_cut_short_is_no_message() {
        for (bytes, expected) in [
            (&[0, 0, 1][..], Heard::Garbage),
            (&[0xff, 0xff], Heard::Garbage),
            (&[255, 0], Heard::Garbage),
            (&[5, 0, 1, 2], Heard::End),
            (&[5], Heard::End),
            (&[], Heard::End),
        ] {
            let (near, mut far) = UnixStream::pair().unwrap();
            far.write_all(bytes).unwrap();
            drop(far);
            assert_eq!(Line::new(near.into(), false).hear(), expected, "{bytes:?}");
        }
    }

    #[test]
    fn packets_that_are_too_long_or_bring_descriptors_are_refused() {
        let (near, far) = socket::pair().unwrap();
        let (mut near, far) = (Line::new(near, true), Line::new(far, true));
        far.send(&[&[7; auth::MAX + 1]], &[]).unwrap();
        assert_eq!(near.hear(), Heard::Garbage);
        far.send(&[b"abc"], &[mp_core::sys::fd::null().unwrap()]).unwrap();
        assert_eq!(near.hear(), Heard::Garbage);
        far.send(&[b"abc", b"d"], &[]).unwrap();
        assert_eq!(near.hear(), Heard::Message(b"abcd"));
        drop(far);
        assert_eq!(near.hear(), Heard::End);
    }
}

//! The descriptors of items, and the one that shows whether there is something to get.
//!
//! A queue has a socket pair that all its handles share. One way go parcels: packets with the descriptors of
//! an item and a name that its record has too. A parcel is sent before its record is committed and taken
//! before the record is gone, so a process that dies in between leaves a parcel that no record names, which
//! is dropped when it comes up, or a record whose parcel is gone: that item counts as got by the dead.
//!
//! The other way goes a single byte, for as long as the queue has items, and the end of it all when it is
//! closed, once somebody asked for the descriptor: its end is what poll(2) is to wait on.

use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use mp_core::sys::socket::{self, MAX_FDS};
use mp_core::{crash_point, packet};

use crate::{Error, Result};

/// How many descriptors one item can have.
pub(crate) const MOST: usize = packet::MAX_FDS;

/// Name of the parcel, number of this packet in it, and zero.
const HEADER: usize = 16;

/// No faulty peer can have more packets under way than a socket holds.
const PACKETS: usize = 65_536;

#[derive(Debug)]
pub(crate) struct Sockets {
    /// Parcels are sent here. Readable while there is something to get.
    pub(crate) near: OwnedFd,
    /// Parcels are received here. Of a stream it has the one method that lets it be shut one way.
    pub(crate) far: UnixStream,
}

impl Sockets {
    pub(crate) fn pair() -> io::Result<Self> {
        let (near, far) = socket::pair()?;
        Ok(Self { near, far: far.into() })
    }

    pub(crate) fn over(near: OwnedFd, far: OwnedFd) -> Result<Self> {
        if socket::is_packet_socket(near.as_fd()) && socket::is_packet_socket(far.as_fd()) {
            Ok(Self { near, far: far.into() })
        } else {
            Err(Error::BadSegment("a queue's sockets are none".to_string()))
        }
    }

    /// Sends a parcel; does not wait. Under the lock of those who put.
    ///
    /// Errors: `WouldBlock` where too many are under way. A part of it may have gone out.
    pub(crate) fn send(&self, name: u64, fds: &[OwnedFd]) -> io::Result<()> {
        let fds: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        for (number, fds) in fds.chunks(MAX_FDS).enumerate() {
            let mut header = [0; HEADER];
            header[..8].copy_from_slice(&name.to_le_bytes());
            header[8..12].copy_from_slice(&(number as u32).to_le_bytes());
            socket::send(self.near.as_fd(), &[IoSlice::new(&header)], fds, true)?;
            crash_point!("put: a packet of descriptors is sent");
        }
        Ok(())
    }

    /// Takes the parcel of that name with its `count` descriptors, dropping those before it; `None` where it
    /// is gone. Does not wait. Under the lock of those who get.
    ///
    /// Errors: where this process has no room for so many descriptors; then the parcel stays.
    pub(crate) fn take(&self, name: u64, count: usize) -> io::Result<Option<Vec<OwnedFd>>> {
        let mut fds = Vec::new();
        for _ in 0..PACKETS {
            let mut header = [0; HEADER];
            match socket::peek(self.far.as_fd(), &mut header) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error),
            }
            let (found, number) = parse(&header);
            if found > name {
                return Ok(None);
            }
            if found == name && number == 0 {
                room_for(count, self.far.as_fd())?;
            }
            let received = socket::receive(self.far.as_fd(), &mut header, true)?;
            crash_point!("get: a packet of descriptors is taken");
            if found < name {
                continue;
            }
            if received.truncated || number as usize * MAX_FDS != fds.len() {
                // Another thread took the room, or the first part went to somebody who died.
                continue;
            }
            fds.extend(received.fds);
            if fds.len() >= count {
                return Ok((fds.len() == count).then_some(fds));
            }
        }
        Ok(None)
    }

    /// Drops what is under way; for when no record names any of it. Under both locks.
    pub(crate) fn drop_all(&self) {
        for _ in 0..PACKETS {
            if socket::receive(self.far.as_fd(), &mut [0; HEADER], true).is_err() {
                return;
            }
        }
    }

    /// Lets the descriptor be readable.
    pub(crate) fn show(&self) {
        if socket::peek(self.near.as_fd(), &mut [0]).is_err() {
            // It fails where the buffer is full, of what makes it readable.
            let _ = socket::send(self.far.as_fd(), &[IoSlice::new(&[1])], &[], true);
        }
    }

    /// Whether it is readable.
    pub(crate) fn is_shown(&self) -> bool {
        socket::peek(self.near.as_fd(), &mut [0]).is_ok()
    }

    /// Lets it not be readable. Under the lock of those who put. Says whether it is [shut](Self::shut) and so
    /// stays readable.
    pub(crate) fn hide(&self) -> bool {
        for _ in 0..PACKETS {
            match socket::receive(self.near.as_fd(), &mut [0], true) {
                Ok(received) if received.len == 0 => return true,
                Ok(_) => {}
                Err(_) => return false,
            }
        }
        false
    }

    /// Lets it be readable for ever. Parcels are sent and taken as before.
    pub(crate) fn shut(&self) {
        // It fails where a faulty peer has taken it apart.
        let _ = self.far.shutdown(Shutdown::Write);
    }
}

fn parse(header: &[u8; HEADER]) -> (u64, u32) {
    let (words, _) = header.as_chunks::<8>();
    (u64::from_le_bytes(words[0]), u64::from_le_bytes(words[1]) as u32)
}

/// Whether this process may have `count` descriptors more. Those of a packet that it has no room for are
/// lost, so this looks before.
fn room_for(count: usize, any: BorrowedFd<'_>) -> io::Result<()> {
    (0..count).map(|_| any.try_clone_to_owned()).collect::<io::Result<Vec<_>>>().map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nulls(count: usize) -> Vec<OwnedFd> {
        let null = mp_core::sys::fd::null().unwrap();
        (0..count).map(|_| null.try_clone().unwrap()).collect()
    }

    #[test]
    fn a_parcel_is_taken_by_its_name_and_those_before_it_are_dropped() {
        let sockets = Sockets::pair().unwrap();
        sockets.send(1, &nulls(2)).unwrap();
        sockets.send(2, &nulls(MAX_FDS + 7)).unwrap();
        sockets.send(4, &nulls(1)).unwrap();
        assert_eq!(sockets.take(2, MAX_FDS + 7).unwrap().unwrap().len(), MAX_FDS + 7);
        assert!(sockets.take(3, 1).unwrap().is_none(), "gone");
        assert_eq!(sockets.take(4, 1).unwrap().unwrap().len(), 1, "what comes after it stays");
        assert!(sockets.take(4, 1).unwrap().is_none());
    }

    #[test]
    fn a_parcel_of_which_a_part_was_taken_is_gone() {
        let sockets = Sockets::pair().unwrap();
        sockets.send(7, &nulls(MAX_FDS + 1)).unwrap();
        socket::receive(sockets.far.as_fd(), &mut [0; HEADER], true).unwrap();
        sockets.send(8, &nulls(1)).unwrap();
        assert!(sockets.take(7, MAX_FDS + 1).unwrap().is_none());
        assert!(sockets.take(8, 1).unwrap().is_some());
    }

    #[test]
    fn packets_of_a_faulty_peer_are_dropped() {
        let sockets = Sockets::pair().unwrap();
        let send = |bytes: &[u8]| {
            socket::send(sockets.near.as_fd(), &[IoSlice::new(bytes)], &[], true).unwrap();
        };
        send(b"x");
        send(&[0; 100]);
        sockets.send(5, &nulls(3)).unwrap();
        assert!(sockets.take(5, 2).unwrap().is_none(), "another count than the record says");
    }

    #[test]
    fn shown_is_readable_and_hidden_is_not() {
        use mp_core::Deadline;
        use mp_core::sys::fd::wait_readable;
        let sockets = Sockets::pair().unwrap();
        let readable = || wait_readable(sockets.near.as_fd(), Deadline::PASSED).unwrap();
        assert!(!readable());
        sockets.show();
        sockets.show();
        assert!(readable());
        assert!(!sockets.hide());
        assert!(!readable());
        sockets.show();
        sockets.shut();
        assert!(sockets.hide() && readable(), "nobody can hide that it is shut");
        sockets.shut();
        sockets.show();
        assert!(sockets.hide() && readable());
        sockets.send(1, &nulls(1)).unwrap();
        assert!(sockets.take(1, 1).unwrap().is_some(), "parcels go the other way");
        assert!(sockets.take(2, 1).unwrap().is_none());
    }
}

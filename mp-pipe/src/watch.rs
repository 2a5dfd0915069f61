//! What makes a receiver something that poll(2) and epoll(7) can wait for.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use mp_core::sys::fd::{Epoll, Event};

/// A descriptor that can be read while a socket can, or while it is set to.
#[derive(Debug)]
pub(crate) struct Watch {
    both: Epoll,
    event: Event,
    is_set: Cell<bool>,
}

impl Watch {
    pub(crate) fn new(socket: BorrowedFd<'_>) -> io::Result<Self> {
        let (both, event) = (Epoll::new()?, Event::new()?);
        both.add(socket, 0)?;
        both.add(event.as_fd(), 1)?;
        Ok(Self { both, event, is_set: Cell::new(false) })
    }

    pub(crate) fn set(&self, ready: bool) {
        match (self.is_set.replace(ready), ready) {
            (false, true) => self.event.set(),
            (true, false) => self.event.clear(),
            _ => {}
        }
    }

    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.both.as_fd()
    }
}

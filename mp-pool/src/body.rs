//! What of a task or result travels: arguments or values, encoded.
//!
//! A long body goes into a memory file at once, written by whoever encoded it, and what then passes through a
//! worker's pipe is short: nobody waits for a worker that is slow to take it, or has died half-way.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use mp_core::Message;
use mp_core::sys::mem;

/// A longer body lies in a file: with its header it would not pass through a pipe in one piece.
const LONG: usize = (64 << 10) - 16;

/// A message, as it waits.
#[derive(Debug, Default)]
pub(crate) struct Body {
    /// Its bytes; where they lie in a file, none.
    pub(crate) bytes: Vec<u8>,
    /// Its descriptors, then the file.
    pub(crate) fds: Vec<OwnedFd>,
    pub(crate) aside: bool,
}

impl Body {
    /// Puts a long message aside.
    pub(crate) fn pack(message: Message) -> io::Result<Self> {
        let (bytes, mut fds) = message.into_parts();
        if bytes.len() <= LONG {
            return Ok(Self { bytes, fds, aside: false });
        }
        fds.push(put_aside(&bytes)?);
        Ok(Self { bytes: Vec::new(), fds, aside: true })
    }

    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        let fds = self.fds.iter().map(OwnedFd::try_clone).collect::<io::Result<_>>()?;
        Ok(Self { bytes: self.bytes.clone(), fds, aside: self.aside })
    }

    /// The bytes, and copies of the descriptors: it can be read again.
    pub(crate) fn read(&self) -> io::Result<(Cow<'_, [u8]>, Vec<OwnedFd>)> {
        let (fds, bytes) = match self.fds.split_last() {
            Some((file, fds)) if self.aside => (fds, Cow::Owned(take_aside(file)?)),
            _ => (&self.fds[..], Cow::Borrowed(&self.bytes[..])),
        };
        let fds = fds.iter().map(OwnedFd::try_clone).collect::<io::Result<_>>()?;
        Ok((bytes, fds))
    }
}

/// Whether so many bytes are put aside.
pub(crate) fn is_long(len: usize) -> bool {
    len > LONG
}

/// Writes bytes to a memory file. memfd_create(2).
pub(crate) fn put_aside(bytes: &[u8]) -> io::Result<OwnedFd> {
    let mut file = File::from(mem::memfd(c"mp-task")?);
    file.write_all(bytes)?;
    Ok(file.into())
}

/// Reads all of it.
pub(crate) fn take_aside(file: &OwnedFd) -> io::Result<Vec<u8>> {
    // Of anything else than memory a read could wait for ever.
    mem::seals(std::os::fd::AsFd::as_fd(file))?;
    let file = File::from(file.try_clone()?);
    let len = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(len).map_err(|_| io::ErrorKind::OutOfMemory)?;
    bytes.resize(len, 0);
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_and_long_ones_can_be_read_again() {
        for len in [0, LONG, LONG + 1, 1 << 20] {
            let bytes = vec![7; len];
            let null = File::open("/dev/null").unwrap();
            let body = Body::pack(Message::new(bytes.clone(), vec![null.into()])).unwrap();
            assert_eq!(body.aside, is_long(len));
            for _ in 0..2 {
                let (read, fds) = body.read().unwrap();
                assert_eq!(read, bytes);
                assert_eq!(fds.len(), 1);
            }
        }
    }
}

//! What of a task or result travels: arguments or values, encoded.
//!
//! A long body goes into a memory file at once, written by whoever encoded it, and what then passes through a
//! worker's pipe is short: nobody waits for a worker that is slow to take it, or has died half-way.

use std::borrow::Cow;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::atomic::{AtomicUsize, Ordering};

use mp_core::Message;
use mp_core::sys::mem;

/// A longer body lies in a file: with its header it would not pass through a pipe in one piece.
const LONG: usize = (64 << 10) - 16;

/// No more files are kept open than this, by all pools together: what is more stays in memory.
const MOST_FILES: usize = 64;

static FILES: AtomicUsize = AtomicUsize::new(0);

/// A file with the bytes of a message.
#[derive(Debug)]
pub(crate) struct Aside(OwnedFd);

impl Aside {
    /// Keeps a file, unless there are too many already.
    fn keep(file: OwnedFd) -> Result<Self, OwnedFd> {
        // Relaxed: a count that guards nothing.
        if FILES.fetch_add(1, Ordering::Relaxed) < MOST_FILES {
            return Ok(Self(file));
        }
        FILES.fetch_sub(1, Ordering::Relaxed);
        Err(file)
    }

    pub(crate) fn file(&self) -> &OwnedFd {
        &self.0
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        FILES.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A message, as it waits.
#[derive(Debug, Default)]
pub(crate) struct Body {
    /// Its bytes; where they lie in a file, none.
    pub(crate) bytes: Vec<u8>,
    /// Apart: most have none, and bodies are moved about.
    more: Option<Box<More>>,
}

/// What only some messages have.
#[derive(Debug, Default)]
struct More {
    fds: Vec<OwnedFd>,
    aside: Option<Aside>,
}

impl Body {
    pub(crate) fn new(message: Message) -> Self {
        let (bytes, fds) = message.into_parts();
        Self::with(bytes, fds)
    }

    pub(crate) fn with(bytes: Vec<u8>, fds: Vec<OwnedFd>) -> Self {
        let more = (!fds.is_empty()).then(|| Box::new(More { fds, aside: None }));
        Self { bytes, more }
    }

    /// Puts it aside if it is long and there can be a file for it.
    pub(crate) fn pack(&mut self) {
        if is_long(self.bytes.len()) && FILES.load(Ordering::Relaxed) < MOST_FILES {
            let file = put_aside(&self.bytes).ok();
            if let Some(aside) = file.and_then(|file| Aside::keep(file).ok()) {
                self.more.get_or_insert_default().aside = Some(aside);
                self.bytes = Vec::new();
            }
        }
    }

    /// What was received; where `aside` is set the bytes lie in the last descriptor.
    pub(crate) fn received(bytes: &[u8], mut fds: Vec<OwnedFd>, aside: bool) -> io::Result<Self> {
        if !aside {
            return Ok(Self::with(bytes.to_vec(), fds));
        }
        let file = fds.pop().ok_or(io::ErrorKind::InvalidData)?;
        match Aside::keep(file) {
            Ok(aside) => {
                let more = Some(Box::new(More { fds, aside: Some(aside) }));
                Ok(Self { bytes: Vec::new(), more })
            }
            Err(file) => Ok(Self::with(take_aside(&file)?, fds)),
        }
    }

    pub(crate) fn is_long(&self) -> bool {
        self.aside().is_some() || is_long(self.bytes.len())
    }

    pub(crate) fn fds(&self) -> &[OwnedFd] {
        self.more.as_ref().map_or(&[], |more| &more.fds)
    }

    pub(crate) fn aside(&self) -> Option<&Aside> {
        self.more.as_ref().and_then(|more| more.aside.as_ref())
    }

    /// Whether its bytes are all there is.
    pub(crate) fn is_plain(&self) -> bool {
        self.more.is_none()
    }

    /// Lends the descriptors to a message, and with them a copy of that of the file; they come back by
    /// [`take_descriptors_back`](Self::take_descriptors_back).
    pub(crate) fn lend_descriptors(&mut self) -> io::Result<Vec<OwnedFd>> {
        let Some(more) = &mut self.more else { return Ok(Vec::new()) };
        let file = more.aside.as_ref().map(|aside| aside.file().try_clone()).transpose()?;
        let mut fds = std::mem::take(&mut more.fds);
        fds.extend(file);
        Ok(fds)
    }

    pub(crate) fn take_descriptors_back(&mut self, mut fds: Vec<OwnedFd>) {
        if let Some(more) = &mut self.more {
            if more.aside.is_some() {
                fds.pop();
            }
            more.fds = fds;
        }
    }

    /// The bytes, wherever they lie.
    pub(crate) fn bytes(&self) -> io::Result<Cow<'_, [u8]>> {
        match self.aside() {
            Some(aside) => take_aside(aside.file()).map(Cow::Owned),
            None => Ok(Cow::Borrowed(&self.bytes)),
        }
    }

    pub(crate) fn into_bytes(self) -> io::Result<Vec<u8>> {
        match self.aside() {
            Some(aside) => take_aside(aside.file()),
            None => Ok(self.bytes),
        }
    }

    /// The bytes, and copies of the descriptors: it can be read again.
    pub(crate) fn read(&self) -> io::Result<(Cow<'_, [u8]>, Vec<OwnedFd>)> {
        if self.is_plain() {
            return Ok((Cow::Borrowed(&self.bytes), Vec::new()));
        }
        let fds = self.fds().iter().map(OwnedFd::try_clone).collect::<io::Result<_>>()?;
        Ok((self.bytes()?, fds))
    }
}

/// Whether so many bytes are put aside.
pub(crate) fn is_long(len: usize) -> bool {
    len > LONG
}

/// Writes bytes to a memory file. memfd_create(2).
pub(crate) fn put_aside(bytes: &[u8]) -> io::Result<OwnedFd> {
    mem::memfd_of(c"mp-task", &[bytes])
}

/// Reads all of it.
pub(crate) fn take_aside(file: &OwnedFd) -> io::Result<Vec<u8>> {
    // Of anything else than memory a read could wait for ever.
    mem::seals(std::os::fd::AsFd::as_fd(file))?;
    let file = File::from(file.try_clone()?);
    let metadata = file.metadata()?;
    let len = usize::try_from(metadata.len()).unwrap_or(usize::MAX);
    // Of holes a file could have more than there is memory. Whoever wrote one of ours wrote all of it: stat(2) counts
    // what it takes in units of 512 bytes.
    if metadata.blocks().saturating_mul(512) < metadata.len() {
        return Err(io::ErrorKind::InvalidData.into());
    }
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
    fn short_and_long_ones_can_be_read_again_and_of_many_long_ones_most_stay_in_memory() {
        // One after the other: how many files there are is counted for the whole process.
        read_again();
        many();
    }

    fn read_again() {
        for len in [0, LONG, LONG + 1, 1 << 20] {
            let bytes = vec![7; len];
            let null = File::open("/dev/null").unwrap();
            let mut body = Body::new(Message::new(bytes.clone(), vec![null.into()]));
            body.pack();
            assert_eq!((body.aside().is_some(), body.is_long()), (is_long(len), is_long(len)));
            for _ in 0..2 {
                let (read, fds) = body.read().unwrap();
                assert_eq!(read, bytes);
                assert_eq!(fds.len(), 1);
            }
        }
    }

    fn many() {
        let pack = |n: usize| {
            let mut body = Body::new(Message::new(vec![n as u8; LONG + 1], Vec::new()));
            body.pack();
            body
        };
        let bodies: Vec<Body> = (0..3 * MOST_FILES).map(pack).collect();
        assert_eq!(bodies.iter().filter(|body| body.aside().is_some()).count(), MOST_FILES);
        for (n, body) in bodies.iter().enumerate() {
            assert!(body.is_long() && body.read().unwrap().0 == vec![n as u8; LONG + 1]);
        }
        let file = |n| put_aside(&vec![n; LONG + 1]).unwrap();
        let received: Vec<Body> =
            (0..100).map(|n| Body::received(&[], vec![file(n)], true).unwrap()).collect();
        for (n, body) in (0..).zip(&received) {
            assert!(body.fds().is_empty() && body.read().unwrap().0 == vec![n; LONG + 1]);
        }
        assert!(Body::received(&[], Vec::new(), true).is_err());
    }

    #[test]
    fn a_file_of_holes_is_refused() {
        let file = put_aside(&[7]).unwrap();
        assert_eq!(take_aside(&file).unwrap(), [7]);
        File::from(file.try_clone().unwrap()).set_len(1 << 34).unwrap();
        assert_eq!(take_aside(&file).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}

//! Memory that processes share.
#![expect(unsafe_code, reason = "views of a mapping")]

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::ptr::NonNull;

use static_assertions::const_assert_eq;

use crate::sys::mem::{self, Mapping, page_size};
use crate::{Atomic, Error, Plain, Result};

/// A sealed mapping of memory that other processes can map too.
///
/// Made by [`create`](Self::create), handed on as a descriptor, opened by [`open`](Self::open). There is
/// no name: it is gone when the last process that holds it is, however that ends. Its size is sealed, so
/// no peer can cut it short under a reader, and its pages are reserved, so no write can end in `SIGBUS`.
///
/// The content is a stranger's: load a number once into a local, check the local, use the local.
///
/// # Example
///
/// ```
/// use std::sync::atomic::{AtomicU64, Ordering};
/// use mp_core::Segment;
///
/// # fn main() -> mp_core::Result<()> {
/// let segment = Segment::create("counter", 1, 4096)?;
/// let again = Segment::open(segment.try_clone_fd()?, 1)?; // as another process would
///
/// segment.at::<AtomicU64>(64)?.store(7, Ordering::Release);
/// assert_eq!(again.at::<AtomicU64>(64)?.load(Ordering::Acquire), 7);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Segment {
    map: Mapping,
    fd: OwnedFd,
    /// Its memory lies on huge pages.
    huge: bool,
}

/// What every segment begins with. Written once by the creator, before anybody else has the segment.
#[repr(C)]
#[derive(Clone, Copy)]
struct Header {
    magic: [u8; 8],
    /// What lies in it: each user of segments has a number of its own for each layout.
    kind: u64,
    /// The segment's size in bytes, this header included.
    size: u64,
    reserved: [u64; 5],
}

const_assert_eq!(size_of::<Header>(), Segment::HEADER);
const_assert_eq!(align_of::<Header>(), 8);

// SAFETY: repr(C) integers and arrays of them, without padding.
unsafe impl Plain for Header {}

const MAGIC: [u8; 8] = *b"mp-seg\x00\x01";

impl Segment {
    /// How many bytes at the start belong to the segment itself.
    pub const HEADER: usize = 64;

    /// Makes a segment of `size` bytes (with the 64 of its own), zeroed and reserved.
    ///
    /// Of 2 MiB and more it gets huge pages as far as the system has some: they are quicker to get, to map and to give
    /// back. (256 MiB were made and filled in 38 ms instead of 110, and mapped and read in 19 instead of 36.)
    ///
    /// `name` shows in `/proc/PID/maps`; `kind` is checked by whoever opens it. The size is rounded up to
    /// whole pages.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] where memory or descriptors are short, or the size is beyond what this process may give to a file
    /// (setrlimit(2), `RLIMIT_FSIZE`).
    pub fn create(name: &str, kind: u64, size: usize) -> Result<Self> {
        Self::make(name, kind, size, size)
    }

    /// Makes a segment of `size` bytes of which only the first `reserved` are reserved.
    ///
    /// The rest takes no memory until it is reserved with [`reserve`](Self::reserve); before that it must
    /// not be touched.
    ///
    /// # Errors
    ///
    /// As [`create`](Self::create).
    pub fn create_sparse(name: &str, kind: u64, size: usize, reserved: usize) -> Result<Self> {
        Self::make(name, kind, size, reserved.min(size))
    }

    fn make(name: &str, kind: u64, size: usize, reserved: usize) -> Result<Self> {
        let name = CString::new(format!("mp-{name}")).map_err(io::Error::from)?;
        let pages = |bytes: usize| {
            bytes
                .max(Self::HEADER)
                .checked_next_multiple_of(page_size())
                .ok_or_else(|| io::Error::from_raw_os_error(libc::EFBIG))
        };
        let (size, reserved) = (pages(size)?, pages(reserved)?);
        let fd = mem::memfd(&name)?;
        mem::set_len(fd.as_fd(), size as u64)?;
        let map = map(&fd, size, reserved as u64)?;
        let huge = map.gather(fd.as_fd(), reserved);
        mem::reserve(fd.as_fd(), 0, reserved as u64)?;
        mem::seal(fd.as_fd(), mem::SEAL_SIZE)?;
        let segment = Self { map, fd, huge };
        let header = Header { magic: MAGIC, kind, size: size as u64, reserved: [0; 5] };
        // SAFETY: the mapping is at least a header long, page-aligned, and no other process has it yet.
        unsafe { segment.map.as_mut_ptr().cast::<Header>().write(header) };
        Ok(segment)
    }

    /// Maps the segment behind `fd`.
    ///
    /// # Errors
    ///
    /// [`Error::BadSegment`] where it is no segment, its size is not sealed, its header is damaged, or it
    /// is of another kind. [`Error::Io`] where it cannot be mapped.
    pub fn open(fd: OwnedFd, kind: u64) -> Result<Self> {
        let bad = |why: String| Err(Error::BadSegment(why));
        match mem::seals(fd.as_fd()) {
            Ok(seals) if seals & mem::SEAL_SIZE == mem::SEAL_SIZE => {}
            Ok(_) => return bad("its size is not sealed".to_string()),
            Err(_) => return bad("it is no memory file".to_string()),
        }
        // Sealed, so this cannot change any more.
        let file = File::from(fd);
        let about = file.metadata()?;
        let (size, taken) = (about.len(), about.blocks().saturating_mul(512));
        let fd = OwnedFd::from(file);
        let Ok(size) = usize::try_from(size) else {
            return bad(format!("{size} bytes do not fit into the address space"));
        };
        if size < Self::HEADER || !size.is_multiple_of(page_size()) {
            return bad(format!("{size} bytes are no whole pages"));
        }
        let segment = Self { map: map(&fd, size, taken)?, fd, huge: false };
        // SAFETY: the mapping is at least a header long and page-aligned; any bits are a Header. It is
        // read once, volatile because a faulty peer may write meanwhile, and only the copy is used.
        let header = unsafe { segment.map.as_mut_ptr().cast::<Header>().read_volatile() };
        if header.magic != MAGIC {
            return bad("it does not begin as a segment does".to_string());
        }
        if header.kind != kind {
            return bad(format!("it is of kind {}, not {kind}", header.kind));
        }
        if header.size != size as u64 {
            return bad(format!("its header says {} bytes, but it has {size}", header.size));
        }
        Ok(segment)
    }

    /// The size in bytes, the header's 64 included. From the kernel, not from the segment.
    #[must_use]
    pub fn size(&self) -> usize {
        self.map.len()
    }

    /// Whether this process has made it and got huge pages for all of it.
    #[must_use]
    pub fn is_huge(&self) -> bool {
        self.huge
    }

    /// Another descriptor for the segment, to hand on.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] where the process has no descriptor left.
    pub fn try_clone_fd(&self) -> Result<OwnedFd> {
        Ok(self.fd.try_clone()?)
    }

    /// Where the bytes `start..start + len` lie, if they are within the segment and behind its header.
    fn range(&self, start: usize, len: usize) -> Option<NonNull<u8>> {
        let end = start.checked_add(len)?;
        if start < Self::HEADER || end > self.size() {
            return None;
        }
        // SAFETY: start is within the mapping.
        NonNull::new(unsafe { self.map.as_mut_ptr().add(start) })
    }

    /// The atomic, or struct of atomics, at byte `offset`.
    ///
    /// # Errors
    ///
    /// [`Error::BadSegment`] where it would not lie within the segment, or not aligned.
    pub fn at<T: Atomic>(&self, offset: usize) -> Result<&T> {
        self.slice_at(offset, 1).map(|slice| &slice[0])
    }

    /// `len` atomics, or structs of atomics, from byte `offset` on.
    ///
    /// # Errors
    ///
    /// As [`at`](Self::at).
    pub fn slice_at<T: Atomic>(&self, offset: usize, len: usize) -> Result<&[T]> {
        let start = len
            .checked_mul(size_of::<T>())
            .and_then(|size| self.range(offset, size))
            .map(NonNull::cast::<T>)
            .filter(|start| start.is_aligned());
        match start {
            // SAFETY: within the mapping, which lives as long as &self; aligned; any bits are a T, and
            // as it is made of atomics, others may write to it meanwhile.
            Some(start) => Ok(unsafe { std::slice::from_raw_parts(start.as_ptr(), len) }),
            None => Err(Error::BadSegment(format!(
                "{len} times {} bytes at {offset} do not fit into its {}",
                size_of::<T>(),
                self.size()
            ))),
        }
    }

    /// The address of byte `offset`, for content that is not atomic.
    ///
    /// Reading and writing through it is unsafe, and a race with whoever else does, unless some protocol
    /// of yours says whose turn it is.
    ///
    /// # Errors
    ///
    /// [`Error::BadSegment`] where `len` bytes from there would not lie within the segment.
    pub fn address(&self, offset: usize, len: usize) -> Result<NonNull<u8>> {
        self.range(offset, len).ok_or_else(|| {
            Error::BadSegment(format!(
                "{len} bytes at {offset} do not fit into its {}",
                self.size()
            ))
        })
    }

    /// Copies `bytes` to `offset`, past the mapping: for many, of which this process has not touched the pages yet, where
    /// these are not [huge](Self::is_huge).
    ///
    /// The kernel then makes no entry in the page table for each page. (256 MiB took 50 ms so, 110 by the mapping; on
    /// huge pages 24 by the mapping.)
    ///
    /// # Errors
    ///
    /// [`Error::BadSegment`] as for [`address`](Self::address), [`Error::Io`] where descriptors are short, or where this
    /// process may not write to files so far from their start (setrlimit(2), `RLIMIT_FSIZE`); then nothing is written.
    pub fn write_past_mapping(&self, offset: usize, bytes: &[u8]) -> Result<()> {
        self.address(offset, bytes.len())?;
        mem::check_end((offset + bytes.len()) as u64)?;
        Ok(File::from(self.fd.try_clone()?).write_all_at(bytes, offset as u64)?)
    }

    /// Reserves the pages of a sparse segment's bytes `start..start + len`.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] where memory is short.
    pub fn reserve(&self, start: usize, len: usize) -> Result<()> {
        Ok(mem::reserve(self.fd.as_fd(), start as u64, len as u64)?)
    }

    /// Gives whole pages within `start..start + len` back to the system; they read as zeros.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] where the kernel refuses.
    pub fn release(&self, start: usize, len: usize) -> Result<()> {
        Ok(mem::release(self.fd.as_fd(), start as u64, len as u64)?)
    }
}

impl AsFd for Segment {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Maps a file of which so much is taken: what is sparse has no huge pages.
fn map(fd: &OwnedFd, size: usize, taken: u64) -> io::Result<Mapping> {
    if taken < size as u64 {
        Mapping::new(fd.as_fd(), size)
    } else {
        Mapping::aligned(fd.as_fd(), size)
    }
}

/// Opens a memory file that `bytes` describe as a segment, and looks into it wherever they say.
#[cfg(any(test, fuzzing))]
pub(crate) fn run_on(bytes: &[u8]) {
    use std::sync::atomic::{AtomicU64, Ordering};
    let Some((&[shape, size], rest)) = bytes.split_first_chunk::<2>() else { return };
    let file = std::fs::File::from(mem::memfd(c"fuzz").expect("a file"));
    // Whole pages or not, and mostly the header that belongs to so many.
    let size = u64::from(size) * if shape & 1 == 0 { 4096 } else { 64 };
    file.set_len(size).expect("a size");
    let header = [&MAGIC[..], &7_u64.to_le_bytes(), &size.to_le_bytes()].concat();
    let (inside, rest) = rest.split_at(rest.len().min(usize::from(shape >> 4)));
    let header = if shape & 2 == 0 { [&header[..], inside].concat() } else { inside.to_vec() };
    file.write_all_at(&header, 0).expect("writes");
    let size = file.metadata().expect("a size").len();
    let fd = OwnedFd::from(file);
    let seals = [mem::SEAL_SIZE, mem::SEAL_ALL, libc::F_SEAL_SHRINK, 0];
    mem::seal(fd.as_fd(), seals[usize::from(shape >> 2) % 4]).expect("seals");
    let Ok(segment) = Segment::open(fd, 7) else { return };
    assert_eq!((segment.size() as u64, size % 4096), (size, 0));
    for place in rest.chunks_exact(16) {
        let number = |at: usize| {
            u64::from_le_bytes([0, 1, 2, 3, 4, 5, 6, 7].map(|n| place[at + n])) as usize
        };
        // Of any size, and of one that may fit.
        for (offset, len) in [(number(0), number(8)), (number(0) % 70_000, number(8) % 9000)] {
            if let Ok(words) = segment.slice_at::<AtomicU64>(offset, len) {
                assert!(offset + words.len() * 8 <= segment.size());
                words.iter().for_each(|word| {
                    word.load(Ordering::Relaxed);
                });
            }
            if segment.address(offset, len).is_ok() {
                assert!(offset + len <= segment.size());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;
    use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

    #[test]
    fn two_mappings_show_the_same_bytes() {
        let one = Segment::create("test", 3, 100_000).unwrap();
        let two = Segment::open(one.try_clone_fd().unwrap(), 3).unwrap();
        assert_eq!(one.size(), 102_400);
        assert_ne!(one.map.as_mut_ptr(), two.map.as_mut_ptr());
        one.at::<AtomicU32>(64).unwrap().store(9, Ordering::Relaxed);
        assert_eq!(two.at::<AtomicU32>(64).unwrap().load(Ordering::Relaxed), 9);
    }

    #[test]
    fn what_is_written_past_a_mapping_is_in_it() {
        let segment = Segment::create("test", 7, 3 * 4096).unwrap();
        segment.write_past_mapping(100, &[5; 8000]).unwrap();
        let words = segment.slice_at::<AtomicU64>(104, 8).unwrap();
        assert!(
            words.iter().all(|word| word.load(Ordering::Relaxed) == u64::from_ne_bytes([5; 8]))
        );
        assert_eq!(segment.at::<AtomicU64>(8104).unwrap().load(Ordering::Relaxed), 0);
        assert!(Segment::open(segment.try_clone_fd().unwrap(), 7).is_ok());
        let end = segment.size();
        assert!(matches!(segment.write_past_mapping(end - 1, &[1; 2]), Err(Error::BadSegment(_))));
    }

    #[test]
    fn what_is_large_begins_where_a_huge_page_does() {
        const SIZE: usize = (5 << 20) + 4096;
        // Another test may come to the place that was chosen; not each time.
        let aligned = |make: &dyn Fn() -> Result<Segment>| {
            let made = |_| make().expect("memory");
            (0..100)
                .map(made)
                .find(|one| one.map.as_mut_ptr().addr() % (2 << 20) == 0)
                .expect("one")
        };
        let segment = aligned(&|| Segment::create("test", 7, SIZE - 100));
        assert_eq!(segment.size(), SIZE);
        // Whether there were such pages or not: all is there, and zero.
        let words = segment.slice_at::<AtomicU64>(64, SIZE / 8 - 8).unwrap();
        assert!(words.iter().all(|word| word.load(Ordering::Relaxed) == 0));
        let file = File::from(segment.try_clone_fd().unwrap());
        assert!(file.metadata().unwrap().blocks() * 512 >= SIZE as u64);
        words[words.len() - 1].store(7, Ordering::Relaxed);
        let again = aligned(&|| Segment::open(segment.try_clone_fd()?, 7));
        assert_eq!(again.at::<AtomicU64>(SIZE - 8).unwrap().load(Ordering::Relaxed), 7);
        assert!(!again.is_huge(), "who opens it does not ask");
    }

    #[test]
    fn nothing_outside_of_it_can_be_reached() {
        let segment = Segment::create("test", 3, 4096).unwrap();
        assert!(segment.at::<AtomicU32>(0).is_err(), "the header");
        assert!(segment.at::<AtomicU32>(4096 - 3).is_err(), "beyond the end");
        assert!(segment.at::<AtomicU32>(65).is_err(), "unaligned");
        assert!(segment.at::<AtomicU32>(usize::MAX).is_err());
        assert!(segment.slice_at::<AtomicU32>(64, usize::MAX / 2).is_err());
        assert!(segment.address(64, 4096).is_err());
        assert!(segment.at::<AtomicU32>(4092).is_ok());
    }

    #[test]
    fn what_is_no_segment_is_refused() {
        let file = crate::sys::fd::null().unwrap();
        assert!(matches!(Segment::open(file, 3), Err(Error::BadSegment(_))));

        let unsealed = mem::memfd(c"unsealed").unwrap();
        mem::set_len(unsealed.as_fd(), 4096).unwrap();
        let again = unsealed.try_clone().unwrap();
        assert!(matches!(Segment::open(unsealed, 3), Err(Error::BadSegment(_))));

        mem::seal(again.as_fd(), mem::SEAL_SIZE).unwrap();
        let error = Segment::open(again, 3).unwrap_err();
        assert!(error.to_string().contains("does not begin"), "zeros are no header: {error}");

        let segment = Segment::create("test", 3, 4096).unwrap();
        let error = Segment::open(segment.try_clone_fd().unwrap(), 4).unwrap_err();
        assert!(error.to_string().contains("kind 3, not 4"), "{error}");
    }

    #[test]
    fn a_peer_cannot_change_the_size() {
        let segment = Segment::create("test", 3, 4096).unwrap();
        assert!(mem::set_len(segment.as_fd(), 0).is_err());
        assert!(mem::set_len(segment.as_fd(), 8192).is_err());
        // The bytes can be zeroed, which must not be more than an error either.
        mem::release(segment.as_fd(), 0, 4096).unwrap();
        assert!(Segment::open(segment.try_clone_fd().unwrap(), 3).is_err());
    }

    #[test]
    fn more_memory_than_there_is_is_an_error() {
        assert!(Segment::create("test", 3, usize::MAX).is_err());
        assert!(Segment::create("test", 3, 1 << 46).is_err());
    }

    #[test]
    fn a_sparse_segment_takes_memory_as_it_is_reserved_and_gives_it_back() {
        let segment = Segment::create_sparse("test", 3, 1 << 40, 4096).unwrap();
        let taken = || {
            let file = std::fs::File::from(segment.try_clone_fd().unwrap());
            file.metadata().unwrap().blocks() * 512
        };
        assert_eq!((segment.size(), taken()), (1 << 40, 4096));
        segment.reserve(1 << 30, 1 << 20).unwrap();
        assert_eq!(taken(), 4096 + (1 << 20));
        let word = segment.at::<AtomicU32>(1 << 30).unwrap();
        word.store(7, Ordering::Relaxed);
        segment.release(1 << 30, 1 << 20).unwrap();
        assert_eq!((taken(), word.load(Ordering::Relaxed)), (4096, 0));
        let again = Segment::open(segment.try_clone_fd().unwrap(), 3).unwrap();
        assert_eq!(again.size(), 1 << 40);
    }

    #[test]
    fn it_is_closed_on_exec() {
        let segment = Segment::create("test", 3, 4096).unwrap();
        // SAFETY: takes numbers only.
        let flags = unsafe { libc::fcntl(segment.as_fd().as_raw_fd(), libc::F_GETFD) };
        assert_eq!(flags & libc::FD_CLOEXEC, libc::FD_CLOEXEC);
    }
}

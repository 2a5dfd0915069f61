//! Shared memory that has a name.
//!
//! What POSIX calls a shared memory object is, on Linux, a file in `/dev/shm` (shm_overview(7)), and that is
//! how it is made here, with the same mode, flags and checks as shm_open(3): other programs cannot tell.
//!
//! Two things are added that others do not see. The file has the sticky bit, which has no meaning for a
//! file, as the mark of this crate. And whoever has it open through this crate holds a shared flock(2) on
//! it, which the kernel lets go of when the last of them has ended, however that happens. A name with the
//! mark whose lock is free is held by nobody any more.
#![expect(unsafe_code, reason = "views of a mapping")]

use std::fs::{self, File, TryLockError};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use mp_core::sys::mem::{self, Mapping};
use mp_core::{Atomic, Fd};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::copy;
use crate::{Error, Result};

/// Shared memory that other programs can find by its name.
///
/// The names are POSIX's, so Python's `multiprocessing.shared_memory.SharedMemory` opens what is created
/// here and the other way round; `name()` is what Python calls `name`, without a slash. Within one program
/// [`RawArray`](crate::RawArray) and [`Array`](crate::Array) need no name, have types, and cannot be left
/// behind.
///
/// The memory lasts until it is unlinked *and* nobody has it open. Dropping a `SharedMemory` closes it and
/// removes nothing, neither in the process that created it nor in one that opened it:
/// - [`unlink`](Self::unlink) removes the name, once; whoever has it open keeps it,
/// - [`unlink_on_drop`](Self::unlink_on_drop) makes the creator's last handle do that,
/// - [`remove_stale`](Self::remove_stale) removes what processes that died have left behind.
///
/// A clone is a second handle for the same memory. A handle can be sent to another process: it takes the
/// open file along, so it works there even if the name is gone.
///
/// Nothing here waits for another process, or is harmed by one that dies.
///
/// # Limits
///
/// Anybody who may open the name (processes of the same user) may also cut the memory short: a file with a
/// name cannot be sealed. Access beyond the new end is then a `SIGBUS`, which ends the process. Memory
/// created here is reserved; memory that another program made may be sparse (Python's is), and writing to
/// it is a `SIGBUS` where `/dev/shm` is full, unless it is [reserved](Self::reserve) before.
///
/// Python: dropping is `close()`. There is no resource tracker: attaching never destroys, as with
/// `track=False`. But Python's own tracker, up to 3.12 and by default after, removes what a Python process
/// has attached when that process ends.
///
/// # Example
///
/// ```
/// use mp_shmem::SharedMemory;
///
/// # fn main() -> mp_shmem::Result<()> {
/// let memory = SharedMemory::create(None, 10)?.unlink_on_drop();
/// memory.write_at(0, b"howdy")?;
///
/// // In another process, or in Python: SharedMemory(name=...)
/// let again = SharedMemory::open(memory.name())?;
/// let mut text = [0; 5];
/// again.read_at(0, &mut text)?;
/// assert_eq!(&text, b"howdy");
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct SharedMemory {
    inner: Arc<Inner>,
}

struct Inner {
    map: Mapping,
    /// Holds the shared flock.
    file: File,
    name: String,
    /// The process whose last handle removes the name; 0 where none does.
    owner: AtomicU32,
}

/// Read and write for the user; and the sticky bit, see above.
const MODE: u32 = 0o1600;
const MARK: u32 = 0o1000;

impl SharedMemory {
    /// Creates shared memory of `size` bytes, all zero, under `name`, or under a new name for `None`.
    ///
    /// Its memory is reserved here, and only processes of the same user can open it. It stays until it is
    /// [unlinked](Self::unlink), beyond the end of this process.
    ///
    /// Python: `SharedMemory(name, create=True, size=size)`. New names begin with `mp_` instead of `psm_`.
    ///
    /// # Errors
    ///
    /// [`Error::AlreadyExists`] where the name is taken, [`Error::BadName`] where it is empty, longer than
    /// 255 bytes, `.` or `..`, or has a slash or NUL in it, [`Error::ZeroSize`], [`Error::NoMemory`] where
    /// there is not so much; [`Error::Io`] for all else.
    ///
    /// # Example
    ///
    /// ```
    /// use mp_shmem::{Error, SharedMemory};
    ///
    /// # fn main() -> mp_shmem::Result<()> {
    /// let name = format!("example-{}", std::process::id());
    /// let memory = SharedMemory::create(Some(&name), 4096)?.unlink_on_drop();
    /// assert_eq!(memory.name(), name);
    /// assert_eq!(memory.size(), 4096);
    ///
    /// let again = SharedMemory::create(Some(&name), 4096);
    /// assert!(matches!(again, Err(Error::AlreadyExists { .. })));
    /// # Ok(())
    /// # }
    /// ```
    pub fn create(name: Option<&str>, size: usize) -> Result<Self> {
        if size == 0 {
            return Err(Error::ZeroSize);
        }
        if isize::try_from(size).is_err() {
            return Err(Error::overflow());
        }
        loop {
            let chosen = name.map_or_else(random_name, str::to_string);
            match Self::try_create(&chosen, size) {
                Err(Error::AlreadyExists { .. }) if name.is_none() => {}
                // Whoever looks for stale names took it for one, as it was not locked yet.
                Err(Error::NotFound { .. }) => {}
                result => return result,
            }
        }
    }

    fn try_create(name: &str, size: usize) -> Result<Self> {
        /// Removes the name unless all went well.
        struct Unfinished<'a>(&'a Path);
        impl Drop for Unfinished<'_> {
            fn drop(&mut self) {
                let _ = fs::remove_file(self.0);
            }
        }

        let path = path(name)?;
        let file = options().create_new(true).mode(MODE).open(&path).map_err(|e| named(name, e))?;
        if !lock(&file)? {
            return Err(Error::NotFound { name: name.to_string() });
        }
        let unfinished = Unfinished(&path);
        let made = || {
            mem::set_len(file.as_fd(), size as u64)?;
            let map = Mapping::aligned(file.as_fd(), size)?;
            map.gather(file.as_fd(), size);
            mem::reserve(file.as_fd(), 0, size as u64)?;
            Ok(map)
        };
        let map = made().map_err(|error| Error::reserving(size, error))?;
        std::mem::forget(unfinished);
        Ok(Self::with(file, name, map))
    }

    /// Opens the shared memory named `name`, whoever created it.
    ///
    /// The size is what the memory has at this moment.
    ///
    /// Python: `SharedMemory(name)`.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`]; [`Error::Unfinished`] where it has no size (yet), [`Error::BadName`] as for
    /// [`create`](Self::create), [`Error::Damaged`] where the name belongs to something else,
    /// [`Error::Io`] where it may not be opened or mapped.
    ///
    /// # Example
    ///
    /// ```
    /// use mp_shmem::{Error, SharedMemory};
    ///
    /// match SharedMemory::open("not-there") {
    ///     Ok(memory) => println!("{} bytes", memory.size()),
    ///     Err(Error::NotFound { name }) => println!("{name} was not created yet"),
    ///     Err(error) => panic!("{error}"),
    /// }
    /// ```
    pub fn open(name: &str) -> Result<Self> {
        let file = open(name)?;
        let size = size(&file, name)?;
        Self::map(file, name, size)
    }

    fn map(file: File, name: &str, size: usize) -> Result<Self> {
        let map = Mapping::aligned(file.as_fd(), size)?;
        Ok(Self::with(file, name, map))
    }

    fn with(file: File, name: &str, map: Mapping) -> Self {
        let inner = Inner { map, file, name: name.to_string(), owner: AtomicU32::new(0) };
        Self { inner: Arc::new(inner) }
    }

    /// Shared memory that holds `bytes`, and whose name is nobody's.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn without_name(bytes: &[u8]) -> Result<Self> {
        let fd = mem::memfd(c"mp-nameless")?;
        mem::set_len(fd.as_fd(), bytes.len() as u64)?;
        let memory = Self::map(File::from(fd), "nameless", bytes.len())?;
        memory.write_at(0, bytes)?;
        Ok(memory)
    }

    /// Makes the last handle in this process remove the name when it is dropped.
    ///
    /// A process that is killed drops nothing: see [`remove_stale`](Self::remove_stale). Handles that were
    /// sent to or inherited by other processes remove nothing.
    ///
    /// # Example
    ///
    /// ```
    /// use mp_shmem::{Error, SharedMemory};
    ///
    /// # fn main() -> mp_shmem::Result<()> {
    /// let memory = SharedMemory::create(None, 100)?.unlink_on_drop();
    /// let name = memory.name().to_string();
    /// drop(memory);
    /// assert!(matches!(SharedMemory::open(&name), Err(Error::NotFound { .. })));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn unlink_on_drop(self) -> Self {
        self.inner.owner.store(std::process::id(), Ordering::Relaxed);
        self
    }

    /// Removes the name; the memory goes when the last process that has it open lets go of it.
    ///
    /// Any process may do it, once. What has the name meanwhile but is other memory stays.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] where it was done before, [`Error::Io`] where it may not be done.
    ///
    /// # Example
    ///
    /// ```
    /// use mp_shmem::{Error, SharedMemory};
    ///
    /// # fn main() -> mp_shmem::Result<()> {
    /// let memory = SharedMemory::create(None, 100)?;
    /// memory.unlink()?;
    /// memory.write_at(0, b"still here")?;
    /// assert!(matches!(memory.unlink(), Err(Error::NotFound { .. })));
    /// # Ok(())
    /// # }
    /// ```
    pub fn unlink(&self) -> Result<()> {
        self.inner.unlink()
    }

    /// The name, without a slash.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// How many bytes it has.
    ///
    /// As many as were asked for when it was created: nothing is rounded.
    #[must_use]
    pub fn size(&self) -> usize {
        self.inner.map.len()
    }

    /// The address of the first byte, in this process.
    ///
    /// Aligned to a page, and valid until the last handle in this process is dropped. Reading and writing
    /// through it races with whoever else does, unless a lock or some protocol says whose turn it is.
    #[must_use]
    #[doc(alias = "buf")]
    pub fn as_ptr(&self) -> *mut u8 {
        self.inner.map.as_mut_ptr()
    }

    /// The bytes, in place.
    ///
    /// # Safety
    ///
    /// While the slice lives, no process and no thread writes to the memory or shortens it.
    #[must_use]
    #[doc(alias = "buf")]
    pub unsafe fn as_slice(&self) -> &[u8] {
        // SAFETY: the mapping is so long and lives as long as self; the rest is the caller's promise.
        unsafe { std::slice::from_raw_parts(self.as_ptr(), self.size()) }
    }

    /// The bytes, in place, to write.
    ///
    /// # Safety
    ///
    /// While the slice lives, no process and no thread accesses or shortens the memory in another way.
    ///
    /// # Example
    ///
    /// ```
    /// use mp_shmem::SharedMemory;
    ///
    /// # fn main() -> mp_shmem::Result<()> {
    /// let memory = SharedMemory::create(None, 1000)?.unlink_on_drop();
    /// // SAFETY: nobody else knows the name yet.
    /// let bytes = unsafe { memory.as_mut_slice() };
    /// bytes[500..].fill(1);
    /// assert_eq!(memory.to_vec()[499..501], [0, 1]);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    #[doc(alias = "buf")]
    #[expect(
        clippy::mut_from_ref,
        reason = "exclusive by the caller's promise, as shared memory is"
    )]
    pub unsafe fn as_mut_slice(&self) -> &mut [u8] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.as_ptr(), self.size()) }
    }

    /// Where `len` bytes from `offset` on lie.
    fn range(&self, offset: usize, len: usize) -> Result<NonNull<u8>> {
        let end = offset.checked_add(len).filter(|&end| end <= self.size());
        let start = NonNull::new(self.as_ptr().wrapping_add(offset));
        end.and(start).ok_or(Error::OutOfRange { index: offset.max(self.size()), len: self.size() })
    }

    /// Copies the bytes from `offset` on into `to`.
    ///
    /// Safe beside whoever writes meanwhile: then the copy holds some of the old bytes and some of the new.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfRange`] where they are not all within the memory; nothing is copied then.
    pub fn read_at(&self, offset: usize, to: &mut [u8]) -> Result<()> {
        let from = self.range(offset, to.len())?;
        // SAFETY: within the mapping. Whoever writes there by this crate does so by atomics; others are
        // asked to by as_ptr's docs.
        unsafe { copy::read_bytes(from, to) };
        Ok(())
    }

    /// Copies `from` to the bytes from `offset` on.
    ///
    /// Safe beside whoever reads or writes meanwhile, as [`read_at`](Self::read_at).
    ///
    /// # Errors
    ///
    /// [`Error::OutOfRange`] where they would not all go into the memory; nothing is copied then.
    pub fn write_at(&self, offset: usize, from: &[u8]) -> Result<()> {
        let to = self.range(offset, from.len())?;
        // SAFETY: as in read_at.
        unsafe { copy::write(from, to) };
        Ok(())
    }

    /// A copy of all bytes.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.size()];
        if let Some(start) = NonNull::new(self.as_ptr()) {
            // SAFETY: as long as the mapping; as in read_at.
            unsafe { copy::read_bytes(start, &mut bytes) };
        }
        bytes
    }

    /// The atomic, or struct of atomics, at byte `offset`.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfRange`], or [`Error::Misaligned`] where `offset` is no multiple of its alignment.
    ///
    /// # Example
    ///
    /// ```
    /// use std::sync::atomic::{AtomicU32, Ordering};
    /// use mp_shmem::SharedMemory;
    ///
    /// # fn main() -> mp_shmem::Result<()> {
    /// let memory = SharedMemory::create(None, 64)?.unlink_on_drop();
    /// memory.at::<AtomicU32>(4)?.fetch_add(1, Ordering::Relaxed);
    /// assert_eq!(memory.to_vec()[4], 1);
    /// # Ok(())
    /// # }
    /// ```
    pub fn at<T: Atomic>(&self, offset: usize) -> Result<&T> {
        self.slice_at(offset, 1).map(|slice| &slice[0])
    }

    /// `len` atomics, or structs of atomics, from byte `offset` on.
    ///
    /// # Errors
    ///
    /// As [`at`](Self::at); [`Error::NoMemory`] where so many have more bytes than can be counted.
    pub fn slice_at<T: Atomic>(&self, offset: usize, len: usize) -> Result<&[T]> {
        let size = len.checked_mul(size_of::<T>()).ok_or_else(Error::overflow)?;
        let start = self.range(offset, size)?.cast::<T>();
        if !start.is_aligned() {
            return Err(Error::Misaligned { offset, align: align_of::<T>() });
        }
        // SAFETY: within the mapping, which lives as long as &self; aligned; any bits are a T, and as it
        // is made of atomics, others may write to it meanwhile.
        Ok(unsafe { std::slice::from_raw_parts(start.as_ptr(), len) })
    }

    /// Reserves all of its memory, so that no write can end in `SIGBUS` for lack of it.
    ///
    /// For memory that another program made; what [`create`](Self::create) made is reserved.
    ///
    /// # Errors
    ///
    /// [`Error::NoMemory`].
    pub fn reserve(&self) -> Result<()> {
        mem::reserve(self.inner.file.as_fd(), 0, self.size() as u64)
            .map_err(|e| Error::reserving(self.size(), e))
    }

    /// The names of all shared memory that was created by this crate, in any program.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] where `/dev/shm` cannot be read.
    ///
    /// # Example
    ///
    /// ```
    /// # fn main() -> mp_shmem::Result<()> {
    /// for name in mp_shmem::SharedMemory::list()? {
    ///     println!("{name}");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn list() -> Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(DIRECTORY)? {
            let entry = entry?;
            // What is removed meanwhile is not there.
            let Ok(metadata) = entry.metadata() else { continue };
            if is_marked(&metadata)
                && let Ok(name) = entry.file_name().into_string()
            {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Removes the names that begin with `prefix`, were created by this crate, and are held by nobody any
    /// more; says which.
    ///
    /// For the start of a program, or of its supervisor, to clear away what a killed process could not. A
    /// name is held by whoever has it open through this crate; that ends with the process, however it
    /// ends. What other programs created is never removed, but one that has merely *opened* memory of this
    /// crate (a Python process) is not counted: it keeps the memory, not the name. Memory that was left
    /// behind on purpose, for a process that starts later, goes as well: hence the prefix, which should be
    /// your program's own.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] where `/dev/shm` cannot be read. Memory of other users is passed over.
    ///
    /// # Example
    ///
    /// ```
    /// use mp_shmem::SharedMemory;
    ///
    /// # fn main() -> mp_shmem::Result<()> {
    /// let prefix = format!("stale-{}-", std::process::id());
    /// let held = SharedMemory::create(Some(&format!("{prefix}1")), 8)?.unlink_on_drop();
    /// let left = SharedMemory::create(Some(&format!("{prefix}2")), 8)?;
    /// let name = left.name().to_string();
    /// drop(left); // as the end of the process would
    ///
    /// assert_eq!(SharedMemory::remove_stale(&prefix)?, [name]);
    /// assert!(SharedMemory::open(held.name()).is_ok());
    /// # Ok(())
    /// # }
    /// ```
    pub fn remove_stale(prefix: &str) -> Result<Vec<String>> {
        let mut names = Self::list()?;
        names.retain(|name| name.starts_with(prefix) && remove_if_stale(name).unwrap_or(false));
        Ok(names)
    }
}

impl Inner {
    fn unlink(&self) -> Result<()> {
        let not_found = || Error::NotFound { name: self.name.clone() };
        let path = path(&self.name)?;
        let there = fs::symlink_metadata(&path).map_err(|e| named(&self.name, e))?;
        let own = self.file.metadata()?;
        if (there.dev(), there.ino()) != (own.dev(), own.ino()) {
            return Err(not_found());
        }
        fs::remove_file(&path).map_err(|e| named(&self.name, e))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // A forked child has a copy of this handle, but not the task.
        if *self.owner.get_mut() == std::process::id() {
            let _ = self.unlink();
        }
    }
}

impl std::fmt::Debug for SharedMemory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SharedMemory")
            .field("name", &self.name())
            .field("size", &self.size())
            .finish()
    }
}

impl Serialize for SharedMemory {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        struct Borrowed<'a>(&'a File);
        impl Serialize for Borrowed<'_> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                mp_core::fd::serialize(self.0.as_fd(), serializer)
            }
        }
        (&self.inner.name, Borrowed(&self.inner.file)).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for SharedMemory {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (name, fd) = <(String, Fd)>::deserialize(deserializer)?;
        let file = File::from(fd);
        // The name is used to unlink: it must not lead out of the directory.
        path(&name)
            .and_then(|_| size(&file, &name))
            .and_then(|size| Self::map(file, &name, size))
            .map_err(Error::of_handle)
    }
}

const DIRECTORY: &str = "/dev/shm";

/// The file of the memory named `name`.
fn path(name: &str) -> Result<PathBuf> {
    let why = match name {
        "" => "is empty",
        "." | ".." => "is a directory's",
        // The kernel's limit, NAME_MAX.
        _ if name.len() > 255 => "is longer than 255 bytes",
        _ if name.contains('/') => "has a slash in it",
        _ if name.contains('\0') => "has a NUL in it",
        _ => return Ok(Path::new(DIRECTORY).join(name)),
    };
    Err(Error::BadName { name: name.to_string(), why })
}

/// As shm_open does: follow no link, and do not wait for the other end of a pipe someone put there.
fn options() -> fs::OpenOptions {
    let mut options = File::options();
    options.read(true).write(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    options
}

fn named(name: &str, error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::NotFound => Error::NotFound { name: name.to_string() },
        io::ErrorKind::AlreadyExists => Error::AlreadyExists { name: name.to_string() },
        _ if matches!(error.raw_os_error(), Some(libc::ELOOP | libc::EISDIR | libc::ENXIO)) => {
            Error::Damaged(format!("{name:?} is no file"))
        }
        _ => Error::Io(error),
    }
}

/// Opens by name and holds the shared lock.
fn open(name: &str) -> Result<File> {
    let path = path(name)?;
    loop {
        let file = options().open(&path).map_err(|e| named(name, e))?;
        if lock(&file)? {
            return Ok(file);
        }
        // It was removed in between: another one has the name now, or none.
    }
}

/// Takes the shared lock on a file just opened; false where its name was removed by then.
fn lock(file: &File) -> Result<bool> {
    // Whoever removes stale names holds the other lock for some microseconds. One that stays is another
    // program's, and keeps them away as well.
    for _ in 0..100 {
        match file.try_lock_shared() {
            Ok(()) => break,
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(1)),
            Err(TryLockError::Error(error)) => return Err(error.into()),
        }
    }
    Ok(file.metadata()?.nlink() > 0)
}

fn remove_if_stale(name: &str) -> Result<bool> {
    let path = path(name)?;
    let file = options().open(&path).map_err(|e| named(name, e))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(false),
        Err(TryLockError::Error(error)) => return Err(error.into()),
    }
    // From here on nobody else can hold it, and whoever opens it finds it removed. Whoever removed it
    // before us may have made room for another one.
    let metadata = file.metadata()?;
    if metadata.nlink() == 0 || !is_marked(&metadata) {
        return Ok(false);
    }
    fs::remove_file(&path).map_err(|e| named(name, e))?;
    Ok(true)
}

fn is_marked(metadata: &fs::Metadata) -> bool {
    metadata.is_file() && metadata.mode() & MARK != 0
}

fn size(file: &File, name: &str) -> Result<usize> {
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(Error::Damaged(format!("{name:?} is no file")));
    }
    match usize::try_from(metadata.len()) {
        Ok(0) => Err(Error::Unfinished { name: name.to_string() }),
        Ok(size) => Ok(size),
        Err(_) => Err(Error::overflow()),
    }
}

fn random_name() -> String {
    // The state is seeded by the system, and another one each time; a forked child has its parent's.
    let salt = (std::process::id(), SystemTime::now());
    format!("mp_{:016x}", RandomState::new().hash_one(salt))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fresh(size: usize) -> SharedMemory {
        SharedMemory::create(None, size).unwrap().unlink_on_drop()
    }

    #[test]
    fn what_one_handle_writes_another_reads() {
        let one = fresh(100);
        let two = SharedMemory::open(one.name()).unwrap();
        assert_ne!(one.as_ptr(), two.as_ptr(), "two mappings");
        assert_eq!(two.size(), 100);
        one.write_at(90, b"0123456789").unwrap();
        let mut end = [0; 3];
        two.read_at(97, &mut end).unwrap();
        assert_eq!(&end, b"789");
        assert_eq!(two.to_vec()[..90], [0; 90]);
    }

    #[test]
    fn nothing_outside_of_it_can_be_reached() {
        let memory = fresh(100);
        assert!(matches!(
            memory.write_at(98, b"abc"),
            Err(Error::OutOfRange { index: 100, len: 100 })
        ));
        assert!(memory.read_at(usize::MAX, &mut [0; 2]).is_err());
        assert!(memory.read_at(101, &mut []).is_err());
        assert!(memory.read_at(100, &mut []).is_ok());
        assert_eq!(memory.to_vec(), [0; 100]);
        assert!(memory.at::<AtomicU32>(96).is_ok());
        assert!(matches!(memory.at::<AtomicU32>(97), Err(Error::OutOfRange { .. })));
        assert!(matches!(
            memory.at::<AtomicU32>(2),
            Err(Error::Misaligned { offset: 2, align: 4 })
        ));
        assert!(matches!(
            memory.slice_at::<AtomicU32>(0, usize::MAX / 2),
            Err(Error::NoMemory { needed: None, .. })
        ));
    }

    #[test]
    fn names_that_cannot_be_are_refused() {
        let long = "x".repeat(256);
        for name in ["", ".", "..", "a/b", "/a", "../etc/passwd", "a\0b", &long] {
            let error = SharedMemory::create(Some(name), 10).unwrap_err();
            assert!(matches!(error, Error::BadName { .. }), "{error}");
            let error = SharedMemory::open(name).unwrap_err();
            assert!(matches!(error, Error::BadName { .. }), "{error}");
        }
    }

    #[test]
    fn a_name_of_a_file_that_is_none_is_refused() {
        let name = format!("directory-{}", std::process::id());
        fs::create_dir(Path::new(DIRECTORY).join(&name)).unwrap();
        let result = SharedMemory::open(&name);
        fs::remove_dir(Path::new(DIRECTORY).join(&name)).unwrap();
        assert!(matches!(result, Err(Error::Damaged(_))), "{result:?}");
    }

    #[test]
    fn sizes_that_cannot_be_are_refused_and_leave_nothing() {
        let name = format!("sizes-{}", std::process::id());
        let create = |size| SharedMemory::create(Some(&name), size).unwrap_err();
        assert!(matches!(create(0), Error::ZeroSize));
        assert!(matches!(create(usize::MAX), Error::NoMemory { needed: None, .. }));
        assert!(matches!(create(1 << 46), Error::NoMemory { needed: Some(_), .. }));
        assert!(matches!(SharedMemory::open(&name), Err(Error::NotFound { .. })));
    }

    #[test]
    fn a_creator_that_died_half_way_is_told_and_cleared_away() {
        let name = format!("half-{}", std::process::id());
        let half = options().create_new(true).mode(MODE).open(path(&name).unwrap()).unwrap();
        assert!(matches!(SharedMemory::open(&name), Err(Error::Unfinished { .. })));
        drop(half);
        assert_eq!(SharedMemory::remove_stale(&name).unwrap(), [name.as_str()]);
    }

    #[test]
    fn unlinking_spares_what_has_the_name_now() {
        let name = format!("again-{}", std::process::id());
        let old = SharedMemory::create(Some(&name), 10).unwrap();
        old.unlink().unwrap();
        let new = SharedMemory::create(Some(&name), 20).unwrap().unlink_on_drop();
        assert!(matches!(old.unlink(), Err(Error::NotFound { .. })));
        assert_eq!(SharedMemory::open(&name).unwrap().size(), 20);
        drop(new);
        assert!(matches!(SharedMemory::open(&name), Err(Error::NotFound { .. })));
    }

    #[test]
    fn what_is_held_or_made_by_others_is_not_stale() {
        let prefix = format!("held-{}-", std::process::id());
        let foreign = format!("{prefix}foreign");
        let held = SharedMemory::create(Some(&format!("{prefix}a")), 10).unwrap();
        let opened = SharedMemory::open(held.name()).unwrap();
        // As another program would: without the mark and the lock.
        options().create_new(true).mode(0o600).open(path(&foreign).unwrap()).unwrap();
        drop(held);
        assert!(SharedMemory::list().unwrap().contains(&opened.name().to_string()));
        assert!(SharedMemory::remove_stale(&prefix).unwrap().is_empty());
        let name = opened.name().to_string();
        drop(opened);
        assert_eq!(SharedMemory::remove_stale(&prefix).unwrap(), [name]);
        fs::remove_file(path(&foreign).unwrap()).unwrap();
    }

    #[test]
    fn a_handle_works_where_it_was_sent_even_without_the_name() {
        let memory = fresh(10);
        memory.write_at(3, b"abc").unwrap();
        let message = mp_core::encode(&memory).unwrap();
        memory.unlink().unwrap();
        let sent: SharedMemory = mp_core::decode(message).unwrap();
        assert_eq!(sent.name(), memory.name());
        assert_eq!(sent.to_vec(), b"\0\0\0abc\0\0\0\0");
        assert!(sent.unlink().is_err());
    }

    #[test]
    fn a_message_cannot_name_a_file_elsewhere() {
        let file = File::open("/dev/null").unwrap();
        let message = mp_core::encode(&("../../etc/passwd", Fd::from(file))).unwrap();
        let error = mp_core::decode::<SharedMemory>(message).unwrap_err();
        assert!(error.to_string().contains("slash"), "{error}");
        let file = File::open("/dev/null").unwrap();
        let message = mp_core::encode(&("name", Fd::from(file))).unwrap();
        let error = mp_core::decode::<SharedMemory>(message).unwrap_err();
        assert!(error.to_string().contains("is no file"), "{error}");
    }
}

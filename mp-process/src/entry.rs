//! Functions by address.
//!
//! A target travels as the place of a trampoline, a monomorphised function of this program: which loaded
//! object it is in (the executable or a shared library), and its offset there. The object may be loaded
//! elsewhere in the other process. Before an offset is used, the identity of the object is compared: the
//! linker's build id, or, where there is none, the file's device, inode, size and time of change.
#![expect(unsafe_code, reason = "walks the loaded objects and turns an address into a function")]

use std::ffi::{CStr, c_int, c_void};
use std::fmt;
use std::mem;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::slice;
use std::sync::OnceLock;

use mp_core::fields::{Reader, Writer};
use mp_core::{Decoder, Encoder, Message, catch_panic};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Error;
use crate::target::{Args, Run, Target};

/// What a trampoline makes of its arguments.
pub(crate) enum Outcome {
    /// The target returned this.
    Value(Message),
    /// The target panicked with this message.
    Panicked(String),
    /// The target returned what cannot be encoded.
    Unencodable(String),
    /// The arguments could not be decoded.
    Undecodable(String),
}

/// A function that decodes arguments, calls a target and encodes what it returns.
pub(crate) type Trampoline = fn(Message) -> Outcome;

/// The trampoline of the function or closure `F`.
pub(crate) fn trampoline_of_call<F, A>() -> Trampoline
where
    F: Target<A> + Copy + 'static,
    F::Output: Serialize,
    A: Args,
{
    const {
        assert!(
            size_of::<F>() == 0,
            "the target of a process must be a function by its name or a closure that captures nothing: \
             pass what it needs as arguments, or use Process::fork"
        );
    }
    |message| {
        run(move || {
            let (bytes, fds) = message.into_parts();
            let mut decoder = Decoder::new(&bytes, fds);
            let args = A::decode(&mut decoder).and_then(|args| decoder.finish().map(|()| args));
            drop(bytes);
            // SAFETY: F is zero-sized, so there is nothing to read; it is inhabited and may be copied, as
            // whoever asked for this trampoline had one and F is Copy.
            let target = unsafe { std::ptr::NonNull::<F>::dangling().read() };
            args.map(|args| target.call(args))
        })
    }
}

/// The trampoline of the task type `T`.
pub(crate) fn trampoline_of_run<T>() -> Trampoline
where
    T: Run + DeserializeOwned,
    T::Output: Serialize,
{
    |message| run(move || mp_core::decode::<T>(message).map(Run::run))
}

/// Runs a target to its outcome; nothing unwinds out of here.
pub(crate) fn run<R: Serialize>(target: impl FnOnce() -> mp_core::Result<R>) -> Outcome {
    let result = catch_panic(|| match target() {
        Ok(value) => {
            let mut encoder = Encoder::new();
            match encoder.put(&value) {
                Ok(_) => Outcome::Value(encoder.finish()),
                Err(error) => Outcome::Unencodable(format!("{error:?}")),
            }
        }
        Err(error) => Outcome::Undecodable(error.to_string()),
    });
    result.unwrap_or_else(Outcome::Panicked)
}

/// What tells one build of an object from another.
#[derive(Clone, PartialEq, Eq)]
enum Identity {
    /// The note that the linker wrote.
    BuildId(Vec<u8>),
    /// Device, inode, size, and seconds and nanoseconds of the last change.
    File([u64; 5]),
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BuildId(id) => {
                f.write_str("build id ")?;
                id.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
            Self::File([device, inode, size, ..]) => {
                write!(f, "inode {inode} on device {device}, {size} bytes")
            }
        }
    }
}

/// What identifies this program: equal in two processes where the functions of one can be called in the other.
///
/// The build id that the linker wrote, the same on every machine that has a copy of the program. Of a program without
/// one, which file it is, and that is another on each machine: link with `-C link-arg=-Wl,--build-id` there.
///
/// # Errors
///
/// [`Error::Refused`] for a program without build id where there is no `/proc`.
///
/// # Example
///
/// ```
/// assert!(!mp_process::build_id()?.is_empty());
/// # Ok::<(), mp_process::Error>(())
/// ```
pub fn build_id() -> crate::Result<String> {
    let executable =
        Object::executable().ok_or(Unresolved::Missing("this program is no object"))?;
    Ok(executable.identity()?.to_string())
}

/// Where a trampoline is, for another process of the same program.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Address {
    /// The object's path; empty for the executable.
    object: Vec<u8>,
    identity: Identity,
    offset: u64,
}

/// Why an address means nothing here.
#[derive(Debug)]
pub(crate) enum Unresolved {
    /// The object is another build.
    Different { ours: String, theirs: String },
    /// There is no such function.
    Missing(&'static str),
}

impl From<Unresolved> for Error {
    fn from(why: Unresolved) -> Self {
        match why {
            Unresolved::Different { ours, theirs } => Self::DifferentProgram { ours, theirs },
            Unresolved::Missing(why) => Self::Refused(why.to_string()),
        }
    }
}

impl Address {
    pub(crate) fn of(trampoline: Trampoline) -> Result<Self, Unresolved> {
        Self::of_code(trampoline as usize)
    }

    /// Of any code of this program.
    pub(crate) fn of_code(address: usize) -> Result<Self, Unresolved> {
        Object::with(
            |object| object.has_code_at(address),
            |object| {
                let offset = address.wrapping_sub(object.base) as u64;
                Ok(Self { object: object.path.clone(), identity: object.identity()?, offset })
            },
        )
        .unwrap_or(Err(Unresolved::Missing("the target is in no loaded object of this program")))
    }

    /// The function in this process.
    pub(crate) fn resolve(&self) -> Result<Trampoline, Unresolved> {
        let address = self.resolve_code()?;
        // SAFETY: the address lies in the code of the object, and the object is of the same build as that
        // in the sender, which made the offset from a Trampoline. Requests come from processes of this
        // program only, over inherited sockets.
        Ok(unsafe { mem::transmute::<usize, Trampoline>(address) })
    }

    /// Where that code is in this process.
    pub(crate) fn resolve_code(&self) -> Result<usize, Unresolved> {
        Object::with(
            |object| object.path == self.object,
            |object| {
                let identity = object.identity()?;
                if identity != self.identity {
                    return Err(Unresolved::Different {
                        ours: identity.to_string(),
                        theirs: self.identity.to_string(),
                    });
                }
                usize::try_from(self.offset)
                    .map(|offset| object.base.wrapping_add(offset))
                    .ok()
                    .filter(|&address| object.has_code_at(address))
                    .ok_or(Unresolved::Missing("the target's address is not in the program's code"))
            },
        )
        .unwrap_or(Err(Unresolved::Missing("the library with the target is not loaded")))
    }

    pub(crate) fn write(&self, writer: &mut Writer) {
        writer.bytes(&self.object);
        match &self.identity {
            Identity::BuildId(id) => {
                writer.u8(0).bytes(id);
            }
            Identity::File(numbers) => {
                writer.u8(1);
                for &number in numbers {
                    writer.u64(number);
                }
            }
        }
        writer.u64(self.offset);
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> mp_core::Result<Self> {
        let object = reader.bytes()?.to_vec();
        let identity = match reader.u8()? {
            0 => Identity::BuildId(reader.bytes()?.to_vec()),
            1 => {
                let mut numbers = [0; 5];
                for number in &mut numbers {
                    *number = reader.u64()?;
                }
                Identity::File(numbers)
            }
            _ => return Err(mp_core::Error::Protocol("an identity of a kind that is not known")),
        };
        Ok(Self { object, identity, offset: reader.u64()? })
    }
}

/// A loaded object: the executable or a shared library.
struct Object {
    /// Empty for the executable.
    path: Vec<u8>,
    /// What is added to addresses in its file.
    base: usize,
    /// Start and length of its executable segments.
    code: Vec<(usize, usize)>,
    build_id: Option<Vec<u8>>,
}

/// Does once what else each child of the fork server would do in pages of its own: reads what does not
/// change, and goes the way of a call, so that what is bound and allocated at first use is.
pub(crate) fn warm_up() {
    fn nothing() {}
    fn trampoline<F: Target<(), Output = ()> + Copy + 'static>(_: F) -> Trampoline {
        trampoline_of_call::<F, ()>()
    }
    if let Ok(resolved) = Address::of(trampoline(nothing)).and_then(|address| address.resolve()) {
        resolved(Message::default());
    }
}

impl Object {
    /// Runs `work` with the object that `wanted` describes, if there is one.
    fn with<R>(wanted: impl Fn(&Self) -> bool, work: impl FnOnce(&Self) -> R) -> Option<R> {
        if let Some(executable) = Self::executable().filter(|object| wanted(object)) {
            return Some(work(executable));
        }
        Self::all().iter().find(|object| wanted(object)).map(work)
    }

    /// The executable, which stays where it is; libraries come and go.
    fn executable() -> Option<&'static Self> {
        static EXECUTABLE: OnceLock<Option<Object>> = OnceLock::new();
        let find = || Self::all().into_iter().find(|object| object.path.is_empty());
        EXECUTABLE.get_or_init(find).as_ref()
    }

    /// All of them. dl_iterate_phdr(3).
    fn all() -> Vec<Self> {
        unsafe extern "C" fn visit(
            info: *mut libc::dl_phdr_info,
            _size: usize,
            objects: *mut c_void,
        ) -> c_int {
            // SAFETY: the loader passes a valid description of one object.
            let info = unsafe { &*info };
            // SAFETY: the pointer that `all` passes below: a Vec that nobody else uses meanwhile.
            let objects = unsafe { &mut *objects.cast::<Vec<Object>>() };
            // SAFETY: the description is the loader's own, its object loaded.
            objects.push(unsafe { Object::from_loader(info) });
            0
        }
        let mut objects: Vec<Self> = Vec::new();
        // SAFETY: visit has the signature the loader expects, and gets the pointer to objects back.
        unsafe { libc::dl_iterate_phdr(Some(visit), (&raw mut objects).cast()) };
        objects
    }

    /// # Safety
    ///
    /// `info` is the loader's description of an object that stays loaded during the call.
    unsafe fn from_loader(info: &libc::dl_phdr_info) -> Self {
        let mut object = Self {
            path: Vec::new(),
            base: info.dlpi_addr as usize,
            code: Vec::new(),
            build_id: None,
        };
        if !info.dlpi_name.is_null() {
            // SAFETY: the loader's name is a string with its NUL.
            object.path = unsafe { CStr::from_ptr(info.dlpi_name) }.to_bytes().to_vec();
        }
        if info.dlpi_phdr.is_null() {
            return object;
        }
        // SAFETY: the loader gives the table of program headers and its length.
        let headers = unsafe { slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()) };
        for header in headers {
            let start = object.base.wrapping_add(header.p_vaddr as usize);
            let len = header.p_memsz as usize;
            match header.p_type {
                libc::PT_LOAD if header.p_flags & libc::PF_X != 0 => object.code.push((start, len)),
                libc::PT_NOTE if object.build_id.is_none() => {
                    // SAFETY: a note segment is part of a loaded, readable segment (elf(5)).
                    let notes = unsafe { slice::from_raw_parts(start as *const u8, len) };
                    object.build_id = find_build_id(notes, (header.p_align as usize).max(4));
                }
                _ => {}
            }
        }
        object
    }

    fn has_code_at(&self, address: usize) -> bool {
        self.code.iter().any(|&(start, len)| address.wrapping_sub(start) < len)
    }

    fn identity(&self) -> Result<Identity, Unresolved> {
        if let Some(id) = &self.build_id {
            return Ok(Identity::BuildId(id.clone()));
        }
        let path = if self.path.is_empty() {
            Path::new("/proc/self/exe")
        } else {
            Path::new(std::ffi::OsStr::from_bytes(&self.path))
        };
        let file = std::fs::metadata(path)
            .map_err(|_| Unresolved::Missing("a program without build id needs /proc"))?;
        Ok(Identity::File([
            file.dev(),
            file.ino(),
            file.size(),
            file.mtime() as u64,
            file.mtime_nsec() as u64,
        ]))
    }
}

/// Finds the GNU build id among ELF notes: name "GNU", type 3. elf(5), "Notes (Nhdr)".
fn find_build_id(notes: &[u8], align: usize) -> Option<Vec<u8>> {
    let mut reader = Reader::new(notes);
    loop {
        let name_len = reader.u32().ok()? as usize;
        let id_len = reader.u32().ok()? as usize;
        let kind = reader.u32().ok()?;
        let rest = reader.into_rest();
        let name = rest.get(..name_len)?;
        let rest = rest.get(name_len.next_multiple_of(4)..)?;
        let id = rest.get(..id_len)?;
        if kind == 3 && name == b"GNU\0" && !id.is_empty() {
            return Some(id.to_vec());
        }
        reader = Reader::new(rest.get(id_len.next_multiple_of(align)..)?);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(a: i32, b: i32) -> i32 {
        a + b
    }

    fn message(args: &impl Args) -> Message {
        let mut encoder = Encoder::new();
        args.encode(&mut encoder).unwrap();
        encoder.finish()
    }

    fn of<F, A>(_: F, _: &A) -> Trampoline
    where
        F: Target<A> + Copy + 'static,
        F::Output: Serialize,
        A: Args,
    {
        trampoline_of_call::<F, A>()
    }

    #[test]
    fn an_address_comes_back_as_the_same_function() {
        let args = (2, 3);
        let address = Address::of(of(add, &args)).unwrap();
        let mut writer = Writer::new();
        address.write(&mut writer);
        let bytes = writer.into_bytes();
        let read = Address::read(&mut Reader::new(&bytes)).unwrap();
        assert!(read == address);
        let Outcome::Value(value) = read.resolve().unwrap()(message(&args)) else {
            panic!("the target returns");
        };
        assert_eq!(mp_core::decode::<i32>(value).unwrap(), 5);
    }

    #[test]
    fn another_build_and_addresses_outside_of_code_are_refused() {
        let mut address = Address::of(of(add, &(2, 3))).unwrap();
        let offset = address.offset;
        for wrong in [u64::MAX, 0, 1 << 40] {
            address.offset = wrong;
            assert!(matches!(address.resolve(), Err(Unresolved::Missing(_))));
        }
        address.offset = offset;
        address.identity = Identity::BuildId(vec![1, 2]);
        match address.resolve() {
            Err(Unresolved::Different { theirs, .. }) => assert_eq!(theirs, "build id 0102"),
            other => panic!("{:?}", other.err()),
        }
        address.object = b"/no/such/library".to_vec();
        assert!(matches!(address.resolve(), Err(Unresolved::Missing(_))));
    }

    #[test]
    fn panics_and_bad_arguments_are_outcomes() {
        let args = (String::new(),);
        let panics = of(|text: String| assert!(!text.is_empty(), "no text"), &args);
        assert!(matches!(panics(message(&args)), Outcome::Panicked(text) if text == "no text"));
        assert!(matches!(panics(message(&(1_u8,))), Outcome::Undecodable(_)));
    }

    #[test]
    fn notes_are_searched_without_leaving_them() {
        let note = |name: &[u8], kind: u32, id: &[u8]| {
            let mut bytes = Vec::new();
            bytes.extend((name.len() as u32).to_le_bytes());
            bytes.extend((id.len() as u32).to_le_bytes());
            bytes.extend(kind.to_le_bytes());
            bytes.extend(name);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            bytes.extend(id);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            bytes
        };
        let notes = [note(b"GNU\0", 5, b"xyz"), note(b"GNU\0", 3, b"12345")].concat();
        assert_eq!(find_build_id(&notes, 4).unwrap(), b"12345");
        assert_eq!(find_build_id(&notes[..20], 4), None);
        assert_eq!(find_build_id(&[255; 40], 4), None);
    }
}

//! A list of mixed items in shared memory, laid out as CPython does.
//!
//! From `Lib/multiprocessing/shared_memory.py`, with `N` items; numbers have the machine's byte order:
//! ```text
//! 8 bytes            N
//! (N + 1) * 8 bytes  where each item begins, from the start of the data on; the last: where the data end
//! K bytes            the data, each item in a slot of whole words
//! N * 8 bytes        the struct format of each item, as text that is filled up with NULs
//! N bytes            how each item is turned back into a value: 0 as it is, 1 str, 2 bytes, 3 None
//! ```
//! That has no place for the length of a text: its format has the slot's, and CPython strips the NULs off
//! its end. So behind it, where CPython never looks, lists made here have
//! ```text
//! up to 7 bytes      nothing, up to a multiple of 8
//! 8 bytes            a magic number
//! N * 8 bytes        for a text or bytes that end in NUL: length, and 40 bits of hash of the whole slot
//!                    (with a change by CPython the hash becomes wrong, and the length is not used); else 0
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{Error, Result, SharedMemory};

/// What a [`ShareableList`] can hold.
///
/// Made by `From`, and several of different kinds by [`items!`](crate::items).
///
/// # Example
///
/// ```
/// use mp_shmem::Item;
///
/// assert_eq!(Item::from(7), Item::Int(7));
/// assert_eq!(Item::from("seven"), Item::Str("seven".to_string()));
/// assert_eq!(Item::from(()), Item::None);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Item {
    /// Python's `None`.
    None,
    /// Python's `bool`.
    Bool(bool),
    /// Python's `int`, of which 64 bits can be shared.
    Int(i64),
    /// Python's `float`.
    Float(f64),
    /// Python's `str`.
    Str(String),
    /// Python's `bytes`.
    Bytes(Vec<u8>),
}

macro_rules! from {
    ($($type:ty => |$value:ident| $item:expr;)*) => {$(
        impl From<$type> for Item {
            fn from($value: $type) -> Self {
                $item
            }
        }
    )*};
}

from! {
    () => |_nothing| Self::None;
    bool => |value| Self::Bool(value);
    i8 => |value| Self::Int(value.into());
    i16 => |value| Self::Int(value.into());
    i32 => |value| Self::Int(value.into());
    i64 => |value| Self::Int(value);
    u8 => |value| Self::Int(value.into());
    u16 => |value| Self::Int(value.into());
    u32 => |value| Self::Int(value.into());
    f32 => |value| Self::Float(value.into());
    f64 => |value| Self::Float(value);
    &str => |value| Self::Str(value.to_string());
    String => |value| Self::Str(value);
    &[u8] => |value| Self::Bytes(value.to_vec());
    Vec<u8> => |value| Self::Bytes(value);
}

impl<const N: usize> From<&[u8; N]> for Item {
    fn from(value: &[u8; N]) -> Self {
        Self::Bytes(value.to_vec())
    }
}

impl<T: Into<Self>> From<Option<T>> for Item {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::None, Into::into)
    }
}

/// Makes an array of [`Item`]s from values of different types.
///
/// # Example
///
/// ```
/// use mp_shmem::{Item, items};
///
/// let items = items![1, 2.5, true, "text", b"bytes", ()];
/// assert_eq!(items[3], Item::Str("text".to_string()));
/// assert_eq!(items[5], Item::None);
/// ```
#[macro_export]
macro_rules! items {
    ($($value:expr),* $(,)?) => {
        <[$crate::Item; _]>::from([$($crate::Item::from($value)),*])
    };
}

impl Item {
    /// The bytes of a text or bytes; `None` for what always fits.
    fn as_bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Str(text) => Some(text.as_bytes()),
            Self::Bytes(bytes) => Some(bytes),
            Self::None | Self::Bool(_) | Self::Int(_) | Self::Float(_) => None,
        }
    }

    /// How large the slot of a new list is made for it: always with room for a NUL.
    fn slot(&self) -> usize {
        self.as_bytes().map_or(WORD, |bytes| (bytes.len() / WORD + 1) * WORD)
    }

    fn format(&self, slot: usize) -> String {
        match self {
            Self::None => "xxxxxx?x".to_string(),
            Self::Bool(_) => "xxxxxxx?".to_string(),
            Self::Int(_) => "q".to_string(),
            Self::Float(_) => "d".to_string(),
            Self::Str(_) | Self::Bytes(_) => format!("{slot}s"),
        }
    }

    /// How CPython turns it back into a value.
    fn code(&self) -> u8 {
        match self {
            Self::Bool(_) | Self::Int(_) | Self::Float(_) => 0,
            Self::Str(_) => 1,
            Self::Bytes(_) => 2,
            Self::None => 3,
        }
    }

    /// What its slot begins with; behind it come zeros.
    fn data(&self) -> Vec<u8> {
        match self {
            Self::None => vec![0; WORD],
            Self::Bool(value) => vec![0, 0, 0, 0, 0, 0, 0, u8::from(*value)],
            Self::Int(value) => value.to_ne_bytes().to_vec(),
            Self::Float(value) => value.to_ne_bytes().to_vec(),
            Self::Str(text) => text.clone().into_bytes(),
            Self::Bytes(bytes) => bytes.clone(),
        }
    }
}

/// The size of a number, and what slots are multiples of.
const WORD: usize = 8;

/// A format has eight letters: seven digits and an s.
const LONGEST_SLOT: usize = 9_999_999 / WORD * WORD;

/// What the lengths begin with, where there are any.
const MAGIC: [u8; WORD] = *b"mp-list\x01";

/// A list of a fixed number of items in shared memory, which Python can read and write as well.
///
/// Items are numbers, booleans, texts, bytes and `None`, and can be exchanged for others, of other kinds
/// too. A slot keeps the size that it was made with: a multiple of eight bytes, with room for one more byte
/// than the first text had. The layout is CPython's (3.9 and later), in both directions.
///
/// There is no lock: whoever writes while others read takes a [`Lock`](crate::Lock) around both, and so
/// do two writers; else an item may be read half written. That, and whatever a faulty program writes into
/// the list, is an error or another item. Nothing blocks.
///
/// A clone is the same list, and so is what another process gets. Its memory has a name: see
/// [`SharedMemory`] for how long it lasts and who removes it.
///
/// Python: `multiprocessing.shared_memory.ShareableList`. Python strips NULs off the end of texts and bytes
/// when it reads them. Here they are kept, in lists that were made here, where Python never looks; Python
/// still reads and writes such lists.
///
/// # Example
///
/// ```
/// use mp_shmem::{Error, Item, ShareableList, items};
///
/// # fn main() -> mp_shmem::Result<()> {
/// let list = ShareableList::new(items!["howdy", b"HoWdY", -273.154, 100, (), true, 42])?.unlink_on_drop();
///
/// // In another process, or in Python: ShareableList(name=...)
/// let again = ShareableList::open(list.name())?;
/// assert_eq!(again.get(2)?, Item::Float(-273.154));
/// again.set(2, "-78.5")?;
/// assert_eq!(list.get(2)?, Item::from("-78.5"));
/// assert_eq!(list.index(&Item::from(42))?, Some(6));
///
/// let error = list.set(3, "larger than its slot");
/// assert!(matches!(error, Err(Error::DoesNotFit { index: 3, needed: 20, available: 8 })));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct ShareableList {
    memory: SharedMemory,
    /// Where each slot begins and the last one ends, from the start of the memory. Read and checked once:
    /// it never changes.
    offsets: Arc<[usize]>,
    /// Where the lengths lie, in lists that have them.
    lengths: Option<usize>,
}

impl ShareableList {
    /// Makes a list of these items, in memory with a new name.
    ///
    /// # Errors
    ///
    /// [`Error::DoesNotFit`] for a text or bytes of ten million bytes or more, [`Error::NoMemory`],
    /// [`Error::Io`].
    pub fn new<I>(items: I) -> Result<Self>
    where
        I: IntoIterator<Item: Into<Item>>,
    {
        Self::create(None, items)
    }

    /// Makes a list of these items, in memory named `name`, or with a new name for `None`.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new) and [`SharedMemory::create`].
    ///
    /// # Example
    ///
    /// ```
    /// use mp_shmem::ShareableList;
    ///
    /// # fn main() -> mp_shmem::Result<()> {
    /// let name = format!("weekdays-{}", std::process::id());
    /// let list = ShareableList::create(Some(&name), ["Monday", "Tuesday"])?.unlink_on_drop();
    /// assert_eq!(list.len(), 2);
    /// assert_eq!(list.format()?, "8s8s");
    /// # Ok(())
    /// # }
    /// ```
    pub fn create<I>(name: Option<&str>, items: I) -> Result<Self>
    where
        I: IntoIterator<Item: Into<Item>>,
    {
        let items: Vec<Item> = items.into_iter().map(Into::into).collect();
        let start = (items.len() + 2) * WORD;
        let mut offsets = vec![start];
        for (index, item) in items.iter().enumerate() {
            let slot = item.slot();
            if slot > LONGEST_SLOT {
                let needed = item.as_bytes().map_or(slot, <[u8]>::len);
                return Err(Error::DoesNotFit { index, needed, available: LONGEST_SLOT - 1 });
            }
            let end = offsets[index].checked_add(slot).ok_or_else(Error::overflow)?;
            offsets.push(end);
        }
        let lengths = lengths(&offsets).ok_or_else(Error::overflow)?;
        let size = lengths + WORD + items.len() * WORD;

        let memory = SharedMemory::create(name, size)?;
        let list = Self { memory, offsets: offsets.into(), lengths: Some(lengths) };
        let written = list.write(&items, start);
        if written.is_err() {
            let _ = list.memory.unlink();
        }
        written.map(|()| list)
    }

    fn write(&self, items: &[Item], start: usize) -> Result<()> {
        let offsets = self.offsets.iter().map(|at| (at - start) as u64);
        let offsets: Vec<u8> = offsets.flat_map(u64::to_ne_bytes).collect();
        self.memory.write_at(WORD, &offsets)?;
        let lengths = self.lengths.unwrap_or_default();
        self.memory.write_at(lengths, &MAGIC)?;
        for (index, item) in items.iter().enumerate() {
            self.set_item(index, item)?;
        }
        // Last: who opens the list before finds it empty, and never half written. Release: pairs with the
        // Acquire in from_memory.
        self.memory.at::<AtomicU64>(0)?.store(items.len() as u64, Ordering::Release);
        Ok(())
    }

    /// Opens the list in the memory named `name`, which this crate or Python made.
    ///
    /// # Errors
    ///
    /// As [`SharedMemory::open`]; [`Error::Damaged`] where it holds no list.
    pub fn open(name: &str) -> Result<Self> {
        Self::from_memory(SharedMemory::open(name)?)
    }

    /// Opens the list in `memory`.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`] where it holds no list.
    pub fn from_memory(memory: SharedMemory) -> Result<Self> {
        let damaged = |why: String| Error::Damaged(format!("no list: {why}"));
        let len = memory
            .at::<AtomicU64>(0)
            .map_err(|_| damaged(format!("{} bytes are no list", memory.size())))?
            .load(Ordering::Acquire);
        // Each item has an offset, a slot, a format and a code: so the number is bounded by the memory,
        // and so is what is allocated for it here.
        let room = memory.size().saturating_sub(2 * WORD) / (3 * WORD + 1);
        let Some(len) = usize::try_from(len).ok().filter(|&len| len <= room) else {
            return Err(damaged(format!(
                "it says that it has {len} items, but has room for {room}"
            )));
        };
        // One copy, which is checked and used.
        let mut header = vec![0; (len + 1) * WORD];
        memory.read_at(WORD, &mut header)?;
        let start = (len + 2) * WORD;
        let mut offsets = Vec::with_capacity(len + 1);
        let (words, _) = header.as_chunks::<WORD>();
        for (index, word) in words.iter().enumerate() {
            let least = offsets.last().map_or(start, |last| last + WORD);
            let offset = usize::try_from(u64::from_ne_bytes(*word))
                .ok()
                .and_then(|offset| offset.checked_add(start))
                .filter(|&offset| offset >= least && offset <= memory.size())
                .filter(|&offset| index > 0 || offset == start)
                .ok_or_else(|| damaged(format!("item {index} would lie outside of its place")))?;
            offsets.push(offset);
        }
        let formats = offsets[len];
        if formats.checked_add(len * (WORD + 1)).is_none_or(|end| end > memory.size()) {
            return Err(damaged("its formats would lie outside of the memory".to_string()));
        }
        let lengths = lengths(&offsets).filter(|&at| {
            let mut magic = [0; WORD];
            memory.size().checked_sub(at).is_some_and(|rest| rest >= (len + 1) * WORD)
                && memory.read_at(at, &mut magic).is_ok()
                && magic == MAGIC
        });
        Ok(Self { memory, offsets: offsets.into(), lengths })
    }

    /// How many items it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where the slot of an item begins, and its size.
    fn slot(&self, index: usize) -> Result<(usize, usize)> {
        match self.offsets.get(index..).and_then(|rest| rest.first_chunk()) {
            Some(&[start, end]) => Ok((start, end - start)),
            None => Err(Error::OutOfRange { index, len: self.len() }),
        }
    }

    fn format_at(&self, index: usize) -> usize {
        self.offsets[self.len()] + index * WORD
    }

    fn code_at(&self, index: usize) -> usize {
        self.format_at(self.len()) + index
    }

    fn length_at(&self, index: usize) -> Option<usize> {
        self.lengths.map(|at| at + WORD + index * WORD)
    }

    /// Copies an item out.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfRange`]; [`Error::Damaged`] where the slot holds nothing that a list can hold, or a
    /// text that is no UTF-8 (while another process writes it, for one).
    #[doc(alias = "__getitem__")]
    pub fn get(&self, index: usize) -> Result<Item> {
        let (start, slot) = self.slot(index)?;
        let mut code = [0];
        self.memory.read_at(self.code_at(index), &mut code)?;
        let [code] = code;
        let format = self.read_format(index)?;
        let word = || read_word(&self.memory, start);
        let item = match (format.as_str(), code) {
            ("q", 0) => Item::Int(word()? as i64),
            ("d", 0) => Item::Float(f64::from_bits(word()?)),
            ("xxxxxxx?", 0) => Item::Bool(word()?.to_ne_bytes()[7] != 0),
            ("xxxxxx?x", 3) => Item::None,
            (format, 1 | 2) => {
                let size = format
                    .strip_suffix('s')
                    .and_then(|size| size.parse::<usize>().ok())
                    .filter(|&size| size <= slot)
                    .ok_or_else(|| unknown(index, format, code))?;
                let bytes = self.read_bytes(index, start, size, slot)?;
                if code == 2 {
                    Item::Bytes(bytes)
                } else {
                    Item::Str(String::from_utf8(bytes).map_err(|_| {
                        Error::Damaged(format!("the text of item {index} is not UTF-8"))
                    })?)
                }
            }
            (format, code) => return Err(unknown(index, format, code)),
        };
        Ok(item)
    }

    fn read_format(&self, index: usize) -> Result<String> {
        let mut format = [0; WORD];
        self.memory.read_at(self.format_at(index), &mut format)?;
        let text = str::from_utf8(&format).unwrap_or("(no text)");
        Ok(text.trim_end_matches('\0').to_string())
    }

    fn read_bytes(&self, index: usize, start: usize, size: usize, slot: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; slot];
        self.memory.read_at(start, &mut bytes)?;
        if let Some(at) = self.length_at(index) {
            let (noted, len) = unpack(read_word(&self.memory, at)?);
            if noted != 0 && len <= slot && noted == hash(&bytes) {
                bytes.truncate(len);
                return Ok(bytes);
            }
        }
        bytes.truncate(size);
        let len = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
        bytes.truncate(len);
        Ok(bytes)
    }

    /// Exchanges an item for another one.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfRange`]; [`Error::DoesNotFit`] for a text or bytes that are longer than the slot,
    /// [`Error::TrailingNul`] where they end in NUL and the list was made by another program. Then the
    /// item is as it was.
    ///
    /// # Example
    ///
    /// ```
    /// use mp_shmem::{Item, ShareableList, items};
    ///
    /// # fn main() -> mp_shmem::Result<()> {
    /// let list = ShareableList::new(items!["text", 1])?.unlink_on_drop();
    /// list.set(0, 2.5)?;
    /// list.set(1, b"\0\x01\0")?;
    /// assert_eq!(list.to_vec()?, items![2.5, b"\0\x01\0"]);
    /// assert_eq!(list.count(&Item::from(2.5))?, 1);
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "__setitem__")]
    pub fn set(&self, index: usize, item: impl Into<Item>) -> Result<()> {
        self.set_item(index, &item.into())
    }

    fn set_item(&self, index: usize, item: &Item) -> Result<()> {
        let (start, slot) = self.slot(index)?;
        let mut data = item.data();
        let len = data.len();
        if len > slot {
            return Err(Error::DoesNotFit { index, needed: len, available: slot });
        }
        let format = item.format(slot);
        if format.len() > WORD {
            return Err(Error::DoesNotFit { index, needed: len, available: LONGEST_SLOT });
        }
        let mut padded = [0; WORD];
        padded[..format.len()].copy_from_slice(format.as_bytes());

        let is_text = item.as_bytes().is_some();
        let ends_in_nul = is_text && data.last() == Some(&0);
        if is_text {
            data.resize(slot, 0);
        }
        let noted = if ends_in_nul { pack(hash(&data), len) } else { 0 };
        match self.length_at(index) {
            Some(at) => self.memory.write_at(at, &noted.to_ne_bytes())?,
            None if ends_in_nul => return Err(Error::TrailingNul { index }),
            None => {}
        }
        self.memory.write_at(self.format_at(index), &padded)?;
        self.memory.write_at(self.code_at(index), &[item.code()])?;
        self.memory.write_at(start, &data)
    }

    /// Copies all items out.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub fn to_vec(&self) -> Result<Vec<Item>> {
        self.iter().collect()
    }

    /// Copies out one item after the other.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Result<Item>> + DoubleEndedIterator {
        (0..self.len()).map(|index| self.get(index))
    }

    /// The index of the first item that is equal to `item`, of the same kind; `None` where there is none.
    ///
    /// Python: raises `ValueError` where there is none, and takes `1`, `1.0` and `True` for equal.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub fn index(&self, item: &Item) -> Result<Option<usize>> {
        for (index, other) in self.iter().enumerate() {
            if other? == *item {
                return Ok(Some(index));
            }
        }
        Ok(None)
    }

    /// How many items are equal to `item`, of the same kind.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub fn count(&self, item: &Item) -> Result<usize> {
        let mut count = 0;
        for other in self.iter() {
            count += usize::from(other? == *item);
        }
        Ok(count)
    }

    /// The formats of all items, in the language of Python's `struct`.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub fn format(&self) -> Result<String> {
        (0..self.len()).map(|index| self.read_format(index)).collect()
    }

    /// The name of its memory, for [`open`](Self::open).
    #[must_use]
    pub fn name(&self) -> &str {
        self.memory.name()
    }

    /// The memory that it lies in.
    #[must_use]
    #[doc(alias = "shm")]
    pub fn memory(&self) -> &SharedMemory {
        &self.memory
    }

    /// Removes the name of its memory: [`SharedMemory::unlink`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn unlink(&self) -> Result<()> {
        self.memory.unlink()
    }

    /// Makes the last handle in this process remove the name: [`SharedMemory::unlink_on_drop`].
    #[must_use]
    pub fn unlink_on_drop(mut self) -> Self {
        self.memory = self.memory.unlink_on_drop();
        self
    }
}

impl std::fmt::Debug for ShareableList {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ShareableList")
            .field("name", &self.name())
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

impl Serialize for ShareableList {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.memory.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for ShareableList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::from_memory(SharedMemory::deserialize(deserializer)?).map_err(Error::of_handle)
    }
}

fn unknown(index: usize, format: &str, code: u8) -> Error {
    Error::Damaged(format!("item {index} has the format {format:?} with code {code}"))
}

/// Where the lengths lie: at the first word behind the codes.
fn lengths(offsets: &[usize]) -> Option<usize> {
    let len = offsets.len() - 1;
    offsets[len].checked_add(len.checked_mul(WORD + 1)?)?.checked_next_multiple_of(WORD)
}

fn read_word(memory: &SharedMemory, at: usize) -> Result<u64> {
    let mut word = [0; WORD];
    memory.read_at(at, &mut word)?;
    Ok(u64::from_ne_bytes(word))
}

/// Slots are shorter than 2^24 bytes.
fn pack(hash: u64, len: usize) -> u64 {
    hash << 24 | len as u64
}

fn unpack(word: u64) -> (u64, usize) {
    (word >> 24, (word & 0xFF_FFFF) as usize)
}

/// FNV-1a, of which 40 bits are used; never 0, which means that there is none.
fn hash(bytes: &[u8]) -> u64 {
    let hash = bytes.iter().fold(0xCBF2_9CE4_8422_2325_u64, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
    });
    (hash >> 24).max(1)
}

/// Opens memory that holds `bytes` as a list, and again after part of it changed.
///
/// The first byte says how much is changed: each time a number of two bytes, its place, and a byte. The rest is
/// the memory.
#[cfg(any(test, fuzzing))]
pub(crate) fn run_on(bytes: &[u8]) {
    fn usage(list: &ShareableList) {
        // An item is no longer than the memory, and items do not overlap.
        let mut sizes = 0;
        for index in 0..list.len() {
            sizes += match list.get(index) {
                Ok(Item::Str(text)) => text.len(),
                Ok(Item::Bytes(bytes)) => bytes.len(),
                _ => WORD,
            };
        }
        assert!(sizes <= list.memory.size());
        assert!(matches!(list.get(list.len()), Err(Error::OutOfRange { .. })));
        let _ = (list.format(), list.count(&Item::Int(0)), list.index(&Item::None));
    }

    let Some((&count, bytes)) = bytes.split_first() else { return };
    let (changes, bytes) = bytes.split_at(bytes.len().min(3 * usize::from(count % 8)));
    if bytes.is_empty() {
        return;
    }
    let memory = SharedMemory::without_name(bytes).expect("memory");
    let Ok(list) = ShareableList::from_memory(memory.clone()) else { return };
    usage(&list);
    let (changes, _) = changes.as_chunks::<3>();
    for &[low, high, byte] in changes {
        let at = usize::from(u16::from_le_bytes([low, high])) % memory.size();
        memory.write_at(at, &[byte]).expect("within it");
        usage(&list);
        if let Ok(again) = ShareableList::from_memory(memory.clone()) {
            usage(&again);
        }
    }
    let items = crate::items![-1, 2.5, true, (), "", "a text", b"\0bytes\0", vec![0xFF; 100]];
    for index in 0..list.len().clamp(items.len(), 64) {
        let (at, item) = (index % (list.len() + 1), &items[index % items.len()]);
        if list.set(at, item.clone()).is_ok() {
            assert_eq!(list.get(at).expect("it was set"), *item);
        }
    }
    usage(&list);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn list<I: IntoIterator<Item: Into<Item>>>(items: I) -> ShareableList {
        ShareableList::new(items).unwrap().unlink_on_drop()
    }

    #[test]
    fn the_layout_is_that_of_cpython() {
        // As CPython 3.11 has it: tests/processes.rs compares with whatever is there.
        let list = list(items!["howdy", 7, ()]);
        let words = |values: &[u64]| -> Vec<u8> {
            values.iter().flat_map(|value| value.to_ne_bytes()).collect()
        };
        let expected = [
            words(&[3, 0, 8, 16, 24]),
            b"howdy\0\0\0".to_vec(),
            words(&[7, 0]),
            b"8s\0\0\0\0\0\0q\0\0\0\0\0\0\0xxxxxx?x\x01\x00\x03".to_vec(),
        ]
        .concat();
        assert_eq!(list.memory().to_vec()[..expected.len()], expected);
    }

    #[test]
    fn items_are_exchanged_for_other_kinds() {
        let list = list(items![1, "four", b"\0\xFF", 2.5, true, ()]);
        for item in items![-1, 1e300, false, "", "eight by", b"", b"\0\0\0\0\0\0\0\0", "\0", ()] {
            for index in 0..list.len() {
                list.set(index, item.clone()).unwrap();
                assert_eq!(list.get(index).unwrap(), item);
            }
        }
    }

    #[test]
    fn what_does_not_fit_leaves_the_item_as_it_was() {
        let list = list(items!["seven b", "eight by", 1]);
        assert_eq!(list.format().unwrap(), "8s16sq");
        let error = list.set(0, "nine byte").unwrap_err();
        assert!(matches!(error, Error::DoesNotFit { index: 0, needed: 9, available: 8 }));
        list.set(1, "nine byte").unwrap();
        list.set(1, [0_u8; 17].as_slice()).unwrap_err();
        assert!(matches!(list.set(3, 1), Err(Error::OutOfRange { index: 3, len: 3 })));
        assert!(matches!(list.get(3), Err(Error::OutOfRange { .. })));
        assert!(matches!(list.get(usize::MAX), Err(Error::OutOfRange { .. })));
        assert_eq!(list.to_vec().unwrap(), items!["seven b", "nine byte", 1]);
    }

    #[test]
    fn a_text_too_long_for_a_format_is_refused() {
        let error = ShareableList::new(["x".repeat(10_000_000)]).unwrap_err();
        assert!(matches!(error, Error::DoesNotFit { index: 0, needed: 10_000_000, .. }));
        let longest = "x".repeat(LONGEST_SLOT - 1);
        assert_eq!(list([longest.clone()]).get(0).unwrap(), Item::Str(longest));
    }

    #[test]
    fn an_empty_list_is_one() {
        let list = list(items![]);
        assert!(list.is_empty());
        assert!(ShareableList::open(list.name()).unwrap().to_vec().unwrap().is_empty());
    }

    #[test]
    fn items_are_found_by_kind_and_value() {
        let list = list(items![1, 1.0, true, "a", 1]);
        assert_eq!(list.index(&Item::from(true)).unwrap(), Some(2));
        assert_eq!(list.index(&Item::from("b")).unwrap(), None);
        assert_eq!(list.count(&Item::from(1)).unwrap(), 2);
    }

    #[test]
    fn a_list_without_lengths_strips_and_refuses_nuls() {
        let ours = list(items![b"ab\0", "c"]);
        // What CPython would have made: without what lies behind the codes.
        let size = ours.code_at(ours.len());
        let theirs = SharedMemory::create(None, size).unwrap().unlink_on_drop();
        theirs.write_at(0, &ours.memory().to_vec()[..size]).unwrap();
        let theirs = ShareableList::open(theirs.name()).unwrap();
        assert_eq!(ours.get(0).unwrap(), Item::from(b"ab\0"));
        assert_eq!(theirs.get(0).unwrap(), Item::from(b"ab"));
        assert!(matches!(theirs.set(1, "d\0"), Err(Error::TrailingNul { index: 1 })));
        theirs.set(1, "d").unwrap();
        assert_eq!(theirs.get(1).unwrap(), Item::from("d"));
    }

    #[test]
    fn a_noted_length_is_not_used_after_another_program_wrote_the_slot() {
        let list = list(items![b"abc\0\0"]);
        let (start, _) = list.slot(0).unwrap();
        list.memory().write_at(start, b"xy\0\0\0\0\0\0").unwrap();
        assert_eq!(list.get(0).unwrap(), Item::from(b"xy"));
    }

    #[test]
    fn a_copy_that_was_sent_is_the_same_list() {
        let list = list(items![1, "two"]);
        let sent: ShareableList = mp_core::decode(mp_core::encode(&list).unwrap()).unwrap();
        sent.set(0, "one").unwrap();
        assert_eq!(list.to_vec().unwrap(), items!["one", "two"]);
    }

    #[test]
    fn memory_that_is_no_list_is_refused() {
        let memory = SharedMemory::create(None, 100).unwrap().unlink_on_drop();
        memory.write_at(0, &[0xFF; 100]).unwrap();
        assert!(matches!(ShareableList::open(memory.name()), Err(Error::Damaged(_))));
        let short = SharedMemory::create(None, 7).unwrap().unlink_on_drop();
        assert!(matches!(ShareableList::open(short.name()), Err(Error::Damaged(_))));
    }

    fn item() -> impl Strategy<Value = Item> {
        prop_oneof![
            Just(Item::None),
            any::<bool>().prop_map(Item::Bool),
            any::<i64>().prop_map(Item::Int),
            any::<f64>().prop_map(Item::Float),
            any::<String>().prop_map(Item::Str),
            any::<Vec<u8>>().prop_map(Item::Bytes),
            (0_usize..40).prop_map(|len| Item::Bytes(vec![0; len])),
        ]
    }

    /// Compares floats by their bits.
    fn shown(items: &[Item]) -> String {
        format!("{items:?}")
    }

    proptest! {
        #[test]
        fn any_items_come_back(items in proptest::collection::vec(item(), 0..8)) {
            let list = list(items.clone());
            let again = ShareableList::open(list.name()).unwrap();
            prop_assert_eq!(shown(&again.to_vec().unwrap()), shown(&items));
        }

        #[test]
        fn a_list_that_was_scribbled_on_gives_items_or_errors(
            items in proptest::collection::vec(item(), 0..5),
            scribbles in proptest::collection::vec((any::<u16>(), any::<u64>()), 1..6),
        ) {
            let list = list(items);
            let size = list.memory().size();
            for (at, value) in scribbles {
                let at = usize::from(at) % (size / WORD) * WORD;
                // Small numbers are the more likely ones to be taken for good.
                let value = if value % 2 == 0 { value } else { value % (2 * size as u64) };
                list.memory().write_at(at, &value.to_ne_bytes()).unwrap();
                // Open before and after: neither may get out of the memory.
                let handles = [Ok(list.clone()), ShareableList::open(list.name())];
                for list in handles.into_iter().flatten() {
                    for index in 0..list.len() {
                        let _ = list.get(index);
                        let _ = list.set(index, "12345678");
                    }
                    let _ = list.format();
                }
            }
        }

        #[test]
        fn any_bytes_are_a_list_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 1..200), len in 0_u64..6) {
            let memory = SharedMemory::create(None, bytes.len()).unwrap().unlink_on_drop();
            memory.write_at(0, &bytes).unwrap();
            if bytes.len() >= WORD {
                memory.write_at(0, &len.to_ne_bytes()).unwrap();
            }
            if let Ok(list) = ShareableList::open(memory.name()) {
                let _ = list.to_vec();
            }
        }
    }
}

//! What lies where in a queue's segment, and the steps of a put and a get. Nothing here waits.
//!
//! # Layout
//!
//! Behind the segment's header: a line of what the maker chose, two lines for each side (put and get), one
//! for what is done, and the table of blocks; then, from the next page on, the blocks. There are two of
//! each size, from 32 KiB on, each size twice the one before. They are addresses at first, not memory: pages are reserved
//! in front of where is written, and given back when a block of the larger ones was read.
//!
//! Records lie in blocks one behind the other, in units of 16 bytes, and none is in two. Where the next one
//! does not fit, a header of zero stands in its place, or the block is full to the last unit; then the table
//! tells in which block it goes on. A block that is entered gets the next number. It is free again when the
//! reading side is in a block of a higher one: nobody has to say so, and nobody can die before doing it. Those
//! who put take the smallest free block, so a queue that is read as fast as it is written stays within the
//! first few, which are in the caches.
//!
//! # A record
//!
//! One word: bit 63 is 1; bits 40..56, the number of its descriptors; bits 0..40, the number of its bytes. If it
//! has descriptors, a word that names the parcel they travel in. Then the bytes.
//!
//! # Killed anywhere
//!
//! Each side has a lock. Under it, all that a put or get writes is out of sight, as it concerns what lies
//! behind the committed end (a put), or nothing at all (a get), until the commit word changes (see
//! [`commit`](crate::commit)). Whoever takes the lock from the dead starts from what is committed.
#![expect(unsafe_code, reason = "promises about layouts, copies in a mapping that is kept")]

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use mp_core::{Atomic, Plain, Segment, crash_point};
use mp_sync::RawLock;
use static_assertions::const_assert_eq;

use crate::commit::{CommitWord, Mark, NoCommit};
use crate::{Error, Result, copy};

/// Bytes in a unit.
pub(crate) const UNIT: u64 = 16;
/// The header of a record.
const HEADER: u64 = 8;
/// The size of the smallest blocks.
const SMALLEST: u64 = 32 << 10;
/// How many sizes of blocks there can be.
const SIZES: usize = 18;
/// How many sizes keep their memory when they were read.
const KEPT: usize = 5;
/// How many do where a large record begins the block: the next such finds it again. To get new memory and to clear it
/// costs more than all the rest of a put and a get.
const KEPT_FOR_LARGE: usize = 7;
/// From how many bytes on a record is large.
const LARGE: u64 = 64 << 10;
/// After how many others a block that is kept for large records is out of use.
const UNUSED: u64 = 16;
/// Where blocks begin.
const BLOCKS: u64 = 4096;
/// How much is reserved at first, and how much more at a time.
const FIRST_RESERVE: u64 = 8 << 10;
const MOST_RESERVE: u64 = 256 << 10;
/// How much is read of a larger block until it is given back: always, and where the queue is empty.
const RELEASE: u64 = 1 << 20;
const RELEASE_EMPTY: u64 = 64 << 10;

/// What a side keeps beside its count.
#[repr(C)]
struct Slot {
    /// The block in the top 8 bits, and the unit in it.
    place: AtomicU64,
    /// The number of the block.
    number: AtomicU64,
}

/// One of the two sides of a queue. Two cache lines: those who wait look at the first only.
#[repr(C, align(64))]
pub(crate) struct Side {
    pub(crate) word: CommitWord,
    apart: [AtomicU64; 7],
    pub(crate) lock: RawLock,
    slots: [Slot; 2],
    /// The last word of the other side that this one saw. Under the lock.
    seen: AtomicU64,
    /// For those who put: the name of the last parcel that was tried. Under the lock. For those who get: the
    /// number of the block they are in, for all to see. Behind at worst.
    own: AtomicU64,
    /// Until when, on the monotonic clock, only those who have waited for long may take a turn; 0: all may.
    pub(crate) owed: AtomicU64,
}

const_assert_eq!(size_of::<Side>(), 128);

/// An entry of the table.
#[repr(C)]
struct Block {
    /// Its number since it was last entered; 0: never. Under the lock of those who put.
    number: AtomicU64,
    /// The block it goes on in.
    next: AtomicU64,
    /// How many bytes from its start on are reserved.
    reserved: AtomicU64,
    /// How many bytes from its start on were given back since; [`NEVER`](Self::NEVER): it is kept for large records. Under
    /// the lock of those who get.
    released: AtomicU64,
}

impl Block {
    const NEVER: u64 = u64::MAX;
}

/// All words of a queue, behind the segment's header.
#[repr(C)]
pub(crate) struct Words {
    /// The maker's pid and time namespace; 0 where it is not known. As the next two, written once.
    realm: AtomicU64,
    /// How many items it may have; `u64::MAX`: any number.
    capacity: AtomicU64,
    /// How many units they may take.
    max_units: AtomicU64,
    unused: [AtomicU64; 5],
    pub(crate) put: Side,
    pub(crate) got: Side,
    pub(crate) done: CommitWord,
    apart: [AtomicU64; 7],
    table: [Block; 2 * SIZES],
}

const_assert_eq!(size_of::<Words>(), 64 + 2 * 128 + 64 + 2 * SIZES * 32);
const _: () = assert!((Segment::HEADER + size_of::<Words>()) as u64 <= BLOCKS);
// SAFETY: repr(C), atomics throughout, without padding, as the sizes show.
unsafe impl Plain for Words {}
// SAFETY: as above.
unsafe impl Atomic for Words {}

/// Where a side's next record goes or comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cursor {
    block: usize,
    unit: u64,
    number: u64,
}

/// A record to put, as it will lie there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record<'a> {
    pub(crate) bytes: &'a [u8],
    /// How many descriptors, and the parcel they travel in.
    pub(crate) parcel: Option<(u16, u64)>,
}

/// A record as it was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    at: u64,
    len: u64,
    pub(crate) units: u64,
    pub(crate) parcel: Option<(u16, u64)>,
}

/// How many units a record of so many bytes takes.
#[inline]
pub(crate) fn units_of(len: usize, has_parcel: bool) -> u64 {
    (len as u64 + HEADER + if has_parcel { 8 } else { 0 }).div_ceil(UNIT)
}

fn header_of(len: usize, fds: u16) -> u64 {
    1 << 63 | u64::from(fds) << 40 | len as u64
}

/// Appends a record without descriptors to `to`, as it will lie there.
pub(crate) fn append(bytes: &[u8], to: &mut Vec<u8>) {
    to.extend_from_slice(&header_of(bytes.len(), 0).to_le_bytes());
    to.extend_from_slice(bytes);
    to.resize(to.len().next_multiple_of(UNIT as usize), 0);
}

fn size_of_block(block: usize) -> u64 {
    SMALLEST << (block / 2)
}

fn start_of_block(block: usize) -> u64 {
    let size = size_of_block(block);
    BLOCKS + 2 * (size - SMALLEST) + (block % 2) as u64 * size
}

/// The words and blocks of one queue, in this process's mapping.
pub(crate) struct Slots {
    segment: Segment,
    words: NonNull<Words>,
    /// Where the first block begins.
    start: NonNull<u8>,
    /// How many blocks the segment has: 2 to 36.
    blocks: usize,
    pub(crate) capacity: u64,
    pub(crate) max_units: u64,
}

// SAFETY: a pointer to atomics in the mapping that it keeps.
unsafe impl Send for Slots {}
// SAFETY: as above.
unsafe impl Sync for Slots {}

impl Slots {
    /// Makes an empty queue, of as many sizes of blocks as the limits of this process allow.
    pub(crate) fn create(kind: u64, capacity: u64, max_units: u64) -> Result<Self> {
        let mut result = Self::create_sized(kind, SIZES, capacity, max_units);
        for sizes in [14, 9] {
            // Where the limit on the address space does not let it be mapped, or that on the size of files does not let
            // it be made, though most of it takes no memory; without them it fits. setrlimit(2): RLIMIT_AS, RLIMIT_FSIZE.
            if result.is_err() {
                result = Self::create_sized(kind, sizes, capacity, max_units);
            }
        }
        result
    }

    pub(crate) fn create_sized(
        kind: u64,
        sizes: usize,
        capacity: u64,
        max_units: u64,
    ) -> Result<Self> {
        let size = start_of_block(2 * sizes) as usize;
        let reserved = (BLOCKS + FIRST_RESERVE) as usize;
        let segment = Segment::create_sparse("queue", kind, size, reserved)?;
        let words = segment.at::<Words>(Segment::HEADER)?;
        // Relaxed: how it gets to others, a message or a fork, orders it.
        words.realm.store(RawLock::realm(), Ordering::Relaxed);
        words.capacity.store(capacity, Ordering::Relaxed);
        words.max_units.store(max_units, Ordering::Relaxed);
        for side in [&words.put, &words.got] {
            side.slots[0].number.store(1, Ordering::Relaxed);
        }
        words.got.own.store(1, Ordering::Relaxed);
        words.table[0].number.store(1, Ordering::Relaxed);
        words.table[0].reserved.store(FIRST_RESERVE, Ordering::Relaxed);
        Self::over(segment)
    }

    /// Takes over a segment that was received.
    pub(crate) fn over(segment: Segment) -> Result<Self> {
        let size = segment.size() as u64;
        let Some(sizes) = (1..=SIZES).find(|sizes| start_of_block(2 * sizes) == size) else {
            return Err(Error::BadSegment(format!("no queue has {size} bytes")));
        };
        let words = segment.at::<Words>(Segment::HEADER)?;
        let (theirs, ours) = (words.realm.load(Ordering::Relaxed), RawLock::realm());
        if theirs != 0 && ours != 0 && theirs != ours {
            return Err(Error::OtherNamespace);
        }
        let capacity = words.capacity.load(Ordering::Relaxed);
        let max_units = words.max_units.load(Ordering::Relaxed);
        let words = NonNull::from(words);
        let start = segment.address(BLOCKS as usize, (size - BLOCKS) as usize)?;
        Ok(Self { segment, words, start, blocks: 2 * sizes, capacity, max_units })
    }

    /// Where the words of a peer may be written: those of the sides but for their locks, and the first of each
    /// block.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn word_at(&self, place: u16) -> &AtomicU64 {
        use std::mem::offset_of;
        let [index, block] = place.to_le_bytes().map(usize::from);
        let at = if block < self.blocks {
            start_of_block(block) as usize + index * 8
        } else {
            let at = index * 8 % size_of::<Words>();
            let locks = [offset_of!(Words, put), offset_of!(Words, got)]
                .map(|side| side + offset_of!(Side, lock));
            let is_lock =
                locks.iter().any(|lock| (*lock..lock + size_of::<RawLock>()).contains(&at));
            Segment::HEADER + if is_lock { 0 } else { at }
        };
        self.segment.at(at).expect("within the segment")
    }

    pub(crate) fn segment(&self) -> &Segment {
        &self.segment
    }

    #[inline]
    pub(crate) fn words(&self) -> &Words {
        // SAFETY: checked to lie within the segment, aligned, when this was made; the segment is mapped for
        // as long as self; Words are atomics throughout.
        unsafe { self.words.as_ref() }
    }

    /// The largest record there is room for, in bytes.
    pub(crate) fn largest(&self) -> u64 {
        let block = size_of_block(self.blocks - 1) - HEADER;
        block.min(self.max_units.saturating_mul(UNIT).saturating_sub(HEADER))
    }

    /// How many items there are, at some moment within this call.
    pub(crate) fn len(&self) -> u64 {
        let Words { put, got, .. } = self.words();
        let mut before = put.word.load();
        for _ in 0..1000 {
            let gone = got.word.load();
            let after = put.word.load();
            let len = after.items_since(gone);
            if after.items_since(before) == 0 && after.units_since(before) == 0 {
                return len;
            }
            before = after;
        }
        // A thousand puts have come in between. Got first, then put: no fewer than there were, and no more
        // than there may be.
        let gone = got.word.load();
        put.word.load().items_since(gone).min(self.capacity)
    }

    #[inline]
    fn cursor(&self, side: &Side, mark: Mark) -> Result<Cursor> {
        let slot = &side.slots[mark.slot()];
        let place = slot.place.load(Ordering::Relaxed);
        let number = slot.number.load(Ordering::Relaxed);
        let (block, unit) = ((place >> 56) as usize, place & ((1 << 56) - 1));
        if block >= self.blocks || unit * UNIT > size_of_block(block) {
            return Err(Error::Damaged("a side is nowhere in it"));
        }
        Ok(Cursor { block, unit, number })
    }

    /// Fills the slot that does not hold, for the next commit.
    #[inline]
    fn fill(side: &Side, mark: Mark, cursor: &Cursor) {
        let slot = &side.slots[1 - mark.slot()];
        slot.place.store((cursor.block as u64) << 56 | cursor.unit, Ordering::Relaxed);
        slot.number.store(cursor.number, Ordering::Relaxed);
    }

    /// Where so many bytes from `at` on lie, which is aligned to words as blocks and units are.
    #[inline]
    fn address(&self, at: u64, len: u64) -> Result<NonNull<u8>> {
        if at < BLOCKS || at + len > self.segment.size() as u64 {
            return Err(Error::Damaged("a record would lie outside of it"));
        }
        // SAFETY: within the mapping, whose blocks begin at start.
        Ok(unsafe { self.start.add((at - BLOCKS) as usize) })
    }

    // Putting. All under the lock of that side.

    /// What was put, and where the next record goes.
    #[inline]
    pub(crate) fn tail(&self) -> Result<(Mark, Cursor)> {
        let put = &self.words().put;
        let mark = put.word.load();
        Ok((mark, self.cursor(put, mark)?))
    }

    /// For how many items and units there is room, of so many that are wanted; and what was got, as seen.
    #[inline]
    pub(crate) fn room(&self, tail: Mark, items: u64, units: u64) -> (u64, u64, Mark) {
        let Words { put, got, .. } = self.words();
        let room = |head: Mark| {
            (
                self.capacity.saturating_sub(tail.items_since(head)),
                self.max_units.saturating_sub(tail.units_since(head)),
                head,
            )
        };
        let seen = room(Mark(put.seen.load(Ordering::Relaxed)));
        if seen.0 >= items && seen.1 >= units {
            return seen;
        }
        let head = got.word.load();
        put.seen.store(head.0, Ordering::Relaxed);
        room(head)
    }

    /// Moves `cursor` to where a record of so many units goes, in memory that is reserved.
    #[inline]
    pub(crate) fn place(&self, tail: Mark, cursor: &mut Cursor, units: u64) -> Result<()> {
        let end = (cursor.unit + units) * UNIT;
        let block = &self.words().table[cursor.block];
        if end <= block.reserved.load(Ordering::Relaxed)
            && end <= size_of_block(cursor.block)
            && cursor.block < 2 * KEPT
        {
            return Ok(());
        }
        self.place_slow(tail, cursor, units)
    }

    #[cold]
    fn place_slow(&self, tail: Mark, cursor: &mut Cursor, units: u64) -> Result<()> {
        let fits = (cursor.unit + units) * UNIT <= size_of_block(cursor.block);
        // Once a crowd is gone, back to the small blocks.
        let large = cursor.block >= 2 * KEPT;
        if large && fits && tail.items_since(self.words().got.word.load()) == 0 {
            match self.enter(cursor, units, Some(2 * KEPT)) {
                Err(Error::Io(_)) => {}
                result => return result,
            }
        }
        if !fits {
            return self.enter(cursor, units, None);
        }
        self.reserve(cursor.block, (cursor.unit + units) * UNIT)
    }

    /// Moves `cursor` to the start of the smallest free block, of those below `limit`, with room for so
    /// many units.
    fn enter(&self, cursor: &mut Cursor, units: u64, limit: Option<usize>) -> Result<()> {
        let Words { got, table, .. } = self.words();
        // Acquire: pairs with the Release of who left a block, so that its reads are over.
        let entered = got.own.load(Ordering::Acquire);
        let is_free = |&block: &usize| {
            let number = table[block].number.load(Ordering::Relaxed);
            // Above: entered by somebody who died before the commit.
            let unused = number < entered || number > cursor.number;
            block != cursor.block && unused && units * UNIT <= size_of_block(block)
        };
        let blocks = limit.unwrap_or(self.blocks).min(self.blocks);
        let Some(next) = (0..blocks).find(is_free) else {
            return Err(std::io::Error::from(std::io::ErrorKind::OutOfMemory).into());
        };
        self.reserve(next, units * UNIT)?;
        crash_point!("put: the next block is reserved");
        if (cursor.unit + 1) * UNIT <= size_of_block(cursor.block) {
            self.reserve(cursor.block, (cursor.unit + 1) * UNIT)?;
            let end = self.address(start_of_block(cursor.block) + cursor.unit * UNIT, HEADER)?;
            // SAFETY: address() says that it is mapped; blocks and units are aligned to words.
            unsafe { copy::store(end, 0) };
        }
        crash_point!("put: the block is ended");
        let number = cursor.number.wrapping_add(1);
        let kept = units * UNIT >= LARGE && next < 2 * KEPT_FOR_LARGE;
        table[next].released.store(if kept { Block::NEVER } else { 0 }, Ordering::Relaxed);
        table[next].number.store(number, Ordering::Relaxed);
        crash_point!("put: the next block has its number");
        table[cursor.block].next.store(next as u64, Ordering::Relaxed);
        crash_point!("put: the block names the next");
        *cursor = Cursor { block: next, unit: 0, number };
        if next < 2 * KEPT {
            self.release_unused(entered, number);
        }
        Ok(())
    }

    /// Gives back a block that is kept for large records, where none came for long. It is free, so nobody else has to do
    /// with it.
    fn release_unused(&self, entered: u64, number: u64) {
        let table = &self.words().table;
        let is_unused = |&block: &usize| {
            let last = table[block].number.load(Ordering::Relaxed);
            let old = last < entered && last.saturating_add(UNUSED) < number;
            old && table[block].reserved.load(Ordering::Relaxed) > 0
        };
        let mut kept = 2 * KEPT..self.blocks.min(2 * KEPT_FOR_LARGE);
        if let Some(block) = kept.find(is_unused) {
            table[block].reserved.store(0, Ordering::Relaxed);
            crash_point!("put: about to give a block back");
            let (start, size) = (start_of_block(block), size_of_block(block));
            // It fails where a faulty peer sealed it; then the memory stays until the queue is gone.
            let _ = self.segment.release(start as usize, size as usize);
            crash_point!("put: a block is given back");
        }
    }

    /// Reserves memory for so many units from `cursor` on, which are within its block.
    pub(crate) fn reserve_units(&self, cursor: Cursor, units: u64) -> Result<()> {
        self.reserve(cursor.block, (cursor.unit + units) * UNIT)
    }

    fn reserve(&self, block: usize, end: u64) -> Result<()> {
        let entry = &self.words().table[block];
        let size = size_of_block(block);
        let reserved = entry.reserved.load(Ordering::Relaxed).min(size);
        if end <= reserved {
            return Ok(());
        }
        let ahead = (reserved * 2).clamp(16 << 10, reserved + MOST_RESERVE);
        let goal = end.max(ahead).next_multiple_of(4096).min(size);
        let start = start_of_block(block);
        self.segment.reserve((start + reserved) as usize, (goal - reserved) as usize)?;
        crash_point!("put: pages are reserved");
        entry.reserved.store(goal, Ordering::Relaxed);
        Ok(())
    }

    /// Writes a record at `cursor` and moves that behind it. It was [placed](Self::place).
    #[inline]
    pub(crate) fn write(&self, cursor: &mut Cursor, record: Record<'_>) -> Result<()> {
        let len = record.bytes.len();
        let units = units_of(len, record.parcel.is_some());
        let at = start_of_block(cursor.block) + cursor.unit * UNIT;
        let start = self.address(at, units * UNIT)?;
        let fds = record.parcel.map_or(0, |(fds, _)| fds);
        // SAFETY: address() says that all its units are mapped; they are aligned to words.
        unsafe { copy::store(start, header_of(len, fds)) };
        crash_point!("put: the header is written");
        // SAFETY: a record has at least two words.
        let mut body = unsafe { start.add(8) };
        if let Some((_, name)) = record.parcel {
            // SAFETY: as above.
            unsafe { copy::store(body, name) };
            // SAFETY: one that has a parcel has at least two words and its bytes.
            body = unsafe { body.add(8) };
        }
        // SAFETY: as above; units are whole words.
        unsafe { copy::write(record.bytes, body) };
        crash_point!("put: the record is written");
        cursor.unit += units;
        Ok(())
    }

    /// Writes records in a row that [`append`] made, as `write` does one.
    pub(crate) fn write_row(&self, cursor: &mut Cursor, row: &[u8]) -> Result<()> {
        let at = start_of_block(cursor.block) + cursor.unit * UNIT;
        let start = self.address(at, row.len() as u64)?;
        // SAFETY: address() says that it is mapped; it is aligned to words, and a row has whole units.
        unsafe { copy::write(row, start) };
        crash_point!("put: a row is written");
        cursor.unit += row.len() as u64 / UNIT;
        Ok(())
    }

    /// How many units more fit into the block at `cursor`.
    pub(crate) fn left(&self, cursor: Cursor) -> u64 {
        size_of_block(cursor.block) / UNIT - cursor.unit
    }

    /// Lets the records up to `cursor` be there. Where the queue is watched, calls `show` before.
    #[inline]
    pub(crate) fn commit_put(
        &self,
        tail: Mark,
        cursor: &Cursor,
        items: u64,
        units: u64,
        show: impl Fn(),
    ) -> Result<Mark> {
        let put = &self.words().put;
        Self::fill(put, tail, cursor);
        crash_point!("put: the slot is filled");
        let result = put.word.commit(tail, items, units, true, show).map_err(Error::from);
        crash_point!("put: committed");
        result
    }

    /// A name for a parcel that no other one had or will have.
    pub(crate) fn new_parcel(&self) -> u64 {
        let parcel = &self.words().put.own;
        let name = parcel.load(Ordering::Relaxed).wrapping_add(1);
        parcel.store(name, Ordering::Relaxed);
        name
    }

    /// Frees what somebody who died while putting had entered and reserved.
    pub(crate) fn repair_put(&self) -> Result<()> {
        let (_, cursor) = self.tail()?;
        for block in 2 * KEPT..self.blocks {
            let entry = &self.words().table[block];
            if entry.number.load(Ordering::Relaxed) > cursor.number {
                entry.reserved.store(0, Ordering::Relaxed);
                crash_point!("repair: about to free an orphan");
                self.segment
                    .release(start_of_block(block) as usize, size_of_block(block) as usize)?;
                entry.number.store(0, Ordering::Relaxed);
                crash_point!("repair: an orphan is free");
            }
        }
        Ok(())
    }

    // Getting. All under the lock of that side.

    /// What was got, where the next record is, and how many there are.
    #[inline]
    pub(crate) fn head(&self, anew: bool) -> Result<(Mark, Cursor, u64, Mark)> {
        let Words { put, got, .. } = self.words();
        let mark = got.word.load();
        let cursor = self.cursor(got, mark)?;
        let seen = Mark(got.seen.load(Ordering::Relaxed));
        let there = seen.items_since(mark);
        if there > 0 && !anew {
            return Ok((mark, cursor, there, seen));
        }
        let seen = put.word.load();
        got.seen.store(seen.0, Ordering::Relaxed);
        Ok((mark, cursor, seen.items_since(mark), seen))
    }

    /// Looks at the record at `cursor`, moving that into the next block where one ends, unless `stay`:
    /// then there is nothing.
    ///
    /// A larger block is given back when it is left, unless it is kept for large records. Nothing in it is wanted any more, and the commit,
    /// after which others may use it, comes later. If that does not come, it reads as ended again.
    #[inline]
    pub(crate) fn find(&self, cursor: &mut Cursor, stay: bool) -> Result<Option<Found>> {
        for moved in [false, true] {
            let size = size_of_block(cursor.block);
            let at = start_of_block(cursor.block) + cursor.unit * UNIT;
            let header = if (cursor.unit + 1) * UNIT <= size {
                // SAFETY: mapped, says address(); aligned to words.
                unsafe { copy::load(self.address(at, HEADER)?) }
            } else {
                0
            };
            if header != 0 {
                return self.parse(cursor, at, header).map(Some);
            }
            if stay {
                return Ok(None);
            }
            if moved {
                break;
            }
            self.leave(cursor)?;
        }
        Err(Error::Damaged("a block begins with its end"))
    }

    #[inline]
    fn parse(&self, cursor: &Cursor, at: u64, header: u64) -> Result<Found> {
        let len = header & ((1 << 40) - 1);
        let fds = (header >> 40) as u16;
        if header != 1 << 63 | u64::from(fds) << 40 | len {
            return Err(Error::Damaged("a record does not begin as records do"));
        }
        let units = units_of(len as usize, fds > 0);
        if (cursor.unit + units) * UNIT > size_of_block(cursor.block) {
            return Err(Error::Damaged("a record is longer than its block"));
        }
        // Who gets it makes room for so much, and finds that much memory taken by the segment.
        if units > self.max_units {
            return Err(Error::Damaged("a record is longer than the queue has room for"));
        }
        if fds == 0 {
            return Ok(Found { at: at + HEADER, len, units, parcel: None });
        }
        // SAFETY: mapped, says address(); aligned to words.
        let name = unsafe { copy::load(self.address(at + HEADER, 8)?) };
        Ok(Found { at: at + HEADER + 8, len, units, parcel: Some((fds, name)) })
    }

    #[cold]
    fn leave(&self, cursor: &mut Cursor) -> Result<()> {
        let table = &self.words().table;
        let next = table[cursor.block].next.load(Ordering::Relaxed);
        let number = cursor.number.wrapping_add(1);
        let next = usize::try_from(next).unwrap_or(usize::MAX);
        if next >= self.blocks
            || next == cursor.block
            || table[next].number.load(Ordering::Relaxed) != number
        {
            return Err(Error::Damaged("a block does not tell where it goes on"));
        }
        let released = table[cursor.block].released.load(Ordering::Relaxed);
        if cursor.block >= 2 * KEPT && released != Block::NEVER {
            table[cursor.block].reserved.store(0, Ordering::Relaxed);
            crash_point!("get: about to give a block back");
            self.segment.release(
                start_of_block(cursor.block) as usize,
                size_of_block(cursor.block) as usize,
            )?;
            crash_point!("get: a block is given back");
        }
        *cursor = Cursor { block: next, unit: 0, number };
        Ok(())
    }

    /// Appends the bytes of a record to `to`, and moves `cursor` behind it.
    #[inline]
    pub(crate) fn read(&self, cursor: &mut Cursor, found: Found, to: &mut Vec<u8>) -> Result<()> {
        let len = found.len as usize;
        let start = self.address(found.at, found.len)?;
        to.try_reserve(len.next_multiple_of(8))
            .map_err(|_| std::io::Error::from(std::io::ErrorKind::OutOfMemory))?;
        // SAFETY: mapped, says address(), and found to lie within its block, whose end is aligned to
        // words, as its start is.
        unsafe { copy::read(start, len, to) };
        cursor.unit += found.units;
        Ok(())
    }

    /// Lets the records up to `cursor` be gone.
    #[inline]
    pub(crate) fn commit_got(
        &self,
        head: Mark,
        cursor: &Cursor,
        items: u64,
        units: u64,
    ) -> Result<Mark> {
        let got = &self.words().got;
        Self::fill(got, head, cursor);
        crash_point!("get: the slot is filled");
        let now = got.word.commit(head, items, units, false, || {})?;
        crash_point!("get: committed");
        if got.own.load(Ordering::Relaxed) != cursor.number {
            // Release: pairs with the Acquire of who enters a block that was read.
            got.own.store(cursor.number, Ordering::Release);
        }
        if cursor.block >= 2 * KEPT {
            self.release_read(now, *cursor);
        }
        Ok(now)
    }

    /// Tells which block the reading side is in, where its last holder died before doing so.
    pub(crate) fn repair_got(&self) -> Result<()> {
        let got = &self.words().got;
        let cursor = self.cursor(got, got.word.load())?;
        got.own.store(cursor.number, Ordering::Release);
        crash_point!("repair: the reader's block is told");
        Ok(())
    }

    /// Gives back what was read of a larger block, if it is worth a system call.
    #[cold]
    fn release_read(&self, head: Mark, cursor: Cursor) {
        let entry = &self.words().table[cursor.block];
        let read = (cursor.unit * UNIT) / 4096 * 4096;
        let released = entry.released.load(Ordering::Relaxed);
        let more = read.saturating_sub(released);
        if more < RELEASE_EMPTY {
            return;
        }
        if more >= RELEASE || self.words().put.word.load().items_since(head) == 0 {
            let start = start_of_block(cursor.block) + released;
            // It fails where a faulty peer sealed it; then the memory stays until the queue is gone.
            let _ = self.segment.release(start as usize, more as usize);
            crash_point!("get: what was read is given back");
            entry.released.store(read, Ordering::Relaxed);
        }
    }
}

impl From<NoCommit> for Error {
    fn from(why: NoCommit) -> Self {
        match why {
            NoCommit::Closed => Self::Closed,
            NoCommit::Damaged => Self::Damaged("a count changed that nobody could have changed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commit::MOST;
    use proptest::prelude::*;
    use std::collections::VecDeque;
    use std::os::unix::fs::MetadataExt;

    const KIND: u64 = 7;

    /// The same queue in two mappings: an address that was stored would show.
    fn two(capacity: u64, max_units: u64) -> [Slots; 2] {
        let one = Slots::create(KIND, capacity, max_units).unwrap();
        let fd = one.segment.try_clone_fd().unwrap();
        let two = Slots::over(Segment::open(fd, KIND).unwrap()).unwrap();
        [one, two]
    }

    /// How much memory the segment takes.
    fn taken(slots: &Slots) -> u64 {
        let file = std::fs::File::from(slots.segment.try_clone_fd().unwrap());
        file.metadata().unwrap().blocks() * 512
    }

    fn content(number: u64, len: usize) -> Vec<u8> {
        (0..len).map(|index| (number.wrapping_mul(31) + index as u64) as u8).collect()
    }

    /// Puts as the blocking half does; with `dies` after so many steps, as if killed there.
    fn put(slots: &Slots, bytes: &[u8], parcel: Option<(u16, u64)>, dies: Option<u32>) -> bool {
        let (tail, mut cursor) = slots.tail().unwrap();
        let units = units_of(bytes.len(), parcel.is_some());
        let (items, room, _) = slots.room(tail, 1, units);
        if items == 0 || room < units {
            return false;
        }
        if dies == Some(0) {
            return true;
        }
        slots.place(tail, &mut cursor, units).unwrap();
        if dies == Some(1) {
            return true;
        }
        slots.write(&mut cursor, Record { bytes, parcel }).unwrap();
        if dies == Some(2) {
            return true;
        }
        Slots::fill(&slots.words().put, tail, &cursor);
        if dies == Some(3) {
            return true;
        }
        slots.commit_put(tail, &cursor, 1, units, || {}).unwrap();
        true
    }

    type Item = (Vec<u8>, Option<(u16, u64)>);

    /// Gets up to `max` that have no parcel, or one that has.
    fn get(slots: &Slots, max: u64, dies: bool) -> Vec<Item> {
        let (head, mut cursor, there, _) = slots.head(false).unwrap();
        let (mut items, mut units) = (Vec::new(), 0);
        while (items.len() as u64) < max.min(there) {
            let Some(found) = slots.find(&mut cursor, !items.is_empty()).unwrap() else { break };
            let mut bytes = Vec::new();
            slots.read(&mut cursor, found, &mut bytes).unwrap();
            items.push((bytes, found.parcel));
            units += found.units;
        }
        if dies {
            Slots::fill(&slots.words().got, head, &cursor);
        } else if !items.is_empty() {
            slots.commit_got(head, &cursor, items.len() as u64, units).unwrap();
        }
        items
    }

    #[derive(Clone, Debug)]
    enum Step {
        Put { len: usize, parcel: Option<(u16, u64)> },
        PutRow { lens: Vec<usize> },
        PutAndDie { len: usize, at: u32 },
        RepairPut,
        Get { max: u64 },
        GetAndDie { max: u64 },
        RepairGot,
        Drain,
    }

    fn step() -> impl Strategy<Value = Step> {
        let len = || prop_oneof![4 => 0_usize..100, 2 => 0_usize..20_000, 1 => 0_usize..300_000];
        prop_oneof![
            6 => (len(), proptest::option::weighted(0.1, (1_u16..5, any::<u64>())))
                .prop_map(|(len, parcel)| Step::Put { len, parcel }),
            2 => proptest::collection::vec(0_usize..3000, 1..30)
                .prop_map(|lens| Step::PutRow { lens }),
            2 => (len(), 0_u32..4).prop_map(|(len, at)| Step::PutAndDie { len, at }),
            1 => Just(Step::RepairPut),
            6 => (1_u64..10).prop_map(|max| Step::Get { max }),
            2 => (1_u64..10).prop_map(|max| Step::GetAndDie { max }),
            1 => Just(Step::RepairGot),
            1 => Just(Step::Drain),
        ]
    }

    fn put_row(slots: &Slots, row: &[Vec<u8>]) -> usize {
        let (tail, mut cursor) = slots.tail().unwrap();
        let first = units_of(row[0].len(), false);
        if slots.room(tail, 1, first).0 == 0 || slots.room(tail, 1, first).1 < first {
            return 0;
        }
        slots.place(tail, &mut cursor, first).unwrap();
        let (items, room, _) = slots.room(tail, row.len() as u64, MOST);
        let room = room.min(slots.left(cursor));
        let (mut bytes, mut units, mut count) = (Vec::new(), 0, 0);
        for item in row.iter().take(items as usize) {
            if units + units_of(item.len(), false) > room {
                break;
            }
            append(item, &mut bytes);
            units += units_of(item.len(), false);
            count += 1;
        }
        slots.reserve_units(cursor, units).unwrap();
        slots.write_row(&mut cursor, &bytes).unwrap();
        slots.commit_put(tail, &cursor, count as u64, units, || {}).unwrap();
        count
    }

    proptest! {
        // Half as many, as each takes long; so that PROPTEST_CASES counts here too.
        #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases.div_ceil(2)))]

        /// Against a queue of std's, with deaths in between that may change nothing.
        #[test]
        fn what_was_committed_comes_back_in_order(
            steps in proptest::collection::vec(step(), 1..150),
            capacity in prop_oneof![Just(u64::MAX), 1_u64..20],
            max_units in prop_oneof![3 => Just(MOST), 1 => 30_000_u64..60_000],
        ) {
            let slots = two(capacity, max_units);
            let mut model = VecDeque::<Item>::new();
            let mut held = 0;
            let size = |item: &Item| units_of(item.0.len(), item.1.is_some());
            for (number, step) in steps.into_iter().enumerate() {
                let (here, there) = (&slots[number % 2], &slots[1 - number % 2]);
                let expect = |units: u64, held: u64, model: &VecDeque<Item>| {
                    (model.len() as u64) < capacity && held + units <= max_units
                };
                match step {
                    Step::Put { len, parcel } => {
                        let bytes = content(number as u64, len);
                        let units = units_of(len, parcel.is_some());
                        let done = put(here, &bytes, parcel, None);
                        prop_assert_eq!(done, expect(units, held, &model));
                        if done {
                            held += units;
                            model.push_back((bytes, parcel));
                        }
                    }
                    Step::PutRow { lens } => {
                        let row: Vec<_> = lens.iter().map(|&len| content(len as u64, len)).collect();
                        for item in row.iter().take(put_row(here, &row)) {
                            held += units_of(item.len(), false);
                            model.push_back((item.clone(), None));
                        }
                    }
                    Step::PutAndDie { len, at } => {
                        put(here, &content(number as u64, len), None, Some(at));
                    }
                    Step::RepairPut => here.repair_put().unwrap(),
                    Step::Get { max } => {
                        for item in get(there, max, false) {
                            held -= size(&item);
                            prop_assert_eq!(Some(item), model.pop_front());
                        }
                    }
                    Step::GetAndDie { max } => {
                        for (index, item) in get(there, max, true).into_iter().enumerate() {
                            prop_assert_eq!(Some(&item), model.get(index));
                        }
                    }
                    Step::RepairGot => there.repair_got().unwrap(),
                    Step::Drain => {
                        while let Some(expected) = model.pop_front() {
                            held -= size(&expected);
                            prop_assert_eq!(get(there, 1, false), [expected]);
                        }
                        prop_assert!(get(there, 1, false).is_empty());
                    }
                }
                prop_assert_eq!(here.len(), model.len() as u64);
                prop_assert_eq!(there.len(), model.len() as u64);
            }
        }
    }

    #[test]
    fn blocks_follow_each_other_and_fill_the_segment() {
        let slots = Slots::create(KIND, u64::MAX, MOST).unwrap();
        let mut end = BLOCKS;
        for block in 0..slots.blocks {
            assert_eq!(start_of_block(block), end);
            end += size_of_block(block);
        }
        assert_eq!((end, slots.blocks), (slots.segment.size() as u64, 2 * SIZES));
        assert!(end / UNIT <= MOST, "counts of units stay exact");
    }

    #[test]
    fn a_small_queue_is_small_and_stays_in_its_first_blocks() {
        let slots = Slots::create(KIND, u64::MAX, MOST).unwrap();
        assert!(taken(&slots) <= 12 << 10, "{}", taken(&slots));
        for number in 0..100_000 {
            assert!(put(&slots, &content(number, 100), None, None));
            assert_eq!(get(&slots, 1, false)[0].0, content(number, 100));
        }
        assert!(taken(&slots) <= BLOCKS + 2 * SMALLEST, "{}", taken(&slots));
    }

    #[test]
    fn memory_goes_back_when_a_crowd_is_gone() {
        let slots = Slots::create(KIND, u64::MAX, MOST).unwrap();
        let bytes = content(1, 5000);
        for _ in 0..2 {
            for _ in 0..10_000 {
                assert!(put(&slots, &bytes, None, None));
            }
            assert!(taken(&slots) >= 40 << 20);
            while !get(&slots, 7, false).is_empty() {}
            // What is kept of the small blocks, and around the place in a large one.
            assert!(taken(&slots) <= 4 << 20, "{}", taken(&slots));
            // And back in the small ones, where no memory is got or given any more.
            for _ in 0..100 {
                assert!(put(&slots, &bytes, None, None));
                get(&slots, 1, false);
            }
            assert!(slots.tail().unwrap().1.block < 2 * KEPT);
            assert!(taken(&slots) <= 3 << 20, "{}", taken(&slots));
        }
    }

    #[test]
    fn large_items_find_their_memory_again_until_there_are_none_for_long() {
        let slots = Slots::create(KIND, u64::MAX, MOST).unwrap();
        let pass = |len| {
            assert!(put(&slots, &content(1, len), None, None));
            assert_eq!(get(&slots, 1, false)[0].0, content(1, len));
            taken(&slots)
        };
        for _ in 0..2 {
            let kept = (0..4).map(|_| pass(1 << 20)).max().unwrap();
            assert!(kept > 2 << 20, "{kept}");
            for _ in 0..20 {
                assert_eq!(pass(1 << 20), kept);
            }
            // Many blocks later.
            let left = (0..200).fold(0, |_, _| pass(5000));
            assert!(left < 1 << 20, "{left}");
        }
    }

    #[test]
    fn a_record_that_says_it_is_longer_than_the_queue_may_hold_is_not_read() {
        let slots = Slots::create(KIND, u64::MAX, 10).unwrap();
        assert!(put(&slots, b"short", None, None));
        let (_, mut cursor, there, _) = slots.head(false).unwrap();
        assert_eq!(there, 1);
        let header = slots.word_at(0);
        assert_eq!(header.load(Ordering::Relaxed), header_of(5, 0));
        header.store(header_of(10 * UNIT as usize, 0), Ordering::Relaxed);
        assert!(matches!(slots.find(&mut cursor, false), Err(Error::Damaged(_))));
        header.store(header_of(10 * UNIT as usize - HEADER as usize, 0), Ordering::Relaxed);
        assert_eq!(slots.find(&mut cursor, false).unwrap().unwrap().units, 10);
    }

    #[test]
    fn memory_that_is_short_is_an_error_of_put() {
        let slots = Slots::create(KIND, u64::MAX, MOST).unwrap();
        let (tail, mut cursor) = slots.tail().unwrap();
        let error = slots.place(tail, &mut cursor, (3 << 30) / UNIT).map(|()| cursor);
        // A machine with more than 3 GiB to spare gives them.
        if let Err(error) = error {
            assert!(matches!(error, Error::Io(_)), "{error}");
        }
        let (tail, mut cursor) = slots.tail().unwrap();
        assert!(slots.place(tail, &mut cursor, MOST).is_err(), "larger than any block");
        assert!(put(&slots, b"goes on", None, None));
    }
}

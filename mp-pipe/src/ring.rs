//! One direction of a pipe: its layout in shared memory, and one step of each end. Nothing here blocks.
//!
//! ```text
//! control   tail, head, reader sleeps, writer sleeps      each on cache lines of its own
//! ring      records, one behind the other, round and round
//! area      the bodies of longer messages, wherever the writer finds room
//! ```
//!
//! `tail` and `head` count bytes of the ring and only ever grow: the writer alone stores the one, the reader
//! alone the other. A record is there once the tail is behind it, and only then: its writer may be killed at
//! any instruction before and there is no record, at any later one and the record is whole.
//!
//! A record starts at a multiple of 8 and does not wrap around the end of the ring. It is a header, then:
//!
//! | kind | behind the header |
//! | --- | --- |
//! | pad | nothing: go on at the start of the ring |
//! | inline | the body |
//! | area | offset and length of the body in the area, 8 bytes each |
//! | aside | the length of the body, which lies in the last of the message's descriptors |
//! | abort | nothing: the fragments before it are no message, forget them |
//!
//! A record with descriptors has 8 more bytes behind its header, the number under which they were sent through the
//! socket. An abort has that number, of which it is the lower half, in place of its length, if some of the message's were sent:
//! they are nobody's. A record that is marked so is a fragment: the message goes on in the next one.
//!
//! A short message has a copy beside the tail, a letter: a reader that has read all before it finds the message with the
//! tail, where it would have to fetch another cache line from the writer's CPU. The record in the ring is there as well,
//! for a reader that is not so far: the next letter is written over the last, read or not. So a letter begins with a
//! stamp that no other has, written before it and looked at behind it, which says of which tail it is and how long.
//!
//! What lies in the area belongs to the writer again once the head is behind its record; where it goes next is for
//! the writer alone to know. So a reader believes nothing but the record, and that only within the area.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use mp_core::word::{self, AtomicU64, Woken};
use mp_core::{Deadline, crash_point};

use crate::memory::{
    self, Line, Memory, Ordering, announce, fence, ordering, publish, publish_lightly, taken,
};

/// The words of one direction.
#[cfg_attr(not(mp_loom), repr(C))]
#[derive(Debug, Default)]
pub(crate) struct Control {
    /// Up to where there are records: stored by the writer with Release (and stronger, see `publish`), loaded by the
    /// reader with Acquire.
    ///
    /// The second word is 1 while the writer sends so much that it leaves its barriers to the reader. The others are the
    /// last letter, and its stamp before it.
    tail: Line,
    /// Up to where they are read: stored by the reader, loaded by the writer; orders as the tail.
    ///
    /// The second word is 1 where the reader cannot make barriers for the writer.
    head: Line,
    /// Whether, and [how](Sleep), the reader sleeps or is about to; whoever makes it 0 wakes it.
    ///
    /// The second word is the CPU it ran on last, plus one; 0 if that is not known. The third is 1 while it wants no
    /// letters.
    reader_sleeps: Line,
    /// The same of the writer, who waits for room. The second word is its CPU.
    writer_sleeps: Line,
}

#[cfg(not(mp_loom))]
static_assertions::const_assert_eq!(size_of::<Control>(), 512);
#[cfg(not(mp_loom))]
static_assertions::const_assert_eq!(align_of::<Control>(), 128);

#[cfg(not(mp_loom))]
mod layout {
    #![expect(unsafe_code, reason = "what lies in shared memory")]

    use super::Control;

    // SAFETY: repr(C) atomics without padding.
    unsafe impl mp_core::Plain for Control {}
    // SAFETY: atomics only.
    unsafe impl mp_core::Atomic for Control {}
}

/// Bodies up to this long lie in the ring itself.
pub(crate) const INLINE: usize = 4096;
/// Longer bodies of which nobody wants to see the whole in one piece are cut into fragments of this size.
pub(crate) const FRAGMENT: usize = 64 << 10;
/// How much of the area is used while bodies are short: as much as stays in a processor's own cache.
const WINDOW: usize = 4 * FRAGMENT;

/// Messages up to this long are read in the quickest way.
pub(crate) const SHORT: usize = 128;

const HEADER: usize = 8;
/// Bodies up to this long go into letters.
const LETTER: usize = if cfg!(mp_loom) { 16 } else { 40 };
/// Room that records leave in the ring, for an abort.
const SLACK: usize = HEADER;
/// No ring has seen so many bytes: at 10 GiB a second that takes 13 years.
const LAST: u64 = 1 << 62;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Pad = 1,
    Inline = 2,
    Area = 3,
    Aside = 4,
    Abort = 5,
}

/// Marks a fragment that is not the last.
const MORE: u64 = 1 << 8;

/// What a header says, as the number that lies in the ring: kind, marks, count of descriptors, length.
fn header(kind: Kind, more: bool, fds: u16, len: u32) -> u64 {
    kind as u64 | if more { MORE } else { 0 } | u64::from(fds) << 16 | u64::from(len) << 32
}

/// What a letter of `len` bytes begins with that belongs to the record before `tail`, a multiple of 8.
fn stamp(tail: u64, len: usize) -> u64 {
    tail << 3 | len as u64
}

/// How an end sleeps, as the word says that is 0 while it is awake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub(crate) enum Sleep {
    /// At the doorbell: it is to be rung for.
    AtBell = 1,
    /// On the word itself: half as dear for both, but it does not hear of the other end's death.
    OnWord = 2,
}

/// Takes away what an end says that it sleeps, which is then to be woken.
#[inline]
fn roused(sleeps: &AtomicU64) -> Option<Sleep> {
    if sleeps.load(Ordering::SeqCst) == 0 {
        return None;
    }
    match sleeps.swap(0, Ordering::SeqCst) {
        0 => None,
        how if how == Sleep::OnWord as u64 => Some(Sleep::OnWord),
        _ => Some(Sleep::AtBell),
    }
}

#[cold]
fn wake(sleeps: &AtomicU64) {
    if taken!(WordWakes) {
        word::wake(sleeps, 1);
    }
}

impl Control {
    /// Wakes an end that sleeps on its word: the other one is gone.
    pub(crate) fn part(&self) {
        for sleeps in [&self.reader_sleeps.word, &self.writer_sleeps.word] {
            if sleeps.load(Ordering::SeqCst) == Sleep::OnWord as u64 {
                wake(sleeps);
            }
        }
    }
}

/// Why a step cannot be made.
#[derive(Debug)]
pub(crate) enum Broken {
    /// The other end wrote what it never writes.
    Damaged(&'static str),
    /// There is no memory for the pages of the ring or area.
    Memory(mp_core::Error),
}

type Step<T> = Result<T, Broken>;

/// One direction, as either end has it.
#[derive(Debug)]
pub(crate) struct Lane<C> {
    pub(crate) control: C,
    pub(crate) ring: Memory,
    pub(crate) area: Memory,
}

/// Makes the pages of ring or area usable before they are written.
pub(crate) trait Backing {
    fn ring(&self, end: usize) -> Result<(), mp_core::Error>;
    fn area(&self, end: usize) -> Result<(), mp_core::Error>;
    /// Whether the ring's pages are usable up to `end`, which is not so beyond the ring's own end.
    fn has_ring(&self, end: usize) -> bool;
}

/// A place for a record, and for its body, that is not there yet for the reader.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slot {
    at: usize,
    size: usize,
    kind: Kind,
    /// Where the body goes, in ring or area.
    body: usize,
    len: usize,
    tagged: bool,
}

impl Slot {
    /// Whether it is for a message whose body lies in its last descriptor.
    pub(crate) fn is_aside(&self) -> bool {
        self.kind == Kind::Aside
    }
}

/// The descriptors of a message: how many, and under which number they were sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tag {
    pub(crate) fds: u16,
    pub(crate) number: u64,
}

/// A hint, whatever a faulty peer writes there.
fn exchange_cpus(here: &Line, there: &Line, mine: Option<usize>) -> Option<usize> {
    let mine = mine.map_or(0, |cpu| cpu as u64 + 1);
    if here.second.load(Ordering::Relaxed) != mine {
        here.second.store(mine, Ordering::Relaxed);
    }
    usize::try_from(there.second.load(Ordering::Relaxed)).ok()?.checked_sub(1)
}

/// The end that writes. One thread of one process has it.
#[derive(Debug)]
pub(crate) struct Producer<C, B> {
    lane: Lane<C>,
    backing: B,
    tail: Cell<u64>,
    /// The head as it was when last looked at.
    head: Cell<u64>,
    /// Where in the area the next body may begin.
    next: Cell<usize>,
    /// Bodies in the area that are not read yet: up to where the head must come, and where they begin.
    bodies: RefCell<VecDeque<(u64, usize)>>,
    /// Whether the reader can make the barriers for this end, and whether it does now.
    may_rush: bool,
    rushes: Cell<bool>,
    /// Whether the reader was woken since that was last decided.
    roused: Cell<bool>,
}

impl<C: std::ops::Deref<Target = Control>, B: Backing> Producer<C, B> {
    /// Goes on where the last writer stopped, whose [bodies](Self::end_of_bodies) lay in the area up to `bodies`.
    pub(crate) fn new(lane: Lane<C>, backing: B, bodies: u64) -> Step<Self> {
        let tail = lane.control.tail.word.load(Ordering::Acquire);
        if !tail.is_multiple_of(8) || tail > LAST || bodies > tail {
            return Err(Broken::Damaged("the ring's tail is none"));
        }
        let producer = Self {
            lane,
            backing,
            tail: Cell::new(tail),
            head: Cell::new(0),
            next: Cell::new(0),
            bodies: RefCell::default(),
            may_rush: memory::allow_barriers(),
            rushes: Cell::new(false),
            roused: Cell::new(false),
        };
        producer.lane.control.tail.second.store(0, Ordering::Release);
        producer.look()?;
        if producer.head.get() < bodies {
            // They may lie anywhere. To wait for more than them would be to wait for a reader who does not tell how
            // far it is while all that is left is short.
            producer.bodies.borrow_mut().push_back((bodies, 0));
        }
        Ok(producer)
    }

    /// Up to where the head must come before nothing lies in the area.
    pub(crate) fn end_of_bodies(&self) -> u64 {
        self.bodies.borrow().back().map_or(0, |&(end, _)| end)
    }

    /// Sees how far the reader is.
    fn look(&self) -> Step<()> {
        let head = self.lane.control.head.word.load(ordering!(HeadLoad, Acquire));
        // Not modulo 2^64: a head that is a little below zero is as wrong as one that is beyond the tail.
        let unread = self.tail.get().checked_sub(head);
        if unread.is_none_or(|unread| unread > self.lane.ring.len() as u64)
            || !head.is_multiple_of(8)
        {
            return Err(Broken::Damaged("the ring's head is out of range"));
        }
        self.head.set(head);
        Ok(())
    }

    /// Finds a place for `size` bytes in one piece, padding the end of the ring where they do not fit.
    #[inline]
    fn place(&self, size: usize, slack: usize) -> Step<Option<usize>> {
        let capacity = self.lane.ring.len();
        let tail = self.tail.get();
        let at = tail as usize & (capacity - 1);
        let pad = if at + size > capacity { capacity - at } else { 0 };
        let end = tail + (pad + size + slack) as u64;
        if end - self.head.get() > capacity as u64 {
            self.look()?;
            if end - self.head.get() > capacity as u64 {
                return Ok(None);
            }
        }
        if pad == 0 {
            self.backing.ring(at + size).map_err(Broken::Memory)?;
            return Ok(Some(at));
        }
        self.backing.ring(capacity).map_err(Broken::Memory)?;
        self.lane.ring.store(at, header(Kind::Pad, false, 0, 0));
        crash_point!("send: the end of the ring is padded");
        // The reader sees the pad together with what comes behind it.
        self.tail.set(tail + pad as u64);
        Ok(Some(0))
    }

    /// Finds `len` bytes in the area.
    fn allocate(&self, len: usize) -> Step<Option<usize>> {
        let len = len.next_multiple_of(64);
        let window =
            (4 * len).clamp(WINDOW, self.lane.area.len().max(WINDOW)).min(self.lane.area.len());
        let mut bodies = self.bodies.borrow_mut();
        for attempt in 0..2 {
            while bodies.front().is_some_and(|&(end, _)| end <= self.head.get()) {
                bodies.pop_front();
            }
            let next = self.next.get();
            let found = match bodies.front() {
                // Where it was a moment ago: those bytes are in the cache.
                None => (len <= self.lane.area.len()).then_some(0),
                Some(&(_, first)) if next > first => {
                    if next + len <= window {
                        Some(next)
                    } else {
                        (len <= first).then_some(0)
                    }
                }
                Some(&(_, first)) => (next + len <= first).then_some(next),
            };
            if found.is_some() {
                return Ok(found);
            }
            if attempt == 0 {
                self.look()?;
            }
        }
        Ok(None)
    }

    /// A place for a message or fragment of `len` bytes, or `None` where there is no room now.
    ///
    /// `len` is no more than [`longest`](Self::longest).
    #[inline]
    pub(crate) fn slot(&self, len: usize, tagged: bool) -> Step<Option<Slot>> {
        let before = HEADER + if tagged { 8 } else { 0 };
        if len <= INLINE {
            let size = before + len.next_multiple_of(8);
            let Some(at) = self.place(size, SLACK)? else { return Ok(None) };
            let body = at + before;
            return Ok(Some(Slot { at, size, kind: Kind::Inline, body, len, tagged }));
        }
        let size = before + 16;
        let Some(at) = self.place(size, SLACK)? else { return Ok(None) };
        let Some(body) = self.allocate(len)? else { return Ok(None) };
        self.backing.area(body + len).map_err(Broken::Memory)?;
        Ok(Some(Slot { at, size, kind: Kind::Area, body, len, tagged }))
    }

    /// A place for a message whose body lies in its last descriptor.
    pub(crate) fn slot_aside(&self, len: usize) -> Step<Option<Slot>> {
        let size = HEADER + 16;
        let at = self.place(size, SLACK)?;
        Ok(at.map(|at| Slot { at, size, kind: Kind::Aside, body: at, len, tagged: true }))
    }

    /// The longest body that [`slot`](Self::slot) finds a place for.
    pub(crate) fn longest(&self) -> usize {
        (self.lane.area.len() / 2).max(INLINE)
    }

    fn memory(&self, slot: &Slot) -> &Memory {
        if slot.kind == Kind::Inline { &self.lane.ring } else { &self.lane.area }
    }

    /// Writes the body.
    #[inline]
    pub(crate) fn write(&self, slot: &Slot, bytes: &[u8]) {
        debug_assert!(bytes.len() == slot.len);
        self.memory(slot).write(slot.body, bytes);
        crash_point!("send: a body is written");
    }

    /// The body's bytes, in place.
    ///
    /// # Safety
    ///
    /// Until they are gone, no other slot is asked for and none is committed.
    #[cfg(not(mp_loom))]
    #[expect(unsafe_code, reason = "bytes that only this process may touch now")]
    #[expect(clippy::mut_from_ref, reason = "exclusiveness is the caller's promise")]
    pub(crate) unsafe fn bytes(&self, slot: &Slot) -> &mut [u8] {
        // SAFETY: the reader does not look at a place before it is committed, and this end only uses this
        // slot, by the caller's promise.
        unsafe { self.memory(slot).slice_mut(slot.body, slot.len) }
    }

    /// Makes the record visible; says whether the reader is to be rung for.
    #[inline]
    pub(crate) fn commit(&self, slot: &Slot, more: bool, tag: Tag) -> bool {
        let ring = &self.lane.ring;
        let mut at = slot.at + HEADER;
        if slot.tagged {
            ring.store(at, tag.number);
            at += 8;
        }
        let len = match slot.kind {
            Kind::Area => {
                ring.store(at, slot.body as u64);
                ring.store(at + 8, slot.len as u64);
                0
            }
            Kind::Aside => {
                ring.store(at, slot.len as u64);
                0
            }
            _ => slot.len as u32,
        };
        ring.store(slot.at, header(slot.kind, more, tag.fds, len));
        crash_point!("send: a record is written");
        let tail = self.tail.get() + slot.size as u64;
        if slot.kind == Kind::Area {
            self.bodies.borrow_mut().push_back((tail, slot.body));
            self.next.set(slot.body + slot.len.next_multiple_of(64));
        }
        self.publish(tail)
    }

    #[inline]
    fn publish(&self, tail: u64) -> bool {
        self.tail.set(tail);
        if self.rushes.get() {
            publish_lightly(&self.lane.control.tail.word, tail);
        } else {
            publish(&self.lane.control.tail.word, tail, ordering!(TailStore, Release));
        }
        crash_point!("send: the tail is stored");
        let sleeps = &self.lane.control.reader_sleeps.word;
        let Some(sleep) = roused(sleeps).filter(|_| taken!(RingReader)) else { return false };
        self.roused.set(true);
        match sleep {
            Sleep::AtBell => {
                crash_point!("send: the reader is about to be rung for");
                true
            }
            Sleep::OnWord => {
                crash_point!("send: the reader is about to be woken");
                wake(sleeps);
                false
            }
        }
    }

    /// Says whether this end sends message after message: then the reader, before it sleeps, makes the barriers
    /// that this end would need for each. A barrier costs as much as all the rest of a short message.
    pub(crate) fn rush(&self, rushes: bool) {
        // A reader that sleeps every few messages would make more barriers than it saves.
        let rushes = rushes
            && !self.roused.replace(false)
            && self.may_rush
            && self.lane.control.head.second.load(Ordering::Relaxed) == 0;
        if self.rushes.get() == rushes {
            return;
        }
        let flag = &self.lane.control.tail.second;
        if rushes {
            // A reader that does not see this is before it: by its own barrier, what it announced is seen by
            // whatever this end does from here on.
            announce(flag, 1);
            crash_point!("send: barriers are left to the reader");
        } else {
            // A reader that sees this sees every message before it.
            flag.store(0, Ordering::Release);
        }
        self.rushes.set(rushes);
    }

    /// A short message in the quickest way, if that can be gone; says whether the reader is to be rung for.
    #[inline]
    pub(crate) fn push(&self, bytes: &[u8]) -> Option<bool> {
        let size = HEADER + bytes.len().next_multiple_of(8);
        let ring = &self.lane.ring;
        let tail = self.tail.get();
        let at = tail as usize & (ring.len() - 1);
        if bytes.len() > INLINE
            || tail + (size + SLACK) as u64 - self.head.get() > ring.len() as u64
            || !self.backing.has_ring(at + size)
        {
            return None;
        }
        ring.store(at, header(Kind::Inline, false, 0, bytes.len() as u32));
        let wants_letter = self.lane.control.reader_sleeps.rest[0].load(Ordering::Relaxed) == 0;
        match bytes.try_into() {
            Ok(word) => {
                let word = u64::from_ne_bytes(word);
                ring.store(at + HEADER, word);
                if wants_letter {
                    self.write_letter(tail + size as u64, 8, [word]);
                }
            }
            Err(_) => {
                ring.write(at + HEADER, bytes);
                if wants_letter && bytes.len() <= LETTER {
                    let mut whole = [0; LETTER];
                    whole[..bytes.len()].copy_from_slice(bytes);
                    let words = whole.as_chunks().0.iter().map(|word| u64::from_ne_bytes(*word));
                    self.write_letter(tail + size as u64, bytes.len(), words);
                }
            }
        }
        crash_point!("send: a short message is written");
        Some(self.publish(tail + size as u64))
    }

    /// Writes a message beside the tail, which is about to be stored.
    #[inline]
    fn write_letter(&self, tail: u64, len: usize, body: impl IntoIterator<Item = u64>) {
        let [first, words @ ..] = &self.lane.control.tail.rest;
        first.store(stamp(tail, len), Ordering::Relaxed);
        // A reader that sees any of what follows sees the stamp too, and leaves the letter before this one.
        if taken!(LetterStamped) {
            fence(Ordering::Release);
        }
        crash_point!("send: a letter is begun");
        for (word, value) in words.iter().zip(body) {
            word.store(value, Ordering::Relaxed);
        }
    }

    /// Takes back the fragments sent so far, and the descriptors sent under that number, if it is not 0; says whether the
    /// reader is to be rung for.
    pub(crate) fn abort(&self, number: u64) -> Step<bool> {
        let Some(at) = self.place(HEADER, 0)? else {
            return Err(Broken::Damaged("the ring's head went back"));
        };
        self.lane.ring.store(at, header(Kind::Abort, false, 0, number as u32));
        crash_point!("send: an abort is written");
        Ok(self.publish(self.tail.get() + HEADER as u64))
    }

    /// Says that this end is about to sleep until there is room. Look once more before doing so.
    pub(crate) fn announce(&self, sleep: Sleep) {
        announce(&self.lane.control.writer_sleeps.word, sleep as u64);
        crash_point!("send: the wait for room is announced");
    }

    /// Sleeps on the word, as announced.
    pub(crate) fn nap(&self, until: Deadline) -> Woken {
        word::sleep(&self.lane.control.writer_sleeps.word, Sleep::OnWord as u64, until)
    }

    /// Says that it is awake again.
    pub(crate) fn retract(&self) {
        self.lane.control.writer_sleeps.word.store(0, Ordering::Relaxed);
    }

    /// Notes the CPU this end runs on; gives the one the other end ran on last.
    pub(crate) fn exchange_cpus(&self, mine: Option<usize>) -> Option<usize> {
        let Control { reader_sleeps, writer_sleeps, .. } = &*self.lane.control;
        exchange_cpus(writer_sleeps, reader_sleeps, mine)
    }
}

/// A record, as its reader has checked it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record {
    pub(crate) kind: Kind,
    pub(crate) more: bool,
    pub(crate) tag: Tag,
    /// How long the body is.
    pub(crate) len: usize,
    body: usize,
    size: usize,
}

/// The end that reads. One thread of one process has it.
#[derive(Debug)]
pub(crate) struct Consumer<C> {
    lane: Lane<C>,
    head: Cell<u64>,
    /// The head as the writer sees it.
    published: Cell<u64>,
    /// The tail as it was when last looked at.
    tail: Cell<u64>,
    /// A copy of the letter, of the record at that head, and its length.
    letter: [Cell<u64>; LETTER / 8],
    letter_at: Cell<Option<u64>>,
    letter_len: Cell<usize>,
    wants_letters: Cell<bool>,
}

impl<C: std::ops::Deref<Target = Control>> Consumer<C> {
    /// Goes on where the last reader stopped.
    pub(crate) fn new(lane: Lane<C>) -> Step<Self> {
        let head = lane.control.head.word.load(Ordering::Acquire);
        if !head.is_multiple_of(8) || head > LAST {
            return Err(Broken::Damaged("the ring's head is none"));
        }
        let can_make_barriers = memory::barrier_for_both();
        lane.control.head.second.store(u64::from(!can_make_barriers), Ordering::Relaxed);
        let (published, tail) = (Cell::new(head), Cell::new(head));
        lane.control.reader_sleeps.rest[0].store(0, Ordering::Relaxed);
        Ok(Self {
            lane,
            head: Cell::new(head),
            published,
            tail,
            letter: Default::default(),
            letter_at: Cell::new(None),
            letter_len: Cell::new(0),
            wants_letters: Cell::new(true),
        })
    }

    /// The next record, which stays where it is.
    #[inline]
    pub(crate) fn next(&self) -> Step<Option<Record>> {
        loop {
            let head = self.head.get();
            if head == self.tail.get() {
                let tail = self.lane.control.tail.word.load(ordering!(TailLoad, Acquire));
                if tail == head {
                    return Ok(None);
                }
                let unread = tail.wrapping_sub(head);
                if unread > self.lane.ring.len() as u64 || !tail.is_multiple_of(8) {
                    return Err(Broken::Damaged("the ring's tail is out of range"));
                }
                self.tail.set(tail);
                self.take_letter();
            }
            let capacity = self.lane.ring.len();
            let at = head as usize & (capacity - 1);
            if self.has_letter() {
                let len = self.letter_len.get();
                let (size, body) = (HEADER + len.next_multiple_of(8), at + HEADER);
                let (kind, more, tag) = (Kind::Inline, false, Tag::default());
                return Ok(Some(Record { kind, more, tag, len, body, size }));
            }
            // Within the ring and within what is written.
            let room = (capacity - at).min((self.tail.get() - head) as usize);
            let header = self.lane.ring.load(at);
            if header == Kind::Pad as u64 {
                let pad = capacity - at;
                // At the start it would be the whole ring, and a second one in a row.
                if pad > room || at == 0 {
                    return Err(Broken::Damaged("a pad is longer than what is written"));
                }
                self.head.set(head + pad as u64);
                continue;
            }
            return self.record(header, at, room).map(Some);
        }
    }

    /// Copies the letter, if it is all that is unread.
    #[inline]
    fn take_letter(&self) {
        let (head, tail, capacity) = (self.head.get(), self.tail.get(), self.lane.ring.len());
        if tail - head > (HEADER + LETTER) as u64 {
            return;
        }
        let [first, words @ ..] = &self.lane.control.tail.rest;
        let seen = first.load(Ordering::Relaxed);
        let len = seen as usize & 63;
        let size = HEADER + len.next_multiple_of(8);
        let at = head as usize & (capacity - 1);
        if seen != stamp(tail, len) || size as u64 != tail - head || at + size > capacity {
            return;
        }
        for (to, from) in self.letter.iter().zip(words) {
            to.set(from.load(Ordering::Relaxed));
        }
        fence(Ordering::Acquire);
        // Else the writer is at the next one already.
        if first.load(Ordering::Relaxed) == seen || !taken!(LetterWhole) {
            self.letter_at.set(Some(head));
            self.letter_len.set(len);
        }
    }

    /// Says whether this end is as fast as the writer, so that letters are of use.
    #[inline]
    pub(crate) fn want_letters(&self, wanted: bool) {
        if self.wants_letters.replace(wanted) != wanted {
            let flag = &self.lane.control.reader_sleeps.rest[0];
            flag.store(u64::from(!wanted), Ordering::Relaxed);
        }
    }

    /// Whether the next record's letter was taken.
    #[inline]
    fn has_letter(&self) -> bool {
        self.letter_at.get() == Some(self.head.get())
    }

    #[inline]
    fn record(&self, header: u64, at: usize, room: usize) -> Step<Record> {
        const BAD: Broken = Broken::Damaged("there is no such record");
        let more = header & MORE != 0;
        let fds = (header >> 16) as u16;
        let len = (header >> 32) as usize;
        let kind = match header as u8 {
            2 if len <= INLINE => Kind::Inline,
            3 if len == 0 => Kind::Area,
            4 if len == 0 && !more && fds > 0 => Kind::Aside,
            5 if header as u32 == Kind::Abort as u32 => Kind::Abort,
            _ => return Err(BAD),
        };
        if header & 0xfe00 != 0 || more && fds > 0 {
            return Err(BAD);
        }
        let ring = &self.lane.ring;
        let (mut before, mut number) = (HEADER, if kind == Kind::Abort { len as u64 } else { 0 });
        if fds > 0 {
            before += 8;
            if before > room {
                return Err(BAD);
            }
            number = ring.load(at + 8);
        }
        let (size, body, len) = match kind {
            Kind::Inline => (before + len.next_multiple_of(8), at + before, len),
            Kind::Area | Kind::Aside => {
                let size = before + if kind == Kind::Area { 16 } else { 8 };
                if size > room {
                    return Err(BAD);
                }
                if kind == Kind::Aside {
                    (size, 0, usize::try_from(ring.load(at + before)).map_err(|_| BAD)?)
                } else {
                    let body = ring.load(at + before);
                    let len = ring.load(at + before + 8);
                    let end = body.checked_add(len).ok_or(BAD)?;
                    if end > self.lane.area.len() as u64 {
                        return Err(Broken::Damaged("a body lies outside of the area"));
                    }
                    (size, body as usize, len as usize)
                }
            }
            _ => (before, 0, 0),
        };
        if size > room {
            return Err(Broken::Damaged("a record is longer than what is written"));
        }
        Ok(Record { kind, more, tag: Tag { fds, number }, len, body, size })
    }

    fn memory(&self, record: &Record) -> &Memory {
        if record.kind == Kind::Inline { &self.lane.ring } else { &self.lane.area }
    }

    /// Copies the body to `bytes`, which is as long.
    #[inline]
    pub(crate) fn read(&self, record: &Record, bytes: &mut [u8]) {
        debug_assert!(bytes.len() == record.len);
        self.memory(record).read(record.body, bytes);
    }

    /// Copies the body to the end of `bytes`.
    pub(crate) fn append(&self, record: &Record, bytes: &mut Vec<u8>) {
        self.memory(record).append(record.body, record.len, bytes);
    }

    /// The body's bytes, in place.
    ///
    /// # Safety
    ///
    /// Until they are gone the record is not consumed; and the writer is trusted not to write there before.
    #[cfg(not(mp_loom))]
    #[expect(unsafe_code, reason = "bytes that nobody writes to now")]
    pub(crate) unsafe fn bytes(&self, record: &Record) -> &[u8] {
        // SAFETY: a writer leaves a record and its body alone until the head is behind it; the rest is the
        // caller's promise.
        unsafe { self.memory(record).slice(record.body, record.len) }
    }

    /// Gives the record's place back; says whether the writer is to be rung for.
    ///
    /// The writer is told at once where it waits or the record has a body in the area, else when a quarter of
    /// the ring is free that it does not know of: then it has three quarters to fill before it could wait.
    #[inline]
    pub(crate) fn consume(&self, record: &Record) -> bool {
        crash_point!("receive: a record is read");
        self.advance(record.size, record.kind == Kind::Area)
    }

    #[inline]
    fn advance(&self, size: usize, at_once: bool) -> bool {
        let head = self.head.get() + size as u64;
        self.head.set(head);
        let sleeps = &self.lane.control.writer_sleeps.word;
        let untold = head - self.published.get();
        if untold < self.lane.ring.len() as u64 / 4
            && !at_once
            && sleeps.load(Ordering::Relaxed) == 0
        {
            return false;
        }
        self.publish()
    }

    /// Tells the writer how far this end is; says whether it is to be rung for.
    pub(crate) fn publish(&self) -> bool {
        let head = self.head.get();
        self.published.set(head);
        crash_point!("receive: the head is about to be stored");
        publish(&self.lane.control.head.word, head, ordering!(HeadStore, Release));
        crash_point!("receive: the head is stored");
        let sleeps = &self.lane.control.writer_sleeps.word;
        match roused(sleeps).filter(|_| taken!(RingWriter)) {
            None => false,
            Some(Sleep::AtBell) => {
                crash_point!("receive: the writer is about to be rung for");
                true
            }
            Some(Sleep::OnWord) => {
                crash_point!("receive: the writer is about to be woken");
                wake(sleeps);
                false
            }
        }
    }

    /// Says that this end is about to sleep until there is a record. Look once more before doing so.
    ///
    /// Gives whether the writer is sure to see it. If not, sleep for moments only.
    pub(crate) fn announce(&self, sleep: Sleep) -> bool {
        announce(&self.lane.control.reader_sleeps.word, sleep as u64);
        crash_point!("receive: the wait is announced");
        self.lane.control.tail.second.load(Ordering::Acquire) == 0 || memory::barrier_for_both()
    }

    /// Sleeps on the word, as announced.
    pub(crate) fn nap(&self, until: Deadline) -> Woken {
        word::sleep(&self.lane.control.reader_sleeps.word, Sleep::OnWord as u64, until)
    }

    /// Where the next message is and how long, if it is a short one that can be taken in the quickest way.
    #[inline]
    pub(crate) fn short(&self) -> Option<(usize, usize)> {
        let head = self.head.get();
        let unread = self.tail.get() - head;
        if unread < HEADER as u64 {
            return None;
        }
        let at = head as usize & (self.lane.ring.len() - 1);
        if self.has_letter() {
            return Some((at + HEADER, self.letter_len.get()));
        }
        let header = self.lane.ring.load(at);
        let len = (header >> 32) as usize;
        let size = HEADER + len.next_multiple_of(8);
        let is_plain = header as u32 == Kind::Inline as u32 && len <= SHORT;
        (is_plain && size as u64 <= unread && at + size <= self.lane.ring.len())
            .then_some((at + HEADER, len))
    }

    /// As [`take_short`](Self::take_short), of 8 bytes.
    #[inline]
    pub(crate) fn take_word(&self, at: usize) -> ([u8; 8], bool) {
        let word = if self.has_letter() { self.letter[0].get() } else { self.lane.ring.load(at) }
            .to_ne_bytes();
        (word, self.advance(HEADER + 8, false))
    }

    /// Copies such a message to the start of `bytes` and consumes it; as [`consume`](Self::consume).
    #[inline]
    pub(crate) fn take_short(&self, at: usize, len: usize, bytes: &mut [u8; SHORT]) -> bool {
        if self.has_letter() {
            for (to, word) in bytes.chunks_exact_mut(8).zip(&self.letter) {
                to.copy_from_slice(&word.get().to_ne_bytes());
            }
        } else {
            self.lane.ring.read(at, &mut bytes[..len]);
        }
        crash_point!("receive: a short message is read");
        self.advance(HEADER + len.next_multiple_of(8), false)
    }

    /// Says that it is awake again.
    pub(crate) fn retract(&self) {
        self.lane.control.reader_sleeps.word.store(0, Ordering::Relaxed);
    }

    /// Notes the CPU this end runs on; gives the one the other end ran on last.
    pub(crate) fn exchange_cpus(&self, mine: Option<usize>) -> Option<usize> {
        let Control { reader_sleeps, writer_sleeps, .. } = &*self.lane.control;
        exchange_cpus(reader_sleeps, writer_sleeps, mine)
    }
}

/// Both ends of a lane whose memory holds `bytes`: words, ring and area. For tests and fuzzing.
#[cfg(all(not(mp_loom), any(test, fuzzing)))]
pub(crate) mod bench {
    #![expect(unsafe_code, reason = "memory that only looks shared")]

    use std::ptr::NonNull;
    use std::sync::Arc;

    use super::*;

    #[derive(Debug)]
    pub(crate) struct Always;

    impl Backing for Always {
        fn ring(&self, _: usize) -> Result<(), mp_core::Error> {
            Ok(())
        }

        fn area(&self, _: usize) -> Result<(), mp_core::Error> {
            Ok(())
        }

        fn has_ring(&self, end: usize) -> bool {
            end <= RING
        }
    }

    pub(crate) const RING: usize = 16 << 10;
    pub(crate) const AREA: usize = 64 << 10;

    pub(crate) struct Bench {
        pub(crate) control: Arc<Control>,
        words: Vec<AtomicU64>,
    }

    use mp_core::word::AtomicU64;

    impl Bench {
        pub(crate) fn new() -> Self {
            let words = (0..(RING + AREA) / 8).map(|_| AtomicU64::new(0)).collect();
            Self { control: Arc::default(), words }
        }

        /// Writes any bytes: the four words of a direction, then letter, ring and area over and over.
        pub(crate) fn scribble(&self, bytes: &[u8]) {
            let words: Vec<u64> = bytes
                .chunks(8)
                .map(|bytes| {
                    let mut word = [0; 8];
                    word[..bytes.len()].copy_from_slice(bytes);
                    u64::from_le_bytes(word)
                })
                .collect();
            let (control, rest) = words.split_at(words.len().min(4));
            let Control { tail, head, reader_sleeps, writer_sleeps } = &*self.control;
            for (line, word) in [tail, head, reader_sleeps, writer_sleeps].into_iter().zip(control)
            {
                line.word.store(*word, Ordering::Relaxed);
            }
            for cells in [&tail.rest[..], &self.words] {
                for (cell, word) in cells.iter().zip(rest.iter().cycle()) {
                    cell.store(*word, Ordering::Relaxed);
                }
            }
        }

        fn lane(&self) -> Lane<Arc<Control>> {
            let start = NonNull::from(&self.words[0]).cast::<u8>();
            // SAFETY: within the words.
            let area = unsafe { start.add(RING) };
            Lane {
                control: Arc::clone(&self.control),
                // SAFETY: the words are so long, aligned, and outlive both ends in every test.
                ring: unsafe { Memory::new(start, RING) },
                // SAFETY: as above; the area lies behind the ring.
                area: unsafe { Memory::new(area, AREA) },
            }
        }

        pub(crate) fn producer(&self, bodies: u64) -> Step<Producer<Arc<Control>, Always>> {
            Producer::new(self.lane(), Always, bodies)
        }

        pub(crate) fn consumer(&self) -> Step<Consumer<Arc<Control>>> {
            Consumer::new(self.lane())
        }
    }

    /// Runs both ends on any bytes at all: they give errors, and stop.
    pub(crate) fn run_on(bytes: &[u8]) {
        let bench = Bench::new();
        bench.scribble(bytes);
        let mut copy = Vec::new();
        if let Ok(consumer) = bench.consumer() {
            // Each step takes 8 bytes at least, so more steps than that are an endless loop.
            let mut steps = 0;
            while let Ok(Some(record)) = consumer.next() {
                if matches!(record.kind, Kind::Inline | Kind::Area) {
                    copy.clear();
                    consumer.append(&record, &mut copy);
                    assert_eq!(copy.len(), record.len);
                }
                if let Some((at, len)) = consumer.short() {
                    consumer.take_short(at, len, &mut [0; SHORT]);
                } else {
                    consumer.consume(&record);
                }
                steps += 1;
                assert!(steps <= RING / 8, "more records than fit");
            }
        }
        bench.scribble(bytes);
        if let Ok(producer) = bench.producer(0) {
            for len in [0, 8, 100, INLINE, INLINE + 1, AREA / 2, 8, 8] {
                producer.push(&copy[..copy.len().min(len)]);
                if let Ok(Some(slot)) = producer.slot(len, len % 3 == 0) {
                    producer.write(&slot, &vec![7; len]);
                    producer.commit(&slot, false, Tag::default());
                }
                let _ = producer.abort(0);
            }
        }
    }
}

#[cfg(all(test, not(mp_loom)))]
mod tests {
    use std::collections::VecDeque;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::bench::{AREA, Bench, RING, run_on};
    use super::*;

    #[derive(Clone, Debug)]
    enum Move {
        Push(usize),
        Slot(usize, bool),
        Unfinished(usize),
        Fragment(usize),
        Abort,
        Take,
        TakeAll,
        NewProducer,
        NewConsumer,
    }

    fn len() -> impl Strategy<Value = usize> {
        prop_oneof![
            4 => 0_usize..40,
            2 => 0_usize..=INLINE,
            2 => INLINE..=AREA / 2,
            1 => Just(INLINE),
            1 => Just(AREA / 2),
        ]
    }

    fn step() -> impl Strategy<Value = Move> {
        prop_oneof![
            4 => len().prop_map(Move::Push),
            6 => (len(), any::<bool>()).prop_map(|(len, tagged)| Move::Slot(len, tagged)),
            1 => len().prop_map(Move::Unfinished),
            2 => len().prop_map(Move::Fragment),
            1 => Just(Move::Abort),
            8 => Just(Move::Take),
            1 => Just(Move::TakeAll),
            1 => Just(Move::NewProducer),
            1 => Just(Move::NewConsumer),
        ]
    }

    fn body(number: u64, len: usize) -> Vec<u8> {
        (0..len as u64).map(|index| (number * 31 + index * 7) as u8).collect()
    }

    #[derive(Debug, PartialEq)]
    struct Seen {
        kind: Kind,
        more: bool,
        tag: Tag,
        bytes: Vec<u8>,
    }

    fn take<C: std::ops::Deref<Target = Control>>(consumer: &Consumer<C>) -> Option<Seen> {
        let record = consumer.next().unwrap()?;
        let Record { kind, more, tag, .. } = record;
        if let Some((at, len)) = consumer.short() {
            let mut bytes = [0; SHORT];
            assert_eq!(len, record.len);
            consumer.take_short(at, len, &mut bytes);
            return Some(Seen { kind, more, tag, bytes: bytes[..len].to_vec() });
        }
        let mut bytes = Vec::new();
        if kind != Kind::Abort {
            consumer.append(&record, &mut bytes);
        }
        consumer.consume(&record);
        Some(Seen { kind, more, tag, bytes })
    }

    proptest! {
        #[test]
        fn it_is_a_queue_across_every_wrap_around(steps in prop::collection::vec(step(), 1..400)) {
            let bench = Bench::new();
            let mut producer = bench.producer(0).unwrap();
            let mut consumer = bench.consumer().unwrap();
            let mut model = VecDeque::new();
            let mut number = 0;
            for step in steps {
                number += 1;
                let plain = |len, kind| Seen {
                    kind,
                    more: false,
                    tag: Tag::default(),
                    bytes: body(number, len),
                };
                let kind = |len| if len <= INLINE { Kind::Inline } else { Kind::Area };
                match step {
                    Move::Push(len) => {
                        if producer.push(&body(number, len)).is_some() {
                            model.push_back(plain(len, Kind::Inline));
                        }
                    }
                    Move::Slot(len, tagged) => {
                        if let Some(slot) = producer.slot(len, tagged).unwrap() {
                            producer.write(&slot, &body(number, len));
                            let tag = if tagged { Tag { fds: 3, number } } else { Tag::default() };
                            producer.commit(&slot, false, tag);
                            model.push_back(Seen { tag, ..plain(len, kind(len)) });
                        }
                    }
                    // As by a writer that is killed before it commits.
                    Move::Unfinished(len) => {
                        if let Some(slot) = producer.slot(len, false).unwrap() {
                            producer.write(&slot, &body(number, len));
                        }
                    }
                    Move::Fragment(len) => {
                        if let Some(slot) = producer.slot(len, false).unwrap() {
                            producer.write(&slot, &body(number, len));
                            producer.commit(&slot, true, Tag::default());
                            model.push_back(Seen { more: true, ..plain(len, kind(len)) });
                        }
                    }
                    Move::Abort => {
                        // Room for one is kept; for a second in a row there may be none.
                        if producer.slot(0, false).unwrap().is_some() {
                            producer.abort(0).unwrap();
                            model.push_back(plain(0, Kind::Abort));
                        }
                    }
                    Move::Take => prop_assert_eq!(take(&consumer), model.pop_front()),
                    Move::TakeAll => {
                        while let Some(seen) = take(&consumer) {
                            prop_assert_eq!(Some(seen), model.pop_front());
                        }
                        prop_assert!(model.is_empty());
                        consumer.publish();
                        // Nothing of ring and area is lost: the longest fits again.
                        for len in [INLINE, AREA / 2] {
                            prop_assert!(producer.slot(len, true).unwrap().is_some());
                        }
                    }
                    Move::NewProducer => {
                        producer = bench.producer(producer.end_of_bodies()).unwrap();
                    }
                    Move::NewConsumer => {
                        consumer.publish();
                        consumer = bench.consumer().unwrap();
                    }
                }
            }
            while let Some(seen) = take(&consumer) {
                prop_assert_eq!(Some(seen), model.pop_front());
            }
            prop_assert!(model.is_empty());
        }

        #[test]
        fn any_bytes_at_all_give_an_error_or_a_record_within_bounds(
            bytes in prop::collection::vec(any::<u8>(), 0..400),
        ) {
            run_on(&bytes);
        }

        #[test]
        fn letters_that_are_almost_right_do_so_too(
            tail in 0_u64..9,
            len in 0_usize..64,
            off in prop_oneof![4 => Just(0_u64), 1 => any::<u64>()],
            words in prop::collection::vec(any::<u64>(), 0..9),
        ) {
            let tail = tail * 8;
            let mut bytes = Vec::new();
            for word in [tail, 0, 0, 0, stamp(tail, len) ^ off].into_iter().chain(words) {
                bytes.extend_from_slice(&word.to_le_bytes());
            }
            run_on(&bytes);
        }

        #[test]
        fn bytes_that_are_almost_right_do_so_too(
            tail in 0_u64..RING as u64 / 8,
            words in prop::collection::vec(
                prop_oneof![
                    (1_u64..6, 0_u64..3, 0_u64..3, 0_u64..200)
                        .prop_map(|(kind, more, fds, len)| kind | more << 8 | fds << 16 | len << 32),
                    0_u64..AREA as u64 * 2,
                    any::<u64>(),
                ],
                0..40,
            ),
        ) {
            let mut bytes = Vec::new();
            for word in [tail * 8, 0, 0, 0].into_iter().chain(words) {
                bytes.extend_from_slice(&word.to_le_bytes());
            }
            run_on(&bytes);
        }
    }

    #[test]
    fn a_full_ring_has_room_for_an_abort() {
        let bench = Bench::new();
        let (producer, consumer) = (bench.producer(0).unwrap(), bench.consumer().unwrap());
        for len in [0, 8, 56, 1000, INLINE] {
            while let Some(slot) = producer.slot(len, false).unwrap() {
                producer.commit(&slot, true, Tag::default());
            }
            producer.abort(0).unwrap();
            let mut last = None;
            while let Some(seen) = take(&consumer) {
                last = Some(seen);
            }
            assert_eq!(last.map(|seen| seen.kind), Some(Kind::Abort));
            consumer.publish();
        }
    }

    #[test]
    fn a_head_beyond_the_tail_is_refused_also_where_it_is_so_by_wrapping() {
        for head in [8, u64::MAX - 7, u64::MAX - 255, 1 << 63] {
            let bench = Bench::new();
            bench.control.head.word.store(head, Ordering::Relaxed);
            assert!(matches!(bench.producer(0), Err(Broken::Damaged(_))), "{head}");

            // Seen as soon as the ring would be full.
            let bench = Bench::new();
            let producer = bench.producer(0).unwrap();
            bench.control.head.word.store(head.max(1 << 20), Ordering::Relaxed);
            let error = loop {
                match producer.slot(INLINE, false) {
                    Ok(Some(slot)) => {
                        producer.commit(&slot, false, Tag::default());
                    }
                    Ok(None) => panic!("a full ring is one that is read"),
                    Err(error) => break error,
                }
            };
            assert!(matches!(error, Broken::Damaged(_)), "{head}");
        }
    }

    /// Sends `messages`, damages their records in the ring, and gives the first that is received.
    fn first_of_damaged(messages: &[&[u8]], wants_letters: bool) -> Option<Vec<u8>> {
        let bench = Bench::new();
        let (producer, consumer) = (bench.producer(0).unwrap(), bench.consumer().unwrap());
        consumer.want_letters(wants_letters);
        for message in messages {
            producer.push(message).unwrap();
        }
        for word in 0..16 {
            producer.lane.ring.store(word * 8, u64::MAX);
        }
        let record = consumer.next().ok()??;
        let (at, len) = consumer.short().unwrap();
        assert_eq!(len, record.len);
        let mut bytes = [0; SHORT];
        if len == 8 {
            bytes[..8].copy_from_slice(&consumer.take_word(at).0);
        } else {
            consumer.take_short(at, len, &mut bytes);
        }
        assert!(consumer.next().unwrap().is_none(), "it is received once");
        Some(bytes[..len].to_vec())
    }

    #[test]
    fn a_short_message_that_is_alone_comes_with_the_tail() {
        for len in 0..=LETTER as u64 {
            let body = body(len, len as usize);
            assert_eq!(first_of_damaged(&[&body], true).as_ref(), Some(&body));
            // It is not there for who wants none, nor any more if it is not the last one.
            assert_eq!(first_of_damaged(&[&body], false), None);
            assert_eq!(first_of_damaged(&[&body, b"another"], true), None);
        }
        assert_eq!(first_of_damaged(&[&[0; LETTER + 1]], true), None, "too long for a letter");
    }

    #[test]
    fn who_waits_is_rung_for_once() {
        let bench = Bench::new();
        let (producer, consumer) = (bench.producer(0).unwrap(), bench.consumer().unwrap());
        assert_eq!(producer.push(b"nobody waits"), Some(false));
        consumer.announce(Sleep::AtBell);
        assert_eq!(producer.push(b"the reader waits"), Some(true));
        assert_eq!(producer.push(b"it is rung for"), Some(false));
        producer.announce(Sleep::AtBell);
        let record = consumer.next().unwrap().unwrap();
        assert!(consumer.consume(&record), "the writer waits");
        let record = consumer.next().unwrap().unwrap();
        assert!(!consumer.consume(&record), "it is rung for");
    }

    #[test]
    fn who_sleeps_on_its_word_is_woken_and_not_rung_for() {
        let bench = Bench::new();
        let (producer, consumer) = (bench.producer(0).unwrap(), bench.consumer().unwrap());
        let late = || Deadline::after(Duration::from_secs(60));
        std::thread::scope(|scope| {
            consumer.announce(Sleep::OnWord);
            let reader = scope.spawn(move || {
                while consumer.next().unwrap().is_none() {
                    assert_ne!(consumer.nap(late()), Woken::TimedOut);
                }
                consumer
            });
            assert_eq!(producer.push(b"it is woken"), Some(false));
            let consumer = reader.join().unwrap();
            producer.announce(Sleep::OnWord);
            let writer = scope.spawn(move || assert_ne!(producer.nap(late()), Woken::TimedOut));
            let record = consumer.next().unwrap().unwrap();
            assert!(!consumer.consume(&record));
            writer.join().unwrap();
            consumer.announce(Sleep::OnWord);
            let reader = scope.spawn(move || assert_ne!(consumer.nap(late()), Woken::TimedOut));
            while !reader.is_finished() {
                // It may not be asleep yet.
                bench.control.part();
                std::thread::yield_now();
            }
        });
    }

    #[test]
    fn a_reader_that_sleeps_every_few_messages_makes_no_barriers() {
        let bench = Bench::new();
        let (producer, consumer) = (bench.producer(0).unwrap(), bench.consumer().unwrap());
        consumer.announce(Sleep::AtBell);
        assert_eq!(producer.push(b"wakes it"), Some(true));
        producer.rush(true);
        assert!(!producer.rushes.get());
        assert_eq!(producer.push(b"it is awake"), Some(false));
        producer.rush(true);
        assert_eq!(producer.rushes.get(), producer.may_rush);
    }

    #[test]
    fn a_writer_in_a_rush_is_seen_by_a_reader_that_goes_to_sleep() {
        let bench = Bench::new();
        let (producer, consumer) = (bench.producer(0).unwrap(), bench.consumer().unwrap());
        producer.rush(true);
        assert_eq!(producer.push(b"quick"), Some(false));
        assert!(consumer.announce(Sleep::AtBell) || !producer.may_rush);
        assert_eq!(producer.push(b"quick"), Some(true));
        producer.rush(false);
        assert!(consumer.announce(Sleep::OnWord));
    }
}

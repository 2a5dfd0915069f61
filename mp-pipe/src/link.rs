//! A ring and its doorbell: the two ends as they block, wake each other and die.
//!
//! Beside the ring, each direction has a pair of packet sockets. A single byte through it wakes whoever said in the
//! ring that it sleeps; descriptors travel through it; and its end is the other process's end, however that came.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IoSlice, Read, Seek, Write};
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;

use std::time::Duration;

use mp_core::sys::clock::coarse_nanos;
use mp_core::sys::fd::{PollFd, poll, wait_readable};
use mp_core::sys::process::current_cpu;
use mp_core::sys::{mem, socket};
use mp_core::{Deadline, Segment, crash_point, fd, spin};
use serde::de::{Deserialize, Deserializer, Error as _};
use serde::ser::{Serialize, Serializer};

use crate::memory::Memory;
use crate::ring::{
    Backing, Broken, Consumer, Control, FRAGMENT, Kind, Lane, Producer, Record, SHORT, Slot, Tag,
};
use crate::watch::Watch;
use crate::{Error, Result};

/// What the segments are of: part of the check when one is received.
const KIND: u64 = 0x4D50_5001;
/// How long a ring is. With 64 or 128 KiB, which are as quick for words, messages of 1 KiB took twice as long: reader and
/// writer kept fetching each other's lines.
const RING: usize = 256 << 10;
/// How long the area behind it is; its pages are taken as they are needed.
const AREA: usize = 4 << 20;
/// Where the words of the first lane are; those of the second follow.
const CONTROLS: usize = 128;
/// Where the first ring begins; behind the rings come the areas.
const RINGS: usize = 4096;
/// Pages are taken so many bytes at a time.
const RING_STEP: usize = 16 << 10;
const AREA_STEP: usize = 4 * FRAGMENT;
/// The most descriptors that one message can carry, as elsewhere in this library.
const MAX_FDS: usize = 16 * socket::MAX_FDS;
// The same numbers on every Linux that this runs on (errno(3)).
const ENOMEM: i32 = 12;
const EMFILE: i32 = 24;
const ENOBUFS: i32 = 105;
/// Buffers up to this long are kept for the next message.
const KEPT: usize = 1 << 20;

fn size(lanes: usize) -> usize {
    RINGS + lanes * (RING + AREA)
}

/// Makes the memory of a pipe with one direction or two.
pub(crate) fn segment(lanes: usize) -> Result<Arc<Segment>> {
    Ok(Arc::new(Segment::create_sparse("pipe", KIND, size(lanes), RINGS)?))
}

/// Maps the memory of a pipe that another process made.
fn open(fd: OwnedFd) -> Result<Arc<Segment>> {
    let segment = Segment::open(fd, KIND)?;
    if segment.size() != size(1) && segment.size() != size(2) {
        return Err(Error::Damaged(format!("no pipe has {} bytes", segment.size())));
    }
    Ok(Arc::new(segment))
}

/// How many directions a pipe has.
fn lanes(segment: &Segment) -> usize {
    if segment.size() == size(1) { 1 } else { 2 }
}

/// Where the lane's ring and area begin, of one that there is.
fn places(segment: &Segment, lane: usize) -> (usize, usize) {
    let lanes = lanes(segment);
    (RINGS + lane * RING, RINGS + lanes * RING + lane * AREA)
}

use mapped::ControlRef;

mod mapped {
    #![expect(unsafe_code, reason = "pointers into a mapping that is kept")]

    use super::{
        AREA, Arc, CONTROLS, Control, Deref, Error, Lane, Memory, RING, Result, Segment, lanes,
        places,
    };
    use std::ptr::NonNull;

    /// The words of a lane, and what keeps them mapped.
    #[derive(Debug)]
    pub(crate) struct ControlRef {
        control: NonNull<Control>,
        _segment: Arc<Segment>,
    }

    // SAFETY: atomics in a mapping that lives as long as this.
    unsafe impl Send for ControlRef {}

    impl Deref for ControlRef {
        type Target = Control;

        #[inline]
        fn deref(&self) -> &Control {
            // SAFETY: from Segment::at, and the segment is kept mapped.
            unsafe { self.control.as_ref() }
        }
    }

    /// The lane number `lane` of a pipe.
    pub(crate) fn lane(segment: &Arc<Segment>, lane: usize) -> Result<Lane<ControlRef>> {
        if lane >= lanes(segment) {
            return Err(Error::Damaged(format!("a pipe has no direction {lane}")));
        }
        let (ring, area) = places(segment, lane);
        let control = NonNull::from(segment.at::<Control>(CONTROLS + lane * size_of::<Control>())?);
        let (ring, area) = (segment.address(ring, RING)?, segment.address(area, AREA)?);
        Ok(Lane {
            control: ControlRef { control, _segment: Arc::clone(segment) },
            // SAFETY: address() checked the range, which is page-aligned; control, which is used and dropped
            // together with it, keeps it mapped.
            ring: unsafe { Memory::new(ring, RING) },
            // SAFETY: as above.
            area: unsafe { Memory::new(area, AREA) },
        })
    }
}

/// Takes the pages of ring and area when they are first written to.
#[derive(Debug)]
struct Pages {
    segment: Arc<Segment>,
    lane: usize,
    ring: Cell<usize>,
    area: Cell<usize>,
}

impl Pages {
    fn new(segment: &Arc<Segment>, lane: usize) -> Self {
        Self { segment: Arc::clone(segment), lane, ring: Cell::new(0), area: Cell::new(0) }
    }

    #[cold]
    fn take(&self, start: usize, taken: &Cell<usize>, end: usize) -> mp_core::Result<()> {
        self.segment.reserve(start + taken.get(), end - taken.get())?;
        taken.set(end);
        Ok(())
    }
}

impl Backing for Pages {
    #[inline]
    fn has_ring(&self, end: usize) -> bool {
        end <= self.ring.get()
    }

    #[inline]
    fn ring(&self, end: usize) -> mp_core::Result<()> {
        if end <= self.ring.get() {
            return Ok(());
        }
        let end = end.next_multiple_of(RING_STEP).min(RING);
        self.take(places(&self.segment, self.lane).0, &self.ring, end)
    }

    #[inline]
    fn area(&self, end: usize) -> mp_core::Result<()> {
        if end <= self.area.get() {
            return Ok(());
        }
        let end = end.next_multiple_of(AREA_STEP).min(AREA);
        self.take(places(&self.segment, self.lane).1, &self.area, end)
    }
}

/// A segment or socket, to be sent along.
pub(crate) struct Passed<'a>(pub(crate) BorrowedFd<'a>);

impl Serialize for Passed<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        fd::serialize(self.0, serializer)
    }
}

/// One that was sent along.
pub(crate) struct Received(pub(crate) OwnedFd);

impl<'de> Deserialize<'de> for Received {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        fd::deserialize(deserializer).map(Self)
    }
}

fn received_socket(fd: Received) -> Result<OwnedFd> {
    if socket::is_packet_socket(fd.0.as_fd()) {
        Ok(fd.0)
    } else {
        Err(Error::Damaged("the doorbell is no socket pair".to_string()))
    }
}

/// Says when it is time to look whether the other end still lives, which takes a system call.
///
/// The first few times in each tick of the clock, 1 to 10 ms, and not at all in the rush behind them: so who sends
/// now and then hears of it at once, and who sends millions a second hears within a tick.
#[derive(Debug, Default)]
struct Checks {
    tick: Cell<u64>,
    /// How many there may be yet in this tick.
    left: Cell<u32>,
    /// How often it need not be asked.
    skip: Cell<u32>,
}

impl Checks {
    const EACH_TICK: u32 = 8;
    /// So many in the rush share one look at the clock.
    const RUSH: u32 = 16;

    #[inline]
    fn is_skipped(&self) -> bool {
        let skip = self.skip.get();
        self.skip.set(skip.saturating_sub(1));
        skip > 0
    }

    fn is_due(&self) -> bool {
        let now = coarse_nanos();
        let left = if now == self.tick.get() { self.left.get() } else { Self::EACH_TICK };
        self.tick.set(now);
        self.left.set(left.saturating_sub(1));
        if left == 0 {
            self.skip.set(Self::RUSH);
        }
        left > 0
    }
}

/// How long a receiver leaves the ring alone once it is empty.
///
/// A receiver as fast as its sender takes each message as it comes, and with each the two fetch the same words from
/// each other's cache: that takes several times as long as all the rest. If it pauses for a moment, several
/// messages are there together. Whether that is so is found out by trying, now and then; where each message comes
/// alone, as an answer does, there is no pause.
#[derive(Debug)]
struct Pace {
    /// How many messages were received since the ring was empty last.
    received: Cell<u32>,
    /// How long to pause, in spins.
    pause: Cell<u32>,
    /// After how many times without a pause one is tried, and how many are left.
    interval: Cell<u32>,
    left: Cell<u32>,
}

impl Pace {
    const SHORTEST: u32 = 4;
    const LONGEST: u32 = 32;
    /// So many at a time are enough.
    const ENOUGH: u32 = 16;
    const RARELY: u32 = 4096;

    fn new() -> Self {
        let (interval, left) = (Cell::new(16), Cell::new(16));
        Self { received: Cell::new(0), pause: Cell::new(0), interval, left }
    }

    #[inline]
    fn count(&self) {
        self.received.set(self.received.get().wrapping_add(1));
    }

    /// The ring is empty.
    fn pause(&self) {
        let received = self.received.replace(0);
        let pause = match self.pause.get() {
            0 => {
                let left = self.left.get().saturating_sub(1);
                self.left.set(left);
                if left > 0 { 0 } else { Self::SHORTEST }
            }
            pause if received > Self::ENOUGH => pause,
            pause if received > 1 => (2 * pause).min(Self::LONGEST),
            _ => {
                self.interval.set((2 * self.interval.get()).min(Self::RARELY));
                self.left.set(self.interval.get());
                0
            }
        };
        if received > Self::ENOUGH {
            self.interval.set(16);
        }
        self.pause.set(pause);
        for _ in 0..pause {
            std::hint::spin_loop();
        }
    }
}

/// What an end knows of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// The other end is closed; what it sent before may be there still.
    Ended,
    /// This end is.
    Closed,
}

/// What came through the socket.
enum Bell {
    Nothing,
    Rung,
    Ended,
    Descriptors(u64, Vec<OwnedFd>),
}

/// More packets are not taken in one go: who sends them faster than they are taken would keep this end for ever.
const MOST_BELLS: u32 = 10_000;

/// Takes one packet from the socket, if there is one.
///
/// Descriptors that this process had no numbers left for are none: they are lost.
fn answer(socket: BorrowedFd<'_>) -> Result<Bell> {
    let mut number = [0; 8];
    match socket::receive(socket, &mut number, true) {
        Ok(packet) if packet.len == 0 => Ok(Bell::Ended),
        Ok(packet) if packet.len == 1 && packet.fds.is_empty() => Ok(Bell::Rung),
        Ok(packet) if packet.len == 8 => {
            let fds = if packet.truncated { Vec::new() } else { packet.fds };
            Ok(Bell::Descriptors(u64::from_le_bytes(number), fds))
        }
        Ok(_) => Err(Error::Damaged("the doorbell got a packet of no known kind".to_string())),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Bell::Nothing),
        Err(error) => Err(error.into()),
    }
}

/// Rings for the other end. Gives whether that still lives.
fn ring(socket: BorrowedFd<'_>) -> bool {
    loop {
        match socket::send(socket, &[IoSlice::new(&[0])], &[], true) {
            Ok(()) => return true,
            // So much is there for it to read that it will wake up.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
            // The kernel has no memory for one byte at the moment; not to ring would be to lose a wake-up.
            Err(error) if matches!(error.raw_os_error(), Some(ENOMEM | ENOBUFS)) => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(_) => return false,
        }
    }
}

/// For how long an end sleeps that is not sure that the other knows of it.
const SLICE: Duration = Duration::from_millis(5);

/// Looks for a while whether `ready` gives something, if the other end can run meanwhile: where this thread has
/// one CPU only, the other must have run on another.
fn look<T>(
    exchange_cpus: impl FnOnce(Option<usize>) -> Option<usize>,
    ready: impl FnMut() -> Option<T>,
) -> Option<T> {
    let mine = current_cpu();
    let theirs = exchange_cpus(mine);
    spin::look_beside(mine.is_some() && theirs.is_some() && mine != theirs, ready)
}

/// Marks an end as in use, for as long as bytes of its memory may be borrowed.
struct InUse<'a>(&'a Cell<bool>);

impl<'a> InUse<'a> {
    #[inline]
    fn mark(flag: &'a Cell<bool>, what: &str) -> Self {
        assert!(!flag.replace(true), "{what} is used within its own {what}_with");
        Self(flag)
    }
}

impl Drop for InUse<'_> {
    #[inline]
    fn drop(&mut self) {
        self.0.set(false);
    }
}

/// The end that sends.
#[derive(Debug)]
pub(crate) struct RingSender {
    producer: Producer<ControlRef, Pages>,
    segment: Arc<Segment>,
    lane: usize,
    socket: OwnedFd,
    in_use: Cell<bool>,
    state: Cell<State>,
    /// How many messages with descriptors there were, those that failed too.
    number: Cell<u64>,
    checks: Checks,
}

impl RingSender {
    /// `bodies` is up to where an earlier sender's bodies lie in the area.
    pub(crate) fn new(
        segment: &Arc<Segment>,
        lane: usize,
        socket: OwnedFd,
        bodies: u64,
    ) -> Result<Self> {
        let pages = Pages::new(segment, lane);
        let producer = Producer::new(mapped::lane(segment, lane)?, pages, bodies);
        Ok(Self {
            producer: producer.map_err(Error::from)?,
            segment: Arc::clone(segment),
            lane,
            socket,
            in_use: Cell::new(false),
            state: Cell::new(State::Open),
            number: Cell::new(0),
            checks: Checks::default(),
        })
    }

    /// What a step gave; a faulty peer costs the link.
    #[inline]
    fn step<T>(&self, result: std::result::Result<T, Broken>) -> Result<T> {
        result.map_err(|broken| {
            if matches!(broken, Broken::Damaged(_)) {
                self.close();
            }
            broken.into()
        })
    }

    #[inline]
    fn check(&self) -> Result<()> {
        if self.state.get() != State::Open {
            return Err(Error::Disconnected);
        }
        if self.checks.is_skipped() { Ok(()) } else { self.check_clock() }
    }

    #[cold]
    fn check_clock(&self) -> Result<()> {
        let due = self.checks.is_due();
        self.producer.rush(!due);
        self.producer.exchange_cpus(current_cpu());
        if due { self.check_peer() } else { Ok(()) }
    }

    /// Looks whether the other end still lives, without waiting.
    fn check_peer(&self) -> Result<()> {
        for _ in 0..MOST_BELLS {
            match self.answer()? {
                Bell::Nothing => break,
                Bell::Rung | Bell::Descriptors(..) => {}
                Bell::Ended => return Err(self.ended()),
            }
        }
        Ok(())
    }

    fn answer(&self) -> Result<Bell> {
        answer(self.socket.as_fd()).inspect_err(|error| {
            if matches!(error, Error::Damaged(_)) {
                self.close();
            }
        })
    }

    fn ended(&self) -> Error {
        self.state.set(State::Ended);
        Error::Disconnected
    }

    #[inline]
    fn rung(&self, wanted: bool) -> Result<()> {
        if wanted && !ring(self.socket.as_fd()) { Err(self.ended()) } else { Ok(()) }
    }

    /// Sends one message: it is there whole for the receiver, or not at all.
    #[inline]
    pub(crate) fn send(&self, bytes: &[u8], fds: &[OwnedFd], deadline: Deadline) -> Result<()> {
        let _in_use = InUse::mark(&self.in_use, "send");
        self.check()?;
        if fds.is_empty()
            && let Some(wanted) = self.producer.push(bytes)
        {
            return self.rung(wanted);
        }
        self.send_long(bytes, fds, deadline)
    }

    #[cold]
    fn send_long(&self, bytes: &[u8], fds: &[OwnedFd], deadline: Deadline) -> Result<()> {
        if fds.len() >= MAX_FDS {
            let (count, max) = (fds.len(), MAX_FDS - 1);
            return Err(mp_core::Error::TooManyDescriptors { count, max }.into());
        }
        let mut numbers: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        if deadline == Deadline::PASSED && bytes.len() > FRAGMENT {
            // It may not wait for the reader to make room for all its fragments, one after the other.
            let aside = aside(bytes)?;
            crash_point!("send: a body is put aside");
            numbers.push(aside.as_raw_fd());
            return self
                .send_last(deadline, &numbers, &[], || self.producer.slot_aside(bytes.len()));
        }
        let mut fragments = bytes.chunks(FRAGMENT).peekable();
        let mut begun = false;
        let result = loop {
            let fragment = fragments.next().unwrap_or_default();
            if fragments.peek().is_none() {
                let tagged = !numbers.is_empty();
                let slot = || self.producer.slot(fragment.len(), tagged);
                break self.send_last(deadline, &numbers, fragment, slot);
            }
            let sent = self.room(deadline, || self.producer.slot(fragment.len(), false)).and_then(
                |slot| {
                    self.producer.write(&slot, fragment);
                    self.rung(self.producer.commit(&slot, true, Tag::default()))
                },
            );
            if let Err(error) = sent {
                break Err(error);
            }
            begun = true;
            crash_point!("send: a fragment is sent");
        };
        if result.is_err() && begun && self.state.get() == State::Open {
            // Without it the next message would be taken for the rest of this one.
            let wanted = self.step(self.producer.abort()).inspect_err(|_| self.close())?;
            self.rung(wanted)?;
        }
        result
    }

    /// Sends the descriptors and then the record that makes them a message.
    fn send_last(
        &self,
        deadline: Deadline,
        fds: &[RawFd],
        bytes: &[u8],
        slot: impl Fn() -> std::result::Result<Option<Slot>, Broken>,
    ) -> Result<()> {
        // Room first: what is free stays free until this end takes it.
        let slot = self.room(deadline, slot)?;
        let mut tag = Tag::default();
        if !fds.is_empty() {
            self.number.set(self.number.get() + 1);
            // No more than MAX_FDS.
            tag = Tag { fds: fds.len() as u16, number: self.number.get() };
            for fds in fds.chunks(socket::MAX_FDS) {
                self.send_descriptors(tag.number, fds, deadline)?;
                crash_point!("send: some descriptors are sent");
            }
        }
        if !bytes.is_empty() {
            self.producer.write(&slot, bytes);
        }
        self.rung(self.producer.commit(&slot, false, tag))
    }

    fn send_descriptors(&self, number: u64, fds: &[RawFd], deadline: Deadline) -> Result<()> {
        let socket = self.socket.as_fd();
        loop {
            let Err(error) =
                socket::send(socket, &[IoSlice::new(&number.to_le_bytes())], fds, true)
            else {
                return Ok(());
            };
            match error.kind() {
                io::ErrorKind::WouldBlock => {
                    if poll(&mut [PollFd::writable(socket)], deadline)? == 0 {
                        return Err(Error::TimedOut);
                    }
                }
                io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => {
                    return Err(self.ended());
                }
                _ => return Err(error.into()),
            }
        }
    }

    /// Waits until `attempt` finds room.
    fn room<T>(
        &self,
        deadline: Deadline,
        attempt: impl Fn() -> std::result::Result<Option<T>, Broken>,
    ) -> Result<T> {
        loop {
            if let Some(found) = self.step(attempt())? {
                return Ok(found);
            }
            if deadline != Deadline::PASSED
                && let Some(found) =
                    look(|mine| self.producer.exchange_cpus(mine), || attempt().transpose())
            {
                return self.step(found);
            }
            // Who only tries says so too: from now on each message that is received makes room at once.
            self.producer.announce();
            if let Some(found) = self.step(attempt())? {
                return Ok(found);
            }
            if deadline == Deadline::PASSED {
                return self.check_peer().and(Err(Error::TimedOut));
            }
            crash_point!("send: about to sleep");
            let woken = wait_readable(self.socket.as_fd(), deadline)?;
            self.producer.retract();
            crash_point!("send: woken");
            if !woken {
                return self.step(attempt())?.ok_or(Error::TimedOut);
            }
            if let Bell::Ended = self.answer()? {
                return Err(self.ended());
            }
            if deadline.has_passed() {
                return self.step(attempt())?.ok_or(Error::TimedOut);
            }
        }
    }

    /// Sends a message of `len` bytes that `write` writes in place.
    pub(crate) fn send_with<Out>(
        &self,
        len: usize,
        deadline: Deadline,
        write: impl FnOnce(&mut [u8]) -> Out,
    ) -> Result<Out> {
        if len > self.producer.longest() {
            let mut bytes = vec![0; len];
            let out = write(&mut bytes);
            return self.send(&bytes, &[], deadline).map(|()| out);
        }
        let _in_use = InUse::mark(&self.in_use, "send");
        self.check()?;
        let slot = self.room(deadline, || self.producer.slot(len, false))?;
        let out = write(place::bytes(&self.producer, &slot));
        crash_point!("send: a body is written in place");
        self.rung(self.producer.commit(&slot, false, Tag::default()))?;
        Ok(out)
    }

    /// Ends the connection.
    pub(crate) fn close(&self) {
        self.state.set(State::Closed);
        socket::shut_down(self.socket.as_fd());
    }

    pub(crate) fn is_open(&self) -> bool {
        self.state.get() == State::Open
    }

    /// Gives the other end a moment to be closed, as its process ends.
    #[cold]
    pub(crate) fn settle(&self) {
        let mut fds = [PollFd::hung_up(self.socket.as_fd())];
        let moment = Deadline::after(Duration::from_millis(10));
        if self.is_open() && poll(&mut fds, moment).is_ok_and(|ready| ready > 0) {
            self.state.set(State::Ended);
        }
    }
}

mod place {
    #![expect(unsafe_code, reason = "bytes in place")]
    #![expect(
        clippy::mut_from_ref,
        reason = "as with a cell; exclusiveness is the caller's promise"
    )]

    use super::{Backing, Consumer, ControlRef, Producer, Record, Slot};

    /// The bytes of a slot. The caller has marked the end as in use, and asks for no other.
    pub(super) fn bytes<'a, B: Backing>(
        producer: &'a Producer<ControlRef, B>,
        slot: &Slot,
    ) -> &'a mut [u8] {
        // SAFETY: while the end is marked as in use nobody gets at its producer; send_with, the only caller,
        // commits after the bytes were last used.
        unsafe { producer.bytes(slot) }
    }

    /// The bytes of a record. The caller has marked the end as in use, and consumes it afterwards.
    pub(super) fn body<'a>(consumer: &'a Consumer<ControlRef>, record: &Record) -> &'a [u8] {
        // SAFETY: while the end is marked as in use nobody gets at its consumer; recv_with, the only caller,
        // consumes after the bytes were last used. That the peer is trusted not to write to what it has
        // committed is in that function's documentation.
        unsafe { consumer.bytes(record) }
    }
}

/// Puts a body where the receiver can read it from.
fn aside(bytes: &[u8]) -> Result<OwnedFd> {
    let fd = mem::memfd(c"mp-message")?;
    let mut file = File::from(fd);
    file.write_all(bytes)?;
    Ok(file.into())
}

/// Reads such a body.
fn read_aside(fd: OwnedFd, len: usize) -> Result<Vec<u8>> {
    let mut file = File::from(fd);
    let wrong = || Error::Damaged("a body that was sent aside has another length".to_string());
    // Of anything else than memory (a pipe, a terminal, a network file) a read could wait for ever.
    mem::seals(file.as_fd()).map_err(|_| wrong())?;
    if file.metadata()?.len() != len as u64 {
        return Err(wrong());
    }
    let mut bytes = Vec::new();
    // A file that was never written can be any size.
    bytes.try_reserve_exact(len).map_err(|_| io::Error::from_raw_os_error(ENOMEM))?;
    file.rewind()?;
    Read::take(&mut file, len as u64).read_to_end(&mut bytes)?;
    if bytes.len() == len { Ok(bytes) } else { Err(wrong()) }
}

impl From<Broken> for Error {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Damaged(why) => Self::Damaged(why.to_string()),
            Broken::Memory(error) => error.into(),
        }
    }
}

/// A whole message, where it lies.
#[derive(Clone, Copy, Debug)]
enum Ready {
    /// In the ring or area.
    Record(Record),
    /// Put together from fragments, in `assembled`.
    Assembled(Tag),
}

/// The end that receives.
#[derive(Debug)]
pub(crate) struct RingReceiver {
    consumer: Consumer<ControlRef>,
    segment: Arc<Segment>,
    lane: usize,
    socket: OwnedFd,
    in_use: Cell<bool>,
    state: Cell<State>,
    /// The fragments of a message so far, or all of them.
    fragments: RefCell<Vec<u8>>,
    /// Whether there are any, even if they are empty.
    begun: Cell<bool>,
    /// Set once they are whole.
    assembled: Cell<Option<Tag>>,
    /// Descriptors that came before their message was looked at.
    early: RefCell<VecDeque<(u64, Vec<OwnedFd>)>>,
    /// Kept for the next message.
    buffer: RefCell<Vec<u8>>,
    checks: Checks,
    pace: Pace,
    watch: OnceCell<Watch>,
}

impl RingReceiver {
    pub(crate) fn new(segment: &Arc<Segment>, lane: usize, socket: OwnedFd) -> Result<Self> {
        Ok(Self {
            consumer: Consumer::new(mapped::lane(segment, lane)?).map_err(Error::from)?,
            segment: Arc::clone(segment),
            lane,
            socket,
            in_use: Cell::new(false),
            state: Cell::new(State::Open),
            fragments: RefCell::default(),
            begun: Cell::new(false),
            assembled: Cell::new(None),
            early: RefCell::default(),
            buffer: RefCell::default(),
            checks: Checks::default(),
            pace: Pace::new(),
            watch: OnceCell::new(),
        })
    }

    #[inline]
    fn step<T>(&self, result: std::result::Result<T, Broken>) -> Result<T> {
        result.map_err(|broken| {
            if matches!(broken, Broken::Damaged(_)) {
                self.close();
            }
            broken.into()
        })
    }

    /// Gives a record's place back.
    #[inline]
    fn consume(&self, record: &Record) {
        self.pace.count();
        if self.consumer.consume(record) {
            // A writer that died meanwhile is found out when there is nothing more to receive.
            ring(self.socket.as_fd());
        }
    }

    /// The next message, if a whole one is there. It stays.
    #[inline]
    fn ready(&self) -> std::result::Result<Option<Ready>, Broken> {
        if let Some(tag) = self.assembled.get() {
            return Ok(Some(Ready::Assembled(tag)));
        }
        while let Some(record) = self.consumer.next()? {
            if record.more || self.begun.get() || record.kind == Kind::Abort {
                if let Some(tag) = self.fragment(&record)? {
                    return Ok(Some(Ready::Assembled(tag)));
                }
            } else {
                return Ok(Some(Ready::Record(record)));
            }
        }
        Ok(None)
    }

    /// Takes a fragment; gives a tag with the last one.
    #[cold]
    fn fragment(&self, record: &Record) -> std::result::Result<Option<Tag>, Broken> {
        let mut fragments = self.fragments.borrow_mut();
        match record.kind {
            Kind::Abort => {
                fragments.clear();
                self.begun.set(false);
                self.consume(record);
                return Ok(None);
            }
            Kind::Aside => return Err(Broken::Damaged("a fragment was sent aside")),
            _ => {}
        }
        self.consumer.append(record, &mut fragments);
        crash_point!("receive: a fragment is read");
        self.begun.set(record.more);
        self.consume(record);
        if !record.more {
            self.assembled.set(Some(record.tag));
        }
        Ok(self.assembled.get())
    }

    /// Takes what came through the socket, without waiting.
    fn answer(&self) -> Result<Bell> {
        let bell = answer(self.socket.as_fd()).inspect_err(|error| {
            if matches!(error, Error::Damaged(_)) {
                self.close();
            }
        })?;
        match bell {
            Bell::Ended if self.state.get() == State::Open => self.state.set(State::Ended),
            _ => {}
        }
        Ok(bell)
    }

    /// Takes a packet, and keeps what is not needed yet.
    fn listen(&self) -> Result<bool> {
        match self.answer()? {
            Bell::Nothing | Bell::Ended => Ok(false),
            Bell::Rung => Ok(true),
            Bell::Descriptors(number, fds) => {
                let mut early = self.early.borrow_mut();
                if early.len() >= 4096 {
                    self.close();
                    return Err(Error::Damaged("descriptors without messages".to_string()));
                }
                early.push_back((number, fds));
                Ok(true)
            }
        }
    }

    /// Takes all packets that are there.
    fn listen_to_all(&self) -> Result<()> {
        for _ in 0..MOST_BELLS {
            if !self.listen()? {
                break;
            }
        }
        Ok(())
    }

    /// Waits for a whole message, which stays where it is.
    #[inline]
    fn wait(&self, deadline: Deadline) -> Result<Ready> {
        self.wait_for(deadline, Self::ready)
    }

    /// Waits until `ready` finds something.
    #[inline]
    fn wait_for<T>(
        &self,
        deadline: Deadline,
        ready: impl Fn(&Self) -> std::result::Result<Option<T>, Broken>,
    ) -> Result<T> {
        if self.state.get() == State::Closed {
            return Err(Error::Disconnected);
        }
        if let Some(ready) = self.step(ready(self))? {
            return Ok(ready);
        }
        self.wait_long(deadline, || ready(self))
    }

    #[cold]
    fn wait_long<T>(
        &self,
        deadline: Deadline,
        ready: impl Fn() -> std::result::Result<Option<T>, Broken>,
    ) -> Result<T> {
        if deadline == Deadline::PASSED {
            if self.state.get() == State::Open && !self.checks.is_skipped() && self.checks.is_due()
            {
                self.listen_to_all()?;
            }
            // If it has ended, what it sent before that is there now.
            return match self.step(ready())? {
                Some(ready) => Ok(ready),
                None if self.state.get() == State::Open => Err(Error::TimedOut),
                None => Err(Error::Disconnected),
            };
        }
        self.pace.pause();
        if self.state.get() == State::Open
            && let Some(found) =
                look(|mine| self.consumer.exchange_cpus(mine), || ready().transpose())
        {
            return self.step(found);
        }
        loop {
            let is_sure = self.state.get() != State::Open || self.consumer.announce();
            if let Some(ready) = self.step(ready())? {
                self.consumer.retract();
                return Ok(ready);
            }
            if self.state.get() != State::Open {
                return Err(Error::Disconnected);
            }
            let slice = if is_sure { Deadline::NEVER } else { Deadline::after(SLICE) };
            crash_point!("receive: about to sleep");
            if wait_readable(self.socket.as_fd(), deadline.min(slice))? {
                self.listen()?;
                crash_point!("receive: a bell is taken");
            }
            // Also after a bell: there may be no end of them.
            if deadline.has_passed() {
                self.consumer.retract();
                return match self.step(ready())? {
                    Some(ready) => Ok(ready),
                    None if self.state.get() == State::Open => Err(Error::TimedOut),
                    None => Err(Error::Disconnected),
                };
            }
        }
    }

    /// The descriptors of a message.
    #[inline]
    fn descriptors(&self, tag: Tag) -> Result<Vec<OwnedFd>> {
        if tag.fds == 0 { Ok(Vec::new()) } else { self.descriptors_of(tag) }
    }

    #[cold]
    fn descriptors_of(&self, tag: Tag) -> Result<Vec<OwnedFd>> {
        let mut fds = Vec::new();
        // They were sent before the record was there.
        while fds.len() < usize::from(tag.fds) {
            let first = self.early.borrow_mut().pop_front();
            let (number, more) = match first {
                Some(first) => first,
                None => match self.answer()? {
                    Bell::Descriptors(number, fds) => (number, fds),
                    Bell::Rung => continue,
                    Bell::Nothing | Bell::Ended => {
                        return Err(self.damaged("descriptors are missing"));
                    }
                },
            };
            match number.cmp(&tag.number) {
                // Of a message whose sender gave up.
                std::cmp::Ordering::Less => {}
                std::cmp::Ordering::Equal if more.is_empty() => {
                    return Err(io::Error::from_raw_os_error(EMFILE).into());
                }
                std::cmp::Ordering::Equal => {
                    fds.extend(more);
                    crash_point!("receive: some descriptors are taken");
                }
                std::cmp::Ordering::Greater => {
                    return Err(self.damaged("descriptors are of another message"));
                }
            }
        }
        if fds.len() == usize::from(tag.fds) {
            Ok(fds)
        } else {
            Err(self.damaged("there are more descriptors than were announced"))
        }
    }

    fn damaged(&self, why: &str) -> Error {
        self.close();
        Error::Damaged(why.to_string())
    }

    #[inline]
    fn enter(&self) -> Entered<'_> {
        Entered { receiver: self, _in_use: InUse::mark(&self.in_use, "recv") }
    }

    /// Receives one message as a copy that nobody else can write to.
    #[inline]
    pub(crate) fn recv<Out>(
        &self,
        deadline: Deadline,
        with: impl FnOnce(&[u8], Vec<OwnedFd>) -> Out,
    ) -> Result<Out> {
        let entered = self.enter();
        let mut short = self.short();
        let mut ready = None;
        if short.is_none() {
            ready = Some(self.wait(deadline)?);
            short = self.short();
        }
        let Some(ready) = ready.filter(|_| short.is_none()) else {
            let (at, len) = short.unwrap_or_default();
            self.pace.count();
            if len == 8 {
                let (word, wanted) = self.consumer.take_word(at);
                if wanted {
                    ring(self.socket.as_fd());
                }
                drop(entered);
                return Ok(with(&word, Vec::new()));
            }
            let mut bytes = [0; SHORT];
            if self.consumer.take_short(at, len, &mut bytes) {
                ring(self.socket.as_fd());
            }
            drop(entered);
            return Ok(with(&bytes[..len], Vec::new()));
        };
        let (bytes, fds) = self.take(ready, self.buffer.take())?;
        drop(entered);
        let out = with(&bytes, fds);
        if bytes.capacity() <= KEPT {
            self.buffer.replace(bytes);
        }
        Ok(out)
    }

    /// Where a short message is that can be taken at once.
    #[inline]
    fn short(&self) -> Option<(usize, usize)> {
        let is_next = !self.begun.get() && self.assembled.get().is_none();
        if is_next && self.state.get() != State::Closed { self.consumer.short() } else { None }
    }

    /// Takes a message out, into `bytes` where it is not in memory of its own already.
    fn take(&self, ready: Ready, mut bytes: Vec<u8>) -> Result<(Vec<u8>, Vec<OwnedFd>)> {
        match ready {
            Ready::Assembled(tag) => {
                self.assembled.set(None);
                let whole = self.fragments.take();
                if bytes.capacity() <= KEPT {
                    bytes.clear();
                    self.fragments.replace(bytes);
                }
                Ok((whole, self.descriptors(tag)?))
            }
            Ready::Record(record) if record.kind == Kind::Aside => {
                let fds = self.descriptors(record.tag);
                self.consume(&record);
                let mut fds = fds?;
                let Some(body) = fds.pop() else {
                    return Err(self.damaged("a body that was sent aside is missing"));
                };
                Ok((read_aside(body, record.len)?, fds))
            }
            Ready::Record(record) => {
                bytes.clear();
                self.consumer.append(&record, &mut bytes);
                let fds = self.descriptors(record.tag);
                self.consume(&record);
                Ok((bytes, fds?))
            }
        }
    }

    /// Receives one message as bytes.
    pub(crate) fn recv_bytes(&self, deadline: Deadline) -> Result<Vec<u8>> {
        let _entered = self.enter();
        let ready = self.wait(deadline)?;
        Ok(self.take(ready, Vec::new())?.0)
    }

    /// Receives one message into `buffer`.
    pub(crate) fn recv_into(&self, buffer: &mut [u8], deadline: Deadline) -> Result<usize> {
        let _entered = self.enter();
        if !self.begun.get() && self.assembled.get().is_none() {
            // The fragments of a long one go there at once.
            let (mut have, mut begun) = (0, false);
            let result = self.recv_fragments(buffer, &mut have, &mut begun, deadline);
            if begun {
                // The time is over, or the buffer too short: what was taken is kept, and the rest goes behind it.
                self.fragments.borrow_mut().extend_from_slice(&buffer[..have]);
                self.begun.set(true);
            }
            if let Some(len) = result? {
                return Ok(len);
            }
        }
        let ready = self.wait(deadline)?;
        let len = match ready {
            Ready::Record(record) => record.len,
            Ready::Assembled(_) => self.fragments.borrow().len(),
        };
        let Some(start) = buffer.get_mut(..len) else {
            return Err(Error::TooShort { needed: len });
        };
        let (bytes, _) = self.take(ready, Vec::new())?;
        start.copy_from_slice(&bytes);
        Ok(len)
    }

    /// Takes one message into `buffer`, piece by piece; `None` where that is not the way.
    ///
    /// If it stops in the middle, `begun` says so and `have` where.
    fn recv_fragments(
        &self,
        buffer: &mut [u8],
        have: &mut usize,
        begun: &mut bool,
        deadline: Deadline,
    ) -> Result<Option<usize>> {
        loop {
            let record = self.wait_for(deadline, |this| this.consumer.next())?;
            match record.kind {
                Kind::Abort => {
                    (*have, *begun) = (0, false);
                    self.consume(&record);
                    continue;
                }
                Kind::Aside => return Ok(None),
                _ => {}
            }
            let Some(place) = buffer.get_mut(*have..).and_then(|rest| rest.get_mut(..record.len))
            else {
                return Ok(None);
            };
            self.consumer.read(&record, place);
            let fds = self.descriptors(record.tag);
            self.consume(&record);
            *have += record.len;
            *begun = record.more;
            fds?;
            if !record.more {
                return Ok(Some(*have));
            }
        }
    }

    /// Receives one message in place.
    pub(crate) fn recv_with<Out>(
        &self,
        deadline: Deadline,
        read: impl FnOnce(&[u8]) -> Out,
    ) -> Result<Out> {
        let _entered = self.enter();
        match self.wait(deadline)? {
            Ready::Record(record) if record.kind != Kind::Aside => {
                let fds = self.descriptors(record.tag);
                // Also if `read` panics: a message is received once.
                let _consumed = Consumed(self, record);
                fds?;
                Ok(read(place::body(&self.consumer, &record)))
            }
            ready => Ok(read(&self.take(ready, Vec::new())?.0)),
        }
    }

    /// Waits until there is a message, or none will come any more; whether that is so.
    pub(crate) fn poll(&self, deadline: Deadline) -> Result<bool> {
        let _entered = self.enter();
        match self.wait(deadline) {
            Ok(_) | Err(Error::Disconnected) => Ok(true),
            Err(Error::TimedOut) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether nothing more comes, but for what is there.
    #[inline]
    pub(crate) fn has_ended(&self) -> bool {
        self.state.get() == State::Ended
    }

    /// Ends the connection.
    pub(crate) fn close(&self) {
        self.state.set(State::Closed);
        socket::shut_down(self.socket.as_fd());
    }

    /// A descriptor that can be read while a message is there, or none will come any more.
    ///
    /// The socket alone is not that: nobody rings while this end is awake. So it gets company, a descriptor of
    /// this process that is set and cleared as messages are received.
    pub(crate) fn watched(&self) -> BorrowedFd<'_> {
        if self.watch.get().is_none() {
            match Watch::new(self.socket.as_fd()) {
                Ok(watch) => _ = self.watch.set(watch),
                // Without descriptors to spare: memory can always be read, for poll(2) at least; and if there is
                // nothing, the writer rings.
                Err(_) if self.is_ready() => return self.segment.as_fd(),
                Err(_) => return self.socket.as_fd(),
            }
        }
        self.refresh();
        self.watch.get().map_or(self.socket.as_fd(), Watch::as_fd)
    }

    /// Where to wait for a message or the end, if neither is there: the socket, for this once.
    pub(crate) fn bell(&self) -> Option<BorrowedFd<'_>> {
        (!self.is_ready()).then(|| self.socket.as_fd())
    }

    /// Sets or clears that descriptor.
    #[inline]
    fn refresh(&self) {
        if let Some(watch) = self.watch.get() {
            watch.set(self.is_ready());
        }
    }

    /// Whether receiving would not wait. If it would, the writer rings when that changes.
    #[cold]
    fn is_ready(&self) -> bool {
        if !matches!(self.ready(), Ok(None)) || self.state.get() != State::Open {
            return true;
        }
        // What lies in the socket is of messages long received; what rings from here on is not.
        let _ = self.listen_to_all();
        self.consumer.announce();
        !matches!(self.ready(), Ok(None)) || self.state.get() != State::Open
    }
}

/// Leaves a receiver: what can be watched of it is brought up to date.
struct Entered<'a> {
    receiver: &'a RingReceiver,
    _in_use: InUse<'a>,
}

impl Drop for Entered<'_> {
    #[inline]
    fn drop(&mut self) {
        self.receiver.refresh();
    }
}

/// Consumes a record when dropped.
struct Consumed<'a>(&'a RingReceiver, Record);

impl Drop for Consumed<'_> {
    fn drop(&mut self) {
        self.0.consume(&self.1);
    }
}

/// What of a sender travels, beside its segment and lane: the socket, the number of its last message with descriptors,
/// and up to where bodies lie in the area.
type SenderParts<F> = (F, u64, u64);

/// Descriptors that came before their messages, by the number of those.
type Early<F> = Vec<(u64, Vec<F>)>;

/// What of a receiver travels, beside its segment and lane: the socket, what it has received of a message so far,
/// whether that is begun, whether it is whole and its tag then, and the descriptors that came early.
type ReceiverParts<F, B> = (F, B, bool, Option<(u16, u64)>, Early<F>);

impl RingSender {
    fn parts(&self) -> SenderParts<Passed<'_>> {
        (Passed(self.socket.as_fd()), self.number.get(), self.producer.end_of_bodies())
    }

    fn from_parts(
        segment: &Arc<Segment>,
        lane: usize,
        parts: SenderParts<Received>,
    ) -> Result<Self> {
        let sender = Self::new(segment, lane, received_socket(parts.0)?, parts.2)?;
        sender.number.set(parts.1);
        Ok(sender)
    }
}

impl RingReceiver {
    fn with_parts<Out>(
        &self,
        with: impl FnOnce(ReceiverParts<Passed<'_>, &Vec<u8>>) -> Out,
    ) -> Out {
        // Whoever goes on with it begins at the head that the writer knows of.
        if self.consumer.publish() {
            ring(self.socket.as_fd());
        }
        let (fragments, early) = (self.fragments.borrow(), self.early.borrow());
        let early = early
            .iter()
            .map(|(number, fds)| (*number, fds.iter().map(|fd| Passed(fd.as_fd())).collect()))
            .collect();
        let assembled = self.assembled.get().map(|tag| (tag.fds, tag.number));
        with((Passed(self.socket.as_fd()), &*fragments, self.begun.get(), assembled, early))
    }

    fn from_parts(
        segment: &Arc<Segment>,
        lane: usize,
        parts: ReceiverParts<Received, Vec<u8>>,
    ) -> Result<Self> {
        let (socket, fragments, begun, assembled, early) = parts;
        let receiver = Self::new(segment, lane, received_socket(socket)?)?;
        receiver.fragments.replace(fragments);
        receiver.begun.set(begun);
        receiver.assembled.set(assembled.map(|(fds, number)| Tag { fds, number }));
        receiver.early.replace(
            early
                .into_iter()
                .map(|(number, fds)| (number, fds.into_iter().map(|fd| fd.0).collect()))
                .collect(),
        );
        Ok(receiver)
    }
}

impl Serialize for RingSender {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (Passed(self.segment.as_fd()), self.lane, self.parts()).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for RingSender {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (segment, lane, parts): (Received, usize, _) = Deserialize::deserialize(deserializer)?;
        let segment = open(segment.0).map_err(D::Error::custom)?;
        Self::from_parts(&segment, lane, parts).map_err(D::Error::custom)
    }
}

impl Serialize for RingReceiver {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.with_parts(|parts| {
            (Passed(self.segment.as_fd()), self.lane, parts).serialize(serializer)
        })
    }
}

impl<'de> Deserialize<'de> for RingReceiver {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (segment, lane, parts): (Received, usize, _) = Deserialize::deserialize(deserializer)?;
        let segment = open(segment.0).map_err(D::Error::custom)?;
        Self::from_parts(&segment, lane, parts).map_err(D::Error::custom)
    }
}

/// Both ends that one process has of a pipe with two directions: their memory travels once.
pub(crate) struct Both<'a>(pub(crate) &'a RingSender, pub(crate) &'a RingReceiver);

impl Serialize for Both<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(sender, receiver) = *self;
        receiver.with_parts(|parts| {
            (Passed(sender.segment.as_fd()), sender.lane, sender.parts(), receiver.lane, parts)
                .serialize(serializer)
        })
    }
}

/// What that becomes.
pub(crate) struct BothReceived(pub(crate) RingSender, pub(crate) RingReceiver);

impl<'de> Deserialize<'de> for BothReceived {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (segment, out, sender, back, receiver): (Received, usize, _, usize, _) =
            Deserialize::deserialize(deserializer)?;
        let segment = open(segment.0).map_err(D::Error::custom)?;
        let sender = RingSender::from_parts(&segment, out, sender).map_err(D::Error::custom)?;
        let receiver = RingReceiver::from_parts(&segment, back, receiver);
        Ok(Self(sender, receiver.map_err(D::Error::custom)?))
    }
}

//! A ring and its doorbell: the two ends as they block, wake each other and die.
//!
//! Beside the ring, each direction has a pair of packet sockets. A single byte through it wakes whoever said in the
//! ring that it sleeps there; descriptors travel through it; and its end is the other process's end, however that came.
//! As that is a byte to be sent and taken each time, an end that waits sleeps on a word of the ring for the first few
//! milliseconds.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use mp_core::sys::clock::coarse_nanos;
use mp_core::sys::process::current_cpu;
use mp_core::sys::socket;
use mp_core::{Segment, crash_point, fd, spin};
use serde::de::{Deserialize, Deserializer};
use serde::ser::{Serialize, Serializer};

use crate::memory::Memory;
use crate::ring::{Backing, Broken, Consumer, Control, FRAGMENT, Lane, Producer, Record, Slot};
use crate::{Error, Result};

mod receiver;
mod sender;

pub(crate) use receiver::RingReceiver;
pub(crate) use sender::{RingSender, zeros};

/// What the segments are of: part of the check when one is received.
const KIND: u64 = 0x4D50_5002;
/// How long a ring is. With 64 or 128 KiB, which are as quick for words, messages of 1 KiB took twice as long: reader and
/// writer kept fetching each other's lines.
const RING: usize = 256 << 10;
/// How long the area behind it is; its pages are taken as they are needed.
const AREA: usize = 4 << 20;
/// Where the words of the first lane are; those of the second follow.
const CONTROLS: usize = 128;
/// Where the words are that count how often an end was taken from a message: each lane's sender's, then its receiver's.
const MOVES: usize = 2048;
/// Where the first ring begins; behind the rings come the areas.
const RINGS: usize = 4096;
const _: () = assert!(CONTROLS + 2 * size_of::<Control>() <= MOVES);
const _: () = assert!(MOVES + 4 * size_of::<AtomicU64>() <= RINGS);
/// Pages are taken so many bytes at a time.
const RING_STEP: usize = 16 << 10;
const AREA_STEP: usize = 4 * FRAGMENT;
/// The most descriptors that one message can have, a long body's among them: their count is a word of 16 bits. They go
/// through the socket in packets, which the receiver takes as they come.
const MAX_FDS: usize = u16::MAX as usize;
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

fn no_direction(lane: usize) -> Error {
    Error::Damaged(format!("a pipe has no direction {lane}"))
}

/// Which end of a lane.
#[derive(Clone, Copy, Debug)]
enum End {
    Sender,
    Receiver,
}

/// Takes an end from a message, where it had made so many moves; gives how many it has made now.
///
/// There is one of each end, which knows what nobody else does: up to where it has sent, or received. What has copies of a
/// message (the result of a task, an object of a manager) would make as many ends of it, each of which undoes what
/// another does.
fn claim<E: serde::de::Error>(
    segment: &Segment,
    lane: usize,
    end: End,
    moves: u64,
) -> std::result::Result<u64, E> {
    if lane >= lanes(segment) {
        return Err(fd::failed(no_direction(lane)));
    }
    let place = MOVES + (2 * lane + end as usize) * size_of::<AtomicU64>();
    let counted = segment.at::<AtomicU64>(place).map_err(fd::failed)?;
    let next = moves.wrapping_add(1);
    // Relaxed: who takes what was sent to it has all that was done before.
    match counted.compare_exchange(moves, next, Relaxed, Relaxed) {
        Ok(_) => Ok(next),
        Err(_) => Err(E::custom(
            "an end of a pipe moves with its message, and this one was taken from it before: make a pipe for each \
             process, or send a Queue",
        )),
    }
}

use mapped::ControlRef;

mod mapped {
    #![expect(unsafe_code, reason = "pointers into a mapping that is kept")]

    use super::{
        AREA, Arc, CONTROLS, Control, Deref, Lane, Memory, RING, Result, Segment, lanes,
        no_direction, places,
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
            return Err(no_direction(lane));
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
    /// With the number of their message; none where this process had no numbers left for them.
    Descriptors(u64, Vec<OwnedFd>),
    /// The body of a [plain](PLAIN) message, for which it had none.
    NoRoom,
}

/// In the packet with the body of a message that has no other descriptors: whoever sent it knows of none, so it is not
/// lost where the receiver has no number left for it.
const PLAIN: u64 = 1 << 63;

/// More packets are not taken in one go: who sends them faster than they are taken would keep this end for ever.
const MOST_BELLS: u32 = 10_000;

/// Takes one packet from the socket, if there is one.
fn answer(socket: BorrowedFd<'_>) -> Result<Bell> {
    let mut bytes = [0; PACKET];
    bell(socket::receive(socket, &mut bytes, true), &bytes)
}

/// As [`answer`], for the end that descriptors are sent to.
///
/// Those that this process has no numbers left for are lost. Not so the body of a [plain](PLAIN) message: then it is an
/// error, `EMFILE`, and the packet is there still.
fn answer_whole(socket: BorrowedFd<'_>) -> Result<Bell> {
    let mut bytes = [0; PACKET];
    let bell = bell(socket::peek_whole(socket, &mut bytes), &bytes)?;
    match bell {
        Bell::NoRoom => return Err(io::Error::from_raw_os_error(EMFILE).into()),
        Bell::Nothing | Bell::Ended => {}
        Bell::Rung | Bell::Descriptors(..) => {
            crash_point!("receive: a packet is seen");
            socket::skip(socket);
        }
    }
    Ok(bell)
}

/// A byte more than the longest packet.
const PACKET: usize = 9;

/// What a packet is.
fn bell(packet: io::Result<socket::Received>, bytes: &[u8; PACKET]) -> Result<Bell> {
    match packet {
        Ok(packet) if packet.len == 0 => Ok(Bell::Ended),
        Ok(packet) if packet.len == 1 && packet.fds.is_empty() => Ok(Bell::Rung),
        Ok(packet) if packet.len == 8 => {
            let [number @ .., _] = *bytes;
            let number = u64::from_le_bytes(number);
            Ok(match (packet.truncated, number & PLAIN != 0) {
                (false, _) => Bell::Descriptors(number & !PLAIN, packet.fds),
                (true, false) => Bell::Descriptors(number, Vec::new()),
                (true, true) => Bell::NoRoom,
            })
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

/// For how long an end sleeps on its word before it does so at its bell. It hears of the other's death when that is over.
///
/// Longer than a tick of the kernel's clock, mostly: a timer that is due before the tick has to be set in hardware, for
/// which a virtual machine leaves its guest. (With a millisecond a round trip on one CPU took 16 us, with this 5.)
const NAP: Duration = Duration::from_millis(5);

/// Has an end that sleeps on its word look whether this one is gone, once what is declared before it is dropped.
struct Parting(ControlRef);

impl Drop for Parting {
    fn drop(&mut self) {
        self.0.part();
    }
}

impl std::fmt::Debug for Parting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Parting")
    }
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

impl From<Broken> for Error {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Damaged(why) => Self::Damaged(why.to_string()),
            Broken::Memory(error) => error.into(),
        }
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
        let segment = open(segment.0).map_err(fd::failed)?;
        let sender = RingSender::from_parts(&segment, out, sender)?;
        let receiver = RingReceiver::from_parts(&segment, back, receiver)?;
        Ok(Self(sender, receiver))
    }
}

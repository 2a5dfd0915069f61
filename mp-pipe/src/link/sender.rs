//! The end that sends: finds room, or sleeps until there is.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use mp_core::sys::fd::{PollFd, poll, wait_readable};
use mp_core::sys::process::current_cpu;
use mp_core::sys::{mem, socket};
use mp_core::word::Woken;
use mp_core::{Deadline, Segment, crash_point, fd};
use serde::de::{Deserialize, Deserializer};
use serde::ser::{Serialize, Serializer};

use super::{
    Bell, Checks, ControlRef, ENOMEM, End, InUse, MAX_FDS, MOST_BELLS, NAP, PLAIN, Pages, Parting,
    Passed, Received, State, answer, claim, look, mapped, open, place, received_socket, ring,
};
use crate::ring::{Broken, FRAGMENT, Producer, Sleep, Slot, Tag};
use crate::{Error, Result};

/// The end that sends.
#[derive(Debug)]
pub(crate) struct RingSender {
    socket: OwnedFd,
    /// Behind the socket, which is closed by then.
    parting: Parting,
    producer: Producer<ControlRef, Pages>,
    pub(super) segment: Arc<Segment>,
    pub(super) lane: usize,
    in_use: Cell<bool>,
    state: Cell<State>,
    /// How many messages with descriptors there were, those that failed too.
    number: Cell<u64>,
    /// Under which number descriptors were sent of a message that is not whole yet; 0: under none.
    unfinished: Cell<u64>,
    /// How often it was taken from a message.
    moves: u64,
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
            parting: Parting(mapped::lane(segment, lane)?.control),
            in_use: Cell::new(false),
            state: Cell::new(State::Open),
            number: Cell::new(0),
            unfinished: Cell::new(0),
            moves: 0,
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

    /// Notes the CPU this end runs on; gives the one the other end ran on last.
    pub(crate) fn exchange_cpus(&self, mine: Option<usize>) -> Option<usize> {
        self.producer.exchange_cpus(mine)
    }

    #[cold]
    fn check_clock(&self) -> Result<()> {
        let due = self.checks.is_due();
        self.producer.rush(!due);
        self.exchange_cpus(current_cpu());
        if due { self.check_peer() } else { Ok(()) }
    }

    /// Looks whether the other end still lives, without waiting.
    fn check_peer(&self) -> Result<()> {
        for _ in 0..MOST_BELLS {
            match self.answer()? {
                Bell::Nothing => break,
                Bell::Rung | Bell::Descriptors(..) | Bell::NoRoom => {}
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
        let mut begun = false;
        let result = if deadline == Deadline::PASSED && bytes.len() > FRAGMENT {
            // It may not wait for the reader to make room for all its fragments, one after the other.
            let aside = aside(bytes)?;
            crash_point!("send: a body is put aside");
            numbers.push(aside.as_raw_fd());
            self.send_last(deadline, &numbers, &[], || self.producer.slot_aside(bytes.len()))
        } else {
            self.send_fragments(bytes, &numbers, deadline, &mut begun)
        };
        let unfinished = self.unfinished.take();
        if result.is_err() && (begun || unfinished != 0) && self.state.get() == State::Open {
            // Without it the next message would be taken for the rest of this one, and the descriptors be kept.
            let aborted = self.step(self.producer.abort(unfinished));
            let wanted = aborted.inspect_err(|_| self.close())?;
            self.rung(wanted)?;
        }
        result
    }

    /// Sends a message piece by piece; `begun` says whether any but the last was.
    fn send_fragments(
        &self,
        bytes: &[u8],
        fds: &[RawFd],
        deadline: Deadline,
        begun: &mut bool,
    ) -> Result<()> {
        let mut fragments = bytes.chunks(FRAGMENT).peekable();
        loop {
            let fragment = fragments.next().unwrap_or_default();
            if fragments.peek().is_none() {
                let tagged = !fds.is_empty();
                let slot = || self.producer.slot(fragment.len(), tagged);
                return self.send_last(deadline, fds, fragment, slot);
            }
            let slot = self.room(deadline, || self.producer.slot(fragment.len(), false))?;
            self.producer.write(&slot, fragment);
            let wanted = self.producer.commit(&slot, true, Tag::default());
            *begun = true;
            self.rung(wanted)?;
            crash_point!("send: a fragment is sent");
        }
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
            // The body alone.
            let plain = if slot.is_aside() && fds.len() == 1 { PLAIN } else { 0 };
            for fds in fds.chunks(socket::MAX_FDS) {
                self.send_descriptors(tag.number | plain, fds, deadline)?;
                self.unfinished.set(tag.number);
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
        let mut sleep = if deadline == Deadline::PASSED { Sleep::AtBell } else { Sleep::OnWord };
        let mut nap = None;
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
            self.producer.announce(sleep);
            if let Some(found) = self.step(attempt())? {
                return Ok(found);
            }
            if deadline == Deadline::PASSED {
                return self.check_peer().and(Err(Error::TimedOut));
            }
            crash_point!("send: about to sleep");
            if sleep == Sleep::OnWord {
                let until = *nap.get_or_insert_with(|| deadline.min(Deadline::after(NAP)));
                let woken = self.producer.nap(until) != Woken::TimedOut;
                self.producer.retract();
                if let Some(found) = self.step(attempt())? {
                    return Ok(found);
                }
                if woken {
                    // By the other end, which may have gone.
                    self.check_peer()?;
                }
                if !woken || until.has_passed() {
                    sleep = Sleep::AtBell;
                }
            } else {
                let woken = wait_readable(self.socket.as_fd(), deadline)?;
                self.producer.retract();
                crash_point!("send: woken");
                if woken && let Bell::Ended = self.answer()? {
                    return Err(self.ended());
                }
            }
            if deadline.has_passed() {
                return match self.step(attempt())? {
                    Some(found) => Ok(found),
                    None => self.check_peer().and(Err(Error::TimedOut)),
                };
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
        let _in_use = InUse::mark(&self.in_use, "send");
        self.check()?;
        if len > self.producer.longest() {
            // Room for it, or for the first of its fragments; nobody takes that before it is sent.
            if deadline == Deadline::PASSED {
                self.room(deadline, || self.producer.slot_aside(len))?;
            } else {
                self.room(deadline, || self.producer.slot(FRAGMENT, false))?;
            }
            let mut bytes = zeros(len)?;
            let out = write(&mut bytes);
            self.send_long(&bytes, &[], deadline)?;
            return Ok(out);
        }
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
        self.parting.0.part();
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

/// So many bytes, where there is memory for them.
pub(crate) fn zeros(len: usize) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(len).map_err(|_| io::Error::from_raw_os_error(ENOMEM))?;
    bytes.resize(len, 0);
    Ok(bytes)
}

/// Puts a body where the receiver can read it from.
fn aside(bytes: &[u8]) -> Result<OwnedFd> {
    Ok(mem::memfd_of(c"mp-message", &[bytes])?)
}

/// What of a sender travels, beside its segment and lane: the socket, the number of its last message with descriptors,
/// up to where bodies lie in the area, and how often it has moved.
pub(super) type SenderParts<F> = (F, u64, u64, u64);

impl RingSender {
    pub(super) fn parts(&self) -> SenderParts<Passed<'_>> {
        let (number, bodies) = (self.number.get(), self.producer.end_of_bodies());
        (Passed(self.socket.as_fd()), number, bodies, self.moves)
    }

    /// The one sender that these are of, or an error: before it has touched a word of the ring.
    pub(super) fn from_parts<E: serde::de::Error>(
        segment: &Arc<Segment>,
        lane: usize,
        parts: SenderParts<Received>,
    ) -> std::result::Result<Self, E> {
        let (socket, number, bodies, moves) = parts;
        let socket = received_socket(socket).map_err(fd::failed)?;
        let moves = claim(segment, lane, End::Sender, moves)?;
        let mut sender = Self::new(segment, lane, socket, bodies).map_err(fd::failed)?;
        sender.number.set(number);
        sender.moves = moves;
        Ok(sender)
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
        let segment = open(segment.0).map_err(fd::failed)?;
        Self::from_parts(&segment, lane, parts)
    }
}

//! The end that receives: finds a message, or sleeps until there is one.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use mp_core::sys::fd::wait_readable;
use mp_core::sys::{mem, socket};
use mp_core::word::Woken;
use mp_core::{Deadline, Segment, crash_point, fd};
use serde::de::{Deserialize, Deserializer};
use serde::ser::{Serialize, Serializer};

use super::{
    Bell, Checks, ControlRef, EMFILE, ENOMEM, End, InUse, KEPT, MOST_BELLS, NAP, Parting, Passed,
    Received, State, answer_whole, claim, look, mapped, open, place, received_socket, ring,
};
use crate::ring::{Broken, Consumer, Kind, Record, SHORT, Sleep, Tag};
use crate::watch::Watch;
use crate::{Error, Result};

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
    /// How many messages in a row came alone.
    alone: Cell<u32>,
}

impl Pace {
    const SHORTEST: u32 = 4;
    const LONGEST: u32 = 64;
    /// So many at a time are enough.
    const ENOUGH: u32 = 32;
    const RARELY: u32 = 4096;
    /// So many that come alone are no accident.
    const OFTEN: u32 = 64;

    fn new() -> Self {
        let (interval, left) = (Cell::new(16), Cell::new(16));
        let (received, pause, alone) = (Cell::new(0), Cell::new(0), Cell::new(Self::OFTEN));
        Self { received, pause, interval, left, alone }
    }

    #[inline]
    fn count(&self) {
        self.received.set(self.received.get().wrapping_add(1));
    }

    /// The ring is empty. Gives whether messages come one at a time.
    fn pause(&self) -> bool {
        let received = self.received.replace(0);
        self.alone.set(if received > 1 { 0 } else { self.alone.get().saturating_add(1) });
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
        self.alone.get() >= Self::OFTEN
    }
}

/// For how long an end sleeps that is not sure that the other knows of it.
const SLICE: Duration = Duration::from_millis(5);

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
    socket: OwnedFd,
    /// Behind the socket, which is closed by then.
    parting: Parting,
    consumer: Consumer<ControlRef>,
    pub(super) segment: Arc<Segment>,
    pub(super) lane: usize,
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
    /// How often it was taken from a message.
    moves: u64,
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
            parting: Parting(mapped::lane(segment, lane)?.control),
            in_use: Cell::new(false),
            state: Cell::new(State::Open),
            fragments: RefCell::default(),
            begun: Cell::new(false),
            assembled: Cell::new(None),
            early: RefCell::default(),
            moves: 0,
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
                self.forget(record.tag.number);
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

    /// Closes the descriptors that were to be of a message which was given up: they may be ends of pipes, whose others
    /// wait for that. It is the lower half of their number; 0 where none were sent.
    #[cold]
    fn forget(&self, number: u64) {
        if number != 0 {
            // They were sent before the record was there.
            let _ = self.listen_to_all();
            self.early.borrow_mut().retain(|(early, _)| *early as u32 != number as u32);
        }
    }

    /// Takes what came through the socket, without waiting.
    fn answer(&self) -> Result<Bell> {
        let bell = answer_whole(self.socket.as_fd()).inspect_err(|error| {
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
            Bell::Rung | Bell::NoRoom => Ok(true),
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
            let mut heard = Ok(());
            if self.state.get() == State::Open && !self.checks.is_skipped() && self.checks.is_due()
            {
                heard = self.listen_to_all();
            }
            // If it has ended, what it sent before that is there now; so is what is before a body without room.
            return match self.step(ready())? {
                Some(ready) => Ok(ready),
                None if self.state.get() == State::Open => heard.and(Err(Error::TimedOut)),
                None => heard.and(Err(Error::Disconnected)),
            };
        }
        self.consumer.want_letters(self.pace.pause());
        if self.state.get() == State::Open
            && let Some(found) =
                look(|mine| self.consumer.exchange_cpus(mine), || ready().transpose())
        {
            return self.step(found);
        }
        self.sleep_until(deadline, ready)
    }

    /// The rest of [`wait_for`](Self::wait_for), once looking has found nothing.
    fn sleep_until<T>(
        &self,
        deadline: Deadline,
        ready: impl Fn() -> std::result::Result<Option<T>, Broken>,
    ) -> Result<T> {
        let result = self.sleep_and_listen(deadline, &ready);
        if let Err(Error::Io(_)) = result {
            self.consumer.retract();
            // There was no room for a body; what was sent before it is there now, maybe also its message.
            if let Some(ready) = self.step(ready())? {
                return Ok(ready);
            }
        }
        result
    }

    fn sleep_and_listen<T>(
        &self,
        deadline: Deadline,
        ready: impl Fn() -> std::result::Result<Option<T>, Broken>,
    ) -> Result<T> {
        if self.checks.is_due() {
            // It may be over already.
            self.listen_to_all()?;
        }
        let mut sleep = Sleep::OnWord;
        let nap = deadline.min(Deadline::after(NAP));
        loop {
            let is_sure = self.state.get() != State::Open || self.consumer.announce(sleep);
            if let Some(ready) = self.step(ready())? {
                self.consumer.retract();
                return Ok(ready);
            }
            if self.state.get() != State::Open {
                return Err(Error::Disconnected);
            }
            crash_point!("receive: about to sleep");
            if sleep == Sleep::OnWord {
                if self.consumer.nap(nap) == Woken::TimedOut {
                    sleep = Sleep::AtBell;
                } else if let Some(ready) = self.step(ready())? {
                    self.consumer.retract();
                    return Ok(ready);
                } else {
                    // The other end may have gone. Or there is no end of such wake-ups.
                    self.listen_to_all()?;
                    if nap.has_passed() {
                        sleep = Sleep::AtBell;
                    }
                }
            } else {
                let slice = if is_sure { Deadline::NEVER } else { Deadline::after(SLICE) };
                if wait_readable(self.socket.as_fd(), deadline.min(slice))? {
                    self.listen()?;
                    crash_point!("receive: a bell is taken");
                }
            }
            // Also after a bell: there may be no end of them.
            if deadline.has_passed() {
                self.consumer.retract();
                self.listen_to_all()?;
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
                    Bell::Rung | Bell::NoRoom => continue,
                    Bell::Nothing | Bell::Ended => {
                        return Err(self.damaged("descriptors are missing"));
                    }
                },
            };
            match number.cmp(&tag.number) {
                // Of a message whose sender gave up.
                std::cmp::Ordering::Less => {}
                std::cmp::Ordering::Equal if more.is_empty() => {
                    // The others of the message are of no use, and would be in the way.
                    self.early.borrow_mut().retain(|(number, _)| *number > tag.number);
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
            Ready::Record(record) if record.kind == Kind::Aside => self.take_aside(record),
            Ready::Record(record) => {
                bytes.clear();
                self.consumer.append(&record, &mut bytes);
                let fds = self.descriptors(record.tag);
                self.consume(&record);
                Ok((bytes, fds?))
            }
        }
    }

    /// As [`take`](Self::take), of one whose body is in a descriptor.
    ///
    /// It stays where there is no memory for it. So does a plain one, which has no other descriptor, where there is no
    /// number for that.
    #[cold]
    fn take_aside(&self, record: Record) -> Result<(Vec<u8>, Vec<OwnedFd>)> {
        let mut fds = match self.descriptors(record.tag) {
            Err(error) if record.tag.fds > 1 => {
                self.consume(&record);
                return Err(error);
            }
            fds => fds?,
        };
        let Some(body) = fds.pop() else {
            return Err(self.damaged("a body that was sent aside is missing"));
        };
        let mut file = File::from(body);
        let bytes = read_aside(&mut file, record.len);
        if matches!(bytes, Err(Error::Io(_))) {
            // For the next time.
            fds.push(file.into());
            self.early.borrow_mut().push_front((record.tag.number, fds));
            return bytes.map(|bytes| (bytes, Vec::new()));
        }
        self.consume(&record);
        Ok((bytes?, fds))
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
                    self.forget(record.tag.number);
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

    /// As [`poll`](Self::poll) without end, but sleeps at once where nothing is there.
    pub(crate) fn sleep(&self) -> Result<()> {
        let _entered = self.enter();
        if self.state.get() == State::Closed {
            return Ok(());
        }
        match self.sleep_until(Deadline::NEVER, || self.ready()) {
            Ok(_) | Err(Error::Disconnected) => Ok(()),
            // So says who receives, too.
            Err(error) if is_no_room(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Notes the CPU this end runs on; gives the one the other end ran on last.
    pub(crate) fn exchange_cpus(&self, mine: Option<usize>) -> Option<usize> {
        self.consumer.exchange_cpus(mine)
    }

    /// Whether no whole message is there, as far as memory tells.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        let _in_use = InUse::mark(&self.in_use, "recv");
        matches!(self.ready(), Ok(None))
    }

    /// Waits until there is a message, or none will come any more; whether that is so.
    pub(crate) fn poll(&self, deadline: Deadline) -> Result<bool> {
        let _entered = self.enter();
        match self.wait(deadline) {
            Ok(_) | Err(Error::Disconnected) => Ok(true),
            // So says who receives, too.
            Err(error) if is_no_room(&error) => Ok(true),
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
        self.parting.0.part();
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

    /// The socket, whose peer is the sender's.
    pub(crate) fn peer(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
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
        self.consumer.announce(Sleep::AtBell);
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

/// Whether the body of a plain message is there, and this process has no number left for it.
fn is_no_room(error: &Error) -> bool {
    matches!(error, Error::Io(error) if error.raw_os_error() == Some(EMFILE))
}

/// Reads such a body.
fn read_aside(file: &mut File, len: usize) -> Result<Vec<u8>> {
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
    file.take(len as u64).read_to_end(&mut bytes)?;
    if bytes.len() == len { Ok(bytes) } else { Err(wrong()) }
}

/// Descriptors that came before their messages, by the number of those.
pub(super) type Early<F> = Vec<(u64, Vec<F>)>;

/// What of a receiver travels, beside its segment and lane: the socket, what it has received of a message so far,
/// whether that is begun, whether it is whole and its tag then, the descriptors that came early, and how often it has
/// moved.
pub(super) type ReceiverParts<F, B> = (F, B, bool, Option<(u16, u64)>, Early<F>, u64);

impl RingReceiver {
    pub(super) fn with_parts<Out>(
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
        let socket = Passed(self.socket.as_fd());
        with((socket, &*fragments, self.begun.get(), assembled, early, self.moves))
    }

    /// The one receiver that these are of, or an error: before it has touched a word of the ring.
    pub(super) fn from_parts<E: serde::de::Error>(
        segment: &Arc<Segment>,
        lane: usize,
        parts: ReceiverParts<Received, Vec<u8>>,
    ) -> std::result::Result<Self, E> {
        let (socket, fragments, begun, assembled, early, moves) = parts;
        let socket = received_socket(socket).map_err(fd::failed)?;
        let moves = claim(segment, lane, End::Receiver, moves)?;
        let mut receiver = Self::new(segment, lane, socket).map_err(fd::failed)?;
        receiver.fragments.replace(fragments);
        receiver.begun.set(begun);
        receiver.assembled.set(assembled.map(|(fds, number)| Tag { fds, number }));
        receiver.early.replace(
            early
                .into_iter()
                .map(|(number, fds)| (number, fds.into_iter().map(|fd| fd.0).collect()))
                .collect(),
        );
        receiver.moves = moves;
        Ok(receiver)
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
        let segment = open(segment.0).map_err(fd::failed)?;
        Self::from_parts(&segment, lane, parts)
    }
}

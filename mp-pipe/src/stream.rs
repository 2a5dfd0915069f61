//! Messages over a stream of bytes: TCP.
//!
//! A message is sent in chunks of at most 64 KiB. Each is its length (32 bits, little-endian; bit 24 is set where
//! another chunk is to follow), as many bytes, and one more that says what to do with it:
//!
//! | Last byte | Meaning |
//! | --- | --- |
//! | 0 | more of this message follows |
//! | 1 | the message is whole |
//! | 2 | the message is given up: forget it |
//!
//! It stands behind the bytes so that a sender can give up at any moment: what is missing of the chunk is
//! made up with zeros before the next message, and the last byte takes it all back. So a send that ran out
//! of time has not happened, and the stream goes on.
//!
//! The receiver reads no further than to the end of a message, and while it has a whole one that nobody took,
//! that message's last byte stays in the socket. So the descriptor is readable whenever there is a message.
//! It makes room for bytes as they come: what a length promises costs nothing.

use std::cell::{Cell, OnceCell, RefCell};
use std::io::{self, IoSlice};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Duration;

use mp_core::sys::fd::{self, Event, PollFd};
use mp_core::sys::net;
use mp_core::{Deadline, heirs};

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The most bytes of a message in one chunk.
const CHUNK: usize = 64 << 10;
const HEAD: usize = 4;

const MORE: u8 = 0;
const LAST: u8 = 1;
const ABORT: u8 = 2;

/// How many parts go to the kernel at once.
const SLICES: usize = 64;
/// Storage of the receiver beyond this is not kept for the next message.
const KEPT: usize = 2 << 20;
/// How much a receive that must not wait reads at most: a peer that sends without end does not keep it.
const PATIENCE: usize = 16 << 20;
/// A read counts as one of so many bytes at least.
const EFFORT: usize = 4 << 10;

/// When a peer that is silent is asked whether it is there, how often, and how many times.
const IDLE: Duration = Duration::from_secs(30);
const INTERVAL: Duration = Duration::from_secs(10);
const QUESTIONS: u32 = 3;

/// How long closing a connection waits at most until the other side has what was sent.
const LINGER: Duration = Duration::from_secs(1);
/// Meanwhile it is looked so often, as nothing else tells: at first, and later.
const LOOK: Duration = Duration::from_micros(100);
const LATER: Duration = Duration::from_millis(5);

/// The halves of a connection, as bits.
const SENDER: u8 = 1;
const RECEIVER: u8 = 2;

/// In the head of a chunk that is not to be its message's last.
const FOLLOWED: u32 = 1 << 24;

/// The length in the head of a chunk, and whether another is to follow; `None` where it is no head.
fn parse_head(head: [u8; HEAD]) -> Option<(usize, bool)> {
    let word = u32::from_le_bytes(head);
    let len = (word & !FOLLOWED) as usize;
    (len <= CHUNK).then_some((len, word & FOLLOWED != 0))
}

fn head(len: usize, followed: bool) -> [u8; HEAD] {
    (len as u32 | if followed { FOLLOWED } else { 0 }).to_le_bytes()
}

/// Makes the two halves of a connected stream socket.
///
/// A peer that vanishes without a word, as its machine lost power, is noticed after a minute of silence; while
/// something sent is not acknowledged, the kernel tries for as long as it is set to (tcp(7), `tcp_retries2`:
/// a quarter of an hour). No limit is set on that (`TCP_USER_TIMEOUT`), as it would also end the connection to
/// a peer that merely reads nothing for as long.
pub(crate) fn pair(socket: OwnedFd) -> Result<(StreamSender, StreamReceiver)> {
    let stream = TcpStream::from(socket);
    // Another stream than TCP has no such options, and needs none.
    if stream.set_nodelay(true).is_ok() {
        let socket = OwnedFd::from(stream);
        net::keep_alive(&socket, IDLE, INTERVAL, QUESTIONS)?;
        return Ok(halves(socket.into()));
    }
    Ok(halves(stream))
}

fn halves(stream: TcpStream) -> (StreamSender, StreamReceiver) {
    let (passed, closed) = (AtomicBool::new(false), AtomicU8::new(0));
    let socket = Arc::new(Socket { stream, passed, closed });
    let sender = StreamSender {
        socket: Arc::clone(&socket),
        owed: Cell::default(),
        closed: Cell::new(false),
        passed: Cell::new(false),
    };
    let receiver = StreamReceiver {
        socket,
        state: RefCell::default(),
        passed: Cell::new(false),
        readable: OnceCell::new(),
    };
    (sender, receiver)
}

#[derive(Debug)]
struct Socket {
    stream: TcpStream,
    /// Another process has it too: to end the connection is up to that.
    passed: AtomicBool,
    /// Which halves are closed here.
    closed: AtomicU8,
}

impl Socket {
    /// An end that cannot be shut down has no peer any more.
    fn shutdown(&self, how: Shutdown) {
        let _ = self.stream.shutdown(how);
    }

    /// Closes a half; with the second of the two, the connection.
    fn close(&self, half: u8) {
        if half == SENDER {
            self.shutdown(Shutdown::Write);
        }
        // Whoever closes the second half finds the bit of the first, and so comes after its shutdown.
        let before = self.closed.fetch_or(half, Ordering::AcqRel);
        if before & half != 0 {
            return;
        }
        if self.passed.load(Ordering::Relaxed) {
            if half == RECEIVER {
                self.shutdown(Shutdown::Read);
            }
        } else if before | half == SENDER | RECEIVER {
            self.linger();
            self.shutdown(Shutdown::Both);
        }
    }

    /// Waits until the other side has what was sent, and throws away what it sends meanwhile.
    ///
    /// A socket that is closed with something unread, or to which something comes afterwards, resets the connection
    /// (RFC 1122, 4.2.2.13), and what the other side's kernel does not have by then is lost. So does one that is shut
    /// down in both directions (`tcp_rcv_state_process` in net/ipv4/tcp_input.c), so that comes last. What the other
    /// side's kernel has, its program can read also after a reset.
    ///
    /// Does not wait where all has arrived, or the other side sends nothing any more: then the kernel sees to the rest.
    fn linger(&self) {
        let deadline = Deadline::after(LINGER);
        let mut pause = LOOK;
        loop {
            // No more at a time, as who sends without end must not keep this process.
            for _ in 0..256 {
                match net::discard(self.as_fd(), CHUNK) {
                    Ok(1..) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    // The other side's end.
                    _ => return,
                }
            }
            // The mark of the end counts as one byte.
            if !matches!(net::unacknowledged(self.as_fd()), Ok(2..)) || deadline.has_passed() {
                return;
            }
            let look = Deadline::after(pause).min(deadline);
            if fd::poll(&mut [PollFd::readable(self.as_fd())], look).is_err() {
                return;
            }
            pause = (pause * 2).min(LATER);
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// What the kernel says of a connection that is no more, in whichever way it ended.
pub(crate) fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::EPIPE
                | libc::ECONNRESET
                | libc::ECONNABORTED
                | libc::ENOTCONN
                | libc::ETIMEDOUT
                | libc::EHOSTUNREACH
                | libc::ENETUNREACH
                | libc::ENETDOWN
                | libc::ENETRESET
        )
    )
}

/// What is missing of a chunk whose message was given up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Owed {
    /// Bytes of the head, from the front of `head` on; they are sent last bytes first.
    head: [u8; HEAD],
    head_left: usize,
    /// Bytes of the message, and the one behind them; 0 where nothing is owed.
    rest: usize,
}

impl Owed {
    /// What is owed by a sender of a message of `total` bytes that stopped after `sent` bytes of the stream.
    fn after(total: usize, sent: usize) -> Self {
        if sent == 0 {
            return Self::default();
        }
        let (chunk, within) = (sent / (HEAD + CHUNK + 1), sent % (HEAD + CHUNK + 1));
        if within == 0 {
            // Between two chunks: an empty one takes the message back.
            return Self { head: head(0, false), head_left: HEAD, rest: 1 };
        }
        let len = (total - chunk * CHUNK).min(CHUNK);
        let body = within.saturating_sub(HEAD);
        let followed = chunk * CHUNK + len < total;
        let head_left = HEAD - within.min(HEAD);
        Self { head: head(len, followed), head_left, rest: len - body + 1 }
    }
}

/// The bytes of the stream that one message is, from any of them on.
struct Outgoing<'a> {
    parts: &'a [&'a [u8]],
    total: usize,
    last_head: [u8; HEAD],
}

static FULL_HEAD: [u8; HEAD] = (CHUNK as u32 | FOLLOWED).to_le_bytes();
static MARKS: [u8; 3] = [MORE, LAST, ABORT];

impl<'a> Outgoing<'a> {
    /// `None` where the parts are longer than any message.
    fn new(parts: &'a [&'a [u8]]) -> Option<Self> {
        let total = parts.iter().try_fold(0_usize, |sum, part| sum.checked_add(part.len()))?;
        isize::try_from(total).ok().filter(|&total| total < isize::MAX / 2)?;
        let last = total - Self::chunks(total).saturating_sub(1) * CHUNK;
        Some(Self { parts, total, last_head: head(last, false) })
    }

    /// How many chunks it is in: an empty message has one too.
    fn chunks(total: usize) -> usize {
        total.div_ceil(CHUNK).max(1)
    }

    /// How many bytes of the stream.
    fn len(&self) -> usize {
        self.total + Self::chunks(self.total) * (HEAD + 1)
    }

    /// The next pieces of the stream after `sent` bytes, as many as there is room for; says how many.
    fn slices<'b>(&'b self, mut sent: usize, room: &mut [IoSlice<'b>; SLICES]) -> usize {
        let mut count = 0;
        let end = self.len();
        while sent < end && count < SLICES {
            let (chunk, within) = (sent / (HEAD + CHUNK + 1), sent % (HEAD + CHUNK + 1));
            let start = chunk * CHUNK;
            let len = (self.total - start).min(CHUNK);
            let last = start + len == self.total;
            let piece = if within < HEAD {
                let head = if last { &self.last_head } else { &FULL_HEAD };
                &head[within..]
            } else if within < HEAD + len {
                let body = within - HEAD;
                let piece = self.piece(start + body);
                &piece[..piece.len().min(len - body)]
            } else {
                let mark = usize::from(if last { LAST } else { MORE });
                &MARKS[mark..=mark]
            };
            room[count] = IoSlice::new(piece);
            count += 1;
            sent += piece.len();
        }
        count
    }

    /// What there is in one part from `offset` of the message on. Not empty below its total length.
    fn piece(&self, mut offset: usize) -> &'a [u8] {
        for part in self.parts {
            if offset < part.len() {
                return &part[offset..];
            }
            offset -= part.len();
        }
        &[]
    }
}

/// The half that sends.
#[derive(Debug)]
pub(crate) struct StreamSender {
    socket: Arc<Socket>,
    owed: Cell<Owed>,
    closed: Cell<bool>,
    /// This half was sent to another process, which closes it.
    passed: Cell<bool>,
}

impl StreamSender {
    /// Waits until something can be sent, if not a whole message.
    pub(crate) fn ready(&self, deadline: Deadline) -> Result<()> {
        if self.closed.get() {
            return Err(Error::Disconnected);
        }
        self.settle(deadline)?;
        match fd::poll(&mut [PollFd::writable(self.socket.as_fd())], deadline)? {
            0 if deadline == Deadline::PASSED => Err(Error::WouldBlock),
            0 => Err(Error::TimedOut),
            _ => Ok(()),
        }
    }

    /// Sends one message, which is `parts` in a row; waits for room until the deadline.
    ///
    /// A message that does not go whole is not sent at all. One beyond what the two sockets hold (some
    /// megabytes at most) needs a receiver that reads meanwhile, so it cannot be sent without waiting.
    pub(crate) fn send(&self, parts: &[&[u8]], deadline: Deadline) -> Result<()> {
        if self.closed.get() {
            return Err(Error::Disconnected);
        }
        let Some(message) = Outgoing::new(parts) else {
            return Err(Error::Encode("it is longer than a message can be".to_string()));
        };
        self.settle(deadline)?;
        let len = message.len();
        let mut sent = 0;
        while sent < len {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let count = message.slices(sent, &mut slices);
            match self.send_some(&slices[..count], deadline) {
                Ok(some) => sent += some,
                Err(error) => {
                    self.owed.set(Owed::after(message.total, sent));
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Whether this end was closed, or has found the other one closed.
    pub(crate) fn is_open(&self) -> bool {
        !self.closed.get()
    }

    /// Makes up for what a message that was given up has left.
    fn settle(&self, deadline: Deadline) -> Result<()> {
        static ZEROS: [u8; 8 << 10] = [0; 8 << 10];
        loop {
            let mut owed = self.owed.get();
            if owed.rest == 0 {
                return Ok(());
            }
            let body = (owed.rest - 1).min(ZEROS.len());
            let mark = usize::from(ABORT);
            let slices = [
                IoSlice::new(&owed.head[HEAD - owed.head_left..]),
                IoSlice::new(&ZEROS[..body]),
                IoSlice::new(if body == owed.rest - 1 { &MARKS[mark..=mark] } else { &[] }),
            ];
            let sent = self.send_some(&slices, deadline)?;
            let of_head = sent.min(owed.head_left);
            owed.head_left -= of_head;
            owed.rest -= sent - of_head;
            self.owed.set(owed);
        }
    }

    fn send_some(&self, slices: &[IoSlice<'_>], deadline: Deadline) -> Result<usize> {
        loop {
            match net::send_some(self.socket.as_fd(), slices) {
                Ok(sent) => return Ok(sent),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    wait(PollFd::writable(self.socket.as_fd()), deadline)?;
                }
                Err(error) if is_gone(&error) => {
                    self.close();
                    return Err(Error::Disconnected);
                }
                Err(error) => return Err(Error::Io(error)),
            }
        }
    }

    /// Ends what the other side receives, after what was sent.
    pub(crate) fn close(&self) {
        self.closed.set(true);
        self.socket.close(SENDER);
    }
}

impl AsFd for StreamSender {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for StreamSender {
    fn drop(&mut self) {
        if heirs::lives_on() {
            self.leave();
        }
        if !self.passed.get() {
            self.close();
        }
    }
}

fn wait(fd: PollFd<'_>, deadline: Deadline) -> Result<()> {
    if deadline == Deadline::PASSED {
        return Err(Error::WouldBlock);
    }
    if fd::poll(&mut [fd], deadline)? == 0 { Err(Error::TimedOut) } else { Ok(()) }
}

/// Why nothing comes any more.
#[derive(Debug)]
enum End {
    Closed,
    Damaged(&'static str),
}

/// Where in a chunk the receiver is.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum Place {
    /// So many bytes of its head have come.
    Head(usize),
    /// So many bytes of the message are to come, and the one behind them.
    Body(usize),
}

/// A message as far as it has come.
#[derive(Debug)]
struct Incoming {
    place: Place,
    head: [u8; HEAD],
    /// That another chunk is to follow.
    followed: bool,
    bytes: Vec<u8>,
    end: Option<End>,
}

impl Default for Incoming {
    fn default() -> Self {
        Self {
            place: Place::Head(0),
            head: [0; HEAD],
            followed: false,
            bytes: Vec::new(),
            end: None,
        }
    }
}

/// The half that receives.
#[derive(Debug)]
pub(crate) struct StreamReceiver {
    socket: Arc<Socket>,
    state: RefCell<Incoming>,
    /// This half was sent to another process, which closes it.
    passed: Cell<bool>,
    /// What can be read once this half is closed and the socket is not.
    readable: OnceCell<Event>,
}

impl StreamReceiver {
    /// Takes the next message, waiting for it until the deadline, and gives it to `take`.
    ///
    /// What has come of it is kept where the time is over.
    pub(crate) fn recv<Out>(
        &self,
        deadline: Deadline,
        take: impl FnOnce(&[u8]) -> Out,
    ) -> Result<Out> {
        self.fill(deadline, true)?;
        // Out of the cell, so that take may do what it likes, and out of the state if it panics.
        let bytes = std::mem::take(&mut self.state.borrow_mut().bytes);
        let out = take(&bytes);
        self.give_back(bytes);
        Ok(out)
    }

    /// Takes the next message as it is.
    pub(crate) fn recv_bytes(&self, deadline: Deadline) -> Result<Vec<u8>> {
        self.fill(deadline, true)?;
        Ok(std::mem::take(&mut self.state.borrow_mut().bytes))
    }

    fn give_back(&self, mut bytes: Vec<u8>) {
        let mut state = self.state.borrow_mut();
        if bytes.capacity() <= KEPT && state.bytes.capacity() == 0 {
            bytes.clear();
            state.bytes = bytes;
        }
    }

    /// How many bytes the next message has; waits for the whole of it and leaves it there.
    pub(crate) fn peek_len(&self, deadline: Deadline) -> Result<usize> {
        self.fill(deadline, false)?;
        Ok(self.state.borrow().bytes.len())
    }

    /// Waits until a receive would not wait: a whole message is there, or the end. False where the time is over.
    pub(crate) fn poll(&self, deadline: Deadline) -> Result<bool> {
        match self.fill(deadline, false) {
            Ok(()) | Err(Error::Disconnected) => Ok(true),
            Err(Error::WouldBlock | Error::TimedOut) => Ok(false),
            // For the receive that follows.
            Err(Error::Damaged(_)) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Reads until a message is whole. With `take`, its last byte is taken too, and the next one can follow.
    fn fill(&self, deadline: Deadline, take: bool) -> Result<()> {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        let mut budget = PATIENCE;
        loop {
            let result = match &state.end {
                Some(End::Closed) => return Err(Error::Disconnected),
                Some(End::Damaged(why)) => {
                    let error = Error::Damaged((*why).to_string());
                    if take {
                        state.end = Some(End::Closed);
                    }
                    return Err(error);
                }
                None => state.read(&self.socket, take),
            };
            match result {
                Ok(Read::Whole) => return Ok(()),
                Ok(Read::Some(count)) => {
                    budget = budget.saturating_sub(count.max(EFFORT));
                    if budget == 0 {
                        if deadline.has_passed() {
                            let tried = deadline == Deadline::PASSED;
                            return Err(if tried { Error::WouldBlock } else { Error::TimedOut });
                        }
                        budget = PATIENCE;
                    }
                }
                Ok(Read::End) => state.finish(End::Closed),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    wait(PollFd::readable(self.socket.as_fd()), deadline)?;
                }
                Err(error) if is_gone(&error) => state.finish(End::Closed),
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    state.finish(End::Damaged("a chunk of a message is not what one is"));
                    self.socket.shutdown(Shutdown::Both);
                }
                Err(error) => {
                    // There is no memory for the message: it cannot be skipped either.
                    state.finish(End::Closed);
                    self.socket.shutdown(Shutdown::Both);
                    return Err(Error::Io(error));
                }
            }
        }
    }

    /// Receives nothing any more. What has come and was not received is lost.
    ///
    /// The other side learns of it once the sender is closed as well: TCP has no word for it.
    pub(crate) fn close(&self) {
        let mut state = self.state.borrow_mut();
        if !matches!(state.end, Some(End::Closed)) {
            state.finish(End::Closed);
        }
        drop(state);
        self.socket.close(RECEIVER);
    }

    /// A descriptor that can be read while there is a message, and once none will come any more.
    pub(crate) fn watched(&self) -> BorrowedFd<'_> {
        // What has come of a message is taken, and no longer makes the socket readable.
        let _ = self.poll(Deadline::PASSED);
        if self.socket.closed.load(Ordering::Relaxed) != RECEIVER {
            return self.as_fd();
        }
        // Closed, while the socket is there for the sender still.
        if self.readable.get().is_none()
            && let Ok(event) = Event::new()
        {
            event.set();
            let _ = self.readable.set(event);
        }
        self.readable.get().map_or(self.as_fd(), Event::as_fd)
    }
}

enum Read {
    /// So many bytes, and the message is not whole.
    Some(usize),
    Whole,
    End,
}

impl Incoming {
    fn finish(&mut self, end: End) {
        self.bytes = Vec::new();
        self.end = Some(end);
    }

    /// Goes on behind `have` bytes of a head.
    fn place(&mut self, have: usize) -> Option<()> {
        self.place = if have < HEAD {
            Place::Head(have)
        } else {
            let (len, followed) = parse_head(self.head)?;
            self.followed = followed;
            Place::Body(len)
        };
        Some(())
    }

    /// One read. `InvalidData` where what came is no chunk.
    fn read(&mut self, socket: &Socket, take: bool) -> io::Result<Read> {
        let invalid = || io::Error::from(io::ErrorKind::InvalidData);
        match self.place {
            Place::Head(have) => {
                let count = net::receive_some(socket.as_fd(), &mut self.head[have..])?;
                self.place(have + count).ok_or_else(invalid)?;
                Ok(if count == 0 { Read::End } else { Read::Some(count) })
            }
            Place::Body(0) if !take && !self.followed => {
                let Some(mark) = net::peek_byte(socket.as_fd())? else { return Ok(Read::End) };
                if mark == LAST {
                    return Ok(Read::Whole);
                }
                net::receive_some(socket.as_fd(), &mut [0])?;
                self.mark(mark).ok_or_else(invalid)
            }
            Place::Body(left) => {
                // The last byte comes with the others, if it may be taken; and the head of the next chunk where
                // there is one, be it of another message: of that, something stays in the socket still.
                let ahead = if self.followed { 1 + HEAD } else { usize::from(take) };
                let count = net::receive_append(socket.as_fd(), &mut self.bytes, left + ahead)?;
                let Some(behind) = count.checked_sub(left).filter(|&behind| behind > 0) else {
                    self.place = Place::Body(left - count);
                    return Ok(if count == 0 { Read::End } else { Read::Some(count) });
                };
                let end = self.bytes.len() - behind;
                let mut next = [0; 1 + HEAD];
                next[..behind].copy_from_slice(&self.bytes[end..]);
                self.bytes.truncate(end);
                let result = self.mark(next[0]).ok_or_else(invalid)?;
                self.head.copy_from_slice(&next[1..]);
                self.place(behind - 1).ok_or_else(invalid)?;
                Ok(result)
            }
        }
    }

    /// Acts on the byte behind a chunk, whose head is still there.
    fn mark(&mut self, mark: u8) -> Option<Read> {
        self.place = Place::Head(0);
        let (len, followed) = parse_head(self.head)?;
        match mark {
            LAST if !followed => Some(Read::Whole),
            // An empty one would be a way to keep the receiver busy with nothing.
            MORE if followed && len > 0 => Some(Read::Some(1)),
            ABORT => {
                self.bytes.clear();
                Some(Read::Some(1))
            }
            _ => None,
        }
    }
}

impl AsFd for StreamReceiver {
    /// Readable while there is a message or the end, and while a part of a message has come:
    /// [`poll`](Self::poll) tells which, and takes the part.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for StreamReceiver {
    fn drop(&mut self) {
        if heirs::lives_on() {
            self.leave();
        }
        if !self.passed.get() {
            self.close();
        }
    }
}

/// What of a sender travels beside its socket: what it owes, and whether it is closed.
pub(crate) type SenderState = (Owed, bool);

/// What of a receiver travels beside its socket: what has come of a message, and whether nothing more comes.
pub(crate) type ReceiverState = (Place, [u8; HEAD], bool, Vec<u8>, bool);

impl StreamSender {
    /// For another process, which goes on with it.
    pub(crate) fn pass(&self) -> SenderState {
        self.leave();
        (self.owed.get(), self.closed.get())
    }

    /// Leaves it to another process to close this half.
    pub(crate) fn leave(&self) {
        self.passed.set(true);
        self.socket.passed.store(true, Ordering::Relaxed);
    }
}

impl StreamReceiver {
    /// For another process, which goes on with it.
    pub(crate) fn pass(&self) -> ReceiverState {
        self.leave();
        let state = self.state.borrow();
        let Incoming { place, head, followed, ref bytes, ref end } = *state;
        (place, head, followed, bytes.clone(), end.is_some())
    }

    /// Leaves it to another process to close this half.
    pub(crate) fn leave(&self) {
        self.passed.set(true);
        self.socket.passed.store(true, Ordering::Relaxed);
    }
}

/// Goes on with both halves of a connection that another process had.
pub(crate) fn resume(
    socket: OwnedFd,
    sender: SenderState,
    receiver: ReceiverState,
) -> Result<(StreamSender, StreamReceiver)> {
    let (one, other) = halves(TcpStream::from(socket));
    let (place, head, followed, bytes, has_ended) = receiver;
    let is_sound = match place {
        Place::Head(have) => have < HEAD,
        Place::Body(left) => left <= CHUNK + 1,
    };
    if !is_sound || sender.0.head_left > HEAD || sender.0.rest > CHUNK + 1 {
        return Err(Error::Damaged("no connection is in such a state".to_string()));
    }
    one.owed.set(sender.0);
    one.closed.set(sender.1);
    if sender.1 {
        one.socket.closed.store(SENDER, Ordering::Relaxed);
    }
    let end = has_ended.then_some(End::Closed);
    other.state.replace(Incoming { place, head, followed, bytes, end });
    Ok((one, other))
}

/// The states to go on with one half alone: for the other one, which is elsewhere and to be [left](StreamSender::leave).
pub(crate) fn elsewhere() -> (SenderState, ReceiverState) {
    let Incoming { place, head, followed, bytes, .. } = Incoming::default();
    ((Owed::default(), true), (place, head, followed, bytes, true))
}

/// Receives `bytes` as messages, looking and taking by turns.
#[cfg(any(test, fuzzing))]
pub(crate) fn run_on(bytes: &[u8]) {
    use std::io::Write;
    let (mut far, near) = std::os::unix::net::UnixStream::pair().expect("a socket pair");
    let (_sender, receiver) = pair(near.into()).expect("halves");
    // What goes without a reader.
    let bytes = &bytes[..bytes.len().min(CHUNK)];
    far.write_all(bytes).expect("writes");
    drop(far);
    for index in 0..bytes.len() + 2 {
        if index % 2 == 0 {
            assert!(receiver.poll(Deadline::NEVER).expect("polls"));
        }
        let _ = receiver.recv(Deadline::NEVER, |message| assert!(message.len() <= bytes.len()));
    }
    assert!(matches!(receiver.recv(Deadline::NEVER, |_| ()), Err(Error::Disconnected)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;
    use std::io::{Read as _, Write};
    use std::net::TcpListener;
    use std::os::unix::net::UnixStream;
    use std::thread;
    use std::time::Instant;

    const HANG: Duration = Duration::from_secs(20);

    fn soon() -> Deadline {
        Deadline::after(HANG)
    }

    fn tcp() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (near, listener.accept().unwrap().0)
    }

    /// A sender, and the bytes it sends.
    fn sender() -> (StreamSender, StreamReceiver, TcpStream) {
        let (near, far) = tcp();
        let (sender, receiver) = pair(near.into()).unwrap();
        (sender, receiver, far)
    }

    fn connected() -> ((StreamSender, StreamReceiver), (StreamSender, StreamReceiver)) {
        let (near, far) = tcp();
        (pair(near.into()).unwrap(), pair(far.into()).unwrap())
    }

    fn chunk(bytes: &[u8], mark: u8) -> Vec<u8> {
        [&head(bytes.len(), mark == MORE)[..], bytes, &[mark]].concat()
    }

    fn readable(receiver: &StreamReceiver) -> bool {
        fd::wait_readable(receiver.as_fd(), Deadline::PASSED).unwrap()
    }

    #[test]
    fn messages_of_any_size_and_number_of_parts_come_back_whole() {
        let ((sender, _keep), (_other, receiver)) = connected();
        let sizes = [0, 1, 2, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 3 * CHUNK + 7, 20 << 20];
        let byte = |index: usize| (index * 31 + index / 251) as u8;
        let writer = thread::spawn(move || {
            for size in sizes {
                let bytes: Vec<u8> = (0..size).map(byte).collect();
                let (one, rest) = bytes.split_at(size / 3);
                let many: Vec<&[u8]> = rest.chunks(1 + size / 200).collect();
                sender.send(&[&[one, &[]], &many[..]].concat(), soon()).unwrap();
            }
        });
        for size in sizes {
            assert_eq!(receiver.peek_len(soon()).unwrap(), size);
            assert!(readable(&receiver));
            let right = receiver.recv(soon(), |bytes| {
                bytes.len() == size && bytes.iter().enumerate().all(|(i, &b)| b == byte(i))
            });
            assert!(right.unwrap(), "{size}");
        }
        writer.join().unwrap();
        assert!(matches!(receiver.recv(soon(), |_| ()), Err(Error::Disconnected)));
        assert!(receiver.poll(Deadline::PASSED).unwrap());
        assert!(receiver.state.borrow().bytes.capacity() <= KEPT);
    }

    #[test]
    fn a_send_that_runs_out_of_time_has_not_happened_and_the_next_one_does() {
        for part in [b"x".repeat(10), b"y".repeat(CHUNK + 3)] {
            let ((sender, _keep), (_other, receiver)) = connected();
            let mut accepted = 0;
            let refused = loop {
                match sender.send(&[&part], Deadline::PASSED) {
                    Ok(()) => accepted += 1,
                    Err(error) => break error,
                }
            };
            assert!(matches!(refused, Error::WouldBlock));
            let late = sender.send(&[&part], Deadline::after(Duration::from_millis(1)));
            assert!(matches!(late, Err(Error::TimedOut)));
            let reader = thread::spawn(move || {
                for _ in 0..accepted {
                    assert!(receiver.recv(soon(), |bytes| bytes == part).unwrap());
                }
                assert!(receiver.recv(soon(), |bytes| bytes == b"after").unwrap());
                assert!(matches!(receiver.recv(soon(), |_| ()), Err(Error::Disconnected)));
            });
            sender.send(&[b"after"], soon()).unwrap();
            sender.close();
            assert!(matches!(sender.send(&[b"x"], soon()), Err(Error::Disconnected)));
            reader.join().unwrap();
        }
    }

    #[test]
    fn the_descriptor_is_readable_exactly_while_there_is_something() {
        let ((sender, _keep), (_other, receiver)) = connected();
        assert!(!receiver.poll(Deadline::PASSED).unwrap() && !readable(&receiver));
        sender.send(&[b"one"], soon()).unwrap();
        sender.send(&[b"two"], soon()).unwrap();
        for expected in [b"one", b"two"] {
            assert!(receiver.poll(soon()).unwrap());
            for _ in 0..3 {
                assert!(receiver.poll(Deadline::PASSED).unwrap() && readable(&receiver));
                assert_eq!(receiver.peek_len(Deadline::PASSED).unwrap(), 3);
            }
            assert!(receiver.recv(Deadline::PASSED, |bytes| bytes == expected).unwrap());
        }
        assert!(!readable(&receiver));
        assert!(matches!(receiver.recv(Deadline::PASSED, |_| ()), Err(Error::WouldBlock)));
        let late = receiver.peek_len(Deadline::after(Duration::from_millis(1)));
        assert!(matches!(late, Err(Error::TimedOut)));
    }

    #[test]
    fn a_message_that_comes_byte_by_byte_survives_time_outs() {
        let (_sender, receiver, mut far) = sender();
        let bytes = [chunk(b"abc", MORE), chunk(b"", ABORT), chunk(b"de", MORE), chunk(b"f", LAST)];
        let bytes = bytes.concat();
        let (last, all) = bytes.split_last().unwrap();
        for (index, byte) in all.iter().enumerate() {
            far.write_all(&[*byte]).unwrap();
            let found = match index % 3 {
                0 => receiver.poll(Deadline::PASSED).unwrap(),
                1 => receiver.peek_len(Deadline::after(Duration::from_millis(1))).is_ok(),
                _ => receiver.recv(Deadline::PASSED, |_| ()).is_ok(),
            };
            assert!(!found, "{index}");
        }
        far.write_all(&[*last]).unwrap();
        assert!(receiver.recv(soon(), |bytes| bytes == b"def").unwrap());
    }

    #[test]
    fn an_end_in_the_middle_of_a_message_is_the_end() {
        let whole = [chunk(b"abc", LAST), chunk(b"def", LAST)].concat();
        for cut in 8..whole.len() {
            let (_sender, receiver, mut far) = sender();
            far.write_all(&whole[..cut]).unwrap();
            drop(far);
            assert!(receiver.recv(soon(), |bytes| bytes == b"abc").unwrap());
            assert!(receiver.poll(soon()).unwrap());
            assert!(matches!(receiver.peek_len(soon()), Err(Error::Disconnected)));
            assert!(matches!(receiver.recv(soon(), |_| ()), Err(Error::Disconnected)));
        }
    }

    #[test]
    fn what_is_no_chunk_closes_the_link() {
        let longer = head(CHUNK + 1, false);
        let bit = (1_u32 << 31).to_le_bytes();
        let follows = [&head(1, true)[..], &[0, LAST]].concat();
        let ends = [&head(1, false)[..], &[0, MORE]].concat();
        let next = [chunk(b"x", MORE), vec![0xff; 4]].concat();
        let three = chunk(b"x", 3);
        for bytes in
            [&longer[..], &bit, &three, &chunk(b"", MORE), &[0xff; 50], &follows, &ends, &next]
        {
            for poll in [false, true] {
                let (sender, receiver, mut far) = sender();
                far.write_all(bytes).unwrap();
                if poll {
                    assert!(receiver.poll(soon()).unwrap());
                }
                assert!(matches!(receiver.recv(soon(), |_| ()), Err(Error::Damaged(_))));
                assert!(matches!(receiver.recv(soon(), |_| ()), Err(Error::Disconnected)));
                assert!(matches!(sender.send(&[b"x"], soon()), Err(Error::Disconnected)));
                let gone = far.read(&mut [0]);
                assert!(matches!(gone, Ok(0) | Err(_)));
            }
        }
    }

    #[test]
    fn a_length_costs_nothing_until_the_bytes_come() {
        let (_sender, receiver, mut far) = sender();
        for _ in 0..100 {
            far.write_all(&head(CHUNK, false)).unwrap();
            far.write_all(&[7; CHUNK]).unwrap();
            far.write_all(&[ABORT]).unwrap();
            let _ = receiver.poll(Deadline::PASSED);
        }
        far.write_all(&head(CHUNK, false)).unwrap();
        assert!(!receiver.poll(Deadline::after(Duration::from_millis(20))).unwrap());
        assert!(receiver.state.borrow().bytes.capacity() <= 2 * CHUNK);
    }

    #[test]
    fn a_peer_that_gives_up_without_end_does_not_keep_whoever_only_looks() {
        let (_sender, receiver, mut far) = sender();
        let writer = thread::spawn(move || {
            let many = chunk(b"", ABORT).repeat(10_000);
            while far.write_all(&many).is_ok() {}
        });
        assert!(!receiver.poll(Deadline::PASSED).unwrap());
        assert!(!receiver.poll(Deadline::after(Duration::from_millis(5))).unwrap());
        drop((receiver, _sender));
        writer.join().unwrap();
    }

    #[test]
    fn a_reset_is_the_end() {
        let ((near, near_receiver), (far, far_receiver)) = connected();
        far.send(&[b"unread"], soon()).unwrap();
        near.send(&[b"last words"], soon()).unwrap();
        drop((near, near_receiver));
        assert!(far_receiver.recv(soon(), |bytes| bytes == b"last words").unwrap());
        assert!(matches!(far_receiver.recv(soon(), |_| ()), Err(Error::Disconnected)));
        let mut tries = 0;
        while far.send(&[b"x"], soon()).is_ok() {
            tries += 1;
            assert!(tries < 1000);
            thread::sleep(Duration::from_millis(1));
        }
        assert!(matches!(far.send(&[b"x"], soon()), Err(Error::Disconnected)));
    }

    #[test]
    fn what_was_sent_arrives_even_if_the_sender_leaves_with_mail_unread() {
        let ((near, near_receiver), (far, far_receiver)) = connected();
        let unread = vec![1; 100_000];
        far.send(&[&unread], soon()).unwrap();
        let mut sent = 0;
        while near.send(&[&[2; 5000]], Deadline::PASSED).is_ok() {
            sent += 1;
        }
        drop((near, near_receiver));
        for _ in 0..sent {
            assert_eq!(far_receiver.recv(soon(), <[u8]>::len).unwrap(), 5000);
        }
        assert!(matches!(far_receiver.recv(soon(), |_| ()), Err(Error::Disconnected)));
    }

    /// Sends without end for as long as that goes.
    fn talk(sender: StreamSender) -> thread::JoinHandle<()> {
        thread::spawn(move || {
            let block = vec![2; 50_000];
            while sender.send(&[&block], Deadline::after(Duration::from_millis(500))).is_ok() {}
        })
    }

    #[test]
    fn what_was_sent_arrives_though_the_other_side_goes_on_sending() {
        type Close = fn(StreamSender, StreamReceiver);
        let ways: [Close; 4] = [
            |sender, receiver| drop((sender, receiver)),
            |sender, receiver| drop((receiver, sender)),
            |sender, receiver| {
                sender.close();
                receiver.close();
            },
            |sender, receiver| {
                receiver.close();
                sender.close();
            },
        ];
        for close in ways {
            let ((near, near_receiver), (far, far_receiver)) = connected();
            for _ in 0..5 {
                near.send(&[&[1; 100_000]], soon()).unwrap();
            }
            let talker = talk(far);
            assert!(near_receiver.poll(soon()).unwrap());
            let reader = thread::spawn(move || {
                thread::sleep(Duration::from_millis(50));
                let mut count = 0;
                while let Ok(len) = far_receiver.recv(soon(), <[u8]>::len) {
                    assert_eq!(len, 100_000);
                    count += 1;
                }
                count
            });
            close(near, near_receiver);
            assert_eq!(reader.join().unwrap(), 5);
            talker.join().unwrap();
        }
    }

    #[test]
    fn who_closes_waits_for_what_has_not_arrived_and_not_for_ever() {
        let is_quick = || {
            let ((near, near_receiver), (_far, far_receiver)) = connected();
            near.send(&[b"x"], soon()).unwrap();
            assert_eq!(far_receiver.recv(soon(), <[u8]>::len).unwrap(), 1);
            while net::unacknowledged(near.as_fd()).unwrap() > 0 {
                thread::sleep(Duration::from_millis(1));
            }
            let start = Instant::now();
            drop((near, near_receiver));
            start.elapsed() < LINGER
        };
        // Once at least, on a machine that may be busy.
        assert!((0..10).any(|_| is_quick()));

        let ((near, near_receiver), _far) = connected();
        while near.send(&[&[1; 50_000]], Deadline::PASSED).is_ok() {}
        let start = Instant::now();
        drop((near, near_receiver));
        assert!(start.elapsed() >= LINGER && start.elapsed() < HANG);
    }

    #[test]
    fn a_receiver_that_is_closed_can_be_read_and_the_sender_sends() {
        let ((near, near_receiver), (far, far_receiver)) = connected();
        far.send(&[b"unread"], soon()).unwrap();
        assert!(near_receiver.poll(soon()).unwrap());
        near_receiver.close();
        assert!(matches!(near_receiver.recv(soon(), |_| ()), Err(Error::Disconnected)));
        assert!(fd::wait_readable(near_receiver.watched(), Deadline::PASSED).unwrap());
        near.send(&[b"more"], soon()).unwrap();
        drop((near, near_receiver));
        assert!(far_receiver.recv(soon(), |bytes| bytes == b"more").unwrap());
        assert!(matches!(far_receiver.recv(soon(), |_| ()), Err(Error::Disconnected)));
    }

    #[test]
    fn what_goes_on_in_a_child_is_neither_shut_down_nor_read_here() {
        let ((near, near_receiver), (far, far_receiver)) = connected();
        far.send(&[b"for the child"], soon()).unwrap();
        assert!(near_receiver.poll(soon()).unwrap());
        // A child has a copy of the descriptor, and of what was read.
        let socket = near.as_fd().try_clone_to_owned().unwrap();
        let (sender, receiver) = (near.pass(), near_receiver.pass());
        near.passed.set(false);
        near_receiver.passed.set(false);
        near.socket.passed.store(false, Ordering::Relaxed);
        heirs::hand_over((near, near_receiver));
        let (near, near_receiver) = resume(socket, sender, receiver).unwrap();
        assert!(near_receiver.recv(soon(), |bytes| bytes == b"for the child").unwrap());
        near.send(&[b"from the child"], soon()).unwrap();
        assert!(far_receiver.recv(soon(), |bytes| bytes == b"from the child").unwrap());
        drop((near, near_receiver));
        assert!(matches!(far_receiver.recv(soon(), |_| ()), Err(Error::Disconnected)));
    }

    #[test]
    fn halves_live_in_two_threads_and_end_apart() {
        let ((near, near_receiver), (far, far_receiver)) = connected();
        let echo = thread::spawn(move || {
            while let Ok(bytes) = far_receiver.recv(soon(), <[u8]>::to_vec) {
                far.send(&[&bytes], soon()).unwrap();
            }
        });
        let reader = thread::spawn(move || {
            let mut count = 0;
            while near_receiver.recv(soon(), <[u8]>::len).is_ok() {
                count += 1;
            }
            count
        });
        for size in 0..300 {
            near.send(&[&vec![0; size * size]], soon()).unwrap();
        }
        drop(near);
        assert_eq!(reader.join().unwrap(), 300);
        echo.join().unwrap();
    }

    #[test]
    fn who_has_room_or_nobody_to_send_to_is_known_before() {
        let ((near, _keep), (_far, receiver)) = connected();
        near.ready(Deadline::PASSED).unwrap();
        while near.send(&[&[1; 50_000]], Deadline::PASSED).is_ok() {}
        assert!(matches!(near.ready(Deadline::PASSED), Err(Error::WouldBlock)));
        let moment = Deadline::after(Duration::from_millis(5));
        assert!(matches!(near.ready(moment), Err(Error::TimedOut)));
        while receiver.recv(Deadline::after(Duration::from_millis(50)), |_| ()).is_ok() {}
        near.ready(soon()).unwrap();
        near.close();
        assert!(matches!(near.ready(Deadline::PASSED), Err(Error::Disconnected)));
    }

    #[test]
    fn a_panic_of_who_takes_a_message_takes_only_that() {
        let ((near, _keep), (_far, receiver)) = connected();
        near.send(&[b"one"], soon()).unwrap();
        near.send(&[b"two"], soon()).unwrap();
        let take = || receiver.recv(soon(), |_| panic!("on purpose")).unwrap();
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(take));
        assert!(result.is_err());
        assert!(receiver.recv(soon(), |bytes| bytes == b"two").unwrap());
    }

    #[test]
    fn auto_traits() {
        fn send<T: Send>() {}
        send::<StreamSender>();
        send::<StreamReceiver>();
    }

    /// What the slices of a message are, one after the other, taken in steps of `step` bytes.
    fn collect(message: &Outgoing<'_>, step: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while bytes.len() < message.len() {
            let mut room = [IoSlice::new(&[]); SLICES];
            let count = message.slices(bytes.len(), &mut room);
            let some: Vec<u8> = room[..count].iter().flat_map(|slice| slice.to_vec()).collect();
            bytes.extend_from_slice(&some[..some.len().min(step)]);
        }
        bytes
    }

    proptest! {
        // A quarter, as each takes long; so that PROPTEST_CASES counts here too.
        #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases.div_ceil(4)))]

        #[test]
        fn slices_are_the_chunks_wherever_a_send_was_cut(
            parts in prop::collection::vec((0..3_usize, 0..70_000_usize), 0..5),
            step in 1..200_000_usize,
        ) {
            let step = step.max(2000);
            let parts: Vec<Vec<u8>> =
                parts.into_iter().map(|(byte, len)| vec![byte as u8 + 1; len * byte.min(1)]).collect();
            let whole = parts.concat();
            let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
            let message = Outgoing::new(&parts).unwrap();
            let mut expected = Vec::new();
            let mut pieces: VecDeque<&[u8]> = whole.chunks(CHUNK).collect();
            if pieces.is_empty() {
                pieces.push_back(&[]);
            }
            while let Some(piece) = pieces.pop_front() {
                expected.extend(chunk(piece, if pieces.is_empty() { LAST } else { MORE }));
            }
            prop_assert!(collect(&message, step) == expected);
        }

        #[test]
        fn what_is_owed_completes_a_chunk_that_takes_the_message_back(
            total in 0..200_000_usize,
            cut in any::<prop::sample::Index>(),
        ) {
            let bytes = vec![9; total];
            let parts = [&bytes[..]];
            let message = Outgoing::new(&parts).unwrap();
            let stream = collect(&message, usize::MAX);
            let cut = cut.index(stream.len());
            let owed = Owed::after(total, cut);
            let mut bytes = stream[..cut].to_vec();
            if owed.rest > 0 {
                bytes.extend_from_slice(&owed.head[HEAD - owed.head_left..]);
                bytes.extend(std::iter::repeat_n(0, owed.rest - 1));
                bytes.push(ABORT);
            }
            // Now the stream is chunks, of which none ends a message and the last gives it up.
            let mut rest = &bytes[..];
            let mut mark = None;
            while let Some((head, behind)) = rest.split_first_chunk() {
                let (len, _) = parse_head(*head).unwrap();
                prop_assert!(mark.is_none() || mark == Some(MORE));
                mark = Some(behind[len]);
                rest = &behind[len + 1..];
            }
            prop_assert!(rest.is_empty());
            prop_assert_eq!(mark, (cut > 0).then_some(ABORT));
        }

        #[test]
        fn received_is_what_a_model_says(
            messages in prop::collection::vec(
                (prop::collection::vec(1..300_usize, 0..5), 0..3_u8, any::<bool>()), 0..12),
            writes in prop::collection::vec(1..400_usize, 1..8),
            looks in prop::collection::vec(0..4_u8, 1..8),
        ) {
            // Messages as chunks of random sizes, some of which are given up, written in random pieces.
            let (mut far, near) = UnixStream::pair().unwrap();
            far.set_nonblocking(true).unwrap();
            let (_sender, receiver) = pair(near.into()).unwrap();
            let (mut stream, mut model) = (Vec::new(), VecDeque::new());
            for (number, (sizes, mark, empty)) in messages.into_iter().enumerate() {
                let mut whole = Vec::new();
                for size in sizes {
                    let bytes = vec![number as u8; size];
                    stream.extend(chunk(&bytes, MORE));
                    whole.extend(bytes);
                }
                let tail = if empty { Vec::new() } else { vec![0xee; 3] };
                let mark = if mark == 0 { ABORT } else { LAST };
                stream.extend(chunk(&tail, mark));
                if mark == LAST {
                    whole.extend(tail);
                    model.push_back(whole);
                }
            }
            let (mut writes, mut looks) = (writes.iter().cycle(), looks.iter().cycle());
            let mut rest = &stream[..];
            loop {
                match looks.next().unwrap() {
                    0 => {
                        let there = receiver.poll(Deadline::PASSED).unwrap();
                        prop_assert!(!there || readable(&receiver));
                    }
                    1 => if let Ok(len) = receiver.peek_len(Deadline::PASSED) {
                        prop_assert_eq!(Some(len), model.front().map(Vec::len));
                    }
                    _ => if let Ok(bytes) = receiver.recv(Deadline::PASSED, <[u8]>::to_vec) {
                        prop_assert_eq!(Some(bytes), model.pop_front());
                    }
                }
                if rest.is_empty() {
                    break;
                }
                let (now, _) = rest.split_at(rest.len().min(*writes.next().unwrap()));
                match far.write(now) {
                    Ok(count) => rest = &rest[count..],
                    // Byte by byte, and nobody takes them: then it has to be done now.
                    Err(_) => if let Ok(bytes) = receiver.recv(Deadline::PASSED, <[u8]>::to_vec) {
                        prop_assert_eq!(Some(bytes), model.pop_front());
                    }
                }
            }
            drop(far);
            while let Ok(bytes) = receiver.recv(Deadline::NEVER, <[u8]>::to_vec) {
                prop_assert_eq!(Some(bytes), model.pop_front());
            }
            prop_assert!(model.is_empty());
        }

        #[test]
        fn any_bytes_are_messages_or_an_error(
            bytes in prop::collection::vec(prop::sample::select(vec![0_u8, 1, 2, 3, 5, 255]), 0..200),
        ) {
            run_on(&bytes);
        }
    }
}

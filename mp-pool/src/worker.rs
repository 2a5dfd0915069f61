//! What a worker does, and what passes between it and the pool.
//!
//! Down a pipe of its own come functions, each once, and tasks, which name a function by its number; up come their
//! results, in the order of the tasks. A worker has several tasks waiting in its pipe. Which of them it has begun it
//! says in [`Claims`], memory that it shares with the pool, and there the pool can take back those that it has not:
//! when the worker dies, or another is idle.

use std::os::fd::OwnedFd;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use mp_core::sys::clock::monotonic_nanos;
use mp_core::sys::process;
use mp_core::sys::thread::in_forked_child;
use mp_core::{Decoder, Encoder, Message, crash_point};
use mp_pipe::{Connection, Sender};
use mp_process::Function;
use mp_shmem::RawArray;

use crate::body::{is_long, put_aside, take_aside};
use crate::call::take_reached;
use crate::claims::Claims;

/// The terminal's interrupt, signal(7).
const SIGINT: i32 = 2;

/// For so long a worker without a task lets others run before it looks again; then it sleeps.
const PATIENCE_NANOS: u64 = 30_000;

/// Each message begins with so many bytes.
pub(crate) const HEADER: usize = 16;

/// What a message to a worker begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Order {
    /// The task's number in its worker's pipe, from 1 on and around.
    pub(crate) number: u32,
    /// The function's number; what follows is the function itself where `define` is set.
    pub(crate) function: u32,
    pub(crate) define: bool,
    /// Whether the body lies in the last descriptor.
    pub(crate) aside: bool,
    /// Whether it matters when it begins.
    pub(crate) timed: bool,
}

impl Order {
    pub(crate) fn to_bytes(self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..4].copy_from_slice(&self.number.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.function.to_le_bytes());
        bytes[8] = u8::from(self.define);
        bytes[9] = u8::from(self.aside);
        bytes[10] = u8::from(self.timed);
        bytes
    }

    pub(crate) fn read(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (header, body) = bytes.split_first_chunk::<HEADER>()?;
        let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|n| header[at + n]));
        let order = Self {
            number: word(0),
            function: word(4),
            define: header[8] != 0,
            aside: header[9] != 0,
            timed: header[10] != 0,
        };
        Some((order, body))
    }
}

/// How a task ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Status {
    /// What follows is the value.
    Value = 0,
    /// What follows, here and below, is a text.
    Panicked = 1,
    Unencodable = 2,
    Undecodable = 3,
    /// Never sent: the pool could not take the value.
    Untaken = 4,
}

/// What a message from a worker begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) number: u32,
    pub(crate) status: Status,
    pub(crate) aside: bool,
    /// Which item of a chunk panicked.
    pub(crate) item: Option<u32>,
}

impl Report {
    /// As two numbers, which an encoder can put.
    pub(crate) fn to_words(self) -> (u64, u64) {
        let kind = u64::from(self.status as u8) | u64::from(self.aside) << 8;
        let item = self.item.map_or(u64::MAX, u64::from);
        (u64::from(self.number) | kind << 32, item)
    }

    pub(crate) fn read(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (first, rest) = bytes.split_first_chunk::<8>()?;
        let (second, body) = rest.split_first_chunk::<8>()?;
        let (first, second) = (u64::from_le_bytes(*first), u64::from_le_bytes(*second));
        let status = match (first >> 32) as u8 {
            0 => Status::Value,
            1 => Status::Panicked,
            2 => Status::Unencodable,
            3 => Status::Undecodable,
            _ => return None,
        };
        let aside = first >> 40 & 1 != 0;
        let item = u32::try_from(second).ok();
        Some((Self { number: first as u32, status, aside, item }, body))
    }
}

/// Whether this process is a copy of a worker, made by a task that forked. Such a copy has the worker's pipe too, but no
/// part in what comes through it.
static IS_COPY: AtomicBool = AtomicBool::new(false);

extern "C" fn is_copied() {
    // Relaxed: looked at by this thread only.
    IS_COPY.store(true, Ordering::Relaxed);
}

/// The function that a worker is started with: serves tasks until the pool closes the pipe.
pub(crate) fn serve(link: Connection<(), ()>, words: RawArray<AtomicU64>) {
    // At a terminal it comes to the whole group: what becomes of the workers is for their parent to say, whose end is
    // theirs.
    process::disregard_signal(SIGINT);
    let (sender, receiver) = link.split();
    let Some(claims) = Claims::of(words) else { return };
    static ONCE: Once = Once::new();
    // Without memory for that, a copy is not noticed.
    ONCE.call_once(|| _ = in_forked_child(is_copied));
    // This one may have been forked from a copy.
    IS_COPY.store(false, Ordering::Relaxed);
    let mut worker = Worker::new(sender, claims);
    // Ends with the pipe: closed by the pool, or with it.
    let mut idle_since = None;
    loop {
        match receiver.try_recv_message_with(|bytes, fds| worker.take(bytes, fds)) {
            Ok(Some(())) => idle_since = None,
            Err(mp_pipe::Error::WouldBlock) => {
                let since = *idle_since.get_or_insert_with(monotonic_nanos);
                if monotonic_nanos().saturating_sub(since) < PATIENCE_NANOS {
                    // The pool's threads may want this processor: to watch the pipe would deny it to them.
                    thread::yield_now();
                } else if receiver.sleep().is_err() {
                    return;
                }
            }
            Ok(None) | Err(_) => return,
        }
    }
}

pub(crate) struct Worker {
    sender: Sender<()>,
    claims: Claims,
    /// By their numbers. A text says why there is none.
    functions: Vec<Result<Function, String>>,
    /// Where results are encoded.
    buffer: Message,
}

/// A buffer up to this long is kept for the next result.
const KEPT: usize = 1 << 20;

impl Worker {
    fn new(sender: Sender<()>, claims: Claims) -> Self {
        Self { sender, claims, functions: Vec::new(), buffer: Message::default() }
    }

    /// One that knows functions already.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn knowing(functions: &[Function], sender: Sender<()>, claims: Claims) -> Self {
        let functions = functions.iter().copied().map(Ok).collect();
        Self { functions, ..Self::new(sender, claims) }
    }

    /// Does what a message says; `None` once that is of no use any more.
    pub(crate) fn take(&mut self, bytes: &[u8], mut fds: Vec<OwnedFd>) -> Option<()> {
        let (order, body) = Order::read(bytes)?;
        if order.define {
            let function = mp_core::decode(Message::new(body.to_vec(), Vec::new()));
            self.functions.push(function.map_err(|error| error.to_string()));
            crash_point!("worker: it knows a function");
            return Some(());
        }
        crash_point!("worker: a task is taken from the pipe");
        let now = order.timed.then(monotonic_nanos);
        if !self.claims.begin(order.number, now) {
            crash_point!("worker: the task was taken back");
            self.claims.pass();
            return Some(());
        }
        crash_point!("worker: the task is claimed");
        if order.aside {
            let file = fds.pop().ok_or(std::io::ErrorKind::InvalidData.into());
            match file.and_then(|file| take_aside(&file)) {
                Ok(body) => {
                    crash_point!("worker: the arguments are read from their file");
                    self.run(&order, &body, fds)?;
                }
                Err(error) => {
                    let why = format!("the arguments cannot be taken over: {error}");
                    self.fail(order.number, Status::Undecodable, None, &why)?;
                }
            }
        } else {
            self.run(&order, body, fds)?;
        }
        self.claims.end(order.number);
        Some(())
    }

    fn run(&mut self, order: &Order, body: &[u8], fds: Vec<OwnedFd>) -> Option<()> {
        let number = order.number;
        let function = match self.functions.get(order.function as usize) {
            Some(Ok(function)) => *function,
            Some(Err(why)) => {
                let why = why.clone();
                return self.fail(number, Status::Undecodable, None, &why);
            }
            None => return None,
        };
        let report = Report { number, status: Status::Value, aside: false, item: None };
        let mut result = Encoder::reuse(std::mem::take(&mut self.buffer));
        let mut arguments = Decoder::new(body, fds);
        // Two numbers can always be encoded.
        result.put(&report.to_words()).ok()?;
        crash_point!("worker: the function is about to be called");
        let called = function.try_call(&mut arguments, &mut result);
        if IS_COPY.load(Ordering::Relaxed) {
            // The task is the worker's to report. What would run at an end is of the worker too.
            process::exit_now(0);
        }
        match called {
            Ok(Ok(())) => {
                crash_point!("worker: the function has returned");
            }
            Ok(Err(mp_core::Error::Encode(why))) => {
                return self.fail(number, Status::Unencodable, None, &why);
            }
            Ok(Err(mp_core::Error::Decode(why))) => {
                return self.fail(number, Status::Undecodable, None, &why);
            }
            Ok(Err(other)) => {
                return self.fail(number, Status::Unencodable, None, &format!("{other:?}"));
            }
            Err(panic) => {
                let item = take_reached().and_then(|item| u32::try_from(item).ok());
                return self.fail(number, Status::Panicked, item, &panic);
            }
        }
        // What a worker's descriptors are of goes no further than the call.
        drop(arguments);
        let mut message = result.finish();
        if is_long(message.bytes().len() - HEADER) {
            match aside(message, report) {
                Ok(short) => {
                    crash_point!("worker: the result is put aside");
                    message = short;
                }
                Err(error) => {
                    let why = format!("the result cannot be put aside: {error}");
                    return self.fail(number, Status::Unencodable, None, &why);
                }
            }
        }
        match self.sender.send_message(&message) {
            Ok(()) => {
                crash_point!("worker: the result is sent");
            }
            Err(mp_pipe::Error::Disconnected) => return None,
            Err(error) => return self.fail(number, Status::Unencodable, None, &error.to_string()),
        }
        // Descriptors are not kept: what they are of would stay open here.
        if message.bytes().len() <= KEPT && message.fds().is_empty() {
            self.buffer = message;
        }
        Some(())
    }

    fn fail(&self, number: u32, status: Status, item: Option<u32>, why: &str) -> Option<()> {
        let (first, second) = Report { number, status, aside: false, item }.to_words();
        // A text that long says nothing more.
        let why = &why.as_bytes()[..why.len().min(32 << 10)];
        let bytes = [&first.to_le_bytes()[..], &second.to_le_bytes(), why].concat();
        crash_point!("worker: a failure is about to be sent");
        self.sender.send_bytes(&bytes).ok()?;
        crash_point!("worker: a failure is sent");
        Some(())
    }
}

/// Puts the body of a result into a file.
fn aside(message: Message, report: Report) -> std::io::Result<Message> {
    let (mut bytes, mut fds) = message.into_parts();
    fds.push(put_aside(&bytes[HEADER..])?);
    bytes.truncate(HEADER);
    let (first, second) = Report { aside: true, ..report }.to_words();
    bytes[..8].copy_from_slice(&first.to_le_bytes());
    bytes[8..].copy_from_slice(&second.to_le_bytes());
    Ok(Message::new(bytes, fds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn headers_come_back(number: u32, function: u32, define: bool, aside: bool, timed: bool, item: Option<u32>) {
            let order = Order { number, function, define, aside, timed };
            let bytes = order.to_bytes();
            prop_assert_eq!(Order::read(&bytes), Some((order, &[][..])));
            for status in
                [Status::Value, Status::Panicked, Status::Unencodable, Status::Undecodable]
            {
                let report = Report { number, status, aside, item };
                let (first, second) = report.to_words();
                let bytes = [first.to_le_bytes(), second.to_le_bytes()].concat();
                prop_assert_eq!(Report::read(&bytes), Some((report, &[][..])));
            }
        }

        #[test]
        fn any_bytes_are_a_header_or_none(bytes: Vec<u8>) {
            let _ = Order::read(&bytes);
            let _ = Report::read(&bytes);
        }
    }
}

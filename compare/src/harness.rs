//! What a case and its rows are, and the loops that all rows of a case share, so that what is timed is the same.
//!
//! A message begins with a word, its tag: [`END`], [`START`], or a number that is summed. So a receiver needs no
//! count to know when to stop, and what it summed is held against what was sent.

use std::error::Error;
use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::raw::process::{self, Report, now};
use crate::raw::shared::shared;

/// One thing that is measured, in several ways.
pub struct Case {
    pub name: &'static str,
    /// What it is, for the report.
    pub what: &'static str,
    pub unit: Unit,
    pub setup: Setup,
    pub rows: &'static [Row],
}

/// One way to do it.
pub struct Row {
    pub name: &'static str,
    pub kind: Kind,
    pub waits: Waits,
    /// Runs in a process of its own.
    pub run: fn(&Run) -> Outcome,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Ours,
    /// A peer: other libraries between processes.
    Process,
    /// Threads, for reference: they share what processes must carry.
    Thread,
    /// The mechanism alone: the limit.
    Raw,
}

/// What the one that has nothing to do does: burn its core, or sleep in the kernel.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Waits {
    Polls,
    Sleeps,
    /// Polls for a moment, then sleeps.
    Both,
    /// There is nothing to wait for.
    No,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    Nanoseconds,
    Microseconds,
    KiB,
    PerSecond,
    GiBPerSecond,
}

impl Unit {
    pub fn more_is_better(self) -> bool {
        matches!(self, Unit::PerSecond | Unit::GiBPerSecond)
    }
}

/// The numbers in which cases with the same rows differ.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub struct Setup {
    /// Bytes of a message.
    pub size: usize,
    pub cores: Cores,
    pub producers: usize,
    pub consumers: usize,
    /// Whether the operation is a write.
    pub write: bool,
}

impl Setup {
    pub const PLAIN: Setup =
        Setup { size: 8, cores: Cores::Any, producers: 1, consumers: 1, write: false };
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cores {
    /// Where the scheduler likes.
    Any,
    /// Each side on a core of its own.
    Two,
    /// Both on one.
    One,
}

/// What a row gets, and can hand on to processes.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub struct Run {
    pub setup: Setup,
    /// How long to measure.
    pub time: Duration,
}

impl Run {
    /// Binds the calling thread, which is side 0 or 1, to the core that the case wants for it.
    pub fn pin(&self, side: usize) {
        let side = match self.setup.cores {
            Cores::Any => return,
            Cores::One => 0,
            Cores::Two => side,
        };
        process::pin(process::cores()[side]);
    }
}

#[derive(Clone, Copy)]
pub struct Figure {
    pub value: f64,
    pub p99: Option<f64>,
}

impl From<f64> for Figure {
    fn from(value: f64) -> Self {
        Figure { value, p99: None }
    }
}

pub type Outcome = Result<Figure, Box<dyn Error>>;

/// Says that a row cannot run on this machine: no failure.
#[derive(Debug)]
pub struct NotHere(pub String);

impl fmt::Display for NotHere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for NotHere {}

pub const END: u64 = 0;
pub const START: u64 = 1;
const FIRST: u64 = 2;

fn check(what: &str, got: u64, sent: u64) -> Result<(), String> {
    if got == sent { Ok(()) } else { Err(format!("{what} received: {got}, sent: {sent}")) }
}

/// The median and the 99th percentile of nanoseconds, in microseconds.
pub fn percentiles(mut times: Vec<u64>) -> Figure {
    assert!(!times.is_empty());
    times.sort_unstable();
    let at = |part: usize| times[(times.len() - 1) * part / 100] as f64 / 1000.0;
    Figure { value: at(50), p99: Some(at(99)) }
}

/// Times `step` until the time is over, 3 times at least.
pub fn each(run: &Run, mut step: impl FnMut()) -> Figure {
    step();
    let mut times = Vec::new();
    let begin = Instant::now();
    while times.len() < 3 || begin.elapsed() < run.time {
        let start = now();
        step();
        times.push(now() - start);
    }
    percentiles(times)
}

/// How many things a second, where `batch` does some and says how many.
pub fn rate(run: &Run, mut batch: impl FnMut() -> u64) -> Figure {
    let warm = Instant::now();
    while warm.elapsed() < run.time / 5 {
        batch();
    }
    let (start, mut done) = (Instant::now(), 0);
    while done == 0 || start.elapsed() < run.time {
        done += batch();
    }
    Figure::from(done as f64 / start.elapsed().as_secs_f64())
}

// Round trips.

/// Times round trips: `trip` sends a word and gives the answer, which is to be the same word.
pub fn trips(run: &Run, mut trip: impl FnMut(u64) -> u64) -> Outcome {
    run.pin(0);
    // Mapped before the clock runs.
    let mut times = vec![1_u64; 1 << 21];
    times.clear();
    let mut word = FIRST;
    for time in [run.time / 5, run.time] {
        times.clear();
        let begin = now();
        let mut last = begin;
        while last - begin < time.as_nanos() as u64 && times.len() < times.capacity() {
            let answer = trip(word);
            let after = now();
            check("answer", answer, word)?;
            times.push(after - last);
            (last, word) = (after, word + 1);
        }
    }
    trip(END);
    Ok(percentiles(times))
}

/// The other side: `answer` receives a word, sends it back and gives it, until the end.
pub fn echo(run: &Run, mut answer: impl FnMut() -> u64) -> Report {
    run.pin(1);
    while answer() != END {}
    [0; 4]
}

/// A round trip between this process and a forked one.
pub fn forked_trips(
    run: &Run,
    answer: impl FnMut() -> u64,
    trip: impl FnMut(u64) -> u64,
) -> Outcome {
    let child = process::fork(|| echo(run, answer));
    let figure = trips(run, trip)?;
    child.join()?;
    Ok(figure)
}

// Streams.

/// What a receiver made of a message.
#[derive(Clone, Copy)]
pub struct Got {
    tag: u64,
    /// The sum of all words, the tag included.
    sum: u64,
}

impl Got {
    /// Sums a message where it lies.
    #[inline(always)]
    pub fn of(message: &[u8]) -> Got {
        let (words, _) = message.as_chunks::<8>();
        let sum =
            words.iter().fold(0, |sum: u64, word| sum.wrapping_add(u64::from_ne_bytes(*word)));
        Got { tag: u64::from_ne_bytes(words[0]), sum }
    }

    #[inline(always)]
    pub fn word(word: u64) -> Got {
        Got { tag: word, sum: word }
    }

    pub fn is_end(&self) -> bool {
        self.tag == END
    }
}

/// A message of the run's size. Its words after the first are ones.
pub fn message(run: &Run) -> Vec<u8> {
    1_u64.to_ne_bytes().repeat(run.setup.size / 8)
}

pub fn with_tag(message: &mut [u8], tag: u64) -> &[u8] {
    message[..8].copy_from_slice(&tag.to_ne_bytes());
    message
}

/// What the words after the first add to the sum of each message.
fn rest(run: &Run) -> u64 {
    run.setup.size as u64 / 8 - 1
}

/// How many messages go by between two looks at the clock.
fn stride(run: &Run) -> u64 {
    if run.setup.size <= 1024 { 128 } else { 1 }
}

/// Sends data for `time`. Gives how many messages, and their sum.
fn burst(run: &Run, time: Duration, send: &mut impl FnMut(u64)) -> (u64, u64) {
    let (begin, mut tag, mut sum) = (Instant::now(), FIRST, 0_u64);
    while begin.elapsed() < time {
        for _ in 0..stride(run) {
            send(tag);
            sum = sum.wrapping_add(tag + rest(run));
            tag += 1;
        }
    }
    (tag - FIRST, sum)
}

/// The sending side of a stream: some to warm up, then what is measured. Gives what the receiver is to count.
pub fn sender(run: &Run, mut send: impl FnMut(u64)) -> (u64, u64) {
    run.pin(0);
    burst(run, run.time / 5, &mut send);
    send(START);
    let sent = burst(run, run.time, &mut send);
    send(END);
    sent
}

/// The receiving side. Reports the count, the sum, and the nanoseconds between start and end.
pub fn receiver(run: &Run, mut next: impl FnMut() -> Got) -> Report {
    run.pin(1);
    while next().tag != START {}
    let start = now();
    let (mut count, mut sum) = (0, 0_u64);
    loop {
        let got = next();
        if got.tag == END {
            return [count, sum, now() - start, 0];
        }
        count += 1;
        sum = sum.wrapping_add(got.sum);
    }
}

/// What a stream came to, once what arrived is what was sent: messages a second, or GiB where they are large.
pub fn streamed(run: &Run, sent: (u64, u64), report: Report) -> Outcome {
    let [count, sum, nanos, _] = report;
    check("messages", count, sent.0)?;
    check("sum", sum, sent.1)?;
    let messages = count as f64 / (nanos as f64 / 1e9);
    let large = run.setup.size > 1024;
    Ok(if large { messages * run.setup.size as f64 / GIB } else { messages }.into())
}

pub const GIB: f64 = (1_u64 << 30) as f64;

/// A stream from this process to a forked one, by tags: `send` sends a message, `next` gives what came.
pub fn forked_stream(run: &Run, send: impl FnMut(u64), next: impl FnMut() -> Got) -> Outcome {
    let child = process::fork(|| receiver(run, next));
    let sent = sender(run, send);
    streamed(run, sent, child.join()?)
}

/// A stream by bytes: `recv` copies a message into the receiver's buffer, which is summed.
pub fn forked_byte_stream(
    run: &Run,
    mut send: impl FnMut(&[u8]),
    mut recv: impl FnMut(&mut [u8]),
) -> Outcome {
    let (mut out, mut buffer) = (message(run), message(run));
    forked_stream(
        run,
        |tag| send(with_tag(&mut out, tag)),
        || {
            recv(&mut buffer);
            Got::of(&buffer)
        },
    )
}

// Queues.

/// Where those who are to begin together wait for each other. Threads and forked processes share it.
#[derive(Clone, Copy)]
pub struct Gate {
    arrived: &'static AtomicU32,
    parties: u32,
}

impl Gate {
    pub fn new(parties: usize) -> Self {
        // SAFETY: a mapping of zeros that stays, of which nothing else is used.
        let arrived = unsafe { &*shared(size_of::<AtomicU32>()).cast::<AtomicU32>() };
        Self { arrived, parties: parties as u32 }
    }

    /// Waits until all are here.
    pub fn wait(self) {
        self.arrived.fetch_add(1, Ordering::AcqRel);
        while self.arrived.load(Ordering::Acquire) < self.parties {
            std::thread::sleep(Duration::from_micros(100));
        }
    }
}

/// A producer. `gate` waits for the others. Reports how many messages it sent, their sum, and when it began.
pub fn producer(run: &Run, gate: impl FnOnce(), mut send: impl FnMut(u64)) -> Report {
    gate();
    let start = now();
    let (count, sum) = burst(run, run.time, &mut send);
    [count, sum, start, 0]
}

/// A consumer. Reports the count, the sum, and when it got the last.
pub fn consumer(mut next: impl FnMut() -> Got) -> Report {
    let (mut count, mut sum) = (0, 0_u64);
    loop {
        let got = next();
        if got.tag == END {
            return [count, sum, now(), 0];
        }
        count += 1;
        sum = sum.wrapping_add(got.sum);
    }
}

/// What a queue came to: messages a second, from the first producer's start until the last consumer had all.
pub fn queued(sent: &[Report], got: &[Report]) -> Outcome {
    let sum = |reports: &[Report], index: usize| {
        reports.iter().fold(0_u64, |sum, report| sum.wrapping_add(report[index]))
    };
    check("messages", sum(got, 0), sum(sent, 0))?;
    check("sum", sum(got, 1), sum(sent, 1))?;
    let start = sent.iter().map(|report| report[2]).min().ok_or("no producer")?;
    let end = got.iter().map(|report| report[2]).max().ok_or("no consumer")?;
    Ok((sum(got, 0) as f64 / ((end - start) as f64 / 1e9)).into())
}

/// A queue between forked processes. Each makes its own end, with its number; this process makes one more
/// producer, which ends the consumers.
pub fn forked_queue<S: FnMut(u64), N: FnMut() -> Got>(
    run: &Run,
    make_send: impl Fn(usize) -> S,
    make_next: impl Fn(usize) -> N,
) -> Outcome {
    let Setup { producers, consumers, .. } = run.setup;
    let gate = Gate::new(producers);
    let receive = |index| process::fork(|| consumer(make_next(index)));
    let receivers: Vec<_> = (0..consumers).map(receive).collect();
    let send = |index| process::fork(|| producer(run, || gate.wait(), make_send(index)));
    let senders: Vec<_> = (0..producers).map(send).collect();
    let join = |children: Vec<process::Forked>| {
        children.into_iter().map(process::Forked::join).collect::<Result<Vec<_>, _>>()
    };
    let sent = join(senders)?;
    let mut end = make_send(producers);
    (0..consumers).for_each(|_| end(END));
    queued(&sent, &join(receivers)?)
}

// Clients of a server.

/// What a client does: `set` stores three times the key and gives anything; `get` gives what is stored.
pub trait Client {
    fn set(&mut self, key: u64, value: u64);
    fn get(&mut self, key: u64) -> u64;
}

const KEYS: u64 = 1000;

/// One client of several, which `gate` waits for. Reports how many operations it did, and when it began and ended.
pub fn client(run: &Run, gate: impl FnOnce(), mut client: impl Client) -> Report {
    for key in 0..KEYS {
        client.set(key, key * 3);
    }
    gate();
    let start = now();
    let end = start + run.time.as_nanos() as u64;
    let mut count = 0;
    while now() < end {
        for key in (0..KEYS).step_by(50) {
            let key = (key + count) % KEYS;
            if run.setup.write {
                client.set(key, key * 3);
            } else {
                assert_eq!(client.get(key), key * 3);
            }
        }
        count += KEYS / 50;
    }
    [count, start, now(), 0]
}

/// Clients in forked processes, each of which makes its own. Operations a second of all together.
pub fn forked_clients<C: Client>(run: &Run, make: impl Fn(usize) -> C) -> Outcome {
    let gate = Gate::new(run.setup.producers);
    let fork = |index| process::fork(|| client(run, || gate.wait(), make(index)));
    let clients: Vec<_> = (0..run.setup.producers).map(fork).collect();
    let reports = clients.into_iter().map(process::Forked::join).collect::<Result<Vec<_>, _>>()?;
    served(&reports)
}

/// What the clients of a server did, a second.
pub fn served(reports: &[Report]) -> Outcome {
    let count: u64 = reports.iter().map(|report| report[0]).sum();
    let start = reports.iter().map(|report| report[1]).min().ok_or("no client")?;
    let end = reports.iter().map(|report| report[2]).max().ok_or("no client")?;
    Ok((count as f64 / ((end - start) as f64 / 1e9)).into())
}

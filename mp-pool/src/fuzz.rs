//! Any bytes as what passes between a pool and its workers: for fuzzing, and to replay what that has kept.

use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};

use mp_core::sys::mem;
use mp_core::{Fd, Message};
use mp_pipe::{Connection, Receiver};
use mp_process::Function;

use crate::body::{Body, put_aside};
use crate::call::{Begin, Each, EachOf, Once};
use crate::claims::Claims;
use crate::engine::{Done, Job, Name, deliver};
use crate::local::{Answer, Queue, Sent, answer, receive, take_back};
use crate::result::{Outcome, Sink, decode_chunk, decode_one, lock};
use crate::wire;
use crate::worker::{HEADER, Order, Report, Worker};

/// How many tasks the pool has sent.
const TASKS: usize = 8;

/// What became of each task.
#[derive(Default)]
struct Ends(Mutex<Vec<(usize, Outcome)>>);

impl Sink for Ends {
    fn deliver(&self, part: usize, outcome: Outcome) {
        lock(&self.0).push((part, outcome));
    }
}

/// What a worker knows: functions of all conventions, of arguments of all sorts, and of none.
fn functions() -> [Function; 6] {
    [
        Function::new::<_, Once<(u32, String)>>(|n: u32, text: String| (text, n)),
        Function::new::<_, Once<(Fd,)>>(|fd: Fd| Some(fd)),
        Function::new::<_, Begin<(Vec<u8>,)>>(|_: Vec<u8>| {}),
        Function::new::<_, Each<Option<u16>>>(|n: Option<u16>| n),
        Function::new::<_, EachOf<(u8, String)>>(|n: u8, text: String| text.len() + usize::from(n)),
        Function::new::<_, EachOf<()>>(|| ()),
    ]
}

/// A job that nobody waits for.
fn job(ends: &Arc<Ends>, part: usize) -> Job {
    let function = (Function::new::<_, Once<()>>(|| ()), (|| "f") as Name);
    let sink = Arc::clone(ends) as Arc<dyn Sink>;
    Job::new(function, Some((10, part)), Body::with(vec![1], Vec::new()), sink, part)
}

/// Descriptors of all sorts.
fn descriptors(kind: u8, body: &[u8]) -> Vec<OwnedFd> {
    let file = || put_aside(body).expect("memory");
    match kind & 7 {
        1 => vec![file()],
        2 => {
            let holes = File::from(mem::memfd(c"holes").expect("memory"));
            let size = body.first().map_or(0, |size| 1 << (size % 43));
            holes.set_len(size).expect("no memory yet");
            vec![holes.into()]
        }
        3 => vec![File::open("/dev/null").expect("it is there").into()],
        // From which nothing will come for as long as the other end is open.
        4 => {
            let (reader, writer) = std::io::pipe().expect("descriptors");
            vec![writer.into(), reader.into()]
        }
        5 => vec![file(), file()],
        _ => Vec::new(),
    }
}

/// The pool's side of one worker.
struct Parent {
    receiver: Receiver<()>,
    sent: Queue,
}

impl Parent {
    fn new(link: Connection<(), ()>, sent: Queue) -> Self {
        Self { receiver: link.split().1, sent }
    }

    /// Takes the reports that have come. Gives how many; a pool hears of no more where that is `None`.
    fn listen(&mut self) -> Option<usize> {
        let mut reports = 0;
        loop {
            match receive(&self.receiver) {
                Ok(Some((report, body))) => {
                    reports += 1;
                    if let Answer::Ended(end) = answer(&mut self.sent, report, body) {
                        let end: Vec<Done> = vec![end];
                        deliver(end);
                    }
                }
                Err(mp_pipe::Error::WouldBlock) => return Some(reports),
                Ok(None) | Err(_) => return None,
            }
        }
    }
}

/// Reads an outcome as whoever waits for it would, as all types.
fn read(outcome: &Outcome) {
    let _ = decode_one::<u32>(outcome);
    let _ = decode_one::<(String, Option<u64>)>(outcome);
    let _ = decode_one::<Vec<()>>(outcome);
    let _ = decode_one::<Fd>(outcome);
    let _ = decode_chunk::<u64>(outcome, &mut Vec::new());
    let _ = decode_chunk::<Vec<String>>(outcome, &mut Vec::new());
    if let Err(error) = outcome {
        let _ = error.to_string();
    }
}

/// Both sides get messages, each of which is: what kind it is, two numbers for its header, how long it is, and its body.
pub(crate) fn run_on(bytes: &[u8]) {
    let ends = Arc::new(Ends::default());
    let claims = Claims::new().expect("memory");
    let (ours, theirs) = mp_pipe::duplex::<(), ()>().expect("descriptors");
    let (scribbler, theirs) = (theirs.split().0, ours);
    let start = std::iter::once((1, Sent::Start));
    let tasks = (0..TASKS).map(|part| (part as u32 + 2, Sent::Task(job(&ends, part))));
    let mut parent = Parent::new(theirs, start.chain(tasks).collect());
    // What a whole worker answers, to a pool that has sent nothing.
    let (ours, theirs) = mp_pipe::duplex::<(), ()>().expect("descriptors");
    let mut worker = Worker::knowing(&functions(), theirs.split().0, claims.clone());
    let mut elsewhere = Parent::new(ours, VecDeque::new());
    let mut number: u32 = 0;
    let mut extra = TASKS;

    let mut rest: VecDeque<u8> = bytes.iter().copied().collect();
    while rest.len() >= 4 {
        let mut next = || rest.pop_front().unwrap_or(0);
        let (kind, first, second, len) = (next(), next(), next(), next());
        let len = usize::from(len).min(rest.len());
        let body: Vec<u8> = rest.drain(..len).collect();
        let fds = descriptors(kind >> 3, &body);
        match kind & 7 {
            // A report, near what is expected, or any bytes.
            way @ (0 | 1) => {
                let bytes = if way == 0 {
                    let expected = parent.sent.front().map_or(0, |(number, _)| *number);
                    let number = expected.wrapping_add(u32::from(first >> 6));
                    let kind = u64::from(first & 7) | u64::from(first >> 3 & 1) << 8;
                    let words = [u64::from(number) | kind << 32, u64::from(second)];
                    [&words.map(u64::to_le_bytes).concat()[..], &body].concat()
                } else {
                    body
                };
                let _ = scribbler.try_send_message(&Message::new(bytes, fds));
                if parent.listen().is_none() {
                    break;
                }
            }
            // An order, or any bytes that are not a function, which say what is to run.
            way @ (2 | 3) => {
                let bytes = if way == 2 {
                    number = number.wrapping_add(u32::from(first >> 4));
                    let order = Order {
                        number,
                        function: u32::from(second & 7),
                        define: false,
                        aside: first & 1 != 0,
                        timed: first & 2 != 0,
                    };
                    [&order.to_bytes()[..], &body].concat()
                } else {
                    body
                };
                let is_function = |body: &[u8]| {
                    mp_core::decode::<Function>(Message::new(body.to_vec(), Vec::new())).is_ok()
                };
                if Order::read(&bytes)
                    .is_some_and(|(order, body)| order.define && is_function(body))
                {
                    continue;
                }
                let goes_on = worker.take(&bytes, fds).is_some();
                let reports = elsewhere.listen().expect("a worker sends reports");
                assert!(reports <= 1, "{reports} reports of one task");
                if !goes_on {
                    break;
                }
            }
            // The claims are written over, and the pool takes back what it sees there.
            4 => {
                for (word, bytes) in claims.memory().iter().zip(body.chunks_exact(8)) {
                    word.store(u64::from_le_bytes(bytes.try_into().expect("eight")), Relaxed);
                }
                if first & 1 != 0 {
                    let begun = claims.take_back(u32::from(second));
                    drop(take_back(&mut parent.sent, begun));
                }
            }
            // What engines send from machine to machine.
            5 => {
                let _ = wire::read(&body);
                job(&ends, extra).end_with_bytes(body);
                extra += 1;
            }
            _ => {
                if let Some((report, rest)) = Report::read(&body) {
                    let (first, second) = report.to_words();
                    let again = [first.to_le_bytes(), second.to_le_bytes()].concat();
                    assert_eq!(again.len() + rest.len(), HEADER + rest.len());
                    assert_eq!(Report::read(&again), Some((report, &[][..])), "as it was");
                }
            }
        }
    }
    // The worker is dead: what it had begun is lost, the rest goes back.
    drop(take_back(&mut parent.sent, claims.begun()));
    drop(parent);
    let ends = std::mem::take(&mut *lock(&ends.0));
    let mut parts: Vec<usize> = ends.iter().map(|(part, _)| *part).collect();
    parts.sort_unstable();
    assert!(parts.into_iter().eq(0..extra), "each task ends, and once");
    ends.iter().for_each(|(_, outcome)| read(outcome));
}

//! Queues from 1 or 4 producers to 1 or 4 consumers, each in a process of its own. Every item arrives once.
//!
//! iceoryx2 has no queue: its publish-subscribe tells everybody everything.

use std::cell::RefCell;

use crossbeam_channel::bounded;
use ipc_channel::ipc::{self, IpcBytesReceiver, IpcBytesSender, IpcReceiver, IpcSender};
use multiprocess::sync::Barrier;
use multiprocess::{Process, Queue};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::python::python;
use crate::harness::{
    Case, END, Gate, Got, Kind, Outcome, Row, Run, Setup, Unit, Waits, consumer, forked_queue,
    message, producer, queued, with_tag,
};
use crate::raw::mpmc::Mpmc;
use crate::raw::pipes;
use crate::raw::process::{self, Report};
use crate::raw::shared::Wait;

const fn case(
    name: &'static str,
    what: &'static str,
    producers: usize,
    consumers: usize,
    size: usize,
) -> Case {
    let setup = Setup { size, producers, consumers, ..Setup::PLAIN };
    Case { name, what, unit: Unit::PerSecond, setup, rows: &ROWS }
}

pub const CASES: [Case; 6] = [
    case("queue_1p1c_8B", "words from 1 producer to 1 consumer", 1, 1, 8),
    case("queue_4p1c_8B", "words from 4 producers to 1 consumer", 4, 1, 8),
    case("queue_4p4c_8B", "words from 4 producers to 4 consumers", 4, 4, 8),
    case("queue_1p1c_1KiB", "1 KiB from 1 producer to 1 consumer", 1, 1, 1 << 10),
    case("queue_4p1c_1KiB", "1 KiB from 4 producers to 1 consumer", 4, 1, 1 << 10),
    case("queue_4p4c_1KiB", "1 KiB from 4 producers to 4 consumers", 4, 4, 1 << 10),
];

const ROWS: [Row; 11] = [
    Row { name: "Queue, unbounded", kind: Kind::Ours, waits: Waits::Both, run: unbounded },
    Row { name: "Queue, bounded", kind: Kind::Ours, waits: Waits::Both, run: of_capacity },
    Row {
        name: "Queue, unbounded, put_many and get_many",
        kind: Kind::Ours,
        waits: Waits::Both,
        run: many,
    },
    Row { name: "ipc-channel", kind: Kind::Process, waits: Waits::Sleeps, run: ipc_queue },
    Row {
        name: "CPython Queue",
        kind: Kind::Process,
        waits: Waits::Sleeps,
        run: |run| python(run, "queue", &["Queue"]),
    },
    Row {
        name: "CPython SimpleQueue",
        kind: Kind::Process,
        waits: Waits::Sleeps,
        run: |run| python(run, "queue", &["SimpleQueue"]),
    },
    Row { name: "crossbeam-channel", kind: Kind::Thread, waits: Waits::Both, run: crossbeam },
    Row {
        name: "shared memory slots, yielding",
        kind: Kind::Raw,
        waits: Waits::Polls,
        run: |run| slots(run, Wait::Poll),
    },
    Row {
        name: "shared memory slots, futex for each",
        kind: Kind::Raw,
        waits: Waits::Both,
        run: |run| slots(run, Wait::Futex),
    },
    Row { name: "one kernel pipe", kind: Kind::Raw, waits: Waits::Sleeps, run: one_pipe },
    Row {
        name: "one socketpair, seqpacket",
        kind: Kind::Raw,
        waits: Waits::Sleeps,
        run: one_socket,
    },
];

/// What is in a queue of ours: words as they are, larger messages as vectors.
trait Item: Serialize + DeserializeOwned + 'static {
    fn make(out: &mut Vec<u8>, tag: u64) -> Self;
    fn look(&self) -> Got;
}

impl Item for u64 {
    fn make(_: &mut Vec<u8>, tag: u64) -> Self {
        tag
    }

    fn look(&self) -> Got {
        Got::word(*self)
    }
}

impl Item for Vec<u8> {
    fn make(out: &mut Vec<u8>, tag: u64) -> Self {
        with_tag(out, tag).to_vec()
    }

    fn look(&self) -> Got {
        Got::of(self)
    }
}

fn meet(gate: &Barrier) {
    gate.wait().expect("all come");
}

fn put_each<T: Item>(run: Run, gate: Barrier, queue: Queue<T>) -> Report {
    let mut out = message(&run);
    producer(&run, || meet(&gate), |tag| queue.put(T::make(&mut out, tag)).expect("puts"))
}

fn get_each<T: Item>(queue: Queue<T>) -> Report {
    consumer(|| queue.get().expect("gets").look())
}

/// How many at once. A producer looks at the clock after each 128, so that none are left over.
const MANY: usize = 64;

fn put_some<T: Item>(run: Run, gate: Barrier, queue: Queue<T>) -> Report {
    let (mut out, mut some) = (message(&run), Vec::with_capacity(MANY));
    producer(
        &run,
        || meet(&gate),
        |tag| {
            some.push(T::make(&mut out, tag));
            if some.len() == MANY {
                queue.put_many(some.drain(..)).expect("puts");
            }
        },
    )
}

fn get_some<T: Item>(queue: Queue<T>) -> Report {
    let mut some = Vec::new().into_iter();
    consumer(|| {
        let item: T = some.next().unwrap_or_else(|| {
            some = queue.get_many(MANY).expect("gets").into_iter();
            some.next().expect("one at least")
        });
        let got = item.look();
        if got.is_end() {
            // Behind an end there are only ends, which are the others'.
            queue.put_many(some.by_ref()).expect("puts");
        }
        got
    })
}

/// Producers and consumers in processes of their own; this one ends the consumers.
fn ours<T: Item>(
    run: &Run,
    queue: Queue<T>,
    put: impl Fn(Run, Barrier, Queue<T>) -> Report + Copy + 'static,
    get: impl Fn(Queue<T>) -> Report + Copy + 'static,
) -> Outcome {
    let Setup { producers, consumers, .. } = run.setup;
    let gate = Barrier::new(producers)?;
    let receive = |_| Process::new(get, (queue.clone(),)).start();
    let receivers = (0..consumers).map(receive).collect::<Result<Vec<_>, _>>()?;
    let send = |_| Process::new(put, (*run, gate.clone(), queue.clone())).start();
    let senders = (0..producers).map(send).collect::<Result<Vec<_>, _>>()?;
    let join = |children: Vec<multiprocess::Child<Report>>| {
        children.into_iter().map(multiprocess::Child::result).collect::<Result<Vec<_>, _>>()
    };
    let sent = join(senders)?;
    for _ in 0..consumers {
        queue.put(T::make(&mut message(run), END)).expect("puts");
    }
    queued(&sent, &join(receivers)?)
}

fn unbounded(run: &Run) -> Outcome {
    if run.setup.size == 8 {
        ours(run, Queue::<u64>::unbounded()?, put_each, get_each)
    } else {
        ours(run, Queue::<Vec<u8>>::unbounded()?, put_each, get_each)
    }
}

fn of_capacity(run: &Run) -> Outcome {
    if run.setup.size == 8 {
        ours(run, Queue::<u64>::bounded(4096)?, put_each, get_each)
    } else {
        ours(run, Queue::<Vec<u8>>::bounded(1024)?, put_each, get_each)
    }
}

fn many(run: &Run) -> Outcome {
    if run.setup.size == 8 {
        ours(run, Queue::<u64>::unbounded()?, put_some, get_some)
    } else {
        ours(run, Queue::<Vec<u8>>::unbounded()?, put_some, get_some)
    }
}

/// Sending and receiving ends of ipc-channel for either size.
enum IpcSend {
    Word(IpcSender<u64>),
    Bytes(IpcBytesSender, Vec<u8>),
}

enum IpcRecv {
    Word(IpcReceiver<u64>),
    Bytes(IpcBytesReceiver),
}

impl IpcSend {
    fn send(&mut self, tag: u64) {
        match self {
            Self::Word(sender) => sender.send(tag).expect("sends"),
            Self::Bytes(sender, out) => sender.send(with_tag(out, tag)).expect("sends"),
        }
    }

    fn another(&self) -> Self {
        match self {
            Self::Word(sender) => Self::Word(sender.clone()),
            Self::Bytes(sender, out) => Self::Bytes(sender.clone(), out.clone()),
        }
    }
}

impl IpcRecv {
    fn next(&mut self) -> Got {
        match self {
            Self::Word(receiver) => Got::word(receiver.recv().expect("receives")),
            Self::Bytes(receiver) => Got::of(&receiver.recv().expect("receives")),
        }
    }

    /// Hands the next message on as it is; true at the end.
    fn forward(&mut self, to: &mut IpcSend) -> bool {
        match (self, to) {
            (Self::Word(from), IpcSend::Word(to)) => {
                let word = from.recv().expect("receives");
                to.send(word).expect("sends");
                word == END
            }
            (Self::Bytes(from), IpcSend::Bytes(to, _)) => {
                let bytes = from.recv().expect("receives");
                to.send(&bytes).expect("sends");
                bytes[..8] == END.to_ne_bytes()
            }
            _ => unreachable!("both are of one kind"),
        }
    }
}

fn ipc_channel(run: &Run) -> std::io::Result<(IpcSend, IpcRecv)> {
    if run.setup.size == 8 {
        let (sender, receiver) = ipc::channel()?;
        return Ok((IpcSend::Word(sender), IpcRecv::Word(receiver)));
    }
    let (sender, receiver) = ipc::bytes_channel()?;
    Ok((IpcSend::Bytes(sender, message(run)), IpcRecv::Bytes(receiver)))
}

/// A channel has one consumer: for four, one more process deals out what it gets.
fn ipc_queue(run: &Run) -> Outcome {
    let (sender, receiver) = ipc_channel(run)?;
    let receiver = RefCell::new(Some(receiver));
    let make_send = |_| {
        let mut sender = sender.another();
        move |tag| sender.send(tag)
    };
    // Each process has its own copy of the cell, and takes the one receiver that it uses.
    if run.setup.consumers == 1 {
        return forked_queue(run, make_send, |_| {
            let mut receiver = receiver.take().expect("one consumer");
            move || receiver.next()
        });
    }
    let dealt: Vec<_> =
        (0..run.setup.consumers).map(|_| ipc_channel(run)).collect::<Result<_, _>>()?;
    let (mut outs, ins): (Vec<_>, Vec<_>) = dealt.into_iter().unzip();
    let ins = RefCell::new(ins);
    let dealer = process::fork(|| {
        let mut receiver = receiver.take().expect("one dealer");
        let mut ended = 0;
        // Once the producers have ended there are only ends, one for each consumer, which get one in turn.
        for index in (0..outs.len()).cycle() {
            if receiver.forward(&mut outs[index]) {
                ended += 1;
                if ended == outs.len() {
                    break;
                }
            }
        }
        [0; 4]
    });
    let outcome = forked_queue(run, make_send, |index| {
        let mut receiver = ins.borrow_mut().remove(index);
        move || receiver.next()
    });
    dealer.join()?;
    outcome
}

fn crossbeam(run: &Run) -> Outcome {
    fn threads<T: Send>(
        run: &Run,
        capacity: usize,
        make: impl Fn(&mut Vec<u8>, u64) -> T + Sync,
        look: impl Fn(&T) -> Got + Sync,
    ) -> Outcome {
        let (to, from) = bounded::<T>(capacity);
        let gate = Gate::new(run.setup.producers);
        let (make, look) = (&make, &look);
        std::thread::scope(|scope| {
            let receive = |_| {
                let from = from.clone();
                scope.spawn(move || consumer(|| look(&from.recv().expect("receives"))))
            };
            let receivers: Vec<_> = (0..run.setup.consumers).map(receive).collect();
            let send = |_| {
                let (to, mut out) = (to.clone(), message(run));
                scope.spawn(move || {
                    producer(
                        run,
                        || gate.wait(),
                        |tag| to.send(make(&mut out, tag)).expect("sends"),
                    )
                })
            };
            let senders: Vec<_> = (0..run.setup.producers).map(send).collect();
            let join = |threads: Vec<std::thread::ScopedJoinHandle<'_, _>>| {
                threads.into_iter().map(|thread| thread.join().expect("joins")).collect::<Vec<_>>()
            };
            let sent = join(senders);
            for _ in 0..run.setup.consumers {
                to.send(make(&mut message(run), END)).expect("sends");
            }
            queued(&sent, &join(receivers))
        })
    }
    if run.setup.size == 8 {
        threads(run, 4096, |_, tag| tag, |word| Got::word(*word))
    } else {
        let vector = |out: &mut Vec<u8>, tag| with_tag(out, tag).to_vec();
        threads(run, 1024, vector, |bytes: &Vec<u8>| Got::of(bytes))
    }
}

/// A queue of bytes: each process has its own buffers.
fn byte_queue(run: &Run, put: impl Fn(&[u8]), get: impl Fn(&mut [u8])) -> Outcome {
    let (put, get) = (&put, &get);
    if run.setup.size == 8 {
        return forked_queue(
            run,
            |_| |tag: u64| put(&tag.to_ne_bytes()),
            |_| {
                || {
                    let mut word = [0; 8];
                    get(&mut word);
                    Got::of(&word)
                }
            },
        );
    }
    forked_queue(
        run,
        |_| {
            let mut out = message(run);
            move |tag| put(with_tag(&mut out, tag))
        },
        |_| {
            let mut buffer = message(run);
            move || {
                get(&mut buffer);
                Got::of(&buffer)
            }
        },
    )
}

fn slots(run: &Run, wait: Wait) -> Outcome {
    let count = if run.setup.size == 8 { 4096 } else { 1024 };
    let queue = Mpmc::new(count, run.setup.size, wait);
    byte_queue(run, |bytes| queue.put(bytes), |buffer| queue.get(buffer))
}

/// No lock: the kernel writes messages of up to a page whole, and a reader of a whole message gets one.
fn one_pipe(run: &Run) -> Outcome {
    let (reader, writer) = pipes::pipe();
    byte_queue(run, |bytes| pipes::write(&writer, bytes), |buffer| pipes::read(&reader, buffer))
}

fn one_socket(run: &Run) -> Outcome {
    let (near, far) = pipes::sockets(libc::SOCK_SEQPACKET);
    byte_queue(run, |bytes| pipes::write(&near, bytes), |buffer| pipes::read(&far, buffer))
}

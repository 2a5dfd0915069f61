//! 256 MiB to another process that waits for them: until it has summed them all.
//!
//! "In place": the bytes already lie in shared memory when the clock starts. "Copied": they lie in private
//! memory, so somebody copies them.

use ipc_channel::ipc::{self, IpcSharedMemory};
use multiprocess::{Array, Process};

use super::iox;
use super::python::python;
use crate::harness::{Case, Figure, GIB, Kind, Outcome, Row, Run, Setup, Unit, Waits};
use crate::raw::pipes::{self, read_word, write_word};
use crate::raw::process::{self, now};
use crate::raw::shared::{Mapping, memfd};

const SIZE: usize = 256 << 20;
/// Each transfer has its own bytes, so that the sum tells whose they are.
const ROUNDS: u64 = 4;

const SETUP: Setup = Setup { size: SIZE, ..Setup::PLAIN };

pub const CASES: [Case; 2] = [
    Case {
        name: "shm_transfer_256MiB",
        what: "256 MiB that lie in shared memory, to a process that sums them (CPython: looks for a byte)",
        unit: Unit::GiBPerSecond,
        setup: SETUP,
        rows: &[
            Row {
                name: "Array, with the start of the process",
                kind: Kind::Ours,
                waits: Waits::Sleeps,
                run: ours,
            },
            Row {
                name: "ipc-channel IpcSharedMemory",
                kind: Kind::Process,
                waits: Waits::Sleeps,
                run: |run| ipc_shared(run, false),
            },
            Row {
                name: "iceoryx2",
                kind: Kind::Process,
                waits: Waits::Polls,
                run: |run| iox_sample(run, false),
            },
            Row {
                name: "CPython SharedMemory",
                kind: Kind::Process,
                waits: Waits::Sleeps,
                run: |run| python(run, "transfer", &["shared"]),
            },
            Row {
                name: "memfd passed",
                kind: Kind::Raw,
                waits: Waits::Sleeps,
                run: |run| raw_memfd(run, false),
            },
        ],
    },
    Case {
        name: "copy_transfer_256MiB",
        what: "256 MiB that lie in private memory, to a process that sums them (CPython: looks for a byte)",
        unit: Unit::GiBPerSecond,
        setup: SETUP,
        rows: &[
            Row {
                name: "ipc-channel IpcSharedMemory",
                kind: Kind::Process,
                waits: Waits::Sleeps,
                run: |run| ipc_shared(run, true),
            },
            Row {
                name: "ipc-channel bytes",
                kind: Kind::Process,
                waits: Waits::Sleeps,
                run: ipc_bytes,
            },
            Row {
                name: "iceoryx2",
                kind: Kind::Process,
                waits: Waits::Polls,
                run: |run| iox_sample(run, true),
            },
            Row {
                name: "CPython SharedMemory",
                kind: Kind::Process,
                waits: Waits::Sleeps,
                run: |run| python(run, "transfer", &["copy"]),
            },
            Row {
                name: "CPython send_bytes",
                kind: Kind::Process,
                waits: Waits::Sleeps,
                run: |run| python(run, "transfer", &["pipe"]),
            },
            Row {
                name: "memfd, copied into, passed",
                kind: Kind::Raw,
                waits: Waits::Sleeps,
                run: |run| raw_memfd(run, true),
            },
            Row {
                name: "kernel pipe of 1 MiB",
                kind: Kind::Raw,
                waits: Waits::Sleeps,
                run: raw_pipe,
            },
        ],
    },
];

fn sum(bytes: &[u8]) -> u64 {
    let (words, _) = bytes.as_chunks::<8>();
    words.iter().fold(0, |sum: u64, word| sum.wrapping_add(u64::from_ne_bytes(*word)))
}

/// The content of a round: bytes that tell it from the others.
fn content(round: u64) -> Vec<u8> {
    vec![round as u8 + 1; SIZE]
}

fn sum_of(round: u64) -> u64 {
    let word = u64::from_ne_bytes([round as u8 + 1; 8]);
    word.wrapping_mul(SIZE as u64 / 8)
}

/// The median of what a transfer took, as GiB a second. The fastest and slowest are in the spread of the case.
fn figure(mut times: Vec<u64>) -> Figure {
    times.sort_unstable();
    let nanos = times[times.len() / 2];
    Figure::from(SIZE as f64 / GIB / (nanos as f64 / 1e9))
}

/// Transfers to a forked process: `prepare` is not timed, `send` is, until the sum is back.
fn transfer<T>(
    mut receive: impl FnMut() -> u64,
    mut prepare: impl FnMut(u64) -> T,
    mut send: impl FnMut(&mut T),
) -> Outcome {
    let (reader, writer) = pipes::pipe();
    let child = process::fork(|| {
        for _ in 0..ROUNDS {
            write_word(&writer, receive());
        }
        [0; 4]
    });
    let mut times = Vec::new();
    for round in 0..ROUNDS {
        let mut prepared = prepare(round);
        let start = now();
        send(&mut prepared);
        let got = read_word(&reader);
        times.push(now() - start);
        if got != sum_of(round) {
            return Err(format!("sum received: {got}, sent: {}", sum_of(round)).into());
        }
    }
    child.join()?;
    Ok(figure(times))
}

fn sum_array(array: Array<u64>) -> u64 {
    array.lock().iter().fold(0, |sum, word| sum.wrapping_add(*word))
}

fn ours(_: &Run) -> Outcome {
    let mut times = Vec::new();
    for round in 0..ROUNDS {
        let word = u64::from_ne_bytes([round as u8 + 1; 8]);
        let array = Array::from_slice(&vec![word; SIZE / 8])?;
        let start = now();
        let got = Process::new(sum_array, (array.clone(),)).start()?.result()?;
        times.push(now() - start);
        if got != sum_of(round) {
            return Err(format!("sum received: {got}, sent: {}", sum_of(round)).into());
        }
    }
    Ok(figure(times))
}

fn ipc_shared(_: &Run, copy: bool) -> Outcome {
    let (sender, receiver) = ipc::channel::<IpcSharedMemory>()?;
    let shared = |bytes: &[u8]| IpcSharedMemory::from_bytes(bytes);
    transfer(
        || sum(&receiver.recv().expect("receives")),
        |round| {
            let content = content(round);
            if copy { (None, content) } else { (Some(shared(&content)), content) }
        },
        |(memory, content)| {
            let memory = memory.take().unwrap_or_else(|| shared(content));
            sender.send(memory).expect("sends");
        },
    )
}

fn ipc_bytes(_: &Run) -> Outcome {
    let (sender, receiver) = ipc::bytes_channel()?;
    transfer(
        || sum(&receiver.recv().expect("receives")),
        content,
        |content| sender.send(content).expect("sends"),
    )
}

/// A sample of 256 MiB, lent once before the clock starts, or while it runs.
fn iox_sample(_: &Run, copy: bool) -> Outcome {
    let mut subscriber = None;
    let mut publisher = None;
    let (mut at_child, mut here) = (None, None);
    transfer(
        || {
            let node = at_child.get_or_insert_with(|| iox::node().expect("a node"));
            let subscriber = subscriber
                .get_or_insert_with(|| iox::subscriber(node, "transfer", 1).expect("subscribes"));
            iox::receive(subscriber, sum)
        },
        |round| {
            let node = here.get_or_insert_with(|| iox::node().expect("a node"));
            let publisher = publisher.get_or_insert_with(|| {
                let publisher = iox::publisher(node, "transfer", SIZE, 1).expect("publishes");
                // The subscriber comes meanwhile.
                std::thread::sleep(std::time::Duration::from_millis(100));
                std::rc::Rc::new(publisher)
            });
            let content = content(round);
            let lent = (!copy).then(|| {
                let sample = publisher.loan_slice_uninit(SIZE).expect("lends");
                sample.write_from_slice(&content)
            });
            (std::rc::Rc::clone(publisher), lent, content)
        },
        |(publisher, lent, content)| {
            let sample = lent.take().unwrap_or_else(|| {
                let sample = publisher.loan_slice_uninit(SIZE).expect("lends");
                sample.write_from_slice(content)
            });
            assert_eq!(sample.send().expect("sends"), 1, "the subscriber is there");
        },
    )
}

fn raw_memfd(_: &Run, copy: bool) -> Outcome {
    let (near, far) = pipes::sockets(libc::SOCK_STREAM);
    let filled = |content: &[u8]| {
        let file = memfd(SIZE);
        Mapping::of(&file, SIZE).bytes_mut().copy_from_slice(content);
        file
    };
    transfer(
        || {
            let file = pipes::recv_fd(&far).expect("a descriptor");
            sum(Mapping::of(&file, SIZE).bytes())
        },
        |round| {
            let content = content(round);
            if copy { (None, content) } else { (Some(filled(&content)), content) }
        },
        |(file, content)| {
            let file = file.take().unwrap_or_else(|| filled(content));
            pipes::send_fd(&near, &file);
        },
    )
}

/// The receiver's buffer is warm: it is the same each time.
fn raw_pipe(_: &Run) -> Outcome {
    let (reader, writer) = pipes::pipe();
    pipes::enlarge(&writer);
    let mut buffer = Vec::new();
    transfer(
        || {
            buffer.resize(SIZE, 0);
            pipes::read(&reader, &mut buffer);
            sum(&buffer)
        },
        content,
        |content| pipes::write(&writer, content),
    )
}

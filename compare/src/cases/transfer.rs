//! 256 MiB to another process that waits for them: until it has summed them all.
//!
//! "In place": the bytes already lie in shared memory when the clock starts. "Copied": they lie in private
//! memory, so somebody copies them.

use std::cell::RefCell;
use std::rc::Rc;

use ipc_channel::ipc::{self, IpcSharedMemory};
use multiprocess::{Array, Connection, Process, SharedMemory, duplex};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::iox;
use super::python::python;
use crate::harness::{Case, Figure, GIB, Kind, Outcome, Row, Run, Setup, Unit, Waits};
use crate::raw::pipes::{self, read_word, write_word};
use crate::raw::process::{self, Report, now};
use crate::raw::shared::{Mapping, memfd};

const SIZE: usize = 256 << 20;
/// How many transfers there are: one to warm up, then what is measured. Each has its own bytes, so that the sum
/// tells whose they are.
fn rounds(run: &Run) -> u64 {
    if run.time.as_millis() < 100 { 2 } else { 4 }
}

const SETUP: Setup = Setup { size: SIZE, ..Setup::PLAIN };

pub const CASES: [Case; 2] = [
    Case {
        name: "shm_transfer_256MiB",
        what: "256 MiB that lie in shared memory, to a process that sums them (CPython: looks for a byte)",
        unit: Unit::GiBPerSecond,
        setup: SETUP,
        rows: &[
            Row {
                name: "Array",
                kind: Kind::Ours,
                waits: Waits::Both,
                run: |run| array(run, false),
            },
            Row {
                name: "SharedMemory",
                kind: Kind::Ours,
                waits: Waits::Both,
                run: |run| shared_memory(run, false),
            },
            Row {
                name: "Array, kept",
                kind: Kind::Ours,
                waits: Waits::Both,
                run: |run| kept_array(run, false),
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
            Row {
                name: "memfd kept mapped",
                kind: Kind::Raw,
                waits: Waits::Sleeps,
                run: |run| raw_warm(run, false),
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
                name: "Array",
                kind: Kind::Ours,
                waits: Waits::Both,
                run: |run| array(run, true),
            },
            Row {
                name: "SharedMemory",
                kind: Kind::Ours,
                waits: Waits::Both,
                run: |run| shared_memory(run, true),
            },
            Row {
                name: "Array, kept",
                kind: Kind::Ours,
                waits: Waits::Both,
                run: |run| kept_array(run, true),
            },
            Row {
                name: "send_bytes, recv_bytes_into",
                kind: Kind::Ours,
                waits: Waits::Both,
                run: sent_bytes,
            },
            Row {
                name: "send_bytes, recv_bytes",
                kind: Kind::Ours,
                waits: Waits::Both,
                run: sent_new_bytes,
            },
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
                name: "memfd kept mapped, copied into",
                kind: Kind::Raw,
                waits: Waits::Sleeps,
                run: |run| raw_warm(run, true),
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

fn byte_of(round: u64) -> u8 {
    round as u8 + 1
}

fn check(round: u64, got: u64) -> Result<(), String> {
    let word = u64::from_ne_bytes([byte_of(round); 8]);
    let sent = word.wrapping_mul(SIZE as u64 / 8);
    if got == sent { Ok(()) } else { Err(format!("sum received: {got}, sent: {sent}")) }
}

/// The median of what the transfers took but for the first, as GiB a second.
fn figure(mut times: Vec<u64>) -> Figure {
    times.remove(0);
    times.sort_unstable();
    Figure::from(SIZE as f64 / GIB / (times[times.len() / 2] as f64 / 1e9))
}

/// The transfers, to a process that is there. `prepare` makes of the content what is sent, before the clock
/// starts; `send` is timed until `answer` gives the sum.
fn timed<T>(
    run: &Run,
    mut prepare: impl FnMut(&[u8]) -> T,
    mut send: impl FnMut(T, &[u8]),
    mut answer: impl FnMut() -> u64,
) -> Outcome {
    let mut content = vec![0; SIZE];
    let mut times = Vec::new();
    for round in 0..rounds(run) {
        content.fill(byte_of(round));
        let prepared = prepare(&content);
        let start = now();
        send(prepared, &content);
        let got = answer();
        times.push(now() - start);
        check(round, got)?;
    }
    Ok(figure(times))
}

/// Transfers to a forked process. `receive` calls its argument with the sum, and may then clear away.
fn transfer<T>(
    run: &Run,
    mut receive: impl FnMut(&dyn Fn(&[u8])),
    prepare: impl FnMut(&[u8]) -> T,
    send: impl FnMut(T, &[u8]),
) -> Outcome {
    let (reader, writer) = pipes::pipe();
    let child = process::fork(|| {
        for _ in 0..rounds(run) {
            receive(&|bytes| write_word(&writer, sum(bytes)));
        }
        [0; 4]
    });
    let figure = timed(run, prepare, send, || read_word(&reader))?;
    child.join()?;
    Ok(figure)
}

/// The child's end of a pipe of `T`s, which it answers with their sums.
type There<T> = Connection<u64, T>;

/// Transfers to a process of ours, which `receive` is the work of.
fn ours<T: Serialize + DeserializeOwned, P>(
    run: &Run,
    receive: impl Fn(u64, There<T>) -> Report + Copy + 'static,
    prepare: impl FnMut(&[u8]) -> P,
    mut send: impl FnMut(&Connection<T, u64>, P, &[u8]),
) -> Outcome {
    let (here, there) = duplex::<T, u64>()?;
    let child = Process::new(receive, (rounds(run), there)).start()?;
    let send = |prepared: P, content: &[u8]| send(&here, prepared, content);
    let figure = timed(run, prepare, send, || here.recv().expect("is answered"))?;
    child.result()?;
    Ok(figure)
}

fn sum_array(array: &Array<u8>) -> u64 {
    sum(&array.lock())
}

fn receive_arrays(rounds: u64, there: There<Array<u8>>) -> Report {
    for _ in 0..rounds {
        let array = there.recv().expect("receives");
        there.send(sum_array(&array)).expect("answers");
    }
    [0; 4]
}

fn new_array(content: &[u8]) -> Array<u8> {
    Array::from_slice(content).expect("memory")
}

/// A new array for each transfer.
fn array(run: &Run, copy: bool) -> Outcome {
    ours(
        run,
        receive_arrays,
        |content| (!copy).then(|| new_array(content)),
        |here, prepared, content| {
            here.send(prepared.unwrap_or_else(|| new_array(content))).expect("sends");
        },
    )
}

fn receive_memory(rounds: u64, there: There<SharedMemory>) -> Report {
    for _ in 0..rounds {
        let memory = there.recv().expect("receives");
        // SAFETY: who sent it writes no more.
        there.send(sum(unsafe { memory.as_slice() })).expect("answers");
    }
    [0; 4]
}

/// New shared memory for each transfer.
fn shared_memory(run: &Run, copy: bool) -> Outcome {
    let filled = |content: &[u8]| {
        let memory = SharedMemory::create(None, content.len()).expect("memory").unlink_on_drop();
        memory.write_at(0, content).expect("writes");
        memory
    };
    ours(
        run,
        receive_memory,
        |content| (!copy).then(|| filled(content)),
        |here, prepared, content| {
            here.send(prepared.unwrap_or_else(|| filled(content))).expect("sends");
        },
    )
}

/// Gets an array, and then words that say that there is something new in it.
fn receive_in_one(rounds: u64, there: There<Option<Array<u8>>>) -> Report {
    let array = there.recv().expect("receives").expect("an array");
    for _ in 0..rounds {
        there.recv().expect("receives");
        there.send(sum_array(&array)).expect("answers");
    }
    [0; 4]
}

/// One array for all transfers, warm on both sides.
fn kept_array(run: &Run, copy: bool) -> Outcome {
    let array = Array::zeroed(SIZE)?;
    let mut is_there = false;
    ours(
        run,
        receive_in_one,
        |content| {
            if !copy {
                array.lock().copy_from_slice(content);
            }
        },
        |here, (), content| {
            if !is_there {
                here.send(Some(array.clone())).expect("sends");
                is_there = true;
            }
            if copy {
                array.lock().copy_from_slice(content);
            }
            here.send(None).expect("sends");
        },
    )
}

fn receive_into(rounds: u64, there: There<()>) -> Report {
    let mut buffer = vec![0; SIZE];
    for _ in 0..rounds {
        there.recv_bytes_into(&mut buffer).expect("receives");
        there.send(sum(&buffer)).expect("answers");
    }
    [0; 4]
}

fn receive_new(rounds: u64, there: There<()>) -> Report {
    for _ in 0..rounds {
        let bytes = there.recv_bytes().expect("receives");
        there.send(sum(&bytes)).expect("answers");
    }
    [0; 4]
}

/// The receiver's buffer is warm: it is the same each time.
fn sent_bytes(run: &Run) -> Outcome {
    let send = |here: &Connection<(), u64>, (), content: &[u8]| {
        here.send_bytes(content).expect("sends");
    };
    ours(run, receive_into, |_| {}, send)
}

/// The receiver has new memory each time.
fn sent_new_bytes(run: &Run) -> Outcome {
    let send = |here: &Connection<(), u64>, (), content: &[u8]| {
        here.send_bytes(content).expect("sends");
    };
    ours(run, receive_new, |_| {}, send)
}

fn ipc_shared(run: &Run, copy: bool) -> Outcome {
    let (sender, receiver) = ipc::channel::<IpcSharedMemory>()?;
    transfer(
        run,
        |answer| answer(&receiver.recv().expect("receives")),
        |content| (!copy).then(|| IpcSharedMemory::from_bytes(content)),
        |prepared, content| {
            let memory = prepared.unwrap_or_else(|| IpcSharedMemory::from_bytes(content));
            sender.send(memory).expect("sends");
        },
    )
}

fn ipc_bytes(run: &Run) -> Outcome {
    let (sender, receiver) = ipc::bytes_channel()?;
    transfer(
        run,
        |answer| answer(&receiver.recv().expect("receives")),
        |_| {},
        |(), content| sender.send(content).expect("sends"),
    )
}

/// A sample of 256 MiB, filled before the clock starts or while it runs. Its segment stays, so it is warm.
fn iox_sample(run: &Run, copy: bool) -> Outcome {
    // Each process makes its own ends, at its first transfer.
    let (mut at_child, mut here) = (None, None);
    transfer(
        run,
        |answer| {
            let (_, subscriber) = at_child.get_or_insert_with(|| {
                let node = iox::node().expect("a node");
                let subscriber = iox::subscriber(&node, "transfer", 1).expect("subscribes");
                (node, subscriber)
            });
            iox::receive(subscriber, answer);
        },
        |content| {
            let (_, publisher) = here.get_or_insert_with(|| {
                let node = iox::node().expect("a node");
                let publisher = iox::publisher(&node, "transfer", SIZE, 1).expect("publishes");
                // The subscriber comes meanwhile.
                std::thread::sleep(std::time::Duration::from_millis(200));
                (node, Rc::new(publisher))
            });
            let publisher = Rc::clone(publisher);
            let fill = {
                let publisher = Rc::clone(&publisher);
                move |content: &[u8]| {
                    let sample = publisher.loan_slice_uninit(SIZE).expect("lends");
                    sample.write_from_slice(content)
                }
            };
            ((!copy).then(|| fill(content)), fill)
        },
        |(filled, fill), content| {
            let sample = filled.unwrap_or_else(|| fill(content));
            assert_eq!(sample.send().expect("sends"), 1, "the subscriber is there");
        },
    )
}

fn raw_memfd(run: &Run, copy: bool) -> Outcome {
    let (near, far) = pipes::sockets(libc::SOCK_STREAM);
    let filled = |content: &[u8]| {
        let file = memfd(SIZE);
        Mapping::of(&file, SIZE).bytes_mut().copy_from_slice(content);
        file
    };
    transfer(
        run,
        |answer| {
            let file = pipes::recv_fd(&far).expect("a descriptor");
            answer(Mapping::of(&file, SIZE).bytes());
        },
        |content| (!copy).then(|| filled(content)),
        |prepared, content| {
            let file = prepared.unwrap_or_else(|| filled(content));
            pipes::send_fd(&near, &file);
        },
    )
}

/// One segment for all transfers, mapped by both sides and warm.
fn raw_warm(run: &Run, copy: bool) -> Outcome {
    let (near, far) = pipes::sockets(libc::SOCK_STREAM);
    let file = memfd(SIZE);
    let (mut here, there) = (Mapping::of(&file, SIZE), Mapping::of(&file, SIZE));
    let here = RefCell::new(here.bytes_mut());
    transfer(
        run,
        |answer| {
            read_word(&far);
            answer(there.bytes());
        },
        |content| {
            if !copy {
                here.borrow_mut().copy_from_slice(content);
            }
        },
        |(), content| {
            if copy {
                here.borrow_mut().copy_from_slice(content);
            }
            write_word(&near, 0);
        },
    )
}

/// The receiver's buffer is warm: it is the same each time.
fn raw_pipe(run: &Run) -> Outcome {
    let (reader, writer) = pipes::pipe();
    pipes::enlarge(&writer);
    let mut buffer = Vec::new();
    transfer(
        run,
        |answer| {
            buffer.resize(SIZE, 0);
            pipes::read(&reader, &mut buffer);
            answer(&buffer);
        },
        |_| {},
        |(), content| pipes::write(&writer, content),
    )
}

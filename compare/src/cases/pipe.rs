//! Round trips of a word, and streams of messages of several sizes, from one process to another.
//!
//! The receiver of a stream copies each message to its buffer and sums it, unless the row says that it sums
//! it in place.

use std::fs::File;

use crossbeam_channel::bounded;
use ipc_channel::ipc;
use multiprocess::{Connection, Process, Receiver, duplex, simplex};

use super::iox;
use super::python::python;
use crate::harness::{
    Case, Cores, Got, Kind, NotHere, Outcome, Row, Run, Setup, Unit, Waits, echo,
    forked_byte_stream, forked_stream, forked_trips, message, receiver, sender, streamed, trips,
    with_tag,
};
use crate::raw::pipes::{self, read_word, write_word};
use crate::raw::process::{self, Report};
use crate::raw::ring::Ring;
use crate::raw::shared::Wait;

const fn trip(cores: Cores) -> Setup {
    Setup { cores, ..Setup::PLAIN }
}

const fn stream(size: usize) -> Setup {
    Setup { size, ..Setup::PLAIN }
}

pub const CASES: [Case; 6] = [
    Case {
        name: "pipe_rtt_8B",
        what: "a word there and back between two processes, each pinned to a core of its own",
        unit: Unit::Microseconds,
        setup: trip(Cores::Two),
        rows: &TRIPS,
    },
    Case {
        name: "pipe_rtt_8B_one_core",
        what: "the same with both processes pinned to one core",
        unit: Unit::Microseconds,
        setup: trip(Cores::One),
        rows: &TRIPS,
    },
    Case {
        name: "pipe_stream_8B",
        what: "messages of one word, one way",
        unit: Unit::PerSecond,
        setup: stream(8),
        rows: &STREAMS,
    },
    Case {
        name: "pipe_stream_1KiB",
        what: "messages of 1 KiB, one way",
        unit: Unit::PerSecond,
        setup: stream(1 << 10),
        rows: &STREAMS,
    },
    Case {
        name: "pipe_stream_64KiB",
        what: "messages of 64 KiB, one way",
        unit: Unit::GiBPerSecond,
        setup: stream(64 << 10),
        rows: &STREAMS,
    },
    Case {
        name: "pipe_stream_1MiB",
        what: "messages of 1 MiB, one way",
        unit: Unit::GiBPerSecond,
        setup: stream(1 << 20),
        rows: &STREAMS,
    },
];

const TRIPS: [Row; 13] = [
    Row { name: "duplex", kind: Kind::Ours, waits: Waits::Both, run: duplex_trips },
    Row { name: "ipc-channel", kind: Kind::Process, waits: Waits::Sleeps, run: ipc_trips },
    Row { name: "iceoryx2", kind: Kind::Process, waits: Waits::Polls, run: iox_trips },
    Row {
        name: "iceoryx2 events",
        kind: Kind::Process,
        waits: Waits::Sleeps,
        run: iox_event_trips,
    },
    Row {
        name: "CPython Pipe",
        kind: Kind::Process,
        waits: Waits::Sleeps,
        run: |run| python(run, "trips", &[]),
    },
    Row { name: "crossbeam-channel", kind: Kind::Thread, waits: Waits::Both, run: crossbeam_trips },
    Row {
        name: "shared memory, polling",
        kind: Kind::Raw,
        waits: Waits::Polls,
        run: |run| ring_trips(run, Wait::Poll),
    },
    Row {
        name: "shared memory, poll then futex",
        kind: Kind::Raw,
        waits: Waits::Both,
        run: |run| ring_trips(run, Wait::Futex),
    },
    Row {
        name: "shared memory, futex",
        kind: Kind::Raw,
        waits: Waits::Sleeps,
        run: |run| ring_trips(run, Wait::Sleep),
    },
    Row { name: "kernel pipes", kind: Kind::Raw, waits: Waits::Sleeps, run: pipe_trips },
    Row { name: "eventfd", kind: Kind::Raw, waits: Waits::Sleeps, run: eventfd_trips },
    Row {
        name: "socketpair, stream",
        kind: Kind::Raw,
        waits: Waits::Sleeps,
        run: |run| socket_trips(run, libc::SOCK_STREAM),
    },
    Row {
        name: "socketpair, seqpacket",
        kind: Kind::Raw,
        waits: Waits::Sleeps,
        run: |run| socket_trips(run, libc::SOCK_SEQPACKET),
    },
];

/// Polling processes that share a core get a turn each, which says nothing.
fn two_cores(run: &Run) -> Result<(), NotHere> {
    match run.setup.cores {
        Cores::One => Err(NotHere("polls, which is hopeless on one core".into())),
        Cores::Two if process::cores().len() < 2 => Err(NotHere("there is one core only".into())),
        _ => Ok(()),
    }
}

fn answer(run: Run, there: Connection<u64, u64>) -> Report {
    echo(&run, || {
        let word = there.recv().expect("receives");
        there.send(word).expect("sends");
        word
    })
}

fn duplex_trips(run: &Run) -> Outcome {
    let (here, there) = duplex::<u64, u64>()?;
    let child = Process::new(answer, (*run, there)).start()?;
    let figure = trips(run, |word| {
        here.send(word).expect("sends");
        here.recv().expect("receives")
    })?;
    child.result()?;
    Ok(figure)
}

fn ipc_trips(run: &Run) -> Outcome {
    let (to, at_child) = ipc::channel::<u64>()?;
    let (back, here) = ipc::channel::<u64>()?;
    forked_trips(
        run,
        || {
            let word = at_child.recv().expect("receives");
            back.send(word).expect("sends");
            word
        },
        |word| {
            to.send(word).expect("sends");
            // The child ends after its last answer, which is not waited for elsewhere.
            here.recv().expect("receives")
        },
    )
}

/// Both sides say that they are ready.
fn meet(side: &File) {
    write_word(side, 1);
    read_word(side);
}

fn iox_trips(run: &Run) -> Outcome {
    two_cores(run)?;
    let (near, far) = pipes::sockets(libc::SOCK_STREAM);
    let child = process::fork(|| {
        let node = iox::node().expect("a node");
        let there = iox::word_subscriber(&node, "there", 2).expect("a subscriber");
        let back = iox::word_publisher(&node, "back", 2).expect("a publisher");
        meet(&far);
        echo(run, || {
            let word = iox::receive_word(&there);
            iox::send_word(&back, word);
            word
        })
    });
    let node = iox::node()?;
    let there = iox::word_publisher(&node, "there", 2)?;
    let back = iox::word_subscriber(&node, "back", 2)?;
    meet(&near);
    let figure = trips(run, |word| {
        iox::send_word(&there, word);
        iox::receive_word(&back)
    })?;
    child.join()?;
    Ok(figure)
}

/// Publish-subscribe for the word, an event for each so that the other side can sleep.
fn iox_event_trips(run: &Run) -> Outcome {
    let (near, far) = pipes::sockets(libc::SOCK_STREAM);
    let child = process::fork(|| {
        let node = iox::node().expect("a node");
        let there = iox::word_subscriber(&node, "there", 2).expect("a subscriber");
        let back = iox::word_publisher(&node, "back", 2).expect("a publisher");
        let sent = iox::listener(&node, "sent").expect("a listener");
        let answered = iox::notifier(&node, "answered").expect("a notifier");
        meet(&far);
        echo(run, || {
            sent.blocking_wait(|_| {}).expect("waits");
            let word = iox::receive_word(&there);
            iox::send_word(&back, word);
            answered.notify().expect("notifies");
            word
        })
    });
    let node = iox::node()?;
    let there = iox::word_publisher(&node, "there", 2)?;
    let back = iox::word_subscriber(&node, "back", 2)?;
    let sent = iox::notifier(&node, "sent")?;
    let answered = iox::listener(&node, "answered")?;
    meet(&near);
    let figure = trips(run, |word| {
        iox::send_word(&there, word);
        sent.notify().expect("notifies");
        answered.blocking_wait(|_| {}).expect("waits");
        iox::receive_word(&back)
    })?;
    child.join()?;
    Ok(figure)
}

fn crossbeam_trips(run: &Run) -> Outcome {
    let (to, there) = bounded::<u64>(64);
    let (back, here) = bounded::<u64>(64);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            echo(run, || {
                let word = there.recv().expect("receives");
                back.send(word).expect("sends");
                word
            })
        });
        trips(run, |word| {
            to.send(word).expect("sends");
            here.recv().expect("receives")
        })
    })
}

fn ring_trips(run: &Run, wait: Wait) -> Outcome {
    if wait == Wait::Poll {
        two_cores(run)?;
    }
    let (there, back) = (Ring::new(4096, wait), Ring::new(4096, wait));
    let (mut to, mut at_child) = (there.writer(), there.reader());
    let (mut from_child, mut here) = (back.writer(), back.reader());
    forked_trips(
        run,
        || {
            let word = at_child.read_word();
            from_child.write_word(word);
            word
        },
        |word| {
            to.write_word(word);
            here.read_word()
        },
    )
}

/// Round trips over two pairs of ends.
fn file_trips(run: &Run, there: (&File, &File), back: (&File, &File)) -> Outcome {
    forked_trips(
        run,
        || {
            let word = read_word(there.0);
            write_word(back.1, word);
            word
        },
        |word| {
            write_word(there.1, word);
            read_word(back.0)
        },
    )
}

fn pipe_trips(run: &Run) -> Outcome {
    let (there, back) = (pipes::pipe(), pipes::pipe());
    file_trips(run, (&there.0, &there.1), (&back.0, &back.1))
}

fn socket_trips(run: &Run, kind: i32) -> Outcome {
    let (near, far) = pipes::sockets(kind);
    file_trips(run, (&far, &near), (&near, &far))
}

fn eventfd_trips(run: &Run) -> Outcome {
    let (there, back) = (pipes::eventfd(), pipes::eventfd());
    // A count of zero would block, so each word is one more than it says.
    forked_trips(
        run,
        || {
            let word = read_word(&there);
            write_word(&back, word);
            word - 1
        },
        |word| {
            write_word(&there, word + 1);
            read_word(&back) - 1
        },
    )
}

const STREAMS: [Row; 16] = [
    Row { name: "simplex", kind: Kind::Ours, waits: Waits::Both, run: simplex_stream },
    Row {
        name: "simplex, in place",
        kind: Kind::Ours,
        waits: Waits::Both,
        run: simplex_place_stream,
    },
    Row { name: "ipc-channel", kind: Kind::Process, waits: Waits::Sleeps, run: ipc_stream },
    Row {
        name: "ipc-channel IpcSharedMemory",
        kind: Kind::Process,
        waits: Waits::Sleeps,
        run: ipc_shared_stream,
    },
    Row { name: "iceoryx2, in place", kind: Kind::Process, waits: Waits::Polls, run: iox_stream },
    Row {
        name: "CPython Pipe",
        kind: Kind::Process,
        waits: Waits::Sleeps,
        run: |run| python(run, "stream", &[]),
    },
    Row {
        name: "crossbeam-channel",
        kind: Kind::Thread,
        waits: Waits::Both,
        run: crossbeam_stream,
    },
    Row {
        name: "shared memory ring, polling",
        kind: Kind::Raw,
        waits: Waits::Polls,
        run: |run| ring_stream(run, Wait::Poll),
    },
    Row {
        name: "shared memory ring, poll then futex",
        kind: Kind::Raw,
        waits: Waits::Both,
        run: |run| ring_stream(run, Wait::Futex),
    },
    Row {
        name: "shared memory ring, in place, polling",
        kind: Kind::Raw,
        waits: Waits::Polls,
        run: |run| place_stream(run, Wait::Poll),
    },
    Row {
        name: "shared memory ring, in place, poll then futex",
        kind: Kind::Raw,
        waits: Waits::Both,
        run: |run| place_stream(run, Wait::Futex),
    },
    Row {
        name: "kernel pipe",
        kind: Kind::Raw,
        waits: Waits::Sleeps,
        run: |run| pipe_stream(run, false),
    },
    Row {
        name: "kernel pipe of 1 MiB",
        kind: Kind::Raw,
        waits: Waits::Sleeps,
        run: |run| pipe_stream(run, true),
    },
    Row {
        name: "socketpair, stream",
        kind: Kind::Raw,
        waits: Waits::Sleeps,
        run: |run| socket_stream(run, libc::SOCK_STREAM),
    },
    Row {
        name: "socketpair, seqpacket",
        kind: Kind::Raw,
        waits: Waits::Sleeps,
        run: |run| socket_stream(run, libc::SOCK_SEQPACKET),
    },
    Row { name: "memfd per message", kind: Kind::Raw, waits: Waits::Sleeps, run: memfd_stream },
];

fn receive_words(run: Run, from: Receiver<u64>) -> Report {
    receiver(&run, || Got::word(from.recv().expect("receives")))
}

fn receive_bytes(run: Run, from: Receiver<()>) -> Report {
    let mut buffer = message(&run);
    receiver(&run, || {
        from.recv_bytes_into(&mut buffer).expect("receives");
        Got::of(&buffer)
    })
}

fn receive_in_place(run: Run, from: Receiver<()>) -> Report {
    receiver(&run, || from.recv_with(Got::of).expect("receives"))
}

/// `send` and `recv` for words, `send_bytes` and `recv_bytes_into` for the rest.
fn simplex_stream(run: &Run) -> Outcome {
    if run.setup.size == 8 {
        let (from, to) = simplex::<u64>()?;
        let child = Process::new(receive_words, (*run, from)).start()?;
        let sent = sender(run, |tag| to.send(tag).expect("sends"));
        return streamed(run, sent, child.result()?);
    }
    let (from, to) = simplex::<()>()?;
    let child = Process::new(receive_bytes, (*run, from)).start()?;
    let mut out = message(run);
    let sent = sender(run, |tag| to.send_bytes(with_tag(&mut out, tag)).expect("sends"));
    streamed(run, sent, child.result()?)
}

/// `send_with` and `recv_with`: one copy, by the sender, into the pipe.
fn simplex_place_stream(run: &Run) -> Outcome {
    let size = run.setup.size;
    if size == 8 {
        return Err(NotHere("for bytes".into()).into());
    }
    let (from, to) = simplex::<()>()?;
    let child = Process::new(receive_in_place, (*run, from)).start()?;
    let mut out = message(run);
    let sent = sender(run, |tag| {
        let write = |place: &mut [u8]| place.copy_from_slice(with_tag(&mut out, tag));
        to.send_with(size, write).expect("sends");
    });
    streamed(run, sent, child.result()?)
}

/// `IpcSender<u64>` for words, `bytes_channel` for the rest.
fn ipc_stream(run: &Run) -> Outcome {
    if run.setup.size == 8 {
        let (sender, receiver) = ipc::channel::<u64>()?;
        return forked_stream(
            run,
            |tag| sender.send(tag).expect("sends"),
            || Got::word(receiver.recv().expect("receives")),
        );
    }
    let (sender, receiver) = ipc::bytes_channel()?;
    let mut out = message(run);
    forked_stream(
        run,
        |tag| sender.send(with_tag(&mut out, tag)).expect("sends"),
        || Got::of(&receiver.recv().expect("receives")),
    )
}

fn ipc_shared_stream(run: &Run) -> Outcome {
    if run.setup.size <= 1024 {
        return Err(NotHere("for large messages".into()).into());
    }
    let (sender, receiver) = ipc::channel::<ipc::IpcSharedMemory>()?;
    let mut out = message(run);
    forked_stream(
        run,
        |tag| {
            let memory = ipc::IpcSharedMemory::from_bytes(with_tag(&mut out, tag));
            sender.send(memory).expect("sends");
        },
        || Got::of(&receiver.recv().expect("receives")),
    )
}

fn iox_stream(run: &Run) -> Outcome {
    let size = run.setup.size;
    let buffer = if size <= 1024 { 1024 } else { 16 };
    if size == 8 {
        let child = process::fork(|| {
            let node = iox::node().expect("a node");
            let subscriber = iox::word_subscriber(&node, "words", buffer).expect("a subscriber");
            receiver(run, || Got::word(iox::receive_word(&subscriber)))
        });
        let node = iox::node()?;
        let publisher = iox::word_publisher(&node, "words", buffer)?;
        let sent = sender(run, |word| iox::send_word(&publisher, word));
        return streamed(run, sent, child.join()?);
    }
    let child = process::fork(|| {
        let node = iox::node().expect("a node");
        let subscriber = iox::subscriber(&node, "stream", buffer).expect("a subscriber");
        receiver(run, || iox::receive(&subscriber, Got::of))
    });
    let node = iox::node()?;
    let publisher = iox::publisher(&node, "stream", size, buffer)?;
    let mut out = message(run);
    let sent = sender(run, |tag| iox::send(&publisher, with_tag(&mut out, tag)));
    // Messages die with their publisher, which therefore stays until the child has them.
    let report = child.join()?;
    streamed(run, sent, report)
}

/// Words as they are; larger messages as vectors, which pass by reference.
fn crossbeam_stream(run: &Run) -> Outcome {
    std::thread::scope(|scope| {
        if run.setup.size == 8 {
            let (to, from) = bounded::<u64>(4096);
            let thread =
                scope.spawn(move || receiver(run, || Got::word(from.recv().expect("receives"))));
            let sent = sender(run, |tag| to.send(tag).expect("sends"));
            return streamed(run, sent, thread.join().map_err(|_| "a panic")?);
        }
        let (to, from) = bounded::<Vec<u8>>(if run.setup.size <= 1024 { 1024 } else { 16 });
        let thread =
            scope.spawn(move || receiver(run, || Got::of(&from.recv().expect("receives"))));
        let mut out = message(run);
        let sent = sender(run, |tag| to.send(with_tag(&mut out, tag).to_vec()).expect("sends"));
        streamed(run, sent, thread.join().map_err(|_| "a panic")?)
    })
}

fn ring_stream(run: &Run, wait: Wait) -> Outcome {
    let ring = Ring::new(256 << 10, wait);
    let (mut writer, mut reader) = (ring.writer(), ring.reader());
    if run.setup.size == 8 {
        return forked_stream(run, |tag| writer.write_word(tag), || Got::word(reader.read_word()));
    }
    forked_byte_stream(run, |bytes| writer.write(bytes), |buffer| reader.read(buffer))
}

/// One copy, by the sender, into the ring; the receiver sums what lies there.
fn place_stream(run: &Run, wait: Wait) -> Outcome {
    let size = run.setup.size;
    if size == 8 {
        return Err(NotHere("for bytes".into()).into());
    }
    let ring = Ring::new((256 << 10).max(4 * size), wait);
    let (mut writer, mut reader) = (ring.writer(), ring.reader());
    let mut out = message(run);
    forked_stream(
        run,
        |tag| writer.write_with(size, |place| place.copy_from_slice(with_tag(&mut out, tag))),
        || reader.read_with(size, Got::of),
    )
}

fn pipe_stream(run: &Run, enlarged: bool) -> Outcome {
    let (reader, writer) = pipes::pipe();
    if enlarged {
        pipes::enlarge(&writer);
    }
    let write = |bytes: &[u8]| pipes::write(&writer, bytes);
    forked_byte_stream(run, write, |buffer| pipes::read(&reader, buffer))
}

fn socket_stream(run: &Run, kind: i32) -> Outcome {
    if kind == libc::SOCK_SEQPACKET && run.setup.size > 64 << 10 {
        return Err(NotHere("larger than a packet".into()).into());
    }
    let (near, far) = pipes::sockets(kind);
    let write = |bytes: &[u8]| pipes::write(&near, bytes);
    forked_byte_stream(run, write, |buffer| pipes::read(&far, buffer))
}

/// A new segment for each message, filled and sent: what first use of memory costs.
fn memfd_stream(run: &Run) -> Outcome {
    use crate::raw::shared::{Mapping, memfd};
    let size = run.setup.size;
    if size <= 1024 {
        return Err(NotHere("for large messages".into()).into());
    }
    let (near, far) = pipes::sockets(libc::SOCK_STREAM);
    let mut out = message(run);
    forked_stream(
        run,
        |tag| {
            let file = memfd(size);
            Mapping::of(&file, size).bytes_mut().copy_from_slice(with_tag(&mut out, tag));
            pipes::send_fd(&near, &file);
        },
        || {
            let file = pipes::recv_fd(&far).expect("a descriptor");
            Got::of(Mapping::of(&file, size).bytes())
        },
    )
}

//! Pipes between processes started by each method.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;
use std::time::{Duration, Instant};

use multiprocess::core::Deadline;
use multiprocess::core::sys::fd::{Epoll, PollFd, poll};
use multiprocess::pipe::Error;
use multiprocess::{
    Connection, Fd, Lock, Process, Receiver, Sender, StartMethod, Value, duplex, simplex, wait,
};
use serde::{Deserialize, Serialize};

use crate::support::{HANG, Outcome, at_last, eventually, may_open, sleeps, ticks};

crate::cases! {
    EACH:
        a_connection_carries_values_both_ways
        bytes_and_values_keep_their_order
        the_end_comes_however_the_peer_ends_and_whatever_is_done_meanwhile
        the_end_comes_to_receivers
        the_end_comes_to_senders
        what_was_sent_before_a_death_is_received
        siblings_started_in_between_do_not_hold_the_end_back
        two_children_talk_and_the_parent_is_out
        an_end_moves_through_a_pipe_with_all_that_is_in_it
        a_receiver_moves_in_the_middle_of_a_message
        a_sender_that_moved_needs_no_news_of_what_was_short
        halves_work_in_two_processes
        values_hold_locks_descriptors_and_connections
        more_descriptors_than_the_receiver_has_room_for_cost_that_message_only
        long_messages_stream_through
        a_receive_that_times_out_in_a_long_message_goes_on_later
        wait_tells_all_that_are_ready
        what_can_be_watched_is_readable_while_messages_remain
        who_sleeps_is_woken_by_each_message
        it_is_known_whether_the_other_end_has_the_same_cpu
        sleepers_use_no_processor_time
        one_processor_is_enough
        signals_do_not_disturb
    ;
    ONCE:
        an_empty_message_is_a_message
        a_buffer_too_short_loses_nothing
        trying_fills_the_pipe_and_goes_on_once_there_is_room
        trying_sends_long_messages_at_once
        a_long_message_that_was_tried_stays_while_there_is_no_descriptor_for_it
        a_send_that_times_out_leaves_the_link_in_frame
        values_that_cannot_be_sent_come_back
        thousands_of_descriptors_go_in_one_message
        descriptors_of_a_message_that_was_given_up_are_closed
        what_cannot_be_decoded_is_consumed
        memory_short_for_an_end_in_a_message_is_told
        in_place_reads_and_writes_bear_panics_and_themselves
        what_is_written_in_place_is_asked_for_once_there_is_room
        iterators_end_with_the_sender
        closed_ends_say_so
        poll_is_true_at_the_end
        level_triggered_waiting
        receivers_can_be_watched_without_descriptors_to_spare
        wait_over_five_hundred_receivers
        descriptors_run_out_while_pipes_are_made
    ;
    SLOW:
        a_quarter_of_a_gigabyte_streams_through
    ;
}

const MOMENT: Duration = Duration::from_millis(20);

fn sleep_for_ever() {
    thread::sleep(Duration::from_secs(1000));
}

fn kill(pid: u32, signal: i32) {
    // SAFETY: takes numbers only; they are of children that are not reaped yet, or of this process.
    assert_eq!(unsafe { libc::kill(pid as i32, signal) }, 0);
}

/// Bytes that tell where they are, and of which message.
fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len + 8);
    let mut word = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    while bytes.len() < len.min(1 << 16) {
        word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    // Not a power of two, so that fragments differ.
    bytes.truncate(65_521.min(len));
    while bytes.len() < len {
        let more = bytes.len().min(len - bytes.len());
        bytes.extend_from_within(..more);
    }
    bytes
}

struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end as u64) as usize
    }
}

/// Sends until the pipe is full; gives how many there are.
fn fill(sender: &Sender<u64>) -> u64 {
    (0..).find(|&n| sender.try_send(n).is_err()).unwrap_or(0)
}

fn full(error: &Error) -> bool {
    matches!(error, Error::WouldBlock)
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Item {
    None,
    Int(i64),
    Text(String),
    List(Vec<Item>),
    Dict(Vec<(String, Item)>),
}

fn a_connection_carries_values_both_ways() -> Outcome {
    let echo = |conn: Connection<Item, Item>| {
        let mut count = 0;
        for item in &conn {
            conn.send(Item::List(vec![item.clone(), item])).expect("sends");
            count += 1;
        }
        count
    };
    let (here, there) = duplex::<Item, Item>()?;
    let child = Process::new(echo, (there,)).start()?;
    let text = "x".repeat(300_000);
    let items = [
        Item::None,
        Item::Int(-12),
        Item::Text(text),
        Item::Dict(vec![("name".to_string(), Item::Text("yuan".to_string()))]),
    ];
    for item in items.iter().cycle().take(40) {
        here.send(item.clone())?;
        assert_eq!(here.recv()?, Item::List(vec![item.clone(), item.clone()]));
    }
    here.close();
    assert_eq!(child.result()?, 40);
    Ok(())
}

/// Every form of sending, each message with its number.
fn send_in_all_ways(sender: &Sender<Vec<u8>>, lens: &[usize]) {
    for (n, &len) in lens.iter().enumerate() {
        let bytes = pattern(n as u64, len);
        // A time that is too short for this machine is longer the next time.
        let retry = |mut send: Box<dyn FnMut(Duration) -> Result<(), Error> + '_>| {
            let mut time = Duration::from_micros(200 + len as u64);
            loop {
                match send(time) {
                    Ok(()) => break,
                    Err(Error::WouldBlock) => thread::yield_now(),
                    Err(Error::TimedOut) => time *= 2,
                    Err(error) => panic!("{error}"),
                }
            }
        };
        match n % 7 {
            0 => sender.send_bytes(&bytes).expect("sends"),
            1 => retry(Box::new(|_| sender.try_send_bytes(&bytes))),
            2 => retry(Box::new(|time| sender.send_bytes_timeout(&bytes, time))),
            3 => sender.send_with(len, |place| place.copy_from_slice(&bytes)).expect("sends"),
            4 => sender.send(bytes).expect("sends"),
            5 => retry(Box::new(|_| sender.try_send(bytes.clone()).map_err(Error::from))),
            _ => retry(Box::new(|time| {
                sender.send_timeout(bytes.clone(), time).map_err(Error::from)
            })),
        }
    }
}

/// Every form of receiving, beside them.
fn receive_in_all_ways(receiver: &Receiver<Vec<u8>>, lens: &[usize]) {
    let mut random = Random(77);
    let mut buffer = vec![0; 64];
    let until = |receive: &mut dyn FnMut() -> Result<Vec<u8>, Error>| loop {
        match receive() {
            Ok(bytes) => break bytes,
            Err(Error::WouldBlock | Error::TimedOut) => thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
    };
    for (n, &len) in lens.iter().enumerate() {
        let is_value = n % 7 >= 4;
        let moment = Duration::from_micros(100);
        let bytes = match (is_value, random.below(4)) {
            (true, 0) => receiver.recv().expect("receives"),
            (true, 1) => until(&mut || receiver.try_recv()),
            (true, _) => until(&mut || receiver.recv_timeout(moment)),
            (false, 0) => until(&mut || receiver.try_recv_bytes()),
            (false, 1) => until(&mut || receiver.recv_bytes_timeout(moment)),
            (false, 2) => receiver.recv_with(<[u8]>::to_vec).expect("receives"),
            (false, _) => {
                let len = loop {
                    match receiver.recv_bytes_into(&mut buffer) {
                        Ok(len) => break len,
                        Err(Error::TooShort { needed }) => {
                            assert!(needed == len && needed > buffer.len());
                            buffer.resize(needed, 0);
                        }
                        Err(error) => panic!("{error}"),
                    }
                };
                let bytes = buffer[..len].to_vec();
                buffer.truncate(64);
                bytes
            }
        };
        assert!(bytes == pattern(n as u64, len), "message {n} of {len} bytes, got {}", bytes.len());
        if random.below(8) == 0 {
            assert!(n + 1 == lens.len() || receiver.poll(HANG).expect("polls"));
        }
    }
}

fn lens(count: usize, most: usize) -> Vec<usize> {
    let mut random = Random(0xDEAD_BEEF);
    let edges = [0, 1, 7, 8, 9, 128, 129, 4095, 4096, 4097, 65535, 65536, 65537, 131_072, 200_000];
    let mut lens: Vec<usize> = edges.into_iter().filter(|&len| len <= most).collect();
    while lens.len() < count {
        let most = [16, 200, 5000, 70_000, most][random.below(5)];
        lens.push(random.below(most + 1));
    }
    lens
}

fn bytes_and_values_keep_their_order() -> Outcome {
    let (receiver, sender) = simplex()?;
    let send = |sender: Sender<Vec<u8>>| send_in_all_ways(&sender, &lens(400, 3_000_000));
    let child = Process::new(send, (sender,)).start()?;
    receive_in_all_ways(&receiver, &lens(400, 3_000_000));
    assert!(matches!(receiver.recv_timeout(HANG), Err(Error::Disconnected)));
    assert!(child.join()?.success());

    let receive =
        |receiver: Receiver<Vec<u8>>| receive_in_all_ways(&receiver, &lens(400, 3_000_000));
    let (receiver, sender) = simplex()?;
    let child = Process::new(receive, (receiver,)).start()?;
    send_in_all_ways(&sender, &lens(400, 3_000_000));
    drop(sender);
    assert!(child.join()?.success());
    Ok(())
}

/// How an end comes to its end.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum Death {
    Drop,
    Return,
    Exit,
    Panic,
    Kill,
}

const DEATHS: [Death; 5] = [Death::Drop, Death::Return, Death::Exit, Death::Panic, Death::Kill];

/// Ends `end` this way; one that was dropped is so in a process that goes on until `hold` ends.
fn die<T>(death: Death, end: T, hold: Fd) {
    match death {
        Death::Drop => {
            drop(end);
            let _ = io::PipeReader::from(hold.into_owned()).read(&mut [0]);
        }
        Death::Return => std::mem::forget(end),
        Death::Exit => std::process::exit(3),
        Death::Panic => panic!("on purpose"),
        Death::Kill => {
            kill(std::process::id(), libc::SIGKILL);
            sleep_for_ever();
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Doing {
    Nothing,
    Receiving,
    Waiting,
    Polling,
    Sleeping,
    Sending,
    SendingLong,
}

/// Must come to its end though the other end comes to its.
fn meet_the_end(conn: &Connection<u64, u64>, doing: Doing) {
    let gone = |error: Error| assert!(matches!(error, Error::Disconnected), "{error}");
    match doing {
        Doing::Nothing => thread::sleep(2 * MOMENT),
        Doing::Receiving => gone(conn.recv_timeout(HANG).expect_err("the end")),
        Doing::Waiting => assert_eq!(wait(&[conn], Some(HANG)).expect("waits"), [0]),
        Doing::Polling => assert!(conn.poll(HANG).expect("polls")),
        Doing::Sleeping => conn.receiver().sleep().expect("sleeps"),
        Doing::Sending => gone(
            loop {
                if let Err(error) = conn.send_timeout(1, HANG) {
                    break error;
                }
            }
            .reason,
        ),
        Doing::SendingLong => {
            gone(conn.send_bytes_timeout(&pattern(1, 30 << 20), HANG).expect_err("the end"));
        }
    }
    gone(conn.recv_timeout(HANG).expect_err("the end"));
    gone(conn.recv().expect_err("the end"));
    assert!(conn.poll(HANG).expect("polls"));
    assert_eq!(wait(&[conn], Some(HANG)).expect("waits"), [0]);
    assert!(matches!(conn.recv_bytes(), Err(Error::Disconnected)));
    // The other direction, whose end comes by itself.
    let error = (0..100_000).find_map(|_| conn.send_timeout(5, HANG).err()).expect("the end");
    assert_eq!(error.value, 5);
    gone(error.reason);
}

fn the_end_comes_however_the_peer_ends_and_whatever_is_done_meanwhile() -> Outcome {
    use Doing::{Nothing, Polling, Receiving, Sending, SendingLong, Sleeping, Waiting};
    let end = |death: Death, conn: Connection<u64, u64>, hold: Fd| {
        thread::sleep(MOMENT / 2);
        die(death, conn, hold);
    };
    let mut left = Vec::new();
    for death in DEATHS {
        for doing in [Nothing, Receiving, Waiting, Polling, Sleeping, Sending, SendingLong] {
            let (reader, writer) = io::pipe()?;
            let (here, there) = duplex::<u64, u64>()?;
            let child = Process::new(end, (death, there, Fd::from(reader))).start()?;
            meet_the_end(&here, doing);
            left.push((child, writer));
        }
    }
    for (child, writer) in left {
        drop(writer);
        child.join()?;
    }
    Ok(())
}

fn the_end_comes_to_receivers() -> Outcome {
    let end = |death: Death, sender: Sender<u64>, hold: Fd| {
        thread::sleep(MOMENT / 2);
        die(death, sender, hold);
    };
    for death in DEATHS {
        for doing in 0..6 {
            let (reader, writer) = io::pipe()?;
            let (receiver, sender) = simplex::<u64>()?;
            let child = Process::new(end, (death, sender, Fd::from(reader))).start()?;
            match doing {
                0 => assert!(matches!(receiver.recv(), Err(Error::Disconnected))),
                1 => assert!(matches!(receiver.recv_bytes(), Err(Error::Disconnected))),
                2 => assert!(matches!(receiver.recv_with(|_| ()), Err(Error::Disconnected))),
                3 => assert_eq!(wait(&[&receiver], None)?, [0]),
                4 => receiver.sleep()?,
                _ => eventually("a try finds the end", || {
                    matches!(receiver.try_recv(), Err(Error::Disconnected))
                })?,
            }
            assert!(receiver.poll(HANG)?);
            assert_eq!(receiver.iter().count(), 0);
            drop(writer);
            child.join()?;
        }
    }
    Ok(())
}

fn the_end_comes_to_senders() -> Outcome {
    let end = |death: Death, receiver: Receiver<u64>, hold: Fd| {
        thread::sleep(MOMENT / 2);
        die(death, receiver, hold);
    };
    for death in DEATHS {
        for doing in 0..5 {
            let (reader, writer) = io::pipe()?;
            let (receiver, sender) = simplex::<u64>()?;
            let child = Process::new(end, (death, receiver, Fd::from(reader))).start()?;
            let error = match doing {
                0 => (0..).find_map(|n| sender.send(n).err()).map(Error::from),
                1 => sender.send_bytes(&pattern(1, 20 << 20)).err(),
                2 => (0..).find_map(|_| sender.send_with(4000, |_| ()).err()),
                3 => {
                    fill(&sender);
                    eventually(
                        "a try finds the end",
                        || matches!(sender.try_send(1), Err(e) if !full(&e.reason)),
                    )?;
                    sender.try_send(1).err().map(Error::from)
                }
                _ => {
                    thread::sleep(2 * MOMENT);
                    eventually("it is found", || sender.send(1).is_err())?;
                    sender.send(1).err().map(Error::from)
                }
            };
            assert!(matches!(error, Some(Error::Disconnected)), "{death:?} {doing} {error:?}");
            assert!(sender.is_closed());
            drop(writer);
            child.join()?;
        }
    }
    Ok(())
}

fn what_was_sent_before_a_death_is_received() -> Outcome {
    type Message = (u64, Vec<u8>, Option<Fd>);
    let send = |death: Death, sender: Sender<Message>, hold: Fd| {
        for n in 0..30 {
            let fd = (n % 3 == 0).then(|| Fd::from(fs::File::open("/proc/self/comm").unwrap()));
            let len = [3, 3000, 20_000][n as usize % 3];
            sender.send((n, pattern(n, len), fd)).expect("sends");
        }
        die(death, sender, hold);
    };
    for death in DEATHS {
        let (reader, writer) = io::pipe()?;
        let (receiver, sender) = simplex::<Message>()?;
        let child = Process::new(send, (death, sender, Fd::from(reader))).start()?;
        if matches!(death, Death::Drop) {
            thread::sleep(MOMENT);
        } else {
            child.join()?;
        }
        for n in 0..30 {
            let (number, bytes, fd) = receiver.recv()?;
            assert!(number == n && bytes == pattern(n, [3, 3000, 20_000][n as usize % 3]));
            assert_eq!(fd.is_some(), n % 3 == 0);
        }
        assert!(matches!(receiver.recv(), Err(Error::Disconnected)));
        drop(writer);
        child.join()?;
    }
    Ok(())
}

fn siblings_started_in_between_do_not_hold_the_end_back() -> Outcome {
    let ping = |conn: Connection<u64, u64>| {
        let n = conn.recv().expect("receives");
        conn.send(n + 1).expect("sends");
        conn.recv().expect("receives");
    };
    let mut siblings = Vec::new();
    for method in [multiprocess::start_method(), StartMethod::Fork] {
        let start = || Process::new(sleep_for_ever, ()).start_method(method).start();
        let (here, there) = duplex()?;
        siblings.push(start()?);
        let child = Process::new(ping, (there,)).start()?;
        siblings.push(start()?);
        here.send(1)?;
        assert_eq!(here.recv_timeout(HANG)?, 2);
        siblings.push(start()?);
        child.kill()?;
        assert!(matches!(here.recv_timeout(HANG), Err(Error::Disconnected)));
        let error = here.send_timeout(1, HANG).unwrap_err();
        assert!(matches!(error.reason, Error::Disconnected));
        child.join()?;
        // The other way round: this end goes, and the child's last receive ends.
        let (here, there) = duplex()?;
        let child = Process::new(ping, (there,)).start()?;
        siblings.push(start()?);
        here.send(1)?;
        assert_eq!(here.recv_timeout(HANG)?, 2);
        drop(here);
        assert_eq!(child.join_timeout(HANG)?.and_then(|status| status.code()), Some(101));
    }
    for sibling in siblings {
        sibling.kill()?;
        sibling.join()?;
    }
    Ok(())
}

fn two_children_talk_and_the_parent_is_out() -> Outcome {
    let produce = |sender: Sender<Vec<u64>>| {
        for n in 0..500_u64 {
            sender.send((0..n % 90).collect()).expect("sends");
        }
    };
    let consume = |receiver: Receiver<Vec<u64>>| {
        receiver.iter().map(|list| list.iter().sum::<u64>()).sum::<u64>()
    };
    let (receiver, sender) = simplex()?;
    // In both orders, as either may wait for the other at first.
    let consumer = Process::new(consume, (receiver,)).start()?;
    let producer = Process::new(produce, (sender,)).start()?;
    let sum = |n: u64| (0..n % 90).sum::<u64>();
    assert_eq!(consumer.result()?, (0..500).map(sum).sum());
    assert!(producer.join()?.success());

    let (receiver, sender) = simplex()?;
    let producer = Process::new(produce, (sender,)).start()?;
    thread::sleep(MOMENT);
    let consumer = Process::new(consume, (receiver,)).start()?;
    assert_eq!(consumer.result()?, (0..500).map(sum).sum());
    assert!(producer.join()?.success());
    Ok(())
}

fn an_end_moves_through_a_pipe_with_all_that_is_in_it() -> Outcome {
    type Message = (u64, Vec<u8>, Vec<Fd>);
    type Ends = (Receiver<Message>, Sender<u64>);
    let work = |ends: Receiver<Ends>| {
        let (receiver, sender) = ends.recv().expect("receives");
        for (n, bytes, fds) in &receiver {
            assert!(bytes == pattern(n, bytes.len()));
            for fd in fds {
                io::PipeWriter::from(fd.into_owned()).write_all(b"!").expect("writes");
            }
            sender.send(n).expect("sends");
        }
    };
    let (there, ends) = simplex::<Ends>()?;
    let child = Process::new(work, (there,)).start()?;
    let (receiver, messages) = simplex::<Message>()?;
    let (numbers, sender) = simplex::<u64>()?;
    let (mut reader, writer) = io::pipe()?;
    let send = |n: u64| {
        let count = [0, 1, 40][n as usize % 3];
        let fds = (0..count).map(|_| Ok(Fd::from(writer.try_clone()?))).collect::<io::Result<_>>();
        let len = if n % 8 == 7 { 130_000 } else { [10, 6000][n as usize / 3 % 2] };
        messages.send((n, pattern(n, len), fds.expect("descriptors"))).expect("sends");
    };
    // Some are received here, some lie in the pipe when it moves, some come after.
    (0..12).for_each(send);
    for n in 0..5 {
        let (number, bytes, fds) = receiver.recv()?;
        assert!(number == n && bytes == pattern(n, bytes.len()));
        assert_eq!(fds.len(), [0, 1, 40][n as usize % 3]);
    }
    sender.send(1000)?;
    assert!(receiver.poll(HANG)?);
    ends.send((receiver, sender))?;
    (12..20).for_each(send);
    drop((messages, writer));
    assert_eq!(numbers.iter().collect::<Vec<_>>(), [vec![1000], (5..20).collect()].concat());
    let mut marks = String::new();
    reader.read_to_string(&mut marks)?;
    assert_eq!(marks.len(), (5..20).map(|n| [0, 1, 40][n % 3]).sum::<usize>());
    drop(ends);
    assert!(child.join()?.success());
    Ok(())
}

fn a_receiver_moves_in_the_middle_of_a_message() -> Outcome {
    type Message = (Vec<u8>, Option<Fd>);
    const LEN: usize = 1 << 20;
    let send = |sender: Sender<Message>| {
        let fd = || Fd::from(fs::File::open("/dev/null").expect("opens"));
        sender.send((pattern(1, LEN), Some(fd()))).expect("sends");
        sender.send((pattern(2, 10), None)).expect("sends");
        sender.send((pattern(3, LEN), Some(fd()))).expect("sends");
    };
    type Left = (Receiver<Message>, Option<Message>);
    let receive = |receiver: Receiver<Message>, all: bool| -> Option<Left> {
        let (bytes, fd) = receiver.recv().expect("receives");
        assert!(bytes == pattern(1, LEN) && fd.is_some());
        assert_eq!(receiver.recv().expect("receives").0, pattern(2, 10));
        if !all {
            // All of it, if the sender is quick.
            let some = receiver.recv_timeout(Duration::from_nanos(1));
            assert!(matches!(some, Ok(_) | Err(Error::TimedOut)));
            return Some((receiver, some.ok()));
        }
        let (bytes, fd) = receiver.recv().expect("receives");
        assert!(bytes == pattern(3, LEN) && fd.is_some());
        assert!(matches!(receiver.recv(), Err(Error::Disconnected)));
        None
    };
    for all in [true, false] {
        let (receiver, sender) = simplex::<Message>()?;
        let sending = Process::new(send, (sender,)).start()?;
        // Takes what is there of it, and leaves.
        receiver.poll(Duration::from_nanos(1))?;
        let child = Process::new(receive, (receiver, all)).start()?;
        if let Some((receiver, received)) = child.result()? {
            let (bytes, fd) = received.map_or_else(|| receiver.recv_timeout(HANG), Ok)?;
            assert!(bytes == pattern(3, LEN) && fd.is_some());
            assert!(matches!(receiver.recv(), Err(Error::Disconnected)));
        }
        assert!(sending.join()?.success());
    }
    Ok(())
}

fn a_sender_that_moved_needs_no_news_of_what_was_short() -> Outcome {
    let send = |sender: Sender<Vec<u8>>| -> Sender<Vec<u8>> {
        sender.send(pattern(7, 5000)).expect("sends");
        sender.send(pattern(8, 3)).expect("sends");
        sender
    };
    let (receiver, mut sender) = simplex()?;
    for _ in 0..5 {
        for n in 0..10 {
            sender.send(pattern(n, 5))?;
        }
        for n in 0..10 {
            assert_eq!(receiver.recv_timeout(HANG)?, pattern(n, 5));
        }
        let child = Process::new(send, (sender,)).start()?;
        // Nothing is in the pipe, so it can send without any of what was received being told.
        assert_eq!(receiver.recv_timeout(HANG)?, pattern(7, 5000));
        assert_eq!(receiver.recv_timeout(HANG)?, pattern(8, 3));
        sender = child.result()?;
    }
    Ok(())
}

fn halves_work_in_two_processes() -> Outcome {
    let send = |sender: Sender<u32>| (0..100).for_each(|n| sender.send(n).expect("sends"));
    let sum = |receiver: Receiver<u32>| receiver.iter().sum::<u32>();
    let (here, there) = duplex::<u32, u32>()?;
    let (sender, receiver) = there.split();
    let one = Process::new(send, (sender,)).start()?;
    let two = Process::new(sum, (receiver,)).start()?;
    let (to_two, from_one) = here.split();
    for n in from_one.iter() {
        to_two.send(2 * n)?;
    }
    assert!(one.join()?.success());
    // Each direction ends by itself.
    drop(to_two);
    assert_eq!(two.result()?, 9900);
    Ok(())
}

fn values_hold_locks_descriptors_and_connections() -> Outcome {
    if !may_open(2048) {
        return Ok(());
    }
    #[derive(Serialize, Deserialize)]
    struct Parcel {
        lock: Lock,
        value: Value<u32>,
        files: Vec<Fd>,
        inner: Connection<String, u64>,
        next: Option<Box<Parcel>>,
    }
    let open = |conn: Connection<u64, Parcel>| {
        for mut parcel in conn.iter() {
            let mut count = 0;
            loop {
                let Parcel { lock, value, files, inner, next } = parcel;
                assert!(lock.try_lock().is_err());
                value.update(|value| *value += 1);
                for file in &files {
                    io::PipeWriter::from(file.try_clone().expect("a descriptor").into_owned())
                        .write_all(b".")
                        .expect("writes");
                }
                inner.send(format!("{} files", files.len())).expect("sends");
                count += inner.recv().expect("receives");
                match next {
                    Some(more) => parcel = *more,
                    None => break,
                }
            }
            conn.send(count).expect("sends");
        }
    };
    let (here, there) = duplex::<Parcel, u64>()?;
    let child = Process::new(open, (there,)).start()?;
    let (lock, value) = (Lock::new()?, Value::new(0_u32)?);
    let guard = lock.lock().unwrap();
    for count in [0, 1, 253, 300, 700] {
        let (mut reader, writer) = io::pipe()?;
        let mut ends = Vec::new();
        let mut parcel = None;
        for count in [count, 2] {
            let (near, far) = duplex::<u64, String>()?;
            let files = (0..count).map(|_| Ok(Fd::from(writer.try_clone()?)));
            let files = files.collect::<io::Result<_>>()?;
            let (lock, value) = (lock.clone(), value.clone());
            parcel = Some(Box::new(Parcel { lock, value, files, inner: far, next: parcel }));
            ends.push((near, count));
        }
        here.send(*parcel.ok_or("none")?)?;
        for (near, count) in ends.iter().rev() {
            assert_eq!(near.recv_timeout(HANG)?, format!("{count} files"));
            near.send(*count)?;
        }
        assert_eq!(here.recv_timeout(HANG)?, count + 2);
        drop(writer);
        let mut dots = String::new();
        reader.read_to_string(&mut dots)?;
        assert_eq!(dots.len() as u64, count + 2);
        for (near, _) in &ends {
            assert!(matches!(near.recv_timeout(HANG), Err(Error::Disconnected)));
        }
    }
    drop(guard);
    assert_eq!(value.get(), 10);
    drop(here);
    assert!(child.join()?.success());
    Ok(())
}

/// Sets how many descriptors this process may have; gives how many it could.
fn limit_descriptors(most: u64) -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: a struct of ours to write to.
    assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) }, 0);
    let before = limit.rlim_cur;
    limit.rlim_cur = most.min(limit.rlim_max);
    // SAFETY: a struct of ours to read.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }, 0);
    before
}

fn descriptors() -> u64 {
    // The listing itself takes one.
    fs::read_dir("/proc/self/fd").expect("proc").count() as u64 - 1
}

/// Leaves room for so many more; gives how many there could be before.
fn leave_descriptors(free: usize) -> u64 {
    let entries = fs::read_dir("/proc/self/fd").expect("proc").flatten();
    let number = |name: std::ffi::OsString| name.to_str()?.parse::<u64>().ok();
    let used: Vec<u64> = entries.filter_map(|entry| number(entry.file_name())).collect();
    // The listing itself takes one, which is free now.
    let is_free =
        |n: &u64| !used.contains(n) || fs::read_link(format!("/proc/self/fd/{n}")).is_err();
    let end = (0..).filter(is_free).nth(free).expect("a number");
    limit_descriptors(end)
}

fn more_descriptors_than_the_receiver_has_room_for_cost_that_message_only() -> Outcome {
    if !may_open(1024) {
        return Ok(());
    }
    type Message = (u64, Vec<Fd>, Vec<u8>);
    let receive = |conn: Connection<(), Message>| {
        let before = leave_descriptors(5);
        let count = descriptors();
        let error = |result: Result<Message, Error>| match result {
            Err(Error::Io(error)) => error.raw_os_error(),
            other => panic!("{other:?}"),
        };
        // Too many at once, in one packet and in two, short and long.
        for _ in 0..4 {
            assert_eq!(error(conn.recv()), Some(libc::EMFILE));
        }
        assert_eq!(descriptors(), count, "none of them stays");
        let (number, fds, _) = conn.recv().expect("receives");
        assert!(number == 4 && fds.len() == 2);
        drop(fds);
        limit_descriptors(before);
        let (number, fds, bytes) = conn.recv().expect("receives");
        assert!(number == 5 && fds.len() == 300 && bytes == pattern(5, 100_000));
    };
    let (here, there) = duplex::<Message, ()>()?;
    let child = Process::new(receive, (there,)).start()?;
    let file = Fd::from(fs::File::open("/dev/null")?);
    let fds = |count: usize| (0..count).map(|_| file.try_clone()).collect::<io::Result<Vec<_>>>();
    for (n, count, len) in
        [(0, 20, 0), (1, 300, 0), (2, 20, 100_000), (3, 300, 9000), (4, 2, 0), (5, 300, 100_000)]
    {
        here.send((n, fds(count)?, pattern(n, len)))?;
    }
    assert!(child.join()?.success());
    Ok(())
}

/// Sends messages so long to another process, which sends them back.
fn echo(lens: &[usize]) -> Outcome {
    let answer = |conn: Connection<Vec<u8>, Vec<u8>>| {
        while let Ok(bytes) = conn.recv() {
            conn.send(bytes).expect("sends");
        }
    };
    let (here, there) = duplex::<Vec<u8>, Vec<u8>>()?;
    let child = Process::new(answer, (there,)).start()?;
    for &len in lens {
        here.send(pattern(1, len))?;
        assert!(here.recv()? == pattern(1, len));
    }
    drop(here);
    assert!(child.join()?.success());
    Ok(())
}

fn long_messages_stream_through() -> Outcome {
    echo(&[30 << 20, 0, 1 << 20])
}

fn a_quarter_of_a_gigabyte_streams_through() -> Outcome {
    echo(&[256 << 20, 1])
}

fn a_receive_that_times_out_in_a_long_message_goes_on_later() -> Outcome {
    const LEN: usize = 40 << 20;
    let send = |sender: Sender<Vec<u8>>| {
        for n in 0..3 {
            sender.send_bytes(&pattern(n, LEN)).expect("sends");
            sender.send(pattern(n, 3)).expect("sends");
        }
    };
    let (receiver, sender) = simplex()?;
    let child = Process::new(send, (sender,)).start()?;
    // It fills the pipe and then waits, so this is in the middle of it.
    sleeps(child.pid())?;
    kill(child.pid(), libc::SIGSTOP);
    assert!(matches!(receiver.recv_bytes_timeout(Duration::from_micros(50)), Err(Error::TimedOut)));
    for _ in 0..3 {
        assert!(matches!(receiver.try_recv_bytes(), Err(Error::WouldBlock)));
        assert!(matches!(receiver.recv_bytes_timeout(MOMENT), Err(Error::TimedOut)));
        assert!(!receiver.poll(Duration::from_millis(1))?);
        assert!(wait(&[&receiver], Some(Duration::from_millis(1)))?.is_empty());
    }
    kill(child.pid(), libc::SIGCONT);
    assert!(receiver.recv_bytes()? == pattern(0, LEN));
    assert_eq!(receiver.recv()?, pattern(0, 3));
    assert_eq!(wait(&[&receiver], Some(HANG))?, [0]);
    let mut short = [0; 10];
    assert!(matches!(receiver.recv_bytes_into(&mut short), Err(Error::TooShort { needed: LEN })));
    let mut times_out = 0;
    let bytes = loop {
        match receiver.recv_bytes_timeout(Duration::from_micros(100)) {
            Err(Error::TimedOut) => times_out += 1,
            other => break other?,
        }
        assert!(times_out < 100_000);
    };
    assert!(bytes == pattern(1, LEN));
    assert_eq!(receiver.recv()?, pattern(1, 3));
    assert!(receiver.recv_with(|bytes| bytes == pattern(2, LEN))?);
    assert_eq!(receiver.recv()?, pattern(2, 3));
    assert!(child.join()?.success());
    Ok(())
}

fn wait_tells_all_that_are_ready() -> Outcome {
    let at_command = |conn: Connection<u8, u8>| {
        while let Ok(command) = conn.recv() {
            if command == 0 {
                break;
            }
            conn.send(command).expect("sends");
        }
    };
    let (one, one_there) = duplex::<u8, u8>()?;
    let (two, two_there) = duplex::<u8, u8>()?;
    let child_one = Process::new(at_command, (one_there,)).start()?;
    let child_two = Process::new(at_command, (two_there,)).start()?;
    let (socket, mut other) = UnixStream::pair()?;
    let (pipe, mut writer) = io::pipe()?;
    let soon = Some(Duration::from_millis(5));
    let items: [&dyn multiprocess::Waitable; 6] =
        [&one, &child_one, &two, &child_two, &socket, &pipe];
    assert!(wait(&items, soon)?.is_empty());
    assert!(wait(&[], None)?.is_empty());

    one.send(7)?;
    assert_eq!(wait(&items, Some(HANG))?, [0]);
    two.send(8)?;
    assert_eq!(wait(&[&two], Some(HANG))?, [0]);
    other.write_all(b"x")?;
    writer.write_all(b"x")?;
    // All that are ready, and again as long as they are so; more than once in the list too.
    for _ in 0..3 {
        assert_eq!(wait(&items, Some(HANG))?, [0, 2, 4, 5]);
        assert_eq!(wait(&[&two, &one, &two], None)?, [0, 1, 2]);
    }
    assert_eq!((one.recv()?, two.recv()?), (7, 8));
    assert_eq!(wait(&items, Some(HANG))?, [4, 5]);
    (&socket).read_exact(&mut [0])?;
    (&pipe).read_exact(&mut [0])?;
    assert!(wait(&items, soon)?.is_empty());
    assert!(wait(&items, Some(Duration::ZERO))?.is_empty());

    one.send(0)?;
    child_one.join()?;
    // The end of the child, and of what it had.
    assert_eq!(wait(&items, None)?, [0, 1]);
    child_two.kill()?;
    child_two.join()?;
    drop((other, writer));
    assert_eq!(wait(&items, None)?, [0, 1, 2, 3, 4, 5]);
    Ok(())
}

/// Whether poll(2) finds it readable now.
fn is_readable(fd: BorrowedFd<'_>) -> bool {
    poll(&mut [PollFd::readable(fd)], Deadline::PASSED).expect("polls") == 1
}

fn what_can_be_watched_is_readable_while_messages_remain() -> Outcome {
    const MESSAGES: usize = 3000;
    let send = |sender: Sender<Vec<u8>>| {
        let mut random = Random(4242);
        for (n, len) in lens(MESSAGES, 9000).into_iter().enumerate() {
            sender.send(pattern(n as u64, len)).expect("sends");
            match random.below(40) {
                0 => thread::sleep(Duration::from_micros(300)),
                1..8 => (0..random.below(3000)).for_each(|_| std::hint::spin_loop()),
                _ => {}
            }
        }
    };
    let (receiver, sender) = simplex::<Vec<u8>>()?;
    let child = Process::new(send, (sender,)).start()?;
    let lens = lens(MESSAGES, 9000);
    let mut random = Random(99);
    let watcher = Epoll::new()?;
    watcher.add(receiver.as_fd(), 1)?;
    let mut n = 0;
    loop {
        // In an epoll of ours, to which it was added once, and by itself.
        let ready = poll(&mut [PollFd::readable(watcher.as_fd())], Deadline::after(HANG))?;
        assert_eq!(ready, 1, "nobody tells of message {n}");
        for _ in 0..=random.below(5) {
            let result = match random.below(3) {
                0 => receiver.try_recv(),
                1 => receiver.recv_timeout(Duration::from_micros(20)),
                _ if receiver.poll(Duration::ZERO)? => receiver.recv(),
                _ => Err(Error::WouldBlock),
            };
            match result {
                Ok(bytes) => {
                    assert!(bytes == pattern(n as u64, lens[n]), "message {n}");
                    n += 1;
                }
                Err(Error::WouldBlock | Error::TimedOut) => {}
                Err(Error::Disconnected) => {
                    assert_eq!(n, MESSAGES);
                    // It stays so at the end.
                    assert!(is_readable(receiver.as_fd()) && is_readable(watcher.as_fd()));
                    assert!(child.join()?.success());
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn sleepers_use_no_processor_time() -> Outcome {
    let sleep = |how: u32, conn: Connection<u64, u64>, ready: Sender<()>| {
        assert!((0..500).all(|_| conn.recv().is_ok()));
        match how {
            0 => {
                _ = {
                    ready.send(()).expect("sends");
                    conn.recv()
                }
            }
            1 => {
                _ = {
                    ready.send(()).expect("sends");
                    wait(&[&conn], None)
                }
            }
            2 => {
                _ = {
                    ready.send(()).expect("sends");
                    conn.poll(Duration::MAX)
                }
            }
            3 => {
                _ = {
                    ready.send(()).expect("sends");
                    conn.recv_timeout(Duration::from_secs(99))
                }
            }
            4 => {
                fill(conn.sender());
                ready.send(()).expect("sends");
                let _ = conn.send(1);
            }
            _ => {
                ready.send(()).expect("sends");
                let _ = conn.send_bytes(&pattern(1, 20 << 20));
            }
        }
    };
    let mut sleepers = Vec::new();
    for how in 0..6 {
        let (here, there) = duplex::<u64, u64>()?;
        let (ready, there_ready) = simplex::<()>()?;
        let child = Process::new(sleep, (how, there, there_ready)).start()?;
        // In a rush, as then the sleeper makes the barriers.
        (0..500).try_for_each(|n| here.send(n))?;
        ready.recv()?;
        sleepers.push((child, here));
    }
    let all = || {
        let children = sleepers.iter().map(|(child, _)| child.pid());
        children.chain([std::process::id()]).map(ticks).collect::<Vec<_>>()
    };
    // In the first second some may still be on their way to sleep.
    at_last(
        || {
            let before = all();
            thread::sleep(Duration::from_secs(1));
            all().iter().zip(before).map(|(now, before)| now - before).collect::<Vec<_>>()
        },
        |used| used.iter().all(|&ticks| ticks <= 2),
    )?;
    assert!(sleepers.iter().all(|(child, _)| child.is_alive()));
    for (child, conn) in sleepers {
        drop(conn);
        child.join()?;
    }
    Ok(())
}

fn use_one_processor() {
    // SAFETY: all zeros is an empty set.
    let mut all: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    let mut set = all;
    // SAFETY: a set of ours, and its size.
    assert_eq!(unsafe { libc::sched_getaffinity(0, size_of_val(&all), &raw mut all) }, 0);
    // Not every process may use processor 0.
    let first = (0..libc::CPU_SETSIZE as usize).find(|&n| {
        // SAFETY: a number that every set has room for.
        unsafe { libc::CPU_ISSET(n, &all) }
    });
    // SAFETY: as above.
    unsafe { libc::CPU_SET(first.expect("a processor"), &mut set) };
    // SAFETY: a set of ours, and its size.
    assert_eq!(unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) }, 0);
}

fn ping_pong(here: &Connection<u64, u64>, rounds: u64) -> Outcome {
    for n in 0..rounds {
        here.send(n)?;
        assert_eq!(here.recv_timeout(HANG)?, n);
    }
    let long = pattern(3, 3 << 20);
    here.send_bytes(&long)?;
    assert!(here.recv_bytes_timeout(HANG)? == long);
    Ok(())
}

fn pong(conn: &Connection<u64, u64>) {
    while let Ok(bytes) = conn.recv_bytes() {
        conn.send_bytes(&bytes).expect("sends");
    }
}

fn one_processor_is_enough() -> Outcome {
    let answer = |conn: Connection<u64, u64>| {
        use_one_processor();
        pong(&conn);
    };
    let (here, there) = duplex()?;
    let child = Process::new(answer, (there,)).start()?;
    use_one_processor();
    ping_pong(&here, 3000)?;
    drop(here);
    assert!(child.join()?.success());
    Ok(())
}

extern "C" fn on_signal(_: i32) {}

/// A thousand signals a second, whose handler does nothing and restarts nothing; 0 ends them.
fn signals(micros: i64) {
    // SAFETY: all zeros is an action without flags.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_signal as *const () as usize;
    let none = std::ptr::null_mut();
    // SAFETY: a struct of ours; the handler does nothing.
    let result = unsafe { libc::sigaction(libc::SIGALRM, &raw const action, none) };
    assert_eq!(result, 0);
    let time = libc::timeval { tv_sec: 0, tv_usec: micros };
    let timer = libc::itimerval { it_interval: time, it_value: time };
    // SAFETY: a struct of ours.
    let result =
        unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const timer, std::ptr::null_mut()) };
    assert_eq!(result, 0);
}

fn signals_do_not_disturb() -> Outcome {
    let answer = |conn: Connection<u64, u64>| {
        signals(1000);
        pong(&conn);
        signals(0);
    };
    let (here, there) = duplex()?;
    let child = Process::new(answer, (there,)).start()?;
    signals(1000);
    let result = (|| {
        for _ in 0..5 {
            ping_pong(&here, 1000)?;
            let start = Instant::now();
            // Neither cut short nor stretched.
            assert!(matches!(here.recv_timeout(2 * MOMENT), Err(Error::TimedOut)));
            assert!(start.elapsed() >= 2 * MOMENT && start.elapsed() < HANG);
            assert!(wait(&[&here], Some(MOMENT))?.is_empty());
            assert!(!here.poll(MOMENT)?);
        }
        let (receiver, sender) = simplex::<u64>()?;
        fill(&sender);
        assert!(matches!(sender.send_timeout(1, MOMENT).unwrap_err().reason, Error::TimedOut));
        drop(receiver);
        Ok(())
    })();
    signals(0);
    drop(here);
    assert!(child.join()?.success());
    result
}

fn an_empty_message_is_a_message() -> Outcome {
    let (receiver, sender) = simplex::<()>()?;
    sender.send_bytes(b"")?;
    sender.send(())?;
    sender.send_with(0, |bytes| assert!(bytes.is_empty()))?;
    sender.send_bytes(b"")?;
    assert!(receiver.poll(Duration::ZERO)?);
    assert_eq!(receiver.recv_bytes()?, b"");
    receiver.recv()?;
    assert_eq!(receiver.recv_with(<[u8]>::len)?, 0);
    assert_eq!(receiver.recv_bytes_into(&mut [])?, 0);
    assert!(!receiver.poll(Duration::ZERO)?);
    assert!(matches!(receiver.try_recv_bytes(), Err(Error::WouldBlock)));
    Ok(())
}

fn a_buffer_too_short_loses_nothing() -> Outcome {
    let (receiver, sender) = simplex::<()>()?;
    let mut buffer = vec![0; 300_000];
    for len in [1, 100, 5000, 70_000, 200_000] {
        sender.send_bytes(&pattern(1, len))?;
        sender.send_bytes(b"next")?;
        for short in [0, len / 2, len - 1] {
            let error = receiver.recv_bytes_into(&mut buffer[..short]).unwrap_err();
            assert!(matches!(error, Error::TooShort { needed } if needed == len), "{error}");
            assert!(receiver.poll(Duration::ZERO)?);
        }
        assert_eq!(receiver.recv_bytes_into(&mut buffer)?, len);
        assert!(buffer[..len] == pattern(1, len));
        assert_eq!(receiver.recv_bytes()?, b"next");
    }
    // What was sent by a call that does not wait, too.
    sender.try_send_bytes(&pattern(2, 300_000))?;
    assert!(matches!(
        receiver.recv_bytes_into(&mut buffer[..9]),
        Err(Error::TooShort { needed: 300_000 })
    ));
    assert_eq!(receiver.recv_bytes_into(&mut buffer)?, 300_000);
    assert!(buffer == pattern(2, 300_000));
    Ok(())
}

fn trying_fills_the_pipe_and_goes_on_once_there_is_room() -> Outcome {
    let (receiver, sender) = simplex::<u64>()?;
    let mut next = 0;
    let count = fill(&sender);
    assert!(count > 1000, "{count}");
    let error = sender.try_send(count).unwrap_err();
    assert!(error.value == count && full(&error.reason));
    for n in count..count + 20_000 {
        assert!(full(&sender.try_send(n).unwrap_err().reason));
        assert_eq!(receiver.try_recv()?, next);
        next += 1;
        sender.try_send(n)?;
    }
    assert_eq!(receiver.try_iter().collect::<Vec<_>>(), (next..count + 20_000).collect::<Vec<_>>());

    // Of any length, in ring and area: what is received makes room, at the latest when all is.
    for len in [100, 4000, 4096, 5000, 40_000, 65_536] {
        let bytes = pattern(9, len);
        let mut there = 0;
        for _ in 0..200 {
            while sender.try_send_bytes(&bytes).is_ok() {
                there += 1;
            }
            assert!(there > 1);
            let mut received = 0;
            while sender.try_send_bytes(&bytes).is_err() {
                assert!(receiver.recv_bytes_timeout(HANG)? == bytes);
                received += 1;
                assert!(received <= 3, "{len}");
            }
            there = there + 1 - received;
        }
        for _ in 0..there {
            assert!(receiver.try_recv_bytes()? == bytes);
        }
        assert!(matches!(receiver.try_recv_bytes(), Err(Error::WouldBlock)));
    }
    Ok(())
}

fn trying_sends_long_messages_at_once() -> Outcome {
    let (receiver, sender) = simplex::<Vec<u8>>()?;
    let long = pattern(1, 100 << 20);
    sender.try_send(long.clone())?;
    sender.try_send(vec![1, 2, 3])?;
    sender.try_send_bytes(&long[..70_000])?;
    assert!(receiver.poll(Duration::ZERO)?);
    assert!(receiver.try_recv()? == long);
    assert_eq!(receiver.try_recv()?, [1, 2, 3]);
    assert!(receiver.recv_with(|bytes| bytes == &long[..70_000])?);
    Ok(())
}

fn a_long_message_that_was_tried_stays_while_there_is_no_descriptor_for_it() -> Outcome {
    fn refused<T>(result: Result<T, Error>) {
        let Err(Error::Io(error)) = result else { panic!("there was a descriptor for it") };
        assert_eq!(error.raw_os_error(), Some(libc::EMFILE));
    }
    let (receiver, sender) = simplex::<Vec<u8>>()?;
    let long = pattern(1, 200_000);
    let before = descriptors();
    // What it listens to before it has read what comes first is not lost either.
    for listens in [false, true] {
        sender.send(vec![1])?;
        sender.try_send(long.clone())?;
        sender.send_timeout(long.clone(), Duration::ZERO)?;
        sender.send(vec![2])?;
        let limit = leave_descriptors(0);
        if listens {
            // It has no room for a descriptor of its own, and hears what came through its socket.
            let _ = receiver.as_fd();
            assert_eq!(wait(&[&receiver], Some(Duration::ZERO))?, [0]);
        }
        assert_eq!(receiver.recv()?, [1]);
        for _ in 0..2 {
            refused(receiver.recv());
            refused(receiver.try_recv());
            refused(receiver.recv_timeout(MOMENT));
            refused(receiver.recv_bytes());
            refused(receiver.recv_with(|_| ()));
            refused(receiver.recv_bytes_into(&mut vec![0; 300_000]));
            refused(receiver.recv_message_with(|_, _| ()));
            assert!(matches!(
                receiver.recv_bytes_into(&mut [0]),
                Err(Error::TooShort { needed: 200_008 })
            ));
            assert!(receiver.poll(Duration::ZERO)? && !receiver.is_empty());
            receiver.sleep()?;
        }
        limit_descriptors(limit);
        assert!(receiver.recv()? == long && receiver.try_recv()? == long);
        assert_eq!(receiver.recv()?, [2]);
    }
    // Also in the hands of another, and after the end of its sender.
    sender.try_send(long.clone())?;
    drop(sender);
    let limit = leave_descriptors(0);
    refused(receiver.recv());
    limit_descriptors(limit);
    let moved = multiprocess::core::encode(&receiver)?;
    drop(receiver);
    let receiver: Receiver<Vec<u8>> = multiprocess::core::decode(moved)?;
    let limit = leave_descriptors(0);
    refused(receiver.recv());
    limit_descriptors(limit);
    assert!(receiver.recv()? == long);
    assert!(matches!(receiver.recv(), Err(Error::Disconnected)));
    drop(receiver);
    assert_eq!(descriptors(), before - 3);
    Ok(())
}

fn a_send_that_times_out_leaves_the_link_in_frame() -> Outcome {
    if !may_open(2048) {
        return Ok(());
    }
    let (receiver, sender) = simplex::<Vec<u8>>()?;
    let long = pattern(1, 5 << 20);
    let moment = Duration::from_millis(3);
    // Nobody reads; somebody takes part of it; the pipe is full of short ones. Time and again.
    for round in 0..30 {
        let error = sender.send_timeout(long.clone(), moment).unwrap_err();
        assert!(matches!(error.reason, Error::TimedOut), "{round}: {}", error.reason);
        assert!(error.value == long);
        if round % 2 == 0 {
            assert!(matches!(receiver.try_recv(), Err(Error::WouldBlock)));
        }
        sender.send_timeout(vec![round], HANG)?;
        if round % 3 == 0 {
            assert!(matches!(sender.send_bytes_timeout(&long, moment), Err(Error::TimedOut)));
        }
        assert_eq!(receiver.recv_timeout(HANG)?, [round]);
    }
    let mut count = 0;
    while sender.try_send(vec![9; 7]).is_ok() {
        count += 1;
    }
    for _ in 0..30 {
        assert!(matches!(sender.send_bytes_timeout(&long, moment), Err(Error::TimedOut)));
        assert!(matches!(
            sender.send_timeout(vec![9; 7], Duration::from_micros(50)).unwrap_err().reason,
            Error::TimedOut
        ));
    }
    for _ in 0..count {
        assert_eq!(receiver.try_recv()?, [9; 7]);
    }
    assert!(matches!(receiver.try_recv(), Err(Error::WouldBlock)));

    // With descriptors, which were sent already or not.
    let (receiver, sender) = simplex::<(Vec<u8>, Vec<Fd>)>()?;
    let null = Fd::from(fs::File::open("/dev/null")?);
    let fds = || (0..300).map(|_| null.try_clone()).collect::<io::Result<Vec<_>>>();
    for _ in 0..5 {
        let error = sender.send_timeout((long[..600_000].to_vec(), fds()?), moment).unwrap_err();
        assert!(matches!(error.reason, Error::TimedOut));
        assert_eq!(error.value.1.len(), 300);
    }
    // Few in each, as all users' descriptors that are under way are counted together.
    let mut sent = 0;
    let reason = loop {
        match sender.send_timeout((vec![sent as u8], vec![null.try_clone()?]), moment) {
            Ok(()) => sent += 1,
            Err(error) => break error.reason,
        }
        assert!(sent < 100_000);
    };
    // The socket is full, or all that may be under way is.
    assert!(matches!(reason, Error::TimedOut | Error::Io(_)), "{reason}");
    for n in 0..sent {
        // Room for some of its packets, and not for all.
        if n < 3 {
            assert!(sender.send_timeout((vec![0; 9], fds()?), moment).is_err() || n > 0);
        }
        let (bytes, fds) = receiver.recv_timeout(HANG)?;
        assert!(bytes == [n as u8] && fds.len() == 1);
    }
    // Those of the three that found room after all.
    assert!(receiver.try_iter().all(|(bytes, fds)| bytes == [0; 9] && fds.len() == 300));
    assert!(matches!(receiver.try_recv(), Err(Error::WouldBlock)));
    sender.send((vec![3], fds()?))?;
    assert_eq!(receiver.recv_timeout(HANG)?.1.len(), 300);
    Ok(())
}

struct Stubborn(bool);

impl Serialize for Stubborn {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0 {
            return Err(serde::ser::Error::custom("does not want to"));
        }
        serializer.serialize_u8(1)
    }
}

fn values_that_cannot_be_sent_come_back() -> Outcome {
    if !may_open(8192) {
        return Ok(());
    }
    let (receiver, sender) = simplex::<Stubborn>()?;
    let error = sender.send(Stubborn(true)).unwrap_err();
    assert!(error.value.0 && error.to_string().contains("does not want to"), "{error}");
    assert!(matches!(error.reason, Error::Encode(_)));
    sender.send(Stubborn(false))?;
    assert_eq!(receiver.recv_bytes()?, [1]);
    drop(receiver);
    let error = sender.send(Stubborn(false)).unwrap_err();
    assert!(!error.value.0 && matches!(error.reason, Error::Disconnected));
    // A connection that could not be sent still works.
    let (receiver, sender) = simplex::<Connection<u8, u8>>()?;
    let (one, two) = duplex::<u8, u8>()?;
    two.send(3)?;
    drop(receiver);
    let one = sender.send(one).unwrap_err().value;
    assert_eq!(one.recv()?, 3);
    one.send(4)?;
    assert_eq!(two.recv()?, 4);
    Ok(())
}

fn thousands_of_descriptors_go_in_one_message() -> Outcome {
    let (receiver, sender) = simplex::<Vec<Fd>>()?;
    let null = Fd::from(fs::File::open("/dev/null")?);
    let many = (0..5000).map(|_| null.try_clone()).collect::<io::Result<Vec<_>>>()?;
    sender.send(many)?;
    sender.send(vec![null])?;
    assert_eq!((receiver.recv()?.len(), receiver.recv()?.len()), (5000, 1));
    Ok(())
}

fn memory_short_for_an_end_in_a_message_is_told() -> Outcome {
    /// Sets how many bytes of addresses there may be; gives how many there could be before.
    fn limit_addresses(most: u64) -> u64 {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: a struct of ours to write to.
        assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_AS, &raw mut limit) }, 0);
        let before = limit.rlim_cur;
        limit.rlim_cur = most;
        // SAFETY: a struct of ours to read.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &raw const limit) }, 0);
        before
    }
    let (connections, sender) = simplex::<Connection<u8, u8>>()?;
    let (receivers, receivers_sender) = simplex::<Receiver<u8>>()?;
    let (senders, senders_sender) = simplex::<Sender<u8>>()?;
    sender.send(duplex()?.0)?;
    let (one, two) = simplex()?;
    receivers_sender.send(one)?;
    senders_sender.send(two)?;
    // Of which no pipe has so few.
    let pages = fs::read_to_string("/proc/self/statm")?;
    let pages: u64 = pages.split(' ').next().unwrap_or_default().parse()?;
    let before = limit_addresses((pages + 256) * 4096);
    let results =
        [connections.recv().map(drop), receivers.recv().map(drop), senders.recv().map(drop)];
    limit_addresses(before);
    for result in results {
        let Err(Error::Io(why)) = result else { panic!("{result:?}") };
        assert_eq!(why.raw_os_error(), Some(libc::ENOMEM));
    }
    Ok(())
}

fn what_cannot_be_decoded_is_consumed() -> Outcome {
    let (receiver, sender) = simplex::<String>()?;
    let before = descriptors();
    sender.send_bytes(&[255; 40])?;
    sender.send_bytes(&pattern(1, 200_000))?;
    sender.send_bytes(b"")?;
    sender.send("good".to_string())?;
    for _ in 0..3 {
        let error = receiver.recv().unwrap_err();
        assert!(matches!(error, Error::Decode(_)), "{error}");
    }
    assert_eq!(receiver.recv()?, "good");
    // Descriptors that are not for a String are closed.
    let (fds, sender) = simplex::<Vec<Fd>>()?;
    sender.send(vec![Fd::from(fs::File::open("/dev/null")?)])?;
    let message = multiprocess::core::encode(&fds)?;
    drop(fds);
    let wrong: Receiver<String> = multiprocess::core::decode(message)?;
    assert!(matches!(wrong.recv(), Err(Error::Decode(_))));
    drop((wrong, sender));
    assert_eq!(descriptors(), before);
    Ok(())
}

fn descriptors_of_a_message_that_was_given_up_are_closed() -> Outcome {
    if !may_open(2048) {
        return Ok(());
    }
    let limit = limit_descriptors(2048);
    let (receiver, sender) = simplex::<(Vec<Fd>, Vec<u8>)>()?;
    let null = Fd::from(fs::File::open("/dev/null")?);
    let nulls = |count: usize| (0..count).map(|_| null.try_clone()).collect::<io::Result<Vec<_>>>();
    let before = descriptors();
    // One that is long is put aside, with one descriptor more.
    for len in [0, 100_000] {
        let mut sent = 0;
        while sender.try_send((nulls(1)?, Vec::new())).is_ok() {
            sent += 1;
        }
        receiver.recv()?;
        // Of the two packets of such a message there is room for one.
        let (mut reader, writer) = io::pipe()?;
        let mut message = (vec![Fd::from(writer)], pattern(1, len));
        message.0.extend(nulls(299)?);
        let error = sender.try_send(message).unwrap_err();
        assert!(full(&error.reason), "{}", error.reason);
        drop(error);
        for _ in 1..sent {
            assert_eq!(receiver.recv()?.0.len(), 1);
        }
        assert!(!receiver.poll(Duration::from_millis(30))? && receiver.is_empty());
        let ended = poll(&mut [PollFd::readable(reader.as_fd())], Deadline::after(HANG))?;
        assert!(ended == 1 && reader.read(&mut [0])? == 0);
        drop(reader);
        assert_eq!(descriptors(), before);
        sender.send((nulls(300)?, Vec::new()))?;
        assert_eq!(receiver.recv()?.0.len(), 300);
    }
    limit_descriptors(limit);
    Ok(())
}

fn what_is_written_in_place_is_asked_for_once_there_is_room() -> Outcome {
    const LENS: [usize; 3] = [100, 1 << 20, 3 << 20];
    let (receiver, sender) = simplex::<()>()?;
    let never = |_: &mut [u8]| panic!("there is no room");
    while sender.try_send_bytes(b"x").is_ok() {}
    for len in LENS {
        assert!(full(&sender.try_send_with(len, never).unwrap_err()));
    }
    while receiver.try_recv_bytes().is_ok() {}
    for len in LENS {
        sender.try_send_with(len, |bytes| bytes.copy_from_slice(&pattern(1, len)))?;
        assert!(receiver.recv_bytes()? == pattern(1, len));
    }
    // More than there is memory.
    for len in [1 << 46, usize::MAX] {
        assert!(matches!(sender.send_with(len, never), Err(Error::Io(_))));
        assert!(matches!(sender.try_send_with(len, never), Err(Error::Io(_))));
    }
    sender.send_bytes(b"goes on")?;
    assert_eq!(receiver.recv_bytes()?, b"goes on");
    // Not at once, and then for each length.
    drop(receiver);
    eventually("the end", || sender.try_send_with(8, |_| ()).is_err())?;
    for len in LENS {
        assert!(matches!(sender.send_with(len, never), Err(Error::Disconnected)));
    }
    // Nobody reads any more, and the writer waits for room.
    let (receiver, sender) = simplex::<()>()?;
    while sender.try_send_bytes(b"x").is_ok() {}
    let closes = thread::spawn(move || {
        thread::sleep(MOMENT);
        drop(receiver);
    });
    assert!(matches!(sender.send_with(3 << 20, never), Err(Error::Disconnected)));
    assert!(closes.join().is_ok());
    Ok(())
}

fn in_place_reads_and_writes_bear_panics_and_themselves() -> Outcome {
    let panics = |work: &mut dyn FnMut()| catch_unwind(AssertUnwindSafe(work)).is_err();
    let (receiver, sender) = simplex::<u32>()?;
    for len in [8, 5000, 60_000] {
        assert!(panics(&mut || {
            let _ = sender.send_with(len, |_| panic!("on purpose"));
        }));
        let sum = sender.send_with(len, |bytes| {
            bytes.copy_from_slice(&pattern(4, len));
            bytes.len()
        })?;
        assert_eq!(sum, len);
        sender.send(7)?;
        assert!(panics(&mut || {
            let _ = sender.send_with(len, |_| sender.send(1));
        }));
        assert!(receiver.recv_with(|bytes| bytes == pattern(4, len))?);
        sender.send_bytes(&pattern(5, len))?;
        assert_eq!(receiver.recv()?, 7);
        assert!(panics(&mut || {
            let _ = receiver.recv_with(|_| receiver.try_recv());
        }));
        sender.send_bytes(b"abc")?;
        assert!(panics(&mut || {
            let _ = receiver.recv_with(|bytes| {
                assert_eq!(bytes, b"abc");
                panic!("on purpose");
            });
        }));
        // Each was received once, and all is as before.
        assert!(matches!(receiver.try_recv(), Err(Error::WouldBlock)));
        sender.send(8)?;
        assert_eq!(receiver.recv()?, 8);
    }
    // Too long to be written in place.
    let written = thread::spawn(move || {
        sender.send_with(5 << 20, |bytes| bytes.copy_from_slice(&pattern(6, 5 << 20)))?;
        Ok::<_, Error>(sender)
    });
    assert!(receiver.recv_with(|bytes| bytes == pattern(6, 5 << 20))?);
    let sender = written.join().unwrap()?;
    // Another pipe may be used meanwhile.
    let (other, back) = simplex::<u32>()?;
    sender.send_with(1, |_| back.send(1))??;
    receiver.recv_with(|bytes| (bytes.len(), other.recv()))?.1?;
    Ok(())
}

fn iterators_end_with_the_sender() -> Outcome {
    let (receiver, sender) = simplex::<u32>()?;
    (0..5).try_for_each(|n| sender.send(n))?;
    assert_eq!(receiver.try_iter().collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    assert_eq!(receiver.try_iter().next(), None);
    let thread = thread::spawn(move || (5..8).try_for_each(|n| sender.send(n)).is_ok());
    let mut seen = Vec::new();
    for n in &receiver {
        seen.push(n);
    }
    assert_eq!(seen, [5, 6, 7]);
    assert!(thread.join().unwrap());
    let (receiver, sender) = simplex::<u32>()?;
    sender.send(1)?;
    drop(sender);
    assert_eq!(receiver.into_iter().collect::<Vec<_>>(), [1]);
    Ok(())
}

fn closed_ends_say_so() -> Outcome {
    let (one, two) = duplex::<u32, u32>()?;
    one.send(1)?;
    two.send(2)?;
    one.close();
    one.close();
    assert!(matches!(one.recv(), Err(Error::Disconnected)));
    assert!(matches!(one.send(3).unwrap_err().reason, Error::Disconnected));
    assert!(one.poll(Duration::ZERO)?);
    assert_eq!(wait(&[&one], None)?, [0]);
    assert_eq!(two.recv()?, 1);
    assert!(matches!(two.recv(), Err(Error::Disconnected)));
    assert!(matches!(two.send(1).unwrap_err().reason, Error::Disconnected));
    // One half by itself.
    let (one, two) = duplex::<u32, u32>()?;
    let (sender, receiver) = one.split();
    sender.close();
    assert!(sender.is_closed());
    assert!(matches!(two.recv(), Err(Error::Disconnected)));
    two.send(5)?;
    assert_eq!(receiver.recv()?, 5);
    receiver.close();
    assert!(matches!(two.send(6).unwrap_err().reason, Error::Disconnected));
    Ok(())
}

fn who_sleeps_is_woken_by_each_message() -> Outcome {
    let send = |sender: Sender<Vec<u8>>| {
        for len in [1, 100, 10_000, 3 << 20] {
            thread::sleep(Duration::from_millis(20));
            sender.send(vec![1; len]).expect("sends");
        }
    };
    let (receiver, sender) = simplex::<Vec<u8>>()?;
    let child = Process::new(send, (sender,)).start()?;
    for len in [1, 100, 10_000, 3 << 20] {
        receiver.sleep()?;
        assert!(!receiver.is_empty());
        assert_eq!(receiver.recv()?.len(), len);
    }
    receiver.sleep()?;
    assert!(receiver.is_empty() && receiver.recv().is_err());
    child.result()?;
    Ok(())
}

fn it_is_known_whether_the_other_end_has_the_same_cpu() -> Outcome {
    let (here, there) = duplex::<u32, u32>()?;
    assert!(!here.shares_cpu(), "the other has not said where it runs");
    // This thread may be moved in between, but is not each time.
    eventually("the same one", || here.shares_cpu() & there.shares_cpu())?;
    Ok(())
}

fn poll_is_true_at_the_end() -> Outcome {
    let (receiver, sender) = simplex::<u32>()?;
    for _ in 0..100 {
        assert!(!receiver.poll(Duration::ZERO)?);
    }
    assert!(!receiver.poll(Duration::from_millis(1))? && receiver.is_empty());
    sender.send(1)?;
    assert!(receiver.poll(Duration::ZERO)? && receiver.poll(Duration::MAX)?);
    drop(sender);
    assert!(receiver.poll(Duration::ZERO)? && !receiver.is_empty());
    receiver.recv()?;
    // At once, whatever was asked before.
    assert!(receiver.poll(Duration::from_nanos(1))?);
    eventually("the end", || receiver.poll(Duration::ZERO).unwrap_or(false))
}

fn level_triggered_waiting() -> Outcome {
    let (receiver, sender) = simplex::<Vec<u8>>()?;
    let watcher = Epoll::new()?;
    watcher.add(receiver.as_fd(), 3)?;
    let fd = receiver.as_fd().as_raw_fd();
    // By the number: nobody asks the receiver meanwhile.
    let raw = || {
        let mut one = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        // SAFETY: one struct of ours.
        let count = unsafe { libc::poll(&raw mut one, 1, 0) };
        assert_eq!(count == 1, watcher.some().expect("epoll") == [3]);
        count == 1
    };
    assert!(!raw());
    let mut random = Random(31);
    let mut next = 0;
    for round in 0..300 {
        let count = 1 + random.below(6) as u64;
        for n in next..next + count {
            let len = [0, 3, 200, 6000, 40_000][random.below(5)];
            sender.send(pattern(n, len))?;
            assert!(raw(), "a new message");
        }
        for n in next..next + count {
            assert!(raw(), "while messages remain");
            let bytes = match random.below(4) {
                0 => receiver.recv()?,
                1 => receiver.try_recv()?,
                2 => {
                    assert!(receiver.poll(Duration::ZERO)? && raw());
                    receiver.recv_timeout(HANG)?
                }
                _ => {
                    let short = receiver.recv_bytes_into(&mut []);
                    assert!(matches!(short, Err(Error::TooShort { .. })) && raw());
                    receiver.recv()?
                }
            };
            assert!(bytes == pattern(n, bytes.len()));
        }
        next += count;
        assert!(!raw(), "after the last");
        if round % 5 == 0 {
            assert!(matches!(receiver.try_recv(), Err(Error::WouldBlock)));
            let soon = Duration::from_micros(100);
            assert!(matches!(receiver.recv_timeout(soon), Err(Error::TimedOut)));
            assert!(!raw());
        }
    }
    // With a descriptor, which comes through the socket.
    let (fds, fd_sender) = simplex::<Fd>()?;
    let readable = |receiver: &Receiver<Fd>| is_readable(receiver.as_fd());
    assert!(!readable(&fds));
    fd_sender.send(Fd::from(fs::File::open("/dev/null")?))?;
    assert!(readable(&fds));
    fds.recv()?;
    assert!(!readable(&fds));
    drop(sender);
    assert!(raw(), "at the end");
    assert!(matches!(receiver.recv(), Err(Error::Disconnected)));
    assert!(raw(), "it stays so");
    Ok(())
}

fn receivers_can_be_watched_without_descriptors_to_spare() -> Outcome {
    let (one, first) = simplex::<u32>()?;
    let (two, second) = simplex::<u32>()?;
    let before = leave_descriptors(0);
    let result = (|| {
        let ready = |timeout| wait(&[&one, &two], Some(timeout));
        assert!(ready(Duration::from_millis(2))?.is_empty());
        for _ in 0..50 {
            first.send(1)?;
            assert_eq!(ready(HANG)?, [0]);
            second.send(1)?;
            second.send(2)?;
            assert_eq!(ready(HANG)?, [0, 1]);
            assert_eq!((one.recv()?, two.recv()?), (1, 1));
            assert_eq!(ready(HANG)?, [1]);
            assert_eq!(two.recv()?, 2);
            assert!(ready(Duration::from_micros(100))?.is_empty());
        }
        drop(first);
        assert_eq!(ready(HANG)?, [0]);
        Ok(())
    })();
    limit_descriptors(before);
    result
}

fn wait_over_five_hundred_receivers() -> Outcome {
    if !may_open(2048) {
        return Ok(());
    }
    const COUNT: usize = 500;
    limit_descriptors(8000);
    let mut random = Random(5);
    let (receivers, senders): (Vec<_>, Vec<_>) =
        (0..COUNT).map(|_| simplex::<usize>()).collect::<Result<Vec<_>, _>>()?.into_iter().unzip();
    let items: Vec<&dyn multiprocess::Waitable> = receivers.iter().map(|r| r as _).collect();
    assert!(wait(&items, Some(Duration::from_millis(1)))?.is_empty());
    for _ in 0..20 {
        let mut chosen: Vec<usize> = (0..20).map(|_| random.below(COUNT)).collect();
        chosen.sort_unstable();
        chosen.dedup();
        for &index in &chosen {
            senders[index].send(index)?;
        }
        assert_eq!(wait(&items, Some(HANG))?, chosen);
        for &index in &chosen {
            assert_eq!(receivers[index].recv()?, index);
        }
        assert!(wait(&items, Some(Duration::ZERO))?.is_empty());
    }
    drop(senders);
    assert_eq!(wait(&items, Some(HANG))?, (0..COUNT).collect::<Vec<_>>());
    Ok(())
}

fn descriptors_run_out_while_pipes_are_made() -> Outcome {
    let before = descriptors();
    let unlimited = limit_descriptors(1000);
    let mut failed = [0, 0];
    let result = (|| {
        // A duplex needs five descriptors, a simplex three.
        for more in 0..8 {
            leave_descriptors(more);
            match duplex::<u8, u8>() {
                Ok((one, two)) => {
                    one.send(1)?;
                    assert_eq!(two.recv()?, 1);
                }
                Err(Error::Io(error)) => {
                    assert_eq!(error.raw_os_error(), Some(libc::EMFILE));
                    failed[0] += 1;
                }
                Err(error) => return Err(error.into()),
            }
            match simplex::<u8>() {
                Ok((receiver, sender)) => {
                    sender.send(1)?;
                    assert_eq!(receiver.recv()?, 1);
                }
                Err(Error::Io(_)) => failed[1] += 1,
                Err(error) => return Err(error.into()),
            }
            limit_descriptors(unlimited);
            assert_eq!(descriptors(), before);
        }
        Ok(())
    })();
    limit_descriptors(unlimited);
    assert_eq!(failed, [5, 3]);
    // Nor to send one of them.
    let (receiver, sender) = simplex::<OwnedEnd>()?;
    let (one, two) = duplex::<u8, u8>()?;
    leave_descriptors(0);
    let error = sender.send(OwnedEnd(one));
    limit_descriptors(unlimited);
    let OwnedEnd(one) = error.expect_err("no descriptor for its copy").value;
    one.send(1)?;
    assert_eq!(two.recv()?, 1);
    sender.send(OwnedEnd(one))?;
    receiver.recv()?.0.send(2)?;
    assert_eq!(two.recv()?, 2);
    result
}

#[derive(Serialize, Deserialize)]
struct OwnedEnd(Connection<u8, u8>);

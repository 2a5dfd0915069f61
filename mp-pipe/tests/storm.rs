//! Pipes whose ends are killed, and pipes that somebody scribbles on.
//!
//! A program of its own, as it forks: `cargo test -p mp-pipe --test storm`. All tests run on the main
//! thread, one after the other, each under an alarm that ends the program. `STORM_KILLS=1000000` makes it a
//! longer one.
#![expect(unsafe_code, reason = "system calls that harm this process")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{IoSlice, Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::ptr::null_mut;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use mp_core::sys::mem::memfd;
use mp_core::sys::{process, socket};
use mp_core::testing::{
    self, Child, HANG, Random, Trial, busy, signalled_after, wait_until, watched,
};
use mp_core::{Fd, decode, encode};
use mp_pipe::{Connection, Error, Receiver, Sender, duplex, simplex, wait};

/// How long a test may take before it counts as hung.
const LIMIT: Duration = Duration::from_secs(300);

fn main() {
    // Made once, before anything is counted.
    numbers();
    let tests = [
        test("senders_are_killed", || storm("senders", 30, kill_a_sender)),
        test("receivers_are_killed", || storm("receivers", 30, kill_a_receiver)),
        test("partners_are_killed", || storm("partners", 30, kill_a_partner)),
        test("ends_that_moved_are_killed", || storm("moved", 10, kill_a_sender_that_moved)),
        test("a_million_messages_each_way", a_million_messages_each_way),
        test("scribbled_on_words", || scribble("words", Where::Words)),
        test("scribbled_on_headers", || scribble("headers", Where::Headers)),
        test("scribbled_on_everything", || scribble("everything", Where::Everywhere)),
        test("ends_of_tampered_messages", ends_of_tampered_messages),
        test("nonsense_through_the_doorbell", || scribble("doorbell", Where::Doorbell)),
        test("ringing_without_end_stretches_no_timeout", ringing_without_end),
        test("a_body_without_its_message_is_not_for_ever", body_without_message),
        test("a_message_longer_than_a_file_may_be_is_an_error", longer_than_a_file),
    ];
    testing::run(tests.into());
}

fn test(name: &'static str, body: fn()) -> Trial {
    Trial::test(name, move || {
        let limit = if kills() > KILLS { Duration::ZERO } else { LIMIT };
        let counted = || {
            let before = inventory();
            body();
            assert_eq!(inventory(), before);
        };
        Ok(watched(limit, counted)?)
    })
}

/// Descriptors, mappings of memory files, and children of this process.
fn inventory() -> (usize, usize, bool) {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    // SAFETY: no status is wanted.
    let has_children = unsafe { libc::waitpid(-1, null_mut(), libc::WNOHANG) } >= 0;
    (
        fs::read_dir("/proc/self/fd").unwrap().count(),
        maps.lines().filter(|line| line.contains("/memfd:mp-pipe")).count(),
        has_children,
    )
}

/// A typed message: its number, as text as well, and memory files that hold it.
type Message = (u64, String, Vec<Fd>);

/// What message `n` is.
enum Shape {
    Typed(usize),
    Bytes(usize),
    InPlace(usize),
}

fn shape(n: u64) -> Shape {
    let mut random = Random::new(n + 1);
    match random.below(40) {
        0 => Shape::Typed(random.below(4) as usize),
        1..8 => Shape::Typed(0),
        8 => Shape::Bytes(random.below(200 << 10) as usize),
        9 => Shape::Bytes(random.below(20_000) as usize),
        10 => Shape::InPlace(random.below(100_000) as usize),
        11..14 => Shape::InPlace(random.below(300) as usize),
        14 => Shape::Bytes(4090 + random.below(12) as usize),
        _ => Shape::Bytes(random.below(200) as usize),
    }
}

/// Each message's bytes are at another place of these.
fn noise() -> Vec<u8> {
    let mut random = Random::new(4711);
    (0..(300 << 10) / 8).flat_map(|_| random.any().to_le_bytes()).collect()
}

fn body(noise: &[u8], n: u64, len: usize) -> &[u8] {
    let start = (n as usize).wrapping_mul(37) % 90_000;
    &noise[start..start + len]
}

fn file_of(n: u64) -> Fd {
    let mut file = File::from(memfd(c"test").unwrap());
    file.write_all(&n.to_le_bytes()).unwrap();
    Fd::from(file)
}

fn send(sender: &Sender<Message>, noise: &[u8], n: u64) -> Result<(), Error> {
    match shape(n) {
        Shape::Typed(files) => {
            let files = (0..files).map(|_| file_of(n)).collect();
            Ok(sender.send((n, n.to_string(), files))?)
        }
        Shape::Bytes(len) => sender.send_bytes(body(noise, n, len)),
        Shape::InPlace(len) => {
            sender.send_with(len, |place| place.copy_from_slice(body(noise, n, len)))
        }
    }
}

/// Receives message `n` in one way or another; panics where it is another one.
fn receive(receiver: &Receiver<Message>, noise: &[u8], n: u64, way: u64) -> Result<(), Error> {
    match way % 16 {
        0 => assert_eq!(wait(&[receiver], Some(HANG))?, [0]),
        1 => assert!(receiver.poll(HANG)?),
        _ => {}
    }
    let expect = |bytes: &[u8], len: usize| {
        assert!(bytes.len() == len, "message {n} has {len} bytes, not {}", bytes.len());
        assert!(bytes == body(noise, n, len), "message {n} is torn");
    };
    match (shape(n), way % 3) {
        (Shape::Typed(files), _) => {
            let (number, text, got) = receiver.recv_timeout(HANG)?;
            assert_eq!((number, text, got.len()), (n, n.to_string(), files));
            for file in got {
                let (mut file, mut bytes) = (File::from(file.into_owned()), [0; 8]);
                file.rewind().unwrap();
                file.read_exact(&mut bytes).unwrap();
                assert_eq!(u64::from_le_bytes(bytes), n, "a descriptor of another message");
            }
        }
        (Shape::Bytes(len) | Shape::InPlace(len), 0) => {
            receiver.recv_with(|bytes| expect(bytes, len))?;
        }
        (Shape::Bytes(len) | Shape::InPlace(len), 1) => {
            let mut buffer = vec![0; len];
            let received = receiver.recv_bytes_into(&mut buffer)?;
            expect(&buffer[..received], len);
        }
        (Shape::Bytes(len) | Shape::InPlace(len), _) => {
            expect(&receiver.recv_bytes_timeout(HANG)?, len);
        }
    }
    Ok(())
}

/// Now and then pauses, so that the other end comes to sleep; or does not.
fn pause(random: &mut Random, style: u64) {
    match style {
        0 => {}
        1 if random.below(8) == 0 => busy(Duration::from_micros(random.below(100))),
        2 if random.below(40) == 0 => busy(Duration::from_micros(random.below(700))),
        _ => {}
    }
}

const KILLS: u64 = 5000;

fn kills() -> u64 {
    std::env::var("STORM_KILLS").map_or(KILLS, |kills| kills.parse().unwrap())
}

/// Numbers that all processes of a test share.
fn numbers() -> &'static [AtomicU64] {
    static NUMBERS: OnceLock<&[AtomicU64]> = OnceLock::new();
    NUMBERS.get_or_init(|| testing::numbers(100))
}

struct Survived {
    /// How many messages the survivor had to do with.
    messages: u64,
}

/// So many hundredths of all kills are of this sort.
fn storm(name: &str, share: u64, one: fn(u64, &[u8]) -> Survived) {
    let rounds = kills() * share / 100;
    let noise = noise();
    let before = inventory();
    let start = Instant::now();
    let mut messages = 0;
    for round in 0..rounds {
        messages += one(round, &noise).messages;
        if round % 100 == 0 {
            assert_eq!(inventory(), before, "after {round} kills");
        }
    }
    assert_eq!(inventory(), before);
    assert!(messages > rounds, "hardly any message came through: {messages}");
    eprintln!("{name}: {rounds} kills, {messages} messages in {:?}", start.elapsed());
}

fn life(random: &mut Random) -> Duration {
    let most = [50, 400, 3000][random.below(3) as usize];
    Duration::from_micros(random.below(most))
}

fn gone(error: Error) {
    assert!(matches!(error, Error::Disconnected), "{error:?}");
}

fn kill_a_sender(round: u64, noise: &[u8]) -> Survived {
    let mut random = Random::new(round);
    let (receiver, sender) = simplex::<Message>().unwrap();
    let child = Child::new(|| {
        let (mut random, style) = (Random::new(round + 5), round % 3);
        signalled_after(life(&mut random), libc::SIGKILL);
        for n in 0.. {
            send(&sender, noise, n).unwrap();
            numbers()[0].store(n + 1, SeqCst);
            pause(&mut random, style);
        }
    });
    drop(sender);
    let way = random.any();
    let mut n = 0;
    let error = loop {
        match receive(&receiver, noise, n, way.wrapping_add(n)) {
            Ok(()) => n += 1,
            Err(error) => break error,
        }
        pause(&mut random, round / 3 % 3);
    };
    gone(error);
    gone(receiver.try_recv().map(|_| ()).unwrap_err());
    assert!(child.was_killed());
    // All that it had sent, and at most one that it did not come to count.
    let sent = numbers()[0].swap(0, SeqCst);
    assert!(n == sent || n == sent + 1, "{sent} sent, {n} received");
    Survived { messages: n }
}

fn kill_a_receiver(round: u64, noise: &[u8]) -> Survived {
    let mut random = Random::new(round + 1_000_000);
    let (receiver, sender) = simplex::<Message>().unwrap();
    let child = Child::new(|| {
        let (mut random, style) = (Random::new(round + 6), round % 3);
        signalled_after(life(&mut random), libc::SIGKILL);
        for n in 0.. {
            receive(&receiver, noise, n, round + n).unwrap();
            numbers()[0].store(n + 1, SeqCst);
            pause(&mut random, style);
        }
    });
    drop(receiver);
    let mut n = 0;
    let error = loop {
        match send(&sender, noise, n) {
            Ok(()) => n += 1,
            Err(error) => break error,
        }
        pause(&mut random, round / 3 % 3);
    };
    gone(error);
    gone(sender.send_bytes(b"x").unwrap_err());
    assert!(child.was_killed());
    let received = numbers()[0].swap(0, SeqCst);
    // It may have received the one that this end was told of as not sent, as it was killed meanwhile.
    assert!(received <= n + 1, "{n} sent, {received} received");
    Survived { messages: received }
}

/// One that answers each message, of which some are under way.
fn kill_a_partner(round: u64, noise: &[u8]) -> Survived {
    let mut random = Random::new(round + 2_000_000);
    let (here, there) = duplex::<Message, Message>().unwrap();
    let mut here = Some(here);
    let child = Child::new(|| {
        drop(here.take());
        signalled_after(life(&mut Random::new(round + 7)), libc::SIGKILL);
        for n in 0.. {
            receive(there.receiver(), noise, n, round + n).unwrap();
            send(there.sender(), noise, n).unwrap();
        }
    });
    drop(there);
    let here = here.unwrap();
    let (mut sent, mut received) = (0, 0);
    // So that both never wait for room.
    let window = [1, 2, 6][random.below(3) as usize];
    let error = loop {
        let result = if sent < received + window {
            send(here.sender(), noise, sent).map(|()| sent += 1)
        } else {
            receive(here.receiver(), noise, received, round + received).map(|()| received += 1)
        };
        if let Err(error) = result {
            break error;
        }
    };
    gone(error);
    // What it answered is still there.
    let error = loop {
        match receive(here.receiver(), noise, received, 3) {
            Ok(()) => received += 1,
            Err(error) => break error,
        }
    };
    gone(error);
    assert!(received <= sent + 1);
    assert!(child.was_killed());
    Survived { messages: received }
}

/// One process sends a few, passes the sender on in a message and is killed; so does the next.
fn kill_a_sender_that_moved(round: u64, noise: &[u8]) -> Survived {
    let mut random = Random::new(round + 3_000_000);
    let (receiver, sender) = simplex::<Message>().unwrap();
    let (ends, passed_on) = simplex::<Sender<Message>>().unwrap();
    let first = random.below(60);
    let mut all = Some((sender, ends, passed_on, receiver));
    let one = Child::new(|| {
        let (sender, ends, passed_on, receiver) = all.take().unwrap();
        drop((ends, receiver));
        for n in 0..first {
            send(&sender, noise, n).unwrap();
        }
        passed_on.send(sender).unwrap();
        process::kill_self();
    });
    let two = Child::new(|| {
        let (sender, ends, passed_on, receiver) = all.take().unwrap();
        drop((sender, passed_on, receiver));
        let sender = ends.recv().unwrap();
        signalled_after(life(&mut Random::new(round + 8)), libc::SIGKILL);
        for n in first.. {
            send(&sender, noise, n).unwrap();
        }
    });
    let (_, _, _, receiver) = all.take().unwrap();
    let mut n = 0;
    let error = loop {
        match receive(&receiver, noise, n, round + n) {
            Ok(()) => n += 1,
            Err(error) => break error,
        }
        pause(&mut random, round % 3);
    };
    gone(error);
    assert!(n >= first, "{first} sent, {n} received");
    assert!(one.was_killed());
    assert!(two.was_killed());
    Survived { messages: n }
}

/// The length of the `n`th message that one of two sends the other: mostly small.
fn len(n: u64) -> usize {
    match n % 1024 {
        0 => n as usize % 40_000,
        1..16 => n as usize % 5000,
        n => (n * 31 % 70) as usize,
    }
}

/// Sends and receives so many messages at the same time; each way's bytes come to the same hash at both.
fn exchange(conn: &Connection<u64, u64>, noise: &[u8], count: u64, start: u64) -> (u64, u64) {
    let fold = |hash: u64, bytes: &[u8]| {
        let mut hash = (hash ^ bytes.len() as u64).wrapping_mul(0x0000_0100_0000_01B3);
        for word in bytes.chunks(8) {
            let mut eight = [0; 8];
            eight[..word.len()].copy_from_slice(word);
            hash = (hash ^ u64::from_le_bytes(eight))
                .wrapping_mul(0x9E37_79B9_7F4A_7C15)
                .rotate_left(23);
        }
        hash
    };
    let (mut sent, mut received) = (0, 0);
    let (mut out, mut back) = (0, 0);
    let mut buffer = vec![0; 64 << 10];
    while sent < count || received < count {
        while sent < count {
            let bytes = body(noise, sent + start, len(sent + start));
            match conn.try_send_bytes(bytes) {
                Ok(()) => out = fold(out, bytes),
                Err(Error::WouldBlock) => break,
                Err(error) => panic!("{error}"),
            }
            sent += 1;
        }
        let mut any = false;
        while received < count && conn.poll(Duration::ZERO).unwrap() {
            let len = conn.recv_bytes_into(&mut buffer).unwrap();
            back = fold(back, &buffer[..len]);
            received += 1;
            any = true;
        }
        if !any && received < count {
            conn.poll(Duration::from_millis(1)).unwrap();
        }
    }
    (out, back)
}

fn a_million_messages_each_way() {
    const COUNT: u64 = 1_000_000;
    let noise = noise();
    let (here, there) = duplex::<u64, u64>().unwrap();
    let mut here = Some(here);
    let start = Instant::now();
    let child = Child::new(|| {
        drop(here.take());
        let (out, back) = exchange(&there, &noise, COUNT, 7);
        there.send(out).unwrap();
        there.send(back).unwrap();
    });
    drop(there);
    let here = here.unwrap();
    let (out, back) = exchange(&here, &noise, COUNT, 500);
    assert_eq!((here.recv().unwrap(), here.recv().unwrap()), (back, out), "the hashes differ");
    assert!(matches!(here.recv(), Err(Error::Disconnected)));
    child.succeed();
    eprintln!("{COUNT} messages each way in {:?}", start.elapsed());
}

/// What is scribbled on.
#[derive(Clone, Copy, PartialEq)]
enum Where {
    /// Where head, tail and those who sleep are kept.
    Words,
    /// There and in the rings.
    Headers,
    /// Bodies too, and holes are punched.
    Everywhere,
    /// No memory: packets are sent to both ends, each for itself and as from the other.
    Doorbell,
}

/// Which number counts what was scribbled.
const SCRIBBLES: usize = 10;
/// Which number counts the ends for which something went well, before that begins.
const AT_WORK: usize = 11;

/// Changes words of the pipe's memory until it is killed.
fn scribble_for_ever(memory: &File, whither: Where, mut random: Random) {
    const RINGS: u64 = 4096;
    let lanes = 2;
    let (ring, area) = (64 << 10, 4 << 20);
    loop {
        let at = match (whither, random.below(8)) {
            (Where::Words, _) | (_, 0) => 128 + random.below(lanes * 4) * 128 + random.below(2) * 8,
            (_, 1) if random.below(30) == 0 => random.below(RINGS / 8) * 8,
            (Where::Everywhere, 2) => RINGS + lanes * ring + random.below(lanes * area / 8) * 8,
            // Mostly at the start, where short lives are.
            (_, 3..6) => RINGS + random.below(lanes) * ring + random.below(256) * 8,
            _ => RINGS + random.below(lanes * ring / 8) * 8,
        };
        let mut bytes = [0; 8];
        if memory.read_exact_at(&mut bytes, at).is_err() {
            continue;
        }
        let old = u64::from_le_bytes(bytes);
        let new = match random.below(8) {
            0 => 0,
            1 => random.any(),
            2 => old.wrapping_add(8 * random.below(9000)),
            3 => old.wrapping_sub(8 * random.below(9000)),
            4 => old ^ random.below(6) << 32,
            5 => {
                let (kind, more) = (1 + random.below(5), random.below(2));
                let (fds, len) = (random.below(3), random.below(9000));
                kind | (more << 8) | (fds << 16) | (len << 32)
            }
            _ => old ^ 1 << random.below(64),
        };
        memory.write_all_at(&new.to_le_bytes(), at).unwrap();
        numbers()[SCRIBBLES].fetch_add(1, SeqCst);
        if whither == Where::Everywhere && random.below(500) == 0 {
            let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
            let start = random.below(40) * 4096;
            // SAFETY: takes numbers only; seals or not, nobody gets a signal for it.
            unsafe { libc::fallocate(memory.as_raw_fd(), mode, start as i64, 4096) };
        }
        busy(Duration::from_micros(random.below(30)));
    }
}

/// Sends packets as no peer does, until it is killed.
fn ring_for_ever(sockets: &[OwnedFd], mut random: Random) {
    let null = File::open("/dev/null").unwrap();
    loop {
        let number = [random.below(6), random.any()][random.below(2) as usize];
        let bytes = number.to_le_bytes();
        let (len, fds) = match random.below(200) {
            0 => (random.below(8) as usize, 0),
            1 => (8, random.below(5) as usize),
            2 => (8, 0),
            _ => (1, 0),
        };
        let socket = sockets[random.below(sockets.len() as u64) as usize].as_fd();
        let fds = vec![null.as_raw_fd(); fds];
        let _ = socket::send(socket, &[IoSlice::new(&bytes[..len])], &fds, true);
        numbers()[SCRIBBLES].fetch_add(1, SeqCst);
        busy(Duration::from_micros(random.below(10)));
    }
}

/// All packet sockets of both ends of a pipe, and its memory.
fn insides(
    one: &Connection<Message, Message>,
    two: &Connection<Message, Message>,
) -> (File, Vec<OwnedFd>) {
    let (_, mut fds) = encode(one).unwrap().into_parts();
    fds.extend(encode(two).unwrap().into_parts().1);
    let memory = File::from(fds.swap_remove(0));
    fds.retain(|fd| socket::is_packet_socket(fd.as_fd()));
    assert_eq!(fds.len(), 4);
    (memory, fds)
}

fn ringing_without_end() {
    const SHORT: Duration = Duration::from_millis(20);
    let (one, two) = duplex::<Message, Message>().unwrap();
    let (_, sockets) = insides(&one, &two);
    let ringers: Vec<Child> = (0..2)
        .map(|_| {
            Child::new(|| {
                loop {
                    for socket in &sockets {
                        let _ = socket::send(socket.as_fd(), &[IoSlice::new(&[0])], &[], true);
                    }
                }
            })
        })
        .collect();
    drop(sockets);
    for _ in 0..10 {
        let start = Instant::now();
        assert!(matches!(one.recv_timeout(SHORT), Err(Error::TimedOut)));
        assert!(!one.poll(SHORT).unwrap());
        assert!(matches!(one.try_recv(), Err(Error::WouldBlock)));
        // Rung for right when it looks, it may say that there is something.
        wait(&[&one, &two], Some(SHORT)).unwrap();
        let long = vec![1; 30 << 20];
        assert!(matches!(one.send_bytes_timeout(&long, SHORT), Err(Error::TimedOut)));
        assert!(start.elapsed() < HANG / 2, "{:?}", start.elapsed());
        one.send_bytes(b"ping").unwrap();
        assert!(two.poll(HANG).unwrap() && !wait(&[&one, &two], Some(HANG)).unwrap().is_empty());
        assert_eq!(two.recv_bytes().unwrap(), b"ping");
    }
    for ringer in ringers {
        ringer.signal(libc::SIGKILL);
        assert!(ringer.was_killed());
    }
}

/// One end in the midst of that: whatever comes is an error or bytes, and in time.
fn bear(conn: &Connection<Message, Message>, noise: &[u8], seed: u64) {
    const SHORT: Duration = Duration::from_millis(3);
    let mut random = Random::new(seed);
    let end = Instant::now() + Duration::from_millis(30);
    // Longer where the other cannot run meanwhile.
    let scribbles = || numbers()[SCRIBBLES].load(SeqCst);
    let enough = scribbles() + 100;
    let mut buffer = vec![0; 9000];
    let count = |slot: usize| _ = numbers()[slot].fetch_add(1, SeqCst);
    let (mut damaged, mut at_work) = (false, false);
    while (Instant::now() < end || scribbles() < enough) && !damaged {
        let start = Instant::now();
        let len = [random.below(100), random.below(6000), random.below(150_000)]
            [random.below(3) as usize];
        let bytes = body(noise, seed, len as usize);
        let result = match random.below(14) {
            0 => conn
                .send_timeout((1, "x".repeat(len as usize % 300), vec![file_of(1)]), SHORT)
                .map_err(Error::from),
            1 => conn.send_bytes_timeout(bytes, SHORT),
            2 => conn.try_send_bytes(bytes),
            3 => {
                conn.try_send((2, "y".repeat(len as usize % 900), Vec::new())).map_err(Error::from)
            }
            4..6 => conn.send_bytes_timeout(&bytes[..bytes.len().min(60)], SHORT),
            6 => conn.recv_timeout(SHORT).map(drop),
            7 => conn.try_recv_bytes().map(drop),
            8 => conn.poll(SHORT).map(drop),
            9 if conn.poll(SHORT).is_ok_and(|there| there) => {
                conn.recv_bytes_into(&mut buffer).map(drop)
            }
            10 if conn.poll(SHORT).is_ok_and(|there| there) => conn
                .recv_with(|bytes| bytes.iter().map(|&byte| u64::from(byte)).sum::<u64>())
                .map(drop),
            11 => wait(&[conn], Some(SHORT)).map(drop),
            _ => conn.recv_bytes_timeout(SHORT).map(drop),
        };
        if result.is_ok() && !at_work {
            at_work = true;
            count(AT_WORK);
        }
        count(match &result {
            Ok(()) => 0,
            Err(Error::Damaged(_)) => 1,
            Err(Error::Decode(_)) => 2,
            Err(Error::Disconnected) => 3,
            Err(Error::TimedOut | Error::WouldBlock) => 4,
            Err(Error::TooShort { .. }) => 5,
            Err(_) => 6,
        });
        damaged = matches!(result, Err(Error::Damaged(_) | Error::Disconnected));
        assert!(
            start.elapsed() < HANG / 2,
            "a call with a limit of 3 ms took {:?}",
            start.elapsed()
        );
    }
    if damaged {
        // The link is closed, and stays so.
        let error = conn.send_bytes_timeout(b"x", SHORT);
        let is_over = matches!(error, Err(Error::Disconnected | Error::Damaged(_)));
        if !is_over {
            // Then it was the other direction: this one ends when the peer does.
            assert!(matches!(error, Ok(()) | Err(Error::TimedOut | Error::Io(_))), "{error:?}");
        }
        count(7);
    }
}

/// Ends that are sent as nobody sends them: an error, or ends that give errors.
fn ends_of_tampered_messages() {
    type Both = Connection<Message, Message>;
    let mut random = Random::new(99);
    let (mut refused, mut received) = (0, 0);
    for round in 0..1200 {
        let (one, two) = duplex::<Message, Message>().unwrap();
        // The receiver has the beginning of a long message, and of another one descriptors.
        assert!(two.send_bytes_timeout(&[7; 400_000], Duration::from_nanos(1)).is_err());
        if random.below(2) == 0 {
            one.poll(Duration::ZERO).unwrap();
        }
        two.send((1, "one".to_string(), vec![file_of(1)])).unwrap();
        let message = if round % 3 == 0 {
            encode(&one)
        } else {
            let (sender, receiver) = one.split();
            if round % 3 == 1 { encode(&sender) } else { encode(&receiver) }
        };
        let (mut bytes, mut fds) = message.unwrap().into_parts();
        for _ in 0..random.below(3) {
            let at = random.below(bytes.len().min(64) as u64) as usize;
            bytes[at] = match random.below(4) {
                0 => bytes[at] ^ (1 << random.below(8)),
                1 => bytes[at].wrapping_add(1),
                2 => 255,
                _ => random.any() as u8,
            };
        }
        match random.below(6) {
            0 => _ = fds.pop(),
            1 => fds.reverse(),
            2 => fds.push(File::open("/dev/null").unwrap().into()),
            3 => fds[0] = memfd(c"test").unwrap(),
            _ => {}
        }
        let message = mp_core::Message::new(bytes, fds);
        let is_fine = match round % 3 {
            0 => decode::<Both>(message).map(|end| {
                let _ = end.try_send_bytes(&[1; 5000]);
                let _ = end.try_recv();
            }),
            1 => decode::<Sender<Message>>(message).map(|end| _ = end.try_send_bytes(&[1; 5000])),
            _ => decode::<Receiver<Message>>(message).map(|end| {
                let _ = wait(&[&end], Some(Duration::ZERO));
                let _ = end.try_recv();
                let _ = end.try_recv_bytes();
            }),
        };
        if is_fine.is_ok() { received += 1 } else { refused += 1 }
    }
    eprintln!("tampered: {refused} refused, {received} received");
    assert!(refused > 100 && received > 50);
    // A direction that there is not.
    for lane in [2, 3, 1 << 20, 1 << 48, u64::MAX / 2, u64::MAX] {
        let (one, _two) = duplex::<u8, u8>().unwrap();
        let (sender, _) = one.split();
        let (mut bytes, fds) = encode(&sender).unwrap().into_parts();
        // That it is a ring, 4 bytes; the segment's place in the table, 4 bytes; then the lane.
        assert!(
            bytes.len() == 44 && bytes[8..16] == [0; 8],
            "another layout than this test writes"
        );
        bytes[8..16].copy_from_slice(&lane.to_le_bytes());
        let message = mp_core::Message::new(bytes, fds);
        assert!(decode::<Sender<u8>>(message).is_err(), "{lane}");
    }
}

/// The limit on the size of files, beyond which the kernel sends a signal that kills: setrlimit(2).
fn longer_than_a_file() {
    let (near, far) = duplex::<Vec<u8>, Vec<u8>>().unwrap();
    let child = Child::new(|| {
        let limit = libc::rlimit { rlim_cur: 2 << 20, rlim_max: 2 << 20 };
        // SAFETY: takes numbers only.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit) }, 0);
        // What is tried is put into a file of its own where it is long.
        let error = far.try_send_bytes(&vec![1; 8 << 20]).unwrap_err();
        assert!(matches!(&error, Error::Io(why) if why.raw_os_error() == Some(libc::EFBIG)));
        far.try_send_bytes(&vec![2; 1 << 20]).unwrap();
    });
    assert!(near.recv_bytes().unwrap() == vec![2; 1 << 20]);
    child.succeed();
}

/// Its sender was killed in between, and the receiver has no descriptor left.
fn body_without_message() {
    let limit = |rlim_cur| {
        let mut before = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: a struct of ours.
        assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut before) }, 0);
        let limit = libc::rlimit { rlim_cur, ..before };
        // SAFETY: as above.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }, 0);
        before.rlim_cur
    };
    fn refused<T>(result: Result<T, Error>) {
        let Err(Error::Io(error)) = result else { panic!("there was room") };
        assert_eq!(error.raw_os_error(), Some(libc::EMFILE));
    }
    let (receiver, sender) = simplex::<u64>().unwrap();
    sender.send(7).unwrap();
    let (_, fds) = encode(&sender).unwrap().into_parts();
    let socket = fds.iter().find(|fd| socket::is_packet_socket(fd.as_fd())).unwrap();
    let packet = (1_u64 << 63 | 1).to_le_bytes();
    let body = memfd(c"body").unwrap();
    socket::send(socket.as_fd(), &[IoSlice::new(&packet)], &[body.as_raw_fd()], true).unwrap();
    drop((sender, fds, body));
    let before = limit(0);
    assert_eq!(receiver.recv().unwrap(), 7);
    refused(receiver.recv());
    refused(receiver.recv_timeout(Duration::from_millis(20)));
    // It does not look each time.
    while let Err(error) = receiver.try_recv() {
        if !matches!(error, Error::WouldBlock) {
            refused(Err::<(), _>(error));
            break;
        }
    }
    assert!(receiver.poll(HANG).unwrap());
    receiver.sleep().unwrap();
    limit(before);
    assert!(matches!(receiver.recv(), Err(Error::Disconnected)));
}

fn limit_memory() {
    // All a pipe has are some MiB; a length that is believed would be gigabytes.
    let limit = libc::rlimit { rlim_cur: 512 << 20, rlim_max: 512 << 20 };
    // SAFETY: a struct of ours.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &raw const limit) }, 0);
}

fn scribble(name: &str, whither: Where) {
    let rounds = kills() / 40;
    let noise = noise();
    numbers().iter().for_each(|number| number.store(0, SeqCst));
    let before = inventory();
    let start = Instant::now();
    for round in 0..rounds {
        let (one, two) = duplex::<Message, Message>().unwrap();
        let (memory, sockets) = insides(&one, &two);
        let seed = round * 10 + whither as u64;
        let mut ends = Some((one, two));
        let scribbler = Child::new(|| {
            drop(ends.take());
            wait_until(|| numbers()[AT_WORK].load(SeqCst) >= 2 * (round + 1));
            match whither {
                Where::Doorbell => ring_for_ever(&sockets, Random::new(seed)),
                _ => scribble_for_ever(&memory, whither, Random::new(seed)),
            }
        });
        let first = Child::new(|| {
            let (one, two) = ends.take().unwrap();
            drop(two);
            limit_memory();
            bear(&one, &noise, seed + 1);
        });
        let second = Child::new(|| {
            let (one, two) = ends.take().unwrap();
            drop(one);
            limit_memory();
            bear(&two, &noise, seed + 2);
        });
        drop((ends, memory, sockets));
        first.succeed();
        second.succeed();
        scribbler.signal(libc::SIGKILL);
        assert!(scribbler.was_killed());
    }
    assert_eq!(inventory(), before);
    let names = [
        "well",
        "damaged",
        "undecodable",
        "disconnected",
        "timed out",
        "too short",
        "other",
        "closed",
    ];
    let counts: BTreeMap<_, _> =
        names.iter().zip(numbers()).map(|(name, number)| (*name, number.load(SeqCst))).collect();
    eprintln!("{name}: {rounds} rounds in {:?}: {counts:?}", start.elapsed());
    assert!(counts["damaged"] > rounds / 10, "it did not do any damage");
    assert!(counts["well"] >= 2 * rounds, "nothing went well before that");
}

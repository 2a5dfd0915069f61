//! A process that is killed at each named step of sending and receiving, and what the other end finds.
//!
//! `RUSTFLAGS="--cfg mp_crash" cargo test -p mp-pipe --test crash`; in other builds there are no such steps, and
//! nothing is tested here. The steps are those that the sources name; one that is never reached fails.

#[cfg(not(mp_crash))]
fn main() {}

#[cfg(mp_crash)]
fn main() {
    scenes::main();
}

#[cfg(mp_crash)]
mod scenes {
    use std::io::{PipeReader, PipeWriter, Read, Write, pipe};
    use std::time::{Duration, Instant};

    use mp_core::Fd;
    use mp_core::testing::steps::{Scene, Stage, tests};
    use mp_core::testing::{self, Child, HANG, PROMPT};
    use mp_pipe::{Connection, Error, Receiver, Sender, duplex, simplex};
    use serde::{Deserialize, Serialize};

    const SCENES: &[Scene] = &[
        Scene { name: "who sends, then receives", play: both_ways },
        Scene { name: "a receiver that waits", play: waits_for_messages },
        Scene { name: "a sender that waits", play: waits_for_room },
        Scene { name: "who sends to one asleep", play: sends_to_a_sleeper },
        Scene { name: "who makes room for one asleep", play: makes_room_for_a_sleeper },
        Scene { name: "who receives what one sent that died", play: receives_what_is_left },
    ];

    const SOURCES: &[&str] = &[
        include_str!("../src/link.rs"),
        include_str!("../src/link/receiver.rs"),
        include_str!("../src/link/sender.rs"),
        include_str!("../src/ring.rs"),
    ];

    pub(crate) fn main() {
        testing::run(tests(SCENES, SOURCES));
    }

    #[derive(Serialize, Deserialize)]
    struct Message {
        number: u64,
        content: Vec<u64>,
        files: Vec<Fd>,
    }

    /// One process's side: its end, and how it lets the other receive, and is let.
    struct End {
        pipe: Connection<Message, Message>,
        go: PipeWriter,
        may_go: PipeReader,
    }

    /// How many numbers each kind of message has.
    const LENGTHS: [usize; 12] = [0, 1, 100, 500, 0, 505, 506, 3_000, 0, 20_000, 100, 60_000];

    fn message(number: u64) -> Message {
        let len = LENGTHS[number as usize % LENGTHS.len()];
        let files = if number % 5 == 3 { number as usize % 3 + 1 } else { 0 };
        // One packet carries 253.
        let files = if number % 31 == 30 { 300 } else { files };
        let files = (0..files).map(|_| Fd::from(mp_core::sys::fd::null().unwrap())).collect();
        Message { number, content: vec![number; len], files }
    }

    /// Sends `count` messages, in all the ways there are.
    fn send_all(end: &End, count: u64) -> Result<(), Error> {
        // The other side does not receive yet: the first is taken back, the second does not begin.
        for _ in 0..2 {
            let long =
                Message { number: u64::MAX, content: vec![u64::MAX; 1 << 16], files: Vec::new() };
            match end.pipe.send_timeout(long, Duration::from_millis(5)) {
                Err(error) if matches!(error.reason, Error::TimedOut) => {}
                Err(error) => return Err(error.reason),
                Ok(()) => panic!("nobody receives yet"),
            }
        }
        // Nobody listens where the other was killed.
        let _ = (&end.go).write_all(&[0]);
        for number in 0..count {
            let message = message(number);
            match number % 7 {
                // One that is too long for one go is put aside.
                0 | 3 => match end.pipe.try_send(message) {
                    Err(error) if matches!(error.reason, Error::WouldBlock) => {
                        end.pipe.send_timeout(error.value, HANG)?;
                    }
                    result => result?,
                },
                5 if message.files.is_empty() => {
                    let (bytes, _) = mp_core::encode(&message).unwrap().into_parts();
                    end.pipe.send_with(bytes.len(), |place| place.copy_from_slice(&bytes))?;
                }
                _ => end.pipe.send_timeout(message, HANG)?,
            }
        }
        // Round the ring, whose end none of these fits.
        for _ in 0..ROUND {
            end.pipe.send_bytes_timeout(&[7; 1_000], HANG)?;
        }
        // Many in a row, so fast that the barriers are left to the reader; twice.
        for _ in 0..2 {
            std::thread::sleep(Duration::from_millis(3));
            for _ in 0..1_000 {
                end.pipe.send_bytes_timeout(b"", HANG)?;
            }
        }
        Ok(())
    }

    /// Receives what that sends.
    fn receive_all(end: &End, count: u64) -> Result<(), Error> {
        // Nothing comes where the other was killed.
        let _ = (&end.may_go).read(&mut [0]);
        for number in 0..count {
            let received = end.pipe.recv_timeout(HANG)?;
            let expected = message(number);
            assert_eq!(received.number, number, "lost, repeated or out of order");
            assert!(received.content == expected.content, "torn");
            assert_eq!(received.files.len(), expected.files.len());
            if number % 32 == 0 {
                // Let the pipe become full.
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        for _ in 0..ROUND {
            assert!(end.pipe.recv_bytes_timeout(HANG)? == [7; 1_000], "torn");
        }
        for _ in 0..2_000 {
            assert_eq!(end.pipe.recv_bytes_timeout(HANG)?, b"");
        }
        Ok(())
    }

    /// More of these than the ring has room for.
    const ROUND: usize = 300;

    /// Enough for each kind of message and each way to send it.
    const COUNT: u64 = 42;

    /// Each direction in turn; the other side does the same the other way round.
    fn first(end: &End) -> Result<(), Error> {
        send_all(end, COUNT)?;
        // Now the other side finds this one late, and waits for room.
        std::thread::sleep(Duration::from_millis(10));
        receive_all(end, COUNT)
    }

    fn second(end: &End) -> Result<(), Error> {
        std::thread::sleep(Duration::from_millis(10));
        receive_all(end, COUNT)?;
        send_all(end, COUNT)
    }

    fn both_ways(stage: &Stage) {
        let (ours, theirs) = duplex::<Message, Message>().unwrap();
        let (one, two) = (pipe().unwrap(), pipe().unwrap());
        let ours = End { pipe: ours, go: one.1, may_go: two.0 };
        let theirs = End { pipe: theirs, go: two.1, may_go: one.0 };
        let mut ours = Some(ours);
        let victim = stage.victim(|| {
            drop(ours.take());
            first(&theirs).unwrap();
        });
        let ours = ours.unwrap();
        drop(theirs);
        let result = second(&ours);
        // Its end may have come when all was done.
        let start = Instant::now();
        if stage.ends(victim) {
            assert!(matches!(result, Ok(()) | Err(Error::Disconnected)), "{result:?}");
        } else {
            result.unwrap();
        }
        assert!(matches!(ours.pipe.recv_timeout(HANG), Err(Error::Disconnected)));
        assert!(matches!(ours.pipe.send(message(0)).unwrap_err().reason, Error::Disconnected));
        assert!(start.elapsed() < PROMPT, "{:?}", start.elapsed());
    }

    /// Forks a victim that has one end, and gives the other.
    fn victim_with<T, O>(stage: &Stage, theirs: T, ours: O, body: impl FnOnce(&T)) -> (Child, O) {
        let mut ours = Some(ours);
        let victim = stage.victim(|| {
            drop(ours.take());
            body(&theirs);
        });
        (victim, ours.expect("this is not the child"))
    }

    fn disconnected<T>(result: Result<T, Error>) {
        assert!(matches!(result, Err(Error::Disconnected)));
    }

    fn waits_for_messages(stage: &Stage) {
        let (receiver, sender) = simplex::<u64>().unwrap();
        let (victim, sender) = victim_with(stage, receiver, sender, |receiver: &Receiver<u64>| {
            for number in 0..10 {
                assert_eq!(receiver.recv_timeout(HANG).unwrap(), number);
            }
        });
        for number in 0..10 {
            victim.await_sleep();
            other_sleeps(number);
            match sender.send(number) {
                Ok(()) => {}
                Err(error) => {
                    assert!(matches!(error.reason, Error::Disconnected) && error.value == number);
                    break;
                }
            }
        }
        let _ = stage.ends(victim);
        // It hears of it with one of the first few, or a tick of the clock later.
        let start = Instant::now();
        while sender.send(10).is_ok() {
            assert!(start.elapsed() < PROMPT);
        }
    }

    /// Larger than a ring.
    fn long(number: u64) -> Vec<u8> {
        vec![number as u8; 600_000]
    }

    fn waits_for_room(stage: &Stage) {
        let (receiver, sender) = simplex::<()>().unwrap();
        let (victim, receiver) = victim_with(stage, sender, receiver, |sender: &Sender<()>| {
            for number in 0..4 {
                sender.send_bytes_timeout(&long(number), HANG).unwrap();
            }
        });
        let mut received = 0;
        let end = loop {
            victim.await_sleep();
            other_sleeps(received);
            match receiver.recv_bytes_timeout(HANG) {
                Ok(bytes) => {
                    assert!(bytes == long(received), "torn");
                    received += 1;
                }
                Err(error) => break error,
            }
        };
        disconnected::<()>(Err(end));
        assert!(stage.ends(victim) || received == 4);
    }

    fn sends_to_a_sleeper(stage: &Stage) {
        let (receiver, sender) = simplex::<u64>().unwrap();
        let mut sender = Some(sender);
        let sleeper = Child::new(|| {
            drop(sender.take());
            for number in 0..10 {
                match receiver.recv_timeout(HANG) {
                    Ok(received) => assert_eq!(received, number),
                    Err(error) => return disconnected::<()>(Err(error)),
                }
            }
        });
        sleeper.await_sleep();
        drop(receiver);
        let victim = stage.victim(|| {
            for number in 0..10 {
                let _ = sender.as_ref().unwrap().send(number);
                other_sleeps(number);
            }
        });
        drop(sender);
        let _ = stage.ends(victim);
        let start = Instant::now();
        sleeper.succeed();
        assert!(start.elapsed() < PROMPT, "{:?}", start.elapsed());
    }

    /// So that the other end goes to sleep again: on its word, as it does at first, or at its bell.
    fn other_sleeps(number: u64) {
        std::thread::sleep(Duration::from_millis([1, 10][number as usize % 2]));
    }

    fn makes_room_for_a_sleeper(stage: &Stage) {
        let (receiver, sender) = simplex::<()>().unwrap();
        let mut receiver = Some(receiver);
        let sleeper = Child::new(|| {
            drop(receiver.take());
            for number in 0..3 {
                if let Err(error) = sender.send_bytes_timeout(&long(number), HANG) {
                    return disconnected::<()>(Err(error));
                }
            }
        });
        sleeper.await_sleep();
        drop(sender);
        let victim = stage.victim(|| {
            for number in 0..3 {
                let bytes = receiver.as_ref().unwrap().recv_bytes_timeout(HANG).unwrap();
                assert!(bytes == long(number), "torn");
                other_sleeps(number);
            }
        });
        drop(receiver);
        let _ = stage.ends(victim);
        let start = Instant::now();
        sleeper.succeed();
        assert!(start.elapsed() < PROMPT, "{:?}", start.elapsed());
    }

    fn receives_what_is_left(stage: &Stage) {
        let (receiver, sender) = simplex::<(u64, u64)>().unwrap();
        stage.dies_at("send: the tail is stored", 5, || {
            (0..10).for_each(|number| sender.send((number, 1)).unwrap());
        });
        let (victim, receiver) = victim_with(stage, receiver, sender, |receiver| {
            let received: Vec<(u64, u64)> = receiver.iter().collect();
            assert_eq!(received, [(0, 1), (1, 1), (2, 1), (3, 1), (4, 1)]);
        });
        // Nobody is left who could be held up.
        drop(receiver);
        let _ = stage.ends(victim);
    }
}

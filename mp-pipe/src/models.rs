//! Every order in which the steps of a ring's two ends can happen, by loom.
//!
//! `RUSTFLAGS="--cfg mp_loom" cargo test -p mp-pipe --lib --release`. Each model is also run with one thing missing
//! that the protocol needs (an ordering, a fence, a wake-up), and then has to fail: a model that passes in that case
//! would prove nothing. Reading what is written at the same time is a failure too: loom watches each word of the ring.
//!
//! A barrier that one process makes for the other cannot be modelled: here both make their own.

use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;
use mp_core::Deadline;
use mp_core::word::Woken;

use crate::memory::Memory;
use crate::ring::{Backing, Consumer, Control, Lane, Producer, SHORT, Sleep};

/// With no more than three preemptions.
fn explore(model: fn(), needed: &[&'static str]) {
    mp_core::model::explore(3, model, needed);
}

/// The socket: a byte lies there until it is taken.
#[derive(Default)]
struct Doorbell {
    rung: Mutex<bool>,
    changed: Condvar,
}

impl Doorbell {
    fn ring(&self) {
        *self.rung.lock().unwrap() = true;
        self.changed.notify_one();
    }

    fn wait(&self) {
        let mut rung = self.rung.lock().unwrap();
        while !*rung {
            rung = self.changed.wait(rung).unwrap();
        }
        *rung = false;
    }
}

#[derive(Debug)]
struct Always;

impl Backing for Always {
    fn ring(&self, _: usize) -> Result<(), mp_core::Error> {
        Ok(())
    }

    fn area(&self, _: usize) -> Result<(), mp_core::Error> {
        Ok(())
    }

    fn has_ring(&self, end: usize) -> bool {
        end <= RING
    }
}

/// Seven messages of 8 bytes; the writer is told when two are read that it does not know of.
const RING: usize = 128;

struct Pipe {
    producer: Producer<Arc<Control>, Always>,
    consumer: Consumer<Arc<Control>>,
    bells: Arc<Bells>,
}

/// How each end sleeps, and where.
struct Bells {
    sleep: Sleep,
    to_reader: Doorbell,
    to_writer: Doorbell,
}

impl Bells {
    fn sleep(&self, bell: &Doorbell, nap: impl FnOnce(Deadline) -> Woken) {
        match self.sleep {
            Sleep::AtBell => bell.wait(),
            // A lost wake-up is never made good for here.
            Sleep::OnWord => _ = nap(Deadline::NEVER),
        }
    }
}

fn pipe(sleep: Sleep) -> Pipe {
    let control = Arc::new(Control::default());
    let (ring, area) = (Memory::new(RING), Memory::new(0));
    let lane = || Lane { control: Arc::clone(&control), ring: ring.clone(), area: area.clone() };
    Pipe {
        producer: Producer::new(lane(), Always, 0).unwrap(),
        consumer: Consumer::new(lane()).unwrap(),
        bells: Arc::new(Bells {
            sleep,
            to_reader: Doorbell::default(),
            to_writer: Doorbell::default(),
        }),
    }
}

/// As a sender does, without looking for a while first.
fn send(producer: &Producer<Arc<Control>, Always>, bells: &Bells, words: &[u64]) {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    loop {
        let attempt = || {
            producer.push(&bytes).or_else(|| {
                let slot = producer.slot(bytes.len(), false).unwrap()?;
                producer.write(&slot, &bytes);
                Some(producer.commit(&slot, false, Default::default()))
            })
        };
        let done = attempt().or_else(|| {
            producer.announce(bells.sleep);
            attempt()
        });
        match done {
            Some(true) => return bells.to_reader.ring(),
            Some(false) => return,
            None => {
                bells.sleep(&bells.to_writer, |until| producer.nap(until));
                producer.retract();
            }
        }
    }
}

/// As a receiver does, without looking for a while first.
fn receive(consumer: &Consumer<Arc<Control>>, bells: &Bells) -> Vec<u64> {
    loop {
        let record = match consumer.next().unwrap() {
            None => {
                consumer.announce(bells.sleep);
                consumer.next().unwrap()
            }
            found => found,
        };
        let Some(record) = record else {
            bells.sleep(&bells.to_reader, |until| consumer.nap(until));
            continue;
        };
        let mut bytes = vec![0; record.len];
        let writer_waits = if let Some((at, len)) = consumer.short() {
            let mut short = [0; SHORT];
            let writer_waits = consumer.take_short(at, len, &mut short);
            bytes.copy_from_slice(&short[..len]);
            writer_waits
        } else {
            consumer.read(&record, &mut bytes);
            consumer.consume(&record)
        };
        if writer_waits {
            bells.to_writer.ring();
        }
        return bytes.chunks(8).map(|word| u64::from_ne_bytes(word.try_into().unwrap())).collect();
    }
}

/// `read` messages were there and are read, `unread` lie in the ring, `last` are sent while all are received.
fn transfer(sleep: Sleep, read: u64, unread: u64, last: &[&'static [u64]]) {
    let Pipe { producer, consumer, bells } = pipe(sleep);
    let theirs = Arc::clone(&bells);
    for number in 0..read {
        send(&producer, &bells, &[number]);
        assert_eq!(receive(&consumer, &bells), [number]);
    }
    consumer.publish();
    for number in 0..unread {
        send(&producer, &bells, &[number]);
    }
    let messages = last.to_vec();
    let writer = thread::spawn(move || {
        for message in messages {
            send(&producer, &theirs, message);
        }
    });
    for number in 0..unread {
        assert_eq!(receive(&consumer, &bells), [number]);
    }
    for message in last {
        assert_eq!(receive(&consumer, &bells), *message);
    }
    writer.join().unwrap();
}

#[test]
fn a_reader_that_waits_gets_each_message_whole() {
    explore(
        || transfer(Sleep::AtBell, 0, 0, &[&[1], &[2]]),
        &["TailStore", "TailLoad", "SleeperFence", "RingReader", "LetterStamped", "LetterWhole"],
    );
}

#[test]
fn a_reader_that_sleeps_on_its_word_is_woken() {
    explore(
        || transfer(Sleep::OnWord, 0, 0, &[&[1], &[2]]),
        &["TailStore", "TailLoad", "SleeperFence", "RingReader", "WordWakes"],
    );
}

#[test]
fn a_writer_that_waits_for_room_gets_it_and_overwrites_nothing_unread() {
    explore(
        // The first lies where one that is unread lay.
        || transfer(Sleep::AtBell, 4, 7, &[&[1, 2, 3], &[4]]),
        &["HeadStore", "HeadLoad", "SleeperFence", "RingWriter"],
    );
}

#[test]
fn a_writer_that_sleeps_on_its_word_is_woken() {
    explore(
        || transfer(Sleep::OnWord, 4, 7, &[&[1, 2, 3], &[4]]),
        &["HeadStore", "HeadLoad", "SleeperFence", "RingWriter", "WordWakes"],
    );
}

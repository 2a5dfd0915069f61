//! Every order in which the steps of a ring's two ends can happen, by loom.
//!
//! `RUSTFLAGS="--cfg mp_loom" cargo test -p mp-pipe --lib --release`. Each model is also run with one thing missing
//! that the protocol needs (an ordering, a fence, a wake-up), and then has to fail: a model that passes in that case
//! would prove nothing. Reading what is written at the same time is a failure too: loom watches each word of the ring.
//!
//! A barrier that one process makes for the other cannot be modelled: here both make their own.

use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

use crate::memory::Memory;
use crate::ring::{Backing, Consumer, Control, Lane, Producer, SHORT};

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
    to_reader: Arc<Doorbell>,
    to_writer: Arc<Doorbell>,
}

fn pipe() -> Pipe {
    let control = Arc::new(Control::default());
    let (ring, area) = (Memory::new(RING), Memory::new(0));
    let lane = || Lane { control: Arc::clone(&control), ring: ring.clone(), area: area.clone() };
    Pipe {
        producer: Producer::new(lane(), Always, 0).unwrap(),
        consumer: Consumer::new(lane()).unwrap(),
        to_reader: Arc::default(),
        to_writer: Arc::default(),
    }
}

/// As a sender does, without looking for a while first.
fn send(producer: &Producer<Arc<Control>, Always>, bells: (&Doorbell, &Doorbell), words: &[u64]) {
    let (to_reader, to_writer) = bells;
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
            producer.announce();
            attempt()
        });
        match done {
            Some(true) => return to_reader.ring(),
            Some(false) => return,
            None => {
                to_writer.wait();
                producer.retract();
            }
        }
    }
}

/// As a receiver does, without looking for a while first.
fn receive(consumer: &Consumer<Arc<Control>>, bells: (&Doorbell, &Doorbell)) -> Vec<u64> {
    let (to_reader, to_writer) = bells;
    loop {
        let record = match consumer.next().unwrap() {
            None => {
                consumer.announce();
                consumer.next().unwrap()
            }
            found => found,
        };
        let Some(record) = record else {
            to_reader.wait();
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
            to_writer.ring();
        }
        return bytes.chunks(8).map(|word| u64::from_ne_bytes(word.try_into().unwrap())).collect();
    }
}

/// `read` messages were there and are read, `unread` lie in the ring, `last` are sent while all are received.
fn transfer(read: u64, unread: u64, last: &[&'static [u64]]) {
    let Pipe { producer, consumer, to_reader, to_writer } = pipe();
    let bells = (Arc::clone(&to_reader), Arc::clone(&to_writer));
    for number in 0..read {
        send(&producer, (&bells.0, &bells.1), &[number]);
        assert_eq!(receive(&consumer, (&to_reader, &to_writer)), [number]);
    }
    consumer.publish();
    for number in 0..unread {
        send(&producer, (&bells.0, &bells.1), &[number]);
    }
    let messages = last.to_vec();
    let writer = thread::spawn(move || {
        for message in messages {
            send(&producer, (&bells.0, &bells.1), message);
        }
    });
    for number in 0..unread {
        assert_eq!(receive(&consumer, (&to_reader, &to_writer)), [number]);
    }
    for message in last {
        assert_eq!(receive(&consumer, (&to_reader, &to_writer)), *message);
    }
    writer.join().unwrap();
}

#[test]
fn a_reader_that_waits_gets_each_message_whole() {
    explore(
        || transfer(0, 0, &[&[1], &[2]]),
        &["TailStore", "TailLoad", "SleeperFence", "RingReader", "LetterStamped", "LetterWhole"],
    );
}

#[test]
fn a_writer_that_waits_for_room_gets_it_and_overwrites_nothing_unread() {
    explore(
        // The first lies where one that is unread lay.
        || transfer(4, 7, &[&[1, 2, 3], &[4]]),
        &["HeadStore", "HeadLoad", "SleeperFence", "RingWriter"],
    );
}

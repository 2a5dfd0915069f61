//! Every order in which the steps of the commit words can happen, by loom.
//!
//! `RUSTFLAGS="--cfg mp_loom" cargo test -p mp-queue --lib --release`. Each model is also run with one thing
//! missing that the protocol needs (an ordering, a mark, a wake-up), and then has to fail: a model that
//! passes in that case would prove nothing. The lock of each side is loom's, as mp-sync has models of its own.

use loom::cell::UnsafeCell;
use loom::sync::{Arc, Mutex};
use loom::thread;
use mp_core::Deadline;
use mp_core::model::explore;

use crate::commit::{CommitWord, Mark, NoCommit, Patience};

/// A queue of at most four records in all, as the blocking half has it.
struct Model {
    put: CommitWord,
    got: CommitWord,
    done: CommitWord,
    put_lock: Mutex<u64>,
    got_lock: Mutex<u64>,
    /// loom fails where a record is read without being ordered after its write.
    records: [UnsafeCell<u64>; 4],
    capacity: u64,
}

impl Model {
    fn new(capacity: u64) -> Arc<Self> {
        Arc::new(Self {
            put: CommitWord::new(),
            got: CommitWord::new(),
            done: CommitWord::new(),
            put_lock: Mutex::new(0),
            got_lock: Mutex::new(0),
            records: [(); 4].map(|()| UnsafeCell::new(0)),
            capacity,
        })
    }

    fn put(&self, value: u64) -> Result<(), NoCommit> {
        let mut patience = Patience::new(Deadline::NEVER);
        loop {
            let mut next = self.put_lock.lock().unwrap();
            let (tail, head) = (self.put.load(), self.got.load());
            if tail.is_closed() {
                return Err(NoCommit::Closed);
            }
            if tail.items_since(head) >= self.capacity {
                drop(next);
                self.got.wait(head, &mut patience);
                continue;
            }
            self.records[*next as usize].with_mut(|record| {
                #[expect(unsafe_code, reason = "loom's cell")]
                // SAFETY: what the model is to prove; loom looks whether it is so.
                unsafe {
                    *record = value;
                };
            });
            let now = self.put.commit(tail, 1, 1, true)?;
            *next += 1;
            drop(next);
            if now.has_waiters() {
                self.put.wake(now, 1);
            }
            return Ok(());
        }
    }

    fn get(&self) -> Option<u64> {
        let mut patience = Patience::new(Deadline::NEVER);
        loop {
            let mut next = self.got_lock.lock().unwrap();
            let (head, tail) = (self.got.load(), self.put.load());
            let there = tail.items_since(head);
            if there == 0 {
                drop(next);
                if tail.is_closed() {
                    return None;
                }
                self.put.wait(tail, &mut patience);
                continue;
            }
            let value = self.records[*next as usize].with(|record| {
                #[expect(unsafe_code, reason = "loom's cell")]
                // SAFETY: as above.
                unsafe {
                    *record
                }
            });
            let now = self.got.commit(head, 1, 1, false).unwrap();
            *next += 1;
            drop(next);
            if now.has_waiters() {
                self.got.wake(now, 1);
            }
            let tail = self.put.load();
            if patience.slept && there > 1 && tail.has_waiters() {
                self.put.wake(tail, 1);
            }
            return Some(value);
        }
    }

    fn close(&self) {
        self.put.set(Mark::CLOSED);
        self.got.set(Mark::CLOSED);
        self.put.wake_all();
        self.got.wake_all();
    }
}

fn beside<R: 'static>(model: &Arc<Model>, work: fn(&Model) -> R) -> thread::JoinHandle<R> {
    let model = Arc::clone(model);
    thread::spawn(move || work(&model))
}

#[test]
fn an_item_reaches_a_consumer_that_may_sleep() {
    explore(
        3,
        || {
            let model = Model::new(4);
            let consumer = beside(&model, |model| (model.get(), model.get()));
            model.put(7).unwrap();
            model.put(8).unwrap();
            assert_eq!(consumer.join().unwrap(), (Some(7), Some(8)));
        },
        &["CommitPublishes", "CommitWakes", "LookAcquires", "MarkBeforeSleep"],
    );
}

#[test]
fn two_consumers_that_may_sleep_get_an_item_each() {
    explore(
        2,
        || {
            let model = Model::new(4);
            let consumers = [(); 2].map(|()| beside(&model, |model| model.get().unwrap()));
            model.put(1).unwrap();
            model.put(2).unwrap();
            let sum: u64 = consumers.into_iter().map(|consumer| consumer.join().unwrap()).sum();
            assert_eq!(sum, 3);
        },
        &["CommitKeepsMark", "CommitWakes", "ClearWakesAll", "MarkBeforeSleep"],
    );
}

#[test]
fn a_producer_that_may_sleep_gets_the_room() {
    explore(
        3,
        || {
            let model = Model::new(1);
            let producer = beside(&model, |model| (model.put(1).unwrap(), model.put(2).unwrap()));
            assert_eq!((model.get(), model.get()), (Some(1), Some(2)));
            producer.join().unwrap();
        },
        &["CommitWakes", "MarkBeforeSleep"],
    );
}

#[test]
fn a_close_is_learned_by_who_may_sleep_and_loses_nothing() {
    explore(
        2,
        || {
            let model = Model::new(4);
            let consumer = beside(&model, |model| {
                let mut count = 0;
                while model.get().is_some() {
                    count += 1;
                }
                count
            });
            let producer = beside(&model, |model| model.put(5).is_ok());
            model.close();
            let put = producer.join().unwrap();
            assert_eq!(consumer.join().unwrap(), u32::from(put));
        },
        &["CloseWakes"],
    );
}

#[test]
fn who_joins_learns_of_the_last_done() {
    explore(
        3,
        || {
            let model = Model::new(4);
            model.put(1).unwrap();
            model.put(2).unwrap();
            let joiner = beside(&model, |model| {
                let mut patience = Patience::new(Deadline::NEVER);
                loop {
                    let done = model.done.load();
                    if model.put.load().items_since(done) == 0 {
                        return;
                    }
                    model.done.wait(done, &mut patience);
                }
            });
            let other = beside(&model, |model| model.done.finish_one(&model.put).unwrap());
            let last = model.done.finish_one(&model.put).unwrap();
            assert!(last != other.join().unwrap(), "one of them is the last");
            assert!(model.done.finish_one(&model.put).is_err());
            joiner.join().unwrap();
        },
        &["DoneWakes", "MarkBeforeSleep"],
    );
}

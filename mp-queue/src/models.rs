//! Every order in which the steps of the commit words can happen, by loom.
//!
//! `RUSTFLAGS="--cfg mp_loom" cargo test -p mp-queue --lib --release`. Each model is also run with one thing
//! missing that the protocol needs (an ordering, a mark, a wake-up), and then has to fail: a model that
//! passes in that case would prove nothing. The lock of each side is loom's, as mp-sync has models of its own.

use loom::cell::UnsafeCell;
use loom::sync::{Arc, Mutex};
use loom::thread;
use mp_core::model::{explore, explore_killing, is_killed, mortal};
use mp_core::word::{self, ALL, AtomicU64, Ordering, taken};
use mp_core::{Deadline, crash_point};

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
    /// The descriptor: see [`SHOWN`] and [`SHUT`].
    sign: AtomicU64,
}

/// The descriptor has something to read.
const SHOWN: u64 = 1;
/// It is at its end.
const SHUT: u64 = 2;

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
            sign: AtomicU64::new(0),
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
            let now = self.put.commit(tail, 1, 1, true, || self.show())?;
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
            let now = self.got.commit(head, 1, 1, false, || {}).unwrap();
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
        self.put.close(|| {
            self.raise(SHUT);
            crash_point!("model: shut");
        });
        crash_point!("model: closed for those who put");
        self.got.set(Mark::CLOSED);
        self.put.wake_all();
        self.got.wake_all();
    }

    /// As `blocking` has it. What is done to a socket is one step of the kernel's.
    fn readiness(&self) {
        let tail = self.put.watch();
        let head = self.got.load();
        if tail.is_closed() {
            self.raise(SHUT);
        } else if tail.items_since(head) > 0 && taken!(WatchLooks) {
            self.show();
        } else if self.sign() != 0 {
            self.hide();
        }
    }

    fn sign(&self) -> u64 {
        // That sees the newest, as the kernel does.
        self.sign.fetch_or(0, Ordering::AcqRel)
    }

    fn raise(&self, flag: u64) {
        self.sign.fetch_or(flag, Ordering::AcqRel);
        word::wake(&self.sign, ALL);
    }

    fn show(&self) {
        if self.sign() == 0 {
            self.raise(SHOWN);
        }
    }

    fn hide(&self) {
        let next = taken!(HideLocks).then(|| self.put_lock.lock().unwrap());
        let tail = self.put.load();
        if tail.items_since(self.got.load()) > 0 || tail.is_closed() {
            return;
        }
        let shut = self.sign.fetch_and(!SHOWN, Ordering::AcqRel) & SHUT != 0;
        drop(next);
        if shut {
            self.close();
        }
    }

    /// As poll(2).
    fn poll(&self) {
        while self.sign() == 0 {
            word::sleep(&self.sign, 0, Deadline::NEVER);
        }
    }

    /// Gets what is there now; `Err` where it is closed.
    fn try_get(&self) -> Result<Option<u64>, NoCommit> {
        let mut next = self.got_lock.lock().unwrap();
        let (head, tail) = (self.got.load(), self.put.load());
        let there = tail.items_since(head);
        if there > 0 {
            self.got.commit(head, 1, 1, false, || {}).unwrap();
            *next += 1;
        }
        drop(next);
        if there <= 1 && !tail.is_closed() && tail.is_watched() {
            self.hide();
        }
        match there {
            0 if tail.is_closed() => Err(NoCommit::Closed),
            0 => Ok(None),
            _ => Ok(Some(there)),
        }
    }

    /// Gets an item by the descriptor alone.
    fn get_watching(&self) -> Result<(), NoCommit> {
        loop {
            self.readiness();
            self.poll();
            if self.try_get()?.is_some() {
                return Ok(());
            }
        }
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

#[test]
fn who_watches_the_descriptor_learns_of_an_item() {
    explore(
        3,
        || {
            let model = Model::new(4);
            let watcher = beside(&model, Model::get_watching);
            model.put(7).unwrap();
            watcher.join().unwrap().unwrap();
        },
        &["CommitShows", "WatchLooks"],
    );
}

#[test]
fn who_watches_learns_of_the_item_that_another_leaves() {
    explore(
        2,
        || {
            let model = Model::new(4);
            let watcher = beside(&model, Model::get_watching);
            let other = beside(&model, |model| model.try_get().unwrap().is_some());
            model.put(1).unwrap();
            if other.join().unwrap() {
                model.put(2).unwrap();
            }
            watcher.join().unwrap().unwrap();
        },
        &["CommitShows", "HideLocks"],
    );
}

#[test]
fn who_watches_learns_of_a_close_whoever_is_killed_in_it() {
    let steps = explore_killing(
        2,
        || {
            let model = Model::new(4);
            let watcher = beside(&model, Model::get_watching);
            // Looks, and hides what is there for nothing.
            let other = beside(&model, |model| {
                model.readiness();
                let _ = model.try_get();
            });
            if !mortal(|| model.close()) {
                assert!(is_killed());
                // Closed or not: where it was killed before either, somebody closes it.
                if model.sign() == 0 && !model.put.load().is_closed() {
                    model.close();
                }
            }
            assert!(watcher.join().unwrap().is_err());
            other.join().unwrap();
        },
        &["CloseShuts"],
    );
    assert_eq!(steps, 2, "shut, and closed");
}

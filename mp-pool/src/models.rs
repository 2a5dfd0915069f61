//! Every order in which worker and pool can reach for a task, by loom.
//!
//! `RUSTFLAGS="--cfg mp_loom" cargo test -p mp-pool --lib --release`. Each model is also run with one thing missing
//! that the protocol needs, and then has to fail: a model that passes in that case would prove nothing.

use loom::sync::{Arc, Mutex};
use loom::thread;
use mp_core::model::{Data, explore, explore_killing, mortal, point};
use mp_core::word::AtomicU64;

use crate::claims::{Words, is_after};

/// How many tasks the worker was sent.
const TASKS: u32 = 3;

/// What worker and pool share, and what the pool knows.
struct Shared {
    last: AtomicU64,
    since: AtomicU64,
    /// How often each task was run, wherever.
    ran: [Data; TASKS as usize],
    /// The numbers of those that are the worker's, as far as the pool knows.
    sent: Mutex<Vec<u32>>,
}

impl Shared {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            last: AtomicU64::new(0),
            since: AtomicU64::new(0),
            ran: std::array::from_fn(|_| Data::new()),
            sent: Mutex::new((1..=TASKS).collect()),
        })
    }

    fn words(&self) -> Words<'_> {
        Words { last: &self.last, since: &self.since }
    }

    fn run(&self, number: u32) {
        self.ran[number as usize - 1].add();
    }

    /// The worker: runs what it still may.
    fn work(&self) {
        for number in 1..=TASKS {
            point();
            if self.words().begin(number, Some(u64::from(number))) {
                point();
                self.run(number);
            }
        }
    }

    /// The pool: takes back what is not begun, and has it run elsewhere.
    fn take_back(&self) {
        let mut sent = self.sent.lock().unwrap();
        let begun = self.words().take_back(TASKS);
        let back: Vec<u32> = sent.extract_if(.., |number| is_after(*number, begun)).collect();
        drop(sent);
        back.into_iter().for_each(|number| self.run(number));
    }

    /// The pool, once the worker has ended: what that had not begun is run elsewhere, and what is lost with it is the
    /// one it had begun last.
    fn bury(&self, killed: bool) {
        let begun = self.words().begun();
        for number in self.sent.lock().unwrap().drain(..) {
            if is_after(number, begun) {
                self.run(number);
            }
        }
        for (number, ran) in (1..).zip(&self.ran) {
            match ran.get() {
                1 => {}
                0 => assert!(killed && number == begun, "task {number} is lost, {begun} was begun"),
                times => panic!("task {number} ran {times} times"),
            }
        }
    }
}

/// Runs the worker beside `others`; says whether it was killed.
fn beside(shared: &Arc<Shared>, others: impl FnOnce()) -> bool {
    let theirs = Arc::clone(shared);
    let worker = thread::spawn(move || mortal(|| theirs.work()));
    others();
    !worker.join().unwrap()
}

#[test]
fn of_a_killed_worker_each_task_is_run_once_but_the_one_begun() {
    let steps = explore_killing(
        3,
        || {
            let shared = Shared::new();
            let killed = beside(&shared, || shared.take_back());
            shared.bury(killed);
        },
        &["ClaimLooks", "TakeBackLooksAgain"],
    );
    assert!(steps >= 2 * TASKS, "{steps}");
}

/// One that cancels, say, and one that has an idle worker.
#[test]
fn of_two_that_take_back_one_gets_a_task() {
    explore_killing(
        2,
        || {
            let shared = Shared::new();
            let killed = beside(&shared, || {
                let theirs = Arc::clone(&shared);
                let other = thread::spawn(move || theirs.take_back());
                shared.take_back();
                other.join().unwrap();
            });
            shared.bury(killed);
        },
        &["ClaimLooks", "TakeBackLooksAgain"],
    );
}

#[test]
fn of_a_task_that_is_seen_to_be_begun_the_time_is_seen_too() {
    explore(
        3,
        || {
            let shared = Shared::new();
            let theirs = Arc::clone(&shared);
            // The worker is the first thread: of one that never orders anything, loom takes all for seen.
            let pool = thread::spawn(move || {
                let begun = theirs.words().begun();
                assert!(theirs.words().since() >= u64::from(begun), "an older time");
            });
            shared.work();
            pool.join().unwrap();
        },
        &["ClaimShows"],
    );
}

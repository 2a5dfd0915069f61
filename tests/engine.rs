//! The whole of what a pool does, on its own workers and on an engine.
//!
//! [`Relay`] stands for engines that send tasks away: they are bytes on their way, run by a second pool, and
//! each outcome comes twice. What is asked of each is in [`list`], and asked of mp-cluster's by its own tests.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use multiprocess::pool::engine::{Call, Engine, Job, Submitted, outcome_to_bytes};
use multiprocess::pool::{Builder, Error};
use multiprocess::{Event, Pool, TaskError};

use crate::support::Outcome;

#[path = "engine/list.rs"]
pub(crate) mod list;

crate::cases! {
    ONCE:
        what_an_engine_cannot_carry_or_does_not_have_is_an_error
        bytes_that_are_no_task_are_refused
    ;
}

/// The list, for a kind of place.
macro_rules! on {
    ($module:ident, $place:ident; $($name:ident)+) => {
        pub(crate) mod $module {
            $(
                fn $name() -> crate::support::Outcome {
                    super::list::$name::<super::$place>()
                }
            )+
            crate::cases! { SLOW: $($name)+; }
        }
    };
}
list::all! { on own, Own; }
list::all! { on relay, Relayed; }

/// Pools on workers of their own.
struct Own;

impl list::Place for Own {
    fn new() -> Self {
        Self
    }

    fn engine(&self, builder: Builder) -> Builder {
        builder.workers(2)
    }
}

/// Pools on a [`Relay`].
struct Relayed;

impl list::Place for Relayed {
    fn new() -> Self {
        Self
    }

    fn engine(&self, builder: Builder) -> Builder {
        builder.engine(Relay::new())
    }
}

type Table = HashMap<u64, (Job, Option<Submitted>)>;

/// Has another pool run the tasks.
struct Relay {
    pool: Pool,
    jobs: Arc<Mutex<Table>>,
}

fn lock(jobs: &Mutex<Table>) -> MutexGuard<'_, Table> {
    jobs.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Relay {
    fn new() -> Self {
        Self { pool: Pool::new(2).expect("a pool"), jobs: Arc::default() }
    }

    /// Ends a job, if it has not ended.
    fn end(jobs: &Mutex<Table>, number: u64, outcome: Vec<u8>) {
        let ended = lock(jobs).remove(&number);
        if let Some((job, _)) = ended {
            job.end_with_bytes(outcome);
        }
    }
}

impl Engine for Relay {
    fn workers(&self) -> usize {
        self.pool.workers().len()
    }

    fn submit(&self, job: Job) {
        let task = match job.to_bytes() {
            Ok(task) => task,
            Err(error) => return job.end(Err(error)),
        };
        let (number, jobs) = (job.number(), Arc::clone(&self.jobs));
        lock(&self.jobs).insert(number, (job, None));
        let submitted = self.pool.submit_bytes(&task, move |outcome| {
            Self::end(&jobs, number, outcome.clone());
            Self::end(&jobs, number, outcome);
        });
        match submitted {
            Ok(submitted) => {
                if let Some((_, handle)) = lock(&self.jobs).get_mut(&number) {
                    *handle = Some(submitted);
                }
            }
            Err(error) => Self::end(&self.jobs, number, outcome_to_bytes(Err(error))),
        }
    }

    fn cancel(&self, call: Call, running: bool) -> bool {
        let jobs = lock(&self.jobs);
        let of_call = jobs.values().filter(|(job, _)| job.call() == call);
        let handles: Vec<u64> = of_call.map(|(job, _)| job.number()).collect();
        drop(jobs);
        let mut cancelled = false;
        for number in handles {
            let handle = lock(&self.jobs).get_mut(&number).and_then(|(_, handle)| handle.take());
            let Some(handle) = handle else { continue };
            let ended = if running { handle.cancel() } else { handle.cancel_pending() };
            if let Some((_, place)) = lock(&self.jobs).get_mut(&number) {
                *place = Some(handle);
            }
            cancelled |= ended;
        }
        cancelled
    }

    fn close(&self) {
        self.pool.close();
    }

    fn terminate(&self) {
        self.pool.terminate();
    }

    fn join(&self) {
        self.pool.join().expect("is closed");
    }

    fn pids(&self) -> Vec<u32> {
        self.pool.workers()
    }
}

fn what_an_engine_cannot_carry_or_does_not_have_is_an_error() -> Outcome {
    let pool = Pool::builder().engine(Relay::new()).build()?;
    let Err(TaskError::Encode(why)) = pool.apply(|_: Event| (), (Event::new()?,)) else {
        panic!("an event does not leave its machine");
    };
    assert!(why.contains("arguments") && why.contains("handles"), "{why}");
    let Err(TaskError::Encode(why)) = pool.apply(|| Event::new().expect("an event"), ()) else {
        panic!("an event does not leave its machine");
    };
    assert!(why.contains("result") && why.contains("handles"), "{why}");

    let error = Pool::builder().engine(Relay::new()).workers(3).build().unwrap_err();
    assert!(matches!(error, Error::NotOurWorkers("workers")), "{error}");
    assert!(error.to_string().contains("workers()"), "{error}");
    Ok(())
}

fn bytes_that_are_no_task_are_refused() -> Outcome {
    let pool = Pool::new(1)?;
    for bytes in [&b""[..], b"mpt1", &[255; 100]] {
        let refused = pool.submit_bytes(bytes, |_| panic!("there is no outcome"));
        assert!(matches!(refused, Err(TaskError::Decode(_))));
    }
    Ok(())
}

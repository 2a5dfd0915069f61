//! A worker, or the process that has the pool, that is killed at each named step of a task, and what becomes of all
//! others.
//!
//! `RUSTFLAGS="--cfg mp_crash" cargo test -p mp-pool --test crash`; in other builds there are no such steps, and
//! nothing is tested here. The steps are those that the sources name; one that is never reached fails.

#[cfg(not(mp_crash))]
fn main() {}

#[cfg(mp_crash)]
fn main() {
    mp_process::init();
    scenes::main();
}

#[cfg(mp_crash)]
mod scenes {
    use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
    use std::thread;
    use std::time::Duration;

    use mp_core::testing::steps::{Scene, Stage, tests};
    use mp_core::testing::{self, numbers, wait_until};
    use mp_pool::{AsyncResult, Pool, TaskError};
    use mp_process::StartMethod;

    // The steps of workers are theirs, the others those of who has the pool.
    const SCENES: &[Scene] = &[Scene { name: "a pool and its workers", play: pool_and_workers }];

    const SOURCES: &[&str] = &[
        include_str!("../src/claims.rs"),
        include_str!("../src/local.rs"),
        include_str!("../src/worker.rs"),
    ];

    /// At these a worker has no task begun that it has not ended.
    const BETWEEN_TASKS: [&str; 6] = [
        "worker: it knows a function",
        "worker: a task is taken from the pipe",
        "worker: the time of a task is noted",
        "worker: the task was taken back",
        "worker: the result is sent",
        "worker: a failure is sent",
    ];

    pub(crate) fn main() {
        testing::run(tests(SCENES, SOURCES));
    }

    /// No fork server, which would stay.
    fn pool() -> Pool {
        let timeout = Duration::from_secs(60);
        let method = StartMethod::Spawn;
        Pool::builder().workers(2).task_timeout(timeout).start_method(method).build().unwrap()
    }

    fn square(n: u64) -> u64 {
        n * n
    }

    fn long(bytes: Vec<u8>) -> Vec<u8> {
        bytes
    }

    fn panics(n: u64) -> u64 {
        std::panic::set_hook(Box::new(|_| {}));
        panic!("no {n}");
    }

    fn for_ever() {
        loop {
            thread::park();
        }
    }

    /// Counts how many of several tasks were lost to the death of their worker; the others must be right.
    #[derive(Default)]
    struct Lost(usize);

    impl Lost {
        fn check<R: PartialEq + std::fmt::Debug>(
            &mut self,
            result: Result<R, TaskError>,
            is_right: impl Fn(&Result<R, TaskError>) -> bool,
        ) {
            match result {
                Err(TaskError::WorkerDied { exit_code: Some(-9), .. }) => self.0 += 1,
                result => assert!(is_right(&result), "{result:?}"),
            }
        }
    }

    /// All that there is to do with a pool, past every step. Gives how many tasks were lost.
    fn exercise(pool: &Pool) -> usize {
        let mut lost = Lost::default();
        let squares: Vec<AsyncResult<u64>> =
            (0..30).map(|n| pool.apply_async(square, (n,))).collect();
        let bytes = vec![7; 100_000];
        let longs: Vec<_> = (0..3).map(|_| pool.apply_async(long, (bytes.clone(),))).collect();
        let panics: Vec<_> = (0..10).map(|n| pool.apply_async(panics, (n,))).collect();
        for (result, n) in squares.into_iter().zip(0..) {
            lost.check(result.get(), |result| *result == Ok(n * n));
        }
        for result in longs {
            lost.check(result.get(), |result| *result == Ok(bytes.clone()));
        }
        for result in panics {
            lost.check(result.get(), |result| matches!(result, Err(TaskError::Panicked(_))));
        }
        // Both workers are busy; behind that some is taken back, and then they are killed for it.
        let endless: Vec<_> = (0..2).map(|_| pool.apply_async(for_ever, ())).collect();
        let waiting: Vec<_> = (0..9).map(|n| pool.apply_async(square, (n,))).collect();
        thread::sleep(Duration::from_millis(2));
        waiting.iter().step_by(2).for_each(|result| _ = result.cancel_pending());
        endless.iter().for_each(|result| _ = result.cancel());
        for result in endless {
            lost.check(result.get(), |result| *result == Err(TaskError::Cancelled));
        }
        for (result, n) in waiting.into_iter().zip(0..) {
            lost.check(result.get(), |result| {
                *result == Ok(n * n) || *result == Err(TaskError::Cancelled)
            });
        }
        // One throws away what was taken back while it was busy.
        let short = pool.apply_async(thread::sleep, (Duration::from_millis(4),));
        let others: Vec<_> = (0..8).map(|n| pool.apply_async(nap, (n,))).collect();
        others.iter().for_each(|result| _ = result.cancel_pending());
        lost.check(short.get(), |result| *result == Ok(()));
        for result in others {
            lost.check(result.get(), |result| {
                result.is_ok() || *result == Err(TaskError::Cancelled)
            });
        }
        lost.0
    }

    fn nap(millis: u64) {
        thread::sleep(Duration::from_millis(millis.min(2)));
    }

    fn still_works(pool: &Pool) {
        assert_eq!(pool.map_chunked(square, 0..20, 1), Ok((0..20).map(square).collect()));
        wait_until(|| pool.workers().len() == 2);
    }

    fn runs(pid: u64) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let state = stat.rsplit(')').next().unwrap_or_default().trim_start().chars().next();
        state.is_some_and(|state| state != 'Z' && state != 'X')
    }

    fn pool_and_workers(stage: &Stage) {
        let pids: &'static [AtomicU64] = numbers(2);
        let victim = stage.victim(|| {
            let pool = pool();
            for (place, pid) in pids.iter().zip(pool.workers()) {
                place.store(pid.into(), SeqCst);
            }
            let lost = exercise(&pool);
            still_works(&pool);
            match stage.step().filter(|_| stage.is_hit()) {
                None => assert_eq!(lost, 0),
                Some(step) if BETWEEN_TASKS.contains(&step) => assert_eq!(lost, 0),
                // That one; of those that are cancelled none is among the first nine.
                Some(step) => assert_eq!(lost, 1, "{step}"),
            }
            pool.close();
            pool.join().unwrap();
        });
        let _ = stage.ends(victim);
        wait_until(|| pids.iter().all(|pid| !runs(pid.load(SeqCst))));
    }
}

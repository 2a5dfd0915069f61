//! What every pool does, wherever its tasks run: asked of each engine there is.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use mp_pool::{AsyncResult, Builder, Error, Pool, TaskError};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};

type Outcome = Result<(), Box<dyn std::error::Error>>;

/// Hands the names of all tests to a macro.
macro_rules! all {
    ($then:ident $($first:tt)*) => {
        $then! { $($first)*
            calls_give_what_functions_return
            maps_give_the_same_for_every_length_and_chunk
            ten_thousand_small_tasks_end
            many_threads_may_use_a_pool
            large_arguments_and_results_come_whole
            results_are_awaited_no_longer_than_said
            a_panic_costs_its_task_alone
            a_worker_that_dies_costs_its_task_alone
            what_cannot_be_sent_or_read_fails_its_task_alone
            imap_keeps_its_window_and_goes_on_behind_errors
            imap_unordered_gives_what_is_ready
            callbacks_are_called_once_and_may_panic
            callbacks_may_use_the_pool
            a_task_beyond_its_time_is_ended
            a_task_that_waits_is_cancelled
            a_task_that_runs_is_cancelled
            what_is_cancelled_of_a_map_is_all_of_it
            close_lets_all_tasks_end
            terminate_ends_all_tasks
            a_dropped_pool_ends_its_tasks
        }
    };
}
pub(crate) use all;

/// Where pools of two workers are had, the same two or others.
pub(crate) trait Place {
    fn new() -> Self;

    /// Has the tasks run there.
    fn engine(&self, builder: Builder) -> Builder;

    fn pool(&self) -> Pool {
        self.engine(Pool::builder()).build().expect("a pool")
    }
}

fn square(x: u64) -> u64 {
    x * x
}

fn squares(len: u64) -> Vec<u64> {
    (0..len).map(square).collect()
}

fn for_ever() {
    loop {
        thread::park();
    }
}

fn nap(millis: u64) -> u64 {
    thread::sleep(Duration::from_millis(millis));
    millis
}

/// Returns once there is such a file, or at once where none is meant; whether one was.
fn await_file(path: String) -> bool {
    while !path.is_empty() && !Path::new(&path).exists() {
        thread::sleep(Duration::from_millis(5));
    }
    !path.is_empty()
}

fn fussy(x: i32) -> i32 {
    assert!(x != 17, "not {x}");
    if x == 1000 {
        std::process::exit(5);
    }
    x
}

/// Leaves a file that says that it runs.
fn run_for_ever(file: PathBuf) {
    std::fs::write(file, "").expect("writes");
    for_ever();
}

/// Two tasks that run for ever, and do run: both workers are busy.
fn occupy(pool: &Pool) -> [AsyncResult<()>; 2] {
    let file = |n: u32| std::env::temp_dir().join(format!("mp-engine-{}-{n}", std::process::id()));
    let files = [1, 2].map(file);
    let running = files.clone().map(|file| pool.apply_async(run_for_ever, (file,)));
    for file in files {
        while !file.exists() {
            thread::sleep(Duration::from_millis(5));
        }
        std::fs::remove_file(file).expect("removes");
    }
    running
}

pub(crate) fn calls_give_what_functions_return<P: Place>() -> Outcome {
    let place = P::new();
    let pool = place.pool();
    assert_eq!(pool.apply(square, (12,))?, 144);
    assert_eq!(pool.apply(|| "no arguments".to_string(), ())?, "no arguments");
    let several = |a: u8, b: String, c: Vec<i64>, d: Option<f64>| (a, b, c, d);
    let (b, c) = ("two".to_string(), vec![-3, 3]);
    let all = pool.apply(several, (1, b.clone(), c.clone(), Some(0.5)))?;
    assert_eq!(all, (1, b, c, Some(0.5)));
    let result = pool.apply_async(square, (3,));
    assert!(result.function().ends_with("square"));
    // It can be had again and again.
    assert_eq!((result.get()?, result.get()?), (9, 9));
    assert!(result.is_ready() && result.is_successful() && !result.cancel());
    // What a task returns is a value, an error of its own too.
    let own =
        pool.apply(|text: String| text.parse::<u8>().map_err(|e| e.to_string()), ("300".into(),))?;
    assert!(own.is_err_and(|why| why.contains("too large")));
    assert_eq!(pool.starmap(u64::pow, [(2, 10), (3, 4)])?, [1024, 81]);
    assert_eq!(pool.starmap_async(u64::pow, (0..100).map(|n| (n, 2))).get()?, squares(100));
    Ok(())
}

pub(crate) fn maps_give_the_same_for_every_length_and_chunk<P: Place>() -> Outcome {
    let place = P::new();
    let pool = place.pool();
    for len in [0, 1, 2, 3, 7, 100, 10_000] {
        let squares = squares(len);
        assert_eq!(pool.map(square, 0..len)?, squares);
        assert_eq!(pool.map_async(square, 0..len).get()?, squares);
        assert!(pool.imap(square, 0..len.min(300)).eq(squares.iter().take(300).map(|n| Ok(*n))));
    }
    for chunk in [1, 7, 16, 1000, 5000] {
        assert_eq!(pool.map_chunked(square, 0..3000, chunk)?, squares(3000));
    }
    // An input whose length is not known.
    assert_eq!(pool.map(square, (0..).take_while(|n| *n < 500))?, squares(500));
    assert_eq!(pool.map_chunked(square, 0..3, 0), Err(TaskError::ZeroChunk));
    Ok(())
}

pub(crate) fn ten_thousand_small_tasks_end<P: Place>() -> Outcome {
    let place = P::new();
    let pool = place.pool();
    let results: Vec<_> = (0..10_000).map(|n| pool.apply_async(square, (n,))).collect();
    for (n, result) in (0..).zip(results) {
        assert_eq!(result.get()?, n * n);
    }
    Ok(())
}

pub(crate) fn many_threads_may_use_a_pool<P: Place>() -> Outcome {
    let place = P::new();
    let pool = place.pool();
    thread::scope(|scope| {
        for thread in 0..8 {
            let pool = &pool;
            scope.spawn(move || match thread % 4 {
                0 => assert_eq!(pool.map(square, 0..2000), Ok(squares(2000))),
                1 => (0..50).for_each(|n| assert_eq!(pool.apply(square, (n,)), Ok(n * n))),
                2 => assert!(pool.imap(square, 0..200).eq((0..200).map(|n| Ok(n * n)))),
                _ => {
                    let found = pool.map_chunked(fussy, [1, 17, 2], 1);
                    assert!(matches!(found, Err(TaskError::Panicked(_))));
                }
            });
        }
    });
    Ok(())
}

pub(crate) fn large_arguments_and_results_come_whole<P: Place>() -> Outcome {
    let place = P::new();
    let pool = place.pool();
    for len in [0, 1, 65_519, 65_536, 1 << 20, 8 << 20] {
        let bytes: Vec<u8> = (0..len).map(|n: u32| (n % 251) as u8).collect();
        assert_eq!(pool.apply(|bytes: Vec<u8>| bytes, (bytes.clone(),))?, bytes);
    }
    let long = pool.apply(|len: usize| vec![7_u8; len], (30 << 20,))?;
    assert!(long.len() == 30 << 20 && long.iter().all(|byte| *byte == 7));
    let many = pool.map_chunked(|n: u64| vec![n; 10_000], 0..50, 1)?;
    assert!(many.iter().zip(0..).all(|(some, n)| *some == vec![n; 10_000]));
    Ok(())
}

pub(crate) fn results_are_awaited_no_longer_than_said<P: Place>() -> Outcome {
    let place = P::new();
    let pool = place.pool();
    let running = pool.apply_async(for_ever, ());
    assert_eq!(running.get_timeout(Duration::from_millis(30)), Err(TaskError::TimedOut));
    assert!(!running.wait_timeout(Duration::from_millis(30)));
    assert!(!running.is_ready() && !running.is_successful());
    let done = pool.apply_async(square, (5,));
    assert_eq!(done.get_timeout(Duration::MAX)?, 25);
    done.wait();
    assert!(done.wait_timeout(Duration::ZERO));
    assert_eq!(done.get_timeout(Duration::ZERO)?, 25);
    Ok(())
}

pub(crate) fn a_panic_costs_its_task_alone<P: Place>() -> Outcome {
    let place = P::new();
    let pool = place.pool();
    let others: Vec<_> = (0..100).map(|n| pool.apply_async(square, (n,))).collect();
    let Err(TaskError::Panicked(panic)) = pool.map_chunked(fussy, 10..20, 5) else {
        panic!("no panic");
    };
    assert_eq!(panic, "not 17");
    assert_eq!(panic.task().items(), Some(7..8));
    assert!(panic.task().number() > 0 && panic.task().function().ends_with("fussy"));
    let failed = pool.apply_async(fussy, (17,));
    failed.wait();
    assert!(failed.is_ready() && !failed.is_successful());
    assert_eq!(pool.map(square, 0..100)?, squares(100));
    for (n, other) in (0..).zip(others) {
        assert_eq!(other.get()?, n * n);
    }
    Ok(())
}

pub(crate) fn a_worker_that_dies_costs_its_task_alone<P: Place>() -> Outcome {
    let place = P::new();
    let pool = place.pool();
    let others: Vec<_> = (0..100).map(|n| pool.apply_async(square, (n,))).collect();
    let Err(TaskError::WorkerDied { exit_code, pid, task }) = pool.map_chunked(fussy, [1, 1000], 1)
    else {
        panic!("nobody died");
    };
    assert!(pid > 0 && exit_code == Some(5) && task.items() == Some(1..2), "{task}");
    assert!(task.function().ends_with("fussy") && task.attempts().is_empty());
    let killed = pool.apply(|| std::process::abort(), ());
    assert!(matches!(killed, Err::<(), _>(TaskError::WorkerDied { exit_code: Some(-6), .. })));
    for (n, other) in (0..).zip(others) {
        assert_eq!(other.get()?, n * n);
    }
    assert_eq!(pool.map(square, 0..100)?, squares(100));
    Ok(())
}

/// Some values of it cannot be sent, some not be read.
#[derive(Debug, PartialEq)]
struct Difficult(u8);

impl Serialize for Difficult {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            0 => Err(ser::Error::custom("too difficult to send")),
            n => serializer.serialize_u8(n),
        }
    }
}

impl<'de> Deserialize<'de> for Difficult {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match u8::deserialize(deserializer)? {
            1 => Err(de::Error::custom("too difficult to read")),
            n => Ok(Self(n)),
        }
    }
}

pub(crate) fn what_cannot_be_sent_or_read_fails_its_task_alone<P: Place>() -> Outcome {
    let place = P::new();
    let pool = place.pool();
    let there = pool.apply(|d: Difficult| d.0, (Difficult(0),));
    assert!(matches!(&there, Err(TaskError::Encode(why)) if why.contains("to send")), "{there:?}");
    let there = pool.apply(|d: Difficult| d.0, (Difficult(1),));
    assert!(matches!(&there, Err(TaskError::Decode(why)) if why.contains("to read")), "{there:?}");
    let back = pool.apply(Difficult, (0,));
    assert!(matches!(&back, Err(TaskError::Encode(why)) if why.contains("to send")), "{back:?}");
    let back = pool.apply(Difficult, (1,));
    assert!(matches!(&back, Err(TaskError::Decode(why)) if why.contains("to read")), "{back:?}");
    // An error of a task's own that cannot be sent is one of these as well.
    let error = pool.apply(|| Err::<(), _>(Difficult(0)), ());
    assert!(matches!(error, Err(TaskError::Encode(_))), "{error:?}");
    assert_eq!(pool.apply(Difficult, (2,))?, Difficult(2));
    Ok(())
}

pub(crate) fn imap_keeps_its_window_and_goes_on_behind_errors<P: Place>() -> Outcome {
    let place = P::new();
    let pool = place.pool();
    let taken = Cell::new(0);
    let input = (0..).inspect(|_| taken.set(taken.get() + 1));
    let mut results = pool.imap(square, input).window(5);
    for n in 0..100 {
        assert_eq!(results.next(), Some(Ok(n * n)));
        assert!(taken.get() <= n + 1 + 5, "{} taken at {n}", taken.get());
    }
    drop(results);
    assert_eq!(pool.imap(square, [0; 7]).len(), 7);
    let results: Vec<_> = pool.imap(fussy, [16, 17, 18, 1000, 19]).collect();
    assert!(matches!(results[1], Err(TaskError::Panicked(_))));
    assert!(matches!(results[3], Err(TaskError::WorkerDied { .. })));
    assert_eq!((&results[0], &results[2], &results[4]), (&Ok(16), &Ok(18), &Ok(19)));
    Ok(())
}

pub(crate) fn imap_unordered_gives_what_is_ready<P: Place>() -> Outcome {
    let place = P::new();
    let pool = place.pool();
    let mut some: Vec<u64> = pool.imap_unordered(square, 0..500).collect::<Result<_, _>>()?;
    some.sort_unstable();
    assert_eq!(some, squares(500));
    // One that takes for ever holds up no other, where another worker is free.
    let file = std::env::temp_dir().join(format!("mp-engine-{}", std::process::id()));
    let path = file.display().to_string();
    let mut ready = pool.imap_unordered(await_file, [path, String::new(), String::new()]);
    assert_eq!((ready.next(), ready.next()), (Some(Ok(false)), Some(Ok(false))));
    std::fs::write(&file, "")?;
    assert_eq!((ready.next(), ready.next()), (Some(Ok(true)), None));
    std::fs::remove_file(file)?;
    Ok(())
}

pub(crate) fn callbacks_are_called_once_and_may_panic<P: Place>() -> Outcome {
    let place = P::new();
    let pool = place.pool();
    let (sender, receiver) = mpsc::channel();
    for n in 0..100 {
        let sender = sender.clone();
        pool.apply_async(square, (n,)).on_done(move |result| {
            sender.send(result.expect("a square")).expect("is awaited");
            panic!("callbacks may");
        });
    }
    let to_fail = sender.clone();
    pool.apply_async(fussy, (17,)).on_done(move |result| {
        assert!(matches!(result, Err(TaskError::Panicked(_))));
        to_fail.send(0).expect("is awaited");
    });
    drop(sender);
    pool.close();
    pool.join()?;
    let got: Vec<u64> = receiver.iter().collect();
    assert_eq!((got.len(), got.iter().sum()), (101, squares(100).iter().sum::<u64>()));
    Ok(())
}

pub(crate) fn callbacks_may_use_the_pool<P: Place>() -> Outcome {
    let place = P::new();
    let pool = std::sync::Arc::new(place.pool());
    let (sender, receiver) = mpsc::channel();
    let again = std::sync::Arc::downgrade(&pool);
    pool.apply_async(square, (3,)).on_done(move |result| {
        let pool = again.upgrade().expect("the pool is there");
        sender.send(pool.apply(square, (result.expect("a square"),))).expect("is awaited");
    });
    assert_eq!(receiver.recv()?, Ok(81));
    Ok(())
}

pub(crate) fn a_task_beyond_its_time_is_ended<P: Place>() -> Outcome {
    let place = P::new();
    let builder = Pool::builder().task_timeout(Duration::from_millis(200));
    let pool = place.engine(builder).build()?;
    // The first, and alone: nothing else wakes who watches the time.
    assert_eq!(pool.apply(for_ever, ()), Err(TaskError::TimedOut));
    let more = pool.apply_async(for_ever, ());
    // Even this takes longer where the machine stands still.
    assert!((0..100).any(|_| pool.apply(square, (3,)) == Ok(9)));
    assert_eq!(more.get(), Err(TaskError::TimedOut));
    Ok(())
}

pub(crate) fn a_task_that_waits_is_cancelled<P: Place>() -> Outcome {
    let place = P::new();
    let pool = place.pool();
    let running = occupy(&pool);
    let waiting: Vec<_> = (0..20).map(|n| pool.apply_async(square, (n,))).collect();
    // Long before an engine could have told where each is, and after.
    assert!(waiting[0].cancel_pending() && !waiting[0].cancel());
    assert!(!waiting[1].wait_timeout(Duration::from_millis(200)));
    assert!(waiting[1].cancel() && waiting[2].cancel_pending());
    for cancelled in &waiting[..3] {
        assert_eq!(cancelled.get(), Err(TaskError::Cancelled));
    }
    assert!(!running[0].cancel_pending() && !running[0].is_ready());
    assert!(running[0].cancel() && running[1].cancel());
    for (n, other) in (0..).zip(&waiting).skip(3) {
        assert_eq!(other.get()?, n * n);
    }
    assert!(!waiting[3].cancel_pending() && !waiting[3].cancel());
    Ok(())
}

pub(crate) fn a_task_that_runs_is_cancelled<P: Place>() -> Outcome {
    let place = P::new();
    let pool = place.pool();
    let running = occupy(&pool);
    assert!(running[0].cancel());
    assert_eq!(running[0].get(), Err(TaskError::Cancelled));
    assert!(!running[0].cancel());
    // Its worker is another one now, and the other task goes on.
    assert_eq!(pool.apply(square, (4,))?, 16);
    assert!(!running[1].is_ready() && running[1].cancel());
    assert_eq!(pool.map(square, 0..100)?, squares(100));
    Ok(())
}

pub(crate) fn what_is_cancelled_of_a_map_is_all_of_it<P: Place>() -> Outcome {
    let place = P::new();
    let pool = place.pool();
    // Who waits for one of them hangs.
    let naps = pool.map_async(nap, [1_000_000; 500]);
    assert!(!naps.wait_timeout(Duration::from_millis(300)));
    assert!(naps.cancel());
    assert_eq!(naps.get(), Err(TaskError::Cancelled));
    assert_eq!(pool.map(square, 0..100)?, squares(100));
    Ok(())
}

pub(crate) fn close_lets_all_tasks_end<P: Place>() -> Outcome {
    let place = P::new();
    let pool = place.pool();
    assert!(matches!(pool.join(), Err(Error::StillOpen)));
    let results: Vec<_> = (0..1000).map(|n| pool.apply_async(square, (n,))).collect();
    pool.close();
    pool.close();
    assert_eq!(pool.apply(square, (1,)), Err(TaskError::Closed));
    assert_eq!(pool.map(square, 0..3), Err(TaskError::Closed));
    // More than one may wait for it.
    thread::scope(|scope| {
        let others = [(); 3].map(|()| scope.spawn(|| pool.join().is_ok()));
        for other in others {
            assert!(other.join().expect("no panic"));
        }
    });
    pool.join()?;
    for (n, result) in (0..).zip(&results) {
        assert!(result.is_successful());
        assert_eq!(result.get()?, n * n);
    }
    assert!(pool.workers().is_empty());
    Ok(())
}

pub(crate) fn terminate_ends_all_tasks<P: Place>() -> Outcome {
    let place = P::new();
    let pool = place.pool();
    let results: Vec<_> = (0..100).map(|_| pool.apply_async(for_ever, ())).collect();
    pool.terminate();
    pool.terminate();
    pool.join()?;
    assert!(results.iter().all(|result| result.get() == Err(TaskError::Terminated)));
    assert_eq!(pool.apply(square, (1,)), Err(TaskError::Closed));
    assert!(pool.workers().is_empty());
    // What is there, or comes, for others is not held up.
    assert_eq!(place.pool().map(square, 0..10)?, squares(10));
    Ok(())
}

pub(crate) fn a_dropped_pool_ends_its_tasks<P: Place>() -> Outcome {
    let place = P::new();
    let pool = place.pool();
    let running = occupy(&pool);
    let waiting = pool.apply_async(square, (1,));
    drop(pool);
    for result in &running {
        assert_eq!(result.get(), Err(TaskError::Terminated));
    }
    assert_eq!(waiting.get(), Err(TaskError::Terminated));
    assert_eq!(place.pool().map(square, 0..10)?, squares(10));
    Ok(())
}

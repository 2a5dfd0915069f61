//! Pools: what comes back, who dies, and that every task ends.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use multiprocess::pool::Error;
use multiprocess::{Event, Fd, Lock, Pool, RawArray, TaskError, Value};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::support::{Outcome, Role, at_last, eventually, may_open, role, runs, ticks};

crate::cases! {
    EACH:
        calls_give_what_functions_return
        a_panic_costs_its_task_and_no_process
        handles_travel_in_arguments_and_results
        large_arguments_and_results_come_whole
        close_lets_all_tasks_end
        terminate_ends_all_tasks
        a_dropped_pool_ends_its_tasks_and_workers
        the_initializer_runs_once_in_each_worker
        an_initializer_that_fails_is_an_error
        a_pool_in_a_worker_is_refused
        what_cannot_be_sent_fails_its_task_alone
    ;
    THREADED:
        a_worker_that_exits_costs_its_running_task_alone
        a_worker_that_is_killed_costs_its_running_task_alone
        a_worker_killed_at_any_step_of_a_task_costs_that_one
        a_stopped_worker_holds_up_one_task_at_most
        what_a_stopped_worker_has_not_begun_is_done_by_another
        an_idle_worker_that_is_killed_is_replaced
        a_worker_killed_with_a_large_argument_or_result_hangs_nobody
        a_task_beyond_its_time_is_ended
        a_cancelled_task_ends_whether_it_runs_or_not
        workers_are_replaced_after_so_many_tasks
        an_initializer_that_fails_later_is_not_tried_for_ever
        a_lack_of_descriptors_breaks_no_pool
        a_result_without_a_descriptor_costs_no_other_task
    ;
    ONCE:
        what_is_prepared_comes_before_the_initializer
        map_gives_the_same_for_every_length_and_chunk
        what_makes_no_sense_is_an_error
        what_is_submitted_to_a_closed_pool_is_refused_also_if_it_is_nothing
        imap_takes_no_more_than_its_window
        imap_goes_on_behind_an_error
        imap_loses_no_result_to_a_panic_of_its_input
        imap_unordered_gives_what_is_ready
        imap_gives_results_before_it_asks_its_input
        the_input_of_imap_may_be_made_of_its_results
        a_long_task_holds_up_no_other
        a_result_is_not_held_back_by_the_next_task
        large_arguments_do_not_hold_up_who_submits
        more_long_tasks_may_wait_than_descriptors_are_left
        callbacks_are_called_once_and_may_panic
        callbacks_may_use_the_pool
        whoever_joins_waits_for_callbacks
        a_result_that_panics_when_it_is_read_is_an_error
        a_pool_may_be_used_by_many_threads
        an_idle_pool_uses_no_time
        workers_end_with_a_killed_parent
        an_interrupt_ends_the_program_without_traces
        an_interrupt_that_is_handled_costs_no_task
        a_child_that_a_task_leaves_behind_hides_no_death
        a_copy_that_a_task_makes_of_its_worker_takes_no_part
        workers_that_may_not_be_signalled_are_not_waited_for_for_ever
    ;
    SLOW:
        ten_thousand_tasks_survive_five_hundred_kills
    ;
}

pub(crate) const ROLES: &[Role] = &[
    ("pool-for-ever", works_for_ever),
    ("pool-interrupted", is_interrupted),
    ("pool-demoted", changes_its_user),
];

fn square(x: u64) -> u64 {
    x * x
}

fn sleep(millis: u64) -> u64 {
    thread::sleep(Duration::from_millis(millis));
    millis
}

fn pid() -> u32 {
    std::process::id()
}

fn for_ever() {
    sleep(1_000_000);
}

fn kill(pid: u32) {
    signal(pid, libc::SIGKILL);
}

fn signal(pid: u32, signal: i32) {
    // SAFETY: takes numbers only; the process is one of the test's own.
    unsafe { libc::kill(pid as i32, signal) };
}

fn is_killed(error: &TaskError) -> bool {
    matches!(error, TaskError::WorkerDied { exit_code: Some(-9), .. })
}

fn calls_give_what_functions_return() -> Outcome {
    let pool = Pool::new(2)?;
    assert_eq!(pool.workers().len(), 2);
    assert_eq!(pool.apply(square, (12,))?, 144);
    let text = pool.apply_async(|a: String, b: char| format!("{a}{b}"), ("x".to_string(), 'y'));
    assert_eq!((text.get()?, text.get()?), ("xy".to_string(), "xy".to_string()));
    assert!(text.is_ready() && text.is_successful() && text.wait_timeout(Duration::ZERO));
    assert_eq!(pool.map(square, 0..100)?, (0..100).map(square).collect::<Vec<_>>());
    assert_eq!(pool.map_async(square, vec![1, 2, 3]).get()?, [1, 4, 9]);
    assert_eq!(
        pool.starmap(|a: u8, b: f64| f64::from(a) + b, vec![(1, 0.5), (2, 0.25)])?,
        [1.5, 2.25]
    );
    let ordered: Result<Vec<_>, _> = pool.imap(square, 0..500).collect();
    assert_eq!(ordered?, (0..500).map(square).collect::<Vec<_>>());
    let some: Result<HashSet<_>, _> = pool.imap_unordered(square, 0..500).collect();
    assert_eq!(some?, (0..500).map(square).collect());
    let pids: HashSet<u32> = pool.map(|_: u8| pid(), [0; 50])?.into_iter().collect();
    assert!(pids.iter().all(|pid| pool.workers().contains(pid) && *pid != std::process::id()));
    pool.close();
    pool.join()?;
    assert!(pool.workers().is_empty());
    Ok(())
}

fn map_gives_the_same_for_every_length_and_chunk() -> Outcome {
    let pool = Pool::new(3)?;
    let word = |n: u32| "ab".repeat(n as usize % 5);
    for len in [0, 1, 2, 3, 7, 100, 10_000] {
        let squares: Vec<u64> = (0..len).map(square).collect();
        let words: Vec<String> = (0..len as u32).map(word).collect();
        assert_eq!(pool.map(square, 0..len)?, squares);
        // Of a length that nobody knows.
        assert_eq!(pool.map(square, (0..2 * len).filter(|n| n % 2 == 0).map(|n| n / 2))?, squares);
        assert_eq!(pool.map_async(square, 0..len).get()?, squares);
        assert_eq!(pool.starmap(|a: u64, b: u64| a * b, (0..len).map(|n| (n, n)))?, squares);
        assert_eq!(pool.map(word, 0..len as u32)?, words);
        for chunk in [1, 3, 1000, 1_000_000] {
            assert_eq!(pool.map_chunked(square, 0..len, chunk)?, squares);
            assert_eq!(pool.map_chunked(word, 0..len as u32, chunk)?, words);
        }
    }
    // Chunks beyond what passes through a pipe in one piece.
    let large: Vec<u64> = (0..300_000).collect();
    let squares = pool.map_chunked(square, large.clone(), 100_000)?;
    assert!(large.iter().zip(&squares).all(|(n, s)| n * n == *s));
    Ok(())
}

fn a_panic_costs_its_task_and_no_process() -> Outcome {
    fn fussy(x: i32) -> i32 {
        assert!(x != 40, "not {x}");
        x
    }
    let pool = Pool::new(2)?;
    let workers = pool.workers();
    for _ in 0..20 {
        let error = pool.apply(fussy, (40,)).unwrap_err();
        let TaskError::Panicked(message) = &error else { panic!("{error}") };
        assert_eq!(*message, "not 40");
        assert!(error.to_string().contains("fussy"), "{error}");
    }
    let TaskError::Panicked(message) = pool.map(fussy, 0..100).unwrap_err() else {
        panic!("it panics")
    };
    assert_eq!((message.task().items(), message.message()), (Some(40..41), "not 40"));
    let odd = pool.apply_async(
        || {
            if pid() > 0 {
                std::panic::panic_any(7);
            }
        },
        (),
    );
    assert!(matches!(odd.get(), Err(TaskError::Panicked(_))) && !odd.is_successful());
    assert_eq!(pool.map(fussy, 0..10)?, (0..10).collect::<Vec<_>>());
    assert_eq!(pool.workers(), workers);
    Ok(())
}

fn handles_travel_in_arguments_and_results() -> Outcome {
    if !may_open(2048) {
        return Ok(());
    }
    let pool = Pool::new(2)?;
    let value = Value::new(0_u64)?;
    let add = |value: Value<u64>, lock: Option<Lock>, n: u64| {
        let guard = lock.as_ref().map(|lock| lock.lock().expect("no owner died"));
        value.update(|v| *v += n);
        drop(guard);
    };
    let lock = Lock::new()?;
    let results: Vec<_> = (1..=100)
        .map(|n| pool.apply_async(add, (value.clone(), (n % 2 == 0).then(|| lock.clone()), n)))
        .collect();
    results.iter().try_for_each(|result| result.get())?;
    assert_eq!(value.get(), 5050);
    // Descriptors there and back, with large and small company, and asked for twice.
    for len in [10, 1_000_000] {
        let read = |file: Fd, company: Vec<u8>| {
            let mut text = String::new();
            File::from(file).read_to_string(&mut text).expect("reads");
            (Fd::from(File::open("/proc/self/comm").expect("opens")), text, company)
        };
        let file = Fd::from(File::open("/proc/self/comm")?);
        let result = pool.apply_async(read, (file, vec![7; len]));
        for _ in 0..2 {
            let (file, text, company) = result.get()?;
            assert!(!text.is_empty() && company == vec![7; len]);
            let mut text = String::new();
            File::from(file).read_to_string(&mut text)?;
        }
    }
    // In chunks too.
    let files: Vec<Fd> =
        (0..40).map(|_| File::open("/dev/null").map(Fd::from)).collect::<Result<_, _>>()?;
    assert_eq!(pool.map(|file: Fd| drop(file), files)?.len(), 40);
    // More than one message can carry, or this process may have open.
    let values = vec![value.clone(); 5000];
    let add = |value: Value<u64>| value.update(|v| *v += 1);
    assert_eq!(pool.map_chunked(add, values, 5000)?.len(), 5000);
    assert_eq!(value.get(), 10_050);
    Ok(())
}

fn large_arguments_and_results_come_whole() -> Outcome {
    let pool = Pool::new(2)?;
    for len in [65_519, 65_520, 65_521, 1 << 20, 30 << 20] {
        let bytes: Vec<u8> = (0..len).map(|n| n as u8).collect();
        let reverse = |mut bytes: Vec<u8>| {
            bytes.reverse();
            bytes
        };
        let mut back = pool.apply(reverse, (bytes.clone(),))?;
        back.reverse();
        assert!(back == bytes);
    }
    let texts = pool.map(|n: usize| "x".repeat(n), [100_000, 1, 1_000_000])?;
    assert_eq!(texts.iter().map(String::len).collect::<Vec<_>>(), [100_000, 1, 1_000_000]);
    Ok(())
}

fn close_lets_all_tasks_end() -> Outcome {
    let pool = Pool::new(2)?;
    let results: Vec<_> = (0..100).map(|n| pool.apply_async(sleep, (n % 3,))).collect();
    pool.close();
    pool.close();
    assert_eq!(pool.apply(square, (2,)), Err(TaskError::Closed));
    assert_eq!(pool.map(square, 0..3), Err(TaskError::Closed));
    pool.join()?;
    assert!(results.iter().all(|result| result.is_successful()));
    pool.join()?;
    Ok(())
}

fn terminate_ends_all_tasks() -> Outcome {
    let pool = Pool::new(2)?;
    let workers = pool.workers();
    let done = pool.apply_async(square, (3,));
    assert_eq!(done.get()?, 9);
    let results: Vec<_> = (0..2000).map(|_| pool.apply_async(for_ever, ())).collect();
    pool.terminate();
    pool.terminate();
    for result in &results {
        assert_eq!(result.get(), Err(TaskError::Terminated));
    }
    assert_eq!(pool.apply(square, (2,)), Err(TaskError::Closed));
    pool.join()?;
    assert!(!workers.into_iter().any(runs));
    assert_eq!(done.get()?, 9);
    Ok(())
}

fn a_dropped_pool_ends_its_tasks_and_workers() -> Outcome {
    let pool = Pool::new(2)?;
    let workers = pool.workers();
    let result = pool.apply_async(for_ever, ());
    drop(pool);
    assert_eq!(result.get(), Err(TaskError::Terminated));
    assert!(!workers.into_iter().any(runs));
    Ok(())
}

fn the_initializer_runs_once_in_each_worker() -> Outcome {
    static SET: AtomicU64 = AtomicU64::new(0);
    let set = |n: u64, company: Vec<u8>, count: RawArray<AtomicU64>| {
        assert_eq!(SET.swap(n + company.len() as u64, Ordering::Relaxed), 0);
        count[0].fetch_add(1, Ordering::Relaxed);
    };
    let count = RawArray::<AtomicU64>::zeroed(1)?;
    let pool = Pool::builder()
        .workers(3)
        .initializer(set, (7, vec![0; 200_000], count.clone()))
        .build()?;
    assert_eq!(count[0].load(Ordering::Relaxed), 3);
    let seen = pool.map(|_: u8| SET.load(Ordering::Relaxed), [0; 30])?;
    assert_eq!(seen, [200_007; 30]);
    Ok(())
}

fn what_is_prepared_comes_before_the_initializer() -> Outcome {
    static ORDER: Mutex<String> = Mutex::new(String::new());
    let note = |word: String| ORDER.lock().expect("no panic").push_str(&word);
    let set = |count: RawArray<AtomicU64>, word: String| {
        count[0].fetch_add(1, Ordering::Relaxed);
        ORDER.lock().expect("no panic").push_str(&word);
    };
    let said = || ORDER.lock().expect("no panic").clone();
    let word = |word: &str| (word.to_string(),);
    let count = RawArray::<AtomicU64>::zeroed(1)?;
    let builder = Pool::builder().workers(1).initializer(set, (count.clone(), "c".to_string()));
    let pool = builder.prepare(note, word("b")).prepare(note, word("a")).build()?;
    assert_eq!((pool.apply(said, ())?, count[0].load(Ordering::Relaxed)), ("abc".to_string(), 1));
    let pool = Pool::builder().workers(1).prepare(note, word("alone")).build()?;
    assert_eq!(pool.apply(said, ())?, "alone");
    let descriptor = Fd::from(File::open("/dev/null")?);
    let refused = Pool::builder().prepare(|_: Fd| (), (descriptor,)).build();
    assert!(matches!(refused, Err(Error::Encode(_))));
    Ok(())
}

fn an_initializer_that_fails_is_an_error() -> Outcome {
    let error =
        Pool::builder().workers(2).initializer(|| panic!("no model"), ()).build().unwrap_err();
    assert!(matches!(&error, Error::Initializer(why) if why.contains("no model")), "{error}");
    let exit = |code: i32| std::process::exit(code);
    let error = Pool::builder().workers(2).initializer(exit, (5,)).build().unwrap_err();
    assert!(matches!(error, Error::DiedInInitializer { exit_code: Some(5), .. }), "{error}");
    Ok(())
}

fn an_initializer_that_fails_later_is_not_tried_for_ever() -> Outcome {
    let begin = |tries: RawArray<AtomicU64>| {
        assert!(tries[0].fetch_add(1, Ordering::Relaxed) < 2, "no more");
    };
    let tries = RawArray::<AtomicU64>::zeroed(1)?;
    let pool = Pool::builder().workers(2).initializer(begin, (tries.clone(),)).build()?;
    pool.workers().into_iter().for_each(kill);
    // It may have come to one of those killed.
    let error = loop {
        match pool.apply(square, (2,)) {
            Err(error) if is_killed(&error) => {}
            Ok(4) => {}
            other => break other.unwrap_err(),
        }
    };
    assert!(matches!(&error, TaskError::NoWorkers(why) if why.contains("no more")), "{error}");
    // One more may have been on its way.
    at_last(
        || {
            let counted = tries[0].load(Ordering::Relaxed);
            thread::sleep(Duration::from_millis(100));
            (counted, tries[0].load(Ordering::Relaxed))
        },
        |(before, after)| before == after && (3..=20).contains(after),
    )
}

fn a_pool_in_a_worker_is_refused() -> Outcome {
    let pool = Pool::new(1)?;
    let nested = || Pool::new(2).map(|_| ()).map_err(|error| format!("{error:?}"));
    let error = pool.apply(nested, ())?.unwrap_err();
    assert!(error.contains("daemon"), "{error}");
    Ok(())
}

/// Cannot be written if it says so, and not be read if it says that.
#[derive(Debug, PartialEq)]
struct Stubborn {
    in_parent: bool,
    in_worker: bool,
}

impl Serialize for Stubborn {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.in_parent {
            return Err(serde::ser::Error::custom("I stay here"));
        }
        self.in_worker.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Stubborn {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if bool::deserialize(deserializer)? {
            return Err(serde::de::Error::custom("I am nothing"));
        }
        Ok(Self { in_parent: false, in_worker: false })
    }
}

fn what_cannot_be_sent_fails_its_task_alone() -> Outcome {
    let pool = Pool::new(1)?;
    let workers = pool.workers();
    let take = |stubborn: Stubborn| !stubborn.in_worker;
    let error = pool.apply(take, (Stubborn { in_parent: true, in_worker: false },)).unwrap_err();
    assert!(matches!(&error, TaskError::Encode(why) if why.contains("I stay here")), "{error}");
    let error = pool.apply(take, (Stubborn { in_parent: false, in_worker: true },)).unwrap_err();
    assert!(matches!(&error, TaskError::Decode(why) if why.contains("I am nothing")), "{error}");
    let make = |in_parent: bool| Stubborn { in_parent, in_worker: !in_parent };
    let error = pool.apply(make, (true,)).unwrap_err();
    assert!(matches!(&error, TaskError::Encode(why) if why.contains("I stay here")), "{error}");
    let error = pool.apply(make, (false,)).unwrap_err();
    assert!(matches!(&error, TaskError::Decode(why) if why.contains("I am nothing")), "{error}");
    let bad = || [Stubborn { in_parent: true, in_worker: false }];
    assert!(matches!(pool.map(take, bad()), Err(TaskError::Encode(_))));
    assert!(matches!(pool.imap(take, bad()).next(), Some(Err(TaskError::Encode(_)))));
    assert!(pool.apply(take, (Stubborn { in_parent: false, in_worker: false },))?);
    assert_eq!(pool.workers(), workers);
    Ok(())
}

fn what_makes_no_sense_is_an_error() -> Outcome {
    assert!(matches!(Pool::new(0), Err(Error::NoWorkers)));
    assert!(matches!(Pool::builder().max_tasks_per_child(0).build(), Err(Error::NoTasks)));
    let pool = Pool::new(1)?;
    assert!(matches!(pool.join(), Err(Error::StillOpen)));
    assert_eq!(pool.map_chunked(square, 0..3, 0), Err(TaskError::ZeroChunk));
    assert_eq!(pool.map(square, 0..3)?, [0, 1, 4]);
    Ok(())
}

fn what_is_submitted_to_a_closed_pool_is_refused_also_if_it_is_nothing() -> Outcome {
    let pool = Pool::new(1)?;
    assert_eq!(pool.map(square, 0..0)?, []);
    assert_eq!(pool.map_async(square, 0..0).get()?, []);
    pool.close();
    for len in [0, 1] {
        assert_eq!(pool.map(square, 0..len), Err(TaskError::Closed));
        assert_eq!(pool.map_chunked(square, 0..len, 3), Err(TaskError::Closed));
        assert_eq!(pool.map_async(square, 0..len).get(), Err(TaskError::Closed));
        let pairs = (0..len).map(|n| (n, n));
        assert_eq!(pool.starmap(|a: u64, b: u64| a + b, pairs), Err(TaskError::Closed));
    }
    Ok(())
}

/// Sleeps, squares, or ends the process, as its number says.
fn mixed(n: u64) -> u64 {
    match n {
        7 => std::process::exit(3),
        _ => n * n,
    }
}

fn a_worker_that_exits_costs_its_running_task_alone() -> Outcome {
    for workers in [1, 2] {
        let pool = Pool::new(workers)?;
        let before = pool.workers();
        let results: Vec<_> = (0..300).map(|n| pool.apply_async(mixed, (n,))).collect();
        for (n, result) in (0..).zip(&results) {
            match result.get() {
                Ok(value) => assert_eq!(value, n * n),
                Err(TaskError::WorkerDied { pid, exit_code, task }) => {
                    assert_eq!((n, exit_code, task.number()), (7, Some(3), 8));
                    assert!(before.contains(&pid));
                }
                Err(error) => return Err(error.into()),
            }
        }
        assert!(!results[7].is_successful());
        eventually("it is replaced", || pool.workers().len() == workers)?;
        // In a chunk it takes the chunk with it, which is the task.
        let error = pool.map_chunked(mixed, 0..40, 5).unwrap_err();
        let TaskError::WorkerDied { task, .. } = error else { panic!("{error}") };
        assert_eq!(task.items(), Some(5..10));
    }
    Ok(())
}

fn a_worker_that_is_killed_costs_its_running_task_alone() -> Outcome {
    let pool = Pool::new(1)?;
    let begun = Event::new()?;
    let stuck = pool.apply_async(
        |begun: Event| {
            begun.set();
            for_ever();
        },
        (begun.clone(),),
    );
    let behind: Vec<_> = (0..100).map(|n| pool.apply_async(square, (n,))).collect();
    begun.wait()?;
    kill(pool.workers()[0]);
    assert!(is_killed(&stuck.get().unwrap_err()));
    for (n, result) in (0..).zip(behind) {
        assert_eq!(result.get()?, n * n);
    }
    Ok(())
}

/// Kills the process that it is in, another one than it was made in, at a step of its way.
struct Deadly {
    step: u8,
}

const READ: u8 = 1;
const CALLED: u8 = 2;
const WRITTEN: u8 = 3;
const DROPPED: u8 = 4;

impl Serialize for Deadly {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.step == WRITTEN && is_worker() {
            kill(pid());
        }
        self.step.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Deadly {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let step = u8::deserialize(deserializer)?;
        if step == READ && is_worker() {
            kill(pid());
        }
        Ok(Self { step })
    }
}

impl Drop for Deadly {
    fn drop(&mut self) {
        if self.step == DROPPED && is_worker() {
            kill(pid());
        }
    }
}

fn is_worker() -> bool {
    multiprocess::current_process().name().starts_with("PoolWorker")
}

fn a_worker_killed_at_any_step_of_a_task_costs_that_one() -> Outcome {
    let carry = |deadly: Deadly| {
        if deadly.step == CALLED {
            kill(pid());
        }
        deadly
    };
    for step in [READ, CALLED, WRITTEN, DROPPED] {
        let pool = Pool::new(1)?;
        let before: Vec<_> = (0..20).map(|n| pool.apply_async(square, (n,))).collect();
        let deadly = pool.apply_async(carry, (Deadly { step },));
        let behind: Vec<_> = (20..100).map(|n| pool.apply_async(square, (n,))).collect();
        let Err(error) = deadly.get() else { panic!("step {step}: it lives") };
        assert!(is_killed(&error), "step {step}: {error}");
        for (n, result) in (0..).zip(before.into_iter().chain(behind)) {
            assert_eq!(result.get()?, n * n);
        }
    }
    Ok(())
}

fn a_stopped_worker_holds_up_one_task_at_most() -> Outcome {
    let pool = Pool::new(2)?;
    pool.map(square, 0..100)?;
    let stopped = pool.workers()[0];
    signal(stopped, libc::SIGSTOP);
    let results: Vec<_> = (0..500).map(|n| pool.apply_async(square, (n,))).collect();
    eventually("the other does the rest", || {
        results.iter().filter(|result| result.is_ready()).count() >= 499
    })?;
    signal(stopped, libc::SIGCONT);
    for (n, result) in (0..).zip(results) {
        assert_eq!(result.get()?, n * n);
    }
    assert!(pool.workers().contains(&stopped));
    // One that is stopped cannot end by itself, but the pool does.
    signal(stopped, libc::SIGSTOP);
    drop(pool);
    assert!(!runs(stopped));
    Ok(())
}

fn what_a_stopped_worker_has_not_begun_is_done_by_another() -> Outcome {
    let soon = Duration::from_secs(20);
    for timeout in [None, Some(Duration::from_secs(60))] {
        let pool = Pool::builder().workers(2);
        let pool =
            timeout.into_iter().fold(pool, |pool, timeout| pool.task_timeout(timeout)).build()?;
        pool.map(square, 0..100)?;
        let workers = pool.workers();
        let takes_part = |worker: u32| {
            let slow_pid = |millis: u64| {
                sleep(millis);
                pid()
            };
            pool.map_chunked(slow_pid, [1; 20], 1).is_ok_and(|pids| pids.contains(&worker))
        };
        for &stopped in &workers {
            signal(stopped, libc::SIGSTOP);
            // One at a time, and from when the pool has long had nothing to do.
            thread::sleep(Duration::from_millis(150));
            for n in 0..20 {
                assert_eq!(pool.apply_async(square, (n,)).get_timeout(soon)?, n * n);
            }
            let results: Vec<_> = (0..1000).map(|n| pool.apply_async(square, (n,))).collect();
            for (n, result) in (0..).zip(results) {
                assert_eq!(result.get_timeout(soon)?, n * n);
            }
            signal(stopped, libc::SIGCONT);
            eventually("it takes part again", || takes_part(stopped))?;
        }
        // While all are stopped a task has to wait, for the first that goes on.
        for &first in &workers {
            workers.iter().for_each(|&pid| signal(pid, libc::SIGSTOP));
            let result = pool.apply_async(square, (7,));
            assert!(!result.wait_timeout(Duration::from_millis(200)));
            signal(first, libc::SIGCONT);
            assert_eq!(result.get_timeout(soon)?, 49);
            workers.iter().for_each(|&pid| signal(pid, libc::SIGCONT));
        }
        assert_eq!(pool.workers(), workers);
    }
    Ok(())
}

fn an_idle_worker_that_is_killed_is_replaced() -> Outcome {
    let pool = Pool::new(2)?;
    for _ in 0..10 {
        assert_eq!(pool.map(square, 0..10)?.len(), 10);
        let workers = pool.workers();
        workers.iter().copied().for_each(kill);
        eventually("they are replaced", || {
            let now = pool.workers();
            now.len() == 2 && !now.iter().any(|pid| workers.contains(pid))
        })?;
    }
    // All at once, before they have done anything, with tasks to come.
    pool.workers().into_iter().for_each(kill);
    let results: Vec<_> = (0..10).map(|n| pool.apply_async(square, (n,))).collect();
    assert!(results.iter().filter(|result| result.get().is_ok()).count() >= 8);
    Ok(())
}

fn a_worker_killed_with_a_large_argument_or_result_hangs_nobody() -> Outcome {
    let pool = Pool::new(1)?;
    for round in 0..12 {
        let bytes = vec![round as u8; 20 << 20];
        let (echo, worker) = (|bytes: Vec<u8>| bytes, pool.workers());
        let result = pool.apply_async(echo, (bytes.clone(),));
        thread::sleep(Duration::from_millis(3 * round));
        worker.into_iter().for_each(kill);
        match result.get() {
            Ok(back) => assert!(back == bytes),
            Err(error) => assert!(is_killed(&error), "{error}"),
        }
        assert_eq!(pool.apply(square, (4,)).or_else(|_| pool.apply(square, (4,)))?, 16);
    }
    Ok(())
}

fn a_task_beyond_its_time_is_ended() -> Outcome {
    const TIME: Duration = Duration::from_millis(300);
    let pool = Pool::builder().workers(2).task_timeout(TIME).build()?;
    let before = pool.workers();
    // Gives how many were ended though they are short: those for which the machine stood still.
    let round = |naps: &[u64]| {
        let results: Vec<_> =
            naps.iter().map(|&millis| (millis, pool.apply_async(sleep, (millis,)))).collect();
        let mut held_up = 0;
        for (millis, result) in results {
            let is_short = u128::from(millis) < TIME.as_millis();
            match result.get() {
                Ok(slept) => assert!(slept == millis && is_short),
                Err(error) => {
                    assert_eq!(error, TaskError::TimedOut);
                    held_up += usize::from(is_short);
                }
            }
        }
        held_up
    };
    at_last(|| round(&[0, 1_000_000, 1, 1_000_000, 2, 3]), |held_up| *held_up == 0)?;
    // The time in which a task waits does not count.
    at_last(|| round(&[100; 10]), |held_up| *held_up == 0)?;
    eventually("both are replaced", || {
        let now = pool.workers();
        now.len() == 2 && !now.iter().any(|pid| before.contains(pid))
    })
}

fn a_cancelled_task_ends_whether_it_runs_or_not() -> Outcome {
    let pool = Pool::new(1)?;
    let before = pool.workers();
    let begun = Event::new()?;
    let running = pool.apply_async(
        |begun: Event| {
            begun.set();
            for_ever();
        },
        (begun.clone(),),
    );
    let behind: Vec<_> = (0..10).map(|n| pool.apply_async(square, (n,))).collect();
    begun.wait()?;
    assert!(behind[3].cancel_pending() && !running.cancel_pending());
    assert!(behind[5].cancel() && !behind[5].cancel());
    assert_eq!(behind[3].get(), Err(TaskError::Cancelled));
    assert_eq!(pool.workers(), before);
    assert!(running.cancel());
    assert_eq!(running.get(), Err(TaskError::Cancelled));
    for (n, result) in behind.iter().enumerate().filter(|(n, _)| ![3, 5].contains(n)) {
        assert_eq!(result.get()?, (n * n) as u64);
    }
    assert_ne!(pool.workers(), before);
    assert!(!behind[0].cancel(), "it has ended");
    // Of many, those that have not ended.
    let many = pool.map_async(sleep, [1_000_000; 20]);
    assert!(many.cancel());
    assert_eq!(many.get(), Err(TaskError::Cancelled));
    assert_eq!(pool.apply(square, (5,))?, 25);
    Ok(())
}

fn workers_are_replaced_after_so_many_tasks() -> Outcome {
    let pool = Pool::builder().workers(2).max_tasks_per_child(5).build()?;
    let pids: Vec<u32> = pool.imap(|_: u64| pid(), 0..103).collect::<Result<_, _>>()?;
    for pid in &pids {
        assert!(pids.iter().filter(|other| *other == pid).count() <= 5);
    }
    assert!(pids.iter().collect::<HashSet<_>>().len() >= 21);
    let results: Vec<_> = (0..20).map(|n| pool.apply_async(square, (n,))).collect();
    pool.close();
    pool.join()?;
    assert!(results.iter().all(|result| result.is_successful()));
    Ok(())
}

fn imap_takes_no_more_than_its_window() -> Outcome {
    let pool = Pool::new(2)?;
    let taken = AtomicUsize::new(0);
    let square = |n: u32| u64::from(n) * u64::from(n);
    let input = (0..1_000_000_u32).inspect(|_| {
        taken.fetch_add(1, Ordering::Relaxed);
    });
    let mut results = pool.imap(square, input).window(10);
    assert_eq!(results.len(), 1_000_000);
    for n in 0..50 {
        assert_eq!(results.next(), Some(Ok(square(n))));
        let taken = taken.load(Ordering::Relaxed);
        assert!(taken <= n as usize + 11, "{taken} after {n}");
        assert_eq!(results.len(), 999_999 - n as usize);
    }
    drop(results);
    assert!(taken.load(Ordering::Relaxed) <= 60);
    // Without end.
    let sum: u64 =
        pool.imap_unordered(square, 0..).take(1000).filter_map(Result::ok).map(|_| 1).sum();
    assert_eq!(sum, 1000);
    assert_eq!(pool.imap(square, 0..0).next(), None);
    Ok(())
}

fn imap_goes_on_behind_an_error() -> Outcome {
    let pool = Pool::new(2)?;
    let fussy = |n: u64| {
        assert!(n % 10 != 3, "three");
        mixed(n)
    };
    let results: Vec<_> = pool.imap(fussy, 0..100).collect();
    assert_eq!(results.len(), 100);
    for (n, result) in (0..).zip(&results) {
        match result {
            Ok(value) => assert_eq!(*value, n * n),
            Err(TaskError::Panicked(message)) => {
                assert_eq!((n % 10, message.task().items()), (3, Some(n as usize..n as usize + 1)));
            }
            Err(TaskError::WorkerDied { .. }) => assert_eq!(n, 7),
            Err(error) => panic!("{error}"),
        }
    }
    Ok(())
}

/// Panics when it is written, or read, by any process but a worker.
#[derive(Debug, PartialEq)]
struct Touchy {
    n: u64,
}

const UNWRITTEN: u64 = 5;
const UNREAD: u64 = 100;

impl Serialize for Touchy {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        assert!(self.n != UNWRITTEN || is_worker(), "not to be written");
        self.n.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Touchy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let n = u64::deserialize(deserializer)?;
        assert!(n != UNREAD || is_worker(), "not to be read");
        Ok(Self { n })
    }
}

fn imap_loses_no_result_to_a_panic_of_its_input() -> Outcome {
    /// All that comes, and how many panics there were.
    fn drain<R>(mut results: impl Iterator<Item = Result<R, TaskError>>) -> (Vec<R>, usize) {
        let (mut all, mut panics) = (Vec::new(), 0);
        loop {
            match catch_unwind(AssertUnwindSafe(|| results.next())) {
                Ok(Some(result)) => all.push(result.expect("a value")),
                Ok(None) => return (all, panics),
                Err(_) => panics += 1,
            }
        }
    }
    let pool = Pool::new(1)?;
    let input = || {
        (0..10_u64).inspect(|n| {
            assert_ne!(*n, UNWRITTEN, "no such item");
        })
    };
    let touchy = || (0..10).map(|n| Touchy { n });
    let wanted: Vec<u64> = (0..10).filter(|n| *n != UNWRITTEN).map(square).collect();
    for window in [2, 3, 8] {
        let (results, panics) = drain(pool.imap(square, input()).window(window));
        assert_eq!((&results, panics), (&wanted, 1));
        let (results, panics) = drain(pool.imap(|t: Touchy| t.n * t.n, touchy()).window(window));
        assert_eq!((&results, panics), (&wanted, 1));
        let (mut results, panics) = drain(pool.imap_unordered(square, input()).window(window));
        results.sort_unstable();
        assert_eq!((&results, panics), (&wanted, 1));
    }
    Ok(())
}

fn imap_unordered_gives_what_is_ready() -> Outcome {
    let pool = Pool::new(2)?;
    let gate = Event::new()?;
    let wait = |(first, gate): (bool, Event)| {
        if first {
            gate.wait().expect("waits");
        }
        first
    };
    let input: Vec<_> = (0..20).map(|n| (n == 0, gate.clone())).collect();
    let mut results = pool.imap_unordered(wait, input);
    for _ in 1..20 {
        assert_eq!(results.next(), Some(Ok(false)));
    }
    gate.set();
    assert_eq!((results.next(), results.next()), (Some(Ok(true)), None));
    Ok(())
}

fn imap_gives_results_before_it_asks_its_input() -> Outcome {
    const WINDOW: u64 = 8;
    // With one worker, a task has ended when one behind it has.
    let pool = Pool::new(1)?;
    let (sender, input) = mpsc::channel();
    sender.send(3)?;
    // Neither call waits for a second item.
    let (results, unordered) =
        (pool.imap(square, input), pool.imap_unordered(square, mpsc::channel().1));
    drop(sender);
    assert_eq!((results.collect::<Vec<_>>(), unordered.count()), (vec![Ok(9)], 0));

    let (gate, asked) = (Event::new()?, AtomicU64::new(0));
    let open = gate.clone();
    let input = || {
        let n = asked.fetch_add(1, Ordering::Relaxed);
        if n + 1 == WINDOW {
            open.set();
        }
        Some((n, gate.clone()))
    };
    let wait = |(n, gate): (u64, Event)| {
        gate.wait().expect("waits");
        n
    };
    let asked = || asked.load(Ordering::Relaxed);
    let mut results = pool.imap(wait, std::iter::from_fn(input)).window(WINDOW as usize);
    assert_eq!(asked(), 0);
    for n in 0..WINDOW {
        assert_eq!(results.next(), Some(Ok(n)));
        pool.apply(square, (n,))?;
        assert_eq!(asked(), WINDOW, "after {n}");
    }
    assert_eq!(results.next(), Some(Ok(WINDOW)));
    assert!(asked() > WINDOW);

    // One that says how much it has is asked ahead, but not on and on where it is slow.
    let mut asked = 0;
    let slow = (0..100).map(|n| {
        asked += 1;
        sleep(25) + n
    });
    drop(Pool::new(4)?.imap(square, slow));
    assert_eq!(asked, 1);
    Ok(())
}

fn the_input_of_imap_may_be_made_of_its_results() -> Outcome {
    fn feed(
        window: u64,
        sender: mpsc::Sender<u64>,
        mut results: impl Iterator<Item = Result<u64, TaskError>>,
    ) -> Outcome {
        for _ in 0..200 {
            sender.send(results.next().ok_or("the end")??)?;
        }
        drop(sender);
        let sum = results.try_fold(0, |sum, n| Ok::<_, TaskError>(sum + n?))?;
        // All that was sent first, each time around and by the last results once more.
        assert_eq!(sum, 200 + window);
        Ok(())
    }
    let pool = Pool::new(2)?;
    let add_one = |n: u64| n + 1;
    for window in [1, 2, 5, 64] {
        let (sender, input) = mpsc::channel();
        (0..window).try_for_each(|_| sender.send(0))?;
        feed(window, sender, pool.imap(add_one, input).window(window as usize))?;
        let (sender, input) = mpsc::channel();
        (0..window).try_for_each(|_| sender.send(0))?;
        feed(window, sender, pool.imap_unordered(add_one, input).window(window as usize))?;
    }
    Ok(())
}

fn a_long_task_holds_up_no_other() -> Outcome {
    let pool = Pool::new(2)?;
    for _ in 0..5 {
        let long = pool.apply_async(for_ever, ());
        // Half of them go into the pipe of the worker that will not come to them.
        let short: Vec<_> = (0..1000).map(|n| pool.apply_async(square, (n,))).collect();
        for (n, result) in (0..).zip(short) {
            assert_eq!(result.get()?, n * n);
        }
        assert!(long.cancel());
    }
    Ok(())
}

fn a_result_is_not_held_back_by_the_next_task() -> Outcome {
    let pool = Pool::new(1)?;
    let short: Vec<_> = (0..10).map(|n| pool.apply_async(square, (n,))).collect();
    let long = pool.apply_async(for_ever, ());
    for result in short {
        result.get()?;
    }
    assert!(!long.is_ready());
    Ok(())
}

fn large_arguments_do_not_hold_up_who_submits() -> Outcome {
    let pool = Pool::new(2)?;
    let gate = Event::new()?;
    let wait = |gate: Event| {
        gate.wait().expect("waits");
    };
    // One that waits for what comes behind the large ones.
    let stuck = pool.apply_async(wait, (gate.clone(),));
    let len = |bytes: Vec<u8>| bytes.len();
    let large: Vec<_> = (0..10).map(|_| pool.apply_async(len, (vec![1; 5 << 20],))).collect();
    let open = pool.apply_async(|gate: Event| gate.set(), (gate.clone(),));
    for result in large {
        assert_eq!(result.get()?, 5 << 20);
    }
    open.get()?;
    stuck.get()?;
    Ok(())
}

fn more_long_tasks_may_wait_than_descriptors_are_left() -> Outcome {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the limit is a local that the call fills.
    assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) }, 0);
    limit.rlim_cur = limit.rlim_max.min(300);
    // SAFETY: the limit is a local that the call reads.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }, 0);
    let pool = Pool::new(2)?;
    let echo = |bytes: Vec<u8>| bytes;
    // Arguments and results are beyond what passes through a pipe in one piece.
    let results: Vec<_> =
        (0..600_u32).map(|n| pool.apply_async(echo, (vec![n as u8; 70_000],))).collect();
    for (n, result) in (0_u32..).zip(&results) {
        assert!(result.get()? == vec![n as u8; 70_000]);
    }
    Ok(())
}

/// All the descriptors that this process may have, of a hundred or so; until it is dropped.
struct Hoard {
    files: Vec<File>,
    before: libc::rlimit,
}

impl Hoard {
    fn new() -> Self {
        let mut before = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: the limit is a local that the call fills.
        assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut before) }, 0);
        let limit = libc::rlimit { rlim_cur: 128, ..before };
        // SAFETY: the limit is a local that the call reads.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }, 0);
        let mut hoard = Self { files: Vec::new(), before };
        hoard.take();
        hoard
    }

    /// Takes those that have become free.
    fn take(&mut self) {
        while let Ok(file) = File::open("/dev/null") {
            self.files.push(file);
        }
    }
}

impl Drop for Hoard {
    fn drop(&mut self) {
        // SAFETY: the limit is one that the call reads.
        unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const self.before) };
    }
}

fn a_lack_of_descriptors_breaks_no_pool() -> Outcome {
    let pool = Pool::new(2)?;
    assert_eq!(pool.map(square, 0..10)?.len(), 10);
    let mut hoard = Hoard::new();
    // Now and then a worker may still be started with what those that are killed leave free.
    let why = loop {
        pool.workers().into_iter().for_each(kill);
        let result = pool.apply_async(square, (2,));
        while !result.is_ready() {
            hoard.take();
            thread::yield_now();
        }
        match result.get() {
            Err(TaskError::NoWorkers(why)) => break why,
            Err(error) => assert!(is_killed(&error), "{error}"),
            Ok(four) => assert_eq!(four, 4),
        }
    };
    assert!(why.contains("Too many open files"), "{why}");
    assert!(pool.workers().is_empty());
    assert!(matches!(pool.apply(square, (2,)), Err(TaskError::NoWorkers(_))));
    drop(hoard);
    // An attempt may have failed just now.
    eventually("it works again", || pool.apply(square, (2,)) == Ok(4))?;
    eventually("all are there", || pool.workers().len() == 2)?;
    assert_eq!(pool.map(square, 0..100)?.len(), 100);
    Ok(())
}

fn a_result_without_a_descriptor_costs_no_other_task() -> Outcome {
    fn is_right(result: &Result<Vec<u8>, TaskError>) -> bool {
        match result {
            Ok(bytes) => bytes.len() == 100_000,
            Err(TaskError::Decode(why)) => why.contains("Too many open files"),
            Err(_) => false,
        }
    }
    let pool = Pool::new(1)?;
    let workers = pool.workers();
    // What is long takes a descriptor.
    let make = |n: u64| vec![7_u8; if n % 4 == 1 { 100_000 } else { 1 }];
    let hoard = Hoard::new();
    let results: Vec<_> = (0..8).map(|n| pool.apply_async(make, (n,))).collect();
    sleep(200);
    drop(hoard);
    for (n, result) in results.iter().map(|result| result.get()).enumerate() {
        if n % 4 == 1 {
            assert!(is_right(&result), "{n}: {:?}", result.map(|bytes| bytes.len()));
        } else {
            assert_eq!(result?, [7]);
        }
    }
    // The last one too ends, with the reason, while there is none to be had; and then all goes on.
    for _ in 0..2 {
        let mut hoard = Hoard::new();
        loop {
            let result = pool.apply_async(make, (1,)).get();
            assert!(is_right(&result), "{:?}", result.map(|bytes| bytes.len()));
            if result.is_err() {
                break;
            }
            // That of the one before had not been closed when all were taken.
            hoard.take();
        }
        drop(hoard);
        assert_eq!(pool.apply(make, (1,))?.len(), 100_000);
    }
    assert_eq!(pool.workers(), workers);
    Ok(())
}

fn callbacks_are_called_once_and_may_panic() -> Outcome {
    let pool = Pool::new(2)?;
    let (sender, receiver) = mpsc::channel();
    for n in 0..50_u64 {
        let sender = sender.clone();
        pool.apply_async(mixed, (n,)).on_done(move |result| {
            sender.send((n, result)).expect("the test waits");
            assert!(n % 2 == 0, "a callback panics");
        });
    }
    pool.map_async(square, 0..10).on_done(|squares| assert_eq!(squares.map(|s| s.len()), Ok(10)));
    let late = pool.apply_async(square, (2,));
    late.wait();
    let sender_too = sender.clone();
    late.on_done(move |result| sender_too.send((99, result)).expect("the test waits"));
    drop(sender);
    pool.close();
    pool.join()?;
    let mut all: Vec<_> = receiver.try_iter().collect();
    all.sort_by_key(|(n, _)| *n);
    assert_eq!(all.len(), 51);
    assert_eq!(all[50], (99, Ok(4)));
    for (n, (number, result)) in (0..50).zip(&all) {
        assert_eq!(n, *number);
        assert!(*result == Ok(n * n) || n == 7 && result.is_err());
    }
    // After its end, at once.
    let (sender, receiver) = mpsc::channel();
    late.on_done(move |result| sender.send(result).expect("the test waits"));
    assert_eq!(receiver.try_recv()?, Ok(4));
    Ok(())
}

fn callbacks_may_use_the_pool() -> Outcome {
    let pool = Arc::new(Pool::new(1)?);
    let (sender, receiver) = mpsc::channel();
    let (inner, more) = (Arc::clone(&pool), sender.clone());
    pool.apply_async(square, (3,)).on_done(move |result| {
        let nine = result.expect("a square");
        more.send(inner.apply(square, (nine,))).expect("the test waits");
        inner.terminate();
        inner.join().expect("is terminated");
        more.send(Ok(0)).expect("the test waits");
        // The last one there is may be this.
        drop(inner);
    });
    drop(pool);
    assert_eq!(receiver.recv()?, Ok(81));
    assert_eq!(receiver.recv()?, Ok(0));
    drop(sender);
    assert!(receiver.recv().is_err(), "the callback has ended");
    Ok(())
}

fn whoever_joins_waits_for_callbacks() -> Outcome {
    let pool = Pool::new(1)?;
    let called = Arc::new(AtomicUsize::new(0));
    let (joined, in_callback) = (Arc::new(AtomicUsize::new(0)), Arc::clone(&called));
    pool.apply_async(square, (2,)).on_done(move |_| {
        sleep(300);
        in_callback.store(1, Ordering::SeqCst);
    });
    pool.close();
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                pool.join().expect("is closed");
                joined.fetch_add(called.load(Ordering::SeqCst), Ordering::SeqCst);
            });
        }
    });
    assert_eq!(joined.load(Ordering::SeqCst), 3);
    Ok(())
}

fn a_result_that_panics_when_it_is_read_is_an_error() -> Outcome {
    fn is_right<R>(result: &Result<R, TaskError>) -> bool {
        matches!(result, Err(TaskError::Decode(why)) if why.contains("not to be read"))
    }
    let pool = Pool::new(1)?;
    let make = |n: u64| Touchy { n };
    let (sender, receiver) = mpsc::channel();
    let result = pool.apply_async(make, (UNREAD,));
    result.on_done(move |result| sender.send(is_right(&result)).expect("the test waits"));
    assert!(receiver.recv()?);
    assert!(is_right(&result.get()) && is_right(&result.get()));
    assert!(is_right(&pool.map(make, [1, UNREAD])));
    assert!(is_right(&pool.map_async(make, [1, UNREAD]).get()));
    let results: Vec<_> = pool.imap(make, [1, UNREAD, 2]).collect();
    assert_eq!((&results[0], &results[2]), (&Ok(Touchy { n: 1 }), &Ok(Touchy { n: 2 })));
    assert!(is_right(&results[1]));
    assert_eq!(pool.apply(square, (2,))?, 4);
    Ok(())
}

fn a_pool_may_be_used_by_many_threads() -> Outcome {
    let pool = Pool::new(3)?;
    thread::scope(|scope| {
        let threads: Vec<_> = (0..8_u64)
            .map(|thread| {
                let pool = &pool;
                scope.spawn(move || -> Result<(), TaskError> {
                    for n in 0..200 {
                        let x = thread * 1000 + n;
                        match n % 4 {
                            0 => assert_eq!(pool.apply(square, (x,))?, x * x),
                            1 => assert_eq!(pool.map(square, x..x + 5)?[4], (x + 4) * (x + 4)),
                            2 => assert_eq!(pool.imap_unordered(square, x..x + 5).count(), 5),
                            _ => {
                                let results = [0, 1, 2].map(|n| pool.apply_async(square, (n,)));
                                let _ = results[1].cancel_pending();
                                assert_eq!(results[2].get()?, 4);
                            }
                        }
                    }
                    Ok(())
                })
            })
            .collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("does not panic"))
    })?;
    Ok(())
}

fn an_idle_pool_uses_no_time() -> Outcome {
    let pool = Pool::builder().workers(2).task_timeout(Duration::from_secs(100)).build()?;
    pool.map(square, 0..1000)?;
    let all =
        || [pool.workers(), vec![std::process::id()]].concat().into_iter().map(ticks).sum::<u64>();
    let switches = || -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", pool.workers()[0]));
        let status = status.unwrap_or_default();
        let line = status.lines().find(|line| line.starts_with("voluntary")).unwrap_or_default();
        line.split_ascii_whitespace().last().and_then(|n| n.parse().ok()).unwrap_or(0)
    };
    // The first time some may still be on their way to sleep. What wakes up now and then does so each time.
    let measure = || {
        let before = (all(), switches());
        thread::sleep(Duration::from_millis(1500));
        (all() - before.0, switches() - before.1)
    };
    at_last(measure, |&(ticks, woken)| ticks <= 1 && woken == 0)
}

/// Prints its workers and has them work until it is killed.
fn works_for_ever(_: &[String]) {
    // What was started in the background, by a shell without job control, ignores it from its parent on.
    // SAFETY: sets the signal back to what it does at first; there is no handler.
    unsafe { libc::signal(libc::SIGINT, libc::SIG_DFL) };
    multiprocess::init();
    let pool = Pool::new(2).expect("a pool");
    let workers = pool.workers();
    println!("{} {}", workers[0], workers[1]);
    let _ = pool.map(|_: u8| for_ever(), [0; 10]);
}

fn workers_end_with_a_killed_parent() -> Outcome {
    let mut program = role("pool-for-ever", &[]).stdout(Stdio::piped()).spawn()?;
    let mut line = String::new();
    BufReader::new(program.stdout.take().expect("is piped")).read_line(&mut line)?;
    let workers: Vec<u32> = line.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    assert!(workers.iter().copied().all(runs));
    program.kill()?;
    program.wait()?;
    eventually("the workers end", || !workers.iter().copied().any(runs))
}

fn an_interrupt_ends_the_program_without_traces() -> Outcome {
    let mut command = role("pool-for-ever", &[]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut program = command.spawn()?;
    let mut line = String::new();
    let mut output = BufReader::new(program.stdout.take().expect("is piped"));
    output.read_line(&mut line)?;
    let workers: Vec<u32> = line.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    // As the terminal does: to the whole group.
    // SAFETY: takes numbers only; the group is the program's own.
    unsafe { libc::kill(-(program.id() as i32), libc::SIGINT) };
    let status = program.wait()?;
    assert_eq!(status.signal(), Some(libc::SIGINT));
    eventually("the workers end", || !workers.iter().copied().any(runs))?;
    let mut rest = String::new();
    output.read_to_string(&mut rest)?;
    program.stderr.take().expect("is piped").read_to_string(&mut rest)?;
    assert_eq!(rest, "");
    Ok(())
}

/// Heeds no interrupt, and prints what becomes of a task that one comes to.
fn is_interrupted(_: &[String]) {
    multiprocess::init();
    multiprocess::core::sys::process::disregard_signal(libc::SIGINT);
    let pool = Pool::new(1).expect("a pool");
    let result = pool.apply_async(
        || {
            println!("begun");
            sleep(300)
        },
        (),
    );
    println!("{:?}", result.get());
}

fn an_interrupt_that_is_handled_costs_no_task() -> Outcome {
    let mut command = role("pool-interrupted", &[]);
    command.stdout(Stdio::piped()).process_group(0);
    let mut program = command.spawn()?;
    let mut lines = BufReader::new(program.stdout.take().expect("is piped")).lines();
    assert_eq!(lines.next().ok_or("a line")??, "begun");
    // SAFETY: takes numbers only; the group is the program's own.
    unsafe { libc::kill(-(program.id() as i32), libc::SIGINT) };
    assert_eq!(lines.next().ok_or("a line")??, "Ok(300)");
    assert!(program.wait()?.success());
    Ok(())
}

fn a_child_that_a_task_leaves_behind_hides_no_death() -> Outcome {
    let pool = Pool::new(1)?;
    let leave = |pid: Value<i32>| {
        // SAFETY: the child only sleeps and is killed; it has copies of all descriptors of its parent.
        let child = unsafe { libc::fork() };
        if child == 0 {
            for_ever();
        }
        pid.set(child);
        kill(std::process::id());
    };
    let left = Value::new(0)?;
    let result = pool.apply(leave, (left.clone(),));
    kill(left.get() as u32);
    assert!(is_killed(&result.unwrap_err()));
    assert_eq!(pool.apply(square, (3,))?, 9);
    Ok(())
}

fn a_copy_that_a_task_makes_of_its_worker_takes_no_part() -> Outcome {
    let pool = Pool::new(1)?;
    for _ in 0..5 {
        // SAFETY: both go on with nothing but what the worker's one thread has.
        let is_copy = pool.apply(|| unsafe { libc::fork() } == 0, ())?;
        assert!(!is_copy);
        for n in 0..20 {
            let result = pool.apply_async(square, (n,));
            assert_eq!(result.get_timeout(Duration::from_secs(20))?, n * n);
        }
    }
    Ok(())
}

/// Gives up its rights while a pool has workers, and drops that: once with nothing to do, once with a task that does not
/// end.
fn changes_its_user(_: &[String]) {
    multiprocess::init();
    let (idle, busy) = (Pool::new(2).expect("a pool"), Pool::new(1).expect("a pool"));
    let begun = Event::new().expect("an event");
    let stay = |begun: Event| {
        begun.set();
        for_ever();
    };
    let result = busy.apply_async(stay, (begun.clone(),));
    begun.wait().expect("waits");
    println!("{} {} {}", idle.workers()[0], idle.workers()[1], busy.workers()[0]);
    // SAFETY: takes numbers only.
    assert_eq!(unsafe { libc::setresuid(65534, 65534, 65534) }, 0);
    let start = Instant::now();
    drop(idle);
    println!("{}", start.elapsed().as_millis());
    drop(busy);
    assert_eq!(result.get(), Err(TaskError::Terminated));
    println!("{}", start.elapsed().as_millis());
    // The end of a program waits for its daemons.
    multiprocess::core::sys::process::exit_now(0);
}

fn workers_that_may_not_be_signalled_are_not_waited_for_for_ever() -> Outcome {
    // SAFETY: takes nothing and cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        println!("NOT TESTED: it takes root to become somebody else");
        return Ok(());
    }
    let mut program = role("pool-demoted", &[]).stdout(Stdio::piped()).spawn()?;
    let mut lines = BufReader::new(program.stdout.take().expect("is piped")).lines();
    let mut numbers = || -> Result<Vec<u64>, Box<dyn std::error::Error>> {
        let line = lines.next().ok_or("a line")??;
        Ok(line.split_whitespace().map(str::parse).collect::<Result<_, _>>()?)
    };
    let workers = numbers()?;
    let (idle, busy) = (numbers()?[0], numbers()?[0]);
    assert!(idle < 4000, "{idle} ms");
    assert!(busy < 20_000, "{busy} ms");
    assert!(program.wait()?.success());
    eventually("the workers end", || !workers.iter().any(|pid| runs(*pid as u32)))
}

fn ten_thousand_tasks_survive_five_hundred_kills() -> Outcome {
    const TASKS: u64 = 10_000;
    const KILLS: usize = 500;
    fn work(n: u64) -> (u64, Vec<u8>) {
        // A few hundred microseconds, and now and then a large result.
        let end = Instant::now() + Duration::from_micros(n % 7 * 100);
        while Instant::now() < end {}
        (n * n, vec![n as u8; if n.is_multiple_of(100) { 300_000 } else { 3 }])
    }
    let pool = Pool::new(2)?;
    let killed = AtomicUsize::new(0);
    let (mut lost, mut right) = (0, 0);
    let stop = AtomicUsize::new(0);
    /// Says that there is an end, also where that is a panic: each of the two waits for the other.
    struct End<'a>(&'a AtomicUsize);
    impl Drop for End<'_> {
        fn drop(&mut self) {
            self.0.store(1, Ordering::Relaxed);
        }
    }
    thread::scope(|scope| {
        let (stop, killed, pool) = (&stop, &killed, &pool);
        let _end = End(stop);
        let killer = scope.spawn(move || {
            let _end = End(stop);
            let mut dice = 0x2545_F491_4F6C_DD1D_u64;
            while killed.load(Ordering::Relaxed) < KILLS && stop.load(Ordering::Relaxed) == 0 {
                dice ^= dice << 13;
                dice ^= dice >> 7;
                dice ^= dice << 17;
                thread::sleep(Duration::from_micros(dice % 3000));
                let workers = pool.workers();
                if let Some(&pid) = workers.get(dice as usize % 2)
                    && runs(pid)
                {
                    kill(pid);
                    killed.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        let mut submitted = 0;
        // Rounds, until all kills are done and all tasks were there.
        while submitted < TASKS || stop.load(Ordering::Relaxed) == 0 {
            let tasks = submitted..submitted + 1000;
            submitted += 1000;
            let results: Vec<_> = tasks.map(|n| (n, pool.apply_async(work, (n,)))).collect();
            for (n, result) in results {
                match result.get() {
                    Ok((square, bytes)) => {
                        assert_eq!(square, n * n);
                        assert!(bytes.iter().all(|byte| *byte == n as u8));
                        right += 1;
                    }
                    Err(error) => {
                        assert!(is_killed(&error), "{error}");
                        lost += 1;
                    }
                }
            }
        }
        killer.join().expect("the killer ends");
    });
    let killed = killed.load(Ordering::Relaxed);
    println!("{right} right, {lost} lost to {killed} kills");
    assert!(killed >= KILLS && lost <= killed, "{lost} lost to {killed} kills");
    assert_eq!(pool.map(square, 0..100)?.len(), 100);
    Ok(())
}

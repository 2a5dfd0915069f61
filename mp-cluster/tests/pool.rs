//! The whole of what a pool does, on workers of its own and on hosts: the same list of calls on both.

use std::process::{Child, ExitCode, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use mp_cluster::{Engine, serve};
use mp_pool::{AsyncResult, Builder, Error, Pool, TaskError};

use crate::faults::{leave_a_trace, traces};
use crate::redis::Redis;
use crate::{HANG, Outcome, eventually, role};

crate::cases! {
    calls_and_errors_are_the_same_on_each_engine
    imap_keeps_its_window_on_each_engine
    callbacks_are_called_on_each_engine
    tasks_are_timed_and_cancelled_on_each_engine
    close_and_terminate_end_all_tasks_on_each_engine
    what_cannot_be_sent_is_an_error
    two_pools_on_one_server_are_apart
    two_callers_share_the_hosts_of_one_pool
    more_tasks_than_may_be_in_flight_wait_here
    a_host_ends_when_told_or_idle_and_leaves_no_task_behind
    the_rights_that_the_readme_names_are_enough
}

/// Short, so that tests are.
pub(crate) const LEASE: Duration = Duration::from_millis(600);

/// Roles of this binary.
pub(crate) fn role_of(arguments: &[String]) -> Result<(), mp_cluster::Error> {
    match arguments {
        [role, url, name, workers] if role == "host" => {
            let workers = workers.parse().expect("a number");
            serve(url, name)?.workers(workers).lease(LEASE).run()
        }
        [role, url, name] if role == "caller" => crate::faults::call_for_ever(url, name),
        [role, url, name] if role == "count" => crate::machines::count(url, name),
        other => panic!("there is no role {other:?}"),
    }
}

pub(crate) fn play(arguments: &[String]) -> ExitCode {
    match role_of(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// A host, as another machine would be: a program of its own. Ends with this, by SIGKILL.
pub(crate) struct HostProcess {
    child: Child,
}

impl HostProcess {
    pub(crate) fn start(redis: &Redis, name: &str, workers: usize) -> Self {
        start_host(redis.url(), name, workers)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("waits").is_some()
    }
}

pub(crate) fn start_host(url: &str, name: &str, workers: usize) -> HostProcess {
    let mut command = role(&["host", url, name, &workers.to_string()]);
    let child = command.stdout(Stdio::null()).spawn().expect("a host starts");
    HostProcess { child }
}

impl Drop for HostProcess {
    fn drop(&mut self) {
        self.kill();
    }
}

pub(crate) fn engine(redis: &Redis, name: &str) -> Engine {
    Engine::connect(redis.url(), name).expect("the server is there").lease(LEASE)
}

/// A server, hosts on it, and a pool on each kind of engine.
struct Both {
    pools: [Pool; 2],
    // Dropped after the pools.
    _hosts: Vec<HostProcess>,
    redis: Redis,
}

impl Both {
    fn new(build: impl Fn(Builder) -> Builder) -> Self {
        let redis = Redis::start();
        let hosts = vec![HostProcess::start(&redis, "pool", 2)];
        eventually("the host is there", || {
            redis.connect("pool").counter("unused").is_ok()
                && mp_pool::engine::Engine::workers(&engine(&redis, "pool")) == 2
        })
        .expect("a host");
        let own = build(Pool::builder()).workers(2).build().expect("a pool");
        let engine = engine(&redis, "pool");
        let cluster = build(Pool::builder()).engine(engine).build().expect("a pool");
        Self { pools: [own, cluster], _hosts: hosts, redis }
    }
}

pub(crate) fn square(x: u64) -> u64 {
    x * x
}

pub(crate) fn for_ever() {
    loop {
        thread::park();
    }
}

fn fussy(x: i32) -> i32 {
    assert!(x != 17, "not {x}");
    if x == 1000 {
        std::process::exit(5);
    }
    x
}

fn calls_and_errors_are_the_same_on_each_engine() -> Outcome {
    let both = Both::new(|builder| builder);
    for pool in &both.pools {
        assert_eq!(pool.apply(square, (12,))?, 144);
        let squares: Vec<u64> = (0..10_000).map(square).collect();
        assert_eq!(pool.map(square, 0..10_000)?, squares);
        for chunk in [1, 16, 1000] {
            assert_eq!(pool.map_chunked(square, 0..3000, chunk)?, squares[..3000]);
        }
        assert_eq!(pool.map_async(square, 0..10_000).get()?, squares);
        assert_eq!(pool.starmap(u64::pow, [(2, 10), (3, 4)])?, [1024, 81]);
        assert_eq!(pool.map(square, [])?, []);
        let long = pool.apply(|bytes: Vec<u8>| bytes, (vec![7; 1 << 20],))?;
        assert!(long.len() == 1 << 20 && long.iter().all(|byte| *byte == 7));

        let Err(TaskError::Panicked(panic)) = pool.map_chunked(fussy, 10..20, 5) else {
            panic!("no panic");
        };
        assert_eq!(panic, "not 17");
        assert_eq!(panic.task().items(), Some(7..8));
        assert!(panic.task().number() > 0 && panic.task().function().ends_with("fussy"));
        let Err(TaskError::WorkerDied { exit_code, pid, task }) =
            pool.map_chunked(fussy, [1, 1000], 1)
        else {
            panic!("nobody died");
        };
        assert!(pid > 0 && exit_code == Some(5) && task.items() == Some(1..2), "{task}");
        assert!(task.function().ends_with("fussy") && task.attempts().is_empty());
        assert_eq!(pool.map(square, 0..100)?.len(), 100);
    }
    Ok(())
}

fn imap_keeps_its_window_on_each_engine() -> Outcome {
    let both = Both::new(|builder| builder);
    for pool in &both.pools {
        let taken = std::cell::Cell::new(0);
        let input = (0..).inspect(|_| taken.set(taken.get() + 1));
        let mut results = pool.imap(square, input).window(5);
        for n in 0..100 {
            assert_eq!(results.next(), Some(Ok(n * n)));
            assert!(taken.get() <= n + 1 + 5, "{} taken at {n}", taken.get());
        }
        drop(results);
        let mut some: Vec<u64> = pool.imap_unordered(square, 0..500).collect::<Result<_, _>>()?;
        some.sort_unstable();
        assert!(some.into_iter().eq((0..500).map(square)));
        let results: Vec<_> = pool.imap(fussy, [16, 17, 18]).collect();
        assert!(results[0] == Ok(16) && results[1].is_err() && results[2] == Ok(18));
    }
    Ok(())
}

fn callbacks_are_called_on_each_engine() -> Outcome {
    let both = Both::new(|builder| builder);
    for pool in &both.pools {
        let (sender, receiver) = mpsc::channel();
        for n in 0..100 {
            let sender = sender.clone();
            pool.apply_async(square, (n,)).on_done(move |result| {
                sender.send(result.expect("a square")).expect("is awaited");
                panic!("callbacks may");
            });
        }
        drop(sender);
        pool.close();
        pool.join()?;
        assert_eq!(receiver.iter().sum::<u64>(), (0..100).map(square).sum());
    }
    Ok(())
}

fn tasks_are_timed_and_cancelled_on_each_engine() -> Outcome {
    let both = Both::new(|builder| builder.task_timeout(Duration::from_millis(200)));
    for pool in &both.pools {
        assert_eq!(pool.apply(for_ever, ()), Err(TaskError::TimedOut));
        let more = pool.apply_async(for_ever, ());
        // Even this takes longer where the machine stands still.
        eventually("a short one ends", || pool.apply(square, (3,)) == Ok(9))?;
        assert_eq!(more.get(), Err(TaskError::TimedOut));
    }
    drop(both);
    let both = Both::new(|builder| builder);
    for (number, pool) in both.pools.iter().enumerate() {
        let directory = both.redis.directory().join(number.to_string());
        std::fs::create_dir(&directory)?;
        let run = |n: u32| pool.apply_async(leave_a_trace, (directory.clone(), n, u64::MAX));
        let running = [run(1), run(2)];
        eventually("both run", || traces(&directory) >= 2)?;
        let waiting = pool.apply_async(square, (3,));
        assert_eq!(waiting.get_timeout(Duration::from_millis(50)), Err(TaskError::TimedOut));
        assert!(waiting.cancel_pending() && !waiting.cancel());
        assert_eq!(waiting.get(), Err(TaskError::Cancelled));
        assert!(!running[0].cancel_pending() && running[0].cancel());
        assert_eq!(running[0].get(), Err(TaskError::Cancelled));
        assert_eq!(pool.apply(square, (4,))?, 16);
        assert!(running[1].cancel());
    }
    Ok(())
}

fn close_and_terminate_end_all_tasks_on_each_engine() -> Outcome {
    let both = Both::new(|builder| builder);
    for pool in &both.pools {
        assert!(matches!(pool.join(), Err(Error::StillOpen)));
        let results: Vec<_> = (0..1000).map(|n| pool.apply_async(square, (n,))).collect();
        pool.close();
        assert_eq!(pool.apply(square, (1,)), Err(TaskError::Closed));
        pool.join()?;
        for (result, n) in results.iter().zip(0..) {
            assert!(result.is_successful());
            assert_eq!(result.get()?, n * n);
        }
        assert!(pool.workers().is_empty());
    }
    drop(both);
    let both = Both::new(|builder| builder);
    for pool in &both.pools {
        let results: Vec<_> = (0..100).map(|_| pool.apply_async(for_ever, ())).collect();
        pool.terminate();
        pool.join()?;
        assert!(results.iter().all(|result| result.get() == Err(TaskError::Terminated)));
        assert_eq!(pool.apply(square, (1,)), Err(TaskError::Closed));
    }
    // Its workers are free again.
    let pool = Pool::builder().engine(engine(&both.redis, "pool")).build()?;
    assert_eq!(pool.map(square, 0..10)?.len(), 10);
    Ok(())
}

fn what_cannot_be_sent_is_an_error() -> Outcome {
    let redis = Redis::start();
    let _host = HostProcess::start(&redis, "pool", 1);
    let pool = Pool::builder().engine(engine(&redis, "pool").longest_task(10_000)).build()?;
    let null = || std::fs::File::open("/dev/null").map(mp_core::Fd::from);
    let Err(TaskError::Encode(why)) = pool.apply(|_: mp_core::Fd| (), (null()?,)) else {
        panic!("a descriptor does not leave its machine");
    };
    assert!(why.contains("arguments") && why.contains("handles"), "{why}");
    let open = || mp_core::Fd::from(std::fs::File::open("/dev/null").expect("null"));
    let Err(TaskError::Encode(why)) = pool.apply(open, ()) else {
        panic!("a descriptor does not leave its machine");
    };
    assert!(why.contains("result") && why.contains("handles"), "{why}");
    let Err(TaskError::Encode(why)) = pool.apply(|_: Vec<u8>| (), (vec![0; 10_000],)) else {
        panic!("too long");
    };
    assert!(why.contains("limit of 10000"), "{why}");
    assert_eq!(pool.apply(|v: Vec<u8>| v.len(), (vec![0; 9_000],))?, 9_000);
    let error = Pool::builder().engine(engine(&redis, "pool")).workers(3).build().unwrap_err();
    assert!(matches!(error, Error::NotOurWorkers("workers")), "{error}");
    Ok(())
}

fn two_pools_on_one_server_are_apart() -> Outcome {
    let redis = Redis::start();
    let a = Pool::builder().engine(engine(&redis, "a")).build()?;
    let b = Pool::builder().engine(engine(&redis, "b")).build()?;
    let _host = HostProcess::start(&redis, "a", 1);
    let waits = b.apply_async(std::process::id, ());
    let of_a = a.apply(std::process::id, ())?;
    assert_eq!(a.map(square, 0..100)?, (0..100).map(square).collect::<Vec<_>>());
    assert_eq!(waits.get_timeout(Duration::from_millis(200)), Err(TaskError::TimedOut));
    let _other = HostProcess::start(&redis, "b", 1);
    assert_ne!(waits.get()?, of_a);
    Ok(())
}

fn two_callers_share_the_hosts_of_one_pool() -> Outcome {
    let redis = Redis::start();
    let _host = HostProcess::start(&redis, "a", 2);
    let pools = [(); 2].map(|()| Pool::builder().engine(engine(&redis, "a")).build());
    let [one, two] = pools.map(|pool| pool.expect("a pool"));
    let slow = one.map_async(square, 0..5000);
    assert_eq!(two.map(square, 7..5000)?, (7..5000).map(square).collect::<Vec<_>>());
    assert_eq!(slow.get()?, (0..5000).map(square).collect::<Vec<_>>());
    Ok(())
}

fn more_tasks_than_may_be_in_flight_wait_here() -> Outcome {
    let redis = Redis::start();
    let pool = Pool::builder().engine(engine(&redis, "a").in_flight(10)).build()?;
    let results: Vec<_> = (0..200).map(|n| pool.apply_async(square, (n,))).collect();
    let client = ::redis::Client::open(redis.url())?;
    let mut connection = client.get_connection()?;
    let mut len = || ::redis::cmd("XLEN").arg("mp:{a}:tasks").query::<usize>(&mut connection);
    eventually("ten are sent", || len().is_ok_and(|len| len == 10))?;
    thread::sleep(Duration::from_millis(50));
    assert_eq!(len()?, 10);
    let _host = HostProcess::start(&redis, "a", 2);
    for (n, result) in (0..).zip(&results) {
        assert_eq!(result.get()?, n * n);
    }
    Ok(())
}

fn a_host_ends_when_told_or_idle_and_leaves_no_task_behind() -> Outcome {
    let redis = Redis::start();
    let pool = Pool::builder().engine(engine(&redis, "a")).build()?;
    let host = serve(redis.url(), "a")?.workers(1).lease(LEASE);
    let stop = host.stopper();
    let runs = thread::spawn(move || host.run());
    let nap = |millis: u64| {
        thread::sleep(Duration::from_millis(millis));
        millis
    };
    assert_eq!(pool.apply(nap, (1,))?, 1);
    let directory = redis.directory().join("traces");
    std::fs::create_dir(&directory)?;
    let results: Vec<_> =
        (0..5).map(|n| pool.apply_async(leave_a_trace, (directory.clone(), n, 300))).collect();
    eventually("the first runs", || traces(&directory) >= 1)?;
    stop.stop();
    runs.join().expect("no panic")?;
    // It did what it had, and the others wait for another, which does them.
    assert_eq!(results[0].get_timeout(HANG)?, 0);
    eventually("all are done", || {
        let idle = serve(redis.url(), "a").expect("a host").workers(2).lease(LEASE);
        idle.idle_timeout(Duration::from_millis(300)).run().expect("ends well");
        results.iter().all(AsyncResult::is_ready)
    })?;
    for (n, result) in (0..).zip(&results) {
        assert_eq!(result.get()?, n);
    }
    Ok(())
}

fn the_rights_that_the_readme_names_are_enough() -> Outcome {
    let readme = include_str!("../README.md");
    let line = readme.lines().find(|line| line.starts_with("user job7 ")).ok_or("an example")?;
    let words: Vec<&str> = line["user ".len()..].split(' ').collect();
    let redis = Redis::with(&[&["--requirepass", "other", "--user"][..], &words].concat());
    let url = format!("{}?user=job7&pass=password", redis.url());
    let _host = start_host(&url, "job7", 1);
    let pool = Pool::builder().engine(Engine::connect(&url, "job7")?.lease(LEASE)).build()?;
    assert_eq!(pool.map(square, 0..100)?.len(), 100);
    let runs = pool.apply_async(for_ever, ());
    assert_eq!(runs.get_timeout(LEASE * 2), Err(TaskError::TimedOut));
    assert!(runs.cancel());
    assert_eq!(pool.apply(square, (3,))?, 9);
    assert!(Engine::connect(&url, "job8").is_err());
    let cluster = mp_cluster::Cluster::connect(&url, "job7")?;
    cluster.queue::<u8>("q")?.put(1)?;
    drop(cluster.lock("l", LEASE)?.lock()?);
    cluster.dict::<u8, u8>("d")?.insert(1, 2)?;
    cluster.list::<u8>("a")?.push(1)?;
    cluster.counter("n")?.add(1)?;
    Ok(())
}

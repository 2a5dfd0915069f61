//! The whole of what a pool does, on hosts; and what only theirs do.

use std::process::{Child, ExitCode, Stdio};
use std::thread;
use std::time::Duration;

use mp_cluster::{Counter, Engine, List, serve};
use mp_pool::{AsyncResult, Builder, Pool, TaskError};

use crate::faults::{leave_a_trace, traces};
use crate::redis::Redis;
use crate::{HANG, Outcome, eventually, role};

#[path = "../../tests/engine/list.rs"]
mod list;

crate::cases! {
    what_cannot_be_sent_is_an_error
    two_pools_on_one_server_are_apart
    two_callers_share_the_hosts_of_one_pool
    more_tasks_than_may_be_in_flight_wait_here
    a_host_ends_when_told_or_idle_and_leaves_no_task_behind
    the_rights_that_the_readme_names_are_enough
    objects_are_arguments_and_results_of_tasks
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
        // With the usual lease: for tests that are not of what comes of a silent one.
        [role, url, name] if role == "steady" => serve(url, name)?.workers(2).run(),
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

/// A server and a host on it.
struct OnRedis {
    // Killed first.
    _host: HostProcess,
    redis: Redis,
}

impl list::Place for OnRedis {
    fn new() -> Self {
        let redis = Redis::start();
        let mut host = role(&["steady", redis.url(), "pool"]);
        let host = host.stdout(Stdio::null()).spawn().expect("a host starts");
        let host = HostProcess { child: host };
        let place = Self { _host: host, redis };
        // Until then an input is cut into chunks for one worker.
        eventually("the host is there", || {
            mp_pool::engine::Engine::workers(&engine(&place.redis, "pool")) == 2
        })
        .expect("a host");
        place
    }

    fn engine(&self, builder: Builder) -> Builder {
        builder.engine(Engine::connect(self.redis.url(), "pool").expect("the server is there"))
    }
}

/// What is asked of every engine.
macro_rules! on_redis {
    ($($name:ident)+) => {
        pub(crate) mod on_redis {
            $(
                fn $name() -> crate::Outcome {
                    super::list::$name::<super::OnRedis>()
                }
            )+
            crate::cases! { $($name)+ }
        }
    };
}
list::all! { on_redis }

pub(crate) fn square(x: u64) -> u64 {
    x * x
}

pub(crate) fn for_ever() {
    loop {
        thread::park();
    }
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
    assert!(matches!(error, mp_pool::Error::NotOurWorkers("workers")), "{error}");
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

/// Counts where it is told to, and gives back what it counted with.
fn count_with(counter: Counter, seen: List<u64>, n: u64) -> Result<(Counter, String), String> {
    seen.push(n).map_err(|error| error.to_string())?;
    counter.add(1).map_err(|error| error.to_string())?;
    Ok((counter.clone(), format!("{counter:?}")))
}

fn objects_are_arguments_and_results_of_tasks() -> Outcome {
    // The host comes as another user than the caller.
    let user = ["--requirepass", "hunter2", "--user", "host", "on", ">s3cret", "~mp:*", "+@all"];
    let redis = Redis::with(&user);
    let _host = start_host(&format!("{}?user=host&pass=s3cret", redis.url()), "a", 2);
    let url = format!("{}?pass=hunter2", redis.url());
    let pool = Pool::builder().engine(Engine::connect(&url, "a")?.lease(LEASE)).build()?;
    // Objects of another name on the same server.
    let cluster = mp_cluster::Cluster::connect(&url, "data")?;
    let (counter, seen) = (cluster.counter("n")?, cluster.list("seen")?);
    let (back, shown) = pool.apply(count_with, (counter.clone(), seen.clone(), 7))??;
    assert!(shown.contains("data") && !shown.contains("s3cret"), "{shown}");
    assert_eq!((back.add(1)?, counter.get()?), (2, 2));
    let all = (0..50).map(|n| (counter.clone(), seen.clone(), n));
    assert!(pool.starmap(count_with, all)?.iter().all(Result::is_ok));
    assert_eq!((counter.get()?, seen.len()?), (52, 51));
    // No way in is told to those who read the tasks; so there must be one already.
    let elsewhere = Redis::start();
    let stray = elsewhere.connect("data").counter("n")?;
    let Err(TaskError::Encode(why)) = pool.apply(|n: Counter| drop(n), (stray,)) else {
        panic!("a counter of a server that hosts may not know");
    };
    assert!(why.contains("another server"), "{why}");
    // Nor to those who read the results.
    let connect = |url: String| {
        let cluster = mp_cluster::Cluster::connect(&url, "data").expect("the server is there");
        cluster.counter("n").expect("a counter")
    };
    let Err(TaskError::Encode(why)) = pool.apply(connect, (elsewhere.url().to_string(),)) else {
        panic!("a counter of a server that the caller may not know");
    };
    assert!(why.contains("another server"), "{why}");
    Ok(())
}

//! Hosts, callers and servers that are killed, stopped, away, or another program.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use mp_cluster::{Engine, Error};
use mp_pool::{AsyncResult, Pool, TaskError};

use crate::pool::{HostProcess, LEASE, engine, for_ever, square};
use crate::redis::Redis;
use crate::{Outcome, Pulse, eventually, role};

crate::cases! {
    tasks_of_a_killed_host_are_run_by_others
    all_hosts_are_killed_and_new_ones_do_what_is_left
    a_task_may_run_longer_than_the_lease_and_runs_once
    a_stopped_host_that_goes_on_doubles_no_result
    a_task_that_kills_every_host_ends
    a_task_that_kills_its_worker_costs_no_host
    a_killed_server_that_keeps_all_costs_no_task
    a_killed_server_that_keeps_all_but_a_second_costs_no_task
    a_server_that_forgets_all_costs_no_task
    a_server_that_is_away_for_good_is_an_error
    tasks_of_a_killed_caller_are_cancelled
    another_build_is_refused_with_both_ids
}

fn signal(pid: u32, signal: i32) {
    // SAFETY: takes numbers only; the process is one of the test's own.
    unsafe { libc::kill(pid as i32, signal) };
}

/// Leaves a file for each run of a task, and takes its time.
pub(crate) fn leave_a_trace(directory: PathBuf, task: u32, millis: u64) -> u32 {
    let name = format!("{task}-{}-{:?}", std::process::id(), Instant::now());
    fs::write(directory.join(name.replace(' ', "")), "").expect("a file");
    thread::sleep(Duration::from_millis(millis));
    task
}

/// The same, and waits until there is a file.
fn leave_a_trace_and_wait(directory: PathBuf, task: u32, gate: PathBuf) -> u32 {
    leave_a_trace(directory, task, 0);
    wait_for(&gate);
    task
}

fn wait_for(gate: &Path) {
    while !gate.exists() {
        thread::sleep(Duration::from_millis(5));
    }
}

/// How many runs of tasks left their traces.
pub(crate) fn traces(directory: &Path) -> usize {
    fs::read_dir(directory).expect("the directory").count()
}

fn directory(redis: &Redis) -> PathBuf {
    let directory = redis.directory().join("traces");
    fs::create_dir(&directory).expect("a directory");
    directory
}

fn tasks_of_a_killed_host_are_run_by_others() -> Outcome {
    let redis = Redis::start();
    let pool = Pool::builder().engine(engine(&redis, "a")).build()?;
    let directory = directory(&redis);
    for held in [1, 16] {
        let mut dies = HostProcess::start(&redis, "a", held);
        let before = traces(&directory);
        let gate = redis.directory().join(format!("gate-{held}"));
        let arguments = |n| (directory.clone(), n, gate.clone());
        let results: Vec<_> = (0..held as u32)
            .map(|n| pool.apply_async(leave_a_trace_and_wait, arguments(n)))
            .collect();
        eventually("it has them all", || traces(&directory) >= before + held)?;
        dies.kill();
        assert!(!results.iter().any(AsyncResult::is_ready));
        fs::write(&gate, "")?;
        let _other = HostProcess::start(&redis, "a", 4);
        for (n, result) in (0..).zip(&results) {
            assert_eq!(result.get()?, n);
        }
        // Or more, where the machine stood still for a lease.
        assert!(traces(&directory) >= before + 2 * held);
    }
    Ok(())
}

fn all_hosts_are_killed_and_new_ones_do_what_is_left() -> Outcome {
    let redis = Redis::start();
    let pool = Pool::builder().engine(engine(&redis, "a").max_deliveries(10)).build()?;
    let nap = |n: u64| {
        thread::sleep(Duration::from_millis(2));
        n
    };
    let results = pool.map_async(nap, 0..3000);
    let many: Vec<_> = (0..400).map(|n| pool.apply_async(nap, (n,))).collect();
    for _ in 0..3 {
        let mut hosts: Vec<_> = (0..2).map(|_| HostProcess::start(&redis, "a", 2)).collect();
        thread::sleep(Duration::from_millis(300));
        hosts.iter_mut().for_each(HostProcess::kill);
    }
    let _host = HostProcess::start(&redis, "a", 4);
    assert_eq!(results.get()?, (0..3000).collect::<Vec<_>>());
    for (n, result) in (0..).zip(&many) {
        assert_eq!(result.get()?, n);
    }
    Ok(())
}

fn a_task_may_run_longer_than_the_lease_and_runs_once() -> Outcome {
    let redis = Redis::start();
    let pool = Pool::builder().engine(engine(&redis, "a")).build()?;
    let _hosts = [(); 2].map(|()| HostProcess::start(&redis, "a", 1));
    let directory = directory(&redis);
    let long = u64::try_from((LEASE * 4).as_millis())?;
    for _ in 0..10 {
        let (pulse, before) = (Pulse::start(), traces(&directory));
        let results = [1, 2].map(|n| pool.apply_async(leave_a_trace, (directory.clone(), n, long)));
        assert_eq!((results[0].get()?, results[1].get()?), (1, 2));
        thread::sleep(LEASE * 2);
        let runs = traces(&directory) - before;
        if runs == 2 {
            return Ok(());
        }
        assert!(runs > 2 && pulse.stood_still(), "two tasks ran {runs} times");
    }
    Err("this machine stands still too often to show it".into())
}

fn a_stopped_host_that_goes_on_doubles_no_result() -> Outcome {
    let redis = Redis::start();
    let pool = Pool::builder().engine(engine(&redis, "a")).build()?;
    let stops = HostProcess::start(&redis, "a", 2);
    let directory = directory(&redis);
    let results: Vec<_> =
        (0..4).map(|n| pool.apply_async(leave_a_trace, (directory.clone(), n, 300))).collect();
    eventually("it has some", || traces(&directory) >= 2)?;
    signal(stops.pid(), libc::SIGSTOP);
    let _other = HostProcess::start(&redis, "a", 2);
    for (n, result) in (0..).zip(&results) {
        assert_eq!(result.get()?, n);
    }
    // What it had is done by another; what it says now is of no interest, and it works on.
    signal(stops.pid(), libc::SIGCONT);
    drop(_other);
    assert_eq!(pool.map(square, 0..1000)?, (0..1000).map(square).collect::<Vec<_>>());
    Ok(())
}

/// Kills the host that runs it.
fn kill_its_host() {
    let host = mp_process::parent_process().expect("the host has started this worker");
    signal(host.pid(), libc::SIGKILL);
    for_ever();
}

fn a_task_that_kills_every_host_ends() -> Outcome {
    let redis = Redis::start();
    let pool = Pool::builder().engine(engine(&redis, "a").max_deliveries(2)).build()?;
    let mut last = HostProcess::start(&redis, "a", 1);
    let first = last.pid();
    let poison = pool.apply_async(kill_its_host, ());
    eventually("the first is killed", || last.has_ended())?;
    last = HostProcess::start(&redis, "a", 1);
    // No third one comes: the caller itself finds out.
    let Err(TaskError::WorkerDied { pid, exit_code: None, task }) = poison.get() else {
        panic!("it ends, and not well");
    };
    assert_eq!((pid, task.attempts().len()), (last.pid(), 2));
    assert!(task.attempts()[0].contains(&first.to_string()), "{task}");
    assert!(task.attempts()[1].contains("fell silent"), "{task}");
    assert!(task.function().ends_with("kill_its_host"));
    let _host = HostProcess::start(&redis, "a", 1);
    assert_eq!(pool.apply(square, (5,))?, 25);
    Ok(())
}

fn a_task_that_kills_its_worker_costs_no_host() -> Outcome {
    let redis = Redis::start();
    let pool = Pool::builder().engine(engine(&redis, "a")).build()?;
    let mut host = HostProcess::start(&redis, "a", 2);
    let dies = || signal(std::process::id(), libc::SIGKILL);
    let (died, squares) = (pool.apply_async(dies, ()), pool.map_async(square, 0..1000));
    assert!(matches!(died.get(), Err(TaskError::WorkerDied { exit_code: Some(-9), .. })));
    assert_eq!(squares.get()?.len(), 1000);
    assert!(!host.has_ended());
    Ok(())
}

/// Kills the server while tasks are under way, and starts it again.
fn over_restarts(options: &[&str]) -> Outcome {
    let mut redis = Redis::with(options);
    let pool = Pool::builder().engine(engine(&redis, "a")).build()?;
    let _hosts = [(); 2].map(|()| HostProcess::start(&redis, "a", 2));
    let nap = |n: u64, gate: PathBuf| {
        thread::sleep(Duration::from_millis(3));
        // So that the restarts are among the tasks.
        if n == 2999 {
            wait_for(&gate);
        }
        n
    };
    let gate = redis.directory().join("gate");
    let results: Vec<_> = (0..3000).map(|n| pool.apply_async(nap, (n, gate.clone()))).collect();
    for n in 1..=3 {
        eventually("some are done", || {
            results.iter().filter(|result| result.is_ready()).count() > 400 * n
        })?;
        redis.kill();
        thread::sleep(Duration::from_millis(100));
        redis.restart();
    }
    fs::write(&gate, "")?;
    for (n, result) in (0..).zip(&results) {
        assert_eq!(result.get()?, n);
    }
    Ok(())
}

fn a_killed_server_that_keeps_all_costs_no_task() -> Outcome {
    over_restarts(&["--appendonly", "yes", "--appendfsync", "always"])
}

fn a_killed_server_that_keeps_all_but_a_second_costs_no_task() -> Outcome {
    over_restarts(&["--appendonly", "yes", "--appendfsync", "everysec"])
}

fn a_server_that_forgets_all_costs_no_task() -> Outcome {
    over_restarts(&["--appendonly", "no"])
}

fn a_server_that_is_away_for_good_is_an_error() -> Outcome {
    let mut redis = Redis::start();
    let patience = Duration::from_millis(500);
    let pool = Pool::builder().engine(engine(&redis, "a").patience(patience)).build()?;
    let host = mp_cluster::serve(redis.url(), "a")?.workers(1).lease(LEASE).patience(patience);
    let runs = thread::spawn(move || host.run());
    assert_eq!(pool.apply(square, (2,))?, 4);
    let under_way = pool.apply_async(for_ever, ());
    thread::sleep(Duration::from_millis(100));
    redis.kill();
    let Err(TaskError::NoWorkers(why)) = under_way.get() else { panic!("nobody is there") };
    assert!(why.contains("has not answered"), "{why}");
    assert!(matches!(pool.apply(square, (2,)), Err(TaskError::NoWorkers(_))));
    assert!(matches!(runs.join().expect("no panic"), Err(Error::Unreachable { .. })));
    // It comes back after all.
    redis.restart();
    let _host = HostProcess::start(&redis, "a", 1);
    assert_eq!(pool.apply(square, (3,))?, 9);
    Ok(())
}

/// The role of a caller that waits for its tasks until it is killed.
pub(crate) fn call_for_ever(url: &str, name: &str) -> Result<(), Error> {
    let engine = Engine::connect(url, name)?.lease(LEASE);
    let pool = Pool::builder().engine(engine).build()?;
    let results: Vec<_> = (0..10).map(|_| pool.apply_async(for_ever, ())).collect();
    println!("submitted");
    results[0].wait();
    Ok(())
}

/// How many tasks of the pool `a` the server has.
fn tasks_in(redis: &Redis) -> usize {
    let client = ::redis::Client::open(redis.url()).expect("a client");
    let mut connection = client.get_connection().expect("a connection");
    ::redis::cmd("XLEN").arg("mp:{a}:tasks").query(&mut connection).expect("a length")
}

fn tasks_of_a_killed_caller_are_cancelled() -> Outcome {
    let redis = Redis::start();
    let _host = HostProcess::start(&redis, "a", 2);
    let mut caller = role(&["caller", redis.url(), "a"]).stdout(Stdio::piped()).spawn()?;
    let mut line = String::new();
    BufReader::new(caller.stdout.take().ok_or("a pipe")?).read_line(&mut line)?;
    assert_eq!(line, "submitted\n");
    eventually("they are sent", || tasks_in(&redis) == 10)?;
    let pool = Pool::builder().engine(engine(&redis, "a")).build()?;
    let (waits, pulse) = (pool.apply_async(square, (7,)), Pulse::start());
    let early = waits.get_timeout(LEASE * 2);
    assert!(early == Err(TaskError::TimedOut) || pulse.stood_still(), "{early:?}");
    caller.kill()?;
    caller.wait()?;
    assert_eq!(waits.get()?, 49);
    eventually("its tasks are gone", || tasks_in(&redis) == 0)
}

/// A copy of this program whose build id is another.
fn another_build(directory: &Path) -> Result<PathBuf, Box<dyn std::error::Error>> {
    let mut program = fs::read("/proc/self/exe")?;
    let id = mp_process::build_id()?;
    let id = id.strip_prefix("build id ").ok_or("this program has no build id")?;
    let id: Vec<u8> = (0..id.len() / 2)
        .map(|n| u8::from_str_radix(&id[2 * n..2 * n + 2], 16))
        .collect::<Result<_, _>>()?;
    let at = program.windows(id.len()).position(|bytes| bytes == id).ok_or("it is in the file")?;
    program[at] ^= 0xff;
    let path = directory.join("another");
    fs::write(&path, program)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700))?;
    Ok(path)
}

fn another_build_is_refused_with_both_ids() -> Outcome {
    let redis = Redis::start();
    let pool = Pool::builder().engine(engine(&redis, "a")).build()?;
    let another = another_build(redis.directory())?;
    let output = Command::new(&another)
        .args(["--mp-role", "host", redis.url(), "a", "1"])
        .stdin(Stdio::null())
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let ours = mp_process::build_id()?;
    let id = ours.strip_prefix("build id ").ok_or("a build id")?;
    assert!(!output.status.success() && said.contains("another build"), "{said}");
    assert!(said.contains(id) && said.matches("build id").count() == 2, "{said}");
    let _host = HostProcess::start(&redis, "a", 1);
    assert_eq!(pool.apply(square, (5,))?, 25);
    drop(pool);
    // The other way about: its hosts are first.
    let mut host = Command::new(&another);
    host.args(["--mp-role", "host", redis.url(), "b", "1"]).stdin(Stdio::null());
    let mut host = host.spawn()?;
    let mut connection = ::redis::Client::open(redis.url())?.get_connection()?;
    let waited = eventually("it serves", || {
        ::redis::cmd("EXISTS").arg("mp:{b}:hosts").query::<bool>(&mut connection).unwrap_or(false)
    });
    let refused = Engine::connect(redis.url(), "b").err();
    host.kill()?;
    host.wait()?;
    waited?;
    let Some(Error::DifferentProgram { ours, theirs }) = refused else { panic!("{refused:?}") };
    assert!(ours.contains(id) && ours != theirs);
    Ok(())
}

//! What survives a SIGKILL, and what is not left behind by it.

use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use multiprocess::core::sys::process;
use multiprocess::{Child, Error, Fd, Process, StartMethod, parent_process, start_method};

use crate::support::leak::{Inventory, children_of, processes};
use crate::support::{
    Case, EACH, HANG, LIMIT, ONCE, Outcome, PROMPT, Role, eventually, nothing_missing, role, runs,
};

const LONG: Duration = Duration::from_secs(180);

const fn case(name: &'static str, methods: &'static [StartMethod], run: fn() -> Outcome) -> Case {
    Case { name, methods, limit: LIMIT, missing: nothing_missing, run }
}

const fn long(name: &'static str, methods: &'static [StartMethod], run: fn() -> Outcome) -> Case {
    Case { name, methods, limit: LONG, missing: nothing_missing, run }
}

pub(crate) const CASES: (&str, &[Case]) = (
    module_path!(),
    &[
        long("a_thousand_starts_leave_nothing_behind", EACH, a_thousand_starts),
        case("without_descriptors_a_start_is_an_error_and_leaks_nothing", EACH, few_descriptors),
        case("a_killed_parent_takes_its_daemons_along_and_nobody_else", EACH, killed_parent),
        case("an_orphan_learns_that_its_parent_ended", EACH, orphan_learns),
        case("a_killed_fork_server_is_replaced_and_its_children_live_on", ONCE, killed_fork_server),
        case("a_stopped_fork_server_delays_no_join_of_an_ended_child", ONCE, stopped_fork_server),
        case("a_fork_server_that_is_held_up_still_tells_how_a_child_ended", ONCE, late_fork_server),
        case("how_each_of_many_children_ended_is_known", ONCE, many_children),
        case("many_children_of_a_killed_fork_server_are_joined", ONCE, many_orphans),
        long("children_killed_while_they_start_hang_nobody", EACH, children_killed_in_start),
        long("fork_servers_killed_while_they_serve_hang_nobody", ONCE, fork_servers_killed),
        long("a_start_says_that_each_fork_server_was_killed", ONCE, fork_servers_all_killed),
        long("parents_killed_while_they_start_leave_no_orphan", EACH, parents_killed_in_start),
    ],
);

pub(crate) const ROLES: &[Role] =
    &[("has-family", has_family), ("starts-for-ever", starts_for_ever)];

fn nothing() {}

fn sleep_for_ever() {
    thread::sleep(Duration::from_secs(1000));
}

/// Small, repeatable pseudo-random numbers (xorshift).
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

fn kill(pid: u32, signal: i32) {
    // SAFETY: takes numbers only; the process is one of the test's own.
    unsafe { libc::kill(pid as i32, signal) };
}

/// This program's fork server: its only child that it did not start by name.
fn fork_server() -> u32 {
    let known: Vec<u32> = multiprocess::active_children().iter().map(|child| child.pid()).collect();
    let children = children_of(std::process::id());
    let mut others = children.into_iter().map(|child| child.0).filter(|pid| !known.contains(pid));
    others.next().expect("a fork server")
}

fn a_thousand_starts() -> Outcome {
    let rss = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let line = status.lines().find(|line| line.starts_with("RssAnon")).map(str::to_string);
        line.and_then(|line| line.split_ascii_whitespace().nth(1)?.parse::<usize>().ok())
    };
    for _ in 0..20 {
        Process::new(nothing, ()).start()?.join()?;
    }
    let (before, size) = (Inventory::take(), rss());
    for round in 0..1000 {
        let child = Process::new(|x: u32| x, (round,)).start()?;
        if round % 3 == 0 {
            drop(child);
        } else if round % 3 == 1 {
            assert!(child.join()?.success());
        } else {
            assert_eq!(child.result()?, round);
        }
    }
    before.compare(PROMPT)?;
    let (Some(size), Some(now)) = (size, rss()) else { return Err("no RssAnon".into()) };
    assert!(now < size + 1024, "grew from {size} to {now} KiB");
    Ok(())
}

fn few_descriptors() -> Outcome {
    let limit = |soft: Option<u64>| {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: the limit is a local.
        assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) }, 0);
        limit.rlim_cur = soft.unwrap_or(limit.rlim_max).min(limit.rlim_max);
        // SAFETY: as above.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }, 0);
    };
    // The lowest number that is free, to fail at each descriptor that a start makes in turn.
    let null = std::fs::File::open("/dev/null")?;
    let free = u64::try_from(std::os::fd::AsRawFd::as_raw_fd(&null))?;
    drop(null);
    let mut refused = 0;
    for more in 0..24 {
        limit(Some(free + more));
        let started = Process::new(|x: u64| x, (more,)).daemon(true).start();
        limit(None);
        match started.map(|child| child.result()) {
            Ok(Ok(value)) => assert_eq!(value, more),
            Ok(Err(error)) => return Err(error.into()),
            Err(_) => refused += 1,
        }
        // It works again at once.
        assert_eq!(Process::new(|x: u64| x, (more,)).start()?.result()?, more);
    }
    assert!((1..24).contains(&refused), "{refused} were refused");
    Ok(())
}

/// Starts a daemon and another child, prints their numbers and waits to be killed.
fn has_family(arguments: &[String]) {
    multiprocess::init();
    let method = StartMethod::ALL
        .into_iter()
        .find(|method| format!("{method:?}") == arguments[0])
        .expect("a method");
    multiprocess::set_start_method(method);
    // Standard output of the child is ours, so it must not hold it open.
    let daemon = Process::new(sleep_for_ever, ()).daemon(true).start().expect("starts");
    let report = |seconds: u64| {
        let parent = parent_process().expect("is a child");
        let ended = parent.join_timeout(Duration::from_secs(seconds)).expect("waits");
        println!("learned {ended} {}", parent.is_alive());
    };
    let other = Process::new(report, (HANG.as_secs(),)).start().expect("starts");
    println!("{} {}", daemon.pid(), other.pid());
    sleep_for_ever();
}

/// A program with a family, the numbers of its daemon and other child, and its output.
struct Program {
    process: std::process::Child,
    daemon: u32,
    other: u32,
    output: BufReader<std::process::ChildStdout>,
}

fn start_program() -> Result<Program, Box<dyn std::error::Error>> {
    let method = format!("{:?}", start_method());
    let mut process = role("has-family", &[&method]).stdout(Stdio::piped()).spawn()?;
    let mut output = BufReader::new(process.stdout.take().ok_or("no output")?);
    let mut line = String::new();
    output.read_line(&mut line)?;
    let mut pids = line.split_whitespace().map(str::parse::<u32>);
    let (Some(Ok(daemon)), Some(Ok(other))) = (pids.next(), pids.next()) else {
        return Err(format!("not two numbers: {line}").into());
    };
    assert!(runs(daemon) && runs(other));
    Ok(Program { process, daemon, other, output })
}

fn killed_parent() -> Outcome {
    let mut program = start_program()?;
    let helpers: Vec<u32> = children_of(program.process.id()).into_iter().map(|c| c.0).collect();
    program.process.kill()?;
    program.process.wait()?;
    eventually("the daemon ends", || !runs(program.daemon))?;
    // The other one was told, and ends by itself, as does the fork server.
    eventually("the other child and the fork server end", || {
        !runs(program.other) && helpers.iter().all(|&pid| !runs(pid))
    })
}

fn orphan_learns() -> Outcome {
    let mut program = start_program()?;
    program.process.kill()?;
    program.process.wait()?;
    let mut text = String::new();
    program.output.read_to_string(&mut text)?;
    assert_eq!(text, "learned true false\n");
    Ok(())
}

fn killed_fork_server() -> Outcome {
    let (mut reader, writer) = io::pipe()?;
    let wait = |reader: Fd, code: i32| -> () {
        let _ = io::PipeReader::from(reader).read(&mut [0]);
        std::process::exit(code);
    };
    let (gate, open) = io::pipe()?;
    let survivor = Process::new(wait, (Fd::from(gate), 7)).start()?;
    let talker = |writer: Fd| {
        sleep_for_ever();
        drop(writer);
    };
    let killed = Process::new(talker, (Fd::from(writer),)).start()?;
    let old = fork_server();
    kill(old, libc::SIGKILL);
    eventually("the fork server is gone", || !runs(old))?;
    assert!(survivor.is_alive() && killed.is_alive(), "children outlive it");

    assert_eq!(Process::new(|x: u8| x, (9,)).start()?.result()?, 9);
    assert_ne!(fork_server(), old);

    killed.kill()?;
    killed.join()?;
    assert_eq!(reader.read(&mut [0])?, 0);
    drop(open);
    let status = survivor.join()?;
    // Nobody may have reaped it; who has does not tell, but the kernel does since Linux 6.15.
    let is_known = status.exit_code() == Some(7);
    assert!(is_known || status.exit_code().is_none() && !kernel_tells(), "{status}");
    assert!(!survivor.is_alive());
    Ok(())
}

/// Whether the kernel tells how a process ended that somebody else has reaped.
fn kernel_tells() -> bool {
    let mut child = Command::new("true").spawn().expect("starts");
    let pidfd = process::pidfd_open(child.id()).expect("it was not reaped");
    child.wait().expect("is a child");
    process::exit_after_reaping(pidfd.as_fd()).is_some()
}

/// Starts 60 children that end when the pipe does, each in its own way.
fn start_many(gate: &io::PipeReader) -> Result<Vec<Child<i32>>, Box<dyn std::error::Error>> {
    fn end(gate: Fd, number: i32) -> i32 {
        let _ = io::PipeReader::from(gate).read(&mut [0]);
        match number % 3 {
            0 => std::process::exit(number),
            1 => kill(std::process::id(), libc::SIGTERM),
            _ => {}
        }
        number
    }
    let start = |number| Ok(Process::new(end, (Fd::from(gate.try_clone()?), number)).start()?);
    (0..60).map(start).collect()
}

fn check_many(children: Vec<Child<i32>>, is_known: bool) -> Outcome {
    for (number, child) in (0..).zip(children) {
        let status = child.join()?;
        if !is_known && (status.code(), status.signal()) == (None, None) {
            continue;
        }
        let expected = [(Some(number), None), (None, Some(libc::SIGTERM)), (Some(0), None)];
        assert_eq!((status.code(), status.signal()), expected[number as usize % 3], "{number}");
        if number % 3 == 2 {
            assert_eq!(child.result()?, number);
        }
    }
    Ok(())
}

fn many_children() -> Outcome {
    let (gate, open) = io::pipe()?;
    let open_in_server = || -> io::Result<usize> {
        Ok(std::fs::read_dir(format!("/proc/{}/fd", fork_server()))?.count())
    };
    let first = start_many(&gate)?;
    let before = open_in_server()?;
    let second = start_many(&gate)?;
    let more = open_in_server()?.saturating_sub(before);
    // Each new child would be born with them.
    assert!(more == 0 || !kernel_tells(), "it has {more} more open for 60 more children");
    drop((gate, open));
    check_many(first, true)?;
    check_many(second, true)
}

fn many_orphans() -> Outcome {
    let (gate, open) = io::pipe()?;
    let children = start_many(&gate)?;
    let server = fork_server();
    kill(server, libc::SIGKILL);
    eventually("the fork server is gone", || !runs(server))?;
    drop((gate, open));
    // Who takes them over may reap them at once, late, or not at all.
    check_many(children, kernel_tells())?;
    // The next start finds out about the server.
    Process::new(nothing, ()).start()?.join()?;
    Ok(())
}

fn stopped_fork_server() -> Outcome {
    let child = Process::new(|| 5, ()).start()?;
    let other = Process::new(sleep_for_ever, ()).start()?;
    let server = fork_server();
    eventually("the result is there", || !runs(child.pid()))?;
    kill(server, libc::SIGSTOP);
    other.kill()?;
    let start = Instant::now();
    let status = other.join();
    let elapsed = start.elapsed();
    kill(server, libc::SIGCONT);
    assert!(status.is_ok());
    assert!(elapsed < PROMPT, "{elapsed:?}");
    assert_eq!(child.result()?, 5);
    Ok(())
}

fn late_fork_server() -> Outcome {
    let child = Process::new(sleep_for_ever, ()).start()?;
    let server = fork_server();
    kill(server, libc::SIGSTOP);
    let wake = |server: u32| {
        thread::sleep(Duration::from_millis(1500));
        kill(server, libc::SIGCONT);
    };
    let waker = Process::new(wake, (server,)).start_method(StartMethod::Fork).start()?;
    child.kill()?;
    let status = child.join();
    waker.join()?;
    assert_eq!(status?.signal(), Some(libc::SIGKILL));
    Ok(())
}

/// Kills, from a process of its own, what `victims` names, at random moments, until told to stop.
fn killer(victims: Fd) {
    // One number a line; each is killed after a moment.
    let mut dice = Dice(u64::from(std::process::id()) | 1 << 40);
    for line in BufReader::new(io::PipeReader::from(victims)).lines().map_while(Result::ok) {
        let parent: u32 = line.trim().parse().expect("a number");
        thread::sleep(Duration::from_micros(dice.below(1500)));
        let ours = std::process::id();
        // Not ourselves, and nothing that this test did not start.
        let victims: Vec<u32> = processes()
            .into_iter()
            .filter(|process| process.2 == parent && process.0 != ours)
            .map(|process| process.0)
            .collect();
        if !victims.is_empty() {
            kill(victims[dice.below(victims.len() as u64) as usize], libc::SIGKILL);
        }
    }
}

/// Has `starts` processes started while children of `whose` are killed at random moments; each start ends
/// well, or with an error that says so.
fn storm(starts: u32, whose: impl Fn() -> u32) -> Outcome {
    use std::io::Write;
    let (victims, mut orders) = io::pipe()?;
    // By fork, so that it is no child of a fork server that is killed; threads there are none.
    let method = start_method();
    let killer =
        Process::new(killer, (Fd::from(victims),)).start_method(StartMethod::Fork).start()?;
    let (mut well, mut died) = (0, 0);
    for round in 0..starts {
        writeln!(orders, "{}", whose())?;
        match Process::new(|x: u32| x, (round,)).start_method(method).start() {
            Ok(child) => match child.result() {
                Ok(value) => {
                    assert_eq!(value, round);
                    well += 1;
                }
                Err(multiprocess::ProcessError::Signaled(libc::SIGKILL)) => died += 1,
                Err(multiprocess::ProcessError::Lost) => died += 1,
                Err(error) => return Err(error.into()),
            },
            Err(Error::DiedAtStart(status)) if status.signal() == Some(libc::SIGKILL) => died += 1,
            Err(error) => return Err(error.into()),
        }
    }
    println!("{well} ended well, {died} were killed");
    drop(orders);
    killer.kill()?;
    killer.join()?;
    Ok(())
}

fn children_killed_in_start() -> Outcome {
    let us = std::process::id();
    match start_method() {
        StartMethod::ForkServer => {
            // Its children, not the server itself.
            let server = fork_server();
            storm(200, move || server)
        }
        _ => storm(200, move || us),
    }
}

fn fork_servers_killed() -> Outcome {
    let us = std::process::id();
    storm(200, move || us)?;
    assert_eq!(Process::new(|x: u8| x, (9,)).start()?.result()?, 9);
    Ok(())
}

/// Kills whatever `parent`, which has one thread, starts, until it is killed.
fn killer_of_all(parent: u32) {
    let ours = std::process::id();
    let list = format!("/proc/{parent}/task/{parent}/children");
    let mut dice = Dice(u64::from(ours) | 1 << 40);
    loop {
        // At each step of a start.
        thread::sleep(Duration::from_micros(dice.below(400)));
        let children = std::fs::read_to_string(&list).unwrap_or_default();
        let pids = children.split_ascii_whitespace().filter_map(|pid| pid.parse().ok());
        pids.filter(|pid| *pid != ours).for_each(|pid| kill(pid, libc::SIGKILL));
    }
}

fn fork_servers_all_killed() -> Outcome {
    let killer = Process::new(killer_of_all, (std::process::id(),));
    let killer = killer.start_method(StartMethod::Fork).start()?;
    let mut failed = 0;
    for _ in 0..300 {
        match Process::new(nothing, ()).start_method(StartMethod::ForkServer).start() {
            Ok(child) => _ = child.join()?,
            Err(Error::DiedAtStart(status)) if status.signal() == Some(libc::SIGKILL) => {
                failed += 1;
            }
            Err(error) => return Err(error.into()),
        }
    }
    println!("{failed} of 300 could not start");
    killer.kill()?;
    killer.join()?;
    assert_eq!(Process::new(|x: u8| x, (9,)).start()?.result()?, 9);
    Ok(())
}

/// Starts processes until it is killed.
fn starts_for_ever(arguments: &[String]) {
    multiprocess::init();
    let method = StartMethod::ALL
        .into_iter()
        .find(|method| format!("{method:?}") == arguments[0])
        .expect("a method");
    println!("ready");
    loop {
        let daemon = Process::new(sleep_for_ever, ()).daemon(true).start_method(method).start();
        let child = Process::new(nothing, ()).start_method(method).start().expect("starts");
        child.join().expect("joins");
        let daemon = daemon.expect("starts");
        daemon.kill().expect("signals");
        daemon.join().expect("joins");
    }
}

fn parents_killed_in_start() -> Outcome {
    use std::os::unix::process::CommandExt;
    let method = format!("{:?}", start_method());
    let mut dice = Dice(0x5eed);
    for _ in 0..70 {
        let mut command = role("starts-for-ever", &[&method]);
        // A group of its own, to find what it leaves.
        let mut parent = command.stdout(Stdio::piped()).process_group(0).spawn()?;
        let group = parent.id();
        let mut output = BufReader::new(parent.stdout.take().ok_or("no output")?);
        output.read_line(&mut String::new())?;
        thread::sleep(Duration::from_micros(dice.below(6000)));
        parent.kill()?;
        parent.wait()?;
        let left = || processes().into_iter().filter(|p| p.3 == group && p.1 != 'Z').count();
        if let Err(error) = eventually("nothing is left of a killed parent", || left() == 0) {
            let left: Vec<u32> =
                processes().into_iter().filter(|p| p.3 == group).map(|p| p.0).collect();
            left.iter().for_each(|&pid| kill(pid, libc::SIGKILL));
            return Err(format!("{error}: {left:?}").into());
        }
    }
    Ok(())
}

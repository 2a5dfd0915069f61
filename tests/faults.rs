//! What happens where descriptors, memory or system calls are not to be had, and that nothing leaks.

use std::fs;
use std::io::{self, IoSlice, Read};
use std::os::fd::{AsFd, AsRawFd};
use std::panic::catch_unwind;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use multiprocess as mp;
use multiprocess::core::sys::socket;
use multiprocess::core::{decode, encode};
use multiprocess::{Client, Fd, Listener, Manager, Pool, Process, StartMethod};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::support::cgroup::{self, Group};
use crate::support::leak::{self, Inventory};
use crate::support::seccomp::{self, Call, Only};
use crate::support::{
    Case, Folder, HANG, ONCE, Outcome, PROMPT, Role, THREADED, nothing_missing, role, watchdog,
};

const LONG: Duration = Duration::from_secs(300);

const fn long(name: &'static str, run: fn() -> Outcome) -> Case {
    Case { name, methods: ONCE, limit: LONG, missing: nothing_missing, run }
}

pub(crate) const CASES: (&str, &[Case]) = (
    module_path!(),
    &[
        long("ten_thousand_of_each_kind_leave_nothing_behind", ten_thousand_of_each),
        long("hundreds_of_pools_and_managers_leave_nothing_behind", hundreds_of_pools),
        #[cfg(target_arch = "x86_64")]
        long("whatever_call_fails_nothing_panics_or_leaks", whatever_call_fails),
        long("what_the_kernel_does_not_have_is_an_error_or_done_without", without_calls),
        long("without_descriptors_nothing_panics_or_hangs", without_descriptors),
        long("without_memory_nothing_panics_or_hangs", without_memory),
        Case {
            name: "who_is_killed_for_lack_of_memory_is_told_of_and_costs_itself",
            // A pool that replaces a worker that was forked has a fork server from then on.
            methods: THREADED,
            limit: LONG,
            missing: cgroup::missing,
            run: killed_for_memory,
        },
        long("without_threads_nothing_panics_or_hangs", without_threads),
        long("too_many_descriptors_under_way_are_the_reason_that_is_told", too_many_under_way),
        long("signals_a_thousand_times_a_second_disturb_nothing", alarms),
        long("what_is_interrupted_with_its_group_hangs_nobody", interrupts),
        long("a_program_whose_children_nobody_waits_for_works", no_zombies),
        long("no_descriptor_leaks_into_a_program_that_is_executed_meanwhile", no_descriptor_leaks),
        long("no_key_of_a_manager_is_seen_from_outside", no_key_is_seen),
    ],
);

pub(crate) const ROLES: &[Role] =
    &[("works", works), ("counts-descriptors", counts_descriptors), ("crowded", crowded)];

/// A kind of object: what makes one, uses it and lets go of it.
type Kind = (&'static str, fn() -> Outcome);

/// Takes far more memory than there is in a group, once it may.
fn eat(go: mp::Event) -> usize {
    go.wait_timeout(HANG).expect("waits");
    let mut eaten = Vec::new();
    for _ in 0..256 {
        eaten.push(vec![1_u8; 1 << 20]);
    }
    eaten.len()
}

fn killed_for_memory() -> Outcome {
    let group = Group::new(32 << 20)?;
    let go = mp::Event::new()?;

    let child = Process::new(eat, (go.clone(),)).start()?;
    group.add(child.pid())?;
    go.set();
    let ended = child.result();
    assert!(matches!(ended, Err(mp::ProcessError::Signaled(libc::SIGKILL))), "{ended:?}");

    go.clear();
    let pool = Pool::new(2)?;
    for pid in pool.workers() {
        group.add(pid)?;
    }
    let eats = pool.apply_async(eat, (go.clone(),));
    let others: Vec<_> = (0..40_u64).map(|n| pool.apply_async(|n: u64| n * n, (n,))).collect();
    go.set();
    let ended = eats.get_timeout(HANG);
    assert!(
        matches!(ended, Err(mp::TaskError::WorkerDied { exit_code: Some(-9), .. })),
        "{ended:?}"
    );
    for (n, other) in (0..).zip(others) {
        assert_eq!(other.get_timeout(HANG)?, n * n);
    }
    assert_eq!(pool.map(|n: u64| n + 1, 0..10)?, (1..11).collect::<Vec<_>>());
    drop(pool);

    let manager = Manager::new()?;
    let (list, dict) = (manager.list::<Vec<u8>>([])?, manager.dict::<u8, u8>()?);
    group.add(manager.pid())?;
    let ended = (0..256).try_for_each(|_| list.push(vec![1; 1 << 20]));
    assert!(matches!(ended, Err(mp::manager::Error::ServerDied)), "{ended:?}");
    assert!(matches!(dict.insert(1, 1), Err(mp::manager::Error::ServerDied)));
    drop((list, dict, manager));
    let another = Manager::new()?.value(7)?.get()?;
    assert_eq!((another, group.kills()?), (7, 3));
    Ok(())
}

/// The same object, as it comes out of a message.
fn sent<T: Serialize + DeserializeOwned>(object: &T) -> Result<T, mp::core::Error> {
    decode(encode(object)?)
}

/// All that has a public constructor and no process.
const OBJECTS: &[Kind] = &[
    ("Lock", || {
        let lock = mp::Lock::new()?;
        drop(sent(&lock)?.lock_timeout(HANG).map_err(mp::sync::Error::from)?);
        Ok(())
    }),
    ("RLock", || {
        let lock = mp::RLock::new()?;
        let guard = lock.lock_timeout(HANG).map_err(mp::sync::Error::from)?;
        let again = lock.try_lock().map_err(mp::sync::Error::from)?;
        drop((guard, again));
        sent(&lock).map(drop)?;
        Ok(())
    }),
    ("Semaphore", || {
        let semaphore = sent(&mp::Semaphore::new(1)?)?;
        drop(semaphore.permit_timeout(HANG)?);
        Ok(semaphore.acquire_timeout(HANG)?)
    }),
    ("BoundedSemaphore", || {
        let semaphore = sent(&mp::BoundedSemaphore::new(1)?)?;
        drop(semaphore.permit_timeout(HANG)?);
        Ok(())
    }),
    ("Condition", || {
        let condition = sent(&mp::Condition::new()?)?;
        let guard = condition.lock_timeout(HANG).map_err(mp::sync::Error::from)?;
        let _ = condition.wait_timeout(guard, Duration::from_micros(1));
        condition.notify_all();
        Ok(())
    }),
    ("Event", || {
        let event = sent(&mp::Event::new()?)?;
        event.set();
        assert!(event.wait_timeout(HANG)?);
        Ok(())
    }),
    ("Barrier", || {
        assert_eq!(sent(&mp::Barrier::new(1)?)?.wait_timeout(HANG)?, 0);
        Ok(())
    }),
    ("Mutex", || {
        *sent(&mp::Mutex::new(1)?)?.lock_timeout(HANG).map_err(mp::sync::Error::from)? = 2;
        Ok(())
    }),
    ("RwLock", || {
        let lock = sent(&mp::RwLock::new(1)?)?;
        assert_eq!(*lock.read_timeout(HANG).map_err(mp::sync::Error::from)?, 1);
        *lock.write_timeout(HANG).map_err(mp::sync::Error::from)? = 2;
        Ok(())
    }),
    ("Value", || {
        let value = mp::Value::new(1_u64)?;
        sent(&value)?.update(|n| *n += 1);
        assert_eq!(value.get(), 2);
        Ok(())
    }),
    ("Array", || {
        let array = mp::Array::from_slice(&[1, 2, 3])?;
        sent(&array)?.set(1, 7)?;
        assert_eq!(array.to_vec(), [1, 7, 3]);
        Ok(())
    }),
    ("RawValue", || {
        mp::RawValue::<u32>::zeroed().and_then(|value| Ok(sent(&value)?)).map(drop)?;
        Ok(())
    }),
    ("RawArray", || {
        mp::RawArray::<u32>::zeroed(5000).and_then(|array| Ok(sent(&array)?)).map(drop)?;
        Ok(())
    }),
    ("SharedMemory", || {
        let name = format!("mp-faults-{}", std::process::id());
        let memory = mp::SharedMemory::create(Some(&name), 10_000)?.unlink_on_drop();
        mp::SharedMemory::open(&name)?.write_at(9000, b"here")?;
        assert_eq!(&memory.to_vec()[9000..9004], b"here");
        sent(&memory).map(drop)?;
        Ok(())
    }),
    ("ShareableList", || {
        let list = mp::ShareableList::new(["one", "two"])?.unlink_on_drop();
        list.set(0, "six")?;
        sent(&list).map(drop)?;
        Ok(())
    }),
    ("duplex", || {
        let (one, two) = mp::duplex::<Fd, u8>()?;
        one.send(Fd::from(fs::File::open("/dev/null")?))?;
        drop(two.recv_timeout(HANG)?);
        two.send(1)?;
        drop(one);
        let (_sender, receiver) = two.split();
        assert!(receiver.recv_timeout(HANG).is_err());
        Ok(())
    }),
    ("simplex", || {
        let (receiver, sender) = mp::simplex::<String>()?;
        let (from, to) = mp::simplex()?;
        to.send(sender)?;
        let sender: mp::Sender<String> = from.recv_timeout(HANG)?;
        sender.send("there".into())?;
        assert_eq!(receiver.recv_timeout(HANG)?, "there");
        Ok(())
    }),
    ("Queue", || {
        let queue = mp::Queue::bounded(2)?;
        sent(&queue)?.put_timeout((1, Fd::from(fs::File::open("/dev/null")?)), HANG)?;
        assert_eq!(queue.get_timeout(HANG)?.0, 1);
        Ok(())
    }),
    ("JoinableQueue", || {
        let queue = mp::JoinableQueue::unbounded()?;
        queue.put_timeout("item".to_string(), HANG)?;
        queue.get_timeout(HANG)?;
        queue.task_done()?;
        Ok(queue.join_timeout(HANG)?)
    }),
];

/// What takes more than some microseconds.
const LARGER: &[Kind] = &[
    ("Queue that grows", || {
        let queue = mp::Queue::unbounded()?;
        for n in 0..300 {
            queue.put_timeout(vec![n as u8; 4000], HANG)?;
        }
        while queue.try_get().is_ok() {}
        Ok(())
    }),
    ("Listener", || {
        let listener = Listener::builder().authkey("a key").bind_private()?;
        let address = listener.address().clone();
        let name = thread::Builder::new();
        let client = name.spawn(move || {
            let client = Client::builder().authkey("a key").timeout(HANG);
            client.connect::<u8, u8>(&address)?.send(7).map_err(|error| error.reason)
        })?;
        // Where calls fail, the client may not come.
        let accepted = loop {
            let gone = client.is_finished();
            match listener.accept_timeout::<u8, u8>(Duration::from_millis(20)) {
                Err(mp::pipe::Error::TimedOut) if !gone => {}
                other => break other,
            }
        };
        let received = accepted.and_then(|connection| connection.recv_timeout(HANG));
        drop(listener);
        let sent = client.join().map_err(|_| "the client panicked")?;
        assert_eq!(received?, 7);
        Ok(sent?)
    }),
];

const PROCESSES: &[Kind] = &[
    ("Process", || {
        let child = Process::new(|n: u32| n + 1, (1,)).start()?;
        assert_eq!(child.result()?, 2);
        Ok(())
    }),
    ("Process that is killed", || {
        // If it is not killed, where calls fail, it ends with this.
        let (gate, _open) = io::pipe()?;
        let waits = |gate: Fd| drop(io::PipeReader::from(gate).read(&mut [0]));
        let child = Process::new(waits, (Fd::from(gate),)).daemon(true).start()?;
        child.kill()?;
        // Or by another signal, in a test of those.
        assert!(child.join()?.signal().is_some());
        Ok(())
    }),
    ("Pool", || {
        let pool = Pool::new(1)?;
        let answer = pool.apply_async(|n: u32| n + 1, (1,)).get_timeout(HANG);
        assert_eq!(answer?, 2);
        pool.close();
        Ok(pool.join()?)
    }),
    ("Manager", || {
        let manager = Manager::new()?;
        let dict = manager.dict()?;
        dict.insert(1, "one".to_string())?;
        assert_eq!(sent(&dict)?.get(&1)?.as_deref(), Some("one"));
        Ok(manager.shutdown()?)
    }),
];

/// Private and shared memory that this process has, in KiB.
fn resident_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| -> u64 {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_ascii_whitespace().nth(1).and_then(|number| number.parse().ok()).unwrap_or(0)
    };
    field("RssAnon") + field("RssShmem")
}

/// Makes so many of each, after a hundredth of them to warm up; all is as before then.
fn many(kinds: &[Kind], count: u32) -> Outcome {
    for (name, work) in kinds {
        let naming = |error| format!("{name}: {error}");
        for _ in 0..count.div_ceil(100) {
            work().map_err(naming)?;
        }
        let (before, memory) = (Inventory::take(), resident_kib());
        let start = Instant::now();
        for _ in 0..count {
            work().map_err(naming)?;
        }
        let now = resident_kib();
        println!("{name}: {:?} each, {memory} KiB before, {now} after", start.elapsed() / count);
        before.compare(PROMPT).map_err(|left| format!("{name}: {left}"))?;
        // Less than a twentieth of a byte-sized leak for each would show.
        if now > memory + 400 {
            return Err(format!("{name}: from {memory} to {now} KiB").into());
        }
    }
    Ok(())
}

fn ten_thousand_of_each() -> Outcome {
    many(OBJECTS, 10_000)?;
    many(LARGER, 1000)
}

fn hundreds_of_pools() -> Outcome {
    many(PROCESSES, 300)
}

/// Fails each call that makes something, in turn, for every kind.
#[cfg(target_arch = "x86_64")]
fn whatever_call_fails() -> Outcome {
    use seccomp::{count_calls, fail_at, has_failed};
    let duplicates = Only::Is(1, libc::F_DUPFD_CLOEXEC as u32);
    let seals = Only::Is(1, libc::F_ADD_SEALS as u32);
    let call = |number, only, error| Call { number, only, error };
    // What is measured or opened once is before that.
    for (name, work) in [OBJECTS, LARGER, PROCESSES].concat() {
        work().map_err(|error| format!("{name}: {error}"))?;
    }
    count_calls(vec![
        Call::all(libc::SYS_memfd_create, libc::EMFILE),
        Call::all(libc::SYS_socketpair, libc::EMFILE),
        Call::all(libc::SYS_socket, libc::ENFILE),
        Call::all(libc::SYS_accept4, libc::EMFILE),
        Call::all(libc::SYS_epoll_create1, libc::EMFILE),
        Call::all(libc::SYS_epoll_ctl, libc::ENOSPC),
        Call::all(libc::SYS_eventfd2, libc::EMFILE),
        Call::all(libc::SYS_pidfd_open, libc::EMFILE),
        Call::all(libc::SYS_openat, libc::EMFILE),
        Call::all(libc::SYS_fallocate, libc::ENOSPC),
        Call::all(libc::SYS_ftruncate, libc::ENOMEM),
        Call::all(libc::SYS_getrandom, libc::ENOSYS),
        Call::all(libc::SYS_bind, libc::ENOSPC),
        Call::all(libc::SYS_listen, libc::ENOBUFS),
        Call::all(libc::SYS_connect, libc::ECONNREFUSED),
        Call::all(libc::SYS_mkdir, libc::ENOSPC),
        call(libc::SYS_mmap, Only::Bits(3, libc::MAP_SHARED as u32), libc::ENOMEM),
        call(libc::SYS_fcntl, duplicates, libc::EMFILE),
        call(libc::SYS_fcntl, seals, libc::EBUSY),
        Call::all(libc::SYS_sendmsg, libc::ENOBUFS),
    ])?;
    for (name, work) in [OBJECTS, LARGER, PROCESSES].concat() {
        let before = Inventory::take();
        let (mut n, mut refused) = (0, 0);
        loop {
            n += 1;
            assert!(n < 1000, "{name} makes calls without end");
            let start = Instant::now();
            fail_at(n);
            let result = catch_unwind(|| work().map_err(|error| error.to_string()));
            let failed = has_failed();
            fail_at(0);
            let result = result.map_err(|_| format!("{name}: panicked, as call {n} failed"))?;
            if !failed {
                result?;
                break;
            }
            refused += u32::from(result.is_err());
            let took = start.elapsed();
            if took > HANG / 2 {
                return Err(format!("{name}: {took:?}, as call {n} failed: {result:?}").into());
            }
            before
                .compare(PROMPT)
                .map_err(|left| format!("{name}: {left}, left as call {n} failed ({result:?})"))?;
        }
        println!("{name}: {} calls, of which {refused} cannot be done without", n - 1);
        work().map_err(|error| format!("{name}, after all: {error}"))?;
    }
    Ok(())
}

pub(crate) extern "C" fn nothing(_: i32) {}

extern "C" fn interrupt_group(_: i32) {
    // SAFETY: a handler may send signals (signal-safety(7)); to the group of a test.
    unsafe { libc::kill(0, libc::SIGINT) };
}

/// Calls `handler` so often from now on; what waits then is interrupted.
pub(crate) fn alarm_every(period: Duration, handler: extern "C" fn(i32)) {
    for (signal, handler) in [(libc::SIGALRM, handler), (libc::SIGINT, nothing)] {
        // SAFETY: all zeros is an action, without SA_RESTART.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = handler as *const () as usize;
        // SAFETY: handlers that do what they may.
        assert_eq!(unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) }, 0);
    }
    let period = libc::timeval { tv_sec: 0, tv_usec: period.as_micros() as i64 };
    let timer = libc::itimerval { it_interval: period, it_value: period };
    // SAFETY: the timer is a local.
    let set = unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const timer, std::ptr::null_mut()) };
    assert_eq!(set, 0);
}

/// A program that does all there is, under conditions that its arguments name, and prints what failed.
fn works(arguments: &[String]) {
    let number = |index: usize| arguments[index].parse::<u64>().expect("a number");
    let limit = |what, limit: u64| {
        let limit = libc::rlimit { rlim_cur: limit, rlim_max: limit };
        // SAFETY: the limit is a local.
        assert_eq!(unsafe { libc::setrlimit(what, &raw const limit) }, 0);
    };
    // What comes of this process has the conditions by inheritance.
    mp::init();
    match arguments[0].as_str() {
        "refused" => {
            let call = |one: &[String]| {
                let number = |index: usize| one[index].parse().expect("a number");
                Call {
                    number: one[0].parse().expect("a number"),
                    error: one[1].parse().expect("a number"),
                    only: match one[2].as_str() {
                        "bits" => Only::Bits(number(3), number(4)),
                        "is" => Only::Is(number(3), number(4)),
                        _ => Only::All,
                    },
                }
            };
            let calls: Vec<Call> = arguments[1..].chunks(5).map(call).collect();
            seccomp::refuse(&calls).expect("a filter");
        }
        "descriptors" => limit(libc::RLIMIT_NOFILE, number(1)),
        "alarms" => alarm_every(Duration::from_millis(1), nothing),
        "interrupts" => alarm_every(Duration::from_millis(20), interrupt_group),
        "no-zombies" => {
            // SAFETY: no handler is set.
            unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
        }
        _ => {
            // The helper that is kept comes to be, and the heap has its size, so that small things are there.
            let _ = Process::new(|| (), ()).start().map(mp::Child::result);
            // SAFETY: takes numbers only.
            unsafe { libc::mallopt(libc::M_TRIM_THRESHOLD, 1 << 30) };
            // SAFETY: as above.
            unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 30) };
            drop((0..4000).map(|_| vec![1_u8; 1000]).collect::<Vec<_>>());
            let status = fs::read_to_string("/proc/self/status").expect("proc");
            let line = status.lines().find(|line| line.starts_with("VmSize")).expect("a size");
            let size = line.split_ascii_whitespace().nth(1).expect("a number");
            let size: u64 = size.parse().expect("a number");
            limit(libc::RLIMIT_AS, size * 1024 + number(1));
        }
    }
    // Signals need time to come.
    let rounds = if ["alarms", "interrupts"].contains(&&*arguments[0]) { 20 } else { 1 };
    for (name, work) in [OBJECTS, LARGER, PROCESSES].concat().repeat(rounds) {
        for method in StartMethod::ALL {
            if !name.starts_with("Process") && method != StartMethod::ForkServer {
                continue;
            }
            mp::set_start_method(method);
            let start = Instant::now();
            if let Err(error) = work() {
                let mut why = error.to_string();
                let mut source = error.source();
                while let Some(error) = source {
                    why = format!("{why}: {error}");
                    source = error.source();
                }
                println!("{name} {method:?}: {why}");
            }
            assert!(start.elapsed() < HANG / 2, "{name} by {method:?} took {:?}", start.elapsed());
        }
        mp::set_start_method(StartMethod::ForkServer);
    }
}

/// Runs [`works`]; gives what failed. It must come to its end, whatever it found.
fn run_works(arguments: &[&str]) -> Result<Vec<String>, String> {
    use std::io::Seek;
    use std::os::unix::process::CommandExt;
    let naming = |error: io::Error| format!("{arguments:?}: {error}");
    let mut command: Command = role("works", arguments);
    let mut output = fs::File::from(mp::core::sys::mem::memfd(c"output").map_err(naming)?);
    command.stdout(output.try_clone().map_err(naming)?);
    command.stderr(output.try_clone().map_err(naming)?);
    command.process_group(0).stdin(Stdio::null()).env("RUST_BACKTRACE", "0");
    let child = command.spawn().map_err(naming)?;
    let verdict = watchdog::watch(child, Duration::from_secs(400));
    let mut text = String::new();
    output.rewind().map_err(naming)?;
    output.read_to_string(&mut text).map_err(naming)?;
    verdict.map_err(|why| format!("{arguments:?}: {why}\n{text}"))?;
    if text.contains("panicked") {
        return Err(format!("{arguments:?}: something panicked\n{text}"));
    }
    Ok(text.lines().map(str::to_string).collect())
}

/// Runs [`works`] without these calls.
fn run_refused(calls: &[Call]) -> Result<Vec<String>, String> {
    let mut arguments = vec!["refused".to_string()];
    for call in calls {
        let (what, index, value) = match call.only {
            Only::All => ("all", 0, 0),
            Only::Bits(index, bits) => ("bits", index, bits),
            Only::Is(index, value) => ("is", index, value),
        };
        arguments.extend([call.number.to_string(), call.error.to_string(), what.to_string()]);
        arguments.extend([index, value].map(|number| number.to_string()));
    }
    run_works(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Calls that old kernels do not have and containers forbid.
fn without_calls() -> Outcome {
    // _IOWR(0xFF, 11, struct pidfd_info), by which the kernel tells how a process ended that was reaped.
    const PIDFD_GET_INFO: u32 = (3 << 30) | (64 << 16) | (0xFF << 8) | 11;
    let no_exec = Only::Bits(1, libc::MFD_NOEXEC_SEAL);
    let all = Only::All;
    // What is done without, and what is an error.
    let calls = [
        ("clone3", libc::SYS_clone3, all, true),
        ("close_range", libc::SYS_close_range, all, true),
        ("membarrier", libc::SYS_membarrier, all, true),
        ("statx", libc::SYS_statx, all, true),
        ("sched_getaffinity", libc::SYS_sched_getaffinity, all, true),
        ("memfd_create with MFD_NOEXEC_SEAL", libc::SYS_memfd_create, no_exec, true),
        ("memfd_create", libc::SYS_memfd_create, all, false),
        ("pidfd_open", libc::SYS_pidfd_open, all, false),
        ("pidfd_send_signal", libc::SYS_pidfd_send_signal, all, false),
        ("ioctl of a process", libc::SYS_ioctl, Only::Is(1, PIDFD_GET_INFO), true),
        ("eventfd2", libc::SYS_eventfd2, all, false),
        ("epoll_create1", libc::SYS_epoll_create1, all, false),
        ("signalfd4", libc::SYS_signalfd4, all, false),
        ("fallocate", libc::SYS_fallocate, all, false),
        ("socketpair", libc::SYS_socketpair, all, false),
        ("getrandom", libc::SYS_getrandom, all, false),
        ("prctl", libc::SYS_prctl, all, false),
    ];
    let mut wrong = Vec::new();
    for (name, number, only, without) in calls {
        let errors: &[i32] = match name {
            "memfd_create with MFD_NOEXEC_SEAL" => &[libc::EINVAL],
            "fallocate" => &[libc::EOPNOTSUPP],
            "ioctl of a process" => &[libc::ENOTTY],
            // Where it is forbidden, libc takes that for an answer.
            "clone3" => &[libc::ENOSYS],
            _ => &[libc::ENOSYS, libc::EPERM],
        };
        for &error in errors {
            let failed = run_refused(&[Call { number, only, error }]);
            match failed {
                Ok(failed) => {
                    println!("without {name} ({error}): {failed:?}");
                    if without && !failed.is_empty() {
                        wrong.push(format!("without {name}: {failed:?}"));
                    }
                    let reason = format!("(os error {error})");
                    let silent = failed.iter().filter(|line| !line.contains(&reason));
                    wrong.extend(silent.map(|line| format!("without {name}, no reason: {line}")));
                }
                Err(why) => wrong.push(format!("without {name}: {why}")),
            }
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n").into()) }
}

fn without_descriptors() -> Outcome {
    // Enough for everything, as Python's programs are used to.
    let failed = run_works(&["descriptors", "64"])?;
    if !failed.is_empty() {
        return Err(format!("with 64 descriptors: {failed:?}").into());
    }
    let mut refused = 0;
    for limit in (4..40).step_by(3) {
        refused += run_works(&["descriptors", &limit.to_string()])?.len();
    }
    assert!(refused > 20, "{refused} is hardly any");
    Ok(())
}

fn without_memory() -> Outcome {
    let mut refused = 0;
    for more in [0, 1 << 12, 1 << 14, 1 << 16, 1 << 18, 1 << 20, 1 << 22, 1 << 24, 1 << 26] {
        refused += run_works(&["memory", &more.to_string()])?.len();
    }
    assert!(refused > 20, "{refused} is hardly any");
    Ok(())
}

/// No thread can be made: what needs one says so.
fn without_threads() -> Outcome {
    let failed = run_refused(&[
        Call::all(libc::SYS_clone3, libc::ENOSYS),
        Call {
            number: libc::SYS_clone,
            only: Only::Bits(0, libc::CLONE_THREAD as u32),
            error: libc::EAGAIN,
        },
    ])?;
    let kinds: Vec<_> = failed.iter().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(kinds, ["Listener", "Pool", "Manager"], "{failed:?}");
    Ok(())
}

/// Starts a process while its user has more descriptors under way than it may, and another one afterwards.
fn crowded(_: &[String]) {
    mp::init();
    let start = || Process::new(|n: u32| n + 1, (1,)).start();
    assert_eq!(start().expect("starts").result().expect("ends"), 2);
    let limit = libc::rlimit { rlim_cur: 40, rlim_max: 40 };
    // What the fork server may, too, by its number: it has begun.
    for process in [0, leak::children_of(std::process::id())[0].0] {
        // SAFETY: the limit is a local; null asks for no old one.
        let set = unsafe {
            libc::prlimit(process as i32, libc::RLIMIT_NOFILE, &limit, std::ptr::null_mut())
        };
        assert_eq!(set, 0);
    }
    let (one, other) = socket::pair().expect("a pair");
    let null = fs::File::open("/dev/null").expect("null");
    let sent = socket::send(one.as_fd(), &[IoSlice::new(b"x")], &[null.as_raw_fd(); 60], true);
    sent.expect("up to the limit, and one message beyond");
    println!("{:?}", start().expect_err("no descriptor can be sent"));
    drop((one, other));
    assert_eq!(start().expect("starts").result().expect("ends"), 2);
}

/// Not that the new process takes long, which the fork server's silence would be taken for.
fn too_many_under_way() -> Outcome {
    use std::os::unix::process::CommandExt;
    let mut command = role("crowded", &[]);
    // SAFETY: takes nothing, cannot fail.
    if unsafe { libc::geteuid() } == 0 {
        // Root may have as many as it likes. A user of our own: of nobody's there may be another run of this. Below
        // 65,536, as containers have no more.
        command.uid(10_000 + std::process::id() % 50_000).gid(65_534);
    }
    let output = match command.output() {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            println!("NOT TESTED: no other user may execute this program");
            return Ok(());
        }
        other => other?,
    };
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let said = String::from_utf8(output.stdout)?;
    assert!(said.contains("oo many references") || said.contains("os error 109"), "{said}");
    Ok(())
}

fn alarms() -> Outcome {
    let failed = run_works(&["alarms"])?;
    if failed.is_empty() { Ok(()) } else { Err(failed.join("; ").into()) }
}

/// The program handles the signal, its children die of it: each start ends, well or not.
fn interrupts() -> Outcome {
    println!("{:?}", run_works(&["interrupts"])?);
    Ok(())
}

/// The kernel reaps the children of a program that ignores SIGCHLD.
fn no_zombies() -> Outcome {
    let failed = run_works(&["no-zombies"])?;
    if failed.is_empty() { Ok(()) } else { Err(failed.join("; ").into()) }
}

/// Prints what it has open beyond its standard streams.
fn counts_descriptors(_: &[String]) {
    for entry in fs::read_dir("/proc/self/fd").expect("proc").flatten() {
        let number: i32 = entry.file_name().to_string_lossy().parse().expect("a number");
        let target = fs::read_link(entry.path()).unwrap_or_default();
        // Not the directory that is being read.
        if number > 2 && !target.starts_with("/proc") {
            println!("{number}: {}", target.display());
        }
    }
}

/// One that is made close-on-exec a moment after it was made would be seen here sooner or later.
fn no_descriptor_leaks() -> Outcome {
    fn open_in_a_program() -> io::Result<String> {
        let output = role("counts-descriptors", &[]).output()?;
        assert!(output.status.success());
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
    // By whoever runs this test.
    let inherited = open_in_a_program()?;
    let stop = std::sync::atomic::AtomicBool::new(false);
    let relaxed = std::sync::atomic::Ordering::Relaxed;
    thread::scope(|scope| {
        let makes = scope.spawn(|| {
            let mut rounds = 0;
            while !stop.load(relaxed) {
                for (name, work) in [OBJECTS, LARGER, PROCESSES].concat() {
                    work().map_err(|error| format!("{name}: {error}"))?;
                }
                rounds += 1;
            }
            Ok::<u32, String>(rounds)
        });
        let looked = (0..300).try_for_each(|_| {
            let open = open_in_a_program()?;
            if open == inherited { Ok(()) } else { Err(io::Error::other(open)) }
        });
        stop.store(true, relaxed);
        println!("{} rounds", makes.join().map_err(|_| "panicked")??);
        Ok(looked?)
    })
}

fn no_key_is_seen() -> Outcome {
    let secret = "a key that is easily found";
    let key = mp::AuthKey::new(secret.as_bytes())?;
    let folder = Folder::new()?;
    let manager = Manager::serve(folder.path("manager"), &key)?;
    let connected = Manager::connect(folder.path("manager"), &key)?;
    connected.publish("n", &manager.value(1)?)?;
    let mut seen = format!("{manager:?} {connected:?} {key:?}").into_bytes();
    let ours = own_group();
    for (pid, ..) in leak::processes().into_iter().filter(|process| process.3 == ours) {
        for file in ["cmdline", "environ"] {
            seen.extend(fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default());
        }
    }
    manager.shutdown()?;
    assert!(!seen.windows(secret.len()).any(|window| window == secret.as_bytes()));
    Ok(())
}

/// The number of this process's group.
fn own_group() -> u32 {
    // SAFETY: takes nothing, cannot fail.
    unsafe { libc::getpgrp() as u32 }
}

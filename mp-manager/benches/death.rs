//! How long after its SIGKILL a server's clients know: waiting in each way there is, calling, and calling for the first time,
//! by threads of several processes, on this machine and through TCP.
//!
//! `cargo bench -p mp-manager --bench death`. Each of 200 servers is killed while two processes that were given proxies,
//! and two that are connected through TCP, have a thread in each kind of call; time runs from before the kill until the
//! thread has the error. On a busy machine that is mostly waiting for a CPU: so it says too when the kernel had ended the
//! server, and how much later the last of the forty threads knew. Without the `--bench` that cargo gives it kills one.

use std::env;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use mp_core::Deadline;
use mp_core::sys::clock::monotonic_nanos;
use mp_core::sys::fd::wait_readable;
use mp_core::sys::process::{pidfd_open, pidfd_send_signal};
use mp_manager::{
    Barrier, Condition, Dict, Error, Event, JoinableQueue, Lock, Manager, Queue, Result, Semaphore,
    Shared,
};
use mp_pipe::{AuthKey, Sender, simplex};
use mp_process::{Child, Process};

const KEY: &[u8] = b"of this benchmark";
const SIGKILL: i32 = 9;

type All = (
    (Queue<u8>, JoinableQueue<u8>, Lock, Condition, Event),
    (Barrier, Semaphore, Shared<u8>, Dict<u8, u64>),
);

const KINDS: [&str; 10] = [
    "Queue::get",
    "JoinableQueue::join",
    "Lock::lock",
    "Condition::wait",
    "Event::wait",
    "Barrier::wait",
    "Semaphore::acquire",
    "a call that takes long",
    "one call after the other",
    "first calls of threads",
];

/// Makes the call of that kind until it fails.
fn fail(kind: usize, all: &All) -> Result<()> {
    let ((queue, tasks, lock, condition, event), (barrier, semaphore, shared, dict)) = all;
    match kind {
        0 => queue.get().map(drop),
        1 => tasks.join(),
        2 => lock.lock().map(drop),
        3 => condition.wait(condition.lock()?).map(drop),
        4 => event.wait(),
        5 => barrier.wait().map(drop),
        6 => semaphore.acquire(),
        7 => shared.call(|_: &mut u8| thread::sleep(Duration::from_secs(1000)), ()),
        8 => (0..).try_for_each(|n| dict.insert(8, n).map(drop)),
        _ => loop {
            let dict = dict.clone();
            thread::spawn(move || dict.get(&9)).join().expect("does not panic")?;
        },
    }
}

/// Has a thread for each kind; gives when each knew.
fn wait_all(all: &All, ready: &Sender<()>) -> Vec<u64> {
    let begun = AtomicUsize::new(0);
    thread::scope(|scope| {
        let begin = |kind| {
            let begun = &begun;
            scope.spawn(move || {
                begun.fetch_add(1, Ordering::Relaxed);
                let ended = fail(kind, all);
                let now = monotonic_nanos();
                assert!(matches!(ended, Err(Error::ServerDied)), "{}: {ended:?}", KINDS[kind]);
                now
            })
        };
        let threads: Vec<_> = (0..KINDS.len()).map(begin).collect();
        while begun.load(Ordering::Relaxed) < KINDS.len() {
            thread::yield_now();
        }
        ready.send(()).expect("the parent is there");
        threads.into_iter().map(|thread| thread.join().expect("knows")).collect()
    })
}

fn here(all: All, ready: Sender<()>) -> Vec<u64> {
    wait_all(&all, &ready)
}

fn through_tcp(address: String, ready: Sender<()>) -> Vec<u64> {
    let key = AuthKey::new(KEY).expect("a key");
    let manager = Manager::connect(address.as_str(), &key).expect("connects");
    wait_all(&manager.find("all").expect("all"), &ready)
}

fn make(manager: &Manager) -> Result<All> {
    let tasks = manager.joinable_queue(0)?;
    tasks.put(1)?;
    Ok((
        (manager.queue(0)?, tasks, manager.lock()?, manager.condition()?, manager.event()?),
        (manager.barrier(1000)?, manager.semaphore(0)?, manager.shared(0)?, manager.dict()?),
    ))
}

type AnyResult<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// In nanoseconds since the kill.
#[derive(Default)]
struct Times {
    /// Until each of the processes knew, those on this machine and those through TCP, for each kind.
    knew: [[Vec<u64>; 2]; KINDS.len()],
    /// Until the server had ended.
    ended: Vec<u64>,
    /// From then until everybody knew.
    last: Vec<u64>,
}

fn kill_one(times: &mut Times) -> AnyResult<()> {
    let manager = Manager::serve("127.0.0.1:0", &AuthKey::new(KEY)?)?;
    let all = make(&manager)?;
    manager.publish("all", &all)?;
    let address = manager.address().expect("it listens").to_string();
    // So that the others wait for it.
    let _held = all.0.2.lock()?;
    let start = |n: usize| -> AnyResult<_> {
        let (begun, ready) = simplex()?;
        let child: Child<Vec<u64>> = match n {
            0 | 1 => Process::new(here, (all.clone(), ready)).start()?,
            _ => Process::new(through_tcp, (address.clone(), ready)).start()?,
        };
        Ok((n / 2, begun, child))
    };
    let children = (0..4).map(start).collect::<AnyResult<Vec<_>>>()?;
    for (_, begun, _) in &children {
        begun.recv()?;
    }
    // Until all of them wait.
    thread::sleep(Duration::from_millis(50));
    let server = pidfd_open(manager.pid())?;
    let killed = monotonic_nanos();
    pidfd_send_signal(server.as_fd(), SIGKILL)?;
    wait_readable(server.as_fd(), Deadline::NEVER)?;
    let ended = monotonic_nanos();
    times.ended.push(ended - killed);
    let mut last = ended;
    for (door, _, child) in children {
        for (times, knew) in times.knew.iter_mut().zip(child.result()?) {
            times[door].push(knew - killed);
            last = last.max(knew);
        }
    }
    times.last.push(last - ended);
    Ok(())
}

fn row(times: &mut [u64]) -> String {
    times.sort_unstable();
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize] as f64 / 1e6;
    format!("{:>10.2}{:>8.2}{:>8.2}", at(0.5), at(0.99), at(1.0))
}

fn main() -> AnyResult<()> {
    mp_process::init();
    let kills = if env::args().any(|argument| argument == "--bench") { 200 } else { 1 };
    let mut times = Times::default();
    for _ in 0..kills {
        kill_one(&mut times)?;
    }
    println!("{kills} servers killed; until who waited knew, in ms: median, 99 of 100, maximum");
    println!("{:26}{:>26}{:>26}", "", "on this machine", "through TCP");
    for (kind, [here, tcp]) in KINDS.iter().zip(&mut times.knew) {
        println!("{kind:26}{}{}", row(here), row(tcp));
    }
    println!("{:26}{}", "the server had ended", row(&mut times.ended));
    println!("{:26}{}", "from then until all knew", row(&mut times.last));
    Ok(())
}

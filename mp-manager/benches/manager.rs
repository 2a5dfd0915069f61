//! What a set and a get in a dict of a manager cost, with one client and with four, beside CPython and beside Redis.
//!
//! `cargo bench -p mp-manager`. All rows of a table run in turn, several times; each row is the median. Compare rows of
//! one run only. Each client is a process that makes one call after the other; Redis, where it is installed, is reached
//! through a Unix socket, without pipelining. Bare is a round trip of eight bytes between two processes through a pipe
//! of this library. Without the `--bench` that cargo gives it only shows that everything runs.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use mp_manager::{Barrier, Dict, Manager};
use mp_pipe::{Connection, duplex};
use mp_process::{Child, Process};

/// The keys of a client: as many as in CPython's and Redis's rows.
const KEYS: u64 = 100;

#[derive(Clone, Copy, serde::Serialize, serde::Deserialize)]
enum Step {
    Set,
    Get,
}

fn call(dict: Dict<u64, u64>, barrier: Barrier, step: Step, steps: u64) {
    dict.extend((0..KEYS).map(|key| (key, key))).expect("sets");
    barrier.wait().expect("begins");
    for n in 0..steps {
        match step {
            Step::Set => drop(dict.insert(n % KEYS, n).expect("sets")),
            Step::Get => assert!(dict.get(&(n % KEYS)).expect("gets").is_some()),
        }
    }
    barrier.wait().expect("ends");
}

fn insert_many(dict: Dict<u64, u64>, barrier: Barrier, _: Step, steps: u64) {
    barrier.wait().expect("begins");
    dict.extend((0..steps).map(|n| (n % KEYS, n))).expect("sets");
    barrier.wait().expect("ends");
}

fn set_in_redis(path: PathBuf, barrier: Barrier, step: Step, steps: u64) {
    let mut stream = UnixStream::connect(path).expect("connects");
    let mut answer = [0; 256];
    let mut ask = |request: String| {
        stream.write_all(request.as_bytes()).expect("writes");
        assert!(stream.read(&mut answer).expect("reads") > 0);
        answer[0]
    };
    let bulk = |text: String| format!("${}\r\n{text}\r\n", text.len());
    let set = |n: u64| {
        format!(
            "*3\r\n{}{}{}",
            bulk("SET".into()),
            bulk((n % KEYS).to_string()),
            bulk(n.to_string())
        )
    };
    (0..KEYS).for_each(|key| assert_eq!(ask(set(key)), b'+'));
    barrier.wait().expect("begins");
    for n in 0..steps {
        match step {
            Step::Set => assert_eq!(ask(set(n)), b'+'),
            Step::Get => {
                let get = format!("*2\r\n{}{}", bulk("GET".into()), bulk((n % KEYS).to_string()));
                assert_eq!(ask(get), b'$');
            }
        }
    }
    barrier.wait().expect("ends");
}

/// Nanoseconds of the clock for each step of so many clients together.
fn together(
    manager: &Manager,
    clients: u64,
    steps: u64,
    start: impl Fn(Barrier, u64) -> Child<()>,
) -> Option<f64> {
    let barrier = manager.barrier(clients as usize + 1).ok()?;
    let children: Vec<_> = (0..clients).map(|_| start(barrier.clone(), steps / clients)).collect();
    barrier.wait().ok()?;
    let start = Instant::now();
    barrier.wait().ok()?;
    let nanos = start.elapsed().as_nanos() as f64;
    for child in children {
        child.result().expect("works");
    }
    Some(nanos / steps as f64)
}

fn answer(pipe: Connection<u64, u64>) {
    for number in &pipe {
        if pipe.send(number).is_err() {
            return;
        }
    }
}

/// Nanoseconds for each round trip.
fn round_trips(steps: u64) -> Option<f64> {
    let (ours, theirs) = duplex::<u64, u64>().ok()?;
    let child = Process::new(answer, (theirs,)).start().ok()?;
    let trip = |n: u64| ours.send(n).is_ok() && ours.recv().is_ok_and(|back| back == n);
    assert!(trip(0));
    let start = Instant::now();
    assert!((0..steps).all(trip));
    let nanos = start.elapsed().as_nanos() as f64;
    drop(ours);
    child.result().expect("works");
    Some(nanos / steps as f64)
}

/// What a case of CPython says, if there is one here.
fn python(case: &str, steps: u64) -> Option<f64> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../benches/python.py");
    let output = Command::new("python3").args([script, case, &steps.to_string()]).output().ok()?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}

/// A Redis that keeps nothing, at a socket of its own.
struct Redis {
    server: std::process::Child,
    path: PathBuf,
}

impl Redis {
    fn start() -> Option<Self> {
        let path = std::env::temp_dir().join(format!("mp-bench-redis-{}", std::process::id()));
        let server = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"])
            .arg(&path)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let redis = Self { server, path };
        for _ in 0..500 {
            if UnixStream::connect(&redis.path).is_ok() {
                return Some(redis);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        None
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Name, and nanoseconds for each step of one round.
type Row<'a> = (&'static str, Box<dyn Fn() -> Option<f64> + 'a>);

/// Runs the rows in turn; prints medians, and how each compares to the first.
fn table(title: &str, rounds: usize, rows: &[Row<'_>]) {
    let mut times: Vec<Vec<f64>> = rows.iter().map(|_| Vec::new()).collect();
    for _ in 0..rounds {
        for ((_, run), times) in rows.iter().zip(&mut times) {
            times.extend(run());
        }
    }
    println!("\n{title}\n{:<34} {:>11} {:>11} {:>9}", "", "ns each", "M/s", "to first");
    let mut first = None;
    for ((name, _), times) in rows.iter().zip(&mut times) {
        times.sort_by(f64::total_cmp);
        let Some(&median) = times.get(times.len() / 2) else {
            println!("{name:<34} {:>11}", "-");
            continue;
        };
        let first = *first.get_or_insert(median);
        println!("{name:<34} {median:>11.1} {:>11.4} {:>9.3}", 1e3 / median, first / median);
    }
}

fn main() {
    mp_process::init();
    let bench = std::env::args().any(|arg| arg == "--bench");
    let (rounds, steps) = if bench { (5, 200_000) } else { (1, 400) };
    let manager = Manager::new().expect("a manager");
    let dict = manager.dict::<u64, u64>().expect("a dict");
    let redis = if bench { Redis::start() } else { None };
    if bench && redis.is_none() {
        println!("redis-server is not installed: its rows are missing");
    }
    for (name, step, clients) in [
        ("manager_dict_set_1c", Step::Set, 1),
        ("manager_dict_get_1c", Step::Get, 1),
        ("manager_dict_set_4c", Step::Set, 4),
        ("manager_dict_get_4c", Step::Get, 4),
    ] {
        let mut rows: Vec<Row<'_>> = vec![(
            "Dict",
            Box::new(|| {
                together(&manager, clients, steps, |barrier, steps| {
                    let args = (dict.clone(), barrier, step, steps);
                    Process::new(call, args).start().expect("starts")
                })
            }),
        )];
        if matches!(step, Step::Set) {
            rows.push((
                "Dict::extend",
                Box::new(|| {
                    together(&manager, clients, steps, |barrier, steps| {
                        let args = (dict.clone(), barrier, step, steps);
                        Process::new(insert_many, args).start().expect("starts")
                    })
                }),
            ));
        }
        if clients == 1 {
            rows.push(("bare: a pipe's round trip", Box::new(|| round_trips(steps))));
        }
        if bench {
            rows.push(("CPython Manager().dict()", Box::new(|| python(name, steps / 20))));
        }
        if let Some(redis) = &redis {
            rows.push((
                "Redis, Unix socket",
                Box::new(|| {
                    together(&manager, clients, steps / 4, |barrier, steps| {
                        let args = (redis.path.clone(), barrier, step, steps);
                        Process::new(set_in_redis, args).start().expect("starts")
                    })
                }),
            ));
        }
        table(name, rounds, &rows);
    }
}

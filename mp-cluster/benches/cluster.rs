//! What a task costs over a server, beside a bare work queue on the same one, and what more hosts bring.
//!
//! `cargo bench -p mp-cluster`. What a row compares runs in turn, several times; each figure is the median, a ratio that of
//! the ratios of neighbours. Compare rows of one run only. The bare queue is two lists: a caller pushes chunks of numbers and takes chunks of squares, two worker
//! processes take one and push the other, a command at a time, and what is in flight is as much as with a pool. Nothing
//! in it survives that somebody dies. Hosts are processes of this machine, the server is on a Unix socket. Without the
//! `--bench` that cargo gives it only shows that everything runs.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use mp_cluster::{Engine, serve};
use mp_pool::Pool;
use redis::Connection;

const NAME: &str = "bench";
const WORKERS: usize = 2;
/// As many chunks are in flight as with a pool of so many workers.
const WINDOW: usize = 32 * WORKERS;

fn square(x: u64) -> u64 {
    x.wrapping_mul(x)
}

fn is_bench() -> bool {
    std::env::args().any(|arg| arg == "--bench")
}

/// Processes that end with this.
struct Ends(Vec<Child>);

impl Drop for Ends {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A server that keeps nothing.
struct Server {
    _child: Ends,
    directory: PathBuf,
    url: String,
}

impl Server {
    fn start() -> Option<Self> {
        let name = format!("mp-bench-cluster-{}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir(&directory).ok()?;
        let socket = directory.join("socket");
        let url = format!("redis+unix://{}", socket.display());
        let mut command = Command::new("redis-server");
        command.args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"]);
        command.arg(&socket).arg("--dir").arg(&directory).stdin(Stdio::null());
        let child = command.stdout(Stdio::null()).spawn();
        let server = Self { _child: Ends(child.into_iter().collect()), directory, url };
        (!server._child.0.is_empty()).then_some(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn role(arguments: &[&str]) -> Child {
    let mut command = Command::new("/proc/self/exe");
    command.arg("--role").args(arguments).stdin(Stdio::null());
    command.spawn().expect("this program starts")
}

fn connection(url: &str) -> Connection {
    let client = redis::Client::open(url).expect("a URL");
    loop {
        if let Ok(connection) = client.get_connection() {
            return connection;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn to_bytes(numbers: impl Iterator<Item = u64>) -> Vec<u8> {
    numbers.flat_map(u64::to_le_bytes).collect()
}

fn from_bytes(bytes: &[u8]) -> impl Iterator<Item = u64> {
    bytes.chunks_exact(8).map(|bytes| u64::from_le_bytes(bytes.try_into().expect("eight")))
}

/// A worker of the bare queue.
fn bare_worker(url: &str) {
    let mut connection = connection(url);
    loop {
        let task: (String, Vec<u8>) =
            redis::cmd("BLPOP").arg("bare:tasks").arg(0).query(&mut connection).expect("a task");
        let squares = to_bytes(from_bytes(&task.1).map(square));
        redis::cmd("RPUSH")
            .arg("bare:results")
            .arg(squares)
            .query::<()>(&mut connection)
            .expect("is taken");
    }
}

fn bare(connection: &mut Connection, len: u64, chunk: u64) -> u64 {
    let (mut next, mut sum, mut in_flight) = (0, 0_u64, 0);
    loop {
        while in_flight < WINDOW && next < len {
            let end = (next + chunk).min(len);
            let task = to_bytes(next..end);
            redis::cmd("RPUSH")
                .arg("bare:tasks")
                .arg(task)
                .query::<()>(connection)
                .expect("is taken");
            (next, in_flight) = (end, in_flight + 1);
        }
        if in_flight == 0 {
            return sum;
        }
        let result: (String, Vec<u8>) =
            redis::cmd("BLPOP").arg("bare:results").arg(0).query(connection).expect("a result");
        sum = from_bytes(&result.1).fold(sum, u64::wrapping_add);
        in_flight -= 1;
    }
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn rate(work: impl FnOnce(), count: u64) -> f64 {
    let start = Instant::now();
    work();
    count as f64 / start.elapsed().as_secs_f64()
}

fn wait_for_workers(url: &str, count: usize) -> Engine {
    loop {
        let engine = Engine::connect(url, NAME).expect("the server is there");
        if mp_pool::engine::Engine::workers(&engine) == count {
            return engine;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn tasks(server: &Server, rounds: usize, scale: u64) {
    let bare_workers = (0..WORKERS).map(|_| role(&["bare", &server.url])).collect();
    let (_bare, _host) = (Ends(bare_workers), Ends(vec![role(&["host", &server.url, "2"])]));
    let engine = wait_for_workers(&server.url, WORKERS);
    let pool = Pool::builder().engine(engine).build().expect("a pool");
    let mut connection = connection(&server.url);
    println!(
        "{:>12} {:>12} {:>12} {:>6} {:>13}",
        "items a task", "pool, 1/s", "bare, 1/s", "ratio", "from .. to"
    );
    for (chunk, len) in [(1, 10_000), (16, 160_000), (4096, 4_000_000)] {
        let len = (len / scale).max(chunk);
        let sum = (0..len).map(square).fold(0, u64::wrapping_add);
        let (mut ours, mut theirs, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..rounds {
            // Who is first has no advantage in the end.
            for turn in 0..2 {
                let mut found = 0;
                if turn == round % 2 {
                    let run = || {
                        let squares = pool.map_chunked(square, 0..len, chunk as usize);
                        let squares = squares.expect("squares").into_iter();
                        found = squares.fold(0, u64::wrapping_add);
                    };
                    ours.push(rate(run, len));
                } else {
                    theirs.push(rate(|| found = bare(&mut connection, len, chunk), len));
                }
                assert_eq!(found, sum);
            }
            ratios.push(theirs[round] / ours[round]);
        }
        ratios.sort_by(f64::total_cmp);
        let span = format!("{:.2} .. {:.2}", ratios[0], ratios[rounds - 1]);
        let (ours, theirs, ratio) = (median(ours), median(theirs), median(ratios));
        println!("{chunk:>12} {ours:>12.0} {theirs:>12.0} {ratio:>6.2} {span:>13}");
    }
}

fn nap(n: u64) -> u64 {
    std::thread::sleep(Duration::from_millis(1));
    n
}

fn hosts(server: &Server, rounds: usize, scale: u64) {
    println!("{:>12} {:>12} {:>12}", "hosts", "1 ms naps/s", "of linear");
    let mut one = 0.0;
    let mut running = Ends(Vec::new());
    for count in [1, 2, 4] {
        while running.0.len() < count {
            running.0.push(role(&["host", &server.url, "1"]));
        }
        let engine = wait_for_workers(&server.url, count);
        let pool = Pool::builder().engine(engine).build().expect("a pool");
        let len = 1000 * count as u64 / scale;
        let run = || assert!(pool.map_chunked(nap, 0..len, 1).is_ok_and(|v| v.len() as u64 == len));
        let rates = (0..rounds).map(|_| rate(run, len)).collect();
        let rate = median(rates);
        if count == 1 {
            one = rate;
        }
        println!("{count:>12} {rate:>12.0} {:>11.0}%", 100.0 * rate / one / count as f64);
    }
}

/// About a millisecond of one processor's time.
fn compute(n: u64) -> u64 {
    (0..200_000)
        .fold(n, |x, _| x.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1).rotate_left(23))
}

/// Tasks that need a processor: no more hosts than there are processors, each with one worker, beside a pool of this
/// machine with as many workers.
fn computing(server: &Server, rounds: usize, scale: u64) {
    println!("{:>12} {:>14} {:>14} {:>6}", "hosts", "computed/s", "own pool, 1/s", "ratio");
    let mut running = Ends(Vec::new());
    for count in 1..=mp_process::cpu_count().min(4) {
        running.0.push(role(&["host", &server.url, "1"]));
        let engine = wait_for_workers(&server.url, count);
        let hosts = Pool::builder().engine(engine).build().expect("a pool");
        let own = Pool::new(count).expect("a pool");
        let len = 1000 * count as u64 / scale;
        let run = |pool: &Pool| {
            let computed = || assert!(pool.map_chunked(compute, 0..len, 1).is_ok());
            rate(computed, len)
        };
        let both: Vec<(f64, f64)> = (0..rounds).map(|_| (run(&hosts), run(&own))).collect();
        let ratio = median(both.iter().map(|(hosts, own)| own / hosts).collect());
        let (hosts, own) = both.into_iter().unzip();
        let (hosts, own) = (median(hosts), median(own));
        println!("{count:>12} {hosts:>14.0} {own:>14.0} {ratio:>6.2}");
    }
}

fn main() {
    mp_process::init();
    let arguments: Vec<String> = std::env::args().collect();
    let words: Vec<&str> = arguments.iter().skip(1).map(String::as_str).collect();
    match words[..] {
        ["--role", "bare", url] => return bare_worker(url),
        ["--role", "host", url, workers] => {
            let workers = workers.parse().expect("a number");
            let lease = Duration::from_secs(2);
            serve(url, NAME)
                .expect("a server")
                .workers(workers)
                .lease(lease)
                .run()
                .expect("serves");
            return;
        }
        _ => {}
    }
    let Some(server) = Server::start() else {
        return println!("NOT MEASURED: redis-server is not in the path");
    };
    let (rounds, scale) = if is_bench() { (7, 1) } else { (1, 100) };
    tasks(&server, rounds, scale);
    // The hosts of each table are gone at its end, and seen to be.
    hosts(&server, rounds.min(3), scale);
    computing(&server, rounds, scale);
}

//! How costs grow: per child as there are more of them, per message as it gets longer, and so on up to memory and
//! descriptors per object.
//!
//! `cargo bench --bench scaling`, or with parts of the tables' names as arguments: `children`, `messages`, `queue`,
//! `pool`, `manager`, `objects`, `waiting`. What is linear has the same cost in each line of a table. More processes
//! than cores take turns, so with those the cost of all together is what counts; where that grows, a column has what the
//! bare mechanism costs then. Without the `--bench` that cargo gives, or with `--quick`, it only shows that everything runs.
#![allow(unsafe_code, reason = "a bare fork server")]

use std::collections::HashMap;
use std::fmt::Display;
use std::hint::black_box;
use std::io::{PipeReader, PipeWriter, Read, Write, pipe};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use std::{fs, thread};

use multiprocess::manager::Dict;
use multiprocess::sync::{Barrier, Condition, Event, RwLock};
use multiprocess::{
    Array, Connection, Fd, Lock, Manager, Pool, Process, Queue, RawArray, Semaphore, SharedMemory,
    Value, active_children, duplex, simplex,
};

/// How much is done.
#[derive(Clone, Copy)]
struct Effort {
    /// How often each line is measured.
    rounds: usize,
    /// How long one measurement of a rate takes.
    time: Duration,
    /// The most of anything.
    most: usize,
}

fn main() {
    multiprocess::init();
    let words: Vec<String> = std::env::args().skip(1).collect();
    let full = words.iter().any(|word| word == "--bench") && !words.contains(&"--quick".into());
    let effort = if full {
        Effort { rounds: 9, time: Duration::from_millis(300), most: usize::MAX }
    } else {
        Effort { rounds: 1, time: Duration::from_millis(5), most: 4 }
    };
    type Table = fn(Effort);
    let tables: [(&str, Table); 7] = [
        ("children", children),
        ("messages", messages),
        ("queue", queue),
        ("pool", pool),
        ("manager", manager),
        ("objects", objects),
        ("waiting", waiting),
    ];
    let wanted: Vec<_> = words.iter().filter(|word| !word.starts_with('-')).collect();
    for (name, table) in tables {
        if wanted.is_empty() || wanted.iter().any(|word| name.contains(word.as_str())) {
            table(effort);
        }
    }
}

/// The sizes of a table: those up to `most`, at least two.
fn steps(all: &[usize], effort: Effort) -> impl Iterator<Item = usize> + Clone {
    let most = effort.most.max(all[1]);
    all.iter().copied().take_while(move |&step| step <= most)
}

fn head(title: &str, columns: &[&str]) {
    println!("\n### {title}\n\n| {} |", columns.join(" | "));
    println!("|{}", " ---: |".repeat(columns.len()));
}

fn line(cells: &[&dyn Display]) {
    let cells: Vec<String> = cells.iter().map(ToString::to_string).collect();
    println!("| {} |", cells.join(" | "));
}

/// Three digits.
fn short(value: f64) -> String {
    match value.abs() {
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn bytes(len: usize) -> String {
    let units = ["B", "KiB", "MiB", "GiB"];
    let unit = (len.ilog2() / 10).min(3) as usize;
    format!("{} {}", len >> (unit * 10), units[unit])
}

/// What `measure` gives for each size, each number as its lower quartile over the rounds: the machine has other things to do
/// at times, and is slower then. So that it is in every line, the sizes take turns.
fn measured<const N: usize>(
    effort: Effort,
    sizes: impl Iterator<Item = usize> + Clone,
    mut measure: impl FnMut(usize) -> [f64; N],
) -> impl Iterator<Item = (usize, [f64; N])> {
    let mut rounds: Vec<Vec<[f64; N]>> = Vec::new();
    rounds.resize_with(effort.rounds, || sizes.clone().map(&mut measure).collect());
    sizes.enumerate().map(move |(line, size)| {
        let quartile = |column: usize| {
            let mut all: Vec<f64> = rounds.iter().map(|round| round[line][column]).collect();
            all.sort_by(f64::total_cmp);
            all[all.len() / 4]
        };
        (size, std::array::from_fn(quartile))
    })
}

fn micros(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e6
}

// Children.

fn wait_for(event: Event) {
    event.wait().expect("is woken");
}

/// A process with one thread that forks a child for each byte it gets. A child says when it runs and waits until the
/// other end of `gate` is closed.
struct BareServer {
    pid: libc::pid_t,
    control: UnixStream,
    started: PipeReader,
    gate: PipeWriter,
}

impl BareServer {
    fn new() -> Self {
        let (control, asked) = UnixStream::pair().expect("a pair");
        let (started, says) = pipe().expect("a pipe");
        let (waits, gate) = pipe().expect("a pipe");
        // SAFETY: no thread of this program runs yet; the copy ends in serve.
        let pid = unsafe { libc::fork() };
        assert!(pid >= 0, "forks");
        if pid == 0 {
            drop((control, started, gate));
            Self::serve(asked, says, waits);
        }
        Self { pid, control, started, gate }
    }

    fn serve(mut asked: UnixStream, mut says: PipeWriter, mut waits: PipeReader) -> ! {
        while asked.read(&mut [0]).is_ok_and(|len| len == 1) {
            // SAFETY: this process has one thread; the copy ends below.
            if unsafe { libc::fork() } == 0 {
                drop(asked);
                let _ = says.write_all(&[1]);
                let _ = waits.read(&mut [0]);
                break;
            }
        }
        // Of a child there is none. SAFETY: null asks for no status.
        while unsafe { libc::waitpid(-1, std::ptr::null_mut(), 0) } > 0 {}
        // SAFETY: ends the process.
        unsafe { libc::_exit(0) }
    }

    fn start(&mut self) {
        self.control.write_all(&[1]).expect("asks");
        self.started.read_exact(&mut [0]).expect("is told");
    }

    /// Ends all children, and itself when it has reaped them.
    fn end(self) {
        drop((self.control, self.gate));
        // SAFETY: null asks for no status.
        assert_eq!(unsafe { libc::waitpid(self.pid, std::ptr::null_mut(), 0) }, self.pid);
    }
}

fn children(effort: Effort) {
    head(
        "Children that live at the same time",
        &[
            "children",
            "start, us each",
            "of a bare fork server",
            "wake, end and join, us each",
            "of a bare fork server",
        ],
    );
    // Quick, and with a wide spread.
    let effort = Effort { rounds: effort.rounds * 2, ..effort };
    let bare = |count| {
        let mut server = BareServer::new();
        let begin = Instant::now();
        (0..count).for_each(|_| server.start());
        let started = micros(begin);
        let begin = Instant::now();
        server.end();
        [started, micros(begin)]
    };
    let ours = |count| {
        let event = Event::new().expect("an event");
        let begin = Instant::now();
        let start = |_| Process::new(wait_for, (event.clone(),)).start().expect("starts");
        let all: Vec<_> = (0..count).map(start).collect();
        let started = micros(begin);
        let begin = Instant::now();
        event.set();
        all.into_iter().for_each(|child| assert!(child.join().expect("joins").success()));
        [started, micros(begin)]
    };
    let all = measured(effort, steps(&[1, 5, 20, 100, 500], effort), |count| {
        let ([bare_start, bare_end], [start, end]) = (bare(count), ours(count));
        [start, bare_start, end, bare_end].map(|all| all / count as f64)
    });
    for (count, columns) in all {
        let [start, bare_start, end, bare_end] = columns.map(short);
        line(&[&count, &start, &bare_start, &end, &bare_end]);
    }
}

// Messages.

fn answer(peer: Connection<u64, ()>, len: usize) {
    let mut buffer = vec![1; len];
    // One word for each message of this length: the other side's clock stops when it has it.
    while let Ok(got) = peer.recv_bytes_into(&mut buffer) {
        peer.send(black_box(got) as u64).expect("answers");
    }
}

fn messages(effort: Effort) {
    head(
        "A message of bytes there, a word back",
        &["length", "us each", "ns a byte over the shortest", "GiB/s"],
    );
    let lengths: Vec<usize> = (0..=6).map(|power| 1 << (5 * power)).collect();
    let lengths = steps(&lengths, Effort { most: effort.most.saturating_mul(1 << 10), ..effort });
    let all = measured(effort, lengths, |len| {
        let (near, far) = duplex::<(), u64>().expect("a pipe");
        let child = Process::new(answer, (far, len)).start().expect("starts");
        let data = vec![1_u8; len];
        let trip = || {
            near.send_bytes(&data).expect("sends");
            assert_eq!(near.recv().expect("is answered"), len as u64);
        };
        trip();
        let (begin, mut count) = (Instant::now(), 0);
        while count == 0 || begin.elapsed() < effort.time {
            trip();
            count += 1;
        }
        let each = micros(begin) / f64::from(count);
        drop(near);
        child.join().expect("joins");
        [each]
    });
    let mut shortest = None;
    for (len, [each]) in all {
        let least = *shortest.get_or_insert(each);
        let a_byte = (each - least) * 1000.0 / len as f64;
        let rate = len as f64 / f64::from(1 << 30) / (each / 1e6);
        line(&[&bytes(len), &short(each), &format!("{a_byte:.3}"), &short(rate)]);
    }
}

// Queue.

fn produce(queue: Queue<u64>, gate: Barrier, time: Duration) -> u64 {
    gate.wait().expect("begins");
    let (begin, mut count) = (Instant::now(), 0);
    while begin.elapsed() < time {
        (0..64).for_each(|n| queue.put(n).expect("puts"));
        count += 64;
    }
    count
}

fn consume(queue: Queue<u64>, gate: Barrier) -> u64 {
    gate.wait().expect("begins");
    let mut count = 0;
    while queue.get().is_ok() {
        count += 1;
    }
    count
}

fn queue(effort: Effort) {
    head(
        "Processes at one queue of 1024 numbers, half of them put, half get",
        &["processes", "M items/s", "ns an item"],
    );
    let all = measured(effort, steps(&[2, 4, 8, 16, 32, 64], effort), |count| {
        let queue = Queue::bounded(1024).expect("a queue");
        let gate = Barrier::new(count + 1).expect("a barrier");
        let (mut producers, mut consumers) = (Vec::new(), Vec::new());
        for _ in 0..count / 2 {
            let arguments = (queue.clone(), gate.clone());
            consumers.push(Process::new(consume, arguments).start().expect("starts"));
            let arguments = (queue.clone(), gate.clone(), effort.time);
            producers.push(Process::new(produce, arguments).start().expect("starts"));
        }
        gate.wait().expect("begins");
        let begin = Instant::now();
        let sum = |all: Vec<multiprocess::Child<u64>>| -> u64 {
            all.into_iter().map(|child| child.result().expect("counts")).sum()
        };
        let put = sum(producers);
        // What was put can still be got.
        queue.close();
        let got = sum(consumers);
        assert_eq!(put, got);
        [micros(begin) * 1000.0 / got as f64]
    });
    for (count, [nanos]) in all {
        line(&[&count, &short(1000.0 / nanos), &short(nanos)]);
    }
}

// Pool.

fn busy(time: Duration) {
    let begin = Instant::now();
    while begin.elapsed() < time {
        std::hint::spin_loop();
    }
}

fn pool(effort: Effort) {
    let workers = multiprocess::cpu_count();
    head(
        &format!(
            "A pool of {workers} that computes: tasks one by one, and what they cost beside their own time"
        ),
        &["task, us", "tasks/s", "us a task and worker over its own", "of linear, %"],
    );
    let pool = Pool::new(workers).expect("a pool");
    let all = measured(effort, steps(&[0, 10, 100, 1000, 10_000], effort), |task| {
        let time = Duration::from_micros(task as u64);
        let (begin, mut done) = (Instant::now(), 0);
        while done == 0 || begin.elapsed() < effort.time {
            let count = if task < 1000 { 1000 } else { 20 * workers };
            pool.map_chunked(busy, vec![time; count], 1).expect("runs");
            done += count;
        }
        [micros(begin) / done as f64]
    });
    for (task, [each]) in all {
        // What each worker needs for a task, all of them together.
        let over = each * workers as f64 - task as f64;
        let linear = if task == 0 {
            "-".to_string()
        } else {
            short(100.0 * task as f64 / (each * workers as f64))
        };
        line(&[&task, &short(1e6 / each), &short(over), &linear]);
    }
}

// Manager.

fn client(dict: Dict<u64, u64>, gate: Barrier, time: Duration) -> u64 {
    dict.insert(0, 0).expect("sets");
    gate.wait().expect("begins");
    let (begin, mut count) = (Instant::now(), 0);
    while begin.elapsed() < time {
        for key in 0..16 {
            dict.insert(key, count).expect("sets");
        }
        count += 16;
    }
    count
}

/// In a client's first word it asks, and in its second it is answered; each has a cache line of its own.
type Words = RawArray<AtomicU64>;

fn words_of(words: &Words, client: usize) -> [&AtomicU64; 2] {
    [&words[16 * client], &words[16 * client + 8]]
}

/// Looks for what is awaited, and lets others run after a while.
fn look(mut found: impl FnMut() -> bool) {
    let mut looks = 0;
    while !found() {
        looks += 1;
        if looks > 64 { thread::yield_now() } else { std::hint::spin_loop() }
    }
}

/// The same by bare words.
fn word_client(words: Words, client: usize, gate: Barrier, time: Duration) -> u64 {
    let [asked, answered] = words_of(&words, client);
    gate.wait().expect("begins");
    let (begin, mut count) = (Instant::now(), 0);
    while begin.elapsed() < time {
        for _ in 0..16 {
            count += 1;
            asked.store(count, Ordering::Release);
            look(|| answered.load(Ordering::Acquire) == count);
        }
    }
    count
}

/// Ends the threads that serve such clients, when dropped.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A thread that serves one such client.
fn word_thread(map: &Mutex<HashMap<u64, u64>>, words: Words, client: usize, end: &AtomicBool) {
    let [asked, answered] = words_of(&words, client);
    let mut last = 0;
    loop {
        look(|| asked.load(Ordering::Acquire) != last || end.load(Ordering::Relaxed));
        if end.load(Ordering::Relaxed) {
            return;
        }
        last = asked.load(Ordering::Acquire);
        map.lock().expect("is whole").insert(last % 16, last);
        answered.store(last, Ordering::Release);
    }
}

/// The same through a socket: who has nothing to do sleeps in the kernel.
fn bare_client(socket: Fd, gate: Barrier, time: Duration) -> u64 {
    let mut socket = UnixStream::from(OwnedFd::from(socket));
    gate.wait().expect("begins");
    let (begin, mut count) = (Instant::now(), 0_u64);
    while begin.elapsed() < time {
        for key in 0..16_u64 {
            let words = [key.to_ne_bytes(), count.to_ne_bytes()];
            socket.write_all(words.as_flattened()).expect("asks");
            socket.read_exact(&mut [0; 8]).expect("is answered");
        }
        count += 16;
    }
    count
}

/// A thread that serves one such client.
fn bare_thread(map: &Mutex<HashMap<u64, u64>>, mut socket: UnixStream) {
    let mut words = [[0; 8]; 2];
    while socket.read_exact(words.as_flattened_mut()).is_ok() {
        let [key, value] = words.map(u64::from_ne_bytes);
        let old = map.lock().expect("is whole").insert(key, value).unwrap_or(0);
        socket.write_all(&old.to_ne_bytes()).expect("answers");
    }
}

fn manager(effort: Effort) {
    // With many, each begins and ends at a time of its own.
    let effort = Effort { time: effort.time * 2, ..effort };
    head(
        "Clients that set entries of one dict of a manager",
        &["clients", "M sets/s", "us a set", "by threads and words", "and sockets"],
    );
    let rate = |clients: Vec<multiprocess::Child<u64>>, gate: &Barrier| {
        gate.wait().expect("begins");
        let begin = Instant::now();
        let done: u64 = clients.into_iter().map(|one| one.result().expect("counts")).sum();
        micros(begin) / done as f64
    };
    let ours = |count| {
        let manager = Manager::new().expect("a manager");
        let dict = manager.dict().expect("a dict");
        let gate = Barrier::new(count + 1).expect("a barrier");
        let start = |_| {
            let arguments = (dict.clone(), gate.clone(), effort.time);
            Process::new(client, arguments).start().expect("starts")
        };
        rate((0..count).map(start).collect(), &gate)
    };
    let by_sockets = |count| {
        let map = Arc::new(Mutex::new(HashMap::new()));
        let gate = Barrier::new(count + 1).expect("a barrier");
        let start = |_| {
            let (near, far) = UnixStream::pair().expect("a pair");
            let map = Arc::clone(&map);
            thread::spawn(move || bare_thread(&map, near));
            let arguments = (Fd::from(OwnedFd::from(far)), gate.clone(), effort.time);
            Process::new(bare_client, arguments).start().expect("starts")
        };
        rate((0..count).map(start).collect(), &gate)
    };
    let by_words = |count| {
        let words = Words::zeroed(16 * count).expect("memory");
        let (map, end) = (Mutex::new(HashMap::new()), AtomicBool::new(false));
        let gate = Barrier::new(count + 1).expect("a barrier");
        let start = |client| {
            let arguments = (words.clone(), client, gate.clone(), effort.time);
            Process::new(word_client, arguments).start().expect("starts")
        };
        thread::scope(|scope| {
            for client in 0..count {
                let (map, words, end) = (&map, words.clone(), &end);
                scope.spawn(move || word_thread(map, words, client, end));
            }
            // Also where a client fails: the scope waits for the threads.
            let _end = End(&end);
            rate((0..count).map(start).collect(), &gate)
        })
    };
    let sizes = steps(&[1, 2, 4, 8, 16, 32, 64, 128], effort);
    let all = measured(effort, sizes, |count| [ours(count), by_words(count), by_sockets(count)]);
    for (count, [each, by_words, by_sockets]) in all {
        let columns = [1.0 / each, each, by_words, by_sockets].map(short);
        let [rate, each, by_words, by_sockets] = &columns;
        line(&[&count, rate, each, by_words, by_sockets]);
    }
}

// Objects.

/// Open descriptors, and KiB of memory that only this process has or has its share of.
fn holdings() -> [f64; 2] {
    let descriptors = fs::read_dir("/proc/self/fd").expect("proc").count();
    let text = fs::read_to_string("/proc/self/smaps_rollup").expect("proc");
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).expect("a line");
    let size = line.trim().trim_end_matches(" kB").parse().expect("a number");
    [descriptors as f64, size]
}

fn objects(effort: Effort) {
    head(
        "What one more object holds, in the process that made it",
        &["object", "descriptors", "KiB", "KiB, of many"],
    );
    let many = 200.min(effort.most);
    fn row<T>(name: &str, many: usize, mut make: impl FnMut() -> T) {
        // Whatever the first of a kind brings with it is not for each.
        let first = make();
        let mut per = |count: usize| {
            let before = holdings();
            let all: Vec<T> = (0..count).map(|_| make()).collect();
            let after = holdings();
            drop(all);
            [0, 1].map(|index| (after[index] - before[index]) / count as f64)
        };
        let (few, all) = (per(many.div_ceil(10)), per(many));
        drop(first);
        line(&[&name, &short(all[0]), &short(few[1]), &short(all[1])]);
    }
    row("Lock", many, || Lock::new().expect("a lock"));
    row("Semaphore", many, || Semaphore::new(1).expect("a semaphore"));
    row("Event", many, || Event::new().expect("an event"));
    row("Barrier", many, || Barrier::new(2).expect("a barrier"));
    row("Value<u64>", many, || Value::new(0_u64).expect("a value"));
    row("Array of 1024 bytes", many, || Array::from_slice(&[1_u8; 1024]).expect("an array"));
    row("SharedMemory of 4096", many, || {
        let memory = SharedMemory::create(None, 4096).expect("memory");
        memory.unlink().expect("takes the name away");
        memory
    });
    row("simplex, both ends", many, || simplex::<u64>().expect("a pipe"));
    row("duplex, both ends", many, || duplex::<u64, u64>().expect("a pipe"));
    row("duplex, used", many, || {
        let ends = duplex::<u64, u64>().expect("a pipe");
        ends.0.send(1).expect("sends");
        ends.1.recv().expect("receives");
        ends
    });
    row("Queue, bounded to 1024", many, || Queue::<u64>::bounded(1024).expect("a queue"));
    row("Queue, used", many, || {
        let queue = Queue::<u64>::unbounded().expect("a queue");
        queue.put(1).expect("puts");
        queue.get().expect("gets");
        queue
    });
    let manager = Manager::new().expect("a manager");
    row("Dict of a manager", many, || manager.dict::<u64, u64>().expect("a dict"));
}

// Waiting.

/// The time of CPUs that this process and its children have had, in us: of the threads that they have now, without the
/// one that measures.
fn cpu_time() -> f64 {
    let this = std::process::id().to_string();
    let children = active_children();
    let pids = children.iter().map(|child| child.pid()).chain([std::process::id()]);
    let threads = pids.flat_map(|pid| fs::read_dir(format!("/proc/{pid}/task")).expect("proc"));
    threads
        .filter_map(|thread| thread.ok().filter(|thread| *thread.file_name() != *this))
        .filter_map(|thread| fs::read_to_string(thread.path().join("schedstat")).ok())
        .filter_map(|text| text.split(' ').next()?.parse::<f64>().ok())
        .sum::<f64>()
        / 1000.0
}

/// What each of `count` that wait costs, in us of a CPU for each second.
fn idle(count: usize, effort: Effort) -> f64 {
    let time = effort.time * 3;
    // Who begins to wait looks often at first.
    thread::sleep(time / 3);
    let before = cpu_time();
    thread::sleep(time);
    (cpu_time() - before) / time.as_secs_f64() / count as f64
}

/// The same of `count` threads that wait until `end`.
fn idle_threads(count: usize, effort: Effort, wait: impl Fn() + Sync, end: impl FnOnce()) -> f64 {
    thread::scope(|scope| {
        (0..count).for_each(|_| _ = scope.spawn(&wait));
        let each = idle(count, effort);
        end();
        each
    })
}

fn waiting(effort: Effort) {
    head(
        "What waits, and does so for long: us of a CPU in each second",
        &["for", "1 waits", "10 wait: each", "100 wait: each"],
    );
    let row = |name: &str, measure: &dyn Fn(usize) -> f64| {
        let each = [1, 10, 100].map(|count| short(measure(count.min(effort.most))));
        line(&[&name, &each[0], &each[1], &each[2]]);
    };
    row("Event", &|count| {
        let event = Event::new().expect("an event");
        idle_threads(count, effort, || event.wait().expect("waits"), || event.set())
    });
    row("Barrier", &|count| {
        let barrier = Barrier::new(count + 1).expect("a barrier");
        let arrive = || _ = barrier.wait().expect("waits");
        idle_threads(count, effort, arrive, arrive)
    });
    row("Semaphore", &|count| {
        let permits = Semaphore::new(1).expect("a semaphore");
        let held = permits.permit().expect("takes");
        idle_threads(count, effort, || drop(permits.permit()), || drop(held))
    });
    row("Lock", &|count| {
        let lock = Lock::new().expect("a lock");
        let held = lock.lock().expect("takes");
        idle_threads(count, effort, || drop(lock.lock()), || drop(held))
    });
    row("Condition", &|count| {
        let condition = Condition::new().expect("a condition");
        let wait = || drop(condition.wait(condition.lock().expect("takes")));
        idle_threads(count, effort, wait, || condition.notify_all())
    });
    row("RwLock, to read", &|count| {
        let lock = RwLock::new(0_u64).expect("a lock");
        let held = lock.write().expect("takes");
        idle_threads(count, effort, || drop(lock.read()), || drop(held))
    });
    row("Queue", &|count| {
        let queue = Queue::<u64>::unbounded().expect("a queue");
        idle_threads(count, effort, || assert!(queue.get().is_err()), || queue.close())
    });
    row("duplex", &|count| {
        let (near, far): (Vec<_>, Vec<_>) =
            (0..count).map(|_| duplex::<u64, u64>().expect("a pipe")).unzip();
        let near = Mutex::new(near);
        let receive = || {
            let near = near.lock().expect("whole").pop().expect("as many");
            assert!(near.recv().is_err());
        };
        idle_threads(count, effort, receive, || drop(far))
    });
    row("Child, to join", &|count| {
        let gate = Event::new().expect("an event");
        let child = Process::new(wait_for, (gate.clone(),)).start().expect("starts");
        idle_threads(count, effort, || _ = child.join(), || gate.set())
    });
    row("Queue of a manager", &|count| {
        let manager = Manager::new().expect("a manager");
        let queue = manager.queue::<u64>(0).expect("a queue");
        let give = || (0..count).for_each(|n| queue.put(n as u64).expect("puts"));
        idle_threads(count, effort, || _ = queue.get(), give)
    });
    row("Pool, for tasks", &|count| {
        let count = count.min(20);
        let pool = Pool::new(count).expect("a pool");
        pool.map(busy, vec![Duration::ZERO; 1000]).expect("maps");
        idle(count, effort)
    });
}

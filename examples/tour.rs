//! The examples of a course on Python's `multiprocessing`, in order, as Rust programs: a few seconds, and a
//! line at the end that says what was checked.
//!
//! `cargo run --release --example tour`

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use multiprocess::{
    Array, Connection, Dict, Error, Fd, List, Lock, Manager, Object, Pool, Process, ProcessError,
    Queue, Result, Run, Semaphore, Sender, StartMethod, Value, active_children, cpu_count,
    current_process, duplex, manager, parent_process, pipe, queue, simplex,
};
use serde::{Deserialize, Serialize};

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    // A child is this program again; this line is where it turns off.
    multiprocess::init();
    let start = Instant::now();
    let mut checks = 0;

    heading("Ten processes of a class of our own: pid, is_alive, number");
    let list: Vec<_> = (0..10).map(|num| Process::of(MyProcess { num })).collect();
    let started: Result<Vec<_>> = list.into_iter().map(Process::start).collect();
    println!("ending");
    let mut numbers = Vec::new();
    for child in started? {
        let pid = child.pid();
        let (own, num) = child.result()?;
        checks += check("the pid here is the pid there", pid == own);
        numbers.push(num);
    }
    checks += check("all ten numbers came back", numbers == (0..10).collect::<Vec<_>>());

    heading("A pipe: a list from the child, and its answer");
    let (conn1, conn2) = duplex()?;
    let child = Process::new(send_list, (conn2,)).start()?;
    let list = conn1.recv()?;
    println!("{list:?}");
    conn1.send("hello".to_string())?;
    checks += check("the child has its answer", child.result()? == "hello");
    checks += check("it came whole", list.0 == 12 && list.2 == "hello");
    let end = conn1.recv();
    checks += check("then the end, as it is gone", matches!(end, Err(pipe::Error::Disconnected)));

    heading("A manager: ten processes change one dict and one list");
    let manager = Manager::new()?;
    let (d, l) = (manager.dict::<Object, Object>()?, manager.list(0..5)?);
    let start_one = |n| Process::new(change, (d.clone(), l.clone(), n)).start();
    let started: Result<Vec<_>> = (0..10).map(start_one).collect();
    started?.into_iter().try_for_each(|child| child.result())?;
    println!("{d}\n{l}");
    checks += check("every change is there", d.len()? == 11 && l.len()? == 15);

    heading("A pipe of one direction");
    let (receiver, sender) = simplex()?;
    let child = Process::new(count_up, (sender,)).start()?;
    let numbers: Vec<u32> = receiver.iter().collect();
    println!("received {numbers:?}, and then the end");
    checks += check("in order", numbers == [1, 2, 3]);
    child.join()?;

    heading("A queue with room for three: a child puts, its parent gets until it is empty");
    let queue = Queue::bounded(3)?;
    Process::new(put_three, (queue.clone(),)).start()?.join()?;
    checks += check("put, full, qsize", queue.is_full() && queue.len() == 3);
    let refused = queue.try_put("four".to_string()).unwrap_err();
    checks += check("a fourth is given back", refused.value == "four");
    while !queue.is_empty() {
        println!("{}", queue.get()?);
    }
    let error = queue.get_timeout(Duration::from_millis(10)).unwrap_err();
    checks += check("then a get times out", matches!(error, queue::Error::TimedOut));

    heading("A pool, with a manager's queue and with a plain one");
    let pool = Pool::new(2)?;
    let managed = manager.queue(0)?;
    pool.apply(put_managed, (managed.clone(), 1))?;
    checks += check("what a task put is there", managed.get()? == 1);
    let queue = Queue::unbounded()?;
    let puts: Vec<_> = (0..3).map(|n| pool.apply_async(put_one, (queue.clone(), n))).collect();
    puts.iter().try_for_each(|put| put.get())?;
    let mut got = queue.get_many(3)?;
    got.sort_unstable();
    println!("tasks put 1 into the manager's queue, and {got:?} into a plain one");
    checks += check("a plain queue does it too", got == [0, 1, 2]);

    heading("Shared memory: Value, Array, Lock");
    let (number, letters, lock) = (Value::new(0)?, Array::<u8>::zeroed(6)?, Lock::new()?);
    let count = || Process::new(add_under_lock, (number.clone(), lock.clone())).start();
    let adders: Result<Vec<_>> = (0..4).map(|_| count()).collect();
    for child in adders? {
        child.join()?;
    }
    println!("four processes counted to {}", number.get());
    checks += check("no count is lost", number.get() == 4000);
    Process::new(write, (letters.clone(),)).start()?.join()?;
    println!("a process wrote {:?}", String::from_utf8_lossy(&letters.to_vec()));
    checks += check("what it wrote is here", letters.to_vec() == b"shared");

    heading("A process killed while it holds a lock");
    let child = Process::new(hold, (lock.clone(), number.clone())).start()?;
    while number.get() >= 0 {
        thread::yield_now();
    }
    child.kill()?;
    let news = lock.lock().unwrap_err();
    println!("its lock is had here, with the news of its death");
    checks += check("the next one is told, and has the lock", lock.is_locked());
    drop(news);
    child.join()?;

    heading("A semaphore");
    let semaphore = Semaphore::new(2)?;
    let left = Process::new(take_one, (semaphore.clone(),)).start()?.result()?;
    checks += check("a permit was taken there", (left, semaphore.value()) == (1, 1));
    semaphore.acquire()?;
    let none = semaphore.try_acquire();
    println!("all are taken: {}", none.as_ref().unwrap_err());
    checks += check("at 0 it waits, or says that it would", none.is_err());

    heading("What a process has: name, pid, daemon, is_alive, exit code");
    let p = Process::new(sleep_for_ever, ()).name("sleeper").daemon(true).start()?;
    println!("{} is process {} of {}", p.name(), p.pid(), current_process().name());
    checks += check("it runs", p.is_alive() && p.daemon() && p.exit_code().is_none());
    let waited = p.join_timeout(Duration::from_millis(50))?;
    checks += check("join with a timeout gives up", waited.is_none());
    checks += check("close is refused", matches!(p.close(), Err(Error::StillRunning { .. })));
    p.terminate()?;
    println!("{} {}", p.name(), p.join()?);
    checks += check("SIGTERM ended it", p.exit_code() == Some(-15));

    heading("Processes share nothing, and know their parent");
    let there = Process::new(parent, ()).start()?.result()?;
    checks += check("its parent is this process", there == Some(std::process::id()));

    heading("Four named processes that sleep for random times");
    let names = ["p1", "p2", "p3", "p4"];
    let started: Result<Vec<_>> =
        names.iter().map(|name| Process::new(task, (name.to_string(),)).start()).collect();
    let children = active_children().len();
    println!("main process: all four are started; {children} children with workers and server");
    let slept: std::result::Result<Vec<u64>, _> =
        started?.into_iter().map(|child| child.result()).collect();
    checks += check("each told how long it slept", slept?.iter().all(|&ms| ms >= 100));

    heading("The same by a class");
    let start_one = |name: &&str| Process::of(Pro { name: name.to_string() }).name(*name).start();
    let started: Result<Vec<_>> = names.iter().map(start_one).collect();
    let all: std::result::Result<Vec<u64>, _> =
        started?.into_iter().map(|child| child.result()).collect();
    checks += check("all four ran", all?.len() == 4);

    heading("A function in a process: start, join");
    let p = Process::new(fun, ()).start()?;
    checks += check("the process ended well", p.join()?.success());

    heading("The pool again: apply_async, map, and a worker that dies");
    let squares: Vec<_> = (0..5).map(|x| pool.apply_async(square, (x,))).collect();
    let squares: Vec<u64> = squares.iter().map(|result| result.get()).collect::<Result<_, _>>()?;
    println!("{squares:?} {:?}", pool.map(square, 5..10)?);
    checks += check("in order", squares == [0, 1, 4, 9, 16] && pool.apply(square, (5,))? == 25);
    let error = pool.apply(crash, ()).unwrap_err();
    println!("{error}");
    checks += check("it costs its task only", pool.apply(square, (6,))? == 36);
    pool.close();
    pool.join()?;

    heading("Two processes copy the halves of a file (examples/copy_file.rs does it well)");
    let (mut source, target) = (io::pipe()?, io::pipe()?);
    source.1.write_all(b"first half, second half")?;
    drop(source.1);
    let mut half = [0; 12];
    source.0.read_exact(&mut half)?;
    println!("{:?} is copied here", String::from_utf8_lossy(&half));
    (&target.1).write_all(&half)?;
    let child = Process::new(copy_rest, (source.0.into(), target.1.into())).start()?;
    // Before its result: a pipe may have room for one half only (pipe(7), `pipe-user-pages-soft`).
    let copy = io::read_to_string(target.0)?;
    child.result()??;
    checks += check("the copy is whole", copy == "first half, second half");

    heading("A process for a client, as in a chat room (examples/chat.rs)");
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut client = TcpStream::connect(listener.local_addr()?)?;
    let child = Process::new(greet, (listener.accept()?.0.into(),)).start()?;
    client.write_all(b"yuan\n")?;
    let greeting = io::read_to_string(client)?;
    println!("{greeting}");
    checks += check("the child has the socket", greeting == "hello yuan");
    child.join()?;

    heading("A panic, a crash: the parent goes on and knows why");
    println!("(the child reports its panic on standard error as well)");
    let error = Process::new(divide, (1, 0)).start()?.result().unwrap_err();
    println!("{error}");
    checks += check("the panic's message is here", matches!(error, ProcessError::Panicked(_)));
    let error = Process::new(crash, ()).start()?.result().unwrap_err();
    println!("{error}");
    checks += check("so is the signal", matches!(error, ProcessError::Signaled(6)));

    heading("Three ways to start, one behaviour");
    for method in StartMethod::ALL {
        // `Fork` is refused while there are threads: those of the pool ended as it was joined.
        let begin = Instant::now();
        let sum = Process::new(add, (1, 2)).start_method(method).start()?.result()?;
        println!("{method:?}: 1 + 2 = {sum} after {:.1} ms", begin.elapsed().as_secs_f64() * 1e3);
        checks += check("the same sum", sum == 3);
    }

    println!(
        "\n{checks} checks passed in {:.1} s on {} CPUs: processes, pipes, queues, shared memory, locks, a pool, a manager",
        start.elapsed().as_secs_f64(),
        cpu_count()
    );
    Ok(())
}

fn heading(text: &str) {
    println!("\n== {text}");
}

/// Counts one check; a failed one ends the tour.
fn check(what: &str, holds: bool) -> u32 {
    assert!(holds, "not so: {what}");
    1
}

fn fun() {
    println!("ddd");
}

fn task(name: String) -> u64 {
    let ms = 100 + u64::from(std::process::id()) * 7919 % 300;
    println!("{name} is running");
    thread::sleep(Duration::from_millis(ms));
    println!("{name} ends after {ms} ms");
    ms
}

#[derive(Serialize, Deserialize)]
struct Pro {
    name: String,
}

impl Run for Pro {
    type Output = u64;

    fn run(self) -> u64 {
        task(self.name)
    }
}

#[derive(Serialize, Deserialize)]
struct MyProcess {
    num: u32,
}

impl Run for MyProcess {
    type Output = (u32, u32);

    fn run(self) -> (u32, u32) {
        thread::sleep(Duration::from_millis(100));
        let this = current_process();
        println!("pid {}, alive {}, number {}", this.pid(), this.is_alive(), self.num);
        (this.pid(), self.num)
    }
}

fn sleep_for_ever() {
    thread::sleep(Duration::from_secs(1000));
}

fn parent() -> Option<u32> {
    let parent = parent_process()?;
    println!("the parent of {} is {}", current_process().name(), parent.name());
    Some(parent.pid())
}

fn add_under_lock(number: Value<i32>, lock: Lock) {
    for _ in 0..1000 {
        let _guard = lock.lock().expect("no holder died");
        number.set(number.get() + 1);
    }
}

fn write(letters: Array<u8>) {
    letters.copy_from_slice(b"shared").expect("has six");
}

fn take_one(semaphore: Semaphore) -> u32 {
    semaphore.acquire().expect("is free");
    semaphore.value()
}

type Mixed = (i32, BTreeMap<String, String>, String);

fn send_list(conn: Connection<Mixed, String>) -> String {
    let names = BTreeMap::from([("name".to_string(), "yuan".to_string())]);
    conn.send((12, names, "hello".to_string())).expect("sends");
    conn.recv().expect("is answered")
}

fn put_three(queue: Queue<String>) {
    for item in ["one", "two", "three"] {
        queue.put(item.to_string()).expect("puts");
    }
}

fn change(d: Dict<Object, Object>, l: List<i32>, n: i32) {
    d.insert(n.into(), "1".into()).expect("inserts");
    d.insert("2".into(), 2.into()).expect("inserts");
    l.push(n).expect("pushes");
}

fn count_up(conn: Sender<u32>) {
    (1..4).for_each(|n| conn.send(n).expect("sends"));
}

fn put_managed(queue: manager::Queue<u32>, n: u32) {
    queue.put(n).expect("puts");
}

fn copy_rest(source: Fd, target: Fd) -> std::result::Result<u64, String> {
    println!("the rest is copied by {}", current_process().name());
    let (mut source, mut target) = (io::PipeReader::from(source), io::PipeWriter::from(target));
    io::copy(&mut source, &mut target).map_err(|error| error.to_string())
}

fn greet(stream: Fd) {
    let mut stream = TcpStream::from(stream);
    let mut name = String::new();
    BufReader::new(&stream).read_line(&mut name).expect("reads");
    write!(stream, "hello {}", name.trim()).expect("writes");
}

fn put_one(queue: Queue<u64>, n: u64) {
    queue.put(n).expect("puts");
}

fn square(x: u64) -> u64 {
    x * x
}

fn hold(lock: Lock, number: Value<i32>) {
    let _guard = lock.lock();
    number.set(-1);
    thread::sleep(Duration::from_secs(1000));
}

fn divide(a: i32, b: i32) -> i32 {
    a.checked_div(b).expect("nobody divides by zero")
}

fn crash() {
    std::process::abort();
}

fn add(a: i32, b: i32) -> i32 {
    a + b
}

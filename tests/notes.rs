//! The examples of the notes on Python's module, and what they state about processes, one test each.
//!
//! | passage | test |
//! | --- | --- |
//! | a process is made from a function and its arguments, started and joined | `a_process_is_made_started_and_joined` |
//! | four processes `p1` to `p4` print that they run, sleep for a random time, and print that they end; the main process goes on meanwhile | `four_named_processes_run_while_the_main_process_goes_on` |
//! | the same by a subclass with a `run` method, whose name is an attribute | `four_processes_of_a_class_run` |
//! | ten processes of a subclass print their pid, that they are alive, and their number | `ten_processes_of_a_class_print_their_number` |
//! | `name`, `pid`, `is_alive()`, `daemon` | `a_process_has_a_name_a_pid_and_a_life` |
//! | `daemon` is set before the start; a daemon ends with its parent and makes no processes | `a_daemon_ends_with_its_parent_and_makes_no_processes` |
//! | `join(timeout)` waits no longer than that | `join_waits_no_longer_than_its_timeout` |
//! | `terminate()` ends a process at once, without clean-up | `terminate_ends_a_process_at_once` |
//! | `close()` on a process that runs is an error | `close_while_it_runs_is_an_error` |
//! | processes share nothing: what one changes, the other does not see | `what_a_process_changes_it_changes_for_itself` |
//! | a child cannot use standard input | `a_child_has_no_standard_input` |
//! | `Value('i'/'f'/'c', data)`: memory that all processes read and write, by the attribute `value` | `a_value_is_read_and_written_by_all` |
//! | `Array('i', [1, 2, 3, 4, 5])` holds a list, `Array('c', 6)` six characters | `an_array_holds_a_list_or_so_many_elements` |
//! | `Lock()`: `acquire()` and `release()` keep others out | `a_lock_keeps_others_out` |
//! | `Semaphore(number)`: `acquire()` takes one and waits at 0, `release()` adds one, `get_value()` tells | `a_semaphore_counts_and_blocks_at_zero` |
//! | a process that is terminated while it holds a lock leaves the others in a deadlock | `a_terminated_holder_of_a_lock_deadlocks_nobody` |
//! | `Pipe()`: the child sends `[12, {'name': 'yuan'}, 'hello']`, prints what it is answered and closes its end | `a_pipe_carries_a_list_and_its_answer` |
//! | a pipe has two directions; with `duplex=False` the first end only receives and the second only sends | `a_pipe_has_two_directions_or_one` |
//! | `send(data)`: a text or an object; `recv()` receives one of them | `one_recv_receives_one_message` |
//! | `recv()` waits while the pipe is empty, and raises `EOFError` once the sending end is closed | `recv_waits_and_fails_once_the_sender_is_closed` |
//! | each process closes the end it does not use | `no_end_need_be_closed_by_who_does_not_use_it` |
//! | `Queue()`: a child puts data of any kind, the parent gets it, `while not q.empty(): q.get()` | `queue::a_child_puts_and_its_parent_gets_until_the_queue_is_empty` |
//! | `Queue(3)`: `put`, `get`, `full()`, `empty()`, `qsize()`; getting from an empty one without waiting fails | `queue::put_get_full_empty_and_length_are_exact_between_processes` |
//! | `put` waits while the queue is full, `get` while it is empty; both take a timeout | `queue::a_full_queue_blocks_until_a_process_gets`, `queue::timeouts_bound_the_whole_call_and_are_not_empty_or_full` |
//! | `close()` closes the queue | `queue::close_ends_those_who_wait_and_lets_what_is_left_be_got` |
//! | `Pool(4)`, `apply_async(func, args)` in a loop, `close()`, `join()` | `a_pool_runs_what_is_submitted_and_is_closed_and_joined` |
//! | `apply()` waits for each task, `map()` for all; `apply_async()` and `map_async()` do not | `apply_and_map_wait_and_their_async_forms_do_not` |
//! | what a task of a pool returns comes back | `tasks_of_a_pool_return_values` |
//! | a pool without a number has as many processes as the system says | `a_pool_has_as_many_processes_as_the_system_says` |
//! | processes of a pool cannot use a `Queue` to communicate | `a_pool_and_a_queue_work_together`: here they can |
//! | `Manager()`: ten processes change a dict and a list, `d[n] = '1'`, `d['2'] = 2`, `l.append(n)`, which are printed | `manager::the_ten_processes_of_the_notes` |
//! | a pool's tasks communicate by `Manager().Queue()` | `manager::a_queue_of_a_manager_serves_a_pool` |
//! | the code below the guard of `__main__` runs in the main process only | `main_runs_once` |

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use multiprocess::{
    Array, Connection, Error, Lock, Pool, Process, Queue, Receiver, Run, Semaphore, Sender,
    StartMethod, Value, cpu_count, current_process, duplex, pipe, simplex,
};
use serde::{Deserialize, Serialize};

use crate::support::{Outcome, Role, role};

crate::cases! {
    EACH:
        a_process_is_made_started_and_joined
        four_named_processes_run_while_the_main_process_goes_on
        four_processes_of_a_class_run
        ten_processes_of_a_class_print_their_number
        a_process_has_a_name_a_pid_and_a_life
        join_waits_no_longer_than_its_timeout
        terminate_ends_a_process_at_once
        close_while_it_runs_is_an_error
        what_a_process_changes_it_changes_for_itself
        a_child_has_no_standard_input
        a_value_is_read_and_written_by_all
        an_array_holds_a_list_or_so_many_elements
        a_lock_keeps_others_out
        a_semaphore_counts_and_blocks_at_zero
        a_terminated_holder_of_a_lock_deadlocks_nobody
        a_pool_runs_what_is_submitted_and_is_closed_and_joined
        apply_and_map_wait_and_their_async_forms_do_not
        tasks_of_a_pool_return_values
        a_pool_has_as_many_processes_as_the_system_says
        a_pool_and_a_queue_work_together
        a_pipe_carries_a_list_and_its_answer
        a_pipe_has_two_directions_or_one
        one_recv_receives_one_message
        recv_waits_and_fails_once_the_sender_is_closed
        no_end_need_be_closed_by_who_does_not_use_it
    ;
    ONCE:
        a_daemon_ends_with_its_parent_and_makes_no_processes
        main_runs_once
    ;
}

pub(crate) const ROLES: &[Role] = &[
    ("four-named", four_named),
    ("four-of-a-class", four_of_a_class),
    ("ten-of-a-class", ten_of_a_class),
    ("one-function", one_function),
    ("with-daemon", with_daemon),
    ("prints-in-main", prints_in_main),
    ("list-and-answer", list_and_answer),
    ("pool-of-four", pool_of_four),
];

/// Runs a program of the notes under this test's start method; gives its lines.
fn lines_of(name: &str) -> Result<Vec<String>, Box<dyn std::error::Error>> {
    let method = format!("{:?}", multiprocess::start_method());
    let output = role(name, &[&method]).output()?;
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && errors.is_empty(), "{} {errors}", output.status);
    Ok(String::from_utf8(output.stdout)?.lines().map(str::to_string).collect())
}

/// What each program begins with.
fn begin(arguments: &[String]) {
    multiprocess::init();
    let named = |method: &StartMethod| format!("{method:?}") == arguments[0];
    multiprocess::set_start_method(StartMethod::ALL.into_iter().find(named).expect("a method"));
}

/// Milliseconds to sleep, other ones in each process.
fn random_pause() -> Duration {
    Duration::from_millis(u64::from(std::process::id()) * 7919 % 40 + 5)
}

fn fun() {
    println!("ddd");
}

fn one_function(arguments: &[String]) {
    begin(arguments);
    let p = Process::new(fun, ()).start().expect("starts");
    p.join().expect("joins");
    println!("joined");
}

fn a_process_is_made_started_and_joined() -> Outcome {
    assert_eq!(lines_of("one-function")?, ["ddd", "joined"]);
    Ok(())
}

fn task(name: String) {
    println!("{name} running");
    thread::sleep(random_pause());
    println!("{name} run end");
}

fn four_named(arguments: &[String]) {
    begin(arguments);
    for name in ["p1", "p2", "p3", "p4"] {
        Process::new(task, (name.to_string(),)).start().expect("starts");
    }
    println!("main");
}

/// Each of the four says that it runs, then that it ends; the end of the program waits for all.
fn check_four(lines: &[String]) {
    assert_eq!(lines.len(), 9, "{lines:?}");
    let position = |line: &str| lines.iter().position(|found| found == line);
    assert!(position("main").is_some());
    for name in ["p1", "p2", "p3", "p4"] {
        let runs = position(&format!("{name} running"));
        let ends = position(&format!("{name} run end"));
        assert!(runs.is_some() && runs < ends, "{lines:?}");
    }
}

fn four_named_processes_run_while_the_main_process_goes_on() -> Outcome {
    check_four(&lines_of("four-named")?);
    Ok(())
}

#[derive(Serialize, Deserialize)]
struct Pro {
    name: String,
}

impl Run for Pro {
    type Output = ();

    fn run(self) {
        task(self.name);
    }
}

fn four_of_a_class(arguments: &[String]) {
    begin(arguments);
    for name in ["p1", "p2", "p3", "p4"] {
        Process::of(Pro { name: name.to_string() }).start().expect("starts");
    }
    println!("main");
}

fn four_processes_of_a_class_run() -> Outcome {
    check_four(&lines_of("four-of-a-class")?);
    Ok(())
}

#[derive(Serialize, Deserialize)]
struct MyProcess {
    num: u32,
}

impl Run for MyProcess {
    type Output = ();

    fn run(self) {
        thread::sleep(Duration::from_millis(20));
        let this = current_process();
        println!("{} {} {}", this.pid(), this.is_alive(), self.num);
    }
}

fn ten_of_a_class(arguments: &[String]) {
    begin(arguments);
    let list: Vec<_> = (0..10).map(|num| Process::of(MyProcess { num })).collect();
    let started: Vec<_> = list.into_iter().map(|p| p.start().expect("starts")).collect();
    println!("ending");
    for p in started {
        println!("pid {}", p.pid());
        p.join().expect("joins");
    }
}

fn ten_processes_of_a_class_print_their_number() -> Outcome {
    let lines = lines_of("ten-of-a-class")?;
    assert!(lines.contains(&"ending".to_string()));
    let pids: Vec<&str> = lines.iter().filter_map(|line| line.strip_prefix("pid ")).collect();
    assert_eq!(pids.len(), 10);
    for (num, pid) in pids.iter().enumerate() {
        assert!(lines.contains(&format!("{pid} true {num}")), "{lines:?}");
    }
    Ok(())
}

fn sleep_for_ever() {
    thread::sleep(Duration::from_secs(1000));
}

fn a_process_has_a_name_a_pid_and_a_life() -> Outcome {
    let p = Process::new(sleep_for_ever, ()).name("race").start()?;
    assert_eq!((p.name(), p.is_alive(), p.daemon()), ("race", true, false));
    assert!(p.pid() > 1 && p.pid() != std::process::id());
    p.terminate()?;
    p.join()?;
    assert!(!p.is_alive());
    Ok(())
}

fn join_waits_no_longer_than_its_timeout() -> Outcome {
    let p = Process::new(sleep_for_ever, ()).start()?;
    assert!(p.join_timeout(Duration::from_millis(10))?.is_none());
    p.kill()?;
    assert!(p.join_timeout(Duration::from_secs(10))?.is_some());
    Ok(())
}

fn terminate_ends_a_process_at_once() -> Outcome {
    let p = Process::new(sleep_for_ever, ()).start()?;
    p.terminate()?;
    // Ours: no zombie is left, and the cause is known.
    assert_eq!(p.join()?.exit_code(), Some(-libc::SIGTERM));
    Ok(())
}

fn close_while_it_runs_is_an_error() -> Outcome {
    let p = Process::new(sleep_for_ever, ()).start()?;
    // Ours: an error of its own kind, and the process can still be joined.
    assert!(matches!(p.close(), Err(Error::StillRunning { .. })));
    p.kill()?;
    p.join()?;
    p.close()?;
    Ok(())
}

static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(1);

fn what_a_process_changes_it_changes_for_itself() -> Outcome {
    use std::sync::atomic::Ordering;
    let change = || NUMBER.fetch_add(41, Ordering::Relaxed) + 41;
    assert_eq!(Process::new(change, ()).start()?.result()?, 42);
    assert_eq!(NUMBER.load(Ordering::Relaxed), 1);
    Ok(())
}

fn a_child_has_no_standard_input() -> Outcome {
    let read = || std::io::stdin().lines().count();
    assert_eq!(Process::new(read, ()).start()?.result()?, 0);
    Ok(())
}

fn a_value_is_read_and_written_by_all() -> Outcome {
    let change = |i: Value<i32>, f: Value<f32>, c: Value<u8>| {
        i.set(i.get() + 1);
        f.set(f.get() * 2.0);
        c.set(c.get().to_ascii_uppercase());
    };
    let (i, f, c) = (Value::new(41)?, Value::new(1.25_f32)?, Value::new(b'c')?);
    Process::new(change, (i.clone(), f.clone(), c.clone())).start()?.join()?;
    assert_eq!((i.get(), f.get(), c.get()), (42, 2.5, b'C'));
    Ok(())
}

fn an_array_holds_a_list_or_so_many_elements() -> Outcome {
    let change = |list: Array<i32>, text: Array<u8>| {
        list.lock().iter_mut().for_each(|element| *element *= 10);
        text.set(0, b'h').expect("in range");
        text.set(5, b'o').expect("in range");
        // Ours: beyond the end is an error or nothing, never memory of somebody else.
        text.set(6, b'!').is_err() && text.get(6).is_none()
    };
    let (list, text) = (Array::from_slice(&[1, 2, 3, 4, 5])?, Array::<u8>::zeroed(6)?);
    assert!(Process::new(change, (list.clone(), text.clone())).start()?.result()?);
    assert_eq!(list.to_vec(), [10, 20, 30, 40, 50]);
    assert_eq!(text.to_vec(), b"h\0\0\0\0o");
    Ok(())
}

fn a_lock_keeps_others_out() -> Outcome {
    let add = |lock: Lock, value: Value<u32>| {
        for _ in 0..200 {
            lock.acquire().expect("acquires");
            let before = value.get();
            thread::yield_now();
            value.set(before + 1);
            lock.release().expect("releases");
        }
    };
    let (lock, value) = (Lock::new()?, Value::new(0_u32)?);
    let start = || Process::new(add, (lock.clone(), value.clone())).start();
    let (one, two) = (start()?, start()?);
    one.join()?;
    two.join()?;
    assert_eq!(value.get(), 400);
    Ok(())
}

fn a_semaphore_counts_and_blocks_at_zero() -> Outcome {
    let take = |semaphore: Semaphore| {
        semaphore.acquire().expect("acquires");
        semaphore.value()
    };
    let semaphore = Semaphore::new(1)?;
    assert_eq!(Process::new(take, (semaphore.clone(),)).start()?.result()?, 0);
    assert_eq!(semaphore.value(), 0);
    let child = Process::new(take, (semaphore.clone(),)).start()?;
    assert!(child.join_timeout(Duration::from_millis(50))?.is_none(), "it waits at zero");
    semaphore.release()?;
    assert_eq!(child.result()?, 0);
    Ok(())
}

fn a_terminated_holder_of_a_lock_deadlocks_nobody() -> Outcome {
    let hold = |lock: Lock, held: Value<u8>| {
        let _guard = lock.lock();
        held.set(1);
        sleep_for_ever();
    };
    let (lock, held) = (Lock::new()?, Value::new(0_u8)?);
    let child = Process::new(hold, (lock.clone(), held.clone())).start()?;
    crate::support::eventually("it holds the lock", || held.get() == 1)?;
    child.terminate()?;
    // Ours: the next one gets the lock, with the news that its holder died.
    assert!(lock.lock().is_err());
    child.join()?;
    assert!(lock.lock().is_ok());
    Ok(())
}

/// `[12, {'name': 'yuan'}, 'hello']`: in Rust a list of different things is a tuple.
type List = (i32, BTreeMap<String, String>, String);

fn f(conn: Connection<List, String>) {
    let name = BTreeMap::from([("name".to_string(), "yuan".to_string())]);
    conn.send((12, name, "hello".to_string())).expect("sends");
    let response = conn.recv().expect("receives");
    println!("response {response}");
    conn.close();
}

fn list_and_answer(arguments: &[String]) {
    begin(arguments);
    let (parent_conn, child_conn) = duplex().expect("a pipe");
    let p = Process::new(f, (child_conn,)).start().expect("starts");
    println!("{:?}", parent_conn.recv().expect("receives"));
    parent_conn.send("hello".to_string()).expect("sends");
    p.join().expect("joins");
    println!("endding");
}

fn a_pipe_carries_a_list_and_its_answer() -> Outcome {
    let lines = lines_of("list-and-answer")?;
    assert_eq!(lines, [r#"(12, {"name": "yuan"}, "hello")"#, "response hello", "endding"]);
    Ok(())
}

fn a_pipe_has_two_directions_or_one() -> Outcome {
    let both = |conn2: Connection<i32, i32>| {
        conn2.send(conn2.recv().expect("receives") + 1).expect("sends");
    };
    let (conn1, conn2) = duplex()?;
    let p = Process::new(both, (conn2,)).start()?;
    conn1.send(1)?;
    assert_eq!(conn1.recv()?, 2);
    p.join()?;
    // Ours: the wrong direction does not compile, as the documentation of `simplex` shows and tests.
    let put = |conn2: Sender<i32>| conn2.send(3).expect("sends");
    let (conn1, conn2) = simplex()?;
    let p = Process::new(put, (conn2,)).start()?;
    assert_eq!(conn1.recv()?, 3);
    p.join()?;
    Ok(())
}

fn one_recv_receives_one_message() -> Outcome {
    let put = |child_pipe: Sender<(String, Vec<u8>)>| {
        for text in ["", "a text", "and another"] {
            child_pipe.send((text.to_string(), vec![7; text.len()])).expect("sends");
        }
    };
    let (parent_pipe, child_pipe) = simplex()?;
    Process::new(put, (child_pipe,)).start()?.join()?;
    for text in ["", "a text", "and another"] {
        assert_eq!(parent_pipe.recv()?, (text.to_string(), vec![7; text.len()]));
    }
    Ok(())
}

fn recv_waits_and_fails_once_the_sender_is_closed() -> Outcome {
    let put = |conn: Sender<i32>| {
        thread::sleep(Duration::from_millis(50));
        conn.send(1).expect("sends");
        conn.close();
        sleep_for_ever();
    };
    let (receiver, sender) = simplex()?;
    let start = Instant::now();
    let p = Process::new(put, (sender,)).start()?;
    assert_eq!(receiver.recv()?, 1);
    assert!(start.elapsed() >= Duration::from_millis(50), "it waited");
    // Python: EOFError.
    assert!(matches!(receiver.recv(), Err(pipe::Error::Disconnected)));
    assert!(p.is_alive());
    p.kill()?;
    p.join()?;
    Ok(())
}

fn no_end_need_be_closed_by_who_does_not_use_it() -> Outcome {
    let count = |conn: Receiver<i32>| conn.iter().count();
    let (receiver, sender) = simplex()?;
    let p = Process::new(count, (receiver,)).start()?;
    (0..3).try_for_each(|n| sender.send(n))?;
    // Ours: the child has the end it was given and no other, so it sees the end of this one, by drop alone.
    drop(sender);
    assert_eq!(p.result()?, 3);
    Ok(())
}

fn worker(msg: String) {
    println!("{msg}");
    thread::sleep(random_pause() / 10);
}

fn pool_of_four(arguments: &[String]) {
    begin(arguments);
    let pool = Pool::new(4).expect("a pool");
    for i in 0..10 {
        let _ = pool.apply_async(worker, (format!("hello {i}"),));
    }
    pool.close();
    pool.join().expect("joins");
    println!("all done");
}

fn a_pool_runs_what_is_submitted_and_is_closed_and_joined() -> Outcome {
    let mut lines = lines_of("pool-of-four")?;
    assert_eq!(lines.pop().as_deref(), Some("all done"));
    lines.sort_unstable();
    let all: Vec<String> = (0..10).map(|i| format!("hello {i}")).collect();
    assert_eq!(lines, all);
    Ok(())
}

fn apply_and_map_wait_and_their_async_forms_do_not() -> Outcome {
    let pool = Pool::new(2)?;
    let count = Value::new(0)?;
    let add = |count: Value<i32>| {
        thread::sleep(Duration::from_millis(2));
        count.update(|n| *n += 1);
    };
    for n in 1..=5 {
        pool.apply(add, (count.clone(),))?;
        assert_eq!(count.get(), n);
    }
    pool.map(add, vec![count.clone(); 5])?;
    assert_eq!(count.get(), 10);
    let gate = multiprocess::Event::new()?;
    let wait = |gate: multiprocess::Event| gate.wait().is_ok();
    let one = pool.apply_async(wait, (gate.clone(),));
    let many = pool.map_async(wait, vec![gate.clone(); 3]);
    assert!(!one.is_ready() && !many.is_ready());
    gate.set();
    assert_eq!((one.get()?, many.get()?), (true, vec![true; 3]));
    Ok(())
}

fn tasks_of_a_pool_return_values() -> Outcome {
    let pool = Pool::new(3)?;
    let func = |msg: String| format!("{msg} done");
    let results: Vec<_> = (0..4).map(|i| pool.apply_async(func, (format!("hello {i}"),))).collect();
    pool.close();
    pool.join()?;
    for (i, result) in results.iter().enumerate() {
        assert_eq!(result.get()?, format!("hello {i} done"));
    }
    Ok(())
}

fn a_pool_has_as_many_processes_as_the_system_says() -> Outcome {
    let pool = Pool::builder().build()?;
    assert_eq!(pool.workers().len(), cpu_count());
    let squares = pool.map(|x: i32| x * x, 0..10)?;
    assert_eq!(squares[9], 81);
    Ok(())
}

fn a_pool_and_a_queue_work_together() -> Outcome {
    let put = |queue: Queue<u32>, n: u32| queue.put(n).map_err(|error| error.to_string());
    let get = |queue: Queue<u32>| queue.get().map_err(|error| error.to_string());
    let (pool, queue) = (Pool::new(2)?, Queue::unbounded()?);
    for n in 0..10 {
        pool.apply_async(put, (queue.clone(), n)).get()??;
    }
    assert_eq!((0..10).map(|_| queue.get()).collect::<Result<Vec<_>, _>>()?.len(), 10);
    // One task waits for what another puts.
    let got = pool.apply_async(get, (queue.clone(),));
    pool.apply(put, (queue, 7))??;
    assert_eq!(got.get()??, 7);
    Ok(())
}

fn with_daemon(arguments: &[String]) {
    begin(arguments);
    let start_another = || matches!(Process::new(fun, ()).start(), Err(Error::Daemon));
    let daemon = Process::new(start_another, ()).daemon(true).start().expect("starts");
    println!("refused {}", daemon.result().expect("ends"));
    // Would print after a second; the program ends before.
    let late = || {
        thread::sleep(Duration::from_secs(1));
        println!("too late");
    };
    Process::new(late, ()).daemon(true).start().expect("starts");
    println!("main ends");
}

fn a_daemon_ends_with_its_parent_and_makes_no_processes() -> Outcome {
    assert_eq!(lines_of("with-daemon")?, ["refused true", "main ends"]);
    Ok(())
}

fn prints_in_main(arguments: &[String]) {
    begin(arguments);
    println!("in main");
    for method in StartMethod::ALL {
        let p = Process::new(fun, ()).start_method(method).start().expect("starts");
        p.join().expect("joins");
    }
}

fn main_runs_once() -> Outcome {
    assert_eq!(lines_of("prints-in-main")?, ["in main", "ddd", "ddd", "ddd"]);
    Ok(())
}

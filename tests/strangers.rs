//! Managers that serve other programs, and processes that share no memory with them.
//!
//! The other program is one of another source, or this binary with another build id, for what needs the same types: of
//! neither can anything be called by address.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{self, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use multiprocess::manager::{Error, Event, Lock, LockGuard, Queue, Result, Semaphore, Value};
use multiprocess::{AuthKey, Dict, List, Manager, Process, Sender, Shared, simplex};
use serde::{Deserialize, Serialize};

use crate::builtins::{
    Collections, Locks, Point, check_collections, collections, locks, point, use_collections,
    use_locks,
};
use crate::examples::program;
use crate::manager::{have_go_on, signal};
use crate::support::{HANG, Outcome, PROMPT, Role, eventually, role, runs};

crate::cases! {
    EACH:
        a_child_of_this_program_does_all_through_tcp
        a_killed_clients_call_through_tcp_does_not_come_after_its_end
        an_object_that_was_a_result_through_tcp_goes_with_its_last_proxy
    ;
    ONCE:
        another_program_uses_all_that_is_built_in
        another_program_uses_all_that_is_built_in_through_tcp
        another_program_is_refused_what_it_cannot_do
        a_killed_program_elsewhere_frees_what_it_held
        a_killed_server_is_noticed_through_tcp
        a_shutdown_is_noticed_through_tcp
        an_object_lives_as_long_as_a_proxy_elsewhere
        who_has_another_key_is_turned_away_through_tcp
        the_example_of_two_programs_counts_words
    ;
}

pub(crate) const ROLES: &[Role] = &[("refused-stranger", refused), ("holding-stranger", holding)];

const KEY: &[u8] = b"between the programs";

fn key() -> AuthKey {
    AuthKey::new(KEY).expect("a key")
}

/// This binary as another program; removed with this.
struct Other(PathBuf);

impl Other {
    fn new(name: &str) -> std::io::Result<Self> {
        let mut bytes = fs::read("/proc/self/exe")?;
        // The note of the linker, elf(5): lengths of name and id, type 3, the name.
        let note = b"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0";
        let place = bytes.windows(note.len()).position(|window| window == note);
        let id = place.expect("the linker writes a build id") + note.len();
        bytes[id..id + 20].iter_mut().for_each(|byte| *byte ^= 0x55);
        let other = Self(std::env::temp_dir().join(format!("mp-other-{name}-{}", process::id())));
        fs::write(&other.0, bytes)?;
        fs::set_permissions(&other.0, fs::Permissions::from_mode(0o700))?;
        Ok(other)
    }

    fn role(&self, name: &str, arguments: &[&str]) -> Command {
        // The harness knows how.
        let like = role(name, arguments);
        let mut command = Command::new(&self.0);
        command.args(like.get_args()).stdin(Stdio::null());
        command
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn connect(arguments: &[String]) -> Manager {
    Manager::connect(arguments[0].as_str(), &key()).expect("connects")
}

/// Runs a program that cargo builds beside this one, to its end.
fn run(example: &str, arguments: &[&str]) -> Outcome {
    let mut command = program(example)?;
    command.args(arguments).env("MANAGER_KEY", std::str::from_utf8(KEY)?).stdin(Stdio::null());
    let output = command.output()?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn serves_another(address: &str) -> Outcome {
    let manager = Manager::serve(address, &key())?;
    let address = manager.address().expect("it listens").to_string();
    let (ours, our_locks) = (collections(&manager)?, locks(&manager)?);
    manager.publish("collections", &ours)?;
    manager.publish("locks", &our_locks)?;
    drop(our_locks);
    run("other_program", &[&address])?;
    check_collections(&ours)?;
    // What the stranger has made is of parcels, and of the types that both have.
    let theirs: Collections = manager.find("made")?;
    check_collections(&theirs)?;
    assert!(matches!(
        theirs.4.update(|value: &mut f64| *value += 1.0, ()),
        Err(Error::OtherProgram)
    ));
    manager.publish("one", &theirs.0)?;
    let wrong: Dict<String, i32> = manager.find("one")?;
    assert!(matches!(
        wrong.len(),
        Err(Error::WrongType { object }) if object.starts_with("Dict<alloc::string::String, ")
    ));
    Ok(())
}

fn another_program_uses_all_that_is_built_in() -> Outcome {
    let path = std::env::temp_dir().join(format!("mp-stranger-{}", process::id()));
    serves_another(path.to_str().expect("a text"))
}

fn another_program_uses_all_that_is_built_in_through_tcp() -> Outcome {
    serves_another("127.0.0.1:0")
}

fn refused(arguments: &[String]) {
    multiprocess::init();
    let manager = connect(arguments);
    let (dict, value, shared): (Dict<u32, u64>, Value<i32>, Shared<Point>) =
        manager.find("all").expect("finds them");
    let refusals = [
        dict.update(&1, |n: &mut u64| *n += 1, ()),
        dict.update_or_insert(1, 0, |n: &mut u64| *n += 1, ()),
        value.update(|n: &mut i32| *n += 1, ()),
        shared.call(|point: &mut Point| point.0 += 1, ()),
        shared.clear_poison(),
        manager.shared(1_u8).map(drop),
    ];
    for refusal in refusals {
        assert!(matches!(refusal, Err(Error::OtherProgram)), "{refusal:?}");
    }
    let (other, _, wrong): (Dict<u32, i64>, Value<i32>, List<u8>) =
        manager.find("all").expect("finds them");
    for wrong in [other.len(), wrong.len()] {
        assert!(matches!(wrong, Err(Error::WrongType { .. })), "{wrong:?}");
    }
    assert_eq!(value.get().expect("a value"), 7);
    if arguments[0].contains(':') {
        let file = multiprocess::Fd::from(fs::File::open("/dev/null").expect("opens"));
        let refused = manager.publish("file", &file);
        assert!(matches!(refused, Err(Error::Encode(_))), "{refused:?}");
        // And it goes on.
        assert_eq!(value.get().expect("a value"), 7);
    }
}

fn another_program_is_refused_what_it_cannot_do() -> Outcome {
    let other = Other::new("refused")?;
    let path = std::env::temp_dir().join(format!("mp-refused-{}", process::id()));
    for address in [path.to_str().expect("a text"), "localhost:0"] {
        let manager = Manager::serve(address, &key())?;
        let address = manager.address().expect("it listens").to_string();
        let all =
            (manager.dict_of([(1_u32, 1_u64)])?, manager.value(7)?, manager.shared(point(1))?);
        manager.publish("all", &all)?;
        let status = other.role("refused-stranger", &[&address]).status()?;
        assert!(status.success(), "{status}");
        assert_eq!(all.0.get(&1)?, Some(1));
    }
    Ok(())
}

/// Holds a lock, a permit and an object until it is killed.
fn holding(arguments: &[String]) {
    multiprocess::init();
    let manager = connect(arguments);
    let (lock, seats, held): (Lock, Semaphore, Event) = manager.find("held").expect("finds them");
    let _mourned: Shared<Mourned> = manager.find("mourned").expect("finds it");
    let _held = (lock.lock().expect("locks"), seats.permit().expect("a seat"));
    held.set().expect("says so");
    std::thread::sleep(Duration::from_secs(1000));
}

/// Says when it is dropped, which is in the server.
#[derive(Serialize, Deserialize)]
struct Mourned(Sender<()>);

fn killed_elsewhere(address: &str, other: &Other) -> Outcome {
    let manager = Manager::serve(address, &key())?;
    let address = manager.address().expect("it listens").to_string();
    let (lock, seats, held) = (manager.lock()?, manager.semaphore(1)?, manager.event()?);
    manager.publish("held", &(&lock, &seats, &held))?;
    let (end, sender) = simplex::<()>()?;
    manager.publish("mourned", &manager.shared(Mourned(sender))?)?;
    let mut holder = other.role("holding-stranger", &[&address]).spawn()?;
    held.wait()?;
    // Now it is theirs alone.
    manager.publish("mourned", &())?;
    assert!(matches!(lock.try_lock(), Err(Error::WouldBlock)));
    assert!(!end.poll(Duration::from_millis(100))?);
    holder.kill()?;
    holder.wait()?;
    let start = Instant::now();
    let guard = lock.lock_timeout(HANG)?;
    assert!(LockGuard::owner_died(&guard));
    drop(seats.permit_timeout(HANG)?);
    assert!(start.elapsed() < PROMPT, "{:?}", start.elapsed());
    assert!(end.poll(HANG)? && end.recv().is_err());
    Ok(())
}

fn a_killed_program_elsewhere_frees_what_it_held() -> Outcome {
    let other = Other::new("holds")?;
    let path = std::env::temp_dir().join(format!("mp-holds-{}", process::id()));
    killed_elsewhere(path.to_str().expect("a text"), &other)?;
    killed_elsewhere("127.0.0.1:0", &other)
}

fn serve_here() -> Result<(Manager, String)> {
    let manager = Manager::serve("127.0.0.1:0", &key())?;
    let address = manager.address().expect("it listens").to_string();
    Ok((manager, address))
}

fn a_child_of_this_program_does_all_through_tcp() -> Outcome {
    let (manager, address) = serve_here()?;
    let (ours, theirs) = (collections(&manager)?, locks(&manager)?);
    let shared = manager.shared(point(1))?;
    manager.publish("all", &(&ours, &theirs, &shared))?;
    let task = |address: String| {
        let manager = Manager::connect(address.as_str(), &key()).unwrap();
        let (found, locks, shared): (Collections, Locks, Shared<Point>) =
            manager.find("all").unwrap();
        use_collections(&manager, &found).unwrap();
        use_locks(&locks).unwrap();
        // Functions too: it is the same program.
        shared.call(|point: &mut Point, by: i32| point.0 += by, (4,)).unwrap();
        let panic = shared.call(|_: &mut Point| -> () { panic!("on purpose") }, ());
        assert!(matches!(panic, Err(Error::Panicked(why)) if why == "on purpose"));
        found.4.update(|value: &mut f64| *value += 1.0, ()).unwrap();
        found.4.update(|value: &mut f64| *value -= 1.0, ()).unwrap();
        // From each thread, and far more than a socket holds.
        let long: Value<Vec<u8>> = manager.value(vec![7; 3_000_000]).unwrap();
        let other = long.clone();
        let thread = thread::spawn(move || other.get().unwrap().len());
        assert_eq!((thread.join().unwrap(), long.get().unwrap().len()), (3_000_000, 3_000_000));
    };
    Process::new(task, (address,)).start()?.result()?;
    check_collections(&ours)?;
    assert_eq!(shared.call(|point: &mut Point| point.0, ())?, 5);
    Ok(())
}

fn a_killed_clients_call_through_tcp_does_not_come_after_its_end() -> Outcome {
    let set = |address: String, called: Sender<()>| {
        let manager = Manager::connect(address.as_str(), &key()).unwrap();
        let value: Value<u32> = manager.find("value").unwrap();
        value.get().unwrap();
        called.send(()).unwrap();
        // Until then the server hears nothing.
        thread::sleep(Duration::from_millis(5));
        value.set(1).unwrap();
    };
    let (manager, address) = serve_here()?;
    for round in 0..10 {
        let value = manager.value(0_u32)?;
        manager.publish("value", &value)?;
        let (called, calls) = simplex()?;
        let client = Process::new(set, (address.clone(), calls)).start()?;
        called.recv()?;
        signal(manager.pid(), libc::SIGSTOP);
        thread::sleep(Duration::from_millis(10));
        client.kill()?;
        client.join()?;
        let goes_on = Process::new(have_go_on, (manager.pid(),)).start()?;
        value.set(2)?;
        goes_on.join()?;
        thread::sleep(Duration::from_millis(5));
        assert_eq!(value.get()?, 2, "round {round}");
    }
    Ok(())
}

fn an_object_that_was_a_result_through_tcp_goes_with_its_last_proxy() -> Outcome {
    let (manager, address) = serve_here()?;
    let (end, sender) = simplex::<()>()?;
    manager.publish("mourned", &manager.shared(Mourned(sender))?)?;
    let task = |address: String, has: Sender<()>, may: multiprocess::Receiver<()>| {
        let manager = Manager::connect(address.as_str(), &key()).unwrap();
        let found: Shared<Mourned> = manager.find("mourned").unwrap();
        has.send(()).unwrap();
        may.recv().unwrap();
        drop(found);
        // And calls nothing any more.
        may.recv().unwrap_err();
    };
    let (is_found, has) = simplex::<()>()?;
    let (may, go_on) = simplex::<()>()?;
    let child = Process::new(task, (address, has, may)).start()?;
    is_found.recv()?;
    manager.publish("mourned", &())?;
    assert!(!end.poll(Duration::from_millis(100))?);
    go_on.send(())?;
    assert!(end.poll(HANG)? && end.recv().is_err());
    drop(go_on);
    child.result()?;
    Ok(())
}

fn kill(pid: u32) {
    signal(pid, libc::SIGKILL);
}

/// Has a child wait at a server through TCP, which `end` ends, and looks what the child gets.
fn ends_while_one_waits(end: fn(&Manager)) -> Outcome {
    let (manager, address) = serve_here()?;
    let queue = manager.queue::<i32>(0)?;
    manager.publish("queue", &queue)?;
    // Not by an event of the manager's: it would end while that is being answered.
    let (ready, is_ready) = simplex::<()>()?;
    let task = |address: String, is_ready: Sender<()>| {
        let manager = Manager::connect(address.as_str(), &key()).unwrap();
        let queue: Queue<i32> = manager.find("queue").unwrap();
        is_ready.send(()).unwrap();
        let ended = queue.get().unwrap_err();
        let elapsed = Instant::now();
        let again = queue.put(1).unwrap_err().reason;
        let made = manager.event().unwrap_err();
        let in_thread = thread::spawn(move || queue.len().unwrap_err()).join().unwrap();
        for error in [ended, again, made, in_thread] {
            assert!(matches!(error, Error::ServerDied), "{error:?}");
        }
        assert!(elapsed.elapsed() < PROMPT);
    };
    let child = Process::new(task, (address.clone(), is_ready)).start()?;
    ready.recv()?;
    std::thread::sleep(Duration::from_millis(20));
    let start = Instant::now();
    end(&manager);
    child.result()?;
    println!("the child knew and ended after {:?}", start.elapsed());
    assert!(start.elapsed() < PROMPT);
    eventually("the server is gone", || !runs(manager.pid()))?;
    assert!(matches!(Manager::connect(address.as_str(), &key()), Err(Error::Address(_))));
    Ok(())
}

fn a_killed_server_is_noticed_through_tcp() -> Outcome {
    ends_while_one_waits(|manager| kill(manager.pid()))
}

fn a_shutdown_is_noticed_through_tcp() -> Outcome {
    ends_while_one_waits(|manager| manager.shutdown().unwrap())
}

fn an_object_lives_as_long_as_a_proxy_elsewhere() -> Outcome {
    let (manager, address) = serve_here()?;
    let (end, sender) = simplex::<()>()?;
    manager.publish("mourned", &manager.shared(Mourned(sender))?)?;
    let there = Manager::connect(address.as_str(), &key())?;
    drop(there);
    let (begun, begin) = simplex::<()>()?;
    let (pass, passed) = simplex::<Shared<Mourned>>()?;
    let task =
        |address: String, begin: Sender<()>, pass: multiprocess::Receiver<Shared<Mourned>>| {
            let manager = Manager::connect(address.as_str(), &key()).unwrap();
            let found: Shared<Mourned> = manager.find("mourned").unwrap();
            begin.send(()).unwrap();
            let again = pass.recv().unwrap();
            drop(found);
            again.call(|_: &mut Mourned| (), ()).unwrap();
            drop(pass);
            begin.send(()).unwrap();
            std::thread::sleep(Duration::from_secs(1000));
        };
    let child = Process::new(task, (address, begin, pass)).start()?;
    begun.recv()?;
    passed.send(manager.find("mourned")?)?;
    manager.publish("mourned", &())?;
    begun.recv()?;
    assert!(!end.poll(Duration::from_millis(100))?);
    let before = descriptors(manager.pid());
    child.kill()?;
    child.join()?;
    assert!(end.poll(HANG)? && end.recv().is_err());
    eventually("the connections end", || descriptors(manager.pid()) < before)
}

fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

fn who_has_another_key_is_turned_away_through_tcp() -> Outcome {
    let (manager, address) = serve_here()?;
    let refused = Manager::connect(address.as_str(), &AuthKey::random()?).unwrap_err();
    assert!(matches!(&refused, Error::Address(why) if why.contains("authentication")), "{refused}");
    // Who says nothing, or nonsense, holds nobody up.
    let silent = std::net::TcpStream::connect(&address)?;
    let mut rude = std::net::TcpStream::connect(&address)?;
    std::io::Write::write_all(&mut rude, &[0xff; 1000])?;
    let connection =
        multiprocess::Client::builder().authkey(key()).connect::<u64, u64>(address.as_str())?;
    connection.send(u64::MAX)?;
    assert!(connection.recv().is_err());
    let connected = Manager::connect(address.as_str(), &key())?;
    connected.publish("x", &1)?;
    assert_eq!(manager.find::<i32>("x")?, 1);
    drop(silent);
    Ok(())
}

fn the_example_of_two_programs_counts_words() -> Outcome {
    let (manager, address) = serve_here()?;
    let (words, counts) = (manager.joinable_queue::<String>(0)?, manager.dict::<String, u64>()?);
    manager.publish("words", &words)?;
    manager.publish("counts", &counts)?;
    manager.publish("lock", &manager.lock()?)?;
    words.put_many("to be or not to be".split(' ').map(String::from))?;
    run("manager_remote", &["work", &address])?;
    assert_eq!(counts.to_string(), "{'to': 2, 'be': 2, 'or': 1, 'not': 1}");
    Ok(())
}

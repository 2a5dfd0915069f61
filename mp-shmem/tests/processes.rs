//! What only several processes can show. One thread, so that they can be forked.
//!
//! Each process has a clock that kills it (alarm(2)); whoever waits for a process says for which.
#![expect(unsafe_code, reason = "fork and alarm")]

use std::io::{Read, Write};
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mp_core::packet::Channel;
use mp_core::sys::process::{self, Exit, Forked, Reaped};
use mp_core::testing::{self, Failed, Trial};
use mp_core::{Deadline, Message};
use mp_shmem::{
    Array, Error, Item, Lock, RawArray, RawValue, ShareableList, SharedMemory, TryLockError, Value,
    ValueGuard, items, plain_struct,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Longer than anything here takes; what lasts longer hangs.
const HANG: Duration = Duration::from_secs(60);

/// A test, and its name.
type Test = (&'static str, fn() -> Outcome);
type Outcome = Result<(), Box<dyn std::error::Error>>;

fn main() {
    let python = Command::new("python3")
        // Before 3.9 lists had another layout.
        .args([
            "-c",
            "import sys, multiprocessing.shared_memory; sys.exit(sys.version_info < (3, 9))",
        ])
        .output()
        .is_ok_and(|output| output.status.success());

    let plain: [Test; 17] = [
        ("four_processes_count_exactly_with_value", count_with_value),
        ("four_processes_count_exactly_with_value_guards", count_with_guards),
        ("four_processes_count_exactly_with_lock_and_raw_value", count_with_lock_and_raw_value),
        ("four_processes_count_exactly_with_atomics", count_with_atomics),
        ("two_values_under_one_lock_keep_their_sum", two_values_under_one_lock),
        ("each_process_fills_its_part_of_an_array", parts_of_an_array),
        ("handles_reach_another_process_in_a_message", handles_in_a_message),
        ("a_killed_holder_leaves_its_value_usable_and_is_noticed", killed_holder),
        ("no_count_is_lost_by_kills", kills_while_counting),
        ("a_killed_update_has_happened_as_a_whole_or_not_at_all", kills_while_updating),
        ("memory_of_a_killed_creator_is_found_and_removed", killed_creator),
        ("what_is_held_is_never_removed_as_stale", removing_beside_creating),
        ("a_forked_handle_does_not_unlink", forked_handle),
        ("a_forked_guard_leaves_the_mark_of_its_parent", forked_guard),
        ("no_room_for_a_file_is_an_error_and_leaves_no_name", no_room_for_a_file),
        ("what_was_made_before_a_limit_can_be_filled", limit_after),
        ("nothing_is_left_behind", nothing_left),
    ];
    let with_python: [Test; 6] = [
        ("python_reads_and_writes_our_memory", python_opens_ours),
        ("we_read_and_write_the_memory_of_python", we_open_pythons),
        ("python_has_the_layout_of_our_lists", python_lays_out_the_same),
        ("python_reads_and_writes_our_list", python_opens_our_list),
        ("we_read_and_write_the_list_of_python", we_open_pythons_list),
        ("opening_from_here_destroys_nothing_of_python", opening_destroys_nothing),
    ];
    let trial = |(name, test): Test| Trial::test(name, move || run(name, test));
    let trials = plain
        .into_iter()
        .map(trial)
        .chain(with_python.into_iter().map(|test| trial(test).with_ignored_flag(!python)));
    testing::run(trials.collect());
}

fn run(name: &str, test: fn() -> Outcome) -> Result<(), Failed> {
    alarm(HANG * 2);
    let names = entries("/dev/shm");
    let result = test().map_err(|error| Failed::from(error.to_string()));
    alarm(Duration::ZERO);
    result?;
    let left: Vec<_> = entries("/dev/shm").into_iter().filter(|n| !names.contains(n)).collect();
    if left.iter().any(|name| name.contains(&own_prefix())) {
        return Err(Failed::from(format!("{name} left {left:?} in /dev/shm")));
    }
    Ok(())
}

/// What the names of this run begin with: another run may be under way.
fn own_prefix() -> String {
    format!("mp-test-{}-", std::process::id())
}

fn own_name(name: &str) -> String {
    own_prefix() + name
}

fn entries(directory: &str) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// Kills this process after so long; zero stops the clock.
fn alarm(after: Duration) {
    // SAFETY: takes a number only.
    unsafe { libc::alarm(after.as_secs() as u32) };
}

/// A forked process.
struct Child {
    role: &'static str,
    pidfd: OwnedFd,
}

/// Runs `work` in another process.
fn fork(role: &'static str, work: impl FnOnce() -> Outcome) -> Child {
    assert_eq!(process::thread_count().unwrap(), 1, "a forked test has one thread");
    let _ = std::io::stdout().flush();
    // SAFETY: one thread, and the child ends with exit_now.
    match unsafe { process::fork() }.unwrap() {
        Forked::Parent(pid) => Child { role, pidfd: process::pidfd_open(pid).unwrap() },
        Forked::Child => {
            alarm(HANG);
            let code = match catch_unwind(AssertUnwindSafe(work)) {
                Ok(Ok(())) => 0,
                Ok(Err(error)) => {
                    eprintln!("{role}: {error}");
                    1
                }
                Err(_) => 101,
            };
            process::exit_now(code)
        }
    }
}

impl Child {
    fn wait(&self) -> Result<Exit, String> {
        let pidfd = self.pidfd.as_fd();
        let ended = process::wait_ended(pidfd, Deadline::after(HANG)).map_err(|e| e.to_string())?;
        if !ended {
            self.kill();
            return Err(format!("{} hangs", self.role));
        }
        match process::reap(pidfd) {
            Ok(Reaped::Ended(exit)) => Ok(exit),
            other => Err(format!("{} is not to be reaped: {other:?}", self.role)),
        }
    }

    fn join(&self) -> Result<(), String> {
        match self.wait()? {
            Exit::Code(0) => Ok(()),
            exit => Err(format!("{} ended with {exit:?}", self.role)),
        }
    }

    fn kill(&self) {
        process::pidfd_send_signal(self.pidfd.as_fd(), libc::SIGKILL).unwrap();
    }
}

/// Four processes that each do `work` so often.
fn four(work: impl Fn()) -> Outcome {
    let children: Vec<_> = (0..4)
        .map(|_| {
            fork("a counting process", || {
                (0..100_000).for_each(|_| work());
                Ok(())
            })
        })
        .collect();
    for child in children {
        child.join()?;
    }
    Ok(())
}

fn count_with_value() -> Outcome {
    let value = Value::new(0_i32)?;
    four(|| value.update(|count| *count += 1))?;
    assert_eq!(value.get(), 400_000);
    assert!(!value.owner_died());
    Ok(())
}

fn count_with_guards() -> Outcome {
    let value = Value::new(0.0)?;
    four(|| *value.lock() += 1.0)?;
    assert_eq!(value.get(), 400_000.0);
    Ok(())
}

fn count_with_lock_and_raw_value() -> Outcome {
    let lock = Lock::new()?;
    let value = RawValue::new([0_u32; 3])?;
    four(|| {
        let _guard = lock.lock().unwrap();
        value.set(value.get().map(|count| count + 1));
    })?;
    assert_eq!(value.get(), [400_000; 3]);
    Ok(())
}

fn count_with_atomics() -> Outcome {
    let counts = RawArray::<AtomicU64>::zeroed(2)?;
    let value = RawValue::<AtomicU64>::zeroed()?;
    four(|| {
        let number = value.fetch_add(1, Ordering::Relaxed);
        counts[number as usize % 2].fetch_add(1, Ordering::Relaxed);
    })?;
    assert_eq!(counts[1].load(Ordering::Relaxed), 200_000);
    Ok(())
}

fn two_values_under_one_lock() -> Outcome {
    let one = Value::new(0_i64)?;
    let two = Value::with_lock(0_i64, one.get_lock())?;
    let movers: Vec<_> = (0..3)
        .map(|_| {
            fork("a process that moves", || {
                for amount in 0..20_000 {
                    let _both = one.get_lock().lock().unwrap();
                    one.set(one.get() - amount);
                    two.set(two.get() + amount);
                }
                Ok(())
            })
        })
        .collect();
    for _ in 0..20_000 {
        let _both = one.get_lock().lock().unwrap();
        assert_eq!(one.get() + two.get(), 0);
    }
    for mover in movers {
        mover.join()?;
    }
    assert_eq!(two.get(), 3 * (0..20_000).sum::<i64>());
    Ok(())
}

fn parts_of_an_array() -> Outcome {
    let array = Array::<u32>::zeroed(100_000)?;
    let children: Vec<_> = (0..4_usize)
        .map(|part| {
            let array = &array;
            fork("a process that fills a part", move || {
                let numbers: Vec<u32> =
                    (part as u32 * 25_000..(part as u32 + 1) * 25_000).collect();
                Ok(array.set_range(part * 25_000, &numbers)?)
            })
        })
        .collect();
    for child in children {
        child.join()?;
    }
    assert!(array.lock().iter().copied().eq(0..100_000));
    Ok(())
}

fn send(channel: &Channel, value: &impl Serialize) -> Outcome {
    let (bytes, fds) = mp_core::encode(value)?.into_parts();
    let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    Ok(channel.send(1, &[&bytes], &fds)?)
}

fn receive<T: DeserializeOwned>(channel: &mut Channel) -> Result<T, Box<dyn std::error::Error>> {
    let packet = channel.receive(Deadline::after(HANG))?;
    Ok(mp_core::decode(Message::new(packet.body, packet.fds))?)
}

plain_struct! {
    #[derive(Debug, PartialEq)]
    struct Point {
        x: f64,
        y: f64,
    }
}

type Handles =
    (Value<Point>, Array<i32>, RawValue<u8>, RawArray<AtomicU64>, SharedMemory, ShareableList);

fn handles_in_a_message() -> Outcome {
    let (near, mut far) = Channel::pair()?;
    // Forked before the handles are made, so it has no others than those it receives.
    let child = fork("the process that receives", move || {
        let (point, array, letter, counts, memory, list): Handles = receive(&mut far)?;
        point.update(|point| point.y += point.x);
        array.lock()[1] = -5;
        letter.set(letter.get().to_ascii_uppercase());
        counts[2].fetch_add(3, Ordering::Relaxed);
        memory.write_at(4, b"text")?;
        list.set(0, "sent")?;
        // Its own clock ends this process if nobody answers.
        send(&far, &(point, array.clone()))?;
        let guard = array.lock();
        send(&far, &"locked")?;
        let _: String = receive(&mut far)?;
        drop(guard);
        Ok(())
    });
    let mut near = near;
    let point = Value::new(Point { x: 1.5, y: 2.0 })?;
    let array = Array::zeroed(3)?;
    let letter = RawValue::new(b'c')?;
    let counts = RawArray::zeroed(3)?;
    let memory = SharedMemory::create(Some(&own_name("sent")), 8)?.unlink_on_drop();
    let list = ShareableList::create(Some(&own_name("list")), items![1, 2])?.unlink_on_drop();
    let all: Handles = (point, array, letter, counts, memory, list);
    send(&near, &all)?;
    let (point, array, letter, counts, memory, list) = all;

    let (again, _): (Value<Point>, Array<i32>) = receive(&mut near)?;
    assert_eq!(again.get(), Point { x: 1.5, y: 3.5 });
    assert_eq!(point.get(), again.get());
    assert_eq!(letter.get(), b'C');
    assert_eq!(counts[2].load(Ordering::Relaxed), 3);
    assert_eq!(memory.to_vec(), b"\0\0\0\0text");
    assert_eq!(list.to_vec()?, items!["sent", 2]);
    let _: String = receive(&mut near)?;
    assert!(matches!(array.try_lock(), Err(TryLockError::WouldBlock)), "the child has the lock");
    send(&near, &"go on")?;
    assert_eq!(array.to_vec(), [0, -5, 0]);
    child.join()?;
    Ok(())
}

/// Waits for one byte.
fn wait_for(pipe: &mut std::io::PipeReader, whom: &str) -> Result<(), String> {
    match mp_core::sys::fd::wait_readable(pipe.as_fd(), Deadline::after(HANG)) {
        Ok(true) => pipe.read_exact(&mut [0]).map_err(|e| format!("{whom} sent nothing: {e}")),
        other => Err(format!("{whom} hangs: {other:?}")),
    }
}

fn killed_holder() -> Outcome {
    let value = Value::new([1_u64, 1])?;
    let kill = || -> Outcome {
        let (mut reader, mut writer) = std::io::pipe()?;
        let child = fork("the holder", || {
            let mut guard = value.lock();
            guard[0] += 1;
            writer.write_all(&[1])?;
            std::thread::sleep(HANG * 2);
            Ok(())
        });
        wait_for(&mut reader, "the holder")?;
        assert!(matches!(value.try_lock(), Err(TryLockError::WouldBlock)));
        child.kill();
        assert_eq!(child.wait()?, Exit::Signal(libc::SIGKILL));
        Ok(())
    };
    kill()?;
    assert_eq!(value.get(), [2, 1], "half changed, as it was left");
    assert!(value.owner_died());
    value.clear_owner_died();

    kill()?;
    value.update(|pair| pair[1] = pair[0]);
    assert_eq!(value.get(), [3, 3]);
    kill()?;
    match value.lock_timeout(HANG) {
        Err(TryLockError::Poisoned(error)) => assert!(ValueGuard::owner_died(&error.into_inner())),
        other => panic!("no news: {other:?}"),
    }
    Ok(())
}

fn kills_while_counting() -> Outcome {
    let value = Value::new(0_u64)?;
    let acknowledged = RawValue::<AtomicU64>::zeroed()?;
    for round in 1..=100 {
        let victim = fork("the victim", || {
            loop {
                value.update(|count| *count += 1);
                acknowledged.fetch_add(1, Ordering::Relaxed);
            }
        });
        let start = acknowledged.load(Ordering::Relaxed);
        let until = Instant::now() + HANG;
        while acknowledged.load(Ordering::Relaxed) < start + 50 * round {
            assert!(Instant::now() < until, "the victim hangs");
            std::thread::yield_now();
        }
        victim.kill();
        victim.wait()?;
        // It was killed somewhere between a count and its acknowledgement, or before, or after.
        let (count, acknowledged) = (value.get(), acknowledged.load(Ordering::Relaxed));
        let open = count.checked_sub(acknowledged);
        assert!(
            open.is_some_and(|open| open <= round),
            "{count}, of which {acknowledged} are known"
        );
    }
    Ok(())
}

fn kills_while_updating() -> Outcome {
    // So long that a kill comes in the middle of writing it, now and then.
    let value = Value::new([0_u8; 1 << 17])?;
    let array = Array::with_lock(&[[0_u8; 9999]; 3], value.get_lock())?;
    let acknowledged = RawValue::<AtomicU64>::zeroed()?;
    for round in 0..100 {
        let victim = fork("the victim", || {
            loop {
                value.update(|bytes| *bytes = [bytes[0].wrapping_add(1); 1 << 17]);
                array.update(1, |bytes| *bytes = [bytes[0] ^ 1; 9999])?;
                acknowledged.fetch_add(1, Ordering::Relaxed);
            }
        });
        let start = acknowledged.load(Ordering::Relaxed);
        let until = Instant::now() + HANG;
        while acknowledged.load(Ordering::Relaxed) < start + 5 + round % 50 {
            assert!(Instant::now() < until, "the victim hangs");
            std::thread::yield_now();
        }
        victim.kill();
        victim.wait()?;
        // By a call, and by a guard.
        let bytes = if round % 2 == 0 { value.get() } else { *value.lock() };
        assert!(bytes.iter().all(|byte| *byte == bytes[0]), "half an update");
        let bytes = array.get(1).ok_or("there is one")?;
        assert!(bytes.iter().all(|byte| *byte == bytes[0]), "half an update of an array");
    }
    Ok(())
}

fn killed_creator() -> Outcome {
    let (left, kept) = (own_name("left"), own_name("kept"));
    let (mut reader, mut writer) = std::io::pipe()?;
    let creator = fork("the creator", || {
        let memory = SharedMemory::create(Some(&left), 100)?.unlink_on_drop();
        let other = SharedMemory::create(Some(&kept), 100)?.unlink_on_drop();
        writer.write_all(&[1])?;
        std::thread::sleep(HANG * 2);
        drop((memory, other));
        Ok(())
    });
    wait_for(&mut reader, "the creator")?;
    let held = SharedMemory::open(&kept)?;
    assert!(SharedMemory::remove_stale(&own_prefix())?.is_empty(), "the creator lives");
    creator.kill();
    creator.wait()?;
    assert!(SharedMemory::list()?.contains(&left));
    assert_eq!(SharedMemory::remove_stale(&own_prefix())?, [left.as_str()]);
    assert!(matches!(SharedMemory::open(&left), Err(Error::NotFound { .. })));
    held.unlink()?;
    Ok(())
}

fn removing_beside_creating() -> Outcome {
    let creators: Vec<_> = (0..3)
        .map(|creator| {
            fork("a creator", move || {
                for round in 0..300 {
                    // The same names again, so that removers meet what was made anew.
                    let name = own_name_of_parent(&format!("{creator}-{}", round % 2));
                    let memory = SharedMemory::create(Some(&name), 64)?;
                    memory.write_at(0, &[round as u8])?;
                    let opened = SharedMemory::open(&name)?;
                    assert_eq!(opened.to_vec()[0], round as u8);
                    drop(memory);
                    opened.unlink()?;
                }
                Ok(())
            })
        })
        .collect();
    let prefix = own_prefix();
    for _ in 0..2_000 {
        SharedMemory::remove_stale(&prefix)?;
    }
    for creator in creators {
        creator.join()?;
    }
    Ok(())
}

/// What [`own_name`] gives in the process that forked this one.
fn own_name_of_parent(name: &str) -> String {
    format!("mp-test-{}-{name}", process::parent_id())
}

fn forked_handle() -> Outcome {
    let memory = SharedMemory::create(Some(&own_name("forked")), 100)?.unlink_on_drop();
    // The parent's is dropped at the end of this function, the child's copy of it in the child.
    let mut inherited = ManuallyDrop::new(memory);
    fork("the forked process", || {
        // SAFETY: in this process nobody uses it any more.
        unsafe { ManuallyDrop::drop(&mut inherited) };
        Ok(())
    })
    .join()?;
    let memory = ManuallyDrop::into_inner(inherited);
    assert_eq!(SharedMemory::open(memory.name())?.size(), 100);
    Ok(())
}

/// The mark says that this thread has a guard, so that nothing else changes what it lends out.
fn forked_guard() -> Outcome {
    let value = Value::new(1_u64)?;
    let mut guard = Some(value.lock());
    fork("the forked process", || {
        drop(guard.take());
        Ok(())
    })
    .join()?;
    let set = catch_unwind(AssertUnwindSafe(|| value.set(7)));
    assert!(set.is_err(), "set beside a guard");
    assert_eq!(**guard.as_ref().unwrap(), 1);
    drop(guard);
    // And the other way round: the child's own guard stays what it is.
    let mut guard = Some(value.lock());
    let (mut near, far) = Channel::pair()?;
    let child = fork("the forked process", || {
        let mut far = far;
        far.receive(Deadline::after(HANG))?;
        let own = value.lock();
        drop(guard.take());
        assert!(catch_unwind(AssertUnwindSafe(|| value.set(7))).is_err(), "set beside a guard");
        far.send(1, &[], &[])?;
        far.receive(Deadline::after(HANG))?;
        assert_eq!(*own, 1);
        Ok(())
    });
    drop(guard);
    near.send(1, &[], &[])?;
    near.receive(Deadline::after(HANG))?;
    assert!(matches!(value.try_lock(), Err(TryLockError::WouldBlock)));
    near.send(1, &[], &[])?;
    child.join()?;
    value.set(7);
    Ok(())
}

/// Beyond it the kernel sends a signal that kills: setrlimit(2).
fn limit_files(bytes: u64) {
    let limit = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
    // SAFETY: takes numbers only.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit) }, 0);
}

fn no_room_for_a_file() -> Outcome {
    let name = own_name("too-large");
    fork("the limited process", || {
        limit_files(1 << 20);
        assert!(Array::<u8>::zeroed(2 << 20).is_err());
        assert!(Array::from_slice(&vec![7_u8; 2 << 20]).is_err());
        let error = SharedMemory::create(Some(&name), 2 << 20).unwrap_err();
        assert!(matches!(error, Error::NoMemory { .. }), "{error}");
        // Sent as a file.
        let (near, mut far) = Channel::pair()?;
        assert!(near.send(1, &[&vec![7; 2 << 20]], &[]).is_err());
        near.send(1, &[&vec![7; 1 << 20]], &[])?;
        assert_eq!(far.receive(Deadline::after(HANG))?.body, vec![7; 1 << 20]);
        // As large as may be.
        drop(SharedMemory::create(Some(&name), 1 << 20)?.unlink_on_drop());
        Ok(())
    })
    .join()?;
    assert!(matches!(SharedMemory::open(&name), Err(Error::NotFound { .. })));
    Ok(())
}

fn limit_after() -> Outcome {
    let memory = SharedMemory::create(Some(&own_name("before")), 2 << 20)?.unlink_on_drop();
    let segment = mp_core::Segment::create("before", 1, 2 << 20)?;
    fork("the limited process", || {
        limit_files(1 << 20);
        memory.reserve()?;
        segment.reserve(0, 2 << 20)?;
        segment.release(1 << 20, 4096)?;
        segment.reserve(1 << 20, 4096)?;
        // A write beyond the limit would be the signal too, though the file is as long (write(2)).
        assert!(segment.write_past_mapping(1 << 20, &[7]).is_err());
        segment.write_past_mapping((1 << 20) - 1, &[7])?;
        Ok(())
    })
    .join()?;
    Ok(())
}

fn nothing_left() -> Outcome {
    let descriptors = || process_descriptors().len();
    let before = descriptors();
    for round in 0..20 {
        let value = Value::new(round)?;
        let other = Value::with_lock(round, value.get_lock())?;
        let array = Array::<u8>::zeroed(10_000)?;
        let raw = RawArray::<u64>::zeroed(10)?;
        let memory = SharedMemory::create(Some(&own_name("round")), 10)?.unlink_on_drop();
        let list = ShareableList::create(Some(&own_name("items")), [round])?.unlink_on_drop();
        let message = mp_core::encode(&(&value, &other, &array, &raw, &memory, &list))?;
        drop(message); // with its descriptors
        let child = fork("a user", || {
            value.update(|value| *value += 1);
            Ok(())
        });
        child.join()?;
    }
    assert_eq!(descriptors(), before);
    let names = entries("/dev/shm");
    assert!(!names.iter().any(|name| name.starts_with(&own_prefix())), "{names:?}");
    Ok(())
}

fn process_descriptors() -> Vec<String> {
    entries("/proc/self/fd")
}

/// Runs a script with arguments; gives what it prints.
///
/// `opened(class, name)` in it attaches as other programs should: without taking part in the end of it
/// (`track=False` of newer versions).
fn python(script: &str, arguments: &[&str]) -> Result<String, Box<dyn std::error::Error>> {
    const PRELUDE: &str = "
import sys
from multiprocessing import resource_tracker
from multiprocessing.shared_memory import SharedMemory, ShareableList
def opened(cls, name):
    it = cls(name=name)
    resource_tracker.unregister(getattr(it, 'shm', it)._name, 'shared_memory')
    return it
";
    let mut child = Command::new("python3")
        .args(["-c", &format!("{PRELUDE}{script}")])
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let pidfd = process::pidfd_open(child.id())?;
    if !process::wait_ended(pidfd.as_fd(), Deadline::after(HANG))? {
        child.kill()?;
        child.wait()?;
        return Err("python hangs".into());
    }
    let output = child.wait_with_output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() || !errors.is_empty() {
        return Err(format!("python failed: {errors}").into());
    }
    Ok(String::from_utf8(output.stdout)?.trim().to_string())
}

fn python_opens_ours() -> Outcome {
    let memory = SharedMemory::create(Some(&own_name("ours")), 10)?.unlink_on_drop();
    memory.write_at(0, b"from rust")?;
    let answer = python(
        "
m = opened(SharedMemory, sys.argv[1])
print(m.name, m.size, bytes(m.buf))
m.buf[5:9] = b'snek'
m.close()
",
        &[memory.name()],
    )?;
    assert_eq!(answer, format!("{} 10 b'from rust\\x00'", memory.name()));
    assert_eq!(memory.to_vec(), b"from snek\0");
    assert!(SharedMemory::open(memory.name()).is_ok(), "it was only closed there");

    // Unlinked there, it is gone here.
    python("SharedMemory(sys.argv[1]).unlink()", &[memory.name()])?;
    assert!(matches!(memory.unlink(), Err(Error::NotFound { .. })));
    Ok(())
}

/// Makes memory or a list in Python and leaves it behind.
const LEAVE: &str = "
def leave(it):
    shm = getattr(it, 'shm', it)
    resource_tracker.unregister(shm._name, 'shared_memory')
    print(shm.name)
";

fn we_open_pythons() -> Outcome {
    let script = "
m = SharedMemory(name=sys.argv[1] or None, create=True, size=5000)
m.buf[:5] = b'howdy'
leave(m)
";
    // One with a name that it was given, one with a name of Python's choice.
    for name in [&own_name("theirs"), ""] {
        let name = python(&format!("{LEAVE}{script}"), &[name])?;
        let memory = SharedMemory::open(&name)?;
        assert_eq!(memory.size(), 5000);
        assert_eq!(memory.to_vec()[..7], *b"howdy\0\0");
        memory.reserve()?;
        memory.write_at(4990, b"0123456789")?;
        let end =
            python("m = opened(SharedMemory, sys.argv[1]); print(bytes(m.buf[4995:]))", &[&name])?;
        assert_eq!(end, "b'56789'");
        assert!(!SharedMemory::list()?.contains(&name), "Python made it");
        let again = SharedMemory::create(Some(&name), 1);
        assert!(matches!(again, Err(Error::AlreadyExists { .. })));
        memory.unlink()?;
    }
    Ok(())
}

fn opening_destroys_nothing() -> Outcome {
    let name = own_name("kept");
    python(&format!("{LEAVE}leave(SharedMemory(sys.argv[1], create=True, size=1))"), &[&name])?;
    fork("the process that opens", || {
        drop(SharedMemory::open(&name)?);
        SharedMemory::open(&name)?;
        Ok(())
    })
    .join()?;
    assert!(SharedMemory::remove_stale(&own_prefix())?.is_empty(), "it is not ours");
    SharedMemory::open(&name)?.unlink()?;
    Ok(())
}

/// What is to come out the same on both sides, here and in Python.
fn samples() -> (Vec<Item>, &'static str) {
    let items = items![
        "howdy",
        b"HoWdY",
        -273.154,
        100,
        (),
        true,
        42,
        false,
        "",
        b"",
        "eight by",
        "sixteen bytes ..",
        i64::MIN,
        f64::INFINITY,
        b"\x00\xFF",
        "mid\0dle"
    ];
    let python = "['howdy', b'HoWdY', -273.154, 100, None, True, 42, False, '', b'', 'eight by', \
                  'sixteen bytes ..', -2**63, float('inf'), b'\\x00\\xff', 'mid\\x00dle']";
    (items.into(), python)
}

fn python_lays_out_the_same() -> Outcome {
    let (items, python_items) = samples();
    let script = format!("{LEAVE}leave(ShareableList({python_items}, name=sys.argv[1]))");
    let theirs = ShareableList::open(&python(&script, &[&own_name("layout")])?)?;
    let ours = ShareableList::create(Some(&own_name("layout2")), items)?.unlink_on_drop();
    let theirs = theirs.unlink_on_drop();
    let bytes = theirs.memory().to_vec();
    assert_eq!(ours.memory().to_vec()[..bytes.len()], bytes);
    Ok(())
}

fn python_opens_our_list() -> Outcome {
    let (items, python_items) = samples();
    let list = ShareableList::create(Some(&own_name("list")), items)?.unlink_on_drop();
    let script = format!(
        "
l = opened(ShareableList, sys.argv[1])
print(list(l) == {python_items}, [type(i).__name__ for i in l][:6], len(l), l.count(42), l.index(42))
l[0] = 'bye'
l[2] = b'replaced'
l[3] = None
l[-1] = 0.5
l[4] = 7
"
    );
    let answer = python(&script, &[list.name()])?;
    assert_eq!(answer, "True ['str', 'bytes', 'float', 'int', 'NoneType', 'bool'] 16 1 6");
    assert_eq!(list.get(0)?, Item::from("bye"));
    assert_eq!(list.get(2)?, Item::from(b"replaced"));
    assert_eq!(list.get(3)?, Item::None);
    assert_eq!(list.get(15)?, Item::from(0.5));
    assert_eq!(list.get(4)?, Item::from(7));

    // NULs at the end are kept here, and no more once Python has written the slot.
    list.set(0, "nul\0\0")?;
    assert_eq!(python("print(opened(ShareableList, sys.argv[1])[0])", &[list.name()])?, "nul");
    assert_eq!(list.get(0)?, Item::from("nul\0\0"));
    python("opened(ShareableList, sys.argv[1])[0] = 'lun'", &[list.name()])?;
    assert_eq!(list.get(0)?, Item::from("lun"));
    Ok(())
}

fn we_open_pythons_list() -> Outcome {
    let (items, python_items) = samples();
    let script = format!("{LEAVE}leave(ShareableList({python_items}, name=sys.argv[1]))");
    let list = ShareableList::open(&python(&script, &[&own_name("list")])?)?.unlink_on_drop();
    assert_eq!(list.to_vec()?, items);
    list.set(0, 3)?;
    list.set(1, "text")?;
    list.set(5, 2.5)?;
    assert!(matches!(list.set(3, "nine byte"), Err(Error::DoesNotFit { index: 3, .. })));
    assert!(matches!(list.set(3, "nul\0"), Err(Error::TrailingNul { index: 3 })));
    list.set(3, "8 bytes!")?;
    let script = "print(list(opened(ShareableList, sys.argv[1]))[:7])";
    let answer = python(script, &[list.name()])?;
    assert_eq!(answer, "[3, 'text', -273.154, '8 bytes!', None, 2.5, 42]");
    Ok(())
}

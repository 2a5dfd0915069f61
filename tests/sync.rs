//! Locks and their relatives, between processes started by each method.

use std::io::{self, Read, Write};
use std::thread;
use std::time::{Duration, Instant};

use multiprocess::sync::{Acquired, Error};
use multiprocess::{
    Barrier, BoundedSemaphore, Child, Condition, Event, Fd, Lock, Mutex, Process, RLock, RwLock,
    Semaphore,
};

use crate::support::{HANG, Outcome, PROMPT, at_last, eventually, leak, sleeps, ticks};

crate::cases! {
    EACH:
        every_object_is_the_same_one_in_another_process
        every_object_travels_inside_of_values_and_back
        four_processes_count_to_the_sum_under_each_kind_of_lock
        the_next_gets_the_lock_of_a_killed_process_with_the_news
        permits_of_a_killed_process_come_back
        a_killed_reader_and_writer_block_nobody
        a_killed_waiter_hangs_nobody
        a_condition_wakes_a_process_and_restores_the_depth_of_its_lock
        an_event_set_and_cleared_at_once_wakes_all_that_waited
        a_barrier_gives_each_process_its_index_round_after_round
        a_killed_party_breaks_the_barrier
        a_party_that_was_killed_does_not_count_when_the_last_comes
    ;
    ONCE:
        who_sleeps_through_many_rounds_of_a_barrier_learns_how_its_own_ended
        who_waits_gets_its_turn_beside_those_who_take_again_at_once
        many_that_wait_use_next_to_no_time
    ;
}

fn sleep_for_ever() {
    thread::sleep(Duration::from_secs(1000));
}

/// A pipe on which a child says that it is where the test wants it.
fn signal() -> io::Result<(io::PipeReader, Fd)> {
    let (reader, writer) = io::pipe()?;
    Ok((reader, Fd::from(writer)))
}

fn say(ready: Fd) {
    io::PipeWriter::from(ready).write_all(b"x").expect("writes");
}

fn hear(mut reader: io::PipeReader) -> Outcome {
    reader.read_exact(&mut [0])?;
    Ok(())
}

fn kill<R>(child: &Child<R>) -> Outcome {
    child.kill()?;
    child.join()?;
    Ok(())
}

fn every_object_is_the_same_one_in_another_process() -> Outcome {
    let use_all = |lock: Lock, rlock: RLock, semaphore: Semaphore, event: Event| {
        let free = (lock.try_lock().is_ok(), rlock.try_lock().is_ok());
        semaphore.acquire().expect("acquires");
        event.set();
        free
    };
    let (lock, rlock) = (Lock::new()?, RLock::new()?);
    let (semaphore, event) = (Semaphore::new(2)?, Event::new()?);
    let all = (lock.clone(), rlock.clone(), semaphore.clone(), event.clone());
    let guards = (lock.lock().unwrap(), rlock.lock().unwrap());
    let free = Process::new(use_all, all).start()?.result()?;
    assert_eq!((free, semaphore.value(), event.is_set()), ((false, false), 1, true));
    drop(guards);
    Ok(())
}

fn every_object_travels_inside_of_values_and_back() -> Outcome {
    type Many =
        (Vec<Lock>, Option<BoundedSemaphore>, (Condition, Barrier), Mutex<u64>, RwLock<i32>);
    let back = |(locks, semaphore, pair, mutex, rwlock): Many| -> Many {
        *mutex.lock().expect("no owner died") += 1;
        *rwlock.write().expect("no owner died") -= 1;
        semaphore.as_ref().expect("some").acquire().expect("acquires");
        (locks, semaphore, pair, mutex, rwlock)
    };
    let lock = Lock::new()?;
    let many: Many = (
        vec![lock.clone(), lock.clone()],
        Some(BoundedSemaphore::new(1)?),
        (Condition::new()?, Barrier::new(1)?),
        Mutex::new(41)?,
        RwLock::new(1)?,
    );
    let (locks, semaphore, (condition, barrier), mutex, rwlock) =
        Process::new(back, (many,)).start()?.result()?;
    assert_eq!((*mutex.lock().unwrap(), *rwlock.read().unwrap()), (42, 0));
    let guard = locks[0].lock().unwrap();
    assert!(locks[1].try_lock().is_err() && lock.try_lock().is_err());
    drop(guard);
    let semaphore = semaphore.ok_or("none came back")?;
    semaphore.release()?;
    assert!(semaphore.release().is_err(), "above its initial value");
    condition.notify_all();
    assert_eq!(barrier.wait()?, 0);
    Ok(())
}

fn four_processes_count_to_the_sum_under_each_kind_of_lock() -> Outcome {
    const TIMES: u64 = 20_000;
    let count = |mutex: Mutex<u64>, rwlock: RwLock<u64>, lock: Lock, plain: RwLock<[u64; 2]>| {
        for _ in 0..TIMES {
            *mutex.lock().expect("no owner died") += 1;
            *rwlock.write().expect("no owner died") += 1;
            let _guard = lock.lock().expect("no owner died");
            // Read and write apart: only the outer lock keeps them together.
            let before = plain.read().expect("no owner died")[0];
            plain.write().expect("no owner died")[0] = before + 1;
        }
    };
    let (mutex, rwlock) = (Mutex::new(0_u64)?, RwLock::new(0_u64)?);
    let (lock, plain) = (Lock::new()?, RwLock::new([0_u64; 2])?);
    let start = || {
        let all = (mutex.clone(), rwlock.clone(), lock.clone(), plain.clone());
        Process::new(count, all).start()
    };
    let children: Vec<_> = (0..4).map(|_| start()).collect::<Result<_, _>>()?;
    for child in children {
        assert!(child.join()?.success());
    }
    let sums = (*mutex.lock().unwrap(), *rwlock.read().unwrap(), plain.read().unwrap()[0]);
    assert_eq!(sums, (4 * TIMES, 4 * TIMES, 4 * TIMES));
    Ok(())
}

fn the_next_gets_the_lock_of_a_killed_process_with_the_news() -> Outcome {
    let hold = |lock: Lock, rlock: RLock, mutex: Mutex<u32>, ready: Fd| {
        let _guards = (lock.lock(), rlock.lock(), rlock.lock());
        let mut guard = mutex.lock().expect("no owner died");
        *guard = 7;
        say(ready);
        sleep_for_ever();
    };
    let (lock, rlock, mutex) = (Lock::new()?, RLock::new()?, Mutex::new(0_u32)?);
    for _ in 0..10 {
        let (reader, ready) = signal()?;
        let all = (lock.clone(), rlock.clone(), mutex.clone(), ready);
        let child = Process::new(hold, all).start()?;
        hear(reader)?;
        assert!(matches!(lock.acquire_timeout(Duration::from_millis(5)), Err(Error::TimedOut)));
        kill(&child)?;
        let start = Instant::now();
        assert!(lock.lock().is_err(), "the news comes with the guard");
        assert!(matches!(rlock.acquire_timeout(HANG)?, Acquired::OwnerDied));
        rlock.release()?;
        let guard = mutex.lock().unwrap_err().into_inner();
        assert_eq!(*guard, 7);
        assert!(start.elapsed() < PROMPT, "{:?}", start.elapsed());
        drop(guard);
        // The news is told once.
        assert!(lock.lock().is_ok() && rlock.lock().is_ok() && mutex.lock().is_ok());
    }
    Ok(())
}

fn who_waits_gets_its_turn_beside_those_who_take_again_at_once() -> Outcome {
    let again_and_again = |semaphore: Semaphore| {
        while let Ok(permit) = semaphore.permit() {
            thread::sleep(Duration::from_micros(20));
            drop(permit);
        }
    };
    let semaphore = Semaphore::new(2)?;
    let start = || Process::new(again_and_again, (semaphore.clone(),)).daemon(true).start();
    let children = (0..3).map(|_| start()).collect::<Result<Vec<_>, _>>()?;
    // A wake-up each where they stand back now and then; a good part of a second each where they do not.
    for _ in 0..100 {
        drop(semaphore.permit_timeout(HANG)?);
        thread::sleep(Duration::from_millis(2));
    }
    children.iter().try_for_each(kill)
}

fn permits_of_a_killed_process_come_back() -> Outcome {
    let hold = |semaphore: Semaphore, ready: Fd| {
        let _permits = (semaphore.permit(), semaphore.permit());
        say(ready);
        sleep_for_ever();
    };
    let semaphore = Semaphore::new(2)?;
    for _ in 0..10 {
        let (reader, ready) = signal()?;
        let child = Process::new(hold, (semaphore.clone(), ready)).start()?;
        hear(reader)?;
        assert!(semaphore.try_acquire().is_err());
        kill(&child)?;
        semaphore.acquire_timeout(HANG)?;
        semaphore.acquire_timeout(HANG)?;
        assert!(semaphore.try_acquire().is_err(), "no more than there were");
        semaphore.release()?;
        semaphore.release()?;
    }
    Ok(())
}

fn a_killed_reader_and_writer_block_nobody() -> Outcome {
    let hold = |rwlock: RwLock<u32>, write: bool, ready: Fd| {
        if write {
            let _guard = rwlock.write();
            say(ready);
            sleep_for_ever();
        } else {
            let _guard = rwlock.read();
            say(ready);
            sleep_for_ever();
        }
    };
    let rwlock = RwLock::new(0_u32)?;
    for write in [false, true, false] {
        let (reader, ready) = signal()?;
        let child = Process::new(hold, (rwlock.clone(), write, ready)).start()?;
        hear(reader)?;
        assert!(rwlock.try_write().is_err());
        kill(&child)?;
        let start = Instant::now();
        // With the news after a writer, without after a reader.
        assert_eq!(rwlock.write().is_err(), write);
        assert!(start.elapsed() < PROMPT);
        assert!(rwlock.read().is_ok());
    }
    Ok(())
}

fn a_killed_waiter_hangs_nobody() -> Outcome {
    let wait = |condition: Condition, event: Event, lock: Lock, ready: Fd| {
        let _ = &lock;
        let guard = condition.lock().expect("no owner died");
        say(ready);
        let _ = condition.wait(guard);
        let _ = event.wait();
    };
    let (condition, event, lock) = (Condition::new()?, Event::new()?, Lock::new()?);
    for _ in 0..5 {
        let mut children = Vec::new();
        for _ in 0..3 {
            let (reader, ready) = signal()?;
            let all = (condition.clone(), event.clone(), lock.clone(), ready);
            children.push(Process::new(wait, all).start()?);
            hear(reader)?;
        }
        // Had after they have let go of it, so all three wait by now.
        drop(condition.lock().unwrap());
        kill(&children[0])?;
        kill(&children[1])?;
        condition.notify_one();
        condition.notify_all();
        event.set();
        let status = children[2].join_timeout(HANG)?.ok_or("the survivor hangs")?;
        assert!(status.success());
        event.clear();
    }
    Ok(())
}

fn a_condition_wakes_a_process_and_restores_the_depth_of_its_lock() -> Outcome {
    let wait = |condition: Condition, lock: RLock, number: Mutex<u32>| {
        let outer = lock.lock().expect("no owner died");
        let inner = lock.lock().expect("no owner died");
        let ready = |_: &mut _| *number.lock().expect("no owner died") == 0;
        let inner = condition.wait_while(inner, |guard| ready(guard)).expect("no owner died");
        let depth = lock.depth();
        drop((inner, outer));
        (depth, lock.is_locked())
    };
    let (condition, lock, number) = (Condition::new()?, RLock::new()?, Mutex::new(0_u32)?);
    let child = Process::new(wait, (condition.clone(), lock.clone(), number.clone())).start()?;
    thread::sleep(Duration::from_millis(20));
    let guard = lock.lock().unwrap();
    *number.lock().unwrap() = 1;
    condition.notify_one();
    drop(guard);
    assert_eq!(child.result()?, (2, false));
    Ok(())
}

fn an_event_set_and_cleared_at_once_wakes_all_that_waited() -> Outcome {
    let wait = |event: Event, ready: Fd| {
        say(ready);
        event.wait_timeout(HANG).expect("waits")
    };
    let event = Event::new()?;
    let mut children = Vec::new();
    for _ in 0..3 {
        let (reader, ready) = signal()?;
        children.push(Process::new(wait, (event.clone(), ready)).start()?);
        hear(reader)?;
    }
    // They are about to wait.
    children.iter().try_for_each(|child| sleeps(child.pid()))?;
    event.set();
    event.clear();
    for child in children {
        assert!(child.result()?, "the set was missed");
    }
    assert!(!event.is_set());
    Ok(())
}

fn a_barrier_gives_each_process_its_index_round_after_round() -> Outcome {
    const ROUNDS: usize = 50;
    let meet = |barrier: Barrier| {
        (0..ROUNDS).map(|_| barrier.wait_timeout(HANG).expect("meets")).collect::<Vec<_>>()
    };
    let barrier = Barrier::new(4)?;
    let children: Vec<_> =
        (0..3).map(|_| Process::new(meet, (barrier.clone(),)).start()).collect::<Result<_, _>>()?;
    let mut all = vec![meet(barrier)];
    for child in children {
        all.push(child.result()?);
    }
    for round in 0..ROUNDS {
        let mut indexes: Vec<usize> = all.iter().map(|of_one| of_one[round]).collect();
        indexes.sort_unstable();
        assert_eq!(indexes, [0, 1, 2, 3]);
    }
    Ok(())
}

fn a_killed_party_breaks_the_barrier() -> Outcome {
    let wait = |barrier: Barrier| barrier.wait().is_err();
    let barrier = Barrier::new(3)?;
    let one = Process::new(wait, (barrier.clone(),)).start()?;
    let two = Process::new(wait, (barrier.clone(),)).start()?;
    eventually("both wait", || barrier.n_waiting() == 2)?;
    kill(&one)?;
    assert!(two.result()?, "the other learns that it is broken");
    assert!(barrier.is_broken());
    barrier.reset()?;
    assert!(!barrier.is_broken());
    Ok(())
}

/// None of those that waited is there any more, to look whether the others live.
fn a_party_that_was_killed_does_not_count_when_the_last_comes() -> Outcome {
    let wait = |barrier: Barrier| barrier.wait().is_err();
    let barrier = Barrier::new(2)?;
    for _ in 0..5 {
        let child = Process::new(wait, (barrier.clone(),)).start()?;
        eventually("it waits", || barrier.n_waiting() == 1)?;
        kill(&child)?;
        let result = barrier.wait_timeout(HANG);
        assert!(matches!(result, Err(Error::Broken)), "{result:?}");
        barrier.reset()?;
    }
    let child = Process::new(wait, (barrier.clone(),)).start()?;
    barrier.wait_timeout(HANG)?;
    assert!(!child.result()?);
    Ok(())
}

fn who_sleeps_through_many_rounds_of_a_barrier_learns_how_its_own_ended() -> Outcome {
    let wait = |barrier: Barrier| match barrier.wait() {
        Ok(_) => true,
        Err(Error::Broken) => false,
        Err(error) => panic!("{error}"),
    };
    for all_come in [false, true] {
        let barrier = Barrier::new(2)?;
        let child = Process::new(wait, (barrier.clone(),)).start()?;
        eventually("it waits", || barrier.n_waiting() == 1)?;
        let signal = |signal| {
            // SAFETY: takes numbers only; a child that was not joined.
            assert_eq!(unsafe { libc::kill(child.pid() as i32, signal) }, 0);
        };
        signal(libc::SIGSTOP);
        eventually("it is stopped", || leak::state(child.pid()) == Some('T'))?;
        if all_come {
            barrier.wait_timeout(HANG)?;
        } else {
            barrier.reset()?;
        }
        for _ in 0..40 {
            assert!(matches!(barrier.wait_timeout(Duration::ZERO), Err(Error::TimedOut)));
            barrier.reset()?;
        }
        signal(libc::SIGCONT);
        assert_eq!(child.result()?, all_come);
    }
    Ok(())
}

/// Each looks now and then whether the others live; not each at all of them.
fn many_that_wait_use_next_to_no_time() -> Outcome {
    const EACH: usize = 100;
    let (barrier, condition, event) = (Barrier::new(EACH + 1)?, Condition::new()?, Event::new()?);
    thread::scope(|scope| {
        for _ in 0..EACH {
            scope.spawn(|| barrier.wait().expect("all come"));
            scope.spawn(|| {
                let guard = condition.lock().expect("nobody died");
                drop(condition.wait_while(guard, |()| !event.is_set()).expect("nobody died"));
            });
            scope.spawn(|| event.wait().expect("is set"));
        }
        let measure = || {
            let before = ticks(std::process::id());
            thread::sleep(Duration::from_secs(1));
            ticks(std::process::id()) - before
        };
        // The squares of a hundred take both of two processors for all of the second.
        let result = at_last(measure, |&ticks| ticks < 40);
        event.set();
        condition.notify_all();
        barrier.wait()?;
        result
    })
}

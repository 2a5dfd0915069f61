//! Managers: their objects are used, passed around, and outlive whoever is killed.

use std::collections::{HashMap, HashSet};
use std::process;
use std::thread;
use std::time::{Duration, Instant};

use multiprocess::core::sys::random;
use multiprocess::manager::{
    Array, Barrier, Condition, Error, Event, Lock, LockGuard, Queue, Result, Semaphore, Set, Value,
};
use multiprocess::{
    AuthKey, Child, Dict, List, Manager, Namespace, Object, Pool, Process, Sender, Shared, duplex,
    queue, simplex,
};
use serde::{Deserialize, Deserializer, Serialize};

use crate::builtins::{Locks, locks, use_locks};
use crate::support::{HANG, Outcome, PROMPT, eventually, may_open, runs};

crate::cases! {
    EACH:
        the_ten_processes_of_the_notes
        every_proxy_works_in_a_child
        dicts_of_lists_are_shared_through
        proxies_travel_by_pipe_queue_and_managers
        rows_go_in_batches_and_are_updated_in_the_server
        an_object_lives_as_long_as_a_proxy
        an_object_of_killed_holders_goes
        a_panic_reaches_its_caller_and_leaves_the_object
        what_blocks_one_client_blocks_no_other
        an_end_of_a_pipe_among_a_managers_values_goes_to_one_client
        a_killed_holder_of_a_lock_frees_it
        a_killed_waiter_is_waited_for_by_nobody
        what_a_killed_client_held_is_free_for_who_has_seen_its_end
        what_a_client_held_that_was_killed_waiting_is_free_too
        a_notification_does_not_end_with_who_is_killed_before_it_has_the_lock
        a_notification_does_not_end_with_who_is_killed_as_it_comes
        a_call_of_a_killed_client_does_not_come_after_its_end
        a_call_that_is_being_made_for_a_killed_client_comes_first
        a_killed_server_is_an_error_at_once
        the_server_ends_with_a_killed_parent
        a_shutdown_ends_a_server_that_does_not_listen
        a_forked_copy_has_connections_of_its_own
        a_process_that_was_given_no_proxy_connects
    ;
    THREADED:
        proxies_travel_to_the_workers_of_a_pool
        a_queue_of_a_manager_serves_a_pool
        conditions_events_and_barriers_bring_processes_together
    ;
    ONCE:
        a_manager_that_a_forked_closure_captured_goes_on_in_it
        a_panic_in_a_blocking_type_says_so
        the_last_party_has_the_action_done_in_the_server
        poison_is_told_to_who_asks
        thousands_of_proxies_go_in_one_call
        a_call_that_takes_the_last_descriptors_is_refused_alone
        a_server_without_descriptors_refuses_and_serves_again
        a_client_without_descriptors_is_told_and_goes_on
        errors_name_what_is_wrong
        a_call_that_would_wait_for_itself_is_an_error
        a_thread_that_ends_frees_what_it_held
        what_is_long_travels
        proxies_of_another_type_are_refused
        who_has_another_key_is_turned_away
        objects_go_with_the_dict_that_held_their_proxies
        an_object_that_takes_its_time_to_be_dropped_holds_up_no_other
        a_shutdown_wakes_those_who_wait
        a_killed_server_leaves_its_place_to_another
    ;
    SLOW:
        the_notes_two_hundred_times
        clients_killed_under_load_leave_a_server_that_is_as_before
    ;
}

fn sleep_for_ever() {
    thread::sleep(Duration::from_secs(1000));
}

/// The example of the notes; gives what it prints.
fn notes() -> std::result::Result<(String, String), Box<dyn std::error::Error>> {
    fn f(d: Dict<Object, Object>, l: List<i32>, n: i32) {
        d.insert(n.into(), "1".into()).unwrap();
        d.insert("2".into(), 2.into()).unwrap();
        l.push(n).unwrap();
    }
    let manager = Manager::new()?;
    let d = manager.dict::<Object, Object>()?;
    let l = manager.list(0..5)?;
    let start = |n| Process::new(f, (d.clone(), l.clone(), n)).start();
    let children: Vec<_> = (0..10).map(start).collect::<std::result::Result<_, _>>()?;
    for child in children {
        child.result()?;
    }
    Ok((d.to_string(), l.to_string()))
}

/// The items between the first and the last character, sorted.
fn sorted(text: &str) -> Vec<&str> {
    let mut items: Vec<&str> = text[1..text.len() - 1].split(", ").collect();
    items.sort_unstable();
    items
}

fn check_notes() -> Outcome {
    let (dict, list) = notes()?;
    let expected =
        "{0: '1', 1: '1', 2: '1', 3: '1', 4: '1', 5: '1', 6: '1', 7: '1', 8: '1', 9: '1', '2': 2}";
    assert!(dict.starts_with('{') && dict.ends_with('}'));
    assert_eq!(sorted(&dict), sorted(expected), "{dict}");
    assert!(list.starts_with("[0, 1, 2, 3, 4, ") && list.ends_with(']'), "{list}");
    assert_eq!(sorted(&list), sorted("[0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9]"), "{list}");
    Ok(())
}

fn the_ten_processes_of_the_notes() -> Outcome {
    check_notes()
}

fn the_notes_two_hundred_times() -> Outcome {
    (0..200).try_for_each(|_| check_notes())
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Account {
    balance: i64,
    history: Vec<String>,
}

impl Account {
    fn deposit(&mut self, amount: i64, from: String) -> i64 {
        assert!(amount > 0, "an amount of {amount} is none");
        self.balance += amount;
        self.history.push(from);
        self.balance
    }
}

/// One proxy of each type.
type Collections = (
    Dict<String, i32>,
    List<String>,
    Set<i32>,
    Namespace,
    Value<f64>,
    Array<u8>,
    Queue<String>,
    Shared<Account>,
);
fn collections(manager: &Manager) -> Result<Collections> {
    Ok((
        manager.dict()?,
        manager.list(["a".to_string()])?,
        manager.set([1, 2, 2])?,
        manager.namespace()?,
        manager.value(1.5)?,
        manager.array([1, 2, 3])?,
        manager.queue(2)?,
        manager.shared(Account::default())?,
    ))
}

fn use_collections(proxies: Collections) -> Result<()> {
    let (dict, list, set, names, value, array, queue, account) = proxies;
    assert_eq!(dict.insert("k".into(), 1)?, None);
    assert_eq!(dict.insert("k".into(), 2)?, Some(1));
    assert_eq!(dict.get_or_insert("k".into(), 9)?, 2);
    assert_eq!(dict.get_or_insert("l".into(), 9)?, 9);
    assert!(dict.contains_key(&"l".into())? && !dict.contains_key(&"m".into())?);
    assert_eq!(dict.remove(&"k".into())?, Some(2));
    assert_eq!(dict.get(&"k".into())?, None);
    assert_eq!((dict.len()?, dict.keys()?, dict.values()?), (1, vec!["l".into()], vec![9]));

    list.push("c".into())?;
    list.insert(1, "b".into())?;
    list.reverse()?;
    assert_eq!(list.to_vec()?, ["c", "b", "a"]);
    list.sort()?;
    assert_eq!((list.index(&"b".into())?, list.contains(&"x".into())?), (Some(1), false));
    assert_eq!((list.remove(0)?, list.get(0)?), ("a".into(), Some("b".into())));
    list.set(0, "d".into())?;
    list.extend(["e".into(), "e".into()])?;
    assert_eq!((list.count(&"e".into())?, list.remove_item(&"e".into())?), (2, true));
    list.update(0, |item: &mut String| item.push('!'), ())?;
    assert_eq!((list.pop()?, list.len()?), (Some("e".into()), 2));

    assert!(!set.insert(1)? && set.insert(3)? && set.contains(&3)? && set.remove(&1)?);
    assert_eq!((set.to_set()?, set.pop()?), (HashSet::from([2, 3]), Some(3)));

    names.set("x", 1)?;
    names.set("y", vec![Object::None])?;
    assert_eq!(names.remove("x")?, 1.into());
    assert!(names.contains("y")? && matches!(names.get("x"), Err(Error::KeyMissing)));

    value.set(value.get()? + 1.0)?;
    value.update(|value: &mut f64, by: f64| *value *= by, (2.0,))?;

    assert!(matches!(array.set(3, 0), Err(Error::OutOfRange { index: 3, len: 3 })));
    array.set(0, 7)?;
    assert_eq!(array.update(1, |item: &mut u8| *item += 1, ()).map(|()| array.get(1))??, Some(3));

    queue.put("first".into())?;
    queue.put("second".into())?;
    assert!(matches!(queue.try_put("x".into()), Err(refused) if refused.value == "x"));
    assert!(queue.put_timeout("x".into(), Duration::from_millis(5)).is_err());
    assert!(queue.is_full()? && queue.len()? == 2 && queue.capacity()? == Some(2));
    assert_eq!(queue.get()?, "first");

    assert_eq!(account.call(Account::deposit, (5, "child".to_string()))?, 5);
    Ok(())
}

fn every_proxy_works_in_a_child() -> Outcome {
    let manager = Manager::new()?;
    let (ours, theirs) = (collections(&manager)?, locks(&manager)?);
    let task = |collections: Collections, locks: Locks| {
        use_collections(collections).unwrap();
        use_locks(&locks).unwrap();
    };
    Process::new(task, (ours.clone(), theirs.clone())).start()?.result()?;
    let (dict, list, set, names, value, array, queue, account) = ours;
    assert_eq!(dict.to_string(), "{'l': 9}");
    assert_eq!(dict.to_map()?, HashMap::from([("l".to_string(), 9)]));
    assert_eq!(list.to_string(), "['d!', 'c']");
    assert_eq!(set.to_string(), "{2}");
    assert_eq!(names.to_string(), "Namespace(y=[None])");
    assert_eq!(value.to_string(), "5.0");
    assert_eq!(array.to_string(), "[7, 3, 3]");
    assert_eq!(queue.get()?, "second");
    let history = |account: &mut Account| account.history.clone();
    assert_eq!(account.call(history, ())?, ["child"]);
    // And here.
    Ok(use_locks(&theirs)?)
}

fn dicts_of_lists_are_shared_through() -> Outcome {
    let manager = Manager::new()?;
    let lists: Dict<String, List<i32>> = manager.dict()?;
    lists.insert("a".into(), manager.list([1])?)?;
    let task = |lists: Dict<String, List<i32>>| {
        let list = lists.get(&"a".to_string()).unwrap().expect("a list");
        list.push(2).unwrap();
        // In the server too.
        let push =
            |list: &mut List<i32>, item: i32| list.push(item).map_err(|error| error.to_string());
        lists.update(&"a".to_string(), push, (3,)).unwrap().unwrap();
    };
    Process::new(task, (lists.clone(),)).start()?.result()?;
    assert_eq!(lists.to_string(), "{'a': [1, 2, 3]}");
    Ok(())
}

fn proxies_travel_by_pipe_queue_and_managers() -> Outcome {
    type Way = (Value<i32>, i32);
    fn add(way: Way) {
        way.0.update(|value: &mut i32, by: i32| *value += by, (way.1,)).unwrap();
    }
    let (one, other) = (Manager::new()?, Manager::new()?);
    let value = one.value(0)?;
    let (ours, theirs) = duplex::<Way, ()>()?;
    let queue = queue::Queue::<Way>::unbounded()?;
    let (by_other, by_itself) = (other.queue::<Way>(0)?, one.queue::<Way>(0)?);
    let task = |pipe: multiprocess::Connection<(), Way>,
                queue: queue::Queue<Way>,
                managers: (Queue<Way>, Queue<Way>)| {
        add(pipe.recv().unwrap());
        add(queue.get().unwrap());
        add(managers.0.get().unwrap());
        add(managers.1.get().unwrap());
    };
    let proxies = (by_other.clone(), by_itself.clone());
    let child = Process::new(task, (theirs, queue.clone(), proxies)).start()?;
    ours.send((value.clone(), 1))?;
    queue.put((value.clone(), 10))?;
    by_other.put((value.clone(), 100))?;
    by_itself.put((value.clone(), 1000))?;
    child.result()?;
    assert_eq!(value.get()?, 1111);
    Ok(())
}

fn proxies_travel_to_the_workers_of_a_pool() -> Outcome {
    let manager = Manager::new()?;
    let dict: Dict<u32, u32> = manager.dict()?;
    let pool = Pool::new(2)?;
    let square = |(dict, n): (Dict<u32, u32>, u32)| {
        dict.insert(n, n * n).unwrap();
    };
    pool.map(square, (0..50).map(|n| (dict.clone(), n)))?;
    assert_eq!(dict.to_map()?, (0..50).map(|n| (n, n * n)).collect());
    Ok(())
}

fn a_queue_of_a_manager_serves_a_pool() -> Outcome {
    let manager = Manager::new()?;
    let results: Queue<u32> = manager.queue(0)?;
    let pool = Pool::new(3)?;
    for n in 0..30 {
        let _ = pool.apply_async(
            |results: Queue<u32>, n: u32| results.put(n).unwrap(),
            (results.clone(), n),
        );
    }
    pool.close();
    pool.join()?;
    let mut all = results.get_many(100)?;
    all.sort_unstable();
    assert_eq!(all, (0..30).collect::<Vec<_>>());
    Ok(())
}

fn rows_go_in_batches_and_are_updated_in_the_server() -> Outcome {
    let manager = Manager::new()?;
    let dict: Dict<u32, u64> = manager.dict()?;
    let count = |dict: Dict<u32, u64>| {
        for n in 0..1000 {
            dict.update(&(n % 10), |value: &mut u64, by: u64| *value += by, (1,)).unwrap();
        }
        dict.extend((100..10_000).map(|n| (n, u64::from(n)))).unwrap();
    };
    dict.extend((0..10).map(|n| (n, 0)))?;
    let start = |_| Process::new(count, (dict.clone(),)).start();
    let children: Vec<_> = (0..3).map(start).collect::<std::result::Result<_, _>>()?;
    for child in children {
        child.result()?;
    }
    let keys = [0, 9, 100, 9_999, 10_000];
    assert_eq!(dict.get_many(&keys)?, [Some(300), Some(300), Some(100), Some(9_999), None]);
    assert_eq!((0..10).map(|n| dict.get(&n)).collect::<Result<Vec<_>>>()?, [Some(300); 10]);
    assert!(matches!(dict.update(&10, |_: &mut u64| (), ()), Err(Error::KeyMissing)));
    assert_eq!(dict.len()?, 10 + 9_900);
    Ok(())
}

/// Says when it is dropped, which is in the server.
#[derive(Serialize, Deserialize)]
struct Mourned(Sender<()>);

fn an_object_lives_as_long_as_a_proxy() -> Outcome {
    let manager = Manager::new()?;
    let (end, sender) = simplex::<()>()?;
    let object = manager.shared(Mourned(sender))?;
    let alive =
        |end: &multiprocess::Receiver<()>| end.poll(Duration::from_millis(100)).map(|over| !over);
    // In a pipe that nobody reads yet.
    let (ours, theirs) = duplex::<Shared<Mourned>, ()>()?;
    ours.send(object)?;
    assert!(alive(&end)?);
    // In a process only, which this one does not keep alive.
    let (task_end, begun) = simplex::<()>()?;
    let task = |pipe: multiprocess::Connection<(), Shared<Mourned>>, begun: Sender<()>| {
        let object = pipe.recv().unwrap();
        begun.send(()).unwrap();
        object.call(|_: &mut Mourned| (), ()).unwrap();
        pipe.recv().unwrap_err();
    };
    let child = Process::new(task, (theirs, begun)).start()?;
    task_end.recv()?;
    assert!(alive(&end)?);
    drop(ours);
    child.result()?;
    assert!(end.poll(HANG)? && end.recv().is_err());
    Ok(())
}

fn an_object_of_killed_holders_goes() -> Outcome {
    let manager = Manager::new()?;
    let (end, sender) = simplex::<()>()?;
    let object = manager.shared(Mourned(sender))?;
    let (begun, begin) = simplex::<()>()?;
    let task = |object: Shared<Mourned>, begin: Sender<()>| {
        let clones = [object.clone(), object];
        clones[0].call(|_: &mut Mourned| (), ()).unwrap();
        begin.send(()).unwrap();
        sleep_for_ever();
    };
    let child = Process::new(task, (object.clone(), begin)).start()?;
    begun.recv()?;
    drop(object);
    assert!(!end.poll(Duration::from_millis(100))?);
    child.kill()?;
    assert!(end.poll(HANG)? && end.recv().is_err());
    child.join()?;
    Ok(())
}

fn a_panic_reaches_its_caller_and_leaves_the_object() -> Outcome {
    let manager = Manager::new()?;
    let account = manager.shared(Account::default())?;
    let task = |account: Shared<Account>| {
        let error = account.call(Account::deposit, (0, "child".to_string())).unwrap_err();
        assert!(
            matches!(&error, Error::Panicked(why) if why == "an amount of 0 is none"),
            "{error}"
        );
        account.call(Account::deposit, (1, "child".to_string())).unwrap()
    };
    assert!(!account.is_poisoned()?);
    assert_eq!(Process::new(task, (account.clone(),)).start()?.result()?, 1);
    assert!(account.is_poisoned()?);
    account.clear_poison()?;
    assert!(!account.is_poisoned()?);
    assert_eq!(account.call(|account: &mut Account| account.balance, ())?, 1);
    Ok(())
}

fn what_blocks_one_client_blocks_no_other() -> Outcome {
    let manager = Manager::new()?;
    let (queue, lock, event) = (manager.queue::<i32>(0)?, manager.lock()?, manager.event()?);
    let (begun, begin) = simplex::<()>()?;
    let waiters = {
        let get = |queue: Queue<i32>, begin: Sender<()>| {
            begin.send(()).unwrap();
            queue.get().unwrap()
        };
        let wait = |event: Event| event.wait().unwrap();
        let lock_it = |lock: Lock| drop(lock.lock().unwrap());
        (
            Process::new(get, (queue.clone(), begin)).start()?,
            Process::new(wait, (event.clone(),)).start()?,
            Process::new(lock_it, (lock.clone(),)).start()?,
        )
    };
    let guard = lock.lock()?;
    begun.recv()?;
    thread::sleep(Duration::from_millis(50));
    // Others get on, with the same objects too.
    let start = Instant::now();
    assert!(matches!(queue.try_get(), Err(Error::Empty)));
    assert!(!event.is_set()? && lock.is_locked()?);
    assert!(start.elapsed() < PROMPT);
    queue.put(7)?;
    event.set()?;
    drop(guard);
    assert_eq!(waiters.0.result()?, 7);
    waiters.1.result()?;
    waiters.2.result()?;
    Ok(())
}

fn a_killed_holder_of_a_lock_frees_it() -> Outcome {
    let manager = Manager::new()?;
    let (lock, seats) = (manager.lock()?, manager.semaphore(1)?);
    let (begun, begin) = simplex::<()>()?;
    let hold = |lock: Lock, seats: Semaphore, begin: Sender<()>| {
        let _held = (lock.lock().unwrap(), seats.permit().unwrap());
        begin.send(()).unwrap();
        sleep_for_ever();
    };
    let child = Process::new(hold, (lock.clone(), seats.clone(), begin)).start()?;
    begun.recv()?;
    assert!(matches!(lock.try_lock(), Err(Error::WouldBlock)));
    child.kill()?;
    let start = Instant::now();
    let guard = lock.lock()?;
    assert!(LockGuard::owner_died(&guard));
    drop(guard);
    assert!(!LockGuard::owner_died(&lock.lock()?));
    drop(seats.permit()?);
    assert!(start.elapsed() < PROMPT, "{:?}", start.elapsed());
    child.join()?;
    Ok(())
}

fn what_a_killed_client_held_is_free_for_who_has_seen_its_end() -> Outcome {
    let hold = |lock: Lock, seats: Semaphore, begin: Sender<()>| {
        let _held = (lock.lock().unwrap(), seats.permit().unwrap());
        begin.send(()).unwrap();
        sleep_for_ever();
    };
    let take = |lock: Lock, seats: Semaphore| {
        let guard = lock.try_lock().unwrap();
        drop(seats.try_permit().unwrap());
        LockGuard::owner_died(&guard)
    };
    let manager = Manager::new()?;
    for round in 0..20 {
        let (lock, seats) = (manager.lock()?, manager.semaphore(1)?);
        let (begun, begin) = simplex::<()>()?;
        let child = Process::new(hold, (lock.clone(), seats.clone(), begin)).start()?;
        begun.recv()?;
        assert!(matches!(lock.try_lock(), Err(Error::WouldBlock)));
        child.kill()?;
        child.join()?;
        // At once, whoever it is: a process that was here before, or one that is new.
        let died = if round % 2 == 0 {
            take(lock, seats)
        } else {
            Process::new(take, (lock, seats)).start()?.result()?
        };
        assert!(died);
    }
    Ok(())
}

fn what_a_client_held_that_was_killed_waiting_is_free_too() -> Outcome {
    type Proxies = (Lock, Semaphore, Queue<()>, Barrier, Condition, Event);
    let wait = |proxies: Proxies, which: usize, begin: Sender<()>| {
        let (lock, seats, queue, barrier, condition, event) = proxies;
        let _held = (lock.lock().unwrap(), seats.permit().unwrap());
        begin.send(()).unwrap();
        match which {
            0 => queue.get().unwrap(),
            1 => drop(barrier.wait().unwrap()),
            2 => drop(condition.wait(condition.lock().unwrap()).unwrap()),
            3 => event.wait().unwrap(),
            _ => drop(seats.permit().unwrap()),
        }
    };
    let manager = Manager::new()?;
    for round in 0..20 {
        let which = round % 5;
        let (lock, seats, barrier) = (manager.lock()?, manager.semaphore(1)?, manager.barrier(2)?);
        let (queue, condition, event) = (manager.queue(0)?, manager.condition()?, manager.event()?);
        let proxies = (lock.clone(), seats.clone(), queue, barrier.clone(), condition, event);
        let (begun, begin) = simplex::<()>()?;
        let child = Process::new(wait, (proxies, which, begin)).start()?;
        begun.recv()?;
        // Long enough that it waits, and looks seldom whether its client lives.
        thread::sleep(Duration::from_millis(60));
        child.kill()?;
        child.join()?;
        let guard = lock.try_lock()?;
        assert!(LockGuard::owner_died(&guard), "{which}");
        drop(seats.try_permit()?);
        assert_eq!(barrier.is_broken()?, which == 1);
    }
    Ok(())
}

fn a_notification_does_not_end_with_who_is_killed_before_it_has_the_lock() -> Outcome {
    let wait = |condition: Condition, lock: Lock, at: Sender<()>| {
        let guard = lock.lock().unwrap();
        at.send(()).unwrap();
        drop(condition.wait(guard).unwrap());
    };
    let manager = Manager::new()?;
    for all in [false, true] {
        let (condition, [lock, another]) =
            (manager.condition()?, [manager.lock()?, manager.lock()?]);
        let start = |lock: &Lock| -> std::result::Result<Child<()>, Box<dyn std::error::Error>> {
            let (begun, at) = simplex::<()>()?;
            let child = Process::new(wait, (condition.clone(), lock.clone(), at)).start()?;
            begun.recv()?;
            // Once the lock is to be had, it waits.
            drop(lock.lock()?);
            Ok(child)
        };
        let (first, second) = (start(&lock)?, start(&lock)?);
        let guard = lock.lock()?;
        if all {
            condition.notify_all()?
        } else {
            condition.notify_one()?
        }
        let late = start(&another)?;
        first.kill()?;
        first.join()?;
        drop(guard);
        second.join_timeout(HANG)?.expect("it is notified");
        // Who came after them is not, also where all were.
        assert!(late.join_timeout(Duration::from_millis(100))?.is_none());
        condition.notify_one()?;
        late.join_timeout(HANG)?.expect("it is notified");
    }
    Ok(())
}

fn a_notification_does_not_end_with_who_is_killed_as_it_comes() -> Outcome {
    let wait = |condition: Condition, stock: Value<u32>, at: Sender<()>| {
        let guard = condition.lock().unwrap();
        at.send(()).unwrap();
        let empty = || Ok(stock.get()? == 0);
        let guard = condition.wait_while(guard, empty).unwrap();
        stock.update(|stock: &mut u32| *stock -= 1, ()).unwrap();
        drop(guard);
    };
    let manager = Manager::new()?;
    // How long the signal is under way is for the kernel to say.
    for pause in [0, 0, 0, 0, 50, 100, 200, 500, 1000, 2000] {
        let (condition, stock) = (manager.condition()?, manager.value(0)?);
        let start = || -> std::result::Result<Child<()>, Box<dyn std::error::Error>> {
            let (begun, at) = simplex::<()>()?;
            let child = Process::new(wait, (condition.clone(), stock.clone(), at)).start()?;
            begun.recv()?;
            // Once the lock is to be had, it waits.
            drop(condition.lock()?);
            Ok(child)
        };
        let (first, second) = (start()?, start()?);
        let guard = condition.lock()?;
        stock.set(1)?;
        first.kill()?;
        if pause > 0 {
            thread::sleep(Duration::from_micros(pause));
        }
        condition.notify_one()?;
        drop(guard);
        second.join_timeout(HANG)?.expect("it is notified");
        first.join()?;
        assert_eq!(stock.get()?, 0);
    }
    Ok(())
}

fn a_killed_waiter_is_waited_for_by_nobody() -> Outcome {
    let manager = Manager::new()?;
    let (queue, condition, barrier) =
        (manager.queue::<i32>(0)?, manager.condition()?, manager.barrier(2)?);
    let lock = manager.lock()?;
    let held = lock.lock()?;
    type Proxies = (Queue<i32>, Condition, Barrier, Lock);
    let wait = |proxies: Proxies, which: u8, begin: Sender<()>| {
        let (queue, condition, barrier, lock) = proxies;
        let guard = condition.lock().unwrap();
        begin.send(()).unwrap();
        if which == 0 {
            drop(condition.wait(guard).unwrap());
            return;
        }
        drop(guard);
        match which {
            1 => drop(queue.get().unwrap()),
            2 => drop(barrier.wait().unwrap()),
            _ => drop(lock.lock().unwrap()),
        }
    };
    let proxies = (queue.clone(), condition.clone(), barrier.clone(), lock.clone());
    let mut children: Vec<Child<()>> = Vec::new();
    for which in 0..4 {
        let (begun, begin) = simplex::<()>()?;
        children.push(Process::new(wait, (proxies.clone(), which, begin)).start()?);
        begun.recv()?;
    }
    // The first one waits once the lock is to be had; the others soon.
    drop(condition.lock()?);
    eventually("a party waits", || barrier.n_waiting().unwrap() == 1)?;
    thread::sleep(Duration::from_millis(20));
    for child in &children {
        child.kill()?;
        child.join()?;
    }
    // An item, a notification, the lock: not for the dead.
    queue.put(1)?;
    let guard = condition.lock()?;
    condition.notify_one()?;
    drop(guard);
    assert_eq!(queue.get_timeout(HANG)?, 1);
    eventually("the barrier breaks", || barrier.is_broken().unwrap())?;
    drop(held);
    drop(lock.lock_timeout(HANG)?);
    Ok(())
}

fn a_killed_server_is_an_error_at_once() -> Outcome {
    let manager = Manager::new()?;
    let (queue, dict, lock) =
        (manager.queue::<i32>(0)?, manager.dict::<i32, i32>()?, manager.lock()?);
    let (begun, begin) = simplex::<()>()?;
    let wait = |queue: Queue<i32>, begin: Sender<()>| {
        begin.send(()).unwrap();
        let ended = queue.get().unwrap_err();
        (
            matches!(ended, Error::ServerDied),
            matches!(queue.put(1).unwrap_err().reason, Error::ServerDied),
        )
    };
    let child = Process::new(wait, (queue, begin)).start()?;
    begun.recv()?;
    thread::sleep(Duration::from_millis(20));
    let guard = lock.lock()?;
    kill(manager.pid());
    let start = Instant::now();
    assert!(matches!(dict.insert(1, 1), Err(Error::ServerDied)));
    println!("known after {:?}", start.elapsed());
    assert!(matches!(dict.len(), Err(Error::ServerDied)));
    assert!(matches!(manager.event(), Err(Error::ServerDied)));
    drop(guard);
    assert_eq!(dict.to_string(), "<Dict: the manager's server has ended>");
    assert!(start.elapsed() < PROMPT);
    assert_eq!(child.result()?, (true, true));
    assert!(start.elapsed() < PROMPT);
    manager.shutdown()?;
    manager.shutdown()?;
    Ok(())
}

fn kill(pid: u32) {
    // SAFETY: takes numbers only.
    assert_eq!(unsafe { libc::kill(pid as i32, libc::SIGKILL) }, 0);
}

fn the_server_ends_with_a_killed_parent() -> Outcome {
    let task = |begin: Sender<(u32, Value<i32>)>| {
        let manager = Manager::new().unwrap();
        begin.send((manager.pid(), manager.value(1).unwrap())).unwrap();
        sleep_for_ever();
    };
    let (begun, begin) = simplex()?;
    let child = Process::new(task, (begin,)).start()?;
    let (pid, value) = begun.recv()?;
    assert_eq!(value.get()?, 1);
    child.kill()?;
    child.join()?;
    eventually("the server ends", || !runs(pid))?;
    assert!(matches!(value.get(), Err(Error::ServerDied)));
    Ok(())
}

/// Sends a signal to a process of ours that was not waited for.
pub(crate) fn signal(pid: u32, signal: i32) {
    // SAFETY: takes numbers only.
    assert_eq!(unsafe { libc::kill(pid as i32, signal) }, 0);
}

/// Has a server that is stopped go on in a while.
pub(crate) fn have_go_on(server: u32) {
    thread::sleep(Duration::from_millis(10));
    signal(server, libc::SIGCONT);
}

fn a_call_of_a_killed_client_does_not_come_after_its_end() -> Outcome {
    fn set(value: Value<u32>, calls: Sender<()>) {
        value.get().unwrap();
        calls.send(()).unwrap();
        // Until then the server hears nothing.
        thread::sleep(Duration::from_millis(5));
        value.set(1).unwrap();
    }
    fn set_anew(value: Value<u32>) {
        value.set(2).unwrap();
    }
    let manager = Manager::new()?;
    for round in 0..20 {
        let value = manager.value(0)?;
        let (called, calls) = simplex()?;
        let client = Process::new(set, (value.clone(), calls)).start()?;
        called.recv()?;
        signal(manager.pid(), libc::SIGSTOP);
        thread::sleep(Duration::from_millis(10));
        client.kill()?;
        client.join()?;
        // Now there is its call, and soon another, of one that knows of its end: a process here before or one that is new.
        let goes_on = Process::new(have_go_on, (manager.pid(),)).start()?;
        if round % 2 == 0 {
            value.set(2)?;
        } else {
            Process::new(set_anew, (value.clone(),)).start()?.result()?;
        }
        goes_on.join()?;
        thread::sleep(Duration::from_millis(5));
        assert_eq!(value.get()?, 2, "round {round}");
    }
    Ok(())
}

/// Takes a while to be read.
#[derive(Serialize)]
struct Slow(u32);

impl<'de> Deserialize<'de> for Slow {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        thread::sleep(Duration::from_millis(2));
        u32::deserialize(from).map(Self)
    }
}

fn a_call_that_is_being_made_for_a_killed_client_comes_first() -> Outcome {
    fn set(value: Value<u32>, calls: Sender<()>) {
        value.get().unwrap();
        calls.send(()).unwrap();
        // What is set is read before anybody has to wait for the value.
        value.update(|value: &mut u32, new: Slow| *value = new.0, (Slow(1),)).unwrap();
    }
    fn set_anew(value: Value<u32>) {
        value.set(2).unwrap();
    }
    let manager = Manager::new()?;
    for round in 0..20 {
        let value = manager.value(0)?;
        let (called, calls) = simplex()?;
        let client = Process::new(set, (value.clone(), calls)).start()?;
        called.recv()?;
        thread::sleep(Duration::from_micros(500));
        client.kill()?;
        client.join()?;
        if round % 2 == 0 {
            value.set(2)?;
        } else {
            Process::new(set_anew, (value.clone(),)).start()?.result()?;
        }
        thread::sleep(Duration::from_millis(5));
        assert_eq!(value.get()?, 2, "round {round}");
    }
    Ok(())
}

fn a_shutdown_ends_a_server_that_does_not_listen() -> Outcome {
    let manager = Manager::new()?;
    let value = manager.value(1)?;
    let pid = manager.pid();
    signal(pid, libc::SIGSTOP);
    manager.shutdown()?;
    assert!(!runs(pid) && matches!(value.get(), Err(Error::ServerDied)));
    Ok(())
}

fn a_forked_copy_has_connections_of_its_own() -> Outcome {
    let manager = Manager::new()?;
    let (value, lock) = (manager.value(0)?, manager.lock()?);
    let guard = lock.lock()?;
    let theirs = (value.clone(), lock.clone());
    let child = Process::fork(move || {
        // Captured, not sent.
        let (value, lock) = theirs;
        assert!(matches!(lock.try_lock(), Err(Error::WouldBlock)));
        for _ in 0..500 {
            value.update(|value: &mut i32| *value += 1, ()).unwrap();
        }
    });
    let child = child.start()?;
    for _ in 0..500 {
        value.update(|value: &mut i32| *value += 1, ())?;
    }
    child.result()?;
    assert_eq!(value.get()?, 1000);
    assert!(lock.is_locked()?);
    drop(guard);
    assert!(!lock.is_locked()?);
    Ok(())
}

fn a_manager_that_a_forked_closure_captured_goes_on_in_it() -> Outcome {
    let manager = Manager::new()?;
    let pid = manager.pid();
    let value = manager.value(1)?;
    let theirs = value.clone();
    let child = Process::fork(move || {
        thread::sleep(Duration::from_millis(50));
        let work = || -> Result<i32, Error> {
            theirs.set(2)?;
            manager.value(3)?.get()
        };
        let result = work().map_err(|error| error.to_string());
        drop(manager);
        (result, theirs.get().is_err())
    });
    let child = child.start()?;
    assert_eq!(value.get()?, 1);
    assert_eq!(child.result()?, (Ok(3), true));
    assert!(matches!(value.get(), Err(Error::ServerDied)) && !runs(pid));

    // It is shut down there as here, also if the server does nothing of what it is told.
    for stopped in [false, true] {
        let manager = Manager::new()?;
        let pid = manager.pid();
        if stopped {
            signal(pid, libc::SIGSTOP);
        }
        let shut_down = move || manager.shutdown().map_err(|error| error.to_string());
        assert_eq!(Process::fork(shut_down).start()?.result()?, Ok(()));
        assert!(!runs(pid));
    }

    // One that is kept here too stays here.
    let manager = std::rc::Rc::new(Manager::new()?);
    let theirs = manager.clone();
    let child = Process::fork(move || theirs.value(4).and_then(|value| value.get()).ok());
    assert_eq!(child.start()?.result()?, Some(4));
    assert_eq!(manager.value(5)?.get()?, 5);
    Ok(())
}

fn an_end_of_a_pipe_among_a_managers_values_goes_to_one_client() -> Outcome {
    fn send(ends: List<Sender<(u32, u32)>>, me: u32) -> std::result::Result<(), String> {
        let end = ends.get(0).map_err(|error| error.to_string())?.expect("one is there");
        (0..1000).for_each(|number| end.send((me, number)).unwrap());
        Ok(())
    }
    let manager = Manager::new()?;
    let (receiver, sender) = simplex()?;
    let ends = manager.list([sender])?;
    let start = |me| Process::new(send, (ends.clone(), me)).start();
    let children = [start(0)?, start(1)?];
    let (who, _) = receiver.recv()?;
    for number in 1..1000 {
        assert_eq!(receiver.recv()?, (who, number));
    }
    for (me, child) in (0..).zip(children) {
        match child.result()? {
            Ok(()) => assert_eq!(me, who),
            Err(why) => assert!(me != who && why.contains("taken from it before"), "{why}"),
        }
    }
    Ok(())
}

fn conditions_events_and_barriers_bring_processes_together() -> Outcome {
    const ROUNDS: i32 = 50;
    let manager = Manager::new()?;
    let (condition, turn) = (manager.condition()?, manager.value(0)?);
    let (barrier, event) = (manager.barrier(3)?, manager.event()?);
    let play = |condition: Condition, turn: Value<i32>, barrier: Barrier, event: Event, me: i32| {
        event.wait().unwrap();
        for round in 0..ROUNDS {
            let guard = condition.lock().unwrap();
            let guard = condition.wait_while(guard, || Ok(turn.get()? != 2 * round + me)).unwrap();
            turn.set(2 * round + me + 1).unwrap();
            condition.notify_all().unwrap();
            drop(guard);
        }
        barrier.wait().unwrap()
    };
    let start = |me| {
        let proxies = (condition.clone(), turn.clone(), barrier.clone(), event.clone(), me);
        Process::new(play, proxies).start()
    };
    let (one, two) = (start(0)?, start(1)?);
    event.set()?;
    let mut indexes = [barrier.wait()?, one.result()?, two.result()?];
    indexes.sort_unstable();
    assert_eq!((indexes, turn.get()?), ([0, 1, 2], 2 * ROUNDS));
    Ok(())
}

fn a_panic_in_a_blocking_type_says_so() -> Outcome {
    /// Panics when it is decoded.
    #[derive(Clone, Serialize, Debug)]
    struct Bad;
    impl<'de> Deserialize<'de> for Bad {
        fn deserialize<D: serde::Deserializer<'de>>(_: D) -> std::result::Result<Self, D::Error> {
            panic!("never");
        }
    }
    let manager = Manager::new()?;
    let queue = manager.queue::<Option<Bad>>(0)?;
    let error = queue.put(Some(Bad)).unwrap_err();
    assert!(matches!(error.reason, Error::Panicked(ref why) if why == "never"));
    queue.put(None)?;
    assert!(queue.get()?.is_none());
    Ok(())
}

fn the_last_party_has_the_action_done_in_the_server() -> Outcome {
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
    static DONE: AtomicU32 = AtomicU32::new(0);
    let manager = Manager::new()?;
    let done = manager.shared(())?;
    let count = |_: &mut ()| DONE.load(Relaxed);
    let barrier = manager.barrier_with(2, || assert!(DONE.fetch_add(1, Relaxed) < 1, "twice"))?;
    let wait = |barrier: Barrier| match barrier.wait() {
        Ok(index) => Some(index),
        Err(Error::Broken | Error::Panicked(_)) => None,
        Err(error) => panic!("{error}"),
    };
    let child = Process::new(wait, (barrier.clone(),)).start()?;
    assert_eq!(barrier.wait()? + child.result()?.expect("not broken"), 1);
    assert_eq!((done.call(count, ())?, DONE.load(Relaxed)), (1, 0));
    let child = Process::new(wait, (barrier.clone(),)).start()?;
    eventually("the other waits", || barrier.n_waiting().unwrap() == 1)?;
    assert!(matches!(barrier.wait(), Err(Error::Panicked(why)) if why == "twice"));
    assert_eq!(child.result()?, None);
    assert!(barrier.is_broken()?);
    Ok(())
}

fn poison_is_told_to_who_asks() -> Outcome {
    let manager = Manager::new()?;
    let account = manager.shared(Account::default())?;
    let deposit =
        |amount: i64| account.call_unless_poisoned(Account::deposit, (amount, "here".to_string()));
    assert_eq!(deposit(1)?, 1);
    assert!(matches!(deposit(0), Err(Error::Panicked(_))));
    assert!(matches!(deposit(1), Err(Error::Poisoned)));
    assert_eq!(account.call(Account::deposit, (1, "here".to_string()))?, 2);
    account.clear_poison()?;
    assert_eq!(deposit(1)?, 3);
    Ok(())
}

/// Far more than go through a socket at once, where this machine lets a process have so many.
fn many_lists(
    manager: &Manager,
) -> std::result::Result<Vec<List<u32>>, Box<dyn std::error::Error>> {
    // The server has two for each list, and one for each that is on its way.
    let (_, most) = descriptor_limits();
    let count = 5000.min(most / 4) as u32;
    assert!(count > 500, "this needs 2,000 descriptors, and a process may have {most}");
    Ok((0..count).map(|n| manager.list([n])).collect::<Result<_>>()?)
}

fn check_lists<'a>(lists: impl IntoIterator<Item = &'a List<u32>>) -> Result<usize> {
    let mut count = 0;
    for (n, list) in lists.into_iter().enumerate() {
        count += 1;
        if n % 100 == 0 {
            assert_eq!(list.to_vec()?, [n as u32]);
        }
    }
    Ok(count)
}

fn thousands_of_proxies_go_in_one_call() -> Outcome {
    raise_descriptors();
    let manager = Manager::new()?;
    let lists = many_lists(&manager)?;
    let rows = manager.dict_of(lists.iter().cloned().enumerate())?;
    assert_eq!(check_lists(&rows.values()?)?, lists.len());
    assert_eq!(check_lists(rows.items()?.iter().map(|row| &row.1))?, lists.len());
    assert_eq!(rows.to_map()?.len(), lists.len());
    let all = rows.get_many(&rows.keys()?)?;
    assert_eq!(check_lists(all.iter().flatten())?, lists.len());
    drop(all);
    // As arguments too.
    let list = manager.list([])?;
    list.extend(lists.iter().cloned())?;
    assert_eq!(check_lists(&list.to_vec()?)?, lists.len());
    let shared = manager.shared(Vec::new())?;
    let keep = |kept: &mut Vec<List<u32>>, lists: Vec<List<u32>>| *kept = lists;
    shared.call(keep, (lists.clone(),))?;
    let give = |kept: &mut Vec<List<u32>>| std::mem::take(kept);
    assert_eq!(check_lists(&shared.call(give, ())?)?, lists.len());
    Ok(())
}

fn descriptor_limits() -> (u64, u64) {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: writes to the limit, which lives here.
    assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) }, 0);
    (limit.rlim_cur, limit.rlim_max)
}

/// To what this process may have.
fn raise_descriptors() {
    let (_, most) = descriptor_limits();
    limit_descriptors(process::id(), most);
}

fn limit_descriptors(pid: u32, most: u64) {
    let limit = libc::rlimit { rlim_cur: most, rlim_max: most };
    // SAFETY: the limit is a value of its own; null asks for no old one. A lower hard limit needs no privilege.
    let done =
        unsafe { libc::prlimit(pid as i32, libc::RLIMIT_NOFILE, &limit, std::ptr::null_mut()) };
    assert_eq!(done, 0);
}

fn a_server_without_descriptors_refuses_and_serves_again() -> Outcome {
    let manager = Manager::new()?;
    let value = manager.value(1)?;
    limit_descriptors(manager.pid(), 64);
    let mut made = Vec::new();
    let refused = loop {
        match manager.event() {
            Ok(event) => made.push(event),
            Err(error) => break error,
        }
        assert!(made.len() < 64);
    };
    assert_no_descriptors(&refused, "the manager's server");
    // A connection for another thread needs some too.
    let other = value.clone();
    let connects = || {
        let other = other.clone();
        thread::spawn(move || other.get()).join().unwrap()
    };
    let refused = connects().unwrap_err();
    assert!(matches!(refused, Error::Refused), "{refused}");
    assert_eq!(value.get()?, 1);
    drop(made);
    eventually("it serves again", || connects().is_ok())?;
    manager.event()?.set()?;
    Ok(())
}

/// The refusal says that `place` has no descriptors left.
fn assert_no_descriptors(refused: &Error, place: &str) {
    use std::error::Error as _;
    assert!(matches!(refused, Error::Io(_)), "{refused:?}");
    assert_eq!(refused.to_string(), format!("{place} has no descriptors left"), "{refused:?}");
    let kernel = refused.source().and_then(|source| source.downcast_ref::<std::io::Error>());
    assert_eq!(kernel.and_then(std::io::Error::raw_os_error), Some(libc::EMFILE), "{refused:?}");
}

/// Has the server run out where it receives arguments, and where it makes, encodes and sends a result.
fn a_call_that_takes_the_last_descriptors_is_refused_alone() -> Outcome {
    for address in [None, Some("127.0.0.1:0")] {
        let key = AuthKey::random()?;
        let manager = match address {
            Some(address) => Manager::serve(address, &key)?,
            None => Manager::new()?,
        };
        // The clients that it serves through TCP, if it does.
        let client = match manager.address() {
            Some(address) => &Manager::connect(address.clone(), &key)?,
            None => &manager,
        };
        let lists = (0..30).map(|n| client.list([n])).collect::<Result<Vec<_>>>()?;
        let rows = client.dict_of(lists.iter().cloned().enumerate())?;
        let list = client.list([])?;
        let before = descriptors(manager.pid());
        // From none to enough.
        let (mut refusals, mut room) = (0, 0);
        loop {
            limit_soft(manager.pid(), (before + room) as u64);
            let read = rows.values().map(|values| values.len());
            let sent = list.extend(lists.iter().cloned());
            for refused in [read.as_ref().err(), sent.as_ref().err()].into_iter().flatten() {
                refusals += 1;
                assert_no_descriptors(refused, "the manager's server");
            }
            // And it goes on.
            assert_eq!(rows.len()?, lists.len());
            if let (Ok(count), Ok(())) = (read, sent) {
                assert_eq!(count, lists.len());
                break;
            }
            room += 1;
            assert!(room < 500, "it never has enough");
        }
        println!("refused {refusals} calls, until it had {room} descriptors more");
        assert!(refusals > 30 && room > 15);
        limit_soft(manager.pid(), 1000);
        list.clear()?;
        eventually("nothing is left behind", || descriptors(manager.pid()) <= before)?;
    }
    Ok(())
}

/// The soft limit: the hard one stays.
fn limit_soft(pid: u32, most: u64) {
    let limit = libc::rlimit { rlim_cur: most, rlim_max: descriptor_limits().1 };
    // SAFETY: the limit is a value of its own; null asks for no old one.
    let done =
        unsafe { libc::prlimit(pid as i32, libc::RLIMIT_NOFILE, &limit, std::ptr::null_mut()) };
    assert_eq!(done, 0);
}

fn a_client_without_descriptors_is_told_and_goes_on() -> Outcome {
    let task = || {
        let manager = Manager::new().unwrap();
        let rows: Dict<u32, List<u32>> = manager.dict().unwrap();
        for n in 0..60 {
            rows.insert(n, manager.list([n]).unwrap()).unwrap();
        }
        limit_descriptors(process::id(), 64);
        let refused = rows.values().map(drop).unwrap_err();
        assert_no_descriptors(&refused, "this process");
        let mut kept = Vec::new();
        let refused = loop {
            match manager.event() {
                Ok(event) => kept.push(event),
                Err(error) => break error,
            }
            assert!(kept.len() < 64);
        };
        assert_no_descriptors(&refused, "this process");
        // Nor for what would be sent.
        let list = rows.get(&0);
        let refused = list.and_then(|list| rows.insert(0, list.expect("a list")).map(drop));
        assert_no_descriptors(&refused.unwrap_err(), "this process");
        drop(kept);
        assert_eq!(rows.get(&7).unwrap().expect("a list").to_vec().unwrap(), [7]);
        rows.len().unwrap()
    };
    assert_eq!(Process::new(task, ()).start()?.result()?, 60);
    Ok(())
}

fn errors_name_what_is_wrong() -> Outcome {
    let manager = Manager::new()?;
    assert!(matches!(manager.barrier(0), Err(Error::NoParties)));
    let (other, lock) = (Manager::new()?, manager.lock()?);
    let condition = other.condition()?;
    assert!(matches!(condition.wait(lock.lock()?), Err(Error::OtherManager)));
    assert!(!lock.is_locked()?);
    let list = manager.list([1])?;
    assert!(matches!(list.remove(1), Err(Error::OutOfRange { index: 1, len: 1 })));
    assert!(matches!(list.insert(2, 0), Err(Error::OutOfRange { index: 2, len: 1 })));
    let dead = manager.shared_by(|| -> Account { panic!("no account") }, ());
    assert!(matches!(dead, Err(Error::Panicked(why)) if why == "no account"));
    // A daemon has no processes of its own.
    let task = || matches!(Manager::new(), Err(Error::Start(_)));
    assert!(Process::new(task, ()).daemon(true).start()?.result()?);
    Ok(())
}

/// A list's item that has the list.
#[derive(Serialize, Deserialize)]
struct Node(Option<List<Node>>);

/// Compared by what is in a list.
#[derive(Serialize, Deserialize)]
struct Ranked(List<Ranked>);

impl PartialEq for Ranked {
    fn eq(&self, other: &Self) -> bool {
        self.0.len().unwrap() == other.0.len().unwrap()
    }
}

fn a_call_that_would_wait_for_itself_is_an_error() -> Outcome {
    fn told<T>(result: Result<T>) -> bool {
        matches!(result, Err(Error::Deadlock))
    }
    let manager = Manager::new()?;
    let list = manager.list::<Node>([])?;
    list.push(Node(Some(list.clone())))?;
    let of_itself = |node: &mut Node| told(node.0.as_ref().expect("a list").len());
    assert!(list.update(0, of_itself, ())?);
    let all = |nodes: &mut Vec<Node>| told(nodes[0].0.as_ref().expect("a list").pop());
    assert!(list.call(all, ())?);
    // Nobody else is held up, and the function goes on.
    assert_eq!(list.len()?, 1);

    // It came as an argument, and other objects are no matter.
    let (dict, other) = (manager.dict_of([(1, 1)])?, manager.dict_of([(1, 5)])?);
    type Numbers = Dict<i32, i32>;
    let sum = |number: &mut i32, dict: Numbers, other: Numbers| {
        *number += other.get(&1).unwrap().unwrap();
        told(dict.get(&1)) && told(dict.update(&1, |number: &mut i32| *number += 1, ()))
    };
    assert!(dict.update(&1, sum, (dict.clone(), other.clone()))?);
    assert!(dict.update_or_insert(2, 0, sum, (dict.clone(), other.clone()))?);
    assert_eq!((dict.get(&1)?, dict.get(&2)?), (Some(6), Some(5)));
    let (value, array) = (manager.value(0)?, manager.array([0])?);
    assert!(value.update(|_: &mut i32, value: Value<i32>| told(value.get()), (value.clone(),))?);
    let of_array = |_: &mut i32, array: Array<i32>| told(array.set(0, 1));
    assert!(array.update(0, of_array, (array.clone(),))?);

    // By way of another.
    let (one, two) = (manager.shared(0)?, manager.shared(0)?);
    let there = |_: &mut i32, one: Shared<i32>, two: Shared<i32>| {
        let back = |two: &mut i32, one: Shared<i32>| {
            *two += 1;
            told(one.call(|one: &mut i32| *one += 1, ()))
                && told(one.call_unless_poisoned(|one: &mut i32| *one += 1, ()))
        };
        two.call(back, (one,)).unwrap()
    };
    assert!(one.call(there, (one.clone(), two.clone()))?);
    // What the thread that made the first call in the server does next is no part of that.
    let count = |_: &mut i32, one: Shared<i32>| one.call(|one: &mut i32| *one, ()).unwrap();
    assert_eq!((two.call(count, (one.clone(),))?, one.call(count, (two,))?), (0, 1));

    // Of the same number in another server.
    let elsewhere = Manager::new()?;
    let namesake = |manager: &Manager| manager.shared(0);
    let same = (0..20).map(|_| namesake(&elsewhere)).collect::<Result<Vec<_>>>()?;
    let all_told = |_: &mut i32, same: Vec<Shared<i32>>| {
        same.iter().any(|one| told(one.call(|one: &mut i32| *one, ())))
    };
    assert!(!one.call(all_told, (same,))?);

    // The object's own use of its elements.
    let ranks = manager.list::<Ranked>([])?;
    ranks.push(Ranked(ranks.clone()))?;
    let asked = ranks.contains(&Ranked(ranks.clone()));
    assert!(matches!(&asked, Err(Error::Panicked(why)) if why.contains("RLock")), "{asked:?}");
    Ok(())
}

fn a_thread_that_ends_frees_what_it_held() -> Outcome {
    let manager = Manager::new()?;
    let (lock, value) = (manager.lock()?, manager.value(0)?);
    let theirs = (lock.clone(), value.clone());
    thread::spawn(move || {
        theirs.0.acquire().unwrap();
        theirs.1.set(1).unwrap();
    })
    .join()
    .unwrap();
    assert!(LockGuard::owner_died(&lock.lock_timeout(HANG)?));
    let threads = (0..8).map(|_| {
        let value = value.clone();
        thread::spawn(move || {
            for _ in 0..100 {
                value.update(|value: &mut i32| *value += 1, ()).unwrap();
            }
        })
    });
    for thread in threads.collect::<Vec<_>>() {
        thread.join().unwrap();
    }
    assert_eq!(value.get()?, 801);
    Ok(())
}

fn what_is_long_travels() -> Outcome {
    let manager = Manager::new()?;
    let bytes: Vec<u8> = (0..20_000_000_u32).map(|n| (n % 251) as u8).collect();
    let value = manager.value(bytes.clone())?;
    assert!(value.get()? == bytes);
    value.update(|bytes: &mut Vec<u8>| bytes.reverse(), ())?;
    let reversed = value.get()?;
    assert!(reversed.iter().rev().eq(&bytes));
    Ok(())
}

fn proxies_of_another_type_are_refused() -> Outcome {
    let manager = Manager::new()?;
    let (ours, theirs) = duplex::<List<i32>, ()>()?;
    let (ours, theirs): (_, multiprocess::Connection<(), List<i32>>) = (ours, theirs);
    ours.send(manager.list([1])?)?;
    let message = theirs.receiver().recv_message_with(|bytes, fds| {
        multiprocess::core::decode::<Dict<i32, i32>>(multiprocess::core::Message::new(
            bytes.to_vec(),
            fds,
        ))
    })??;
    assert!(matches!(message.len(), Err(Error::WrongType { object }) if object == "List<i32>"));
    let message = multiprocess::core::encode(&message)?;
    let lock: Lock = multiprocess::core::decode(message)?;
    assert!(matches!(lock.lock(), Err(Error::WrongType { .. })));
    Ok(())
}

fn objects_go_with_the_dict_that_held_their_proxies() -> Outcome {
    if !may_open(4096) {
        return Ok(());
    }
    const LISTS: u32 = 1500;
    let manager = Manager::new()?;
    let lists: Dict<u32, List<u32>> = manager.dict()?;
    let before = descriptors(manager.pid());
    for n in 0..LISTS {
        lists.insert(n, manager.list([n])?)?;
    }
    assert_eq!(lists.get(&(LISTS - 1))?.expect("a list").get(0)?, Some(LISTS - 1));
    assert!(descriptors(manager.pid()) >= before + LISTS as usize);
    lists.clear()?;
    eventually("the lists go", || descriptors(manager.pid()) <= before + 8)
}

/// Takes its time to be dropped.
struct Tenacious;

impl Drop for Tenacious {
    fn drop(&mut self) {
        thread::sleep(HANG);
    }
}

fn an_object_that_takes_its_time_to_be_dropped_holds_up_no_other() -> Outcome {
    let manager = Manager::new()?;
    let (end, sender) = simplex::<()>()?;
    let (again, another) = simplex::<()>()?;
    let slow = [manager.shared_by(|| Tenacious, ())?, manager.shared_by(|| Tenacious, ())?];
    let quick = [manager.shared(Mourned(sender))?, manager.shared(Mourned(another))?];
    let [first, second] = quick;
    let start = Instant::now();
    drop(slow);
    thread::sleep(Duration::from_millis(20));
    drop(first);
    assert!(end.poll(HANG)? && end.recv().is_err());
    drop(second);
    assert!(again.poll(HANG)? && again.recv().is_err());
    assert!(start.elapsed() < PROMPT, "{:?}", start.elapsed());
    Ok(())
}

fn a_shutdown_wakes_those_who_wait() -> Outcome {
    let manager = Manager::new()?;
    let (queue, barrier) = (manager.queue::<i32>(0)?, manager.barrier(2)?);
    let ready = manager.semaphore(0)?;
    let theirs = (queue.clone(), barrier.clone(), ready.clone());
    let waiter = thread::spawn(move || {
        let other = {
            let (queue, ready) = (theirs.0, theirs.2.clone());
            thread::spawn(move || {
                ready.release().unwrap();
                queue.get().unwrap_err()
            })
        };
        theirs.2.release().unwrap();
        (theirs.1.wait().unwrap_err(), other.join().unwrap())
    });
    ready.acquire()?;
    ready.acquire()?;
    manager.shutdown()?;
    let errors = waiter.join().unwrap();
    assert!(matches!(errors, (Error::ServerDied, Error::ServerDied)), "{errors:?}");
    assert!(matches!(queue.len(), Err(Error::ServerDied)) && !runs(manager.pid()));
    Ok(())
}

fn socket_path(name: &str) -> std::path::PathBuf {
    std::env::temp_dir().join(format!("mp-manager-{name}-{}", process::id()))
}

fn a_process_that_was_given_no_proxy_connects() -> Outcome {
    let path = socket_path("connects");
    let key = AuthKey::random()?;
    let manager = Manager::serve(path.clone(), &key)?;
    assert_eq!(manager.address().and_then(|address| address.as_path()), Some(&*path));
    let jobs = manager.queue::<i32>(0)?;
    manager.publish("jobs", &jobs)?;
    drop(jobs);
    let task = |path: std::path::PathBuf, key: AuthKey| {
        let manager = Manager::connect(path, &key).unwrap();
        let jobs: Queue<i32> = manager.find("jobs").unwrap();
        jobs.put(7).unwrap();
        let made = manager.list([1, 2]).unwrap();
        manager.publish("made", &made).unwrap();
        assert!(matches!(manager.find::<List<i32>>("none"), Err(Error::KeyMissing)));
        manager.shutdown().unwrap();
        manager.pid()
    };
    assert_eq!(Process::new(task, (path, key)).start()?.result()?, manager.pid());
    assert_eq!(manager.find::<Queue<i32>>("jobs")?.get()?, 7);
    assert_eq!(manager.find::<List<i32>>("made")?.to_vec()?, [1, 2]);
    assert!(matches!(Manager::new()?.publish("x", &1), Err(Error::NotServed)));
    Ok(())
}

fn who_has_another_key_is_turned_away() -> Outcome {
    let path = socket_path("key");
    let key = AuthKey::random()?;
    let manager = Manager::serve(path.clone(), &key)?;
    let refused = Manager::connect(path.clone(), &AuthKey::random()?).unwrap_err();
    assert!(matches!(refused, Error::Address(_)), "{refused}");
    assert!(matches!(Manager::serve(path.clone(), &key), Err(Error::Address(_))));
    Manager::connect(path.clone(), &key)?;
    drop(manager);
    assert!(!path.exists());
    Ok(())
}

fn a_killed_server_leaves_its_place_to_another() -> Outcome {
    let path = socket_path("killed");
    let key = AuthKey::random()?;
    let manager = Manager::serve(path.clone(), &key)?;
    let connected = Manager::connect(path.clone(), &key)?;
    kill(manager.pid());
    eventually("the server ends", || !runs(manager.pid()))?;
    assert!(matches!(connected.find::<i32>("x"), Err(Error::ServerDied)));
    assert!(matches!(Manager::connect(path.clone(), &key), Err(Error::Address(_))));
    let second = Manager::serve(path.clone(), &key)?;
    second.publish("x", &2)?;
    assert_eq!(Manager::connect(path, &key)?.find::<i32>("x")?, 2);
    Ok(())
}

/// A number below `end` that nobody can foresee.
fn random(end: u64) -> u64 {
    let mut bytes = [0; 8];
    random::fill(&mut bytes).unwrap();
    u64::from_le_bytes(bytes) % end
}

/// Memory that a process has for itself, in KiB; pages of its program come and go.
fn memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap_or_default();
    line.split_ascii_whitespace().nth(1).and_then(|number| number.parse().ok()).unwrap_or(0)
}

fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

fn clients_killed_under_load_leave_a_server_that_is_as_before() -> Outcome {
    const KILLS: usize = 1000;
    type Proxies = (Dict<u32, u64>, Lock, Queue<u64>, Value<u64>, Dict<u32, List<u32>>);
    /// Writes, and says how far it has been told that a write is done.
    fn load(proxies: Proxies, me: u32, done: Sender<u64>) {
        let (dict, lock, queue, shared, lists) = proxies;
        let first = dict.get(&me).unwrap().unwrap_or(0);
        for n in first + 1.. {
            dict.insert(me, n).unwrap();
            done.send(n).unwrap();
            let guard = lock.lock().unwrap();
            // Undisturbed: equal at the end of each turn, and repaired where a turn was cut.
            let seen = shared.get().unwrap();
            assert!(seen % 2 == 0 || LockGuard::owner_died(&guard));
            shared.set(seen | 1).unwrap();
            shared.set((seen | 1) + 1).unwrap();
            drop(guard);
            queue.put(n).unwrap();
            let _ = queue.get_timeout(Duration::from_millis(1));
            let list = lists.get_or_insert(me, List::clone(&lists.values().unwrap()[0])).unwrap();
            list.push(me).unwrap();
            list.pop().unwrap();
        }
    }
    let manager = Manager::new()?;
    let lists = manager.dict()?;
    lists.insert(1000, manager.list([0])?)?;
    let proxies: Proxies =
        (manager.dict()?, manager.lock()?, manager.queue(0)?, manager.value(0)?, lists);
    let mut acknowledged = [0_u64; 4];
    let mut after_warm_up = (0, 0);
    let mut running: Vec<(usize, Child<()>, multiprocess::Receiver<u64>)> = Vec::new();
    for kill in 0..KILLS {
        while running.len() < 3 {
            let me = (0..4).find(|me| running.iter().all(|one| one.0 != *me)).expect("a number");
            let (done, tell) = simplex()?;
            running.push((
                me,
                Process::new(load, (proxies.clone(), me as u32, tell)).start()?,
                done,
            ));
        }
        thread::sleep(Duration::from_micros(random(4000)));
        let (me, child, done) = running.swap_remove(random(3) as usize);
        child.kill()?;
        child.join()?;
        assert_eq!(child.exit_code(), Some(-libc::SIGKILL), "it ended by itself");
        acknowledged[me] = done.iter().last().unwrap_or(0).max(acknowledged[me]);
        let stored = proxies.0.get(&(me as u32))?.unwrap_or(0);
        assert!(stored >= acknowledged[me], "a write of {me} is lost: {stored} {acknowledged:?}");
        let guard = proxies.1.lock_timeout(HANG)?;
        if LockGuard::owner_died(&guard) {
            proxies.3.update(|seen: &mut u64| *seen += *seen % 2, ())?;
        }
        drop(guard);
        if kill == KILLS / 5 {
            after_warm_up = (memory(manager.pid()), descriptors(manager.pid()));
        }
    }
    for (_, child, _) in running {
        child.kill()?;
        child.join()?;
    }
    while proxies.2.try_get().is_ok() {}
    eventually("connections end", || descriptors(manager.pid()) <= after_warm_up.1)?;
    let now = memory(manager.pid());
    println!("server: {after_warm_up:?} after a fifth, {now} KiB at the end");
    assert!(now < after_warm_up.0 + 4096, "{after_warm_up:?} KiB and descriptors, now {now} KiB");
    assert_eq!(process::id(), multiprocess::current_process().pid());
    Ok(())
}

//! Every built-in proxy and each of its methods that takes no function: what one program does with another's server.

use std::time::Duration;

use multiprocess::manager::{
    Array, Barrier, BoundedSemaphore, Condition, Error, Event, JoinableQueue, Lock, LockGuard,
    Queue, RLock, Result, Semaphore, Set, Value,
};
use multiprocess::{Dict, List, Manager, Namespace, Object};

/// Of a type that has the same name in every program.
pub(crate) type Point = (i32, String);

pub(crate) fn point(x: i32) -> Point {
    (x, format!("p{x}"))
}

pub(crate) type Collections = (
    Dict<String, Point>,
    List<Point>,
    Set<Point>,
    Namespace,
    Value<f64>,
    Array<u8>,
    Queue<Point>,
    Dict<String, List<i32>>,
);
pub(crate) type Locks =
    (JoinableQueue<i32>, Lock, RLock, Semaphore, BoundedSemaphore, Condition, Event, Barrier);

pub(crate) fn collections(manager: &Manager) -> Result<Collections> {
    Ok((
        manager.dict()?,
        manager.list([point(1)])?,
        manager.set([point(1), point(2), point(2)])?,
        manager.namespace()?,
        manager.value(1.5)?,
        manager.array([1, 2, 3])?,
        manager.queue(2)?,
        manager.dict()?,
    ))
}

pub(crate) fn locks(manager: &Manager) -> Result<Locks> {
    Ok((
        manager.joinable_queue(0)?,
        manager.lock()?,
        manager.rlock()?,
        manager.semaphore(2)?,
        manager.bounded_semaphore(1)?,
        manager.condition()?,
        manager.event()?,
        manager.barrier(1)?,
    ))
}

/// Every method that takes no function, on objects as they were made.
pub(crate) fn use_collections(manager: &Manager, proxies: &Collections) -> Result<()> {
    let (dict, list, set, names, value, array, queue, lists) = proxies;
    assert_eq!(dict.insert("k".into(), point(1))?, None);
    assert_eq!(dict.insert("k".into(), point(2))?, Some(point(1)));
    assert_eq!(dict.get_or_insert("k".into(), point(9))?, point(2));
    assert_eq!(dict.get_or_insert("l".into(), point(9))?, point(9));
    assert!(dict.contains_key(&"l".into())? && !dict.contains_key(&"m".into())?);
    assert_eq!(dict.remove(&"k".into())?, Some(point(2)));
    assert_eq!(dict.get(&"k".into())?, None);
    assert_eq!((dict.len()?, dict.keys()?, dict.values()?), (1, vec!["l".into()], vec![point(9)]));
    dict.extend((0..3).map(|n| (n.to_string(), point(n))))?;
    assert_eq!(dict.get_many(&["2".into(), "x".into()])?, [Some(point(2)), None]);
    assert_eq!(dict.pop_item()?, Some(("2".into(), point(2))));
    assert_eq!(dict.items()?.len(), 3);

    list.push(point(3))?;
    list.insert(1, point(2))?;
    list.reverse()?;
    assert_eq!(list.to_vec()?, [3, 2, 1].map(point));
    assert_eq!((list.index(&point(2))?, list.contains(&point(7))?), (Some(1), false));
    assert_eq!((list.remove(0)?, list.get(0)?), (point(3), Some(point(2))));
    assert!(matches!(list.remove(7), Err(Error::OutOfRange { index: 7, len: 2 })));
    list.set(0, point(4))?;
    list.extend([point(5), point(5)])?;
    assert_eq!((list.count(&point(5))?, list.remove_item(&point(5))?), (2, true));
    assert_eq!((list.pop()?, list.len()?), (Some(point(5)), 2));

    assert!(!set.insert(point(1))? && set.insert(point(3))? && set.contains(&point(3))?);
    assert!(set.remove(&point(1))? && !set.remove(&point(1))?);
    set.extend([point(4), point(3)])?;
    assert_eq!(
        (set.to_vec()?, set.pop()?, set.len()?),
        ([2, 3, 4].map(point).into(), Some(point(4)), 2)
    );

    names.set("x", 1)?;
    names.set("y", vec![Object::None])?;
    assert_eq!(names.remove("x")?, 1.into());
    assert!(names.contains("y")? && matches!(names.get("x"), Err(Error::KeyMissing)));
    assert_eq!(names.to_string(), "Namespace(y=[None])");

    value.set(value.get()? + 1.0)?;
    assert_eq!(value.get()?, 2.5);

    assert!(matches!(array.set(3, 0), Err(Error::OutOfRange { index: 3, len: 3 })));
    array.set(0, 7)?;
    assert_eq!((array.get(1)?, array.len()?, array.to_vec()?), (Some(2), 3, vec![7, 2, 3]));

    queue.put(point(1))?;
    queue.put_many([point(2)])?;
    assert!(matches!(queue.try_put(point(3)), Err(refused) if refused.value == point(3)));
    assert!(queue.is_full()? && queue.len()? == 2 && queue.capacity()? == Some(2));
    assert_eq!(queue.get()?, point(1));

    // Proxies in what is shared.
    let inner = manager.list([1])?;
    lists.insert("a".into(), inner.clone())?;
    lists.get(&"a".into())?.expect("a list").push(2)?;
    drop(inner);
    assert_eq!(lists.get(&"a".into())?.expect("a list").to_vec()?, [1, 2]);
    let mut numbers = [3, 1, 2];
    let sorted = manager.list(numbers)?;
    sorted.sort()?;
    numbers.sort_unstable();
    assert_eq!(sorted.to_vec()?, numbers);
    Ok(())
}

/// What that leaves.
pub(crate) fn check_collections(proxies: &Collections) -> Result<()> {
    let (dict, list, set, names, value, array, queue, lists) = proxies;
    assert_eq!(dict.keys()?, ["l", "0", "1"]);
    assert_eq!(list.to_vec()?, [4, 1].map(point));
    assert_eq!(set.to_vec()?, [2, 3].map(point));
    assert_eq!(names.get("y")?.to_string(), "[None]");
    assert_eq!((value.get()?, array.to_vec()?), (2.5, vec![7, 2, 3]));
    assert_eq!(queue.get()?, point(2));
    assert_eq!(lists.to_string(), "{'a': [1, 2]}");
    Ok(())
}

pub(crate) fn use_locks(proxies: &Locks) -> Result<()> {
    let short = Duration::from_millis(5);
    let (tasks, lock, rlock, semaphore, bounded, condition, event, barrier) = proxies;
    tasks.put_many([1, 2, 3])?;
    assert_eq!(tasks.get_many(2)?, [1, 2]);
    assert!(matches!(tasks.join_timeout(short), Err(Error::TimedOut)));
    tasks.get()?;
    (0..3).try_for_each(|_| tasks.task_done())?;
    tasks.join()?;
    assert!(matches!(tasks.task_done(), Err(Error::TooManyDone)));
    assert!(matches!(tasks.try_get(), Err(Error::Empty)));
    assert!(matches!(tasks.get_timeout(short), Err(Error::TimedOut)));

    let guard = lock.lock()?;
    assert!(lock.is_locked()? && !LockGuard::owner_died(&guard));
    assert!(matches!(lock.try_lock(), Err(Error::WouldBlock)));
    assert!(matches!(lock.lock(), Err(Error::Deadlock)));
    LockGuard::release(guard)?;
    assert!(matches!(lock.release(), Err(Error::NotOwner)));
    lock.acquire()?;
    lock.release()?;

    let guards = (rlock.lock()?, rlock.lock()?);
    drop(guards.0);
    assert!(rlock.is_locked()?);
    drop(guards.1);
    assert!(!rlock.is_locked()?);

    let permit = semaphore.permit()?;
    semaphore.acquire()?;
    assert!(matches!(semaphore.try_acquire(), Err(Error::WouldBlock)));
    assert!(matches!(semaphore.acquire_timeout(short), Err(Error::TimedOut)));
    drop(permit);
    semaphore.release()?;
    assert_eq!(semaphore.value()?, 2);
    assert!(matches!(bounded.release(), Err(Error::TooManyReleases { initial: 1 })));

    let (guard, notified) = condition.wait_timeout(condition.lock()?, short)?;
    assert!(!notified);
    condition.notify_all()?;
    drop(guard);
    let (held, _) = condition.wait_timeout(lock.lock()?, short)?;
    drop(held);
    assert!(!lock.is_locked()?);

    assert!(!event.is_set()? && !event.wait_timeout(short)?);
    event.set()?;
    event.wait()?;
    event.clear()?;

    assert_eq!((barrier.wait()?, barrier.parties()?, barrier.n_waiting()?), (0, 1, 0));
    barrier.abort()?;
    assert!(barrier.is_broken()? && matches!(barrier.wait(), Err(Error::Broken)));
    barrier.reset()?;
    barrier.wait()?;
    Ok(())
}

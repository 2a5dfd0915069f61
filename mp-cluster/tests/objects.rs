//! Queues, dicts, lists, counters and locks; the server that goes away and comes back; what is not printed.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use mp_cluster::{Cluster, Counter, Dict, Error, List, Lock, LockGuard, Queue};

use crate::Outcome;
use crate::redis::Redis;

crate::cases! {
    a_queue_gives_each_item_once_in_order
    a_bounded_queue_waits_for_room
    a_closed_queue_gives_what_it_has
    a_dict_does_what_dicts_do
    updates_of_a_dict_from_many_threads_all_count
    a_list_does_what_lists_do
    a_counter_counts_once_over_breaks_of_the_connection
    a_queue_loses_and_doubles_nothing_over_a_restart
    a_lock_is_held_by_one_until_its_lease_is_over
    fences_grow_also_where_the_server_forgot_them
    a_server_that_is_away_is_waited_for_and_then_an_error
    a_server_that_loads_is_waited_for
    passwords_and_rights_are_told_apart_and_never_printed
    values_of_other_types_and_handles_are_errors
    handles_are_sent_to_processes_with_their_urls
    handles_lie_in_shared_objects_by_their_names
    handles_are_refused_where_they_would_show_a_way_to_strangers
}

const LONG: Duration = Duration::from_secs(1000);

fn a_queue_gives_each_item_once_in_order() -> Outcome {
    let redis = Redis::start();
    let queue = redis.connect("a").queue::<u64>("numbers")?;
    assert!(queue.is_empty()? && matches!(queue.try_get(), Err(Error::Empty)));
    assert!(matches!(queue.get_timeout(Duration::from_millis(30)), Err(Error::TimedOut)));
    queue.put_many(0..2500)?;
    assert_eq!((queue.len()?, queue.capacity()?, queue.is_full()?), (2500, None, false));
    assert_eq!(queue.get_many(2)?, [0, 1]);
    assert_eq!(queue.try_get_many(1)?, [2]);
    for expected in 3..2500 {
        assert_eq!(queue.get()?, expected);
    }
    // Other names on the same server are apart, and so are other clusters.
    redis.connect("b").queue::<u64>("numbers")?.put(7)?;
    assert!(queue.is_empty()? && matches!(queue.try_get_many(5), Err(Error::Empty)));
    let none = queue.get_many_timeout(5, Duration::from_millis(30));
    assert!(matches!(none, Err(Error::TimedOut)) && queue.try_get_many(0)?.is_empty());

    let consumers: Vec<_> = (0..4)
        .map(|_| {
            let queue = queue.clone();
            thread::spawn(move || {
                let mut got = Vec::new();
                loop {
                    match queue.get().expect("an item") {
                        u64::MAX => return got,
                        item => got.push(item),
                    }
                }
            })
        })
        .collect();
    for item in 0..400 {
        queue.put(item)?;
    }
    queue.put_many([u64::MAX; 4])?;
    let mut all = Vec::new();
    for consumer in consumers {
        let got = consumer.join().expect("no panic");
        assert!(got.is_sorted());
        all.extend(got);
    }
    all.sort_unstable();
    assert!(all.into_iter().eq(0..400));
    Ok(())
}

fn a_bounded_queue_waits_for_room() -> Outcome {
    let redis = Redis::start();
    let cluster = redis.connect("a");
    let queue = cluster.bounded_queue::<String>("texts", 2)?;
    assert!(matches!(cluster.queue::<String>("texts"), Err(Error::WrongType(_))));
    queue.put("a".into())?;
    queue.try_put("b".into())?;
    assert!(queue.is_full()? && queue.capacity()? == Some(2));
    let refused = queue.try_put("c".into()).unwrap_err();
    assert!(matches!(refused.reason, Error::Full) && refused.value == "c");
    let refused = queue.put_timeout("c".into(), Duration::from_millis(30)).unwrap_err();
    assert!(matches!(refused.reason, Error::TimedOut));
    let waits = {
        let queue = queue.clone();
        thread::spawn(move || queue.put_many(["c".into(), "d".into(), "e".into()]))
    };
    for expected in ["a", "b", "c", "d", "e"] {
        assert_eq!(queue.get()?, expected);
    }
    waits.join().expect("no panic")?;
    Ok(())
}

fn a_closed_queue_gives_what_it_has() -> Outcome {
    let redis = Redis::start();
    let queue = redis.connect("a").queue::<u8>("q")?;
    queue.put(1)?;
    let waits = {
        let queue = queue.clone();
        thread::spawn(move || (queue.get(), queue.get()))
    };
    crate::eventually("the item is got", || queue.is_empty().unwrap_or(false))?;
    assert!(!queue.is_closed()?);
    queue.close()?;
    assert!(queue.is_closed()?);
    let (first, second) = waits.join().expect("no panic");
    assert!(first? == 1 && matches!(second, Err(Error::Closed)));
    assert!(matches!(queue.put(2).unwrap_err().reason, Error::Closed));
    Ok(())
}

fn a_dict_does_what_dicts_do() -> Outcome {
    let redis = Redis::start();
    let dict = redis.connect("a").dict::<String, Vec<u32>>("d")?;
    let (a, b) = ("a".to_string(), "b".to_string());
    assert_eq!(dict.insert(a.clone(), vec![1])?, None);
    assert_eq!(dict.insert(a.clone(), vec![2])?, Some(vec![1]));
    assert_eq!((dict.get(&a)?, dict.get(&b)?), (Some(vec![2]), None));
    assert!(dict.contains_key(&a)? && !dict.contains_key(&b)?);
    assert_eq!(dict.get_or_insert(b.clone(), vec![3])?, [3]);
    assert_eq!(dict.get_or_insert(b.clone(), vec![4])?, [3]);
    assert_eq!(dict.get_many([&b, &"c".to_string()])?, [Some(vec![3]), None]);
    let len = dict.update(
        &a,
        |v: &mut Vec<u32>, x: u32| {
            v.push(x);
            v.len()
        },
        (9,),
    )?;
    assert_eq!((len, dict.get(&a)?), (2, Some(vec![2, 9])));
    let missing = dict.update(&"c".to_string(), |v: &mut Vec<u32>| v.clear(), ());
    assert!(matches!(missing, Err(Error::KeyMissing)));
    dict.update_or_insert("c".into(), vec![], |v: &mut Vec<u32>| v.push(5), ())?;
    let mut keys = dict.keys()?;
    keys.sort();
    assert_eq!(keys, ["a", "b", "c"]);
    assert_eq!(dict.to_map()?["c"], [5]);
    assert_eq!((dict.values()?.len(), dict.iter()?.count(), dict.len()?), (3, 3, 3));
    assert_eq!((dict.remove(&a)?, dict.remove(&a)?), (Some(vec![2, 9]), None));
    let popped: HashSet<String> =
        [dict.pop_item()?, dict.pop_item()?].into_iter().flatten().map(|(key, _)| key).collect();
    assert!(popped.len() == 2 && dict.pop_item()?.is_none());
    dict.extend((0..2500).map(|n| (n.to_string(), vec![n])))?;
    assert_eq!((dict.len()?, dict.get(&"2499".to_string())?), (2500, Some(vec![2499])));
    dict.clear()?;
    assert!(dict.is_empty()?);
    Ok(())
}

fn updates_of_a_dict_from_many_threads_all_count() -> Outcome {
    let redis = Redis::start();
    let dict = redis.connect("a").dict::<u8, u64>("d")?;
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let dict = dict.clone();
            thread::spawn(move || {
                for n in 0..50 {
                    dict.update_or_insert(n % 2, 0, |n: &mut u64| *n += 1, ()).expect("counts");
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().expect("no panic");
    }
    assert_eq!((dict.get(&0)?, dict.get(&1)?), (Some(100), Some(100)));
    Ok(())
}

fn a_list_does_what_lists_do() -> Outcome {
    let redis = Redis::start();
    let list = redis.connect("a").list::<i64>("l")?;
    assert!(list.is_empty()? && list.pop()?.is_none() && list.get(0)?.is_none());
    list.extend([1, 2, 3])?;
    list.push(2)?;
    list.insert(0, 10)?;
    list.insert(5, 20)?;
    list.insert(2, 30)?;
    assert_eq!(list.to_vec()?, [10, 1, 30, 2, 3, 2, 20]);
    assert!(matches!(list.insert(9, 0), Err(Error::OutOfRange { index: 9, len: 7 })));
    assert!(matches!(list.set(7, 0), Err(Error::OutOfRange { index: 7, len: 7 })));
    list.set(6, 21)?;
    assert_eq!((list.remove(2)?, list.pop()?), (30, Some(21)));
    assert!(matches!(list.remove(5), Err(Error::OutOfRange { index: 5, len: 5 })));
    assert_eq!((list.index(&2)?, list.index(&99)?), (Some(2), None));
    assert!(list.contains(&3)? && list.remove_item(&2)? && !list.remove_item(&99)?);
    assert_eq!(
        list.update(
            1,
            |n: &mut i64, by: i64| {
                *n += by;
                *n
            },
            (5,)
        )?,
        6
    );
    let missing = list.update(9, |n: &mut i64| *n += 1, ());
    assert!(matches!(missing, Err(Error::OutOfRange { index: 9, len: 4 })));
    assert!(list.iter()?.eq([10, 6, 3, 2]));
    list.extend([3, 3])?;
    assert_eq!((list.count(&3)?, list.count(&99)?), (3, 0));
    list.reverse()?;
    assert_eq!(list.to_vec()?, [3, 3, 2, 3, 6, 10]);
    list.sort()?;
    assert_eq!(list.to_vec()?, [2, 3, 3, 3, 6, 10]);
    let dedup = |items: &mut Vec<i64>, and: i64| {
        items.dedup();
        items.push(and);
        items.len()
    };
    assert_eq!((list.call(dedup, (7,))?, list.to_vec()?), (5, vec![2, 3, 6, 10, 7]));
    list.call(|items: &mut Vec<i64>| items.clear(), ())?;
    list.sort()?;
    list.reverse()?;
    assert!(list.is_empty()?);
    let threads = [0, 1, 2].map(|thread| {
        let list = list.clone();
        thread::spawn(move || {
            for n in 0..20 {
                let push = |items: &mut Vec<i64>, n: i64| items.insert(0, n);
                list.call(push, (thread * 20 + n,)).expect("is called");
            }
        })
    });
    for thread in threads {
        thread.join().expect("no panic");
    }
    list.sort()?;
    assert!(list.iter()?.eq(0..60));
    list.clear()?;
    assert_eq!(list.len()?, 0);
    Ok(())
}

/// Breaks all connections of clients, again and again.
fn breaks_connections(cluster: &Cluster, redis: &Redis, work: impl FnOnce() -> Outcome) -> Outcome {
    let _ = cluster;
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let client = ::redis::Client::open(redis.url()).expect("a client");
            while !over.load(Ordering::Relaxed) {
                if let Ok(mut connection) = client.get_connection() {
                    let _ = ::redis::cmd("CLIENT")
                        .arg("KILL")
                        .arg("TYPE")
                        .arg("normal")
                        .query::<u32>(&mut connection);
                }
                thread::sleep(Duration::from_micros(500));
            }
        });
        let result = work();
        over.store(true, Ordering::Relaxed);
        result
    })
}

fn a_counter_counts_once_over_breaks_of_the_connection() -> Outcome {
    let redis = Redis::start();
    let cluster = redis.connect("a");
    let counter = cluster.counter("n")?;
    assert_eq!((counter.get()?, counter.set(5)?, counter.add(-3)?), (0, 0, 2));
    assert_eq!((counter.set(i64::MAX - 1)?, counter.add(1)?), (2, i64::MAX));
    assert!(matches!(counter.add(1), Err(Error::Server(_))));
    counter.set(0)?;
    breaks_connections(&cluster, &redis, || {
        for expected in 1..=3000 {
            assert_eq!(counter.add(1)?, expected);
        }
        Ok(())
    })
}

fn a_queue_loses_and_doubles_nothing_over_a_restart() -> Outcome {
    let mut redis = Redis::with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let queue = redis.connect("a").queue::<u32>("q")?;
    let producer = {
        let queue = queue.clone();
        thread::spawn(move || (0..2000).try_for_each(|n| queue.put(n).map_err(Error::from)))
    };
    let consumer = {
        let queue = queue.clone();
        thread::spawn(move || (0..2000).map(|_| queue.get()).collect::<Result<Vec<_>, _>>())
    };
    for _ in 0..3 {
        thread::sleep(Duration::from_millis(100));
        redis.restart();
    }
    producer.join().expect("no panic")?;
    let got = consumer.join().expect("no panic")?;
    assert!(got.into_iter().eq(0..2000));
    Ok(())
}

fn a_lock_is_held_by_one_until_its_lease_is_over() -> Outcome {
    let redis = Redis::start();
    let cluster = redis.connect("a");
    let lock = cluster.lock("l", LONG)?;
    let guard = lock.lock()?;
    assert!(lock.is_locked()? && !LockGuard::owner_died(&guard));
    assert!(matches!(cluster.lock("l", LONG)?.try_lock(), Err(Error::WouldBlock)));
    let timed_out = lock.lock_timeout(Duration::from_millis(30));
    assert!(matches!(timed_out, Err(Error::TimedOut)));
    let first = LockGuard::fence(&guard);
    LockGuard::renew(&guard)?;
    // Released, it wakes who waits.
    let waits = {
        let lock = lock.clone();
        thread::spawn(move || lock.lock().map(|guard| LockGuard::fence(&guard)))
    };
    thread::sleep(Duration::from_millis(20));
    LockGuard::release(guard)?;
    assert!(waits.join().expect("no panic")? > first);
    assert!(!lock.is_locked()?);

    let short = cluster.lock("l", Duration::from_millis(50))?;
    let lost = short.lock()?;
    let next = lock.lock()?;
    assert!(LockGuard::owner_died(&next) && LockGuard::fence(&next) > LockGuard::fence(&lost));
    assert!(matches!(LockGuard::renew(&lost), Err(Error::LeaseOver)));
    assert!(matches!(LockGuard::release(lost), Err(Error::LeaseOver)));
    assert!(lock.is_locked()?);
    LockGuard::release(next)?;

    assert!(!lock.acquire()? && matches!(lock.try_acquire(), Err(Error::WouldBlock)));
    let other = lock.clone();
    let refused = thread::spawn(move || other.release()).join().expect("no panic");
    assert!(matches!(refused, Err(Error::NotOwner)));
    lock.release()?;
    assert!(matches!(lock.release(), Err(Error::NotOwner)));

    // Nobody is in it beside another.
    let (lock, counter) = (cluster.lock("m", LONG)?, cluster.counter("inside")?);
    let threads: Vec<_> = (0..3)
        .map(|_| {
            let (lock, counter) = (lock.clone(), counter.clone());
            thread::spawn(move || {
                for _ in 0..30 {
                    let guard = lock.lock().expect("the lock");
                    assert_eq!(counter.add(1).expect("counts"), 1);
                    counter.add(-1).expect("counts");
                    drop(guard);
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().expect("no panic");
    }
    Ok(())
}

fn fences_grow_also_where_the_server_forgot_them() -> Outcome {
    let mut redis = Redis::start();
    let lock = redis.connect("a").lock("l", LONG)?;
    let first = LockGuard::fence(&lock.lock()?);
    // It keeps nothing.
    redis.restart();
    assert!(LockGuard::fence(&lock.lock()?) > first);
    Ok(())
}

fn a_server_that_is_away_is_waited_for_and_then_an_error() -> Outcome {
    let mut redis = Redis::with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let patient = redis.connect("a");
    let hasty = patient.clone().patience(Duration::from_millis(300));
    let counter = patient.counter("n")?;
    counter.add(5)?;
    redis.kill();
    let start = Instant::now();
    let error = hasty.counter("n")?.get().unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    assert!(start.elapsed() >= Duration::from_millis(250));
    let waits = {
        let counter = counter.clone();
        thread::spawn(move || counter.add(1))
    };
    thread::sleep(Duration::from_millis(300));
    redis.restart();
    assert_eq!(waits.join().expect("no panic")?, 6);
    let error = Cluster::connect("redis+unix:///nowhere/at/all", "a");
    assert!(matches!(error, Err(Error::Unreachable { .. })));
    Ok(())
}

fn a_server_that_loads_is_waited_for() -> Outcome {
    // A pause for each key that it loads: long enough to be asked meanwhile.
    let options = ["--appendonly", "yes", "--appendfsync", "no", "--aof-use-rdb-preamble", "no"];
    let slow = [
        &options[..],
        &["--key-load-delay", "200"],
        &["--loading-process-events-interval-bytes", "1024"],
    ];
    let mut redis = Redis::with(&slow.concat());
    let dict = redis.connect("a").dict::<u32, u32>("d")?;
    for n in 0..5 {
        dict.extend((0..1000).map(|m| (n * 1000 + m, m)))?;
    }
    let client = ::redis::Client::open(redis.url())?;
    // Once more where it had loaded before it was asked.
    crate::eventually("the server answers LOADING", || {
        redis.restart();
        loop {
            if let Ok(mut connection) = client.get_connection() {
                match ::redis::cmd("PING").query::<String>(&mut connection) {
                    Ok(_) => return false,
                    Err(error) if error.code() == Some("LOADING") => return true,
                    Err(_) => {}
                }
            }
        }
    })?;
    assert_eq!((dict.len()?, dict.get(&4999)?), (5000, Some(999)));
    Ok(())
}

fn passwords_and_rights_are_told_apart_and_never_printed() -> Outcome {
    let user = ["--user", "worker", "on", ">s3cret", "~mp:*", "+@all", "-incrby"];
    let redis = Redis::with(&[&["--requirepass", "hunter2"][..], &user].concat());
    let url = |rest: &str| format!("{}{rest}", redis.url());
    let texts = |error: &Error| format!("{error} {error:?}");
    for rest in ["", "?pass=wrong9", "?user=worker&pass=wrong9"] {
        let error = Cluster::connect(&url(rest), "a").unwrap_err();
        assert!(matches!(error, Error::Denied(_)), "{error}");
        assert!(!texts(&error).contains("wrong9"), "{}", texts(&error));
    }
    let owner = Cluster::connect(&url("?pass=hunter2"), "a")?;
    owner.counter("n")?.add(1)?;
    let worker = Cluster::connect(&url("?user=worker&pass=s3cret"), "a")?;
    worker.dict::<u8, u8>("d")?.insert(1, 2)?;
    let refused = worker.counter("n")?.add(1).unwrap_err();
    assert!(matches!(refused, Error::Denied(_)), "{refused}");
    let shown = format!("{worker:?} {:?} {refused:?}", worker.dict::<u8, u8>("d")?);
    assert!(!shown.contains("s3cret") && shown.contains("socket"), "{shown}");
    for bad in ["redis://worker:s3cret@:x/", "http://s3cret@head/", "s3cret"] {
        let error = Cluster::connect(bad, "a").unwrap_err();
        assert!(matches!(error, Error::Address(_)) && !texts(&error).contains("s3cret"));
    }
    assert!(matches!(Cluster::connect(redis.url(), "{a}"), Err(Error::Address(_))));
    Ok(())
}

fn values_of_other_types_and_handles_are_errors() -> Outcome {
    let redis = Redis::start();
    let cluster = redis.connect("a");
    cluster.queue::<u8>("q")?.put(1)?;
    assert!(matches!(cluster.queue::<String>("q")?.get(), Err(Error::Decode(_))));
    let queue = cluster.queue::<mp_core::Fd>("handles")?;
    let error = queue.put(std::fs::File::open("/dev/null")?.into()).unwrap_err();
    assert!(matches!(error.reason, Error::Encode(_)));
    let lists = cluster.dict::<u8, Vec<u8>>("d")?;
    assert!(matches!(lists.insert(1, vec![0; (64 << 20) + 1]), Err(Error::TooLong { .. })));
    Ok(())
}

/// A counter and a lock, and all that was sent along, used in another process.
fn use_all(
    cluster: Cluster,
    counter: Counter,
    queue: Queue<String>,
    dict: Dict<String, u8>,
    list: List<Counter>,
    lock: Lock,
) -> Result<String, Error> {
    let guard = lock.lock()?;
    counter.add(5)?;
    queue.put("from there".to_string())?;
    dict.insert("there".to_string(), 1)?;
    list.get(0)?.expect("a counter").add(2)?;
    cluster.counter("more")?.add(1)?;
    LockGuard::release(guard)?;
    Ok(format!("{cluster:?} {counter:?} {queue:?} {dict:?} {list:?} {lock:?}"))
}

fn handles_are_sent_to_processes_with_their_urls() -> Outcome {
    let redis = Redis::with(&["--requirepass", "hunter2"]);
    let cluster = Cluster::connect(&format!("{}?pass=hunter2", redis.url()), "a")?;
    let (counter, queue) = (cluster.counter("n")?, cluster.bounded_queue("q", 3)?);
    let (dict, list, lock) = (cluster.dict("d")?, cluster.list("l")?, cluster.lock("k", LONG)?);
    list.push(cluster.counter("inner")?)?;
    let arguments =
        (cluster.clone(), counter.clone(), queue.clone(), dict.clone(), list, lock.clone());
    let child = mp_process::Process::new(
        |a, b, c, d, e, f| use_all(a, b, c, d, e, f).map_err(|error| error.to_string()),
        arguments,
    );
    let shown = child.start()?.result()??;
    assert!(shown.contains("Lock") && !shown.contains("hunter2"), "{shown}");
    assert_eq!((counter.get()?, cluster.counter("inner")?.get()?), (5, 2));
    assert_eq!(
        (queue.get()?, dict.get(&"there".to_string())?),
        ("from there".to_string(), Some(1))
    );
    assert_eq!((cluster.counter("more")?.get()?, lock.is_locked()?), (1, false));
    Ok(())
}

fn handles_lie_in_shared_objects_by_their_names() -> Outcome {
    let redis = Redis::with(&["--requirepass", "hunter2"]);
    let url = format!("{}?pass=hunter2", redis.url());
    let cluster = Cluster::connect(&url, "a")?;
    let other = Cluster::connect(&url, "b")?;
    let queue = cluster.queue::<(u8, Counter)>("q")?;
    queue.put((1, other.counter("n")?))?;
    let mut connection = ::redis::Client::open(&url[..])?.get_connection()?;
    let bytes: Vec<u8> = ::redis::cmd("LINDEX").arg("mp:{a}:q:q").arg(0).query(&mut connection)?;
    let has = |text: &str| bytes.windows(text.len()).any(|some| some == text.as_bytes());
    assert!(has("mp:{b}:n:n") && !has("hunter2") && !has("socket"));
    queue.get()?.1.add(3)?;
    assert_eq!(other.counter("n")?.get()?, 3);
    Ok(())
}

fn handles_are_refused_where_they_would_show_a_way_to_strangers() -> Outcome {
    let (here, there) = (Redis::start(), Redis::start());
    let queue = here.connect("a").queue::<Counter>("q")?;
    let error = queue.put(there.connect("a").counter("n")?).unwrap_err();
    let Error::Encode(why) = &error.reason else { panic!("{error}") };
    assert!(why.contains("another server"), "{why}");
    Ok(())
}

//! Shared values, arrays and named memory, between processes started by each method.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use multiprocess::shmem::Item;
use multiprocess::{Array, Lock, Process, RawArray, RawValue, ShareableList, SharedMemory, Value};

use crate::support::Outcome;

crate::cases! {
    EACH:
        what_one_process_writes_the_other_reads
        four_processes_increment_exactly
        values_that_share_a_lock_change_together
        a_killed_holder_leaves_values_usable
        a_large_array_is_passed_without_a_copy
        named_memory_is_opened_by_name_and_outlives_who_attached
        a_list_is_shared_by_name_and_by_handle
        handles_travel_inside_of_values_and_back
    ;
}

fn what_one_process_writes_the_other_reads() -> Outcome {
    let write = |number: Value<i32>, letter: Value<u8>, array: Array<i32>, text: Array<u8>| {
        let seen = (number.get(), letter.get(), array.to_vec());
        number.set(-5);
        letter.set(b'z');
        array.set(0, 100).expect("in range");
        array.lock()[4] = 500;
        text.copy_from_slice(b"shared").expect("as long");
        (seen, array.get(5), array.set(5, 0).is_err())
    };
    let (number, letter) = (Value::new(3)?, Value::new(b'c')?);
    let (array, text) = (Array::from_slice(&[1, 2, 3, 4, 5])?, Array::zeroed(6)?);
    let all = (number.clone(), letter.clone(), array.clone(), text.clone());
    let (seen, beyond, refused) = Process::new(write, all).start()?.result()?;
    assert_eq!(seen, (3, b'c', vec![1, 2, 3, 4, 5]));
    assert_eq!((beyond, refused), (None, true));
    assert_eq!((number.get(), letter.get()), (-5, b'z'));
    assert_eq!(array.to_vec(), [100, 2, 3, 4, 500]);
    assert_eq!(text.to_vec(), b"shared");
    Ok(())
}

fn four_processes_increment_exactly() -> Outcome {
    const TIMES: u64 = 20_000;
    let count =
        |value: Value<u64>, lock: Lock, raw: RawValue<u64>, atomics: RawArray<AtomicU64>| {
            for _ in 0..TIMES {
                value.update(|value| *value += 1);
                atomics[1].fetch_add(1, Ordering::Relaxed);
                let _guard = lock.lock().expect("no owner died");
                raw.set(raw.get() + 1);
            }
        };
    let (value, lock, raw) = (Value::new(0_u64)?, Lock::new()?, RawValue::new(0_u64)?);
    let atomics = RawArray::<AtomicU64>::zeroed(2)?;
    let start = || {
        let all = (value.clone(), lock.clone(), raw.clone(), atomics.clone());
        Process::new(count, all).start()
    };
    let children: Vec<_> = (0..4).map(|_| start()).collect::<Result<_, _>>()?;
    for child in children {
        assert!(child.join()?.success());
    }
    let sums = (value.get(), raw.get(), atomics[1].load(Ordering::Relaxed));
    assert_eq!(sums, (4 * TIMES, 4 * TIMES, 4 * TIMES));
    Ok(())
}

fn values_that_share_a_lock_change_together() -> Outcome {
    let transfer = |from: Value<i64>, to: Value<i64>, lock: Lock| {
        for _ in 0..500 {
            let guard = lock.lock().expect("no owner died");
            drop(guard);
            from.update(|value| *value -= 1);
            to.update(|value| *value += 1);
        }
    };
    let lock = Lock::new()?;
    let (from, to) = (Value::with_lock(1000_i64, &lock)?, Value::with_lock(0_i64, &lock)?);
    let start = || Process::new(transfer, (from.clone(), to.clone(), lock.clone())).start();
    let (one, two) = (start()?, start()?);
    one.join()?;
    two.join()?;
    assert_eq!((from.get(), to.get()), (0, 1000));
    let guard = lock.lock().unwrap();
    assert!(from.try_lock().is_err() && to.try_lock().is_err(), "it is the same lock");
    drop(guard);
    Ok(())
}

fn a_killed_holder_leaves_values_usable() -> Outcome {
    let hold = |value: Value<u32>, array: Array<u32>, held: RawValue<u32>| {
        let mut guards = (value.lock(), array.lock());
        *guards.0 = 1;
        guards.1[0] = 1;
        held.set(1);
        thread::sleep(Duration::from_secs(1000));
    };
    let (value, array) = (Value::new(0_u32)?, Array::<u32>::zeroed(3)?);
    for _ in 0..5 {
        let held = RawValue::new(0_u32)?;
        let child = Process::new(hold, (value.clone(), array.clone(), held.clone())).start()?;
        crate::support::eventually("it holds both", || held.get() == 1)?;
        assert!(value.lock_timeout(Duration::from_millis(5)).is_err());
        child.kill()?;
        child.join()?;
        value.update(|value| *value += 1);
        assert_eq!((value.get(), array.get(0)), (2, Some(1)));
        assert!(value.owner_died() && array.owner_died());
        value.clear_owner_died();
        array.clear_owner_died();
    }
    Ok(())
}

fn a_large_array_is_passed_without_a_copy() -> Outcome {
    let sum = |array: Array<u64>| array.lock().iter().sum::<u64>();
    let array = Array::<u64>::zeroed(4 << 20)?;
    array.lock().iter_mut().zip(0..).for_each(|(element, index)| *element = index);
    let len = array.len() as u64;
    let total = Process::new(sum, (array.clone(),)).start()?.result()?;
    assert_eq!(total, len * (len - 1) / 2);
    Ok(())
}

/// A name that the leak guard of this test knows.
fn name(what: &str) -> String {
    format!("mp_test_{what}_{}", std::process::id())
}

fn named_memory_is_opened_by_name_and_outlives_who_attached() -> Outcome {
    let write = |name: String| {
        let memory = SharedMemory::open(&name).expect("opens");
        memory.write_at(3, b"hello").expect("fits");
        memory.size()
    };
    let name = name("memory");
    let memory = SharedMemory::create(Some(&name), 100)?;
    assert!(SharedMemory::create(Some(&name), 100).is_err(), "it exists");
    for _ in 0..2 {
        assert!(Process::new(write, (name.clone(),)).start()?.result()? >= 100);
    }
    let mut bytes = [0; 5];
    memory.read_at(3, &mut bytes)?;
    assert_eq!(&bytes, b"hello");
    memory.unlink()?;
    assert!(SharedMemory::open(&name).is_err());
    Ok(())
}

fn a_list_is_shared_by_name_and_by_handle() -> Outcome {
    let change = |list: ShareableList, name: String| {
        list.set(0, 7_i64).expect("fits");
        let same = ShareableList::open(&name).expect("opens");
        same.set(2, "new").expect("fits");
        (list.len(), same.set(2, "much too long for its slot").is_err())
    };
    let name = name("list");
    let items = [Item::from(1_i64), Item::from(2.5), Item::from("text"), Item::None];
    let list = ShareableList::create(Some(&name), items)?;
    let child = Process::new(change, (list.clone(), name)).start()?;
    assert_eq!(child.result()?, (4, true));
    let now: Vec<Item> = list.to_vec()?;
    assert_eq!(now, [Item::from(7_i64), Item::from(2.5), Item::from("new"), Item::None]);
    list.unlink()?;
    Ok(())
}

fn handles_travel_inside_of_values_and_back() -> Outcome {
    type Many = Vec<(String, Option<(Value<f64>, Array<i16>)>)>;
    let back = |many: Many| -> Many {
        for (_, pair) in &many {
            if let Some((value, array)) = pair {
                value.update(|value| *value *= 2.0);
                array.fill(9);
            }
        }
        many
    };
    let pair = (Value::new(1.5)?, Array::from_slice(&[1_i16, 2])?);
    let many = vec![("none".to_string(), None), ("some".to_string(), Some(pair.clone()))];
    let many = Process::new(back, (many,)).start()?.result()?;
    let (value, array) = many[1].1.as_ref().ok_or("none came back")?;
    assert_eq!((value.get(), array.to_vec()), (3.0, vec![9, 9]));
    value.set(4.0);
    assert_eq!((pair.0.get(), pair.1.to_vec()), (4.0, vec![9, 9]));
    Ok(())
}

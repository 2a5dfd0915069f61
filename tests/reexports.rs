//! The umbrella gives access to each crate, by name and as a module.

use crate::support::Outcome;

crate::cases! {
    ONCE: every_crate_is_reached_through_the_umbrella;
}

multiprocess::plain_struct! {
    /// By the name at the root.
    struct Place {
        x: i32,
        y: i32,
    }
}

fn every_crate_is_reached_through_the_umbrella() -> Outcome {
    use multiprocess as mp;
    assert!(mp::cpu_count() >= 1);
    assert_eq!(mp::process::current_process().pid(), mp::current_process().pid());
    let value: mp::Value<i32> = mp::shmem::Value::new(1)?;
    let lock: mp::Lock = mp::sync::Lock::new()?;
    let locked: mp::sync::LockResult<mp::sync::LockGuard<'_>> = lock.lock();
    drop(locked.map_err(mp::sync::Error::from)?);
    let place: mp::Mutex<Place> = mp::sync::Mutex::new(Place { x: 1, y: 2 })?;
    assert_eq!(place.lock().map_err(mp::sync::Error::from)?.y, 2);
    assert!(value.get() == 1 && !lock.is_locked());
    let (one, two): (mp::Connection<u8, u8>, _) = mp::duplex()?;
    let (receiver, sender): (mp::Receiver<u8>, mp::Sender<u8>) = mp::pipe::simplex()?;
    let refused: mp::SendError<u8> = {
        drop(receiver);
        sender.send(3).unwrap_err()
    };
    one.send(refused.value)?;
    let items: [&dyn mp::Waitable; 1] = [&two];
    assert!(mp::wait(&items, None)? == [0] && two.recv()? == 3);
    let queue: mp::Queue<u8> = mp::queue::Queue::unbounded()?;
    assert!(queue.is_empty());
    let fd: mp::Fd = mp::core::Fd::from(std::fs::File::open("/dev/null")?);
    let pool: mp::Pool = mp::pool::Pool::new(1)?;
    let squared: mp::AsyncResult<i32> = pool.apply_async(|x: i32| x * x, (3,));
    assert_eq!(squared.get(), Ok::<i32, mp::TaskError>(9));
    drop(pool);
    let manager: mp::Manager = mp::manager::Manager::new()?;
    let object: mp::Shared<mp::Object> = manager.shared(mp::Object::None)?;
    let (dict, list): (mp::Dict<u8, u8>, mp::List<u8>) = (manager.dict()?, manager.list([])?);
    let names: mp::Namespace = manager.namespace()?;
    assert!(dict.is_empty()? && list.is_empty()? && names.items()?.is_empty());
    assert!(object.call(|object: &mut mp::Object| object.is_none(), ())?);
    drop(manager);
    #[cfg(feature = "cluster")]
    assert!(mp::cluster::Cluster::connect("no URL", "name").is_err());
    let _: Result<mp::Child<()>, mp::process::Error> = mp::Process::new(drop, (fd,)).start();
    Ok(())
}

//! A client and the server, killed at each named step of a call, and what the others find.
//!
//! `RUSTFLAGS="--cfg mp_crash" cargo test -p mp-manager --test crash`; in other builds there are no such steps, and
//! nothing is tested here. The steps are those that the sources name; one that is never reached fails.

#[cfg(not(mp_crash))]
fn main() {}

#[cfg(mp_crash)]
fn main() {
    mp_process::init();
    steps::main();
}

#[cfg(mp_crash)]
mod steps {
    use std::fs;
    use std::os::fd::AsFd;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::path::PathBuf;
    use std::thread;
    use std::time::{Duration, Instant};

    use mp_core::crash;
    use mp_core::sys::process::{pidfd_open, pidfd_send_signal};
    use mp_core::testing::{self, Failed, Trial};
    use mp_manager::{
        Barrier, Condition, Dict, Error, Event, List, Lock, LockGuard, Manager, Queue, Result,
        Semaphore,
    };
    use mp_pipe::AuthKey;
    use mp_process::Process;

    /// How long a wait may take before it counts as hung.
    const HANG: Duration = Duration::from_secs(30);
    /// The limit for whoever is held up by a death: milliseconds, and room for a machine that is busy, or stands still
    /// for some seconds.
    const PROMPT: Duration = Duration::from_secs(10);
    /// signal(7).
    const SIGKILL: i32 = 9;

    #[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
    enum Fate {
        Killed,
        /// Stopped, and killed after a while.
        Stopped,
    }

    fn arm(name: &str, pass: u32, fate: Fate) {
        match fate {
            Fate::Killed => crash::arm(name, pass),
            Fate::Stopped => crash::arm_stop(name, pass),
        }
    }

    /// Every name that the sources give to a step.
    fn points() -> Vec<&'static str> {
        let sources = [
            include_str!("../src/dict.rs"),
            include_str!("../src/link.rs"),
            include_str!("../src/lock.rs"),
            include_str!("../src/server.rs"),
        ];
        let mut names = Vec::new();
        for source in sources {
            for call in source.split("crash_point!(\"").skip(1) {
                names.extend(call.split('"').next());
            }
        }
        names.sort_unstable();
        assert!(names.len() > 12 && names.windows(2).all(|pair| pair[0] != pair[1]), "{names:?}");
        names
    }

    pub(crate) fn main() {
        let mut tests: Vec<Trial> = Vec::new();
        for name in points() {
            for (pass, fate) in [(1, Fate::Killed), (2, Fate::Killed), (1, Fate::Stopped)] {
                let test = move || {
                    let play = if name.starts_with("client") { client } else { server };
                    catch_unwind(AssertUnwindSafe(|| play(name, pass, fate)))
                        .map_err(|_| Failed::from("panicked, see above"))
                };
                tests.push(Trial::test(format!("{fate:?} at: {name}, pass {pass}"), test));
            }
        }
        for kind in Turn::ALL {
            for (name, pass) in AS_IT_COMES {
                // Only who gets a lock has another call to make.
                if pass > 1 && !matches!(kind, Turn::Notified | Turn::Locks) {
                    continue;
                }
                let test = move || {
                    catch_unwind(AssertUnwindSafe(|| kind.play(name, pass)))
                        .map_err(|_| Failed::from("panicked, see above"))
                };
                tests.push(Trial::test(format!("{kind:?}, killed at: {name}, pass {pass}"), test));
            }
        }
        testing::run(tests);
    }

    /// From when what a client waits for has come until it gives it back.
    const AS_IT_COMES: [(&str, u32); 3] = [
        ("client: the answer is there", 1),
        ("client: the answer is read", 1),
        ("client: about to call", 2),
    ];

    /// What a client waits for that is killed when its turn comes.
    #[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
    enum Turn {
        Notified,
        Locks,
        HasPermit,
        Gets,
        Puts,
        Meets,
        IsTold,
    }

    type Places = (Condition, Lock, Semaphore, Queue<u64>, Barrier, Event);

    impl Turn {
        const ALL: [Self; 7] = [
            Self::Notified,
            Self::Locks,
            Self::HasPermit,
            Self::Gets,
            Self::Puts,
            Self::Meets,
            Self::IsTold,
        ];

        fn wait(self, places: &Places, ready: &Queue<()>, point: &Option<(String, u32)>) {
            let (condition, lock, semaphore, queue, barrier, event) = places;
            let begin = || {
                ready.put(()).expect("the server lives");
                if let Some((name, pass)) = point {
                    arm(name, *pass, Fate::Killed);
                }
            };
            let ended = match self {
                Self::Notified => {
                    let guard = condition.lock().expect("the server lives");
                    begin();
                    condition.wait(guard).map(drop)
                }
                Self::Locks => (begin(), lock.lock().map(drop)).1,
                Self::HasPermit => (begin(), semaphore.permit().map(drop)).1,
                Self::Gets => (begin(), queue.get().map(drop)).1,
                Self::Puts => (begin(), queue.put(2).map_err(Error::from)).1,
                Self::Meets => (begin(), barrier.wait().map(drop)).1,
                Self::IsTold => (begin(), event.wait()).1,
            };
            ended.expect("the server lives");
        }

        /// The client is killed; the next in its place is not held up.
        fn play(self, name: &str, pass: u32) {
            let manager = Manager::new().unwrap();
            let places: Places = (
                manager.condition().unwrap(),
                manager.lock().unwrap(),
                manager.semaphore(0).unwrap(),
                manager.queue(1).unwrap(),
                manager.barrier(2).unwrap(),
                manager.event().unwrap(),
            );
            let (condition, lock, semaphore, queue, barrier, event) = &places;
            let ready = manager.queue(0).unwrap();
            let start = |point: Option<(String, u32)>| {
                let task = |turn: Turn, places: Places, ready, point| {
                    turn.wait(&places, &ready, &point);
                };
                let child = Process::new(task, (self, places.clone(), ready.clone(), point));
                let child = child.start().unwrap();
                ready.get_timeout(HANG).unwrap();
                match self {
                    // Once the lock is to be had, it waits.
                    Self::Notified => drop(condition.lock().unwrap()),
                    Self::Meets => eventually("it waits", || barrier.n_waiting().unwrap() == 1),
                    _ => thread::sleep(Duration::from_millis(20)),
                }
                child
            };
            let guard = lock.lock().unwrap();
            if self == Self::Puts {
                queue.put(1).unwrap();
            }
            let first = start(Some((name.to_string(), pass)));
            let second = (self == Self::Notified).then(|| start(None));
            // Its turn comes.
            match self {
                Self::Notified => condition.notify_one().unwrap(),
                Self::Locks => drop(guard),
                Self::HasPermit => semaphore.release().unwrap(),
                Self::Gets => queue.put(1).unwrap(),
                Self::Puts => assert_eq!(queue.get().unwrap(), 1),
                Self::Meets => drop(barrier.wait().unwrap()),
                Self::IsTold => event.set().unwrap(),
            }
            // It has had its turn: nobody was before it. The library has not seen its end here.
            eventually("the step is reached", || matches!(state(first.pid()), 'Z' | 'X'));
            match self {
                Self::Notified => {
                    let second = second.expect("started");
                    second.join_timeout(HANG).unwrap().expect("it is notified too");
                }
                Self::Locks => {
                    let guard = lock.lock_timeout(HANG).unwrap();
                    assert!(LockGuard::owner_died(&guard));
                }
                Self::HasPermit => drop(semaphore.permit_timeout(HANG).unwrap()),
                Self::Gets => {
                    // What it had got is lost with it, and comes to nobody twice.
                    queue.put_timeout(3, HANG).unwrap();
                    assert_eq!(queue.get_timeout(HANG).unwrap(), 3);
                }
                Self::Puts => assert_eq!(queue.get_timeout(HANG).unwrap(), 2),
                Self::Meets => {
                    assert!(matches!(
                        barrier.wait_timeout(Duration::from_millis(10)),
                        Err(Error::TimedOut)
                    ));
                }
                Self::IsTold => event.wait().unwrap(),
            }
            let exit = first.join_timeout(HANG).unwrap().expect("it ends");
            assert_eq!(exit.signal(), Some(SIGKILL), "the step was never reached");
            if self == Self::Gets {
                assert!(matches!(queue.try_get(), Err(Error::Empty)));
            }
        }
    }

    type Proxies = (Dict<u32, u64>, Lock, Queue<u64>);

    /// What a client does, in all the ways that lead past the steps.
    fn work(manager: &Manager, proxies: &Proxies) -> Result<()> {
        let (dict, lock, queue) = proxies;
        for n in 0..4 {
            let guard = lock.lock()?;
            dict.insert(7, n)?;
            let list: List<u8> = manager.list([1])?;
            list.push(2)?;
            queue.put(n)?;
            drop(guard);
            queue.get()?;
            let dict = dict.clone();
            thread::spawn(move || dict.len()).join().expect("no panic")?;
        }
        Ok(())
    }

    fn connect(path: PathBuf) -> Manager {
        Manager::connect(path, &AuthKey::new(b"key").unwrap()).expect("connects")
    }

    fn serve() -> (Manager, PathBuf, Proxies) {
        let path = std::env::temp_dir().join(format!("mp-manager-crash-{}", std::process::id()));
        let manager = Manager::serve(path.clone(), &AuthKey::new(b"key").unwrap()).unwrap();
        let proxies = (manager.dict().unwrap(), manager.lock().unwrap(), manager.queue(0).unwrap());
        (manager, path, proxies)
    }

    fn state(pid: u32) -> char {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let state = stat.rsplit(')').next().and_then(|rest| rest.trim_start().chars().next());
        state.unwrap_or('X')
    }

    fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
        let start = Instant::now();
        loop {
            let late = start.elapsed() > HANG;
            if condition() {
                return;
            }
            assert!(!late, "did not come about: {what}");
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn descriptors(pid: u32) -> usize {
        fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
    }

    /// The client is killed; the server and the others go on.
    fn client(name: &str, pass: u32, fate: Fate) {
        let (manager, path, proxies) = serve();
        work(&manager, &proxies).unwrap();
        let before = descriptors(manager.pid());
        let task = |name: String, pass: u32, fate: Fate, path: PathBuf, proxies: Proxies| {
            let manager = connect(path);
            arm(&name, pass, fate);
            work(&manager, &proxies).expect("the server lives");
        };
        let arguments = (name.to_string(), pass, fate, path, proxies.clone());
        let child = Process::new(task, arguments).start().unwrap();
        if fate == Fate::Stopped {
            eventually("the step is reached", || matches!(state(child.pid()), 'T' | 'Z' | 'X'));
            assert_eq!(state(child.pid()), 'T', "the step was never reached");
            // It holds up nobody, but who wants what it has.
            proxies.0.insert(8, 1).unwrap();
            proxies.2.put(9).unwrap();
            proxies.2.get().unwrap();
            child.kill().unwrap();
        }
        let exit = child.join_timeout(HANG).unwrap().expect("it ends");
        assert_eq!(exit.signal(), Some(SIGKILL), "the step was never reached");
        let start = Instant::now();
        let guard = proxies.1.lock_timeout(HANG).unwrap();
        println!("owner died: {}", LockGuard::owner_died(&guard));
        drop(guard);
        assert!(start.elapsed() < PROMPT);
        // Whole numbers, and an item or none.
        let value = proxies.0.get(&7).unwrap().expect("a value");
        assert!(value < 4);
        while proxies.2.try_get().is_ok() {}
        work(&manager, &proxies).unwrap();
        eventually("the objects and connections of the dead go", || {
            descriptors(manager.pid()) <= before
        });
    }

    /// The server is killed: everybody knows.
    fn server(name: &str, pass: u32, fate: Fate) {
        let (manager, path, proxies) = serve();
        let nothing = manager.shared(()).unwrap();
        let ready = manager.queue(0).unwrap();
        let waits = |queue: Queue<u64>, ready: Queue<u64>| {
            ready.put(1).expect("the server lives");
            matches!(queue.get(), Err(Error::ServerDied))
        };
        let nothing_comes = manager.queue(0).unwrap();
        let waiter = Process::new(waits, (nothing_comes, ready.clone())).start().unwrap();
        let works = |path: PathBuf, proxies: Proxies, go: Queue<u64>, ready: Queue<u64>| {
            let manager = connect(path);
            ready.put(2).expect("the server lives");
            // It is armed now, and may be dead.
            let _ = go.get();
            // The end of a client is seen a while after it.
            let start = Instant::now();
            let ended = loop {
                match work(&manager, &proxies) {
                    Ok(()) if start.elapsed() < HANG => {}
                    ended => break ended,
                }
            };
            let again = proxies.0.len();
            matches!((ended, again), (Err(Error::ServerDied), Err(Error::ServerDied)))
        };
        let go = manager.queue(0).unwrap();
        let arguments = (path, proxies, go.clone(), ready.clone());
        let worker = Process::new(works, arguments).start().unwrap();
        // Both are there, and soon wait.
        (0..2).for_each(|_| _ = ready.get().unwrap());
        thread::sleep(Duration::from_millis(50));
        let pid = manager.pid();
        let server = pidfd_open(pid).unwrap();
        let thread = {
            let name = name.to_string();
            thread::spawn(move || {
                let armed = nothing.call(
                    |_: &mut (), name: String, pass: u32, fate: Fate| arm(&name, pass, fate),
                    (name, pass, fate),
                );
                let _ = armed.and_then(|()| go.put(1).map_err(Error::from));
            })
        };
        eventually("the step is reached", || matches!(state(pid), 'T' | 'Z' | 'X'));
        if fate == Fate::Stopped {
            assert_eq!(state(pid), 'T', "it should be stopped");
            pidfd_send_signal(server.as_fd(), SIGKILL).unwrap();
        }
        let start = Instant::now();
        assert!(waiter.join_timeout(HANG).unwrap().is_some() && waiter.result().unwrap());
        assert!(worker.join_timeout(HANG).unwrap().is_some() && worker.result().unwrap());
        thread.join().unwrap();
        assert!(matches!(manager.event(), Err(Error::ServerDied)));
        assert!(start.elapsed() < PROMPT, "{:?}", start.elapsed());
        drop(manager);
        // Its place is free.
        drop(serve());
    }
}

//! Listeners and clients in processes started by each method.

use std::cell::RefCell;
use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use multiprocess::core::Deadline;
use multiprocess::core::sys::net;
use multiprocess::pipe::{Address, Error, Peer};
use multiprocess::{
    AuthKey, Client, Connection, Listener, Lock, Process, Receiver, Sender, StartMethod, simplex,
    wait,
};

use crate::support::{Folder, HANG, Outcome, PROMPT};

crate::cases! {
    EACH:
        a_child_that_was_given_address_and_key_connects
        a_child_listens_and_its_parent_and_siblings_connect
        what_is_sent_over_a_unix_socket_may_hold_locks_and_pipe_ends
        an_accepted_connection_goes_on_in_a_child_of_its_own
        a_child_with_another_key_is_turned_away_and_knows
        a_killed_client_is_the_end_of_its_connection
        a_client_killed_in_the_hand_shake_keeps_nobody_waiting
        the_socket_of_a_killed_listener_is_replaced
        a_child_removes_no_socket_of_its_parent
        no_key_is_in_arguments_or_environment
        clients_killed_at_any_time_leave_a_listener_that_works
    ;
    ONCE:
        connections_that_forked_closures_captured_go_on_in_them
        a_half_that_a_forked_closure_captured_leaves_the_other_here
        a_listener_that_a_forked_closure_captured_goes_on_in_it
        a_listener_that_is_kept_here_too_stays_here
    ;
}

fn sleep_for_ever() {
    thread::sleep(Duration::from_secs(1000));
}

/// One listener of each kind, with that key.
fn listeners(key: &AuthKey) -> Result<[Listener; 2], Error> {
    let builder = || Listener::builder().authkey(key).handshake_timeout(HANG);
    Ok([builder().bind_private()?, builder().bind("127.0.0.1:0")?])
}

fn connect<S, R>(address: &Address, key: &AuthKey) -> Result<Connection<S, R>, Error> {
    Client::builder().authkey(key).timeout(HANG).connect(address)
}

fn a_child_that_was_given_address_and_key_connects() -> Outcome {
    let task = |address: Address, key: AuthKey| {
        let connection = connect::<String, u64>(&address, &key).expect("connects");
        connection.send("how long?".to_string()).expect("sends");
        connection.recv().expect("receives")
    };
    let key = AuthKey::random()?;
    for listener in listeners(&key)? {
        let child = Process::new(task, (listener.address().clone(), key.clone())).start()?;
        let connection = listener.accept_timeout::<u64, String>(HANG)?;
        connection.send(connection.recv()?.len() as u64)?;
        assert_eq!(child.result()?, 9);
        assert!(matches!(connection.recv(), Err(Error::Disconnected)));
        match listener.last_accepted() {
            Some(Peer::Unix { pid, .. }) => assert_ne!(pid, std::process::id()),
            Some(Peer::Tcp(address)) => assert!(address.ip().is_loopback()),
            other => return Err(format!("{other:?}").into()),
        }
    }
    Ok(())
}

fn a_child_listens_and_its_parent_and_siblings_connect() -> Outcome {
    fn serve(tcp: bool, key: AuthKey, tell: Sender<Address>, clients: usize) {
        let builder = Listener::builder().authkey(&key);
        let listener = if tcp { builder.bind("localhost:0") } else { builder.bind_private() };
        let listener = listener.expect("listens");
        tell.send(listener.address().clone()).expect("tells");
        // All at a time, answered as they speak.
        let mut open: Vec<Connection<i64, i64>> = Vec::new();
        let mut ended = 0;
        while ended < clients {
            let mut items: Vec<&dyn multiprocess::Waitable> = vec![&listener];
            items.extend(open.iter().map(|one| one as &dyn multiprocess::Waitable));
            let ready = wait(&items, Some(HANG)).expect("waits");
            assert!(!ready.is_empty(), "nobody came");
            for index in ready.into_iter().rev() {
                if index == 0 {
                    open.extend(listener.try_accept().ok());
                    continue;
                }
                match open[index - 1].try_recv() {
                    Ok(number) => open[index - 1].send(-number).expect("answers"),
                    Err(Error::WouldBlock) => {}
                    Err(Error::Disconnected) => {
                        open.remove(index - 1);
                        ended += 1;
                    }
                    Err(error) => panic!("{error}"),
                }
            }
        }
    }
    fn ask(address: Address, key: AuthKey) -> i64 {
        let connection = connect::<i64, i64>(&address, &key).expect("connects");
        (1..=100)
            .map(|number| {
                connection.send(number).expect("asks");
                connection.recv().expect("is answered")
            })
            .sum()
    }
    for tcp in [false, true] {
        let key = AuthKey::random()?;
        let (told, tell) = simplex()?;
        let server = Process::new(serve, (tcp, key.clone(), tell, 3)).start()?;
        let address: Address = told.recv()?;
        let sibling = || Process::new(ask, (address.clone(), key.clone())).start();
        let siblings = [sibling()?, sibling()?];
        assert_eq!(ask(address.clone(), key.clone()), -5050);
        for sibling in siblings {
            assert_eq!(sibling.result()?, -5050);
        }
        server.result()?;
        assert!(!address.as_path().is_some_and(Path::exists));
    }
    Ok(())
}

fn what_is_sent_over_a_unix_socket_may_hold_locks_and_pipe_ends() -> Outcome {
    type Gift = (Lock, Option<Sender<i32>>);
    let take = |address: Address| {
        let connection = Client::connect::<(), Gift>(address).expect("connects");
        let (lock, sender) = connection.recv().expect("receives");
        let taken = lock.try_lock().is_ok();
        sender.expect("a sender").send(i32::from(taken)).expect("sends");
    };
    let listener = Listener::new()?;
    let child = Process::new(take, (listener.address().clone(),)).start()?;
    let connection = listener.accept_timeout::<Gift, ()>(HANG)?;
    let (lock, (receiver, sender)) = (Lock::new()?, simplex()?);
    let guard = lock.lock().unwrap();
    connection.send((lock.clone(), Some(sender)))?;
    assert_eq!(receiver.recv()?, 0);
    drop(guard);
    child.result()?;
    Ok(())
}

fn a_child_with_another_key_is_turned_away_and_knows() -> Outcome {
    let task = |address: Address, key: AuthKey| {
        matches!(connect::<(), ()>(&address, &key), Err(Error::Authentication(_)))
    };
    let key = AuthKey::random()?;
    for listener in listeners(&key)? {
        let wrong = (listener.address().clone(), AuthKey::random()?);
        let child = Process::new(task, wrong).start()?;
        let denied = listener.accept_timeout::<(), ()>(HANG);
        assert!(matches!(denied, Err(Error::Authentication(_))), "{denied:?}");
        assert!(child.result()?);
        let right = Process::new(task, (listener.address().clone(), key.clone())).start()?;
        listener.accept_timeout::<(), ()>(HANG)?;
        assert!(!right.result()?);
    }
    Ok(())
}

fn a_killed_client_is_the_end_of_its_connection() -> Outcome {
    let task = |address: Address, key: AuthKey| {
        let connection = connect::<String, ()>(&address, &key).expect("connects");
        connection.send("here".to_string()).expect("sends");
        sleep_for_ever();
    };
    let key = AuthKey::random()?;
    for listener in listeners(&key)? {
        let child = Process::new(task, (listener.address().clone(), key.clone())).start()?;
        let connection = listener.accept_timeout::<(), String>(HANG)?;
        assert_eq!(connection.recv()?, "here");
        child.kill()?;
        let start = Instant::now();
        assert!(matches!(connection.recv(), Err(Error::Disconnected)));
        assert!(start.elapsed() < PROMPT);
        child.join()?;
    }
    Ok(())
}

fn reach(address: &Address) -> std::io::Result<std::os::fd::OwnedFd> {
    match address {
        Address::Unix(path) => net::connect_packets(path, Deadline::NEVER),
        Address::Tcp(host, port) => Ok(TcpStream::connect((&**host, *port))?.into()),
        _ => Err(std::io::ErrorKind::Unsupported.into()),
    }
}

fn a_client_killed_in_the_hand_shake_keeps_nobody_waiting() -> Outcome {
    let silent = |address: Address, ready: Sender<()>| {
        let stream = TcpStream::from(reach(&address).expect("connects"));
        (&stream).write_all(&[38, 0, 1, b'm']).expect("begins");
        ready.send(()).expect("tells");
        sleep_for_ever();
    };
    let task = |address: Address, key: AuthKey| connect::<(), ()>(&address, &key).is_ok();
    let key = AuthKey::random()?;
    for listener in listeners(&key)? {
        let (ready, tell) = simplex()?;
        let victim = Process::new(silent, (listener.address().clone(), tell)).start()?;
        ready.recv()?;
        let before = Process::new(task, (listener.address().clone(), key.clone())).start()?;
        listener.accept_timeout::<(), ()>(HANG)?;
        assert!(before.result()?);
        victim.kill()?;
        victim.join()?;
        let after = Process::new(task, (listener.address().clone(), key.clone())).start()?;
        listener.accept_timeout::<(), ()>(HANG)?;
        assert!(after.result()?);
    }
    Ok(())
}

fn the_socket_of_a_killed_listener_is_replaced() -> Outcome {
    let listen = |address: Address, ready: Sender<()>| {
        let _listener = Listener::bind(address).expect("listens");
        ready.send(()).expect("tells");
        sleep_for_ever();
    };
    let folder = Folder::new()?;
    let path = folder.path("socket");
    let address = Address::from(&path);
    let (ready, tell) = simplex()?;
    let child = Process::new(listen, (address.clone(), tell)).start()?;
    ready.recv()?;
    assert!(matches!(Listener::bind(&address), Err(Error::AddressInUse { .. })));
    child.kill()?;
    child.join()?;
    assert!(matches!(Client::connect::<(), ()>(&address), Err(Error::Connect { .. })));
    assert!(path.exists());
    let listener = Listener::bind(&address)?;
    let task = |address: Address| Client::connect::<(), ()>(address).is_ok();
    let client = Process::new(task, (address,)).start()?;
    listener.accept_timeout::<(), ()>(HANG)?;
    assert!(client.result()?);
    drop(listener);
    fs::remove_dir(&*folder)?; // which is empty
    Ok(())
}

fn a_child_removes_no_socket_of_its_parent() -> Outcome {
    let listener = Listener::new()?;
    let path = listener.address().as_path().ok_or("a path")?.to_path_buf();
    let task = |path: std::path::PathBuf| path.exists();
    for _ in 0..3 {
        assert!(Process::new(task, (path.clone(),)).start()?.result()?);
        assert!(path.exists());
    }
    listener.close();
    assert!(!path.exists());
    Ok(())
}

fn connections_that_forked_closures_captured_go_on_in_them() -> Outcome {
    const CLIENTS: u32 = 5;
    fn ask(address: Address, key: AuthKey, number: u32) -> Option<u32> {
        let connection = connect::<u32, u32>(&address, &key).expect("connects");
        // Some are heard only once the parent is done with the connection.
        thread::sleep(Duration::from_millis(30 * u64::from(number % 3)));
        connection.send(number).expect("asks");
        let answer = connection.recv().ok();
        assert!(matches!(connection.recv(), Err(Error::Disconnected)));
        answer
    }
    let key = AuthKey::random()?;
    for listener in listeners(&key)? {
        let arguments = |number| (listener.address().clone(), key.clone(), number);
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| Process::new(ask, arguments(number)).start())
            .collect::<Result<_, _>>()?;
        let mut servers = Vec::new();
        for _ in 0..CLIENTS {
            let connection = listener.accept_timeout::<u32, u32>(HANG)?;
            let serve = move || {
                let number = connection.recv().map_err(|error| error.to_string())?;
                connection.send(number + 100).map_err(|error| error.to_string())
            };
            servers.push(Process::fork(serve).start()?);
        }
        for server in servers {
            server.result()??;
        }
        for (number, client) in clients.into_iter().enumerate() {
            assert_eq!(client.result()?, Some(number as u32 + 100));
        }
    }
    Ok(())
}

fn a_half_that_a_forked_closure_captured_leaves_the_other_here() -> Outcome {
    fn double(address: Address, key: AuthKey) {
        let connection = connect::<u32, u32>(&address, &key).expect("connects");
        for number in &connection {
            connection.send(2 * number).expect("answers");
        }
    }
    let key = AuthKey::random()?;
    for listener in listeners(&key)? {
        let client = Process::new(double, (listener.address().clone(), key.clone())).start()?;
        let (sender, receiver) = listener.accept_timeout::<u32, u32>(HANG)?.split();
        let child = Process::fork(move || {
            thread::sleep(Duration::from_millis(50));
            (0..10).all(|number| sender.send(number).is_ok())
        });
        let child = child.start()?;
        for number in 0..10 {
            assert_eq!(receiver.recv_timeout(HANG)?, 2 * number);
        }
        assert!(matches!(receiver.recv_timeout(HANG), Err(Error::Disconnected)));
        assert!(child.result()?);
        client.join()?;
    }
    Ok(())
}

fn a_listener_that_a_forked_closure_captured_goes_on_in_it() -> Outcome {
    let key = AuthKey::random()?;
    for listener in listeners(&key)? {
        let address = listener.address().clone();
        let (gone, go) = simplex::<()>()?;
        let child = Process::fork(move || {
            gone.recv().map_err(|error| error.to_string())?;
            let accepted = listener.accept_timeout::<u32, ()>(HANG);
            // In a child of its own, which is the heir's heir, and ends first.
            let serve = move || match accepted {
                Ok(connection) => connection.send(7).map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            };
            let server = Process::fork(serve).start().map_err(|error| error.to_string())?;
            server.result().map_err(|error| error.to_string())??;
            Ok::<bool, String>(listener.address().as_path().is_none_or(Path::exists))
        });
        let child = child.start()?;
        assert!(address.as_path().is_none_or(Path::exists));
        go.send(())?;
        assert_eq!(connect::<(), u32>(&address, &key)?.recv()?, 7);
        assert_eq!(child.result()?, Ok(true));
        if let Some(path) = address.as_path() {
            assert!(!path.exists() && !path.parent().ok_or("a directory")?.exists());
        }
    }
    Ok(())
}

fn a_listener_that_is_kept_here_too_stays_here() -> Outcome {
    let listener = std::rc::Rc::new(Listener::new()?);
    let path = listener.address().as_path().ok_or("a path")?.to_path_buf();
    let theirs = listener.clone();
    let task = Process::fork(move || theirs.address().as_path().is_some_and(Path::exists));
    assert!(task.start()?.result()?);
    assert!(path.exists());
    drop(listener);
    assert!(!path.exists());

    // A copy that captures nothing is nobody's heir, whatever it drops.
    thread_local! {
        static KEPT: RefCell<Option<Listener>> = const { RefCell::new(None) };
    }
    let listener = Listener::new()?;
    let path = listener.address().as_path().ok_or("a path")?.to_path_buf();
    KEPT.set(Some(listener));
    let task = || KEPT.take().is_some();
    assert!(Process::new(task, ()).start_method(StartMethod::Fork).start()?.result()?);
    assert!(path.exists());
    drop(KEPT.take());
    assert!(!path.exists());
    Ok(())
}

fn no_key_is_in_arguments_or_environment() -> Outcome {
    let look = |address: Address, key: AuthKey, parent: u32| {
        let _connection = connect::<(), ()>(&address, &key).expect("connects");
        let files = ["self".to_string(), parent.to_string()].map(|process| {
            ["cmdline", "environ"]
                .map(|file| fs::read(format!("/proc/{process}/{file}")).expect("one's own"))
        });
        let bytes = files.as_flattened().concat();
        bytes.windows(key.as_bytes().len()).any(|window| window == key.as_bytes())
    };
    let key = AuthKey::new(b"a-key-that-is-easily-found")?;
    let [listener, _] = listeners(&key)?;
    let arguments = (listener.address().clone(), key, std::process::id());
    let child = Process::new(look, arguments).start()?;
    listener.accept_timeout::<(), ()>(HANG)?;
    assert!(!child.result()?);
    Ok(())
}

fn clients_killed_at_any_time_leave_a_listener_that_works() -> Outcome {
    let connects = |address: Address, key: AuthKey, ready: Sender<()>| {
        ready.send(()).expect("tells");
        while ready.send(()).is_ok() {
            if let Ok(connection) = connect::<Vec<u8>, ()>(&address, &key) {
                let _ = connection.send(vec![7; 100_000]);
            }
        }
    };
    let task = |address: Address, key: AuthKey| {
        let connection = connect::<Vec<u8>, ()>(&address, &key).expect("connects");
        connection.send(vec![8; 10]).expect("sends");
    };
    let key = AuthKey::random()?;
    for listener in listeners(&key)? {
        for round in 0..15_u64 {
            let (ready, tell) = simplex()?;
            let arguments = (listener.address().clone(), key.clone(), tell);
            let victim = Process::new(connects, arguments).start()?;
            ready.recv()?;
            // Between a few and some thousand steps of the hand-shake.
            let end = Instant::now() + Duration::from_micros(300 * (round * 7 % 15));
            let mut open: Vec<Connection<(), Vec<u8>>> = Vec::new();
            while Instant::now() < end {
                open.extend(listener.accept_timeout(Duration::from_micros(500)).ok());
            }
            victim.kill()?;
            victim.join()?;
            for connection in open {
                match connection.recv_timeout(HANG) {
                    Ok(bytes) => assert!(bytes == [7; 100_000]),
                    Err(Error::Disconnected) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        let child = Process::new(task, (listener.address().clone(), key.clone())).start()?;
        loop {
            // What the last victim has left behind comes first.
            let connection = listener.accept_timeout::<(), Vec<u8>>(HANG)?;
            if connection.recv_timeout(HANG).is_ok_and(|bytes| bytes == [8; 10]) {
                break;
            }
        }
        child.result()?;
    }
    Ok(())
}

/// As a server does with a process for each client.
fn an_accepted_connection_goes_on_in_a_child_of_its_own() -> Outcome {
    const LONG: usize = 3_000_000;
    fn ask(address: Address, key: AuthKey) -> Vec<usize> {
        let connection = connect::<Vec<u8>, usize>(&address, &key).expect("connects");
        let ask = |len: usize| {
            connection.send(vec![7; len]).expect("sends");
            connection.recv().expect("receives")
        };
        vec![ask(1), ask(2), ask(LONG), ask(4)]
    }
    fn answer(connection: Connection<usize, Vec<u8>>) {
        for bytes in &connection {
            connection.send(bytes.len()).expect("answers");
        }
    }
    fn answer_in_halves(sender: Sender<usize>, receiver: Receiver<Vec<u8>>) {
        for bytes in receiver {
            sender.send(bytes.len()).expect("answers");
        }
    }
    let key = AuthKey::random()?;
    for listener in listeners(&key)? {
        for split in [false, true] {
            let client = Process::new(ask, (listener.address().clone(), key.clone())).start()?;
            let connection = listener.accept_timeout::<usize, Vec<u8>>(HANG)?;
            connection.send(connection.recv()?.len())?;
            connection.send(connection.recv()?.len())?;
            // Some of the long message is received here, the rest there.
            match connection.recv_timeout(Duration::from_micros(200)) {
                Ok(all) => connection.send(all.len())?,
                Err(Error::TimedOut) => {}
                Err(error) => return Err(error.into()),
            }
            let server = if split {
                Process::new(answer_in_halves, connection.split()).start()?
            } else {
                Process::new(answer, (connection,)).start()?
            };
            assert_eq!(client.result()?, [1, 2, LONG, 4]);
            // The client's end is the only one there was of it.
            server.result()?;
        }
    }
    Ok(())
}

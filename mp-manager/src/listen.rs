//! Managers for processes that are no children: reached at an address, and what is published there.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use mp_core::Fd;
use mp_pipe::{Address, AuthKey, Connection, Listener};
use serde::{Deserialize, Serialize};

use crate::link::{Key, Link};
use crate::remote::{Hello, Remote, hear, persist, say};
use crate::server::{Client, Server, converse};
use crate::wire::Parcel;
use crate::{Dict, Error, Result};

/// What has been published, by its name.
pub(crate) type Names = Dict<String, Parcel>;

/// Changes with what client and server say to each other, and with the numbers of operations.
const VERSION: u32 = 5;

/// What who connects is told, behind the version: the server's process, and how to find what is published.
#[derive(Serialize, Deserialize)]
enum Welcome {
    /// A proxy, which is all it takes.
    Here(u32, Names),
    /// The server's key and the number of the dict, for which there is another connection to make.
    There(u32, Key, u64),
}

/// Has the server listen; gives the address, or why it cannot.
pub(crate) fn listen(names: &Names, address: &Address, key: &AuthKey) -> Result<Address> {
    let (own, id, life) = names.parts()?;
    let life = Fd::from(life);
    let heard: Result<Address, String> = names.link().run(
        |to| to.put(address)?.put(key)?.put(names)?.put(&(own, id))?.put(&life).map(drop),
        |from, to| {
            let (address, key): (Address, AuthKey) = (from.get()?, from.get()?);
            let names: Names = from.get()?;
            let ((own, id), life): ((Key, u64), Fd) = (from.get()?, from.get()?);
            let client = Client::current();
            let heard = begin(client.server(), address, &key, names, (own, id, life.into_owned()));
            to.put(&heard).map(drop)
        },
    )?;
    heard.map_err(Error::Address)
}

fn begin(
    server: &Arc<Server>,
    address: Address,
    key: &AuthKey,
    names: Names,
    (own, id, life): (Key, u64, OwnedFd),
) -> Result<Address, String> {
    let bound = Listener::builder().authkey(key).bind(address);
    let listener = bound.map_err(|error| format!("{error:?}"))?;
    let address = listener.address().clone();
    let path = address.as_path().map(PathBuf::from);
    let thread = thread::Builder::new().name("listener".into());
    let begun = if path.is_some() {
        thread.spawn(move || welcome(&listener, &names))
    } else {
        let server = Arc::clone(server);
        let ready = || server.expect_remotes(names.link().door().try_clone_to_owned()?, id, life);
        ready().map_err(|error| error.to_string())?;
        thread.spawn(move || greet_all(&listener, &server, (own, id)))
    };
    begun.map_err(|error| error.to_string())?;
    if let Some(path) = path {
        server.listens_at(path);
    }
    Ok(address)
}

/// The next who connects and has the key.
fn accept(listener: &Listener) -> Connection<(), ()> {
    loop {
        match listener.accept() {
            Ok(connection) => return connection,
            // Without descriptors, say, it would come again at once; who was turned away knows.
            Err(_) => thread::sleep(Duration::from_millis(5)),
        }
    }
}

/// Gives everybody who has the key a proxy.
fn welcome(listener: &Listener, names: &Names) {
    loop {
        let connection = accept(listener);
        // Who is gone already needs none.
        let here = Welcome::Here(std::process::id(), names.clone());
        let _ = say(&connection, &VERSION).and_then(|()| say(&connection, &here));
    }
}

/// Serves everybody who has the key, through TCP.
fn greet_all(listener: &Listener, server: &Arc<Server>, names: (Key, u64)) {
    loop {
        let connection = accept(listener);
        let server = Arc::clone(server);
        // Where there is no thread for it, the client sees the end of its connection.
        let _ = thread::Builder::new()
            .name("client".into())
            .spawn(move || greet(server, connection, names));
    }
}

fn greet(server: Arc<Server>, connection: Connection<(), ()>, (key, id): (Key, u64)) {
    // Who says nothing, or something else, is hung up on.
    match hear(&connection) {
        Ok(Hello::Connect) => {
            let there = Welcome::There(std::process::id(), key, id);
            let _ = say(&connection, &VERSION).and_then(|()| say(&connection, &there));
        }
        Ok(Hello::Session) => {
            if say(&connection, &()).is_ok() {
                converse(server, connection, true);
            }
        }
        Ok(Hello::Life(id)) => {
            let _ = server.hold(id, connection);
        }
        Err(_) => {}
    }
}

/// Connects to a server that listens.
pub(crate) fn connect(address: Address, key: &AuthKey) -> Result<(u32, Names)> {
    let place = address.to_string();
    let no = |error: mp_pipe::Error| {
        let why = format!("{error:?}");
        Error::Address(if why.contains(&place) { why } else { format!("{place}: {why}") })
    };
    let (remote, connection) = if address.as_path().is_some() {
        let client = mp_pipe::Client::builder().authkey(key);
        (None, persist(|| client.clone().connect(&address)).map_err(no)?)
    } else {
        let remote = Remote::new(address, key.clone())?;
        let connection = remote.open(&Hello::Connect).map_err(no)?;
        (Some(remote), connection)
    };
    let version: u32 = hear(&connection).map_err(no)?;
    if version != VERSION {
        return Err(Error::Address(format!(
            "the manager's server speaks version {version}, and this program version {VERSION}: build both with \
             the same version of the library"
        )));
    }
    match (receive(&connection).map_err(no)?, remote) {
        (Welcome::Here(pid, names), None) => Ok((pid, names)),
        (Welcome::There(pid, key, id), Some(remote)) => {
            let link = Link::to(key, remote)?;
            Ok((pid, Names::from_handle(link.remote_handle(id)?)))
        }
        _ => Err(Error::Address("the manager's server listens in another way".to_string())),
    }
}

/// Receives a welcome, which may have descriptors.
fn receive(connection: &Connection<(), ()>) -> mp_pipe::Result<Welcome> {
    let message = connection.receiver().recv_message_with(|bytes, fds| {
        mp_core::decode(mp_core::Message::new(bytes.to_vec(), fds))
    })?;
    Ok(message?)
}

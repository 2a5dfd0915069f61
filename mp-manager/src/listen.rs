//! Managers for processes that are no children: reached at an address, and what is published there.

use std::thread;
use std::time::Duration;

use mp_core::{Fd, Message};
use mp_pipe::{Address, AuthKey, Listener};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::server::Client;
use crate::{Dict, Error, Result};

/// A value as it travels, with its descriptors: the server keeps it without knowing what it is.
#[derive(Serialize, Deserialize)]
pub(crate) struct Parcel(Vec<u8>, Vec<Fd>);

impl Parcel {
    pub(crate) fn new<T: Serialize>(value: &T) -> Result<Self> {
        let (bytes, fds) = mp_core::encode(value)?.into_parts();
        Ok(Self(bytes, fds.into_iter().map(Fd::from).collect()))
    }

    pub(crate) fn open<T: DeserializeOwned>(self) -> Result<T> {
        let fds = self.1.into_iter().map(Fd::into_owned).collect();
        Ok(mp_core::decode(Message::new(self.0, fds))?)
    }
}

/// What has been published, by its name.
pub(crate) type Names = Dict<String, Parcel>;

/// What who connects is told: the server's number, and a proxy, which is all it takes.
type Welcome = (u32, Names);

/// An error and what is behind it, as one text.
fn explain(error: &mp_pipe::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

/// Has the server listen; gives the address, or why it cannot.
pub(crate) fn listen(names: &Names, address: &Address, key: &AuthKey) -> Result<Address> {
    if address.as_path().is_none() {
        return Err(Error::NeedsUnixSocket);
    }
    let heard: Result<Address, String> = names.link().run(
        |to| to.put(address)?.put(key)?.put(names).map(drop),
        |from, to| {
            let (address, key): (Address, AuthKey) = (from.get()?, from.get()?);
            let names: Names = from.get()?;
            let bound = Listener::builder().authkey(&key).bind(address);
            let heard = bound.map_err(|error| explain(&error)).and_then(|listener| {
                let address = listener.address().clone();
                let name = thread::Builder::new().name("listener".into());
                let begun = name.spawn(move || welcome(&listener, &names));
                begun.map_err(|error| error.to_string())?;
                if let Some(path) = address.as_path() {
                    Client::current().server().listens_at(path.to_path_buf());
                }
                Ok(address)
            });
            to.put(&heard).map(drop)
        },
    )?;
    heard.map_err(Error::Address)
}

/// Gives everybody who has the key a proxy.
fn welcome(listener: &Listener, names: &Names) {
    loop {
        match listener.accept::<Welcome, ()>() {
            // Who is gone already needs none.
            Ok(connection) => _ = connection.send((std::process::id(), names.clone())),
            // Without descriptors, say, it would come again at once; who was turned away knows.
            Err(_) => thread::sleep(Duration::from_millis(5)),
        }
    }
}

/// Connects to a server that listens.
pub(crate) fn connect(address: Address, key: &AuthKey) -> Result<Welcome> {
    if address.as_path().is_none() {
        return Err(Error::NeedsUnixSocket);
    }
    let connection = mp_pipe::Client::builder().authkey(key).connect::<(), Welcome>(address);
    let welcome = connection.and_then(|connection| connection.recv());
    let (pid, names) = welcome.map_err(|error| Error::Address(explain(&error)))?;
    // That it is of the same program is checked at the first call.
    names.len()?;
    Ok((pid, names))
}

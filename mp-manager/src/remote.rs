//! Servers that are reached through TCP, which carries no descriptors.
//!
//! What a message brings in descriptors are proxies, each with the server's door and the object's lifeline. In place
//! of them go numbers: 0 for the door, and the object's for a lifeline. Who receives them puts in what does the same
//! there:
//!
//! - for a client, the door is a paper, a file in memory with the address and the key, and the lifeline a connection of
//!   its own, the end of which, however that comes about, ends this share in the object. Both are descriptors, which
//!   go on to other processes of the client's machine as those of any proxy do;
//! - the server has the real ones, and keeps a copy of an object's for as long as a client has a connection for it.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::thread;
use std::time::Duration;

use mp_core::sys::mem;
use mp_core::{Encoder, Message};
use mp_pipe::{Address, AuthKey, Connection, Sender};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// How long a connection may take to come about, and each answer before the first call.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// The door among the numbers of a message.
const DOOR: u64 = 0;

/// What a connection is for, said first.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Hello {
    /// To learn what there is.
    Connect,
    /// For the calls of one thread.
    Session,
    /// To keep that object.
    Life(u64),
}

/// Connects; some times, where the listener hangs up, as it does on some of very many.
pub(crate) fn persist(
    connect: impl Fn() -> mp_pipe::Result<Connection<(), ()>>,
) -> mp_pipe::Result<Connection<(), ()>> {
    for pause in [10, 50, 250] {
        match connect() {
            Err(mp_pipe::Error::Disconnected) => thread::sleep(Duration::from_millis(pause)),
            result => return result,
        }
    }
    connect()
}

/// The numbers in front of a message, and the message.
pub(crate) fn split(bytes: &[u8]) -> Option<(Vec<u64>, &[u8])> {
    let (count, rest) = bytes.split_first_chunk()?;
    let len = usize::try_from(u32::from_le_bytes(*count)).ok()?.checked_mul(8)?;
    let (numbers, rest) = rest.split_at_checked(len)?;
    let (numbers, _) = numbers.as_chunks();
    Some((numbers.iter().map(|number| u64::from_le_bytes(*number)).collect(), rest))
}

/// Sends a message behind the numbers that stand for its descriptors.
pub(crate) fn send(sender: &Sender<()>, numbers: &[u64], bytes: &[u8]) -> mp_pipe::Result<()> {
    let front = 4 + 8 * numbers.len();
    sender.send_with(front + bytes.len(), |place| {
        let (head, body) = place.split_at_mut(front);
        head[..4].copy_from_slice(&(numbers.len() as u32).to_le_bytes());
        for (place, number) in head[4..].chunks_exact_mut(8).zip(numbers) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        body.copy_from_slice(bytes);
    })
}

/// Sends a value before the first call.
pub(crate) fn say<T: Serialize>(connection: &Connection<(), ()>, value: &T) -> mp_pipe::Result<()> {
    let mut encoder = Encoder::new();
    encoder.put(value)?;
    connection.sender().send_message(&encoder.finish())
}

/// Receives what [`say`] sent.
pub(crate) fn hear<T: DeserializeOwned>(connection: &Connection<(), ()>) -> mp_pipe::Result<T> {
    let bytes = connection.recv_bytes_timeout(PATIENCE)?;
    Ok(mp_core::decode(Message::new(bytes, Vec::new()))?)
}

/// What tells a pipe, a socket or a file from all others of this machine, whichever descriptor it has.
pub(crate) type Identity = (u64, u64);

pub(crate) fn identity(fd: BorrowedFd<'_>) -> io::Result<Identity> {
    let data = File::from(fd.try_clone_to_owned()?).metadata()?;
    Ok((data.dev(), data.ino()))
}

fn stranger() -> mp_core::Error {
    mp_core::Error::Encode(
        "through TCP go values and proxies of that manager, and nothing else that has descriptors"
            .to_string(),
    )
}

/// A client's way to a server.
#[derive(Debug)]
pub(crate) struct Remote {
    address: Address,
    key: AuthKey,
    /// The file that says so.
    paper: OwnedFd,
    paper_identity: Identity,
}

impl Remote {
    pub(crate) fn new(address: Address, key: AuthKey) -> Result<Self> {
        let message = mp_core::encode(&(&address, &key))?;
        let paper = mem::memfd_of(c"manager", &[message.bytes()])?;
        mem::seal(paper.as_fd(), mem::SEAL_ALL)?;
        let paper_identity = identity(paper.as_fd())?;
        Ok(Self { address, key, paper, paper_identity })
    }

    /// What a door is, if it is a paper; else it comes back.
    pub(crate) fn read(door: OwnedFd) -> Result<Self, OwnedFd> {
        let file = File::from(door);
        match Self::text(&file) {
            Some((address, key, paper_identity)) => {
                Ok(Self { address, key, paper: file.into(), paper_identity })
            }
            None => Err(file.into()),
        }
    }

    fn text(file: &File) -> Option<(Address, AuthKey, Identity)> {
        let data = file.metadata().ok().filter(|data| data.is_file() && data.len() < 1 << 16)?;
        let mut bytes = vec![0; data.len() as usize];
        file.read_exact_at(&mut bytes, 0).ok()?;
        let (address, key) = mp_core::decode(Message::new(bytes, Vec::new())).ok()?;
        Some((address, key, (data.dev(), data.ino())))
    }

    pub(crate) fn paper(&self) -> BorrowedFd<'_> {
        self.paper.as_fd()
    }

    /// Makes a connection and says what it is for.
    pub(crate) fn open(&self, hello: &Hello) -> mp_pipe::Result<Connection<(), ()>> {
        let client = mp_pipe::Client::builder().authkey(&self.key).timeout(PATIENCE);
        let connection = persist(|| client.clone().connect(&self.address))?;
        say(&connection, hello)?;
        Ok(connection)
    }

    /// As [`open`](Self::open), for a server that was there before.
    fn open_again(&self, hello: &Hello) -> Result<Connection<(), ()>> {
        self.open(hello).map_err(|error| match error {
            mp_pipe::Error::Connect { .. } | mp_pipe::Error::Disconnected => Error::ServerDied,
            mp_pipe::Error::Io(error) => Error::Io(error),
            other => Error::Address(format!("{other:?}")),
        })
    }

    /// Makes a connection for calls.
    pub(crate) fn session(&self) -> Result<Connection<(), ()>> {
        let connection = self.open_again(&Hello::Session)?;
        match hear::<()>(&connection) {
            Ok(()) => Ok(connection),
            Err(mp_pipe::Error::Disconnected) => {
                // If it still lets others in, it has no thread left for this one.
                Err(self.open_again(&Hello::Connect).err().unwrap_or(Error::Refused))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// A share in an object, as a descriptor.
    pub(crate) fn life(&self, id: u64) -> Result<OwnedFd> {
        let connection = self.open_again(&Hello::Life(id))?;
        match hear::<bool>(&connection) {
            Ok(true) => {}
            Ok(false) => return Err(Error::NoObject),
            Err(mp_pipe::Error::Disconnected) => return Err(Error::ServerDied),
            Err(error) => return Err(error.into()),
        }
        // What travels of a connection through TCP is its socket, and to close that is up to who has it then.
        let (_, fds) = mp_core::encode(&connection)?.into_parts();
        fds.into_iter().next().ok_or(Error::NoObject)
    }

    /// The numbers for a message's descriptors.
    pub(crate) fn numbers(
        &self,
        fds: &[OwnedFd],
        lives: &HashMap<Identity, u64>,
    ) -> mp_core::Result<Vec<u64>> {
        let number = |fd: &OwnedFd| {
            let identity = identity(fd.as_fd())?;
            if identity == self.paper_identity {
                return Ok(DOOR);
            }
            lives.get(&identity).copied().ok_or_else(stranger)
        };
        fds.iter().map(number).collect()
    }

    /// Descriptors for the numbers of a message.
    pub(crate) fn descriptors(
        &self,
        numbers: &[u64],
        mut have: impl FnMut(u64) -> Option<OwnedFd>,
    ) -> Result<Vec<OwnedFd>> {
        let descriptor = |&number: &u64| match number {
            DOOR => Ok(self.paper.try_clone()?),
            id => match have(id) {
                Some(life) => Ok(life),
                None => self.life(id),
            },
        };
        numbers.iter().map(descriptor).collect()
    }
}

/// What a server knows of its clients through TCP.
#[derive(Debug)]
pub(crate) struct Remotes {
    door: OwnedFd,
    door_identity: Identity,
    /// The objects, by their lifelines.
    objects: HashMap<Identity, u64>,
    /// Those that clients have.
    leases: HashMap<u64, Lease>,
    /// The connections that they have them by.
    holders: HashMap<u64, (u64, Connection<(), ()>)>,
    next: u64,
}

#[derive(Debug)]
struct Lease {
    life: OwnedFd,
    count: usize,
}

/// In the numbers of holders, to tell them from objects.
pub(crate) const HOLDER: u64 = 1 << 63;

impl Remotes {
    pub(crate) fn new(door: OwnedFd) -> io::Result<Self> {
        let door_identity = identity(door.as_fd())?;
        Ok(Self {
            door,
            door_identity,
            objects: HashMap::new(),
            leases: HashMap::new(),
            holders: HashMap::new(),
            next: HOLDER,
        })
    }

    /// Remembers an object by its lifeline; gives what to [forget](Self::forget) it by.
    pub(crate) fn know(&mut self, lifeline: BorrowedFd<'_>, id: u64) -> io::Result<Identity> {
        let identity = identity(lifeline)?;
        self.objects.insert(identity, id);
        Ok(identity)
    }

    pub(crate) fn forget(&mut self, identity: Identity) {
        self.objects.remove(&identity);
    }

    /// The numbers for a result's descriptors, of which each object stays until it is [let go](Self::let_go).
    pub(crate) fn numbers(&mut self, fds: Vec<OwnedFd>) -> mp_core::Result<Vec<u64>> {
        let mut numbers = Vec::with_capacity(fds.len());
        for fd in &fds {
            let identity = identity(fd.as_fd())?;
            numbers.push(if identity == self.door_identity {
                DOOR
            } else {
                *self.objects.get(&identity).ok_or_else(stranger)?
            });
        }
        for (fd, &number) in fds.into_iter().zip(&numbers) {
            if number != DOOR {
                self.lend(number, fd);
            }
        }
        Ok(numbers)
    }

    /// Keeps an object by its lifeline.
    pub(crate) fn lend(&mut self, id: u64, life: OwnedFd) {
        self.leases.entry(id).or_insert(Lease { life, count: 0 }).count += 1;
    }

    /// The objects of a result are with the client, or never will be.
    pub(crate) fn let_go(&mut self, numbers: &[u64]) {
        for id in numbers {
            if let Some(lease) = self.leases.get_mut(id) {
                lease.count -= 1;
                if lease.count == 0 {
                    self.leases.remove(id);
                }
            }
        }
    }

    /// Descriptors for the numbers of a client's call; `None` where it has no such objects.
    pub(crate) fn descriptors(&self, numbers: &[u64]) -> io::Result<Option<Vec<OwnedFd>>> {
        let mut fds = Vec::with_capacity(numbers.len());
        for number in numbers {
            let fd = match *number {
                DOOR => Some(&self.door),
                id => self.leases.get(&id).map(|lease| &lease.life),
            };
            match fd {
                Some(fd) => fds.push(fd.try_clone()?),
                None => return Ok(None),
            }
        }
        Ok(Some(fds))
    }

    /// A client has an object for as long as this connection: `watch` is told its number and what to wait for.
    ///
    /// The client is told whether there is such an object.
    pub(crate) fn hold(
        &mut self,
        id: u64,
        connection: Connection<(), ()>,
        watch: impl FnOnce(BorrowedFd<'_>, u64) -> io::Result<()>,
    ) -> io::Result<()> {
        let Some(lease) = self.leases.get_mut(&id) else {
            let _ = say(&connection, &false);
            return Ok(());
        };
        let holder = self.next;
        self.next += 1;
        watch(connection.as_fd(), holder)?;
        lease.count += 1;
        let _ = say(&connection, &true);
        self.holders.insert(holder, (id, connection));
        Ok(())
    }

    /// That connection has ended.
    pub(crate) fn end(&mut self, holder: u64) {
        if let Some((id, _connection)) = self.holders.remove(&holder) {
            self.let_go(&[id]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        // A pipe for each.
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn numbers_and_message_come_back(numbers: Vec<u64>, body: Vec<u8>) {
            let (receiver, sender) = mp_pipe::simplex::<()>().unwrap();
            send(&sender, &numbers, &body).unwrap();
            let bytes = receiver.recv_bytes().unwrap();
            prop_assert_eq!(split(&bytes), Some((numbers, &body[..])));
        }

        #[test]
        fn any_bytes_are_split_or_not(bytes: Vec<u8>) {
            let _ = split(&bytes);
        }
    }

    #[test]
    fn a_paper_is_read_and_nothing_else_is() {
        let address: Address = "localhost:7".parse().unwrap();
        let remote = Remote::new(address.clone(), AuthKey::new(b"key").unwrap()).unwrap();
        let again = Remote::read(remote.paper().try_clone_to_owned().unwrap()).unwrap();
        assert_eq!((again.address, again.key.as_bytes()), (address, &b"key"[..]));
        assert_eq!(again.paper_identity, remote.paper_identity);
        let (socket, _other) = mp_core::sys::socket::pair().unwrap();
        assert!(Remote::read(socket).is_err());
        assert!(Remote::read(File::open("/dev/null").unwrap().into()).is_err());
        assert!(Remote::read(File::open("/proc/self/exe").unwrap().into()).is_err());
    }

    #[test]
    fn objects_stay_for_as_long_as_they_are_lent() {
        let (door, _other) = mp_core::sys::socket::pair().unwrap();
        let mut remotes = Remotes::new(door).unwrap();
        let (reader, writer) = io::pipe().unwrap();
        let mark = remotes.know(reader.as_fd(), 7).unwrap();
        let fds = || vec![remotes_door(&remotes), writer.try_clone().unwrap().into()];
        fn remotes_door(remotes: &Remotes) -> OwnedFd {
            remotes.door.try_clone().unwrap()
        }
        let fds = fds();
        let numbers = remotes.numbers(fds).unwrap();
        assert_eq!(numbers, [0, 7]);
        assert_eq!(remotes.descriptors(&numbers).unwrap().map(|fds| fds.len()), Some(2));
        remotes.let_go(&[7]);
        assert!(remotes.descriptors(&numbers).unwrap().is_none());
        let null = mp_core::sys::fd::null().unwrap();
        assert!(remotes.numbers(vec![null]).is_err());
        remotes.forget(mark);
        assert!(remotes.numbers(vec![writer.into()]).is_err());
    }
}

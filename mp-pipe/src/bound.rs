//! Sockets that listen at an address, and the file that one at a path is.

use std::env;
use std::fs::{self, DirBuilder, File, Metadata};
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, ToSocketAddrs};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use mp_core::sys::{net, random};
use mp_core::{Deadline, heirs};

use crate::{Address, Error, Result};

/// What a listener listens with.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) socket: OwnedFd,
    pub(crate) address: Address,
    /// It is a Unix socket, which keeps packets whole.
    pub(crate) packets: bool,
    pub(crate) file: Option<SocketFile>,
}

/// Whether only this machine reaches it.
pub(crate) fn is_local(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

/// The numbers that host and port stand for.
pub(crate) fn resolve(address: &Address, host: &str, port: u16) -> Result<Vec<SocketAddr>> {
    let found = (host, port).to_socket_addrs().map(Iterator::collect::<Vec<_>>);
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => Err(Address::invalid(address, "its host is not known")),
    }
}

/// Without a key, nothing that other machines reach.
pub(crate) fn check_key(address: &Address, ip: IpAddr, has_key: bool) -> Result<()> {
    if has_key || is_local(ip) {
        Ok(())
    } else {
        Err(Error::KeyNeeded { address: address.to_string() })
    }
}

pub(crate) fn bind(address: Address, backlog: u32, has_key: bool) -> Result<Bound> {
    address.check()?;
    match &address {
        Address::Unix(path) => {
            let (socket, file) = bind_path(path, backlog).map_err(|error| said(&address, error))?;
            Ok(Bound { socket, address, packets: true, file: Some(file) })
        }
        Address::Tcp(host, port) => {
            let mut result = Err(Error::TimedOut);
            for number in resolve(&address, host, *port)? {
                check_key(&address, number.ip(), has_key)?;
                result = bind_tcp(number, backlog).map_err(|error| said(&address, error));
                if result.is_ok() {
                    break;
                }
            }
            result
        }
    }
}

fn said(address: &Address, error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::AddrInUse => Error::AddressInUse { address: address.to_string() },
        io::ErrorKind::AddrNotAvailable => {
            Address::invalid(address, "this machine has no such address")
        }
        io::ErrorKind::NotFound => Address::invalid(address, "its directory is not there"),
        io::ErrorKind::NotADirectory => {
            Address::invalid(address, "a file is where its directory should be")
        }
        io::ErrorKind::PermissionDenied => {
            Address::invalid(address, "this user may not listen there")
        }
        io::ErrorKind::ReadOnlyFilesystem => {
            Address::invalid(address, "nothing can be written there")
        }
        _ => Error::Io(error),
    }
}

fn bind_tcp(number: SocketAddr, backlog: u32) -> io::Result<Bound> {
    let listener = TcpListener::bind(number)?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?.into();
    net::listen(listener.as_fd(), backlog)?;
    Ok(Bound { socket: listener.into(), address, packets: false, file: None })
}

/// Binds a path in a new directory that only this user may enter.
pub(crate) fn bind_private(backlog: u32) -> Result<Bound> {
    bind_private_in(&env::temp_dir(), backlog)
}

fn bind_private_in(place: &Path, backlog: u32) -> Result<Bound> {
    loop {
        let mut number = [0; 8];
        random::fill(&mut number)?;
        let name = format!("mp-{:016x}", u64::from_ne_bytes(number));
        let mut directory = place.join(&name);
        if directory.as_os_str().len() + "/listener".len() > net::MAX_PATH {
            directory = Path::new("/tmp").join(&name);
        }
        match DirBuilder::new().mode(0o700).create(&directory) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
            // Without a word of the directory, nobody would think of TMPDIR.
            Err(error) => return Err(said(&directory.into(), error)),
        }
        let bound = bind(directory.join("listener").into(), backlog, false);
        return match bound {
            Ok(mut bound) => {
                if let Some(file) = &mut bound.file {
                    file.directory = Some(directory);
                }
                Ok(bound)
            }
            Err(error) => {
                let _ = fs::remove_dir(directory);
                Err(error)
            }
        };
    }
}

/// Which file it is, whatever its name.
fn identity(file: &Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}

/// The file of a socket that this process has bound, and removes.
#[derive(Debug)]
pub(crate) struct SocketFile {
    /// From the root, as the process may go elsewhere.
    path: PathBuf,
    identity: (u64, u64),
    /// Made for it alone.
    directory: Option<PathBuf>,
    /// A process forked from this one removes nothing, unless it was captured for that one.
    owner: u32,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if !heirs::is_ours(self.owner) {
            return;
        }
        // What has the name meanwhile but is another file stays.
        if fs::symlink_metadata(&self.path).is_ok_and(|file| identity(&file) == self.identity) {
            let _ = fs::remove_file(&self.path);
        }
        if let Some(directory) = &self.directory {
            let _ = fs::remove_dir(directory);
        }
    }
}

/// Binds `path`, in the place of the socket of a listener that is no more.
///
/// Whether one is, and putting another in its place, is two steps, and two processes that take them at the same
/// time must not remove what the other has just made. So whoever binds holds a lock on the directory, and a
/// socket counts as left behind only if it refuses twice: other programs too bind first and listen then.
fn bind_path(path: &Path, backlog: u32) -> io::Result<(OwnedFd, SocketFile)> {
    let lock = lock_directory(path);
    let socket = match net::bind_packets(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            if lock.is_none() || !is_left_behind(path) {
                return Err(error);
            }
            fs::remove_file(path)?;
            net::bind_packets(path)?
        }
        result => result?,
    };
    let file = SocketFile {
        identity: identity(&fs::symlink_metadata(path)?),
        path: std::path::absolute(path)?,
        directory: None,
        owner: std::process::id(),
    };
    net::listen(socket.as_fd(), backlog)?;
    // For this, one socket is as good as another.
    let socket = UnixListener::from(socket);
    socket.set_nonblocking(true)?;
    Ok((socket.into(), file))
}

/// Locks the directory of `path` for as long as the file given is open; `None` where somebody else has had it
/// for a second, or it cannot be read.
fn lock_directory(path: &Path) -> Option<File> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = File::open(parent.unwrap_or(Path::new("."))).ok()?;
    for _ in 0..500 {
        match directory.try_lock() {
            Ok(()) => return Some(directory),
            Err(fs::TryLockError::WouldBlock) => thread::sleep(Duration::from_millis(2)),
            Err(fs::TryLockError::Error(_)) => return None,
        }
    }
    None
}

/// Whether `path` is a socket of this user at which nobody listens.
fn is_left_behind(path: &Path) -> bool {
    let refuses = || {
        let file = fs::symlink_metadata(path).ok()?;
        if !file.file_type().is_socket() || file.uid() != net::effective_user() {
            return None;
        }
        let error =
            net::connect_packets(path, Deadline::after(Duration::from_millis(100))).err()?;
        (error.kind() == io::ErrorKind::ConnectionRefused).then(|| identity(&file))
    };
    let first = refuses();
    first.is_some() && {
        thread::sleep(Duration::from_millis(10));
        refuses() == first
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;

    struct Scratch(PathBuf);

    impl Scratch {
        fn new() -> Self {
            let mut number = [0; 8];
            random::fill(&mut number).unwrap();
            let name = format!("mp-test-{:016x}", u64::from_ne_bytes(number));
            let directory = env::temp_dir().join(name);
            fs::create_dir(&directory).unwrap();
            Self(directory)
        }

        fn path(&self) -> PathBuf {
            self.0.join("socket")
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    fn bind_there(path: &Path) -> Result<Bound> {
        bind(path.into(), 5, false)
    }

    #[test]
    fn a_path_is_taken_while_somebody_listens_and_removed_by_its_owner() {
        let scratch = Scratch::new();
        let path = scratch.path();
        let bound = bind_there(&path).unwrap();
        assert!(matches!(bind_there(&path), Err(Error::AddressInUse { .. })));
        drop(bound);
        assert!(!path.exists());
    }

    #[test]
    fn a_socket_left_behind_is_replaced_and_other_files_never() {
        let scratch = Scratch::new();
        let path = scratch.path();
        let mut bound = bind_there(&path).unwrap();
        bound.file.take().map(std::mem::forget).unwrap();
        drop(bound);
        assert!(path.exists());
        drop(bind_there(&path).unwrap());

        // Of another kind, and dead or alive.
        let other = UnixListener::bind(&path).unwrap();
        assert!(matches!(bind_there(&path), Err(Error::AddressInUse { .. })));
        drop(other);
        drop(bind_there(&path).unwrap());

        fs::write(&path, "text").unwrap();
        assert!(matches!(bind_there(&path), Err(Error::AddressInUse { .. })));
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("elsewhere", &path).unwrap();
        assert!(matches!(bind_there(&path), Err(Error::AddressInUse { .. })));
        fs::remove_file(&path).unwrap();
        let nowhere = bind_there(&path.join("not/there")).unwrap_err();
        assert!(nowhere.to_string().contains("directory"), "{nowhere}");
        fs::write(&path, "text").unwrap();
        let below_a_file = bind_there(&path.join("socket")).unwrap_err();
        assert!(below_a_file.to_string().contains("a file"), "{below_a_file}");
        // Nobody may, whoever runs this.
        let refused = bind_there(Path::new("/sys/socket")).unwrap_err();
        assert!(refused.to_string().contains("/sys/socket"), "{refused}");
    }

    #[test]
    fn a_file_that_took_the_name_stays() {
        let scratch = Scratch::new();
        let path = scratch.path();
        let bound = bind_there(&path).unwrap();
        fs::rename(&path, scratch.0.join("moved")).unwrap();
        fs::write(&path, "text").unwrap();
        drop(bound);
        assert!(path.exists());
    }

    #[test]
    fn a_file_whose_listener_goes_on_in_a_child_stays() {
        let scratch = Scratch::new();
        let path = scratch.path();
        heirs::hand_over(bind_there(&path).unwrap());
        assert!(path.exists());
    }

    #[test]
    fn of_many_who_replace_a_dead_socket_one_wins() {
        let scratch = Scratch::new();
        for _ in 0..20 {
            let path = scratch.path();
            drop(UnixListener::bind(&path).unwrap());
            let start = Barrier::new(4);
            let bind = || {
                start.wait();
                bind_there(&path)
            };
            let bound: Vec<_> = thread::scope(|scope| {
                let threads: Vec<_> = (0..4).map(|_| scope.spawn(bind)).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            assert_eq!(bound.iter().filter(|bound| bound.is_ok()).count(), 1);
            net::connect_packets(&path, Deadline::NEVER).unwrap();
        }
    }

    #[test]
    fn a_directory_locked_by_another_only_costs_the_replacing() {
        let scratch = Scratch::new();
        let lock = File::open(&scratch.0).unwrap();
        lock.lock().unwrap();
        drop(bind_there(&scratch.path()).unwrap());
        drop(UnixListener::bind(scratch.path()).unwrap());
        assert!(matches!(bind_there(&scratch.path()), Err(Error::AddressInUse { .. })));
    }

    #[test]
    fn a_private_path_is_in_a_directory_of_its_own() {
        let bound = bind_private(5).unwrap();
        let path = bound.address.as_path().unwrap().to_path_buf();
        let directory = path.parent().unwrap().to_path_buf();
        assert_eq!(fs::metadata(&directory).unwrap().mode() & 0o777, 0o700);
        drop(bound);
        assert!(!directory.exists());

        for place in ["/no/such/place", "/sys"] {
            let refused = bind_private_in(Path::new(place), 5).unwrap_err();
            assert!(refused.to_string().contains(place), "{refused}");
        }
    }

    #[test]
    fn without_a_key_only_this_machine_is_listened_to() {
        let bind_at = |text: &str, key| bind(text.parse().unwrap(), 5, key);
        for text in ["0.0.0.0:0", "[::]:0"] {
            assert!(matches!(bind_at(text, false), Err(Error::KeyNeeded { .. })), "{text}");
        }
        assert!(bind_at("0.0.0.0:0", true).is_ok());
        let first = bind_at("127.0.0.1:0", false).unwrap();
        assert_ne!(first.address.port(), Some(0));
        let again = bind_at(&first.address.to_string(), false);
        assert!(matches!(again, Err(Error::AddressInUse { .. })));
        let elsewhere = bind_at("192.0.2.1:0", true).unwrap_err();
        assert!(elsewhere.to_string().contains("no such address"), "{elsewhere}");
        assert!(is_local("::ffff:127.0.0.1".parse().unwrap()));
        assert!(!is_local("::ffff:10.0.0.1".parse().unwrap()));
    }
}

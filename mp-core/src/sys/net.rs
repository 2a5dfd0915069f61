//! Sockets that have an address: listening, accepting, connecting, and streams of bytes.
//!
//! What std offers for TCP is taken from there. Here is what it lacks: Unix sockets that keep packets whole,
//! who is at the other end, and reading and writing that neither waits nor raises a signal.
#![expect(
    unsafe_code,
    reason = "socket, bind, connect, accept4, socket options, sendmsg, recv, ioctl"
)]

use std::fs::{File, Permissions};
use std::io::{self, IoSlice};
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use crate::Deadline;
use crate::deadline::timespec;
use crate::sys::{check, retry};

/// How many bytes the path of a Unix socket can have (unix(7)).
pub const MAX_PATH: usize = 107;

fn unix_address(path: &Path) -> io::Result<libc::sockaddr_un> {
    let bytes = path.as_os_str().as_bytes();
    if bytes.is_empty() || bytes.len() > MAX_PATH || bytes.contains(&0) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: a sockaddr_un of zeros is one with an empty path.
    let mut address: libc::sockaddr_un = unsafe { mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    for (to, &from) in address.sun_path.iter_mut().zip(bytes) {
        *to = from as libc::c_char;
    }
    Ok(address)
}

fn packet_socket() -> io::Result<OwnedFd> {
    // SAFETY: takes numbers only.
    let fd = check(unsafe {
        libc::socket(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0)
    })?;
    // SAFETY: the call just made this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Makes a Unix socket that keeps packets whole and gives it the name `path`, which only this user can
/// connect to. It refuses until it [listens](listen). unix(7).
///
/// # Errors
///
/// `EADDRINUSE` where there is such a file, `InvalidInput` where the path is empty or has more than
/// [`MAX_PATH`] bytes or a NUL; what open(2) says of its directories.
pub fn bind_packets(path: &Path) -> io::Result<OwnedFd> {
    let address = unix_address(path)?;
    // The file that bind makes has the mode of the socket, so nobody finds it more open than this.
    let socket = File::from(packet_socket()?);
    socket.set_permissions(Permissions::from_mode(0o600))?;
    let socket = OwnedFd::from(socket);
    let size = size_of::<libc::sockaddr_un>() as libc::socklen_t;
    // SAFETY: the pointer is to a local of that size (bind(2)).
    check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size) })?;
    Ok(socket)
}

/// Lets up to about `backlog` clients wait to be [accepted](accept). Can be said again. listen(2).
///
/// # Errors
///
/// `EADDRINUSE`, `EOPNOTSUPP`.
pub fn listen(socket: BorrowedFd<'_>, backlog: u32) -> io::Result<()> {
    let backlog = libc::c_int::try_from(backlog).unwrap_or(libc::c_int::MAX);
    // SAFETY: takes numbers only.
    check(unsafe { libc::listen(socket.as_raw_fd(), backlog) })?;
    Ok(())
}

/// Takes one client that waits at `listener`; waits for one unless the listener is non-blocking. The new
/// socket is non-blocking. accept4(2).
///
/// # Errors
///
/// `WouldBlock`; `ECONNABORTED` where the client has left, `EMFILE`, `ENFILE`, `ENOMEM`.
pub fn accept(listener: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    let null = std::ptr::null_mut();
    let fd = retry(|| {
        // SAFETY: the address is not asked for.
        check(unsafe { libc::accept4(listener.as_raw_fd(), null, null.cast(), flags) })
    })?;
    // SAFETY: the call just made this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Connects to the Unix socket at `path`, which keeps packets whole, waiting until the deadline while its
/// backlog is full.
///
/// # Errors
///
/// `ECONNREFUSED` where nobody listens there, `ENOENT`, `EPROTOTYPE` where it is another kind of socket,
/// `EACCES`; `TimedOut`.
pub fn connect_packets(path: &Path, deadline: Deadline) -> io::Result<OwnedFd> {
    let address = unix_address(path)?;
    let socket = packet_socket()?;
    let size = size_of::<libc::sockaddr_un>() as libc::socklen_t;
    loop {
        if let Some(left) = deadline.remaining() {
            // Zero would be for ever.
            limit_sending(&socket, left.max(Duration::from_micros(1)))?;
        }
        // SAFETY: the pointer is to a local of that size (connect(2)).
        let result =
            check(unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), size) });
        match result {
            Ok(_) => break,
            Err(error) => match error.raw_os_error() {
                Some(libc::EINTR) => {}
                Some(libc::EAGAIN) if deadline.has_passed() => {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                Some(libc::EAGAIN) => {}
                _ => return Err(error),
            },
        }
    }
    if deadline != Deadline::NEVER {
        limit_sending(&socket, Duration::ZERO)?;
    }
    Ok(socket)
}

/// How long a connect or a send may wait; zero: for ever. socket(7), `SO_SNDTIMEO`.
fn limit_sending(socket: &OwnedFd, limit: Duration) -> io::Result<()> {
    let limit = timespec(limit);
    let limit = libc::timeval {
        tv_sec: limit.tv_sec,
        tv_usec: (limit.tv_nsec / 1000) as libc::suseconds_t,
    };
    set_option(socket, libc::SOL_SOCKET, libc::SO_SNDTIMEO, limit)
}

fn set_option<T: Copy>(
    socket: &OwnedFd,
    level: libc::c_int,
    name: libc::c_int,
    value: T,
) -> io::Result<()> {
    let size = size_of::<T>() as libc::socklen_t;
    // SAFETY: the pointer is to a value of that size, which the call only reads (setsockopt(2)).
    check(unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), size)
    })?;
    Ok(())
}

/// Has the kernel ask a TCP peer that has been silent for `idle` whether it is still there, every
/// `interval`, and give the connection up after `count` questions without answer. tcp(7).
///
/// # Errors
///
/// Where it is no TCP socket.
pub fn keep_alive(
    socket: &OwnedFd,
    idle: Duration,
    interval: Duration,
    count: u32,
) -> io::Result<()> {
    let seconds = |duration: Duration| duration.as_secs().clamp(1, 32_767) as libc::c_int;
    set_option(socket, libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, seconds(idle))?;
    set_option(socket, libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, seconds(interval))?;
    set_option(socket, libc::IPPROTO_TCP, libc::TCP_KEEPCNT, count.clamp(1, 127) as libc::c_int)?;
    set_option(socket, libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1 as libc::c_int)
}

/// Who is at the other end of a Unix socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// The process that connected or listened.
    pub pid: u32,
    /// Its effective user then.
    pub uid: u32,
}

/// Who connected to, or listens at, the other end of a Unix socket. unix(7), `SO_PEERCRED`.
///
/// Of a [pair](crate::sys::socket::pair) it names who made it.
///
/// # Errors
///
/// Where it is no such socket.
pub fn peer_credentials(socket: BorrowedFd<'_>) -> io::Result<Credentials> {
    let mut found = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut size = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the pointers are to a ucred and its size (getsockopt(2)).
    check(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut found).cast(),
            &raw mut size,
        )
    })?;
    Ok(Credentials { pid: found.pid.cast_unsigned(), uid: found.uid })
}

/// The effective user of this process. geteuid(2).
#[must_use]
pub fn effective_user() -> u32 {
    // SAFETY: takes nothing and cannot fail.
    unsafe { libc::geteuid() }
}

/// Sends as much of `parts` over a stream as goes without waiting; says how many bytes that were.
///
/// Never raises `SIGPIPE`. sendmsg(2).
///
/// # Errors
///
/// `WouldBlock` where nothing goes; `EPIPE`, `ECONNRESET` where the other end is closed.
pub fn send_some(socket: BorrowedFd<'_>, parts: &[IoSlice<'_>]) -> io::Result<usize> {
    // SAFETY: a msghdr of zeros is one without name, parts and control message.
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    // IoSlice has the layout of iovec (std::io::IoSlice); sendmsg only reads the parts.
    header.msg_iov = parts.as_ptr().cast_mut().cast();
    header.msg_iovlen = parts.len() as _;
    let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
    retry(|| {
        // SAFETY: the header points to live parts.
        let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const header, flags) };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    })
}

/// Receives what a stream has into `buffer`, without waiting. 0 is the end. recv(2).
///
/// # Errors
///
/// `WouldBlock` where there is nothing; `ECONNRESET`, `ETIMEDOUT` and others where the peer is gone.
pub fn receive_some(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    receive(socket, buffer.as_mut_ptr(), buffer.len(), 0)
}

/// Looks at the next byte of a stream without taking it or waiting for it; `None` is the end.
///
/// # Errors
///
/// As [`receive_some`].
pub fn peek_byte(socket: BorrowedFd<'_>) -> io::Result<Option<u8>> {
    let mut byte = 0;
    let len = receive(socket, &raw mut byte, 1, libc::MSG_PEEK)?;
    Ok((len == 1).then_some(byte))
}

/// Appends up to `limit` bytes of what a stream has to `to`, without waiting; says how many. 0 is the end.
///
/// # Errors
///
/// As [`receive_some`]; `OutOfMemory` where `to` cannot grow by `limit`.
pub fn receive_append(socket: BorrowedFd<'_>, to: &mut Vec<u8>, limit: usize) -> io::Result<usize> {
    to.try_reserve(limit).map_err(|_| io::ErrorKind::OutOfMemory)?;
    let room = &mut to.spare_capacity_mut()[..limit];
    let received = receive(socket, room.as_mut_ptr().cast(), room.len(), 0)?.min(limit);
    let len = to.len() + received;
    // SAFETY: the capacity is there, and the kernel has written the bytes up to there.
    unsafe { to.set_len(len) };
    Ok(received)
}

fn receive(
    socket: BorrowedFd<'_>,
    buffer: *mut u8,
    len: usize,
    flags: libc::c_int,
) -> io::Result<usize> {
    let flags = flags | libc::MSG_DONTWAIT;
    retry(|| {
        // SAFETY: the callers give the pointer and length of a buffer of theirs (recv(2)).
        let len = unsafe { libc::recv(socket.as_raw_fd(), buffer.cast(), len, flags) };
        usize::try_from(len).map_err(|_| io::Error::last_os_error())
    })
}

/// Throws away up to `limit` bytes of what a TCP stream has, without waiting. tcp(7), `MSG_TRUNC`.
///
/// # Errors
///
/// As [`receive_some`].
pub fn discard(socket: BorrowedFd<'_>, limit: usize) -> io::Result<usize> {
    receive(socket, std::ptr::null_mut(), limit, libc::MSG_TRUNC)
}

/// How many bytes of what was sent the other side's kernel has not acknowledged. tcp(7), `SIOCOUTQ`, which is `TIOCOUTQ`.
///
/// # Errors
///
/// Where the kernel refuses it.
pub fn unacknowledged(socket: BorrowedFd<'_>) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the call writes an int, to a local that is one (tcp(7)).
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) })?;
    Ok(usize::try_from(bytes).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::{fd, random, socket};
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::os::unix::fs::MetadataExt;
    use std::os::unix::net::UnixStream;

    fn path() -> std::path::PathBuf {
        let mut bytes = [0; 8];
        random::fill(&mut bytes).unwrap();
        std::env::temp_dir().join(format!("mp-net-{:016x}", u64::from_ne_bytes(bytes)))
    }

    #[test]
    fn packets_go_to_whoever_listens_at_the_path() {
        let path = path();
        let listener = bind_packets(&path).unwrap();
        let refused = connect_packets(&path, Deadline::NEVER).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        listen(listener.as_fd(), 5).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(bind_packets(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);

        let near = connect_packets(&path, Deadline::NEVER).unwrap();
        let far = accept(listener.as_fd()).unwrap();
        std::fs::remove_file(&path).unwrap();
        socket::send(near.as_fd(), &[IoSlice::new(b"whole")], &[], true).unwrap();
        let mut buffer = [0; 16];
        assert_eq!(socket::receive(far.as_fd(), &mut buffer, true).unwrap().len, 5);
        let us = Credentials { pid: std::process::id(), uid: effective_user() };
        assert_eq!(peer_credentials(far.as_fd()).unwrap(), us);
        assert_eq!(peer_credentials(near.as_fd()).unwrap(), us);
    }

    #[test]
    fn connecting_to_a_full_backlog_ends_at_its_deadline() {
        let path = path();
        let listener = bind_packets(&path).unwrap();
        listen(listener.as_fd(), 0).unwrap();
        let first = connect_packets(&path, Deadline::NEVER);
        let soon = || Deadline::after(Duration::from_millis(20));
        let waiting: Vec<_> = (0..10).map(|_| connect_packets(&path, soon())).collect();
        std::fs::remove_file(&path).unwrap();
        let last = waiting.last().unwrap().as_ref().unwrap_err();
        assert_eq!(last.kind(), io::ErrorKind::TimedOut);
        assert!(first.is_ok());
    }

    #[test]
    fn paths_that_no_socket_can_have_are_refused() {
        for path in ["", "a\0b", &"x".repeat(MAX_PATH + 1)] {
            let error = bind_packets(Path::new(path)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        }
    }

    #[test]
    fn streams_are_read_and_written_without_waiting() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let near = OwnedFd::from(near);
        let mut bytes = Vec::new();
        let nothing = receive_append(near.as_fd(), &mut bytes, 10).unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
        far.write_all(b"abcdef").unwrap();
        assert_eq!(peek_byte(near.as_fd()).unwrap(), Some(b'a'));
        assert_eq!(receive_append(near.as_fd(), &mut bytes, 4).unwrap(), 4);
        assert_eq!(receive_some(near.as_fd(), &mut [0; 9]).unwrap(), 2);
        assert_eq!(bytes, b"abcd");

        let part = [7; 1 << 16];
        let sent: usize =
            std::iter::from_fn(|| send_some(near.as_fd(), &[IoSlice::new(&part)]).ok()).sum();
        assert!(sent > 0);
        assert!(
            !fd::poll(&mut [fd::PollFd::writable(near.as_fd())], Deadline::PASSED)
                .is_ok_and(|n| n > 0)
        );
        drop(far);
        assert_eq!(peek_byte(near.as_fd()).map_err(|e| e.kind()).unwrap_or(None), None);
        let gone = send_some(near.as_fd(), &[IoSlice::new(b"x")]).unwrap_err();
        assert_eq!(gone.kind(), io::ErrorKind::BrokenPipe);
    }
}

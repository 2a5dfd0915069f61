//! Unix socket pairs that keep packets whole and carry descriptors.
//!
//! One reader function only: a plain `read` of a packet that carries descriptors would drop them
//! (unix(7), `SCM_RIGHTS`).
#![expect(unsafe_code, reason = "socketpair, sendmsg, recvmsg and their control messages")]

use std::io::{self, IoSlice};
use std::mem::{self, MaybeUninit};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use crate::sys::{check, retry};

/// How many descriptors one packet can carry: the kernel's `SCM_MAX_FD` (unix(7)).
pub const MAX_FDS: usize = 253;

/// Room for the control message of [`MAX_FDS`] descriptors, aligned as its header wants.
#[repr(C)]
union Control {
    _header: libc::cmsghdr,
    bytes: [u8; CONTROL],
}

/// A header of 16 bytes, the descriptors, and what rounds them up.
const CONTROL: usize = 16 + MAX_FDS * size_of::<RawFd>() + 4;

// SAFETY: a sum of numbers (cmsg(3)).
const _: () = assert!(
    unsafe { libc::CMSG_SPACE((MAX_FDS * size_of::<RawFd>()) as u32) } as usize
        <= size_of::<Control>()
);

/// Makes a connected pair of sockets that keep packets whole.
///
/// `SOCK_SEQPACKET`: connected, in order, a packet arrives whole or not at all (unix(7)).
///
/// # Errors
///
/// `EMFILE`, `ENFILE`, `ENOMEM`.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds: [RawFd; 2] = [-1; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: the array has room for the two descriptors the call writes.
    check(unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, fds.as_mut_ptr()) })?;
    // SAFETY: the call just made this descriptor; nobody else owns it.
    let first = unsafe { OwnedFd::from_raw_fd(fds[0]) };
    // SAFETY: as above.
    let second = unsafe { OwnedFd::from_raw_fd(fds[1]) };
    Ok((first, second))
}

/// Whether `fd` is one end of such a pair.
#[must_use]
pub fn is_packet_socket(fd: BorrowedFd<'_>) -> bool {
    option(fd, libc::SO_DOMAIN) == Some(libc::AF_UNIX)
        && option(fd, libc::SO_TYPE) == Some(libc::SOCK_SEQPACKET)
}

fn option(fd: BorrowedFd<'_>, name: libc::c_int) -> Option<libc::c_int> {
    let mut value: libc::c_int = 0;
    let mut len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: value is an int and len its size (getsockopt(2)).
    let result = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            name,
            (&raw mut value).cast(),
            &raw mut len,
        )
    };
    (result == 0).then_some(value)
}

/// Sends one packet made of `parts`, with `fds`. Waits while the peer's buffer is full unless
/// `dont_wait`.
///
/// Never raises `SIGPIPE`. sendmsg(2).
///
/// # Errors
///
/// `EPIPE` or `ECONNRESET` where every copy of the other end is closed, `WouldBlock` where it would have
/// to wait and must not, `EMSGSIZE` for a packet beyond the send buffer, `ETOOMANYREFS` where too many
/// descriptors are under way, `EINVAL` for more than [`MAX_FDS`].
pub fn send(
    socket: BorrowedFd<'_>,
    parts: &[IoSlice<'_>],
    fds: &[RawFd],
    dont_wait: bool,
) -> io::Result<()> {
    if fds.len() > MAX_FDS {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let mut control = Control { bytes: [0; CONTROL] };
    // SAFETY: a msghdr of zeros is one without name, parts and control message.
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    // IoSlice has the layout of iovec (std::io::IoSlice); sendmsg only reads the parts.
    header.msg_iov = parts.as_ptr().cast_mut().cast();
    header.msg_iovlen = parts.len() as _;
    if !fds.is_empty() {
        let size = mem::size_of_val(fds);
        header.msg_control = (&raw mut control).cast();
        // SAFETY: a sum of numbers (cmsg(3)).
        header.msg_controllen = unsafe { libc::CMSG_SPACE(size as u32) } as _;
        // SAFETY: the control buffer is at least a header long and aligned for one.
        let first = unsafe { libc::CMSG_FIRSTHDR(&raw const header) };
        // SAFETY: first points to that header, in a buffer of ours.
        let message = unsafe { &mut *first };
        message.cmsg_level = libc::SOL_SOCKET;
        message.cmsg_type = libc::SCM_RIGHTS;
        // SAFETY: a sum of numbers (cmsg(3)).
        message.cmsg_len = unsafe { libc::CMSG_LEN(size as u32) } as _;
        // SAFETY: the data follows the header within the buffer.
        let data = unsafe { libc::CMSG_DATA(first) };
        // SAFETY: size bytes fit: fds.len() <= MAX_FDS, and Control has room for as many.
        unsafe { std::ptr::copy_nonoverlapping(fds.as_ptr().cast(), data, size) };
    }
    let flags = libc::MSG_NOSIGNAL | if dont_wait { libc::MSG_DONTWAIT } else { 0 };
    retry(|| {
        // SAFETY: the header points to live parts and a live control buffer.
        let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const header, flags) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    })
}

/// What came with one packet.
#[derive(Debug)]
pub struct Received {
    /// How many bytes lie in the buffer. A packet always has some, so 0 is the end: every copy of the
    /// other end is closed.
    pub len: usize,
    /// The descriptors, close-on-exec.
    pub fds: Vec<OwnedFd>,
    /// The packet was longer than the buffer, or descriptors were lost: break with the peer.
    pub truncated: bool,
}

/// Ends the connection for both ends and every copy of them; what was sent before can still be received.
/// shutdown(2).
pub fn shut_down(socket: BorrowedFd<'_>) {
    // SAFETY: takes numbers only. It fails where the connection is ended already.
    unsafe { libc::shutdown(socket.as_raw_fd(), libc::SHUT_RDWR) };
}

/// Receives one packet into `buffer`, waiting for it unless `dont_wait`.
///
/// A reset connection is the end, not an error: it means that the peer closed with packets unread. Those
/// it sent before are still received. recvmsg(2).
///
/// # Errors
///
/// `WouldBlock` where it would have to wait and must not.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8], dont_wait: bool) -> io::Result<Received> {
    receive_with(socket, buffer, if dont_wait { libc::MSG_DONTWAIT } else { 0 })
}

/// Looks at the next packet without taking it or waiting for it; descriptors stay with it.
///
/// # Errors
///
/// `WouldBlock` where there is none.
pub fn peek(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_PEEK;
    retry(|| {
        // SAFETY: the pointer and length are the buffer's (recv(2)).
        let len = unsafe {
            libc::recv(socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), flags)
        };
        usize::try_from(len).map_err(|_| io::Error::last_os_error())
    })
}

/// Looks at the next packet as [`peek`] does, and gives duplicates of its descriptors too.
///
/// Where they are whole, [`skip`] the packet. Where they are not, as this process has no numbers left for them, it is
/// there to be looked at again; to [`receive`] it would be to lose them.
///
/// # Errors
///
/// `WouldBlock` where there is none.
pub fn peek_whole(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Received> {
    receive_with(socket, buffer, libc::MSG_DONTWAIT | libc::MSG_PEEK)
}

/// Drops the next packet with its descriptors; does not wait for one. It needs no numbers for these.
pub fn skip(socket: BorrowedFd<'_>) {
    // The report of a reset comes once, before the packet.
    for _ in 0..2 {
        let reset = retry(|| {
            // SAFETY: no bytes are asked for (recv(2)); a packet that is longer is taken all the same.
            let len = unsafe {
                libc::recv(socket.as_raw_fd(), std::ptr::null_mut(), 0, libc::MSG_DONTWAIT)
            };
            if len < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
        });
        if !reset.is_err_and(|error| error.raw_os_error() == Some(libc::ECONNRESET)) {
            return;
        }
    }
}

fn receive_with(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    flags: libc::c_int,
) -> io::Result<Received> {
    let mut control = MaybeUninit::<Control>::uninit();
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: a msghdr of zeros is one without name, parts and control message.
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    let flags = flags | libc::MSG_CMSG_CLOEXEC;
    let mut resets = 0;
    let len = loop {
        header.msg_controllen = size_of::<Control>() as _;
        // SAFETY: the header points to the caller's buffer and a control buffer of ours, with their
        // lengths.
        let len = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, flags) };
        if let Ok(len) = usize::try_from(len) {
            break len;
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EINTR) => {}
            // Reported once, before the packets that are still there; then they follow, then the end.
            Some(libc::ECONNRESET) if resets < 2 => resets += 1,
            Some(libc::ECONNRESET) => {
                return Ok(Received { len: 0, fds: Vec::new(), truncated: false });
            }
            _ => return Err(error),
        }
    };

    let mut fds = Vec::new();
    // SAFETY: the kernel filled in the header; null where there is no control message.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(&raw const header) };
    while !next.is_null() {
        // SAFETY: not null, so it points to a control message that the kernel wrote, whose data lies
        // behind it; the descriptors in it are new and nobody else's.
        unsafe { take_fds(next, &mut fds) };
        // SAFETY: as for the first.
        next = unsafe { libc::CMSG_NXTHDR(&raw const header, next) };
    }
    let truncated = header.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0;
    Ok(Received { len, fds, truncated })
}

/// Takes over the descriptors of one control message.
///
/// # Safety
///
/// `message` points to a whole control message that `recvmsg` just wrote and nobody took over yet.
unsafe fn take_fds(message: *const libc::cmsghdr, fds: &mut Vec<OwnedFd>) {
    // SAFETY: the caller's promise.
    let head = unsafe { *message };
    if head.cmsg_level != libc::SOL_SOCKET || head.cmsg_type != libc::SCM_RIGHTS {
        return;
    }
    // SAFETY: a sum of numbers (cmsg(3)).
    let empty = unsafe { libc::CMSG_LEN(0) } as usize;
    // SAFETY: the data of a control message lies behind its head.
    let data = unsafe { libc::CMSG_DATA(message) }.cast::<RawFd>();
    #[allow(clippy::unnecessary_cast, reason = "32 bits wide in musl")]
    let size = (head.cmsg_len as usize).saturating_sub(empty);
    for index in 0..size / size_of::<RawFd>() {
        // SAFETY: index is below the count that the length in the head gives.
        let fd = unsafe { data.add(index) };
        // SAFETY: as above; the data need not be aligned.
        let fd = unsafe { fd.read_unaligned() };
        // SAFETY: the kernel made this descriptor for us with the packet.
        fds.push(unsafe { OwnedFd::from_raw_fd(fd) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn packets_stay_whole_and_in_order_with_their_descriptors() {
        let (near, far) = pair().unwrap();
        assert!(is_packet_socket(near.as_fd()));
        let null = crate::sys::fd::null().unwrap();
        let fds = [null.as_raw_fd(); MAX_FDS];
        let parts = [IoSlice::new(b"one"), IoSlice::new(b"two")];
        send(near.as_fd(), &parts, &fds, true).unwrap();
        send(near.as_fd(), &[IoSlice::new(b"x")], &[], true).unwrap();
        drop(near);

        let mut buffer = [0; 16];
        assert_eq!(peek(far.as_fd(), &mut buffer).unwrap(), 6);
        let received = receive(far.as_fd(), &mut buffer, true).unwrap();
        assert_eq!((&buffer[..received.len], received.fds.len()), (&b"onetwo"[..], MAX_FDS));
        assert!(!received.truncated);
        assert_eq!(receive(far.as_fd(), &mut buffer, false).unwrap().len, 1);
        assert_eq!(receive(far.as_fd(), &mut buffer, false).unwrap().len, 0);
    }

    #[test]
    fn who_looks_has_duplicates_of_the_descriptors_and_the_packet_stays() {
        let (near, far) = pair().unwrap();
        let null = crate::sys::fd::null().unwrap();
        send(near.as_fd(), &[IoSlice::new(b"one")], &[null.as_raw_fd(); 3], true).unwrap();
        send(near.as_fd(), &[IoSlice::new(b"two")], &[], true).unwrap();
        let mut buffer = [0; 16];
        for _ in 0..2 {
            let seen = peek_whole(far.as_fd(), &mut buffer).unwrap();
            assert_eq!((&buffer[..seen.len], seen.fds.len()), (&b"one"[..], 3));
            assert!(!seen.truncated);
        }
        skip(far.as_fd());
        assert_eq!(receive(far.as_fd(), &mut buffer, true).unwrap().len, 3);
        assert_eq!(&buffer[..3], b"two");
        assert_eq!(
            peek_whole(far.as_fd(), &mut buffer).unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );
        // One that is not there is not waited for; nor is a reset taken for a packet.
        skip(far.as_fd());
        send(far.as_fd(), &[IoSlice::new(b"unread")], &[], true).unwrap();
        send(near.as_fd(), &[IoSlice::new(b"last words")], &[], true).unwrap();
        drop(near);
        skip(far.as_fd());
        assert_eq!(peek_whole(far.as_fd(), &mut buffer).unwrap().len, 0);
    }

    #[test]
    fn one_descriptor_too_many_is_refused() {
        let (near, _far) = pair().unwrap();
        let fds = [near.as_raw_fd(); MAX_FDS + 1];
        assert!(send(near.as_fd(), &[IoSlice::new(b"x")], &fds, true).is_err());
    }

    #[test]
    fn a_packet_longer_than_the_buffer_is_reported() {
        let (near, far) = pair().unwrap();
        send(near.as_fd(), &[IoSlice::new(&[0; 20])], &[], true).unwrap();
        assert!(receive(far.as_fd(), &mut [0; 8], true).unwrap().truncated);
    }

    #[test]
    fn a_reset_is_the_end_after_what_was_sent_before() {
        let (near, far) = pair().unwrap();
        send(far.as_fd(), &[IoSlice::new(b"unread")], &[], true).unwrap();
        send(near.as_fd(), &[IoSlice::new(b"last words")], &[], true).unwrap();
        drop(near);
        let mut buffer = [0; 16];
        assert_eq!(receive(far.as_fd(), &mut buffer, false).unwrap().len, 10);
        assert_eq!(receive(far.as_fd(), &mut buffer, false).unwrap().len, 0);
    }
}

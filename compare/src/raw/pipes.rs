//! What the kernel has: pipes, socket pairs, eventfd, and descriptors sent along.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// A kernel pipe: the reading end, then the writing end.
pub fn pipe() -> (File, File) {
    let mut ends = [0; 2];
    // SAFETY: room for two descriptors.
    let result = unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) };
    assert_eq!(result, 0, "pipe: {}", io::Error::last_os_error());
    own(ends)
}

/// A pair of connected Unix sockets of `kind`, SOCK_STREAM or SOCK_SEQPACKET.
pub fn sockets(kind: i32) -> (File, File) {
    let mut ends = [0; 2];
    let kind = kind | libc::SOCK_CLOEXEC;
    // SAFETY: room for two descriptors.
    let result = unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, ends.as_mut_ptr()) };
    assert_eq!(result, 0, "socketpair: {}", io::Error::last_os_error());
    own(ends)
}

fn own(ends: [i32; 2]) -> (File, File) {
    // SAFETY: new descriptors that nobody else owns.
    let [a, b] = ends.map(|end| unsafe { File::from_raw_fd(end) });
    (a, b)
}

/// Gives a pipe the largest buffer that every user may ask for.
pub fn enlarge(pipe: &File) {
    // SAFETY: takes numbers only.
    let result = unsafe { libc::fcntl(pipe.as_raw_fd(), libc::F_SETPIPE_SZ, 1 << 20) };
    assert!(result > 0, "F_SETPIPE_SZ: {}", io::Error::last_os_error());
}

pub fn eventfd() -> File {
    // SAFETY: takes numbers, gives a new descriptor.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
    assert!(fd >= 0, "eventfd: {}", io::Error::last_os_error());
    // SAFETY: nobody else owns it.
    unsafe { File::from_raw_fd(fd) }
}

/// Writes all of a message. File's own functions do the system calls, and nothing else.
pub fn write(mut file: &File, bytes: &[u8]) {
    file.write_all(bytes).expect("writes");
}

pub fn read(mut file: &File, bytes: &mut [u8]) {
    file.read_exact(bytes).expect("reads");
}

pub fn write_word(file: &File, word: u64) {
    write(file, &word.to_ne_bytes());
}

pub fn read_word(file: &File) -> u64 {
    let mut bytes = [0; 8];
    read(file, &mut bytes);
    u64::from_ne_bytes(bytes)
}

/// Whether each of these can be read, once one can.
pub fn readable(files: &[File]) -> Vec<bool> {
    let poll =
        |file: &File| libc::pollfd { fd: file.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let mut polls: Vec<_> = files.iter().map(poll).collect();
    // SAFETY: so many pollfds of ours.
    unsafe { libc::poll(polls.as_mut_ptr(), polls.len() as libc::nfds_t, -1) };
    polls.iter().map(|poll| poll.revents != 0).collect()
}

/// A message of one byte and one descriptor, laid out as sendmsg(2) wants it.
fn with_message<R>(call: impl FnOnce(&mut libc::msghdr) -> R) -> R {
    let mut byte = 0_u8;
    let mut part = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    // CMSG_SPACE of one descriptor, aligned as its header.
    let mut control = [0_u64; 3];
    // SAFETY: a header of zeros is an empty one.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control) as _;
    call(&mut message)
}

pub fn send_fd(socket: &File, fd: &File) {
    with_message(|message| {
        // SAFETY: the control buffer has room for one header and one descriptor.
        unsafe {
            let header = libc::CMSG_FIRSTHDR(message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(4) as _;
            libc::CMSG_DATA(header).cast::<i32>().write_unaligned(fd.as_raw_fd());
        }
        // SAFETY: the message points to what lives in with_message.
        let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), message, 0) };
        assert_eq!(sent, 1, "sendmsg: {}", io::Error::last_os_error());
    });
}

/// The next descriptor sent, or none where the byte came without one.
pub fn recv_fd(socket: &File) -> Option<File> {
    with_message(|message| {
        let flags = libc::MSG_CMSG_CLOEXEC;
        // SAFETY: as above.
        let received = unsafe { libc::recvmsg(socket.as_raw_fd(), message, flags) };
        assert_eq!(received, 1, "recvmsg: {}", io::Error::last_os_error());
        // SAFETY: the kernel filled the control buffer; a header it gives is whole.
        let header = unsafe { libc::CMSG_FIRSTHDR(message) };
        if header.is_null() {
            return None;
        }
        // SAFETY: the one who sends, sends one descriptor.
        let fd = unsafe { libc::CMSG_DATA(header).cast::<i32>().read_unaligned() };
        // SAFETY: new here, and nobody else owns it.
        Some(File::from(unsafe { OwnedFd::from_raw_fd(fd) }))
    })
}

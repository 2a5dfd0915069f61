//! Waiting for several things at a time.

use std::os::fd::AsFd;
use std::time::Duration;

use mp_core::Deadline;
use mp_core::sys::fd::{PollFd, poll};

use crate::Result;

/// What [`wait`] can wait for: everything that has a descriptor which can be read when it is ready.
///
/// Receivers and connections (a message, or the end), listeners (a client), queues (an item), child processes
/// (their end), and any socket or file descriptor.
pub trait Waitable: AsFd {}

impl<T: AsFd + ?Sized> Waitable for T {}

/// Waits until at least one of `items` is ready; gives the indexes of all that are.
///
/// Waits no longer than `timeout`, without end for `None`; when that is over, or `items` is empty, the list is
/// empty. A receiver whose sender is gone is ready.
///
/// Python: `multiprocessing.connection.wait`, and a process's `sentinel` is the child itself.
///
/// # Errors
///
/// [`Error::Io`](crate::Error::Io) where there are more items than the process may have descriptors.
///
/// # Example
///
/// ```
/// use std::time::Duration;
///
/// # fn main() -> mp_pipe::Result<()> {
/// let (one, _sender) = mp_pipe::simplex::<i32>()?;
/// let (two, sender) = mp_pipe::simplex::<i32>()?;
/// sender.send(7)?;
/// let ready = mp_pipe::wait(&[&one, &two], Some(Duration::from_secs(1)))?;
/// assert_eq!(ready, [1]);
/// # Ok(())
/// # }
/// ```
#[doc(alias("select", "sentinel"))]
pub fn wait(items: &[&dyn Waitable], timeout: Option<Duration>) -> Result<Vec<usize>> {
    let deadline = Deadline::after_option(timeout);
    loop {
        if items.is_empty() {
            return Ok(Vec::new());
        }
        // Asked for its descriptor, a receiver sees to it that this can be read when it should be.
        let mut fds: Vec<_> = items.iter().map(|item| PollFd::readable(item.as_fd())).collect();
        if poll(&mut fds, deadline)? == 0 {
            return Ok(Vec::new());
        }
        // Some may have been woken for what is over already: those that are ready still are so.
        let mut ready = Vec::new();
        for (index, (item, fd)) in items.iter().zip(&fds).enumerate() {
            if fd.is_ready() {
                let mut again = [PollFd::readable(item.as_fd())];
                if poll(&mut again, Deadline::PASSED)? > 0 {
                    ready.push(index);
                }
            }
        }
        // Also where none is: there may be no end of such wake-ups.
        if !ready.is_empty() || deadline.has_passed() {
            return Ok(ready);
        }
    }
}

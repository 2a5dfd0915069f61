//! Random bytes from the kernel.
#![expect(unsafe_code, reason = "getrandom")]

use std::io;

use crate::sys::retry;

/// Fills `buffer` with bytes that nobody can foresee. getrandom(2).
///
/// Waits only where the machine has just been started and has gathered nothing yet.
///
/// # Errors
///
/// `ENOSYS` where a filter refuses the call.
///
/// # Example
///
/// ```
/// let mut nonce = [0; 32];
/// mp_core::sys::random::fill(&mut nonce)?;
/// assert_ne!(nonce, [0; 32]);
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn fill(mut buffer: &mut [u8]) -> io::Result<()> {
    while !buffer.is_empty() {
        let len = retry(|| {
            // SAFETY: the pointer and length are the buffer's.
            let len = unsafe { libc::getrandom(buffer.as_mut_ptr().cast(), buffer.len(), 0) };
            usize::try_from(len).map_err(|_| io::Error::last_os_error())
        })?;
        buffer = &mut buffer[len..];
    }
    Ok(())
}

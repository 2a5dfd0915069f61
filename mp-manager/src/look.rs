//! Waiting for a message, such that others run meanwhile.

use std::thread::yield_now;

use mp_pipe::Connection;

/// So often it looks at once: an answer of a server that runs on another CPU comes within that time.
const AT_ONCE: u32 = 64;
/// So often it then lets others run first.
const YIELDING: u32 = 64;

/// Waits for a message, or the end.
///
/// With more clients than CPUs, who is waited for may have none at the moment. A pipe looks for as long as a wake-up takes
/// and sleeps then, which is right for two; here all that time is another's. With four clients on two CPUs, a call took
/// 10 us so and takes 1.1 us where those who wait let the others go first; who waits for one that has the same CPU does so
/// at once, or a call takes 3.7 us for as long as that is so of all.
pub(crate) fn wait(connection: &Connection<(), ()>) {
    let receiver = connection.receiver();
    let at_once = if connection.shares_cpu() { 0 } else { AT_ONCE };
    for n in 0..at_once + YIELDING {
        if !receiver.is_empty() {
            return;
        }
        if n < at_once {
            std::hint::spin_loop();
        } else {
            yield_now();
        }
    }
    // Receiving gives the same error.
    let _ = receiver.sleep();
}

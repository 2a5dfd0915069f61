//! Waiting for a message, such that others run meanwhile.

use std::thread::yield_now;
use std::time::Duration;

use mp_core::spin;
use mp_pipe::Connection;

/// So long it looks at once, where the other end runs on another CPU.
const AT_ONCE: Duration = Duration::from_micros(25);
/// So often it then lets others run first.
const YIELDING: u32 = 64;

/// Waits for a message, or the end, or until `is_over`, which is not seen in a sleep.
///
/// A client and its thread of the server that both run make a call in a third of a microsecond; with more clients than
/// CPUs, who is waited for may have none at the moment. A pipe looks for as long as a wake-up takes and sleeps then, which
/// is right for two; here a sleep leaves the CPU to others, and the two hardly ever meet. So each looks for some times
/// as long, in which the other comes to its turn on its CPU: then they go on together until the scheduler takes one
/// of them away, and each pair has its turn so. (With 64 clients on two CPUs a call takes 0.5 us, and where the two look
/// for 2 us only, 3.5.) Who waits for one that has the same CPU lets others run at once.
pub(crate) fn wait(connection: &Connection<(), ()>, is_over: impl Fn() -> bool) {
    let receiver = connection.receiver();
    let found = || (!receiver.is_empty()).then_some(());
    if !connection.shares_cpu() && spin::look_for(true, || AT_ONCE, found).is_some() {
        return;
    }
    for _ in 0..YIELDING {
        // On a busy machine all these turns may take a second.
        if !receiver.is_empty() || is_over() {
            return;
        }
        yield_now();
    }
    // Receiving gives the same error.
    let _ = receiver.sleep();
}

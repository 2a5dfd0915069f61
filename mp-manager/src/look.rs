//! Waiting for a message.

use std::thread::yield_now;
use std::time::Duration;

use mp_core::spin;
use mp_core::sys::clock::monotonic_nanos;
use mp_core::sys::process::{affinity, current_cpu, set_affinity};
use mp_pipe::Connection;

/// So long each looks for what the other end sends: about as long as a wake-up takes.
const AT_ONCE: Duration = Duration::from_micros(25);
/// So long looks who is active: somebody else may have the client's CPU for a moment, and turns are dearer than that.
const AS_ACTIVE: Duration = Duration::from_micros(75);
/// So long looks a client whose last answer would have come in this time.
const AS_CLIENT: Duration = Duration::from_micros(100);
/// So often a thread lets others run before it sleeps.
const YIELDING: u32 = 64;

fn look(connection: &Connection<(), ()>, time: Duration) -> bool {
    let receiver = connection.receiver();
    spin::look_for(true, || time, || (!receiver.is_empty()).then_some(())).is_some()
}

/// Waits for an answer, or the end. `last` is how long the last one took of those that were slept for: if that was so
/// short that looking would have been better, this one may be too.
pub(crate) fn as_client(connection: &Connection<(), ()>, last: &mut Duration) {
    let time = if *last < AS_CLIENT { AS_CLIENT } else { AT_ONCE };
    if connection.shares_cpu() || !look(connection, time) {
        let begin = monotonic_nanos();
        sleep(connection, || false);
        *last = time + Duration::from_nanos(monotonic_nanos() - begin);
    }
}

/// Looks for a call of a client that does little but call. Gives whether it is there.
///
/// A thread that has its client's CPU takes another: that the two need one each, the scheduler often does not see for a
/// while.
pub(crate) fn as_active(connection: &Connection<(), ()>) -> bool {
    if !connection.shares_cpu() || move_away() && !connection.shares_cpu() {
        look(connection, AS_ACTIVE)
    } else {
        !connection.receiver().is_empty()
    }
}

/// Looks for a call of another client, and lets others run meanwhile. Gives whether it is there, or `is_over`.
pub(crate) fn as_server(connection: &Connection<(), ()>, is_over: impl Fn() -> bool) -> bool {
    !connection.shares_cpu() && look(connection, AT_ONCE) || give_way(connection, is_over)
}

/// Lets others run for some times, until there is a message or `is_over`.
fn give_way(connection: &Connection<(), ()>, is_over: impl Fn() -> bool) -> bool {
    let receiver = connection.receiver();
    (0..YIELDING).any(|_| {
        // On a busy machine all these turns may take a second.
        yield_now();
        !receiver.is_empty() || is_over()
    })
}

/// Sleeps until there is a message or the end; or until `is_over`, which is not always seen.
pub(crate) fn sleep(connection: &Connection<(), ()>, is_over: impl Fn() -> bool) {
    let receiver = connection.receiver();
    // Where there is one CPU, what is waited for comes while others run.
    let is_there = !receiver.is_empty()
        || is_over()
        || !spin::has_other_cpus() && give_way(connection, is_over);
    if !is_there {
        // Receiving gives the same error.
        let _ = receiver.sleep();
    }
}

/// Has this thread run on another CPU, if it may use one.
fn move_away() -> bool {
    let (Some(cpu), Some(all)) = (current_cpu(), affinity()) else { return false };
    let mut others = all;
    let Some(word) = others.get_mut(cpu / 64) else { return false };
    *word &= !(1 << (cpu % 64));
    // Of what it may use nothing changes in the end.
    spin::has_other_cpus() && set_affinity(&others).is_ok() && set_affinity(&all).is_ok()
}

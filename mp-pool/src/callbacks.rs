//! The thread that calls back.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle, ThreadId};

use mp_core::catch_panic;

use crate::result::lock;

type Callback = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Callback>,
    thread: Option<JoinHandle<()>>,
    /// The thread that was started and has not ended.
    runs: Option<ThreadId>,
    /// Whether it is to end once nothing waits.
    closed: bool,
}

/// Callbacks of a pool, called one after the other, by a thread that is there once there is one.
#[derive(Default)]
pub(crate) struct Callbacks {
    queue: Mutex<Queue>,
    changed: Condvar,
    /// Of those who wait for the thread's end.
    ended: Condvar,
}

impl Callbacks {
    /// Has `callback` called. Where the pool has ended already, calls it.
    pub(crate) fn call(self: &Arc<Self>, callback: Callback) {
        let mut queue = lock(&self.queue);
        if queue.runs.is_none() {
            let us = Arc::clone(self);
            let thread = match queue.closed {
                true => None,
                false => {
                    let thread = thread::Builder::new().name("mp-pool-callbacks".to_string());
                    thread.spawn(move || us.run()).ok()
                }
            };
            let Some(thread) = thread else {
                drop(queue);
                let _ = catch_panic(callback);
                return;
            };
            queue.runs = Some(thread.thread().id());
            queue.thread = Some(thread);
        }
        queue.waiting.push_back(callback);
        drop(queue);
        self.changed.notify_one();
    }

    fn run(&self) {
        let mut queue = lock(&self.queue);
        loop {
            if let Some(callback) = queue.waiting.pop_front() {
                drop(queue);
                let _ = catch_panic(callback);
                queue = lock(&self.queue);
            } else if queue.closed {
                queue.runs = None;
                self.ended.notify_all();
                return;
            } else {
                queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    /// Has the thread end once all callbacks were called, and waits for that; not in a callback.
    pub(crate) fn finish(&self) {
        let mut queue = lock(&self.queue);
        queue.closed = true;
        self.changed.notify_all();
        if queue.runs == Some(thread::current().id()) {
            return;
        }
        let thread = queue.thread.take();
        // One has the thread to join; the others wait too.
        while queue.runs.is_some() {
            queue = self.ended.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        drop(queue);
        if let Some(thread) = thread {
            // Panics end within the callback.
            let _ = thread.join();
        }
    }
}

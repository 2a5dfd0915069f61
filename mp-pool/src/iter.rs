//! Tasks whose input comes, and whose results go, one after the other.

use std::any::type_name;
use std::collections::VecDeque;
use std::fmt;
use std::iter::FusedIterator;
use std::marker::PhantomData;
use std::sync::Arc;

use mp_core::sys::clock::coarse_nanos;
use mp_core::{Encoder, Message};
use mp_process::Function;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::TaskError;
use crate::body::Body;
use crate::call::Once;
use crate::engine::{Job, Name};
use crate::pool::Core;
use crate::result::{Outcome, Sink, Stream, decode_one};

/// So many tasks for each worker are in flight, if nobody says otherwise.
pub(crate) const WINDOW_EACH: usize = 32;

/// Makes a task's body of what was encoded.
pub(crate) fn pack(encoded: mp_core::Result<Message>) -> Result<Body, TaskError> {
    encoded.map(Body::new).map_err(|error| TaskError::Encode(format!("{error:?}")))
}

/// Tasks of one call, some of them in flight.
pub(crate) struct Flow {
    core: Arc<Core>,
    stream: Arc<Stream>,
    function: Function,
    name: Name,
    submitted: usize,
    /// How many results were taken.
    taken: usize,
    /// What has come, as it came.
    arrived: VecDeque<(usize, Outcome)>,
    /// What has come before its turn, from the next one on.
    ordered: VecDeque<Option<Outcome>>,
}

impl Flow {
    pub(crate) fn new<F>(core: &Arc<Core>, function: Function) -> Self {
        Self {
            core: Arc::clone(core),
            stream: Stream::new(),
            function,
            name: type_name::<F>,
            submitted: 0,
            taken: 0,
            arrived: VecDeque::new(),
            ordered: VecDeque::new(),
        }
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.submitted - self.taken
    }

    /// Submits the next task, with `len` items of the input from `first` on.
    pub(crate) fn submit(&mut self, body: Result<Body, TaskError>, first: usize, len: usize) {
        let part = self.submitted;
        self.submitted += 1;
        match body {
            Ok(body) => {
                let sink = Arc::clone(&self.stream) as Arc<dyn Sink>;
                let (function, items) = ((self.function, self.name), Some((first, len)));
                self.core.submit(Job::new(function, items, body, sink, part));
            }
            Err(error) => self.stream.deliver(part, Err(error)),
        }
    }

    /// Whether the next outcome that comes is there. Does not wait.
    fn has_one(&mut self) -> bool {
        if self.arrived.is_empty() {
            self.stream.take_present(&mut self.arrived);
        }
        !self.arrived.is_empty()
    }

    /// Whether the outcome of the first task that none was taken of is there. Does not wait.
    fn has_first(&mut self) -> bool {
        let is_there = |flow: &Self| matches!(flow.ordered.front(), Some(Some(_)));
        if !is_there(self) && self.has_one() {
            self.sort();
        }
        is_there(self)
    }

    /// Waits for the next outcome that comes. There must be one in flight.
    pub(crate) fn next_to_come(&mut self) -> Outcome {
        if self.arrived.is_empty() {
            self.stream.take(&mut self.arrived);
        }
        self.taken += 1;
        match self.arrived.pop_front() {
            Some((_, outcome)) => outcome,
            None => unreachable!("a stream gives at least one"),
        }
    }

    /// Waits for the outcome of the first task that none was taken of. There must be one in flight.
    pub(crate) fn next_in_order(&mut self) -> Outcome {
        loop {
            if let Some(Some(_)) = self.ordered.front()
                && let Some(Some(outcome)) = self.ordered.pop_front()
            {
                self.taken += 1;
                return outcome;
            }
            if self.arrived.is_empty() {
                self.stream.take(&mut self.arrived);
            }
            self.sort();
        }
    }

    /// Puts what has come in its place.
    fn sort(&mut self) {
        for (part, outcome) in self.arrived.drain(..) {
            let place = part - self.taken;
            if self.ordered.len() <= place {
                self.ordered.resize_with(place + 1, || None);
            }
            self.ordered[place] = Some(outcome);
        }
    }
}

impl Drop for Flow {
    /// Nobody will take the results of what is not begun.
    fn drop(&mut self) {
        if self.in_flight() > self.arrived.len() {
            self.core.cancel(&(Arc::clone(&self.stream) as Arc<dyn Sink>), false);
        }
    }
}

/// Results in the order of the input. Made by [`Pool::imap`](crate::Pool::imap).
///
/// Each call to `next` waits for the next result. Dropping it takes back what no worker has begun.
///
/// The input is taken by whoever calls `next`, in that call. Results that are there come first; but while an input waits
/// for its next item, a result that comes meanwhile waits too, and an input that waits for a result still to come never
/// ends. [`window(1)`](Self::window) is for those.
///
/// A panic of the input, or of an item's `Serialize`, goes to whoever calls `next`. The item is lost, no result is: who
/// catches the panic may go on.
pub struct Imap<I, F, R> {
    tasks: Tasks<I, F, R>,
}

/// Results as they come. Made by [`Pool::imap_unordered`](crate::Pool::imap_unordered).
///
/// Each call to `next` waits for the next result. Dropping it takes back what no worker has begun. Of inputs that wait,
/// and of panics, as [`Imap`].
pub struct ImapUnordered<I, F, R> {
    tasks: Tasks<I, F, R>,
}

/// Which outcome is the next.
struct Turn {
    is_there: fn(&mut Flow) -> bool,
    take: fn(&mut Flow) -> Outcome,
}

/// What both do.
struct Tasks<I, F, R> {
    flow: Flow,
    input: std::iter::Fuse<I>,
    window: usize,
    /// Whether the last item took a tick of the clock to come, some milliseconds: then results do not wait for the next.
    slow: bool,
    /// The outcome that is to be given next, kept here while more of the input is taken: that is the caller's own code,
    /// and may panic.
    next: Option<Outcome>,
    of: PhantomData<fn(F) -> R>,
}

impl<I, F, A, R> Tasks<I, F, R>
where
    I: Iterator<Item = A>,
    F: Fn(A) -> R + Copy + 'static,
    A: Serialize + DeserializeOwned,
    R: Serialize + DeserializeOwned,
{
    fn new(core: &Arc<Core>, function: F, input: I) -> Self {
        let flow = Flow::new::<F>(core, Function::new::<F, Once<(A,)>>(function));
        let window = core.size().saturating_mul(WINDOW_EACH);
        Self { flow, input: input.fuse(), window, slow: false, next: None, of: PhantomData }
    }

    /// Submits the next item of the input, for which that may wait. Whether there was one.
    fn pull(&mut self) -> bool {
        let before = coarse_nanos();
        let item = self.input.next();
        self.slow = coarse_nanos() != before;
        let Some(item) = item else { return false };
        let mut encoder = Encoder::new();
        let encoded = self.flow.core.encode(|| encoder.put(&item).map(|_| ()));
        drop(item);
        let first = self.flow.submitted;
        self.flow.submit(pack(encoded.map(|()| encoder.finish())), first, 1);
        true
    }

    /// Submits until so many tasks are in flight, as long as the input says that it has more: a range does, a channel
    /// does not, and would wait.
    fn fill(&mut self, window: usize) {
        while self.flow.in_flight() < window
            && !self.slow
            && self.input.size_hint().0 > 0
            && self.pull()
        {}
    }

    fn next(&mut self, turn: Turn) -> Option<Result<R, TaskError>> {
        // Many at a time, as long as each worker has one.
        let few = (self.window / 2).max(self.flow.core.size()).min(self.window - 1);
        if self.next.is_none() {
            if self.flow.in_flight() <= few {
                // What is there comes before the input is asked.
                while self.flow.in_flight() < self.window
                    && !(turn.is_there)(&mut self.flow)
                    && self.pull()
                {}
            }
            if self.flow.in_flight() == 0 {
                return None;
            }
            self.next = Some((turn.take)(&mut self.flow));
        }
        // So that workers go on while the caller does.
        if self.flow.in_flight() <= few {
            self.fill(self.window);
        }
        self.next.take().map(|outcome| decode_one(&outcome))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let flying = self.flow.in_flight() + usize::from(self.next.is_some());
        let (least, most) = self.input.size_hint();
        (least.saturating_add(flying), most.and_then(|most| most.checked_add(flying)))
    }
}

macro_rules! iterator {
    ($name:ident, $is_there:ident, $take:ident) => {
        impl<I, F, A, R> $name<I, F, R>
        where
            I: Iterator<Item = A>,
            F: Fn(A) -> R + Copy + 'static,
            A: Serialize + DeserializeOwned,
            R: Serialize + DeserializeOwned,
        {
            pub(crate) fn new(core: &Arc<Core>, function: F, input: I) -> Self {
                let mut tasks = Tasks::new(core, function, input);
                // One for each worker; the rest of the window with the first result, when it is known. Of an input that
                // may wait none: the call does not.
                tasks.fill(core.size());
                Self { tasks }
            }

            /// Sets how many items of the input are taken ahead of the results: 32 for each worker, unless it is set,
            /// and never less than one in all.
            ///
            /// Of an input that says that it has more ([`Iterator::size_hint`], its lower bound: ranges, vectors and
            /// slices do), one for each worker is taken at once, when the call is made, the others with the first
            /// result; and the window is kept full while results are taken. Any other input (a channel, the lines of a
            /// file, what a filter leaves) may wait: it is asked in `next` only, for as long as no result is there. So
            /// with few items ahead, workers may have nothing to do while the caller does.
            ///
            /// Such an input is asked with `window(1)` when all results of what it gave were taken, so it may be made of
            /// them. With a larger window that goes well as long as the input has something to give whenever there is
            /// room in the window.
            ///
            /// Python: takes the whole input at once, up to 3.14.
            #[doc(alias = "buffersize")]
            #[must_use]
            pub fn window(mut self, items: usize) -> Self {
                self.tasks.window = items.max(1);
                self
            }
        }

        impl<I, F, A, R> Iterator for $name<I, F, R>
        where
            I: Iterator<Item = A>,
            F: Fn(A) -> R + Copy + 'static,
            A: Serialize + DeserializeOwned,
            R: Serialize + DeserializeOwned,
        {
            type Item = Result<R, TaskError>;

            fn next(&mut self) -> Option<Self::Item> {
                self.tasks.next(Turn { is_there: Flow::$is_there, take: Flow::$take })
            }

            fn size_hint(&self) -> (usize, Option<usize>) {
                self.tasks.size_hint()
            }
        }

        impl<I, F, A, R> ExactSizeIterator for $name<I, F, R>
        where
            I: ExactSizeIterator<Item = A>,
            F: Fn(A) -> R + Copy + 'static,
            A: Serialize + DeserializeOwned,
            R: Serialize + DeserializeOwned,
        {
        }

        impl<I, F, A, R> FusedIterator for $name<I, F, R>
        where
            I: Iterator<Item = A>,
            F: Fn(A) -> R + Copy + 'static,
            A: Serialize + DeserializeOwned,
            R: Serialize + DeserializeOwned,
        {
        }

        impl<I, F, R> fmt::Debug for $name<I, F, R> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name))
                    .field("taken", &self.tasks.flow.taken)
                    .field("in_flight", &self.tasks.flow.in_flight())
                    .finish_non_exhaustive()
            }
        }
    };
}

iterator!(Imap, has_first, next_in_order);
iterator!(ImapUnordered, has_one, next_to_come);

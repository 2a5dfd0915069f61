//! Tasks and outcomes as bytes, for engines that send them to other machines.
//!
//! Fields as in [`mp_core::fields`]; what is long comes last, so that it is not copied once more.

use std::fmt;
use std::num::NonZero;
use std::sync::{Arc, Mutex};

use mp_core::catch_panic;
use mp_core::fields::{Reader, Writer};
use mp_process::Function;

use crate::TaskError;
use crate::body::Body;
use crate::engine::Job;
use crate::error::Panic;
use crate::pool::{Core, Pool};
use crate::result::{Outcome, Sink, lock};

/// What a task begins with: another form of it has another one.
const MAGIC: u32 = u32::from_le_bytes(*b"mpt1");

const NONE: u64 = u64::MAX;

impl Job {
    /// The task as bytes, for [`Pool::submit_bytes`] in a process of the same program, on any machine.
    ///
    /// # Errors
    ///
    /// As [`arguments`](Self::arguments).
    pub fn to_bytes(&self) -> Result<Vec<u8>, TaskError> {
        let encode = |error: mp_core::Error| TaskError::Encode(error.to_string());
        let arguments = self.arguments()?;
        let function = mp_core::encode(&self.function).map_err(encode)?;
        let mut writer = Writer::new();
        let items = self.items.map_or(0, |(_, len)| len.get() as u64);
        writer.u32(MAGIC).u64(self.timeout).u64(items).bytes(function.bytes());
        let mut bytes = writer.into_bytes();
        bytes.extend_from_slice(&arguments);
        Ok(bytes)
    }

    /// Ends it with an outcome that [`Pool::submit_bytes`] gave elsewhere. What that says of the task is put in terms
    /// of this pool: its number, function and items.
    ///
    /// Bytes that are no outcome end it too, with [`TaskError::Decode`].
    pub fn end_with_bytes(self, outcome: Vec<u8>) {
        let outcome = decode(&self, outcome).unwrap_or_else(|error| {
            Err(TaskError::Decode(self.explain("the outcome", &error.to_string())))
        });
        self.finish(outcome);
    }
}

/// A task from elsewhere: its function, and its arguments.
pub(crate) struct Foreign {
    function: Function,
    timeout: u64,
    items: Option<(usize, NonZero<usize>)>,
    body: Body,
}

pub(crate) fn read(bytes: &[u8]) -> mp_core::Result<Foreign> {
    let mut reader = Reader::new(bytes);
    if reader.u32()? != MAGIC {
        return Err(mp_core::Error::Protocol("a task in a form that is not known"));
    }
    let timeout = reader.u64()?;
    let items = usize::try_from(reader.u64()?).unwrap_or(usize::MAX);
    let function = reader.bytes()?.to_vec();
    let body = Body::with(reader.into_rest().to_vec(), Vec::new());
    Ok(Foreign {
        function: mp_core::decode(mp_core::Message::new(function, Vec::new()))?,
        timeout,
        items: NonZero::new(items).map(|len| (0, len)),
        body,
    })
}

/// What an outcome ends with.
mod tag {
    pub(super) const VALUE: u8 = 0;
    pub(super) const PANICKED: u8 = 1;
    pub(super) const DIED: u8 = 2;
    pub(super) const TIMED_OUT: u8 = 3;
    pub(super) const CANCELLED: u8 = 4;
    pub(super) const TERMINATED: u8 = 5;
    pub(super) const CLOSED: u8 = 6;
    pub(super) const NO_WORKERS: u8 = 7;
    pub(super) const ENCODE: u8 = 8;
    pub(super) const DECODE: u8 = 9;
}

fn encode(outcome: Outcome) -> Vec<u8> {
    let error = match outcome {
        Ok(body) if body.fds().is_empty() => match body.into_bytes() {
            Ok(mut bytes) => {
                bytes.push(tag::VALUE);
                return bytes;
            }
            Err(error) => TaskError::Decode(format!("the result cannot be taken over: {error}")),
        },
        Ok(_) => TaskError::Encode(
            "the result: it holds handles (a queue, a lock, an end of a pipe, ...), which do not leave their machine"
                .to_string(),
        ),
        Err(error) => error,
    };
    let mut writer = Writer::new();
    let tag = match error {
        TaskError::Panicked(panic) => {
            let one = |items: &std::ops::Range<usize>| items.len() == 1;
            let item = panic.task().items().filter(one).map_or(NONE, |items| items.start as u64);
            writer.u64(item).bytes(panic.message().as_bytes());
            tag::PANICKED
        }
        TaskError::WorkerDied { pid, exit_code, .. } => {
            let code = exit_code.map_or(NONE, |code| u64::from(code.cast_unsigned()));
            writer.u32(pid).u64(code);
            tag::DIED
        }
        TaskError::TimedOut => tag::TIMED_OUT,
        TaskError::Cancelled => tag::CANCELLED,
        TaskError::Terminated => tag::TERMINATED,
        TaskError::Closed => tag::CLOSED,
        TaskError::NoWorkers(why) => {
            writer.bytes(why.as_bytes());
            tag::NO_WORKERS
        }
        TaskError::Encode(why) => {
            writer.bytes(why.as_bytes());
            tag::ENCODE
        }
        TaskError::Decode(why) => {
            writer.bytes(why.as_bytes());
            tag::DECODE
        }
        // Not of a task.
        TaskError::ZeroChunk => {
            writer.bytes(error.to_string().as_bytes());
            tag::ENCODE
        }
    };
    writer.u8(tag);
    writer.into_bytes()
}

fn decode(job: &Job, mut bytes: Vec<u8>) -> mp_core::Result<Outcome> {
    let tag = bytes.pop().ok_or(mp_core::Error::Protocol("an outcome of no bytes"))?;
    if tag == tag::VALUE {
        return Ok(Ok(Body::with(bytes, Vec::new())));
    }
    let mut reader = Reader::new(&bytes);
    let text = |reader: &mut Reader<'_>| -> mp_core::Result<String> {
        Ok(String::from_utf8_lossy(reader.bytes()?).into_owned())
    };
    let error = match tag {
        tag::PANICKED => {
            let item = u32::try_from(reader.u64()?).ok();
            TaskError::Panicked(Panic::new(text(&mut reader)?, job.task_at(item)))
        }
        tag::DIED => {
            let pid = reader.u32()?;
            let exit_code = u32::try_from(reader.u64()?).ok().map(u32::cast_signed);
            TaskError::WorkerDied { pid, exit_code, task: job.task() }
        }
        tag::TIMED_OUT => TaskError::TimedOut,
        tag::CANCELLED => TaskError::Cancelled,
        tag::TERMINATED => TaskError::Terminated,
        tag::CLOSED => TaskError::Closed,
        tag::NO_WORKERS => TaskError::NoWorkers(text(&mut reader)?),
        tag::ENCODE => TaskError::Encode(format!("{}: {}", job.task(), text(&mut reader)?)),
        tag::DECODE => TaskError::Decode(format!("{}: {}", job.task(), text(&mut reader)?)),
        _ => return Err(mp_core::Error::Protocol("an outcome of a kind that is not known")),
    };
    reader.finish()?;
    Ok(Err(error))
}

/// Takes the outcome of one task, as bytes.
type Done = Box<dyn FnOnce(Vec<u8>) + Send>;

struct Once(Mutex<Option<Done>>);

impl Sink for Once {
    fn deliver(&self, _: usize, outcome: Outcome) {
        let done = lock(&self.0).take();
        if let Some(done) = done {
            let _ = catch_panic(|| done(encode(outcome)));
        }
    }
}

/// A task that came to this pool as bytes. Made by [`Pool::submit_bytes`].
///
/// Dropping it changes nothing.
pub struct Submitted {
    core: Arc<Core>,
    sink: Arc<dyn Sink>,
}

impl Submitted {
    /// As [`AsyncResult::cancel`](crate::AsyncResult::cancel).
    pub fn cancel(&self) -> bool {
        self.core.cancel(&self.sink, true)
    }

    /// As [`AsyncResult::cancel_pending`](crate::AsyncResult::cancel_pending): what this ends has not begun, and can
    /// be run elsewhere.
    pub fn cancel_pending(&self) -> bool {
        self.core.cancel(&self.sink, false)
    }
}

impl fmt::Debug for Submitted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Submitted").finish_non_exhaustive()
    }
}

/// An outcome that [`Pool::submit_bytes`] did not give, in the form that [`Job::end_with_bytes`] takes.
#[must_use]
pub fn outcome_to_bytes(outcome: Result<Vec<u8>, TaskError>) -> Vec<u8> {
    encode(outcome.map(|bytes| Body::with(bytes, Vec::new())))
}

impl Pool {
    /// Submits a task that [`Job::to_bytes`] made, in this process or another of the same program; calls `done` with
    /// its outcome, for [`Job::end_with_bytes`].
    ///
    /// For the far side of an [engine](crate::engine) that sends tasks. Does not wait. `done` is called once,
    /// whatever becomes of the task, as soon as that is known and from wherever it is: mostly a thread of the pool,
    /// which it holds up, so it should pass the outcome on and no more. Its panics end there. The task's time limit is
    /// its own, or else this pool's.
    ///
    /// Run only what comes from this program: bytes say which of its functions is called.
    ///
    /// # Errors
    ///
    /// [`TaskError::Decode`] where the bytes are no task, or one of another build of this program, which the text then
    /// names, as this one. `done` is not called then.
    ///
    /// # Example
    ///
    /// ```standalone_crate
    /// use std::sync::{Arc, mpsc};
    ///
    /// use mp_pool::engine::{Call, Engine, Job};
    /// use mp_pool::{Pool, TaskError};
    ///
    /// /// Has another pool run the tasks, as one of another machine would.
    /// struct Relay(Pool);
    ///
    /// impl Engine for Relay {
    ///     fn workers(&self) -> usize {
    ///         self.0.workers().len()
    ///     }
    ///
    ///     fn submit(&self, job: Job) {
    ///         let (task, (sender, outcome)) = (job.to_bytes(), mpsc::channel());
    ///         match task {
    ///             Ok(task) => {
    ///                 let done = move |outcome| sender.send(outcome).expect("is waited for");
    ///                 self.0.submit_bytes(&task, done).expect("is a task");
    ///                 // A better one does not wait.
    ///                 job.end_with_bytes(outcome.recv().expect("comes"));
    ///             }
    ///             Err(error) => job.end(Err(error)),
    ///         }
    ///     }
    ///
    ///     fn cancel(&self, _: Call, _running: bool) -> bool {
    ///         false
    ///     }
    ///
    ///     fn close(&self) {
    ///         self.0.close();
    ///     }
    ///
    ///     fn terminate(&self) {
    ///         self.0.terminate();
    ///     }
    ///
    ///     fn join(&self) {
    ///         self.0.join().expect("is closed");
    ///     }
    /// }
    ///
    /// fn main() -> Result<(), Box<dyn std::error::Error>> {
    ///     mp_process::init();
    ///     let pool = Pool::builder().engine(Relay(Pool::new(2)?)).build()?;
    ///     assert_eq!(pool.map(|x: u64| x * x, 0..5)?, [0, 1, 4, 9, 16]);
    ///     let died = pool.apply(|| std::process::exit(3), ());
    ///     assert!(matches!(died, Err::<(), _>(TaskError::WorkerDied { exit_code: Some(3), .. })));
    ///     Ok(())
    /// }
    /// ```
    pub fn submit_bytes(
        &self,
        task: &[u8],
        done: impl FnOnce(Vec<u8>) + Send + 'static,
    ) -> Result<Submitted, TaskError> {
        let Foreign { function, timeout, items, body } =
            read(task).map_err(|error| TaskError::Decode(error.to_string()))?;
        let sink: Arc<dyn Sink> = Arc::new(Once(Mutex::new(Some(Box::new(done)))));
        let submitted = Submitted { core: Arc::clone(self.core()), sink: Arc::clone(&sink) };
        let job = Job {
            number: 0,
            function,
            name: None,
            items,
            timeout,
            body,
            sink: Some(sink),
            part: 0,
        };
        self.core().submit(job);
        Ok(submitted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Name;
    use crate::error::Task;
    use crate::result::Stream;
    use mp_process::Convention;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    struct Nothing;

    impl<F: Fn()> Convention<F> for Nothing {
        fn call(
            f: F,
            _: &mut mp_core::Decoder<'_>,
            _: &mut mp_core::Encoder,
        ) -> mp_core::Result<()> {
            f();
            Ok(())
        }
    }

    fn job(
        stream: &Arc<Stream>,
        items: Option<(usize, usize)>,
        fds: Vec<std::os::fd::OwnedFd>,
    ) -> Job {
        let function = (Function::new::<_, Nothing>(|| {}), (|| "f") as Name);
        let sink = Arc::clone(stream) as Arc<dyn Sink>;
        let mut job = Job::new(function, items, Body::with(vec![1, 2, 3], fds), sink, 0);
        (job.number, job.timeout) = (7, 3_000_000);
        job
    }

    /// What comes of an outcome that was bytes on its way.
    fn there_and_back(outcome: Outcome) -> Outcome {
        let stream = Stream::new();
        job(&stream, Some((10, 5)), Vec::new()).end_with_bytes(encode(outcome));
        let mut outcomes = VecDeque::new();
        stream.take(&mut outcomes);
        outcomes.pop_front().expect("one").1
    }

    #[test]
    fn a_task_comes_back_and_one_with_descriptors_is_refused() {
        let stream = Stream::new();
        let sent = job(&stream, Some((10, 5)), Vec::new());
        let read = read(&sent.to_bytes().unwrap()).unwrap();
        assert_eq!(read.function.key(), sent.function.key());
        assert_eq!((read.timeout, read.items), (3_000_000, NonZero::new(5).map(|len| (0, len))));
        assert_eq!(read.body.bytes, [1, 2, 3]);

        let null = std::fs::File::open("/dev/null").unwrap();
        let Err(TaskError::Encode(why)) = job(&stream, None, vec![null.into()]).to_bytes() else {
            panic!("descriptors are no bytes");
        };
        assert!(why.contains("task 7 (f)") && why.contains("handles"), "{why}");
    }

    #[test]
    fn outcomes_come_back_in_terms_of_the_task_here() {
        let there = || Task::new(0, "", Some(0..5));
        let here = || Task::new(7, "f", Some(10..15));
        let died = |exit_code, task| TaskError::WorkerDied { pid: 3, exit_code, task };
        for code in [None, Some(-9), Some(0), Some(255)] {
            let back = there_and_back(Err(died(code, there())));
            assert_eq!(back.unwrap_err(), died(code, here()));
        }
        let panicked = |task| TaskError::Panicked(Panic::new("boom".to_string(), task));
        let back = there_and_back(Err(panicked(there())));
        assert_eq!(back.unwrap_err(), panicked(here()));
        let back = there_and_back(Err(panicked(Task::new(0, "", Some(2..3)))));
        assert_eq!(back.unwrap_err(), panicked(Task::new(7, "f", Some(12..13))));
        for same in [
            TaskError::TimedOut,
            TaskError::Cancelled,
            TaskError::Terminated,
            TaskError::Closed,
            TaskError::NoWorkers("why".to_string()),
        ] {
            assert_eq!(there_and_back(Err(same.clone())).unwrap_err(), same);
        }
        let back = there_and_back(Err(TaskError::Encode("the result: why".to_string())));
        assert_eq!(
            back.unwrap_err().to_string(),
            "cannot send it: task 7 (f, items 10..15): the result: why"
        );
        let value = Body::with(vec![9, 9], Vec::new());
        assert_eq!(there_and_back(Ok(value)).unwrap().bytes, [9, 9]);
    }

    #[test]
    fn a_job_that_is_dropped_ends() {
        let stream = Stream::new();
        drop(job(&stream, None, Vec::new()));
        let mut outcomes = VecDeque::new();
        stream.take(&mut outcomes);
        assert_eq!(outcomes[0].1.as_ref().unwrap_err(), &TaskError::Terminated);
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_task_or_none_and_an_outcome_or_none(bytes: Vec<u8>, tag in 0_u8..12) {
            let _ = read(&bytes);
            let stream = Stream::new();
            let mut bytes = bytes;
            bytes.push(tag);
            job(&stream, None, Vec::new()).end_with_bytes(bytes);
            let mut outcomes = VecDeque::new();
            stream.take(&mut outcomes);
            prop_assert_eq!(outcomes.len(), 1);
        }
    }
}

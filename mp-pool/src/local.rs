//! Who does what: the tasks, the workers, and the thread that brings them together.
//!
//! Each worker has a pipe of its own, down which tasks go ahead of their turn, so that it never waits for the next.
//! Whoever submits a task sends it, as long as a worker has room; what finds none waits here. One thread takes
//! results, refills, watches how workers end, and replaces them. It sleeps while nothing happens.
//!
//! The parent alone knows which worker has which tasks; which of them is begun the worker says in its
//! [`Claims`]. So when a worker ends, the one that it had begun is lost, and those behind go to the front of what
//! waits. The same is done for a worker that is idle while another has more than it can begin, or does not begin for long
//! what it has, as it is stopped; and before a worker is killed on purpose: once what it has not begun is taken back,
//! only the task that is meant can be running.
//!
//! Locks: the state's is held for moments, never while a process is started or a result is given to whoever waits
//! for it.

use std::collections::{HashMap, VecDeque};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use mp_core::sys::clock::monotonic_nanos;
use mp_core::sys::fd::{Event, PollFd, poll};
use mp_core::sys::process;
use mp_core::{Deadline, Message, catch_panic, crash_point};
use mp_pipe::{Receiver, Sender};
use mp_process::{AnyChild, Function, Process, StartMethod};

use crate::body::Body;
use crate::claims::{Claims, is_after};
use crate::engine::{self, Call, Done, Job, NO_TIMEOUT, deliver};
use crate::error::{Panic, exit_code};
use crate::result::{Outcome, lock};
use crate::worker::{HEADER, Order, Report, Status, serve};
use crate::{Error, Result, TaskError};

/// So many tasks a worker may have in its pipe.
const AHEAD: usize = 512;
/// And so many if they are long.
const LONG_AHEAD: usize = 4;
/// Workers in a row that can never be started, fail in the initializer, or end by themselves before they have done
/// anything; then no more are started. That one is killed says nothing of the next.
const MOST_FAILURES: u32 = 8;
/// Between two attempts to take a result for which there was no descriptor.
const RETRY: Duration = Duration::from_millis(5);
/// For so long a result is tried to be taken; then its task ends without it.
const RETRIES: Duration = Duration::from_secs(1);
/// How long a worker that is to end by itself has for that, before it is killed.
const GRACE: Duration = Duration::from_secs(5);
/// After the first and each further failure.
const BACK_OFF: Duration = Duration::from_millis(4);
const LONGEST_BACK_OFF: Duration = Duration::from_secs(1);
/// Between the end of an idle worker and the start of another: at the end of the program workers are ended
/// before this thread is.
const IDLE_PAUSE: Duration = Duration::from_millis(20);
/// For so long after the last result the thread only lets others run before it looks again.
const PATIENCE_NANOS: u64 = 50_000;
/// Where all workers have enough to do, the thread leaves them the processors for so long before it looks again. To let
/// others run instead would be to take turns with them: with two workers on two processors, one would be worth a half.
const REST: Duration = Duration::from_micros(50);
/// What enough is: in times as long, and in tasks.
const ENOUGH: u64 = 4;
const FEW: u64 = 4;
/// A longer time without results says no more of the next one.
const LONG_NANOS: u64 = 1_000_000;
/// So many results are taken from a worker at a time.
const MOST_RESULTS: usize = 512;
/// A task that has lain so long with a worker that begins nothing goes to another that is idle.
const STILL: Duration = Duration::from_millis(50);
/// A queue that has room for more, and for four times what it has, gives that back.
const ROOM_KEPT: usize = 1024;

/// What a pool is to be.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) workers: usize,
    /// What each worker runs first, and its arguments.
    pub(crate) initializer: Option<(Function, Body)>,
    pub(crate) tasks_per_worker: Option<u64>,
    pub(crate) method: StartMethod,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    /// Takes no tasks, does those it has.
    Closed,
    Terminated,
}

/// What is in a worker's pipe.
pub(crate) enum Sent {
    /// The initializer.
    Start,
    Task(Job),
    /// A task whose outcome is known already: its worker is about to be killed.
    Ended,
}

/// All that is in a worker's pipe, with the numbers that it knows it by.
pub(crate) type Queue = VecDeque<(u32, Sent)>;

/// What a report is, of what is in the pipe.
pub(crate) enum Answer {
    /// None that was to come: of what was taken away from it, or it is out of its mind.
    Unasked,
    /// The end of a task.
    Ended(Done),
    /// The initializer is done, or why it is not.
    Started(std::result::Result<(), String>),
    /// The end of a task that had ended before.
    Known,
}

/// Takes what a report is about out of the pipe.
pub(crate) fn answer(sent: &mut Queue, report: Report, body: Body) -> Answer {
    if sent.front().is_none_or(|(number, _)| *number != report.number) {
        return Answer::Unasked;
    }
    match sent.pop_front() {
        Some((_, Sent::Task(task))) => {
            let outcome = outcome(&task, report, body);
            Answer::Ended(task.with(outcome))
        }
        Some((_, Sent::Start)) if report.status == Status::Value => Answer::Started(Ok(())),
        Some((_, Sent::Start)) => Answer::Started(Err(initializer_failed(report, &body.bytes))),
        Some((_, Sent::Ended)) | None => Answer::Known,
    }
}

/// Takes what comes after the number `begun` out of the pipe.
pub(crate) fn take_back(sent: &mut Queue, begun: u32) -> Vec<(u32, Sent)> {
    let keep = sent.iter().take_while(|(number, _)| !is_after(*number, begun)).count();
    sent.drain(keep..).collect()
}

/// The next report of a worker, if it has come; `None` where it is none.
pub(crate) fn receive(receiver: &Receiver<()>) -> mp_pipe::Result<Option<(Report, Body)>> {
    receiver.try_recv_message_with(|bytes, fds| {
        let (mut report, body) = Report::read(bytes)?;
        let body = Body::received(body, fds, report.aside).unwrap_or_else(|error| {
            report.status = Status::Untaken;
            Body::with(error.to_string().into_bytes(), Vec::new())
        });
        Some((report, body))
    })
}

/// A worker that has not been seen to end.
struct Worker {
    key: u64,
    child: AnyChild,
    sender: Sender<()>,
    claims: Claims,
    /// How many functions it knows.
    functions: usize,
    /// The number of the next task.
    next: u32,
    sent: Queue,
    /// How many tasks it may still be given.
    left: u64,
    /// Whether it has done anything: its initializer, or a task.
    has_worked: bool,
    /// Whether it takes tasks: has done its initializer.
    ready: bool,
    /// Whether its pipe was full when last tried. Each result makes room.
    full: bool,
    /// Whether it is about to end, or has.
    leaving: bool,
    /// The first task in its pipe when that was last seen not to be begun, and when it was first seen so.
    lies: Option<(u32, u64)>,
    /// What it said when a task was taken back that it had not begun for long: see [`life`](Self::life).
    still: Option<(u64, u32)>,
}

impl Worker {
    /// Other numbers where it has looked at a task since.
    fn life(&self) -> (u64, u32) {
        (self.claims.passed(), self.claims.begun())
    }

    /// Whether it did not begin its task for long, and has done nothing since: it is stopped, as by SIGSTOP, or has not
    /// come to run.
    fn is_still(&self) -> bool {
        self.still.is_some_and(|life| life == self.life())
    }

    /// Since when the first task in its pipe is known to lie there without being begun, looked at `now`; `None` where it
    /// is begun, or there is none.
    fn lies_since(&mut self, now: u64) -> Option<u64> {
        let first = match self.sent.front() {
            Some((number, Sent::Task(_))) if self.ready && !self.leaving => *number,
            _ => return None,
        };
        if !is_after(first, self.claims.begun()) {
            return None;
        }
        match self.lies {
            Some((number, since)) if number == first => Some(since),
            _ => {
                self.lies = Some((first, now));
                Some(now)
            }
        }
    }

    fn takes_tasks(&self) -> bool {
        self.ready && !self.leaving && !self.full && self.left > 0 && self.sent.len() < AHEAD
    }

    fn number(&mut self) -> u32 {
        let number = self.next;
        self.next = number.wrapping_add(1);
        number
    }

    /// The tasks that it has not begun, which it will not begin any more.
    fn take_back(&mut self) -> Vec<Job> {
        let begun = self.claims.take_back(self.next.wrapping_sub(1));
        crash_point!("pool: tasks are taken back");
        let back = take_back(&mut self.sent, begun);
        self.left = self.left.saturating_add(back.len() as u64);
        back.into_iter()
            .filter_map(|(_, sent)| match sent {
                Sent::Task(task) => Some(task),
                Sent::Start | Sent::Ended => None,
            })
            .collect()
    }

    /// The task that it has begun and not ended, if it has one. Those before it, if there are any, have ended.
    fn running(&mut self) -> Option<&mut Sent> {
        let begun = self.claims.begun();
        if self.claims.ended() == begun {
            return None;
        }
        self.sent.iter_mut().find(|(number, _)| *number == begun).map(|(_, sent)| sent)
    }
}

/// What became of an attempt to send a task.
enum Attempt {
    Sent,
    /// This worker has no room, or is gone.
    Refused(Job),
    /// No worker can be sent it.
    Impossible(Done),
}

struct State {
    phase: Phase,
    /// Why there are no workers any more.
    broken: Option<String>,
    waiting: VecDeque<Job>,
    workers: Vec<Worker>,
    /// As workers are told of them, and the number of each.
    functions: Vec<Vec<u8>>,
    function_numbers: HashMap<usize, u32>,
    /// The one that was asked for last, and its number.
    last_function: (usize, u32),
    /// Whether there was a task yet that may run for a limited time only.
    timed: bool,
    /// When the thread looks again whether one has run too long, if nothing wakes it before.
    next_look: u64,
    /// Whether the thread sleeps until something comes: then it does not see a task that lies.
    asleep: bool,
}

/// What became of an attempt to give an idle worker something.
enum Share {
    /// There is something that waits to be sent.
    Taken,
    /// There is nothing to take, yet.
    Later(Deadline),
}

impl State {
    /// The number of a function for the workers, which it may be new to.
    fn function(&mut self, function: &Function) -> mp_core::Result<u32> {
        let key = function.key();
        if self.last_function.0 == key {
            return Ok(self.last_function.1);
        }
        let number = match self.function_numbers.get(&key) {
            Some(&number) => number,
            None => {
                let number = self.functions.len() as u32;
                self.functions.push(mp_core::encode(function)?.into_parts().0);
                self.function_numbers.insert(key, number);
                number
            }
        };
        self.last_function = (key, number);
        Ok(number)
    }

    /// The worker with the fewest tasks, of those that take some. One that stands still is the last.
    fn least_busy(&self) -> Option<usize> {
        let workers = self.workers.iter().enumerate().filter(|(_, worker)| worker.takes_tasks());
        let busy = |worker: &Worker| (worker.is_still(), worker.sent.len());
        workers.min_by_key(|(_, worker)| busy(worker)).map(|(index, _)| index)
    }

    fn send(&mut self, index: usize, task: Job) -> Attempt {
        let function = match self.function(&task.function) {
            Ok(function) => function,
            Err(error) => {
                return Attempt::Impossible(task.with(Err(TaskError::Encode(error.to_string()))));
            }
        };
        crash_point!("pool: a task is about to be sent");
        let worker = &mut self.workers[index];
        let mut result = Ok(());
        while result.is_ok() && worker.functions <= function as usize {
            let define = Order {
                number: 0,
                function: worker.functions as u32,
                define: true,
                aside: false,
                timed: false,
            };
            let body = &self.functions[worker.functions];
            result = send_order(&worker.sender, define, body);
            crash_point!("pool: a function is sent");
            worker.functions += usize::from(result.is_ok());
        }
        let (mut task, number) = (task, worker.next);
        if result.is_ok() {
            let body = &mut task.body;
            let (plain, aside) = (body.is_plain(), body.aside().is_some());
            let timed = task.timeout != NO_TIMEOUT;
            let order = Order { number, function, define: false, aside, timed };
            result = if plain {
                send_order(&worker.sender, order, &body.bytes)
            } else {
                send_with_descriptors(&worker.sender, order, body)
            };
        }
        match result {
            Ok(()) => {
                crash_point!("pool: a task is sent");
                worker.number();
                worker.left -= 1;
                // Of long ones not many go ahead.
                worker.full = task.body.is_long() && worker.sent.len() >= LONG_AHEAD;
                worker.sent.push_back((number, Sent::Task(task)));
                Attempt::Sent
            }
            Err(mp_pipe::Error::WouldBlock) => {
                worker.full = true;
                Attempt::Refused(task)
            }
            Err(mp_pipe::Error::Disconnected | mp_pipe::Error::Damaged(_)) => {
                worker.leaving = true;
                Attempt::Refused(task)
            }
            Err(error) => {
                Attempt::Impossible(task.with(Err(TaskError::Encode(format!("{error:?}")))))
            }
        }
    }

    /// Sends what waits to workers that have room.
    fn refill(&mut self, done: &mut Vec<Done>) {
        while let Some(task) = self.waiting.pop_front() {
            let Some(index) = self.least_busy() else {
                self.waiting.push_front(task);
                break;
            };
            match self.send(index, task) {
                Attempt::Sent => {}
                Attempt::Refused(task) => self.waiting.push_front(task),
                Attempt::Impossible(end) => done.push(end),
            }
        }
        if self.waiting.capacity() > 4 * self.waiting.len() + ROOM_KEPT {
            self.waiting.shrink_to_fit();
        }
    }

    /// Puts tasks that were taken back where they will be taken from next.
    fn put_back(&mut self, tasks: Vec<Job>) {
        for task in tasks.into_iter().rev() {
            self.waiting.push_front(task);
        }
    }

    /// Where a worker is idle and another has more than one task, takes back what that one has not begun; and so a
    /// single task that it has not begun for long. Says when to look again, where there was no result for so many
    /// nanoseconds.
    ///
    /// There is a time to that only where a task lies with a worker that another could begin, and for a while after the
    /// last result. Then whoever submits a task that could lie wakes the thread: see [`may_lie`](Self::may_lie).
    fn share(&mut self, silence: u64) -> Share {
        let still = STILL.as_nanos() as u64;
        self.asleep = !self.waiting.is_empty();
        if self.asleep {
            return Share::Later(Deadline::NEVER);
        }
        let idle = |worker: &Worker| worker.takes_tasks() && worker.sent.is_empty();
        let is_idle = self.workers.iter().any(idle);
        let awake = |worker: &Worker| idle(worker) && !worker.is_still();
        let can_share = is_idle && self.workers.iter().any(awake);
        let mut soonest = u64::MAX;
        if is_idle {
            let now = monotonic_nanos();
            let mut chosen = None;
            for (index, worker) in self.workers.iter_mut().enumerate() {
                let since = worker.lies_since(now);
                let left = since.map(|since| (since + still).saturating_sub(now));
                let is_due = left == Some(0) || worker.sent.len() > 1;
                if let Some(left) = left.or(is_due.then_some(still)) {
                    // Where only one that stands still is idle, that is to be seen when it goes on.
                    soonest = soonest.min(if left == 0 { still } else { left });
                }
                if is_due && can_share {
                    let key = (left == Some(0), worker.sent.len());
                    chosen = chosen.max(Some((key, index)));
                }
            }
            if let Some(((is_late, _), index)) = chosen {
                let worker = &mut self.workers[index];
                let back = worker.take_back();
                if is_late && worker.sent.is_empty() {
                    worker.still = Some(worker.life());
                }
                if !back.is_empty() {
                    self.put_back(back);
                    return Share::Taken;
                }
            }
        }
        if soonest == u64::MAX && silence < still {
            soonest = still - silence;
        }
        self.asleep = soonest == u64::MAX;
        Share::Later(match soonest {
            u64::MAX => Deadline::NEVER,
            nanos => Deadline::after(Duration::from_nanos(nanos)),
        })
    }

    /// Whether the thread, which sleeps, is to be woken as a task may lie with a worker while another is idle.
    fn may_lie(&mut self) -> bool {
        self.asleep
            && self.workers.iter().any(|worker| worker.takes_tasks() && worker.sent.is_empty())
            && std::mem::take(&mut self.asleep)
    }

    /// Ends all tasks.
    fn end_all(&mut self, error: &TaskError) -> Vec<Done> {
        let mut tasks: Vec<_> = std::mem::take(&mut self.waiting).into();
        for worker in &mut self.workers {
            let sent = worker.sent.drain(..);
            tasks.extend(sent.filter_map(|(_, sent)| match sent {
                Sent::Task(task) => Some(task),
                Sent::Start | Sent::Ended => None,
            }));
        }
        tasks.into_iter().map(|task| task.with(Err(error.clone()))).collect()
    }

    /// Notes when a task that may begin now has run too long. Whether the thread would sleep for longer.
    fn looks_sooner(&mut self, timeout: u64) -> bool {
        let end = monotonic_nanos().saturating_add(timeout);
        self.timed = true;
        let sooner = end < self.next_look;
        self.next_look = self.next_look.min(end);
        sooner
    }

    fn has_tasks(&self) -> bool {
        !self.waiting.is_empty() || self.workers.iter().any(|worker| !worker.sent.is_empty())
    }

    fn worker(&mut self, key: u64) -> Option<&mut Worker> {
        self.workers.iter_mut().find(|worker| worker.key == key)
    }
}

fn send_order(sender: &Sender<()>, order: Order, body: &[u8]) -> mp_pipe::Result<()> {
    sender.try_send_with(HEADER + body.len(), |bytes| {
        bytes[..HEADER].copy_from_slice(&order.to_bytes());
        bytes[HEADER..].copy_from_slice(body);
    })
}

fn send_with_descriptors(
    sender: &Sender<()>,
    order: Order,
    body: &mut Body,
) -> mp_pipe::Result<()> {
    let bytes = [&order.to_bytes()[..], &body.bytes].concat();
    let message = Message::new(bytes, body.lend_descriptors()?);
    let result = sender.try_send_message(&message);
    body.take_descriptors_back(message.into_parts().1);
    result
}

/// A worker's pipe and process, as the thread has them.
struct Link {
    key: u64,
    receiver: Receiver<()>,
    child: AnyChild,
    /// Whether all that came through the pipe was taken, and no more will.
    silent: bool,
    /// Whether the process is known to have ended.
    ended: bool,
    /// When to kill it, or to give it up where it was killed.
    limit: Deadline,
    killed: bool,
    /// Why the next result could not be taken, if that is so.
    lack: Option<Lack>,
}

/// The system has not given what it takes to receive a result: a descriptor, mostly.
struct Lack {
    why: String,
    /// When to try again.
    again: Deadline,
    /// When the tasks that have ended, but cannot be heard of, end without their results.
    limit: Deadline,
}

impl Link {
    /// Whether it is to be listened to when there is something to hear.
    fn is_heard(&self) -> bool {
        !self.silent && self.lack.is_none()
    }

    /// Notes that a result could not be taken.
    fn lacks(&mut self, error: &mp_pipe::Error) {
        let (why, again) = (format!("{error:?}"), Deadline::after(RETRY));
        match &mut self.lack {
            Some(lack) => (lack.why, lack.again) = (why, again),
            None => self.lack = Some(Lack { why, again, limit: Deadline::after(RETRIES) }),
        }
    }

    fn kill(&mut self) {
        if !self.killed {
            self.killed = true;
            // It may not be ours to signal any more, where this process has changed its user.
            let is_refused = self.child.kill().is_err();
            // Then there is no more to be done for one that has had its time to end by itself.
            if !(is_refused && self.limit.has_passed()) {
                self.limit = Deadline::after(GRACE);
            }
        }
    }
}

/// Starts a worker and sends it the initializer.
fn hire(settings: &Settings, method: StartMethod, key: u64) -> Result<(Worker, Link)> {
    let (ours, theirs) = mp_pipe::duplex::<(), ()>()?;
    let claims = Claims::new()?;
    let child = Process::new(serve, (theirs, claims.memory().clone()))
        .name(format!("PoolWorker-{key}"))
        .daemon(true)
        .start_method(method)
        .start()
        .map_err(Error::Start)?;
    let child = AnyChild::clone(&child);
    let (sender, receiver) = ours.split();
    let mut worker = Worker {
        key,
        child: child.clone(),
        sender,
        claims,
        functions: 0,
        next: 1,
        sent: VecDeque::new(),
        left: settings.tasks_per_worker.unwrap_or(u64::MAX),
        has_worked: false,
        ready: settings.initializer.is_none(),
        full: false,
        leaving: false,
        lies: None,
        still: None,
    };
    let mut link = Link {
        key,
        receiver,
        child,
        silent: false,
        ended: false,
        limit: Deadline::NEVER,
        killed: false,
        lack: None,
    };
    if let Some((function, body)) = &settings.initializer
        && let Err(error) = send_initializer(&mut worker, function, body)
    {
        link.kill();
        return Err(error);
    }
    Ok((worker, link))
}

/// The initializer is function 0 and the first thing that a worker does.
fn send_initializer(worker: &mut Worker, function: &Function, body: &Body) -> Result<()> {
    let encode = |error: mp_core::Error| Error::Encode(error.to_string());
    let function = mp_core::encode(function).map_err(encode)?;
    let define = Order { number: 0, function: 0, define: true, aside: false, timed: false };
    send_order(&worker.sender, define, function.bytes())?;
    worker.functions = 1;
    let number = worker.number();
    // Each worker is sent a message of its own.
    let (bytes, fds) = body.read()?;
    let mut body = Body::with(bytes.into_owned(), fds);
    body.pack();
    let aside = body.aside().is_some();
    let order = Order { number, function: 0, define: false, aside, timed: false };
    send_with_descriptors(&worker.sender, order, &mut body)?;
    worker.sent.push_back((number, Sent::Start));
    Ok(())
}

/// Waits until a new worker has done its initializer.
fn await_initializer(worker: &mut Worker, link: &mut Link) -> Result<()> {
    if worker.ready {
        return Ok(());
    }
    let answer = link.receiver.recv_message_with(|bytes, _| {
        Report::read(bytes).map(|(report, text)| (report, text.to_vec()))
    });
    match answer {
        Ok(Some((report, _))) if report.status == Status::Value => {
            worker.sent.clear();
            worker.ready = true;
            worker.has_worked = true;
            Ok(())
        }
        Ok(Some((report, text))) => Err(Error::Initializer(initializer_failed(report, &text))),
        Ok(None) | Err(_) => {
            link.kill();
            let pid = link.child.pid();
            let exit_code = exit_code(link.child.join_timeout(GRACE));
            Err(Error::DiedInInitializer { pid, exit_code })
        }
    }
}

fn initializer_failed(report: Report, text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    match report.status {
        Status::Panicked => format!("it panicked: {text}"),
        Status::Undecodable => format!("its arguments cannot be read: {text}"),
        Status::Unencodable | Status::Untaken | Status::Value => text.into_owned(),
    }
}

/// Ends workers of a pool that does not come to be.
fn dismiss(links: Vec<Link>) {
    for link in &links {
        let _ = link.child.kill();
    }
    for link in links {
        let _ = link.child.join_timeout(GRACE);
    }
}

/// The engine of a pool that has workers of its own, here.
pub(crate) struct Local {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    settings: Settings,
    /// Set to have the thread look at the state.
    event: Event,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Local {
    /// Starts the workers, and the thread once each has done its initializer.
    pub(crate) fn start(settings: Settings) -> Result<Self> {
        let (mut workers, mut links) = (Vec::new(), Vec::new());
        match Self::start_with(settings, &mut workers, &mut links) {
            Ok(shared) => Ok(Self { shared }),
            Err(error) => {
                dismiss(links);
                Err(error)
            }
        }
    }

    fn start_with(
        settings: Settings,
        workers: &mut Vec<Worker>,
        links: &mut Vec<Link>,
    ) -> Result<Arc<Shared>> {
        let event = Event::new()?;
        let (mut functions, mut function_numbers) = (Vec::new(), HashMap::new());
        if let Some((function, _)) = &settings.initializer {
            let encoded = mp_core::encode(function);
            let encoded = encoded.map_err(|error| Error::Encode(error.to_string()))?;
            functions.push(encoded.into_parts().0);
            function_numbers.insert(function.key(), 0);
        }
        for key in 1..=settings.workers as u64 {
            let (worker, link) = hire(&settings, settings.method, key)?;
            workers.push(worker);
            links.push(link);
        }
        for (worker, link) in workers.iter_mut().zip(links.iter_mut()) {
            await_initializer(worker, link)?;
        }
        let state = State {
            phase: Phase::Open,
            broken: None,
            waiting: VecDeque::new(),
            workers: std::mem::take(workers),
            functions,
            function_numbers,
            // No function is there.
            last_function: (0, 0),
            timed: false,
            next_look: u64::MAX,
            asleep: false,
        };
        let keys = settings.workers as u64;
        let engine = Arc::new(Shared {
            state: Mutex::new(state),
            settings,
            event,
            thread: Mutex::new(None),
        });
        // The links stay here until there is a thread to have them.
        let (hand_over, take_over) = mpsc::channel();
        let us = Arc::clone(&engine);
        let run = move || {
            let Ok(links) = take_over.recv() else { return };
            let dispatcher = Dispatcher::new(Arc::clone(&us), links, keys);
            if catch_panic(|| dispatcher.run()).is_err() {
                // A mistake of this crate's: nobody shall wait for ever.
                us.terminate();
            }
        };
        let builder = thread::Builder::new().name("mp-pool".to_string()).stack_size(512 << 10);
        *lock(&engine.thread) = Some(builder.spawn(run)?);
        // It waits for them.
        let _ = hand_over.send(std::mem::take(links));
        Ok(engine)
    }
}

impl engine::Engine for Local {
    fn workers(&self) -> usize {
        self.shared.settings.workers
    }

    fn submit(&self, job: Job) {
        self.shared.submit(job);
    }

    fn cancel(&self, call: Call, running: bool) -> bool {
        self.shared.cancel(call, running)
    }

    fn close(&self) {
        self.shared.close();
    }

    fn terminate(&self) {
        self.shared.terminate();
    }

    fn join(&self) {
        self.shared.join();
    }

    fn pids(&self) -> Vec<u32> {
        self.shared.pids()
    }
}

impl Shared {
    /// Takes a task: from here on it has an outcome, at once where the pool takes none.
    fn submit(&self, mut task: Job) {
        task.body.pack();
        let mut state = lock(&self.state);
        let refused = match (&state.phase, &state.broken) {
            (Phase::Open, None) => None,
            (Phase::Open, Some(why)) => Some(TaskError::NoWorkers(why.clone())),
            (Phase::Closed | Phase::Terminated, _) => Some(TaskError::Closed),
        };
        if let Some(error) = refused {
            drop(state);
            return task.finish(Err(error));
        }
        let sooner = task.timeout != NO_TIMEOUT && state.looks_sooner(task.timeout);
        if !state.waiting.is_empty() {
            // Results will make room.
            state.waiting.push_back(task);
            drop(state);
            if sooner {
                self.event.set();
            }
            return;
        }
        let mut done = Vec::new();
        match state.least_busy() {
            None => state.waiting.push_back(task),
            Some(index) => match state.send(index, task) {
                Attempt::Sent => {}
                Attempt::Impossible(end) => done.push(end),
                Attempt::Refused(task) => {
                    state.waiting.push_back(task);
                    state.refill(&mut done);
                }
            },
        }
        let stuck = !state.waiting.is_empty() && state.workers.iter().any(is_stuck);
        let may_lie = state.may_lie();
        drop(state);
        if stuck || sooner || may_lie {
            self.event.set();
        }
        deliver(done);
    }

    /// Ends the tasks of `call` that are not begun, and if `kill` is set those too that are. Whether there were any.
    fn cancel(&self, call: Call, kill: bool) -> bool {
        let is_of_call = |task: &Job| task.call() == call;
        let mut done = Vec::new();
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        let (ended, kept): (Vec<_>, Vec<_>) =
            std::mem::take(&mut state.waiting).into_iter().partition(is_of_call);
        state.waiting = kept.into();
        let mut tasks = ended;
        let mut back = Vec::new();
        for worker in &mut state.workers {
            let of_call = |(_, sent): &(u32, Sent)| match sent {
                Sent::Task(task) => is_of_call(task),
                Sent::Start | Sent::Ended => false,
            };
            if !worker.sent.iter().any(of_call) {
                continue;
            }
            let (ended, kept): (Vec<_>, Vec<_>) =
                worker.take_back().into_iter().partition(is_of_call);
            tasks.extend(ended);
            back.extend(kept);
            if kill
                && let Some(running @ Sent::Task(_)) = worker.running()
                && let Sent::Task(task) = std::mem::replace(running, Sent::Ended)
            {
                if is_of_call(&task) {
                    tasks.push(task);
                    worker.leaving = true;
                    crash_point!("pool: a worker is about to be killed for its task");
                    let _ = worker.child.kill();
                } else {
                    *running = Sent::Task(task);
                }
            }
        }
        state.put_back(back);
        state.refill(&mut done);
        let may_lie = state.may_lie();
        drop(guard);
        let cancelled = !tasks.is_empty();
        done.extend(tasks.into_iter().map(|task| task.with(Err(TaskError::Cancelled))));
        if cancelled || may_lie {
            self.event.set();
        }
        deliver(done);
        cancelled
    }

    /// Takes no more tasks. The workers end when all are done.
    fn close(&self) {
        let mut state = lock(&self.state);
        if state.phase == Phase::Open {
            state.phase = Phase::Closed;
        }
        drop(state);
        self.event.set();
    }

    /// Ends all tasks and workers.
    fn terminate(&self) {
        let mut state = lock(&self.state);
        state.phase = Phase::Terminated;
        let done = state.end_all(&TaskError::Terminated);
        for worker in &mut state.workers {
            worker.leaving = true;
            let _ = worker.child.kill();
        }
        drop(state);
        deliver(done);
        self.event.set();
    }

    /// Waits until all workers have ended.
    fn join(&self) {
        let mut thread = lock(&self.thread);
        let here = |thread: &JoinHandle<()>| thread.thread().id() == thread::current().id();
        if thread.as_ref().is_some_and(here) {
            return;
        }
        if let Some(thread) = thread.take() {
            // Nobody's code runs in that thread but ours.
            let _ = thread.join();
        }
    }

    /// The numbers of the workers that have not been seen to end.
    fn pids(&self) -> Vec<u32> {
        let state = lock(&self.state);
        state.workers.iter().filter(|worker| !worker.leaving).map(|w| w.child.pid()).collect()
    }
}

/// Whether a worker's pipe is full, but not of tasks: no result will tell when there is room.
fn is_stuck(worker: &Worker) -> bool {
    worker.full && worker.sent.is_empty() && !worker.leaving
}

/// What the thread has.
struct Dispatcher {
    engine: Arc<Shared>,
    links: Vec<Link>,
    /// The last worker's.
    key: u64,
    /// Workers in a row that ended before they had done anything, and why the last one did.
    failures: u32,
    reason: String,
    /// Attempts in a row to start a worker that the system had no room for.
    shortages: u32,
    /// When the next worker may be started.
    next_start: Deadline,
    reports: Vec<(Report, Body)>,
}

/// What the thread does next.
enum Next {
    Sleep(Deadline),
    End,
}

impl Dispatcher {
    fn new(engine: Arc<Shared>, links: Vec<Link>, key: u64) -> Self {
        Self {
            engine,
            links,
            key,
            failures: 0,
            reason: String::new(),
            shortages: 0,
            next_start: Deadline::PASSED,
            reports: Vec::new(),
        }
    }

    fn run(mut self) {
        let mut last_heard = monotonic_nanos();
        // How long it takes until there is another result, as it was of late.
        let mut each = 0;
        loop {
            let heard = self.listen();
            let deadline = match self.look_after() {
                Next::Sleep(deadline) => deadline,
                Next::End => return,
            };
            let silence = monotonic_nanos().saturating_sub(last_heard);
            if heard > 0 {
                last_heard += silence;
                each = (3 * each + silence.min(LONG_NANOS) / heard as u64) / 4;
            } else if silence >= PATIENCE_NANOS {
                if let Share::Later(again) = self.share(silence) {
                    self.sleep(deadline.min(again));
                }
            } else if self.have_enough(each) {
                thread::sleep(REST);
            } else {
                thread::yield_now();
            }
        }
    }

    /// Whether no worker will have done what it has for a while, if there is a result each so many nanoseconds.
    fn have_enough(&self, each: u64) -> bool {
        let state = lock(&self.engine.state);
        let workers = state.workers.iter().filter(|worker| !worker.leaving);
        let least = workers.map(|worker| worker.sent.len() as u64).min().unwrap_or(0);
        let left = each * least * state.workers.len() as u64;
        least >= FEW && left >= ENOUGH * REST.as_nanos() as u64
    }

    /// Takes results, and sends what there is room for then. How many there were.
    fn listen(&mut self) -> usize {
        let mut heard = 0;
        for index in 0..self.links.len() {
            if self.links[index].lack.is_some() {
                self.try_again(index);
            }
            let mut reports = std::mem::take(&mut self.reports);
            let link = &mut self.links[index];
            while link.is_heard() && reports.len() < MOST_RESULTS {
                match receive(&link.receiver) {
                    Ok(Some(report)) => reports.push(report),
                    Err(mp_pipe::Error::WouldBlock) => {
                        // Where it left a child behind, that may hold the pipe open.
                        link.silent = link.ended;
                        break;
                    }
                    Err(error @ mp_pipe::Error::Io(_)) => link.lacks(&error),
                    // It has ended, or its results can be understood no more.
                    Ok(None) | Err(_) => link.silent = true,
                }
            }
            if !reports.is_empty() {
                heard += reports.len();
                crash_point!("pool: results are received");
                self.settle(index, &mut reports);
            }
            self.reports = reports;
        }
        heard
    }

    /// Tries once more to take a result that could not be taken. That it was lost meanwhile shows in what comes behind it,
    /// or in that nothing does though the worker has sent it.
    #[cold]
    fn try_again(&mut self, index: usize) {
        let engine = Arc::clone(&self.engine);
        let link = &mut self.links[index];
        let Some(lack) = &link.lack else { return };
        if link.silent || !lack.again.has_passed() {
            return;
        }
        let is_over = lack.limit.has_passed();
        // Before the attempt: what has been sent by now can be received.
        let sent = lock(&engine.state).worker(link.key).map_or(0, |worker| worker.claims.ended());
        match receive(&link.receiver) {
            Ok(Some((report, body))) => {
                self.lose(index, report.number.wrapping_sub(1), true);
                self.links[index].lack = None;
                self.settle(index, &mut vec![(report, body)]);
            }
            Err(mp_pipe::Error::WouldBlock) => {
                let is_known = self.lose(index, sent, true);
                let link = &mut self.links[index];
                link.silent = link.ended;
                match &mut link.lack {
                    // It was about to say that it had sent it.
                    Some(lack) if !is_known => {
                        lack.again = Deadline::after(if is_over { RETRIES } else { RETRY });
                    }
                    lack => *lack = None,
                }
            }
            Err(error @ mp_pipe::Error::Io(_)) => {
                link.lacks(&error);
                if is_over {
                    link.silent = link.ended;
                    self.lose(index, sent, false);
                }
            }
            Ok(None) | Err(_) => link.silent = true,
        }
    }

    /// Ends the tasks of a worker up to the number `last`: it has sent their results, which cannot be had, and will never
    /// come if they `are_gone`. Whether there were any, or there are none at all.
    fn lose(&mut self, index: usize, last: u32, are_gone: bool) -> bool {
        let engine = Arc::clone(&self.engine);
        let link = &mut self.links[index];
        let why = link.lack.as_ref().map_or("", |lack| &lack.why);
        let mut done = Vec::new();
        let mut state = lock(&engine.state);
        let Some(worker) = state.worker(link.key) else { return true };
        let count = worker.sent.iter().take_while(|(number, _)| !is_after(*number, last)).count();
        let is_known = count > 0 || worker.sent.is_empty();
        let mut is_begun = true;
        for (_, sent) in worker.sent.iter_mut().take(count) {
            match std::mem::replace(sent, Sent::Ended) {
                Sent::Task(task) => {
                    let outcome = lost(&task, why);
                    done.push(task.with(outcome));
                }
                Sent::Start if are_gone => is_begun = false,
                Sent::Start => *sent = Sent::Start,
                Sent::Ended => {}
            }
        }
        if are_gone {
            worker.sent.drain(..count);
        }
        if !is_begun {
            // Nobody knows whether its initializer went well.
            worker.leaving = true;
            link.kill();
        }
        worker.full = false;
        state.refill(&mut done);
        drop(state);
        deliver(done);
        is_known
    }

    /// Ends the tasks that a worker has reported.
    fn settle(&mut self, index: usize, reports: &mut Vec<(Report, Body)>) {
        let engine = Arc::clone(&self.engine);
        let link = &mut self.links[index];
        let mut done = Vec::with_capacity(reports.len());
        let mut failed = None;
        let mut guard = lock(&engine.state);
        let state = &mut *guard;
        let Some(worker) = state.worker(link.key) else { return reports.clear() };
        for (report, body) in reports.drain(..) {
            match answer(&mut worker.sent, report, body) {
                // Terminated, or its task was ended for it.
                Answer::Unasked if worker.leaving => continue,
                Answer::Unasked => {
                    link.kill();
                    break;
                }
                Answer::Ended(end) => done.push(end),
                Answer::Started(Ok(())) => worker.ready = true,
                Answer::Started(Err(why)) => {
                    failed = Some(why);
                    worker.leaving = true;
                    link.kill();
                    continue;
                }
                Answer::Known => {}
            }
            worker.has_worked = true;
            worker.full = false;
            worker.still = None;
            self.failures = 0;
        }
        state.refill(&mut done);
        drop(guard);
        deliver(done);
        if let Some(why) = failed {
            self.fail(format!("the initializer failed: {why}"));
        }
    }

    /// A worker ended before it had done anything, or can never be started.
    fn fail(&mut self, why: String) {
        self.reason = why;
        self.next_start = back_off(self.failures);
        self.failures += 1;
    }

    /// The system had not what it takes to start a worker. It may have it later, so that is tried as long as there is
    /// a pool; but no task waits for it without end.
    fn fall_short(&mut self, why: &str) {
        self.next_start = back_off(self.shortages);
        self.shortages = self.shortages.saturating_add(1);
        let mut state = lock(&self.engine.state);
        if self.shortages < MOST_FAILURES || state.workers.iter().any(|worker| !worker.leaving) {
            return;
        }
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        let error = TaskError::NoWorkers(why.to_string());
        deliver(waiting.into_iter().map(|task| task.with(Err(error.clone()))).collect());
    }

    /// Sees to it that there are workers and that tasks end in time. Says when to do so again.
    fn look_after(&mut self) -> Next {
        self.bury();
        let engine = Arc::clone(&self.engine);
        let mut deadline = Deadline::NEVER;
        let mut done = Vec::new();
        let mut guard = lock(&engine.state);
        let state = &mut *guard;
        if state.timed {
            deadline = end_overdue(state, &mut done);
        }
        if !state.waiting.is_empty() && state.workers.iter().any(is_stuck) {
            // It is throwing away what was taken back.
            state.workers.iter_mut().for_each(|worker| worker.full = false);
            state.refill(&mut done);
            deadline = deadline.min(Deadline::after(Duration::from_millis(1)));
        }
        let at_end = state.phase == Phase::Closed && !state.has_tasks();
        for worker in &mut state.workers {
            let spent = worker.left == 0 && worker.sent.is_empty();
            worker.leaving |= at_end || spent;
            if !worker.leaving {
                continue;
            }
            let link = self.links.iter_mut().find(|link| link.key == worker.key);
            if let Some(link) = link.filter(|link| link.limit == Deadline::NEVER) {
                // Ends by itself once it sees that: also one that was killed, if it may not be signalled.
                worker.sender.close();
                link.limit = Deadline::after(GRACE);
            }
        }
        let present = state.workers.iter().filter(|worker| !worker.leaving).count();
        let wanted = state.phase == Phase::Open || state.phase == Phase::Closed && !at_end;
        let gave_up = self.failures >= MOST_FAILURES;
        if gave_up && present == 0 && wanted && state.broken.is_none() {
            state.broken = Some(self.reason.clone());
            done.extend(state.end_all(&TaskError::NoWorkers(self.reason.clone())));
        }
        let missing = wanted && !gave_up && present < engine.settings.workers;
        let at_end = !wanted || state.phase == Phase::Closed && !state.has_tasks();
        drop(guard);
        deliver(done);
        for link in &self.links {
            deadline = deadline.min(link.limit);
            if let Some(lack) = link.lack.as_ref().filter(|_| !link.silent) {
                deadline = deadline.min(lack.again);
            }
        }
        if missing && self.next_start.has_passed() {
            self.replace();
            deadline = Deadline::PASSED;
        } else if missing {
            deadline = deadline.min(self.next_start);
        }
        if at_end && self.links.is_empty() { Next::End } else { Next::Sleep(deadline) }
    }

    /// Starts a worker.
    fn replace(&mut self) {
        let engine = Arc::clone(&self.engine);
        // This thread is one too many for a plain fork.
        let method = match engine.settings.method {
            StartMethod::Fork => StartMethod::ForkServer,
            method => method,
        };
        self.key += 1;
        match hire(&engine.settings, method, self.key) {
            Ok((mut worker, mut link)) => {
                self.shortages = 0;
                let mut done = Vec::new();
                let mut state = lock(&engine.state);
                if state.phase == Phase::Terminated {
                    worker.leaving = true;
                    link.kill();
                }
                state.workers.push(worker);
                state.refill(&mut done);
                drop(state);
                self.links.push(link);
                deliver(done);
            }
            Err(error) if is_for_good(&error) => self.fail(format!("{error:?}")),
            Err(error) => self.fall_short(&format!("{error:?}")),
        }
    }

    /// Takes leave of workers that have ended.
    fn bury(&mut self) {
        for index in (0..self.links.len()).rev() {
            let link = &mut self.links[index];
            if link.silent && !link.ended {
                link.ended =
                    process::wait_ended(link.child.as_fd(), Deadline::PASSED).unwrap_or(true);
            }
            // A worker that still runs and says no more is none.
            let is_over = link.silent && link.limit == Deadline::NEVER || link.limit.has_passed();
            if is_over && !link.ended {
                link.kill();
            }
            let given_up = link.killed && link.limit.has_passed();
            if link.silent && link.ended || given_up {
                let link = self.links.swap_remove(index);
                self.bury_one(&link);
            }
        }
    }

    fn bury_one(&mut self, link: &Link) {
        let engine = Arc::clone(&self.engine);
        let exit_code = exit_code(link.child.join_timeout(Duration::ZERO));
        let pid = link.child.pid();
        let mut done = Vec::new();
        let mut guard = lock(&engine.state);
        let state = &mut *guard;
        let Some(index) = state.workers.iter().position(|worker| worker.key == link.key) else {
            return;
        };
        let mut worker = state.workers.remove(index);
        crash_point!("pool: a worker has ended");
        // One that is given up may still run: it begins no other task.
        let begun = worker.claims.take_back(worker.next.wrapping_sub(1));
        let mut back = Vec::new();
        let reported = worker.claims.ended();
        let (mut was_running, mut in_initializer) = (false, false);
        for (number, sent) in worker.sent.drain(..) {
            match sent {
                Sent::Start => in_initializer = true,
                Sent::Ended => was_running = true,
                Sent::Task(task) if is_after(number, begun) => back.push(task),
                Sent::Task(task) if !is_after(number, reported) => {
                    worker.has_worked = true;
                    let lack = link.lack.as_ref();
                    let why = lack.map_or("its worker was not understood", |lack| &lack.why);
                    let outcome = lost(&task, why);
                    done.push(task.with(outcome));
                }
                Sent::Task(task) => {
                    was_running = true;
                    let task_name = task.task_at(None);
                    let error = TaskError::WorkerDied { pid, exit_code, task: task_name };
                    done.push(task.with(Err(error)));
                }
            }
        }
        state.put_back(back);
        state.refill(&mut done);
        drop(guard);
        deliver(done);
        if worker.leaving || was_running {
            return;
        }
        if in_initializer {
            self.fail(Error::DiedInInitializer { pid, exit_code }.to_string());
        } else if worker.has_worked || exit_code.is_some_and(|code| code < 0) {
            // Somebody killed it, which says nothing of the next one.
            self.next_start = self.next_start.max(Deadline::after(IDLE_PAUSE));
        } else {
            self.fail(format!("the worker {pid} ended before its first task"));
        }
    }

    /// Gives an idle worker what another has not begun, if there is such a pair; says when to look again, if not.
    fn share(&self, silence: u64) -> Share {
        let mut done = Vec::new();
        let mut state = lock(&self.engine.state);
        let shared = state.share(silence);
        if let Share::Taken = shared {
            state.refill(&mut done);
        }
        drop(state);
        deliver(done);
        shared
    }

    /// Sleeps until there is something to do.
    fn sleep(&mut self, deadline: Deadline) {
        let mut fds = vec![PollFd::readable(self.engine.event.as_fd())];
        for link in &self.links {
            if !link.ended {
                fds.push(PollFd::readable(link.child.as_fd()));
            }
            if link.is_heard() {
                match link.receiver.bell() {
                    Some(bell) => fds.push(PollFd::readable(bell)),
                    // There is something already.
                    None => return,
                }
            }
        }
        let woken = poll(&mut fds, deadline);
        let ready: Vec<bool> = fds.iter().map(PollFd::is_ready).collect();
        drop(fds);
        if woken.is_err() {
            // Memory is short: look at all, a little later.
            thread::sleep(Duration::from_millis(1));
        }
        let mut ready = ready.into_iter();
        if ready.next() == Some(true) {
            self.engine.event.clear();
        }
        for link in &mut self.links {
            let is_heard = link.is_heard();
            if !link.ended {
                link.ended = ready.next() == Some(true);
            }
            if is_heard {
                ready.next();
            }
        }
    }
}

/// How long to wait after so many failures and one more.
fn back_off(failures: u32) -> Deadline {
    let pause = BACK_OFF.saturating_mul(1 << failures.min(10));
    Deadline::after(pause.min(LONGEST_BACK_OFF))
}

/// Whether a worker could not be started for a reason that does not go away.
fn is_for_good(error: &Error) -> bool {
    use mp_process::Error as Start;
    match error {
        Error::Start(error) => matches!(
            error,
            Start::NeedsInit
                | Start::MissedInit
                | Start::Multithreaded
                | Start::NeedsFork
                | Start::Daemon
                | Start::DifferentProgram { .. }
        ),
        Error::Io(_) => false,
        _ => true,
    }
}

/// What a report says of a task.
fn outcome(task: &Job, report: Report, body: Body) -> Outcome {
    let text = |body: Body| String::from_utf8_lossy(&body.bytes).into_owned();
    match report.status {
        Status::Value => Ok(body),
        Status::Panicked => {
            Err(TaskError::Panicked(Panic::new(text(body), task.task_at(report.item))))
        }
        Status::Unencodable => Err(TaskError::Encode(task.explain("the result", &text(body)))),
        Status::Undecodable => Err(TaskError::Decode(task.explain("the arguments", &text(body)))),
        Status::Untaken => Err(TaskError::Decode(task.explain("the result", &text(body)))),
    }
}

/// What becomes of a task whose result was sent, and cannot be had.
fn lost(task: &Job, why: &str) -> Outcome {
    Err(TaskError::Decode(task.explain("the result", why)))
}

/// Kills workers whose task has run too long. Says when the next one will have.
fn end_overdue(state: &mut State, done: &mut Vec<Done>) -> Deadline {
    let now = monotonic_nanos();
    let mut soonest = u64::MAX;
    let mut back = Vec::new();
    for worker in &mut state.workers {
        if worker.leaving || !worker.ready {
            continue;
        }
        // Only the first that has not ended can be running; those behind it are looked at when it has.
        let begun = worker.claims.begun();
        let first = worker.sent.iter().find(|(number, _)| !is_after(begun, *number));
        let Some((number, Sent::Task(task))) = first else { continue };
        let timeout = task.timeout;
        if timeout == NO_TIMEOUT {
            continue;
        }
        // In this order: the time is that of the task begun last, or of a later one.
        let left = match worker.claims.begun() == *number {
            true => worker.claims.since().saturating_add(timeout).saturating_sub(now),
            // It cannot be overdue before a whole time from now.
            false => timeout,
        };
        if left > 0 {
            soonest = soonest.min(left);
            continue;
        }
        // From here on it begins no other.
        back.extend(worker.take_back());
        let Some(running @ Sent::Task(_)) = worker.running() else { continue };
        if let Sent::Task(task) = std::mem::replace(running, Sent::Ended) {
            done.push(task.with(Err(TaskError::TimedOut)));
            worker.leaving = true;
            let _ = worker.child.kill();
        }
    }
    state.put_back(back);
    state.refill(done);
    state.next_look = now.saturating_add(soonest);
    match soonest {
        u64::MAX => Deadline::NEVER,
        nanos => Deadline::after(Duration::from_nanos(nanos)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::Once;
    use crate::engine::Name;
    use crate::result::Sink;

    struct Nobody;

    impl Sink for Nobody {
        fn deliver(&self, _: usize, _: Outcome) {}
    }

    #[test]
    fn room_for_many_tasks_is_given_back_when_they_are_gone() {
        let nobody = Arc::new(Nobody) as Arc<dyn Sink>;
        let function = (Function::new::<_, Once<()>>(|| ()), (|| "f") as Name);
        let job = |part| {
            Job::new(function, None, Body::with(Vec::new(), Vec::new()), Arc::clone(&nobody), part)
        };
        let mut state = State {
            phase: Phase::Open,
            broken: None,
            waiting: (0..100_000).map(job).collect(),
            workers: Vec::new(),
            functions: Vec::new(),
            function_numbers: HashMap::new(),
            last_function: (0, 0),
            timed: false,
            next_look: u64::MAX,
            asleep: false,
        };
        state.refill(&mut Vec::new());
        assert!(state.waiting.len() == 100_000 && state.waiting.capacity() < 200_000);
        state.waiting.truncate(10);
        state.refill(&mut Vec::new());
        assert!(state.waiting.len() == 10 && state.waiting.capacity() <= ROOM_KEPT);
    }
}

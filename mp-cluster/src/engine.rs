//! The engine of a pool whose tasks run on other machines.
//!
//! Three threads, each with a connection: one sends tasks and what is to be cancelled, one takes results, one shows
//! that the caller lives and looks for what is lost. Until a task ends it is kept here too; so what the server has lost
//! can be sent again.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle, ThreadId};
use std::time::{Duration, Instant};

use mp_core::Deadline;
use mp_pool::TaskError;
use mp_pool::engine::{Call, Engine as PoolEngine, Job};
use redis::Connection;

use crate::protocol::{
    BEATS, DELIVERIES, Keys, LEASE, Missing, REMAINS, Streams, agree, census, claim, field, millis,
    number, plain_script, silent, text,
};
use crate::server::{Line, PATIENCE, Server, lock, random_id};
use crate::{Error, Result, handle};

/// So many chunks of an input are under way for each worker: on their way there or back as many as are run.
const AHEAD: usize = 32;
/// So many tasks are in the server at a time, if nobody says.
const IN_FLIGHT: usize = 4096;
/// And so many bytes of them.
const BYTES_IN_FLIGHT: usize = 256 << 20;
/// A single task is no longer than this, if nobody says.
const LONGEST: usize = 16 << 20;
/// So many tasks, and about so many bytes, are sent in one go.
const TOGETHER: usize = 256;
const BYTES_TOGETHER: usize = 1 << 20;
/// So many results are taken in one go.
const MOST_RESULTS: usize = 512;
/// How long the thread that takes results waits in the server at a time.
const SLICE: Duration = Duration::from_secs(1);
/// How long a question whether tasks have begun may wait for its answer: as long as that only where the host that has them
/// is silent, and its lease is not over.
const ANSWER: Duration = Duration::from_secs(2);

/// Runs the tasks of a [`Pool`](mp_pool::Pool) on all machines that [`serve`](crate::serve) the same name on the same
/// server.
///
/// All else stays as it is: `map`, `imap`, callbacks, time limits, cancelling. What is different:
/// - **A task may run twice**: where its host falls silent, it is given to another, and the first may have run it to the
///   end and only failed to say so. Its result comes once. So a task that changes something outside should bear that.
///   One that brings down [`max_deliveries`](Self::max_deliveries) hosts in a row ends with
///   [`TaskError::WorkerDied`], whose [`Task::attempts`](mp_pool::Task::attempts) names them. One that merely kills its
///   worker process ends at once, as on one machine.
/// - Tasks wait for as long as no host serves.
/// - Handles of one machine (its queues, locks, ends of pipes) cannot be among arguments and results. Those of a
///   [`Cluster`](crate::Cluster) can: a host opens them by its own way to the server.
/// - Where the server is away, calls wait for it, for [`patience`](Self::patience); then tasks that have not ended do,
///   with [`TaskError::NoWorkers`], which says why. Those submitted later are tried again.
/// - What the server lost is sent again. With `appendonly yes` it loses what it was told in its last second
///   (`appendfsync everysec`) or nothing (`always`); without, all: the tasks then run again, and their results come once
///   all the same.
/// - Where this process ends, or is silent for its [`lease`](Self::lease), the hosts drop its tasks.
///
/// See [the crate](crate).
pub struct Engine {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

struct Shared {
    server: Arc<Server>,
    keys: Keys,
    build: String,
    settings: Settings,
    state: Mutex<State>,
    /// For the thread that sends: there is something, and room for it; or it is to stop.
    work: Condvar,
    /// For all others: there is an answer, or it is to stop.
    news: Condvar,
}

/// What a thread does.
type Work = fn(&Shared);

struct Settings {
    lease: Duration,
    deliveries: u32,
    in_flight: usize,
    longest: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    Closed,
    /// All jobs are ended; the threads clear away what is in the server.
    Stopped,
}

struct State {
    phase: Phase,
    /// The name of this caller. Another one once the server was given up.
    caller: String,
    /// Tasks not ended, by their numbers.
    tasks: HashMap<u64, Task>,
    /// Those not sent.
    waiting: VecDeque<u64>,
    /// How many are sent, and their bytes.
    sent: usize,
    bytes: usize,
    /// Whether hosts are to be told to cancel tasks.
    cancels: Vec<Cancel>,
    /// Tasks that were cancelled on their way, before it was known where they are.
    lost_sight_of: HashSet<u64>,
    workers: usize,
    /// Whether the thread that sends has to be woken.
    sender_waits: bool,
    /// All threads there have been.
    threads: Vec<ThreadId>,
}

struct Task {
    job: Job,
    call: Call,
    /// How many bytes it has in the server, and where: known a moment after it was sent.
    sent: Option<(usize, Instant)>,
    entry: Option<String>,
    /// What is known of a question whether it has begun.
    begun: bool,
}

/// What is to be cancelled.
struct Cancel {
    caller: String,
    numbers: Vec<u64>,
    /// Where those are that are running or not, as far as that is known.
    entries: Vec<(u64, String)>,
    /// Also what runs.
    running: bool,
}

impl State {
    /// Takes a task out: it is to be ended, without the lock.
    fn remove(&mut self, number: u64) -> Option<Task> {
        let task = self.tasks.remove(&number)?;
        if let Some((bytes, _)) = task.sent {
            self.sent -= 1;
            self.bytes -= bytes;
        }
        Some(task)
    }

    /// Takes back what was sent: it is to be sent again.
    fn unsend(&mut self, number: u64) {
        if let Some(task) = self.tasks.get_mut(&number)
            && let Some((bytes, _)) = task.sent.take()
        {
            task.entry = None;
            self.sent -= 1;
            self.bytes -= bytes;
            self.waiting.push_front(number);
        }
    }
}

impl Engine {
    /// Connects to a server; the pool's machines are those that serve `name` there.
    ///
    /// The URL is as for [`Cluster::connect`](crate::Cluster::connect).
    ///
    /// # Errors
    ///
    /// [`Error::Address`], [`Error::Denied`], [`Error::Unreachable`]; [`Error::DifferentProgram`] where those that serve
    /// this name run another build of this program.
    pub fn connect(url: &str, name: &str) -> Result<Self> {
        let server = Arc::new(Server::connect(url, name, PATIENCE)?);
        let (keys, build) = (Keys::new(&server), mp_process::build_id()?);
        let mut line = Line::new()?;
        agree(&server, &mut line, &keys, &build, LEASE)?;
        let workers =
            server.call_on(&mut line, Duration::ZERO, |connection| census(connection, &keys))?;
        let state = State {
            phase: Phase::Open,
            caller: random_id()?,
            tasks: HashMap::new(),
            waiting: VecDeque::new(),
            sent: 0,
            bytes: 0,
            cancels: Vec::new(),
            lost_sight_of: HashSet::new(),
            workers,
            sender_waits: false,
            threads: Vec::new(),
        };
        let settings = Settings {
            lease: LEASE,
            deliveries: DELIVERIES,
            in_flight: IN_FLIGHT,
            longest: LONGEST,
        };
        let (work, news) = (Condvar::new(), Condvar::new());
        let state = Mutex::new(state);
        let shared = Shared { server, keys, build, settings, state, work, news };
        Ok(Self { shared: Arc::new(shared), threads: Mutex::default() })
    }

    fn set(mut self, set: impl FnOnce(&mut Shared)) -> Self {
        // Its threads come with the first task.
        set(Arc::get_mut(&mut self.shared).expect("nobody else has it before it is a pool's"));
        self
    }

    /// How long this process may be silent before hosts drop its tasks. Without this, 10 s.
    ///
    /// It shows that it lives several times in each lease, by itself: tasks may run longer.
    #[must_use]
    pub fn lease(self, lease: Duration) -> Self {
        self.set(|shared| shared.settings.lease = lease.max(Duration::from_millis(100)))
    }

    /// How many hosts may fall silent over a task before it is [`TaskError::WorkerDied`]. Without this, 3.
    #[must_use]
    pub fn max_deliveries(self, deliveries: u32) -> Self {
        self.set(|shared| shared.settings.deliveries = deliveries.max(1))
    }

    /// How long a server that is away is waited for. Without this, 10 s.
    #[must_use]
    pub fn patience(self, patience: Duration) -> Self {
        self.set(|shared| shared.server = Arc::new(shared.server.again(patience)))
    }

    /// How many tasks are in the server at a time; others wait here. Without this, 4096; and never more than 256 MiB.
    #[must_use]
    pub fn in_flight(self, tasks: usize) -> Self {
        self.set(|shared| shared.settings.in_flight = tasks.max(1))
    }

    /// How many bytes a task may have with its arguments; a longer one is [`TaskError::Encode`]. Without this, 16 MiB.
    ///
    /// The server has them in memory, and others wait while they pass: of large data, send where it lies.
    #[must_use]
    pub fn longest_task(self, bytes: usize) -> Self {
        self.set(|shared| shared.settings.longest = bytes.min(BYTES_IN_FLIGHT))
    }

    /// Starts the threads, at the first task.
    fn start(&self, state: &mut State) -> std::io::Result<()> {
        let mut threads = lock(&self.threads);
        if !threads.is_empty() {
            return Ok(());
        }
        handle::expect_from_hosts(&self.shared.server);
        let work: [(&str, Work); 3] = [
            ("mp-cluster-send", Shared::send),
            ("mp-cluster-take", Shared::take),
            ("mp-cluster-keep", Shared::keep),
        ];
        for (name, work) in work {
            let shared = Arc::clone(&self.shared);
            let thread =
                thread::Builder::new().name(name.to_string()).spawn(move || work(&shared))?;
            state.threads.push(thread.thread().id());
            threads.push(thread);
        }
        Ok(())
    }
}

impl PoolEngine for Engine {
    fn workers(&self) -> usize {
        lock(&self.shared.state).workers
    }

    fn ahead(&self) -> usize {
        AHEAD
    }

    fn submit(&self, job: Job) {
        let mut state = lock(&self.shared.state);
        if state.phase != Phase::Open {
            drop(state);
            return job.end(Err(TaskError::Closed));
        }
        if let Err(error) = self.start(&mut state) {
            drop(state);
            return job.end(Err(TaskError::NoWorkers(error.to_string())));
        }
        let (number, call) = (job.number(), job.call());
        state.tasks.insert(number, Task { job, call, sent: None, entry: None, begun: false });
        state.waiting.push_back(number);
        self.shared.wake_sender(&mut state);
    }

    fn encoding(&self, encode: &mut dyn FnMut()) {
        handle::within(&self.shared.server, encode);
    }

    fn cancel(&self, call: Call, running: bool) -> bool {
        self.shared.cancel(call, running)
    }

    fn close(&self) {
        let mut state = lock(&self.shared.state);
        if state.phase == Phase::Open {
            state.phase = Phase::Closed;
        }
        self.shared.stop_if_done(&mut state);
    }

    fn terminate(&self) {
        let mut state = lock(&self.shared.state);
        let tasks = std::mem::take(&mut state.tasks);
        state.waiting.clear();
        (state.sent, state.bytes) = (0, 0);
        self.shared.stop(&mut state);
        drop(state);
        self.shared.server.give_up();
        // Dropped, they end.
        drop(tasks);
    }

    fn join(&self) {
        let current = thread::current().id();
        let mut state = lock(&self.shared.state);
        if state.threads.contains(&current) {
            return;
        }
        while state.phase != Phase::Stopped {
            state = wait(&self.shared.news, state, None);
        }
        drop(state);
        for thread in lock(&self.threads).drain(..) {
            // They do not panic; what they would have said was printed.
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("server", &self.shared.server.place())
            .finish_non_exhaustive()
    }
}

type Guard<'a> = std::sync::MutexGuard<'a, State>;

fn wait<'a>(on: &Condvar, state: Guard<'a>, timeout: Option<Duration>) -> Guard<'a> {
    match timeout {
        None => on.wait(state).unwrap_or_else(PoisonError::into_inner),
        Some(timeout) => on.wait_timeout(state, timeout).unwrap_or_else(PoisonError::into_inner).0,
    }
}

impl Shared {
    fn wake_sender(&self, state: &mut State) {
        if std::mem::take(&mut state.sender_waits) {
            self.work.notify_one();
        }
    }

    fn stop(&self, state: &mut State) {
        state.phase = Phase::Stopped;
        self.wake_sender(state);
        self.news.notify_all();
    }

    /// Stops once it is closed and has no tasks.
    fn stop_if_done(&self, state: &mut State) {
        if state.phase == Phase::Closed && state.tasks.is_empty() {
            self.stop(state);
        }
    }

    fn is_stopped(&self) -> bool {
        lock(&self.state).phase == Phase::Stopped
    }

    /// Ends tasks, with what is made of each.
    fn end(&self, numbers: &[u64], outcome: impl Fn(&Job) -> TaskError) {
        let mut state = lock(&self.state);
        let tasks: Vec<Task> = numbers.iter().filter_map(|number| state.remove(*number)).collect();
        self.wake_sender(&mut state);
        self.stop_if_done(&mut state);
        drop(state);
        self.news.notify_all();
        for task in tasks {
            let error = outcome(&task.job);
            task.job.end(Err(error));
        }
    }

    /// Ends all tasks: the server is away, or not for us.
    fn give_up_on(&self, caller: &str, error: &Error) {
        let why = error.to_string();
        let mut state = lock(&self.state);
        // Another thread has noticed, too.
        if state.caller != caller || state.phase == Phase::Stopped {
            return;
        }
        // What comes of them yet is nobody's.
        if let Ok(caller) = random_id() {
            state.caller = caller;
        }
        let numbers: Vec<u64> = state.tasks.keys().copied().collect();
        state.waiting.clear();
        state.cancels.clear();
        state.lost_sight_of.clear();
        drop(state);
        self.end(&numbers, |_| TaskError::NoWorkers(why.clone()));
    }

    fn cancel(&self, call: Call, running: bool) -> bool {
        let mut state = lock(&self.state);
        let of_call = state.tasks.iter().filter(|(_, task)| task.call == call);
        let (sent, unsent): (Vec<_>, Vec<_>) = of_call.partition(|(_, task)| task.sent.is_some());
        let unsent: Vec<u64> = unsent.into_iter().map(|(number, _)| *number).collect();
        let numbers: Vec<u64> = sent.iter().map(|(number, _)| **number).collect();
        let on_their_way = |(_, task): &&(&u64, &Task)| running && task.entry.is_none();
        let on_their_way: Vec<u64> =
            sent.iter().filter(on_their_way).map(|(number, _)| **number).collect();
        let entry = |(number, task): &(&u64, &Task)| Some((**number, task.entry.clone()?));
        let entries = sent.iter().filter_map(entry).collect();
        state.waiting.retain(|number| !unsent.contains(number));
        state.lost_sight_of.extend(on_their_way);
        let mut any = !unsent.is_empty();
        if !numbers.is_empty() {
            for number in &numbers {
                if let Some(task) = state.tasks.get_mut(number) {
                    task.begun = false;
                }
            }
            let caller = state.caller.clone();
            state.cancels.push(Cancel { caller, numbers: numbers.clone(), entries, running });
            self.wake_sender(&mut state);
        }
        if running {
            any |= !numbers.is_empty();
            drop(state);
            self.end(&[unsent, numbers].concat(), |_| TaskError::Cancelled);
            return any;
        }
        if !unsent.is_empty() {
            drop(state);
            self.end(&unsent, |_| TaskError::Cancelled);
            state = lock(&self.state);
        }
        // What has begun only the hosts know. Their answers come as results, to another thread.
        let deadline = Deadline::after(ANSWER);
        let on_that_thread = state.threads.contains(&thread::current().id());
        while !on_that_thread && !deadline.has_passed() && state.phase != Phase::Stopped {
            let open = |number: &&u64| state.tasks.get(number).is_some_and(|task| !task.begun);
            if numbers.iter().find(open).is_none() {
                break;
            }
            state = wait(&self.news, state, deadline.remaining());
        }
        any | numbers.iter().any(|number| !state.tasks.contains_key(number))
    }

    /// Says that this caller lives.
    fn beat(&self, line: &mut Line, caller: &str) -> Result<()> {
        agree(&self.server, line, &self.keys, &self.build, self.settings.lease)?;
        self.server.call_on(line, Duration::ZERO, |connection| {
            redis::cmd("SET")
                .arg(self.keys.caller(caller))
                .arg(1)
                .arg("PX")
                .arg(millis(self.settings.lease))
                .query::<()>(connection)
        })
    }

    /// The thread that sends.
    fn send(&self) {
        let Ok(mut line) = Line::new() else { return };
        let mut shown = String::new();
        loop {
            let mut state = lock(&self.state);
            let (caller, numbers, cancels) = loop {
                if state.phase == Phase::Stopped {
                    let caller = state.caller.clone();
                    drop(state);
                    return self.clear_away(&caller);
                }
                let room = self.settings.in_flight.saturating_sub(state.sent).min(TOGETHER);
                let has_room = room > 0 && state.bytes < BYTES_IN_FLIGHT;
                if !state.cancels.is_empty() || (has_room && !state.waiting.is_empty()) {
                    let count = if has_room { room.min(state.waiting.len()) } else { 0 };
                    let numbers: Vec<u64> = state.waiting.drain(..count).collect();
                    break (state.caller.clone(), numbers, std::mem::take(&mut state.cancels));
                }
                state.sender_waits = true;
                state = wait(&self.work, state, None);
            };
            drop(state);
            let mut result = Ok(());
            if shown != caller {
                // Before the first task: hosts ask.
                result = self.beat(&mut line, &caller);
                if result.is_ok() {
                    shown.clone_from(&caller);
                }
            }
            let result = result
                .and_then(|()| self.send_tasks(&mut line, &caller, &numbers))
                .and_then(|()| self.send_cancels(&mut line, cancels));
            if let Err(error) = result {
                self.give_up_on(&caller, &error);
            }
        }
    }

    fn send_tasks(&self, line: &mut Line, caller: &str, numbers: &[u64]) -> Result<()> {
        let mut rest = numbers;
        while !rest.is_empty() {
            let mut pipe = redis::pipe();
            let (mut bytes, mut sent, mut failed) = (0, Vec::new(), Vec::new());
            let mut state = lock(&self.state);
            while let [number, others @ ..] = rest
                && bytes < BYTES_TOGETHER
            {
                rest = others;
                // Else it was cancelled.
                let Some(task) = state.tasks.get_mut(number) else { continue };
                let longest = self.settings.longest;
                match task.job.to_bytes() {
                    Ok(body) if body.len() <= longest => {
                        bytes += body.len();
                        task.sent = Some((body.len(), Instant::now()));
                        sent.push(*number);
                        let len = body.len();
                        pipe.cmd("XADD").arg(&self.keys.tasks).arg("*").arg("c").arg(caller);
                        pipe.arg("i").arg(*number).arg("m").arg(self.settings.deliveries);
                        pipe.arg("b").arg(body);
                        state.sent += 1;
                        state.bytes += len;
                    }
                    Ok(body) => {
                        let error = Error::TooLong { len: body.len(), limit: longest };
                        let text = format!("the arguments of {}: {error}", task.job.task());
                        failed.push((*number, TaskError::Encode(text)));
                    }
                    Err(error) => failed.push((*number, error)),
                }
            }
            drop(state);
            for (number, error) in failed {
                self.end(&[number], |_| error.clone());
            }
            if sent.is_empty() {
                continue;
            }
            let entries: Vec<String> =
                self.server.call_on(line, Duration::ZERO, |connection| pipe.query(connection))?;
            let mut state = lock(&self.state);
            let mut unwanted = Vec::new();
            for (number, entry) in sent.into_iter().zip(entries) {
                // Else it is done.
                if let Some(task) = state.tasks.get_mut(&number) {
                    task.entry = Some(entry);
                } else if state.lost_sight_of.remove(&number) {
                    unwanted.push((number, entry));
                }
            }
            if !unwanted.is_empty() {
                let numbers = unwanted.iter().map(|(number, _)| *number).collect();
                let (caller, entries) = (caller.to_string(), unwanted);
                state.cancels.push(Cancel { caller, numbers, entries, running: true });
            }
        }
        Ok(())
    }

    /// Finds where those are that are to be cancelled unless they have begun: all that was sent before is known by now.
    /// What is to be sent again is with nobody else, and ends here.
    fn locate(&self, cancel: &mut Cancel) {
        let mut state = lock(&self.state);
        cancel.entries.clear();
        let mut here = Vec::new();
        for number in &cancel.numbers {
            match state.tasks.get(number).map(|task| task.entry.clone()) {
                Some(Some(entry)) => cancel.entries.push((*number, entry)),
                Some(None) => here.push(*number),
                None => {}
            }
        }
        state.waiting.retain(|number| !here.contains(number));
        drop(state);
        self.end(&here, |_| TaskError::Cancelled);
    }

    fn send_cancels(&self, line: &mut Line, cancels: Vec<Cancel>) -> Result<()> {
        // What no host has goes at once, and is answered for them; what one has that is silent may have begun. The others
        // are asked, each for what it has. What is not there any more is done, and its result is.
        let cancel = plain_script!(
            "local tasks, cancels, caller, running = KEYS[1], KEYS[2], ARGV[1], ARGV[2] == '1'
            local gone, begun, asked, all = {}, {}, {}, {}
            for i = 5, #ARGV, 2 do
                local number, id = ARGV[i], ARGV[i + 1]
                local pending = redis.pcall('XPENDING', tasks, 'hosts', id, id, 1)
                if pending.err or #pending == 0 then
                    if redis.call('XDEL', tasks, id) == 1 then gone[#gone + 1] = number end
                elseif not running then
                    local host = pending[1][2]
                    if redis.call('EXISTS', ARGV[3] .. 'host:' .. host) == 0 then
                        begun[#begun + 1] = number
                    else
                        asked[host] = (asked[host] and asked[host] .. ' ' or '') .. number
                    end
                end
            end
            local function tell(...)
                redis.call('XADD', cancels, 'MAXLEN', '~', 1000, '*', 'c', caller, ...)
                redis.call('PEXPIRE', cancels, ARGV[4])
            end
            for host, numbers in pairs(asked) do tell('i', numbers, 'h', host) end
            return {gone, begun}"
        );
        for mut one in cancels {
            if !one.running {
                self.locate(&mut one);
            }
            let (gone, begun): (Vec<u64>, Vec<u64>) =
                self.server.call_on(line, Duration::ZERO, |connection| {
                    let mut invocation = cancel.prepare_invoke();
                    invocation.key(&self.keys.tasks).key(&self.keys.cancels);
                    invocation.arg(&one.caller).arg(u8::from(one.running)).arg(self.server.key(""));
                    invocation.arg(millis(self.settings.lease * REMAINS));
                    for (number, entry) in &one.entries {
                        invocation.arg(*number).arg(entry);
                    }
                    invocation.invoke(connection)
                })?;
            if one.running {
                // They are ended already. What a host has, or is about to get, it is told to drop.
                self.tell_hosts(line, &one)?;
                continue;
            }
            self.end(&gone, |_| TaskError::Cancelled);
            let mut state = lock(&self.state);
            for number in begun {
                if let Some(task) = state.tasks.get_mut(&number) {
                    task.begun = true;
                }
            }
            drop(state);
            self.news.notify_all();
        }
        Ok(())
    }

    /// Has all hosts drop tasks, whether they run or not.
    fn tell_hosts(&self, line: &mut Line, cancel: &Cancel) -> Result<()> {
        let numbers: Vec<String> = cancel.numbers.iter().map(u64::to_string).collect();
        self.server.call_on(line, Duration::ZERO, |connection| {
            let mut pipe = redis::pipe();
            pipe.cmd("XADD").arg(&self.keys.cancels).arg("MAXLEN").arg("~").arg(1000).arg("*");
            pipe.arg("c").arg(&cancel.caller).arg("i").arg(numbers.join(" ")).ignore();
            pipe.cmd("PEXPIRE").arg(&self.keys.cancels);
            pipe.arg(millis(self.settings.lease * REMAINS)).ignore();
            pipe.query::<()>(connection)
        })
    }

    /// Leaves nothing of a caller in the server, if that can be had at once; else it expires.
    fn clear_away(&self, caller: &str) {
        let Ok(mut line) = Line::new() else { return };
        let patience = Duration::from_millis(500);
        let server = self.server.again(patience);
        let (caller_key, results) = (self.keys.caller(caller), self.keys.results(caller));
        let _ = server.call_on(&mut line, Duration::ZERO, |connection: &mut Connection| {
            let mut pipe = redis::pipe();
            pipe.atomic().cmd("XADD").arg(&self.keys.cancels).arg("MAXLEN").arg("~").arg(1000);
            pipe.arg("*").arg("c").arg(caller).arg("i").arg("all").ignore();
            pipe.cmd("PEXPIRE").arg(&self.keys.cancels);
            pipe.arg(millis(self.settings.lease * REMAINS)).ignore();
            // Wakes the thread that takes results; then they go.
            pipe.cmd("XADD").arg(&results).arg("*").arg("i").arg(0).ignore();
            pipe.cmd("PEXPIRE").arg(&results).arg(1).ignore();
            pipe.cmd("DEL").arg(&caller_key).ignore();
            pipe.query::<()>(connection)
        });
    }

    /// The thread that takes results.
    fn take(&self) {
        let Ok(mut line) = Line::new() else { return };
        let mut taken: Option<(String, String)> = None;
        while !self.is_stopped() {
            let caller = lock(&self.state).caller.clone();
            let results = self.keys.results(&caller);
            let read = self.server.call_on(&mut line, SLICE, |connection| {
                let mut pipe = redis::pipe();
                if let Some((_, last)) = taken.as_ref().filter(|(stream, _)| *stream == results) {
                    pipe.cmd("XTRIM").arg(&results).arg("MINID").arg(last).ignore();
                }
                pipe.cmd("XREAD").arg("COUNT").arg(MOST_RESULTS).arg("BLOCK").arg(millis(SLICE));
                pipe.arg("STREAMS").arg(&results).arg("0");
                pipe.query::<(Streams,)>(connection)
            });
            taken = None;
            match read {
                Ok((streams,)) => {
                    let entries = streams.into_iter().flatten().flat_map(|(_, entries)| entries);
                    let mut last = None;
                    for (id, fields) in entries {
                        if let Some(fields) = fields {
                            self.deliver(&fields);
                        }
                        last = Some(id);
                    }
                    // The next one after it.
                    taken = last.and_then(|id| {
                        let (millis, count) = id.split_once('-')?;
                        let count: u64 = count.parse().ok()?;
                        Some((results, format!("{millis}-{}", count.saturating_add(1))))
                    });
                }
                Err(error) => {
                    if !self.is_stopped() {
                        self.give_up_on(&caller, &error);
                        thread::sleep(Duration::from_millis(50));
                    }
                }
            }
        }
    }

    /// Ends the task that a result is of, if it has not ended.
    fn deliver(&self, fields: &[Vec<u8>]) {
        let Some(number) = number(fields, "i") else { return };
        let mut state = lock(&self.state);
        if field(fields, "n").is_some() {
            if let Some(task) = state.tasks.get_mut(&number) {
                task.begun = true;
            }
            drop(state);
            return self.news.notify_all();
        }
        // The second result of a task finds it gone.
        let Some(task) = state.remove(number) else { return };
        self.stop_if_done(&mut state);
        if !state.waiting.is_empty() {
            self.wake_sender(&mut state);
        }
        drop(state);
        if let Some(outcome) = field(fields, "o") {
            return task.job.end_with_bytes(outcome.to_vec());
        }
        let hosts = text(fields, "d").unwrap_or_default();
        let attempts = hosts.lines().map(|host| format!("{host} fell silent")).collect();
        let pid = hosts.lines().last().and_then(|host| host.rsplit(':').nth(1)?.parse().ok());
        let task_name = task.job.task().with_attempts(attempts);
        let pid = pid.unwrap_or_default();
        task.job.end(Err(TaskError::WorkerDied { pid, exit_code: None, task: task_name }));
    }

    /// The thread that keeps the lease, counts workers, and looks for what is lost.
    fn keep(&self) {
        let Ok(mut line) = Line::new() else { return };
        let pause = self.settings.lease / BEATS;
        let mut missing = Missing::default();
        let mut connected = 0;
        let mut deadline = Deadline::PASSED;
        loop {
            let mut state = lock(&self.state);
            while state.phase != Phase::Stopped && !deadline.has_passed() {
                state = wait(&self.news, state, deadline.remaining());
            }
            if state.phase == Phase::Stopped {
                return;
            }
            deadline = Deadline::after(pause);
            let caller = state.caller.clone();
            drop(state);
            let result = self.beat(&mut line, &caller).and_then(|()| {
                let workers = self.server.call_on(&mut line, Duration::ZERO, |connection| {
                    census(connection, &self.keys)
                })?;
                lock(&self.state).workers = workers;
                self.reap(&mut line, &mut missing)?;
                // After a break at once: who knows what the server has lost.
                let age = if connected == line.connected() { 2 * pause } else { Duration::ZERO };
                connected = line.connected();
                self.find_lost(&mut line, &caller, age)
            });
            match result {
                Ok(()) => {}
                Err(error @ Error::DifferentProgram { .. }) => {
                    // The server has lost who was first, and others have come.
                    self.give_up_on(&caller, &error);
                }
                // Those who send and take notice, too, and have more to say.
                Err(_) => {}
            }
        }
    }

    /// Where no host is left that would do it, ends tasks that were given to too many.
    fn reap(&self, line: &mut Line, missing: &mut Missing) -> Result<()> {
        let names = self
            .server
            .call_on(line, Duration::ZERO, |connection| silent(connection, &self.keys))?;
        for host in missing.ripe(&names, line.connected(), self.settings.lease / 2) {
            self.server.call_on(line, Duration::ZERO, |connection| {
                let lease = self.settings.lease;
                claim(connection, &self.keys, &host, "", 0, lease)
            })?;
        }
        Ok(())
    }

    /// Sends again what neither tasks nor results have.
    fn find_lost(&self, line: &mut Line, caller: &str, age: Duration) -> Result<()> {
        let state = lock(&self.state);
        let of_age = |task: &Task| task.sent.is_some_and(|(_, since)| since.elapsed() >= age);
        let mut sent: Vec<(u64, String)> = state
            .tasks
            .iter()
            .filter(|(_, task)| of_age(task))
            .filter_map(|(number, task)| Some((*number, task.entry.clone()?)))
            .collect();
        drop(state);
        if sent.is_empty() {
            return Ok(());
        }
        // Each goes to the front of those that wait: so the oldest last.
        sent.sort_unstable_by_key(|(number, _)| std::cmp::Reverse(*number));
        let there = plain_script!(
            "local there = {}
            for i = 1, #ARGV do
                there[i] = #redis.call('XRANGE', KEYS[1], ARGV[i], ARGV[i])
            end
            local results = {}
            for _, entry in ipairs(redis.call('XRANGE', KEYS[2], '-', '+')) do
                results[#results + 1] = entry[2][2]
            end
            return {there, results}"
        );
        for some in sent.chunks(1000) {
            let (there, results): (Vec<u8>, Vec<u64>) =
                self.server.call_on(line, Duration::ZERO, |connection| {
                    let mut invocation = there.prepare_invoke();
                    invocation.key(&self.keys.tasks).key(self.keys.results(caller));
                    for (_, entry) in some {
                        invocation.arg(entry);
                    }
                    invocation.invoke(connection)
                })?;
            let mut state = lock(&self.state);
            for ((number, entry), there) in some.iter().zip(there) {
                if there == 0 && !results.contains(number) {
                    // Not if it was sent again meanwhile; results taken meanwhile have ended theirs.
                    let same = |task: &Task| task.entry.as_ref() == Some(entry);
                    if state.tasks.get(number).is_some_and(same) {
                        state.unsend(*number);
                    }
                }
            }
            self.wake_sender(&mut state);
        }
        Ok(())
    }
}

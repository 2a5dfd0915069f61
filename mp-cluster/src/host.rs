//! A machine that runs tasks of others.
//!
//! The thread that [`run`](Host::run) is called on takes tasks from the server and gives them to a pool of this machine.
//! One thread sends their outcomes, one shows that the host lives and takes over what silent hosts had, and one hears
//! what is to be cancelled.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use crate::protocol::{
    BEATS, Entry, GROUP, Keys, LEASE, Missing, REMAINS, Streams, agree, claim, field, millis,
    number, silent, text,
};
use crate::server::{Line, Server, lock, random_id};
use crate::{Error, Result, handle};
use mp_pool::engine::{Submitted, outcome_to_bytes};
use mp_pool::{Builder, Pool, TaskError};

/// How long a server that is away is waited for, if nobody says.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long reads wait in the server at a time.
const SLICE: Duration = Duration::from_millis(500);
/// Beside those that run, so many more tasks are taken as are done in this time.
const AHEAD: Duration = Duration::from_millis(20);
/// But for each worker no more than this.
const MOST_AHEAD: usize = 16;
/// So many outcomes are sent in one go.
const TOGETHER: usize = 256;
/// A longer outcome the server would not take.
const LONGEST: usize = 256 << 20;
/// So many cancelled tasks are remembered, for the case that they come yet.
const MOST_UNWANTED: usize = 100_000;

/// Has this machine run tasks of the pools that use `name` on this server.
///
/// The URL is as for [`Cluster::connect`](crate::Cluster::connect). What is returned says how, and
/// [`run`](Host::run) does it.
///
/// # Errors
///
/// As [`Cluster::connect`](crate::Cluster::connect).
///
/// # Example
///
/// ```standalone_crate
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     mp_process::init();
///     let url = "redis://head:6379/";
///     # let Some(server) = include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/server.rs")) else { return Ok(()) };
///     # let url = server.url();
///     let host = mp_cluster::serve(url, "job7")?.workers(8);
///     # let host = host.idle_timeout(std::time::Duration::from_millis(100));
///     host.run()?;
///     Ok(())
/// }
/// ```
pub fn serve(url: &str, name: &str) -> Result<Host> {
    let server = Server::connect(url, name, PATIENCE)?;
    Ok(Host {
        server,
        pool: Pool::builder(),
        workers: None,
        lease: LEASE,
        idle: None,
        stop: Stop { stopped: Arc::default() },
    })
}

/// A machine that is to run tasks. Made by [`serve`].
///
/// Its tasks run in a pool of this machine: one that kills its worker process, or ends it, costs itself only. Where the
/// whole host ends, or is silent for its [`lease`](Self::lease), other hosts run what it had.
#[must_use = "runs nothing before `run`"]
pub struct Host {
    server: Server,
    pool: Builder,
    workers: Option<usize>,
    lease: Duration,
    idle: Option<Duration>,
    stop: Stop,
}

/// Ends a [`Host`] from another thread. Had from [`Host::stopper`].
#[derive(Clone, Debug)]
pub struct Stop {
    stopped: Arc<AtomicBool>,
}

impl Stop {
    /// Has the host take no more tasks, do those that it has, and return. Does not wait for that.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    fn is_set(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }
}

impl Host {
    /// How many tasks run at a time; without this, one for each CPU that this process may use.
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = Some(workers);
        self
    }

    /// What else the pool of this machine is to be: with an initializer, or so many tasks for each worker.
    pub fn pool(mut self, pool: Builder) -> Self {
        self.pool = pool;
        self
    }

    /// How long this host may be silent before others take its tasks. Without this, 10 s.
    ///
    /// It shows that it lives several times in each lease, by itself: tasks may run longer.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease.max(Duration::from_millis(100));
        self
    }

    /// How long a server that is away is waited for. Without this, 60 s.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.server = self.server.again(patience);
        self
    }

    /// Has [`run`](Self::run) return once there was no task for so long. Without this, it waits for ever.
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.idle = Some(timeout);
        self
    }

    /// What ends it from another thread.
    #[must_use]
    pub fn stopper(&self) -> Stop {
        self.stop.clone()
    }

    /// Runs tasks, until it is [stopped](Self::stopper) or [idle](Self::idle_timeout).
    ///
    /// # Errors
    ///
    /// [`Error::DifferentProgram`] where the others run another build of this program; [`Error::Unreachable`] where the
    /// server is away for longer than the [patience](Self::patience); [`Error::Pool`] where the workers cannot be
    /// started. What it had is run by others then.
    pub fn run(self) -> Result<()> {
        let workers = self.workers.unwrap_or_else(mp_process::cpu_count);
        let keys = Keys::new(&self.server);
        let build = mp_process::build_id()?;
        let mut line = Line::new()?;
        agree(&self.server, &mut line, &keys, &build, self.lease)?;
        let home = (self.server.url().to_string(), self.server.name().to_string());
        let pool = self.pool.workers(workers).prepare(handle::at_home, home).build()?;
        let machine = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let id = random_id()?;
        let (sender, reports) = mpsc::channel();
        let work = Work {
            server: self.server,
            keys,
            build,
            name: format!("{}:{}:{}", machine.trim(), std::process::id(), &id[..8]),
            lease: self.lease,
            workers,
            stop: self.stop,
            failed: Mutex::new(None),
            pool,
            held: Mutex::default(),
            done: Condvar::new(),
            finished: AtomicUsize::new(0),
            unwanted: Mutex::default(),
            reports: sender,
        };
        work.run(&mut line, reports, self.idle)
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host")
            .field("server", &self.server.place())
            .field("workers", &self.workers)
            .field("lease", &self.lease)
            .finish_non_exhaustive()
    }
}

/// A task that this host has.
struct Held {
    caller: String,
    number: u64,
    /// A moment after it came.
    submitted: Option<Submitted>,
}

/// What is to be said of one.
struct Report {
    entry: String,
    caller: String,
    number: u64,
    what: What,
}

enum What {
    Outcome(Vec<u8>),
    /// It ended, and nobody wants to know how.
    Nothing,
    /// It has begun, and ends later: the answer to who asked.
    Begun,
}

type Table = HashMap<String, Held>;

/// What is not to be run.
#[derive(Default)]
struct Unwanted {
    /// Callers that are known to have ended.
    callers: HashSet<String>,
    /// Tasks that were cancelled, maybe before they came.
    tasks: HashSet<(String, u64)>,
    /// Tasks on their way to this host that are cancelled where they have not begun, and else that is to be said.
    unless_begun: HashSet<(String, u64)>,
}

impl Unwanted {
    fn has(&self, caller: &str, number: u64) -> bool {
        self.callers.contains(caller)
            || (!self.tasks.is_empty() && self.tasks.contains(&(caller.to_string(), number)))
    }

    /// Whether somebody has asked for it; only once.
    fn take_asked(&mut self, caller: &str, number: u64) -> bool {
        !self.unless_begun.is_empty() && self.unless_begun.remove(&(caller.to_string(), number))
    }

    fn remember(&mut self, caller: &str, numbers: &HashSet<u64>) {
        // They come within a moment, or never.
        if self.tasks.len() > MOST_UNWANTED {
            self.tasks.clear();
        }
        self.tasks.extend(numbers.iter().map(|number| (caller.to_string(), *number)));
    }

    fn ask(&mut self, caller: &str, number: u64) {
        // As above.
        if self.unless_begun.len() > MOST_UNWANTED {
            self.unless_begun.clear();
        }
        self.unless_begun.insert((caller.to_string(), number));
    }
}

struct Work {
    server: Server,
    keys: Keys,
    build: String,
    name: String,
    lease: Duration,
    workers: usize,
    stop: Stop,
    /// Why it cannot go on.
    failed: Mutex<Option<Error>>,
    pool: Pool,
    /// By their entries, until their outcomes are sent.
    held: Mutex<Table>,
    /// Some were sent.
    done: Condvar,
    finished: AtomicUsize,
    unwanted: Mutex<Unwanted>,
    reports: mpsc::Sender<Report>,
}

/// How many tasks are done in a second, of late.
struct Pace {
    rate: f64,
    counted: usize,
    since: Instant,
}

impl Pace {
    fn count(&mut self, done: usize) {
        self.counted += done;
        let time = self.since.elapsed();
        if time >= AHEAD {
            let now = self.counted as f64 / time.as_secs_f64();
            self.rate = if now > self.rate { now } else { (self.rate + now) / 2.0 };
            (self.counted, self.since) = (0, Instant::now());
        }
    }

    /// How many tasks to have at a time.
    fn depth(&self, workers: usize) -> usize {
        let ahead = (self.rate * AHEAD.as_secs_f64()) as usize;
        workers + ahead.min(workers * MOST_AHEAD)
    }
}

impl Work {
    fn run(
        self,
        line: &mut Line,
        reports: mpsc::Receiver<Report>,
        idle: Option<Duration>,
    ) -> Result<()> {
        self.make_group(line)?;
        // Before the first task: what is to be cancelled of it comes later.
        let heard = self.last_cancel(line)?;
        self.show(line)?;
        let over = AtomicBool::new(false);
        let result = thread::scope(|scope| {
            let threads = [
                scope.spawn(|| self.guarded(|| self.keep(&over))),
                scope.spawn(|| self.guarded(|| self.hear(heard, &over))),
                scope.spawn(|| self.guarded(|| self.report(reports, &over))),
            ];
            let result = self.take(line, idle);
            over.store(true, Ordering::Relaxed);
            self.server.give_up();
            for thread in &threads {
                thread.thread().unpark();
            }
            result
        });
        let again = self.server.again(SLICE);
        let _ = again.call(|connection| {
            let mut pipe = redis::pipe();
            pipe.atomic().cmd("DEL").arg(self.keys.host(&self.name)).ignore();
            pipe.cmd("SREM").arg(&self.keys.hosts).arg(&self.name).ignore();
            pipe.query::<()>(connection)
        });
        self.pool.terminate();
        match lock(&self.failed).take() {
            Some(error) => Err(error),
            None => result,
        }
    }

    /// Has the host end where one of its threads cannot go on.
    fn guarded(&self, work: impl FnOnce() -> Result<()>) {
        if let Err(error) = work() {
            lock(&self.failed).get_or_insert(error);
            self.done.notify_all();
        }
    }

    fn has_failed(&self) -> bool {
        lock(&self.failed).is_some()
    }

    /// Says that this host lives.
    fn show(&self, line: &mut Line) -> Result<()> {
        agree(&self.server, line, &self.keys, &self.build, self.lease)?;
        self.server.call_on(line, Duration::ZERO, |connection| {
            let mut pipe = redis::pipe();
            pipe.atomic().cmd("SET").arg(self.keys.host(&self.name)).arg(self.workers);
            pipe.arg("PX").arg(millis(self.lease)).ignore();
            pipe.cmd("SADD").arg(&self.keys.hosts).arg(&self.name).ignore();
            pipe.query::<()>(connection)
        })
    }

    /// Makes the stream of tasks and the group, if they are not there.
    fn make_group(&self, line: &mut Line) -> Result<()> {
        let made = self.server.call_on(line, Duration::ZERO, |connection| {
            let mut make = redis::cmd("XGROUP");
            make.arg("CREATE").arg(&self.keys.tasks).arg(GROUP).arg("0").arg("MKSTREAM");
            make.query::<()>(connection)
        });
        match made {
            Err(Error::Server(why)) if why.starts_with("BUSYGROUP") => Ok(()),
            other => other,
        }
    }

    /// The thread that takes tasks.
    fn take(&self, line: &mut Line, idle: Option<Duration>) -> Result<()> {
        let mut pace = Pace { rate: 0.0, counted: 0, since: Instant::now() };
        let mut connected = line.connected();
        let mut busy = Instant::now();
        loop {
            let finished = self.finished.swap(0, Ordering::Relaxed);
            pace.count(finished);
            let held = lock(&self.held);
            if finished > 0 || !held.is_empty() {
                busy = Instant::now();
            }
            let is_idle = held.is_empty() && idle.is_some_and(|idle| busy.elapsed() >= idle);
            let stops = self.stop.is_set() || is_idle;
            if self.has_failed() || (stops && held.is_empty()) {
                return Ok(());
            }
            let free = pace.depth(self.workers).saturating_sub(held.len());
            if stops || free == 0 {
                let waited = self.done.wait_timeout(held, SLICE);
                drop(waited.unwrap_or_else(PoisonError::into_inner));
                continue;
            }
            drop(held);
            let read = self.server.call_on(line, SLICE, |connection| {
                let mut read = redis::cmd("XREADGROUP");
                read.arg("GROUP").arg(GROUP).arg(&self.name).arg("COUNT").arg(free);
                read.arg("BLOCK").arg(millis(SLICE)).arg("STREAMS").arg(&self.keys.tasks).arg(">");
                read.query::<Streams>(connection)
            });
            match read {
                Ok(streams) => self.accept(streams),
                Err(Error::Server(why)) if why.starts_with("NOGROUP") => self.make_group(line)?,
                Err(error) => return Err(error),
            }
            if connected != line.connected() {
                // An answer may have been lost, with tasks in it.
                connected = line.connected();
                self.find_own(line)?;
            }
        }
    }

    /// Takes what this host was given and does not know of.
    fn find_own(&self, line: &mut Line) -> Result<()> {
        let mut after = "0".to_string();
        loop {
            let read = self.server.call_on(line, Duration::ZERO, |connection| {
                let mut read = redis::cmd("XREADGROUP");
                read.arg("GROUP").arg(GROUP).arg(&self.name).arg("COUNT").arg(TOGETHER);
                read.arg("STREAMS").arg(&self.keys.tasks).arg(&after);
                read.query::<Streams>(connection)
            });
            let streams = match read {
                Ok(streams) => streams,
                Err(Error::Server(why)) if why.starts_with("NOGROUP") => return Ok(()),
                Err(error) => return Err(error),
            };
            let last = |streams: &Streams| Some(streams.as_ref()?.first()?.1.last()?.0.clone());
            let Some(last) = last(&streams) else { return Ok(()) };
            after = last;
            self.accept(streams);
        }
    }

    fn accept(&self, streams: Streams) {
        for (_, entries) in streams.into_iter().flatten() {
            for entry in entries {
                self.accept_one(entry);
            }
        }
    }

    /// Gives a task to the pool.
    fn accept_one(&self, (entry, fields): Entry) {
        let fields = fields.unwrap_or_default();
        let caller = text(&fields, "c").unwrap_or_default();
        let number = number(&fields, "i").unwrap_or(0);
        let report = {
            let (entry, caller) = (entry.clone(), caller.clone());
            move |what| Report { entry, caller, number, what }
        };
        let mut held = lock(&self.held);
        if held.contains_key(&entry) {
            return;
        }
        held.insert(entry.clone(), Held { caller: caller.clone(), number, submitted: None });
        drop(held);
        let task = field(&fields, "b").unwrap_or_default();
        let mut unwanted = lock(&self.unwanted);
        // One that was deleted has no fields.
        if fields.is_empty() || unwanted.has(&caller, number) {
            return self.say(report(What::Nothing));
        }
        if unwanted.take_asked(&caller, number) {
            let cancelled = outcome_to_bytes(Err(TaskError::Cancelled));
            return self.say(report(What::Outcome(cancelled)));
        }
        drop(unwanted);
        let (sender, again) = (self.reports.clone(), report.clone());
        let submitted = self.pool.submit_bytes(task, move |mut bytes| {
            if bytes.len() > LONGEST {
                let error = Error::TooLong { len: bytes.len(), limit: LONGEST };
                let text = format!("the result: {error}");
                bytes = outcome_to_bytes(Err(TaskError::Encode(text)));
            }
            // Nobody listens once the host is at its end: then others run it.
            let _ = sender.send(report(What::Outcome(bytes)));
        });
        match submitted {
            Ok(submitted) => {
                // What is asked from now on finds it; what was asked until then is found here.
                if let Some(held) = lock(&self.held).get_mut(&entry) {
                    held.submitted = Some(submitted);
                }
                let mut unwanted = lock(&self.unwanted);
                let (is_unwanted, is_asked) =
                    (unwanted.has(&caller, number), unwanted.take_asked(&caller, number));
                drop(unwanted);
                if is_unwanted {
                    self.cancel(&caller, |other| other == number);
                } else if is_asked {
                    self.cancel_unless_begun(&caller, &HashSet::from([number]));
                }
            }
            Err(error) => self.say(again(What::Outcome(outcome_to_bytes(Err(error))))),
        }
    }

    fn say(&self, report: Report) {
        let _ = self.reports.send(report);
    }

    /// The thread that sends what there is to say.
    fn report(&self, reports: mpsc::Receiver<Report>, over: &AtomicBool) -> Result<()> {
        let mut line = Line::new()?;
        while !over.load(Ordering::Relaxed) {
            let Ok(first) = reports.recv_timeout(SLICE / 10) else { continue };
            let mut all = vec![first];
            all.extend(reports.try_iter().take(TOGETHER - 1));
            let has_ended = |report: &&Report| !matches!(report.what, What::Begun);
            let entries: Vec<&str> =
                all.iter().filter(has_ended).map(|report| &report.entry[..]).collect();
            let callers: HashSet<&str> = all.iter().map(|report| &report.caller[..]).collect();
            let remains = millis(self.lease * REMAINS);
            let mut pipe = redis::pipe();
            pipe.atomic();
            for report in &all {
                let results = || self.keys.results(&report.caller);
                match &report.what {
                    What::Outcome(bytes) => {
                        pipe.cmd("XADD").arg(results()).arg("*");
                        pipe.arg("i").arg(report.number).arg("o").arg(bytes).ignore();
                    }
                    What::Begun => {
                        pipe.cmd("XADD").arg(results()).arg("*");
                        pipe.arg("i").arg(report.number).arg("n").arg(1).ignore();
                    }
                    What::Nothing => {}
                }
            }
            for caller in callers {
                pipe.cmd("PEXPIRE").arg(self.keys.results(caller)).arg(remains).ignore();
            }
            if !entries.is_empty() {
                pipe.cmd("XACK").arg(&self.keys.tasks).arg(GROUP).arg(&entries).ignore();
                pipe.cmd("XDEL").arg(&self.keys.tasks).arg(&entries).ignore();
            }
            self.server
                .call_on(&mut line, Duration::ZERO, |connection| pipe.query::<()>(connection))?;
            let mut held = lock(&self.held);
            for entry in &entries {
                held.remove(*entry);
            }
            drop(held);
            self.finished.fetch_add(entries.len(), Ordering::Relaxed);
            self.done.notify_all();
        }
        Ok(())
    }

    /// The thread that keeps the lease, and finds who does not.
    fn keep(&self, over: &AtomicBool) -> Result<()> {
        let mut line = Line::new()?;
        let (mut hosts, mut callers) = (Missing::default(), Missing::default());
        while !over.load(Ordering::Relaxed) {
            match self.beat(&mut line, &mut hosts, &mut callers) {
                Err(_) if over.load(Ordering::Relaxed) => return Ok(()),
                other => other?,
            }
            thread::park_timeout(self.lease / BEATS);
        }
        Ok(())
    }

    fn beat(&self, line: &mut Line, hosts: &mut Missing, callers: &mut Missing) -> Result<()> {
        self.show(line)?;
        let long = self.lease / 2;
        let names: HashSet<String> =
            lock(&self.held).values().map(|held| held.caller.clone()).collect();
        let ended = self.server.call_on(line, Duration::ZERO, |connection| {
            let mut ended = Vec::new();
            for caller in &names {
                let key = self.keys.caller(caller);
                if !redis::cmd("EXISTS").arg(key).query::<bool>(connection)? {
                    ended.push(caller.clone());
                }
            }
            Ok(ended)
        })?;
        for caller in callers.ripe(&ended, line.connected(), long) {
            lock(&self.unwanted).callers.insert(caller.clone());
            self.cancel(&caller, |_| true);
        }
        let mut silent = self
            .server
            .call_on(line, Duration::ZERO, |connection| silent(connection, &self.keys))?;
        silent.retain(|host| *host != self.name);
        for host in hosts.ripe(&silent, line.connected(), long) {
            let room = (2 * self.workers).saturating_sub(lock(&self.held).len());
            let claimed = self.server.call_on(line, Duration::ZERO, |connection| {
                claim(connection, &self.keys, &host, &self.name, room, self.lease)
            })?;
            for entry in claimed {
                self.accept_one(entry);
            }
        }
        Ok(())
    }

    /// Cancels what this host has of a caller.
    fn cancel(&self, caller: &str, which: impl Fn(u64) -> bool) {
        for held in lock(&self.held).values() {
            if held.caller == caller
                && which(held.number)
                && let Some(submitted) = &held.submitted
            {
                submitted.cancel();
            }
        }
    }

    /// Cancels what this host has of them and has not begun, and says of the others that they have.
    fn cancel_unless_begun(&self, caller: &str, numbers: &HashSet<u64>) {
        let mut unwanted = lock(&self.unwanted);
        let held = lock(&self.held);
        let mut coming = numbers.clone();
        for (entry, held) in held.iter() {
            if held.caller != caller || !numbers.contains(&held.number) {
                continue;
            }
            let Some(submitted) = &held.submitted else { continue };
            coming.remove(&held.number);
            if !submitted.cancel_pending() {
                let (entry, caller, number) = (entry.clone(), caller.to_string(), held.number);
                self.say(Report { entry, caller, number, what: What::Begun });
            }
        }
        // They are on their way to this host, or already done.
        for number in coming {
            unwanted.ask(caller, number);
        }
    }

    fn last_cancel(&self, line: &mut Line) -> Result<String> {
        let last: Vec<Entry> = self.server.call_on(line, Duration::ZERO, |connection| {
            let mut last = redis::cmd("XREVRANGE");
            last.arg(&self.keys.cancels).arg("+").arg("-").arg("COUNT").arg(1).query(connection)
        })?;
        Ok(last.into_iter().next().map_or("0-0".to_string(), |(id, _)| id))
    }

    /// The thread that hears what is to be cancelled.
    fn hear(&self, mut heard: String, over: &AtomicBool) -> Result<()> {
        let mut line = Line::new()?;
        let mut connected = 1;
        while !over.load(Ordering::Relaxed) {
            let read = self.server.call_on(&mut line, SLICE, |connection| {
                let mut read = redis::cmd("XREAD");
                read.arg("COUNT").arg(100).arg("BLOCK").arg(millis(SLICE));
                read.arg("STREAMS").arg(&self.keys.cancels).arg(&heard).query::<Streams>(connection)
            });
            let streams = match read {
                Ok(streams) => streams,
                Err(_) if over.load(Ordering::Relaxed) => return Ok(()),
                Err(error) => return Err(error),
            };
            for (id, fields) in streams.into_iter().flatten().flat_map(|(_, entries)| entries) {
                self.cancel_as_told(&fields.unwrap_or_default());
                heard = id;
            }
            if connected != line.connected() {
                // A server that has lost something may count from where it was before. To hear twice does no harm.
                connected = line.connected();
                heard = "0-0".to_string();
            }
        }
        Ok(())
    }

    fn cancel_as_told(&self, fields: &[Vec<u8>]) {
        let (Some(caller), Some(numbers)) = (text(fields, "c"), text(fields, "i")) else { return };
        if numbers == "all" {
            lock(&self.unwanted).callers.insert(caller.clone());
            return self.cancel(&caller, |_| true);
        }
        let numbers: HashSet<u64> =
            numbers.split(' ').filter_map(|number| number.parse().ok()).collect();
        match field(fields, "h") {
            None => {
                lock(&self.unwanted).remember(&caller, &numbers);
                self.cancel(&caller, |number| numbers.contains(&number));
            }
            Some(host) if host == self.name.as_bytes() => {
                self.cancel_unless_begun(&caller, &numbers);
            }
            Some(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_tasks_are_taken_ahead_as_are_done_in_a_moment() {
        let mut pace = Pace { rate: 0.0, counted: 0, since: Instant::now() };
        assert_eq!(pace.depth(8), 8);
        pace.rate = 1_000.0;
        assert_eq!(pace.depth(8), 28);
        pace.rate = 1e9;
        assert_eq!(pace.depth(8), 8 + 8 * MOST_AHEAD);
        pace.since = Instant::now() - Duration::from_secs(1);
        pace.count(0);
        assert!(pace.rate < 1e9);
    }
}

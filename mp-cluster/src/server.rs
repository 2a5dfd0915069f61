//! The way to the server: connections, retries, and calls that are made once.
//!
//! A call takes a connection of its own, of those that are idle or a new one, and gives it back. Where the connection
//! breaks, or the server loads its data still, the call is made again on another, until the patience is over.
//!
//! A call whose answer was lost may have been made. So one that must not be made twice is a script that leaves a
//! trace in the server: the number of the call and its answer, under the name of whoever calls, written together with
//! what it does. Made again, it finds the trace and gives the answer that was lost. One trace for each connection is
//! enough, as that makes one call at a time.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use mp_core::sys::random;
use mp_core::{Deadline, Message};
use redis::{Client, Connection, ConnectionLike, FromRedisValue, RedisError, RedisResult, Value};
use redis::{ErrorKind, IntoConnectionInfo, ServerErrorKind};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Error, Result, handle};

/// How long calls wait for a server that is away, if nobody says.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// A single attempt to connect takes no longer.
const CONNECT: Duration = Duration::from_secs(5);
/// Between attempts.
const SHORTEST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);
/// The longest after somebody else changed a value first, in milliseconds.
const LONGEST_CHANGE_PAUSE: u64 = 20;
/// So many connections are kept while idle.
const MOST_IDLE: usize = 16;
/// Waits for a bell are cut into pieces of this length: so late at most is noticed what nobody rang for.
const SLICE: Duration = Duration::from_secs(1);
/// A trace outlives the patience by this.
const TRACE: Duration = Duration::from_secs(60);

/// Values longer than this are refused: the server takes no more than 512 MiB, and holds up all others meanwhile.
const LONGEST: usize = 64 << 20;

/// A server, and connections to it.
pub(crate) struct Server {
    client: Client,
    /// With user and password: shown to nobody.
    url: String,
    /// Of the cluster.
    name: String,
    /// Host and port, or path: no user, no password.
    place: String,
    /// What all keys begin with.
    prefix: String,
    patience: Duration,
    /// Set once nobody wants to wait any more.
    given_up: AtomicBool,
    idle: Mutex<Idle>,
}

/// Connections that wait for a call.
#[derive(Default)]
struct Idle {
    /// Whose they are: those of a parent are not used by its forked children.
    pid: u32,
    lines: Vec<Line>,
}

/// A connection, and its name for traces.
pub(crate) struct Line {
    id: String,
    calls: u64,
    connection: Option<Connection>,
    /// How often it was connected.
    connected: u64,
}

impl Line {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self { id: random_id()?, calls: 0, connection: None, connected: 0 })
    }

    /// How often it was connected: where that has grown, an answer may have been lost.
    pub(crate) fn connected(&self) -> u64 {
        self.connected
    }
}

/// A name that nobody else has.
pub(crate) fn random_id() -> Result<String> {
    let mut bytes = [0; 12];
    random::fill(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What becomes of a call that failed.
enum Failure {
    /// It may go well on another connection, or later.
    Passing(String),
    Lasting(Error),
}

fn classify(error: &RedisError) -> Failure {
    let text = || match error.detail() {
        Some(detail) => format!("{} {detail}", error.code().unwrap_or_default()).trim().to_string(),
        None => error.to_string(),
    };
    match error.kind() {
        // It will not be another one later.
        ErrorKind::Io if error.to_string().contains("certificate") => {
            Failure::Lasting(Error::Denied(error.to_string()))
        }
        ErrorKind::Io | ErrorKind::Parse => Failure::Passing(error.to_string()),
        ErrorKind::Server(
            ServerErrorKind::BusyLoading
            | ServerErrorKind::MasterDown
            | ServerErrorKind::ReadOnly
            | ServerErrorKind::TryAgain
            | ServerErrorKind::ClusterDown,
        ) => Failure::Passing(text()),
        ErrorKind::Server(ServerErrorKind::NoPerm) | ErrorKind::AuthenticationFailed => {
            Failure::Lasting(Error::Denied(text()))
        }
        _ if matches!(error.code(), Some("NOAUTH" | "WRONGPASS"))
            || is_denied_in_a_script(error) =>
        {
            Failure::Lasting(Error::Denied(text()))
        }
        // Of several commands at once, one or all.
        _ if error.to_string().contains("LOADING") || error.to_string().contains("BusyLoading") => {
            Failure::Passing(error.category().to_string())
        }
        _ if error.code() == Some("WRONGTYPE") => Failure::Lasting(Error::WrongType(
            "under this name the server has something of another type".to_string(),
        )),
        _ if error.is_io_error() || error.is_connection_dropped() => {
            Failure::Passing(error.to_string())
        }
        _ => Failure::Lasting(Error::Server(text())),
    }
}

/// What a script may not do has no code of its own before Redis 7.2.
fn is_denied_in_a_script(error: &RedisError) -> bool {
    let says = |what: &str| error.detail().is_some_and(|detail| detail.contains(what));
    says("executing the script can't")
}

impl Server {
    /// A server by its URL; connects for the first time.
    pub(crate) fn connect(url: &str, name: &str, patience: Duration) -> Result<Self> {
        let server = Self::open(url, name, patience)?;
        server.call(|connection| redis::cmd("PING").query::<Value>(connection))?;
        Ok(server)
    }

    /// The same; connects at its first use.
    pub(crate) fn open(url: &str, name: &str, patience: Duration) -> Result<Self> {
        if name.is_empty() || name.contains(['{', '}']) || name.chars().any(char::is_control) {
            return Err(Error::Address(
                "a name must have a character, and no braces or control characters".to_string(),
            ));
        }
        // Errors about a URL could repeat it, with the password that stands there.
        let info = url.into_connection_info().map_err(|_| {
            Error::Address(
                "this is no URL of a server: redis://[user:password@]host:port/[database], rediss:// for TLS, or \
                 redis+unix:///path"
                    .to_string(),
            )
        })?;
        if !info.addr().is_supported() {
            return Err(Error::Address(
                "rediss:// needs the feature `tls` of mp-cluster".to_string(),
            ));
        }
        #[cfg(feature = "tls")]
        {
            // The client takes what the process has chosen, and panics where that is nothing.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        let place = info.addr().to_string();
        let client = Client::open(info).map_err(|_| {
            Error::Address(format!("the server {place} cannot be reached in this way"))
        })?;
        Ok(Self {
            client,
            url: url.to_string(),
            name: name.to_string(),
            place,
            prefix: format!("mp:{{{name}}}:"),
            patience,
            given_up: AtomicBool::new(false),
            idle: Mutex::default(),
        })
    }

    /// Another one of the same place, with connections of its own.
    pub(crate) fn again(&self, patience: Duration) -> Self {
        Self {
            client: self.client.clone(),
            url: self.url.clone(),
            name: self.name.clone(),
            place: self.place.clone(),
            prefix: self.prefix.clone(),
            patience,
            given_up: AtomicBool::new(false),
            idle: Mutex::default(),
        }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Whether both are the same server and database there, whoever connects.
    pub(crate) fn leads_to_the_same_as(&self, other: &Self) -> bool {
        let database = |server: &Self| server.client.get_connection_info().redis_settings().db();
        self.place == other.place && database(self) == database(other)
    }

    /// A value as it lies there.
    pub(crate) fn encode<T: Serialize + ?Sized>(self: &Arc<Self>, value: &T) -> Result<Vec<u8>> {
        let message = handle::within(self, || mp_core::encode(value))?;
        let (bytes, fds) = message.into_parts();
        if !fds.is_empty() {
            let why = "handles of this machine mean nothing on another";
            return Err(Error::Encode(why.to_string()));
        }
        if bytes.len() > LONGEST {
            return Err(Error::TooLong { len: bytes.len(), limit: LONGEST });
        }
        Ok(bytes)
    }

    pub(crate) fn decode<T: DeserializeOwned>(self: &Arc<Self>, bytes: Vec<u8>) -> Result<T> {
        Ok(handle::within(self, || mp_core::decode(Message::new(bytes, Vec::new())))?)
    }

    pub(crate) fn place(&self) -> &str {
        &self.place
    }

    /// Has calls fail at the first attempt from now on, those that wait already too.
    pub(crate) fn give_up(&self) {
        self.given_up.store(true, Ordering::Relaxed);
    }

    /// The key of that name: the braces keep all of one cluster in one slot.
    pub(crate) fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn take(&self) -> Result<Line> {
        let mut idle = lock(&self.idle);
        let pid = std::process::id();
        if idle.pid != pid {
            // Closed here only: their parent goes on with them.
            idle.lines.clear();
            idle.pid = pid;
        }
        idle.lines.pop().map_or_else(Line::new, Ok)
    }

    fn give_back(&self, line: Line) {
        let mut idle = lock(&self.idle);
        if idle.pid == std::process::id() && idle.lines.len() < MOST_IDLE {
            idle.lines.push(line);
        }
    }

    /// Makes a call that may be made twice.
    pub(crate) fn call<R>(&self, call: impl FnMut(&mut Connection) -> RedisResult<R>) -> Result<R> {
        let mut line = self.take()?;
        let result = self.call_on(&mut line, Duration::ZERO, call);
        self.give_back(line);
        result
    }

    /// As [`call`](Self::call), one that waits in the server for up to `longer`, and on a connection of the caller's.
    pub(crate) fn call_on<R>(
        &self,
        line: &mut Line,
        longer: Duration,
        mut call: impl FnMut(&mut Connection) -> RedisResult<R>,
    ) -> Result<R> {
        let start = Instant::now();
        let deadline = Deadline::after(self.patience);
        let mut pause = SHORTEST_PAUSE;
        loop {
            let left = || deadline.remaining().unwrap_or(self.patience);
            match self.attempt(line, left().max(SHORTEST_PAUSE), longer, &mut call) {
                Ok(value) => return Ok(value),
                Err(Failure::Lasting(error)) => return Err(error),
                // Relaxed: nothing else depends on it.
                Err(Failure::Passing(why))
                    if left().is_zero() || self.given_up.load(Ordering::Relaxed) =>
                {
                    let server = self.place.clone();
                    return Err(Error::Unreachable { server, waited: start.elapsed(), why });
                }
                Err(Failure::Passing(_)) => {}
            }
            thread::sleep(pause.min(left()));
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn attempt<R>(
        &self,
        line: &mut Line,
        left: Duration,
        longer: Duration,
        call: &mut impl FnMut(&mut Connection) -> RedisResult<R>,
    ) -> Result<R, Failure> {
        let mut connection = match line.connection.take() {
            Some(connection) => connection,
            None => {
                let connected = self.client.get_connection_with_timeout(left.min(CONNECT));
                line.connected += 1;
                connected.map_err(|error| classify(&error))?
            }
        };
        let limits = connection
            .set_write_timeout(Some(left))
            .and_then(|()| connection.set_read_timeout(Some(left.saturating_add(longer))));
        limits.map_err(|error| classify(&error))?;
        match call(&mut connection) {
            Ok(value) => {
                line.connection = Some(connection);
                Ok(value)
            }
            Err(error) => {
                let failure = classify(&error);
                // After a refusal the connection is as good as before; after anything else nobody knows what comes
                // through it next.
                if matches!(failure, Failure::Lasting(_)) && connection.is_open() {
                    line.connection = Some(connection);
                }
                Err(failure)
            }
        }
    }

    /// Runs a script that changes something, once, however often the connection breaks.
    pub(crate) fn once<R: FromRedisValue>(
        &self,
        script: &Script,
        keys: &[&str],
        fill: impl Fn(&mut redis::ScriptInvocation<'_>),
    ) -> Result<R> {
        let mut line = self.take()?;
        line.calls += 1;
        let trace = self.key(&format!("s:{}", line.id));
        let number = line.calls;
        let kept = (self.patience + TRACE).as_millis() as u64;
        let result = self.call_on(&mut line, Duration::ZERO, |connection| {
            let mut invocation = script.0.prepare_invoke();
            invocation.key(&trace);
            for key in keys {
                invocation.key(*key);
            }
            invocation.arg(number).arg(kept);
            fill(&mut invocation);
            invocation.invoke::<R>(connection)
        });
        self.give_back(line);
        result
    }

    /// Tries until there is something, or the time is over: then nothing. Between attempts waits for somebody to ring.
    pub(crate) fn wait<R>(
        &self,
        bell: &str,
        deadline: Deadline,
        mut attempt: impl FnMut() -> Result<Attempt<R>>,
    ) -> Result<Option<R>> {
        loop {
            let wait = match attempt()? {
                Attempt::Done(value) => return Ok(Some(value)),
                Attempt::NotYet => SLICE,
                Attempt::NoLongerThan(wait) => wait.min(SLICE),
            };
            let left = deadline.remaining().unwrap_or(SLICE);
            if left.is_zero() {
                return Ok(None);
            }
            // The server takes zero for ever.
            let wait = wait.min(left).max(Duration::from_millis(1));
            self.call_bell(bell, wait)?;
        }
    }

    fn call_bell(&self, bell: &str, wait: Duration) -> Result<()> {
        let mut line = self.take()?;
        let mut call = |connection: &mut Connection| {
            redis::cmd("BLPOP").arg(bell).arg(wait.as_secs_f64()).query::<Value>(connection)
        };
        match self.attempt(&mut line, self.patience.min(CONNECT), wait, &mut call) {
            Ok(_) => {}
            // The next attempt meets it too, and is patient.
            Err(Failure::Passing(_)) => thread::sleep(SHORTEST_PAUSE),
            Err(Failure::Lasting(error)) => return Err(error),
        }
        self.give_back(line);
        Ok(())
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("place", &self.place).finish_non_exhaustive()
    }
}

/// Between attempts to change what somebody else has changed first: by chance, so that not all try at once again.
pub(crate) struct Pause {
    /// In milliseconds.
    longest: u64,
}

impl Pause {
    pub(crate) fn new() -> Self {
        Self { longest: 1 }
    }

    pub(crate) fn sleep(&mut self) -> Result<()> {
        let mut random = [0; 8];
        random::fill(&mut random)?;
        // The first time not at all.
        thread::sleep(Duration::from_millis(u64::from_ne_bytes(random) % self.longest));
        self.longest = (self.longest * 2).min(LONGEST_CHANGE_PAUSE);
        Ok(())
    }
}

/// What an attempt came to.
pub(crate) enum Attempt<R> {
    Done(R),
    /// Somebody will ring.
    NotYet,
    /// Somebody will ring, or it is to be had after this time.
    NoLongerThan(Duration),
}

/// A script that leaves a trace. Its keys are `KEYS[2]` on, its arguments `ARGV[3]` on; a `ring(key, n)` wakes who
/// waits for that bell.
pub(crate) struct Script(redis::Script);

impl Script {
    pub(crate) fn new(body: &str) -> Self {
        Self(redis::Script::new(&format!(
            "local seen = redis.call('HMGET', KEYS[1], 'n', 'r')
            if seen[1] == ARGV[1] then return cmsgpack.unpack(seen[2])[1] end
            local function ring(bell, n)
                for _ = 1, math.min(n, 64) do redis.call('RPUSH', bell, '') end
                redis.call('LTRIM', bell, -64, -1)
            end
            local function work() {body} end
            local result = work()
            redis.call('HSET', KEYS[1], 'n', ARGV[1], 'r', cmsgpack.pack({{result}}))
            redis.call('PEXPIRE', KEYS[1], ARGV[2])
            return result"
        )))
    }
}

/// A script, made at its first use.
macro_rules! script {
    ($body:expr) => {{
        static SCRIPT: std::sync::LazyLock<crate::server::Script> =
            std::sync::LazyLock::new(|| crate::server::Script::new($body));
        &*SCRIPT
    }};
}
pub(crate) use script;

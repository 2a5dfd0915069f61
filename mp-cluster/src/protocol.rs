//! What lies in the server for a pool, and how it changes.
//!
//! All keys begin with `mp:{name}:`.
//!
//! | Key | Is |
//! | --- | --- |
//! | `build` | what identifies the program that all run, for as long as one of them does |
//! | `tasks` | the stream of tasks; the group `hosts` has each given to one host |
//! | `results:CALLER` | the stream of a caller's results, which it trims once it has them |
//! | `caller:CALLER` | there while the caller lives: it renews it, and it expires |
//! | `hosts`, `host:HOST` | the set of hosts; the workers of one, there while it lives |
//! | `cancels` | a stream that all hosts read: what is to be cancelled |
//! | `tried:ENTRY` | the hosts that had a task and fell silent |
//!
//! A task has the fields `c` caller, `i` number, `m` how often it may be given to a host, `b` bytes. It is in the
//! stream until its result is in the caller's, which comes about in one transaction. A host that falls silent leaves
//! what it had in its list of the group, where the others see it, and take it when they have room: [`claim`].
//!
//! What is to be cancelled has `c` caller, `i` numbers, or `all` of them, and maybe `h`: the one host that was given those
//! tasks, which cancels what has not begun, and says of the rest that it has. Without it all hosts drop them, whether they
//! run or not.
//!
//! A result has `i` number, and one of `o` outcome, `d` hosts that fell silent over it (a line each), `n` that it was not
//! cancelled because it has begun.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use redis::Connection;

use crate::server::{Line, Server};
use crate::{Error, Result};

pub(crate) const GROUP: &str = "hosts";

/// How long whoever holds tasks may be silent, if nobody says.
pub(crate) const LEASE: Duration = Duration::from_secs(10);
/// How often a task is given to a host, if nobody says.
pub(crate) const DELIVERIES: u32 = 3;
/// Each lease is renewed so often while it lasts.
pub(crate) const BEATS: u32 = 4;
/// What outlives its owner goes after so many leases.
pub(crate) const REMAINS: u32 = 10;

/// An entry of a stream: its id, and its fields' names and values in turn, unless it was deleted.
pub(crate) type Entry = (String, Option<Vec<Vec<u8>>>);
/// What reading from one or more streams gives.
pub(crate) type Streams = Option<Vec<(String, Vec<Entry>)>>;

/// The value of a field.
pub(crate) fn field<'a>(fields: &'a [Vec<u8>], name: &str) -> Option<&'a [u8]> {
    let mut pairs = fields.chunks_exact(2);
    pairs.find(|pair| pair[0] == name.as_bytes()).map(|pair| &pair[1][..])
}

pub(crate) fn text(fields: &[Vec<u8>], name: &str) -> Option<String> {
    field(fields, name).map(|bytes| String::from_utf8_lossy(bytes).into_owned())
}

pub(crate) fn number(fields: &[Vec<u8>], name: &str) -> Option<u64> {
    text(fields, name)?.parse().ok()
}

pub(crate) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX >> 12).max(1)
}

/// The keys of a pool.
pub(crate) struct Keys {
    pub(crate) build: String,
    pub(crate) tasks: String,
    pub(crate) hosts: String,
    pub(crate) cancels: String,
    prefix: String,
}

impl Keys {
    pub(crate) fn new(server: &Server) -> Self {
        Self {
            build: server.key("build"),
            tasks: server.key("tasks"),
            hosts: server.key("hosts"),
            cancels: server.key("cancels"),
            prefix: server.key(""),
        }
    }

    pub(crate) fn caller(&self, caller: &str) -> String {
        format!("{}caller:{caller}", self.prefix)
    }

    pub(crate) fn results(&self, caller: &str) -> String {
        format!("{}results:{caller}", self.prefix)
    }

    pub(crate) fn host(&self, host: &str) -> String {
        format!("{}host:{host}", self.prefix)
    }
}

macro_rules! plain_script {
    ($body:expr) => {{
        static SCRIPT: std::sync::LazyLock<redis::Script> =
            std::sync::LazyLock::new(|| redis::Script::new($body));
        &*SCRIPT
    }};
}
pub(crate) use plain_script;

/// Has this program's build be that of the pool, if it has none, and says so for another lease; else is an error.
pub(crate) fn agree(
    server: &Server,
    line: &mut Line,
    keys: &Keys,
    build: &str,
    lease: Duration,
) -> Result<()> {
    let agree = plain_script!(
        "redis.call('SET', KEYS[1], ARGV[1], 'NX')
        local build = redis.call('GET', KEYS[1])
        if build == ARGV[1] then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
        return build"
    );
    let theirs = server.call_on(line, Duration::ZERO, |connection| {
        agree.key(&keys.build).arg(build).arg(millis(lease)).invoke::<String>(connection)
    })?;
    if theirs == build {
        return Ok(());
    }
    Err(Error::DifferentProgram { ours: build.to_string(), theirs })
}

/// How many workers all hosts have together. Forgets hosts that fell silent.
pub(crate) fn census(connection: &mut Connection, keys: &Keys) -> redis::RedisResult<usize> {
    let census = plain_script!(
        "local sum = 0
        for _, host in ipairs(redis.call('SMEMBERS', KEYS[1])) do
            local workers = redis.call('GET', ARGV[1] .. 'host:' .. host)
            if workers then
                sum = sum + tonumber(workers)
            else
                redis.call('SREM', KEYS[1], host)
            end
        end
        return sum"
    );
    census.key(&keys.hosts).arg(&keys.prefix).invoke(connection)
}

/// Who has tasks, and shows no sign of life. Forgets those who have none either.
pub(crate) fn silent(connection: &mut Connection, keys: &Keys) -> redis::RedisResult<Vec<String>> {
    let silent = plain_script!(
        "local found = {}
        if redis.call('EXISTS', KEYS[1]) == 0 then return found end
        local ok, consumers = pcall(redis.call, 'XINFO', 'CONSUMERS', KEYS[1], 'hosts')
        if not ok or consumers.err then return found end
        for _, consumer in ipairs(consumers) do
            local about = {}
            for i = 1, #consumer, 2 do about[consumer[i]] = consumer[i + 1] end
            if redis.call('EXISTS', ARGV[1] .. 'host:' .. about.name) == 0 then
                if about.pending > 0 then
                    found[#found + 1] = about.name
                else
                    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], 'hosts', about.name)
                end
            end
        end
        return found"
    );
    silent.key(&keys.tasks).arg(&keys.prefix).invoke(connection)
}

/// Ends the tasks of `from`, a host that fell silent, that were given out too often; gives up to `count` of the others
/// to `to`.
pub(crate) fn claim(
    connection: &mut Connection,
    keys: &Keys,
    from: &str,
    to: &str,
    count: usize,
    lease: Duration,
) -> redis::RedisResult<Vec<Entry>> {
    let claim = plain_script!(
        "local tasks, prefix, from, to, count = KEYS[1], ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
        local claimed = {}
        if redis.call('EXISTS', prefix .. 'host:' .. from) == 1 then return claimed end
        for _, entry in ipairs(redis.call('XPENDING', tasks, 'hosts', '-', '+', 1000, from)) do
            local id = entry[1]
            local found = redis.call('XRANGE', tasks, id, id)[1]
            if not found then
                redis.call('XACK', tasks, 'hosts', id)
            else
                local about = {}
                for i = 1, #found[2], 2 do about[found[2][i]] = found[2][i + 1] end
                local tried = prefix .. 'tried:' .. id
                if redis.call('LLEN', tried) + 1 >= tonumber(about.m) then
                    redis.call('RPUSH', tried, from)
                    local all = redis.call('LRANGE', tried, 0, -1)
                    local results = prefix .. 'results:' .. about.c
                    redis.call('XADD', results, '*', 'i', about.i, 'd', table.concat(all, string.char(10)))
                    redis.call('PEXPIRE', results, ARGV[5])
                    redis.call('XACK', tasks, 'hosts', id)
                    redis.call('XDEL', tasks, id)
                    redis.call('DEL', tried)
                elseif count > 0 then
                    count = count - 1
                    redis.call('RPUSH', tried, from)
                    redis.call('PEXPIRE', tried, 86400000)
                    redis.call('XCLAIM', tasks, 'hosts', to, 0, id, 'JUSTID')
                    claimed[#claimed + 1] = found
                end
            end
        end
        return claimed"
    );
    claim
        .key(&keys.tasks)
        .arg(&keys.prefix)
        .arg(from)
        .arg(to)
        .arg(count)
        .arg(millis(lease * REMAINS))
        .invoke(connection)
}

/// Who is missing, and since when: nobody is taken for dead who was not missing for a while of which all was seen.
#[derive(Default)]
pub(crate) struct Missing {
    since: HashMap<String, Instant>,
    connected: u64,
}

impl Missing {
    /// Those of `missing` that have been so for `long`. Where the connection broke meanwhile, the server may have been
    /// away: then they could not show that they live, and get their time anew.
    pub(crate) fn ripe(
        &mut self,
        missing: &[String],
        connected: u64,
        long: Duration,
    ) -> Vec<String> {
        if self.connected != connected {
            self.connected = connected;
            self.since.clear();
        }
        let names: HashSet<&String> = missing.iter().collect();
        self.since.retain(|name, _| names.contains(name));
        let now = Instant::now();
        for name in missing {
            self.since.entry(name.clone()).or_insert(now);
        }
        let mut ripe: Vec<_> = self
            .since
            .iter()
            .filter(|(_, since)| now.duration_since(**since) >= long)
            .map(|(name, _)| name.clone())
            .collect();
        ripe.sort_unstable();
        ripe
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_names() {
        let fields = [&b"i"[..], b"17", b"o", b"\xff\0", b"c"].map(<[u8]>::to_vec);
        assert_eq!(number(&fields, "i"), Some(17));
        assert_eq!(field(&fields, "o"), Some(&b"\xff\0"[..]));
        assert_eq!(
            (number(&fields, "o"), field(&fields, "c"), field(&fields, "17")),
            (None, None, None)
        );
    }

    #[test]
    fn who_is_missing_gets_a_while_and_another_after_the_connection_broke() {
        let mut missing = Missing::default();
        let names = ["a".to_string(), "b".to_string()];
        let long = Duration::from_secs(1000);
        assert!(missing.ripe(&names, 1, long).is_empty());
        assert_eq!(missing.ripe(&names, 1, Duration::ZERO), names);
        // One that is back has its time anew, too.
        assert_eq!(missing.ripe(&names[1..], 1, Duration::ZERO), names[1..]);
        let since = missing.since["b"];
        assert!(missing.ripe(&names, 1, long).is_empty() && missing.since["b"] == since);
        assert!(missing.ripe(&names, 2, long).is_empty() && missing.since["b"] != since);
    }
}

//! Locks.

use std::collections::HashMap;
use std::fmt;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex};
use std::thread::{self, ThreadId};
use std::time::Duration;

use mp_core::Deadline;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::server::{self, Attempt, Server, random_id, script};
use crate::{Error, Result, handle};

/// A lock that one of many machines holds, for as long as its lease.
///
/// The server cannot see how its holder fares. So it is a lease: when that is over and was not
/// [renewed](LockGuard::renew), others get the lock, and the next one is told
/// ([`LockGuard::owner_died`]). A holder that was only slow, or cut off, may go on then and not know. Where that would do
/// harm, give the [fence](LockGuard::fence) along with every write that the lock guards: it grows with each holder, so
/// whoever stores can refuse what comes with a lower one.
///
/// Clones are the same lock. Had from [`Cluster::lock`](crate::Cluster::lock).
///
/// # Example
///
/// ```
/// use std::time::Duration;
/// use mp_cluster::{Cluster, LockGuard};
///
/// let url = "redis://head:6379/";
/// # let Some(server) = include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/server.rs")) else { return Ok(()) };
/// # let url = server.url();
/// let lock = Cluster::connect(url, "job7")?.lock("index", Duration::from_secs(30))?;
/// let guard = lock.lock()?;
/// println!("writing as number {}", LockGuard::fence(&guard));
/// LockGuard::renew(&guard)?; // 30 s from now on
/// LockGuard::release(guard)?; // says if the lease was over before
/// # Ok::<(), mp_cluster::Error>(())
/// ```
#[derive(Clone)]
pub struct Lock {
    server: Arc<Server>,
    key: String,
    lease: Duration,
    /// What threads of this process took without a guard, by these clones.
    taken: Arc<Mutex<HashMap<ThreadId, Holding>>>,
}

/// That it is held, by whom, for the how manieth time.
#[derive(Clone)]
struct Holding {
    token: String,
    fence: u64,
    owner_died: bool,
}

#[derive(Clone, Copy)]
enum Limit {
    Try,
    Until(Deadline),
}

impl Lock {
    pub(crate) fn open(server: &Arc<Server>, name: &str, lease: Duration) -> Self {
        Self {
            server: Arc::clone(server),
            key: server.key(&format!("l:{name}")),
            // The server counts milliseconds, and zero of them is an error.
            lease: lease.max(Duration::from_millis(1)),
            taken: Arc::default(),
        }
    }

    /// Where the fence of the last holder stands, and whether that released it.
    fn last(&self) -> String {
        format!("{}:last", self.key)
    }

    fn freed(&self) -> String {
        format!("{}:freed", self.key)
    }

    fn millis(&self) -> u64 {
        u64::try_from(self.lease.as_millis()).unwrap_or(u64::MAX >> 12)
    }

    fn take(&self, limit: Limit) -> Result<Holding> {
        // The fence grows also where the server has lost what it was: it is no lower than its clock.
        let take = script!(
            "local left = redis.call('PTTL', KEYS[2])
            if left ~= -2 then return {0, tostring(left), 0} end
            local last = redis.call('HMGET', KEYS[3], 'fence', 'released')
            local now = redis.call('TIME')
            local fence = math.max((tonumber(last[1]) or 0) + 1, now[1] * 1000000 + now[2])
            fence = string.format('%.0f', fence)
            redis.call('SET', KEYS[2], ARGV[3], 'PX', ARGV[4])
            redis.call('HSET', KEYS[3], 'fence', fence)
            local died = last[1] and last[1] ~= last[2]
            return {1, fence, died and 1 or 0}"
        );
        let token = random_id()?;
        let keys: [&str; 2] = [&self.key, &self.last()];
        let attempt = || {
            let (taken, number, died): (u8, i64, u8) = self.server.once(take, &keys, |to| {
                to.arg(&token).arg(self.millis());
            })?;
            let number = u64::try_from(number).unwrap_or(0);
            if taken == 0 {
                return Ok(Attempt::NoLongerThan(Duration::from_millis(number)));
            }
            let token = token.clone();
            Ok(Attempt::Done(Holding { token, fence: number, owner_died: died != 0 }))
        };
        match limit {
            Limit::Try => match attempt()? {
                Attempt::Done(holding) => Ok(holding),
                Attempt::NotYet | Attempt::NoLongerThan(_) => Err(Error::WouldBlock),
            },
            Limit::Until(deadline) => {
                self.server.wait(&self.freed(), deadline, attempt)?.ok_or(Error::TimedOut)
            }
        }
    }

    fn give(&self, holding: &Holding) -> Result<()> {
        let give = script!(
            "if redis.call('GET', KEYS[2]) ~= ARGV[3] then return 0 end
            redis.call('DEL', KEYS[2])
            redis.call('HSET', KEYS[3], 'released', ARGV[4])
            ring(KEYS[4], 1)
            return 1"
        );
        let keys: [&str; 3] = [&self.key, &self.last(), &self.freed()];
        let released: u8 = self.server.once(give, &keys, |to| {
            to.arg(&holding.token).arg(holding.fence);
        })?;
        if released == 0 { Err(Error::LeaseOver) } else { Ok(()) }
    }

    fn renew(&self, holding: &Holding) -> Result<()> {
        let renew = script!(
            "if redis.call('GET', KEYS[2]) ~= ARGV[3] then return 0 end
            return redis.call('PEXPIRE', KEYS[2], ARGV[4])"
        );
        let renewed: u8 = self.server.once(renew, &[&self.key], |to| {
            to.arg(&holding.token).arg(self.millis());
        })?;
        if renewed == 0 { Err(Error::LeaseOver) } else { Ok(()) }
    }

    fn guard(&self, limit: Limit) -> Result<LockGuard<'_>> {
        let holding = self.take(limit)?;
        Ok(LockGuard { lock: self, holding: Some(holding), of_thread: PhantomData })
    }

    fn hold(&self, limit: Limit) -> Result<bool> {
        let holding = self.take(limit)?;
        let owner_died = holding.owner_died;
        server::lock(&self.taken).insert(thread::current().id(), holding);
        Ok(owner_died)
    }

    /// Takes it; waits while another has it. Who has it waits for its own lease to be over.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    pub fn lock(&self) -> Result<LockGuard<'_>> {
        self.guard(Limit::Until(Deadline::NEVER))
    }

    /// Takes it if nobody has it.
    ///
    /// # Errors
    ///
    /// [`WouldBlock`](Error::WouldBlock) where somebody has it; [every call's](crate#errors).
    pub fn try_lock(&self) -> Result<LockGuard<'_>> {
        self.guard(Limit::Try)
    }

    /// Takes it, waiting no longer than `timeout`.
    ///
    /// # Errors
    ///
    /// [`TimedOut`](Error::TimedOut); else as [`lock`](Self::lock).
    pub fn lock_timeout(&self, timeout: Duration) -> Result<LockGuard<'_>> {
        self.guard(Limit::Until(Deadline::after(timeout)))
    }

    /// Takes it without a guard, for this thread; says whether the lease of whoever held it last was over before it was
    /// released.
    ///
    /// # Errors
    ///
    /// As [`lock`](Self::lock).
    pub fn acquire(&self) -> Result<bool> {
        self.hold(Limit::Until(Deadline::NEVER))
    }

    /// As [`acquire`](Self::acquire), if nobody has it.
    ///
    /// # Errors
    ///
    /// As [`try_lock`](Self::try_lock).
    pub fn try_acquire(&self) -> Result<bool> {
        self.hold(Limit::Try)
    }

    /// As [`acquire`](Self::acquire), waiting no longer than `timeout`.
    ///
    /// # Errors
    ///
    /// As [`lock_timeout`](Self::lock_timeout).
    pub fn acquire_timeout(&self, timeout: Duration) -> Result<bool> {
        self.hold(Limit::Until(Deadline::after(timeout)))
    }

    /// Releases what [`acquire`](Self::acquire) took.
    ///
    /// # Errors
    ///
    /// [`NotOwner`](Error::NotOwner) where this thread took nothing; [`LeaseOver`](Error::LeaseOver) where it does not
    /// hold it any more; [every call's](crate#errors).
    pub fn release(&self) -> Result<()> {
        let holding = server::lock(&self.taken).remove(&thread::current().id());
        self.give(&holding.ok_or(Error::NotOwner)?)
    }

    /// Whether somebody holds it, at this moment.
    ///
    /// # Errors
    ///
    /// As [every call](crate#errors).
    #[doc(alias = "locked")]
    pub fn is_locked(&self) -> Result<bool> {
        self.server.call(|connection| redis::cmd("EXISTS").arg(&self.key).query(connection))
    }
}

impl Serialize for Lock {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        handle::serialize(&self.server, (&self.key, self.lease), serializer)
    }
}

impl<'de> Deserialize<'de> for Lock {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (server, (key, lease)) = handle::deserialize(deserializer)?;
        Ok(Self { server, key, lease, taken: Arc::default() })
    }
}

impl fmt::Debug for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lock")
            .field("server", &self.server.place())
            .field("key", &self.key)
            .field("lease", &self.lease)
            .finish_non_exhaustive()
    }
}

/// Holds a [`Lock`], and releases it when dropped.
///
/// Dropping tells nobody that the lease was over: [`release`](Self::release) does. Where the server is away it waits for
/// it, as every call does.
#[must_use = "the lock is released when the guard is dropped"]
pub struct LockGuard<'a> {
    lock: &'a Lock,
    holding: Option<Holding>,
    /// Locks are held by threads.
    of_thread: PhantomData<*const ()>,
}

impl LockGuard<'_> {
    fn holding(&self) -> &Holding {
        self.holding.as_ref().expect("a guard has it until it is released")
    }

    /// A number that is larger than that of every holder before.
    #[must_use]
    pub fn fence(guard: &Self) -> u64 {
        guard.holding().fence
    }

    /// Whether whoever held the lock before let its lease pass: then what it guards may be half done.
    #[must_use]
    pub fn owner_died(guard: &Self) -> bool {
        guard.holding().owner_died
    }

    /// Starts the lease again, from now on.
    ///
    /// # Errors
    ///
    /// [`LeaseOver`](Error::LeaseOver) where it was over: the lock is not held any more; [every call's](crate#errors).
    pub fn renew(guard: &Self) -> Result<()> {
        guard.lock.renew(guard.holding())
    }

    /// Releases the lock, as dropping the guard does, and says whether that went well.
    ///
    /// # Errors
    ///
    /// [`LeaseOver`](Error::LeaseOver) where it was not held any more; [every call's](crate#errors).
    pub fn release(mut guard: Self) -> Result<()> {
        match guard.holding.take() {
            Some(holding) => guard.lock.give(&holding),
            None => Ok(()),
        }
    }
}

impl Drop for LockGuard<'_> {
    fn drop(&mut self) {
        if let Some(holding) = self.holding.take() {
            // Where the server is away the lease ends it.
            let _ = self.lock.give(&holding);
        }
    }
}

impl fmt::Debug for LockGuard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LockGuard").field("fence", &self.holding().fence).finish_non_exhaustive()
    }
}

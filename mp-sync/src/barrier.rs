//! A place where a fixed number of parties meet.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::action::Action;
use crate::patience::Limit;
use crate::view::{View, kind};
use crate::words::barrier::{BarrierWords, MAX_PARTIES};
use crate::{Error, Result, owner};

/// How many waiting parties are watched for their death: as many as fill a page with the rest.
const WATCHED: usize = 246;

/// A place where a fixed number of processes or threads wait for each other, again and again.
///
/// Clone it or send it to another process: both have the same barrier. When the last of the parties has
/// come, all go on, and the barrier is ready for the next round.
///
/// A barrier breaks, for those in it and all that come, when a party gives up after its time
/// ([`wait_timeout`](Self::wait_timeout)), when one calls [`abort`](Self::abort), when the action panics,
/// and when a party dies while it waits: then the others learn of it within a tenth of a second, and the last to come
/// learns of it at once. That one does not look where all came just now, within 0.15 ms for each of the others: in so
/// short a round who died counts as having come. A party that dies elsewhere is not known to
/// the barrier: wait with a timeout where that can happen. [`reset`](Self::reset) makes it whole again.
///
/// With more than 246 parties, not all of them are watched; one that is not, and that sleeps through 16 further rounds, is
/// told that its own was broken.
///
/// Python: `multiprocessing.Barrier`, which accepts 0 parties and hangs if a waiting one is killed.
///
/// # Example
///
/// ```
/// use mp_sync::Barrier;
///
/// # fn main() -> mp_sync::Result<()> {
/// let barrier = Barrier::new(2)?;
/// let theirs = barrier.clone(); // or sent to another process
/// let other = std::thread::spawn(move || theirs.wait());
///
/// let index = barrier.wait()?; // both have come
/// assert_eq!(index + other.join().unwrap()?, 1); // one came first, one last
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Barrier {
    view: View<BarrierWords<WATCHED>>,
    action: Action,
}

impl Barrier {
    /// The largest number of parties: 65,535.
    pub const MAX_PARTIES: usize = MAX_PARTIES;

    /// Makes a barrier for `parties`.
    ///
    /// # Errors
    ///
    /// [`Error::BadParties`] for none, or more than [`MAX_PARTIES`](Self::MAX_PARTIES); [`Error::Io`] where
    /// memory or descriptors are short.
    pub fn new(parties: usize) -> Result<Self> {
        let count = u32::try_from(parties)
            .ok()
            .filter(|&count| count > 0 && parties <= MAX_PARTIES)
            .ok_or(Error::BadParties { parties })?;
        let view: View<BarrierWords<WATCHED>> = View::create("barrier", kind::BARRIER, 0)?;
        view.begin(count);
        Ok(Self { view, action: Action::None })
    }

    /// Gives the barrier an action: the last party to come runs it, in its own process, before any goes on.
    ///
    /// It belongs to this handle and those cloned or sent from it. A function, or a closure that captures
    /// nothing, travels with the barrier to other processes of this program; one that captures stays in
    /// this process and those forked from it, and sending such a barrier is an error. If the action
    /// panics, the barrier breaks and the panic goes on in the party that ran it.
    ///
    /// # Example
    ///
    /// ```
    /// use mp_sync::Barrier;
    ///
    /// # fn main() -> mp_sync::Result<()> {
    /// let barrier = Barrier::new(1)?.with_action(|| println!("all are here"));
    /// barrier.wait()?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn with_action<F: Fn() + Send + Sync + 'static>(mut self, action: F) -> Self {
        self.action = Action::new(action);
        self
    }

    /// Waits until all parties have come; gives this one's place in the order of arrival, from 0.
    ///
    /// # Errors
    ///
    /// [`Error::Broken`] where the barrier is broken, or breaks meanwhile.
    pub fn wait(&self) -> Result<usize> {
        self.wait_limited(Limit::Forever)
    }

    /// As [`wait`](Self::wait), no longer than `timeout`; then the barrier is broken for all.
    ///
    /// But not by one that comes for the next round while the last of this one runs the action: it goes away, and
    /// nobody had counted on it.
    ///
    /// # Errors
    ///
    /// [`Error::TimedOut`] for the party whose time is over, [`Error::Broken`] for the others.
    pub fn wait_timeout(&self, timeout: Duration) -> Result<usize> {
        self.wait_limited(Limit::For(timeout))
    }

    fn wait_limited(&self, limit: Limit) -> Result<usize> {
        self.view.wait(owner::me(), limit, || self.action.run())
    }

    /// Breaks the barrier: those that wait, and those that come, get [`Error::Broken`]. Never waits.
    ///
    /// # Errors
    ///
    /// None at present.
    pub fn abort(&self) -> Result<()> {
        self.view.abort();
        Ok(())
    }

    /// Makes the barrier as new. Those that wait get [`Error::Broken`]; who comes next is the first of a
    /// new round. Never waits. Where who calls it is killed on the way, the barrier may be broken.
    ///
    /// # Errors
    ///
    /// None at present.
    pub fn reset(&self) -> Result<()> {
        self.view.reset();
        Ok(())
    }

    /// Whether it is broken.
    #[doc(alias = "broken")]
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.view.is_broken()
    }

    /// How many have to come.
    #[must_use]
    pub fn parties(&self) -> usize {
        self.view.parties() as usize
    }

    /// How many wait now; 0 where it is broken. One that died counts until another sees it.
    #[must_use]
    pub fn n_waiting(&self) -> usize {
        self.view.waiting() as usize
    }
}

impl Serialize for Barrier {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (&self.view, &self.action).serialize(serializer)
    }
}

/// The words, as they come in a message.
struct Received(View<BarrierWords<WATCHED>>);

impl<'de> Deserialize<'de> for Received {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        View::deserialize(deserializer, kind::BARRIER).map(Self)
    }
}

impl<'de> Deserialize<'de> for Barrier {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (Received(view), action) = Deserialize::deserialize(deserializer)?;
        Ok(Self { view, action })
    }
}

impl fmt::Debug for Barrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Barrier")
            .field("parties", &self.parties())
            .field("waiting", &self.n_waiting())
            .field("broken", &self.is_broken())
            .finish()
    }
}

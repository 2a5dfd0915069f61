//! The hand-shake of a client and a listener, without the socket.
//!
//! Each message is its length in two bytes, a kind, and fields of fixed size; none is longer than 256 bytes.
//!
//! | Who | Message | Fields |
//! | --- | --- | --- |
//! | client | hello | `mpL`, version, flags, 32 random bytes |
//! | listener | challenge | version, flags, 32 random bytes |
//! | client | proof | HMAC-SHA-256 of the key over what follows; empty without a key |
//! | listener | welcome | the same for its role |
//! | client | ready | |
//! | either, instead | refused | why |
//!
//! A proof covers a name for this protocol, the role of who makes it, and hello and challenge whole: so
//! version, flags and both random parts. One that was recorded fits no other hand-shake, and what one side
//! made is no proof of the other. The client proves first: who merely connects learns nothing that it could
//! try keys against. A side with a key never goes on without the other's proof.
//!
//! Who can change what is under way between the two can also take the connection over once it stands: TCP
//! neither hides nor protects what is sent afterwards.

use std::fmt;
use std::io;
use std::sync::Arc;

use hmac::{Hmac, KeyInit, Mac};
use mp_core::sys::random;
use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::{Error, Result};

/// A secret that both sides of a connection have.
///
/// Its bytes are overwritten with zeros when the last clone is dropped, and `Debug` does not print them. Keep
/// it out of arguments and environment of programs, which other users can read: send it to a process in the
/// arguments of its function, or in a message.
///
/// Any bytes but none can be a key. Who can guess it can connect, and whoever made a client connect to them
/// can try guesses at leisure: use [`random`](Self::random) rather than a word.
///
/// Python: `authkey`, which is bytes there. The empty key is legal there and an error here.
///
/// # Example
///
/// ```
/// use mp_pipe::AuthKey;
///
/// # fn main() -> mp_pipe::Result<()> {
/// let key = AuthKey::random()?;
/// assert_eq!(format!("{key:?}"), "AuthKey(***)");
/// assert!(AuthKey::new(b"").is_err());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct AuthKey(Arc<Zeroizing<Vec<u8>>>);

impl AuthKey {
    /// Copies `bytes`.
    ///
    /// # Errors
    ///
    /// [`Error::EmptyKey`].
    pub fn new(bytes: &[u8]) -> Result<Self> {
        Self::take(bytes.to_vec())
    }

    fn take(bytes: Vec<u8>) -> Result<Self> {
        if bytes.is_empty() { Err(Error::EmptyKey) } else { Ok(Self(Arc::new(bytes.into()))) }
    }

    /// Makes a key of 32 random bytes.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] where the kernel gives none.
    pub fn random() -> Result<Self> {
        let mut bytes = vec![0; 32];
        random::fill(&mut bytes)?;
        Self::take(bytes)
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<[u8]> for AuthKey {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for AuthKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AuthKey(***)")
    }
}

impl Serialize for AuthKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.as_bytes())
    }
}

impl<'de> Deserialize<'de> for AuthKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl<'de> Visitor<'de> for Bytes {
            type Value = AuthKey;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the bytes of an authkey")
            }

            fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<AuthKey, E> {
                AuthKey::new(bytes).map_err(E::custom)
            }

            fn visit_byte_buf<E: serde::de::Error>(self, bytes: Vec<u8>) -> Result<AuthKey, E> {
                AuthKey::take(bytes).map_err(E::custom)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<AuthKey, A::Error> {
                let mut bytes = Zeroizing::new(Vec::new());
                while let Some(byte) = seq.next_element()? {
                    bytes.push(byte);
                }
                AuthKey::new(&bytes).map_err(A::Error::custom)
            }
        }
        deserializer.deserialize_byte_buf(Bytes)
    }
}

/// No message is longer.
pub(crate) const MAX: usize = 256;
const VERSION: u8 = 1;
const MAGIC: &[u8; 3] = b"mpL";
const DOMAIN: &[u8] = b"multiprocess listener and client, hand-shake 1\0";

/// The side has a key.
const KEY: u8 = 1;
/// The socket keeps packets whole and carries descriptors: the connection will be over shared memory.
const PACKETS: u8 = 2;

const NONCE: usize = 32;
type Nonce = [u8; NONCE];

/// Why a side refuses the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Reason {
    /// It speaks another version.
    Version = 1,
    /// Its proof is not one of the same key.
    Proof = 2,
    /// It has no key.
    NoKey = 3,
    /// It has a key, and the other none.
    UnexpectedKey = 4,
    /// It belongs to another user.
    User = 5,
    /// The connection could not be made.
    Failed = 6,
}

impl Reason {
    fn from_byte(byte: u8) -> Option<Self> {
        use Reason::{Failed, NoKey, Proof, UnexpectedKey, User, Version};
        [Version, Proof, NoKey, UnexpectedKey, User, Failed]
            .into_iter()
            .find(|&reason| reason as u8 == byte)
    }

    /// For the client that was refused.
    pub(crate) fn to_client(self) -> Error {
        Error::Authentication(
            match self {
                Self::Version => "the listener speaks another version of the hand-shake",
                Self::Proof => "the listener has another key",
                Self::NoKey => "the listener wants a key: set the same one by authkey",
                Self::UnexpectedKey => "the listener has no key, and this client one",
                Self::User => "the listener belongs to another user",
                Self::Failed => "the listener could not make the connection",
            }
            .to_string(),
        )
    }

    /// For the listener that was refused, or refuses.
    fn to_listener(self) -> Option<Error> {
        let why = match self {
            Self::Version => "the client speaks another version of the hand-shake",
            Self::Proof => "the client has another key",
            Self::NoKey => "the client has no key, and this listener one",
            Self::UnexpectedKey => "the client has a key, and this listener none",
            Self::User | Self::Failed => return None,
        };
        Some(Error::Authentication(why.to_string()))
    }
}

/// A message of the hand-shake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Frame<'a> {
    Hello {
        flags: u8,
        nonce: &'a Nonce,
    },
    /// A hello, of another version than ours.
    Foreign,
    Challenge {
        flags: u8,
        nonce: &'a Nonce,
    },
    Proof(&'a [u8]),
    Welcome(&'a [u8]),
    Ready,
    Refused(Reason),
}

const HELLO: u8 = 1;
const CHALLENGE: u8 = 2;
const PROOF: u8 = 3;
const WELCOME: u8 = 4;
const READY: u8 = 5;
const REFUSED: u8 = 6;

/// How many bytes the message has that begins so, itself included; `None` where no message does.
pub(crate) fn length(head: [u8; 2]) -> Option<usize> {
    let len = usize::from(u16::from_le_bytes(head)) + 2;
    (3..=MAX).contains(&len).then_some(len)
}

/// Reads a whole message; `None` where it is none.
pub(crate) fn parse(message: &[u8]) -> Option<Frame<'_>> {
    let (head, rest) = message.split_first_chunk::<2>()?;
    if length(*head)? != message.len() {
        return None;
    }
    let (&kind, rest) = rest.split_first()?;
    let fixed = |rest: &'_ [u8]| matches!(rest.len(), 0 | 32);
    match kind {
        HELLO => {
            let rest = rest.strip_prefix(MAGIC)?;
            let (&version, rest) = rest.split_first()?;
            if version != VERSION {
                return Some(Frame::Foreign);
            }
            let (&flags, nonce) = rest.split_first()?;
            (flags & !(KEY | PACKETS) == 0).then_some(())?;
            Some(Frame::Hello { flags, nonce: nonce.try_into().ok()? })
        }
        CHALLENGE => {
            let (&[version, flags], nonce) = rest.split_first_chunk()?;
            (version == VERSION && flags & !(KEY | PACKETS) == 0).then_some(())?;
            Some(Frame::Challenge { flags, nonce: nonce.try_into().ok()? })
        }
        PROOF if fixed(rest) => Some(Frame::Proof(rest)),
        WELCOME if fixed(rest) => Some(Frame::Welcome(rest)),
        READY if rest.is_empty() => Some(Frame::Ready),
        REFUSED => match rest {
            &[reason] => Reason::from_byte(reason).map(Frame::Refused),
            _ => None,
        },
        _ => None,
    }
}

fn message(kind: u8, fields: &[&[u8]]) -> Vec<u8> {
    let len = 1 + fields.iter().map(|field| field.len()).sum::<usize>();
    debug_assert!(len + 2 <= MAX);
    let mut bytes = Vec::with_capacity(len + 2);
    bytes.extend_from_slice(&(len as u16).to_le_bytes());
    bytes.push(kind);
    fields.iter().for_each(|field| bytes.extend_from_slice(field));
    bytes
}

pub(crate) fn refusal(reason: Reason) -> Vec<u8> {
    message(REFUSED, &[&[reason as u8]])
}

#[derive(Clone, Copy, Debug)]
enum Role {
    Client = b'C' as isize,
    Listener = b'L' as isize,
}

fn mac(key: &AuthKey, role: Role, hello: &[u8], challenge: &[u8]) -> Hmac<Sha256> {
    let mut mac =
        Hmac::<Sha256>::new_from_slice(key.as_bytes()).expect("HMAC takes keys of any length");
    for part in [DOMAIN, &[role as u8], hello, challenge] {
        mac.update(part);
    }
    mac
}

/// The proof of who has `key`, or nothing without one.
fn prove(key: Option<&AuthKey>, role: Role, hello: &[u8], challenge: &[u8]) -> Vec<u8> {
    key.map_or_else(Vec::new, |key| {
        mac(key, role, hello, challenge).finalize().into_bytes().to_vec()
    })
}

/// Whether `proof` is what [`prove`] gives. Takes as long for a wrong one as for the right one.
fn verify(key: Option<&AuthKey>, role: Role, hello: &[u8], challenge: &[u8], proof: &[u8]) -> bool {
    match key {
        Some(key) => mac(key, role, hello, challenge).verify_slice(proof).is_ok(),
        None => proof.is_empty(),
    }
}

fn nonce() -> io::Result<Nonce> {
    let mut nonce = [0; NONCE];
    random::fill(&mut nonce)?;
    Ok(nonce)
}

fn flags(key: Option<&AuthKey>, packets: bool) -> u8 {
    (if key.is_some() { KEY } else { 0 }) | (if packets { PACKETS } else { 0 })
}

/// What to do after a message.
#[derive(Debug)]
pub(crate) enum Step {
    /// Send this and wait for the next.
    Answer(Vec<u8>),
    /// Send this, if it is something: the other has the key, and knows that we have.
    Done(Vec<u8>),
    /// Send this, if it is something, and hang up. Without an error nobody needs to know: what is there is no
    /// client.
    Refuse(Vec<u8>, Option<Error>),
}

/// The listener's side.
#[derive(Debug)]
pub(crate) struct Answering {
    key: Option<AuthKey>,
    flags: u8,
    hello: Vec<u8>,
    challenge: Vec<u8>,
    state: Answered,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Answered {
    Nothing,
    Hello,
    Proof,
}

impl Answering {
    pub(crate) fn new(key: Option<&AuthKey>, packets: bool) -> Self {
        let (hello, challenge) = (Vec::new(), Vec::new());
        let flags = flags(key, packets);
        Self { key: key.cloned(), flags, hello, challenge, state: Answered::Nothing }
    }

    /// How many messages the client has sent that are what they should be.
    pub(crate) fn progress(&self) -> u8 {
        self.state as u8
    }

    pub(crate) fn step(&mut self, bytes: &[u8]) -> io::Result<Step> {
        let refuse = |reason: Reason| Ok(Step::Refuse(refusal(reason), reason.to_listener()));
        match (self.state, parse(bytes)) {
            (Answered::Nothing, Some(Frame::Hello { flags, .. })) => {
                match (flags & KEY, self.flags & KEY) {
                    (0, KEY) => return refuse(Reason::NoKey),
                    (KEY, 0) => return refuse(Reason::UnexpectedKey),
                    _ => {}
                }
                if flags != self.flags {
                    return Ok(Step::Refuse(Vec::new(), None));
                }
                self.hello = bytes.to_vec();
                self.challenge = message(CHALLENGE, &[&[VERSION, self.flags], &nonce()?]);
                self.state = Answered::Hello;
                Ok(Step::Answer(self.challenge.clone()))
            }
            (Answered::Nothing, Some(Frame::Foreign)) => refuse(Reason::Version),
            (Answered::Hello, Some(Frame::Proof(proof))) => {
                let (key, hello, challenge) = (self.key.as_ref(), &self.hello, &self.challenge);
                if !verify(key, Role::Client, hello, challenge, proof) {
                    return refuse(Reason::Proof);
                }
                self.state = Answered::Proof;
                let proof = prove(key, Role::Listener, hello, challenge);
                Ok(Step::Answer(message(WELCOME, &[&proof])))
            }
            (Answered::Proof, Some(Frame::Ready)) => Ok(Step::Done(Vec::new())),
            (Answered::Hello | Answered::Proof, Some(Frame::Refused(reason))) => {
                Ok(Step::Refuse(Vec::new(), reason.to_listener()))
            }
            _ => Ok(Step::Refuse(Vec::new(), None)),
        }
    }
}

/// The client's side.
#[derive(Debug)]
pub(crate) struct Asking {
    key: Option<AuthKey>,
    flags: u8,
    hello: Vec<u8>,
    challenge: Vec<u8>,
}

impl Asking {
    /// Gives the first message too.
    pub(crate) fn new(key: Option<&AuthKey>, packets: bool) -> io::Result<(Self, Vec<u8>)> {
        let flags = flags(key, packets);
        let hello = message(HELLO, &[MAGIC, &[VERSION, flags], &nonce()?]);
        let asking = Self { key: key.cloned(), flags, hello: hello.clone(), challenge: Vec::new() };
        Ok((asking, hello))
    }

    pub(crate) fn step(&mut self, bytes: &[u8]) -> Step {
        let refuse = |reason: Reason| Step::Refuse(refusal(reason), Some(reason.to_client()));
        match parse(bytes) {
            Some(Frame::Challenge { flags, .. }) if self.challenge.is_empty() => {
                if flags & KEY == 0 && self.key.is_some() {
                    return refuse(Reason::UnexpectedKey);
                }
                if flags != self.flags {
                    return Step::Refuse(Vec::new(), Some(no_listener()));
                }
                self.challenge = bytes.to_vec();
                let proof = prove(self.key.as_ref(), Role::Client, &self.hello, &self.challenge);
                Step::Answer(message(PROOF, &[&proof]))
            }
            Some(Frame::Welcome(proof)) if !self.challenge.is_empty() => {
                let (key, hello, challenge) = (self.key.as_ref(), &self.hello, &self.challenge);
                if verify(key, Role::Listener, hello, challenge, proof) {
                    Step::Done(message(READY, &[]))
                } else {
                    refuse(Reason::Proof)
                }
            }
            Some(Frame::Refused(reason)) => Step::Refuse(Vec::new(), Some(reason.to_client())),
            _ => Step::Refuse(Vec::new(), Some(no_listener())),
        }
    }
}

/// For a client that is answered by something else.
pub(crate) fn no_listener() -> Error {
    Error::Authentication("what answers is no listener of this library".to_string())
}

/// Gives messages made of `bytes` to both sides, which never agree.
#[cfg(any(test, fuzzing))]
pub(crate) fn run_on(mut bytes: &[u8]) {
    let key = AuthKey::new(b"key").expect("a key");
    let (mut asking, hello) = Asking::new(Some(&key), false).expect("random bytes");
    let mut answering = Answering::new(Some(&key), false);
    if bytes.first().is_some_and(|first| first % 2 == 0) {
        let challenge = answering.step(&hello).expect("random bytes");
        assert!(matches!(challenge, Step::Answer(_)));
    }
    while let Some((&len, rest)) = bytes.split_first() {
        let (fields, rest) = rest.split_at(rest.len().min(len.into()));
        bytes = rest;
        let framed = fields
            .split_first()
            .map(|(&kind, fields)| message(kind % 8, &[&fields[..fields.len().min(MAX - 3)]]));
        for message in [Some(fields), framed.as_deref()].into_iter().flatten() {
            assert!(!matches!(answering.step(message).expect("random bytes"), Step::Done(_)));
            assert!(!matches!(asking.step(message), Step::Done(_)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(bytes: &[u8]) -> AuthKey {
        AuthKey::new(bytes).unwrap()
    }

    fn answer(step: Step) -> Vec<u8> {
        match step {
            Step::Answer(bytes) => bytes,
            other => panic!("{other:?}"),
        }
    }

    fn error(step: Step) -> Option<String> {
        match step {
            Step::Refuse(_, error) => error.map(|error| error.to_string()),
            other => panic!("{other:?}"),
        }
    }

    /// Both sides after hello and challenge, with the client's proof.
    fn challenged(client: &AuthKey, listener: &AuthKey) -> (Asking, Answering, Vec<u8>) {
        let (mut asking, hello) = Asking::new(Some(client), false).unwrap();
        let mut answering = Answering::new(Some(listener), false);
        let challenge = answer(answering.step(&hello).unwrap());
        let proof = answer(asking.step(&challenge));
        (asking, answering, proof)
    }

    #[test]
    fn the_same_key_opens_and_both_know() {
        for (mine, packets) in
            [(Some(key(b"k")), false), (Some(key(&[7; 1000])), true), (None, true)]
        {
            let (mut asking, hello) = Asking::new(mine.as_ref(), packets).unwrap();
            let mut answering = Answering::new(mine.as_ref(), packets);
            let challenge = answer(answering.step(&hello).unwrap());
            let proof = answer(asking.step(&challenge));
            let welcome = answer(answering.step(&proof).unwrap());
            let Step::Done(ready) = asking.step(&welcome) else { panic!("not welcome") };
            assert!(matches!(answering.step(&ready).unwrap(), Step::Done(_)));
            for bytes in [&hello, &challenge, &proof, &welcome, &ready] {
                assert!(bytes.len() <= MAX);
            }
        }
    }

    #[test]
    fn another_key_is_an_error_on_both_sides() {
        let (mut asking, mut answering, proof) = challenged(&key(b"one"), &key(b"two"));
        let Step::Refuse(bytes, Some(error)) = answering.step(&proof).unwrap() else { panic!() };
        assert!(matches!(error, Error::Authentication(_)));
        let Step::Refuse(_, Some(error)) = asking.step(&bytes) else { panic!() };
        assert!(matches!(error, Error::Authentication(_)));
    }

    #[test]
    fn a_key_on_one_side_only_is_an_error_on_both() {
        let mine = key(b"k");
        for (client, listener) in [(Some(&mine), None), (None, Some(&mine))] {
            let (mut asking, hello) = Asking::new(client, true).unwrap();
            let mut answering = Answering::new(listener, true);
            let Step::Refuse(bytes, Some(_)) = answering.step(&hello).unwrap() else { panic!() };
            assert!(error(asking.step(&bytes)).unwrap().contains("key"));
        }
    }

    #[test]
    fn a_listener_that_does_without_the_key_is_refused() {
        let (mut asking, _) = Asking::new(Some(&key(b"k")), false).unwrap();
        let challenge = message(CHALLENGE, &[&[VERSION, 0], &[0; NONCE]]);
        assert!(error(asking.step(&challenge)).unwrap().contains("no key"));

        // It says that it has the key, and proves nothing, or something wrong.
        for proof in [&[][..], &[0; 32]] {
            let (mut asking, _, _) = challenged(&key(b"k"), &key(b"k"));
            assert!(
                error(asking.step(&message(WELCOME, &[proof]))).unwrap().contains("another key")
            );
        }
        // Or leaves the challenge out.
        let (mut asking, _) = Asking::new(Some(&key(b"k")), false).unwrap();
        assert!(error(asking.step(&message(WELCOME, &[&[0; 32]]))).is_some());
        let (mut asking, _, _) = challenged(&key(b"k"), &key(b"k"));
        assert!(error(asking.step(&message(READY, &[]))).is_some());
    }

    #[test]
    fn a_recorded_proof_fits_no_other_hand_shake() {
        let mine = key(b"k");
        let (mut asking, hello) = Asking::new(Some(&mine), false).unwrap();
        let mut first = Answering::new(Some(&mine), false);
        let proof = answer(asking.step(&answer(first.step(&hello).unwrap())));

        let mut second = Answering::new(Some(&mine), false);
        answer(second.step(&hello).unwrap());
        assert!(error(second.step(&proof).unwrap()).unwrap().contains("another key"));
        // It still fits the one it was made for.
        answer(first.step(&proof).unwrap());
    }

    #[test]
    fn what_a_listener_says_is_no_clients_proof() {
        let mine = key(b"k");
        // Its own challenge and its own welcome, sent back; and its proof in the client's form.
        let (_, mut answering, proof) = challenged(&mine, &mine);
        let challenge = answering.challenge.clone();
        assert_eq!(error(answering.step(&challenge).unwrap()), None);
        let welcome = answer(answering.step(&proof).unwrap());
        let (_, mut other, _) = challenged(&mine, &mine);
        (other.hello, other.challenge) = (answering.hello.clone(), challenge);
        let reflected = message(PROOF, &[&welcome[3..]]);
        assert!(error(other.step(&reflected).unwrap()).unwrap().contains("another key"));
        // And a client that is given its own hello back, or its own proof.
        let (mut asking, hello) = Asking::new(Some(&mine), false).unwrap();
        assert!(error(asking.step(&hello)).is_some());
        let (mut asking, _, proof) = challenged(&mine, &mine);
        assert!(error(asking.step(&message(WELCOME, &[&proof[3..]]))).is_some());
    }

    #[test]
    fn each_byte_of_each_message_counts() {
        let mine = key(b"k");
        let (_, _, proof) = challenged(&mine, &mine);
        for index in 0..proof.len() {
            let (mut asking, mut answering, mut proof) = challenged(&mine, &mine);
            let mut changed = proof.clone();
            changed[index] ^= 1;
            assert!(matches!(answering.step(&changed).unwrap(), Step::Refuse(..)), "{index}");
            // Cut short, it is no message at all.
            let (_, mut answering, whole) = challenged(&mine, &mine);
            assert_eq!(error(answering.step(&whole[..index]).unwrap()), None);
            proof.clear();
            assert!(matches!(asking.step(&proof), Step::Refuse(_, Some(_))));
        }
        // What is changed under way in hello or challenge shows in the proof.
        let (mut asking, mut hello) = Asking::new(Some(&mine), false).unwrap();
        *hello.last_mut().unwrap() ^= 1;
        let mut answering = Answering::new(Some(&mine), false);
        let challenge = answer(answering.step(&hello).unwrap());
        let proof = answer(asking.step(&challenge));
        assert!(matches!(answering.step(&proof).unwrap(), Step::Refuse(_, Some(_))));
    }

    #[test]
    fn an_empty_proof_is_none() {
        let (_, mut answering, _) = challenged(&key(b"k"), &key(b"k"));
        assert!(error(answering.step(&message(PROOF, &[])).unwrap()).is_some());
    }

    #[test]
    fn another_version_is_told_so() {
        let mut answering = Answering::new(None, false);
        let hello = message(HELLO, &[MAGIC, &[VERSION + 1, 0, 1, 2]]);
        let Step::Refuse(bytes, Some(_)) = answering.step(&hello).unwrap() else { panic!() };
        let (mut asking, _) = Asking::new(None, false).unwrap();
        assert!(error(asking.step(&bytes)).unwrap().contains("version"));
    }

    #[test]
    fn the_proof_is_hmac_sha_256() {
        // RFC 4231, test case 2, to know that the crates are used as they should be.
        let mut mac = Hmac::<Sha256>::new_from_slice(b"Jefe").unwrap();
        mac.update(b"what do ya want for nothing?");
        let expected = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        let found = mac.finalize().into_bytes();
        let found: String = found.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_key_shows_nothing_and_can_be_sent() {
        let mine = AuthKey::random().unwrap();
        let (asking, _) = Asking::new(Some(&mine), false).unwrap();
        assert!(format!("{asking:?}").contains("***"));
        let back: AuthKey = mp_core::decode(mp_core::encode(&mine).unwrap()).unwrap();
        assert_eq!(back.as_bytes(), mine.as_bytes());
        let text = serde_json::to_string(&mine).unwrap();
        let back: AuthKey = serde_json::from_str(&text).unwrap();
        assert_eq!(back.as_bytes(), mine.as_bytes());
        assert!(serde_json::from_str::<AuthKey>("[]").is_err());
        assert!(matches!(AuthKey::new(&[]), Err(Error::EmptyKey)));
    }

    proptest! {
        #[test]
        fn any_messages_leave_both_sides_apart(
            bytes in prop::collection::vec(any::<u8>(), 0..600),
        ) {
            run_on(&bytes);
        }

        #[test]
        fn any_bytes_are_a_message_or_not(
            bytes in prop::collection::vec(any::<u8>(), 0..300),
            kind in 0..9_u8,
            state in 0..3,
        ) {
            let _ = parse(&bytes);
            // With a right beginning it gets further.
            let fields = &bytes[..bytes.len().min(MAX - 3)];
            let framed = message(kind, &[fields]);
            let _ = parse(&framed);
            let mine = key(b"k");
            let (mut asking, mut answering, proof) = challenged(&mine, &mine);
            if state == 0 {
                answering = Answering::new(Some(&mine), false);
            } else if state == 2 {
                answer(answering.step(&proof).unwrap());
            }
            for bytes in [&bytes, &framed] {
                // Without the key nobody gets in.
                let step = answering.step(bytes).unwrap();
                if let Step::Done(_) = step {
                    prop_assert!(state == 2 && parse(bytes) == Some(Frame::Ready));
                }
                prop_assert!(!matches!(asking.step(bytes), Step::Done(_)));
            }
        }
    }
}

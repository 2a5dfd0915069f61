//! What an end sends through or receives from: a ring in shared memory, or a stream to another machine.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use mp_core::sys::process::current_cpu;
use mp_core::{Deadline, fd};
use serde::de::Deserializer;
use serde::ser::{Error as _, Serializer};
use serde::{Deserialize, Serialize};

use crate::link::{self, Passed, Received, RingReceiver, RingSender};
use crate::stream::{self, ReceiverState, SenderState, StreamReceiver, StreamSender};
use crate::{Error, Result};

/// What a sender sends through.
#[derive(Debug)]
pub(crate) enum TxLink {
    Ring(RingSender),
    Stream(StreamSender),
}

/// What a receiver receives from.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "most are rings, which are found at once so")]
pub(crate) enum RxLink {
    Ring(RingReceiver),
    Stream(StreamReceiver),
}

impl From<RingSender> for TxLink {
    fn from(ring: RingSender) -> Self {
        Self::Ring(ring)
    }
}

impl From<RingReceiver> for RxLink {
    fn from(ring: RingReceiver) -> Self {
        Self::Ring(ring)
    }
}

impl From<StreamSender> for TxLink {
    fn from(stream: StreamSender) -> Self {
        Self::Stream(stream)
    }
}

impl From<StreamReceiver> for RxLink {
    fn from(stream: StreamReceiver) -> Self {
        Self::Stream(stream)
    }
}

impl TxLink {
    #[inline]
    pub(crate) fn send(&self, bytes: &[u8], fds: &[OwnedFd], deadline: Deadline) -> Result<()> {
        match self {
            Self::Ring(ring) => ring.send(bytes, fds, deadline),
            Self::Stream(_) if !fds.is_empty() => Err(Error::Encode(
                "handles (descriptors, pipe ends, locks, ...) cannot travel over TCP: they work on one \
                 machine only, over a Unix socket"
                    .to_string(),
            )),
            Self::Stream(stream) => stream.send(&[bytes], deadline),
        }
    }

    pub(crate) fn send_with<Out>(
        &self,
        len: usize,
        deadline: Deadline,
        write: impl FnOnce(&mut [u8]) -> Out,
    ) -> Result<Out> {
        match self {
            Self::Ring(ring) => ring.send_with(len, deadline, write),
            Self::Stream(stream) => {
                stream.ready(deadline)?;
                let mut bytes = link::zeros(len)?;
                let out = write(&mut bytes);
                stream.send(&[&bytes], deadline).map(|()| out)
            }
        }
    }

    pub(crate) fn close(&self) {
        match self {
            Self::Ring(ring) => ring.close(),
            Self::Stream(stream) => stream.close(),
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        match self {
            Self::Ring(ring) => ring.is_open(),
            Self::Stream(stream) => stream.is_open(),
        }
    }

    /// Gives the other end a moment to be closed.
    pub(crate) fn settle(&self) {
        match self {
            Self::Ring(ring) => ring.settle(),
            // One socket has both directions.
            Self::Stream(_) => {}
        }
    }
}

impl RxLink {
    /// Whether nothing more comes, but for what is there.
    #[inline]
    pub(crate) fn has_ended(&self) -> bool {
        match self {
            Self::Ring(ring) => ring.has_ended(),
            Self::Stream(_) => false,
        }
    }

    #[inline]
    pub(crate) fn recv<Out>(
        &self,
        deadline: Deadline,
        with: impl FnOnce(&[u8], Vec<OwnedFd>) -> Out,
    ) -> Result<Out> {
        match self {
            Self::Ring(ring) => ring.recv(deadline, with),
            Self::Stream(stream) => stream.recv(deadline, |bytes| with(bytes, Vec::new())),
        }
    }

    pub(crate) fn recv_bytes(&self, deadline: Deadline) -> Result<Vec<u8>> {
        match self {
            Self::Ring(ring) => ring.recv_bytes(deadline),
            Self::Stream(stream) => stream.recv_bytes(deadline),
        }
    }

    pub(crate) fn recv_into(&self, buffer: &mut [u8], deadline: Deadline) -> Result<usize> {
        match self {
            Self::Ring(ring) => ring.recv_into(buffer, deadline),
            Self::Stream(stream) => {
                let needed = stream.peek_len(deadline)?;
                let start = buffer.get_mut(..needed).ok_or(Error::TooShort { needed })?;
                stream.recv(deadline, |bytes| start.copy_from_slice(bytes))?;
                Ok(needed)
            }
        }
    }

    pub(crate) fn recv_with<Out>(
        &self,
        deadline: Deadline,
        read: impl FnOnce(&[u8]) -> Out,
    ) -> Result<Out> {
        match self {
            Self::Ring(ring) => ring.recv_with(deadline, read),
            Self::Stream(stream) => stream.recv(deadline, read),
        }
    }

    pub(crate) fn sleep(&self) -> Result<()> {
        match self {
            Self::Ring(ring) => ring.sleep(),
            Self::Stream(stream) => stream.poll(Deadline::NEVER).map(drop),
        }
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        match self {
            Self::Ring(ring) => ring.is_empty(),
            Self::Stream(stream) => matches!(stream.poll(Deadline::PASSED), Ok(false)),
        }
    }

    pub(crate) fn poll(&self, deadline: Deadline) -> Result<bool> {
        match self {
            Self::Ring(ring) => ring.poll(deadline),
            Self::Stream(stream) => stream.poll(deadline),
        }
    }

    pub(crate) fn close(&self) {
        match self {
            Self::Ring(ring) => ring.close(),
            Self::Stream(stream) => stream.close(),
        }
    }

    pub(crate) fn watched(&self) -> BorrowedFd<'_> {
        match self {
            Self::Ring(ring) => ring.watched(),
            Self::Stream(stream) => stream.watched(),
        }
    }

    pub(crate) fn peer(&self) -> BorrowedFd<'_> {
        match self {
            Self::Ring(ring) => ring.peer(),
            Self::Stream(stream) => stream.as_fd(),
        }
    }

    pub(crate) fn bell(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Ring(ring) => ring.bell(),
            Self::Stream(stream) => {
                matches!(stream.poll(Deadline::PASSED), Ok(false)).then(|| stream.as_fd())
            }
        }
    }
}

/// Notes for the other end which CPU this one runs on; whether the other was there when it last did so.
pub(crate) fn share_cpu(sender: &TxLink, receiver: &RxLink) -> bool {
    let (TxLink::Ring(sender), RxLink::Ring(receiver)) = (sender, receiver) else { return false };
    let mine = current_cpu();
    receiver.exchange_cpus(mine);
    mine.is_some() && sender.exchange_cpus(mine) == mine
}

/// An end as it travels: through which of the two.
#[derive(Serialize, Deserialize)]
enum Travelling<Ring, Stream> {
    Ring(Ring),
    Stream(Stream),
}

impl Serialize for TxLink {
    fn serialize<Z: Serializer>(&self, serializer: Z) -> Result<Z::Ok, Z::Error> {
        match self {
            Self::Ring(ring) => Travelling::Ring(ring),
            Self::Stream(stream) => Travelling::Stream((Passed(stream.as_fd()), stream.pass())),
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for TxLink {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Travelling::<RingSender, (Received, SenderState)>::deserialize(deserializer)? {
            Travelling::Ring(ring) => Ok(Self::Ring(ring)),
            Travelling::Stream((socket, state)) => {
                let (_, none) = stream::elsewhere();
                let (sender, receiver) =
                    stream::resume(socket.0, state, none).map_err(fd::failed)?;
                receiver.leave();
                Ok(Self::Stream(sender))
            }
        }
    }
}

impl Serialize for RxLink {
    fn serialize<Z: Serializer>(&self, serializer: Z) -> Result<Z::Ok, Z::Error> {
        match self {
            Self::Ring(ring) => Travelling::Ring(ring),
            Self::Stream(stream) => Travelling::Stream((Passed(stream.as_fd()), stream.pass())),
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for RxLink {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Travelling::<RingReceiver, (Received, ReceiverState)>::deserialize(deserializer)? {
            Travelling::Ring(ring) => Ok(Self::Ring(ring)),
            Travelling::Stream((socket, state)) => {
                let (none, _) = stream::elsewhere();
                let (sender, receiver) =
                    stream::resume(socket.0, none, state).map_err(fd::failed)?;
                sender.leave();
                Ok(Self::Stream(receiver))
            }
        }
    }
}

/// Both ends that one process has of a connection: what they share travels once.
pub(crate) struct Both<'a>(pub(crate) &'a TxLink, pub(crate) &'a RxLink);

impl Serialize for Both<'_> {
    fn serialize<Z: Serializer>(&self, serializer: Z) -> Result<Z::Ok, Z::Error> {
        match (self.0, self.1) {
            (TxLink::Ring(sender), RxLink::Ring(receiver)) => {
                Travelling::Ring(link::Both(sender, receiver))
            }
            (TxLink::Stream(sender), RxLink::Stream(receiver)) => {
                Travelling::Stream((Passed(sender.as_fd()), sender.pass(), receiver.pass()))
            }
            _ => return Err(Z::Error::custom("a connection has two ends of one kind")),
        }
        .serialize(serializer)
    }
}

/// Reads what [`Both`] wrote.
pub(crate) fn deserialize_both<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<(TxLink, RxLink), D::Error> {
    type Stream = (Received, SenderState, ReceiverState);
    match Travelling::<link::BothReceived, Stream>::deserialize(deserializer)? {
        Travelling::Ring(link::BothReceived(sender, receiver)) => {
            Ok((sender.into(), receiver.into()))
        }
        Travelling::Stream((socket, sender, receiver)) => {
            let (sender, receiver) =
                stream::resume(socket.0, sender, receiver).map_err(fd::failed)?;
            Ok((sender.into(), receiver.into()))
        }
    }
}

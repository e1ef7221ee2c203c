//! The one-way carousel: blobs and records for receivers that can't or mustn't transmit.
//!
//! A sender goes round and round a list of **objects**, each of up to 20 MiB, and a receiver collects what it lacks,
//! whenever it tuned in and whatever it missed. An object is a row of entries as they lie in a bundle
//! (`mhc_protocol::bundle::Frame`), so that what comes out of it is checked like anything from a stick. On air it is
//! one block of RaptorQ (RFC 6330): its symbols as they are, once, and from then on fresh repair symbols in every
//! round, of which any are as good as any others.
//!
//! Two kinds of packets ([`Packet`]): pages of the index, which say what is on air, and symbols. Both are signed by the
//! sender. That costs 5 % of the channel and buys what a code without integrity doesn't have: a symbol that was flipped
//! on the way, or thrown in by somebody near the receiver, is dropped before it spoils an object. Whether a sender is
//! believed at all is for the receiver's [`Judge`] to say. What was decoded is held against the index's hash once more.
//!
//! All of this is pure: no socket, file or clock. A sender's shell does, in this order and over and over:
//! [`Sender::wanted`] (load it, on a thread that may be busy for a second, and give it to [`Sender::loaded`]) and
//! [`Sender::next`], at the pace of [`Pacer`]. A receiver's shell gives every packet to [`Receiver::packet`], runs
//! what [`Receiver::next_job`] gives on a thread that may be busy, and takes the result to [`Receiver::finished`].

mod object;
mod pace;
mod packet;
mod page;
mod playlist;
mod receiver;
mod recording;
mod schedule;
mod sender;
#[cfg(test)]
mod tests;

pub use self::{
    object::{About, MAX_OBJECT_BYTES, Object, ObjectId, SymbolBytes},
    pace::Pacer,
    packet::{MAX_PACKET_BYTES, Packet, SIGNATURE_BYTES, SYMBOL_HEAD_BYTES},
    page::{MAX_PAGE_OBJECTS, Page},
    playlist::{Class, Item, Playlist},
    receiver::{Counters, Decoded, Delivered, Heard, Job, Judge, Progress, Receiver, ReceiverOptions},
    recording::{Unframer, frame},
    schedule::Schedule,
    sender::{LoadRequest, Material, Sender, SenderOptions},
};

use mhc_protocol::cbor::CborError;

/// Most objects on air from one sender.
pub const MAX_OBJECTS: usize = 512;
/// How often the index is repeated at least, however long it is.
pub const INDEX_EVERY_MS: u64 = 15_000;
/// How often it is repeated at most. Who tunes in collects nothing before it has heard a page, so a short index comes as
/// often as this, if that takes no more than one packet in [`PACKETS_PER_PAGE`].
pub const INDEX_PAUSE_MS: u64 = 2_000;
/// Symbols that are sent between two indexes for each page of one, unless [`INDEX_EVERY_MS`] is over.
pub const PACKETS_PER_PAGE: usize = 64;

/// Why bytes aren't a packet, or an object can't be on air.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CarouselError {
    /// Not the deterministic encoding, or too large.
    #[error("{0}")]
    Cbor(#[from] CborError),
    /// Made by a newer program, or noise.
    #[error("version {0} is unknown")]
    Version(u8),
    /// Changed on the way, or not the sender's.
    #[error("the signature doesn't match")]
    Signature,
    /// A field has a value that no honest sender gives it.
    #[error("{0}")]
    Invalid(&'static str),
}

fn rule(holds: bool, otherwise: &'static str) -> Result<(), CarouselError> {
    match holds {
        true => Ok(()),
        false => Err(CarouselError::Invalid(otherwise)),
    }
}

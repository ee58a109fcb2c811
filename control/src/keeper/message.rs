//! What goes over the keeper's socket.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Descriptors in one message; the kernel's limit is 253 (SCM_MAX_FD).
pub(super) const MAX_FDS: usize = 250;
/// Names in one message: of the longest ones so many that they fit by far.
pub(super) const MAX_NAMES: usize = 500;
/// Bytes of JSON in one message. What describes a port is some hundred bytes.
const MAX_TEXT: usize = 64 << 10;

/// What a daemon asks for.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub(super) enum Request {
    /// Who is there?
    Hello { version: u32 },
    /// Hold the descriptors that come with this; `append`: beside those already held under the name.
    Put { name: String, meta: serde_json::Value, append: bool },
    /// Close what is held under the name.
    Drop { name: String },
    /// What is held? The first names after this one.
    Names { after: String },
    /// Duplicates of the descriptors held under the name, from number `from` on.
    Get { name: String, from: usize },
    /// Close everything and end.
    Quit,
}

/// The answer to any request.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Answer {
    /// What went wrong; empty: nothing.
    pub(super) error: String,
    /// To `Hello`.
    pub(super) pid: u32,
    /// To `Names`: in order; none when there are no more.
    pub(super) names: Vec<String>,
    /// To `Get`.
    pub(super) meta: serde_json::Value,
    /// To `Get`: how many descriptors are held in all.
    pub(super) total: usize,
}

/// Sends one message. Waits as long as the socket's timeout says.
pub(super) fn send(socket: impl AsFd, message: &impl Serialize, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let text = serde_json::to_vec(message)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if text.len() > MAX_TEXT || (!fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds))) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the message is too large"));
    }
    sendmsg(socket, &[IoSlice::new(&text)], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives one message; `None` at the end of the connection.
pub(super) fn receive<T: DeserializeOwned>(socket: impl AsFd) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut text = vec![0; MAX_TEXT];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let got = recvmsg(socket, &mut [IoSliceMut::new(&mut text)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let mut fds = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            fds.extend(received);
        }
    }
    if got.bytes == 0 {
        return Ok(None);
    }
    if got.flags.intersects(rustix::net::ReturnFlags::CTRUNC | rustix::net::ReturnFlags::TRUNC) {
        return Err(io::Error::other("a message was cut: out of descriptors?"));
    }
    Ok(Some((serde_json::from_slice(&text[..got.bytes])?, fds)))
}

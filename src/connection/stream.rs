//! The socket of a connection: TCP or Unix, which read and write alike.

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, OwnedFd};

use mio::event::Source;
use mio::net::{TcpStream, UnixStream};
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::net::{RecvFlags, SendFlags, Shutdown};

/// A connected stream socket that does not block. It is a bare descriptor, because no system call
/// of a connection depends on the kind of its socket.
#[derive(Debug)]
pub struct Stream(OwnedFd);

impl From<TcpStream> for Stream {
    fn from(socket: TcpStream) -> Stream {
        Stream(socket.into())
    }
}

impl From<UnixStream> for Stream {
    fn from(socket: UnixStream) -> Stream {
        Stream(socket.into())
    }
}

// rustix makes these calls without the C library, where they are thread cancellation points: in a
// process with threads that is a good part of a call's cost in user space.
impl Stream {
    /// Reads what has arrived.
    ///
    /// # Errors
    ///
    /// Nothing has arrived, or the socket has failed.
    pub fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let (bytes, _) = rustix::net::recv(&self.0, buffer, RecvFlags::empty())?;
        Ok(bytes)
    }

    /// Reads like [`Stream::recv`], and leaves the bytes to be read again.
    ///
    /// # Errors
    ///
    /// As for [`Stream::recv`].
    pub fn peek(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let (bytes, _) = rustix::net::recv(&self.0, buffer, RecvFlags::PEEK)?;
        Ok(bytes)
    }

    /// Writes as much as the kernel takes.
    ///
    /// # Errors
    ///
    /// The kernel takes nothing now, or the socket has failed.
    pub fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::net::send(&self.0, bytes, SendFlags::NOSIGNAL)?)
    }

    /// Writes several slices with one call.
    ///
    /// # Errors
    ///
    /// As for [`Stream::send`].
    pub fn send_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        Ok(rustix::io::writev(&self.0, slices)?)
    }

    /// Ends the stream to the peer.
    ///
    /// # Errors
    ///
    /// The peer is gone.
    pub fn shut_down_write(&self) -> io::Result<()> {
        Ok(rustix::net::shutdown(&self.0, Shutdown::Write)?)
    }
}

impl Source for Stream {
    fn register(
        &mut self,
        registry: &Registry,
        token: Token,
        interest: Interest,
    ) -> io::Result<()> {
        SourceFd(&self.0.as_raw_fd()).register(registry, token, interest)
    }

    fn reregister(
        &mut self,
        registry: &Registry,
        token: Token,
        interest: Interest,
    ) -> io::Result<()> {
        SourceFd(&self.0.as_raw_fd()).reregister(registry, token, interest)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        SourceFd(&self.0.as_raw_fd()).deregister(registry)
    }
}

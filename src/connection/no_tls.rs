//! What stands in the place of TLS in a build without it: a session that nobody can have.

use std::io;

use mio::net::TcpStream;

use super::tls_io::TlsRead;
use crate::config::tls::TlsIdentity;

#[derive(Debug)]
pub(super) enum TlsSession {}

impl TlsSession {
    pub(super) fn new(identity: &TlsIdentity) -> Result<TlsSession, String> {
        match *identity {}
    }

    pub(super) fn is_established(&self) -> bool {
        match *self {}
    }

    pub(super) fn held_bytes(&self) -> usize {
        match *self {}
    }

    pub(super) fn tls_output_bytes(&self) -> usize {
        match *self {}
    }

    pub(super) fn pending(&mut self) -> &mut Vec<u8> {
        match *self {}
    }

    pub(super) fn fault(&mut self) -> Option<String> {
        match *self {}
    }

    pub(super) fn discard_buffers(&mut self) {
        match *self {}
    }

    pub(super) fn seal(&mut self, _plain: &[u8], _records: &mut [u8]) -> Option<usize> {
        match *self {}
    }

    pub(super) fn queue_close(&mut self) {
        match *self {}
    }

    pub(super) fn receive(
        &mut self,
        _socket: &TcpStream,
        _sealed: &mut Vec<u8>,
        _plain: &mut [u8],
    ) -> io::Result<TlsRead> {
        match *self {}
    }
}

//! What stands in the place of TLS in a build without it: a session that nobody can have.

use std::io;

use mio::net::TcpStream;

use super::sealed::Taken;
use crate::config::tls::TlsIdentity;

#[derive(Debug)]
pub(super) enum Session {}

impl Session {
    pub(super) fn new(identity: &TlsIdentity) -> Result<Session, String> {
        match *identity {}
    }

    pub(super) fn is_established(&self) -> bool {
        match *self {}
    }

    pub(super) fn held_bytes(&self) -> usize {
        match *self {}
    }

    pub(super) fn pending_bytes(&self) -> usize {
        match *self {}
    }

    pub(super) fn pending(&mut self) -> &mut Vec<u8> {
        match *self {}
    }

    pub(super) fn fault(&mut self) -> Option<String> {
        match *self {}
    }

    pub(super) fn forget_held(&mut self) {
        match *self {}
    }

    pub(super) fn seal(&mut self, _plain: &[u8], _records: &mut [u8]) -> Option<usize> {
        match *self {}
    }

    pub(super) fn say_goodbye(&mut self) {
        match *self {}
    }

    pub(super) fn receive(
        &mut self,
        _socket: &TcpStream,
        _sealed: &mut Vec<u8>,
        _plain: &mut [u8],
    ) -> io::Result<Taken> {
        match *self {}
    }
}

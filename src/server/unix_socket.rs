//! Unix sockets: created with mode and owner, and removed at the end.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};

use crate::config::unix_socket::SocketFile;

/// The file of a listening Unix socket; removed when dropped, unless another server has replaced
/// it.
pub(super) struct SocketPath {
    path: PathBuf,
    /// Device and inode.
    file: (u64, u64),
}

impl SocketPath {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketPath {
    fn drop(&mut self) {
        if identify(&self.path).is_ok_and(|file| file == self.file) {
            if let Err(fault) = fs::remove_file(&self.path) {
                log::warn!("cannot remove the Unix socket {}: {fault}", self.path.display());
            }
        }
    }
}

/// Listens on a Unix socket. A file that a server without a clean end has left is replaced.
///
/// The socket is created under another name, gets its mode and owner, and is then renamed: clients
/// find the old file or the new one, never none, and never one that the wrong user may open.
///
/// # Errors
///
/// A server listens there, or another kind of file has that name, or this user may not create it.
pub(super) fn bind(path: &Path, settings: &SocketFile) -> io::Result<(UnixListener, SocketPath)> {
    let refuse = |fault: io::Error| {
        io::Error::new(fault.kind(), format!("cannot listen on unix:{}: {fault}", path.display()))
    };
    check_free(path).map_err(refuse)?;
    let temporary = temporary_name(path);
    // Left by a process with the same number.
    if check_free(&temporary).is_ok() {
        let _ = fs::remove_file(&temporary);
    }
    let listener = UnixListener::bind(&temporary).map_err(refuse)?;
    let moved = prepare(&temporary, settings).and_then(|()| fs::rename(&temporary, path));
    if let Err(fault) = moved {
        let _ = fs::remove_file(&temporary);
        return Err(refuse(fault));
    }
    let file = identify(path).map_err(refuse)?;
    Ok((listener, SocketPath { path: path.to_owned(), file }))
}

/// Sets owner and mode. The owner first: chown(2) may clear bits of the mode.
fn prepare(path: &Path, settings: &SocketFile) -> io::Result<()> {
    if let Some(owner) = &settings.owner {
        let (user, group) = owner.look_up().map_err(io::Error::other)?;
        chown(path, user, group).map_err(|fault| {
            io::Error::new(fault.kind(), format!("--unix-socket-owner {owner}: {fault}"))
        })?;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(settings.mode.0))
}

/// Checks that a path is free: there is nothing, or a socket on which nobody listens.
fn check_free(path: &Path) -> io::Result<()> {
    let metadata = match fs::symlink_metadata(path) {
        Err(fault) if fault.kind() == io::ErrorKind::NotFound => return Ok(()),
        metadata => metadata?,
    };
    if !metadata.file_type().is_socket() {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "a file that is not a socket has this name: remove it, or set another path",
        ));
    }
    // A blocking call would wait for a place in the queue of a busy server.
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    match socket.connect(&SockAddr::unix(path)?) {
        Err(fault) if fault.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Ok(()) => Err(io::Error::new(io::ErrorKind::AddrInUse, "a running server listens there")),
        // For lack of permission, or since its queue is full: somebody may listen.
        Err(fault) => Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            format!("cannot tell whether a server listens there: {fault}"),
        )),
    }
}

fn identify(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// The name under which a socket is created before it is renamed.
fn temporary_name(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}", std::process::id()));
    name.into()
}

//! An HTTP proxy that opens tunnels with CONNECT, as a company's outgoing proxy does.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use super::tls::LONG;

/// A running proxy; it stops accepting when dropped.
pub struct ConnectProxy {
    address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
    stops: Arc<AtomicBool>,
}

impl ConnectProxy {
    /// Starts a proxy that opens all tunnels, whatever their host: to this address.
    pub fn to(target: SocketAddr) -> ConnectProxy {
        ConnectProxy::answering("HTTP/1.1 200 Connection established\r\n\r\n", Some(target))
    }

    /// Starts a proxy that answers this to each request, and then opens the tunnel if it has a
    /// target.
    pub fn answering(answer: &'static str, target: Option<SocketAddr>) -> ConnectProxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (heads, stops) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (seen, stopping) = (heads.clone(), stops.clone());
        thread::spawn(move || {
            for socket in listener.incoming() {
                if stopping.load(Ordering::Relaxed) {
                    return;
                }
                let (socket, seen) = (socket.unwrap(), seen.clone());
                // The client may close at any time.
                thread::spawn(move || serve(socket, answer, target, &seen));
            }
        });
        ConnectProxy { address, heads, stops }
    }

    /// Host and port.
    pub fn name(&self) -> String {
        self.address.to_string()
    }

    /// The proxy's URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The heads of all requests.
    pub fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

impl Drop for ConnectProxy {
    fn drop(&mut self) {
        self.stops.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(
    mut client: TcpStream,
    answer: &str,
    target: Option<SocketAddr>,
    heads: &Mutex<Vec<String>>,
) -> io::Result<()> {
    client.set_read_timeout(Some(2 * LONG))?;
    client.set_nodelay(true)?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    heads.lock().unwrap().push(String::from_utf8(head).unwrap());
    client.write_all(answer.as_bytes())?;
    let Some(target) = target else { return Ok(()) };
    let site = TcpStream::connect(target)?;
    site.set_read_timeout(Some(2 * LONG))?;
    let (from, to) = (client.try_clone()?, site.try_clone()?);
    thread::spawn(move || copy(from, to));
    copy(site, client);
    Ok(())
}

fn copy(mut from: TcpStream, mut to: TcpStream) {
    let _ = io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}

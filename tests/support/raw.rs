//! A fake site whose connections the test handles byte by byte.
//!
//! ```ignore
//! let site = RawSite::start(|connection| {
//!     while connection.request().is_some() {
//!         connection.write(ME);
//!     }
//! });
//! ```

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// The maximum duration of a connection.
const TIME_MAX: Duration = Duration::from_secs(30);

/// The response to a probe.
pub const ME: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\
                      Content-Length: 8\r\n\r\n{\"id\":7}";

/// The response to a post that was stored in thread 1.
pub fn stored() -> String {
    let body = serde_json::json!({
        "id": 1, "message_id": 5, "current_user": 7,
        "recipients": {}, "recipients_count": 2, "recipients_total_pages": 1,
        "messages": [{
            "id": 5, "sender_id": 7, "date_sent": "2026-11-22T11:00:38",
            "message": {"raw": "x", "rendered": "<p>x</p>"},
        }],
    })
    .to_string();
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: ";
    format!("{head}{}\r\n\r\n{body}", body.len())
}

type Seen = Arc<Mutex<Vec<Vec<u8>>>>;

/// A running site; stops when dropped.
pub struct RawSite {
    address: SocketAddr,
    seen: Seen,
    stopping: Arc<AtomicBool>,
    acceptor: Option<JoinHandle<()>>,
}

/// A connection to the site.
pub struct Connection {
    /// Counted from 0.
    pub number: usize,
    socket: TcpStream,
    unread: Vec<u8>,
    seen: Seen,
    stopping: Arc<AtomicBool>,
    until: Instant,
}

impl RawSite {
    /// Starts a site that runs `handle` for each connection, on a thread of its own.
    pub fn start(handle: impl Fn(&mut Connection) + Send + Sync + 'static) -> RawSite {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        let seen = Seen::default();
        let stopping = Arc::new(AtomicBool::new(false));
        let acceptor = thread::spawn({
            let (seen, stopping, handle) = (seen.clone(), stopping.clone(), Arc::new(handle));
            move || {
                let mut threads = Vec::new();
                while !stopping.load(Ordering::Relaxed) {
                    let Ok((socket, _)) = listener.accept() else {
                        thread::sleep(Duration::from_millis(1));
                        continue;
                    };
                    socket.set_nonblocking(false).unwrap();
                    socket.set_nodelay(true).unwrap();
                    socket.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
                    socket.set_write_timeout(Some(TIME_MAX)).unwrap();
                    let number = threads.len();
                    seen.lock().unwrap().push(Vec::new());
                    let mut connection = Connection {
                        number,
                        socket,
                        unread: Vec::new(),
                        seen: seen.clone(),
                        stopping: stopping.clone(),
                        until: Instant::now() + TIME_MAX,
                    };
                    let handle = handle.clone();
                    threads.push(thread::spawn(move || handle(&mut connection)));
                }
                for thread in threads {
                    thread.join().unwrap();
                }
            }
        });
        RawSite { address, seen, stopping, acceptor: Some(acceptor) }
    }

    /// The site's URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The number of connections so far.
    pub fn connections(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    /// How often these bytes were received, on all connections.
    pub fn count(&self, bytes: &str) -> usize {
        let bytes = bytes.as_bytes();
        let seen = self.seen.lock().unwrap();
        seen.iter().map(|all| all.windows(bytes.len()).filter(|w| *w == bytes).count()).sum()
    }
}

impl Drop for RawSite {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

impl Connection {
    /// Whether the site still runs and the connection is within [`TIME_MAX`].
    pub fn is_active(&self) -> bool {
        !self.stopping.load(Ordering::Relaxed) && Instant::now() < self.until
    }

    /// Reads until `length` bytes are buffered; false if the client closes or the site stops first.
    fn fill(&mut self, length: usize) -> bool {
        let mut piece = [0; 4096];
        while self.unread.len() < length {
            let wanted = (length - self.unread.len()).min(piece.len());
            match self.socket.read(&mut piece[..wanted]) {
                Ok(0) => return false,
                Ok(n) => {
                    self.unread.extend_from_slice(&piece[..n]);
                    self.seen.lock().unwrap()[self.number].extend_from_slice(&piece[..n]);
                }
                Err(_) if self.is_active() => {}
                Err(_) => return false,
            }
        }
        true
    }

    /// Reads a request's head. Returns it with the length of the body.
    pub fn head(&mut self) -> Option<(String, usize)> {
        while !self.unread.ends_with(b"\r\n\r\n") {
            if !self.fill(self.unread.len() + 1) {
                return None;
            }
        }
        let head = String::from_utf8(std::mem::take(&mut self.unread)).unwrap();
        let length = head.to_ascii_lowercase();
        let length = length.split("content-length: ").nth(1);
        let length = length.map_or(0, |rest| rest.split("\r\n").next().unwrap().parse().unwrap());
        Some((head, length))
    }

    /// Reads this many bytes of a body; `None` if the client closes or the site stops first.
    pub fn body(&mut self, length: usize) -> Option<()> {
        let read = self.fill(length);
        self.unread.clear();
        read.then_some(())
    }

    /// Reads a whole request and returns its head.
    pub fn request(&mut self) -> Option<String> {
        let (head, length) = self.head()?;
        self.body(length)?;
        Some(head)
    }

    /// Writes bytes; false if the client has closed or the site stops.
    pub fn write(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.is_active() && self.socket.write_all(bytes.as_ref()).is_ok()
    }

    /// Closes the writing half of the connection; reading is still possible.
    pub fn end(&mut self) {
        let _ = self.socket.shutdown(Shutdown::Write);
    }
}

//! A whole server and its clients on loopback sockets, all in one thread.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use buddyline::config::Config;
use buddyline::server::Server;
use clap::Parser;

use super::{JOIN, TYPING, bytes, user_connected};

/// A server with clients that are subscribed to a thread.
pub struct Loopback {
    server: Server,
    clients: Vec<TcpStream>,
    typing: Vec<u8>,
    frame_bytes: usize,
}

impl Loopback {
    /// Starts a server and this many clients, all in thread 1; only the first is identified.
    pub fn new(subscribers: usize) -> Loopback {
        let config = Config::parse_from(["buddyline", "--listen", "127.0.0.1:0", "--no-limits"]);
        let mut server = Server::bind(&config).expect("a free port");
        let address = server.addresses()[0];
        let clients = (0..subscribers).map(|n| client(&mut server, address, n)).collect();
        let frame_bytes = 2 + r#"{"type":"typing","threadId":1,"userId":7,"typing":true}"#.len();
        Loopback { server, clients, typing: bytes::text(TYPING), frame_bytes }
    }

    /// The first client types once, and all clients receive it.
    pub fn type_once(&mut self) {
        self.clients[0].write_all(&self.typing).expect("room for a frame");
        for client in &mut self.clients {
            receive(&mut self.server, client, self.frame_bytes);
        }
    }
}

/// Runs the event loop until this client has received `bytes` bytes.
fn receive(server: &mut Server, client: &mut TcpStream, bytes: usize) {
    let mut received = 0;
    let mut buffer = [0; 4096];
    while received < bytes {
        match client.read(&mut buffer) {
            Ok(0) => panic!("the server closed the connection"),
            Ok(read) => received += read,
            Err(_) => server.tick().expect("a tick"),
        }
    }
    assert_eq!(received, bytes);
}

fn client(server: &mut Server, address: SocketAddr, n: usize) -> TcpStream {
    let mut client = TcpStream::connect(address).expect("the server listens");
    client.set_nodelay(true).expect("a TCP socket");
    client.set_nonblocking(true).expect("a TCP socket");
    client.write_all(&bytes::request()).expect("room for a request");
    receive(server, &mut client, 129);
    client.write_all(&bytes::text(JOIN)).expect("room for a frame");
    receive(server, &mut client, 2 + r#"{"type":"thread_joined","threadId":1}"#.len());
    if n == 0 {
        let me = user_connected(7);
        client.write_all(&bytes::text(&me)).expect("room for a frame");
        receive(server, &mut client, 2 + me.len());
    }
    client
}

//! A proxy between the sink and a real PostgreSQL that does something at the next COMMIT or COPY.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::thread;

pub const PASS: u8 = 0;
/// The connection ends, and the server has not seen the COMMIT.
pub const CUT_BEFORE: u8 = 1;
/// The connection ends, and the server has.
pub const CUT_AFTER: u8 = 2;
/// Nothing comes from the client any more: to the server it idles in its db_tx.
pub const HOLD: u8 = 3;
/// The db_tx fails just before, without a word to the client.
pub const FAIL_SILENTLY: u8 = 4;

/// Nothing comes from the client any more once a COPY has begun and before its data: to the server
/// it is as one that was stopped there.
pub const HOLD_COPY: u8 = 5;

/// Passes bytes on until told otherwise.
pub struct Proxy {
    pub url: String,
    pub mode: Arc<AtomicU8>,
}

impl Proxy {
    pub fn to(database_url: &str) -> Proxy {
        let (head, rest) = database_url.split_once('@').unwrap();
        let (server, tail) = rest.split_once('/').unwrap();
        let server = server.to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("{head}@{}/{tail}", listener.local_addr().unwrap());
        let mode = Arc::new(AtomicU8::new(PASS));
        let shared = Arc::clone(&mode);
        thread::spawn(move || {
            for client in listener.incoming() {
                let (client, server) = (client.unwrap(), TcpStream::connect(&server).unwrap());
                let (back, forth) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                let mode = Arc::clone(&shared);
                let swallow = Arc::new(AtomicBool::new(false));
                let swallows = Arc::clone(&swallow);
                thread::spawn(move || to_server(client, forth, &mode, &swallow));
                thread::spawn(move || to_client(server, back, &swallows));
            }
        });
        Proxy { url, mode }
    }

    pub fn at_next(&self, mode: u8) {
        self.mode.store(mode, Ordering::SeqCst);
    }
}

fn to_server(mut client: TcpStream, mut server: TcpStream, mode: &AtomicU8, swallow: &AtomicBool) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(length @ 1..) = client.read(&mut buffer) {
        let bytes = &buffer[..length];
        let data = bytes.windows(6).any(|window| window == b"PGCOPY");
        if data
            && mode.compare_exchange(HOLD_COPY, PASS, Ordering::SeqCst, Ordering::SeqCst).is_ok()
        {
            return;
        }
        let commit = bytes.windows(7).any(|window| window == b"COMMIT\0");
        match if commit { mode.swap(PASS, Ordering::SeqCst) } else { PASS } {
            CUT_BEFORE => break,
            CUT_AFTER => {
                // No answer may pass; the server goes on with what it got.
                client.shutdown(Shutdown::Both).unwrap();
                server.write_all(bytes).unwrap();
                return;
            }
            HOLD => return,
            FAIL_SILENTLY => {
                swallow.store(true, Ordering::SeqCst);
                server.write_all(b"Q\0\0\0\x0fSELECT 1/0\0").unwrap();
                while swallow.load(Ordering::SeqCst) {
                    thread::yield_now();
                }
            }
            _ => {}
        }
        if server.write_all(bytes).is_err() {
            break;
        }
    }
    client.shutdown(Shutdown::Both).ok();
    server.shutdown(Shutdown::Both).ok();
}

fn to_client(mut server: TcpStream, mut client: TcpStream, swallow: &AtomicBool) {
    let mut buffer = vec![0; 1 << 16];
    let mut swallowed = Vec::new();
    while let Ok(length @ 1..) = server.read(&mut buffer) {
        if swallow.load(Ordering::SeqCst) {
            swallowed.extend_from_slice(&buffer[..length]);
            // ReadyForQuery in a failed db_tx: the answer to the proxy's own statement is complete.
            if swallowed.ends_with(b"Z\0\0\0\x05E") {
                swallowed.clear();
                swallow.store(false, Ordering::SeqCst);
            }
        } else if client.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
}

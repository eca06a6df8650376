//! A COMMIT whose answer is lost: a proxy between the sink and a real PostgreSQL cuts the
//! connection at the COMMIT, before or after the server has seen it.
#![allow(missing_docs, clippy::unwrap_used)]

#[allow(dead_code)]
mod support;

use caudal_sink::store::Trouble;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;
use support::{Scratch, Sink, at, gold, no_gold, valids};

const PASS: u8 = 0;
const CUT_BEFORE: u8 = 1;
const CUT_AFTER: u8 = 2;

/// Passes bytes on until told to cut at the next COMMIT.
struct Proxy {
    port: u16,
    mode: Arc<AtomicU8>,
}

impl Proxy {
    fn start(server: String) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let mode = Arc::new(AtomicU8::new(PASS));
        let shared = Arc::clone(&mode);
        thread::spawn(move || {
            for client in listener.incoming() {
                let (client, server) = (client.unwrap(), TcpStream::connect(&server).unwrap());
                let (back, forth) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                let mode = Arc::clone(&shared);
                thread::spawn(move || to_server(client, forth, &mode));
                thread::spawn(move || std::io::copy(&mut { server }, &mut { back }));
            }
        });
        Proxy { port, mode }
    }
}

fn to_server(mut client: TcpStream, mut server: TcpStream, mode: &AtomicU8) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(length @ 1..) = client.read(&mut buffer) {
        let bytes = &buffer[..length];
        let commit = bytes.windows(7).any(|window| window == b"COMMIT\0");
        let cut = if commit { mode.swap(PASS, Ordering::SeqCst) } else { PASS };
        if cut == CUT_BEFORE {
            break;
        }
        if cut == CUT_AFTER {
            // No answer may pass; the server goes on with what it got.
            client.shutdown(Shutdown::Both).unwrap();
            server.write_all(bytes).unwrap();
            return;
        }
        if server.write_all(bytes).is_err() {
            break;
        }
    }
    client.shutdown(Shutdown::Both).ok();
    server.shutdown(Shutdown::Both).ok();
}

fn through_proxy(url: &str) -> (Proxy, String) {
    let (head, rest) = url.split_once('@').unwrap();
    let (address, tail) = rest.split_once('/').unwrap();
    let proxy = Proxy::start(address.to_owned());
    let url = format!("{head}@127.0.0.1:{}/{tail}", proxy.port);
    (proxy, url)
}

fn attempt(mode: u8) {
    let Some(mut db) = Scratch::create() else { return };
    let (proxy, url) = through_proxy(&db.url);
    let mut sink = Sink::new(&url).claiming(&["transacciones_validas"]);
    sink.store(&valids(0, 0..5)).unwrap();
    proxy.mode.store(mode, Ordering::SeqCst);
    let records = valids(5, 5..10);
    match sink.store(&records) {
        Err(Trouble::Retry(fault)) => assert!(fault.disconnected),
        other => panic!("{other:?}"),
    }
    // The answer is the same, whether the server had committed or not.
    let stored = sink.store(&records).unwrap();
    assert_eq!((stored.rows["transactions"], stored.duplicates, stored.staged), (5, 0, false));
    assert_eq!(db.count("transactions"), 10);
    assert_eq!(db.text("SELECT row(next_offset, rows) FROM sink_offsets"), "(10,10)");
    sink.store(&valids(10, 10..12)).unwrap();
    assert_eq!(db.text("SELECT row(next_offset, rows) FROM sink_offsets"), "(12,12)");
}

#[test]
fn a_commit_that_never_arrived_is_done_again() {
    attempt(CUT_BEFORE);
}

#[test]
fn a_commit_whose_answer_was_lost_is_not() {
    attempt(CUT_AFTER);
}

#[test]
fn a_row_that_was_taken_back_in_doubt_is_taken_back_once() {
    for mode in [CUT_BEFORE, CUT_AFTER] {
        let Some(mut db) = Scratch::create() else { return };
        let (proxy, url) = through_proxy(&db.url);
        let mut sink = Sink::new(&url).claiming(&["ventas_gold"]);
        sink.store(&[gold(0, "a", 1), gold(1, "b", 1)]).unwrap();
        proxy.mode.store(mode, Ordering::SeqCst);
        let records = [no_gold(2, "a"), gold(3, "b", 2)];
        assert!(matches!(sink.store(&records), Err(Trouble::Retry(_))));
        let stored = sink.store(&records).unwrap();
        assert_eq!((stored.rows["ventas_gold"], stored.deleted["ventas_gold"]), (1, 1));
        assert_eq!(db.text("SELECT string_agg(merchant_id || ventas, ',') FROM ventas_gold"), "b2");
        assert_eq!(db.text("SELECT row(next_offset, rows, deleted) FROM sink_offsets"), "(4,3,1)");
    }
}

#[test]
fn a_doubtful_commit_whose_partition_was_taken_over_is_fenced() {
    for mode in [CUT_BEFORE, CUT_AFTER] {
        let Some(mut db) = Scratch::create() else { return };
        let (proxy, url) = through_proxy(&db.url);
        let mut sink = Sink::new(&url).claiming(&["transacciones_validas"]);
        proxy.mode.store(mode, Ordering::SeqCst);
        let records = valids(0, 0..5);
        assert!(matches!(sink.store(&records), Err(Trouble::Retry(_))));
        let mut successor = db.writer().claiming(&["transacciones_validas"]);
        assert!(matches!(sink.store(&records), Err(Trouble::Fenced(_))));
        let from = successor.owned[&at("transacciones_validas", 0)].next_offset;
        assert_eq!(from, if mode == CUT_AFTER { 5 } else { 0 });
        let batch = successor.batch(&records);
        if !batch.is_empty() {
            successor.store(&records).unwrap();
        }
        assert_eq!(db.count("transactions"), 5);
    }
}

//! A small HTTP server of files on a host of a [`Wire`](super::netns::Wire), which
//! keeps what was asked.

use super::netns::Host;
use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

type Files = BTreeMap<String, Vec<u8>>;

/// A running server. It ends with the test program; its port goes with the wire.
#[derive(Debug)]
pub(crate) struct Web {
    requests: Arc<Mutex<Vec<String>>>,
}

impl Web {
    /// Serves these on port 80, one request a connection.
    pub(crate) fn start(host: &Host, files: Files) -> Self {
        let listener = host.enter(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 80))).expect("root may");
        let requests = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&requests);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let _gone = serve(stream, &files, &kept);
            }
        });
        Self { requests }
    }

    /// The heads of the requests so far.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.lock().expect("no panic").clone()
    }
}

/// Keeps the head of the request before it is answered: who has the answer finds it kept.
fn serve(mut stream: TcpStream, files: &Files, requests: &Mutex<Vec<String>>) -> Option<()> {
    let lines = BufReader::new(stream.try_clone().ok()?).lines();
    let head: Vec<String> = lines.map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
    let mut words = head.first()?.split(' ');
    let (method, path) = (words.next()?, words.next()?);
    requests.lock().expect("no panic").push(head.join("\n"));
    let (status, body) = files.get(path).map_or(("404 Not Found", &[][..]), |body| ("200 OK", body));
    let length = body.len();
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n").ok()?;
    if method != "HEAD" {
        stream.write_all(body).ok()?;
    }
    Some(())
}

//! The smallest HTTP client that speaks to the daemon's socket.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

/// Sends one request; returns the status and the body as JSON (null when empty).
pub fn request(socket: &Path, method: &str, path: &str, body: Option<&str>) -> (u16, Value) {
    let (status, mut reader) = open(socket, method, path, body);
    let mut text = String::new();
    reader.read_to_string(&mut text).expect("body");
    let value = if text.is_empty() { Value::Null } else { serde_json::from_str(&text).expect("JSON body") };
    (status, value)
}

/// A stream of newline-delimited JSON objects.
pub struct Lines(Box<dyn BufRead>);

impl Lines {
    /// Opens a watch stream.
    pub fn watch(socket: &Path) -> Lines {
        let (status, reader) = open(socket, "GET", "/v1/watch", None);
        assert_eq!(status, 200);
        Lines(reader)
    }

    /// The first object that satisfies `wanted`, among the next thousand.
    pub fn expect(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        for _ in 0..1000 {
            let event = self.next().expect("the stream goes on");
            if wanted(&event) {
                return event;
            }
        }
        panic!("not among a thousand events");
    }
}

impl Iterator for Lines {
    type Item = Value;

    /// The next object; waits up to ten seconds. `None` at the end of the stream.
    fn next(&mut self) -> Option<Value> {
        let mut line = String::new();
        match self.0.read_line(&mut line) {
            Ok(0) => None,
            Ok(_) => Some(serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e} in {line:?}"))),
            Err(e) => panic!("nothing came: {e}"),
        }
    }
}

/// HTTP/1.0 with `Connection: close`: the body ends with the connection, and is never chunked.
fn open(socket: &Path, method: &str, path: &str, body: Option<&str>) -> (u16, Box<dyn BufRead>) {
    let mut stream = UnixStream::connect(socket).expect("connect");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("timeout");
    let body = body.unwrap_or_default();
    write!(
        stream,
        "{method} {path} HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .expect("write");
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).expect("status line");
    let status =
        line.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or_else(|| panic!("answer {line:?}"));
    while line.trim_end() != "" {
        line.clear();
        reader.read_line(&mut line).expect("header");
    }
    (status, Box::new(reader))
}

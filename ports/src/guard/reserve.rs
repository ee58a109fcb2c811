//! The host's own source ports: keeping a range of them free, and finding who has some already.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::share;
use crate::sys;

const RESERVED: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";

/// While it lives, the host chooses none of these ports as the source of a connection or for a socket bound
/// to no port in particular, of TCP or UDP, IPv4 or IPv6. Sockets that ask for one of them still get it: see
/// [`taken_ports`].
///
/// Ports others have reserved stay so. A process that is killed leaves its reservation behind; by its note the
/// next one knows it for its own.
#[derive(Debug)]
pub struct Reservation {
    /// Opened in the namespace, which it means whichever thread uses it later.
    file: File,
    /// Those that nobody had reserved before.
    added: BTreeSet<u16>,
    /// Says so to the next process.
    note: Option<PathBuf>,
}

impl Reservation {
    /// Reserves ranges, both ends included, in the calling thread's network namespace.
    ///
    /// # Errors
    /// `InvalidInput` when one is no range; `PermissionDenied` or `ReadOnlyFilesystem` when this process may
    /// not set `net.ipv4.ip_local_reserved_ports`, or not write the note.
    pub fn new(ranges: &[(u16, u16)], note: Option<&Path>) -> io::Result<Reservation> {
        let wanted = share::ranges(ranges)?.into_iter().flat_map(|(low, high)| low..=high);
        let named = |e| sys::context("net.ipv4.ip_local_reserved_ports", e);
        let file = OpenOptions::new().read(true).write(true).open(RESERVED).map_err(named)?;
        let mut reserved = read(&file).map_err(named)?;
        // What the process before had added is nobody else's. A note that makes no sense is none.
        let left = note.and_then(|note| parse(&fs::read_to_string(note).ok()?).ok()).unwrap_or_default();
        reserved.retain(|port| !left.contains(port));
        let added: BTreeSet<u16> = wanted.filter(|port| !reserved.contains(port)).collect();
        if let Some(note) = note {
            // First, so that nothing is reserved without one.
            fs::write(note, format(&added)).map_err(|e| sys::context(note.display(), e))?;
        }
        reserved.extend(&added);
        write(&file, &reserved).map_err(named)?;
        Ok(Reservation { file, added, note: note.map(Path::to_owned) })
    }
}

impl Drop for Reservation {
    /// Gives up what was added; what others have added meanwhile stays.
    fn drop(&mut self) {
        if let Ok(mut reserved) = read(&self.file) {
            reserved.retain(|port| !self.added.contains(port));
            // Nobody is there to be told; a namespace that is gone needs nothing.
            let _ = write(&self.file, &reserved);
        }
        if let Some(note) = &self.note {
            let _ = fs::remove_file(note);
        }
    }
}

/// What is reserved.
fn read(file: &File) -> io::Result<BTreeSet<u16>> {
    // A list of every second port is the longest.
    let mut text = vec![0; 256 << 10];
    let mut len = 0;
    loop {
        match file.read_at(&mut text[len..], len as u64)? {
            0 => break,
            n => len += n,
        }
    }
    parse(&String::from_utf8_lossy(&text[..len]))
}

/// Ports and ranges, separated by commas.
fn parse(text: &str) -> io::Result<BTreeSet<u16>> {
    let mut ports = BTreeSet::new();
    for part in text.trim().split(',').filter(|part| !part.is_empty()) {
        let (low, high) = part.split_once('-').unwrap_or((part, part));
        match (low.parse::<u16>(), high.parse::<u16>()) {
            (Ok(low), Ok(high)) => ports.extend(low..=high),
            _ => return Err(io::Error::new(io::ErrorKind::InvalidData, format!("'{part}' is not a port"))),
        }
    }
    Ok(ports)
}

/// The same the other way.
fn format(ports: &BTreeSet<u16>) -> String {
    let mut ranges: Vec<(u16, u16)> = Vec::new();
    for &port in ports {
        match ranges.last_mut() {
            Some((_, high)) if *high + 1 == port => *high = port,
            _ => ranges.push((port, port)),
        }
    }
    let texts =
        ranges.iter().map(|(low, high)| if low == high { low.to_string() } else { format!("{low}-{high}") });
    texts.collect::<Vec<_>>().join(",")
}

fn write(file: &File, ports: &BTreeSet<u16>) -> io::Result<()> {
    // An empty list is an empty line: a write of nothing is none.
    let text = format(ports) + "\n";
    file.write_all_at(text.as_bytes(), 0)
}

/// Ports of a range, both ends included, that sockets of the calling thread's network namespace have on
/// local addresses, of TCP or UDP, IPv4 or IPv6. What arrives for them is lost to them once the range is kept
/// from the stack.
///
/// # Errors
/// When /proc/net cannot be read.
pub fn taken_ports(ports: (u16, u16)) -> io::Result<Vec<u16>> {
    let mut taken = BTreeSet::new();
    for name in ["tcp", "tcp6", "udp", "udp6"] {
        let path = format!("/proc/thread-self/net/{name}");
        match fs::read_to_string(&path) {
            Ok(table) => taken.extend(table.lines().skip(1).filter_map(local_port)),
            // A system without IPv6.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(sys::context(path, e)),
        }
    }
    Ok(taken.range(ports.0.max(1)..=ports.1.max(1)).copied().collect())
}

/// Of a line like `0: 0100007F:1F90 00000000:0000 0A …`: address and port in hexadecimal digits.
fn local_port(line: &str) -> Option<u16> {
    let (_, port) = line.split_whitespace().nth(1)?.split_once(':')?;
    u16::from_str_radix(port, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_go_there_and_back() {
        for text in ["", "1", "1-3", "1,3,5-7,65535", "0-65535", "8080,9148,30000-30100"] {
            assert_eq!(format(&parse(text).unwrap()), text);
        }
        assert_eq!(format(&parse("5,1-3,4\n").unwrap()), "1-5");
        for bad in ["x", "1-", "-1", "70000", "1;2"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn lines_of_proc_net() {
        let line = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000";
        assert_eq!(local_port(line), Some(8080));
        assert_eq!(local_port("garbage"), None);
        assert_eq!(local_port(""), None);
    }
}

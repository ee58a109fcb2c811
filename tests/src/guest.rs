//! A real Linux beside the machine's own kernel: Debian's in qemu, with the tunnel devices this one lacks.
//!
//! One guest serves a whole test program: scenarios take it in turns. It is the host [`Guest::N`] of its own
//! [`Underlay`]; commands go to it over a serial port. `scripts/guest-image` makes what it boots.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::transfer::{Done, uninterrupted};
use crate::underlay::Underlay;
use crate::{Netns, cmd, eventually};

const BOOT: Duration = Duration::from_secs(90);
/// How long a command may take: everything in there is emulated.
const COMMAND: Duration = Duration::from_secs(120);
const END: &str = "\n=== ";

/// A running guest.
#[derive(Debug)]
pub struct Guest {
    /// Where it is a host; the labs of the scenarios join too.
    pub underlay: Underlay,
    serial: UnixStream,
    own: Vec<String>,
    // Ends with the sandbox, as this value does not: it is a static.
    _qemu: Child,
    _dir: TempDir,
}

impl Guest {
    /// Its number on the underlay.
    pub const N: u8 = 2;

    /// The program's guest, booted when first asked for, without what the last scenario made in it.
    pub fn take() -> MutexGuard<'static, Guest> {
        static GUEST: OnceLock<Mutex<Guest>> = OnceLock::new();
        let guest = GUEST.get_or_init(|| Mutex::new(Guest::boot()));
        let mut guest = guest.lock().unwrap_or_else(PoisonError::into_inner);
        guest.reset();
        guest
    }

    fn boot() -> Guest {
        crate::require_sandbox();
        let image = std::env::var_os("TRUNKLINE_GUEST").map_or_else(
            || PathBuf::from(std::env::var_os("HOME").expect("HOME")).join(".cache/trunkline-tests/guest"),
            PathBuf::from,
        );
        let file = |name: &str| {
            let path = image.join(name);
            assert!(path.exists(), "{} is missing: run scripts/guest-image", path.display());
            path
        };
        let underlay = Underlay::switched("guest");
        let dir = TempDir::new().expect("temporary directory");
        let (console, socket) = (dir.path().join("console"), dir.path().join("serial"));
        let mut command = Command::new("qemu-system-x86_64");
        command.args("-accel tcg,thread=multi -cpu max -smp 1 -m 256 -machine pc".split(' '));
        command.args("-nodefaults -no-user-config -display none -no-reboot".split(' '));
        command.arg("-kernel").arg(file("vmlinuz")).arg("-initrd").arg(file("initramfs.gz"));
        command.args(["-append", "console=ttyS0 quiet panic=-1 mitigations=off"]);
        command.arg("-serial").arg(format!("file:{}", console.display()));
        command.arg("-serial").arg(format!("unix:{},server=on,wait=off", socket.display()));
        command.args(["-netdev", "tap,id=net,ifname=guest,script=no,downscript=no"]);
        command.args(["-device", "virtio-net-pci,netdev=net,romfile=,mac=02:aa:00:00:00:02"]);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let qemu = underlay.ns.enter(|| command.spawn()).expect("qemu-system-x86_64");
        let mut serial = None;
        let connected = eventually(Duration::from_secs(20), || {
            serial = UnixStream::connect(&socket).ok();
            serial.is_some()
        });
        assert!(connected, "qemu does not open its serial port");
        underlay.ns.sh("ip link set guest master hub addrgenmode none up");
        let serial = serial.expect("connected");
        let mut guest = Guest { underlay, serial, own: Vec::new(), _qemu: qemu, _dir: dir };
        let said = guest.read_until("=== ready\n", BOOT);
        assert!(
            said.is_some(),
            "the guest does not boot:\n{}",
            std::fs::read_to_string(&console).unwrap_or_default()
        );
        guest.own = guest.interfaces();
        guest
    }

    fn reset(&mut self) {
        for name in self.interfaces() {
            if !self.own.contains(&name) {
                self.run(&format!("/usr/bin/ip link del {name}"));
            }
        }
        self.ip("address flush dev eth0");
        self.ip("neighbour flush all");
        self.ip("link set eth0 mtu 1500 up");
        self.ip(&format!("address add {}/24 dev eth0", self.v4()));
        self.ip(&format!("address add {}/64 dev eth0", self.v6()));
    }

    fn interfaces(&mut self) -> Vec<String> {
        self.ok("ls /sys/class/net").split_whitespace().map(str::to_owned).collect()
    }

    /// Its address on the underlay.
    pub fn v4(&self) -> String {
        self.underlay.v4(Guest::N)
    }

    /// Its IPv6 address on the underlay.
    pub fn v6(&self) -> String {
        self.underlay.v6(Guest::N)
    }

    /// Reads up to `end`; `None` when it does not come in time.
    fn read_until(&mut self, end: &str, limit: Duration) -> Option<String> {
        let stop = Instant::now() + limit;
        let mut text = Vec::new();
        let mut buffer = [0; 4096];
        self.serial.set_read_timeout(Some(Duration::from_millis(200))).expect("timeout");
        while Instant::now() < stop {
            let read = self.serial.read(&mut buffer).unwrap_or(0);
            text.extend(buffer[..read].iter().filter(|&&b| b != b'\r'));
            let so_far = String::from_utf8_lossy(&text);
            if so_far
                .rfind(end)
                .is_some_and(|at| so_far[at + end.len()..].ends_with('\n') || end.ends_with('\n'))
            {
                return Some(so_far.into_owned());
            }
        }
        None
    }

    /// Runs a shell command line in it. Output and errors come together in `stdout`.
    pub fn run(&mut self, line: &str) -> cmd::Output {
        self.serial.write_all(format!("{line}\n").as_bytes()).expect("serial port");
        let said =
            self.read_until(END, COMMAND).unwrap_or_else(|| panic!("no answer of the guest to: {line}"));
        let (stdout, code) = said.rsplit_once(END).expect("the end");
        let code = code.trim().parse().unwrap_or_else(|_| panic!("no exit code of the guest in {said:?}"));
        cmd::Output { code, stdout: stdout.to_owned(), stderr: String::new() }
    }

    /// Runs a shell command line that must succeed.
    pub fn ok(&mut self, line: &str) -> String {
        let out = self.run(line);
        assert_eq!(out.code, 0, "in the guest: {line}\n{}", out.stdout);
        out.stdout
    }

    /// Runs iproute2's `ip`.
    pub fn ip(&mut self, args: &str) -> String {
        self.ok(&format!("/usr/bin/ip {args}"))
    }

    /// Makes a device, such as a tunnel's, with inner addresses 10.7.9.1/16 and fd07::901/64, and sets it up.
    /// Its MAC address is the same each time, as neighbours remember it.
    pub fn device(&mut self, name: &str, args: &str) {
        self.ip(&format!("link add {name} address 02:00:00:00:09:01 {args}"));
        self.ip(&format!("address add {}/16 dev {name}", Guest::INNER));
        self.ip(&format!("address add {}/64 dev {name}", Guest::INNER6));
        self.ip(&format!("link set {name} up"));
    }

    /// Address of the tunnel device.
    pub const INNER: &str = "10.7.9.1";
    /// IPv6 address of the tunnel device.
    pub const INNER6: &str = "fd07::901";

    /// Pings from inside until answered; panics when that takes longer than 20 s.
    pub fn assert_reaches(&mut self, to: IpAddr) {
        let reached =
            eventually(Duration::from_secs(20), || self.run(&format!("ping -c 1 -W 1 {to}")).code == 0);
        assert!(reached, "the guest does not reach {to}");
        let said = self.ok(&format!("ping -c 5 -i 0.1 -W 3 {to} || true"));
        assert!(said.contains("5 packets received") && !said.contains("DUP"), "to {to}:\n{said}");
    }

    /// Sends random bytes to a namespace over TCP.
    pub fn assert_sends(&mut self, to: &Netns, addr: IpAddr, bytes: u64) -> Done {
        let listener = to.enter(|| TcpListener::bind(SocketAddr::new(addr, 0))).expect("listen");
        let port = listener.local_addr().expect("address").port();
        let receiver = std::thread::spawn(move || {
            let (stream, _) = listener.accept()?;
            digest(stream)
        });
        let sum = self.ok(&format!("head -c {bytes} /dev/urandom >/tmp/file; sha256sum </tmp/file"));
        let started = Instant::now();
        self.ok(&format!("nc -w 10 {addr} {port} </tmp/file; code=$?; rm /tmp/file; exit $code"));
        let (received, arrived) = receiver.join().expect("receiver").expect("receive");
        let done = Done { sent: parse(&sum), received, bytes: arrived, took: started.elapsed() };
        assert_eq!(done.bytes, bytes, "bytes that arrived from the guest");
        assert_eq!(done.sent, done.received, "sha256 differs");
        done
    }

    /// Takes bytes from a namespace over TCP, at its inner address.
    pub fn assert_receives(&mut self, from: &Netns, bytes: u64) -> Done {
        const PORT: u16 = 9999;
        let target = SocketAddr::new(Guest::INNER.parse().expect("address"), PORT);
        self.ok(&format!("(nc -l -p {PORT} >/tmp/file; echo done >/tmp/ready) >/dev/null 2>&1 &"));
        let started = Instant::now();
        let mut stream = None;
        let connected = eventually(Duration::from_secs(20), || {
            stream = from.enter(|| TcpStream::connect_timeout(&target, Duration::from_secs(1))).ok();
            stream.is_some()
        });
        assert!(connected, "no TCP connection from {} to the guest", from.name());
        let mut stream = stream.expect("connected");
        stream.set_write_timeout(Some(Duration::from_secs(30))).expect("timeout");
        let mut hash = Sha256::new();
        let mut left = bytes as usize;
        let mut seed = 1u64;
        while left > 0 {
            let block: Vec<u8> = std::iter::repeat_with(|| {
                seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (seed >> 33) as u8
            })
            .take(left.min(65536))
            .collect();
            stream.write_all(&block).expect("send to the guest");
            hash.update(&block);
            left -= block.len();
        }
        drop(stream);
        let wait = "while [ ! -e /tmp/ready ]; do sleep 0.1; done; rm /tmp/ready";
        let said = self.ok(&format!("{wait}; wc -c </tmp/file; sha256sum </tmp/file; rm /tmp/file"));
        let (count, sum) = said.split_once('\n').expect("two lines");
        let arrived = count.trim().parse().expect("a number");
        let done = Done {
            sent: hash.finalize().into(),
            received: parse(sum),
            bytes: arrived,
            took: started.elapsed(),
        };
        assert_eq!(done.bytes, bytes, "bytes that arrived in the guest");
        assert_eq!(done.sent, done.received, "sha256 differs");
        done
    }
}

fn digest(mut stream: TcpStream) -> std::io::Result<([u8; 32], u64)> {
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let (mut hash, mut bytes) = (Sha256::new(), 0);
    let mut buffer = vec![0; 1 << 16];
    loop {
        match uninterrupted(|| stream.read(&mut buffer))? {
            0 => return Ok((hash.finalize().into(), bytes)),
            n => {
                hash.update(&buffer[..n]);
                bytes += n as u64;
            }
        }
    }
}

/// What `sha256sum` says.
fn parse(text: &str) -> [u8; 32] {
    let hex = text.split_whitespace().next().unwrap_or_default();
    let byte = |i: usize| u8::from_str_radix(hex.get(2 * i..2 * i + 2)?, 16).ok();
    std::array::from_fn(|i| byte(i).unwrap_or_else(|| panic!("no sha256 in {text:?}")))
}

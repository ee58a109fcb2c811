//! DHCP leases survive the daemon: they are written to the state directory, and given back at the start.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use trunkline_router::dhcp::{Lease, LeaseState};

use super::world::KernelWorld;
use crate::model::guard::Allow;

const FILE: &str = "leases.json";
/// They are not written more often.
const PACE: Duration = Duration::from_millis(500);

/// Where they are kept.
#[derive(Default)]
pub(super) struct Leases {
    dir: Option<PathBuf>,
    /// As last written.
    written: BTreeMap<String, Vec<Kept>>,
    looked: Option<Instant>,
    /// [`trunkline_engine::Engine::lease_version`] when they were written.
    version: u64,
}

/// A lease as it is written.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Kept {
    address: std::net::Ipv4Addr,
    mac: String,
    /// The client's identifier, in hex.
    client: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    /// It is somebody's now, rather than kept in case they come again.
    bound: bool,
    /// Seconds since 1970; absent: for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until: Option<u64>,
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

impl Kept {
    /// `None` for what is not worth keeping: offers, and addresses that somebody found taken.
    fn of(lease: &Lease) -> Option<Kept> {
        let bound = match lease.state {
            LeaseState::Bound => true,
            LeaseState::Free => false,
            LeaseState::Offered | LeaseState::Declined => return None,
        };
        let until = (lease.expires_in != u64::MAX)
            .then(|| (now() + Duration::from_millis(lease.expires_in)).as_secs());
        Some(Kept {
            address: lease.address,
            mac: lease.mac.to_string(),
            client: lease.client.iter().map(|b| format!("{b:02x}")).collect(),
            name: lease.host_name.clone(),
            bound,
            until: until.filter(|_| bound),
        })
    }

    /// `None` when it was not written by us.
    fn lease(&self) -> Option<Lease> {
        let left = self.until.map(|until| Duration::from_secs(until).saturating_sub(now()));
        let bytes = self.client.as_bytes().chunks(2);
        let client = bytes.map(|b| u8::from_str_radix(std::str::from_utf8(b).ok()?, 16).ok());
        let over = !self.bound || left.is_some_and(|l| l.is_zero());
        Some(Lease {
            address: self.address,
            client: client.collect::<Option<_>>()?,
            mac: self.mac.parse().ok()?,
            host_name: self.name.clone(),
            state: if over { LeaseState::Free } else { LeaseState::Bound },
            expires_in: match left {
                _ if over => 0,
                Some(left) => left.as_millis() as u64,
                None => u64::MAX,
            },
        })
    }
}

impl Leases {
    fn write(&self) -> std::io::Result<()> {
        let Some(dir) = &self.dir else { return Ok(()) };
        let mut file = tempfile::Builder::new().prefix(".leases-").tempfile_in(dir)?;
        file.write_all(&serde_json::to_vec_pretty(&self.written)?)?;
        file.persist(dir.join(FILE))?;
        Ok(())
    }
}

impl KernelWorld {
    /// Leases are kept in this directory.
    pub(crate) fn keep_leases_in(&mut self, dir: PathBuf) {
        let path = dir.join(FILE);
        self.l3.leases.dir = Some(dir);
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return,
            Err(error) => {
                return tracing::warn!(path = %path.display(), %error, "cannot read the DHCP leases");
            }
        };
        match serde_json::from_slice(&text) {
            Ok(written) => self.l3.leases.written = written,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "the DHCP leases cannot be understood; clients keep theirs if they are free");
            }
        }
    }

    /// Gives the engine what was written.
    pub(super) fn import_leases(&self) {
        for (gateway, port) in &self.l3.gateways {
            let kept = self.l3.leases.written.get(gateway).map_or(&[][..], Vec::as_slice);
            let leases: Vec<_> = kept.iter().filter_map(Kept::lease).collect();
            if !leases.is_empty() {
                self.engine.import_leases(*port, &leases);
            }
        }
    }

    /// Writes the leases down if they changed since the last time: a lease that was given is to be known after
    /// a crash, too (RFC 2131 §2.2).
    pub(super) fn keep_leases(&mut self) {
        if self.l3.leases.looked.is_some_and(|at| at.elapsed() < PACE) {
            return;
        }
        let version = self.engine.lease_version();
        if version == self.l3.leases.version {
            return;
        }
        self.l3.leases.looked = Some(Instant::now());
        self.l3.leases.version = version;
        self.write_leases();
    }

    /// Tells ports that are held to what DHCP gives them what their gateways have given: before they were, or
    /// before the daemon was started. What is given from now on they see.
    pub(super) fn bind_leases(&self) {
        if self.ports.values().any(|p| p.spec.anti_spoof.contains(&Allow::Dhcp)) {
            for (gateway, leases) in self.engine.leases() {
                self.engine.bind_leases(gateway, &leases);
            }
        }
    }

    /// The same at once.
    pub(super) fn write_leases(&mut self) {
        if !self.l3.desired.gateways.values().any(crate::model::l3::GatewaySpec::has_dhcp) {
            return;
        }
        let mut all = BTreeMap::new();
        for (port, leases) in self.engine.leases() {
            if let Some((name, _)) = self.l3.gateways.iter().find(|(_, p)| **p == port) {
                all.insert(name.clone(), leases.iter().filter_map(Kept::of).collect::<Vec<_>>());
            }
        }
        if same(&all, &self.l3.leases.written) {
            return;
        }
        self.l3.leases.written = all;
        if let Err(error) = self.l3.leases.write() {
            tracing::warn!(%error, "the DHCP leases cannot be written");
        }
    }
}

/// Whether nothing has changed but the clock by some seconds.
fn same(a: &BTreeMap<String, Vec<Kept>>, b: &BTreeMap<String, Vec<Kept>>) -> bool {
    let close = |x: &Kept, y: &Kept| {
        let apart = x.until.unwrap_or(0).abs_diff(y.until.unwrap_or(0));
        apart <= 5 && Kept { until: None, ..x.clone() } == Kept { until: None, ..y.clone() }
    };
    a.keys().eq(b.keys())
        && a.values()
            .zip(b.values())
            .all(|(x, y)| x.len() == y.len() && x.iter().zip(y).all(|(x, y)| close(x, y)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_comes_back_as_it_was() {
        let lease = |state, expires_in| Lease {
            address: "10.77.0.100".parse().unwrap(),
            client: vec![1, 2, 0xab, 0, 0, 0, 9],
            mac: "02:00:00:00:00:09".parse().unwrap(),
            host_name: Some("web".into()),
            state,
            expires_in,
        };
        let again = |l: &Lease| {
            let text = serde_json::to_string(&Kept::of(l).unwrap()).unwrap();
            serde_json::from_str::<Kept>(&text).unwrap().lease().unwrap()
        };
        let bound = again(&lease(LeaseState::Bound, 100_000));
        assert_eq!(Lease { expires_in: 100_000, ..bound.clone() }, lease(LeaseState::Bound, 100_000));
        assert!((97_000..=100_000).contains(&bound.expires_in), "{}", bound.expires_in);
        assert_eq!(again(&lease(LeaseState::Bound, u64::MAX)), lease(LeaseState::Bound, u64::MAX));
        assert_eq!(again(&lease(LeaseState::Free, 0)), lease(LeaseState::Free, 0));
        assert!(Kept::of(&lease(LeaseState::Offered, 1000)).is_none());
        let over = Kept { until: Some(1), ..Kept::of(&lease(LeaseState::Bound, 1)).unwrap() };
        assert_eq!(over.lease().unwrap().state, LeaseState::Free);
        assert!(Kept { client: "0x".into(), ..over }.lease().is_none());
    }
}

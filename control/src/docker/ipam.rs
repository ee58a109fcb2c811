//! The IPAM driver: `--ipam-driver trunkline --ipam-opt mesh=NAME` gives every host of a mesh a part of the
//! subnet of its own, so that no two containers of the network get one address.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Value, json};

use super::Plugin;
use super::protocol::{PoolRef, RequestPool};
use crate::model::MeshStatus;
use crate::model::docker::{DockerPool, DockerSpec};
use crate::{Error, Result};

/// Key of what an address is for.
const ADDRESS_TYPE: &str = "RequestAddressType";
const GATEWAY: &str = "com.docker.network.gateway";
/// Pools that nobody asked for by address are taken of these.
const DEFAULT4: &str = "10.113.0.0/16";
const DEFAULT6: &str = "fd74:6c00::/48";
/// Most addresses looked at for a free one.
const MAX_RANGE: usize = 1 << 20;

impl Plugin {
    pub(super) async fn request_pool(&self, asked: RequestPool) -> Result<Value> {
        let range = match asked.options.get("mesh").and_then(Value::as_str) {
            Some(mesh) => Some(slot(mesh, &self.controller.meshes().await)?),
            None => None,
        };
        if let Some(key) = asked.options.keys().find(|k| *k != "mesh" && !k.starts_with("com.docker.")) {
            return Err(Error::invalid(format!("the trunkline IPAM driver has no option '{key}'"))
                .hint("it has mesh"));
        }
        self.controller
            .edit(move |desired| {
                let docker = desired.docker.get_or_insert_default();
                let pool = pool(docker, &asked, range)?;
                let (id, subnet) = (pool.subnet.to_string(), pool.subnet);
                docker.pools.insert(id.clone(), pool);
                Ok(json!({ "PoolID": id, "Pool": subnet.to_string(), "Data": {} }))
            })
            .await
    }

    pub(super) async fn release_pool(&self, asked: PoolRef) -> Result<()> {
        self.controller
            .edit(move |desired| {
                if let Some(docker) = &mut desired.docker {
                    docker.pools.remove(&asked.pool_id);
                }
                Ok(())
            })
            .await
    }

    pub(super) async fn request_address(&self, asked: PoolRef) -> Result<Value> {
        self.controller
            .edit(move |desired| {
                let pools = &mut desired.docker.get_or_insert_default().pools;
                let pool = pools
                    .get_mut(&asked.pool_id)
                    .ok_or_else(|| Error::not_found(format!("there is no address pool {}", asked.pool_id)))?;
                let gateway = asked.options.get(ADDRESS_TYPE).and_then(Value::as_str) == Some(GATEWAY);
                let address = address(pool, &asked.address, gateway)?;
                pool.taken.push(address);
                Ok(json!({ "Address": format!("{address}/{}", pool.subnet.prefix_len()), "Data": {} }))
            })
            .await
    }

    pub(super) async fn release_address(&self, asked: PoolRef) -> Result<()> {
        self.controller
            .edit(move |desired| {
                let pool = desired.docker.as_mut().and_then(|d| d.pools.get_mut(&asked.pool_id));
                if let (Some(pool), Ok(address)) = (pool, asked.address.parse::<IpAddr>()) {
                    pool.taken.retain(|a| *a != address);
                }
                Ok(())
            })
            .await
    }
}

/// Which of how many parts of a subnet is this host's.
fn slot(mesh: &str, meshes: &[MeshStatus]) -> Result<(usize, usize)> {
    let found = meshes.iter().find(|m| m.name == mesh);
    let found = found.ok_or_else(|| {
        Error::not_found(format!("there is no mesh {mesh}")).hint("see: trunkline mesh list")
    })?;
    let mut hosts = found.spec.peers.clone();
    hosts.sort_unstable();
    let own = hosts.iter().position(|host| found.own.contains(host)).ok_or_else(|| {
        Error::invalid(format!("mesh {mesh} does not name this host"))
            .hint("add its own address to the peers")
    })?;
    Ok((own, hosts.len()))
}

/// A new pool: as docker asks, or any that is free.
fn pool(docker: &DockerSpec, asked: &RequestPool, slot: Option<(usize, usize)>) -> Result<DockerPool> {
    let overlaps = |a: &IpNet| {
        docker.pools.values().find(|p| p.subnet.contains(&a.network()) || a.contains(&p.subnet.network()))
    };
    let parse = |text: &String| {
        let wrong =
            |_| Error::invalid(format!("'{text}' is not a subnet")).hint("write it like 10.77.0.0/24");
        text.parse::<IpNet>().map(|net| net.trunc()).map_err(wrong)
    };
    let subnet = match (asked.pool.is_empty(), slot) {
        (false, _) => parse(&asked.pool)?,
        (true, Some(_)) => {
            return Err(Error::invalid("a network of several hosts needs the same subnet on each")
                .hint("give --subnet"));
        }
        (true, None) => {
            let (all, length) = if asked.v6 { (DEFAULT6, 64) } else { (DEFAULT4, 24) };
            let all: IpNet = all.parse().expect("a constant");
            let mut free = all.subnets(length).into_iter().flatten().take(MAX_RANGE);
            free.find(|net| overlaps(net).is_none())
                .ok_or_else(|| Error::failed(format!("no subnet of {all} is free")).hint("give --subnet"))?
        }
    };
    if let Some(other) = overlaps(&subnet) {
        return Err(Error::conflict(format!("{subnet} overlaps the address pool {}", other.subnet))
            .hint("give another --subnet"));
    }
    let range = match (asked.sub_pool.is_empty(), slot) {
        (false, _) => parse(&asked.sub_pool)?,
        (true, Some((own, hosts))) => part(&subnet, own, hosts)?,
        (true, None) => subnet,
    };
    if !subnet.contains(&range) {
        return Err(Error::invalid(format!("{range} is not in {subnet}")).hint("give an --ip-range inside"));
    }
    Ok(DockerPool { subnet, range, taken: Vec::new() })
}

/// One of as many equal parts as there are hosts, or a few more.
fn part(subnet: &IpNet, own: usize, hosts: usize) -> Result<IpNet> {
    let bits = hosts.next_power_of_two().trailing_zeros() as u8;
    let length = subnet.prefix_len().saturating_add(bits);
    // Each gets two addresses at least.
    if length >= subnet.max_prefix_len() {
        return Err(
            Error::invalid(format!("{subnet} is too small for {hosts} hosts")).hint("give a larger subnet")
        );
    }
    let mut parts = subnet.subnets(length).into_iter().flatten();
    parts.nth(own).ok_or_else(|| Error::failed("no part of the subnet is left"))
}

/// The address asked for, or the next that is free. The gateway is the same on every host: the subnet's first.
fn address(pool: &DockerPool, asked: &str, gateway: bool) -> Result<IpAddr> {
    let usable = |a: &IpAddr| {
        let edges = pool.subnet.prefix_len() + 1 < pool.subnet.max_prefix_len();
        !edges || (*a != pool.subnet.network() && (a.is_ipv6() || *a != pool.subnet.broadcast()))
    };
    let free = |a: &IpAddr| usable(a) && !pool.taken.contains(a);
    if !asked.is_empty() {
        let wrong = || Error::invalid(format!("'{asked}' is not an address of {}", pool.subnet));
        let address: IpAddr = asked.parse().map_err(|_| wrong())?;
        return match pool.subnet.contains(&address) {
            false => Err(wrong()),
            true if !free(&address) => Err(Error::conflict(format!("address {address} is taken"))),
            true => Ok(address),
        };
    }
    let first = addresses(&pool.subnet).find(usable);
    match first.filter(|_| gateway) {
        Some(first) if free(&first) => Ok(first),
        Some(first) => Err(Error::conflict(format!("address {first} is taken"))),
        // The first one is the gateway's, of this host or another.
        None => addresses(&pool.range)
            .find(|a| free(a) && Some(*a) != first)
            .ok_or_else(|| Error::failed(format!("no address of {} is free", pool.range))),
    }
}

/// Addresses of a network from its first on, its own and the broadcast address included.
fn addresses(net: &IpNet) -> impl Iterator<Item = IpAddr> {
    let (v4, v6) = match net.network() {
        IpAddr::V4(first) => (Some(u32::from(first)), None),
        IpAddr::V6(first) => (None, Some(u128::from(first))),
    };
    let net = *net;
    (0..MAX_RANGE)
        .map(move |n| match (v4, v6) {
            (Some(first), _) => IpAddr::V4(first.wrapping_add(n as u32).into()),
            (_, first) => IpAddr::V6(first.unwrap_or(0).wrapping_add(n as u128).into()),
        })
        .take_while(move |a| net.contains(a))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(pool: &str, sub_pool: &str) -> RequestPool {
        RequestPool { pool: pool.into(), sub_pool: sub_pool.into(), options: Default::default(), v6: false }
    }

    #[test]
    fn hosts_of_a_mesh_get_disjoint_parts() {
        let docker = DockerSpec::default();
        let mut seen = std::collections::BTreeSet::new();
        for own in 0..3 {
            let mut pool = pool(&docker, &asked("10.77.0.0/28", ""), Some((own, 3))).unwrap();
            let gateway = address(&pool, "", true).unwrap();
            assert_eq!(gateway.to_string(), "10.77.0.1");
            pool.taken.push(gateway);
            while let Ok(next) = address(&pool, "", false) {
                assert!(seen.insert(next), "{next} twice");
                pool.taken.push(next);
            }
        }
        // Four parts of four, without the network's and the gateway's in the first.
        assert_eq!(seen.len(), 2 + 4 + 4);
        let error = pool(&docker, &asked("10.77.0.0/30", ""), Some((0, 3))).unwrap_err();
        assert!(error.to_string().contains("too small for 3 hosts"), "{error}");
    }

    #[test]
    fn pools_and_addresses_are_given_once() {
        let mut docker = DockerSpec::default();
        let mut first = pool(&docker, &asked("", ""), None).unwrap();
        assert_eq!(first.subnet.to_string(), "10.113.0.0/24");
        assert_eq!(address(&first, "10.113.0.9", false).unwrap().to_string(), "10.113.0.9");
        first.taken.push("10.113.0.9".parse().unwrap());
        for (text, says) in [
            ("10.113.0.9", "address 10.113.0.9 is taken"),
            ("10.113.0.255", "is taken"),
            ("10.114.0.1", "not an address of"),
            ("x", "'x' is not an address of"),
        ] {
            let error = address(&first, text, false).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
        docker.pools.insert("a".into(), first);
        assert_eq!(pool(&docker, &asked("", ""), None).unwrap().subnet.to_string(), "10.113.1.0/24");
        let error = pool(&docker, &asked("10.113.0.128/25", ""), None).unwrap_err().to_string();
        assert!(error.contains("overlaps the address pool 10.113.0.0/24"), "{error}");
        let narrow = pool(&docker, &asked("10.9.0.0/24", "10.9.0.64/26"), None).unwrap();
        assert_eq!(address(&narrow, "", false).unwrap().to_string(), "10.9.0.64");
        assert!(pool(&docker, &asked("10.9.0.0/24", "10.8.0.0/26"), None).is_err());
        assert!(pool(&docker, &asked("", ""), Some((0, 2))).is_err());
    }
}

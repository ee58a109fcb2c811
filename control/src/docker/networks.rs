//! Docker's networks.

use ipnet::IpNet;

use super::options::{NetworkOptions, Publishing};
use super::protocol::{CreateNetwork, IpamData};
use super::{endpoints, short};
use crate::endpoint::network::{self, Wish};
use crate::model::{Desired, Owner};
use crate::{Error, Result};

/// Makes a network. Docker may ask twice for one when the first answer got lost: the second changes nothing.
/// `has_default`: whether the host has a default route that an uplink can share.
pub(super) fn create(desired: &mut Desired, asked: &CreateNetwork, has_default: bool) -> Result<()> {
    let id = &asked.network_id;
    if desired.docker.as_ref().is_some_and(|d| d.networks.contains_key(id)) {
        return Ok(());
    }
    let options = NetworkOptions::read(&asked.options)?;
    let (subnets, gateways) = addresses(asked)?;
    let wish = Wish {
        owner: Owner::Docker,
        shown: short(id),
        stem: &format!("docker-{}", short(id)),
        bridge: options.bridge.as_deref(),
        make_bridge: false,
        mesh: options.mesh.as_deref(),
        vlan: options.vlan,
        mtu: options.mtu,
        icc: options.icc,
        internal: options.internal,
        subnets,
        gateways,
        masquerade: true,
        uplink: options.uplink.as_deref(),
        proxy: options.publishing == Publishing::Proxy,
    };
    let mut network = network::make(desired, &wish, has_default)?;
    network.anti_spoof = options.anti_spoof;
    desired.docker.get_or_insert_default().networks.insert(id.clone(), network);
    Ok(())
}

/// Removes a network with what was made for it. One that is not there is no error: docker may ask again.
pub(super) fn delete(desired: &mut Desired, id: &str) -> Result<()> {
    let endpoints = desired.docker.iter().flat_map(|d| d.endpoints.iter());
    let left: Vec<String> = endpoints.filter(|(_, e)| e.network == id).map(|(id, _)| id.clone()).collect();
    for endpoint in left {
        endpoints::delete(desired, &endpoint);
    }
    if let Some(network) = desired.docker.as_mut().and_then(|d| d.networks.remove(id)) {
        network::remove(desired, &network);
    }
    Ok(())
}

/// Subnets and gateways of docker's IPAM.
fn addresses(asked: &CreateNetwork) -> Result<(Vec<IpNet>, Vec<IpNet>)> {
    let parse = |text: &String| {
        let wrong = |_| Error::invalid(format!("'{text}' is not an address with a prefix length"));
        text.parse::<IpNet>().map_err(wrong)
    };
    let all = || asked.ipv4.iter().chain(&asked.ipv6);
    let given = |of: fn(&IpamData) -> &String| all().map(of).filter(|text| !text.is_empty()).map(parse);
    // With `--ipam-driver null` there is one subnet, that of every address.
    let subnets: Result<Vec<IpNet>> = given(|d| &d.pool).collect();
    let subnets = subnets?.into_iter().filter(|net| net.prefix_len() > 0).map(|net| net.trunc()).collect();
    let gateways: Result<Vec<IpNet>> = given(|d| &d.gateway).collect();
    Ok((subnets, gateways?.into_iter().filter(|net| net.prefix_len() > 0).collect()))
}

//! What `docker network create -o KEY=VALUE` says.

use serde_json::Value;

use super::protocol::{GENERIC, INTERNAL, Options};
use crate::model::attach::NetworkWish;
use crate::model::keys::nearest;
use crate::{Error, Result};

const KNOWN: [&str; 8] = ["bridge", "vlan", "mtu", "icc", "uplink", "mesh", "publish", "anti-spoof"];

/// What the options of a network that another program makes say: podman's are the same.
///
/// # Errors
/// When one is not known, or its value is wrong.
pub fn network_wish<'a>(options: impl Iterator<Item = (&'a str, &'a str)>) -> Result<NetworkWish> {
    let generic = options.map(|(key, value)| (key.to_owned(), value.into())).collect();
    let read = NetworkOptions::read(&[(GENERIC.to_owned(), Value::Object(generic))].into())?;
    let NetworkOptions { bridge, vlan, mtu, icc, anti_spoof, uplink, mesh, publishing, internal: _ } = read;
    let proxy = publishing == Publishing::Proxy;
    Ok(NetworkWish { bridge, mesh, vlan, mtu, icc, anti_spoof, uplink, proxy, ..NetworkWish::default() })
}

/// How published ports reach the container.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Publishing {
    /// By the uplink's NAT, where there is one; the host's own clients through the daemon.
    #[default]
    Nat,
    /// All through the daemon.
    Proxy,
}

/// The options of a network.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct NetworkOptions {
    pub(super) bridge: Option<String>,
    pub(super) vlan: Option<u16>,
    pub(super) mtu: Option<u32>,
    pub(super) icc: bool,
    pub(super) uplink: Option<String>,
    pub(super) mesh: Option<String>,
    pub(super) publishing: Publishing,
    pub(super) internal: bool,
    /// Containers are held to their addresses.
    pub(super) anti_spoof: bool,
}

impl NetworkOptions {
    /// Reads those of a CreateNetwork. What begins with `com.docker.` is docker's own: some of it means
    /// something here too, the rest is for other drivers.
    pub(super) fn read(options: &Options) -> Result<NetworkOptions> {
        let mut read = NetworkOptions {
            bridge: None,
            vlan: None,
            mtu: None,
            icc: true,
            uplink: None,
            mesh: None,
            publishing: Publishing::default(),
            anti_spoof: false,
            internal: matches!(options.get(INTERNAL), Some(Value::Bool(true))),
        };
        let generic = options.get(GENERIC).and_then(Value::as_object).into_iter().flatten();
        for (key, value) in generic {
            let text = match value {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            read.set(key, text)?;
        }
        Ok(read)
    }

    fn set(&mut self, key: &str, text: String) -> Result<()> {
        let wrong = |what: &str, hint: &str| {
            Err(Error::invalid(format!("option {key}={text}: {what}")).hint(hint.to_owned()))
        };
        match key {
            "bridge" => self.bridge = Some(text),
            "uplink" => self.uplink = Some(text),
            "mesh" => self.mesh = Some(text),
            "vlan" => match text.parse() {
                Ok(vlan @ 1..=4094) => self.vlan = Some(vlan),
                _ => return wrong("this is no VLAN", "use 1 to 4094"),
            },
            "mtu" | "com.docker.network.driver.mtu" => match text.parse() {
                // Docker writes 0 for "not given".
                Ok(0) => {}
                Ok(mtu @ 576..=65535) => self.mtu = Some(mtu),
                _ => return wrong("this is no MTU", "use 576 to 65535, with IPv6 at least 1280"),
            },
            "icc" | "com.docker.network.bridge.enable_icc" | "anti-spoof" => {
                let on = match text.as_str() {
                    "true" | "1" => true,
                    "false" | "0" => false,
                    _ => return wrong("this is neither true nor false", "use true or false"),
                };
                match key {
                    "anti-spoof" => self.anti_spoof = on,
                    _ => self.icc = on,
                }
            }
            "publish" => match text.as_str() {
                "nat" => self.publishing = Publishing::Nat,
                "proxy" => self.publishing = Publishing::Proxy,
                _ => return wrong("this is no way to publish ports", "use nat or proxy"),
            },
            _ if key.starts_with("com.docker.") => {}
            _ => {
                let error = Error::invalid(format!("the trunkline driver has no option '{key}'"));
                return Err(match nearest(key, &KNOWN) {
                    Some(meant) => error.hint(format!("did you mean '{meant}'?")),
                    None => error.hint(format!("it has {}", KNOWN.join(", "))),
                });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(generic: Value) -> Result<NetworkOptions> {
        let options =
            Options::from([(GENERIC.to_owned(), generic), (INTERNAL.to_owned(), Value::Bool(true))]);
        NetworkOptions::read(&options)
    }

    #[test]
    fn options_are_read() {
        let all = json!({"vlan": "10", "bridge": "br0", "mtu": "1400", "icc": "false", "uplink": "u", "mesh": "m",
            "publish": "proxy", "com.docker.network.enable_ipv6": "true"});
        let read = read(all).unwrap();
        assert_eq!((read.vlan, read.mtu, read.icc, read.internal), (Some(10), Some(1400), false, true));
        assert_eq!(read.bridge.as_deref(), Some("br0"));
        assert_eq!(read.publishing, Publishing::Proxy);
        assert!(!NetworkOptions::read(&Options::new()).unwrap().internal);
    }

    #[test]
    fn wrong_ones_are_refused_by_name() {
        for (option, says) in [
            (json!({"vlna": "1"}), "no option 'vlna'; did you mean 'vlan'?"),
            (json!({"colour": "red"}), "no option 'colour'; it has bridge, vlan, mtu"),
            (json!({"vlan": "4095"}), "option vlan=4095: this is no VLAN; use 1 to 4094"),
            (json!({"vlan": ""}), "this is no VLAN"),
            (json!({"mtu": "68"}), "option mtu=68"),
            (json!({"icc": "maybe"}), "option icc=maybe"),
            (json!({"publish": "yes"}), "use nat or proxy"),
        ] {
            let error = read(option).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}

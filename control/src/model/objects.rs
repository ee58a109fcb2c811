//! What gateways, uplinks, routes and NAT rules have in common: they are held by name, belong to somebody,
//! and are written by their keys.

use std::collections::BTreeMap;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::l3::{GatewaySpec, NatKind, NatSpec, RouteSpec, UplinkKind, UplinkSpec};
use super::{Desired, Owner};
use crate::{Error, Result, validate};

/// A kind of object that [`Desired`] holds by name.
pub(crate) trait Named: Clone + PartialEq + Serialize + DeserializeOwned + Send + 'static {
    /// As files and commands call it.
    const KIND: &'static str;

    /// All of them.
    fn all(desired: &Desired) -> &BTreeMap<String, Self>;
    /// All of them, to be changed.
    fn all_mut(desired: &mut Desired) -> &mut BTreeMap<String, Self>;
    /// Who made it.
    fn owner(&self) -> Owner;
    /// Says who made it.
    fn set_owner(&mut self, owner: Owner);
    /// Checks it by itself.
    fn check(name: &str, spec: &Self) -> Result<()>;

    /// Takes over what the daemon had filled in for `old`, where this does not say.
    fn inherit(&mut self, _old: &Self) {}

    /// A name for one that was given none.
    fn derive_name(&self) -> Option<String> {
        None
    }

    /// What is said when there is none of that name.
    fn missing(name: &str) -> Error {
        Error::not_found(format!("there is no {} {name}", Self::KIND))
            .hint(format!("see: trunkline {} list", Self::KIND))
    }
}

macro_rules! named {
    ($spec:ty, $kind:literal, $field:ident, $check:path, { $($rest:item)* }) => {
        impl Named for $spec {
            const KIND: &'static str = $kind;

            fn all(desired: &Desired) -> &BTreeMap<String, Self> {
                &desired.$field
            }

            fn all_mut(desired: &mut Desired) -> &mut BTreeMap<String, Self> {
                &mut desired.$field
            }

            fn owner(&self) -> Owner {
                self.owner
            }

            fn set_owner(&mut self, owner: Owner) {
                self.owner = owner;
            }

            fn check(name: &str, spec: &Self) -> Result<()> {
                $check(name, spec)
            }

            $($rest)*
        }
    };
}

named!(GatewaySpec, "gateway", gateways, validate::gateway, {
    fn inherit(&mut self, old: &Self) {
        if self.mac.is_none() {
            self.mac.clone_from(&old.mac);
        }
    }
});

named!(UplinkSpec, "uplink", uplinks, validate::uplink, {
    fn inherit(&mut self, old: &Self) {
        if let (UplinkKind::Host(new), UplinkKind::Host(old)) = (&mut self.kind, &old.kind)
            && new.mac.is_none()
        {
            new.mac.clone_from(&old.mac);
        }
    }
});

named!(RouteSpec, "route", routes, validate::route, {
    fn derive_name(&self) -> Option<String> {
        Some(plain(&self.prefix.to_string()))
    }
});

named!(NatSpec, "nat", nat, validate::nat, {
    fn derive_name(&self) -> Option<String> {
        Some(match &self.kind {
            NatKind::Masquerade(m) => format!("masquerade-{}", plain(&m.from.to_string())),
            NatKind::Publish(p) => format!("publish-{}-{}", p.proto.name(), p.port),
            NatKind::Static(s) => format!("static-{}", plain(&s.external.to_string())),
        })
    }
});

/// Whether two objects differ in more than whose they are.
pub(crate) fn differs<T: Named>(a: Option<&T>, b: Option<&T>) -> bool {
    let mut owned = a.cloned();
    if let (Some(a), Some(b)) = (&mut owned, b) {
        a.set_owner(b.owner());
    }
    owned.as_ref() != b
}

/// An address or prefix in the characters of names.
fn plain(text: &str) -> String {
    text.replace('/', "-").replace(':', "_")
}

/// A name that is free for an object without one.
pub(crate) fn free_name<T: Named>(desired: &Desired, spec: &T) -> Option<String> {
    let stem = spec.derive_name()?;
    let tried = std::iter::once(stem.clone()).chain((2..).map(|n| format!("{stem}-{n}")));
    tried.into_iter().find(|name| !T::all(desired).contains_key(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_made_of_what_the_object_is() {
        let nat = |json: &str| serde_json::from_str::<NatSpec>(json).unwrap();
        let mut desired = Desired::default();
        for (json, name) in [
            (r#"{"type":"masquerade","uplink":"u","from":"10.77.0.0/24"}"#, "masquerade-10.77.0.0-24"),
            (r#"{"type":"masquerade","uplink":"u","from":"fd77::/64","nat66":true}"#, "masquerade-fd77__-64"),
            (
                r#"{"type":"publish","uplink":"u","proto":"tcp","port":8080,"to":"10.77.0.2"}"#,
                "publish-tcp-8080",
            ),
            (
                r#"{"type":"publish","uplink":"u","proto":"udp","port":"53-54","to":"10.77.0.2"}"#,
                "publish-udp-53-54",
            ),
            (
                r#"{"type":"static","uplink":"u","inside":"10.77.0.2","external":"192.0.2.9"}"#,
                "static-192.0.2.9",
            ),
        ] {
            let spec = nat(json);
            assert_eq!(free_name(&desired, &spec).unwrap(), name);
            validate::nat(name, &spec).unwrap();
            desired.nat.insert(name.to_owned(), spec.clone());
            assert_eq!(free_name(&desired, &spec).unwrap(), format!("{name}-2"));
        }
    }
}

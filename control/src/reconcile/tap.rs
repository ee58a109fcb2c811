//! TAP interfaces: opened in the daemon's namespace, moved to where they belong, set up there.

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};

use serde::{Deserialize, Serialize};
use trunkline_engine::PortIo;
use trunkline_packet::MacAddr;
use trunkline_ports::netns::Netns;
use trunkline_ports::tap::{Tap, TapConfig};

use crate::model::{Follow, LinkRoute, LinkSpec, OffloadMode, PortKind, PortSpec};
use crate::net::{GSO_MAX_SEGMENTS, Link, Session, explain, session};
use crate::{Error, ErrorKind, Result};

/// MTU of an interface for which none is given, bytes.
pub(super) const DEFAULT_MTU: u32 = 1500;

/// What a tap or host port asks for.
pub(super) struct Wish<'a> {
    pub(super) place: Place,
    pub(super) offload: bool,
    pub(super) link: &'a LinkSpec,
    /// MTU when none is given, bytes.
    pub(super) default_mtu: u32,
    /// Identity the namespace must have, if it is known.
    netns_id: Option<&'a str>,
    /// Whose namespace it is, when that may be another one later.
    follow: Option<&'a Follow>,
    /// Somebody else moves it, names it, gives it addresses and sets it up.
    handed_over: bool,
}

/// What makes an interface the same one across restarts of the daemon.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Place {
    pub(super) netns: Option<String>,
    pub(super) ifname: String,
    pub(super) adopt: bool,
    pub(super) queues: u16,
}

impl<'a> Wish<'a> {
    /// `None` for ports that are no TAP.
    pub(super) fn of(name: &str, spec: &'a PortSpec) -> Option<Wish<'a>> {
        let offload = spec.offload == OffloadMode::Auto;
        let ifname = |given: &Option<String>| given.clone().unwrap_or_else(|| name.to_owned());
        match &spec.kind {
            PortKind::Tap(tap) => Some(Wish {
                place: Place {
                    netns: tap.netns.clone(),
                    ifname: ifname(&tap.ifname),
                    adopt: tap.adopt,
                    queues: tap.queues.unwrap_or(1),
                },
                offload,
                link: &tap.link,
                default_mtu: DEFAULT_MTU,
                netns_id: tap.netns_id.as_deref(),
                follow: tap.follow.as_ref(),
                handed_over: tap.handed_over,
            }),
            PortKind::Host(host) => Some(Wish {
                place: Place {
                    netns: None,
                    ifname: ifname(&host.ifname),
                    adopt: false,
                    queues: host.queues.unwrap_or(1),
                },
                offload,
                link: &host.link,
                default_mtu: DEFAULT_MTU,
                netns_id: None,
                follow: None,
                handed_over: false,
            }),
            _ => None,
        }
    }

    /// What the interface is to be like.
    fn state(&self, default_mtu: u32) -> State {
        State { up: !self.handed_over, ..State::wanted(self.link, self.place.adopt, default_mtu) }
    }

    /// Follows what is not there.
    pub(super) fn waits(&self) -> Option<Error> {
        self.follow.filter(|_| self.netns_id.is_none()).map(not_there)
    }

    /// The namespace it names; `None`: the daemon's own.
    fn open_netns(&self) -> Result<Option<Netns>> {
        if let Some(away) = self.waits() {
            return Err(away);
        }
        let Some(spec) = &self.place.netns else { return Ok(None) };
        let netns = open_netns(spec).map_err(|e| match (e.kind, self.follow) {
            (ErrorKind::NotFound, Some(follow)) => not_there(follow),
            _ => e,
        })?;
        if self.netns_id.is_some_and(|id| id != id_of(&netns)) {
            if let Some(follow) = self.follow {
                return Err(not_there(follow));
            }
            let what = format!("the network namespace of {spec} is gone, another one is in its place");
            return Err(
                Error::not_found(what).hint("delete the port, and add it again for the new container")
            );
        }
        Ok(Some(netns))
    }
}

/// What is said of a port whose container is stopped, until the runtime has said more.
fn not_there(follow: &Follow) -> Error {
    Error::not_found(format!("{} is not there", follow.what()))
}

/// `dev:ino`.
pub(super) fn id_of(netns: &Netns) -> String {
    let (dev, ino) = netns.id();
    format!("{dev}:{ino}")
}

/// The identity of a namespace, as [`crate::model::TapSpec::netns_id`] has it.
pub(crate) fn namespace_id(spec: &str) -> Result<String> {
    Ok(id_of(&open_netns(spec)?))
}

/// Opens a namespace by name, path or pid.
pub(super) fn open_netns(spec: &str) -> Result<Netns> {
    Netns::open(spec).map_err(|e| {
        let is_name = !spec.starts_with('/') && !spec.bytes().all(|b| b.is_ascii_digit());
        let error = match e.kind() {
            std::io::ErrorKind::NotFound => Error::not_found(e.to_string()),
            _ => explain(format!("cannot open network namespace {spec}"), &e),
        };
        match e.kind() {
            std::io::ErrorKind::NotFound if is_name => error.hint("see: ip netns list"),
            _ => error,
        }
    })
}

/// An open TAP, set up.
pub(super) struct TapDevice {
    /// Kept beside the engine's descriptors: to hand over, to attach again, to ask where the device is.
    tap: Tap,
    pub(super) place: Place,
    pub(super) mac: Option<MacAddr>,
    pub(super) mtu: u32,
    /// What `mtu` is when none is given.
    pub(super) default_mtu: u32,
    /// What it was when this daemon first saw the interface.
    own_mtu: u32,
    /// Most segments of a superframe that comes in by it, now and when this daemon first saw the interface.
    segments: u32,
    own_segments: u32,
    /// Renamed to make room for another port's; to be undone if that edit fails.
    pub(super) aside: bool,
    /// What an adopted interface was like, and what was made of it.
    found: Option<Box<(State, State)>>,
}

impl TapDevice {
    /// Makes or adopts the interface.
    pub(super) fn make(wish: &Wish<'_>) -> Result<TapDevice> {
        let place = &wish.place;
        let netns = wish.open_netns()?;
        let taken = |s: &Session| s.link(&place.ifname).map(|l| l.is_some());
        if !place.adopt && session(netns.as_ref(), taken)? {
            return Err(name_taken(place));
        }
        let name = if place.adopt { place.ifname.clone() } else { temporary_name() };
        let config =
            TapConfig { name: name.clone(), queues: place.queues, offload: wish.offload, adopt: place.adopt };
        let tap = Tap::open(&config).map_err(|e| open_failed(place, &e))?;
        if let Some(netns) = &netns {
            session(None, |s| s.move_to(&s.expect_link(&name)?, netns))?;
        }
        let wanted = wish.state(wish.default_mtu);
        let set_up = |s: &Session| {
            let mut link = s.expect_link(&name)?;
            let before = if place.adopt { State::adopted(s, &link, &wanted)? } else { State::fresh() };
            if !place.adopt {
                s.rename(&link, &place.ifname).map_err(|e| match e.kind {
                    ErrorKind::Conflict => name_taken(place),
                    _ => e,
                })?;
                link.name.clone_from(&place.ifname);
            }
            configure(s, &link, &before, &wanted)?;
            Ok((s.expect_link(&place.ifname)?, before))
        };
        let (link, before) = session(netns.as_ref(), set_up)?;
        let found = place.adopt.then(|| Box::new((before, wanted)));
        let (place, default_mtu, mtu) = (place.clone(), wish.default_mtu, link.mtu);
        Ok(TapDevice {
            tap,
            place,
            mac: link.mac,
            mtu,
            default_mtu,
            own_mtu: mtu,
            segments: link.gso_segments,
            own_segments: link.gso_segments,
            aside: false,
            found,
        })
    }

    /// Goes on with descriptors that the keeper held. What somebody took away from the interface meanwhile
    /// is given back.
    pub(super) fn take_over(wish: &Wish<'_>, fds: Vec<OwnedFd>) -> Result<TapDevice> {
        let lost = |e| explain(format!("interface {} cannot be taken over", wish.place.ifname), &e);
        let tap = Tap::from_fds(fds, wish.offload).map_err(lost)?;
        let netns = tap.netns().map_err(lost)?;
        let moved = wish.netns_id.is_some_and(|id| id != id_of(&netns)) || tap.name() != wish.place.ifname;
        if moved && !wish.handed_over {
            return Err(Error::not_found("the interface was moved or renamed"));
        }
        let link = session(Some(&netns), |s| {
            let link = s.expect_link(tap.name())?;
            if !wish.handed_over {
                configure(s, &link, &State::found(&link), &wish.state(wish.default_mtu))?;
            }
            s.expect_link(tap.name())
        })?;
        Ok(TapDevice {
            tap,
            place: wish.place.clone(),
            mac: link.mac,
            mtu: link.mtu,
            default_mtu: wish.default_mtu,
            own_mtu: link.mtu,
            segments: link.gso_segments,
            own_segments: if wish.place.adopt { link.gso_segments } else { GSO_MAX_SEGMENTS },
            aside: false,
            found: None,
        })
    }

    /// Changes what can be changed on a running interface; on failure everything is as before.
    pub(super) fn update(&mut self, old: &Wish<'_>, new: &Wish<'_>) -> Result<()> {
        let netns = self.netns()?;
        let (before, wanted) = (old.state(self.default_mtu), new.state(self.default_mtu));
        let name = self.name_now()?;
        let link = session(Some(&netns), |s| {
            let link = s.expect_link(&name)?;
            if before != wanted {
                configure(s, &link, &before, &wanted)?;
            }
            s.expect_link(&name)
        })?;
        if old.offload != new.offload
            && let Err(error) = self.set_offload(new.offload)
        {
            // Best effort: these settings were in force a moment ago.
            let undone = session(Some(&netns), |s| configure(s, &link, &wanted, &before));
            if let Err(undo) = undone {
                tracing::error!(interface = name, error = %undo, "a failed change could not be undone");
            }
            return Err(error);
        }
        (self.mac, self.mtu) = (link.mac, link.mtu);
        Ok(())
    }

    /// Changes the MTU that it has when none is given; true when that is the case and the MTU changed.
    pub(super) fn set_default_mtu(&mut self, spec: &PortSpec, mtu: u32) -> Result<bool> {
        let given = mtu_is_given(spec);
        // An adopted one keeps its own where no tunnel takes less.
        let wanted = match self.place.adopt {
            true if mtu >= DEFAULT_MTU => self.own_mtu,
            true => mtu.min(self.own_mtu),
            false => mtu,
        };
        let same = self.default_mtu == mtu && (given || self.mtu == wanted || !self.place.adopt);
        if same || self.aside || !self.is_alive() {
            return Ok(false);
        }
        if !given {
            self.set_mtu(wanted)?;
        }
        self.default_mtu = mtu;
        Ok(!given)
    }

    fn set_mtu(&mut self, mtu: u32) -> Result<()> {
        let name = self.name_now()?;
        session(Some(&self.netns()?), |s| s.set_mtu(&s.expect_link(&name)?, mtu))?;
        self.mtu = mtu;
        Ok(())
    }

    /// Has its kernel make superframes of so many segments at most, or as many as it did on its own.
    pub(super) fn limit_segments(&mut self, most: u32) -> Result<()> {
        let wanted = most.min(self.own_segments);
        if self.segments == wanted || self.aside || !self.is_alive() {
            return Ok(());
        }
        let name = self.name_now()?;
        session(Some(&self.netns()?), |s| s.set_gso_segments(&s.expect_link(&name)?, wanted))?;
        self.segments = wanted;
        Ok(())
    }

    /// The port goes: an adopted interface gets back what tunnels had lowered.
    pub(super) fn let_go(&mut self, spec: &PortSpec) -> Result<()> {
        if !self.place.adopt || !self.is_alive() {
            return Ok(());
        }
        if !mtu_is_given(spec) && self.mtu != self.own_mtu {
            self.set_mtu(self.own_mtu)?;
        }
        self.limit_segments(self.own_segments)
    }

    fn set_offload(&mut self, offload: bool) -> Result<()> {
        self.tap = self
            .fds()
            .and_then(|fds| Tap::from_fds(fds, offload))
            .map_err(|e| explain(format!("cannot change the offloads of {}", self.place.ifname), &e))?;
        Ok(())
    }

    /// Both sides of every queue for the engine.
    pub(super) fn io(&self, offload: bool) -> std::io::Result<PortIo> {
        let (rx, tx) = Tap::from_fds(self.fds()?, offload)?.into_io();
        Ok(PortIo { rx, tx })
    }

    /// Duplicates of its descriptors.
    pub(super) fn fds(&self) -> std::io::Result<Vec<OwnedFd>> {
        self.tap.try_clone_fds()
    }

    /// Offloads in force.
    pub(super) fn offloads(&self) -> Vec<String> {
        self.tap.features().names().into_iter().map(str::to_owned).collect()
    }

    /// Where the device is now.
    ///
    /// # Errors
    /// `NotFound` when it is gone.
    fn netns(&self) -> Result<Netns> {
        self.tap.netns().map_err(|e| explain(format!("interface {}", self.place.ifname), &e))
    }

    /// What it is called now: who it was handed over to gives it another name.
    pub(super) fn name_now(&self) -> Result<String> {
        self.tap.name_now().map_err(|e| explain(format!("interface {}", self.place.ifname), &e))
    }

    /// Whether the device still exists.
    pub(super) fn is_alive(&self) -> bool {
        self.tap.netns().is_ok()
    }

    /// What its own queue dropped because we did not read fast enough; 0 when it is gone.
    pub(super) fn ring_drops(&self) -> u64 {
        let read = |name: String| session(Some(&self.netns()?), |s| s.expect_link(&name));
        self.name_now().and_then(read).map_or(0, |link| link.tx_dropped)
    }

    /// Leaves an adopted interface as it was found: the edit that took it over has failed.
    pub(super) fn put_back(&self) -> Result<()> {
        let Some((before, wanted)) = self.found.as_deref() else { return Ok(()) };
        session(Some(&self.netns()?), |s| configure(s, &s.expect_link(&self.place.ifname)?, wanted, before))
    }

    /// Gives its name up, so that another interface can have it while both exist.
    pub(super) fn step_aside(&mut self) -> Result<()> {
        let netns = self.netns()?;
        session(Some(&netns), |s| {
            let link = s.expect_link(&self.place.ifname)?;
            s.set_up(&link, false)?;
            s.rename(&link, &temporary_name())
        })?;
        self.aside = true;
        Ok(())
    }

    /// Undoes [`TapDevice::step_aside`].
    pub(super) fn step_back(&mut self, wish: &Wish<'_>) -> Result<()> {
        let netns = self.netns()?;
        // The name at this moment is the kernel's to say.
        let now = self.name_now()?;
        session(Some(&netns), |s| {
            let mut link = s.expect_link(&now)?;
            s.rename(&link, &self.place.ifname)?;
            link.name.clone_from(&self.place.ifname);
            // Going down took its routes, and its IPv6 addresses.
            configure(s, &link, &State::fresh(), &wish.state(self.default_mtu))
        })?;
        self.aside = false;
        Ok(())
    }
}

/// Whether the MTU of a TAP is its user's to say.
pub(super) fn mtu_is_given(spec: &PortSpec) -> bool {
    Wish::of("", spec).is_none_or(|wish| wish.link.mtu.is_some())
}

/// Why a wished-for interface that was there is not any more.
pub(super) fn why_gone(wish: &Wish<'_>) -> Error {
    match (wish.open_netns(), &wish.place.netns) {
        (Err(e), _) if wish.follow.is_some() => e,
        (Err(e), Some(spec)) if e.kind == ErrorKind::NotFound => {
            Error::not_found(format!("network namespace {spec} is gone"))
        }
        (Err(e), _) => e,
        (Ok(_), _) => Error::not_found(format!("interface {} was deleted", wish.place.ifname)),
    }
}

fn name_taken(place: &Place) -> Error {
    let name = &place.ifname;
    let place = place.netns.as_ref().map(|n| format!(" in namespace {n}")).unwrap_or_default();
    Error::conflict(format!("interface {name} already exists{place}"))
        .hint("choose another --ifname or delete it")
}

fn open_failed(place: &Place, error: &std::io::Error) -> Error {
    match error.kind() {
        std::io::ErrorKind::NotFound if place.adopt => {
            Error::not_found(format!("there is no interface {}", place.ifname))
                .hint(format!("make it first: ip tuntap add {} mode tap", place.ifname))
        }
        _ => explain("cannot open a TAP", error),
    }
}

/// A name nobody has, for as long as an interface has no other.
fn temporary_name() -> String {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    let n = COUNTER.fetch_add(1, Ordering::Relaxed);
    format!("tl{:x}-{:x}", std::process::id() & 0xff_ffff, n & 0xf_ffff)
}

/// Layer 3 settings of an interface: those it has, or is to have.
#[derive(Clone, PartialEq, Eq, Debug)]
struct State {
    mac: Option<MacAddr>,
    mtu: Option<u32>,
    addresses: Vec<ipnet::IpNet>,
    gateways: Vec<IpAddr>,
    routes: Vec<LinkRoute>,
    up: bool,
}

impl State {
    /// A TAP just made.
    fn fresh() -> State {
        State {
            mac: None,
            mtu: Some(DEFAULT_MTU),
            addresses: Vec::new(),
            gateways: Vec::new(),
            routes: Vec::new(),
            up: false,
        }
    }

    /// An interface somebody else made: what is asked for is added to what it has.
    fn found(link: &Link) -> State {
        State { mac: link.mac, mtu: Some(link.mtu), up: link.up, ..State::fresh() }
    }

    /// The same, with those of the wished-for addresses and gateways that it has already.
    fn adopted(s: &Session, link: &Link, wanted: &State) -> Result<State> {
        let mut state = State::found(link);
        state.addresses = s.addresses(link)?;
        state.addresses.retain(|a| wanted.addresses.contains(a));
        state.gateways = s.defaults(link)?;
        state.gateways.retain(|g| wanted.gateways.contains(g));
        state.routes = s.routes(link)?;
        state.routes.retain(|r| wanted.routes.contains(r));
        Ok(state)
    }

    fn wanted(link: &LinkSpec, adopted: bool, default_mtu: u32) -> State {
        State {
            // Validated before.
            mac: link.mac.as_ref().and_then(|m| m.parse().ok()),
            mtu: link.mtu.or((!adopted).then_some(default_mtu)),
            addresses: link.addresses.clone(),
            gateways: link.gateways.clone(),
            routes: link.routes.clone(),
            up: true,
        }
    }
}

/// A step done, to be taken back.
type Undo<'a> = Box<dyn FnOnce(&Session) -> Result<()> + 'a>;

/// Brings an interface from `from` to `to`, or leaves it as it was. What is not mentioned in either stays.
fn configure(s: &Session, link: &Link, from: &State, to: &State) -> Result<()> {
    let mut undo = Vec::new();
    let done = steps(s, link, from, to, &mut undo);
    if done.is_err() {
        for step in undo.into_iter().rev() {
            if let Err(error) = step(s) {
                tracing::error!(interface = link.name, %error, "a failed change could not be undone");
            }
        }
    }
    done
}

fn steps<'a>(
    s: &Session,
    link: &'a Link,
    from: &'a State,
    to: &'a State,
    undo: &mut Vec<Undo<'a>>,
) -> Result<()> {
    if let Some(mac) = to.mac.filter(|_| to.mac != from.mac) {
        s.set_mac(link, mac)?;
        if let Some(old) = from.mac {
            undo.push(Box::new(move |s| s.set_mac(link, old)));
        }
    }
    // Routes go before the addresses that reach their routers, and come after.
    for &route in from.routes.iter().filter(|r| !to.routes.contains(r)) {
        s.del_route(link, route)?;
        undo.push(Box::new(move |s| s.add_route(link, route)));
    }
    for &gateway in from.gateways.iter().filter(|g| !to.gateways.contains(g)) {
        s.del_default(link, gateway)?;
        undo.push(Box::new(move |s| s.add_default(link, gateway)));
    }
    for &net in from.addresses.iter().filter(|a| !to.addresses.contains(a)) {
        s.del_address(link, net)?;
        undo.push(Box::new(move |s| s.add_address(link, net)));
    }
    if let Some(mtu) = to.mtu.filter(|_| to.mtu != from.mtu) {
        s.set_mtu(link, mtu)?;
        if let Some(old) = from.mtu {
            undo.push(Box::new(move |s| s.set_mtu(link, old)));
        }
    }
    if to.up && !from.up {
        s.set_up(link, true)?;
        undo.push(Box::new(move |s| s.set_up(link, false)));
    }
    if from.up && !to.up {
        s.set_up(link, false)?;
        undo.push(Box::new(move |s| s.set_up(link, true)));
    }
    for &net in to.addresses.iter().filter(|a| !from.addresses.contains(a)) {
        s.add_address(link, net)?;
        undo.push(Box::new(move |s| s.del_address(link, net)));
    }
    for &gateway in to.gateways.iter().filter(|g| !from.gateways.contains(g)) {
        s.add_default(link, gateway)?;
        undo.push(Box::new(move |s| s.del_default(link, gateway)));
    }
    for &route in to.routes.iter().filter(|r| !from.routes.contains(r)) {
        s.add_route(link, route)?;
        undo.push(Box::new(move |s| s.del_route(link, route)));
    }
    Ok(())
}

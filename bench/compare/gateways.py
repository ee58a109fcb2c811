"""The ways out that are compared: a container in a network of its own, a switch that translates, and a host
outside, on a link with an MTU of 1500. Masquerade: the container connects to the host. Publish: the host connects
to a port of the switch's address that leads to the container."""

import re
import shutil

from peers import Ovs, Peer, Trunkline, run

# More addresses of the host outside: with one, a flow's addresses and ports would soon be used up.
CROWD = 8
INSIDE, GATEWAY, OUTSIDE, EXTERNAL, PORT = "10.78.0.2", "10.78.0.1", "192.0.2.1", "192.0.2.10", "5201"


class Way(Peer):
    """`a` is who connects, `b` who listens, `ip_b` where to."""

    publish = False

    def connect(self):
        self.inside, self.outside = (self.b, self.a) if self.publish else (self.a, self.b)
        self.ip_b = EXTERNAL if self.publish else OUTSIDE
        self.veth(self.outside, "up0", OUTSIDE)
        for i in range(CROWD):
            self.outside.run(["ip", "address", "add", f"192.0.2.{101 + i}/24", "dev", "eth0"])
        self.translate()

    def flows(self):
        """Between which addresses flows can be: the first and how many, of `a` and of where it sends to."""
        inside, crowd = [INSIDE, "1"], ["192.0.2.101", str(CROWD)]
        return [*crowd, EXTERNAL, "1"] if self.publish else [*inside, *crowd]

    def forget(self):
        """Forgets connections, so that all that come are new."""

    def translate(self):
        raise NotImplementedError


class Docker(Way):
    """What dockerd makes for docker0: a bridge, and iptables rules of its form (dockerd 20.10)."""

    def unavailable(self):
        return None if shutil.which("iptables") else "iptables is not installed"

    def translate(self):
        sw = self.switch
        sw.run(["ip", "address", "add", f"{EXTERNAL}/24", "dev", "up0"])
        sw.run(["ip", "link", "add", "docker0", "type", "bridge"])
        self.veth(self.inside, "v0", INSIDE)
        sw.run(["ip", "link", "set", "v0", "master", "docker0"])
        sw.run(["ip", "address", "add", f"{GATEWAY}/24", "dev", "docker0"])
        sw.run(["ip", "link", "set", "docker0", "up"])
        self.inside.run(["ip", "route", "add", "default", "via", GATEWAY])
        # dockerd switches it on, too.
        sw.run(["sysctl", "-qw", "net.ipv4.ip_forward=1", "net.bridge.bridge-nf-call-iptables=1"], check=False)
        # There may be no command to flush the table of a namespace: what one round has opened is over by the next.
        sw.run(["sysctl", "-qw", "net.netfilter.nf_conntrack_udp_timeout=1"], check=False)
        for rule in (
                "-t nat -N DOCKER",
                "-t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER",
                "-t nat -A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER",
                "-t nat -A POSTROUTING -s 10.78.0.0/24 ! -o docker0 -j MASQUERADE",
                "-t nat -A DOCKER -i docker0 -j RETURN",
                f"-t nat -A DOCKER ! -i docker0 -p tcp --dport {PORT} -j DNAT --to-destination {INSIDE}:{PORT}",
                f"-t nat -A DOCKER ! -i docker0 -p udp --dport {PORT} -j DNAT --to-destination {INSIDE}:{PORT}",
                "-P FORWARD DROP",
                "-N DOCKER",
                "-N DOCKER-USER",
                "-A FORWARD -j DOCKER-USER",
                "-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
                "-A FORWARD -o docker0 -j DOCKER",
                "-A FORWARD -i docker0 ! -o docker0 -j ACCEPT",
                "-A FORWARD -i docker0 -o docker0 -j ACCEPT",
                f"-A DOCKER -d {INSIDE} ! -i docker0 -o docker0 -p tcp --dport {PORT} -j ACCEPT",
                f"-A DOCKER -d {INSIDE} ! -i docker0 -o docker0 -p udp --dport {PORT} -j ACCEPT"):
            sw.run(["iptables", "-w", *rule.split()])


class DockerPublish(Docker):
    publish = True


class OvsMasquerade(Way, Ovs):
    """Open vSwitch's userspace connection tracking with NAT, as its documents use it. It answers no ARP and has no
    addresses: neighbours are told."""

    # Of the gateway and of the switch outside.
    macs = {"gateway": "02:00:00:00:78:01", "external": "02:00:00:00:78:02"}

    def translate(self):
        vsctl, sw = self.start_ovs(self.switch), self.switch
        self.veth(self.inside, "v0", INSIDE)
        for ns, port in ((self.inside, "v0"), (self.outside, "up0")):
            ns.run(["ethtool", "-K", "eth0", "tx", "off"])
            vsctl("add-port", "br0", port)

        def mac(ns):
            return re.search(r"link/ether (\S+)", ns.run(["ip", "link", "show", "eth0"])).group(1)

        def number(port):
            return vsctl("get", "interface", port, "ofport").strip()

        for ns, addr, owner in ((self.inside, GATEWAY, "gateway"), (self.outside, EXTERNAL, "external")):
            ns.run(["ip", "neigh", "add", addr, "lladdr", self.macs[owner], "nud", "permanent", "dev", "eth0"])
        self.inside.run(["ip", "route", "add", "default", "via", GATEWAY])
        inside, outside, bridge = number("v0"), number("up0"), f"unix:{self.dir}/{sw.name}/br0.mgmt"
        sw.run(["ovs-ofctl", "del-flows", bridge])
        nat = f"nat(src={EXTERNAL}:1024-65535)"
        to_port = f"ct(commit,zone=1,nat(dst={INSIDE}:{PORT}),table=2)"
        for flow in (
                f"table=0,priority=10,in_port={inside},ip,actions=ct(commit,zone=1,{nat},table=1)",
                f"table=0,priority=20,in_port={outside},tcp,tp_dst={PORT},actions={to_port}",
                f"table=0,priority=20,in_port={outside},udp,tp_dst={PORT},actions={to_port}",
                f"table=0,priority=10,in_port={outside},ip,actions=ct(zone=1,nat,table=2)",
                f"table=1,ip,actions=mod_dl_src:{self.macs['external']},mod_dl_dst:{mac(self.outside)},"
                f"dec_ttl,output:{outside}",
                f"table=2,ct_state=-inv+trk,ip,nw_dst={INSIDE},actions=mod_dl_src:{self.macs['gateway']},"
                f"mod_dl_dst:{mac(self.inside)},dec_ttl,output:{inside}"):
            sw.run(["ovs-ofctl", "add-flow", bridge, flow])
        if self.publish:
            # Pings, too: that is how it is told whether it works.
            sw.run(["ovs-ofctl", "add-flow", bridge, f"table=0,priority=20,in_port={outside},icmp,"
                    f"actions=ct(commit,zone=1,nat(dst={INSIDE}),table=2)"])

    def forget(self):
        home = f"{self.dir}/{self.switch.name}"
        self.switch.run(["ovs-appctl", "-t", f"{home}/vs.ctl", "dpctl/flush-conntrack"])


class OvsPublish(OvsMasquerade):
    publish = True


class TrunklineMasquerade(Way, Trunkline):
    """This project: the container on a TAP, the link an uplink with an address of the switch's own."""

    def translate(self):
        cli = self.start_daemon().cli
        cli("bridge", "add", "br0")
        cli("port", "add", "br0", "c0", "--type", "tap", "--netns", self.inside.name, "--ifname", "eth0",
            "--address", f"{INSIDE}/24", "--gateway", GATEWAY)
        cli("gateway", "add", "br0", "--address", f"{GATEWAY}/24")
        cli("uplink", "add", "up", "--interface", "up0", "--address", f"{EXTERNAL}/24")
        cli("nat", "masquerade", "add", "--from", "10.78.0.0/24", "--uplink", "up")
        for proto in ("tcp", "udp"):
            cli("nat", "publish", "add", "--uplink", "up", "--proto", proto, "--port", PORT, "--to", f"{INSIDE}:{PORT}")
        # As much as Open vSwitch has room for if nothing is said: nobody gives way.
        cli("ct", "settings", "--limit", "1000000", "--source-limit", "1000000", "--source-ports", "64000")

    def forget(self):
        self.daemons[0].cli("ct", "flush")


class TrunklinePublish(TrunklineMasquerade):
    publish = True


class TrunklineSwitched(Way, Trunkline):
    """No way out but a bridge: the same ports, nothing translated and no connection tracked. What it moves bounds what
    any translation between these ports can."""

    address = "192.0.2.77"

    def translate(self):
        cli = self.start_daemon().cli
        cli("bridge", "add", "br0")
        cli("port", "add", "br0", "c0", "--type", "tap", "--netns", self.inside.name, "--ifname", "eth0",
            "--address", f"{self.address}/24")
        cli("port", "add", "br0", "up", "--type", "afpacket", "--interface", "up0")

    def flows(self):
        return [self.address, "1", "192.0.2.101", str(CROWD)]


WAYS = {"docker-masquerade": Docker, "trunkline-masquerade": TrunklineMasquerade,
        "ovs-masquerade": OvsMasquerade, "docker-publish": DockerPublish, "trunkline-publish": TrunklinePublish,
        "ovs-publish": OvsPublish, "trunkline-switched": TrunklineSwitched}

# test, which, beside which, at least.
WAY_GOALS = [
    ("tcp", "trunkline-masquerade", "docker-masquerade", 0.65),
    ("tcp", "trunkline-publish", "docker-publish", 0.65),
    ("flows", "trunkline-masquerade", "ovs-masquerade", 3),
    ("flows", "trunkline-publish", "ovs-publish", 3),
    ("connects", "trunkline-masquerade", "ovs-masquerade", 3),
    ("connects", "trunkline-publish", "ovs-publish", 3),
]

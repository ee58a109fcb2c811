"""More ways to join two containers: other switches, VLANs, several bridges; and how much there is beside them
(ports, addresses)."""

import json
import os
import shutil
import subprocess
import time

from gateways import Way
from peers import Bridge, Ovs, Peer, Trunkline


class DockerBridge(Bridge):
    """What dockerd makes for two containers on docker0: frames on the bridge pass its rules of iptables."""

    def unavailable(self):
        return None if shutil.which("iptables") else "iptables is not installed"

    def connect(self):
        super().connect()
        sw = self.switch
        sw.run(["ip", "address", "add", "10.77.0.254/24", "dev", "br0"])
        sw.run(["sysctl", "-qw", "net.ipv4.ip_forward=1", "net.bridge.bridge-nf-call-iptables=1"], check=False)
        for rule in (
                "-t nat -N DOCKER",
                "-t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER",
                "-t nat -A POSTROUTING -s 10.77.0.0/24 ! -o br0 -j MASQUERADE",
                "-P FORWARD DROP", "-N DOCKER", "-N DOCKER-USER",
                "-A FORWARD -j DOCKER-USER",
                "-A FORWARD -o br0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
                "-A FORWARD -o br0 -j DOCKER",
                "-A FORWARD -i br0 ! -o br0 -j ACCEPT",
                "-A FORWARD -i br0 -o br0 -j ACCEPT"):
            sw.run(["iptables", "-w", *rule.split()])


class OvsAfxdp(Ovs):
    """Open vSwitch on AF_XDP sockets: a polling thread that spins."""

    def connect(self):
        vsctl = self.start_ovs(self.switch)
        vsctl("set", "Open_vSwitch", ".", "other_config:pmd-cpu-mask=0x2")
        for ns, port, ip in ((self.a, "va", self.ip_a), (self.b, "vb", self.ip_b)):
            self.veth(ns, port, ip)
            ns.run(["ethtool", "-K", "eth0", "tx", "off"])
            vsctl("add-port", "br0", port, "--", "set", "interface", port, "type=afxdp")
        error = vsctl("get", "interface", "va", "error")
        if error.strip() != "[]":
            raise RuntimeError(f"no AF_XDP here: {error.strip()}")


class Vde(Peer):
    """vde_switch, with TAPs that are moved into the containers."""

    def unavailable(self):
        return None if shutil.which("vde_switch") else "vde2 is not installed"

    def connect(self):
        self.processes.append(self.switch.popen(
            ["vde_switch", "-s", f"{self.dir}/ctl", "-M", f"{self.dir}/mgmt", "-t", "tapa", "-t", "tapb"],
            # It ends when its input does.
            stdin=subprocess.PIPE))
        for ns, tap, ip in ((self.a, "tapa", self.ip_a), (self.b, "tapb", self.ip_b)):
            for _ in range(50):
                if tap in self.switch.run(["ip", "-br", "link"], check=False):
                    break
                time.sleep(0.05)
            self.switch.run(["ip", "link", "set", tap, "netns", ns.name])
            ns.run(["ip", "link", "set", tap, "name", "eth0"])
            ns.run(["ip", "address", "add", f"{ip}/24", "dev", "eth0"])
            ns.run(["ip", "link", "set", "eth0", "up"])


class TrunklineSpin(Trunkline):
    """This project, its worker polling for a millisecond before it sleeps."""

    daemon_args = ["--spin-us", "1000"]


class BridgeVlan(Bridge):
    """Access ports of VLAN 10 on two bridges, joined by a trunk that carries the tag."""

    def connect(self):
        super().connect()
        sw = self.switch
        sw.run(["ip", "link", "add", "br1", "type", "bridge"])
        sw.run(["ip", "link", "add", "l1", "type", "veth", "peer", "name", "r1"])
        for port, bridge in (("l1", "br0"), ("r1", "br1"), ("vb", "br1")):
            sw.run(["ip", "link", "set", port, "master", bridge, "up"])
        for bridge in ("br0", "br1"):
            sw.run(["ip", "link", "set", bridge, "type", "bridge", "vlan_filtering", "1"])
            sw.run(["ip", "link", "set", bridge, "up"])
        for port, how in (("va", ["pvid", "untagged"]), ("vb", ["pvid", "untagged"]), ("l1", []), ("r1", [])):
            sw.run(["bridge", "vlan", "del", "dev", port, "vid", "1"])
            sw.run(["bridge", "vlan", "add", "dev", port, "vid", "10", *how])


class OvsVlan(Ovs):
    """The same with patch ports for the trunk, which need no tag in the bytes."""

    tso = True

    def connect(self):
        vsctl = self.start_ovs(self.switch)
        vsctl("add-br", "br1", "--", "set", "bridge", "br1", "datapath_type=netdev")
        for port, bridge, other in (("l1", "br0", "r1"), ("r1", "br1", "l1")):
            vsctl("add-port", bridge, port, "trunks=10", "--", "set", "interface", port, "type=patch",
                  f"options:peer={other}")
        for ns, port, ip, bridge in ((self.a, "va", self.ip_a, "br0"), (self.b, "vb", self.ip_b, "br1")):
            self.veth(ns, port, ip)
            vsctl("add-port", bridge, port, "tag=10")


class TrunklineVlan(Trunkline):
    """The same, the trunk a veth by AF_PACKET."""

    def connect(self):
        cli = self.start_daemon().cli
        self.switch.run(["ip", "link", "add", "l1", "type", "veth", "peer", "name", "r1"])
        for ns, port, ip, bridge, link in ((self.a, "pa", self.ip_a, "br0", "l1"), (self.b, "pb", self.ip_b, "br1", "r1")):
            cli("bridge", "add", bridge)
            self.switch.run(["ip", "link", "set", link, "up"])
            cli("port", "add", bridge, link, "--type", "afpacket", "--interface", link, "--trunks", "10")
            cli("port", "add", bridge, port, "--type", "tap", "--netns", ns.name, "--ifname", "eth0",
                "--address", f"{ip}/24", "--vlan", "10")


class Bridge3(Bridge):
    """Through three bridges, joined by veths."""

    def connect(self):
        super().connect()
        sw = self.switch
        for n in (1, 2):
            sw.run(["ip", "link", "add", f"br{n}", "type", "bridge"])
            sw.run(["ip", "link", "set", f"br{n}", "up"])
            sw.run(["ip", "link", "add", f"l{n}", "type", "veth", "peer", "name", f"r{n}"])
            for port, bridge in ((f"l{n}", f"br{n - 1}"), (f"r{n}", f"br{n}")):
                sw.run(["ip", "link", "set", port, "master", bridge, "up"])
        sw.run(["ip", "link", "set", "vb", "master", "br2"])


class Ovs3(Ovs):
    """Through three bridges, joined by patch ports."""

    tso = True

    def connect(self):
        vsctl = self.start_ovs(self.switch)
        for n in (1, 2):
            vsctl("add-br", f"br{n}", "--", "set", "bridge", f"br{n}", "datapath_type=netdev")
            for port, bridge, other in ((f"l{n}", f"br{n - 1}", f"r{n}"), (f"r{n}", f"br{n}", f"l{n}")):
                vsctl("add-port", bridge, port, "--", "set", "interface", port, "type=patch", f"options:peer={other}")
        for ns, port, ip, bridge in ((self.a, "va", self.ip_a, "br0"), (self.b, "vb", self.ip_b, "br2")):
            self.veth(ns, port, ip)
            vsctl("add-port", bridge, port)


class Trunkline3(Trunkline):
    """Through three bridges, joined by veths: it has no patch ports."""

    def connect(self):
        cli = self.start_daemon().cli
        for n in range(3):
            cli("bridge", "add", f"br{n}")
        for n in (1, 2):
            self.switch.run(["ip", "link", "add", f"l{n}", "type", "veth", "peer", "name", f"r{n}"])
            for port, bridge in ((f"l{n}", f"br{n - 1}"), (f"r{n}", f"br{n}")):
                self.switch.run(["ip", "link", "set", port, "up"])
                cli("port", "add", bridge, port, "--type", "afpacket", "--interface", port)
        for ns, port, ip, bridge in ((self.a, "pa", self.ip_a, "br0"), (self.b, "pb", self.ip_b, "br2")):
            cli("port", "add", bridge, port, "--type", "tap", "--netns", ns.name, "--ifname", "eth0",
                "--address", f"{ip}/24")


class Slirp(Way):
    """slirp4netns: the container's connections are made anew by a process outside. No port published."""

    def unavailable(self):
        return None if shutil.which("slirp4netns") else "slirp4netns is not installed"

    def translate(self):
        self.outside_address()
        self.processes.append(self.switch.popen(
            ["slirp4netns", "--configure", "--mtu=1500", "--netns-type=path", f"/run/netns/{self.inside.name}",
             "eth0"]))

    def outside_address(self):
        self.switch.run(["ip", "address", "add", "192.0.2.10/24", "dev", "up0"])
        self.switch.run(["ip", "route", "add", "default", "via", "192.0.2.1"], check=False)


class Pasta(Slirp):
    """pasta, of passt: as slirp4netns."""

    def unavailable(self):
        return None if shutil.which("pasta") else "passt is not installed"

    def translate(self):
        self.outside_address()
        # For pings; and the host outside is a host, not the way to pasta's own.
        self.switch.run(["sysctl", "-qw", "net.ipv4.ping_group_range=0 2147483647"])
        self.processes.append(self.switch.popen(
            ["pasta", "--config-net", "--no-map-gw", "--foreground", "--runas", "0", "--mtu", "1500", "--ns-ifname", "eth0", "--netns",
             f"/run/netns/{self.inside.name}"]))


MACS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "macs.py")


class Crowd:
    """Idle ports beside the two, and addresses that the bridge has learned."""

    ports, macs = 2, 2

    def crowd(self):
        # Idle means silent: five hundred interfaces that look for routers flood each other for seconds.
        self.switch.run(["sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1"], check=False)
        self.add_idle([f"i{i}" for i in range(self.ports - 2)])
        # Some are lost where the CPUs are busy with other things.
        for _ in range(10):
            if self.macs <= 2 or self.learned() >= self.macs:
                return
            for n, ns in enumerate((self.a, self.b)):
                ns.run(["python3", MACS, "learn", "eth0", str(n), str(self.macs // 2)], timeout=120)
        raise RuntimeError(f"{self.name}: learned {self.learned()} of {self.macs} addresses")

    def spread(self, seconds):
        """Frames that the first container sends from half of the addresses to the other half: millions a second that
        arrive, and what share is lost."""
        before = self.received()
        sent = json.loads(self.a.run(["python3", MACS, "send", "eth0", str(self.macs // 2), str(seconds)],
                                     timeout=seconds + 30))
        time.sleep(0.2)
        got = self.received() - before
        return got / sent["seconds"] / 1e6, {"loss": 1 - got / sent["sent"]}

    def received(self):
        link = json.loads(self.b.run(["ip", "-j", "-s", "link", "show", "eth0"]))
        return link[0]["stats64"]["rx"]["packets"]


class BridgeCrowd(Crowd, Bridge):
    def connect(self):
        super().connect()
        self.crowd()

    def add_idle(self, names):
        # With a carrier, or they would not take floods.
        path = f"{self.dir}/idle"
        with open(path, "w") as f:
            for name in names:
                f.write(f"link add {name} type veth peer name {name}x\nlink set {name}x up\n"
                        f"link set {name} master br0 up\n")
        self.switch.run(["ip", "-batch", path], timeout=120)

    def learned(self):
        return self.switch.run(["bridge", "fdb", "show", "br", "br0", "dynamic"]).count("02:00:50:")


class TrunklineCrowd(Crowd, Trunkline):
    def connect(self):
        super().connect()
        self.daemons[0].cli("bridge", "set", "br0", "--max-macs", "200000")
        self.crowd()

    def add_idle(self, names):
        path = f"{self.dir}/idle.toml"
        with open(path, "w") as f:
            for name in names:
                f.write(f'[port.{name}]\nbridge = "br0"\ntype = "tap"\n')
        self.daemons[0].cli("apply", path)

    def learned(self):
        return self.daemons[0].cli("fdb", "show", "br0").count("02:00:50:")


def crowded(kind, ports=2, macs=2):
    """A peer of this kind with so many ports and addresses."""
    return type(kind.__name__, (kind,), {"ports": ports, "macs": macs})


MORE_PEERS = {"docker0": DockerBridge, "ovs-afxdp": OvsAfxdp, "vde": Vde, "trunkline-spin": TrunklineSpin}
TOPOLOGIES = {
    "vlan-bridge": BridgeVlan, "vlan-ovs-tso": OvsVlan, "vlan-trunkline": TrunklineVlan,
    "3-bridges": Bridge3, "3-ovs-tso": Ovs3, "3-trunkline": Trunkline3,
}
MORE_WAYS = {"slirp4netns": Slirp, "pasta": Pasta}
# What grows, values, and how the peers are made.
CROWDS = {"ports": [2, 10, 100, 500], "MAC addresses": [10, 1000, 10_000, 100_000]}
# And what is measured between the two.
CROWD_TESTS = {"ports": ["paced64", "tcp"], "MAC addresses": ["paced64", "tcp", "spread64"]}
CROWD_KINDS = {"bridge": BridgeCrowd, "trunkline": TrunklineCrowd}

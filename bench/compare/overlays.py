"""The overlays that are compared: two hosts, each a namespace with a switch and a container, joined by a veth
link with an MTU of 1500."""

import time

from peers import Netns, Ovs, Peer, Trunkline, run

VNI, KEY, MTU = "77", "7", "1450"


class Overlay(Peer):
    """Two hosts and the link between them. `host(i)` makes one of them a member of the overlay."""

    addresses = ("192.0.2.1", "192.0.2.2")

    def connect(self):
        self.switch_b = Netns(f"{self.name}-sw2")
        self.switch.run(["ip", "link", "add", "u0", "type", "veth", "peer", "name", "u0",
                         "netns", self.switch_b.name])
        for i in range(2):
            self.hosts()[i].run(["ip", "link", "set", "u0", "up"])
            self.underlay(self.hosts()[i], self.addresses[i])
            self.host(i)

    def hosts(self):
        return self.switch, self.switch_b

    def containers(self):
        return self.a, self.b

    def inside(self, i):
        return (self.ip_a, self.ip_b)[i]

    def underlay(self, host, address):
        """Gives a host its address on the link."""
        host.run(["ip", "address", "add", f"{address}/24", "dev", "u0"])

    def host(self, i):
        raise NotImplementedError

    def veth_container(self, i):
        self.veth(self.containers()[i], "v0", self.inside(i), self.hosts()[i])
        # Nobody tells it of the overlay's.
        self.containers()[i].run(["ip", "link", "set", "eth0", "mtu", MTU])


class KernelVxlan(Overlay):
    """The kernel's vxlan device in the kernel's bridge."""

    def host(self, i):
        host = self.hosts()[i]
        host.run(["sysctl", "-qw", "net.bridge.bridge-nf-call-iptables=0"], check=False)
        host.run(["ip", "link", "add", "br0", "type", "bridge"])
        host.run(["ip", "link", "add", "vx0", "type", "vxlan", "id", VNI, "dstport", "4789", "dev", "u0",
                  "local", self.addresses[i], "remote", self.addresses[1 - i]])
        self.veth_container(i)
        for port in ("vx0", "v0"):
            host.run(["ip", "link", "set", port, "master", "br0", "up"])
        host.run(["ip", "link", "set", "br0", "up"])


class OvsOverlay(Overlay, Ovs):
    """Open vSwitch's userspace datapath, tunnel and underlay in it, as its documents say
    (Documentation/howto/userspace-tunneling); offloads of the containers switched off."""

    kind, options = "vxlan", {"key": VNI}

    def underlay(self, host, address):
        self.vsctl = self.start_ovs(host)
        self.vsctl("add-br", "br-phy", "--", "set", "bridge", "br-phy", "datapath_type=netdev")
        self.vsctl("add-port", "br-phy", "u0")
        host.run(["ip", "address", "add", f"{address}/24", "dev", "br-phy"])
        host.run(["ip", "link", "set", "br-phy", "up"])

    def host(self, i):
        self.veth_container(i)
        self.containers()[i].run(["ethtool", "-K", "eth0", "tx", "off"])
        self.vsctl("add-port", "br0", "v0")
        options = dict(self.options, remote_ip=self.addresses[1 - i])
        self.vsctl("add-port", "br0", "tun0", "--", "set", "interface", "tun0", f"type={self.kind}",
                   *(f"options:{k}={v}" for k, v in options.items()))
        if i == 1:
            # So that each knows the other's MAC address.
            for _ in range(20):
                if "1 received" in host_ping(self.switch_b, self.addresses[0]):
                    break
                time.sleep(0.2)


def host_ping(host, address):
    return host.run(["ping", "-c1", "-W1", address], check=False)


class OvsGre(OvsOverlay):
    kind, options = "gre", {"key": KEY}


class TrunklineOverlay(Overlay, Trunkline):
    """This project by kernel sockets, VXLAN. MTUs are its own business."""

    tunnel = ("--type", "vxlan", "--vni", VNI)

    def host(self, i):
        cli = self.start_daemon(self.hosts()[i]).cli
        cli("bridge", "add", "br0")
        cli("port", "add", "br0", "c0", "--type", "tap", "--netns", self.containers()[i].name,
            "--ifname", "eth0", "--address", f"{self.inside(i)}/24")
        cli("port", "add", "br0", "tun0", *self.tunnel, "--remote", self.addresses[1 - i],
            *self.by(cli, self.addresses[i]))

    def by(self, _cli, address):
        """What the tunnel stands on."""
        return "--local", address


class TrunklineGre(TrunklineOverlay):
    """By raw sockets, GRE."""

    tunnel = ("--type", "gre", "--key", KEY)


class TrunklineGrePort(TrunklineGre):
    """GRE on an uplink: the link is Trunkline's, with the address, ARP and IP in userspace."""

    def unavailable(self):
        reason = super().unavailable()
        if reason or "--underlay" in run([self.binary, "port", "add", "--help"]):
            return reason
        return "this build knows no --underlay"

    def underlay(self, host, address):
        pass

    def by(self, cli, address):
        cli("uplink", "add", "up0", "--interface", "u0", "--address", f"{address}/24")
        return "--underlay", "up0"


OVERLAYS = {"kernel-vxlan": KernelVxlan, "ovs-vxlan": OvsOverlay, "ovs-gre": OvsGre,
            "trunkline-vxlan": TrunklineOverlay, "trunkline-gre": TrunklineGre,
            "trunkline-gre-port": TrunklineGrePort}

# test, which, beside which, at least.
GOALS = [
    ("tcp", "trunkline-vxlan", "ovs-vxlan", 5),
    ("tcp", "trunkline-vxlan", "kernel-vxlan", 0.6),
    ("tcp", "trunkline-gre", "ovs-gre", 2.5),
    ("tcp", "trunkline-gre-port", "ovs-gre", 4),
    ("udp64", "trunkline-vxlan", "ovs-vxlan", 2),
    ("udp64", "trunkline-gre", "ovs-gre", 2),
    ("udp64", "trunkline-gre-port", "ovs-gre", 2),
]

"""What a container may not send, for tests/tests/l3_spoof.rs; made by scapy and so not by anything of ours.

Prints a JSON list of {"name", "reason", "frames"}: whole frames in hexadecimal, and the name of the drop reason
each must be counted under; null for those that must be delivered.

    spoof.py MAC IP4 IP6 VICTIM_MAC VICTIM_IP4 VICTIM_IP6 GATEWAY_MAC GATEWAY_IP4 GATEWAY_IP6
"""

import json
import sys

from scapy.config import conf

conf.verb = 0
from scapy.layers.dhcp import BOOTP, DHCP  # noqa: E402
from scapy.layers.dhcp6 import DHCP6_Advertise, DHCP6_RelayForward, DHCP6_Solicit  # noqa: E402
from scapy.layers.inet import ICMP, IP, TCP, UDP  # noqa: E402
from scapy.layers.inet6 import (  # noqa: E402
    ICMPv6EchoRequest,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_Redirect,
    ICMPv6ND_RS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptPrefixInfo,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    PadN,
    fragment6,
)
from scapy.layers.l2 import ARP, SNAP, Dot1Q, Dot3, Ether, LLC  # noqa: E402
from scapy.packet import Raw  # noqa: E402

mac, ip4, ip6, victim_mac, victim4, victim6, gateway_mac, gateway4, gateway6 = sys.argv[1:]
cases = []
everybody = "ff:ff:ff:ff:ff:ff"
nodes_mac, nodes = "33:33:00:00:00:01", "ff02::1"


def case(name, reason, *packets):
    cases.append({"name": name, "reason": reason, "frames": [bytes(p).hex() for p in packets]})


def eth(dst=victim_mac, src=mac):
    return Ether(dst=dst, src=src)


def link_local(address):
    b = [int(x, 16) for x in address.split(":")]
    return "fe80::%x:%x:%x:%x" % ((b[0] ^ 2) << 8 | b[1], b[2] << 8 | 0xFF, 0xFE00 | b[3], b[4] << 8 | b[5])


own_ll = link_local(mac)
gateway_ll = link_local(gateway_mac)

# Addresses.
case("another MAC address", "guard-mac", eth(src=victim_mac) / IP(src=ip4, dst=victim4) / UDP())
case("the gateway's MAC address", "guard-mac", eth(everybody, gateway_mac) / IP(src=ip4, dst=victim4) / UDP())
case("another IPv4 source", "guard-ipv4", eth() / IP(src=gateway4, dst=victim4) / ICMP())
case("no IPv4 source", "guard-ipv4", eth() / IP(src="0.0.0.0", dst=victim4) / UDP(dport=9))
case("another IPv6 source", "guard-ipv6", eth() / IPv6(src=gateway6, dst=victim6) / ICMPv6EchoRequest())
case("another link-local source", "guard-ipv6", eth() / IPv6(src=gateway_ll, dst=victim6) / ICMPv6EchoRequest())
case("a later fragment of another's", "guard-ipv4", eth() / IP(src=gateway4, dst=victim4, frag=100) / Raw(b"x" * 64))
case(
    "a later IPv6 fragment of another's",
    "guard-ipv6",
    eth() / IPv6(src=gateway6, dst=victim6) / IPv6ExtHdrFragment(offset=100, nh=17) / Raw(b"x" * 64),
)
# ARP.
arp = {"hwsrc": mac, "psrc": gateway4, "hwdst": victim_mac, "pdst": victim4}
case("ARP: I am the gateway", "guard-arp", eth() / ARP(op=2, **arp))
case("ARP: asked as the gateway", "guard-arp", eth(everybody) / ARP(op=1, **arp))
case("ARP: gratuitous", "guard-arp", eth(everybody) / ARP(op=1, hwsrc=mac, psrc=gateway4, pdst=gateway4))
case("ARP: another's MAC address inside", "guard-arp", eth() / ARP(op=2, hwsrc=victim_mac, psrc=ip4, pdst=victim4))
case("ARP: my own", None, eth(everybody) / ARP(op=1, hwsrc=mac, psrc=ip4, pdst=victim4))
case("ARP: a probe", None, eth(everybody) / ARP(op=1, hwsrc=mac, psrc="0.0.0.0", pdst=ip4))
# Neighbour discovery.
na = eth(nodes_mac) / IPv6(src=ip6, dst=nodes)
case("NA for the gateway", "guard-nd", na / ICMPv6ND_NA(tgt=gateway6, R=1, S=0) / ICMPv6NDOptDstLLAddr(lladdr=mac))
case("NA for its link-local", "guard-nd", na / ICMPv6ND_NA(tgt=gateway_ll, S=0) / ICMPv6NDOptDstLLAddr(lladdr=mac))
case("NA with another MAC", "guard-nd", na / ICMPv6ND_NA(tgt=ip6, S=0) / ICMPv6NDOptDstLLAddr(lladdr=victim_mac))
case("my own NA", None, na / ICMPv6ND_NA(tgt=ip6, S=0) / ICMPv6NDOptDstLLAddr(lladdr=mac))
case("NS with another MAC", "guard-nd", na / ICMPv6ND_NS(tgt=victim6) / ICMPv6NDOptSrcLLAddr(lladdr=victim_mac))
nobody = eth(nodes_mac) / IPv6(src="::", dst="ff02::1:ff00:1")
case("DAD for another's address", "guard-nd", nobody / ICMPv6ND_NS(tgt=gateway6))
case("DAD for my own", None, nobody / ICMPv6ND_NS(tgt=ip6))
case("RS from nobody", None, eth("33:33:00:00:00:02") / IPv6(src="::", dst="ff02::2") / ICMPv6ND_RS())
# Rogue routers, RFC 6105 and RFC 7113.
ra_ip = IPv6(src=own_ll, dst=nodes, hlim=255)
prefix = ICMPv6NDOptPrefixInfo(prefix="2001:db8:bad::", prefixlen=64)
ra = ICMPv6ND_RA(routerlifetime=1800) / prefix
case("RA", "guard-ra", eth(nodes_mac) / ra_ip / ra)
case("redirect", "guard-ra", eth() / IPv6(src=own_ll, dst=victim6) / ICMPv6ND_Redirect(tgt=own_ll, dst="2001:db8::1"))
pad = [PadN(optdata=b"\0" * 4)]
case("RA behind hop-by-hop", "guard-ra", eth(nodes_mac) / ra_ip / IPv6ExtHdrHopByHop(options=pad) / ra)
case("RA behind destination options", "guard-ra", eth(nodes_mac) / ra_ip / IPv6ExtHdrDestOpt(options=pad) / ra)
case(
    "RA behind four extension headers",
    "guard-ra",
    eth(nodes_mac)
    / ra_ip
    / IPv6ExtHdrHopByHop(options=pad)
    / IPv6ExtHdrDestOpt(options=pad)
    / IPv6ExtHdrRouting(addresses=["2001:db8::1"], segleft=0)
    / IPv6ExtHdrDestOpt(options=pad)
    / ra,
)
chain = IPv6ExtHdrDestOpt(options=pad)
for _ in range(11):
    chain = chain / IPv6ExtHdrDestOpt(options=pad)
case("RA behind twelve of them", "guard-hidden", eth(nodes_mac) / ra_ip / chain / ra)
case("RA in an atomic fragment", "guard-ra", eth(nodes_mac) / ra_ip / IPv6ExtHdrFragment(id=7) / ra)
# The header chain is cut: RFC 7112. Later fragments pass alone: nothing is ever made of them.
long = ra_ip / IPv6ExtHdrFragment(id=8) / IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0" * 200)]) / ra
pieces = fragment6(long, 160)
case("RA behind options in two fragments", "guard-hidden", eth(nodes_mac) / pieces[0])
tagged = [
    ("one tag", Dot1Q(vlan=0)),
    ("a priority tag in an S-tag", Dot1Q(type=0x8100, vlan=0) / Dot1Q(vlan=0)),
]
# On a trunk, any tag may be there; where the guard looks through it does, and else it refuses.
for name, tags in tagged:
    link = Ether(dst=nodes_mac, src=mac) / tags
    case("RA behind " + name, "guard-ra", link / ra_ip / ra)
    case("NA behind " + name, "guard-nd", link / IPv6(src=ip6, dst=nodes) / ICMPv6ND_NA(tgt=gateway6, S=0))
    case("ARP behind " + name, "guard-arp", Ether(dst=everybody, src=mac) / tags / ARP(op=2, **arp))
many = Ether(dst=nodes_mac, src=mac) / Dot1Q(vlan=0) / Dot1Q(vlan=0) / Dot1Q(vlan=0) / Dot1Q(vlan=0) / Dot1Q(vlan=0)
case("RA behind five tags", "guard-hidden", many / ra_ip / ra)
# Rogue DHCP servers, RFC 7610.
offer = BOOTP(op=2, yiaddr=victim4, siaddr=ip4, chaddr=bytes.fromhex(victim_mac.replace(":", "")))
offer = offer / DHCP(options=[("message-type", "offer"), ("router", ip4), "end"])
case("DHCP offer", "guard-dhcp", eth(everybody) / IP(src=ip4, dst="255.255.255.255") / UDP(sport=67, dport=68) / offer)
case("DHCP offer from another port", "guard-dhcp", eth(everybody) / IP(src=ip4, dst=victim4) / UDP(sport=999, dport=68) / offer)
release = BOOTP(ciaddr=victim4, chaddr=bytes.fromhex(victim_mac.replace(":", "")))
release = release / DHCP(options=[("message-type", "release"), "end"])
case("DHCP release of another's", "guard-dhcp", eth(gateway_mac) / IP(src=ip4, dst=gateway4) / UDP(sport=68, dport=67) / release)
discover = BOOTP(chaddr=bytes.fromhex(mac.replace(":", ""))) / DHCP(options=[("message-type", "discover"), "end"])
case(
    "my own DHCP discover",
    None,
    eth(everybody) / IP(src="0.0.0.0", dst="255.255.255.255") / UDP(sport=68, dport=67) / discover,
)
six = eth(nodes_mac) / IPv6(src=own_ll, dst=nodes)
case("DHCPv6 advertise", "guard-dhcp", six / UDP(sport=547, dport=546) / DHCP6_Advertise())
case("DHCPv6 advertise in options", "guard-dhcp", six / IPv6ExtHdrDestOpt(options=pad) / UDP(sport=9, dport=546) / DHCP6_Advertise())
case("DHCPv6 relay", "guard-dhcp", six / UDP(sport=547, dport=547) / DHCP6_RelayForward())
case("my own DHCPv6 solicit", None, six / UDP(sport=546, dport=547) / DHCP6_Solicit())
# Other ways.
case("IPv4 in LLC/SNAP", "guard-type", Dot3(dst=victim_mac, src=mac) / LLC() / SNAP(code=0x0800) / IP(src=gateway4, dst=victim4) / UDP())
case("another protocol", "guard-type", Ether(dst=everybody, src=mac, type=0x88CC) / Raw(b"\0" * 50))
case("IPv4 in IPv6's type", "guard-hidden", Ether(dst=victim_mac, src=mac, type=0x86DD) / Raw(bytes(IP(src=ip4, dst=victim4) / UDP())))
case("my own TCP", None, eth() / IP(src=ip4, dst=victim4) / TCP(dport=9, flags="S"))
case("my own UDP over IPv6", None, eth() / IPv6(src=ip6, dst=victim6) / UDP(dport=9))
case("from my link-local address", None, eth() / IPv6(src=own_ll, dst=link_local(victim_mac)) / UDP(dport=9))

print(json.dumps(cases))

#!/usr/bin/python3
"""Writes vectors.txt beside itself: tunnel packets made by Scapy, for tests/vectors.rs.

One line each: name, expected result (ok or a drop's name), outer frame in hex, inner frame in hex (or -).
Needs Debian's python3-scapy. Run it again only to add cases; the file is committed.
"""
import os
from scapy.all import (ARP, Dot1Q, Ether, GRE, ICMP, IP, IPv6, Raw, TCP, UDP, fragment, raw)
from scapy.contrib.geneve import GENEVE, GeneveOptions
from scapy.layers.vxlan import VXLAN

A, B = "02:00:00:00:00:0a", "02:00:00:00:00:0b"
V4 = dict(src="192.0.2.1", dst="192.0.2.2", flags="DF", id=0, ttl=64, tos=0)
V6 = dict(src="2001:db8::1", dst="2001:db8::2", hlim=64)
OUT = Ether(src=A, dst=B)
INNER = Ether(src="02:00:00:00:01:01", dst="02:00:00:00:01:02")

inner = {
    "tcp4": INNER / IP(src="10.0.0.1", dst="10.0.0.2") / TCP(sport=1234, dport=80, flags="A") / Raw(b"hello"),
    "udp6": INNER / IPv6(src="fd00::1", dst="fd00::2") / UDP(sport=5, dport=6) / Raw(bytes(range(201))),
    "arp": INNER / ARP(psrc="10.0.0.1", pdst="10.0.0.2"),
    "icmp": INNER / IP(src="10.0.0.1", dst="10.0.0.2") / ICMP() / Raw(b"odd"),
}
tagged = INNER / Dot1Q(vlan=5, prio=3) / IP(src="10.0.0.1", dst="10.0.0.2") / UDP() / Raw(b"x")
lines = []


def add(name, frame, inside, expect="ok"):
    lines.append(" ".join([name, expect, raw(frame).hex(), raw(inside).hex() if inside is not None else "-"]))


def vxlan(ip, **kw):
    udp = {"chksum": 0} if isinstance(ip, IP) else {}
    return OUT / ip / UDP(sport=50000, dport=4789, **udp) / VXLAN(**{"flags": 8, "vni": 77, **kw})


def geneve(ip, **kw):
    udp = {"chksum": 0} if isinstance(ip, IP) else {}
    return OUT / ip / UDP(sport=50000, dport=6081, **udp) / GENEVE(**{"vni": 77, "proto": 0x6558, **kw})


def gre(ip, **kw):
    return OUT / ip / GRE(**{"proto": 0x6558, **kw})


for name, frame in inner.items():
    add(f"vxlan-v4-{name}", vxlan(IP(**V4)) / frame, frame)
    add(f"vxlan-v6-{name}", vxlan(IPv6(**V6)) / frame, frame)
    add(f"geneve-v4-{name}", geneve(IP(**V4)) / frame, frame)
    add(f"geneve-v6-{name}", geneve(IPv6(**V6)) / frame, frame)
    add(f"gre-v4-{name}", gre(IP(**V4)) / frame, frame)
    add(f"gre-v6-{name}", gre(IPv6(**V6, nh=47)) / frame, frame)
    add(f"grekey-v4-{name}", gre(IP(**V4), key_present=1, key=7) / frame, frame)
    add(f"grekeycsum-v4-{name}", gre(IP(**V4), key_present=1, key=8, chksum_present=1) / frame, frame)
    add(f"greall-v4-{name}",
        gre(IP(**V4), key_present=1, key=9, chksum_present=1, seqnum_present=1, sequence_number=0) / frame, frame)
    add(f"nvgre-v4-{name}", gre(IP(**V4), key_present=1, key=77 << 8) / frame, frame)

plain = inner["tcp4"]
add("geneve-tagged", geneve(IP(**V4)) / tagged, tagged)
add("gre-tagged", gre(IP(**V4)) / tagged, tagged)
option = GeneveOptions(classid=0x102, type=3, data=b"\1\2\3\4")
critical = GeneveOptions(classid=0x102, type=0x83, data=b"\1\2\3\4")
add("options-geneve", geneve(IP(**V4), options=[option, option]) / plain, plain)
add("checksum-vxlan", OUT / IP(**V4) / UDP(sport=50000, dport=4789) / VXLAN(flags=8, vni=77) / plain, plain)
add("reserved-vxlan", OUT / IP(**V4) / UDP(sport=50000, dport=4789)
    / Raw(b"\xff\xff\xff\xff\0\0\x4d\xff" + raw(plain)), plain)

add("bad-vxlan-flag", vxlan(IP(**V4), flags=0) / plain, None, "vxlan-no-vni")
add("bad-vxlan-vni", vxlan(IP(**V4), vni=78) / plain, None, "wrong-vni")
add("bad-vxlan-tag", vxlan(IP(**V4)) / tagged, None, "inner-tag")
add("bad-vxlan-remote", vxlan(IP(**{**V4, "src": "192.0.2.9"})) / plain, None, "unknown-remote")
add("bad-vxlan-self", vxlan(IP(**{**V4, "src": "192.0.2.2"})) / plain, None, "tunnel-loop")
add("bad-vxlan-short", vxlan(IP(**V4)) / Raw(b"thirteenbytes"), None, "inner-too-short")
add("bad-udp-sum", OUT / IP(**V4) / UDP(sport=50000, dport=4789, chksum=0x1234) / VXLAN(flags=8, vni=77) / plain,
    None, "tunnel-checksum")
add("bad-udp6-zero", OUT / IPv6(**V6) / UDP(sport=50000, dport=4789, chksum=0) / VXLAN(flags=8, vni=77) / plain,
    None, "tunnel-zero-checksum")
add("bad-ip-sum", vxlan(IP(**V4, chksum=1)) / plain, None, "tunnel-checksum")
add("bad-udp-port", OUT / IP(**V4) / UDP(sport=50000, dport=4790) / VXLAN(flags=8, vni=77) / plain, None, "not-tunnel")
add("bad-not-tunnel", OUT / IP(**V4) / TCP(), None, "not-tunnel")
add("bad-fragment", fragment(vxlan(IP(**{**V4, "flags": 0})) / plain, 64)[0], None, "outer-fragment")
add("bad-geneve-version", geneve(IP(**V4), version=1) / plain, None, "tunnel-version")
add("bad-geneve-control", geneve(IP(**V4), oam=1) / plain, None, "geneve-control")
add("bad-geneve-critical", geneve(IP(**V4), critical=1, options=[option, critical]) / plain, None,
    "geneve-critical-option")
add("bad-geneve-vni", geneve(IP(**V4), vni=78) / plain, None, "wrong-vni")
add("bad-geneve-ip", geneve(IP(**V4), proto=0x800) / plain[IP], None, "tunnel-not-ethernet")
add("bad-gre-key", gre(IP(**V4), key_present=1, key=1) / plain, None, "wrong-key")
add("bad-gre-routing", gre(IP(**V4), routing_present=1) / plain, None, "gre-flags")
add("bad-gre-strict", gre(IP(**V4), strict_route_source=1) / plain, None, "gre-flags")
add("bad-gre-version", gre(IP(**V4), version=1) / plain, None, "tunnel-version")
add("bad-gre-sum", gre(IP(**V4), key_present=1, key=8, chksum_present=1, chksum=0x1234) / plain, None,
    "tunnel-checksum")
add("bad-gre-no-sum", gre(IP(**V4), key_present=1, key=8) / plain, None, "tunnel-checksum")
add("bad-gre-no-seq", gre(IP(**V4), key_present=1, key=9, chksum_present=1) / plain, None, "gre-sequence")
add("bad-gre-ip", gre(IP(**V4), proto=0x800) / plain[IP], None, "tunnel-not-ethernet")
add("bad-ecn", vxlan(IP(**{**V4, "tos": 3})) / plain, None, "tunnel-ecn")

with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "vectors.txt"), "w") as f:
    f.write("\n".join(lines) + "\n")

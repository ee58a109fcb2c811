#!/usr/bin/python3
"""Writes the first cases of the corpora (python3-scapy). The formats are those of src/<target>.rs."""

import pathlib
import struct
import tempfile

from scapy.contrib.geneve import GENEVE, GeneveOptions
from scapy.all import (ARP, BOOTP, DHCP, GRE, ICMP, IP, IPv6, TCP, UDP, VXLAN, Dot1AD, Dot1Q, Ether, ICMPv6EchoRequest,
                       ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6ND_RS, ICMPv6NDOptDstLLAddr, ICMPv6NDOptSrcLLAddr,
                       IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop, IPv6ExtHdrRouting, PcapNgWriter,
                       Raw, fragment, raw, wrpcap)

HERE = pathlib.Path(__file__).parent / "corpus"
ETH = Ether(dst="02:00:00:00:00:02", src="02:00:00:00:00:01")
V4 = IP(src="10.0.0.1", dst="10.0.0.2", flags="DF", id=7)
V6 = IPv6(src="fd00::1", dst="fd00::2")


def write(target, name, data):
    folder = HERE / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)


def tcp(payload, **fields):
    return TCP(sport=4000, dport=5000, seq=1000, ack=1, flags="A", **fields) / Raw(b"x" * payload)


def udp(payload, **fields):
    return UDP(sport=4000, dport=5000, **fields) / Raw(b"y" * payload)


def vnet(flags=0, kind=0, hdr=0, size=0, start=0, offset=0):
    return struct.pack("<BBHHHH", flags, kind, hdr, size, start, offset)


def frame(header, packet):
    data = raw(packet)
    return header + struct.pack(">H", len(data)) + data


PARTIAL = {
    "tcp4": (ETH / V4 / tcp(300), 34, 16, 1),
    "tcp4-timestamps": (ETH / V4 / tcp(300, options=[("NOP", None), ("NOP", None), ("Timestamp", (1, 2))]), 34, 16, 1),
    "tcp4-options": (ETH / IP(src="10.0.0.1", dst="10.0.0.2", options=b"\x01" * 4) / tcp(300), 38, 16, 1),
    "tcp6": (ETH / V6 / tcp(300), 54, 16, 4),
    "tcp6-extension": (ETH / V6 / IPv6ExtHdrDestOpt() / tcp(300), 62, 16, 4),
    "udp4": (ETH / V4 / udp(300), 34, 6, 5),
    "udp6": (ETH / V6 / udp(300), 54, 6, 5),
    "tcp4-tagged": (ETH / Dot1Q(vlan=5) / V4 / tcp(300), 38, 16, 1),
    "udp6-double-tagged": (ETH / Dot1AD(vlan=5) / Dot1Q(vlan=6) / V6 / udp(300), 62, 6, 5),
    "vxlan": (ETH / V4 / UDP(sport=9, dport=4789) / VXLAN(vni=1) / ETH / V4 / tcp(300), 84, 16, 1),
    "vxlan6": (ETH / V6 / UDP(sport=9, dport=4789) / VXLAN(vni=1) / ETH / V6 / tcp(300), 124, 16, 4),
    "gre": (ETH / V4 / GRE(chksum_present=1) / V4 / udp(300), 62, 6, 5),
}
OTHER = {
    "arp": ETH / ARP(),
    "icmp": ETH / V4 / ICMP(),
    "icmp6": ETH / V6 / ICMPv6EchoRequest(),
    "fragment": ETH / IP(src="10.0.0.1", dst="10.0.0.2", flags="MF") / udp(40),
    "later": ETH / IP(src="10.0.0.1", dst="10.0.0.2", frag=5, proto=17) / Raw(b"z" * 40),
    "fragment6": ETH / V6 / IPv6ExtHdrFragment(nh=17, m=1) / udp(40),
    "extensions": ETH / V6 / IPv6ExtHdrHopByHop() / IPv6ExtHdrRouting() / IPv6ExtHdrDestOpt() / udp(10),
    "bpdu": Ether(dst="01:80:c2:00:00:00", src="02:00:00:00:00:01", type=38) / Raw(b"\x42\x42\x03" + bytes(35)),
    "cut-tag": Raw(raw(ETH / Dot1Q(vlan=1) / V4)[:17]),
    "reserved-vid": ETH / Dot1Q(vlan=4095) / V4 / udp(10),
}

for name, (packet, start, offset, kind) in PARTIAL.items():
    write("headers", name, raw(packet))
    gso = vnet(1, kind, start + 20, 100, start, offset)
    partial = vnet(1, 0, 0, 0, start, offset)
    write("offload", name, gso + raw(packet))
    write("offload", name + "-plain", partial + raw(packet))
    write("tags", name, b"\0" + frame(partial, packet))
    write("coalesce", name, b"\x05\x01" + frame(partial, packet))
    write("coalesce", name + "-gso", b"\x00\x01" + frame(gso, packet) + b"\x02\x01" + frame(vnet(), packet))
for name, packet in OTHER.items():
    write("headers", name, raw(packet))
    write("offload", name, vnet() + raw(packet))
    write("tags", name, b"\x01" + frame(vnet(), packet))

mix = [PARTIAL[n] for n in ("tcp4", "udp4", "tcp6", "udp6")]
write("coalesce", "mix", b"".join(b"\x03\x01" + frame(vnet(1, 0, 0, 0, s, o), p) for p, s, o, _ in mix) * 3)
write("coalesce", "with-fragment", b"".join(b"\x00\x01" + frame(vnet(), p) for p in
                                           (ETH / V4 / udp(30), OTHER["fragment"], ETH / V4 / udp(30))))
write("coalesce", "large", b"\x3f\x01" + frame(vnet(1, 0, 0, 0, 34, 16), ETH / V4 / tcp(1448)))

reply = Ether(dst="02:00:00:00:00:01", src="02:00:00:00:00:02")
talk = [ETH / V4 / udp(20), reply / V4 / udp(20), ETH / Dot1Q(vlan=1) / V4 / udp(20),
        reply / Dot1Q(vlan=1) / V4 / udp(20), ETH / Dot1AD(vlan=1) / Dot1Q(vlan=1) / V4 / udp(20),
        Ether(dst="ff:ff:ff:ff:ff:ff", src="02:00:00:00:00:03") / ARP(), OTHER["bpdu"], OTHER["reserved-vid"]]
for name, roles in {"trunks": [0, 0] * 4, "access": [1, 0, 1, 0, 33, 0, 0, 0], "native": [2, 1, 3, 1, 2, 8, 3, 16],
                    "tunnel": [4, 0, 4, 1, 0, 0, 4, 0], "isolated": [0, 2, 0, 2, 0, 4, 0, 132],
                    "limits": [0, 0x20, 0, 0x40, 0, 0x60, 1, 0x60]}.items():
    steps = b"".join(bytes([i % 4, 1]) + frame(vnet(), p) for i, p in enumerate(talk * 2))
    write("forward", name, bytes(roles) + steps)

with tempfile.TemporaryDirectory() as folder:
    path = f"{folder}/x"
    for name, options in {"pcap": {}, "pcap-big-endian": {"endianness": ">"}, "pcap-nano": {"nano": True}}.items():
        wrpcap(path, talk[:3], **options)
        write("pcap", name, pathlib.Path(path).read_bytes())
    writer = PcapNgWriter(path)
    for packet in talk[:3]:
        writer.write(packet)
    writer.close()
    write("pcap", "pcapng", pathlib.Path(path).read_bytes())

# Tunnels: hosts and identifiers as in src/tunnels.rs, from host A to B.
V4_HOSTS, V6_HOSTS = dict(src="192.0.2.1", dst="192.0.2.2"), dict(src="2001:db8::1", dst="2001:db8::2")
OUTER = {"v4": ETH / IP(id=9, **V4_HOSTS), "v6": ETH / IPv6(**V6_HOSTS)}
V, G, P = 0, 4, 8  # the carrier of a lone datagram: VXLAN, Geneve, GRE
TUNNELS = {
    "gre": (P, GRE(proto=0x6558)),
    "gre-key": (P, GRE(proto=0x6558, key_present=1, key=7)),
    "gre-checksum": (P, GRE(proto=0x6558, chksum_present=1, key_present=1, key=8)),
    "gre-all": (P, GRE(proto=0x6558, chksum_present=1, key_present=1, key=9, seqnum_present=1, sequence_number=0)),
    "nvgre": (P, GRE(proto=0x6558, key_present=1, key=77 << 8 | 3)),
    "vxlan": (V, VXLAN(vni=77, flags=8)),
    "geneve": (G, GENEVE(vni=77, proto=0x6558)),
    "geneve-option": (G, GENEVE(vni=77, proto=0x6558, options=[GeneveOptions(classid=1, type=1, data=b"abcd")])),
}
PORTS = {V: 4789, G: 6081}
INNER = {"tcp4": ETH / V4 / tcp(300), "udp6": ETH / V6 / udp(90), "tagged": ETH / Dot1Q(vlan=5) / V4 / tcp(30),
         "arp": ETH / ARP(), "ecn": ETH / IP(src="10.0.0.1", dst="10.0.0.2", tos=2) / udp(30)}
syn = ETH / V4 / TCP(sport=1, dport=2, flags="S", options=[("MSS", 1460)])
# As the kernel's vxlan device hands over a container's: long, with the bare sum of the pseudo-header.
superframe = ETH / IP(src="10.0.0.1", dst="10.0.0.2", id=7) / TCP(sport=1, dport=2, seq=9, flags="PA", chksum=0) \
    / Raw(b"k" * 4000)
bare = bytearray(raw(superframe))
pseudo = sum(struct.unpack(">6H", bytes(bare[26:34]) + struct.pack(">HH", 6, len(bare) - 34)))
bare[50:52] = struct.pack(">H", (pseudo & 0xffff) + (pseudo >> 16))
INNER |= {"syn": syn, "superframe": Raw(bytes(bare))}
for kind, (carrier, header) in TUNNELS.items():
    for name, inner in INNER.items():
        if kind not in ("vxlan", "gre-checksum") and name not in ("tcp4", "udp6"):
            continue
        for family, outer in OUTER.items():
            transport = UDP(sport=50000, dport=PORTS[carrier]) if carrier in PORTS else None
            packet = outer / transport / header / inner if transport else outer / header / inner
            if not (name == "superframe" and family == "v6"):
                write("decap", f"{kind}-{name}-{family}", b"\x03\0\0\0" + vnet() + raw(packet))
        payload = raw(header / inner)
        write("decap", f"{kind}-{name}-lone", bytes([carrier, 2]) + b"\0\0" + payload)
        if transport:
            merged = bytes([carrier, 2]) + struct.pack(">H", len(payload))
            write("decap", f"{kind}-{name}-merged", merged + payload * 3)
quoted = raw(OUTER["v4"] / UDP(sport=50000, dport=4789) / VXLAN(vni=77, flags=8) / INNER["tcp4"])[14:]
error = ETH / IP(src="192.0.2.9", dst="192.0.2.1") / ICMP(type=3, code=4, nexthopmtu=300) / Raw(quoted)
write("decap", "too-big", b"\x01\0\0\0" + vnet() + raw(error))

for kind in range(7):
    for how in (0, 1, 2, 3, 4, 6, 2 + 8, 2 + 8 + 16, 3 + 8, 2 + 32, 3 + 32 + 16):
        packet, start, offset, gso = PARTIAL["tcp6" if how & 1 else "tcp4"]
        header = vnet(1, gso, start + 20, 100, start, offset)
        write("encap", f"{kind}-{how}", bytes([kind, how]) + frame(header, packet))
    write("encap", f"{kind}-plain", bytes([kind, 4]) + frame(vnet(), INNER["tagged"]))
    write("encap", f"{kind}-nested", bytes([kind, 2 + 8]) + frame(
        vnet(1, 1, 104, 100, 84, 16), PARTIAL["vxlan"][0]))


def bfd(state, flags=0, mine=2, yours=1, tx=100000, padding=0):
    return struct.pack(">BBBBIIIII", 0x20, state << 6 | flags, 3, 24, mine, yours, tx, 50000, 0) + bytes(padding)


def heard(time, packet):
    return bytes([time << 4 | 1, len(packet)]) + packet


up = heard(8, bfd(1)) + heard(8, bfd(3)) + heard(8, bfd(3, 0x10))
answers = b"".join(heard(9, bfd(3, 0x10)) for _ in range(6))
polled = heard(4, bfd(3, 0x20)) + heard(4, bfd(3, 0x20, padding=100))
write("bfd", "up", b"\0" + up + answers)
write("bfd", "shrinks", b"\0" + up + answers + b"".join(heard(10, bfd(3)) for _ in range(6)) + answers)
write("bfd", "options", b"\x0f" + up + polled + b"\xf0" + up + bytes([0x46, 0, 9, 0, 7, 0x88, 9, 0, 0x42]))
write("bfd", "larger", b"\x08" + up + answers + b"\x28\x23\x28" + answers + bytes([0xa1, 0x98, 9]) + bfd(3))

for family, outer in {"v4": ETH / IP(src="192.0.2.1", dst="192.0.2.2", id=5), "v6": ETH / IPv6(**V6_HOSTS)}.items():
    def part(at, more, length, fill=b"f"):
        if family == "v4":
            packet = ETH / IP(src="192.0.2.1", dst="192.0.2.2", id=5, proto=17, frag=at // 8, flags=int(more))
        else:
            packet = outer / IPv6ExtHdrFragment(nh=17, m=int(more), offset=at // 8, id=5)
        return b"\x01" + frame(vnet(), packet / Raw(fill * length))
    write("reassemble", f"{family}-order", part(0, 1, 16) + part(16, 1, 8) + part(24, 0, 5))
    write("reassemble", f"{family}-reverse", part(24, 0, 5) + part(16, 1, 8) + part(0, 1, 16))
    write("reassemble", f"{family}-overlap", part(0, 1, 16) + part(8, 1, 16) + part(24, 0, 5))
    write("reassemble", f"{family}-again", part(0, 1, 16) * 2 + part(16, 0, 5))
    write("reassemble", f"{family}-late", part(0, 1, 16) + b"\xff" + part(16, 0, 5)[1:])
    write("reassemble", f"{family}-many", b"".join(part(16 * i, 1, 8) for i in range(20)))

# nat: settings, then path, time and frame; see src/nat.rs.
OUT, IN, LOCAL, ANSWER = 0, 6, 12, 14


def hop(src, dst, l4, **fields):
    net = (IPv6(src=src, dst=dst) if ":" in src else IP(src=src, dst=dst, **fields)) / l4
    return Ether(dst="02:00:00:00:00:02", src="02:00:00:00:00:01") / net


def steps(*packets, header=vnet()):
    return b"".join(bytes([path, time]) + frame(header, packet) for path, time, packet in packets)


def seg(sport, dport, flags, seq, ack=0, size=0):
    return TCP(sport=sport, dport=dport, flags=flags, seq=seq, ack=ack) / Raw(b"x" * size)


def dgram(sport, dport, size=20):
    return UDP(sport=sport, dport=dport) / Raw(b"y" * size)


HOST, FAR, OWN, SERVER = "10.0.0.9", "198.51.100.1", "192.0.2.10", "10.0.0.2"
big = hop(HOST, FAR, dgram(4000, 53, 900), id=7)
pieces = [Ether(raw(p)) for p in fragment(big, 400)]
NAT = {
    "tcp": steps((OUT, 1, hop(HOST, FAR, seg(4000, 80, "S", 1))), (IN, 1, hop(FAR, OWN, seg(80, 4000, "SA", 9, 2))),
                 (OUT, 1, hop(HOST, FAR, seg(4000, 80, "A", 2, 10, 50))), (IN, 1, hop(FAR, OWN, seg(80, 4000, "FA", 10, 52))),
                 (OUT, 1, hop(HOST, FAR, seg(4000, 80, "FA", 52, 11))), (IN, 1, hop(FAR, OWN, seg(80, 4000, "A", 11, 53)))),
    "published": steps((IN, 1, hop(FAR, OWN, seg(4000, 5003, "S", 1))), (OUT, 1, hop(SERVER, FAR, seg(83, 4000, "SA", 9, 2))),
                       (IN, 1, hop(FAR, OWN, seg(4000, 5003, "R", 2)))),
    "udp6": steps((OUT, 1, hop("fd00::9", "2001:db8:1::1", dgram(4000, 53))), (IN, 1, hop("2001:db8:1::1", "2001:db8::10", dgram(53, 1024))),
                  (IN, 1, hop("2001:db8:1::1", "2001:db8::10", dgram(9, 5000)))),
    "hairpin": steps((OUT, 1, hop(HOST, OWN, dgram(4000, 5000))), (OUT + 1, 1, hop(SERVER, OWN, dgram(5000, 4000)))),
    "gateway": bytes([32, 0]) + steps((OUT, 1, hop("10.0.0.3", OWN, seg(4000, 5000, "S", 1))), (ANSWER, 1, hop(SERVER, "10.0.0.1", seg(80, 4000, "SA", 9, 2)))),
    "local": steps((LOCAL, 1, hop(OWN, OWN, dgram(40000, 5000))), (ANSWER + 1, 1, hop(SERVER, "10.0.0.254", dgram(5000, 40000)))),
    "ping": steps((OUT, 1, hop(HOST, FAR, ICMP(type=8, id=77))), (IN, 1, hop(FAR, OWN, ICMP(type=0, id=77)))),
    "error": steps((OUT, 1, hop(HOST, FAR, dgram(4000, 53))), (IN, 1, hop("203.0.113.9", OWN, ICMP(type=3, code=4) / IP(src=OWN, dst=FAR) / dgram(4000, 53)))),
    "static": steps((IN, 1, hop(FAR, "192.0.2.50", dgram(9, 9))), (OUT, 1, hop("10.0.0.5", FAR, GRE()))),
    "fragments": steps(*((OUT, 1, p) for p in reversed(pieces))),
    "partial": steps((OUT, 1, hop(HOST, FAR, dgram(4000, 53, 200))), header=vnet(1, 0, 0, 0, 34, 6)),
    "superframe": steps((OUT, 1, hop(HOST, FAR, seg(4000, 80, "S", 1)))) + steps((OUT, 1, hop(HOST, FAR, seg(4000, 80, "A", 2, 10, 3000))), header=vnet(1, 1, 54, 1000, 34, 16)),
    "rules": steps((OUT, 1, hop(HOST, FAR, dgram(4000, 53)))) + bytes([32, 0]) + steps((IN, 1, hop(FAR, OWN, dgram(53, 4000)))) + bytes([39, 0, 255, 255, 48, 53]),
}
for name, data in NAT.items():
    write("nat", name, b"\x8c" + data)
    write("nat", name + "-workers", b"\x06" + data)


def dhcp(kind, **fields):
    options = [("message-type", kind)] + list(fields.pop("options", [])) + ["end"]
    data = raw(BOOTP(chaddr=b"\x02\0\0\0\0\x09", xid=7, **fields) / DHCP(options=options))
    return b"\x05" + struct.pack(">H", len(data)) + data


offer = [("server_id", "10.0.0.1"), ("requested_addr", "10.0.0.103")]
write("dhcp", "join", dhcp("discover", options=offer[1:]) + dhcp("request", options=offer) + dhcp("request", ciaddr="10.0.0.103") +
      dhcp("release", ciaddr="10.0.0.103", options=offer[:1]))
write("dhcp", "decline", dhcp("discover", options=offer[1:]) + dhcp("decline", options=offer) + dhcp("discover") + dhcp("inform", ciaddr="10.0.0.7"))
write("dhcp", "identifier", dhcp("discover", options=[("client_id", b"\0web"), ("hostname", b"web-1"), ("max_dhcp_size", 1472)]) +
      dhcp("request", options=offer[1:]))
write("dhcp", "overload", dhcp("discover", options=[("dhcp-option-overload", 3)], file=b"\x32\x04\x0a\0\0\x65\xff", sname=b"\x0c\x01a\xff"))


def routed(*packets, iface=0, way=0x80):
    """Packets to the router: its MAC address is the destination of ETH."""
    return b"".join(bytes([iface, way, 3]) + frame(vnet(), packet) for packet in packets)


ASK4 = ARP(op="who-has", hwsrc=ETH.src, psrc="10.0.0.1", pdst="10.0.0.254")
TOLD4 = ARP(op="is-at", hwsrc=ETH.src, psrc="10.0.1.7", hwdst=ETH.dst, pdst="10.0.1.254")
NS = IPv6(src="fd00::1", dst="ff02::1:ff00:fe", hlim=255) / ICMPv6ND_NS(tgt="fd00::fe") / ICMPv6NDOptSrcLLAddr(lladdr=ETH.src)
NA = IPv6(src="fd01::7", dst="fd01::fe", hlim=255) / ICMPv6ND_NA(tgt="fd01::7") / ICMPv6NDOptDstLLAddr(lladdr=ETH.src)
RS = IPv6(src="fe80::1", dst="ff02::2", hlim=255) / ICMPv6ND_RS() / ICMPv6NDOptSrcLLAddr(lladdr=ETH.src)
FAR4, FAR6 = IP(src="10.0.0.1", dst="10.0.1.7"), IPv6(src="fd00::1", dst="fd01::7")
write("router", "arp", routed(ETH / ASK4, ETH / FAR4 / udp(20)) + routed(ETH / TOLD4, iface=1) + routed(ETH / FAR4 / udp(20)))
write("router", "nd", routed(ETH / NS, ETH / RS, ETH / FAR6 / udp(20)) + routed(ETH / NA, iface=1) + routed(ETH / FAR6 / udp(20)))
write("router", "ping", routed(ETH / IP(src="10.0.0.1", dst="10.0.0.254") / ICMP() / Raw(b"p"), ETH / IPv6(src="fd00::1", dst="fd00::fe") /
      ICMPv6EchoRequest()))
write("router", "errors", routed(ETH / IP(src="10.0.0.1", dst="198.51.100.1", ttl=1) / udp(20), ETH / IP(src="10.0.0.1", dst="198.51.100.1",
      flags="DF") / udp(1400), ETH / FAR6 / udp(1400), ETH / IP(src="10.0.0.1", dst="10.0.0.254") / udp(9)))
write("router", "cut", routed(ETH / IP(src="10.0.0.1", dst="198.51.100.1", options=b"\x94\x04\0\0") / udp(1400)))
write("router", "options", routed(ETH / IP(src="10.0.0.1", dst="10.0.1.7", options=b"\x83\x04\x04\0") / udp(9),
      ETH / FAR6 / IPv6ExtHdrRouting(segleft=1) / udp(9)))
write("router", "outside", routed(ETH / IP(src="198.51.100.1", dst="192.0.2.10") / udp(9), iface=2, way=0x84) +
      routed(ETH / IP(src="198.51.100.1", dst="10.0.0.1", ttl=1) / udp(9), iface=2) +
      routed(ETH / IP(src="198.51.100.1", dst="203.0.113.10") / udp(9), iface=3, way=0x84))
write("router", "dhcp", routed(ETH / IP(src="0.0.0.0", dst="255.255.255.255") / UDP(sport=68, dport=67) /
      BOOTP(chaddr=b"\x02\0\0\0\0\x09", xid=7) / DHCP(options=[("message-type", "discover"), "end"])))
write("router", "nobody", b"".join(routed(ETH / IP(src="10.0.0.1", dst=f"10.0.1.{n}") / udp(9)) for n in range(1, 12)) +
      b"\0\x80\xff" * 3)

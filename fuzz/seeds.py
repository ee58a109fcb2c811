#!/usr/bin/python3
"""Writes the first cases of the corpora (python3-scapy). The formats are those of src/<target>.rs."""

import pathlib
import struct
import tempfile

from scapy.all import (ARP, GRE, ICMP, IP, IPv6, TCP, UDP, VXLAN, Dot1AD, Dot1Q, Ether, ICMPv6EchoRequest,
                       IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop, IPv6ExtHdrRouting, PcapNgWriter,
                       Raw, raw, wrpcap)

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

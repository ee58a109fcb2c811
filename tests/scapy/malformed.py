"""Tunnel packets for tests/tests/tunnel_malformed.rs, made by scapy and so not by anything of ours.

Prints a JSON list of {"name", "reason", "frames"}: whole outer frames in hexadecimal, and the name of the drop
reason each must be counted under; null for those that must be delivered. The inner frame carries the name as
its text.

    malformed.py KIND OUR_MAC OUR_IP THEIR_MAC THEIR_IP STRANGER_IP sockets|uplink

With sockets the kernel drops some of it before we see it; then it is not in the list.
"""

import json
import struct
import sys

from scapy.config import conf

conf.verb = 0
from scapy.contrib.geneve import GENEVE  # noqa: E402
from scapy.layers.inet import GRE, IP, TCP, UDP, fragment  # noqa: E402
from scapy.layers.inet6 import IPv6  # noqa: E402
from scapy.layers.l2 import Dot1Q, Ether  # noqa: E402
from scapy.layers.vxlan import VXLAN  # noqa: E402
from scapy.packet import Raw  # noqa: E402

kind, our_mac, our_ip, their_mac, their_ip, stranger_ip, underlay = sys.argv[1:]
cases = []


def outer(source=their_ip, **ip):
    """Ethernet and IP from the far end to us."""
    link = Ether(dst=our_mac, src=their_mac)
    if ":" in our_ip:
        return link / IPv6(src=source, dst=our_ip, hlim=ip.get("ttl", 64), tc=ip.get("tos", 0))
    return link / IP(src=source, dst=our_ip, **ip)


def inner(name, tag=None, size=0):
    """An experimental broadcast frame with a text."""
    link = Ether(dst="ff:ff:ff:ff:ff:ff", src="02:00:00:00:77:01", type=0x88B5)
    if tag is not None:
        link = Ether(dst="ff:ff:ff:ff:ff:ff", src="02:00:00:00:77:01") / Dot1Q(vlan=tag, type=0x88B5)
    return link / Raw(name.encode().ljust(max(46, size), b"\0"))


def inner_ip(tos):
    """An inner IPv4 packet, to see what becomes of its ECN bits."""
    link = Ether(dst="ff:ff:ff:ff:ff:ff", src="02:00:00:00:77:01")
    return link / IP(src="10.7.66.1", dst="10.7.66.%d" % (tos + 2), tos=tos) / UDP(sport=1, dport=1) / Raw(b"ecn")


def case(name, reason, *packets):
    # Whole lengths and checksums, also in what is cut: scapy fills them in as it builds.
    cases.append({"name": name, "reason": reason, "frames": [bytes(p).hex() for p in packets]})


def tos(value):
    return {"tos": value}


def udp(port, payload, source=their_ip, **ip):
    """The datagram; scapy must not look inside, or it would put right what is wrong."""
    return outer(source, **ip) / UDP(sport=45000, dport=port) / Raw(bytes(payload))


def cuts(header_len, wrap, header):
    """Cut at every byte of the tunnel header, and of the inner Ethernet header."""
    whole = bytes(header / inner("cut"))
    case("header cut", "tunnel-truncated", *[wrap(whole[:n]) for n in range(header_len)])
    case("inner header cut", "inner-too-short", *[wrap(whole[:n]) for n in range(header_len, header_len + 14)])


def ecn(wrap, header):
    case("ecn ce on not-ect", "tunnel-ecn", wrap(header / inner_ip(0), **tos(3)))
    # The text of these is not looked for; the Rust side looks at the inner TOS.
    for inside, outside in [(2, 3), (1, 3), (2, 1), (3, 0), (2, 0), (0, 2)]:
        case("ecn %d in %d" % (inside, outside), None, wrap(header / inner_ip(inside), **tos(outside)))


def udp_checksums(port, good):
    """Wrong and absent ones, where it is ours to look at them."""
    if underlay == "uplink":
        wrong = outer() / UDP(sport=45000, dport=port, chksum=0xDEAD) / Raw(bytes(good / inner("wrong checksum")))
        case("wrong checksum", "tunnel-checksum", wrong)
        if ":" in our_ip:
            zero = outer() / UDP(sport=45000, dport=port, chksum=0) / Raw(bytes(good / inner("checksum 0")))
            case("checksum 0", "tunnel-zero-checksum", zero)
    if ":" not in our_ip:
        zero = outer() / UDP(sport=45000, dport=port, chksum=0) / Raw(bytes(good / inner("checksum 0")))
        case("checksum 0", None, zero)


if kind == "vxlan":
    good = VXLAN(flags="Instance", vni=77)

    def wrap(payload, source=their_ip, **ip):
        return udp(4789, payload, source, **ip)

    case("plain", None, wrap(good / inner("plain")))
    # RFC 7348 section 5: reserved fields "MUST be set to zero on transmission and ignored on receipt".
    case("reserved bits", None, wrap(struct.pack("!BBHI", 0xFF, 0xFF, 0xFFFF, 77 << 8 | 0xFF) + bytes(inner("reserved bits"))))
    case("stranger", "unknown-remote", wrap(good / inner("stranger"), stranger_ip))
    case("other vni", "wrong-vni", wrap(VXLAN(flags="Instance", vni=78) / inner("other vni")))
    case("no vni", "vxlan-no-vni", wrap(struct.pack("!II", 0, 77 << 8) + bytes(inner("no vni"))))
    case("tagged", "inner-tag", wrap(good / inner("tagged", tag=10)))
    udp_checksums(4789, good)
    if ":" not in our_ip:
        whole = wrap(good / inner("outer fragments", size=1400))
        case("outer fragments", None, *fragment(whole, fragsize=600))
    cuts(8, wrap, good)
    ecn(wrap, good)
elif kind == "geneve":
    good = GENEVE(vni=77, proto=0x6558)

    def wrap(payload, source=their_ip, **ip):
        return udp(6081, payload, source, **ip)

    def geneve(name, first=0, second=0, proto=0x6558, vni=77, reserved=0, options=b""):
        head = struct.pack("!BBHI", first | len(options) // 4, second, proto, vni << 8 | reserved)
        return wrap(head + options + bytes(inner(name)))

    def option(critical, length=4, claimed=None):
        words = (length if claimed is None else claimed) // 4
        return struct.pack("!HBB", 0x1234, 0x80 if critical else 0x01, words) + bytes(length)

    case("plain", None, wrap(good / inner("plain")))
    # RFC 8926 section 3.4: both reserved fields "MUST be zero on transmission and MUST be ignored on receipt".
    case("reserved bits", None, geneve("reserved bits", second=0x3F, reserved=0xFF))
    case("plain option", None, geneve("plain option", options=option(False)))
    case("many options", None, geneve("many options", options=option(False, 0) + option(False, 120) + option(False, 4)))
    case("stranger", "unknown-remote", wrap(good / inner("stranger"), stranger_ip))
    case("other vni", "wrong-vni", wrap(GENEVE(vni=78, proto=0x6558) / inner("other vni")))
    case("version", "tunnel-version", *[geneve("version", first=v << 6) for v in (1, 2, 3)])
    case("critical option", "geneve-critical-option", geneve("critical option", second=0x40, options=option(True)),
         geneve("critical option", second=0x40, options=option(False) + option(True)))
    case("long option", "geneve-bad-options", geneve("long option", options=option(False, claimed=8)))
    case("option half there", "geneve-bad-options", geneve("option half there", options=option(False, 4) + option(False, 0, claimed=4)))
    case("options past the end", "tunnel-truncated", wrap(struct.pack("!BBHI", 0x3F, 0, 0x6558, 77 << 8) + bytes(20)))
    case("control", "geneve-control", geneve("control", second=0x80))
    case("no ethernet", "tunnel-not-ethernet", geneve("no ethernet", proto=0x0800))
    udp_checksums(6081, good)
    cuts(8, wrap, good)
    ecn(wrap, good)
elif kind == "gre":

    def wrap(payload, source=their_ip, **ip):
        made = outer(source, **ip)
        made.lastlayer().setfieldval("nh" if ":" in our_ip else "proto", 47)
        return made / Raw(bytes(payload))

    def gre(name, flags=0x2000, proto=0x6558, rest=struct.pack("!I", 7)):
        return wrap(struct.pack("!HH", flags, proto) + rest + bytes(inner(name)))

    good = GRE(proto=0x6558, key_present=1, key=7)
    case("plain", None, wrap(good / inner("plain")))
    summed = GRE(proto=0x6558, key_present=1, key=7, chksum_present=1)
    case("with a checksum", None, wrap(summed / inner("with a checksum")))
    numbered = GRE(proto=0x6558, key_present=1, key=7, seqnum_present=1, sequence_number=5)
    case("with a number", None, wrap(numbered / inner("with a number")))
    # RFC 2784 section 2.3.1: bits 6-12 "MUST be ignored on receipt".
    case("reserved bits", None, gre("reserved bits", flags=0x2000 | 0x03F8))
    case("tagged", None, wrap(good / inner("tagged", tag=10)))
    case("stranger", "unknown-remote", wrap(good / inner("stranger"), stranger_ip))
    case("other key", "wrong-key", wrap(GRE(proto=0x6558, key_present=1, key=70) / inner("other key")))
    case("no key", "wrong-key", wrap(GRE(proto=0x6558) / inner("no key")))
    case("version", "tunnel-version", *[gre("version", flags=0x2000 | v) for v in (1, 7)])
    # RFC 2784 section 2.3: "if any of bits 1, 4, or 5 are non-zero" without RFC 1701: discard.
    case("routing", "gre-flags", *[gre("routing", flags=0x2000 | 0x8000 >> bit) for bit in (1, 4, 5)])
    case("no ethernet", "tunnel-not-ethernet", gre("no ethernet", proto=0x0800))
    wrong = bytearray(bytes(summed / inner("wrong checksum")))
    wrong[4] ^= 0x55
    case("wrong checksum", "tunnel-checksum", wrap(wrong))
    changed = bytearray(bytes(summed / inner("changed")))
    changed[-1] ^= 1
    case("changed", "tunnel-checksum", wrap(changed))
    # A tunnel with --csum has key 8, one with --seq key 9.
    case("no checksum", "tunnel-checksum", wrap(GRE(proto=0x6558, key_present=1, key=8) / inner("no checksum")))
    full = GRE(proto=0x6558, key_present=1, key=8, chksum_present=1)
    case("the checksum", None, wrap(full / inner("the checksum")))
    case("no number", "gre-sequence", wrap(GRE(proto=0x6558, key_present=1, key=9) / inner("no number")))

    def number(name, n):
        return wrap(GRE(proto=0x6558, key_present=1, key=9, seqnum_present=1, sequence_number=n) / inner(name))

    case("number 0", None, number("number 0", 0))
    case("number 5", None, number("number 5", 5))
    case("late or twice", "gre-sequence", *[number("late or twice", n) for n in (0, 3, 5)])
    case("number 6", None, number("number 6", 6))
    if ":" not in our_ip:
        whole = wrap(good / inner("outer fragments", size=1400))
        case("outer fragments", None, *fragment(whole, fragsize=600))
    cuts(8, wrap, good)
    ecn(wrap, good)
else:
    sys.exit(f"unknown kind {kind}")

json.dump(cases, sys.stdout)

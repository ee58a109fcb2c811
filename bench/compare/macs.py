"""Sends one small frame from each of so many source addresses: what bridges learn. INTERFACE COUNT"""

import socket
import sys
import time

s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind((sys.argv[1], 0))
for i in range(int(sys.argv[2])):
    # To an address that belongs to no one, of a protocol for experiments (IEEE 802, 88b5).
    s.send(b"\x02\x00\x40\x00\x00\x01" + b"\x02\x00\x50" + i.to_bytes(3, "big") + b"\x88\xb5" + bytes(46))
    if i % 256 == 255:
        # Not faster than it is learned.
        time.sleep(0.002)

"""Frames of many addresses, by a packet socket on an interface. Every address of the first range talks to the one with
the same number of the second.

    macs.py learn INTERFACE RANGE COUNT     one frame from each address: what bridges learn
    macs.py send INTERFACE COUNT SECONDS    64-byte frames from the first range to the second; JSON of how many
"""

import json
import socket
import sys
import time

# A protocol for experiments (IEEE 802, 88b5); 64 bytes with the frame check sequence.
PAYLOAD = b"\x88\xb5" + bytes(46)


def address(which, i):
    return b"\x02\x00\x50" + bytes([16 * which + (i >> 16)]) + (i & 0xffff).to_bytes(2, "big")


def learn(s, which, count):
    for i in range(count):
        # To an address that belongs to no one.
        s.send(b"\x02\x00\x40\x00\x00\x01" + address(which, i) + PAYLOAD)
        if i % 256 == 255:
            # Not faster than it is learned.
            time.sleep(0.002)


def send(s, count, seconds):
    frames = [address(1, i) + address(0, i) + PAYLOAD for i in range(count)]
    sent, start = 0, time.monotonic()
    while time.monotonic() < start + seconds:
        for _ in range(64):
            # One far from the last, so that no cache line is met twice soon.
            s.send(frames[sent * 7919 % count])
            sent += 1
    return {"sent": sent, "seconds": time.monotonic() - start}


def main():
    what, interface, *numbers = sys.argv[1:]
    s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    s.bind((interface, 0))
    if what == "learn":
        learn(s, int(numbers[0]), int(numbers[1]))
    else:
        print(json.dumps(send(s, int(numbers[0]), float(numbers[1]))))


if __name__ == "__main__":
    main()

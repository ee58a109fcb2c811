#!/usr/bin/env python3
"""Trunkline beside the Linux bridge and Open vSwitch, container to container, in one run: on one host, or with
`--overlay` on two hosts by VXLAN and GRE.

Every switch gets its own pair of network namespaces at the start; then the rounds go A B C A B C …, so that
what the machine does meanwhile hits all of them alike. Figures are medians over the rounds, with the lowest
and highest; ratios are medians of the ratios within each round.

    sudo make bench                         # all switches found, 5 rounds
    sudo bench/compare/run --rounds 7 --seconds 3 --only trunkline,bridge
    sudo bench/compare/run --overlay --out bench/results/overlay

Run through bench/compare/run, which gives it namespaces of its own: nothing is left behind.
"""

import argparse
import datetime
import json
import os
import re
import statistics
import sys
import time

from gateways import WAY_GOALS, WAYS
from overlays import GOALS, OVERLAYS
from peers import PEERS, Trunkline

# Who is compared, who is the reference, and what is asked.
SETS = {
    "containers": (PEERS, "bridge", []),
    "overlay": (OVERLAYS, "kernel-vxlan", GOALS),
    "gateway": (WAYS, "docker-masquerade", WAY_GOALS),
}

TESTS = {
    "tcp": ("TCP, 1 stream", "Gbit/s", True),
    "tcp8": ("TCP, 8 streams", "Gbit/s", True),
    "udp64": ("UDP, 64 bytes, delivered (sender unpaced)", "Mpps", True),
    "udp1400": ("UDP, 1,400 bytes, delivered (sender unpaced)", "Mpps", True),
    "ping": ("flood ping, average round trip", "ms", False),
}


def busy_seconds():
    """CPU-seconds spent by the whole machine so far, idle and iowait left out."""
    with open("/proc/stat") as f:
        v = [int(x) for x in f.readline().split()[1:]]
    return (sum(v[:8]) - v[3] - v[4]) / os.sysconf("SC_CLK_TCK")


def iperf(peer, args, seconds):
    """One iperf3 run from container a to container b: the JSON of the client."""
    port = "5201"
    server = peer.b.popen(["iperf3", "-s", "-1", "-p", port])
    try:
        time.sleep(0.3)
        out = peer.a.run(
            ["iperf3", "-c", peer.ip_b, "-p", port, "-J", "-t", str(seconds), "--connect-timeout", "3000", *args],
            check=False, timeout=seconds + 15)
        result = json.loads(out)
    except (json.JSONDecodeError, TimeoutError):
        return None
    finally:
        server.kill()
        server.wait()
    return None if "error" in result else result


def tcp(peer, seconds, streams="1"):
    before = busy_seconds()
    r = iperf(peer, ["-P", streams], seconds)
    if r is None:
        return 0.0, None
    gbit = r["end"]["sum_received"]["bits_per_second"] / 1e9
    volume = r["end"]["sum_received"]["bytes"] * 8 / 1e9
    return gbit, (busy_seconds() - before) / volume if volume else None


def udp(peer, seconds, size):
    before = busy_seconds()
    r = iperf(peer, ["-u", "-b", "0", "-l", str(size)], seconds)
    if r is None:
        return 0.0, None
    s = r["end"].get("sum_received") or r["end"]["sum"]
    # The server's view: what arrived, not what was sent.
    delivered = s["packets"] - s["lost_packets"]
    gbit = delivered * size * 8 / 1e9
    return delivered / s["seconds"] / 1e6, (busy_seconds() - before) / gbit if gbit else None


def ping(peer, seconds):
    out = peer.a.run(["ping", "-q", "-f", "-w", str(seconds), peer.ip_b], check=False, timeout=seconds + 10)
    m = re.search(r"= [\d.]+/([\d.]+)/", out)
    return (float(m.group(1)) if m else float("nan")), None


def measure(test, peer, seconds):
    if test == "tcp":
        return tcp(peer, seconds)
    if test == "tcp8":
        return tcp(peer, seconds, "8")
    if test == "ping":
        return ping(peer, min(seconds, 2))
    return udp(peer, seconds, int(test[3:]))


def idle(args):
    """CPU share and resident memory of a daemon with 2 bridges and 100 ports that have nothing to do."""
    t = Trunkline("idle", args.binary)
    daemon = t.start_daemon()
    daemon.cli("bridge", "add", "br1")
    daemon.cli("bridge", "add", "br2")
    for i in range(100):
        daemon.cli("port", "add", f"br{1 + i % 2}", f"p{i}", "--type", "tap")
    time.sleep(2)

    def cpu():
        with open(f"/proc/{daemon.process.pid}/stat") as f:
            v = f.read().rsplit(")", 1)[1].split()
        return (int(v[11]) + int(v[12])) / os.sysconf("SC_CLK_TCK")

    before, span = cpu(), 10
    time.sleep(span)
    share = (cpu() - before) / span * 100
    with open(f"/proc/{daemon.process.pid}/status") as f:
        rss = int(re.search(r"VmRSS:\s+(\d+)", f.read()).group(1)) / 1024
    t.stop()
    return {"cpu_percent": share, "rss_mib": rss}


def machine():
    model = "?"
    with open("/proc/cpuinfo") as f:
        for line in f:
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    return {"cpu": model, "cpus": os.cpu_count(), "kernel": os.uname().release,
            "date": datetime.date.today().isoformat()}


def ratios(values, a, b):
    """Of each round in which both were measured."""
    return [x / y for x, y in zip(values[a], values[b]) if y and x == x and y == y]


def cell(values, reference):
    """Median (lowest–highest), and the median ratio to the reference of the same round."""
    good = [v for v in values if v == v]
    if not good:
        return "failed"
    text = f"{statistics.median(good):.3g} ({min(good):.3g}–{max(good):.3g})"
    beside = ratios({"it": values, "reference": reference}, "it", "reference")
    return f"{text}, ×{statistics.median(beside):.2f}" if beside else text


def report(data):
    peers, lines = data["peers"], []
    m = data["machine"]
    lines += [f"Machine: {m['cpus']} × {m['cpu']}, Linux {m['kernel']}, {m['date']}. "
              f"{data['rounds']} rounds of {data['seconds']} s, interleaved. Each cell: median (lowest–highest), "
              f"× median ratio to {data['reference']} of the same round.", "", f"    {data['command']}", ""]
    lines.append("| | " + " | ".join(peers) + " |")
    lines.append("|---|" + "---|" * len(peers))
    for test in data["tests"]:
        title, unit, _ = TESTS[test]
        reference = data["values"][test].get(data["reference"], [])
        row = [cell(data["values"][test][p], reference) for p in peers]
        lines.append(f"| {title}, {unit} | " + " | ".join(row) + " |")
        cost = [[c for c in data["cost"][test][p] if c] for p in peers]
        if any(cost):
            row = [f"{statistics.median(c):.3g}" if c else "–" for c in cost]
            lines.append("| … CPU-seconds per Gbit | " + " | ".join(row) + " |")
    goals = [(t, a, b, least, ratios(data["values"][t], a, b)) for t, a, b, least in data["goals"]
             if t in data["tests"] and a in peers and b in peers]
    if goals:
        lines += ["", "| goal | median ratio (lowest–highest) | |", "|---|---|---|"]
        for t, a, b, least, r in goals:
            found = f"×{statistics.median(r):.2f} ({min(r):.2f}–{max(r):.2f})" if r else "failed"
            met = "met" if r and statistics.median(r) >= least else "**missed**"
            lines.append(f"| {TESTS[t][0]}: {a} ≥ {least} × {b} | {found} | {met} |")
    if data.get("idle"):
        i = data["idle"]
        lines += ["", f"Idle Trunkline daemon, 2 bridges, 100 TAP ports: {i['cpu_percent']:.2f} % of a core, "
                      f"{i['rss_mib']:.1f} MiB resident."]
    return "\n".join(lines) + "\n"


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--binary", default="target/release/trunkline")
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--seconds", type=int, default=3, help="length of one measurement")
    p.add_argument("--overlay", dest="set", action="store_const", const="overlay", default="containers",
                   help="two hosts and a tunnel between them")
    p.add_argument("--gateway", dest="set", action="store_const", const="gateway",
                   help="a container and the world: masquerade and published ports")
    p.add_argument("--only", help="comma-separated: " + ", ".join([*PEERS, *OVERLAYS, *WAYS]))
    p.add_argument("--tests", default=",".join(TESTS), help="comma-separated: " + ", ".join(TESTS))
    p.add_argument("--out", help="write OUT.md and OUT.json")
    p.add_argument("--no-idle", action="store_true", help="leave out the idle measurement")
    args = p.parse_args()
    args.binary = os.path.abspath(args.binary)
    known, reference, goals = SETS[args.set]
    names = args.only.split(",") if args.only else list(known)
    if unknown := [n for n in names if n not in known]:
        p.error(f"{', '.join(unknown)}: not one of {', '.join(known)}")
    tests = args.tests.split(",")
    peers = {}
    try:
        for name in names:
            peer = known[name](name, args.binary)
            reason = peer.unavailable()
            if reason:
                print(f"{name}: left out, {reason}", file=sys.stderr)
                continue
            try:
                peer.start()
            except RuntimeError as e:
                print(f"{name}: left out, {e}", file=sys.stderr)
                peer.stop()
                continue
            peers[name] = peer
            print(f"{name}: ready", file=sys.stderr, flush=True)
        values = {t: {n: [] for n in peers} for t in tests}
        cost = {t: {n: [] for n in peers} for t in tests}
        for r in range(args.rounds):
            for t in tests:
                for n, peer in peers.items():
                    value, c = measure(t, peer, args.seconds)
                    values[t][n].append(value)
                    cost[t][n].append(c)
                    print(f"round {r + 1}/{args.rounds} {t:8} {n:12} {value:.4g} {TESTS[t][1]}",
                          file=sys.stderr, flush=True)
        data = {"machine": machine(), "rounds": args.rounds, "seconds": args.seconds, "peers": list(peers),
                "tests": tests, "values": values, "cost": cost, "command": "bench/compare/run " + " ".join(sys.argv[1:]),
                "reference": reference, "goals": goals}
        for peer in peers.values():
            peer.stop()
        peers = {}
        if not args.no_idle and args.set == "containers":
            data["idle"] = idle(args)
    finally:
        for peer in peers.values():
            peer.stop()
    text = report(data)
    print(text)
    if args.out:
        with open(args.out + ".json", "w") as f:
            json.dump(data, f, indent=1)
        with open(args.out + ".md", "w") as f:
            f.write(text)


if __name__ == "__main__":
    main()

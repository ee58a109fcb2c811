#!/usr/bin/env python3
"""Trunkline beside the Linux bridge, docker0, Open vSwitch and others, container to container, in one run: on one
host; with `--overlay` on two hosts by VXLAN and GRE; with `--gateway` to the world and back; with `--topology` by
VLANs and several bridges; with `--growth` between more and more ports and addresses.

Every switch gets its own pair of network namespaces at the start; then the rounds go A B C A B C …, so that
what the machine does meanwhile hits all of them alike. Figures are medians over the rounds, with the lowest
and highest; ratios are medians of the ratios within each round.

    sudo make bench                         # everything that this machine has
    sudo bench/compare/run --rounds 7 --seconds 3 --only trunkline,bridge
    sudo bench/compare/run --overlay --out bench/results/overlay

Run through bench/compare/run, which gives it namespaces of its own: nothing is left behind.
"""

import argparse
import json
import os
import re
import statistics
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import common  # noqa: E402

from gateways import WAY_GOALS, WAYS  # noqa: E402
from overlays import GOALS, OVERLAYS  # noqa: E402
from peers import PEERS, Trunkline  # noqa: E402
from topologies import CROWD_KINDS, CROWD_TESTS, CROWDS, MORE_PEERS, MORE_WAYS, TOPOLOGIES, crowded  # noqa: E402

# test, which, beside which, at least, aim; a negative bound is a most.
PEER_GOALS = [
    ("tcp", "trunkline", "ovs-tso", 1.1, None),
    ("tcp", "trunkline", "bridge", 0.8, 1.0),
    ("paced64", "trunkline", "ovs", 2, None),
    ("paced64", "trunkline", "ovs-tso", 2, None),
    ("paced64", "trunkline", "ovs-afxdp", 2, None),
    ("paced64", "trunkline", "bridge", 0.6, 1.0),
    ("ping", "trunkline", "ovs", -0.5, None),
    ("ping", "trunkline-spin", "ovs-afxdp", -0.5, None),
]
FAST = ["tcp", "paced64", "udp64", "ping"]
# Through those that track connections: how many begin in a second.
NEW = ["flows", "connects"]
# Who is compared, who is the reference, what is asked, and the tests if none are named.
SETS = {
    "containers": (PEERS | MORE_PEERS, "bridge", PEER_GOALS, None),
    "overlay": (OVERLAYS, "kernel-vxlan", GOALS, FAST),
    "gateway": (WAYS | MORE_WAYS, "docker-masquerade", WAY_GOALS, [*FAST, "connect", *NEW]),
    "topology": (TOPOLOGIES, None, [], FAST),
}
# In the topologies, who is the reference depends on which.
REFERENCES = {"vlan-trunkline": "vlan-bridge", "vlan-ovs-tso": "vlan-bridge", "3-trunkline": "3-bridges",
              "3-ovs-tso": "3-bridges"}

# Those that are there for a part of the picture, and for which part; the others get all.
LIMITED = {
    "docker0": ["tcp", "rr", "connect", "paced64", "ping"],
    "ovs-afxdp": ["tcp", "rr", "paced64", "ping"],
    "vde": ["tcp", "paced64", "ping"],
    "trunkline-spin": ["tcp", "rr", "paced64", "ping"],
    "trunkline-pinned": ["tcp", "paced64", "ping"],
    "slirp4netns": [*FAST, "connect"],
    "pasta": [*FAST, "connect"],
    "trunkline-switched": NEW,
}

# TCP connections that are being opened at a time.
AT_ONCE = 128

# title, unit, more is better.
TESTS = {
    "tcp": ("TCP, 1 stream", "Gbit/s", True),
    "tcp8": ("TCP, 8 streams", "Gbit/s", True),
    "rr": ("TCP requests of 64 bytes, one at a time", "1000/s", True),
    "connect": ("TCP connections, one at a time", "1000/s", True),
    "paced64": ("UDP, 64 bytes, highest rate with ≤ 0.5 % loss", "Mpps", True),
    "paced512": ("UDP, 512 bytes, highest rate with ≤ 0.5 % loss", "Mpps", True),
    "paced1400": ("UDP, 1,400 bytes, highest rate with ≤ 0.5 % loss", "Mpps", True),
    "udp64": ("UDP, 64 bytes, delivered (sender unpaced)", "Mpps", True),
    "udp512": ("UDP, 512 bytes, delivered (sender unpaced)", "Mpps", True),
    "udp1400": ("UDP, 1,400 bytes, delivered (sender unpaced)", "Mpps", True),
    "flows": ("New flows: UDP, 64 bytes, each datagram another, delivered (sender unpaced)", "1000/s", True),
    "connects": (f"New flows: TCP connections, {AT_ONCE} at once, established", "1000/s", True),
    "spread64": ("64-byte frames from half of the addresses to the other half, delivered (sender unpaced)", "Mpps", True),
    "ping": ("ping, one after the other, average", "ms", False),
}
PERCENTILES = {"ping": ("p50", "p99", "p999"), "rr": ("p50", "p99", "p999")}


def busy_seconds():
    """CPU-seconds spent by the whole machine so far, idle and iowait left out."""
    with open("/proc/stat") as f:
        v = [int(x) for x in f.readline().split()[1:]]
    return (sum(v[:8]) - v[3] - v[4]) / os.sysconf("SC_CLK_TCK")


class Failed(Exception):
    """A measurement that did not come off, or whose bytes did not arrive intact."""


def between(peer, serve, ask, timeout):
    """Runs a server in container b and a client in container a: what the client printed."""
    server = peer.b.popen(serve)
    try:
        time.sleep(0.15)
        return json.loads(peer.a.run(ask, timeout=timeout))
    except (RuntimeError, TimeoutError, json.JSONDecodeError) as e:
        raise Failed(str(e)) from e
    finally:
        server.kill()
        server.wait()


def tcp(peer, seconds, streams="1"):
    before = busy_seconds()
    r = between(peer, ["iperf3", "-s", "-1"],
                ["iperf3", "-c", peer.ip_b, "-J", "-t", str(max(1, round(seconds))), "--connect-timeout", "3000",
                 "-P", streams], seconds + 15)
    received = r["end"]["sum_received"]
    volume = received["bytes"] * 8 / 1e9
    return received["bits_per_second"] / 1e9, (busy_seconds() - before) / volume if volume else None, {}


def traffic(peer, what, seconds, size=64, more=()):
    """The bench's own traffic: JSON of it."""
    return between(peer, [peer.traffic, "server", "0.0.0.0", "5201"],
                   [peer.traffic, "client", peer.ip_b, "5201", what, str(seconds), str(size), *more], seconds + 15)


def udp(peer, seconds, what, size):
    before = busy_seconds()
    r = traffic(peer, what, seconds, size)
    cost = None
    if what == "udp" and r["packets"]:
        # A search for a rate has no one volume.
        cost = (busy_seconds() - before) / (r["packets"] * size * 8 / 1e9)
    return r["per-second"] / 1e6, cost, {"loss": r["loss"]}


def ping(peer, seconds):
    """Each as soon as the one before has been answered."""
    out = peer.a.run(["ping", "-A", "-w", str(max(1, round(seconds))), peer.ip_b], check=False, timeout=seconds + 10)
    times = sorted(float(t) for t in re.findall(r"time=([\d.]+) ms", out))
    if not times:
        raise Failed("no ping was answered")
    at = {name: times[min(int(len(times) * share), len(times) - 1)]
          for name, share in (("p50", 0.5), ("p99", 0.99), ("p999", 0.999))}
    return statistics.mean(times), None, at


def measure(test, peer, seconds):
    """The value, CPU-seconds per Gbit if that has a meaning, and what else there is to say."""
    if test == "tcp":
        # First that what goes through is intact, which iperf3 does not look at.
        traffic(peer, "bulk", 0.1)
        return tcp(peer, seconds)
    if test == "tcp8":
        return tcp(peer, seconds, "8")
    if test == "ping":
        return ping(peer, min(seconds, 2))
    if test == "rr":
        r = traffic(peer, "rr", seconds)
        return r["per-second"] / 1e3, None, {k: r[k] / 1e3 for k in PERCENTILES["rr"]}
    if test == "connect":
        return traffic(peer, "connect", seconds)["per-second"] / 1e3, None, {}
    if test in NEW:
        if not hasattr(peer, "flows"):
            raise Failed("it tracks no connections, or cannot be asked to forget them")
        peer.forget()
        before = peer.switch_seconds()
        r = traffic(peer, test, seconds, AT_ONCE if test == "connects" else 64, peer.flows())
        more = {k: r[k] for k in ("loss", "failed") if k in r}
        if before is not None and (spent := peer.switch_seconds() - before):
            more["per-cpu-second"] = r["packets" if test == "flows" else "connections"] / spent / 1e3
        return r["per-second"] / 1e3, None, more
    if test == "spread64":
        try:
            value, more = peer.spread(seconds)
        except (RuntimeError, TimeoutError) as e:
            raise Failed(str(e)) from e
        return value, None, more
    if test.startswith("paced"):
        return udp(peer, max(2 * seconds, 1), "paced", int(test[5:]))
    return udp(peer, seconds, "udp", int(test[3:]))


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


def ratios(values, a, b):
    """Of each round in which both were measured."""
    return [x / y for x, y in zip(values.get(a, []), values.get(b, [])) if x is not None and y]


def cell(values, peer, reference):
    """Median (lowest–highest), and the median ratio to the reference of the same round."""
    if not values[peer]:
        return "–"
    text = common.spread(values[peer])
    beside = ratios(values, peer, reference) if reference != peer else []
    return f"{text}, ×{statistics.median(beside):.2f}" if beside and text != "failed" else text


def reference_of(data, peer):
    return REFERENCES.get(peer, data["reference"])


def report(data):
    peers, lines = data["peers"], [common.described(data["machine"]), ""]
    beside = f"× median ratio to {data['reference']}" if data["reference"] else "× median ratio to Linux's"
    lines += [f"{data['rounds']} rounds of {data['seconds']} s, interleaved. Each cell: median (lowest–highest), "
              f"{beside} of the same round.", "", f"    {data['command']}", ""]
    lines += [f"{note}  " for note in data["notes"]] + [""]
    lines.append("| | " + " | ".join(peers) + " |")
    lines.append("|---|" + "---|" * len(peers))
    for test in data["tests"]:
        title, unit, _ = TESTS[test]
        row = [cell(data["values"][test], p, reference_of(data, p)) for p in peers]
        lines.append(f"| {title}, {unit} | " + " | ".join(row) + " |")
        cost = [common.good(data["cost"][test][p]) for p in peers]
        if any(cost):
            row = [f"{statistics.median(c):.3g}" if c else "–" for c in cost]
            lines.append("| … CPU-seconds per Gbit | " + " | ".join(row) + " |")
        each = [[m["per-cpu-second"] for m in data["more"][test][p] if m and "per-cpu-second" in m] for p in peers]
        if any(each):
            row = [common.spread(v) if v else "–" for v in each]
            lines.append("| … for each CPU-second of the switch's process | " + " | ".join(row) + " |")
        if test in PERCENTILES:
            row = [" / ".join(f"{statistics.median(v):.3f}" if (v := [m[k] for m in data["more"][test][p] if m]) else "–"
                              for k in PERCENTILES[test]) for p in peers]
            lines.append("| … median / 99 % / 99.9 %, ms | " + " | ".join(row) + " |")
    asked = []
    for test, a, b, least, *aim in data["goals"]:
        if test in data["tests"] and a in peers and b in peers:
            what = f"{TESTS[test][0]}: {a} beside {b}"
            asked.append((what, ratios(data["values"][test], a, b), least, aim[0] if aim else None))
    lines += ["", *common.goal_table(asked)]
    if data.get("idle"):
        i = data["idle"]
        verdict = "met" if i["cpu_percent"] < 0.5 else "**missed**"
        lines += ["", f"Idle Trunkline daemon, 2 bridges, 100 TAP ports: {i['cpu_percent']:.2f} % of a core (target: "
                      f"below 0.5 %, {verdict}), {i['rss_mib']:.1f} MiB resident."]
    return "\n".join(lines) + "\n"


def start(known, names, binary, notes):
    """Those that can run here, running."""
    peers = {}
    for name in names:
        peer = known[name](name, binary)
        peer.traffic = os.path.join(os.path.dirname(binary), "traffic")
        reason = peer.unavailable()
        if not reason:
            try:
                peer.start()
            except (RuntimeError, TimeoutError) as e:
                reason = " ".join(str(e).split())[:200]
                peer.stop()
        if reason:
            notes.append(f"{name}: left out, {reason}")
            print(notes[-1], file=sys.stderr)
            continue
        peers[name] = peer
        print(f"{name}: ready", file=sys.stderr, flush=True)
    return peers


def compare(args):
    known, reference, goals, tests = SETS[args.set]
    names = args.only.split(",") if args.only else list(known)
    if unknown := [n for n in names if n not in known]:
        sys.exit(f"compare: {', '.join(unknown)}: not one of {', '.join(known)}")
    tests = args.tests.split(",") if args.tests else tests or [t for t in TESTS if t not in [*NEW, "spread64"]]
    if unknown := [t for t in tests if t not in TESTS]:
        sys.exit(f"compare: {', '.join(unknown)}: not one of {', '.join(TESTS)}")
    notes, peers = [], {}
    try:
        peers = start(known, names, args.binary, notes)
        values, cost, more = ({t: {n: [] for n in peers} for t in tests} for _ in range(3))
        progress = common.Progress(args.rounds * len(tests) * len(peers))
        for r in range(args.rounds):
            for t in tests:
                for n, peer in peers.items():
                    if not args.tests and t not in LIMITED.get(n, tests):
                        progress.step()
                        continue
                    try:
                        value, c, m = measure(t, peer, args.seconds)
                        shown = f"{value:.4g} {TESTS[t][1]}"
                    except Failed as e:
                        value, c, m, shown = None, None, None, f"failed: {str(e)[:160]}"
                    values[t][n].append(value)
                    cost[t][n].append(c)
                    more[t][n].append(m)
                    progress.step()
                    progress.say(f"round {r + 1}/{args.rounds} {t:8} {n:12} {shown}")
        data = {"peers": list(peers), "tests": tests, "values": values, "cost": cost, "more": more,
                "reference": reference, "goals": goals, "notes": notes}
    finally:
        for peer in peers.values():
            peer.stop()
    if not args.no_idle and args.set == "containers":
        data["idle"] = idle(args)
    return data


def growth(args):
    """What each of the crowds costs the two containers between it."""
    curves = []
    steps = sum(len(v) for v in CROWDS.values()) * len(CROWD_KINDS)
    progress = common.Progress(steps)
    for what, counts in CROWDS.items():
        tests = CROWD_TESTS[what]
        lines = {(name, test): [] for name in CROWD_KINDS for test in tests}
        for count in counts:
            option = {"ports": count} if what == "ports" else {"macs": count}
            known = {name: crowded(kind, **option) for name, kind in CROWD_KINDS.items()}
            notes, peers = [], {}
            try:
                peers = start(known, list(known), args.binary, notes)
                found = {(n, t): [] for n in peers for t in tests}
                for _ in range(args.rounds):
                    for test in tests:
                        for n, peer in peers.items():
                            try:
                                found[n, test].append(measure(test, peer, args.seconds)[0])
                            except Failed as e:
                                print(f"{n} {test}: {str(e)[:160]}", file=sys.stderr)
                for key, values in found.items():
                    if values:
                        lines[key].append({"value": count, "values": values})
                        progress.say(f"{what} {count}: {key[0]} {key[1]} {statistics.median(values):.3g}")
            finally:
                for peer in peers.values():
                    peer.stop()
                    progress.step()
        for (name, test), points in lines.items():
            if points:
                curves.append({"what": f"{what} {test}", "scenario": name, "unit": f"{TESTS[test][0]}, {TESTS[test][1]}",
                               "points": points})
    return curves


def growth_report(data):
    lines = [common.described(data["machine"]), "",
             f"{data['rounds']} rounds of {data['seconds']} s, interleaved; median (lowest–highest).", "",
             f"    {data['command']}", ""]
    for c in data["curves"]:
        lines += [f"**{c['what']}**, {c['scenario']}: {c['unit']}", "",
                  "| | " + " | ".join(f"{p['value']:,}" for p in c["points"]) + " |",
                  "|---|" + "---|" * len(c["points"]),
                  "| | " + " | ".join(common.spread(p["values"]) for p in c["points"]) + " |", ""]
    return "\n".join(lines)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--binary", default="target/release/trunkline", help="`traffic` of the bench crate is beside it")
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--seconds", type=float, default=1, help="length of one measurement; TCP whole seconds")
    p.add_argument("--quick", action="store_true", help="2 rounds of 1 s")
    for name, text in (("overlay", "two hosts and a tunnel between them"),
                       ("gateway", "a container and the world: masquerade and published ports"),
                       ("topology", "VLAN trunk, three bridges"),
                       ("growth", "2 to 500 ports, 10 to 100,000 MAC addresses")):
        p.add_argument(f"--{name}", dest="set", action="store_const", const=name, default="containers", help=text)
    p.add_argument("--only", help="comma-separated: " + ", ".join(n for known, *_ in SETS.values() for n in known))
    p.add_argument("--tests", help="comma-separated: " + ", ".join(TESTS))
    p.add_argument("--out", help="write OUT.md, OUT.json and OUT.svg")
    p.add_argument("--no-idle", action="store_true", help="leave out the idle measurement")
    args = p.parse_args()
    args.binary = os.path.abspath(args.binary)
    if args.quick:
        args.rounds, args.seconds = 2, 1
    data = {"machine": common.machine(args.binary), "rounds": args.rounds, "seconds": args.seconds,
            "command": "bench/compare/run " + " ".join(sys.argv[1:])}
    if args.set == "growth":
        data["curves"] = growth(args)
    else:
        data |= compare(args)
    common.measured(data["machine"])
    text = growth_report(data) if args.set == "growth" else report(data)
    print(text)
    if args.out:
        import plot
        common.write(args.out, text, data)
        if args.set == "growth":
            plot.growth(args.out, data["curves"])
        else:
            plot.bars(f"{args.out}.svg", args.set, "as written", [
                (f"{TESTS[t][0]}, {TESTS[t][1]}", {n: common.good(v) for n, v in data["values"][t].items()})
                for t in data["tests"]], columns=2)


if __name__ == "__main__":
    main()

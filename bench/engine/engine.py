#!/usr/bin/env python3
"""The engine alone, beside Open vSwitch with DPDK and testpmd: frames from memory to nowhere, on one core.

All play the same frames (those of `trunkline bench engine`, written as pcap files) out of memory, each copied into a
fresh buffer, to a port that throws them away. Measurements alternate, A B C A B C, and what is compared is what one
CPU-second of the forwarding thread moves: on a quiet machine that is the rate, on a busy one it is fairer.
Trunkline's samples are compared byte for byte with what they should be; of the others, packets that left are counted.

    sudo make bench BENCH="engine"
    sudo bench/engine/run --rounds 3 --seconds 0.5 --only l2-1-flow,vxlan-encap
    sudo bench/engine/run --growth            # cost against ports, addresses, flows, tunnels, rules, workers
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import common  # noqa: E402

from peers import Hugepages, Ovs, Testpmd, Unable  # noqa: E402

# scenario, beside which, at least, aim.
GOALS = [
    ("l2-1-flow", "ovs-dpdk", 1.2, None),
    ("l2-1-flow", "testpmd", None, 0.8),
    ("l2-10k-flows", "ovs-dpdk", 3, 6),
    ("l2-100k-macs", "ovs-dpdk", 5, 10),
    ("vxlan-encap", "ovs-dpdk", 1.5, 3),
    ("vxlan-decap", "ovs-dpdk", 1.5, 3),
    ("gre-encap", "ovs-dpdk", 1.5, 3),
    ("gre-decap", "ovs-dpdk", 1.5, 3),
    ("nat-established", "ovs-dpdk", 3, 6),
    ("nat-new", "ovs-dpdk", 3, 6),
]
# 800 MiB for Open vSwitch, and for testpmd as much as a million frames take; 2 MiB each.
PAGES = 1024
# Two workers: scenario, the same with one, at least, aim.
SCALING = [("l2-1-flow-2-workers", "l2-1-flow", 1.8, 1.95),
           ("l2-10k-flows-2-workers", "l2-10k-flows", 1.8, 1.95)]
ONE_OF = {two: one for two, one, *_ in SCALING}
# What grows: scenario, option, values. None but the last changes.
GROWTH = [
    ("flows", [("l2-10k-flows", "--flows", [1, 10, 100, 1000, 10_000, 100_000, 1_000_000], ["--macs", "1"]),
               ("nat-established", "--flows", [1, 10, 100, 1000, 10_000, 50_000], []),
               ("vxlan-encap", "--flows", [1, 10, 100, 1000, 10_000, 100_000], [])]),
    ("MAC addresses", [("l2-10k-flows", "--macs", [1, 10, 100, 1000, 10_000, 100_000], [])]),
    ("ports", [("l2-10k-flows", "--ways", [1, 2, 5, 10, 50, 100, 500, 1000], ["--macs", "1"])]),
    ("tunnels", [("vxlan-encap", "--ways", [1, 2, 5, 10, 50, 100, 500, 1000], []),
                 ("vxlan-decap", "--ways", [1, 2, 5, 10, 50, 100, 500, 1000], []),
                 ("gre-encap", "--ways", [1, 2, 5, 10, 50, 100, 500, 1000], [])]),
    ("rules", [("nat-established", "--rules", [0, 1, 10, 100, 1000], []),
               ("nat-new", "--rules", [0, 1, 10, 100, 1000], [])]),
    ("workers", [("l2-1-flow", "--workers", [1, 2, 4, 8], []),
                 ("l2-10k-flows", "--workers", [1, 2, 4, 8], [])]),
]


class Trunkline:
    """This project: each measurement a process of its own."""

    name = "trunkline"

    def __init__(self, binary):
        self.binary, self.scenario = binary, None

    def start(self, scenario, _pcap):
        self.scenario = scenario["scenario"]

    def measure(self, seconds, *options):
        command = [self.binary, "bench", "engine", self.scenario, "--json", "--rounds", "1", "--seconds",
                   str(seconds), *options]
        p = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=300)
        if p.returncode != 0:
            raise RuntimeError(p.stderr.strip())
        result = json.loads(p.stdout)
        run = result["engine"][0]["rounds"][0]
        return {"packets": run["packets"], "cpu-seconds": run["cpu-seconds"], "seconds": run["seconds"],
                "checked": run["checked"], "drops": run["drops"]}

    def stop(self):
        pass


def mpps(sample, tsc):
    """Millions of packets for each second of the forwarding thread's CPU time."""
    if "cycles" in sample:
        return tsc / sample["cycles"] / 1e6
    return sample["packets"] / sample["cpu-seconds"] / 1e6


def peers_found(binary, only, notes):
    """Those that run here; the DPDK ones need hugepages."""
    found, pages = [Trunkline(binary)], None
    for kind in (Ovs, Testpmd):
        if only and kind.name not in only:
            continue
        reason = kind.unavailable()
        try:
            if not reason and not pages:
                pages = Hugepages(PAGES)
            if not reason:
                found.append(kind())
        except (RuntimeError, OSError) as e:
            reason = str(e)
        if reason:
            notes.append(f"{kind.name}: left out, {reason}")
    return found, pages


def compare(args, scenarios, progress):
    """Every scenario with every peer; the samples and why some are missing."""
    notes, samples, unable = [], {}, {}
    peers, pages = peers_found(args.binary, args.peers and args.peers.split(","), notes)
    frames = tempfile.mkdtemp(prefix="tl-bench-frames-")
    try:
        for scenario in scenarios:
            name = scenario["scenario"]
            pcap = f"{frames}/{name}.pcap"
            if len(peers) > 1:
                common.run([args.binary, "bench", "engine", name, "--save-frames", frames], timeout=120)
            ready = []
            samples[name], unable[name] = {}, {}
            try:
                for peer in peers:
                    try:
                        ready.append(peer)
                        peer.start(scenario, pcap)
                        samples[name][peer.name] = []
                    except Unable as e:
                        unable[name][peer.name] = str(e)
                        peer.stop()
                        ready.remove(peer)
                for r in range(args.rounds):
                    for peer in ready:
                        try:
                            sample = peer.measure(args.seconds)
                        except RuntimeError as e:
                            unable[name][peer.name] = str(e)[:200]
                            continue
                        samples[name][peer.name].append(sample)
                        if peer.name == "trunkline" and name in ONE_OF:
                            one = Trunkline(args.binary)
                            one.start({"scenario": ONE_OF[name]}, None)
                            sample["one"] = one.measure(args.seconds)
                        progress.say(f"{name} round {r + 1}/{args.rounds} {peer.name} "
                                     f"{mpps(sample, args.tsc):.2f} Mpps")
                    progress.step()
            finally:
                for peer in ready:
                    peer.stop()
            if os.path.exists(pcap):
                os.unlink(pcap)
    finally:
        shutil.rmtree(frames, ignore_errors=True)
        for peer in peers:
            if hasattr(peer, "close"):
                peer.close()
        if pages:
            pages.release()
    return {"peers": [p.name for p in peers], "samples": samples, "unable": unable, "notes": notes}


def growth(args, progress):
    """Cycles per packet as one number grows."""
    t = Trunkline(args.binary)
    curves = []
    for what, lines in GROWTH:
        for scenario, option, values, fixed in lines:
            t.start({"scenario": scenario}, None)
            points = []
            for value in values:
                if option == "--workers" and value > os.cpu_count():
                    continue
                samples = []
                for _ in range(min(args.rounds, 3)):
                    s = t.measure(min(args.seconds, 0.3), option, str(value), *fixed)
                    samples.append(s)
                cycles = [args.tsc / (mpps(s, args.tsc) * 1e6) for s in samples]
                rate = statistics.median(s["packets"] / s["seconds"] / 1e6 for s in samples)
                points.append({"value": value, "cycles": cycles, "mpps": rate})
                progress.say(f"{what}: {scenario} {value}: {statistics.median(cycles):.0f} cycles")
            curves.append({"what": what, "scenario": scenario, "fixed": fixed, "points": points})
            progress.step()
    return curves


def report(data):
    tsc, lines = data["machine"]["tsc-hz"], [common.described(data["machine"]), ""]
    lines += [f"{data['rounds']} rounds of {data['seconds']} s, interleaved. Each cell: millions of packets for each "
              "CPU-second of the forwarding thread, median (lowest–highest); cycles of the time stamp counter for a "
              "packet. ×: median of the ratios within each round, Trunkline to that peer.", "",
              f"    {data['command']}", ""]
    lines += [f"{note}\n" for note in data["notes"]]
    others = [p for p in data["peers"] if p != "trunkline"]
    lines.append("| | trunkline | " + " | ".join(others) + " |")
    lines.append("|---|" + "---|" * len(data["peers"]))
    footnotes = []
    for scenario in data["scenarios"]:
        name, row = scenario["scenario"], []
        for peer in data["peers"]:
            samples = data["samples"][name].get(peer)
            if not samples:
                why = data["unable"][name].get(peer, "failed")
                if why not in footnotes:
                    footnotes.append(why)
                row.append(f"– [{footnotes.index(why) + 1}]")
                continue
            rates = [mpps(s, tsc) for s in samples]
            text = f"{common.spread(rates)}, {tsc / statistics.median(rates) / 1e6:.0f} cycles"
            if peer != "trunkline" and (r := ratios(data, name, peer)):
                text += f", ×{statistics.median(r):.2f}"
            row.append(text)
        lines.append(f"| {name}: {scenario['help']} | " + " | ".join(row) + " |")
    lines += [""] + [f"[{i + 1}] {why}.  " for i, why in enumerate(footnotes)]
    lines += ["", *common.goal_table(goals(data))]
    checked = sum(s["checked"] for v in data["samples"].values() for s in v.get("trunkline", []))
    dropped = sum(sum(s["drops"].values()) for v in data["samples"].values() for s in v.get("trunkline", []))
    lines += ["", f"Trunkline's packets compared byte for byte with what they should be: {checked}, all right. "
                  f"Dropped: {dropped}."]
    return "\n".join(lines) + "\n"


def ratios(data, name, peer):
    tsc, samples = data["machine"]["tsc-hz"], data["samples"].get(name, {})
    return [mpps(a, tsc) / mpps(b, tsc) for a, b in zip(samples.get("trunkline", []), samples.get(peer, []))
            if mpps(b, tsc)]


def goals(data):
    """(what, ratios, at least, aim) of the targets that were measured."""
    found = []
    for name, peer, least, aim in GOALS:
        if r := ratios(data, name, peer):
            found.append((f"{name}: trunkline beside {peer}", r, least, aim))
    for two, one, least, aim in SCALING:
        pairs = [(x, x["one"]) for x in data["samples"].get(two, {}).get("trunkline", []) if "one" in x]
        # What two workers move in a second, to what one moves: each with a core of its own, which is so by the clock
        # only when nobody else wants one; by the CPU time that they had it shows what they cost each other.
        for how, time, workers in (("by CPU time", "cpu-seconds", 2), ("by the clock", "seconds", 1)):
            r = [workers * (x["packets"] / x[time]) / (y["packets"] / y[time]) for x, y in pairs]
            if r:
                found.append((f"{two} beside {one}, {how}", r, least, aim))
    return found


def plots(data, out):
    import plot
    tsc = data["machine"]["tsc-hz"]
    groups = [(s["scenario"], {p: [mpps(x, tsc) for x in v] for p, v in data["samples"][s["scenario"]].items()})
              for s in data["scenarios"]]
    plot.bars(f"{out}.svg", "The engine alone, one core", "Mpps for each CPU-second", groups)


def growth_report(data):
    lines = [common.described(data["machine"]), "", "Cycles of the time stamp counter for a packet, median of "
             f"{min(data['rounds'], 3)} (lowest–highest), by CPU time of the worker.", "", f"    {data['command']}", ""]
    for c in data["curves"]:
        fixed = f" ({' '.join(c['fixed'])})" if c["fixed"] else ""
        lines += [f"**{c['what']}**, {c['scenario']}{fixed}", "",
                  f"| {c['what']} | " + " | ".join(f"{p['value']:,}" for p in c["points"]) + " |",
                  "|---|" + "---|" * len(c["points"]),
                  "| cycles | " + " | ".join(common.spread(p["cycles"]) for p in c["points"]) + " |",
                  "| Mpps in all | " + " | ".join(f"{p['mpps']:.3g}" for p in c["points"]) + " |", ""]
    return "\n".join(lines)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--binary", default="target/release/trunkline")
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--seconds", type=float, default=0.6, help="length of one measurement")
    p.add_argument("--quick", action="store_true", help="2 rounds of 0.2 s")
    p.add_argument("--only", help="scenarios, comma-separated: see trunkline bench engine --list")
    p.add_argument("--peers", help="peers, comma-separated: ovs-dpdk, testpmd")
    p.add_argument("--growth", action="store_true", help="how cost grows, instead of the comparison")
    p.add_argument("--out", help="write OUT.md, OUT.json and plots OUT*.svg")
    args = p.parse_args()
    args.binary = os.path.abspath(args.binary)
    if args.quick:
        args.rounds, args.seconds = 2, 0.2
    listed = json.loads(common.run([args.binary, "bench", "engine", "--list", "--json"]))
    wanted = args.only.split(",") if args.only else [s["scenario"] for s in listed]
    if unknown := [n for n in wanted if n not in {s["scenario"] for s in listed}]:
        p.error(f"{', '.join(unknown)}: no such scenario")
    scenarios = [s for s in listed if s["scenario"] in wanted and s["workers"] <= os.cpu_count()]
    data = {"machine": common.machine(args.binary), "rounds": args.rounds, "seconds": args.seconds,
            "command": "bench/engine/run " + " ".join(sys.argv[1:])}
    args.tsc = data["machine"]["tsc-hz"]
    if args.growth:
        progress = common.Progress(sum(len(lines) for _, lines in GROWTH))
        data["curves"] = growth(args, progress)
    else:
        progress = common.Progress(len(scenarios) * args.rounds)
        data |= {"scenarios": scenarios, **compare(args, scenarios, progress)}
    common.measured(data["machine"])
    text = growth_report(data) if args.growth else report(data)
    print(text)
    if args.out:
        common.write(args.out, text, data)
        if args.growth:
            import plot
            plot.growth(args.out, data["curves"])
        else:
            plots(data, args.out)


if __name__ == "__main__":
    main()

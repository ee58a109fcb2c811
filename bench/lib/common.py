"""What the comparisons share: the machine, progress, medians, tables and files."""

import datetime
import json
import os
import statistics
import subprocess
import sys
import time


def run(command, timeout=60):
    """Runs a command and returns what it printed; the error, whole, when it fails."""
    p = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=timeout)
    if p.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}: {p.stderr.strip() or p.stdout.strip()}")
    return p.stdout


def machine(binary):
    """What figures depend on."""
    m = {"cpu": "?", "cpus": os.cpu_count(), "kernel": os.uname().release, "load": os.getloadavg()[0],
         "date": datetime.date.today().isoformat(), "tsc-hz": tsc_hz(), "ticks": ticks()}
    with open("/proc/sys/net/ipv4/tcp_congestion_control") as f:
        m["congestion-control"] = f.read().strip()
    with open("/proc/cpuinfo") as f:
        for line in f:
            if line.startswith("model name"):
                m["cpu"] = line.split(":", 1)[1].strip()
                break
    with open("/proc/meminfo") as f:
        m["memory-mib"] = int(f.readline().split()[1]) // 1024
    with open("/etc/os-release") as f:
        m["system"] = next((l.split("=", 1)[1].strip().strip('"') for l in f if l.startswith("PRETTY_NAME")), "?")
    try:
        m["trunkline"] = run([binary, "--version"]).strip()
        m["tsc-hz"] = json.loads(run([binary, "bench", "engine", "l2-1-flow", "--json", "--seconds", "0.05",
                                      "--rounds", "1"]))["machine"]["tsc-hz"]
    except (RuntimeError, KeyError, ValueError):
        pass
    return m


def ticks():
    """Of all CPUs so far: those that the hypervisor gave to others, and all."""
    with open("/proc/stat") as f:
        v = [int(x) for x in f.readline().split()[1:9]]
    return v[7], sum(v)


def measured(m):
    """Adds what is known once all is measured."""
    (stolen, all_), now = m.pop("ticks"), ticks()
    m["stolen"] = (now[0] - stolen) / max(now[1] - all_, 1)


def tsc_hz():
    """As the kernel tells; the binary measures it better."""
    with open("/proc/cpuinfo") as f:
        for line in f:
            if line.startswith("cpu MHz"):
                return float(line.split(":")[1]) * 1e6
    return 1e9


def described(m):
    busy = f" The load was {m['load']:.1f} when it began." if m["load"] >= 0.5 else ""
    stolen = f" The hypervisor kept {m['stolen']:.0%} of the CPUs' time." if m["stolen"] >= 0.01 else ""
    return (f"Machine: {m['cpus']} × {m['cpu']} (time stamp counter {m['tsc-hz'] / 1e9:.2f} GHz), "
            f"{m['memory-mib'] / 1024:.0f} GiB, {m['system']}, Linux {m['kernel']}, {m.get('trunkline', '?')}, "
            f"TCP's congestion control {m['congestion-control']}, {m['date']}.{busy}{stolen}")


class Progress:
    """Says what was measured and how long it will take."""

    def __init__(self, steps):
        self.steps, self.done, self.start = max(steps, 1), 0, time.monotonic()

    def say(self, text):
        percent = 100 * self.done / self.steps
        left = (time.monotonic() - self.start) * (self.steps - self.done) / self.done if self.done else None
        rest = f", {left:3.0f} s left" if left is not None else ""
        print(f"[{percent:3.0f} %{rest}] {text}", file=sys.stderr, flush=True)

    def step(self):
        self.done += 1


def good(values):
    """Those that are numbers."""
    return [v for v in values if v is not None and v == v]


def spread(values):
    """Median (lowest–highest)."""
    values = good(values)
    if not values:
        return "failed"
    return f"{number(statistics.median(values))} ({number(min(values))}–{number(max(values))})"


def number(value):
    """Three digits that count, without an exponent."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def goal_table(goals):
    """(what, ratios of the rounds, at least, aim), as a table; ratios are such that more is better, unless `least`
    is written as a most: a negative number."""
    if not goals:
        return []
    lines = ["| target | at least | aim | median ratio (lowest–highest) | |", "|---|---|---|---|---|"]
    for what, ratios, least, aim in goals:
        median = statistics.median(ratios) if ratios else None
        most = (least or aim) < 0

        def reached(bound):
            return median is not None and (median <= -bound if most else median >= bound)

        def text(bound):
            return "" if bound is None else f"{'≤' if most else '≥'} {abs(bound)}"

        if least is not None and not reached(least):
            verdict = "**missed**"
        elif aim is not None and reached(aim):
            verdict = "aim met"
        else:
            verdict = "met" if least is not None else "aim missed"
        found = f"×{median:.2f} ({min(ratios):.2f}–{max(ratios):.2f})" if ratios else "failed"
        lines.append(f"| {what} | {text(least)} | {text(aim)} | {found} | {verdict} |")
    return lines


def write(out, text, data):
    os.makedirs(os.path.dirname(os.path.abspath(out)), exist_ok=True)
    with open(out + ".json", "w") as f:
        json.dump(data, f, indent=1)
        f.write("\n")
    with open(out + ".md", "w") as f:
        f.write(text)

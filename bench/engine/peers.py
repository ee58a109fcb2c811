"""The other engines: Open vSwitch with DPDK, and testpmd, which only forwards, as the floor.

Both play the same frames from a pcap file held in memory (net_pcap, infinite_rx: each frame is copied into a fresh
buffer) to nowhere (net_null). They spin, so they are stopped (SIGSTOP) while they are not measured.
"""

import glob
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time

CPU = 1
OVS = "/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk"
# Most packet buffers that Open vSwitch makes for one size of frame (MAX_NB_MBUF of its netdev-dpdk.c).
OVS_BUFFERS = 262_144


class Unable(Exception):
    """A peer cannot do this; says why."""


def run(command, timeout=60, **kw):
    p = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=timeout, **kw)
    if p.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}: {p.stderr.strip()[-300:] or p.stdout.strip()[-300:]}")
    return p.stdout


def thread_seconds(pid, pattern):
    """CPU time of the process's threads of this name, in seconds."""
    total = 0
    for task in glob.glob(f"/proc/{pid}/task/*"):
        try:
            with open(f"{task}/comm") as f:
                if not re.match(pattern, f.read()):
                    continue
            with open(f"{task}/schedstat") as f:
                total += int(f.read().split()[0])
        except FileNotFoundError:
            pass
    return total / 1e9


class Hugepages:
    """Reserves 2 MiB pages, and gives them back."""

    PATH = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"

    def __init__(self, pages):
        with open(self.PATH) as f:
            self.before = int(f.read())
        self.mounted = False
        if self.before < pages:
            self.write(pages)
        with open(self.PATH) as f:
            got = int(f.read())
        if got < pages:
            self.write(self.before)
            raise RuntimeError(f"only {got} of {pages} hugepages of 2 MiB can be had")
        with open("/proc/mounts") as f:
            if " /dev/hugepages hugetlbfs" not in f.read():
                os.makedirs("/dev/hugepages", exist_ok=True)
                run(["mount", "-t", "hugetlbfs", "none", "/dev/hugepages"])
                self.mounted = True

    def write(self, pages):
        with open(self.PATH, "w") as f:
            f.write(str(pages))

    def release(self):
        if self.mounted:
            run(["umount", "/dev/hugepages"])
        self.write(self.before)


class Process:
    """One that spins: stopped but while it is measured."""

    def __init__(self, process):
        self.process, self.pid = process, process.pid

    def go(self):
        os.kill(self.pid, signal.SIGCONT)
        self.schedule(os.SCHED_OTHER)

    def halt(self, spinning=None):
        """Stops it; or, with the name of its spinning threads, lets these have what CPU time is left over."""
        if spinning:
            self.schedule(os.SCHED_IDLE, spinning)
        else:
            os.kill(self.pid, signal.SIGSTOP)

    def schedule(self, policy, names=""):
        for task in glob.glob(f"/proc/{self.pid}/task/*"):
            with open(f"{task}/comm") as f:
                if re.match(names, f.read()):
                    os.sched_setscheduler(int(os.path.basename(task)), policy, os.sched_param(0))

    def end(self):
        self.go()
        self.process.terminate()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Testpmd:
    """What DPDK needs to take a frame, change its MAC addresses, and send it."""

    name = "testpmd"

    @staticmethod
    def unavailable():
        return None if shutil.which("dpdk-testpmd") else "dpdk-testpmd is not installed (apt: dpdk)"

    def __init__(self):
        self.process = None

    def start(self, scenario, pcap):
        if scenario["scenario"] not in ("l2-1-flow", "l2-1-flow-mixed", "l2-1k-flows", "l2-10k-flows",
                                        "l2-10k-flows-mixed", "l2-100k-macs", "l2-1m-flows"):
            raise Unable("it only forwards")
        frames = max(scenario["flows"], scenario["macs"])
        size, buffers = (512, frames + 20_000) if frames > 50_000 else (2176, frames + 20_000)
        self.process = Process(subprocess.Popen(
            ["stdbuf", "-oL", "dpdk-testpmd", "-l", f"0,{CPU}", "--no-pci", "--in-memory", "--no-telemetry",
             f"--vdev=net_pcap0,rx_pcap={pcap},infinite_rx=1", "--vdev=net_null0,no-rx=1", "--",
             "--interactive", "--forward-mode=mac", f"--total-num-mbufs={buffers}", f"--mbuf-size={size}",
             "--nb-cores=1"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1))
        self.ask("start", "mac packet forwarding packets/burst")
        self.packets()

    def ask(self, command, answer):
        """What it says to a command, as far as this expression matches."""
        p = self.process.process
        p.stdin.write(command + "\n")
        p.stdin.flush()
        last = ""
        while line := p.stdout.readline():
            if m := re.search(answer, line):
                return m
            last = line.strip() or last
        raise Unable(f"testpmd has ended: {last}")

    def packets(self):
        return int(self.ask("show port stats 1", r"TX-packets:\s*(\d+)")[1])

    def measure(self, seconds):
        self.process.go()
        time.sleep(0.2)
        before, cpu = self.packets(), thread_seconds(self.process.pid, f"(rte|lcore)-worker-{CPU}")
        time.sleep(seconds)
        packets = self.packets() - before
        cpu = thread_seconds(self.process.pid, f"(rte|lcore)-worker-{CPU}") - cpu
        self.process.halt()
        return {"packets": packets, "cpu-seconds": cpu}

    def stop(self):
        if self.process:
            self.process.end()
            self.process = None


class Ovs:
    """Open vSwitch's userspace datapath with DPDK, one polling thread."""

    name = "ovs-dpdk"

    @staticmethod
    def unavailable():
        return None if os.path.exists(OVS) else "openvswitch-switch-dpdk is not installed"

    def __init__(self):
        self.home = tempfile.mkdtemp(prefix="tl-bench-ovs-")
        self.db, self.control = f"unix:{self.home}/db.sock", f"{self.home}/ctl"
        self.ports = []
        env = dict(os.environ, OVS_RUNDIR=self.home, OVS_LOGDIR=self.home, OVS_DBDIR=self.home)
        run(["ovsdb-tool", "create", f"{self.home}/conf.db", "/usr/share/openvswitch/vswitch.ovsschema"])
        self.server = subprocess.Popen(
            ["ovsdb-server", f"{self.home}/conf.db", f"--remote=p{self.db}", f"--unixctl={self.home}/db.ctl"],
            env=env, stderr=subprocess.DEVNULL)
        self.process = None
        try:
            while not os.path.exists(f"{self.home}/db.sock"):
                time.sleep(0.05)
            self.vsctl("--no-wait", "init")
            settings = {"dpdk-init": "true", "dpdk-extra": "--no-pci --in-memory --no-telemetry",
                        "pmd-cpu-mask": hex(1 << CPU), "dpdk-lcore-mask": "0x1", "dpdk-socket-mem": "600",
                        "dpdk-socket-limit": "800"}
            self.vsctl("--no-wait", "set", "Open_vSwitch", ".",
                       *(f'other_config:{k}="{v}"' for k, v in settings.items()))
            log = open(f"{self.home}/vs.log", "w")
            self.process = Process(subprocess.Popen(
                [OVS, self.db, f"--unixctl={self.control}"], env=env, stdout=log, stderr=log))
            # Its table has 8,192 addresses if nothing is said.
            self.vsctl("add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=netdev",
                       "other_config:mac-table-size=250000")
        except Exception:
            self.close()
            raise

    def vsctl(self, *args):
        return run(["ovs-vsctl", f"--db={self.db}", "--timeout=30", *args])

    def appctl(self, *args):
        return run(["ovs-appctl", "--timeout=30", "-t", self.control, *args])

    def ofctl(self, command, bridge, *args):
        return run(["ovs-ofctl", "--timeout=30", command, f"unix:{self.home}/{bridge}.mgmt", *args])

    def add(self, bridge, name, devargs, *settings):
        self.vsctl("add-port", bridge, name, "--", "set", "interface", name, "type=dpdk",
                   f'options:dpdk-devargs="{devargs}"', *settings)
        self.ports.append((bridge, name))
        error = self.vsctl("get", "interface", name, "error").strip()
        if error != "[]":
            raise Unable(error.strip('"'))

    def replay(self, bridge, pcap, *settings, infinite=1):
        self.add(bridge, "in0", f"net_pcap0,rx_pcap={pcap},infinite_rx={infinite}", *settings)

    def null(self, bridge, *settings):
        self.add(bridge, "out0", "net_null0,no-rx=1", *settings)

    def start(self, scenario, pcap):
        """Sets up what the scenario asks for."""
        name, frames = scenario["scenario"], max(scenario["flows"], scenario["macs"])
        if scenario["workers"] != 1:
            raise Unable("measured with one worker")
        if frames > OVS_BUFFERS - 20_000:
            raise Unable("net_pcap holds every frame in a packet buffer, and Open vSwitch makes 262,144 at most")
        self.process.go()
        self.out, self.once = ("br0", "out0"), None
        # Stopped for a moment, it takes itself for too slow to look after so many flows, and gives most up.
        self.spinning = "pmd-c" if scenario["macs"] > 10_000 else None
        kind, _, what = name.partition("-")
        if kind == "l2":
            self.null("br0")
            self.replay("br0", pcap)
            self.appctl("fdb/add", "br0", "out0", "0", "02:00:20:00:00:00")
            if scenario["macs"] > 10_000:
                self.settle(scenario["macs"])
        elif kind == "vlan":
            push = what == "push"
            tagged, plain = ("trunks=10", "tag=10")
            self.null("br0", "--", "set", "port", "out0", tagged if push else plain)
            self.replay("br0", pcap, "--", "set", "port", "in0", plain if push else tagged)
            self.appctl("fdb/add", "br0", "out0", "10", "02:00:20:00:00:00")
        elif kind in ("vxlan", "gre"):
            self.tunnel(kind, what == "encap", pcap)
        elif kind == "nat":
            self.null("br0")
            self.vsctl("set", "interface", "out0", "ofport_request=2")
            port = self.vsctl("get", "interface", "out0", "ofport").strip()
            nat = "nat(src=192.0.2.10:1024-65535)"
            self.flows("br0", "table=0,udp,actions=ct(table=1,nat)",
                       f"table=1,ct_state=+new,udp,actions=ct(commit,{nat}),output:{port}",
                       f"table=1,ct_state=-new+est,udp,actions=output:{port}")
            if what == "new":
                self.once = pcap
            else:
                self.replay("br0", pcap)
                self.establish(frames)
                # A connection of which one side has spoken stays new to it, so that it would be committed each time.
                self.flows("br0", "table=0,udp,actions=ct(table=1,nat)", f"table=1,udp,actions=output:{port}")
        if not self.once:
            time.sleep(1)
            if not self.sent():
                raise Unable("nothing comes out")
        self.process.halt(self.spinning)

    def tunnel(self, kind, encap, pcap):
        """The tunnel's underlay is a bridge of its own with our address, as its documents say
        (Documentation/howto/userspace-tunneling)."""
        mac = "02:00:30:00:00:00"
        self.vsctl("add-br", "phy", "--", "set", "bridge", "phy", "datapath_type=netdev",
                   f'other_config:hwaddr="{mac}"')
        run(["ip", "address", "add", "198.18.0.1/16", "dev", "phy"])
        run(["ip", "link", "set", "phy", "up"])
        self.vsctl("add-port", "br0", "tun0", "--", "set", "interface", "tun0", f"type={kind}",
                   "options:remote_ip=198.18.0.2", "options:local_ip=198.18.0.1",
                   f"options:key={77 if kind == 'vxlan' else 7}")
        self.appctl("tnl/neigh/set", "phy", "198.18.0.2", "02:00:30:01:00:00")
        if encap:
            self.null("phy")
            self.out = ("phy", "out0")
            self.appctl("fdb/add", "phy", "out0", "0", "02:00:30:01:00:00")
            self.replay("br0", pcap)
            self.appctl("fdb/add", "br0", "tun0", "0", "02:00:20:00:00:00")
        else:
            self.null("br0")
            self.replay("phy", pcap)
            self.appctl("fdb/add", "br0", "out0", "0", "02:00:20:00:00:00")

    def settle(self, addresses):
        """Waits until it has a flow for each address, or makes no more."""
        known, since = 0, time.monotonic()
        while known < addresses and time.monotonic() - since < 3:
            time.sleep(0.5)
            now = int(re.search(r"flows\s*:\s*\(current (\d+)\)", self.appctl("upcall/show"))[1])
            if now > known:
                known, since = now, time.monotonic()

    def establish(self, connections):
        """Waits until so many are known."""
        for _ in range(100):
            found = int(self.appctl("dpctl/ct-get-nconns").split()[0])
            if found >= connections:
                return
            time.sleep(0.1)
        raise Unable(f"only {found} of {connections} connections were made")

    def flows(self, bridge, *flows):
        self.ofctl("del-flows", bridge)
        for flow in flows:
            self.ofctl("add-flow", bridge, flow)

    def sent(self):
        """Packets that have left by the null port."""
        text = self.ofctl("dump-ports", self.out[0], self.out[1])
        return int(re.search(r"tx pkts=(\d+)", text)[1])

    def measure(self, seconds):
        self.process.go()
        if self.once:
            return self.measure_new()
        time.sleep(0.3)
        before, cpu = self.sent(), thread_seconds(self.process.pid, "pmd-c")
        time.sleep(seconds)
        packets, cpu = self.sent() - before, thread_seconds(self.process.pid, "pmd-c") - cpu
        self.process.halt(self.spinning)
        return {"packets": packets, "cpu-seconds": cpu}

    def measure_new(self):
        """Plays every frame once, from the file; the time is what the polling thread spent on packets, by its own
        count of cycles."""
        self.appctl("dpctl/flush-conntrack")
        self.appctl("dpif-netdev/pmd-stats-clear")
        before, start, cpu = self.sent(), time.monotonic(), thread_seconds(self.process.pid, "pmd-c")
        self.replay("br0", self.once, infinite=0)
        packets = 0
        for _ in range(50):
            time.sleep(0.1)
            now = self.sent() - before
            if now == packets and now:
                break
            packets = now
        text = self.appctl("dpif-netdev/pmd-stats-show")
        cycles = max(float(c) for c in re.findall(r"avg processing cycles per packet: ([\d.]+)", text))
        # It counts on while others have its CPU.
        cycles *= min((thread_seconds(self.process.pid, "pmd-c") - cpu) / (time.monotonic() - start), 1)
        self.remove("in0")
        self.process.halt()
        return {"packets": packets, "cycles": cycles}

    def remove(self, port):
        for bridge, name in [p for p in self.ports if p[1] == port]:
            self.vsctl("del-port", bridge, name)
            self.ports.remove((bridge, name))

    def stop(self):
        """Takes down the scenario."""
        self.process.go()
        for name in ("in0", "out0"):
            self.remove(name)
        self.vsctl("--if-exists", "del-port", "tun0", "--", "--if-exists", "del-br", "phy")
        self.flows("br0", "actions=NORMAL")
        self.appctl("fdb/flush", "br0")
        self.process.halt()

    def close(self):
        if self.process:
            self.process.end()
        self.server.terminate()
        self.server.wait()
        shutil.rmtree(self.home, ignore_errors=True)

"""The switches that are compared. Each one joins two namespaces, a and b, in a third of its own."""

import os
import shutil
import subprocess
import tempfile
import time


def run(command, check=True, timeout=30):
    """Runs a command and returns what it printed; the error, whole, when it fails."""
    try:
        p = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        raise TimeoutError(" ".join(command))
    if check and p.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {p.stderr.strip() or p.stdout.strip()}")
    return p.stdout


class Netns:
    """A network namespace by name."""

    def __init__(self, name):
        self.name = name
        run(["ip", "netns", "add", name])
        self.run(["ip", "link", "set", "lo", "up"])

    def run(self, command, **kw):
        return run(["ip", "netns", "exec", self.name, *command], **kw)

    def popen(self, command, **kw):
        kw.setdefault("stdout", subprocess.DEVNULL)
        kw.setdefault("stderr", subprocess.DEVNULL)
        return subprocess.Popen(["ip", "netns", "exec", self.name, *command], **kw)

    def delete(self):
        run(["ip", "netns", "del", self.name], check=False)


class Peer:
    """What all of them share."""

    ip_a, ip_b = "10.77.0.1", "10.77.0.2"

    def __init__(self, name, binary):
        self.name, self.binary, self.processes = name, binary, []
        self.dir = None

    def unavailable(self):
        """Why it cannot run here; None if it can."""
        return None

    def start(self):
        self.dir = tempfile.mkdtemp(prefix=f"tl-bench-{self.name}-")
        self.switch = Netns(f"{self.name}-sw")
        self.a, self.b = Netns(f"{self.name}-a"), Netns(f"{self.name}-b")
        self.connect()
        deadline = time.monotonic() + 10
        while "1 received" not in self.a.run(["ping", "-c1", "-W1", self.ip_b], check=False):
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.name}: the containers do not reach each other")

    def connect(self):
        raise NotImplementedError

    def pids(self):
        """The processes that carry packets; none where the kernel does."""
        return []

    def switch_seconds(self):
        """CPU time that they have had; None without any."""
        total = 0
        for pid in self.pids():
            with open(f"/proc/{pid}/stat") as f:
                v = f.read().rsplit(")", 1)[1].split()
            total += (int(v[11]) + int(v[12])) / os.sysconf("SC_CLK_TCK")
        return total or None

    def veth(self, ns, port, address, switch=None):
        """A veth pair: eth0 in the container, `port` in the switch's namespace."""
        switch = switch or self.switch
        switch.run(["ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", ns.name])
        switch.run(["ip", "link", "set", port, "up"])
        ns.run(["ip", "address", "add", f"{address}/24", "dev", "eth0"])
        ns.run(["ip", "link", "set", "eth0", "up"])

    def stop(self):
        for p in self.processes:
            p.terminate()
        for p in self.processes:
            try:
                p.wait(5)
            except subprocess.TimeoutExpired:
                p.kill()
        for ns in (getattr(self, n, None) for n in ("a", "b", "switch", "switch_b")):
            if ns:
                ns.delete()
        if self.dir:
            shutil.rmtree(self.dir, ignore_errors=True)


class Bridge(Peer):
    """The kernel's bridge with veths."""

    def connect(self):
        # Netfilter on bridges would be measured otherwise, if docker has switched it on.
        self.switch.run(["sysctl", "-qw", "net.bridge.bridge-nf-call-iptables=0"], check=False)
        self.switch.run(["ip", "link", "add", "br0", "type", "bridge"])
        self.switch.run(["ip", "link", "set", "br0", "up"])
        for ns, port, ip in ((self.a, "va", self.ip_a), (self.b, "vb", self.ip_b)):
            self.veth(ns, port, ip)
            self.switch.run(["ip", "link", "set", port, "master", "br0"])


class Ovs(Peer):
    """Open vSwitch's userspace datapath with veths. Its default cannot carry TCP between containers whose
    offloads are left on, so that variant switches them off, as its documents advise."""

    tso = False

    def unavailable(self):
        return None if shutil.which("ovs-vswitchd") or os.path.exists("/usr/sbin/ovs-vswitchd") else \
            "openvswitch-switch is not installed"

    def start_ovs(self, switch):
        """Starts Open vSwitch in a namespace, and returns how to configure it."""
        home = f"{self.dir}/{switch.name}"
        os.mkdir(home)
        db, sock = f"{home}/conf.db", f"unix:{home}/db.sock"
        env = dict(os.environ, OVS_RUNDIR=home, OVS_LOGDIR=home, OVS_DBDIR=home)
        run(["ovsdb-tool", "create", db, "/usr/share/openvswitch/vswitch.ovsschema"])
        self.processes.append(switch.popen(
            ["ovsdb-server", db, f"--remote=p{sock}", f"--unixctl={home}/db.ctl"], env=env))
        while not os.path.exists(f"{home}/db.sock"):
            time.sleep(0.05)

        def vsctl(*args):
            return switch.run(["ovs-vsctl", f"--db={sock}", "--timeout=20", *args])

        vsctl("--no-wait", "init")
        if self.tso:
            vsctl("--no-wait", "set", "Open_vSwitch", ".", "other_config:userspace-tso-enable=true")
        self.processes.insert(0, switch.popen(["ovs-vswitchd", sock, f"--unixctl={home}/vs.ctl"], env=env))
        # `ip netns exec` becomes the program.
        self.vswitchd = self.processes[0].pid
        vsctl("add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=netdev")
        return vsctl

    def connect(self):
        vsctl = self.start_ovs(self.switch)
        for ns, port, ip in ((self.a, "va", self.ip_a), (self.b, "vb", self.ip_b)):
            self.veth(ns, port, ip)
            if not self.tso:
                ns.run(["ethtool", "-K", "eth0", "tx", "off"])
            vsctl("add-port", "br0", port)

    def pids(self):
        return [self.vswitchd]


class OvsTso(Ovs):
    tso = True


class Daemon:
    """A Trunkline daemon in a namespace."""

    def __init__(self, binary, home, switch, args=()):
        self.binary, self.home = binary, home
        os.makedirs(home, exist_ok=True)
        log = open(f"{home}/log", "w")
        # Not through `ip netns exec`, which would unmount the namespace names from the daemon's view.
        self.process = subprocess.Popen(
            ["nsenter", f"--net=/run/netns/{switch.name}", binary, "--run-dir", f"{home}/run",
             "--state-dir", f"{home}/state", "daemon", *args], stdout=log, stderr=log)
        deadline = time.monotonic() + 10
        while not os.path.exists(f"{home}/run/trunkline.sock"):
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise RuntimeError("the daemon does not start: " + open(f"{home}/log").read())
            time.sleep(0.05)

    def cli(self, *args):
        return run([self.binary, "--run-dir", f"{self.home}/run", *args])

    def stop(self):
        try:
            self.cli("stop", "--release")
            self.process.wait(5)
        except (RuntimeError, TimeoutError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait()


class Trunkline(Peer):
    """This project, containers on TAPs as `trunkline port add --netns` makes them, offloads as they come."""

    daemon_args = []

    def __init__(self, name, binary):
        super().__init__(name, binary)
        self.daemons = []

    def unavailable(self):
        return None if os.path.exists(self.binary) else f"{self.binary} is not built"

    def start_daemon(self, switch=None):
        self.dir = self.dir or tempfile.mkdtemp(prefix=f"tl-bench-{self.name}-")
        if not hasattr(self, "switch"):
            self.switch = Netns(f"{self.name}-sw")
        switch = switch or self.switch
        daemon = Daemon(self.binary, f"{self.dir}/{switch.name}", switch, self.daemon_args)
        self.daemons.append(daemon)
        return daemon

    def connect(self):
        cli = self.start_daemon().cli
        cli("bridge", "add", "br0")
        for ns, port, ip in ((self.a, "pa", self.ip_a), (self.b, "pb", self.ip_b)):
            cli("port", "add", "br0", port, "--type", "tap", "--netns", ns.name, "--ifname", "eth0",
                "--address", f"{ip}/24")

    def pids(self):
        return [daemon.process.pid for daemon in self.daemons]

    def stop(self):
        for daemon in self.daemons:
            daemon.stop()
        super().stop()


class TrunklineVeth(Trunkline):
    """This project on veths, through AF_PACKET."""

    def connect(self):
        cli = self.start_daemon().cli
        cli("bridge", "add", "br0")
        for ns, port, ip in ((self.a, "va", self.ip_a), (self.b, "vb", self.ip_b)):
            self.veth(ns, port, ip)
            cli("port", "add", "br0", port, "--type", "afpacket", "--interface", port)


class TrunklinePinned(Trunkline):
    """The same, with its worker pinned to the last CPU."""

    daemon_args = ["--pin"]


PEERS = {"bridge": Bridge, "ovs": Ovs, "ovs-tso": OvsTso, "trunkline": Trunkline, "trunkline-veth": TrunklineVeth,
         "trunkline-pinned": TrunklinePinned}

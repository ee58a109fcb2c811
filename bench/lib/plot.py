"""Plots as SVG, by matplotlib: medians with whiskers from the lowest to the highest."""

import statistics
import sys

try:
    import matplotlib
    matplotlib.use("svg")
    # Text as text, and the same file for the same figures.
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "trunkline", "font.size": 9})
    from matplotlib import pyplot
except ImportError:
    pyplot = None


def missing():
    print("no plots: matplotlib is not installed (apt: python3-matplotlib)", file=sys.stderr)


def save(figure, path):
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def whiskers(values):
    median = statistics.median(values)
    return median, median - min(values), max(values) - median


def bars(path, title, unit, groups, columns=3):
    """One small chart for each group (its name, {peer: values}): they have different scales."""
    if pyplot is None:
        return missing()
    groups = [(name, {p: [v for v in values if v == v] for p, values in peers.items()}) for name, peers in groups]
    groups = [(name, {p: v for p, v in peers.items() if v}) for name, peers in groups]
    groups = [(name, peers) for name, peers in groups if peers]
    if not groups:
        return None
    names = list(dict.fromkeys(p for _, peers in groups for p in peers))
    colours = {n: f"C{i % 10}" for i, n in enumerate(names)}
    rows = -(-len(groups) // columns)
    figure, axes = pyplot.subplots(rows, columns, figsize=(4.2 * columns, (0.9 + 0.27 * len(names)) * rows),
                                   squeeze=False)
    for axis in axes.flat[len(groups):]:
        axis.axis("off")
    for axis, (name, peers) in zip(axes.flat, groups):
        shown = list(reversed(peers))
        points = [whiskers(peers[p]) for p in shown]
        errors = [[p[1] for p in points], [p[2] for p in points]]
        axis.barh(shown, [p[0] for p in points], xerr=errors, color=[colours[p] for p in shown], capsize=2, height=0.7)
        axis.set_title(name, fontsize=9)
        axis.set_xlim(left=0)
        axis.grid(axis="x", alpha=0.3)
    figure.suptitle(f"{title}: {unit}, median, lowest to highest", fontsize=10)
    return save(figure, path)


def growth(out, curves):
    """One file for each thing that grows."""
    if pyplot is None:
        return missing()
    for what in dict.fromkeys(c["what"] for c in curves):
        figure, axis = pyplot.subplots(figsize=(5.4, 3.4))
        for c in (c for c in curves if c["what"] == what):
            field = "values" if "values" in c["points"][0] else "cycles"
            points = [whiskers(p[field]) for p in c["points"]]
            xs = [p["value"] for p in c["points"]]
            axis.errorbar(xs, [p[0] for p in points], yerr=[[p[1] for p in points], [p[2] for p in points]],
                          label=c["scenario"], marker="o", markersize=3, capsize=2)
        if max(p["value"] for c in curves if c["what"] == what for p in c["points"]) > 20:
            axis.set_xscale("symlog", linthresh=1)
        axis.set_xlabel(what)
        axis.set_ylabel(next((c.get("unit") for c in curves if c["what"] == what), None) or "cycles for a packet")
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
        save(figure, f"{out}-{what.lower().replace(' ', '-')}.svg")
    return None

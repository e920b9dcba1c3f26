"""The numbers of results/convergence_{small,nano}.md, as Markdown, from the tables of a study.

    python benches/convergence.py results/convergence_small gpt2_convergence_small
    python benches/convergence.py results/convergence_nano gpt2_convergence_nano

A batch of n tokens and the largest, of N, differ by the error of the smaller one times sqrt(1 - n/N) if the smaller one is
part of the larger, times sqrt(1 + n/N) if they are independent samples (the runs seed-*, which permute the windows anew).
"""

import math
import sys
from collections import defaultdict

import numpy
import pyarrow.dataset

STATISTICS = {
    "trace": "trace",
    "Frobenius norm": "frobenius",
    "smallest eigenvalue": "lambda_min",
    "largest eigenvalue": "lambda_max",
}


def read(url, table):
    rows = pyarrow.dataset.dataset(f"{url}/{table}", format="parquet", partitioning="hive").to_table().to_pylist()
    return sorted(rows, key=lambda row: row.get("tokens", 0))


def scores(rows, largest, column, independent):
    for row in rows:
        n, top = row["tokens"], largest[row["block"]]
        if n == top["tokens"]:
            continue
        ratio = n / top["tokens"]
        spread = row[f"{column}_error"] * math.sqrt(1 + ratio if independent else 1 - ratio)
        yield n, (row[column] - top[column]) / spread


def share(values, most):
    return sum(abs(value) <= most for value in values) / len(values)


def coverage(title, rows, largest, independent):
    print(f"\n{title}\n")
    print("| statistic | differences | within 1 error | within 2 errors | mean, in errors |")
    print("|---|---|---|---|---|")
    for name, column in STATISTICS.items():
        found = [score for _, score in scores(rows, largest, column, independent)]
        mean = sum(found) / len(found)
        print(f"| {name} | {len(found)} | {share(found, 1):.0%} | {share(found, 2):.0%} | {mean:+.2f} |")


def by_size(rows, largest, independent):
    print("\n| tokens | " + " | ".join(STATISTICS) + " |\n|---|" + "---|" * len(STATISTICS))
    cells = defaultdict(list)
    for name, column in STATISTICS.items():
        for n, score in scores(rows, largest, column, independent):
            cells[n, name].append(score)
    for n in sorted({n for n, _ in cells}):
        line = []
        for name in STATISTICS:
            found = cells[n, name]
            line.append(f"{share(found, 1):.0%}, {share(found, 2):.0%}, {sum(found) / len(found):+.1f}")
        print(f"| {n} | " + " | ".join(line) + " |")


def changes(rows):
    print("\n| block | tokens | W1 from previous | W1 from largest | W1 error | js from largest | js error | largest eigenvalue | noise share |")
    print("|---|---|---|---|---|---|---|---|---|")
    for row in sorted(rows, key=lambda row: row["block"]):
        unit = row["lambda_max"] - row["lambda_min"]
        cell = lambda value, unit=1.0: "" if value is None else f"{value / unit:.2e}"
        values = [cell(row["w1_previous"], unit), cell(row["w1_largest"], unit), cell(row["w1_error"], unit)]
        values += [cell(row["js_largest"]), cell(row["js_error"])]
        values += [f"{row['lambda_max']:.4g} ± {row['lambda_max_error']:.1g}"]
        values += ["" if row["noise_share"] is None else f"{row['noise_share']:.2f}"]
        print(f"| {row['block']} | {row['tokens']} | " + " | ".join(values) + " |")


def laws(rows):
    """error * sqrt(tokens) in spectral ranges, of every batch: constant if it falls as one over the root."""
    print("\n| block | statistic | " + " | ".join(str(n) for n in sorted({row["tokens"] for row in rows})) + " |")
    print("|---|---|" + "---|" * len({row["tokens"] for row in rows}))
    for block in sorted({row["block"] for row in rows}):
        for name, column in [("W1 error", "w1_error"), ("W1 from previous", "w1_previous"), ("error of the extremes", None)]:
            line = []
            for row in (row for row in rows if row["block"] == block):
                error = row[column] if column else max(row["lambda_min_error"], row["lambda_max_error"])
                if error is None:
                    line.append("")
                    continue
                line.append(f"{error / (row['lambda_max'] - row['lambda_min']) * math.sqrt(row['tokens']):.3g}")
            print(f"| {block} | {name} | " + " | ".join(line) + " |")


def frobenius(rows, largest):
    """|H_n| as it is, and without its noise, in units of the largest batch's without noise."""
    sizes = sorted({row["tokens"] for row in rows})
    print("\n| block | " + " | ".join(map(str, sizes)) + " |\n|---|" + "---|" * len(sizes))
    for block, top in sorted(largest.items()):
        unit = top["frobenius"] * math.sqrt(1 - top["noise_share"])
        line = []
        for row in (row for row in rows if row["block"] == block):
            raw, share = row["frobenius"] / unit, row["noise_share"]
            line.append(f"{raw:.2f}" + ("" if share is None else f" → {raw * math.sqrt(max(0.0, 1 - share)):.2f}"))
        print(f"| {block} | " + " | ".join(line) + " |")


def measure(steps, count):
    """Nodes and weights of the first `count` steps of one probe."""
    alpha, beta = (numpy.array([step[column] for step in steps[:count]]) for column in ("alpha", "beta"))
    beside = beta[: count - 1]
    nodes, vectors = numpy.linalg.eigh(numpy.diag(alpha) + numpy.diag(beside, 1) + numpy.diag(beside, -1))
    return nodes, vectors[0] ** 2


def wasserstein(a, b):
    nodes, weights = numpy.concatenate([a[0], b[0]]), numpy.concatenate([a[1], -b[1]])
    order = numpy.argsort(nodes)
    return float(numpy.sum(numpy.abs(numpy.cumsum(weights[order])[:-1]) * numpy.diff(nodes[order])))


def steps_alone(url, name):
    """W1 between the quadratures of m - 1 and m steps on the same batch: what the number of steps leaves open."""
    rows = sorted((row for row in read(url, "tridiagonal") if row["run"] == name), key=lambda row: row["step"])
    probes = defaultdict(list)
    for row in rows:
        probes[row["block"], row["probe"]].append(row)
    print("\n| block | W1 between 19 and 20 steps |\n|---|---|")
    for block in sorted({block for block, _ in probes}):
        of_block = [steps for (name, _), steps in probes.items() if name == block]
        found = []
        for steps in of_block:
            all_steps = measure(steps, len(steps))
            found.append(wasserstein(all_steps, measure(steps, len(steps) - 1)) / numpy.ptp(all_steps[0]))
        print(f"| {block} | {numpy.mean(found):.1e} |")


def main(url, name):
    rows = read(url, "convergence")
    study = [row for row in rows if row["run"] == name]
    others = [row for row in rows if str(row["run"]).startswith("seed-")]
    most = max(row["tokens"] for row in study)
    largest = {row["block"]: row for row in study if row["tokens"] == most}
    changes(study)
    laws(study)
    frobenius(study, largest)
    steps_alone(url, f"{name}-{most}")
    coverage("Nested: each batch is part of the largest.", study, largest, False)
    by_size(study, largest, False)
    if others:
        coverage(f"Independent: {len({row['run'] for row in others})} other permutations of the windows.", others, largest, True)
        by_size(others, largest, True)


main(*sys.argv[1:])

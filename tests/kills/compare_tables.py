"""Are the tables of two runs the same?

    compare_tables.py A B                         bit for bit, but for what the clock says; nothing is left lying about
    compare_tables.py A B --steps 5e-6 --w1 1e-7  alpha and beta in units of a block's max |alpha|, W1 between the measures
                                                  in units of its range

Exit code 0 if so, 1 if not. Needs numpy and pyarrow.
"""

import argparse
import json
import pathlib
import sys

import numpy
import pyarrow.parquet

# Columns that the clock measures.
CLOCK = {"tridiagonal": {"seconds"}, "complement": {"seconds"}}
# All but `runs` (and `metrics`), which say when and where.
TABLES = ["blocks", "tridiagonal", "complement", "nodes", "density", "divergence", "summary", "segments"]


def read(url, table):
    parts = sorted(pathlib.Path(url).glob(f"{table}/run=*/*.parquet"))
    rows = [pyarrow.parquet.read_table(part, partitioning=None) for part in parts]
    return pyarrow.concat_tables(rows)


def sorted_columns(table, leave_out):
    """Columns as arrays of text and of bits, in one order of rows for any order of parts."""
    names = [name for name in table.column_names if name not in leave_out]
    columns = {}
    for name in names:
        column = table.column(name)
        if pyarrow.types.is_float64(column.type):
            missing = numpy.asarray(column.is_null())
            values = numpy.asarray(column.fill_null(0.0))
            columns[name] = [(bool(m), int(bits)) for m, bits in zip(missing, values.view(numpy.int64))]
        else:
            columns[name] = [str(value) for value in column.to_pylist()]
    return names, sorted(zip(*columns.values()))


def check_equal(a, b):
    wrong = []
    for table in TABLES:
        leave_out = CLOCK.get(table, set())
        (names, rows), (_, others) = (sorted_columns(read(url, table), leave_out) for url in (a, b))
        if rows != others:
            different = sum(x != y for x, y in zip(rows, others))
            wrong.append(f"{table} ({', '.join(names)}): {len(rows)} and {len(others)} rows, {different} different")
    return wrong


def check_clean(url):
    """A run that is done has its parts and its bookkeeping, and nothing else."""
    wrong = []
    for runs in pathlib.Path(url).glob("_runs/*"):
        if not (runs / "DONE").exists():
            wrong.append(f"{runs} has no DONE")
            continue
        parts = {part["path"] for part in json.loads((runs / "manifest.json").read_text())["parts"]}
        there = {str(path.relative_to(url)) for path in pathlib.Path(url).glob("*/run=*/*")}
        if parts != there:
            wrong.append(f"{url}: parts that the manifest does not have, or the other way round: {parts ^ there}")
        # a lock says nothing about a run that is done
        kept = {"run.json", "shape.json", "inputs.json", "noise_floors.json", "manifest.json", "DONE", "LOCK"}
        files = {str(path.relative_to(runs)) for path in runs.rglob("*") if path.is_file()}
        left = {name for name in files - kept if not (name.startswith("groups/") and name.endswith(".json"))}
        if left:
            wrong.append(f"{runs}: left behind: {', '.join(sorted(left)[:5])}")
    return wrong


def distance_of_steps(a, b):
    def series(url):
        found = {}
        for row in read(url, "tridiagonal").to_pylist():
            found[row["block"], row["probe"], row["step"]] = (row["alpha"], row["beta"])
        return found

    x, y = series(a), series(b)
    if x.keys() != y.keys():
        return float("inf")
    scale = {}
    for (block, _, _), (alpha, _) in x.items():
        scale[block] = max(scale.get(block, 0.0), abs(alpha))
    return max(abs(p - q) / scale[key[0]] for key in x for p, q in zip(x[key], y[key]))


def distance_of_measures(a, b):
    def measures(url):
        found = {}
        for row in read(url, "nodes").to_pylist():
            found.setdefault(row["block"], []).append((row["node"], row["weight"]))
        return {block: numpy.array(nodes) for block, nodes in found.items()}

    x, y = measures(a), measures(b)
    largest = 0.0
    for block, p in x.items():
        q = y[block]
        nodes = numpy.concatenate([p[:, 0], q[:, 0]])
        weights = numpy.concatenate([p[:, 1] / p[:, 1].sum(), -q[:, 1] / q[:, 1].sum()])
        order = numpy.argsort(nodes, kind="stable")
        height = numpy.cumsum(weights[order])[:-1]
        steps = numpy.diff(nodes[order])
        largest = max(largest, float(numpy.sum(numpy.abs(height) * steps)) / (float(nodes.max() - nodes.min()) or 1.0))
    return largest


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("a")
    parser.add_argument("b")
    parser.add_argument("--steps", type=float)
    parser.add_argument("--w1", type=float)
    arguments = parser.parse_args()
    wrong = check_clean(arguments.a) + check_clean(arguments.b)
    if wrong:
        pass  # there may be no tables
    elif arguments.steps is None:
        wrong += check_equal(arguments.a, arguments.b)
    else:
        steps = distance_of_steps(arguments.a, arguments.b)
        w1 = distance_of_measures(arguments.a, arguments.b)
        print(f"steps {steps:.1e} (at most {arguments.steps:.0e}), W1 {w1:.1e} (at most {arguments.w1:.0e})")
        if not (steps <= arguments.steps and w1 <= arguments.w1):
            wrong.append("they differ by more than that")
    for line in wrong:
        print(f"{arguments.a} and {arguments.b}: {line}")
    sys.exit(1 if wrong else 0)


main()

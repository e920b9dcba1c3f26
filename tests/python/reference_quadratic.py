#!/usr/bin/env python3
"""`hesspec quadratic` against NumPy.

    reference_quadratic.py --dir D --hesspec PATH

Cases 3 and 4 of "Why Transformers Need Adam" (arXiv 2402.16788). The optimizers' losses are computed again from the matrices and
the start that the program wrote; what its thousand trials measured is compared with a thousand of our own, whose orthogonal
matrices come from numpy.linalg.qr: the same distributions by the two-sample Kolmogorov-Smirnov test at a chance of 1e-4 each.

Needs numpy, pyarrow.
"""

import argparse
import pathlib
import subprocess
import sys

import numpy as np
import pyarrow.dataset

REPOSITORY = pathlib.Path(__file__).parents[2]
TRIALS = 1000
ITERATIONS = 3000
GROWTH = 1e4
checks = failures = 0


def check(name, value, limit):
    global checks, failures
    checks += 1
    failures += not value <= limit  # NaN fails
    print(f"{'ok   ' if value <= limit else 'FAIL '} {name}: {value:.3g} (at most {limit:.3g})", flush=True)


def read(folder, table, run):
    return pyarrow.dataset.dataset(folder / table / f"run={run}").to_table().to_pylist()


def losses(matrix, start, optimizer, beta2, rate, rates, count):
    """Loss after 0, 1, ..., count iterations with the whole H as one matrix.

    Shorter where beta2 < 1 and roundings may have grown by GROWTH: there v decays, so that the rate in effect grows until
    iterates jump about, and what two programs find then is as different as two throws of dice."""
    w, found, growth = start.copy(), [], 1.0
    v = (matrix @ w) ** 2
    with np.errstate(all="ignore"):
        for iteration in range(count + 1):
            g = matrix @ w
            found.append(0.5 * w @ g)
            if optimizer in ("gd", "blockwise_gd"):
                w = w - (rate if optimizer == "gd" else rates) * g
            else:
                if iteration > 0:
                    v = beta2 * v + (1 - beta2) * g * g
                if beta2 < 1:
                    largest = np.linalg.eigvalsh(matrix / np.sqrt(np.sqrt(np.outer(v, v))))[-1]
                    growth *= max(1.0, rate * largest - 1.0)
                    if not growth < GROWTH:
                        break
                w = w - rate * g / np.sqrt(v)
    return np.array(found)


def check_paths(folder, run):
    blocks, start, spectra, rows = [], {}, {}, {}
    for row in read(folder, "quadratic_blocks", run):
        if row["block"] not in blocks:
            blocks.append(row["block"])
        start.setdefault(row["block"], []).append(row["start"])
        spectra.setdefault(row["block"], []).append(row["eigenvalue"])
    for row in sorted(read(folder, "dense", run), key=lambda row: row["row"]):
        rows.setdefault(row["block"], []).append(row["values"])
    dim = sum(len(start[block]) for block in blocks)
    matrix, rates, at = np.zeros((dim, dim)), np.zeros(dim), 0
    for block in blocks:
        inside = slice(at, at + len(start[block]))
        matrix[inside, inside] = rows[block]
        rates[inside] = 2 / (min(spectra[block]) + max(spectra[block]))
        found = np.linalg.eigvalsh(matrix[inside, inside])
        check(f"{run}: eigenvalues of {block}", abs(found - spectra[block]).max() / max(spectra[block]), 1e-13)
        at += len(start[block])
    w = np.concatenate([start[block] for block in blocks])
    curves = {}
    for row in read(folder, "quadratic_curves", run):
        curves.setdefault((row["optimizer"], row["beta2"], row["learning_rate"]), []).append(row)
    worst, counts = {}, {}
    for (optimizer, beta2, rate), curve in curves.items():
        count = max(row["iteration"] for row in curve)
        expected = losses(matrix, w, optimizer, beta2, rate, rates, count)
        for row in curve:
            if row["iteration"] >= len(expected):
                continue
            loss, truth = row["loss"], expected[row["iteration"]]
            # below the start's rounding, loss and gradient are sums that cancel
            if truth > 1e-12 * expected[0]:
                counts[beta2] = counts.get(beta2, 0) + 1
                key = optimizer if beta2 in (None, 1) else f"{optimizer}, beta2 = {beta2}"
                worst[key] = max(worst.get(key, 0), abs(loss / truth - 1))
    for key, value in worst.items():
        check(f"{run}: losses of {key}", value, 1e-6)
    check(f"{run}: losses compared of each beta2, one over", 1 / min(counts.values()), 1e-2)
    return blocks, spectra


def own_trials(blocks, spectra, rng):
    found = {}
    for _ in range(TRIALS):
        ends, sizes = [], []
        for block in blocks:
            x = np.array(spectra[block])
            q, r = np.linalg.qr(rng.normal(size=(len(x), len(x))))
            q = q * np.sign(np.diag(r))
            h = (q * x) @ q.T
            g = abs(h @ rng.normal(size=len(x)))
            values = np.linalg.eigvalsh(h / np.sqrt(np.outer(g, g)))
            found.setdefault(("r", block), []).append((g.max() / g.min()) ** 2)
            ratio = values[-1] / values[0] / (x.max() / x.min())
            found.setdefault(("kappa_adam_over_kappa", block), []).append(ratio)
            ends.append((values[0], values[-1]))
            sizes.append((g.min() / x.max(), g.max() / x.max()))
        found.setdefault(("r", None), []).append(max((c / b) ** 2 for b, c in sizes))
        found.setdefault(("r_prime", None), []).append((max(c for _, c in sizes) / min(b for b, _ in sizes)) ** 2)
        found.setdefault(("kappa_adam", None), []).append(max(b for _, b in ends) / min(a for a, _ in ends))
    return {name: np.array(values) for name, values in found.items()}


def distance(a, b):
    """Largest difference of two distribution functions."""
    both = np.sort(np.concatenate([a, b]))
    share = lambda x: np.searchsorted(np.sort(x), both, side="right") / len(x)
    return abs(share(a) - share(b)).max()


def check_statistics(folder, run, blocks, spectra):
    trials = {}
    for row in read(folder, "quadratic_trials", run):
        trials.setdefault((row["quantity"], row["block"]), []).append(row["value"])
    limit = np.sqrt(-np.log(1e-4 / 2) / 2) * np.sqrt(2 / TRIALS)
    for name, values in own_trials(blocks, spectra, np.random.default_rng(1)).items():
        check(f"{run}: distribution of {name[0]} of {name[1] or 'all'}", distance(trials[name], values), limit)
    worst = 0
    for row in read(folder, "quadratic", run):
        values = np.array([np.inf if x is None else x for x in trials[row["quantity"], row["block"]]])
        if np.isfinite(values).all():
            quartiles = np.quantile(values, [0.25, 0.5, 0.75])
            for column, truth in zip(
                ["lower_quartile", "median", "upper_quartile", "mean", "max"], [*quartiles, values.mean(), values.max()]
            ):
                worst = max(worst, abs(row[column] - truth) / max(abs(truth), 1e-300))
    check(f"{run}: quartiles, means and maxima", worst, 1e-12)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--dir", type=pathlib.Path, required=True)
    parser.add_argument("--hesspec", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    for run in ["case3", "case4"]:
        command = [arguments.hesspec, "quadratic", REPOSITORY / f"configs/quadratic/{run}.toml", "--output", arguments.dir]
        keys = [f"quadratic.trials={TRIALS}", "quadratic.paths=1", f"quadratic.iterations={ITERATIONS}"]
        subprocess.run(command + [word for key in keys for word in ("--set", key)], check=True, stdout=subprocess.DEVNULL)
        blocks, spectra = check_paths(arguments.dir, run)
        check_statistics(arguments.dir, run, blocks, spectra)
    print(f"{checks} checks, {failures} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

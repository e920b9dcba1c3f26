#!/usr/bin/env python3
"""Reads every table of a results folder with DuckDB, Polars and pandas and compares what they see.

    python read_tables.py RESULTS

Needs duckdb, polars, pandas, pyarrow (from PyPI). Checks, for each table: exactly the columns of the contract, in
order, with their types and nullability; the hive partition `run` (and that it is no column of the files); the same
rows, bit for bit, in all three; the provenance in the Arrow schema (pyarrow) and in the file's key-values (DuckDB).
Prints the number of rows of each table; exits 1 on any mismatch, 2 where it is called wrongly.
"""

import json
import pathlib
import sys

import duckdb
import numpy
import pandas
import polars
import pyarrow
import pyarrow.dataset
import pyarrow.parquet

# name: type, a trailing `?` where nulls are allowed
TABLES = {
    "blocks": "block:utf8 kind:utf8 layer:i32? shape:utf8 num_params:i64 offset:i64",
    "tridiagonal": "block:utf8 probe:i32 step:i32 alpha:f64 beta:f64 orthogonality_loss:f64 seconds:f64",
    "complement": "block:utf8 probe:i32 start:i32 step:i32 alpha:f64 beta:f64 orthogonality_loss:f64 seconds:f64",
    "nodes": "block:utf8 probe:i32 node_index:i32 node:f64 weight:f64 weight_reduced:f64? residual_bound:f64 "
    "converged:bool below_noise_floor:bool",
    "density": "block:utf8 axis:utf8 coordinate:f64 eigenvalue:f64 density:f64 density_per_eigenvalue:f64? sem:f64? "
    "axis_scale:f64? sigma:f64?",
    "divergence": "metric:utf8 block_a:utf8 block_b:utf8 value:f64? sem:f64? error:f64? noise_floor:f64? axis_scale:f64? "
    "sigma:f64? status:utf8",
    "summary": "block:utf8 trace:f64 trace_sem:f64? frobenius:f64 lambda_min:f64 lambda_min_residual_bound:f64 "
    "lambda_max:f64 lambda_max_residual_bound:f64 negative_mass:f64 negative_energy:f64? noise_floor:f64 steps_done:i32 status:utf8",
    "segments": "block:utf8 probe:i32 segment:i32 i:i32 j:i32 value:f64",
    "runs": "config:utf8 versions:utf8 world:i32 hardware:utf8 matmul_precision:utf8 started:utf8 finished:utf8 "
    "seconds:f64 status:utf8",
    "metrics": "group:utf8 step:i32 slots:i32 seconds:f64 seconds_products:f64 seconds_reduction:f64 "
    "seconds_reorthogonalization:f64 seconds_io:f64 tokens_per_second:f64 products_per_second:f64",
    "convergence": "block:utf8 tokens:i64 batch:utf8 segments:i32 w1_previous:f64? w1_largest:f64? w1_error:f64 "
    "js_previous:f64? js_largest:f64? js_error:f64 trace:f64 trace_error:f64 frobenius:f64 frobenius_error:f64 noise_share:f64? "
    "lambda_min:f64 lambda_min_error:f64 lambda_max:f64 lambda_max_error:f64 status:utf8",
    "convergence_pairs": "block_a:utf8 block_b:utf8 tokens:i64 js:f64 js_error:f64 wasserstein1:f64 "
    "wasserstein1_error:f64",
    "series": "label:utf8 number:i64 member:utf8 block:utf8 trace:f64 trace_error:f64? frobenius:f64 lambda_min:f64 "
    "lambda_min_error:f64 lambda_max:f64 lambda_max_error:f64 negative_mass:f64 negative_energy:f64? status:utf8",
    "series_distances": "block:utf8 metric:utf8 label_a:utf8 label_b:utf8 number_a:i64 number_b:i64 value:f64? error:f64? "
    "noise_floor:f64? axis_scale:f64? sigma:f64? status:utf8",
    "series_pairs": "label:utf8 number:i64 metric:utf8 mean:f64? mean_error:f64? largest:f64? num_pairs:i32",
    "eigenvectors": "block:utf8 index:i32 eigenvalue:f64 residual_bound:f64 angle:f64 gradient_overlap:f64? file:utf8",
    "eigenvector_mass": "block:utf8 index:i32 parameter:utf8 mass:f64",
    "diagonal": "block:utf8 part:utf8 kind:utf8 index:i32 num_entries:i64 value:f64 error:f64?",
    "diagonal_probes": "block:utf8 probe:i32 part:utf8 kind:utf8 index:i32 num_entries:i64 value:f64",
    "training": "step:i64 samples:i64 learning_rate:f64 loss:f64 gradient_norm:f64 clipped:bool held_out_loss:f64? "
    "held_out_accuracy:f64? seconds:f64",
    "quadratic": "quantity:utf8 block:utf8? trials:i64 missing:i64 lower_quartile:f64? median:f64? upper_quartile:f64? "
    "mean:f64? max:f64?",
    "quadratic_blocks": "block:utf8 index:i32 eigenvalue:f64 start:f64 gradient:f64",
    "quadratic_curves": "optimizer:utf8 beta2:f64? learning_rate:f64? is_best:bool iteration:i64 loss:f64 bound:f64? "
    "bound_as_printed:f64?",
    "quadratic_trials": "trial:i32 quantity:utf8 block:utf8? value:f64?",
    "dense": "block:utf8 row:i64 values:f64[]",
    "dense_blocks": "block:utf8 num_params:i64 frobenius:f64 asymmetry:f64? parts:i32 off_diagonal:f64? rank:i64? kappa:f64? "
    "kappa_adam:f64? status:utf8",
    "dense_shares": "block:utf8 part_a:utf8 part_b:utf8 first_a:i64 first_b:i64 num_entries:i64 frobenius_squared:f64 share:f64?",
}
# tables of commands of their own, which a folder of runs need not have
APART = {"quadratic", "quadratic_blocks", "quadratic_curves", "quadratic_trials", "dense", "dense_blocks", "dense_shares"}
LIST = pyarrow.list_(pyarrow.field("item", pyarrow.float64(), nullable=False))
ARROW = {
    "utf8": pyarrow.string(),
    "i32": pyarrow.int32(),
    "i64": pyarrow.int64(),
    "f64": pyarrow.float64(),
    "bool": pyarrow.bool_(),
    "f64[]": LIST,
}
DUCKDB = {"utf8": "VARCHAR", "i32": "INTEGER", "i64": "BIGINT", "f64": "DOUBLE", "bool": "BOOLEAN", "f64[]": "DOUBLE[]"}
POLARS = {
    "utf8": polars.String,
    "i32": polars.Int32,
    "i64": polars.Int64,
    "f64": polars.Float64,
    "bool": polars.Boolean,
    "f64[]": polars.List(polars.Float64),
}
METADATA = ["hesspec.schema_version", "hesspec.table", "hesspec.run", "hesspec.config", "hesspec.versions"]


class Mismatch(Exception):
    pass


def require(found, expected, what):
    if found != expected:
        raise Mismatch(f"{what}: found {found!r}, expected {expected!r}")


def columns_of(table):
    """[(name, type, nullable)] of the contract."""
    parts = (column.split(":") for column in TABLES[table].split())
    return [(name, kind.rstrip("?"), kind.endswith("?")) for name, kind in parts]


def with_duckdb(folder, table):
    source = f"read_parquet('{folder}/*/*.parquet', hive_partitioning = true, hive_types_autocast = false)"
    found = [(row[0], row[1]) for row in duckdb.sql(f"DESCRIBE SELECT * FROM {source}").fetchall()]
    expected = [(name, DUCKDB[kind]) for name, kind, _ in columns_of(table)] + [("run", "VARCHAR")]
    require(found, expected, f"{table}: columns in DuckDB")
    return duckdb.sql(f"SELECT * FROM {source}").to_arrow_table()


def with_polars(folder, table):
    frame = polars.read_parquet(f"{folder}/*/*.parquet", hive_partitioning=True, hive_schema={"run": polars.String})
    expected = [(name, POLARS[kind]) for name, kind, _ in columns_of(table)] + [("run", polars.String)]
    require(list(frame.schema.items()), expected, f"{table}: columns in Polars")
    return frame.to_arrow()


def with_pandas(folder, table):
    partitioning = pyarrow.dataset.partitioning(pyarrow.schema([("run", pyarrow.string())]), flavor="hive")
    frame = pandas.read_parquet(folder, partitioning=partitioning, dtype_backend="pyarrow")
    found = [(name, str(kind.pyarrow_dtype)) for name, kind in frame.dtypes.items()]
    expected = [(name, str(ARROW[kind])) for name, kind, _ in columns_of(table)] + [("run", "string")]
    require(found, expected, f"{table}: columns in pandas")
    return pyarrow.Table.from_pandas(frame, preserve_index=False)


def normal(rows, table):
    """Same types, same order of rows."""
    kinds = {**ARROW, "f64[]": pyarrow.list_(pyarrow.float64())}
    fields = [(name, kinds[kind]) for name, kind, _ in columns_of(table)] + [("run", pyarrow.string())]
    rows = rows.replace_schema_metadata(None).cast(pyarrow.schema(fields))
    by = [(name, "ascending") for name, kind in fields if not pyarrow.types.is_list(kind)]
    return rows.sort_by(by).combine_chunks()


def bits(column):
    """Nulls, and values with floats by their bits, so that NaN equals NaN and 0 differs from -0."""
    column = column.combine_chunks() if isinstance(column, pyarrow.ChunkedArray) else column
    is_null = column.is_null().to_numpy(zero_copy_only=False)
    if pyarrow.types.is_floating(column.type):
        values = column.fill_null(0.0).to_numpy(zero_copy_only=False).view(numpy.int64)
    else:
        values = column.to_pylist()
    return list(is_null), list(values)


def check_rows(table, rows):
    (first, expected), *others = rows.items()
    for name, found in others:
        require(found.num_rows, expected.num_rows, f"{table}: number of rows in {name}, against {first}")
        for column in expected.column_names:
            if bits(found[column]) != bits(expected[column]):
                raise Mismatch(f"{table}.{column}: {name} and {first} read different values")
    for name, _, nullable in columns_of(table):
        if not nullable:
            require(expected[name].null_count, 0, f"{table}.{name}: nulls")


def check_files(folder, table):
    """Schema and provenance of each file."""
    files = sorted(folder.glob("*/*.parquet"))
    require([str(path) for path in folder.rglob("*.parquet")] != [], True, f"{table}: has parts")
    require(len(files), len(list(folder.rglob("*.parquet"))), f"{table}: parts in run=<name> folders")
    for path in files:
        run = path.parent.name.removeprefix("run=")
        require(path.parent.name, f"run={run}", f"{path}: hive folder")
        require(path.name.startswith("part-"), True, f"{path}: name starts with part-")
        schema = pyarrow.parquet.read_schema(path)
        found = [(field.name, field.type, field.nullable) for field in schema]
        expected = [(name, ARROW[kind], nullable) for name, kind, nullable in columns_of(table)]
        require(found, expected, f"{path}: schema")
        metadata = {key.decode(): value.decode() for key, value in (schema.metadata or {}).items()}
        query = f"SELECT key::BLOB, value::BLOB FROM parquet_kv_metadata('{path}')"
        pairs = {bytes(key).decode(): bytes(value).decode() for key, value in duckdb.sql(query).fetchall()}
        for key in METADATA:
            require(key in metadata, True, f"{path}: `{key}` in the Arrow schema")
            require(pairs.get(key), metadata[key], f"{path}: `{key}` in the key-values")
        require(metadata["hesspec.table"], table, f"{path}: table in the metadata")
        require(metadata["hesspec.run"], run, f"{path}: run in the metadata")
        json.loads(metadata["hesspec.versions"])
        codecs = {
            pyarrow.parquet.ParquetFile(path).metadata.row_group(group).column(0).compression
            for group in range(pyarrow.parquet.ParquetFile(path).metadata.num_row_groups)
        }
        require(codecs - {"ZSTD"}, set(), f"{path}: compression")
    return {path.parent.name.removeprefix("run=") for path in files}


def check_table(results, table):
    folder = results / table
    runs = check_files(folder, table)
    rows = {
        "DuckDB": normal(with_duckdb(folder, table), table),
        "Polars": normal(with_polars(folder, table), table),
        "pandas": normal(with_pandas(folder, table), table),
    }
    check_rows(table, rows)
    found = set(rows["DuckDB"]["run"].to_pylist())
    require(found - runs, set(), f"{table}: runs")
    return rows["DuckDB"].num_rows, len(runs)


def main(arguments):
    if len(arguments) != 1 or not pathlib.Path(arguments[0]).is_dir():
        print(__doc__, file=sys.stderr)
        return 2
    results = pathlib.Path(arguments[0])
    failures = 0
    for table in TABLES:
        if table in APART and not (results / table).is_dir():
            continue
        try:
            num_rows, num_runs = check_table(results, table)
            print(f"{table}: {num_rows} rows of {num_runs} runs, the same in DuckDB, Polars and pandas")
        except Mismatch as mismatch:
            failures += 1
            print(f"MISMATCH {mismatch}", file=sys.stderr)
        except Exception as error:  # a reader that cannot read is a failure of the table, not of the check
            failures += 1
            print(f"UNREADABLE {table}: {type(error).__name__}: {error}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Data frames of Dask and data sets of Ray, as Parquet files of this machine: what reads tables in files reads them too.

A file holds a partition of Dask's, or 65,536 rows of Ray's; they are written one at a time, in their order, in memory that one
takes.  Each partition is computed for itself, so a graph that moves rows between partitions is better persisted first.  The
files go when the data set does.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

SOURCES = {
    "dask.dataframe": ("DataFrame",),
    "dask_expr": ("DataFrame",),
    "ray.data": ("Dataset", "MaterializedDataset"),
}
BATCH = 2**16  # rows of a batch of Ray's


def is_partitioned(source: Any) -> bool:
    """Tell whether a data frame of Dask or a data set of Ray is meant, without importing either."""
    made = type(source)
    return any(made.__module__.startswith(home) and made.__name__ in names for home, names in SOURCES.items())


def name_of(source: Any) -> str:
    """What messages call it.

    >>> name_of(Path())
    'a data set of pathlib'
    """
    return f"a data set of {type(source).__module__.partition('.')[0]}"


def check_seen(source: Any, engine: str | None) -> None:
    """Refuse, by ValueError, to share what lies on this machine with a cluster."""
    if is_partitioned(source) and engine is not None and engine.startswith("ray"):
        raise ValueError(
            f"engine {engine!r} needs files that all its machines see, and {name_of(source)} is written to this one: write it"
            " to a folder that they share, and name that"
        )


def spilled(source: Any, owner: Any) -> Path:
    """A folder with the rows, which goes when ``owner`` does; ValueError for a partition that is no table, or for no rows."""
    folder = Path(tempfile.mkdtemp(prefix="abduce-"))
    weakref.finalize(owner, shutil.rmtree, folder, ignore_errors=True)
    rows = 0
    for i, part in enumerate(_parts(source)):
        rows += len(part)
        if not len(part):
            continue
        try:
            table = part if isinstance(part, pa.Table) else pa.Table.from_pandas(part, preserve_index=False)
            pq.write_table(table, folder / f"part-{i:06d}.parquet")
        except pa.ArrowException as error:
            raise ValueError(f"partition {i} of {name_of(source)} is no table of cells: {error}") from error
    if not rows:
        raise ValueError(f"{name_of(source)} has no rows")
    return folder


def _parts(source: Any) -> Iterator[pd.DataFrame | pa.Table]:
    if not type(source).__module__.startswith("ray"):
        for i in range(source.npartitions):
            yield source.get_partition(i).compute().rename(columns=str)
        return
    options = source.context.execution_options
    before, options.preserve_order = options.preserve_order, True
    try:
        yield from source.iter_batches(batch_size=BATCH, batch_format="pyarrow")
    finally:
        options.preserve_order = before

"""Data frames of Dask and data sets of Ray, as Parquet files of this machine: a file for each partition, one at a time.

What reads tables in files then reads them too, in memory that a partition takes.  The files go with what reads them.
Partitions keep their order, and Ray is asked to keep that of its blocks.
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

KINDS = {
    "dask.dataframe": ("DataFrame",),
    "dask_expr": ("DataFrame",),
    "ray.data": ("Dataset", "MaterializedDataset"),
}
BATCH = 2**16  # rows of a batch of Ray's


def is_partitioned(source: Any) -> bool:
    """Tell whether a data frame of Dask or a data set of Ray is meant, without importing either."""
    made = type(source)
    return any(made.__module__.startswith(home) and made.__name__ in names for home, names in KINDS.items())


def name_of(source: Any) -> str:
    """What messages call it.

    >>> name_of(Path())
    'a data set of pathlib'
    """
    return f"a data set of {type(source).__module__.partition('.')[0]}"


def spilled(source: Any, owner: Any) -> Path:
    """A folder with the rows, which goes when ``owner`` does; ValueError for a partition that is no table."""
    folder = Path(tempfile.mkdtemp(prefix="abduce-"))
    weakref.finalize(owner, shutil.rmtree, folder, ignore_errors=True)
    for i, part in enumerate(_parts(source)):
        try:
            table = part if isinstance(part, pa.Table) else pa.Table.from_pandas(part, preserve_index=False)
            pq.write_table(table, folder / f"part-{i:06d}.parquet")
        except pa.ArrowException as error:
            raise ValueError(f"partition {i} of {name_of(source)} is no table of cells: {error}") from error
    return folder


def _parts(source: Any) -> Iterator[pd.DataFrame | pa.Table]:
    if not type(source).__module__.startswith("ray"):
        for part in source.partitions:
            yield part.compute().rename(columns=str)
        return
    options = source.context.execution_options
    before, options.preserve_order = options.preserve_order, True
    try:
        yield from source.iter_batches(batch_size=BATCH, batch_format="pyarrow")
    finally:
        options.preserve_order = before

"""Tables in many files: the one table that they are, whatever the cut, and what spoils it named with the file."""

from __future__ import annotations

import itertools
import warnings
from pathlib import Path

import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest
from pyarrow import feather
from scipy.stats import chi2

import abduce
from abduce.data import shards
from abduce.data.readers import read
from abduce.data.schema import Schema
from abduce.data.shards import Shards, address_of, is_many
from abduce.data.streams import TableFile

SUFFIXES = [".csv", ".tsv", ".csv.gz", ".parquet", ".feather", ".arrow"]
CUTS = [[0, 300], [0, 1, 2, 300], [0, 100, 200, 300], [0, 299, 300]]


def frame(n: int = 300) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    out = pd.DataFrame({"n": rng.normal(size=n).round(3), "word": rng.choice(["x", "y z", 'q"'], n)})
    out["k"] = pd.array(rng.integers(0, 9, n), dtype="Int64")
    out.loc[::7, "n"] = np.nan
    out.loc[::5, "k"] = pd.NA
    out.loc[:120, "word"] = None  # not a word in some of the files
    return out


def put(path: Path, rows: pd.DataFrame) -> None:
    rows = rows.reset_index(drop=True)
    if path.suffix == ".parquet":
        rows.to_parquet(path, index=False)
    elif path.suffix in (".feather", ".arrow"):
        rows.to_feather(path)
    else:
        rows.to_csv(path, index=False, sep="\t" if ".tsv" in path.name else ",")


def cut(folder: Path, suffix: str, cuts: list[int], rows: pd.DataFrame | None = None) -> Path:
    folder.mkdir()
    rows = frame() if rows is None else rows
    for i, (start, stop) in enumerate(itertools.pairwise(cuts)):
        put(folder / f"part-{i:03d}{suffix}", rows.iloc[start:stop])
    return folder


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("cuts", CUTS)
def test_the_rows_and_types_are_those_of_one_file(tmp_path, suffix, cuts):
    put(tmp_path / f"one{suffix}", frame())
    many, one = Shards(cut(tmp_path / "many", suffix, cuts)), TableFile(tmp_path / f"one{suffix}")
    assert (many.rows, many.columns) == (one.rows, one.columns)
    pd.testing.assert_frame_equal(many.read(), read(tmp_path / f"one{suffix}"))
    alone = Shards(tmp_path / f"one{suffix}")
    for n, seed in ((1, 0), (50, 1), (299, 2), (300, 3), (1000, 4)):
        for telling in (False, True):
            pd.testing.assert_frame_equal(many.sample(n, seed, telling), alone.sample(n, seed, telling))
    starts = [chunk.start for chunk in many.chunks(70)]
    assert starts[0] == 0
    assert set(cuts[:-1]) <= set(starts)  # no chunk goes over two files


def test_folders_patterns_addresses_and_data_sets_are_the_same_table(tmp_path):
    folder = cut(tmp_path / "many", ".parquet", CUTS[2])
    (folder / "_SUCCESS").touch()
    (folder / ".hidden.parquet").touch()
    (folder / "notes.txt").write_text("no table")
    whole = Shards(folder).read()
    memory = fsspec.filesystem("memory")
    for path in folder.glob("part-*"):
        memory.pipe(f"/abduce/{path.name}", path.read_bytes())
    for source in (
        str(folder),
        f"{folder}/part-*.parquet",
        f"file://{folder}",
        f"file://{folder}/part-*",
        "memory://abduce",
        "memory://abduce/part-*.parquet",
        Path("memory://abduce"),
        pads.dataset(sorted(str(p) for p in folder.glob("part-*"))),
    ):
        assert is_many(source)
        pd.testing.assert_frame_equal(Shards(source).read(), whole)
    assert [s.name for s in Shards("memory://abduce").shards] == [s.name for s in Shards(folder).shards]
    memory.rm("/abduce", recursive=True)


def test_files_below_folders_keep_their_names(tmp_path):
    for name in ("b/2.csv", "a/1.csv", "0.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"x\n{name[-5]}\n")
    found = Shards(tmp_path)
    assert [s.name for s in found.shards] == ["0.csv", "a/1.csv", "b/2.csv"]
    assert found.read()["x"].tolist() == [0, 1, 2]
    assert [found.where(row)[1] for row in range(3)] == [0, 0, 0]
    assert found.where(2)[0].endswith("b/2.csv")


def test_what_is_one_file_or_no_table_is_not_many(tmp_path):
    (tmp_path / "a.csv").write_text("x\n1\n")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").touch()
    assert not is_many(tmp_path / "a.csv")
    assert not is_many(tmp_path / "images")
    assert not is_many(tmp_path / "nothing")
    assert not is_many(frame())
    assert address_of(Path("s3://bucket/a/*.csv")) == "s3://bucket/a/*.csv"
    for nothing in (tmp_path / "*.parquet", "memory://nothing-there"):
        with pytest.raises(FileNotFoundError, match="no file there is a table"):
            Shards(nothing)


def test_numbers_get_the_type_that_holds_them_all(tmp_path):
    kinds = [pa.int32(), pa.int64(), pa.float32(), pa.null()]
    for i, kind in enumerate(kinds):
        values = [None, None] if pa.types.is_null(kind) else [i, i + 1]
        pq.write_table(pa.table({"x": pa.array(values, kind)}), tmp_path / f"{i}.parquet")
    found = Shards(tmp_path)
    assert found.schema.field("x").type == pa.float64()
    assert found.read()["x"].tolist()[:6] == [0, 1, 1, 2, 2, 3]
    assert found.read()["x"].isna().tolist()[6:] == [True, True]


def bad_number(folder):
    (folder / "z.csv").write_text("n,word,k\nmany,x,1\n")


def bad_columns(folder):
    (folder / "z.csv").write_text("n,word,kk\n1,x,1\n")


def bad_order(folder):
    (folder / "z.csv").write_text("word,n,k\nx,1,1\n")


def bad_twice(folder):
    (folder / "z.csv").write_bytes((folder / "part-001.csv").read_bytes())


def bad_empty(folder):
    (folder / "z.csv").touch()


def bad_row(folder):
    (folder / "z.csv").write_text("n,word,k\n1,x,1\n1,x\n")


def bad_kind(folder):
    put(folder / "z.parquet", frame(3))


def bad_separator(folder):
    (folder / "z.csv").write_text("n;word;k\n1;x;1\n")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (bad_number, r"column 'n' holds numbers in \S+part-000.csv and text in \S+z.csv"),
        (bad_columns, r"z.csv lacks 'k' and has also 'kk', beside \S+part-000.csv"),
        (bad_order, r"z.csv has the columns in another order, beside \S+part-000.csv"),
        (bad_twice, r"z.csv has the same bytes as \S+part-001.csv: its rows would count twice"),
        (bad_empty, r"z.csv is empty"),
        (bad_row, r"z.csv cannot be read as .csv: .*line 3.*saw 2"),
        (bad_kind, r"z.parquet is .parquet and \S+part-000.csv .csv; all files must be of one kind"),
        (bad_separator, r"z.csv separates its fields by ';', \S+part-000.csv by ','"),
    ],
)
def test_the_file_that_spoils_it_is_named(tmp_path, spoil, message):
    folder = cut(tmp_path / "many", ".csv", CUTS[2])
    spoil(folder)
    with pytest.raises(ValueError, match=message):
        Shards(folder)


def test_differing_types_are_named_with_both_files(tmp_path):
    day = pd.Timestamp("2020-01-01")
    for name, unit in (("a", "us"), ("b", "ns")):
        table = pa.table({"t": pa.array([day, day], pa.timestamp(unit)), "u": [name, name]})
        pq.write_table(table, tmp_path / f"{name}.parquet")
    with pytest.raises(
        ValueError, match=r"column 't' is timestamp\[us\] in \S+a.parquet and timestamp\[ns\] in \S+b.parquet"
    ):
        Shards(tmp_path)
    pq.write_table(pa.table({"t": ["x"], "u": ["y"]}), tmp_path / "b.parquet")
    with pytest.raises(
        ValueError, match=r"column 't' is timestamp\[us\] in \S+a.parquet and string in \S+b.parquet"
    ):
        Shards(tmp_path)
    (tmp_path / "b.parquet").write_bytes(b"PAR1 and nothing that Parquet has")
    with pytest.raises(ValueError, match=r"b.parquet cannot be read as .parquet"):
        Shards(tmp_path)
    memory = fsspec.filesystem("memory")
    memory.pipe("/broken/x.parquet", b"PAR1 and nothing")
    with pytest.raises(ValueError, match=r"/broken/x.parquet cannot be read as .parquet"):
        Shards("memory://broken")
    memory.rm("/broken", recursive=True)


def test_files_without_rows_are_said_and_passed_over(tmp_path):
    folder = cut(tmp_path / "many", ".csv", CUTS[2])
    (folder / "part-001a.csv").write_text("n,word,k\n")
    with pytest.warns(UserWarning, match=r"files without rows: .*part-001a.csv"):
        found = Shards(folder)
    put(tmp_path / "one.csv", frame())
    pd.testing.assert_frame_equal(found.read(), read(tmp_path / "one.csv"))
    for path in folder.glob("part-*"):
        path.unlink()
    (folder / "a.csv").write_text("n,word\n")
    with pytest.raises(ValueError, match=r"a\.csv has no rows"):
        Shards(folder)
    (folder / "b.csv").write_text("n,word\n\n")
    with pytest.raises(ValueError, match="no file of 2 has rows"):
        Shards(folder)


def test_a_column_may_be_said_to_be_text(tmp_path):
    (tmp_path / "a.csv").write_text("zip\n12345\n")
    (tmp_path / "b.csv").write_text("zip\n02116\n")
    with pytest.raises(ValueError, match="--kind zip=categorical"):
        Shards(tmp_path)
    assert Shards(tmp_path, texts=["zip"]).read()["zip"].tolist() == ["12345", "02116"]


def test_a_word_that_means_a_blank_is_one_in_every_file(tmp_path):
    (tmp_path / "a.csv").write_text("x\n1.5\n")
    (tmp_path / "b.csv").write_text("x\nNA\n")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Shards(tmp_path, na=["NA"]).read()["x"].tolist() == [1.5, pd.NA]


def test_estimators_take_folders_names_and_data_sets(tmp_path, monkeypatch):
    folder = cut(tmp_path / "many", ".parquet", CUTS[2])
    rows = Shards(folder).read()
    known = abduce.Auto(components=(1,), random_state=0).fit(rows)
    sources = [folder, f"{folder}/*.parquet", pads.dataset(folder)]
    put(tmp_path / "one.parquet", frame())
    for source in (*sources, str(tmp_path / "one.parquet")):
        model = abduce.Auto(components=(1,), random_state=0).fit(source)
        pd.testing.assert_frame_equal(model.fill(source), known.fill(rows), check_exact=True)
        assert np.array_equal(model.score_samples(source), known.score_samples(rows))
    monkeypatch.setattr(shards, "MOST_CELLS", 300)
    monkeypatch.setattr(shards, "LEAST_ROWS", 80)
    numbers = cut(tmp_path / "numbers", ".csv", CUTS[2], frame()[["n", "k"]])
    with pytest.warns(UserWarning, match="uniform sample of 150 of 300 rows"):
        model = abduce.ICA(random_state=3).fit(numbers)
    assert model.edge_ == abduce.ICA(random_state=3).fit(Shards(numbers).sample(150, 3)).edge_


# ---------------------------------------------------------------- a sample


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_every_row_has_the_same_chance(tmp_path, suffix):
    """Of 40 rows 10 are drawn 300 times: the counts follow the uniform law."""
    put(tmp_path / f"a{suffix}", pd.DataFrame({"row": np.arange(40)}))
    source = Shards(tmp_path / f"a{suffix}")
    draws, rows, n = 300, 40, 10
    counts = np.zeros(rows)
    for seed in range(draws):
        drawn = source.sample(n, seed)["row"].to_numpy(int)
        assert len(set(drawn)) == n
        counts[drawn] += 1
    # A count has variance draws · p (1 − p); the counts' sum is fixed, which leaves rows − 1 degrees of freedom.
    p = n / rows
    statistic = ((counts - draws * p) ** 2).sum() / (draws * p * (1 - p)) * (rows - 1) / rows
    assert 0.001 < chi2.sf(statistic, rows - 1) < 0.999


def test_chunks_do_not_change_the_draw(tmp_path, monkeypatch):
    put(tmp_path / "a.parquet", frame())
    source = Shards(tmp_path / "a.parquet")
    first, told = source.sample(50, 3), source.sample(50, 3, telling=True)
    for rows in (1, 64, 90, 10_000):
        monkeypatch.setattr(source, "_most", rows)
        pd.testing.assert_frame_equal(source.sample(50, 3), first)
        pd.testing.assert_frame_equal(source.sample(50, 3, telling=True), told)
    assert not source.sample(50, 4).equals(first)
    pd.testing.assert_frame_equal(source.sample(10**9), read(tmp_path / "a.parquet"))


def rare(n: int = 3000) -> pd.DataFrame:
    """Rows of which one in thousands has a class, a zero, a number below zero or a fraction that no other has."""
    rng = np.random.default_rng(1)
    rows = pd.DataFrame({"a": rng.normal(size=n), "size": np.exp(rng.normal(size=n) * 2)})
    rows["n"] = rng.poisson(3, n).astype(float)
    rows["word"] = rng.choice(["x", "y", "z"], n)
    rows["change"] = np.exp(rng.normal(size=n))
    rows.loc[1234, "word"], rows.loc[2222, "size"] = "rare", 0.0
    rows.loc[777, "n"], rows.loc[2500, "change"] = 2.5, -1.0
    return rows


@pytest.mark.parametrize("cuts", [[0, 3000], [0, 1234, 1235, 3000]])
def test_a_fit_knows_what_only_one_row_shows(tmp_path, cuts, monkeypatch):
    monkeypatch.setattr(shards, "MOST_CELLS", 5 * 200)
    monkeypatch.setattr(shards, "LEAST_ROWS", 100)
    rows = rare()
    folder = cut(tmp_path / "many", ".parquet", cuts, rows)
    source = Shards(folder)
    drawn = source.sample(200, 0)
    lacking = [777, 1234, 2222, 2500]
    assert not drawn["a"].isin(rows["a"][lacking]).any()  # by chance, with this seed
    told = source.sample(200, 0, telling=True)
    assert set(told["a"]) == {*drawn["a"], *rows["a"][lacking]}
    assert told["a"].tolist() == rows["a"][rows["a"].isin(told["a"])].tolist()  # in the order of the files
    with pytest.warns(UserWarning, match="uniform sample of 200 of 3000 rows and 4 that show what it lacks"):
        model = abduce.Auto(components=(1,), random_state=0).fit(folder)
    assert model.schema_.read(rows.iloc[lacking]).novel is None
    novel = Schema.infer(drawn).read(rows.iloc[lacking]).novel
    assert novel is not None
    assert novel.any(1).all()


def test_a_file_that_is_named_like_a_pattern_is_that_file(tmp_path):
    for name, value in (("a[1].csv", 1), ("a1.csv", 2)):
        pd.DataFrame({"x": [value, value]}).to_csv(tmp_path / name, index=False)
    assert Shards(tmp_path / "a[1].csv").read()["x"].tolist() == [1, 1]


def test_categories_that_differ_from_part_to_part_are_one_column(tmp_path):
    for i, words in enumerate((["a", "b"], ["c", "b"])):
        table = pa.table({"w": pa.array(words * 10).dictionary_encode()})
        feather.write_feather(table, tmp_path / f"{i}.feather")
    source = Shards(tmp_path)
    for rows in (source.read(), source.sample(5, 0, telling=True)):
        assert set(rows["w"].cat.categories) == {"a", "b", "c"}
    assert source.read()["w"].tolist() == [*["a", "b"] * 10, *["c", "b"] * 10]


def test_rows_that_show_more_are_a_tenth_at_most(tmp_path):
    rows = pd.DataFrame({"w": [f"word {i % 300}" for i in range(600)]})
    put(tmp_path / "a.parquet", rows)
    assert len(Shards(tmp_path / "a.parquet").sample(200, 0, telling=True)) == 220


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_reading_begins_at_any_group(tmp_path, suffix, monkeypatch):
    """A process that sums over some groups of rows reads them as one that reads all."""
    monkeypatch.setattr(shards, "ROWS", 70)
    source = Shards(cut(tmp_path / "many", suffix, [0, 69, 70, 71, 250, 300]))
    if suffix == ".parquet":  # of several row groups
        table = pa.Table.from_pandas(frame().iloc[71:250], preserve_index=False)
        pq.write_table(table, tmp_path / "many" / "part-003.parquet", row_group_size=40)
        source = Shards(tmp_path / "many")
    groups = list(source.groups())
    assert [(number, len(rows)) for number, rows in groups] == [(0, 70), (1, 70), (2, 70), (3, 70), (4, 20)]
    pd.testing.assert_frame_equal(pd.concat([rows for _, rows in groups], ignore_index=True), source.read())
    for first in range(6):
        found = list(source.groups(first))
        assert [number for number, _ in found] == list(range(first, 5))
        for (_, rows), (_, known) in zip(found, groups[first:], strict=True):
            pd.testing.assert_frame_equal(rows.reset_index(drop=True), known.reset_index(drop=True))
    assert [source.where(row) for row in (0, 68, 69, 70, 299)] == [
        (str(tmp_path / "many" / f"part-{part:03d}{suffix}"), place)
        for part, place in ((0, 0), (0, 68), (1, 0), (2, 0), (4, 49))
    ]

"""Tables a chunk at a time: the same answer as the whole table at once, in bounded memory, all or nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from abduce import VAE, GaussianMixture
from abduce.bulk import streaming
from abduce.data import streams
from abduce.data.readers import read, write

ROWS = 350


def quiet(text: str, done: int, total: int) -> None:
    """No progress."""


def mixed(n: int = ROWS, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    u = rng.normal(size=n)
    frame = pd.DataFrame(
        {
            "age": pd.array(rng.integers(0, 200, n), dtype="Int64"),
            "x": u + 0.1 * rng.normal(size=n),
            "y": (2 * u + rng.normal(size=n)).astype(np.float32),
            "text": pd.array(rng.choice(["u", "v", "w"], n), dtype="string"),
            "class": pd.Categorical(np.where(u > 0, "p", rng.choice(["q", "r"], n))),
            "day": pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 1000, n), unit="D"),
            "yes": pd.array(u > 0.3, dtype="boolean"),
        },
        index=pd.Index([f"r{i}" for i in range(n)], name="key"),
    )
    for column in frame:
        frame.loc[rng.random(n) < 0.1, column] = None
    frame.iloc[n // 2 :, 0] = None  # late blanks, a whole chunk of them
    return frame


def fill(path, fitted, output, rows=None):
    source = streams.TableFile(path)
    filling = streaming.Filling(source, fitted, quiet, rows)
    filling.write(str(output))
    return filling


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    """A file of mixed kinds in short row groups, and a model of it."""
    path = tmp_path_factory.mktemp("mixed") / "mixed.parquet"
    mixed().to_parquet(path, row_group_size=90)
    return path, VAE(max_epochs=2, samples=20, random_state=0).fit(read(path))


class TestReading:
    @pytest.mark.parametrize("rows", [1, 64, 89, 90, 333, ROWS, 10_000])
    def test_parquet_chunks_are_the_whole(self, vae, rows):
        source = streams.TableFile(vae[0])
        chunks = list(source.chunks(rows))
        assert source.rows == ROWS
        assert {len(c.frame) for c in chunks[:-1]} <= {rows}
        assert [c.start for c in chunks] == list(range(0, ROWS, rows))
        whole = pd.concat([c.frame.astype({"class": "string"}) for c in chunks])
        pd.testing.assert_frame_equal(whole, read(vae[0]).astype({"class": "string"}))
        assert all(
            c.frame.drop(columns="class").dtypes.equals(whole.drop(columns="class").dtypes) for c in chunks
        )

    @pytest.mark.parametrize("rows", [1, 2, 3, 50])
    @pytest.mark.parametrize("suffix", [".csv", ".tsv.gz"])
    def test_text_chunks_have_the_dtypes_of_the_whole(self, tmp_path, rows, suffix, monkeypatch):
        """Whole numbers that turn into fractions, text or blanks further down."""
        monkeypatch.setattr(streams, "ROWS", 2)  # what the scan takes at once
        frame = pd.DataFrame(
            {
                "whole": ["1", "2", "", "4", "9007199254740993", "6"],
                "late": ["1", "2", "3", "4", "", "0.1"],
                "code": ["007", "08", "9", "10", "x", ""],
                "flag": ["True", "False", "", "", "True", "yes"],
                "none": [""] * 6,
                "first": ["", "", "", "a", "b", "c"],
            }
        )
        path = write(tmp_path / f"t{suffix}", frame)
        chunks = [c.frame for c in streams.TableFile(path).chunks(rows)]
        whole = read(path)
        pd.testing.assert_frame_equal(pd.concat(chunks), whole, check_exact=True)
        assert whole["code"][0] == "007"
        assert whole["whole"][4] == 9007199254740993
        known = whole.columns.drop("none")
        assert all(c[known].dtypes.equals(whole[known].dtypes) for c in chunks)

    def test_chunks_keep_to_their_cells(self, tmp_path):
        path = write(tmp_path / "wide.parquet", pd.DataFrame(np.zeros((3, 1000))))
        assert streams.TableFile(path).chunk_rows() == streams.CELLS // 1000

    @pytest.mark.parametrize(
        ("name", "content", "says"),
        [
            ("a.csv", b"", "is empty"),
            ("a.csv", b"x,y\n", "no rows"),
            ("a.parquet", b"nonsense", "a.parquet cannot be read as .parquet"),
            ("a.csv", b"x,y\n1,2\n1,2,3\n", "a.csv cannot be read as .csv"),
            ("a.npy", b"1", "is no table"),
        ],
    )
    def test_files_that_will_not_do(self, tmp_path, name, content, says):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=says):
            streams.TableFile(tmp_path / name)

    def test_a_file_that_is_not_there(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="no such file"):
            streams.TableFile(tmp_path / "a.csv")


class TestFill:
    @pytest.mark.parametrize("rows", [None, 70, 997])
    def test_the_answer_is_that_of_the_whole_table(self, vae, tmp_path, rows, monkeypatch):
        monkeypatch.setattr(streaming, "GROUP", 64)
        path, fitted = vae
        plan = fill(path, fitted, tmp_path / "o.parquet", rows)
        given = read(path)
        assert plan.blank == given.isna().to_numpy().sum()
        whole, filled = fitted.fill(given), read(tmp_path / "o.parquet")
        pd.testing.assert_frame_equal(filled, whole, check_exact=True)
        assert not filled.isna().any().any()
        assert pq.read_schema(tmp_path / "o.parquet").equals(pq.read_schema(path), check_metadata=True)
        assert filled.index.tolist() == [f"r{i}" for i in range(ROWS)]
        assert os.listdir(tmp_path) == ["o.parquet"]

    @pytest.mark.parametrize("rows", [None, 50, 333])
    def test_text_is_byte_equal(self, tmp_path, rows, monkeypatch):
        monkeypatch.setattr(streaming, "GROUP", 64)
        monkeypatch.setattr(streams, "ROWS", 41)
        frame = mixed().drop(columns="day")
        frame.loc["r5", "age"] = None
        path = write(tmp_path / "t.csv", frame)
        fitted = VAE(max_epochs=1, samples=20, random_state=0, linear_path=False, kinds={"age": "real"}).fit(
            read(path).astype({"age": "Float64"})
        )
        write(tmp_path / "whole.csv", fitted.fill(read(path)), like=path)
        fill(path, fitted, tmp_path / "o.csv", rows)
        assert (tmp_path / "o.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
        if rows != 50:
            return
        fill(path, fitted, tmp_path / "o.csv.gz", rows)
        assert read(tmp_path / "o.csv.gz").equals(read(tmp_path / "whole.csv"))
        fill(path, fitted, tmp_path / "o.parquet", rows)
        assert read(tmp_path / "o.parquet")["age"].equals(read(tmp_path / "whole.csv")["age"])

    def test_whole_numbers_that_get_fractions(self, tmp_path):
        rng = np.random.default_rng(0)
        train = pd.DataFrame({"a": rng.normal(size=300), "b": rng.normal(size=300)})
        fitted = GaussianMixture(components=1).fit(train)
        some = pd.DataFrame({"a": pd.array([1, None, 3], dtype="Int64"), "b": [0.5, 1.5, np.nan]})
        some.to_parquet(tmp_path / "i.parquet")
        plan = fill(tmp_path / "i.parquet", fitted, tmp_path / "o.parquet", 1)
        assert plan.widened == {"a"}
        plain = pd.read_parquet(tmp_path / "o.parquet")
        assert plain["a"].dtype == np.float64
        pd.testing.assert_frame_equal(
            plain.astype(float), fitted.fill(read(tmp_path / "i.parquet")).astype(float), check_exact=True
        )

    def test_a_value_never_seen_stays(self, vae, tmp_path):
        frame = mixed()
        frame["text"] = frame["text"].where(frame.index != "r320", "zebra")
        frame.to_parquet(tmp_path / "i.parquet")
        fill(tmp_path / "i.parquet", vae[1], tmp_path / "o.parquet", 100)
        filled = pd.read_parquet(tmp_path / "o.parquet")
        assert filled["text"].tolist()[frame.index.get_loc("r320")] == "zebra"
        assert not filled.isna().any(axis=None)

    def test_a_value_of_another_type_stops_before_anything_is_written(self, vae, tmp_path):
        frame = mixed()
        frame["x"] = ["many"] * len(frame)
        frame.to_parquet(tmp_path / "i.parquet")
        with pytest.raises(ValueError, match="column 'x' expects numbers, got 'many'"):
            fill(tmp_path / "i.parquet", vae[1], tmp_path / "o.parquet", 100)
        assert os.listdir(tmp_path) == ["i.parquet"]

    @pytest.mark.parametrize("suffix", [".parquet", ".csv"])
    def test_a_column_without_a_value_is_filled(self, tmp_path, suffix):
        """The file's type says nothing then: Parquet's null, and whole numbers in text."""
        rng = np.random.default_rng(0)
        x = rng.normal(size=300)
        train = pd.DataFrame(
            {"x": x, "y": x + 0.1 * rng.normal(size=300), "s": np.where(x > 0, "up", "down")}
        )
        fitted = VAE(max_epochs=2, samples=20, random_state=0).fit(train)
        some = train.head(200).assign(y=None, s=None)
        path = write(tmp_path / f"i{suffix}", some)
        fill(path, fitted, tmp_path / f"o{suffix}", 70)
        filled = read(tmp_path / f"o{suffix}")
        assert set(filled["s"]) == {"up", "down"}
        assert (filled["s"] == "up").equals(filled["x"] > 0) or np.mean(
            (filled["s"] == "up") == (filled["x"] > 0)
        ) > 0.9
        pd.testing.assert_frame_equal(filled.astype(fitted.fill(read(path)).dtypes), fitted.fill(read(path)))

    def test_a_column_the_training_never_saw_is_filled_from_the_prior(self, tmp_path):
        train = pd.DataFrame({"x": np.random.default_rng(0).normal(size=200), "z": np.nan})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that there is no value is said by `fit`
            fitted = VAE(max_epochs=1, samples=20, random_state=0).fit(train)
        path = write(tmp_path / "i.parquet", train)
        fill(path, fitted, tmp_path / "o.parquet", 64)
        assert read(tmp_path / "o.parquet").equals(fitted.fill(read(path)))
        assert np.isfinite(read(tmp_path / "o.parquet")["z"].to_numpy(float)).all()

    def test_dictionaries_may_differ_from_row_group_to_row_group(self, tmp_path):
        kind = pa.dictionary(pa.int8(), pa.string())
        x = np.random.default_rng(0).normal(size=400)
        frame = pd.DataFrame({"x": x, "c": np.where(x > 0, "p", "q")})
        fitted = VAE(max_epochs=1, samples=20, random_state=0).fit(frame)
        schema = pa.schema([("x", pa.float64()), ("c", kind)])
        with pq.ParquetWriter(tmp_path / "i.parquet", schema) as writer:
            for values in (["p", None], ["q", None], ["p", "q"]):
                writer.write_table(
                    pa.table({"x": [2.0, None], "c": pa.array(values).dictionary_encode().cast(kind)})
                )
        fill(tmp_path / "i.parquet", fitted, tmp_path / "o.parquet", 2)
        assert pq.read_schema(tmp_path / "o.parquet").field("c").type == kind
        want = fitted.fill(read(tmp_path / "i.parquet"))
        filled = read(tmp_path / "o.parquet")
        assert filled["c"].astype(str).tolist() == want["c"].astype(str).tolist()
        assert filled["x"].equals(want["x"])


class TestAllOrNothing:
    @pytest.mark.parametrize("suffix", [".parquet", ".csv", ".csv.gz"])
    @pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
    def test_an_interrupted_write_leaves_what_was_there(self, tmp_path, suffix, error):
        path = tmp_path / f"o{suffix}"
        path.write_bytes(b"before")

        def pieces():
            yield pd.DataFrame({"a": [1.0, 2.0]})
            raise error

        with pytest.raises(error):
            streams.write(path, pieces())
        assert path.read_bytes() == b"before"
        assert os.listdir(tmp_path) == [path.name]

    def test_where_it_cannot_write(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="no folder"):
            streams.write(tmp_path / "none" / "a.csv", [])
        with pytest.raises(ValueError, match="is no table"):
            streams.write(tmp_path / "a.npy", [])


MEASURE = """
import json, resource, sys
from abduce.bulk import streaming
from abduce.data import streams
from abduce import load
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
quiet = lambda *_: None
fitted = load(sys.argv[1])
for path in sys.argv[2:]:
    source = streams.TableFile(path)
    streaming.Filling(source, fitted, quiet, 10_000).write(path + ".whole.parquet")
    print(json.dumps(peak()))
"""


def test_memory_does_not_grow_with_the_file(tmp_path):
    """Ten times the rows, 300,000 of 10 columns (24 MB a copy): the peak grows by less than two copies of them."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300_000, 10))
    x[:, 5:] += x[:, :5]
    x[rng.random(len(x)) < 0.05, 3] = np.nan
    frame = pd.DataFrame(x, columns=[f"c{j}" for j in range(10)])
    small, large = str(tmp_path / "small.parquet"), str(tmp_path / "large.parquet")
    frame.head(30_000).to_parquet(small)
    frame.to_parquet(large)  # one row group
    GaussianMixture(components=2, random_state=0).fit(frame.head(2000)).save(tmp_path / "m")
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path / "m"), small, large],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    before, after = map(json.loads, done.stdout.split())
    assert after - before < 48, (before, after)
    assert not pd.read_parquet(large + ".whole.parquet").isna().any().any()

"""Files in, data out, and back into the same kind of file."""

from __future__ import annotations

import os

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from abduce.data import examples
from abduce.data.images import image_names
from abduce.data.readers import read, write
from abduce.data.streams import TableFile

rng = np.random.default_rng(0)


def mixed() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "age": pd.array([39, None, 17], dtype="Int64"),
            "width": pd.array([0.1, 1e-7, None], dtype="Float64"),
            "name": pd.array(["a,b", None, 'say "x"'], dtype="string"),
            "yes": pd.array([True, None, False], dtype="boolean"),
        }
    )


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".csv.gz", ".CSV", ".parquet"])
def test_tables_there_and_back(tmp_path, suffix):
    path = tmp_path / f"table{suffix}"
    assert write(path, mixed()) == path
    back = read(path)
    pd.testing.assert_frame_equal(back.astype(mixed().dtypes), mixed())
    assert back.dtypes.astype(str).tolist() == ["Int64", "Float64", "string", "boolean"]
    assert os.listdir(tmp_path) == [path.name]


def test_whole_numbers_with_blanks_stay_whole(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("age,id\n39,9007199254740993\n,4\n50,\n")
    frame = read(path)
    assert frame["age"].tolist() == [39, pd.NA, 50]
    assert frame["id"][0] == 9007199254740993
    write(tmp_path / "b.csv", frame)
    assert (tmp_path / "b.csv").read_text() == path.read_text()


def test_penguins_keep_their_text(tmp_path):
    (tmp_path / "p.csv").write_text(examples.penguins().to_csv(index=False).replace(".0,", ","))
    write(tmp_path / "q.csv", read(tmp_path / "p.csv"))
    assert "Adelie,Torgersen,39.1,18.7,181,3750,male,2007\n" in (tmp_path / "q.csv").read_text()
    assert read(tmp_path / "q.csv").equals(read(tmp_path / "p.csv"))


def test_a_nameless_column_stays_nameless(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(",x\n0,1.5\n1,2.5\n")
    assert write(tmp_path / "b.csv", read(path)).read_text() == path.read_text()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=20))
def test_floats_survive_text_to_the_bit(tmp_path_factory, values):
    path = tmp_path_factory.mktemp("floats") / "a.csv"
    write(path, pd.DataFrame({"x": values}))
    np.testing.assert_array_equal(read(path)["x"].to_numpy(float), values)


def test_arrays_there_and_back(tmp_path):
    for array in (rng.normal(size=(4, 3)), rng.integers(0, 255, (4, 2, 2)).astype(np.uint8)):
        for suffix in (".npy", ".npz"):
            back = read(write(tmp_path / f"a{suffix}", array))
            assert back.dtype == array.dtype
            np.testing.assert_array_equal(back, array)
    table = read(write(tmp_path / "a.csv", np.array([[1.5, np.nan], [2.5, 3.0]])))
    assert table.columns.tolist() == ["x0", "x1"]
    assert read(write(tmp_path / "b.npy", pd.DataFrame({"a": [1, 2]}))).tolist() == [[1], [2]]
    assert np.isnan(read(write(tmp_path / "c.npy", mixed()[["age"]]))[1, 0])
    assert read(write(tmp_path / "z.csv", np.arange(3))).shape == (3, 1)


def test_npz_members(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, X=np.ones((2, 2)), y=np.zeros(2))
    assert read(path).shape == (2, 2)
    assert read(path, member="y").shape == (2,)
    with pytest.raises(ValueError, match=r"has no array 'Z'; it holds X, y; choose one with member="):
        read(path, member="Z")
    np.savez(path, a=np.ones(2), b=np.zeros(2))
    with pytest.raises(ValueError, match=r"several arrays and none is named X; it holds a, b"):
        read(path)
    with pytest.raises(ValueError, match=r"member='a' is for .npz files only"):
        read(write(tmp_path / "a.npy", np.ones((2, 2))), member="a")


# ---------------------------------------------------------------- images


@pytest.mark.parametrize("shape", [(3, 5, 4), (3, 5, 4, 3), (3, 5, 4, 4)])
def test_images_there_and_back(tmp_path, shape):
    pixels = rng.integers(0, 256, shape).astype(np.uint8)
    write(tmp_path / "out", pixels)
    assert image_names(tmp_path / "out") == ["000000.png", "000001.png", "000002.png"]
    back = read(tmp_path / "out")
    assert back.dtype == np.uint8
    np.testing.assert_array_equal(back, pixels)
    assert os.listdir(tmp_path) == ["out"]


def test_answers_keep_their_names(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    for name in ("zebra.png", "ape.bmp", "cat.jpg"):
        Image.fromarray(rng.integers(0, 256, (4, 4)).astype(np.uint8)).save(source / name)
    (source / "notes.txt").write_text("not an image")
    pixels = read(source)
    write(tmp_path / "out", pixels, like=source)
    assert image_names(tmp_path / "out") == ["ape.bmp", "cat.png", "zebra.png"]
    np.testing.assert_array_equal(read(tmp_path / "out"), pixels)
    existing = tmp_path / "there"
    existing.mkdir()
    (existing / "keep.txt").write_text("mine")
    write(existing, pixels, like=source)
    assert (existing / "keep.txt").read_text() == "mine"
    np.testing.assert_array_equal(read(existing), pixels)
    with pytest.raises(ValueError, match=r"2 images to write but .* has 3"):
        write(tmp_path / "two", pixels[:2], like=source)


def test_the_odd_image_is_named(tmp_path):
    write(tmp_path / "a", rng.integers(0, 256, (3, 4, 4)).astype(np.uint8))
    Image.new("L", (5, 4)).save(tmp_path / "a" / "odd.png")
    with pytest.raises(
        ValueError, match=r"odd.png has 5x4 pixels, 1 channel but most images there have 4x4 pixels"
    ):
        read(tmp_path / "a")
    Image.new("RGB", (4, 4)).save(tmp_path / "a" / "odd.png")
    with pytest.raises(ValueError, match=r"odd.png has 4x4 pixels, 3 channels"):
        read(tmp_path / "a")
    (tmp_path / "a" / "odd.png").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match=r"odd.png cannot be read as an image"):
        read(tmp_path / "a")
    good = (tmp_path / "a" / "000000.png").read_bytes()
    (tmp_path / "a" / "odd.png").write_bytes(good[: len(good) // 2])
    with pytest.raises(ValueError, match=r"odd.png cannot be read as an image"):
        read(tmp_path / "a")


def test_float_and_bool_images(tmp_path):
    pixels = rng.integers(0, 256, (2, 4, 4))
    np.testing.assert_array_equal(read(write(tmp_path / "unit", pixels / 255)), pixels)
    np.testing.assert_array_equal(read(write(tmp_path / "bytes", pixels.astype(float))), pixels)
    np.testing.assert_array_equal(read(write(tmp_path / "one", pixels[..., None])), pixels)
    np.testing.assert_array_equal(read(write(tmp_path / "bool", pixels > 99)), (pixels > 99) * 255)
    with pytest.raises(ValueError, match=r"pixels must lie in 0..255 or 0..1, got -1 to 0"):
        write(tmp_path / "bad", -np.ones((1, 2, 2)))
    with pytest.raises(ValueError, match="missing pixels"):
        write(tmp_path / "bad", np.full((1, 2, 2), np.nan))
    with pytest.raises(ValueError, match=r"images have shape"):
        write(tmp_path / "bad", np.ones((2, 2)))
    assert not (tmp_path / "bad").exists()


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"", "a.csv is empty"),
        ("a.csv", b"\n\n", "a.csv is empty"),
        ("a.csv", b"a,b\n", "a.csv has no rows"),
        ("a.csv", b'a,b\n"1,2\n3,4\n', "a.csv cannot be read as .csv"),
        ("a.csv", b"a,b\n1,2\n1,2,3\n", "a.csv cannot be read as .csv: .*Expected 2 fields"),
        ("a.csv", b"a\n\xff\xfe\n", "a.csv cannot be read as .csv: .*utf-8"),
        ("a.parquet", b"nonsense", "a.parquet cannot be read as .parquet"),
        ("a.npy", b"nonsense", "a.npy cannot be read as .npy"),
        ("a.npz", b"nonsense", "a.npz cannot be read as .npz"),
        ("a.npy", b"", "a.npy is empty"),
        ("a.doc", b"x", r"a.doc: suffix '.doc'; expected .csv, .tsv"),
        ("a", b"x", r"a: no suffix; expected .csv"),
        ("a.png", b"x", r"a.png is one image; expected a folder of images"),
    ],
)
def test_unreadable_files(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read(tmp_path / name)


@pytest.mark.parametrize("places", [[0, 2, 10**8], [0, 2, -1], [0, 4, 2], [-(10**8), 0, 4]])
@pytest.mark.parametrize("suffix", [".feather", ".arrow"])
def test_text_that_lies_beyond_an_arrow_file(tmp_path, suffix, places):
    """Arrow reads by address: what is not looked through first ends the process."""
    path = write(tmp_path / f"a{suffix}", pd.DataFrame({"text": ["ab", "cd"]}))
    wide = np.int64 if TableFile(path).schema.field("text").type == pa.large_string() else np.int32
    right, wrong = (np.array(p, wide).tobytes() for p in ([0, 2, 4], places))
    content = path.read_bytes()
    assert content.count(right) == 1
    path.write_bytes(content.replace(right, wrong))
    with pytest.raises(ValueError, match=f"a{suffix} cannot be read as {suffix}"):
        read(path)
    with pytest.raises(ValueError, match=f"a{suffix} cannot be read as {suffix}"):
        list(TableFile(path).chunks())


def test_missing_and_empty_places(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"a.csv: no such file or folder"):
        read(tmp_path / "a.csv")
    with pytest.raises(ValueError, match=r"has no images; expected files with suffix .png"):
        read(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"there is no folder .* to write into"):
        write(tmp_path / "not" / "there.csv", mixed())
    with pytest.raises(ValueError, match=r"suffix '.doc'"):
        write(tmp_path / "a.doc", mixed())
    with pytest.raises(ValueError, match=r"a table holds 2-D data, got shape \(2, 2, 2\)"):
        write(tmp_path / "a.csv", np.ones((2, 2, 2)))
    with pytest.raises(ValueError, match="an array holds numbers only, but name are not"):
        write(tmp_path / "a.npy", mixed())


def test_objects_are_never_unpickled(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"cannot be read as .npy: .*pickle"):
        read(tmp_path / "a.npy")
    with pytest.raises(ValueError, match="Object arrays"):
        write(tmp_path / "b.npy", np.array([{}], dtype=object))


def test_a_full_disk_leaves_nothing_and_keeps_the_old(tmp_path, monkeypatch):
    path = tmp_path / "a.csv"
    path.write_text("old")

    def full(self, file, **kwargs):
        file.write("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_csv", full)
    with pytest.raises(OSError, match="No space left"):
        write(path, mixed())
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.csv"]

    def no_images(self, file, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", no_images)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path / "images", np.zeros((2, 3, 3), np.uint8))
    assert os.listdir(tmp_path) == ["a.csv"]

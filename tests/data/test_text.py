"""Tables of text: what cells mean, and that every observed cell comes back as it was written, whole or in chunks."""

from __future__ import annotations

import gzip

import numpy as np
import pandas as pd
import pytest

from abduce import Auto
from abduce.bulk.streaming import Filling
from abduce.data.readers import read, write
from abduce.data.streams import TableFile

ROWS = 60


def table(path, header, cells, separator=",", newline="\n", mark=b""):
    """A file of rows of text, as they are given."""
    lines = [separator.join(row) for row in (header, *cells)]
    content = mark + (newline.join(lines) + newline).encode()
    path.write_bytes(gzip.compress(content) if path.name.endswith(".gz") else content)
    return path


def lines(path):
    content = path.read_bytes()
    return (gzip.decompress(content) if path.name.endswith(".gz") else content).split(b"\n")


def numbers(seed=0):
    """Text of numbers with a trailing zero, which no float has."""
    return [f"{v:.2f}0" for v in np.random.default_rng(seed).normal(size=ROWS)]


def filled(path, tmp_path, na=()):
    """The file filled as a whole and in chunks, which must agree, and how many cells that filled."""
    frame = read(path, na=na)
    model = Auto(random_state=0).fit(frame)
    whole = write(tmp_path / f"whole-{path.name}", model.fill(frame), like=path, na=na)
    filling = Filling(TableFile(path, na), model, lambda *_: None, 25)
    target = tmp_path / f"chunks-{path.name}"
    filling.write(str(target))
    assert lines(target) == lines(whole)
    return lines(target), filling.filled


# ---------------------------------------------------------------- what cells mean


@pytest.mark.parametrize(
    ("cells", "dtype", "values"),
    [
        (["NA", "DE", ""], "string", ["NA", "DE", None]),
        (["None", "null", "nan"], "string", ["None", "null", "nan"]),
        (["02116", "10001", "7"], "string", ["02116", "10001", "7"]),
        (["008.45", "1.5", "2"], "string", ["008.45", "1.5", "2"]),
        (["0", "-0", "+5"], "Int64", [0, 0, 5]),
        (["1", " ", "\t3 "], "Int64", [1, None, 3]),
        (["18446744073709551615", "1", ""], "UInt64", [2**64 - 1, 1, None]),
        (["9223372036854775807", "-1", ""], "Int64", [2**63 - 1, -1, None]),
        (["18446744073709551616", "1", ""], "string", ["18446744073709551616", "1", None]),
        (["1e5", ".5", "5."], "Float64", [1e5, 0.5, 5.0]),
        (["1", "2", "0.1"], "Float64", [1.0, 2.0, 0.1]),
        (["true", "FALSE", ""], "boolean", [True, False, None]),
        (["true", "yes", ""], "string", ["true", "yes", None]),
        (["0x10", "1_000", "inf"], "string", ["0x10", "1_000", "inf"]),
        (["", " ", ""], "Int64", [None, None, None]),
    ],
)
def test_what_a_column_means(tmp_path, cells, dtype, values):
    path = table(tmp_path / "a.csv", ["x", "y"], [[cell, "1"] for cell in cells])
    column = read(path)["x"]
    assert column.dtype == dtype
    assert column.astype(object).where(column.notna(), None).tolist() == values
    for rows in (1, 2):
        chunks = pd.concat([chunk.frame["x"] for chunk in TableFile(path).chunks(rows)])
        pd.testing.assert_series_equal(chunks, column, check_exact=True)


def test_words_that_mean_a_blank(tmp_path):
    path = table(tmp_path / "a.csv", ["x", "y"], [["1", "NA"], ["NA", "-"], ["-", "b"]])
    with pytest.warns(
        UserWarning, match=r"column 'x' is text because of '-', 'NA' among numbers.*na=\['-', 'NA'\]"
    ):
        assert read(path)["x"].dtype == "string"
    frame = read(path, na=["NA", "-"])
    assert frame["x"].dtype == "Int64"
    assert frame.isna().to_numpy().tolist() == [[False, True], [True, True], [True, False]]
    assert read(path, na="NA")["y"].isna().tolist() == [True, False, False]
    with pytest.raises(ValueError, match=r"na must be words that mean a blank, got 1"):
        read(path, na=[1])


@pytest.mark.parametrize(
    ("name", "content", "first"),
    [
        ("a.csv", b"a;b\n0,13;0,25\n1;2\n", [0.13, 0.25]),
        ("a.csv", b"a;b\n1,234;2\n", [1.234, 2]),
        ("a.csv", b"a\tb\n1,25\t2\n", [1.25, 2]),
        ("a.csv", b"a\tb\n1,234\t2\n", ["1,234", 2]),  # thousands, or not: text
        ("a.tsv", b"a|b\n1.5|2\n", [1.5, 2]),
        ("a.csv", b'a,b\n"0,13",2\n', [0.13, 2]),
        ("a.csv", b"a;b\nhello, world;2\n", ["hello, world", 2]),
        ("a.csv", b"\n\na,b\n1,2\n\n3,4\n", [1, 2]),
        ("a.csv", b'\xef\xbb\xbfa,b\r\n1,"x\r\ny"\r\n', [1, "x\r\ny"]),
    ],
)
def test_dialects(tmp_path, name, content, first):
    path = tmp_path / name
    path.write_bytes(content)
    frame = read(path)
    assert list(frame.columns) == ["a", "b"]
    assert frame.iloc[0].tolist() == first
    out = write(tmp_path / f"out-{name}", frame, like=path)
    written = content.replace(b'"0,13"', b'"0,13"').replace(b"\n\n", b"\n").lstrip(b"\n")
    assert out.read_bytes() == written


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a,b\n1,2,\n3,4,\n", "Expected 2 fields in line 2, as in the header, saw 3 separated by ','"),
        (b"a;b\n1;2\n1;2;3\n", "Expected 2 fields in line 3, as in the header, saw 3 separated by ';'"),
        (b'a,b\n"x\ny",2\n1\n', "Expected 2 fields in line 4, as in the header, saw 1"),
        (b"a\n1,2\n", "Expected 1 field in line 2, as in the header, saw 2"),
        (b"a:b\n1:2\n3:4\n", r"seems to separate its fields by ':'; expected one of ',', ';', a tab, '\|'"),
        (b"a b\n1 2\n3 4\n", "seems to separate its fields by a space"),
        (b'a\n1\n"3\n5\n', "a quote is never closed"),
        ("a,b\n1,2\n".encode("utf-16"), "is not UTF-8 text"),
    ],
)
def test_files_that_are_refused(tmp_path, content, message):
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    for reader in (read, TableFile):
        with pytest.raises(ValueError, match=rf"a.csv.*{message}"):
            reader(path)


def test_blank_lines_of_one_column_are_rows(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("a\n1.50\n\n2.50\n\n")
    assert read(path)["a"].isna().tolist() == [False, True, False, True]


# ---------------------------------------------------------------- what comes back


@pytest.mark.parametrize(
    ("name", "separator", "newline", "mark"),
    [
        ("a.csv", ",", "\n", b""),
        ("a.csv", ";", "\r\n", b"\xef\xbb\xbf"),
        ("a.csv.gz", "|", "\n", b""),
        ("a.tsv", "\t", "\n", b""),
        ("a.csv", "\t", "\n", b""),
    ],
)
def test_observed_cells_come_back_to_the_byte(tmp_path, name, separator, newline, mark):
    x, y = numbers(0), numbers(1)
    rows = [
        [
            ("NA", "DE", "None", "null")[i % 4],
            f"{i % 3:05d}",
            "" if i % 7 == 0 else x[i],
            "  " if i % 11 == 3 else "1e5" if i == 5 else y[i],
            "true" if i % 2 else "false",
            f'"say ""{i % 3}"", a\nb"',
        ]
        for i in range(ROWS)
    ]
    path = table(tmp_path / name, ["c", "zip", "x", "y", "f", '"q, r"'], rows, separator, newline, mark)
    if separator != ",":  # quoted for nothing in this file
        content = gzip.decompress(path.read_bytes()) if name.endswith("gz") else path.read_bytes()
        content = content.replace(b'"q, r"', b"q, r")
        path.write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    after, count = filled(path, tmp_path)
    before = lines(path)
    assert count == sum(i % 7 == 0 for i in range(ROWS)) + sum(i % 11 == 3 for i in range(ROWS))
    assert len(after) == len(before)
    mend = separator.encode()
    for old, new in zip(before, after, strict=True):
        for a, b in zip(old.split(mend), new.split(mend), strict=True):
            assert a == b or not a.strip()
            assert b.strip() or not old.strip()


def test_decimal_commas_and_flags_are_filled_as_the_file_writes_them(tmp_path):
    x = [text.replace(".", ",") for text in numbers()]
    rows = [
        ["" if i % 9 == 4 else x[i], "" if i % 8 == 3 else "true" if i % 3 else "false", x[-i]]
        for i in range(ROWS)
    ]
    path = table(tmp_path / "a.csv", ["x", "f", "y"], rows, ";")
    after, _ = filled(path, tmp_path)
    cells = [line.split(b";") for line in after[1:-1]]
    assert {f for _, f, _ in cells} == {b"true", b"false"}
    assert all(b"." not in x and b"," in x for x, _, _ in cells)


def test_what_is_no_cell_of_the_model_stays(tmp_path):
    """Names of rows, in what is filled and in what is denoised, and headers that come twice."""
    x = numbers()
    rows = [[f"{i:04d}", x[i], "" if i % 9 == 0 else x[-i], "1.50"] for i in range(ROWS)]
    path = table(tmp_path / "a.csv", ["id", "x", "x", ""], rows)
    frame = read(path)
    assert list(frame.columns) == ["id", "x", "x.1", "Unnamed: 3"]
    model = Auto(random_state=0).fit(frame)
    for answer in (model.fill(frame), model.denoise(frame, 0.1)):
        out = lines(write(tmp_path / "o.csv", answer, like=path))
        assert out[0] == b"id,x,x,"
        assert [line.split(b",")[0] for line in out[1:-1]] == [b"%04d" % i for i in range(ROWS)]


def test_words_for_blanks_are_filled(tmp_path):
    x = numbers()
    path = table(tmp_path / "a.csv", ["x", "y"], [["NA" if i % 9 == 0 else x[i], x[-i]] for i in range(ROWS)])
    after, count = filled(path, tmp_path, na=["NA"])
    assert count == 7
    assert not any(b"NA" in line for line in after)
    assert [new for old, new in zip(lines(path), after, strict=True) if b"NA" not in old] == [
        line for line in lines(path) if b"NA" not in line
    ]


def test_an_answer_of_other_rows_is_written_plainly(tmp_path):
    path = table(tmp_path / "a.csv", ["x"], [["1.50"], ["2.50"]])
    assert write(tmp_path / "o.csv", pd.DataFrame({"x": [1.5]}), like=path).read_text() == "x\n1.5\n"
    assert (
        write(tmp_path / "p.csv", pd.DataFrame({"z": [1.5, 2.5]}), like=path).read_text() == "z\n1.5\n2.5\n"
    )
    assert write(tmp_path / "q.tsv", read(path), like=path).read_text() == "x\n1.50\n2.50\n"

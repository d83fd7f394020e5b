"""Texts on the command line: a file goes in and comes out, every character as it is."""

import io
import json
import subprocess
import sys

import pandas as pd
import pytest

BOOK = "to be, or not to be: that is the question.\r\nwhether it is nobler to see or not to see.\r\n" * 30


@pytest.fixture
def ask(commanded, capfdbinary):
    """Run a command: (status, standard output as bytes, standard error)."""

    def run(*arguments):
        status = commanded(*arguments)
        sys.stdout.flush()
        captured = capfdbinary.readouterr()
        return status, captured.out, captured.err.decode()

    return run


@pytest.fixture
def book(tmp_path, ask):
    """A file of text and a model of it."""
    path = tmp_path / "book.txt"
    path.write_bytes(BOOK.encode())
    status, out, error = ask("fit", path, "-o", tmp_path / "model", "--set", "order=5", "--json")
    assert (status, error.count("fitted")) == (0, 1), error
    about = json.loads(out)
    assert (about["order"], about["unit"], about["characters"]) == (5, "char", len(BOOK))
    return tmp_path


def test_fill(book, ask):
    (book / "holes.txt").write_bytes(b"to b_, or n_t to be\r\nwhether [...] nobler\r\n")
    status, out, error = ask(
        "fill", book / "holes.txt", "-m", book / "model", "-o", book / "whole.txt", "--json"
    )
    assert status == 0, error
    assert (book / "whole.txt").read_bytes() == b"to be, or not to be\r\nwhether it is nobler\r\n"
    assert json.loads(out)["filled"] == 3
    status, out, error = ask(
        "fill", book / "holes.txt", "-m", book / "model", "--gap", "[...]", "--length", 5, "-q"
    )
    assert (status, out) == (0, (book / "whole.txt").read_bytes())
    status, _, error = ask(
        "fill", book / "holes.txt", "-m", book / "model", "--draws", 2, "-o", book / "d.txt", "--seed", 1
    )
    assert status == 0, error
    assert {(book / f"d-{k}.txt").read_bytes()[:4] for k in (1, 2)} == {b"to b"}
    assert ask("fill", book / "book.txt", "-m", book / "model")[0] == 1


def test_fill_reads_standard_input(book):
    done = subprocess.run(
        [sys.executable, "-m", "abduce", "fill", "-", "-m", str(book / "model"), "--blank", "?", "-q"],
        input=b"to b? or not",
        capture_output=True,
        check=True,
    )
    assert done.stdout == b"to be or not"


def test_score_sample_info(book, ask):
    status, out, _ = ask("score", book / "book.txt", "-m", book / "model")
    found = pd.read_csv(io.BytesIO(out))
    assert (status, found["characters"][0]) == (0, len(BOOK))
    assert 0 < found["adaptive_bits_per_character"][0] < found["bits_per_character"][0] < 1
    status, out, _ = ask("sample", "-m", book / "model", "-n", 3, "--seed", 0)
    assert (status, out.count(b"\n")) == (0, 3)
    assert out == ask("sample", "-m", book / "model", "-n", 3, "--seed", 0)[1]
    status, out, _ = ask("info", book / "model", "--json")
    assert (status, json.loads(out)["method"]) == (0, "Text")


def test_compress_and_back(book, ask):
    status, out, error = ask(
        "compress", book / "book.txt", "-m", book / "model", "-o", book / "packed", "--json"
    )
    assert status == 0, error
    assert json.loads(out)["bytes"] == (book / "packed").stat().st_size < len(BOOK) / 40
    assert ask("decompress", book / "packed", "-m", book / "model", "-o", book / "again.txt")[0] == 0
    assert (book / "again.txt").read_bytes() == BOOK.encode()
    assert ask("decompress", book / "packed", "-m", book / "model")[1] == BOOK.encode()


def test_a_method_by_name_takes_any_file_and_its_own_settings_alone(book, ask):
    (book / "notes").write_text(BOOK)
    assert ask("fit", book / "notes", "--model", "text", "--set", "unit=word", "-o", book / "other")[0] == 0
    status, _, error = ask("fit", book / "notes", "--model", "text", "--set", "hidden=3", "-o", book / "o")
    assert status == 1
    assert "Text takes no hidden; it takes beam, order, unit" in error

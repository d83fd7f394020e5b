"""The command line on real files: what it answers, where it writes, how it fails."""

import io
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from abduce.data.examples import load_digits_images, penguins

COMMAND = [sys.executable, "-m", "abduce"]


def shell(*arguments, **options):
    """Run a command as a person would, in a process of its own."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=240, **options
    )


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """The penguins as a file, and a model of them."""
    folder = tmp_path_factory.mktemp("penguins")
    penguins().to_csv(folder / "penguins.csv", index=False)
    done = shell("fit", folder / "penguins.csv", "-o", folder / "model", "--max-epochs", 30, "--json")
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout), done.stderr


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Sixty digits as a folder of images and as an array, and a model of them."""
    folder = tmp_path_factory.mktemp("digits")
    digits = (load_digits_images()[0][:60] * 15).astype(np.uint8)
    np.save(folder / "digits.npy", digits)
    (folder / "digits").mkdir()
    for k, digit in enumerate(digits):
        Image.fromarray(digit).save(folder / "digits" / f"scan-{k:02d}.png")
    done = shell("fit", folder / "digits", "-o", folder / "model", "--max-epochs", 2, "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return folder, digits


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Twenty thousand rows in a Parquet file, a fifth of the cells blank, and a model of a sample of them."""
    folder = tmp_path_factory.mktemp("large")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20_000, 3)) @ rng.normal(size=(3, 4))
    x[rng.random(x.shape) < 0.2] = np.nan
    pd.DataFrame(x, columns=list("abcd")).to_parquet(folder / "large.parquet")
    done = shell(
        *("fit", folder / "large.parquet", "-o", folder / "model", "--model", "gaussian-mixture"),
        *("--set", "components=2", "--rows", 3000, "--json"),
    )
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout), done.stderr


class TestFit:
    def test_says_what_it_did(self, table):
        folder, facts, remarks = table
        assert facts["rows"] == 344
        assert facts["cells"] == 8
        assert facts["epochs"] == 30
        assert facts["interrupted"] is False
        assert "344 rows" in remarks
        assert sorted(p.name for p in folder.iterdir()) == ["model", "penguins.csv"]

    def test_kinds_can_be_said(self, table, ask, tmp_path):
        folder = table[0]
        status, out, _ = ask(
            "fit",
            folder / "penguins.csv",
            "-o",
            tmp_path / "m",
            "--max-epochs",
            1,
            "--kind",
            "year=real",
            "-q",
        )
        assert (status, out) == (0, "")
        kinds = {
            c["column"]: c["kind"] for c in json.loads(ask("info", tmp_path / "m", "--json")[1])["columns"]
        }
        assert kinds["year"] == "real"
        assert kinds["species"] == "categorical"

    def test_the_same_seed_gives_the_same_model(self, table, ask, tmp_path):
        folder = table[0]
        for name in ("a", "b"):
            ask("fit", folder / "penguins.csv", "-o", tmp_path / name, "--max-epochs", 2, "--seed", 7)
        weights = [(tmp_path / name / "weights.safetensors").read_bytes() for name in ("a", "b")]
        assert weights[0] == weights[1]

    def test_a_table_is_served_by_the_pool(self, table, ask, tmp_path):
        source = table[0] / "penguins.csv"
        status, out, remarks = ask("fit", source, "-o", tmp_path / "m", "--json")
        facts = json.loads(out)
        assert status == 0
        assert facts["method"] == "Auto"
        assert sum(facts["members"].values()) == pytest.approx(1)
        assert "Gaussian of numbers" in facts["members"]
        assert "members and their weights" in remarks
        assert "members and their weights" in ask("info", tmp_path / "m")[1]
        status, out, _ = ask("fill", source, "-m", tmp_path / "m", "-o", "-", "-q")
        whole = pd.read_csv(io.StringIO(out))
        before = pd.read_csv(source)
        assert status == 0
        assert not whole.isna().any().any()
        assert set(whole["sex"]) == {"female", "male"}
        seen = before["bill_length_mm"].notna()
        assert (whole["bill_length_mm"][seen] == before["bill_length_mm"][seen]).all()

    def test_an_option_of_the_vae_asks_for_one(self, table, ask, tmp_path):
        source = table[0] / "penguins.csv"
        status, out, _ = ask("fit", source, "-o", tmp_path / "m", "--max-epochs", 1, "--json", "-q")
        assert (status, json.loads(out)["method"]) == (0, "VAE")

    def test_the_models_parts_can_be_named(self, images, ask, tmp_path):
        folder = images[0]
        parts = {"prior": "mixture", "posterior": "full", "objective": "iwae", "likelihood": "beta_binomial"}
        flags = [word for name, value in parts.items() for word in (f"--{name}", value)]
        run = ("fit", folder / "digits.npy", "-o", tmp_path / "m", "--max-epochs", 1, "-q")
        assert ask(*run, *flags)[0] == 0
        arguments = json.loads((tmp_path / "m" / "model.json").read_text())["arguments"]
        assert parts.items() <= arguments.items()
        status, _, said = ask(*run, "--prior", "vampire")
        assert status == 1
        assert "prior" in said
        assert "vampire" in said

    def test_ctrl_c_leaves_a_usable_model(self, table, ask, tmp_path):
        folder = table[0]
        arguments = [
            "fit",
            folder / "penguins.csv",
            "-o",
            tmp_path / "m",
            "--max-epochs",
            2000,
            "--resume",
        ]
        run = subprocess.Popen(
            [*COMMAND, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # what runs the tests may ignore SIGINT, as a shell's background jobs do, and children inherit that
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        deadline = time.monotonic() + 120
        while not (tmp_path / "m.training").exists() and time.monotonic() < deadline:
            time.sleep(0.2)
        run.send_signal(signal.SIGINT)
        _, remarks = run.communicate(timeout=120)
        assert run.returncode == 130, remarks
        assert "interrupted" in remarks
        status, out, _ = ask("score", folder / "penguins.csv", "-m", tmp_path / "m", "--json")
        assert status == 0
        assert len(json.loads(out)["log_p"]) == 344


class TestAnswers:
    def test_fill_keeps_what_was_there(self, table, ask):
        folder = table[0]
        status, out, remarks = ask(
            "fill", folder / "penguins.csv", "-m", folder / "model", "-o", folder / "whole.csv"
        )
        assert (status, out) == (0, "")
        assert "filled 19 blank cells" in remarks
        before, after = pd.read_csv(folder / "penguins.csv"), pd.read_csv(folder / "whole.csv")
        assert list(after.columns) == list(before.columns)
        assert not after.isna().any().any()
        pd.testing.assert_frame_equal(after.where(before.notna()), before)
        assert set(after["sex"]) == {"male", "female"}
        heavy = after.loc[before["body_mass_g"].isna(), "body_mass_g"]
        assert heavy.between(2700, 6300).all()

    def test_fill_works_in_a_pipe(self, table):
        folder = table[0]
        done = shell("fill", folder / "penguins.csv", "-m", folder / "model")
        assert done.returncode == 0
        assert not pd.read_csv(io.StringIO(done.stdout)).isna().any().any()

    def test_several_copies_differ_only_in_the_blanks(self, table, ask, tmp_path):
        folder = table[0]
        before = pd.read_csv(folder / "penguins.csv")
        status, _, _ = ask(
            "fill",
            folder / "penguins.csv",
            "-m",
            folder / "model",
            "-o",
            tmp_path / "w.csv",
            "--draws",
            3,
            "--seed",
            1,
        )
        assert status == 0
        copies = [pd.read_csv(tmp_path / f"w-{k}.csv") for k in (1, 2, 3)]
        for copy in copies:
            pd.testing.assert_frame_equal(copy.where(before.notna()), before)
        assert not copies[0].equals(copies[1])

    def test_a_score_estimates_log_z_and_says_so(self, ask, tmp_path):
        np.save(tmp_path / "a.npy", np.random.default_rng(0).normal(size=(100, 2)))
        model, network = tmp_path / "m", ("--model", "energy-network", "--set", "hidden=[4]")
        remarks = ask("fit", tmp_path / "a.npy", "-o", model, *network, "--set", "max_epochs=1")[2]
        assert f"`abduce normalize {model}` estimates and keeps it" in " ".join(remarks.split())
        status, before, remarks = ask("score", tmp_path / "a.npy", "-m", model)
        assert status == 0
        assert f"`abduce normalize {model}` keeps it" in " ".join(remarks.split())
        assert ask("normalize", model)[0] == 0
        assert ask("score", tmp_path / "a.npy", "-m", model) == (0, before, "")

    def test_score_flag_and_embed_answer_row_by_row(self, table, ask, tmp_path):
        folder = table[0]
        question = (folder / "penguins.csv", "-m", folder / "model")
        log_p = pd.read_csv(io.StringIO(ask("score", *question)[1]))["log_p"]
        status, out, remarks = ask("flag", *question, "--contamination", 0.05)
        flags = pd.read_csv(io.StringIO(out))
        assert status == 0
        assert flags["flagged"].sum() == round(0.05 * 344)
        assert (
            flags.loc[flags["flagged"] == 1, "anomaly_score"].min()
            >= flags.loc[flags["flagged"] == 0, "anomaly_score"].max()
        )
        assert log_p.corr(flags["anomaly_score"], method="spearman") < -0.3
        assert flags["realism"].between(0, 1).all()
        assert flags["p_value"].between(0, 1, inclusive="right").all()
        assert f"{round(0.05 * 344)} of 344" in remarks

        odd = pd.read_csv(folder / "penguins.csv").iloc[::4].copy()
        heavy = np.arange(len(odd)) % 3 == 1
        odd.loc[heavy, "body_mass_g"] = 9000
        odd.to_csv(tmp_path / "odd.csv", index=False)
        found = pd.read_csv(
            io.StringIO(ask("flag", tmp_path / "odd.csv", "-m", folder / "model", "--alpha", 0.1)[1])
        )
        assert (found["flagged"] == 1)[heavy].mean() > 0.9
        assert (found["flagged"] == 1)[~heavy].mean() < 0.1
        odd[heavy].iloc[:2].to_csv(tmp_path / "odd.csv", index=False)
        asked = (tmp_path / "odd.csv", "-m", folder / "model")
        nats = pd.read_csv(io.StringIO(ask("explain", *asked)[1]))
        assert (nats.idxmax(axis=1) == "body_mass_g").all()
        should = pd.read_csv(io.StringIO(ask("explain", *asked, "--expected")[1]))
        assert list(should.columns) == list(odd.columns)
        assert should["body_mass_g"].between(2500, 7000).all()

        assert ask("embed", *question, "-o", tmp_path / "z.parquet")[0] == 0
        assert len(pd.read_parquet(tmp_path / "z.parquet")) == 344

    def test_json_is_what_the_file_would_say(self, table, ask):
        folder = table[0]
        question = (folder / "penguins.csv", "-m", folder / "model")
        told = json.loads(ask("score", *question, "--json")[1])
        assert told["unit"] == "nats"
        assert np.mean(told["log_p"]) == pytest.approx(told["mean"])
        flagged = json.loads(ask("flag", *question, "--json")[1])
        assert flagged["flagged_rows"] == list(np.flatnonzero(flagged["flagged"]))

    def test_samples_have_the_form_of_the_data(self, table, ask):
        folder = table[0]
        out = ask("sample", "-m", folder / "model", "-n", 40, "--seed", 3)[1]
        rows = pd.read_csv(io.StringIO(out))
        assert list(rows.columns) == list(penguins().columns)
        assert set(rows["species"]) <= {"Adelie", "Chinstrap", "Gentoo"}
        assert set(rows["year"]) <= {2007, 2008, 2009}
        assert out == ask("sample", "-m", folder / "model", "-n", 40, "--seed", 3)[1]
        assert out != ask("sample", "-m", folder / "model", "-n", 40)[1]

    def test_info_of_data_and_of_a_model(self, table, ask):
        folder = table[0]
        _, out, _ = ask("info", folder / "penguins.csv")
        assert "rows 344" in out
        assert "bill_length_mm" in out
        columns = json.loads(ask("info", folder / "model", "--json")[1])["columns"]
        assert {c["column"]: c["kind"] for c in columns}["sex"] == "binary"

    def test_info_says_how_columns_are_read(self, ask, tmp_path):
        rng = np.random.default_rng(0)
        n = 200
        frame = pd.DataFrame(
            {
                "gain": np.where(np.arange(n) < 106, 0.0, rng.normal(5, 1, n)),
                "income": rng.lognormal(0, 1.5, n),
                "height": rng.normal(170, 8, n),
                "visit": pd.Timestamp("2024-01-01") + pd.to_timedelta(rng.integers(0, 365, n), "D"),
                "name": [f"person {k}" for k in range(n)],
                "unit": "cm",
                "level": rng.integers(1, 5, n),
            }
        )
        frame.to_parquet(tmp_path / "people.parquet")
        columns = json.loads(ask("info", tmp_path / "people.parquet", "--json")[1])["columns"]
        notes = {c["column"]: c["note"] for c in columns}
        assert notes["gain"] == "0 in 53 % of the cells"
        assert notes["income"] == "heavy tail: read by normal scores too"
        assert notes["height"] == ""
        assert notes["visit"] == "counted in days"
        assert notes["name"] == "left out: names a row rather than describing it; 200 values in 200 rows"
        assert notes["unit"] == "left out: the same text in every row"
        assert notes["level"] == ""

    def test_a_column_of_names_is_left_out_with_a_word(self, ask, tmp_path):
        frame = penguins().assign(tag=[f"bird-{k}" for k in range(344)])
        frame.to_parquet(tmp_path / "tagged.parquet")
        status, out, remarks = ask("info", tmp_path / "tagged.parquet")
        assert status == 0
        assert "identifier" in out
        assert "left out of the model: tag" in remarks

    def test_compress_and_back(self, table, ask, tmp_path):
        folder = table[0]
        model = ("-m", folder / "model")
        status, out, _ = ask("compress", folder / "penguins.csv", *model, "-o", tmp_path / "p.abd", "--json")
        assert status == 0
        assert json.loads(out)["bytes"] == (tmp_path / "p.abd").stat().st_size
        assert ask("decompress", tmp_path / "p.abd", *model, "-o", tmp_path / "back.csv")[0] == 0
        pd.testing.assert_frame_equal(
            pd.read_csv(tmp_path / "back.csv"), pd.read_csv(folder / "penguins.csv"), check_exact=True
        )
        (tmp_path / "short").write_bytes((tmp_path / "p.abd").read_bytes()[:-9])
        status, _, error = ask("decompress", tmp_path / "short", *model, "-o", tmp_path / "wrong.csv")
        assert status == 1
        assert error.startswith("abduce: ")
        assert not (tmp_path / "wrong.csv").exists()


@pytest.fixture(scope="module")
def messy(tmp_path_factory):
    """A folder with a small CSV of what other programs write, and a model of it."""
    folder = tmp_path_factory.mktemp("messy")
    rng = np.random.default_rng(0)
    lines = ["id;2019;zip;x;f"]
    for i in range(60):
        x = "" if i % 9 == 0 else f"{rng.normal():.2f}0".replace(".", ",")
        flag = "true" if i % 2 else "false"
        lines.append(f"r{i:03d};{rng.normal():.2f}0;{('02116', '10001')[i % 2]};{x};{flag}".replace(".", ","))
    (folder / "a.csv").write_text("\n".join(lines) + "\n")
    done = shell("fit", "-", "-o", folder / "model", "-q", input=(folder / "a.csv").read_text())
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return folder


class TestText:
    """What other programs write comes back as it was."""

    def test_a_pipe_gives_every_observed_cell_back(self, messy):
        before = (messy / "a.csv").read_text()
        done = shell("fill", "-", "-m", messy / "model", "-o", "-", input=before)
        assert done.returncode == 0, done.stderr
        assert "filled 7 blank cells in 60 rows" in done.stderr
        after = done.stdout.splitlines()
        for old, new in zip(before.splitlines(), after, strict=True):
            for a, b in zip(old.split(";"), new.split(";"), strict=True):
                assert a == b or (not a and float(b.replace(",", ".")) < 9)

    def test_copies_and_answers_of_whole_files_keep_the_text_too(self, messy, ask, tmp_path):
        before = (messy / "a.csv").read_text().splitlines()
        status, _, err = ask(
            "fill", messy / "a.csv", "-m", messy / "model", "--draws", 2, "-o", tmp_path / "o.csv"
        )
        assert status == 0, err
        for k in (1, 2):
            after = (tmp_path / f"o-{k}.csv").read_text().splitlines()
            assert [new for old, new in zip(before, after, strict=True) if ";;" not in old] == [
                old for old in before if ";;" not in old
            ]

    def test_left_out_blanks_are_not_counted(self, messy, ask, tmp_path):
        path = tmp_path / "b.csv"
        path.write_text((messy / "a.csv").read_text().replace("r001;", ";"))
        for extra in ((), ("--draws", 1)):
            _, out, _ = ask(
                "fill", path, "-m", messy / "model", "-o", tmp_path / "o.csv", "--json", "-q", *extra
            )
            assert json.loads(out)["filled"] == 7

    def test_the_wrong_cell_is_named(self, messy, ask, tmp_path):
        lines = (messy / "a.csv").read_text().splitlines()
        cells = lines[6].split(";")
        lines[6] = ";".join([cells[0], "abc", *cells[2:]])
        (tmp_path / "b.csv").write_text("\n".join(lines) + "\n")
        status, _, err = ask("score", tmp_path / "b.csv", "-m", messy / "model", "-q")
        assert (status, err) == (1, "abduce: column '2019' expects numbers, got 'abc' in row 5\n")

    def test_a_column_whose_name_is_a_number(self, messy, ask):
        status, out, _ = ask("info", messy / "a.csv", "--kind", "2019=identifier", "--json", "-q")
        assert status == 0
        assert {c["column"]: c["kind"] for c in json.loads(out)["columns"]}["2019"] == "identifier"

    def test_words_for_blanks(self, ask, tmp_path):
        rows = "\n".join(f"{i % 7}.5,{'NA' if i % 9 == 0 else i % 5}" for i in range(60))
        (tmp_path / "a.csv").write_text("x,y\n" + rows + "\n")
        _, out, err = ask("info", tmp_path / "a.csv", "--json")
        assert json.loads(out)["blanks"] == 0
        assert "column 'y' is text because of 'NA' among numbers; if that means a blank, say so with" in err
        assert "--na NA" in err
        _, out, err = ask("info", tmp_path / "a.csv", "--json", "--na", "NA")
        assert (json.loads(out)["blanks"], err) == (7, "")

    def test_a_member_of_an_archive(self, ask, tmp_path):
        np.savez(tmp_path / "a.npz", a=np.zeros((3, 2)), b=np.eye(4))
        assert json.loads(ask("info", tmp_path / "a.npz", "--member", "b", "--json")[1])["rows"] == 4
        status, _, err = ask("info", tmp_path / "a.npz", "--member", "c")
        assert status == 1
        assert "has no array 'c'; it holds a, b" in err

    def test_a_device_that_is_not_there(self, messy, ask, tmp_path):
        status, _, err = ask(
            "fit", messy / "a.csv", "-o", tmp_path / "m", "--model", "vae", "--set", "device=tpu", "-q"
        )
        assert status == 1
        assert "device='tpu' cannot be used here" in err

    def test_a_model_does_not_go_to_standard_output(self, messy, ask):
        status, _, err = ask("fit", messy / "a.csv", "-o", "-")
        assert status == 2
        assert "a model is a folder" in err


class TestLargeTables:
    def test_fit_takes_a_sample_and_says_so(self, large, ask, tmp_path):
        folder, facts, remarks = large
        assert (facts["rows_read"], facts["rows_sampled"], facts["rows"]) == (20_000, 3000, 3000)
        assert "uniform sample of 3000 of 20000 rows" in remarks
        pd.read_parquet(folder / "large.parquet").head(400).to_parquet(tmp_path / "small.parquet")
        run = ("fit", tmp_path / "small.parquet", "-o", tmp_path / "m", "--model", "pca", "--json")
        for rows in ((), ("--rows", "all"), ("--rows", "50000")):
            _, out, remarks = ask(*run, *rows)
            assert json.loads(out)["rows_read"] == json.loads(out)["rows_sampled"] == 400
            assert "uniform sample" not in remarks

    def test_fit_samples_a_large_table_by_itself(self, large, ask, tmp_path, monkeypatch):
        monkeypatch.setattr("abduce.data.shards.MOST_CELLS", 4 * 1500)
        monkeypatch.setattr("abduce.data.shards.LEAST_ROWS", 100)
        run = ("fit", large[0] / "large.parquet", "-o", tmp_path / "m", "--json", "--model")
        _, out, remarks = ask(*run, "pca")  # which passes over all
        assert json.loads(out)["rows_sampled"] == 20_000
        assert "uniform sample" not in remarks
        run = (*run, "ica")
        _, out, remarks = ask(*run)
        assert json.loads(out)["rows_sampled"] == 1500
        assert "sample of 1500 of 20000 rows; --rows all takes every row" in " ".join(remarks.split())
        assert ask(*run, "-q")[2] == ""

    def test_fit_of_some_rows_of_an_array(self, ask, tmp_path):
        np.save(tmp_path / "a.npy", np.random.default_rng(0).normal(size=(500, 3)))
        run = ("fit", tmp_path / "a.npy", "-o", tmp_path / "m", "--model", "pca", "--json")
        facts = json.loads(ask(*run, "--rows", 200)[1])
        assert (facts["rows_read"], facts["rows_sampled"]) == (500, 200)

    @pytest.mark.parametrize("rows", ["0", "-3", "some", "1.5"])
    def test_rows_must_be_a_number_or_all(self, large, ask, tmp_path, rows):
        status, _, error = ask("fit", large[0] / "large.parquet", "-o", tmp_path / "m", "--rows", rows)
        assert status == 2
        assert "--rows" in error

    def test_fill_is_that_of_the_whole_table(self, large, ask, tmp_path, monkeypatch):
        folder = large[0]
        monkeypatch.setattr("abduce.data.streams.ROWS", 3000)
        run = ("fill", folder / "large.parquet", "-m", folder / "model", "-o", tmp_path / "whole.parquet")
        status, out, remarks = ask(*run, "--json")
        given = pd.read_parquet(folder / "large.parquet")
        blanks = int(given.isna().to_numpy().sum())
        assert status == 0
        assert json.loads(out)["filled"] == blanks
        assert f"filled {blanks} blank cells in 20000 rows" in remarks
        whole = pd.read_parquet(tmp_path / "whole.parquet")
        import abduce

        pd.testing.assert_frame_equal(whole, abduce.load(folder / "model").fill(given), check_exact=True)
        assert ask(*run, "-q")[1:] == ("", "")
        piped = ask("fill", folder / "large.parquet", "-m", folder / "model", "-q")[1]
        pd.testing.assert_frame_equal(pd.read_csv(io.StringIO(piped)), whole)

    def test_ctrl_c_during_fill_leaves_nothing(self, large, tmp_path):
        """The signal comes once the file under its temporary name is there."""
        folder = large[0]
        given = pd.read_parquet(folder / "large.parquet")
        pd.concat([given] * 50).to_parquet(tmp_path / "long.parquet")
        arguments = ("fill", tmp_path / "long.parquet", "-m", folder / "model", "-o", tmp_path / "o.parquet")
        run = subprocess.Popen(
            [*COMMAND, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob(".o.parquet.*.part")) and time.monotonic() < deadline:
            time.sleep(0.02)
        run.send_signal(signal.SIGINT)
        _, remarks = run.communicate(timeout=120)
        assert run.returncode == 130, remarks
        assert "interrupted; nothing was written" in remarks
        assert os.listdir(tmp_path) == ["long.parquet"]

    def test_a_value_never_seen_stays_and_one_of_another_type_is_named(self, table, ask, tmp_path):
        folder = table[0]
        other = penguins().replace({"species": {"Gentoo": "Emperor"}})
        other.to_parquet(tmp_path / "other.parquet")
        command = "fill", tmp_path / "other.parquet", "-m", folder / "model", "-o", tmp_path / "o.parquet"
        status, _, error = ask(*command)
        assert status == 0, error
        assert pd.read_parquet(tmp_path / "o.parquet")["species"].tolist() == other["species"].tolist()
        (tmp_path / "o.parquet").unlink()
        other.assign(species=1.5).to_parquet(tmp_path / "other.parquet")
        status, _, error = ask(*command)
        assert status == 1
        assert "'species' holds numbers such as 1.5" in error
        assert os.listdir(tmp_path) == ["other.parquet"]


class TestImages:
    def test_a_folder_is_answered_by_a_folder(self, images, ask, tmp_path):
        folder, _ = images
        status, _, error = ask(
            "denoise", folder / "digits", "-m", folder / "model", "--noise", 30, "-o", tmp_path / "clean"
        )
        assert status == 0, error
        names = sorted(os.listdir(tmp_path / "clean"))
        assert names == sorted(os.listdir(folder / "digits"))
        assert np.asarray(Image.open(tmp_path / "clean" / names[0])).shape == (8, 8)

    def test_an_array_is_answered_by_an_array(self, images, ask, tmp_path):
        folder, digits = images
        blanked = digits[:5].astype(float)
        blanked[:, 3] = np.nan
        np.save(tmp_path / "blanked.npy", blanked)
        status, _, error = ask(
            "fill", tmp_path / "blanked.npy", "-m", folder / "model", "-o", tmp_path / "whole.npy"
        )
        assert status == 0, error
        whole = np.load(tmp_path / "whole.npy")
        seen = ~np.isnan(blanked)
        np.testing.assert_array_equal(whole[seen], blanked[seen])
        assert whole.min() >= 0
        assert whole.max() <= 255

    def test_images_do_not_go_to_standard_output(self, images, ask):
        folder, _ = images
        status, out, error = ask("sample", "-m", folder / "model")
        assert (status, out) == (2, "")
        assert "-o" in error


class TestFailure:
    """One line on standard error, status 1 for the data and 2 for the usage, nothing half-written."""

    def test_errors_are_one_line(self, tmp_path):
        done = shell("fit", tmp_path / "nowhere.csv", "-o", tmp_path / "m")
        assert done.returncode == 1
        assert done.stdout == ""
        assert done.stderr.startswith("abduce: ")
        assert "nowhere.csv" in done.stderr
        assert len(done.stderr.splitlines()) == 1

    def test_debug_shows_the_traceback(self, tmp_path):
        done = shell("--debug", "info", tmp_path / "nowhere.csv")
        assert done.returncode == 1
        assert "Traceback" in done.stderr

    @pytest.mark.parametrize(
        ("name", "content", "says"),
        [
            ("empty.csv", "", "empty"),
            ("head.csv", "a,b\n", "no rows"),
            ("notes.dat", "a,b\n1,2\n", ".dat"),
            ("wild.csv", "a,b\n1,2\n3,inf\n5,4\n2.5,1\n", "b"),
        ],
    )
    def test_data_that_will_not_do(self, ask, tmp_path, name, content, says):
        (tmp_path / name).write_text(content)
        status, out, error = ask("fit", tmp_path / name, "-o", tmp_path / "m", "-q")
        assert (status, out) == (1, "")
        assert says in error
        assert not (tmp_path / "m").exists()

    def test_columns_that_differ_are_named(self, table, ask, tmp_path):
        folder = table[0]
        penguins().drop(columns="sex").to_csv(tmp_path / "less.csv", index=False)
        status, _, error = ask("score", tmp_path / "less.csv", "-m", folder / "model")
        assert status == 1
        assert "sex" in error
        penguins().assign(bill_depth_mm="deep").to_csv(tmp_path / "other.csv", index=False)
        status, _, error = ask("score", tmp_path / "other.csv", "-m", folder / "model")
        assert status == 1
        assert "bill_depth_mm" in error
        assert "deep" in error

    def test_a_model_that_was_changed_is_refused(self, table, ask, tmp_path):
        folder = table[0]
        (tmp_path / "m").mkdir()
        for part in (folder / "model").iterdir():
            (tmp_path / "m" / part.name).write_bytes(
                part.read_bytes()[: -1 if "weights" in part.name else None]
            )
        status, _, error = ask("score", folder / "penguins.csv", "-m", tmp_path / "m")
        assert status == 1
        assert "weights.safetensors" in error

    @pytest.mark.parametrize(
        "arguments",
        [
            ("fit",),
            ("melt", "data.csv"),
            ("sample", "-m", "model", "-n", "0"),
            ("fit", "data.csv", "-o", "m", "--latent-dim", "none"),
        ],
    )
    def test_wrong_usage(self, ask, arguments):
        assert ask(*arguments)[0] == 2

    def test_a_kind_must_be_a_pair(self, table, ask, tmp_path):
        status, _, error = ask("fit", table[0] / "penguins.csv", "-o", tmp_path / "m", "--kind", "year")
        assert status == 2
        assert "COLUMN=KIND" in error


def test_numbers_with_slips_come_back_byte_for_byte(ask, tmp_path):
    rng, path = np.random.default_rng(0), tmp_path / "homes.csv"
    size = rng.normal(500, 100, 300)
    cells = [f"{v:.1f}" for v in size]
    cells[7], cells[90], cells[11], cells[12] = "12;5x", "n/a?", "", ""
    rows = [f"{cell},{2 * v + rng.normal():.2f}" for cell, v in zip(cells, size, strict=True)]
    path.write_text("\n".join(["size,price", *rows]) + "\n")
    told = "2 cells hold no number, such as '12;5x' in row 7"
    assert told in ask("info", path)[1]
    status, _, said = ask(
        "fit",
        path,
        "-o",
        tmp_path / "model",
        "--model",
        "gaussian-mixture",
        "--set",
        "components=1",
        "--seed",
        0,
    )
    assert status == 0
    assert told in said
    assert ask("fill", path, "-m", tmp_path / "model", "-o", tmp_path / "whole.csv")[0] == 0
    before, after = path.read_text().splitlines(), (tmp_path / "whole.csv").read_text().splitlines()
    changed = [i - 1 for i, (old, new) in enumerate(zip(before, after, strict=True)) if old != new]
    assert changed == [11, 12]
    for i in changed:
        assert after[i + 1].endswith(before[i + 1])
        assert float(after[i + 1].split(",")[0]) == pytest.approx(size[i], abs=10)


def test_forecast_finds_the_column_of_times(ask, tmp_path):
    days = pd.date_range("2024-01-01", periods=100, freq="D")
    frame = pd.DataFrame({"when": days.strftime("%Y-%m-%d"), "sales": 20.0 + 5 * (days.day_of_week < 5)})
    frame.loc[40:42, "sales"] = np.nan
    frame.to_csv(tmp_path / "sales.csv", index=False)
    status, _, err = ask(
        "forecast", tmp_path / "sales.csv", "-n", 3, "--level", 0.9, "-o", tmp_path / "next.csv"
    )
    assert status == 0, err
    ahead = pd.read_csv(tmp_path / "next.csv")
    assert ahead["when"].tolist() == ["2024-04-10", "2024-04-11", "2024-04-12"]
    assert np.allclose(ahead["sales"], 25, atol=0.5)
    assert (ahead["sales_low"] <= ahead["sales"]).all()
    assert (ahead["sales"] <= ahead["sales_high"]).all()


def test_forecast_says_what_is_wrong(ask, tmp_path):
    pd.DataFrame({"sort": ["a", "b", "c"], "x": [1.0, 2.0, 3.0]}).to_csv(tmp_path / "words.csv", index=False)
    status, _, err = ask("forecast", tmp_path / "words.csv", "-n", 3)
    assert status == 1
    assert "column 'sort' of X holds" in err


def test_fit_within_a_budget(ask, tmp_path):
    penguins().to_csv(tmp_path / "penguins.csv", index=False)
    run = ("fit", tmp_path / "penguins.csv", "-o", tmp_path / "m", "--json")
    status, out, _ = ask(*run, "--budget", 0.01)
    assert status == 0
    assert json.loads(out)["members"] == {"Gaussian of numbers": 1.0, "all others": 0.0}
    status, _, remarks = ask(*run, "--budget", 0)
    assert status != 0
    assert "budget must be in (0" in remarks

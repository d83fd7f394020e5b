"""The questions that can be asked of a fitted model, each stated once: what it is called, takes, needs and gives.

The command line is made from this table, and whatever else shows the questions reads it too.  It imports nothing that takes
time.  In a line of help DATA are the rows asked about, MODEL is a fitted model, and FILE what ``compress`` gave.

>>> VERBS["fill"].method, [argument.name for argument in VERBS["fill"].arguments][:2]
('fill', ['draws', 'observed'])
>>> VERBS["upscale"].needs
('images',)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

REQUIRED: Any = ...  # the default of an argument that must be given

TAKES = {
    "rows": "rows in the form of the training data, NaN where a cell is blank",
    "seen": "what was seen of rows, in the shape that the observation gives",
    "codes": "codes, a row each, as `embed` gives them",
    "bytes": "what `compress` gave",
    "nothing": "no data: the model alone",
    "models": "fitted models and the rows to compare them on",
    "series": "series over time, which a `Series` is fitted to on the spot",
}
GIVES = {
    "rows": "rows in the form of the training data; with `draws` a list of copies",
    "interval": "two copies of the rows, the lower and the upper ends",
    "numbers": "a number for each row",
    "flags": "whether each row is odd",
    "table": "a row for each class column's classes, for each model, or for each row of the data",
    "codes": "a row of features for each row",
    "bytes": "bytes",
    "number": "one number",
    "log Z": "log Z with the interval that holds it",
}
NEEDS = {
    "log Z": "a probability: an energy's log Z is estimated first, unless `normalize` has done so",
    "images": "a model of images",
    "numbers": "data that are all numbers or pixels, or all binary",
    "classes": "a column of classes",
    "energy": "an energy; a VAE is a probability as it is",
    "decoder": "a way back from features to rows",
}


@dataclass(frozen=True)
class Argument:
    """One argument of a question: its name and default in Python, and how the command line and pages show it.

    Parameters
    ----------
    name, type, default
        As the estimator's method has them; ``type`` is ``object`` for what only Python can write down, and the default
        :data:`REQUIRED` where there is none.
    help : str
        One line.
    choices : tuple of str
        All values that text may take; empty for any.
    least, most : float or None
        Bounds of a number, both included.
    option, option_default
        How the command line spells it, where not by its name, and its default there, where another.
    """

    name: str
    type: Any
    help: str
    default: Any = REQUIRED
    choices: tuple[str, ...] = ()
    least: float | None = None
    most: float | None = None
    option: str | None = None
    option_default: Any = None


@dataclass(frozen=True)
class Verb:
    """One question: ``method`` of an estimator, or the function of that name in ``abduce`` where it takes "models".

    ``takes``, ``gives`` and ``needs`` are keys of :data:`TAKES`, :data:`GIVES` and :data:`NEEDS`; ``options`` are arguments
    that only the command line has.
    """

    name: str
    method: str
    help: str
    takes: str
    gives: str
    arguments: tuple[Argument, ...] = ()
    needs: tuple[str, ...] = ()
    options: tuple[Argument, ...] = ()


DRAWS = Argument(
    "draws", int, "Write this many completed copies, drawn from what the model believes.", None, least=1
)
SEED = Argument(
    "random_state", int, "Seed of every random draw; the same seed, the same answer.", None, option="--seed"
)
OBSERVED = Argument("observed", object, "Which cells to trust, as a mask; the others count as blank.", None)
SAMPLES = Argument(
    "samples",
    int,
    "Importance draws, annealed chains or particles; by default from the method.",
    None,
    least=1,
)
LOG_PROB_METHOD = Argument(
    "method",
    str,
    "importance, ais (annealed importance sampling) or smc (tempered).",
    "importance",
    ("importance", "ais", "smc"),
)

TIME = Argument("time", str, "Column of times; by default the only one that holds times.", None)
ID = Argument("id", str, "Column that tells several series apart.", None)
ENDS = Argument("level", float, "Give also the ends of intervals of this probability.", None, least=0, most=1)

# ---------------------------------------------------------------- arguments of a method that `abduce fit` has options for

FIT = (
    Argument("latent_dim", int, "Latent dimensions; by default from the data.", None, least=1),
    Argument("max_epochs", int, "Most passes over the data; by default from its size.", None, least=1),
    Argument(
        "contamination",
        float,
        "Share of rows taken to be odd; sets where `flag` cuts.",
        None,
        least=0.0,
        most=0.5,
    ),
    Argument("prior", str, "normal, mixture, vamp or flow.", None, ("normal", "mixture", "vamp", "flow")),
    Argument("posterior", str, "diagonal, full, flow or iaf.", None, ("diagonal", "full", "flow", "iaf")),
    Argument("objective", str, "elbo or iwae; of an energy for example score-matching or nce.", None),
    Argument("likelihood", str, "One for all columns that it fits, such as student_t.", None),
)

# ---------------------------------------------------------------- the questions

QUESTIONS = (
    # ------------------------------------------------------------ blanks
    Verb(
        "fill",
        "fill",
        "Fill the blanks of DATA, a chunk of rows at a time; every cell that was there stays as it was.",
        "rows",
        "rows",
        (
            DRAWS,
            OBSERVED,
            SEED,
            Argument(
                "parameters",
                str,
                "Parameters of the copies: as fitted, or each copy's own, from a refit to a resample.",
                "fixed",
                ("fixed", "bootstrap"),
            ),
        ),
        options=(
            Argument("blank", str, "Of text: the character that stands for a missing one.", "_"),
            Argument(
                "gap",
                list[str],
                "Of a WAV file: START:STOP in seconds, what is missing (repeat for several); of text: what stands for a "
                "missing segment, [...] if not given.",
                None,
            ),
            Argument("length", int, "Of text: how long the segment is; by default 1 to 20.", None, least=1),
            Argument(
                "shift",
                list[str],
                "Of a table: COLUMN=NUMBER, added to what is filled in there, to see what follows if blanks are that "
                "far off (repeat for several columns).",
                None,
            ),
        ),
    ),
    Verb(
        "interval",
        "fill_interval",
        "Give the interval that holds each blank of DATA with this probability.",
        "rows",
        "interval",
        (
            Argument("level", float, "Probability that the interval holds the cell.", 0.9, least=0, most=1),
            OBSERVED,
        ),
    ),
    Verb(
        "classes",
        "class_probabilities",
        "Give the probability of each class of a column, from the other cells of each row of DATA.",
        "rows",
        "table",
        (Argument("column", str, "The column's name, or its position in an array."),),
        needs=("classes",),
    ),
    # ------------------------------------------------------------ series
    Verb(
        "forecast",
        "forecast",
        "Forecast the rows that come after those of DATA, series over time, blanks and gaps among them.",
        "series",
        "rows",
        (Argument("n", int, "Rows to forecast, of each series.", least=1, option="-n"),),
        options=(TIME, ID, ENDS, SEED),
    ),
    Verb(
        "backcast",
        "backcast",
        "Infer the rows that came before those of DATA.",
        "series",
        "rows",
        (Argument("n", int, "Rows to infer, of each series.", least=1, option="-n"),),
        options=(TIME, ID, SEED),
    ),
    Verb(
        "backtest",
        "backtest",
        "Say how well the last rows of DATA would have been forecast, beside the last season and the last value.",
        "series",
        "table",
        (
            Argument("horizon", int, "Rows that each forecast is of.", least=1),
            Argument("windows", int, "Origins, a horizon apart.", 10, least=1),
            Argument("level", float, "Probability of the intervals that are judged.", 0.8, least=0, most=1),
        ),
        options=(TIME, ID, SEED),
    ),
    Verb(
        "smooth",
        "smooth",
        "Take the noise off DATA, as far as it can be told from what lasts.",
        "series",
        "rows",
        options=(TIME, ID, SEED),
    ),
    Verb(
        "decompose",
        "decompose",
        "Split DATA into level, season and rest.",
        "series",
        "table",
        options=(TIME, ID, SEED),
    ),
    # ------------------------------------------------------------ clean data from what was seen of them
    Verb(
        "denoise",
        "denoise",
        "Clean DATA of Gaussian noise.",
        "rows",
        "rows",
        (
            Argument("noise", float, "Standard deviation of the noise, in the units of the data.", least=0.0),
            DRAWS,
            SEED,
        ),
        needs=("numbers",),
    ),
    Verb(
        "upscale",
        "upscale",
        "Enlarge images: those that most plausibly averaged to DATA.",
        "seen",
        "rows",
        (
            Argument("factor", int, "How many times larger, in each direction.", least=2),
            Argument("noise", float, "Standard deviation of the noise in DATA.", 0.0, least=0.0),
            Argument("kernel", str, "How the images were made smaller.", "box", ("box", "bicubic")),
            DRAWS,
            SEED,
        ),
        needs=("images",),
    ),
    Verb(
        "restore",
        "restore",
        "Restore clean data from what was seen of them: through noise, blur, a lower resolution, sums, blanks.",
        "seen",
        "rows",
        (
            Argument("observation", object, "What was done to the clean data, such as abduce.Blur(1.0)."),
            DRAWS,
            Argument("return_std", bool, "Give also the standard deviation of each cell.", False),
            SEED,
        ),
    ),
    Verb(
        "noise_level",
        "estimate_noise",
        "Estimate the level of the noise in DATA: its standard deviation, or the rate of flips.",
        "rows",
        "number",
        needs=("numbers",),
    ),
    # ------------------------------------------------------------ how probable, how odd
    Verb(
        "score",
        "score_samples",
        "Score every row of DATA: log p of its observed cells, in nats.",
        "rows",
        "numbers",
        (SAMPLES,),
        needs=("log Z",),
    ),
    Verb(
        "log_prob",
        "log_prob",
        "Score every row of DATA, and say how far to trust it: log p in nats and its standard error.",
        "rows",
        "numbers",
        (
            SAMPLES,
            LOG_PROB_METHOD,
            Argument("return_diagnostics", bool, "Give also how far to trust each number.", False),
        ),
        needs=("log Z",),
    ),
    Verb(
        "compare",
        "compare",
        "Compare models by log p of the rows of DATA, in nats a row, the best first.",
        "models",
        "table",
        (SAMPLES, LOG_PROB_METHOD),
        needs=("log Z",),
    ),
    Verb(
        "energy",
        "energy",
        "Give the energy of every row of DATA, in its own units.",
        "rows",
        "numbers",
        needs=("energy",),
    ),
    Verb(
        "oddness",
        "anomaly_score",
        "Say how odd every row of DATA is, in nats: its surprise at how far from others it lies, or -log p, of images less "
        "what a plain code needs.",
        "rows",
        "numbers",
    ),
    Verb(
        "realism",
        "realism",
        "Say how realistic every row of DATA is: the share of the model's own samples that are less plausible.",
        "rows",
        "numbers",
        (Argument("references", int, "Samples to compare with.", 1000, least=1),),
    ),
    Verb(
        "flag",
        "flag",
        "Flag the odd rows of DATA: how odd each is, how realistic (0 to 1), its p-value, and 1 where it is flagged.",
        "rows",
        "flags",
        (
            Argument(
                "alpha",
                float,
                "False discovery rate: the share of flagged rows that may be like the training rows.",
                0.05,
                least=0.0,
                most=1.0,
            ),
        ),
        options=(
            Argument(
                "contamination", float, "Flag this share of the rows instead.", None, least=0.0, most=1.0
            ),
        ),
    ),
    Verb(
        "explain",
        "explain",
        "Say what makes rows of DATA odd: nats that a row gains if a cell holds what the others say it should.",
        "rows",
        "table",
        (
            Argument(
                "expected", bool, "Give what each cell should have been, given the others of its row.", False
            ),
        ),
    ),
    # ------------------------------------------------------------ represent, generate, code
    Verb(
        "embed",
        "transform",
        "Embed every row of DATA: a code whose distances are those in the data.",
        "rows",
        "codes",
    ),
    Verb("decode", "inverse_transform", "Turn codes back into rows.", "codes", "rows", needs=("decoder",)),
    Verb(
        "sample",
        "sample",
        "Draw new rows, in the form the training data had; other rows each time, unless a seed is given.",
        "nothing",
        "rows",
        (Argument("n", int, "Rows to draw.", 1, least=1, option="-n", option_default=10), SEED),
    ),
    Verb(
        "compress",
        "compress",
        "Compress DATA without loss; the model is needed to get it back.",
        "rows",
        "bytes",
    ),
    Verb("decompress", "decompress", "Decompress FILE, to the bit.", "bytes", "rows"),
    Verb(
        "normalize",
        "normalize",
        "Make MODEL a probability: estimate its log Z, say how sure it is, and keep it in the folder.",
        "nothing",
        "log Z",
        (
            Argument(
                "method",
                str,
                "auto, closed form, enumeration, importance, quadrature, smc or ais.",
                "auto",
                ("auto", "closed form", "enumeration", "importance", "quadrature", "smc", "ais"),
            ),
            Argument("beta", object, "Inverse temperature; by default what the fit found.", None),
            Argument(
                "base",
                str,
                "Base measure; by default what the fit found.",
                None,
                ("auto", "none", "normal", "box"),
            ),
            Argument("particles", int, "Particles of a population.", 128, least=2),
            Argument("populations", int, "Populations, whose spread is the error.", 8, least=2),
            Argument("refine", int, "Cut each step of temperature into as many.", 1, least=1),
            SEED,
            Argument("show", object, "Called with the share of the way gone.", None),
        ),
        needs=("energy",),
    ),
)
VERBS = {verb.name: verb for verb in QUESTIONS}

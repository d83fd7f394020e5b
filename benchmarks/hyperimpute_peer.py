"""HyperImpute fills a table, in an environment of its own: python hyperimpute_peer.py IN.npy OUT.npy SEED.

    python -m venv hyper && hyper/bin/pip install torch hyperimpute 'pandas<2.3'   (3 leaves columns as they were)

Source: Jarrett et al. 2022, HyperImpute, arXiv 2206.07769; at its defaults.
"""

import sys

import numpy as np
import pandas as pd


def main() -> None:
    source, target, seed = sys.argv[1:]
    from hyperimpute.plugins.imputers import Imputers  # pyright: ignore[reportMissingImports]

    table = pd.DataFrame(np.load(source))
    table.columns = [str(name) for name in table.columns]
    filled = Imputers().get("hyperimpute", random_state=int(seed)).fit_transform(table)
    np.save(target, np.asarray(filled, float))


if __name__ == "__main__":
    main()

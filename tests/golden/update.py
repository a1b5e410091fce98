"""Write the statistics of the golden phantom anew: ``python -m tests.golden.update``."""

from bids_gmvae.io.atomic import read_tsv, write_tsv
from tests.golden.phantom import COLUMNS, STATISTICS, differences, statistics

if __name__ == "__main__":
    rows = list(statistics())
    if STATISTICS.exists():
        for sentence in differences(rows, read_tsv(STATISTICS)):
            print(sentence)
    write_tsv(STATISTICS, rows, COLUMNS)

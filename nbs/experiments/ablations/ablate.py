"""Trains `i3-tiny` with and without each of its parts, and appends a line of figures for each run.

python ablate.py --variants base,no-gru --seeds 0,1,2 --data TRAIN --val VALID --out runs.jsonl

The options are those of ../search/search.py, which does the work; the variants are those of `variants_parts.py`."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / 'search'))

import search  # noqa: E402


def main():
    known = search.load_variants(HERE)
    search.load_variants = lambda: known
    search.main()


if __name__ == '__main__':
    main()

"""Fits the law of chapter train/17_forecast to finished runs, and prints the cell that holds it.

python nbs/experiments/law/fit.py [FILE …]      without files: runs.jsonl beside this script

To add runs, append their lines to runs.jsonl, put the printed cell into the chapter, and run it:
it asserts that both agree."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from i3nb.train.forecast import fit_law

LENGTH = 256  # tokens of a sequence


def read(files: list) -> list:  # of dicts, as `fit_law` wants them
    "The runs in some files."
    rows = [json.loads(line) for path in files for line in Path(path).read_text().splitlines()]
    return [row | dict(step=LENGTH * row['batch_size']) for row in rows]


def cell(fit) -> str:
    "The chapter's cell."
    numbers = ', '.join(f'{name}={value:.4g}' for name, value in asdict(fit.law).items())
    rows = ''.join(f'        {row},\n' for row in fit.covariance)
    return f'#| export\nFITTED = Fit(\n    Law({numbers}),\n    (\n{rows}    ),\n)'


if __name__ == '__main__':
    runs = read(sys.argv[1:] or [Path(__file__).with_name('runs.jsonl')])
    print(f'{len(runs)} runs', file=sys.stderr)
    print(cell(fit_law(runs)))

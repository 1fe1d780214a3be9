"""Gathers finished runs of `i3nb_train` into one file, a line for each.

python collect.py FOLDER… > runs.jsonl"""

import json
import sys
from pathlib import Path

KEPT = 'preset', 'dropout', 'decay', 'lr', 'fall', 'iters', 'batch_size', 'seq_len', 'seed', 'keep_case'
LAST = 50  # steps at the end whose training losses are averaged: a batch's own loss is noisy


def collect(run: Path) -> dict:
    "What a run was, its validations, and its training loss at the end."
    settings = json.loads((run / 'settings.json').read_text())
    rows = [json.loads(line) for line in (run / 'metrics.jsonl').read_text().splitlines()]
    points = [
        {k: row[k] for k in ('step', 'tokens', 'val_loss', 'val_bits_per_byte')} for row in rows if row['val_loss']
    ]
    losses = [row['loss'] for row in rows[-LAST:]]
    words = (run / 'run.json').read_text()
    return dict(
        name=run.name,
        **{k: settings.get(k) for k in KEPT if k in settings},
        params=json.loads(words)['params'],
        train_loss=sum(losses) / len(losses),
        points=points,
    )


if __name__ == '__main__':
    for folder in sys.argv[1:]:
        print(json.dumps(collect(Path(folder))))

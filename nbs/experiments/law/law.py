"""Trains models of several sizes for several lengths, each to the end of its own schedule, and appends a line for each.

python law.py --runs i3-0.5m:600,i3-12m:600,i3-tiny:150:32 --data train.jsonl,more.jsonl --val valid.jsonl --out FILE

A run is a preset, its steps and, if it is not 8, its number of sequences. Muon's rate follows from the number of steps,
as with `--preset auto`. A text that is read often is read with the dropout and decay that `--preset auto` takes."""

import argparse
import json
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from i3nb.bench.ceiling import device_name
from i3nb.core import I3Config, param_count
from i3nb.data.preparation import prepare
from i3nb.dial import rows_for
from i3nb.model import flops_per_token
from i3nb.train.evaluate import evaluate
from i3nb.train.settings import TrainSettings, for_length, for_repeats
from i3nb.train.setup import first_weights
from i3nb.trainer import Trainer

LENGTH = 256  # tokens of a sequence


def parse_run(words: str) -> tuple:  # preset, steps, sequences
    "A run as it is named on the command line."
    preset, steps, *sequences = words.split(':')
    return preset, int(steps), int(sequences[0]) if sequences else 8


def train(trainer: Trainer) -> dict:  # seconds of a step, and the last loss
    "Train to the end of the schedule."
    wall, steps = [], trainer.settings.iters
    while trainer.step < steps:
        start = time.perf_counter()
        trainer.progress_made = trainer.step / steps
        row = trainer.train_step()
        wall.append(time.perf_counter() - start)
    return dict(step_seconds=statistics.median(wall), train_seconds=sum(wall), train_loss=row['loss'])


def measure(preset: str, steps: int, batch_size: int, data, args) -> dict:  # the line
    "Build, train and evaluate."
    cfg, unique = I3Config.preset(preset, vocab_size=rows_for(len(data.tokenizer))), sum(map(len, data.train))
    tokens = steps * batch_size * LENGTH
    settings = TrainSettings(iters=steps, batch_size=batch_size, seq_len=LENGTH, seed=args.seed)
    settings = replace(settings, **for_length(steps, settings), **for_repeats(tokens / unique, settings))
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(cfg, data, folder, settings, args.device, progress=False)
        first_weights(trainer.model, data, trainer.settings, trainer.world)
        trained = train(trainer)
        found = evaluate(trainer.model, data.val, data.tokenizer, trainer.precision, args.docs)
    size = dict(params=param_count(cfg), active=flops_per_token(cfg) // 6, vocab_size=cfg.vocab_size)
    how = dict(lr=settings.lr, dropout=settings.dropout, decay=settings.decay, seed=args.seed)
    figures = dict(loss=found['loss'], bits_per_byte=found['bits_per_byte'], docs=args.docs)
    where = dict(device=device_name(trainer.device), precision=trainer.precision)
    run = dict(preset=preset, steps=steps, batch_size=batch_size, tokens=tokens, unique=unique)
    return run | how | size | figures | trained | where


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--runs', required=True)
    p.add_argument('--data', required=True)
    p.add_argument('--val', required=True)
    p.add_argument('--out', required=True)
    p.add_argument('--max_mb', type=float, help='read at most this many million characters of each file')
    p.add_argument('--docs', type=int, default=200, help='validation documents')
    p.add_argument('--seed', type=int, default=0)
    p.add_argument('--device', default='auto')
    args = p.parse_args()
    how = dict(vocab_size=4096, keep_case=True, progress=False, max_mb=args.max_mb)
    data = prepare(args.data, val_spec=args.val, **how)
    for run in map(parse_run, args.runs.split(',')):
        line = measure(*run, data, args)
        print(*run, f'{line["bits_per_byte"]:.4f} bits per byte', file=sys.stderr, flush=True)
        with open(args.out, 'a') as f:
            f.write(json.dumps(line) + '\n')


if __name__ == '__main__':
    main()

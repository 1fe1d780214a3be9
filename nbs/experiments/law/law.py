"""Trains models of many sizes for many budgets, each to the end of its own schedule, and appends a line for each.

python law.py --data train.jsonl,more.jsonl --val valid.jsonl --out FOLDER --seconds 300 --presets i3-tiny,i3-12m

Several processes can be given the same folder: each takes the next run that nobody has taken. A run that is named in
FOLDER/taken is not begun again; remove its name to repeat it."""

import argparse
import gc
import json
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
import torch
from i3nb.base.devices import pick_precision
from i3nb.bench.ceiling import device_name
from i3nb.core import I3Config, param_count
from i3nb.data.preparation import prepare
from i3nb.model import flops_per_token
from i3nb.train.evaluate import evaluate
from i3nb.train.processes import World
from i3nb.train.settings import TrainSettings
from i3nb.train.setup import choose_kernels, first_weights
from i3nb.trainer import Trainer

PRESETS = 'i3-tiny', 'i3-0.5m', 'i3-12m', 'i3-1.5m', 'i3-25m', 'i3-60m'
LENGTH = 256  # tokens of a sequence


@dataclass(frozen=True)
class Job:
    "A run to be."

    preset: str
    steps: int
    batch_size: int = 16  # sequences
    text: float = 0.0  # million characters to learn from; 0: all
    lr: float = 1.0  # factor on the recipe's rates
    keep_case: bool = False
    seed: int = 0

    @property
    def name(self) -> str:
        "Names the run in a folder."
        extras = [f'text{self.text}'] * (self.text > 0) + [f'lr{self.lr}'] * (self.lr != 1)
        extras += ['cased'] * self.keep_case + [f'seed{self.seed}'] * (self.seed > 0)
        return '-'.join([self.preset, f'{self.steps}x{self.batch_size}', *extras])


def grid(presets: list) -> list:  # of `Job`, what tells most first
    "Sizes times budgets; then fewer texts, other batches, rates, capitals and seeds at some of the sizes."
    few, two = [p for p in presets if p in PRESETS[:3]], [p for p in presets if p in ('i3-tiny', 'i3-12m')]
    rest = [p for p in presets if p not in few]
    jobs = [Job(p, k) for k in (90, 360) for p in presets]
    jobs += [Job(p, 720) for p in few] + [Job(p, k, text=1.0) for p in two for k in (360, 720)]
    jobs += [Job(p, k, b) for p in few for k, b in ((360, 4), (90, 64))]
    jobs += [Job(p, k) for k in (180, 720) for p in (rest if k == 720 else presets)]
    jobs += [Job(p, 360, keep_case=True) for p in two] + [Job(p, 45) for p in presets]
    jobs += [Job(p, k, b) for p in few for k, b in ((360, 64), (1440, 4))] + [Job(p, 1440) for p in few]
    jobs += [Job(p, k, text=mb) for k, mb in ((1440, 1.0), (720, 2.0)) for p in two]
    jobs += [Job(p, 360, lr=f) for f in (0.5, 2.0) for p in (*two, 'i3-60m') if p in presets]
    jobs += [Job(p, 90, keep_case=True) for p in two] + [Job(p, 180, seed=s) for s in (1, 2) for p in presets]
    jobs += [Job(p, 1440) for p in rest] + [Job(p, 2880) for p in few] + [Job(p, 720, 64) for p in presets]
    return list(dict.fromkeys(jobs))


def take(folder: Path, job: Job) -> bool:
    "Whether the run is this process's: nobody has begun it."
    try:
        (folder / 'taken' / job.name).mkdir(parents=True)
    except FileExistsError:
        return False
    return True


class Texts:
    "Prepared data, by what a job asks for. All lengths of text share one tokenizer, and all processes the cache."

    def __init__(self, args):
        self.args, self.known = args, {}

    def __call__(self, text: float, keep_case: bool):
        if (text, keep_case) not in self.known:
            how = dict(val_spec=self.args.val, progress=False, out_dir=self.args.cache)
            if text:
                whole, first = self(0.0, keep_case), self.args.data.split(',')[0]
                found = prepare(first, whole.tokenizer, max_mb=text, **how)
                found.val = whole.val  # `max_mb` shortens the validation text, too
            else:
                found = prepare(self.args.data, vocab_size=4096, keep_case=keep_case, **how)
            self.known[text, keep_case] = found
        return self.known[text, keep_case]


def train(
    trainer: Trainer,
    deadline: float,  # `TimeoutError` after this time
) -> dict:  # seconds of a step, and the last loss
    "Train to the end of the schedule."
    wall, device = [], trainer.device
    while trainer.step < trainer.settings.iters:
        start = time.perf_counter()
        trainer.progress_made = trainer.step / trainer.settings.iters
        row = trainer.train_step()
        if device.type == 'cuda':
            torch.cuda.synchronize(device)
        wall.append(time.perf_counter() - start)
        if time.time() > deadline:
            raise TimeoutError(f'after {trainer.step} steps')
    return dict(step_seconds=statistics.median(wall), train_seconds=sum(wall), train_loss=row['loss'])


def measure(
    job: Job,
    texts: Texts,
    settings: dict,  # of `TrainSettings`, beside the job's
    args,
) -> dict:  # the line
    "Build, train and evaluate."
    data = texts(job.text, job.keep_case)
    cfg = I3Config.preset(job.preset, vocab_size=-(-len(data.tokenizer) // 8) * 8)
    own = dict(iters=job.steps, batch_size=job.batch_size, seq_len=LENGTH, seed=job.seed)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(cfg, data, folder, TrainSettings(**own, **settings), args.device, progress=False)
        for group in trainer.optimizer.param_groups:
            group['base_lr'] *= job.lr
        first_weights(trainer.model, data, trainer.settings, trainer.world)
        trained = train(trainer, args.until + 30)
        found = evaluate(trainer.model, data.val, data.tokenizer, trainer.precision, args.docs)
    lengths, unique = data.tokenizer.byte_lengths, sum(map(len, data.train))
    sample = data.train[0].read(0, min(len(data.train[0]), 100_000))
    size = dict(params=param_count(cfg), active=flops_per_token(cfg) // 6, vocab_size=cfg.vocab_size)
    seen = dict(tokens=job.steps * job.batch_size * LENGTH, unique=unique)
    seen |= dict(bytes_per_token=float(lengths[sample].sum()) / len(sample))
    where = dict(
        device=device_name(trainer.device), precision=trainer.precision, settings=settings, start=trainer.settings.start
    )
    figures = dict(loss=found['loss'], bits_per_byte=found['bits_per_byte'], val_bytes=found['bytes'])
    return dict(name=job.name, **vars(job), **size, **seen, **figures, **trained, **where)


def prepare_all(texts: Texts, args):
    "What processes that work side by side should find ready."
    jobs, world = grid(args.presets.split(',')), World(args.device)
    for text, keep_case in dict.fromkeys((job.text, job.keep_case) for job in jobs):
        texts(text, keep_case)
    for preset in dict.fromkeys(job.preset for job in jobs):
        choose_kernels(I3Config.preset(preset), pick_precision(world.device, 'auto'), world)


def parse(argv=None):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--data', required=True, help='the first of them is the one that is shortened')
    p.add_argument('--val', required=True)
    p.add_argument('--out', required=True, help='folder for the lines and the names of what is taken')
    p.add_argument('--presets', default=','.join(PRESETS))
    p.add_argument('--seconds', type=float, default=300, help='no run is begun that would end later')
    p.add_argument('--device', default='auto')
    p.add_argument('--settings', default='{}', help='fields of TrainSettings as JSON')
    p.add_argument('--docs', type=int, help='validation documents; default: all')
    p.add_argument('--cache', help='for prepared data')
    p.add_argument('--longest', type=float, default=1e9, help='most tokens')
    p.add_argument('--prepare', action='store_true', help='only prepare data, and try kernels on a GPU')
    p.add_argument('--steps', type=int, help='only to see that it works: this many steps in all runs')
    args = p.parse_args(argv)
    args.until = time.time() + args.seconds
    return args


def main(argv=None):
    args = parse(argv)
    out, texts, speed = Path(args.out), Texts(args), {}  # preset, batch -> seconds of a step
    out.mkdir(parents=True, exist_ok=True)
    if args.prepare:
        return prepare_all(texts, args)
    for job in grid(args.presets.split(',')):
        if job.steps * job.batch_size * LENGTH > args.longest:
            continue
        seconds = speed.get((job.preset, job.batch_size), 0) * job.steps
        if time.time() + seconds > args.until or not take(out, job):
            continue
        start = time.time()
        try:
            line = measure(replace(job, steps=args.steps or job.steps), texts, json.loads(args.settings), args)
            speed[job.preset, job.batch_size] = (time.time() - start) / job.steps
            with open(out / f'law-{os.getpid()}.jsonl', 'a') as f:
                f.write(json.dumps(line) + '\n')
            figures = f'{line["bits_per_byte"]:.4f} bits per byte, {line["step_seconds"]:.3f} s a step'
            print(f'{job.name}: {figures}, {time.time() - start:.1f} s', file=sys.stderr, flush=True)
        except Exception as e:  # the others go on
            print(f'{job.name} FAILED: {type(e).__name__}: {str(e)[:300]}', file=sys.stderr, flush=True)
        line = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


if __name__ == '__main__':
    main()

"""Trains the same small model under many recipes, one run after the other, and appends a line of figures for each.

python search.py --variants base,lr-0.03,cosine+clip-none --seeds 0,1,2 --data train.jsonl --val valid.jsonl --out FILE

A variant is a function of a `Run` in a file `variants_*.py` beside this one. It is called before anything is built,
changes fields of the run, or appends functions to its hooks. Names joined by `+` are applied one after the other."""

import argparse
import gc
import importlib.util
import json
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
import torch
from together import GATE, work_together
from i3nb.bench.ceiling import device_name
from i3nb.core import I3Config, param_count
from i3nb.data.preparation import prepare
from i3nb.optim import lr_scale
from i3nb.recipes import RECIPES
from i3nb.train.evaluate import evaluate
from i3nb.train.settings import TrainSettings
from i3nb.train.setup import make_step
from i3nb.trainer import Trainer

HOOKS = ('after_build', 'before_step', 'after_step', 'before_eval', 'after_eval')


class Run:
    "A run to be: variants change its fields and append to its hooks; `build` makes the rest."

    def __init__(
        self,
        name: str,  # of the variant
        cfg: I3Config,
        data,  # `Prepared`; shared by all runs
        *,
        seed: int,
        steps: int,  # at the usual batch and length; the tokens of these steps are the budget
        batch_size: int,
        seq_len: int,
        device: str,
    ):
        self.name, self.cfg, self.data, self.seed, self.steps, self.device = name, cfg, data, seed, steps, device
        self.settings = dict(iters=steps, batch_size=batch_size, seq_len=seq_len, seed=seed)
        self.budget, self.tokens, self.step, self.last, self.precision = (
            steps * batch_size * seq_len,
            0,
            0,
            None,
            'auto',
        )
        self.fresh = True  # the next step is the first with its batches, so that it may be recorded
        self.recipe, self.note = {}, {}  # entries that differ from the recipe's; what a variant has to tell
        self.schedule = lambda progress, step: lr_scale(progress, step, self.settings.get('warmup', 20))
        for hook in HOOKS:
            setattr(self, hook, [])

    def call(self, hook: str):
        "Call the functions of a hook."
        for f in getattr(self, hook):
            f(self)

    @property
    def progress(self) -> float:
        "Share of the budget that is used."
        return min(1.0, self.tokens / self.budget)

    def build(self, folder):
        "Trainer, model and optimizer, under the variant's recipe."
        settings = TrainSettings(**{'precision': self.precision, **self.settings})
        usual = RECIPES[settings.recipe]
        RECIPES[settings.recipe] = {**usual, **self.recipe}
        try:
            self.trainer = Trainer(self.cfg, self.data, folder, settings, self.device, progress=False)
        finally:
            RECIPES[settings.recipe] = usual
        t = self.trainer
        self.model, self.optimizer, self.stepper, self.batches = t.model, t.optimizer, t.stepper, t.batches
        parts = {type(o).__name__: o for o in self.optimizer.parts}
        self.muon, self.adamw = parts.get('Muon'), parts.get('AdamW')
        self.call('after_build')

    def set_batches(
        self,
        batches,  # an iterator of (x, y), each (b, t)
        b: int | None = None,  # None: `batches.b`
        t: int | None = None,  # None: `batches.t`
    ):
        "Go on with other batches: a new step, which on a GPU is recorded anew."
        self.batches = batches
        self.batches.b, self.batches.t = b or batches.b, t or batches.t
        settings = replace(self.trainer.settings, batch_size=self.batches.b, micro_batch=self.batches.b)
        common = dict(precision=self.trainer.precision, world=self.trainer.world, say=lambda line: None)
        self.stepper = make_step(self.model, self.optimizer, batches, settings, **common)
        self.fresh = True

    def group_of(self, p) -> dict:
        "The optimizer's group that holds a parameter."
        return next(g for g in self.optimizer.param_groups if any(q is p for q in g['params']))

    def split_group(
        self,
        params: list,  # of AdamW, all in one group
        factor: float,  # on their rate
    ):
        "Give some parameters a group of their own, with another rate."
        old = self.group_of(params[0])
        ids = {id(p) for p in params}
        old['params'] = [p for p in old['params'] if id(p) not in ids]
        new = {**{k: v for k, v in old.items() if k != 'params'}, 'params': list(params)}
        new['base_lr'] = old['base_lr'] * factor
        holder = next(o for o in self.optimizer.parts if any(g is old for g in o.param_groups))
        holder.add_param_group(new) if hasattr(holder, 'add_param_group') else holder.param_groups.append(new)
        if not old['params']:
            holder.param_groups.remove(old)

    def train_step(self):
        "A step, with the rates that the schedule says."
        with GATE.shared():
            self.call('before_step')
        with GATE.exclusive() if self.fresh else GATE.shared():
            self.optimizer.set_lr_scale(self.schedule(self.progress, self.step))
            self.last = self.stepper.run()
            self.stepper.end()
            self.fresh = False
            self.step += 1
            self.tokens += self.batches.b * self.batches.t
            self.call('after_step')

    def validate(self, max_docs: int | None = None) -> dict:
        "Validation figures of the model as it is, or as the variant wants it evaluated."
        with GATE.shared():
            self.call('before_eval')
            e = evaluate(self.model, self.data.val, self.data.tokenizer, self.trainer.precision, max_docs)
            self.call('after_eval')
        return dict(val_loss=e['loss'], val_ppl=e['ppl'], val_bits_per_byte=e['bits_per_byte'])


def clocks(device: torch.device) -> tuple:
    "Seconds on the wall and of the processor, when everything that this run has asked of a GPU is done."
    if device.type == 'cuda':
        torch.cuda.current_stream(device).synchronize()
    return time.perf_counter(), time.process_time()


def train(
    run: Run,  # built
    points: list,  # steps after which some documents are evaluated
    docs: int,  # how many
) -> dict:  # seconds, and what was found at the points
    "Train to the end of the budget."
    wall, cpu, found, device = [], [], [], run.trainer.device
    due = [run.budget * k // run.steps for k in points]  # in tokens
    while run.tokens < run.budget:
        start = clocks(device)
        run.train_step()
        end = clocks(device)
        wall.append(end[0] - start[0])
        cpu.append(end[1] - start[1])
        if due and run.tokens >= due[0]:
            due = [k for k in due if k > run.tokens]
            found.append(dict(step=run.step, tokens=run.tokens, **run.validate(docs)))
    middle = dict(step_seconds=statistics.median(wall), step_cpu_seconds=statistics.median(cpu))
    return dict(points=found, train_seconds=sum(wall), **middle, train_loss_last=run.last.metrics['loss'])


def measure(
    run: Run,
    points: list,  # as for `train`
    docs: int,
    final_docs: int | None = None,  # evaluated at the end; None: all
) -> dict:  # the line
    "Build, train and evaluate a run."
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        with GATE.building, GATE.shared():
            run.build(folder)
        trained = train(run, points, docs)
        final = run.validate(final_docs)
    s = run.trainer.settings
    shape = dict(seed=run.seed, steps=run.step, batch_size=s.batch_size, seq_len=run.trainer.batches.t)
    size = dict(params=sum(p.numel() for p in run.model.parameters()), vocab_size=run.cfg.vocab_size)
    where = dict(device=device_name(run.trainer.device), precision=run.trainer.precision)
    about = dict(seconds=time.perf_counter() - start, graphs=getattr(run.stepper, 'graphs', False), note=run.note)
    return dict(variant=run.name, **shape, **size, tokens=run.tokens, **final, **trained, **where, **about)


def load_variants(folder=Path(__file__).parent) -> dict:
    "All variants of the files beside this one, by name."
    known = dict(base=lambda run: None)
    for path in sorted(Path(folder).glob('variants_*.py')):
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        twice = set(known) & set(module.VARIANTS)
        assert not twice, f'{path.name}: {sorted(twice)} are variants of another file, too'
        known |= module.VARIANTS
    return known


def apply(
    run: Run,  # its `name` says what to apply
    known: dict,  # from `load_variants`
):
    "Apply the variants that a run is named after."
    for name in run.name.split('+'):
        known[name](run)


def read_config(args) -> I3Config:
    "The model that is asked for."
    return I3Config.from_dict(I3Config.preset(args.preset).to_dict() | json.loads(args.config))


def parse(argv=None):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--variants', default='base', help='names with commas; + joins several into one')
    p.add_argument('--preset', default='i3-tiny')
    p.add_argument('--config', default='{}', help='sizes that differ from the preset, as JSON')
    p.add_argument('--size', help='what to call the model in the lines; default: the preset')
    p.add_argument('--vocab_size', type=int, help='chunks of the tokenizer; default: as the preset or --config says')
    p.add_argument('--seeds', default='0')
    p.add_argument('--steps', type=int, default=180)
    p.add_argument('--batch_size', type=int, default=16)
    p.add_argument('--seq_len', type=int, default=256)
    p.add_argument('--points', default='45,90', help='steps after which --docs documents are evaluated')
    p.add_argument('--docs', type=int, default=48)
    p.add_argument('--final_docs', type=int, help='documents evaluated at the end; default: all')
    p.add_argument('--data', required=True)
    p.add_argument('--val', required=True)
    p.add_argument('--out', required=True)
    p.add_argument('--device', default='auto')
    p.add_argument('--precision', default='auto')
    p.add_argument('--part', default='0/1', help='i/n: every n-th run, from the i-th on')
    p.add_argument('--together', type=int, default=1, help='runs at the same time, in threads')
    p.add_argument('--until', type=float, help='seconds since 1970: no run is begun that would end later')
    p.add_argument('--keep_case', action='store_true')
    return p.parse_args(argv)


def main(
    argv=None,
    known: dict | None = None,  # variants by name; None: those beside this file
    before=lambda run: None,  # called with each run before its variants are applied
):
    args, longest, known = parse(argv), 0.0, known or load_variants()
    cfg, seeds = read_config(args), [int(s) for s in args.seeds.split(',')]
    how = dict(vocab_size=args.vocab_size or cfg.vocab_size, val_spec=args.val, keep_case=args.keep_case)
    data = prepare(args.data, **how, progress=False)
    cfg = replace(cfg, vocab_size=-(-len(data.tokenizer) // 8) * 8, context=args.seq_len)
    size = dict(size=args.size or args.preset, preset=args.preset, config=args.config)
    print(f'{size["size"]}: {param_count(cfg):,} parameters, {sum(map(len, data.train)):,} tokens', file=sys.stderr)
    part, parts = (int(k) for k in args.part.split('/'))
    points = [int(k) for k in args.points.split(',') if k]
    usual = dict(steps=args.steps, batch_size=args.batch_size, seq_len=args.seq_len, device=args.device)
    grid = [(name, seed) for name in args.variants.split(',') for seed in seeds][part::parts]

    def work(job):
        nonlocal longest
        name, seed = job
        if args.until and time.time() + longest > args.until:
            print(f'{name} {seed}: no time', file=sys.stderr)
            return
        start, run = time.time(), Run(name, cfg, data, seed=seed, **usual)
        run.precision, run.note['together'] = args.precision, args.together
        try:
            before(run)
            apply(run, known)
            line = size | measure(run, points, args.docs, args.final_docs)
            with open(args.out, 'a') as f:
                f.write(json.dumps(line) + '\n')
            print(
                f'{name} {seed}: {line["val_loss"]:.4f} in {line["train_seconds"]:.1f} s', file=sys.stderr, flush=True
            )
        except Exception as e:  # the others go on
            print(f'{name} {seed} FAILED: {type(e).__name__}: {str(e)[:300]}', file=sys.stderr, flush=True)
        del run
        longest = max(longest, time.time() - start)
        with GATE.exclusive():
            gc.collect()

    work_together(grid, work, args.together)


if __name__ == '__main__':
    main()

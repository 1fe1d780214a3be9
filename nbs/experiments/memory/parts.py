"""What a training process in little memory consists of, phase by phase.

parts.py DATA VAL OUT.json [PRESET] [BATCH] [STEPS]"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path
import torch
from i3nb.core import I3Config
from i3nb.data.preparation import prepare
from i3nb.train.settings import TrainSettings
from i3nb.trainer import Trainer


def status():
    "Bytes now and at the peak since `forget_peak`."
    names = ('VmHWM:', 'VmRSS:', 'RssAnon:', 'RssFile:')
    words = (line.split() for line in open('/proc/self/status'))
    return {w[0][:-1]: int(w[1]) * 1024 for w in words if w[0] in names}


def forget_peak():
    Path('/proc/self/clear_refs').write_text('5')


def bytes_of(tensors):
    return sum(t.numel() * t.element_size() for t in tensors)


def main(data, val, out, preset='i3-300m', batch='16', steps='3'):
    rows = [dict(what='imports', **status())]

    def note(what, **facts):
        rows.append(dict(what=what, **status(), **facts))
        print(json.dumps(rows[-1]), flush=True)

    prepared = prepare(
        data, None, os.environ.get('I3NB_CACHE'), I3Config.preset(preset).vocab_size, val, progress=False
    )
    note('data')
    trainer = Trainer(
        I3Config.preset(preset),
        prepared,
        tempfile.mkdtemp(),
        TrainSettings(iters=180, batch_size=int(batch), memory='small'),
        device='cpu',
        progress=False,
    )
    states = [t for o in trainer.optimizer.parts for s in o.state.values() for t in s.items() if torch.is_tensor(t[1])]
    note(
        'trainer',
        weights=bytes_of(trainer.model.parameters()),
        params=sum(p.numel() for p in trainer.model.parameters()),
        **{
            kind: bytes_of(t for k, t in states if k in names)
            for kind, names in dict(momentum=['momentum'], averages=['exp_avg', 'exp_avg_sq']).items()
        },
    )

    def phase(name):
        inner = getattr(trainer.stepper, name)

        def outer(*args):
            forget_peak()
            found = inner(*args)
            i, facts = None, {}
            if name == 'block_gradient':
                i = next(i for i, b in enumerate(trainer.model.blocks) if args[0] is b)
                facts = dict(grads=bytes_of(p.grad for p in args[0].parameters()))
            if name == 'block_inputs':
                facts = dict(inputs=bytes_of(found[0]))
            note(f'step {trainer.step + 1} {name}', block=i, part=args[0] if name == 'part_step' else None, **facts)
            return found

        setattr(trainer.stepper, name, outer)

    for name in ('block_inputs', 'head_step', 'block_gradient', 'part_step'):
        phase(name)
    for _ in range(int(steps)):
        start, cpu = time.time(), os.times()
        row = trainer.train_step()
        note(
            f'step {trainer.step} done',
            loss=row['loss'],
            seconds=time.time() - start,
            user_s=os.times().user - cpu.user,
            system_s=os.times().system - cpu.system,
        )
    for name, work in dict(
        checkpoint=trainer.save, validation=lambda: trainer.validate(8), story=trainer.story
    ).items():
        forget_peak()
        work()
        note(name)
    Path(out).write_text('\n'.join(map(json.dumps, rows)) + '\n')


if __name__ == '__main__':
    main(*sys.argv[1:])

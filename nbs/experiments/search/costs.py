"""What parts of a step cost on a processor, in processor seconds of one thread: gradients, and optimizers' moves.

python costs.py OUT.json [REPEATS] [NAME=JSON …]   with fields of `I3Config` that differ from i3-tiny"""

import json
import sys
import time
import torch
from variants_optim import HalfMuon, NorMuon, OpenMuon
from i3nb.base.devices import seed_all
from i3nb.bench.ceiling import device_name
from i3nb.core import PRESETS, I3Config, param_count
from i3nb.model import I3Model
from i3nb.muon import Muon, best_rounds
from i3nb.recipes import build_optimizer

MID = dict(d_model=256, n_hybrid=5, n_attn=3, d_inner=512, d_state=32, d_ff=1024, n_heads=8, dt_rank=16)
ROUNDS = {1: best_rounds(1, 0.1), 3: best_rounds(3, 0.006), 5: best_rounds(5, 1e-3)}


def timed(f) -> float:
    "Processor seconds of a call."
    start = time.process_time()
    f()
    return time.process_time() - start


def ways(muon: Muon, adamw) -> dict:
    "What is timed, by name; what begins with 'open' is computed in PyTorch alone."

    def usual():
        muon.__class__ = Muon
        muon.step()

    def rounds(k):
        before = muon.param_groups[0]['rounds']
        [g.update(rounds=[list(r) for r in ROUNDS[k]]) for g in muon.param_groups]
        usual()
        [g.update(rounds=before) for g in muon.param_groups]

    def other(kind):
        muon.__class__ = kind
        muon.step()

    kinds = {'open': OpenMuon, 'open, halves': HalfMuon, 'open, normuon': NorMuon}
    of_rounds = {f'muon, {k} rounds': lambda k=k: rounds(k) for k in ROUNDS}
    return {'muon': usual, 'adamw': adamw.step, **of_rounds, **{k: lambda c=c: other(c) for k, c in kinds.items()}}


def measure(cfg: I3Config, repeats: int) -> dict:
    "The least seconds of each part."
    seed_all(0)
    model = I3Model(cfg)
    optimizer = build_optimizer(model, 'muon')
    optimizer.make_states()
    muon, adamw = ({type(o).__name__: o for o in optimizer.parts}[k] for k in ('Muon', 'AdamW'))
    optimizer.set_lr_scale(1e-3)
    found, named = {}, ways(muon, adamw)
    for b in (4, 8, 16):
        ids = torch.randint(cfg.vocab_size, (b, 257))
        x, y = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
        found[f'gradients of {b} x 256'] = min(timed(lambda: model(x, y).loss.backward()) for _ in range(repeats))
    for _ in range(repeats):
        for name, f in named.items():
            found[name] = min(found.get(name, 1e9), timed(f))
    return dict(params=param_count(cfg), vocab_size=cfg.vocab_size, seconds=found)


if __name__ == '__main__':
    torch.set_num_threads(1)
    out, repeats = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 3
    sizes = {'i3-tiny': dict(vocab_size=2016), 'mid': dict(MID, vocab_size=2016)}
    sizes |= {name: json.loads(fields) for name, fields in (a.split('=', 1) for a in sys.argv[3:])}
    rows = {}
    for name, fields in sizes.items():
        rows[name] = measure(I3Config(**{**PRESETS['i3-tiny'], **fields}), repeats)
        print(name, json.dumps(rows[name]), flush=True)
        open(out, 'w').write(json.dumps(dict(device=device_name(), rows=rows), indent=1) + '\n')

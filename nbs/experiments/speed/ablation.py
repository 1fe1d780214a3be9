"""What each part in C is worth: whole steps of i3-300m with all of them, and with one of them replaced by its PyTorch
form, taking turns.

    python ablation.py ablation.json [rounds]

The scan's PyTorch form would take minutes a step, so it is left out; the chapter on the scan in C compares it alone.
"""

import json
import sys
import time
from pathlib import Path
import torch
from tqdm import tqdm
from i3nb.base.devices import seed_all
from i3nb.base.forms import using
from i3nb.bench.ceiling import device_name
from i3nb.bench.contenders import make_contender, one_step
from i3nb.kernels.native import keep_memory

PARTS = {  # what is replaced, and by which form
    'all in C': {},
    'GRU': dict(gru='library'),
    'convolution and silu': dict(conv='plain'),
    'attention': dict(attention='bands'),
    "experts' small operations": dict(expert_ops='torch'),
    "head's softmax": dict(head='torch'),
}

if __name__ == '__main__':
    out, rounds = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 3
    seed_all(0)
    c = make_contender('i3-300m', recipe='adamw')
    ids, seconds = (
        torch.randint(c.model.cfg.vocab_size, (16, 257)),
        {p: dict(wall=[], cpu=[]) for p in ('returned memory', *PARTS)},
    )
    x, y = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()

    def step(part):
        wall, cpu = time.perf_counter(), time.process_time()
        one_step(c, x, y, 'bf16')
        seconds[part]['wall'].append(time.perf_counter() - wall)
        seconds[part]['cpu'].append(time.process_time() - cpu)

    one_step(c, x, y, 'bf16')
    for _ in range(rounds):
        step('returned memory')  # as the C library has it by default
    keep_memory()
    one_step(c, x, y, 'bf16')
    for _ in tqdm(range(rounds)):
        for part in PARTS:
            with using(**PARTS[part]):
                step(part)
    out.write_text(json.dumps(dict(device=device_name(), seconds=seconds)))
    best = {p: {k: min(v) for k, v in s.items()} for p, s in seconds.items()}
    for p, b in best.items():
        print(
            f'{p:28} {b["wall"]:6.2f} s, {b["cpu"]:6.2f} processor seconds  {b["cpu"] - best["all in C"]["cpu"]:+.2f}'
        )

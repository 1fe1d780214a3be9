"""Forward and backward passes of `i3-300m` with the same tokens in fewer, longer sequences, taking turns.

Usage: python long_step.py OUT.json [ROUNDS]"""

import json
import sys
import time
from pathlib import Path
import torch
from tqdm import tqdm
from i3nb.bench.ceiling import device_name
from i3nb.core import I3Config
from i3nb.kernels.native import keep_memory
from i3nb.model import I3Model

out, rounds = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 3
shapes = [(16, 256), (4, 1024), (1, 4096), (32, 256), (8, 1024), (1, 8192)]
keep_memory()  # as the trainer does
torch.manual_seed(0)
model = I3Model(I3Config.preset('i3-300m'))
rows = [dict(batch=b, length=t, wall=[], cpu=[]) for b, t in shapes]
for i in tqdm(range(rounds + 1)):
    for row in rows:
        ids = torch.randint(model.cfg.vocab_size, (row['batch'], row['length'] + 1))
        wall, cpu = time.perf_counter(), time.process_time()
        with torch.autocast('cpu', torch.bfloat16):
            loss = model(ids[:, :-1], ids[:, 1:]).loss
        loss.backward()
        model.zero_grad()
        if i:
            row['wall'].append(time.perf_counter() - wall)
            row['cpu'].append(time.process_time() - cpu)
    out.write_text(json.dumps(dict(device=device_name(), rows=rows), indent=1) + '\n')

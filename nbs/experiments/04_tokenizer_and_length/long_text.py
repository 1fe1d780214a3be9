"""Writes one long text and notes what a token costs on the way.

Usage: python long_text.py MODEL TOKENS OUT.json [MINUTES], where MODEL is a preset or a folder"""

import json
import sys
import time
from pathlib import Path
import psutil
import torch
from i3nb.core import I3Config
from i3nb.generate import choose_tokens
from i3nb.kernels.step import Step
from i3nb.model import I3Model

name, tokens, out = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
minutes = float(sys.argv[4]) if len(sys.argv) > 4 else 60.0
torch.manual_seed(0)
torch.set_num_threads(1)
model = I3Model.from_pretrained(name) if Path(name).is_dir() else I3Model(I3Config.preset(name)).eval()
step, token, rows, wall, cpu, start = Step(model, threads=1), 0, [], [], [], time.time()
draws = torch.Generator().manual_seed(0)
for i in range(1, tokens + 1):
    t, c = time.perf_counter(), time.process_time()
    token = choose_tokens(
        step(token), [torch.rand((), generator=draws, dtype=torch.double).item()], temperature=1.0, top_k=50
    )[0]
    wall.append(1e3 * (time.perf_counter() - t))
    cpu.append(1e3 * (time.process_time() - c))
    if i in (100, 300, 1000, 3000) or i % (tokens // 50) == 0 or i == tokens or time.time() - start > 60 * minutes:
        wall, cpu = sorted(wall[-500:]), sorted(cpu[-500:])
        rows.append(
            dict(
                tokens=i,
                cpu_ms=cpu[len(cpu) // 2],
                wall_ms=wall[len(wall) // 2],
                wall_ms_fastest_tenth=wall[len(wall) // 10],
                rss_mb=psutil.Process().memory_info().rss / 1e6,
            )
        )
        wall, cpu = [], []
        out.write_text(
            json.dumps(
                dict(
                    model='i3-300m' if Path(name).is_dir() else name,
                    trained=Path(name).is_dir(),
                    torch=torch.__version__,
                    seconds=time.time() - start,
                    finished=i == tokens,
                    rows=rows,
                ),
                indent=1,
            )
            + '\n'
        )
        if time.time() - start > 60 * minutes:
            break

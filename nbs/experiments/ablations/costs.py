"""Processor seconds of a training step of each variant, in turns on one thread.

python costs.py TRAIN VALID OUT.json [ROUNDS]"""

import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
import ablate  # also finds ../search
import torch
from search import Run, apply, load_variants
from i3nb.bench.ceiling import device_name
from i3nb.core import I3Config
from i3nb.data.preparation import prepare


def step_seconds(run: Run) -> float:
    "Processor seconds of a step."
    start = time.process_time()
    run.train_step()
    return time.process_time() - start


def main(train: str, valid: str, out: str, rounds: int = 8):
    torch.set_num_threads(1)
    cfg, known = I3Config.preset('i3-tiny'), load_variants(ablate.HERE)
    data = prepare(train, vocab_size=cfg.vocab_size, val_spec=valid, keep_case=True, progress=False)
    cfg = replace(cfg, vocab_size=-(-len(data.tokenizer) // 8) * 8)
    names = list(json.loads((ablate.HERE / 'expected.json').read_text()))
    runs = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in ('base', *names):
            runs[name] = Run(name, cfg, data, seed=0, steps=150, batch_size=8, seq_len=256, device='cpu')
            apply(runs[name], known)
            runs[name].build(Path(folder, name))
        best = {name: min(step_seconds(run) for _ in range(2)) for name, run in runs.items()}
        for _ in range(rounds):
            for name, run in runs.items():
                best[name] = min(best[name], step_seconds(run))
    Path(out).write_text(json.dumps(dict(device=device_name(), rounds=rounds, seconds=best), indent=1) + '\n')


if __name__ == '__main__':
    main(*sys.argv[1:4], *map(int, sys.argv[4:]))

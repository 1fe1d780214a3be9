"""Peak memory of training steps of the full model and of other stacks of the same width, each in a process of its own.

python stacks.py OUT.jsonl

Every process takes two steps of AdamW with 4 sequences of 256 tokens; its peak is `VmHWM`, as `watch.py` reads it."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
import torch
from i3nb.bench.ceiling import device_name
from i3nb.bench.contenders import Contender, one_step
from i3nb.core import I3Config
from i3nb.model import I3Model
from i3nb.recipes import build_optimizer

ROWS, LENGTH = 4, 256
STACKS = dict(hybrid=(10, 6), attention=(0, 16), recurrence=(16, 0))  # recurrent and attention blocks
GPT2 = dict(n_embd=1024, n_layer=13, n_head=16)  # about as many parameters as i3-300m


def ours(name: str) -> tuple:  # model, optimizer, loss
    "The papers' model with other numbers of blocks."
    n_hybrid, n_attn = STACKS[name]
    model = I3Model(replace(I3Config(), n_hybrid=n_hybrid, n_attn=n_attn))
    return model, build_optimizer(model, 'adamw'), lambda x, y: model(x, y).loss


def gpt2() -> tuple:  # model, optimizer, loss
    "GPT-2; imported here, because `transformers` takes memory that the other models do not need."
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / 'others'))
    import small_peers
    from i3nb.bench.peers import peer_optimizer

    model = small_peers.build('gpt2', I3Config().vocab_size, LENGTH, **GPT2)
    return model, peer_optimizer(model), small_peers.token_loss(model)


def peak() -> int:
    "Bytes at the peak of this process."
    line = next(line for line in open('/proc/self/status') if line.startswith('VmHWM'))
    return int(line.split()[1]) * 1024


def measure(name: str, precision: str):
    "Two steps of one model; prints a line."
    before = peak()
    torch.manual_seed(0)
    model, optimizer, loss = gpt2() if name == 'gpt2' else ours(name)
    params = sum(p.numel() for p in model.parameters())
    parts = dict(model=model, optimizer=optimizer, nll=loss, loss=loss, begin=None)
    c = Contender(name=name, flops=0, micro=ROWS, recipe='adamw', **parts)
    for _ in range(2):
        x = torch.randint(0, I3Config().vocab_size, (ROWS, LENGTH + 1))
        one_step(c, x[:, :-1], x[:, 1:], precision)
    print(json.dumps(dict(stack=name, precision=precision, params=params, peak=peak(), libraries=before)))


def main(out: str):
    with open(out, 'a') as f:
        for precision in ('fp32', 'bf16'):
            for name in (*STACKS, 'gpt2'):
                found = subprocess.run([sys.executable, __file__, name, precision], capture_output=True, text=True)
                assert found.returncode == 0, found.stderr
                f.write(json.dumps(json.loads(found.stdout) | dict(device=device_name(torch.device('cpu')))) + '\n')


if __name__ == '__main__':
    measure(*sys.argv[1:]) if len(sys.argv) == 3 else main(sys.argv[1])

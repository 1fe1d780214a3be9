"""Train i3-tiny for 50 steps twice from the same weights on the same batches, by the fast forms and by the reference
forms, and write both losses.

The control is the fast form from weights that differ in their last bit: training multiplies such differences, above all
where a token's choice of experts tips over.

    python agreement.py agreement.json            # needs the TinyStories sample, see `i3nb.data.sources.sample_data`
"""

import json
import sys
import tempfile
from pathlib import Path
import torch
from tqdm import tqdm
from i3nb.base.devices import seed_all
from i3nb.base.forms import using
from i3nb.core import I3Config
from i3nb.data.batches import Batches
from i3nb.data.preparation import prepare
from i3nb.data.sources import sample_data
from i3nb.model import I3Model
from i3nb.optim import clip_gradients, lr_scale
from i3nb.recipes import build_optimizer
from i3nb.train.evaluate import autocast

# every part by its specification: loops through time, over tokens and over experts, and masked softmaxes
REFERENCE = dict(scan='loop', gru='loop', conv='plain', attention='dense', experts='loop', head='torch')


def losses(form: str, precision: str, recipe: str, data, steps=50):
    "Training losses of `steps` steps."
    seed_all(0)
    model = I3Model(I3Config.preset('i3-tiny', vocab_size=len(data.tokenizer)))
    if form == 'nudged':
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(1 + 6e-8 * torch.randn_like(p))
    optimizer, batches, out = build_optimizer(model, recipe), Batches(data, 4, 64, 0), []
    for i in tqdm(range(steps), desc=f'{form} {precision} {recipe}'):
        optimizer.set_lr_scale(lr_scale(i / steps, i))
        x, y = next(batches)
        with using(**(REFERENCE if form == 'reference' else {})), autocast(torch.device('cpu'), precision):
            loss = model(x, y).loss
        loss.backward()
        clip_gradients(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        out.append(loss.item())
    return out


if __name__ == '__main__':
    runs = []
    with tempfile.TemporaryDirectory() as d:
        data = prepare(str(Path(sample_data()) / 'valid.jsonl'), out_dir=d, vocab_size=2048)
        for form in ('fast', 'nudged', 'reference'):
            for precision, recipe in (('fp32', 'adamw'), ('fp32', 'muon'), ('bf16', 'muon')):
                runs.append(
                    dict(form=form, precision=precision, recipe=recipe, loss=losses(form, precision, recipe, data))
                )
    Path(sys.argv[1]).write_text(json.dumps(runs))
    for a in runs[:3]:
        for form in ('nudged', 'reference'):
            b = next(r for r in runs if (r['form'], r['precision'], r['recipe']) == (form, a['precision'], a['recipe']))
            d = [abs(x - y) for x, y in zip(a['loss'], b['loss'])]
            print(f'{a["precision"]} {a["recipe"]}, loss {a["loss"][0]:.3f} to {a["loss"][-1]:.3f}', end='; ')
            print(f'fast against {form}: first step {d[0]:.0e}, 1-10 {max(d[:10]):.0e}, 1-50 {max(d):.0e}')

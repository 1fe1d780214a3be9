"""python check_parts.py asserts that the variants of `variants_parts.py` do what they say, on a small model."""

import types
from contextlib import nullcontext
from unittest import mock
import torch
from variants_parts import VARIANTS, GRUOnly, ScanOnly, stack
from i3nb.core import I3Config
from i3nb.model import I3Model, count_pieces, flops_per_token
from i3nb.recurrence import GRUMambaHybrid

CFG = I3Config.preset('i3-tiny', vocab_size=512)


def model_of(order: str = '', recurrence: type = GRUMambaHybrid) -> I3Model:
    "A small model of a variant."
    torch.manual_seed(0)
    with mock.patch('i3nb.model.make_blocks', stack(order, recurrence)) if order else nullcontext():
        return I3Model(CFG).eval()


@torch.no_grad()
def check_memory(model: I3Model):
    "Reading in two pieces gives what reading at once gives, and no token sees a later one."
    ids = torch.randint(0, 512, (2, 300))
    whole = model(ids).hidden
    first = model(ids[:, :131], want_state=True)
    second = model(ids[:, 131:], state=first.state)
    assert torch.allclose(torch.cat([first.hidden, second.hidden], 1), whole, atol=1e-4)
    other = ids.clone()
    other[:, 200:] = 0
    assert torch.allclose(model(other).hidden[:, :200], whole[:, :200], atol=1e-5)


def fields_of(name: str) -> I3Config:
    "The configuration that a variant makes."
    run = types.SimpleNamespace(cfg=CFG, build=None, settings={}, after_build=[], steps=100, budget=1000)
    VARIANTS[name](run)
    return run.cfg


def main():
    usual = count_pieces(model_of())
    for changed in (('rrraa', ScanOnly), ('rrraa', GRUOnly), ('rarar',), ('aarrr',)):
        check_memory(model_of(*changed))
    pieces = count_pieces(model_of('rrraa', ScanOnly))
    assert {k for k in usual if usual[k] != pieces.get(k)} == {'GRU gates'} and 'GRU gates' not in pieces
    pieces = count_pieces(model_of('rrraa', GRUOnly))
    gone = {k for k in usual if usual[k] != pieces.get(k)}
    assert gone == {'selection projections', 'step projections', 'A_log and D'}
    assert pieces['A_log and D'] == 3 * CFG.d_inner  # D is left
    assert count_pieces(model_of('rarar')) == count_pieces(model_of('aarrr')) == usual
    names = [type(b.mixer).__name__[0] for b in model_of('rarar').blocks]
    assert names == list('GMGMG')
    active, usual_work, total = map(flops_per_token, (fields_of('dense-active'), CFG, fields_of('dense-total')))
    assert active <= usual_work < total
    both = fields_of('sliding-and-chunked'), fields_of('full-attention')
    assert [cfg.patterns for cfg in both] == [('sliding', 'chunked'), ('sliding',)] and both[1].window == CFG.context
    for name in VARIANTS:
        fields_of(name)
    print(f'{len(VARIANTS)} variants')


if __name__ == '__main__':
    main()

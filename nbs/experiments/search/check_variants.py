"""python check_variants.py TRAIN VALID asserts that the variants of `variants_data.py` and `variants_model.py` do what
they say, on real tokens and a small model."""

import sys
import numpy as np
import torch
import torch.nn.functional as F
from variants_data import LENGTHS, Lanes, Regrouped, WholeDocuments, Windows, all_tokens, pieces
from variants_model import (
    BigramEmbedding,
    NormedEmbedding,
    carry_memory,
    empty_memory,
    forget_at_starts,
    noise,
    sampled_loss,
)
from i3nb.core import I3Config
from i3nb.data.batches import Batches
from i3nb.data.preparation import prepare
from i3nb.model import I3Model


def check_windows(data, eot: int):
    "Documents are cut as promised, and nothing is lost or read twice but what is told."
    ids, begins = all_tokens(data)
    assert (ids[begins[:-1]] == eot).all() and (ids == eot).sum() == len(begins) - 1
    places, lengths = pieces(begins, 256)
    covered = np.concatenate([np.arange(p, p + n) for p, n in zip(places, lengths)])
    assert np.array_equal(covered, np.arange(len(ids)))
    x, y = next(Windows(ids, begins[:-1], 8, 256, 0))
    assert (x[:, 0] == eot).all() and x[:, 1:].equal(y[:, :-1])
    x, y = next(Windows(ids, places, 64, 256, 0, lengths))
    assert (x[:, 1:][y[:, :-1] == -100] == 0).all() and ((y == -100).float().mean() - 0.29).abs() < 0.1
    assert ((y == eot).sum(1) <= 1).all()  # at most one end in a row


def check_whole(data, eot: int):
    "A row holds one document, and an epoch nearly all of them, once."
    batches = WholeDocuments(*all_tokens(data), 4096, 0)
    epoch = batches.epoch()
    chosen = np.concatenate([rows for _, rows in epoch])
    assert len(set(chosen)) == len(chosen) and batches.lengths[chosen].sum() > 0.98 * len(batches.ids)
    for _ in range(20):
        shape, (x, y) = batches.shape(), next(batches)
        assert x.shape == (batches.b, batches.t) == shape and 3500 < x.numel() <= 4096 and batches.t in LENGTHS
        assert ((x == eot) & (y >= 0)).sum(1).max() <= 1 and (y >= 0).float().mean() > 0.4


def check_reset(model, ids, eot: int):
    "A document in the middle of a row gives what it gives alone; without the change it does not."
    row, usual = ids.clone(), model(ids).hidden
    row[:, 64] = eot  # ids hold no other beginning
    other = row.clone()
    other[:, :64] = other[:, :64].roll(1, 0)
    assert not torch.allclose(model(row).hidden[:, 64:], model(other).hidden[:, 64:], atol=1e-3)
    forget_at_starts(model, eot)
    assert torch.allclose(model(ids).hidden, usual, atol=1e-4)
    found = model(row).hidden[:, 64:]
    assert torch.allclose(found, model(other).hidden[:, 64:], atol=1e-6)
    assert torch.allclose(found, model(row[:, 64:]).hidden, atol=1e-4)
    model.zero_grad()
    embedded = model.embed(row).detach().requires_grad_()
    model.embed.forward = lambda ids: embedded
    model(row).hidden[:, 64:].pow(3).sum().backward()
    del model.embed.forward
    assert embedded.grad[:, :64].abs().max() < 1e-6 < 1e-3 < embedded.grad[:, 64:].abs().max()


def check_carried(model, data, ids):
    "Two windows one after the other are one long window; lanes go on where they were."
    cut = ids.shape[1] // 2
    whole = model(ids, state=empty_memory(model, len(ids))).hidden
    carry_memory(model, len(ids))
    first, second = (model(part).hidden for part in (ids[:, :cut], ids[:, cut:]))
    assert torch.allclose(torch.cat([first, second], 1), whole, atol=1e-4)
    lanes = Lanes(*all_tokens(data), 4, 64, 0)
    (x, y), (after, _) = next(lanes), next(lanes)
    assert y[:, -1].equal(after[:, 0]) and x[:, 1:].equal(y[:, :-1])
    assert np.array_equal(np.sort(lanes.ids), np.sort(all_tokens(data)[0]))


def check_scheduled(data):
    "The usual tokens in the usual order, whatever the shape."
    windows, usual = Batches(data, 1, 256, 3), Batches(data, 16, 256, 3)
    for step, shape in enumerate([(16, 256), (64, 64), (32, 128)]):
        x, y = next(Regrouped(windows, *shape))
        assert (
            x.shape == shape and x.view(16, 256).equal(usual.at(step)[0]) and y.view(16, 256).equal(usual.at(step)[1])
        )
    assert torch.cat([next(Regrouped(windows, 4, 256))[0] for _ in range(4)]).equal(usual.at(3)[0])


def check_ends(model, ids, eot: int):
    "The bigram table is silent at first and knows the token before; the sample is right on average."
    table = BigramEmbedding(model.embed, 1 << 13, eot)
    assert table(ids).equal(model.embed(ids))
    rows, swapped = table.rows_of(ids), table.rows_of(ids.flip(1))
    assert 0 <= rows.min() and rows.max() < 1 << 13 and len(rows.unique()) > 0.9 * rows.numel()
    assert (rows[:, 1:-1] != swapped.flip(1)[:, 1:-1]).float().mean() > 0.9
    assert NormedEmbedding(model.embed)(ids).var(-1, correction=0).sub(1).abs().max() < 0.05
    torch.manual_seed(0)
    hidden, W, bias = torch.randn(1, 50, 16), torch.randn(200, 16) * 0.3, torch.randn(200)
    y = torch.randint(0, 20, (1, 50))
    exact = F.cross_entropy(F.linear(hidden[0], W, bias), y[0])
    seen = torch.zeros(200).index_fill(0, y.unique(), 1.0)
    count = torch.zeros((), dtype=torch.long)
    draw = lambda share: sampled_loss(hidden, W, bias, y, seen=seen, sampled=torch.full((200,), share), count=count)
    numbers = torch.stack([noise(2016, count.add(i)) for i in range(500)])
    assert (numbers.mean() - 0.5).abs() < 0.003 and numbers.corrcoef().fill_diagonal_(0).abs().max() < 0.12
    assert numbers.T.corrcoef().fill_diagonal_(0).abs().mean() < 0.04 and 0.8 < numbers.std() * 12**0.5 < 1.2
    assert draw(1.0).sub(exact).abs() < 1e-5
    about = torch.stack([draw(0.5) for _ in range(200)])
    assert about.std() > 0.005 and (about.mean() - exact).abs() < 0.03, (about.mean(), exact)


def check(
    train: str,  # text of the training
    val: str,  # and of the validation
):
    "All of the above."
    data = prepare(train, val_spec=val, vocab_size=4096, progress=False)
    eot = data.tokenizer.eot_id
    check_windows(data, eot)
    check_whole(data, eot)
    check_scheduled(data)
    torch.manual_seed(0)
    cfg = I3Config.preset('i3-tiny', vocab_size=2016)
    make = lambda: I3Model(cfg)
    ids = torch.randint(1, 2000, (2, 192))
    check_ends(make(), ids, eot)
    check_carried(make(), data, ids)
    check_reset(make(), ids, eot)
    print('all variants of the data and of the ends do what they say')


if __name__ == '__main__':
    check(*sys.argv[1:])

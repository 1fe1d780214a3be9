"""Variants of `search.py` that change what a step reads. `check_variants.py` asserts that each does what it says."""

import numpy as np
import torch
from i3nb.data.batches import Batches
from i3nb.kernels.graphs import GraphedStep

# --- windows that begin at a document ---


def all_tokens(data) -> tuple:  # ids (n,); where documents begin, and the end (docs + 1,)
    "The training tokens of all sources in one row."
    ids = np.concatenate([s.read(0, len(s)) for s in data.train])
    shifts = np.cumsum([0, *map(len, data.train)])
    begins = np.concatenate([np.asarray(s.starts[:-1]) + shift for s, shift in zip(data.train, shifts)])
    return ids, np.append(begins, len(ids))


def pieces(
    begins,  # where documents begin, and the end
    t: int,  # tokens of a piece, at most
) -> tuple:  # where pieces begin; their lengths
    "Every document cut from its own beginning."
    found = [(p, min(t, end - p)) for start, end in zip(begins, begins[1:]) for p in range(start, end, t)]
    return tuple(np.array(found).T)


class Windows:
    "Endless batches of windows that begin at given places, shuffled anew in each epoch."

    def __init__(
        self,
        ids,  # (n,) read as a ring
        places,  # where windows begin
        b: int,  # rows
        t: int,  # tokens of a row
        seed: int,  # of the order
        lengths=None,  # tokens of each window that count, the others are padding; None: all
    ):
        self.ids, self.places, self.b, self.t, self.lengths = ids, places, b, t, lengths
        self.rng, self.order = np.random.default_rng(seed), []

    def rows(self, chosen, t: int) -> tuple:  # x, y (rows, t)
        "Some windows as a batch."
        columns = np.arange(t + 1)
        window = torch.from_numpy(self.ids[(self.places[chosen][:, None] + columns) % len(self.ids)])
        x, y = window[:, :-1].contiguous(), window[:, 1:].contiguous()
        if self.lengths is not None:
            padding = torch.from_numpy(columns[:-1] >= self.lengths[chosen][:, None])
            x[padding], y[padding] = 0, -100
        return x, y

    def __iter__(self):
        return self

    def __next__(self):
        while len(self.order) < self.b:
            self.order = [*self.order, *self.rng.permutation(len(self.places))]
        chosen, self.order = np.array(self.order[: self.b]), self.order[self.b :]
        return self.rows(chosen, self.t)


def read(
    make,  # make(run) -> batches
):
    "A variant that reads other batches."

    def variant(run):
        run.after_build.append(lambda run: run.set_batches(make(run)))

    return variant


def document_starts(run):
    "Windows only where documents begin; what a long document has beyond a window is never read."
    ids, begins = all_tokens(run.data)
    run.note['never_read'] = 1 - np.minimum(np.diff(begins), run.batches.t).sum() / len(ids)
    return Windows(ids, begins[:-1], run.batches.b, run.batches.t, run.seed)


def document_pieces(run):
    "Windows at all pieces of documents; the last piece runs on into the next document."
    ids, begins = all_tokens(run.data)
    places, lengths = pieces(begins, run.batches.t)
    run.note['read_twice'] = 1 - lengths.sum() / (len(places) * run.batches.t)
    return Windows(ids, places, run.batches.b, run.batches.t, run.seed)


def padded_pieces(run):
    "The same windows, but what lies behind a document's end does not count."
    ids, begins = all_tokens(run.data)
    places, lengths = pieces(begins, run.batches.t)
    run.note['padding'] = 1 - lengths.sum() / (len(places) * run.batches.t)
    return Windows(ids, places, run.batches.b, run.batches.t, run.seed, lengths)


# --- whole documents, in rows of a few lengths ---

LENGTHS = (128, 256, 320, 384, 448, 512)


class WholeDocuments(Windows):
    "Batches of whole documents of about the same length, each alone in its row; beyond the longest rows they are cut."

    def __init__(self, ids, begins, tokens: int, seed: int):
        places, lengths = pieces(begins, LENGTHS[-1])
        super().__init__(ids, places, tokens // LENGTHS[-1], LENGTHS[-1], seed, lengths)
        self.tokens = tokens  # of a batch, about

    def epoch(self) -> list:  # of (length, numbers of windows)
        "All batches of an epoch; rows that do not fill a batch move on to the next length, the last are left out."
        batches, waiting = [], np.array([], int)
        order = self.rng.permutation(len(self.places))
        for low, t in zip((0, *LENGTHS), LENGTHS):
            fitting = order[(self.lengths[order] > low) & (self.lengths[order] <= t)]
            waiting, rows = np.concatenate([waiting, fitting]), self.tokens // t
            full = len(waiting) // rows * rows
            batches += [(t, chosen) for chosen in waiting[:full].reshape(-1, rows)]
            waiting = waiting[full:]
        return [batches[i] for i in self.rng.permutation(len(batches))]

    def shape(self) -> tuple:  # (b, t)
        "Of the next batch."
        self.order = self.order or self.epoch()
        t, chosen = self.order[-1]
        return len(chosen), t

    def __next__(self):
        self.b, self.t = self.shape()
        _, chosen = self.order.pop()
        return self.rows(chosen, self.t)


class ByShape:
    "A recording for each shape of a batch."

    def __init__(self, make):
        self.make, self.known = make, {}

    def __contains__(self, shape) -> bool:  # (b, t)
        return (shape, shape) in self.known

    def __call__(self, *inputs) -> dict:
        shapes = tuple(tuple(x.shape) for x in inputs)
        if shapes not in self.known:
            self.known[shapes] = self.make()
        return self.known[shapes](*inputs)


def whole_documents(run):
    "Read whole documents; each shape is recorded once."

    def begin(run):
        batches = WholeDocuments(*all_tokens(run.data), run.batches.b * run.batches.t, run.seed)
        sizes = [(t * len(rows), batches.lengths[rows].sum()) for t, rows in batches.epoch()]
        run.note['padding'] = 1 - sum(n for _, n in sizes) / sum(n for n, _ in sizes)
        run.set_batches(batches)
        step = run.stepper
        step.micro = 1 << 20  # all rows at once, however many
        if step.recording:
            make = lambda: GraphedStep(step.accumulate, list(run.model.parameters()), step.device)
            step.recording = ByShape(make)
            run.before_step.append(lambda run: setattr(run, 'fresh', batches.shape() not in step.recording))

    run.after_build.append(begin)


class Lanes:
    "Row i reads the i-th part of all documents, in an order of their own; each batch goes on where the last one ended."

    def __init__(self, ids, begins, b: int, t: int, seed: int):
        order = np.random.default_rng(seed).permutation(len(begins) - 1)
        self.ids = np.concatenate([ids[begins[i] : begins[i + 1]] for i in order])
        self.b, self.t, self.next, self.part = b, t, 0, len(ids) // b // t * t

    def __iter__(self):
        return self

    def __next__(self):
        places = np.arange(self.b)[:, None] * self.part + self.next * self.t + np.arange(self.t + 1)
        self.next += 1
        window = torch.from_numpy(self.ids[places % len(self.ids)])
        return window[:, :-1].contiguous(), window[:, 1:].contiguous()


# --- schedules of batch and length ---


class Regrouped:
    "The windows of other batches, put together to batches of another size, or cut into shorter rows."

    def __init__(self, windows, b: int, t: int):
        self.windows, self.b, self.t = windows, b, t  # `windows` yields one row at a time

    def __iter__(self):
        return self

    def __next__(self):
        rows = [next(self.windows) for _ in range(self.b * self.t // self.windows.t)]
        return tuple(torch.cat(part).view(self.b, self.t) for part in zip(*rows))


def scheduled(
    *shapes,  # (batch, length) in turn, each for an equal share of the run's tokens
):
    "A variant that reads the usual windows in the usual order, in batches whose shape changes on the way."

    def begin(run):
        run.windows, run.stage = Batches(run.data, 1, run.batches.t, run.seed), -1

    def change(run):
        stage = min(int(run.progress * len(shapes) + 1e-9), len(shapes) - 1)
        if stage != run.stage:
            run.stage = stage
            run.set_batches(Regrouped(run.windows, *shapes[stage]))

    def variant(run):
        run.after_build.append(begin)
        run.before_step.append(change)

    return variant


def longer(run):
    "Windows twice as long, half as many of them."
    return Batches(run.data, run.batches.b // 2, run.batches.t * 2, run.seed)


VARIANTS = {
    'doc-starts': read(document_starts),
    'doc-pieces': read(document_pieces),
    'doc-padded': read(padded_pieces),
    'doc-whole': whole_documents,
    'batch-4': scheduled((4, 256)),
    'batch-8': scheduled((8, 256)),
    'batch-32': scheduled((32, 256)),
    'batch-4-8-16': scheduled((4, 256), (8, 256), (16, 256)),
    'batch-8-16-32': scheduled((8, 256), (16, 256), (32, 256)),
    'length-64': scheduled((64, 64)),
    'length-128': scheduled((32, 128)),
    'length-512': read(longer),
    'length-64-128-256': scheduled((64, 64), (32, 128), (16, 256)),
}

"""Two tasks that test a model's memory: to recall values of keys, and to copy symbols, after much noise."""

import torch

KEYS = range(0, 16)
VALUES = range(16, 32)
NOISE = range(32, 48)
COPY = 48  # the token that asks for the copy
VOCAB = 49
PAIRS = 4  # keys with their values in each text
QUESTIONS = 16  # about these keys
SYMBOLS = 8  # to be copied in each text


def draw(tokens: range, shape: tuple, generator: torch.Generator) -> torch.Tensor:
    "Tokens of a range, each as likely as the others."
    return torch.randint(tokens.start, tokens.stop, shape, generator=generator)


def recall(
    rows: int,
    distance: int,  # tokens of noise between the pairs and the questions
    generator: torch.Generator,
) -> tuple:  # ids and targets, each (rows, 2 * PAIRS + distance + QUESTIONS); the target is -100 where nothing is asked
    """Pairs of a key and a value, noise, then keys of these pairs; the target of each is its value.

    The answers do not stand in the text: with them, a model could name a value that was not asked yet."""
    keys = torch.rand(rows, len(KEYS), generator=generator).argsort(1)[:, :PAIRS] + KEYS.start
    values = draw(VALUES, (rows, PAIRS), generator)
    told = torch.stack([keys, values], 2).flatten(1)
    noise = draw(NOISE, (rows, distance), generator)
    which = torch.randint(0, PAIRS, (rows, QUESTIONS), generator=generator)
    ids = torch.cat([told, noise, keys.gather(1, which)], 1)
    targets = torch.full_like(ids, -100)
    targets[:, -QUESTIONS:] = values.gather(1, which)
    return ids, targets


def copy(
    rows: int,
    distance: int,  # tokens of noise between the symbols and their copy
    generator: torch.Generator,
) -> tuple:  # ids and targets, each (rows, 2 * SYMBOLS + distance)
    "Symbols, noise, the token `COPY`, then the same symbols."
    symbols = draw(VALUES, (rows, SYMBOLS), generator)
    noise = draw(NOISE, (rows, distance), generator)
    ask = torch.full((rows, 1), COPY)
    ids = torch.cat([symbols, noise, ask, symbols[:, :-1]], 1)
    targets = torch.full_like(ids, -100)
    targets[:, -SYMBOLS:] = symbols
    return ids, targets


TASKS = dict(recall=recall, copy=copy)

"""Recipes to compare: rates, schedules, averages of weights, and other forms of Muon's step.

Each variant is a function of a `Run` of search.py. Run this file to check the ones with some mathematics in them."""

import math
import torch
from i3nb.muon import JORDAN, Muon, as_matrices, best_rounds, look_ahead, orthogonalize, step_factors

# Settings of the recipe, of the trainer and of optimizers' groups


def recipe(**entries):
    "A variant that changes entries of the recipe."
    return lambda run: run.recipe.update(entries)


def settings(**fields):
    "A variant that changes settings of the trainer."
    return lambda run: run.settings.update(fields)


def after_build(change):
    "A variant that calls `change(run)` when everything is built."
    return lambda run: run.after_build.append(change)


def muon_groups(**entries):
    "A variant that changes all of Muon's groups."
    return after_build(lambda run: [g.update(entries) for g in run.muon.param_groups])


def table_rate(factor: float):
    "A variant in which the embedding's rate is multiplied."
    return after_build(lambda run: run.split_group([run.model.embed.weight], factor))


def head_rate(factor: float):
    "A variant in which the head's rate is multiplied."
    return after_build(lambda run: run.split_group([run.model.head.weight], factor))


def vector_rate(factor: float):
    "A variant in which the rate of biases and norms is multiplied."
    return after_build(lambda run: run.split_group(list(run.group_of(run.model.norm.weight)['params']), factor))


# Schedules: f(progress) is multiplied with a linear rise


def cosine(p: float, final: float = 0.1) -> float:
    return final + (1 - final) * (1 + math.cos(math.pi * p)) / 2


def linear(p: float) -> float:
    return 1 - p


def wsd(
    p: float,
    share: float,  # of the run, at its end, in which the rate falls to 0
    shape=lambda q: 1 - q,  # the fall, 0 to 1
) -> float:
    return 1.0 if p < 1 - share else shape((p - 1 + share) / share)


def one_minus_root(q: float) -> float:
    return 1 - math.sqrt(q)


def schedule(shape):
    "A variant with another schedule; the warm-up is that of the settings."

    def change(run):
        rise = lambda step: min(1.0, (step + 1) / max(1, run.settings.get('warmup', 20)))
        run.schedule = lambda progress, step: rise(step) * shape(progress)

    return change


# Averages of weights: the average is evaluated, training goes on with the weights themselves


class Average:
    "An average of the weights, which takes their place while the model is evaluated."

    def __init__(
        self,
        start: float,  # the average begins at this share of the run
        keep: float | None = None,  # what it keeps of itself in a step; None: all steps count the same
    ):
        self.start, self.keep, self.mean, self.n, self.weights = start, keep, None, 0, None

    def __call__(self, run):
        run.after_step.append(self.take)
        run.before_eval.append(self.put_in)
        run.after_eval.append(self.take_out)

    @torch.no_grad()
    def take(self, run):
        "Add the weights to the average."
        if run.progress < self.start:
            return
        params, self.n = list(run.model.parameters()), self.n + 1
        if self.mean is None:
            self.mean = [p.clone() for p in params]
            return
        torch._foreach_lerp_(self.mean, params, 1 / self.n if self.keep is None else 1 - self.keep)

    @torch.no_grad()
    def put_in(self, run):
        if self.mean is not None:
            self.weights = [p.clone() for p in run.model.parameters()]
            torch._foreach_copy_(list(run.model.parameters()), self.mean)

    @torch.no_grad()
    def take_out(self, run):
        if self.weights is not None:
            torch._foreach_copy_(list(run.model.parameters()), self.weights)
            self.weights = None


def average(start: float, keep: float | None = None):
    "A variant whose weights are averaged; each run has an average of its own."
    return lambda run: Average(start, keep)(run)


# Other forms of Muon's step


class OpenMuon(Muon):
    "Muon whose step is open: `chosen`, `direction` and `move` can be replaced."

    count = 0  # steps done

    @torch.no_grad()
    def step(self):
        "One step, all parameters of a shape together."
        self.make_states()
        for ps, group in self.batches():
            self._average(ps, group)
            ps = self.chosen(ps)
            if ps:
                self._step_batch(ps, group)
        self.count += 1

    def _step_batch(self, ps: list, group: dict):
        mu, parts = group['momentum'], group['parts']
        ahead = [look_ahead(p.grad, self.state[p]['momentum'], mu) for p in ps]
        stack = torch.cat([as_matrices(x, parts) for x in ahead])
        u = self.direction(stack, ps, group).to(ps[0].dtype)
        rate, keep = step_factors(as_matrices(ps[0], parts), group)
        directions = [d.view_as(p) for d, p in zip(u.chunk(len(ps)), ps)]
        self.move(ps, directions, rate, 1 - keep)

    def chosen(self, ps: list) -> list:
        "Which of some parameters of one shape move in this step."
        return ps

    def direction(self, stack, ps: list, group: dict):
        "Where matrices (m, r, c) go."
        return orthogonalize(stack, group['rounds'], self._product_dtype(stack.device))

    def move(self, ps: list, directions: list, rate: float, decay: float):
        "Move some parameters."
        torch._foreach_mul_(ps, 1 - decay)
        torch._foreach_add_(ps, directions, alpha=-rate)


class HalfMuon(OpenMuon):
    "Half of the matrices in a step, the other half in the next; momentum follows every gradient."

    factor = 1.0  # on the rate

    def chosen(self, ps):
        found = []
        for p in ps:
            number = self.state[p].setdefault('number', len([1 for s in self.state.values() if 'number' in s]))
            if (number + self.count) % 2 == 0:
                found.append(p)
        return found

    def move(self, ps, directions, rate, decay):
        super().move(ps, directions, rate * self.factor, decay * 2)


class NorMuon(OpenMuon):
    "Each neuron's direction is divided by the root of its mean square over time, at equal length of the whole."

    beta, axis = 0.95, 'out'  # 'out': a neuron is an output; 'long': the longer side

    def direction(self, stack, ps, group):
        u = super().direction(stack, ps, group).float()
        rows = group['in_first'] is False if self.axis == 'out' else u.shape[-2] >= u.shape[-1]
        square = u.square().mean(-1 if rows else -2, keepdim=True)
        state = self.state[ps[0]]  # of the batch, which is the same in each step
        old = state.get('square')
        state['square'] = square if old is None else old.lerp_(square, 1 - self.beta)
        scaled = u * state['square'].clamp_min(1e-12).rsqrt()
        return scaled * (u.norm(dim=(-2, -1), keepdim=True) / scaled.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-12))


class CautiousDecay(OpenMuon):
    "Weights decay only where the step makes them smaller, too."

    def move(self, ps, directions, rate, decay):
        for p, u in zip(ps, directions):
            p.mul_(1 - decay * (p * u > 0)).add_(u, alpha=-rate)


class CautiousMuon(OpenMuon):
    "Only numbers whose direction has the gradient's sign move; the others' share is made up for."

    def move(self, ps, directions, rate, decay):
        masks = [(u * p.grad > 0).to(u.dtype) for p, u in zip(ps, directions)]
        super().move(ps, [u * m / m.mean().clamp_min(1e-3) for u, m in zip(directions, masks)], rate, decay)


def become(kind, **attributes):
    "A variant in which Muon is another kind of Muon."

    def change(run):
        run.muon.__class__ = kind
        for name, value in attributes.items():
            setattr(run.muon, name, value)

    return after_build(change)


def rising_momentum(low: float = 0.85, steps: int = 60):
    "A variant whose momentum rises in the first steps to what it usually is."

    def rise(run):
        for g in run.muon.param_groups:
            g['momentum'] = low + (0.95 - low) * min(1.0, run.step / steps)

    return lambda run: run.before_step.append(rise)


VARIANTS = {
    **{f'lr-{lr}': recipe(lr=lr) for lr in (0.005, 0.007, 0.01, 0.014, 0.03, 0.04, 0.06)},
    **{f'adam-{lr}': recipe(adam_lr=lr) for lr in (0.0015, 0.006, 0.01)},
    **{f'embed-x{k}': table_rate(k) for k in (0.3, 3, 10, 30)},
    **{f'head-x{k}': head_rate(k) for k in (0.3, 2, 3)},
    **{f'vectors-x{k}': vector_rate(k) for k in (0.3, 3)},
    'halves': become(HalfMuon),
    'halves-x1.4': become(HalfMuon, factor=1.4),
    'halves-x2': become(HalfMuon, factor=2.0),
    'open': become(OpenMuon),  # as the library's: a check
    'normuon': become(NorMuon),
    'normuon-long': become(NorMuon, axis='long'),
    'rounds-1': muon_groups(rounds=best_rounds(1, 0.1)),
    'rounds-3': muon_groups(rounds=best_rounds(3, 0.006)),
    'rounds-4': muon_groups(rounds=best_rounds(4, 1e-3)),
    'rounds-5': muon_groups(rounds=best_rounds(5, 1e-3)),
    'jordan-5': muon_groups(rounds=[JORDAN] * 5),
    **{f'momentum-{mu}': muon_groups(momentum=mu) for mu in (0.85, 0.9, 0.98)},
    'momentum-rising': rising_momentum(),
    **{f'decay-{d}': recipe(muon_decay=d) for d in (0.01, 0.1, 0.5)},
    **{
        f'decay-{d}-cautious': (lambda d: lambda run: (recipe(muon_decay=d)(run), become(CautiousDecay)(run)))(d)
        for d in (0.1, 0.5)
    },
    'adam-decay-0': recipe(weight_decay=0.0),
    'cautious': become(CautiousMuon),
    'cosine-0': schedule(lambda p: cosine(p, 0.0)),
    'linear-0': schedule(linear),
    'wsd-20': schedule(lambda p: wsd(p, 0.2)),
    'wsd-50': schedule(lambda p: wsd(p, 0.5)),
    'wsd-70': schedule(lambda p: wsd(p, 0.7)),
    'wsd-50-root': schedule(lambda p: wsd(p, 0.5, one_minus_root)),
    'constant': schedule(lambda p: 1.0),
    **{f'warm-{n}': settings(warmup=n) for n in (0, 5, 10, 40)},
    'ema-0.95': average(0.5, 0.95),
    'ema-0.98': average(0.5, 0.98),
    'mean-20': average(0.8),
    'mean-10': average(0.9),
    'clip-none': settings(clip=1e9),
    'clip-0.3': settings(clip=0.3),
    **{f'betas-{a}-{b}': recipe(betas=(a, b)) for a, b in ((0.9, 0.99), (0.95, 0.99), (0.8, 0.95), (0.8, 0.9))},
}


def check():
    "The mathematics of the variants, on small matrices."
    from types import SimpleNamespace

    def steps(kind, n=1, shape=(6, 4), decay=0.0, **attributes):
        torch.manual_seed(0)
        ps = [torch.nn.Parameter(torch.randn(shape)) for _ in range(4)]
        start, opt = [p.detach().clone() for p in ps], Muon(ps, 0.1, weight_decay=decay, ns_dtype=torch.float32)
        opt.__class__ = kind
        for k, v in attributes.items():
            setattr(opt, k, v)
        for i in range(n):
            for p in ps:
                p.grad = torch.randn(shape, generator=torch.Generator().manual_seed(i))
            opt.step()
        return opt, start, [p.detach() for p in ps]

    moved = lambda a, b: [i for i, (x, y) in enumerate(zip(a, b)) if not torch.equal(x, y)]
    _, _, usual = steps(Muon, 3, decay=0.1)
    _, _, opened = steps(OpenMuon, 3, decay=0.1)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(usual, opened))
    _, start, once = steps(HalfMuon)
    _, _, twice = steps(HalfMuon, 2)
    assert moved(start, once) == [0, 2] and moved(once, twice) == [1, 3]
    opt, start, end = steps(NorMuon)
    rows = [(a - b).norm(dim=-1) for a, b in zip(start, end)]
    assert all(torch.allclose(r, r.mean().expand(6), rtol=1e-4) for r in rows)  # after a step all neurons moved alike
    _, _, usual = steps(Muon)
    assert all(torch.allclose((a - b).norm(), (a - c).norm(), rtol=1e-3) for a, b, c in zip(start, end, usual))
    _, start, end = steps(CautiousDecay, decay=0.5)
    _, _, without = steps(OpenMuon)
    shrunk = [(b - c).abs() > 1e-7 for b, c in zip(end, without)]
    same = [(a * (a - c) > 0) for a, c in zip(start, without)]  # where the step goes towards zero
    assert all(torch.equal(x, y) for x, y in zip(shrunk, same)) and any(x.any() and not x.all() for x in shrunk)
    opt, start, end = steps(CautiousMuon)
    g = opt.param_groups[0]['params'][0].grad
    assert ((start[0] - end[0]) * g >= 0).all()

    model, mean = torch.nn.Linear(3, 2), Average(0.8)
    seen, run = [], SimpleNamespace(model=model, progress=0.0)
    for i in range(11):
        torch.nn.init.normal_(model.weight)
        run.progress = i / 10
        mean.take(run)
        seen.append(model.weight.detach().clone())
    mean.put_in(run)
    assert torch.allclose(model.weight, torch.stack(seen[8:]).mean(0), atol=1e-6)
    mean.take_out(run)
    assert torch.equal(model.weight, seen[-1])

    assert wsd(0.4, 0.5) == 1 and wsd(0.75, 0.5) == 0.5 and wsd(1, 0.5) == 0 and wsd(1.0, 0.5, one_minus_root) == 0
    for n, low in ((1, 0.1), (2, 0.02), (3, 0.006), (4, 1e-3), (5, 1e-3)):
        x = torch.linspace(low, 1, 10001, dtype=torch.float64)
        for a, b, c in best_rounds(n, low):
            x = a * x + b * x**3 + c * x**5
        print(f'{n} rounds from {low}: singular values {x.min():.3f} to {x.max():.3f}')
        assert (x - 1).abs().max() < 0.9


if __name__ == '__main__':
    check()

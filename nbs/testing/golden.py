"""Short trainings, encodings, texts and logits: written down (--write FILE), and compared with what the code
gives now (--compare FILE). Only the commands' names in settings.ini and a few names of the library are used,
so that the same script runs before and after modules are moved. On the machine that wrote the file every bit
must be equal; elsewhere numbers may differ by a tolerance that was measured."""

import argparse
import configparser
import contextlib
import hashlib
import importlib
import io
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import unittest.mock
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # the library beside this script, not an installed one

import torch
from i3nb.core import I3Config
from i3nb.generate import generate
from i3nb.model import I3Model
from i3nb.tokenizer import ChunkTokenizer

REMEDY = (
    'If the change is meant, write the file again with `python nbs/testing/golden.py --write '
    'nbs/testing/golden.json` and say why in the commit.'
)


# --- what is trained: each case is options of i3nb_train ---

COMMON = dict(
    preset='i3-tiny',
    vocab_size=4096,
    iters=12,
    batch_size=2,
    seq_len=80,
    warmup=2,
    fall=0.0,
    seed=7,
    device='cpu',
    eval_every=0,
    checkpoint_every=0,
    prompt='Zoë saw',
    start='random',  # the chapter on counts has tests of its own
    muon_precision='bf16',  # whatever this machine would choose
)
STEADY = 'fp32 muon, products in fp32'  # the case that other processors compute most alike writes the texts
ENTRIES = 400  # of the tokenizer; the model keeps the 4,096 rows of its preset, as when the file was written
CASES = {
    'fp32 adamw': dict(precision='fp32', recipe='adamw'),
    'fp32 muon': dict(precision='fp32', recipe='muon'),
    STEADY: dict(precision='fp32', recipe='muon', muon_precision='fp32'),
    'bf16 adamw': dict(precision='bf16', recipe='adamw'),
    'bf16 muon': dict(precision='bf16', recipe='muon'),
    'fp16 adamw': dict(precision='fp16', recipe='adamw'),
    'fp16 overflow': dict(precision='fp16', recipe='adamw', lr=0.04, seq_len=32, iters=7),
    'fp32 small memory': dict(precision='fp32', recipe='muon', memory='small', micro_batch=1),
    'bf16 small memory': dict(precision='bf16', recipe='muon', memory='small'),
    'heads pruned': dict(precision='fp32', recipe='adamw', sparsity=0.5),
    'micro-batches': dict(precision='fp32', recipe='muon', micro_batch=1),
    'recompute': dict(precision='bf16', recipe='muon', recompute=True),
    'resumed': dict(precision='fp32', recipe='muon', sparsity=0.5, resume=True),
    'resumed, small memory': dict(precision='bf16', recipe='muon', memory='small', resume=True),
}
SEEN = ('step', 'loss', 'grad_norm', 'balance', 'z', 'lr', 'loss_scale', 'skipped', 'val_loss')

WORDS = dict(
    who='Mara Tom Zoë Émile Ida OTTO'.split(),
    did='saw lost found drew hid kept'.split(),
    what='kite lamp crêpe button map whistle drum'.split(),
    where='the hill,the old mill,a boat,São Tomé'.split(','),
)
TEXTS = [
    'Zoë saw a kite.',
    'THE END.\n\n\tTwo  lines,\r\nthree ',
    'naïve café – “Ünïcödé” ǅ İstanbul ß ẞ',
    '🙂👩‍👩‍👧 ok 🇫🇷\u0000end',
    'zzzq 日本語 1234567890 x_y',
    '',
]


def story(rng):
    "A few sentences that `rng` makes up: the same for ever."
    pick = lambda kind: WORDS[kind][int(rng.random() * len(WORDS[kind]))]
    n = 3 + int(rng.random() * 6)
    return ' '.join(f'{pick("who")} {pick("did")} a {pick("what")} near {pick("where")}.' for _ in range(n))


def write_texts(folder):
    "Training and validation text in `folder`; the training documents."
    rng = random.Random(11)
    docs = [story(rng) for _ in range(150)]
    for name, part in (('train', docs[:-6]), ('valid', docs[-6:])):
        lines = [json.dumps(dict(text=text)) + '\n' for text in part]
        (folder / f'{name}.jsonl').write_text(''.join(lines), encoding='utf-8')
    return docs[:-6]


# --- running ---


def command(name):
    "The function behind a console command, as settings.ini says."
    ini = configparser.ConfigParser(delimiters=['='])
    ini.read(ROOT / 'settings.ini', encoding='utf-8')
    entries = dict(entry.split('=') for entry in ini['DEFAULT']['console_scripts'].split())
    module, function = entries[name].split(':')
    return getattr(importlib.import_module(module), function)


def said(name, **options):
    "What the command prints; what it reports is shown only if it fails."
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            command(name)(**options)
    except BaseException:
        print(out.getvalue(), err.getvalue(), file=sys.stderr)
        raise
    return out.getvalue()


def train(folder, run, options):
    "One training run into `run`. Its curves are not drawn, which would take a fifth of the time."
    options = dict(options)
    if options.pop('resume', False):
        options['checkpoint_every'] = 6
    files = dict(data='train.jsonl', val_data='valid.jsonl', cache='cache')
    files = {option: str(folder / name) for option, name in files.items()}
    files['tokenizer'] = tokenizer(folder, files)
    with unittest.mock.patch('matplotlib.figure.Figure.savefig'):
        said('i3nb_train', **{**COMMON, **files, **options}, out=str(run))


def tokenizer(folder, files):
    "The folder of a tokenizer that `i3nb_tokenize` trains on the same documents."
    how = dict(data=files['data'], val_data=files['val_data'], out=files['cache'], vocab_size=ENTRIES, keep_case=False)
    return str(Path(json.loads(said('i3nb_tokenize', **how))['path']) / 'tokenizer')


def outcome(run):
    "What a run left: its steps, and its weights in short."
    rows = [json.loads(line) for line in (run / 'metrics.jsonl').read_text().splitlines()]
    model = I3Model.from_pretrained(run, 'cpu')
    steps = [{k: row[k] for k in SEEN if row.get(k) is not None} for row in rows]
    return dict(heads=list(model.cfg.attn_heads or []), weights=weights(model), steps=steps)


def weights(model):
    "Count, checksum and sums of squares (of each part) of a model's tensors."
    digest, squares, count = hashlib.sha256(), {}, 0
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f'{name} {tensor.dtype} {tuple(tensor.shape)}'.encode())
        digest.update(tensor.contiguous().numpy().tobytes())
        part = '.'.join(name.split('.')[: 2 if name.startswith('blocks') else 1])
        squares[part] = squares.get(part, 0.0) + tensor.double().square().sum().item()
        count += tensor.numel()
    return dict(count=count, sha256=digest.hexdigest(), squares=squares)


def run_case(folder, name, options):
    "A case's outcome. One to be resumed is cut back to step 6 and run again: nothing may differ."
    run = folder / name
    train(folder, run, options)
    result = outcome(run)
    if options.get('resume'):
        for path in (run / 'checkpoints' / 'step-000012', run / 'model.safetensors', run / 'config.json'):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        train(folder, run, options)
        wrong = differences({name: result}, {name: outcome(run)}, exact=True)
        if wrong:
            raise AssertionError('resumed at step 6, not as without a break\n' + message(wrong, ''))
    return result


# --- reading and writing with what was trained ---


def encodings(run, docs):
    "Ids of some texts, and what comes back: with the run's tokenizer, and with one that marks capitals."
    marked = ChunkTokenizer.train(docs, vocab_size=400, case_markers=True)
    found = {}
    for name, tok in (('plain', ChunkTokenizer.load(run)), ('capitals marked', marked)):
        ids = [tok.encode(text) for text in TEXTS]
        ids = [list(map(int, row)) for row in ids]
        found[name] = dict(fingerprint=tok.fingerprint, ids=ids, back=[tok.decode(row) for row in ids])
    return found


def greedy(model, tok, n=24):
    "The best tokens after the prompt, read anew each time, and by how much each beats the second best."
    ids, found = [tok.eot_id, *tok.encode(COMMON['prompt'])], []
    for _ in range(n):
        with torch.no_grad():
            scores = model(torch.tensor([ids])).logits[0, -1, : tok.vocab_size]
        scores[tok.pad_id] = -torch.inf
        best, second = scores.topk(2).values.tolist()
        ids.append(int(scores.argmax()))
        found.append(dict(id=ids[-1], lead=best - second))
    return found


def texts(run):
    "Greedy ids with their leads, texts by `generate` and the command, and what the evaluation says."
    model, tok = I3Model.from_pretrained(run, 'cpu').eval(), ChunkTokenizer.load(run)
    how, where = dict(max_new_tokens=40, stop_at_eot=False), dict(model=str(run), device='cpu')
    sampled = [
        generate(model, tok, ['Zoë saw', 'The'], seed=3, temperature=0.9, top_p=0.95, **how),
        generate(model, tok, 'Ida', seed=4, **how),
        said('i3nb_generate', **where, prompt='Tom', max_new_tokens=20, seed=5, n=2),
    ]
    evaluated = json.loads(said('i3nb_eval', **where, data=str(run.parent / 'valid.jsonl'), precision='fp32'))
    best = generate(model, tok, 'Zoë saw', temperature=0, **how)
    return dict(greedy=greedy(model, tok), text=best, sampled=sampled, evaluated=evaluated)


SHAPES = {
    'untrained, tokens choose': {},
    'untrained, sequences choose': dict(route_by='sequence'),
    'untrained, one pattern': dict(route_hard=True),
    'untrained, fewer heads': dict(attn_heads=(3, 1)),
    'untrained, bf16': {},
}


def logits(low, **change):
    "Some of a fresh model's scores, read in one piece and in two."
    torch.manual_seed(5)
    model = I3Model(I3Config.preset('i3-tiny', vocab_size=300, **change)).eval()
    ids = (torch.arange(2 * 150) * 7919 % 300).view(2, 150)
    with torch.no_grad(), torch.autocast('cpu', torch.bfloat16, enabled=low):
        whole = model(ids, ids.roll(-1, 1))
        first = model(ids[:, :70], want_state=True)
        rest = model(ids[:, 70:], state=first.state)
        scores = whole.logits.float()
    losses = {k: getattr(whole, k).item() for k in ('lm_loss', 'balance', 'z')}
    some, later = scores[1, -1, :5].tolist(), rest.logits[1, -1, :5].float().tolist()
    digest = hashlib.sha256(scores.numpy().tobytes()).hexdigest()
    return dict(losses, logits=some, in_two_pieces=later, sha256=digest)


# --- the whole file ---


def results(say=lambda line: None):
    "Every case, with one thread."
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            return dict(ran_on=ran_on(), cases=all_cases(Path(folder), say))
    finally:
        torch.set_num_threads(threads)


def all_cases(folder, say):
    "The cases by name."
    docs, found = write_texts(folder), {}
    for name, options in CASES.items():
        say(name)
        found[name] = run_case(folder, name, options)
    for name, change in SHAPES.items():
        found[name] = logits('bf16' in name, **change)
    say('texts')
    run = folder / STEADY
    return {**found, 'encodings': encodings(run, docs), 'texts': texts(run)}


def ran_on():
    "What the last bits of a result depend on."
    names = 'ATEN_CPU_CAPABILITY ONEDNN_MAX_CPU_ISA MKL_ENABLE_INSTRUCTIONS MKL_CBWR I3NB_NATIVE CC'.split()
    return dict(
        torch=torch.__version__,
        capability=torch.backends.cpu.get_cpu_capability(),
        **processor(),
        compiler=compiler(),
        libc=' '.join(platform.libc_ver()),
        switches={k: os.environ[k] for k in names if k in os.environ},
    )


def processor():
    "The processor's name, and a checksum of what it can do (code is compiled for exactly that)."
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
    except OSError:
        lines = []
    facts = dict(line.partition(':')[::2] for line in reversed(lines))
    facts = {k.strip(): v.strip() for k, v in facts.items()}
    kind = [facts.get(k, '') for k in ('model name', 'cpu family', 'model')]
    can = ' '.join(sorted(facts.get('flags', facts.get('Features', '')).split()))
    name = ' '.join(kind).strip() or platform.machine()
    return dict(processor=name, can=hashlib.sha256(can.encode()).hexdigest()[:12])


def compiler():
    "The first line of what the C compiler says about itself."
    cc = os.environ.get('CC') or shutil.which('cc') or shutil.which('gcc') or shutil.which('clang')
    if not cc:
        return 'none'
    return subprocess.run([cc, '--version'], capture_output=True, text=True).stdout.partition('\n')[0]


def as_text(x, indent=0):
    "JSON with each innermost list or dictionary on a line of its own."
    inside = x.values() if isinstance(x, dict) else x if isinstance(x, list) else []
    if not any(isinstance(v, (dict, list)) for v in inside):
        return json.dumps(x, ensure_ascii=True)
    if isinstance(x, dict):
        parts = [f'{json.dumps(k, ensure_ascii=True)}: {as_text(v, indent + 1)}' for k, v in x.items()]
    else:
        parts = [as_text(v, indent + 1) for v in x]
    left, right = '{}' if isinstance(x, dict) else '[]'
    pad = '\n' + ' ' * (indent + 1)
    return left + pad + (',' + pad).join(parts) + '\n' + ' ' * indent + right


# --- comparing ---

# The largest difference allowed on another processor, to a loss and to any other number: relative to the
# expected value where that is above 1. The notebook beside this script says what was measured.
TOLERANCE = dict(steady=(1e-5, 1e-5), gentle=(1e-3, 1e-2), rough=(1e-2, 1e-1))
EXACT_ONLY = ('sha256', 'sampled', 'text', 'fp16 overflow')  # what one other bit may change as a whole
LEAD = 0.001  # the best token must be the same where it leads by so much


def must_agree(a, b):
    "Whether results from `a` and `b` (as `ran_on` says) must be equal to the last bit."
    return a == b


def flat(x, path=()):
    "The plain values in nested lists and dictionaries, by their path."
    if not isinstance(x, (dict, list)):
        return {path: x}
    items = x.items() if isinstance(x, dict) else enumerate(x, 1)
    return {p: v for k, inner in items for p, v in flat(inner, (*path, k)).items()}


def tolerance(path):
    "What is allowed to a value: little where all is fp32, more where a rounding can turn a choice."
    options, number = CASES.get(path[0], {}), 0 if path[-1] in ('loss', 'val_loss') else 1
    if path[0] == STEADY or not options and 'bf16' not in path[0]:
        return TOLERANCE['steady'][number]
    gentle = not options or (options['precision'], options['recipe']) == ('fp32', 'adamw')
    return TOLERANCE['gentle' if gentle else 'rough'][number]


def distance(a, b):
    "How far two numbers are apart: relative above 1, absolute below."
    return abs(a - b) / max(1.0, abs(a))


def agree(path, a, b, exact):
    "Whether a value is as expected."
    if exact or not (isinstance(a, float) and isinstance(b, float)):
        return type(a) is type(b) and a == b
    return distance(a, b) <= tolerance(path)


def comparable(cases, exact, chosen):
    "The values to compare by path; elsewhere without checksums, and greedy ids while they are clear."
    values = flat(cases)
    if exact:
        return values
    sure = [row['lead'] >= LEAD for row in chosen] + [False]
    unsure = range(sure.index(False) + 1, len(sure) + 1)
    return {
        p: v
        for p, v in values.items()
        if not set(p) & set(EXACT_ONLY) and not (p[:2] == ('texts', 'greedy') and p[2] in unsure)
    }


def differences(expected, found, exact):
    "What is not as expected: (path, expected, found) for each value; arguments are `cases`."
    chosen = expected.get('texts', {}).get('greedy', [])
    a, b = comparable(expected, exact, chosen), comparable(found, exact, chosen)
    paths = list(a) + [p for p in b if p not in a]
    missing = 'nothing'
    return [
        (p, a.get(p, missing), b.get(p, missing))
        for p in paths
        if p not in a or p not in b or not agree(p, a[p], b[p], exact)
    ]


def words(path):
    "A path in words."
    parts = [f'step {k}' if before == 'steps' else str(k) for before, k in zip((None, *path), path)]
    return ', '.join(part for part in parts if part != 'steps')


def message(wrong, remedy=REMEDY):
    "What to tell about differences: the first few of each case, and the remedy."
    lines = []
    for case in dict.fromkeys(path[0] for path, _, _ in wrong):
        mine = [w for w in wrong if w[0][0] == case]
        lines += [f'{words(path)}: expected {a!r}, found {b!r}' for path, a, b in mine[:3]]
        if len(mine) > 3:
            lines.append(f'{case}: and {len(mine) - 3} more')
    return '\n'.join([*lines, remedy])


def largest(expected, found):
    "For each case the largest distance of a number from the expected one, and where it is."
    chosen, far = expected['texts']['greedy'], {}
    a, b = comparable(expected, False, chosen), comparable(found, False, chosen)
    for path, x in a.items():
        if isinstance(x, float) and isinstance(b.get(path), float):
            far[path[0]] = max(far.get(path[0], (0.0, '-')), (distance(x, b[path]), words(path[1:])))
    return far


def table(expected, found, exact):
    "One line for each case."
    wrong = {path[0] for path, _, _ in differences(expected, found, exact)}
    lines = [f'{"case":30}{"largest difference":>20}  verdict']
    far = largest(expected, found)
    for case in expected:
        size, where = far.get(case, (0.0, '-'))
        agreed = 'equal to the bit' if exact else 'not compared' if case in EXACT_ONLY else 'within tolerance'
        verdict = 'DIFFERS' if case in wrong else agreed
        lines.append(f'{case:30}{size:20.1e}  {verdict}' + (f' ({where})' if size else ''))
    return '\n'.join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--write', metavar='FILE', type=Path, help='write down what the code gives now')
    parser.add_argument('--compare', metavar='FILE', type=Path, help='compare with what was written down')
    args = parser.parse_args()
    if not (args.write or args.compare):
        parser.error('give --write FILE or --compare FILE')
    now = results(lambda line: print(line, file=sys.stderr, flush=True))
    if args.write:
        args.write.write_text(as_text(now) + '\n', encoding='utf-8')
    if not args.compare:
        return
    then = json.loads(args.compare.read_text(encoding='utf-8'))
    exact = must_agree(then['ran_on'], now['ran_on'])
    print(table(then['cases'], now['cases'], exact))
    wrong = differences(then['cases'], now['cases'], exact)
    if wrong:
        raise SystemExit(message(wrong))


if __name__ == '__main__':
    main()

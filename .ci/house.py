"""The house rules that no ready-made tool checks, for the exported modules and the notebooks.

Usage: python .ci/house.py
Each complaint names a file, a line and the remedy. `make test` runs this beside ruff (style) and import-linter (who
imports whom)."""

import ast
import configparser
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
INI = configparser.ConfigParser(delimiters=['='])
INI.read(ROOT / 'settings.ini', encoding='utf-8')
LIB = ROOT / INI['DEFAULT']['lib_path']
NBS = ROOT / INI['DEFAULT']['nbs_path']

MOST_LINES = 450  # of a module, with its docstrings, comments and blank lines
MOST_STATEMENTS = 25  # of a function, those of inner functions included
MOST_POSITIONAL = 6  # arguments of a call
MOST_KILOBYTES = 400  # of a notebook, with its outputs
MOST_COLUMNS = 120  # of a line of prose


def is_own(node) -> bool:
    "Whether an import statement names a module of this library."
    return isinstance(node, ast.ImportFrom) and (node.level > 0 or (node.module or '').split('.')[0] == LIB.name)


def functions(tree):
    "All functions and methods below `tree`."
    return [n for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]


def private_imports(tree):
    "A name that begins with an underscore belongs to its module."
    for node in filter(is_own, ast.walk(tree)):
        for alias in node.names:
            if alias.name.startswith('_'):
                yield node.lineno, f'imports the private name {alias.name}: make it public, or move it here'


def hidden_imports(tree):
    "Our own modules are imported at the top, where the direction of dependencies can be seen."
    for function in functions(tree):
        for node in filter(is_own, ast.walk(function)):
            yield node.lineno, f'imports our own module {node.module} inside {function.name}(): import it at the top'


def long_calls(tree):
    "Nobody can check the order of many arguments without names."
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        given = sum(not isinstance(a, ast.Starred) for a in node.args)
        if given > MOST_POSITIONAL:
            yield node.lineno, f'passes {given} positional arguments: at most {MOST_POSITIONAL}, name the others'


def long_functions(tree):
    "A function is one thought."
    for function in functions(tree):
        count = sum(isinstance(n, ast.stmt) for n in ast.walk(function)) - 1
        if count > MOST_STATEMENTS:
            yield (
                function.lineno,
                f'{function.name}() has {count} statements: at most {MOST_STATEMENTS}, split it by meaning',
            )


RULES = (private_imports, hidden_imports, long_calls, long_functions)


def check_modules() -> list:
    "Complaints about the exported modules."
    found = []
    for path in sorted(LIB.rglob('*.py')):
        if path.name == '_modidx.py':
            continue
        source, name = path.read_text(encoding='utf-8'), path.relative_to(ROOT)
        lines = source.count('\n')
        if lines > MOST_LINES:
            found.append(f'{name} has {lines} lines: at most {MOST_LINES}, give a subject a module of its own')
        tree = ast.parse(source)
        found += [f'{name}:{line} {words}' for rule in RULES for line, words in rule(tree)]
    return found


def shelf() -> dict:
    "SHELF of base/forms.py: {operation: the modules that it names, for any kind of device}."
    tree = ast.parse((LIB / 'base' / 'forms.py').read_text(encoding='utf-8'))
    (table,) = [n.value for n in tree.body if isinstance(n, ast.Assign) and n.targets[0].id == 'SHELF']
    found = {}
    for operations in ast.literal_eval(table).values():
        for op, modules in operations.items():
            found.setdefault(op, set()).update(modules)
    return found


def check_shelf() -> list:
    "A kernel that registers a form of an operation is named under it in SHELF; else nobody would ever import it."
    found, named = [], shelf()
    for path in sorted((LIB / 'kernels').glob('*.py')):
        module = '.'.join(path.relative_to(ROOT).with_suffix('').parts)
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            if isinstance(node, ast.Call) and getattr(node.func, 'id', '') == 'form':
                op = ast.literal_eval(node.args[0])
                if module not in named.get(op, ()):
                    found.append(f'{path.relative_to(ROOT)}:{node.lineno} registers a form of {op!r}: name it in SHELF')
    return found


LINK = re.compile(r'\]\(([^)#\s]+)|(?:href|src)=\\?"([^"#\\]+)')


def check_links() -> list:
    "Relative links of all notebooks lead somewhere."
    found = []
    for path in sorted(NBS.rglob('*.ipynb')):
        for match in LINK.finditer(path.read_text(encoding='utf-8')):
            target = match[1] or match[2]
            if (
                re.search(r'\.(ipynb|py|png|svg|json|md)$', target)
                and ':' not in target
                and not (path.parent / target).exists()
            ):
                found.append(f'{path.relative_to(ROOT)}: the link to {target} leads nowhere')
    return found


NEXT = re.compile(r'^Next: .*?\]\(([^)#\s]+\.ipynb)\)', re.M)
LAST = {'index.ipynb', 'testing/06_commands.ipynb'}  # nothing follows them


def check_next() -> list:
    "Every notebook ends with one line `Next: [...](...)`, whose link leads to a notebook."
    found = []
    for path in sorted(NBS.rglob('*.ipynb')):
        name = path.relative_to(NBS).as_posix()
        if name in LAST or '.ipynb_checkpoints' in path.parts:
            continue
        cells = json.loads(path.read_text(encoding='utf-8'))['cells']
        prose = [''.join(c['source']) for c in cells if c['cell_type'] == 'markdown']
        count = sum(len(re.findall(r'^Next:', text, re.M)) for text in prose)
        last = ''.join(cells[-1]['source']) if cells and cells[-1]['cell_type'] == 'markdown' else ''
        link = NEXT.search(last)
        if count != 1 or not link:
            found.append(f'{NBS.name}/{name}: has to end with one line `Next: [title](notebook)`')
        elif not (path.parent / link[1]).exists():
            found.append(f'{NBS.name}/{name}: the next notebook {link[1]} does not exist')
    return found


OWN_FIGURE = re.compile(r'\bplt\.(subplots|figure|rcParams|style)\b')
STYLE = NBS / 'base' / '05_plots.ipynb'  # may do what it spares the others


def check_figures() -> list:
    "All figures have the one style."
    found = []
    for path in sorted(NBS.rglob('*.ipynb')):
        if path == STYLE:
            continue
        for cell in json.loads(path.read_text(encoding='utf-8'))['cells']:
            match = OWN_FIGURE.search(''.join(cell['source'])) if cell['cell_type'] == 'code' else None
            if match:
                where = f'{path.relative_to(ROOT)}: cell {cell.get("id")}'
                found.append(f'{where} uses {match[0]}: make figures with i3nb.base.plots.figure')
    return found


GROUPS = NBS / 'train' / '05_processes.ipynb', NBS / 'machine' / '17_pretended_libraries.ipynb'


def check_groups() -> list:
    "Groups of processes are made and left by `World` only: Gloo's threads end a process that forgets to leave one."
    found = []
    for path in sorted(NBS.rglob('*.ipynb')):
        if path not in GROUPS and 'init_process_group(' in path.read_text(encoding='utf-8'):
            found.append(f'{path.relative_to(ROOT)} makes a group of processes: use World of i3nb.train.processes')
    return found


def check_sizes() -> list:
    "A notebook opens quickly, and its history stays small."
    found = []
    for path in sorted(NBS.rglob('*.ipynb')):
        size = path.stat().st_size / 1000
        if size > MOST_KILOBYTES:
            found.append(
                f'{path.relative_to(ROOT)} has {size:.0f} kB: at most {MOST_KILOBYTES}, draw with '
                'i3nb.base.plots.figure, print less, or split it'
            )
    return found


def check_widgets() -> list:
    "No states of widgets are stored: they are long, change at every run, and show nothing without their process."
    found = []
    for path in sorted([*NBS.rglob('*.ipynb'), *(ROOT / 'kaggle').glob('*.ipynb')]):
        notebook = json.loads(path.read_text(encoding='utf-8'))
        shown = [output.get('data', {}) for cell in notebook['cells'] for output in cell.get('outputs', [])]
        if 'widgets' in notebook['metadata'] or any('vnd.jupyter.widget' in kind for data in shown for kind in data):
            found.append(f'{path.relative_to(ROOT)} stores a widget: delete that output, and "widgets" in its metadata')
    return found


# Code, formulas, tables, quotes and images may be wider.
APART = re.compile(r'```.*?```|\$\$.*?\$\$|^[ \t]*(?:\||> |\[?!\[).*?$', re.S | re.M)


def check_columns() -> list:
    "Prose has short lines, so that a change of a sentence shows as one."
    found = []
    for path in sorted([*NBS.rglob('*.ipynb'), *(ROOT / 'kaggle').glob('*.ipynb')]):
        for cell in json.loads(path.read_text(encoding='utf-8'))['cells']:
            text = APART.sub('', ''.join(cell['source'])) if cell['cell_type'] == 'markdown' else ''
            longest = max(text.split('\n'), key=len)
            if len(longest) > MOST_COLUMNS:
                where = f'{path.relative_to(ROOT)}: cell {cell.get("id")}'
                found.append(f'{where} has a line of {len(longest)} columns: at most {MOST_COLUMNS}: {longest[:60]}…')
    return found


def main() -> int:
    prose = check_links, check_next, check_columns
    checks = check_modules, check_shelf, *prose, check_figures, check_groups, check_sizes, check_widgets
    complaints = [complaint for check in checks for complaint in check()]
    print('\n'.join(complaints) or 'house rules: kept')
    return int(bool(complaints))


if __name__ == '__main__':
    sys.exit(main())

"""Make the site from the notebooks: a page for each, pages of the API, and all pages as Markdown for language models.

Usage: python .ci/make_site.py      into _docs/, whose pages can be opened as files"""

import ast
import html
import importlib
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from docs import CFG, CODE, INDEX, LINK, NBS, ROOT, is_outside, markdown_cells, relink, to_markdown
from fastcore.docments import docments
from nbdev.doclinks import NbdevLookup, _nbpath2html, nbglob

SITE, WORK = CFG.doc_path, CFG.config_path / '_proc'
PAGES = WORK / 'docs'
CODE_URL = f'{CFG.git_url}/blob/{CFG.branch}'


# --- formulas ---


class Formulas:
    "Takes LaTeX out of Markdown and puts MathML into the finished pages, which so need no script to show it"

    pattern = re.compile(
        rf'(?P<code>{CODE})|\$\$(?P<block>.+?)\$\$'
        r'|(?<![\\$\w])\$(?P<line>[^\s$](?:[^$\n]*[^\s$\\])?)\$(?!\w)',
        re.DOTALL,
    )

    def __init__(self):
        self.found = []

    def take(self, text):
        return self.pattern.sub(self.take_one, text)

    def take_one(self, match):
        if match['code']:
            return match[0]
        self.found.append((match['block'] or match['line'], bool(match['block'])))
        return f'FORMULA{len(self.found) - 1}END'

    def put(self, path):
        "Replace the marks in the file at `path`: by MathML in a page, by LaTeX in the search index and in Markdown"
        old = path.read_text(encoding='utf-8')
        form = dict(html=mathml, md=markdown_formula).get(path.suffix[1:], json_formula)
        new = re.sub(r'(?i:FORMULA(\d+)END)', lambda m: form(*self.found[int(m[1])]), old)
        if new != old:
            path.write_text(new, encoding='utf-8')


def mathml(latex, block):
    from latex2mathml.converter import convert

    try:
        return convert(latex, display='block' if block else 'inline')
    except Exception:
        return f'<code>{html.escape(latex)}</code>'


def markdown_formula(latex, block):
    return f'$${latex}$$' if block else f'${latex}$'


def json_formula(latex, block):
    return json.dumps(latex)[1:-1]


# --- a page for each notebook ---


def page_of(path):
    "The page of the notebook at `path`, named as nbdev names it, so that the library's links fit"
    return Path(_nbpath2html(path.relative_to(NBS))).with_suffix('.md')


def symbols(source):
    "The names of the functions, classes, methods and constants that `source` defines"
    try:
        body = ast.parse(source).body
    except SyntaxError:
        return
    for node in body:
        if isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [name for t in targets for name in (t.elts if isinstance(t, ast.Tuple) else [t])]
            yield from (name.id for name in names if isinstance(name, ast.Name))
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name
        if isinstance(node, ast.FunctionDef) and node.args.args and node.args.args[0].annotation:
            if any(ast.unparse(d).startswith('patch') for d in node.decorator_list):
                yield f'{ast.unparse(node.args.args[0].annotation)}.{node.name}'
        if isinstance(node, ast.ClassDef):
            yield from (f'{node.name}.{n.name}' for n in node.body if isinstance(n, ast.FunctionDef))


def module_of(path):
    "The module that the notebook at `path` exports"
    found = re.search(r'#\| *default_exp +([\w.]+)', path.read_text(encoding='utf-8'))
    return f'{CFG.lib_name}.{found[1]}' if found else ''


def exported_mark(module, cell, seen):
    "What stands above an exported cell: its module, and an anchor for each name in it, where links lead"
    if not {'export', 'exports', 'exporti'} & set(cell.directives_ or {}):
        return
    names = [name.lower() for name in symbols(cell.source)]
    seen.update(names)
    anchors = ''.join(f'<a id="{name}"></a>' for name in names)
    return f'<p class="exported">{anchors}{module}</p>'


def site_link(target, path):
    "A link of the notebook at `path` as it must be on the site; pictures go along, other files stay in the repository"
    home = f'{CFG.doc_host}{CFG.doc_baseurl}/'
    here = page_of(path).parent
    name, _, anchor = target.partition('#')
    anchor = anchor and '#' + anchor.lower()  # Jupyter keeps capitals in the anchors of headings, the site does not
    if name.startswith(home):
        return os.path.relpath(Path(name[len(home) :]).with_suffix('.md'), here) + anchor
    if not name:
        return anchor
    if is_outside(target):
        return target
    file = Path(os.path.normpath(path.parent / name))
    if file.suffix == '.ipynb' and file.exists():
        return os.path.relpath(page_of(file), here) + anchor
    if file.suffix in ('.png', '.svg', '.jpg', '.gif') and file.is_relative_to(NBS) and file.exists():
        copy = PAGES / file.relative_to(NBS)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
        return target
    return f'{CODE_URL}/{os.path.relpath(file, ROOT)}'


def linkify(text, lookup):
    "Links from the names of the library to where they are defined; the text of another link is left alone"
    parts, at = [], 0
    for match in LINK.finditer(text):
        if match[2]:
            parts += [text[at : match.start()], match[0]]
            at = match.end()
    parts.append(text[at:])
    parts[::2] = [_linkify_lines(part, lookup) for part in parts[::2]]
    linked = ''.join(parts)
    assert linked.count('\n') == text.count('\n'), 'words at the ends of lines run together'
    return linked


def _linkify_lines(text, lookup):
    "nbdev gives None for an empty text, and drops the last end of a line"
    lines = text.rstrip('\n')
    return (lookup.linkify(lines) or lines) + text[len(lines) :]


def part_headings(text, names):
    "A heading that would have the anchor of an exported name gets another one"

    def renamed(match):
        slug = re.sub(r'[^\w\- ]', '', match[2].lower()).strip().replace(' ', '-')
        return f'{match[0]} {{ #{slug}-section }}' if slug in names else match[0]

    return re.sub(r'^(#{2,4}) +([^\n{]+)$', renamed, text, flags=re.M)


IMPORTS = re.compile(r'(?:<p class="exported">.*</p>\n+)?```python\n((?:(?:import|from) .*\n(?:    .*\n|\)\n)*)+)```')


def fold_imports(text):
    "A block that only imports is folded, so that a page begins with words"
    folded = '<details class="imports" markdown="1"><summary>imports</summary>\n\n```python\n{}```\n\n</details>'
    return IMPORTS.sub(lambda m: folded.format(m[1]), text)


def open_badges(path):
    "Links that open a notebook on Colab and on Kaggle"
    repository, place = CFG.git_url.removeprefix('https://github.com/'), path.relative_to(ROOT).as_posix()
    targets = {
        'Open in Colab': f'https://colab.research.google.com/github/{repository}/blob/{CFG.branch}/{place}',
        'Open in Kaggle': f'https://kaggle.com/kernels/welcome?src={CODE_URL}/{place}',
        'Source': f'{CODE_URL}/{place}',
    }
    return ' '.join(f'[{words}]({target}){{ .open }}' for words, target in targets.items())


def title_of(path):
    "The title and the summary of the notebook at `path`, as plain words"
    first = ''.join(json.loads(path.read_text(encoding='utf-8'))['cells'][0]['source'])
    found = re.match(r'# (.*)\n\n> (.*)', first)
    if not found:
        raise SystemExit(f'{path.relative_to(ROOT)}: its first cell has to be `# Title` and `> summary`')
    return [re.sub(r'\[([^\]]*)\]\([^)]*\)', r'\1', words) for words in found.groups()]


def write_page(path, formulas, lookup):
    "Write the page of the notebook at `path` and its pictures; its title, its summary and its place"
    page, module, names = PAGES / page_of(path), module_of(path), set()
    edit = lambda source: relink(linkify(formulas.take(source), lookup), lambda target: site_link(target, path))
    cells = list(markdown_cells(path, edit, lambda cell: exported_mark(module, cell, names)))
    text, pictures = to_markdown(cells, f'{page.stem}_files')
    of_outputs = lambda target: (
        site_link(target, path) if target.endswith('.ipynb') and not is_outside(target) else target
    )
    text = fold_imports(part_headings(relink(text, of_outputs), names))
    if path != INDEX:
        text = re.sub(r'\A(# .*\n\n> .*\n)', lambda m: f'{m[1]}\n{open_badges(path)}\n', text)
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(text, encoding='utf-8')
    for name, data in pictures.items():
        (page.parent / f'{page.stem}_files').mkdir(exist_ok=True)
        (page.parent / f'{page.stem}_files' / name).write_bytes(data)
    title, summary = title_of(path)
    number = re.match(r'\d+', path.stem)
    return f'{number[0]} {title}' if number else title, summary, page_of(path).as_posix()


# --- the API ---


class Shown:
    "A default as a reader wants to see it"

    def __init__(self, value):
        self.words = repr(value) if len(repr(value)) < 40 and ' at 0x' not in repr(value) else '…'

    def __repr__(self):
        return self.words


def signature(obj, name):
    "How it is called: the parameters, and their defaults where these are short"
    try:
        found = inspect.signature(obj)
    except (TypeError, ValueError):
        return name
    words = lambda default: inspect.Parameter.empty if default is inspect.Parameter.empty else Shown(default)
    shorter = [p.replace(annotation=p.empty, default=words(p.default)) for p in found.parameters.values()]
    return f'{name}{found.replace(parameters=shorter, return_annotation=found.empty)}'


def parameter_rows(obj):
    "A row of a table for each parameter that has a comment beside it, and for the result"
    try:
        found = docments(obj, full=True)
    except (TypeError, ValueError, OSError, IndentationError, SyntaxError):
        return
    for name, what in found.items():
        if what.get('docment'):
            words = what['docment'].replace('\n', ' ').replace('|', '\\|')
            yield f'| {"*returns*" if name == "return" else f"`{name}`"} | {words} |'


def describe(obj, name, level):
    "Heading, signature, summary and parameters"
    yield f'{"#" * level} `{name}` {{ #{name.lower()} }}'
    if callable(obj):
        yield f'```python\n{signature(obj, name)}\n```'
    if inspect.isroutine(obj) or inspect.isclass(obj):
        yield inspect.cleandoc(obj.__doc__ or '')
        rows = list(parameter_rows(obj))
        if rows:
            yield '\n'.join(['| parameter | |', '|---|---|', *rows])


def line_of(obj):
    "Where its source begins"
    try:
        return f'#L{inspect.getsourcelines(obj)[1]}'
    except (TypeError, OSError):
        return ''


def described(module, name, source, page):
    "One exported name, and a class's own methods"
    obj = getattr(module, name)
    yield from describe(obj, name, 2)
    yield f'[source]({source}{line_of(obj)}){{ .open }} [chapter]({page}#{name.lower()}){{ .open }}'
    if inspect.isclass(obj):
        for key, found in vars(obj).items():
            method = next(filter(None, (getattr(found, k, None) for k in ('__func__', 'fget', 'f'))), found)
            if inspect.isfunction(method) and not key.startswith('_') and method.__doc__:
                yield from describe(method, f'{name}.{key}', 3)


def api_link(target, path, place):
    "A link in a docstring of the notebook at `path`, which may lead to another notebook, as `place` needs it"
    if '.ipynb' not in target:
        return target
    return os.path.relpath(page_of(path).parent / site_link(target, path), place.parent)


def write_api(path):
    "The page of a module's exported names; its title, its summary and its place, or None for a notebook without one"
    name = module_of(path)
    if not name:
        return None
    module = importlib.import_module(name)
    place = Path('api') / Path(*name.split('.')[1:]).with_suffix('.md')
    source = f'{CODE_URL}/{name.replace(".", "/")}.py'
    chapter = os.path.relpath(page_of(path), place.parent)
    summary = title_of(path)[1]
    parts = [f'# {name}', f'> {summary}', f'[The chapter]({chapter}){{ .open }} [Source]({source}){{ .open }}']
    names = list(getattr(module, '__all__', ()))
    constants = [n for n in names if not callable(getattr(module, n))]
    for exported in names:
        if exported not in constants:
            parts += described(module, exported, source, chapter)
    if constants:
        parts += ['## Constants', ', '.join(f'[`{n}`]({chapter}#{n.lower()})' for n in constants)]
    (PAGES / place).parent.mkdir(parents=True, exist_ok=True)
    text = relink('\n\n'.join(parts), lambda target: api_link(target, path, place))
    (PAGES / place).write_text(text + '\n', encoding='utf-8')
    return name.removeprefix(f'{CFG.lib_name}.'), summary, place.as_posix()


# --- the site ---

SHIM = 'https://unpkg.com/iframe-worker/shim'  # the engine's pages would load it from there when opened as files


def own_shim(path):
    "Load the shim for pages that are opened as files from the site itself"
    text = path.read_text(encoding='utf-8')
    path.write_text(text.replace(SHIM, os.path.relpath(SITE / 'iframe-worker.js', path.parent)), encoding='utf-8')


STYLE = """.exported { color: gray; font-size: .75em; text-align: right; margin: 0 0 -.9em; }
details.imports { font-size: .7rem; color: gray; border: none !important; box-shadow: none !important; }
.open { font-size: .7rem; margin-right: .6em; }
.md-grid { max-width: 76rem; }
.md-typeset pre > code { font-size: .62rem; }
.md-typeset td code { white-space: nowrap; }
.md-typeset img { max-width: 100%; }
[data-md-color-scheme="slate"] .md-typeset img { background: white; border-radius: 4px; }
.highlight.language-text pre > code { background: none; border-left: .15rem solid #8884; }
.highlight.language-text .md-clipboard, .highlight.language-text nav { display: none; }
math { font-family: "STIX Two Math", "Cambria Math", "Latin Modern Math", math; }
math[display=block] { margin: 1em 0; overflow: auto hidden; }
h2 > code, h3 > code { font-size: .8em; }
"""

SECTIONS = {  # a folder of notebooks: its heading on the site, in this order
    'data': 'Data',
    'train': 'Training',
    'kernels': 'Kernels',
    'hf': 'With transformers',
    'monitor': 'Monitoring',
    'machine': 'Machines and Kaggle',
    'bench': 'Benchmarks',
    'base': 'Foundations',
    'testing': 'Tests',
    'experiments': 'Experiments',
}

PARTS = {  # chapters: their heading, and the last number that stands below it
    'Start here': 0,
    'The model': 7,
    'Writing text': 8,
    'Learning': 13,
    'Commands': 99,
}

PALETTE = [
    dict(
        media=f'(prefers-color-scheme: {name})',
        scheme=scheme,
        toggle=dict(icon=f'material/{icon}', name=f'Switch to {other} mode'),
    )
    for name, scheme, icon, other in (
        ('light', 'default', 'weather-night', 'dark'),
        ('dark', 'slate', 'weather-sunny', 'light'),
    )
]


def part_of(page):
    "The heading below which a chapter stands"
    number = re.match(r'(\d+)', page[0])
    return next(part for part, last in PARTS.items() if not number or int(number[1]) <= last)


def navigation(pages, api):
    "The chapters by parts, the folders, the API"
    chapters, folders = {part: [] for part in PARTS}, {}
    for page in pages:
        folder = Path(page[2]).parent.as_posix()
        shelf = chapters[part_of(page)] if folder == '.' else folders.setdefault(folder, [])
        shelf.append({page[0]: page[2]})
    nav = [{part: inside} for part, inside in chapters.items() if inside]
    nav += [{SECTIONS.get(name, name.capitalize()): inside} for name, inside in folders.items()]
    return [*nav, {'API': [{title: page} for title, _, page in sorted(api)]}]


def site_config(pages, api):
    "The site's configuration; JSON is YAML"
    features = 'navigation.footer navigation.top navigation.prune toc.follow content.code.copy search.highlight'
    return json.dumps(
        dict(
            site_name=CFG.title,
            site_description=CFG.description,
            site_url=f'{CFG.doc_host}{CFG.doc_baseurl}/',
            repo_url=CFG.git_url,
            docs_dir=str(PAGES.relative_to(WORK)),
            site_dir='site',
            use_directory_urls=False,
            extra_css=['style.css'],
            copyright=CFG.copyright,
            theme=dict(name='material', variant='classic', font=False, features=features.split(), palette=PALETTE),
            plugins=['search', 'offline'],
            markdown_extensions=[
                'tables',
                'attr_list',
                'md_in_html',
                'pymdownx.superfences',
                {'pymdownx.highlight': dict(pygments_lang_class=True)},
                dict(toc=dict(permalink=True)),
            ],
            nav=navigation(pages, api),
        ),
        indent=1,
    )


def reading_order(path):
    "The README first, then the chapters, then the folders in the order of `SECTIONS`"
    folder = path.relative_to(NBS).parent.as_posix()
    place = list(SECTIONS).index(folder) if folder in SECTIONS else len(SECTIONS)
    return folder != '.', place, path != INDEX, str(path)


def write_llms(pages, formulas):
    "All pages as Markdown beside the site's own, and `llms.txt`, which lists them"
    lines = [f'# {CFG.title}', '', f'> {CFG.description}', '', '## Pages', '']
    for title, summary, page in pages:
        lines.append(f'- [{title}]({page}): {summary}')
        copy = SITE / page
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(PAGES / page, copy)
        formulas.put(copy)
    (SITE / 'llms.md').write_text('\n'.join(lines) + '\n', encoding='utf-8')
    formulas.put(SITE / 'llms.md')
    (SITE / 'llms.md').rename(SITE / 'llms.txt')


def dead_links():
    "Links between the finished pages that lead nowhere: to no file, or to no place in it"
    pages = {p: p.read_text(encoding='utf-8') for p in SITE.rglob('*.html')}
    places = {p: set(re.findall(r'\bid="?([^"\s>]+)', text)) for p, text in pages.items()}
    for page, text in pages.items():
        for target in set(re.findall(r'href="?([^"\s>]+)', text)):
            name, _, place = html.unescape(target).partition('#')
            if re.match(r'[a-z]+:', target) or name.startswith('/'):
                continue
            file = Path(os.path.normpath(page.parent / name)) if name else page
            if not file.exists() or (place and file in places and place not in places[file]):
                yield f'{page.relative_to(SITE)}: {target}'


def main():
    "Write a page for each notebook and for each module, and let the engine make the site"
    shutil.rmtree(WORK, ignore_errors=True)
    shutil.rmtree(SITE, ignore_errors=True)
    formulas, lookup = Formulas(), NbdevLookup()
    paths = sorted(nbglob(NBS, as_path=True), key=reading_order)
    pages = [write_page(path, formulas, lookup) for path in paths]
    api = [entry for path in paths if (entry := write_api(path))]
    (PAGES / 'style.css').write_text(STYLE, encoding='utf-8')
    (WORK / 'mkdocs.yml').write_text(site_config(pages, api), encoding='utf-8')
    command = [sys.executable, '-m', 'zensical', 'build', '--clean', '-f', WORK / 'mkdocs.yml']
    made = subprocess.run(command, capture_output=True, text=True, env={**os.environ, 'NO_COLOR': '1'})
    if made.returncode:
        print(made.stdout, made.stderr)
        return made.returncode
    shutil.move(WORK / 'site', SITE)
    shutil.copyfile(ROOT / '.ci' / 'iframe-worker.js', SITE / 'iframe-worker.js')
    if SHIM not in (SITE / 'index.html').read_text(encoding='utf-8'):
        raise SystemExit(f'the pages do not load {SHIM} any more: see whether their search works when opened as files')
    for path in SITE.rglob('*.html'):
        own_shim(path)
    for path in [*SITE.rglob('*.html'), *SITE.rglob('search*.js*')]:
        formulas.put(path)
    write_llms([*pages, *api], formulas)
    dead = sorted(dead_links())
    print(*dead, sep='\n')
    print(f'{len(pages)} chapters and {len(api)} pages of the API: open {SITE.relative_to(ROOT)}/index.html')
    return 1 if dead else 0


if __name__ == '__main__':
    sys.exit(main())

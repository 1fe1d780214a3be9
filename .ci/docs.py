"""Make README.md and the site from the notebooks, with nbdev's notebook processors, nbconvert and mkdocs (the site).

Usage: python .ci/docs.py readme [--check]     README.md from nbs/index.ipynb; --check only compares
       python .ci/docs.py site                 a page for each notebook, into _docs/"""

import ast
import html
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
os.chdir(ROOT)
import nbformat
from nbconvert import MarkdownExporter
from nbdev.config import get_config
from nbdev.doclinks import NbdevLookup, _nbpath2html, nbglob
from nbdev.process import NBProcessor
from nbdev.processors import FilterDefaults

CFG = get_config()
NBS, SITE, WORK = CFG.nbs_path, CFG.doc_path, CFG.config_path / '_proc'
INDEX = NBS / CFG.readme_nb
MADE = '<!-- Made from nbs/index.ipynb by `make readme`: edit the notebook, not this file. -->\n'

PYTHON = {'language_info': {'name': 'python'}}

# A reader of our pages sees the code of the exported cells, so nbdev's replacement of it by signatures is left out.
LEFT_OUT = {
    'add_show_docs',
    'exec_show_docs',
    'clean_show_doc',
    'rm_export',
    'mv_exports',
    'add_fold',
    'insert_warning',
    'add_links',
}


# --- a notebook's Markdown ---


def processed(path):
    "The notebook at `path` after nbdev's processors: hidden cells and directives are gone"
    done = NBProcessor(path, procs=[p for p in FilterDefaults().procs() if p.__name__ not in LEFT_OUT])
    done.process()
    return done.nb


def title_cell(frontmatter):
    "nbdev turns the first cell into front matter; this turns it back"
    words = '# ' + frontmatter['title']
    if frontmatter.get('description'):
        words += '\n\n> ' + frontmatter['description']
    return words


def markdown_cells(path, edit=lambda source: source, above=lambda cell: None):
    "The cells of the notebook at `path` for nbconvert: prose through `edit`, each code cell below `above(cell)`"
    nb = processed(path)
    for cell in nb.cells:
        source = cell.get('source') or ''
        if not source.strip() or 'default_exp' in (cell.get('directives_') or {}):
            continue
        if cell.cell_type == 'raw':
            yield nbformat.v4.new_markdown_cell(edit(title_cell(nb.frontmatter_)))
        elif cell.cell_type == 'markdown':
            yield nbformat.v4.new_markdown_cell(edit(source))
        else:
            head = above(cell)
            if head:
                yield nbformat.v4.new_markdown_cell(head)
            yield nbformat.v4.new_code_cell(
                source, outputs=[nbformat.from_dict(plain(o)) for o in cell.get('outputs', [])]
            )


def to_markdown(cells, files):
    "`cells` as Markdown, and their pictures as {name: bytes}; `files` is the pictures' folder in links"
    exporter = MarkdownExporter(exclude_input_prompt=True, exclude_output_prompt=True)
    text, found = exporter.from_notebook_node(
        nbformat.v4.new_notebook(cells=list(cells), metadata=PYTHON), {'output_files_dir': files}
    )
    text = re.sub(r'\n{3,}', '\n\n', '\n'.join(line.rstrip() for line in text.splitlines())).strip() + '\n'
    return text, {Path(name).name: data for name, data in found.get('outputs', {}).items()}


def plain(output):
    "A notebook's output as nbformat wants it: lists of lines joined, counters empty"
    output = json.loads(json.dumps(output))
    join = lambda v: ''.join(v) if isinstance(v, list) and all(isinstance(s, str) for s in v) else v
    if 'text' in output:
        output['text'] = join(output['text'])
    if 'data' in output:
        output['data'] = {k: join(v) for k, v in output['data'].items()}
    return output


CODE = r'```.*?```|`[^`\n]*`'
# A link's text may itself be code, so links are looked for before code.
LINK = re.compile(rf'(!?\[[^\]\n]*\]\()([^)\s]+)(\))|{CODE}', re.DOTALL)


def relink(text, new_target):
    "`text` with the target of each link replaced by `new_target(target)`; code is left alone"
    return LINK.sub(lambda m: m[1] + new_target(m[2]) + m[3] if m[2] else m[0], text)


def is_outside(target):
    return bool(re.match(r'[a-z]+:|#', target))


# --- README.md ---


def from_root(target):
    "A link that holds in nbs/, as it must be in the top folder"
    if is_outside(target):
        return target
    return Path(os.path.normpath(Path(CFG.nbs_path.name) / target)).as_posix()


def make_readme():
    "README.md's text and the pictures it shows, as {path: bytes}"
    text, pictures = to_markdown(markdown_cells(INDEX), f'{INDEX.stem}_files')
    text = relink(text, from_root)
    return MADE + '\n' + text, {NBS / f'{INDEX.stem}_files' / name: data for name, data in pictures.items()}


def dead_links(text):
    "Relative links of README.md that lead nowhere"
    targets = (m[2].split('#')[0] for m in LINK.finditer(text) if m[2] and not is_outside(m[2]))
    return sorted({t for t in targets if not (ROOT / t).exists()})


def readme(check=False):
    text, pictures = make_readme()
    wanted = {ROOT / 'README.md': text.encode(), **pictures}
    if not check:
        for path, data in wanted.items():
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data)
        print(f'README.md written from {INDEX.relative_to(ROOT)}')
    stale = [p for p, data in wanted.items() if not p.exists() or p.read_bytes() != data]
    for path in stale:
        print(f'{path.relative_to(ROOT)} is out of step with {INDEX.relative_to(ROOT)}: run `make readme`')
    dead = dead_links(text)
    for target in dead:
        print(f'{INDEX.relative_to(ROOT)} links to {target}, which is not there: write it, or take the link out')
    return 1 if stale or (check and dead) else 0


# --- the site ---


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
        "Replace the marks in the file at `path`: by MathML in a page, by LaTeX in the search index"
        old = path.read_text(encoding='utf-8')
        form = mathml if path.suffix == '.html' else lambda latex, block: json.dumps(latex)[1:-1]
        new = re.sub(r'(?i:FORMULA(\d+)END)', lambda m: form(*self.found[int(m[1])]), old)
        if new != old:
            path.write_text(new, encoding='utf-8')


def mathml(latex, block):
    from latex2mathml.converter import convert

    try:
        return convert(latex, display='block' if block else 'inline')
    except Exception:
        return f'<code>{html.escape(latex)}</code>'


def symbols(source):
    "The names of the functions, classes and methods that `source` defines"
    try:
        body = ast.parse(source).body
    except SyntaxError:
        return
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name
        if isinstance(node, ast.ClassDef):
            yield from (f'{node.name}.{n.name}' for n in node.body if isinstance(n, ast.FunctionDef))


def exported_mark(module, cell):
    "What stands above an exported cell: its module, and an anchor for each name in it, where links lead"
    if not {'export', 'exports', 'exporti'} & set(cell.directives_ or {}):
        return
    anchors = ''.join(f'<a id="{name.lower()}"></a>' for name in symbols(cell.source))
    return f'<p class="exported">{anchors}{module}</p>'


def module_of(path):
    "The module that the notebook at `path` exports"
    found = re.search(r'#\| *default_exp +([\w.]+)', path.read_text(encoding='utf-8'))
    return f'{CFG.lib_name}.{found[1]}' if found else ''


def page_of(path):
    "The page of the notebook at `path`, named as nbdev names it, so that the library's links fit"
    return Path(_nbpath2html(path.relative_to(NBS))).with_suffix('.md')


def site_link(target, path):
    "A link of the notebook at `path` as it must be on the site; pictures go along, other files stay in the repository"
    home = f'{CFG.doc_host}{CFG.doc_baseurl}/'
    here = page_of(path).parent
    name, _, anchor = target.partition('#')
    anchor = anchor and '#' + anchor
    if name.startswith(home):
        return os.path.relpath(Path(name[len(home) :]).with_suffix('.md'), here) + anchor
    if is_outside(target):
        return target
    file = Path(os.path.normpath(path.parent / name))
    if file.suffix == '.ipynb' and file.exists():
        return os.path.relpath(page_of(file), here) + anchor
    if file.suffix in ('.png', '.svg', '.jpg', '.gif') and file.is_relative_to(NBS) and file.exists():
        copy = WORK / 'docs' / file.relative_to(NBS)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
        return target
    return f'{CFG.git_url}/blob/{CFG.branch}/{os.path.relpath(file, ROOT)}'


def write_page(path, formulas, lookup):
    "Write the page of the notebook at `path` and its pictures; its title and its place"
    page = WORK / 'docs' / page_of(path)
    edit = lambda source: relink(lookup.linkify(formulas.take(source)), lambda target: site_link(target, path))
    module = module_of(path)
    text, pictures = to_markdown(
        markdown_cells(path, edit, lambda cell: exported_mark(module, cell)), f'{page.stem}_files'
    )
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(text, encoding='utf-8')
    for name, data in pictures.items():
        (page.parent / f'{page.stem}_files').mkdir(exist_ok=True)
        (page.parent / f'{page.stem}_files' / name).write_bytes(data)
    return re.search(r'^# (.*)', text, re.MULTILINE)[1], page_of(path).as_posix()


STYLE = """.exported { color: gray; font-size: .75em; text-align: right; margin: 0 0 -.9em; }
.md-grid { max-width: 72rem; }
.md-typeset td code { white-space: nowrap; }
math[display=block] { margin: 1em 0; overflow-x: auto; }
"""


SECTIONS = {  # a folder of notebooks: its heading on the site, in this order
    'data': 'Data',
    'train': 'Training',
    'kernels': 'Kernels',
    'monitor': 'Monitoring',
    'machine': 'Machines and Kaggle',
    'bench': 'Benchmarks',
    'base': 'Foundations',
    'testing': 'Tests',
    'experiments': 'Experiments',
}


def site_config(pages):
    "mkdocs' configuration; JSON is YAML"
    folders = {}
    for title, page in pages:
        folders.setdefault(Path(page).parent.as_posix(), []).append({title: page})
    nav = folders.pop('.') + [{SECTIONS.get(name, name.capitalize()): inside} for name, inside in folders.items()]
    return json.dumps(
        dict(
            site_name=CFG.title,
            site_description=CFG.description,
            site_url=f'{CFG.doc_host}{CFG.doc_baseurl}/',
            repo_url=CFG.git_url,
            docs_dir=str(WORK / 'docs'),
            site_dir=str(SITE),
            use_directory_urls=False,
            extra_css=['style.css'],
            copyright=CFG.copyright,
            theme=dict(name='material', font=False, features=['navigation.footer', 'toc.follow', 'content.code.copy']),
            markdown_extensions=[
                'tables',
                'attr_list',
                'md_in_html',
                'pymdownx.superfences',
                'pymdownx.highlight',
                dict(toc=dict(permalink=True)),
            ],
            nav=nav,
        ),
        indent=1,
    )


def reading_order(path):
    "The README first, then the chapters, then the folders in the order of `SECTIONS`"
    folder = path.relative_to(NBS).parent.as_posix()
    place = list(SECTIONS).index(folder) if folder in SECTIONS else len(SECTIONS)
    return folder != '.', place, path != INDEX, str(path)


def site():
    "Write a page for each notebook and let mkdocs make the site"
    shutil.rmtree(WORK, ignore_errors=True)
    formulas, lookup = Formulas(), NbdevLookup()
    paths = sorted(nbglob(NBS, as_path=True), key=reading_order)
    pages = [write_page(path, formulas, lookup) for path in paths]
    (WORK / 'docs' / 'style.css').write_text(STYLE, encoding='utf-8')
    (WORK / 'mkdocs.yml').write_text(site_config(pages), encoding='utf-8')
    made = subprocess.run(
        [sys.executable, '-m', 'mkdocs', 'build', '--quiet', '--clean', '-f', WORK / 'mkdocs.yml'],
        env={**os.environ, 'NO_MKDOCS_2_WARNING': '1'},
    )
    if made.returncode:
        return made.returncode
    for path in [*SITE.rglob('*.html'), *SITE.rglob('search_index.json')]:
        formulas.put(path)
    print(f'{len(pages)} pages in {SITE.relative_to(ROOT)}: open {(SITE / "index.html").relative_to(ROOT)}')
    return 0


def main(args):
    if args == ['readme']:
        return readme()
    if args == ['readme', '--check']:
        return readme(check=True)
    if args == ['site']:
        return site()
    print(__doc__)
    return 2


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))

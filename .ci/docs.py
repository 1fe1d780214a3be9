"""Make README.md from nbs/index.ipynb, with nbdev's notebook processors and nbconvert.

Usage: python .ci/docs.py readme [--check]     --check only compares

`make_site.py` makes the site with the same functions."""

import json
import os
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
os.chdir(ROOT)
import nbformat
from nbconvert import MarkdownExporter
from nbdev.config import get_config
from nbdev.process import NBProcessor
from nbdev.processors import FilterDefaults

CFG = get_config()
NBS = CFG.nbs_path
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
            if '```' in source:  # would end the block of code too early
                yield nbformat.v4.new_markdown_cell(f'````python\n{source}\n````')
                source = ''
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
LINK = re.compile(rf'(!?\[(?:[^\]\n]|\n(?!\n))*\]\()([^)\s]+)(\))|{CODE}', re.DOTALL)


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


def main(args):
    if args == ['readme']:
        return readme()
    if args == ['readme', '--check']:
        return readme(check=True)
    print(__doc__)
    return 2


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))

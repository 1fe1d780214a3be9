#!/usr/bin/env python3
"""Open the kernel notebook in JupyterLab in headless Chromium, run it, see the figure change, stop the run cleanly, and
write with the model in its box.

    python .ci/browser.py FOLDER [--notebook kaggle/NAME.ipynb] [--minutes 15] [--theme light|dark] [--keep]
    python .ci/browser.py FOLDER --box MODEL    # the box alone, with a model that is there

FOLDER gets screenshots (01-… .png) and the notebook as the page saved it. Needs what `make env` installs, and: Debian's
`chromium` and `chromium-driver`, and `pip install selenium`. Status 0: all went as promised; 1: it did
not; 77: a tool is missing.
"""

import argparse
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FLAGS = [
    '--headless=new',
    '--no-sandbox',
    '--disable-gpu',
    '--disable-quic',
    '--no-first-run',
    '--disable-background-networking',
    '--disable-component-update',
    '--disable-sync',
    '--disable-dev-shm-usage',
    '--force-device-scale-factor=1',
    '--window-size=1280,1500',
]

# A run of a tiny model on the embedded grammar, in its own process and process group, and a dashboard on it.
DEMO = """import os, subprocess, sys
from i3nb.monitor.dashboard import watch
run = os.environ['I3NB_BROWSER_RUN']
with open(run + '.py', 'w') as f:
    f.write('from i3nb.commands import i3nb_train\\nif __name__ == "__main__": i3nb_train()')
small = '--max_mb 1 --vocab_size 1200 --batch_size 4 --seq_len 64 --eval_every 20 --eval_docs 8 --checkpoint_every 25'
train = subprocess.Popen(
    [sys.executable, run + '.py', '--preset', 'i3-tiny', '--data', 'synthetic', '--out', run,
     '--minutes', os.environ['I3NB_BROWSER_MINUTES'], *small.split()],
    stdout=open(run + '.log', 'w'), stderr=subprocess.STDOUT, start_new_session=True)
state = watch(run, process=train)"""
AFTER = 'print("the next cell ran, state:", state)'
BOX = """import os
from i3nb.monitor.write_box import write_box
box = write_box(os.environ['I3NB_BROWSER_RUN'])"""


BEGAN = time.monotonic()


def say(*what):
    print(f'[browser] {time.monotonic() - BEGAN:4.0f} s', *what, flush=True)


def need():
    "Status 77 with the remedy if a tool is missing."
    missing = [p for p in ('chromium', 'chromedriver') if not shutil.which(p)]
    try:
        import jupyterlab  # noqa: F401
        import selenium  # noqa: F401
    except ImportError as e:
        missing.append(e.name)
    if missing:
        say(f'missing: {", ".join(missing)}. apt-get install chromium chromium-driver; pip install selenium jupyterlab')
        sys.exit(77)


def demo_notebook(path: Path, *sources: str):
    import nbformat

    cells = [nbformat.v4.new_markdown_cell('# Browser test'), *map(nbformat.v4.new_code_cell, sources)]
    nbformat.write(
        nbformat.v4.new_notebook(
            cells=cells, metadata=dict(kernelspec=dict(name='python3', display_name='Python 3', language='python'))
        ),
        path,
    )


class Lab:
    "JupyterLab on a free port, with a token, in `folder`."

    def __init__(self, folder: Path, env: dict, theme: str):
        with socket.socket() as s:
            s.bind(('127.0.0.1', 0))
            self.port = s.getsockname()[1]
        self.token, settings = secrets.token_hex(16), folder / '.settings'
        (settings / '@jupyterlab' / 'apputils-extension').mkdir(parents=True)
        (settings / '@jupyterlab' / 'apputils-extension' / 'themes.jupyterlab-settings').write_text(
            json.dumps(dict(theme=f'JupyterLab {theme.title()}'))
        )
        (settings / '@jupyterlab' / 'apputils-extension' / 'notification.jupyterlab-settings').write_text(
            json.dumps(dict(fetchNews='false', checkForUpdates=False))
        )
        env = env | dict(
            JUPYTERLAB_SETTINGS_DIR=str(settings),
            JUPYTERLAB_WORKSPACES_DIR=str(folder / '.workspaces'),
            JUPYTER_CONFIG_DIR=str(folder / '.config'),
            IPYTHONDIR=str(folder / '.ipython'),
        )
        self.log = open(folder / 'lab.log', 'w')
        self.process = subprocess.Popen(
            [
                sys.executable,
                '-m',
                'jupyterlab',
                '--no-browser',
                '--allow-root',
                '--ip=127.0.0.1',
                f'--port={self.port}',
                '--ServerApp.port_retries=0',
                f'--IdentityProvider.token={self.token}',
                f'--ServerApp.root_dir={folder}',
            ],
            stdout=self.log,
            stderr=subprocess.STDOUT,
            env=env,
            start_new_session=True,
        )
        for _ in range(240):
            if self.process.poll() is not None:
                raise SystemExit(f'[browser] JupyterLab ended at once:\n{(folder / "lab.log").read_text()[-2000:]}')
            try:
                urllib.request.urlopen(self.url('api/status'), timeout=2)
                return
            except OSError:
                time.sleep(0.5)
        raise SystemExit('[browser] JupyterLab did not answer for two minutes')

    def url(self, path):
        return f'http://127.0.0.1:{self.port}/{path}?token={self.token}'

    def close(self):
        os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.log.close()


class Page:
    "A notebook in Chromium."

    def __init__(self, url: str, shots: Path, profile: Path):
        from selenium import webdriver

        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which('chromium')
        for f in FLAGS + [f'--user-data-dir={profile}']:
            options.add_argument(f)
        self.web, self.shots, self.n = (
            webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which('chromedriver'))),
            shots,
            0,
        )
        self.web.set_window_size(1280, 1500)
        self.web.get(url)

    def js(self, code, *args):
        return self.web.execute_script(code, *args)

    def wait(self, what: str, code, seconds=60):
        "Wait until JavaScript `code` (or a function) gives something true."
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            found = code() if callable(code) else self.js(code)
            if found:
                say('seen:', what)
                return found
            time.sleep(0.3)
        self.shot('missing')
        raise AssertionError(f'not seen in {seconds} s: {what}')

    def shot(self, name: str, at: str = '', block: str = 'start'):
        "A screenshot, scrolled to the newest dashboard, or to what a selector finds."
        self.js(
            """const output = '.jp-OutputArea-output ', [at, block] = arguments;
            const seen = document.querySelector(at || output + 'div[style*="border-radius"]')
                || document.querySelector(output + 'img');
            if (seen) seen.scrollIntoView({block});""",
            at,
            block,
        )
        time.sleep(0.5)
        self.n += 1
        file = self.shots / f'{self.n:02d}-{name}.png'
        self.web.save_screenshot(str(file))
        say('wrote', file.name)

    def menu(self, *path: str):
        "Choose an entry of JupyterLab's menus."
        from selenium.webdriver.common.by import By

        self.web.find_element(By.XPATH, f"//div[contains(@class,'lm-MenuBar-itemLabel')][text()='{path[0]}']").click()
        for label in path[1:]:
            self.wait(
                f'menu entry {label}',
                lambda: self.web.find_elements(
                    By.XPATH, f"//div[contains(@class,'lm-Menu-itemLabel')][normalize-space()='{label}']"
                ),
                20,
            )[0].click()

    def press(self, label: str):
        "Press an ipywidgets button."
        self.wait(
            f'button {label!r}',
            f"return {ALL_BUTTONS}.find(b => b.innerText.trim() === '{label}' && !b.disabled)",
        ).click()


IMG = """return [...document.querySelectorAll('.jp-OutputArea-output img')].map(
    i => i.src.length + ':' + i.src.slice(-400))"""
ALL_BUTTONS = "[...document.querySelectorAll('button.widget-button, button.jupyter-button')]"
BUTTONS = f'return {ALL_BUTTONS}.map(b => b.innerText.trim())'
KERNEL_READY = """const bar = document.querySelector('.jp-Notebook-ExecutionIndicator, .jp-NotebookPanel-toolbar');
const accept = document.querySelector('.jp-Dialog .jp-mod-accept') || {click(){}};
return bar && !document.querySelector('.jp-Dialog') || accept.click();"""
SLIDER_RIGHT = """const slider = document.querySelector('.widget-slider .noUi-handle');
if (!slider) return false;
slider.focus();
for (let i = 0; i < 12; i++)
    slider.dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowRight', keyCode: 39, bubbles: true}));
return true;"""


TYPED = '.jp-OutputArea-output .widget-textarea textarea'
WRITTEN = 'div[style*="column-reverse"]'
STORY = f"return document.querySelector('{WRITTEN}')?.innerText"
BOX_SAYS = "return document.querySelector('.widget-hbox .widget-html span[style*=opacity]')?.innerText || ''"
LONGEST = """const handles = ['tokens', 'temperature'].map(word => [...document.querySelectorAll('.widget-slider')]
    .find(s => s.innerText.includes(word))?.querySelector('.noUi-handle'));
if (!handles.every(Boolean)) return false;
for (const handle of handles) {  // many tokens, and so random that few texts end by themselves
    handle.focus();
    handle.dispatchEvent(new KeyboardEvent('keydown', {key: 'End', keyCode: 35, bubbles: true}));
}
return true;"""
STOP_SOON = f"""const stop = {ALL_BUTTONS}.find(b => b.innerText.trim() === 'stop');
clearInterval(window.stopSoon);  // of a text that ended before it could be stopped
window.stopSoon = setInterval(() => {{
    if (!stop.disabled) {{ clearInterval(window.stopSoon); stop.click(); }}
}}, 5);"""
ENDS = ('stopped', 'The model ended the text here.', '')


DONE = 'the model wrote on in its box, and was stopped'


def start(page: Page):
    "Run all cells of the notebook."
    page.wait('the notebook', "return document.querySelector('.jp-Notebook .jp-CodeCell')", 120)
    page.wait('a kernel', KERNEL_READY, 60)
    time.sleep(2)
    page.menu('Run', 'Run All Cells')


def write_in_box(page: Page):
    "Type a prompt, have the model write on, stop it, and begin anew."
    from selenium.webdriver.common.by import By

    page.wait('the box', f"return document.querySelector('{TYPED}')", 120)
    field = page.web.find_element(By.CSS_SELECTOR, TYPED)
    page.wait('its prompt', lambda: field.get_attribute('value') == 'Once upon a time', 20)
    page.shot('box', WRITTEN, 'center')
    field.clear()
    prompt = 'Once upon a time there was a frog'
    field.send_keys(prompt)
    page.press('write on')
    page.wait('the prompt taken up', lambda: field.get_attribute('value') == '', 60)
    # A model that has learned for a minute may end its text after a word, or at once.
    page.wait('a story', lambda: len(page.js(STORY)) > len(prompt) or page.js(BOX_SAYS) == ENDS[1], 60)
    page.wait('its end', lambda: not page.js(BOX_SAYS).startswith('writing'), 120)
    assert page.js(STORY).startswith(prompt)
    page.shot('story', WRITTEN, 'center')
    page.wait('the sliders of length and temperature', LONGEST, 20)
    for word in ('The frog', 'Then', 'One day', 'And', 'But'):  # a text may end before it can be stopped
        field.send_keys(word)
        page.js(STOP_SOON)
        page.press('write on')
        # Until the words are taken up, the box still says how the text before them ended.
        page.wait('the words taken up', lambda: field.get_attribute('value') == '', 60)
        page.wait('the end', lambda: page.js(BOX_SAYS) in ENDS, 120)
        if page.js(BOX_SAYS) == 'stopped':
            break
    else:
        raise AssertionError('the answer could not be stopped')
    before = page.js(STORY)
    time.sleep(2)
    assert page.js(STORY) == before, 'it writes on after "stop"'
    page.shot('written on', WRITTEN, 'center')
    page.press('new')
    page.wait('an empty text', lambda: 'will stand here' in page.js(STORY), 20)


def drive(page: Page, run: Path):
    "The run, watched and stopped."
    page.wait(
        'the controls',
        f"return {ALL_BUTTONS}.some(b => b.innerText.includes('stop cleanly'))",
        120,
    )
    page.shot('started')
    pictures = [page.wait('the first picture', IMG, 180)]
    assert len(pictures[0]) == 1, f'{len(pictures[0])} pictures, expected one'
    for i in (1, 2):
        page.wait(
            f'a changed picture ({i})',
            lambda: (now := page.js(IMG)) and now != pictures[-1] and (pictures.append(now) or True),
            180,
        )
        assert len(pictures[-1]) == 1
    page.shot('live')
    before = page.js(IMG)
    page.wait('the slider', SLIDER_RIGHT, 30)
    page.js("document.querySelectorAll('.widget-checkbox input')[0].click()")
    page.wait('the picture after a click on "log loss"', lambda: page.js(IMG) != before, 30)
    page.press('sample now')
    page.wait('the sample', lambda: (run / 'samples.jsonl').exists() and not (run / 'SAMPLE').exists(), 60)
    page.wait('the sample on the page', "return document.body.innerText.includes('it wrote')", 60)
    time.sleep(3)
    page.shot('sample')
    page.press('stop cleanly')
    page.wait('state "stopped"', lambda: json.loads((run / 'run.json').read_text()).get('state') == 'stopped', 120)
    page.wait('the last words', "return document.body.innerText.includes('Stopped cleanly')", 60)
    page.wait('the controls gone', f"return !(function() {{ {BUTTONS} }})().some(b => b.includes('stop'))", 60)
    page.wait(
        'the last cell done',
        "return ![...document.querySelectorAll('.jp-InputPrompt')].some(p => p.innerText.includes('*'))",
        180,
    )
    if page.demo:
        assert 'the next cell ran, state: stopped' in page.js('return document.body.innerText')
    time.sleep(1)
    page.shot('stopped')
    assert len(page.js(IMG)) == 1, 'more than one picture is left'
    assert list(run.glob('checkpoints/step-*')), 'no checkpoint'
    assert 'Loading widget' not in page.js('return document.body.innerText')


def main():
    a = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    a.add_argument('folder', type=Path)
    a.add_argument('--notebook', type=Path)
    a.add_argument('--box', type=Path)
    # Far more than the test takes, which stops the run itself: a slow machine draws a picture a minute.
    a.add_argument('--minutes', default='15')
    a.add_argument('--theme', default='light', choices=['light', 'dark'])
    a.add_argument('--keep', action='store_true')
    a = a.parse_args()
    need()
    a.folder.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix='i3nb-browser-'))
    lab_dir = work / 'lab'
    lab_dir.mkdir()
    run = lab_dir / 'run'
    nb = lab_dir / 'test.ipynb'
    if a.notebook:
        shutil.copy(a.notebook, nb)
    else:
        demo_notebook(nb, *([BOX] if a.box else [DEMO, AFTER, BOX]))
    env = {k: v for k, v in os.environ.items() if k not in ('KAGGLE_KERNEL_RUN_TYPE', 'I3NB_WIDGETS')}
    if a.notebook:  # the kernel notebook: tiny, on the embedded grammar, in folders of its own
        for k in ('work', 'scratch', 'input'):
            (lab_dir / k).mkdir()
        env |= dict(
            I3NB_WORKING=str(lab_dir / 'work'),
            I3NB_SCRATCH=str(lab_dir / 'scratch'),
            I3NB_INPUT=str(lab_dir / 'input'),
            I3NB_PRESET='i3-tiny',
            I3NB_MINUTES=a.minutes,
            I3NB_DATA='synthetic',
            I3NB_MAX_MB='1',
            I3NB_BATCH_SIZE='4',
            I3NB_ARGS='--vocab_size 1200 --seq_len 64 --eval_every 20 --eval_docs 8 --checkpoint_every 25',
        )
        run = lab_dir / 'work' / 'i3-tiny'
    env |= dict(
        I3NB_BROWSER_RUN=str(a.box.absolute() if a.box else run),
        I3NB_BROWSER_MINUTES=a.minutes,
        PYTHONPATH=os.pathsep.join([str(ROOT), env.get('PYTHONPATH', '')]).rstrip(os.pathsep),
    )
    lab = page = None
    try:
        lab = Lab(lab_dir, env, a.theme)
        say('JupyterLab answers')
        page = Page(lab.url('lab/tree/test.ipynb') + '&reset', a.folder, work / 'profile')
        page.demo = not a.notebook
        start(page)
        if not a.box:
            drive(page, run)
        write_in_box(page)
        page.menu('File', 'Save Notebook')
        time.sleep(2)
        saved = json.loads(nb.read_text())
        outputs = [o for c in saved['cells'] for o in c.get('outputs', [])]
        pictures = sum('image/png' in o.get('data', {}) for o in outputs)
        assert pictures == (0 if a.box else 1), 'the saved notebook must hold one picture'
        assert not [o['ename'] for o in outputs if o['output_type'] == 'error'], 'a cell raised'
        widgets = sum('widget-view' in k for o in outputs for k in o.get('data', {}))
        assert widgets == 1, 'the saved notebook holds a dead widget, or not the box'
        shutil.copy(nb, a.folder / 'as-saved.ipynb')
        say('ok: ' + ('' if a.box else 'the picture changed, the controls worked, the run stopped cleanly, ') + DONE)
    except AssertionError as e:
        say('FAILED:', e)
        return 1
    finally:
        if page:
            page.web.quit()
        if lab:
            lab.close()
        if a.keep:
            say('kept', work)
        else:
            shutil.rmtree(work, ignore_errors=True)
    return 0


if __name__ == '__main__':
    sys.exit(main())

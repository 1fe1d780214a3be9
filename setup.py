"Package metadata, read from settings.ini (nbdev 2's way, without needing nbdev to install)."

from configparser import ConfigParser
from pathlib import Path
from setuptools import find_packages, setup

root = Path(__file__).parent
ini = ConfigParser(delimiters=['='])
ini.read(root / 'settings.ini', encoding='utf-8')
cfg = ini['DEFAULT']

statuses = ['0 - Unknown', '1 - Planning', '2 - Pre-Alpha', '3 - Alpha', '4 - Beta', '5 - Production/Stable']


def words(key):
    return cfg.get(key, '').split()


setup(
    name=cfg['lib_name'],
    version=cfg['version'],
    description=cfg['description'],
    long_description=(root / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    keywords=words('keywords'),
    author=cfg['author'],
    author_email=cfg['author_email'],
    url=cfg['git_url'],
    license='Apache-2.0',
    license_files=['LICENSE'],
    classifiers=[
        f'Development Status :: {statuses[int(cfg["status"])]}',
        f'Intended Audience :: {cfg["audience"]}',
        f'Natural Language :: {cfg["language"]}',
    ]
    + [f'Programming Language :: Python :: 3.{minor}' for minor in (10, 11, 12, 13, 14)],
    packages=find_packages(include=[cfg['lib_path'], cfg['lib_path'] + '.*']),
    include_package_data=True,
    python_requires='>=' + cfg['min_python'],
    install_requires=words('requirements'),
    extras_require={'dev': words('dev_requirements'), 'docs': words('docs_requirements')},
    entry_points={
        'console_scripts': words('console_scripts'),
        'nbdev': [f'{cfg["lib_path"]}={cfg["lib_path"]}._modidx:d'],
    },
    zip_safe=False,
)

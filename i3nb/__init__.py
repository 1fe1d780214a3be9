__version__ = "0.1.0"
from i3nb.base.imports import import_with

import_with('transformers', 'i3nb.hf.register')  # see nbs/hf/07_register.ipynb

"""A handler whose module is never done with being imported."""

import threading

threading.Event().wait()

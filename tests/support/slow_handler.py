"""A handler whose module never finishes importing."""

import threading

threading.Event().wait()

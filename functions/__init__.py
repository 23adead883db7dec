"""The handlers: one folder for each function, named as in `shared/routes.py`; a handler parses, calls and answers."""

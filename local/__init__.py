"""The same service on a laptop: one file per AWS service it stands for, and the command line.

Nothing here is packaged for Lambda, and nothing in `functions` or `shared` may import it.
"""

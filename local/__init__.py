"""An emulator of the AWS services that the presence service runs on, with one module or package for each.

Nothing here is packaged for Lambda, and neither `functions` nor `shared` may import it.
"""

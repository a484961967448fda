"""Programs that run inside AppWorld's own virtual environment: standard library and appworld only.

The folder holds nothing else, because Python puts it on the import path of the process that runs agent code.
"""

"""The built-in task pack: our own people and scenarios on the real AppWorld engine, in the official on-disk layout.

Runs inside AppWorld's virtual environment (`python -m appworld_tasks.builtin --help`) and imports nothing of loop_rl.
Only the generator is part of the project: generated data stays on the machine that generated it, because AppWorld's
licence asks that its data and application sources are not published in the open.
"""

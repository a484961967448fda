"""AppWorld: a REPL with the APIs of nine apps, run by `appworld_tasks`; its prompts, its figures, how agents behave in it."""

"""The commands for people: `python -m tasks COMMAND`. Only `tasks.__main__` imports it."""

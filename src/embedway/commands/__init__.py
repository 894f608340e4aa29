"""The commands of `cli.py` beside `serve`: each module declares one, and imports what it does when it is called."""

"""What a command says while it runs and when it is done.

Open `progress` first: the calls a long run makes, and their plain-line and JSON versions.

- `terminal`: the live version for people in front of a terminal.
- `results`: the last lines of a command, as text or JSON.
- `steady_output`: standard output that no full disk and no closed pipe turns into a crash.
"""

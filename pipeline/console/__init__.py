"""What a command says while it runs and when it is done.

Open `progress` first: the calls a long run makes, and their plain-line and JSON versions.

- `terminal`: the live version for people in front of a terminal.
- `results`: the last lines of a command, as text or JSON.
- `steady_output`: standard output that a full disk or a closed pipe cannot make fail.
"""

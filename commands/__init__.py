"""The commands, one a module: what click needs to know of each, and the call that does the work.

    config_file   options from a TOML file
    options       what several commands share
    exits         how a command ends: errors become messages and exit codes
    output        what is printed, and where

``cli.py`` puts the commands into their groups. Nothing heavy is imported before a command runs:
help and completion are instant.
"""

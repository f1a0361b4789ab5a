"""The command line: what the user types, sees and reads when something goes wrong.

Everything heavy is imported inside the commands, so that ``--help`` is there at once.
"""

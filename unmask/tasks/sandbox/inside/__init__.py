"""What runs inside a sandbox: plain scripts of the standard library, bound there read-only.

`candidate.py` holds the model's program, `judge.py` the tests, `server.py` forks a judge (or any
other scorer) per job, `wire.py` is the language between the two.
"""

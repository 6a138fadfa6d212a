"""The crash-point harness: what is left when the operator dies between any two of its writes.

`proxy` stands between a process and the API server, counts the process's writes, and makes things go wrong at chosen
ones. `scenario` runs a story undisturbed, and again with a kill at every write, and compares what is left.
"""

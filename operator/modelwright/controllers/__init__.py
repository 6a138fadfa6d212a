"""One folder for each kind: what is observed, the pure plan, the children it makes, and the shell that applies it."""

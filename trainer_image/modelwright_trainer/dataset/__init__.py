"""The command `dataset`: reads a source of any size, checks it, splits it, profiles it, and writes it as shards."""

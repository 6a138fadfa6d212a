"""Dataset: rows that one Job checks, splits, profiles and lays out in the store."""

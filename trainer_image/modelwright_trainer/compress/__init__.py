"""Compression of a published version, one step a Job: what a step leaves in the store is the next one's beginning."""

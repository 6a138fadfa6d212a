"""The API `modelwright.dev/v1alpha1`: its kinds as pydantic models.

They are the one source of `crds/`, of `docs/reference/` (both written by `python -m modelwright.crdgen`) and of what
the operator checks when it reads an object. Import the module of the kind: this package imports none, so that a
trainer, which needs `recipes` alone, loads nothing else.
"""

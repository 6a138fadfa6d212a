"""Writes the CRDs and the field reference from the models of `modelwright.api`: `python -m modelwright.crdgen`."""

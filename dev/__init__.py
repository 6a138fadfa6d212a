"""Tools of this repository's developers: what builds, pushes and checks, and is part of no release."""

"""Tests that need torch: run by `dev/trainer_venv && .venv-trainer/bin/python -m pytest tests/trainer`."""

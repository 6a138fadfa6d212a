"""Model: what each channel resolves to."""

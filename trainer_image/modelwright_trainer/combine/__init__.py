"""One version out of several: their graphs side by side in one, and what is made of their outputs."""

"""ModelVersion: one immutable version, with the digests that it hangs on."""

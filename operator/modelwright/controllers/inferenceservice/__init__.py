"""InferenceService: a version behind a Service, and the blue-green change from one to the next."""

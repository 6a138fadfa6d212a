"""What runs in the pods of a training job."""

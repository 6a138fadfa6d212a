"""TrainingJob: attempts of a distributed training, from the data to a published ModelVersion."""

"""The search for hyperparameters on Ray. May import records and everything below it."""

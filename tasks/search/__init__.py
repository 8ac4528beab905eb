"""The search for hyperparameters on Ray. May import `distributed` and everything below it."""

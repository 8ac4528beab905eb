"""The networks, and the classifier around them. May import nothing else of `tasks.vision`."""

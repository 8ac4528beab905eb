"""Whether a stage takes the result of an earlier run. May import records and everything below it."""

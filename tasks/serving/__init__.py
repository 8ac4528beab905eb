"""The service, and what starts, asks and checks it. May import records and everything below it."""

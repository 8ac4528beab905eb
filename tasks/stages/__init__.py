"""The stages, one module each with `run`. May import everything below: search, serving, records, gate, vision."""

"""One training on several workers of a Ray. May import `cluster`, `records` and everything below them."""

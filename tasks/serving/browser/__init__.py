"""What a browser loads from the service: the page at `/` and the Swagger page at `/docs`. Served by `pages.py`."""

"""The stages: each module has `run(request, run, settings) -> result`."""

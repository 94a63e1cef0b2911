"""One module per step, one function each: ``run(request, spec) -> Result``."""

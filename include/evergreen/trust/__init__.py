"""Who is believed: keys, signatures, and the models that bear them."""

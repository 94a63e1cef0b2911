"""Tables: the lake, what arrives in it, what is found wrong with it, what is computed from it."""

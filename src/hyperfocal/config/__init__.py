"""Typed settings of both jobs, and the strict TOML recipes that hold them."""

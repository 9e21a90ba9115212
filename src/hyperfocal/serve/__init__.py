"""Serve a trained run over HTTP, for either job."""

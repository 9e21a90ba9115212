"""Read, split and number logs, documents and tables of items; make synthetic ones."""

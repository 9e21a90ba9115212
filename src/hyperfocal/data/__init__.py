"""Read, number, cut and split logs and documents; made-up data for the demos."""

"""Training: one readable file a stage. The data set on disk is its only contract with `factory`, which it never imports."""

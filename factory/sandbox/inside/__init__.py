"""What runs in the helper process and inside the sandbox: standard library only, started with `python -I -S`.

Nothing here may import the rest of the package: the helper must stay small, and what goes inside must not bring the
factory's modules along.
"""

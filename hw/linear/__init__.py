"""Linear engines: ternary by table look-up, and INT4 x FP8."""

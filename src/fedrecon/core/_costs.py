"""What a client computes in a round, whatever the machine: the names of what is counted."""

# Steps along a gradient; linear systems that are solved; examples that are gone through for these, counted
# again in every pass.
COSTS = GRADIENT_STEPS, SOLVES, EXAMPLE_PASSES = "gradient_steps", "solves", "example_passes"

"""The paper's tables of figures, size, cost, memory and speed, one command each; run from the root of the checkout."""

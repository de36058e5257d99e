"""The paper's tables of size, cost, memory and speed, one command each; run from the root of the checkout."""

"""The networks that the paper's tables 7 and 10 compare ORDER with, written from their papers."""

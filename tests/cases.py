"""Shapes and inputs that tests and benchmarks share."""

UGLY = [  # (T, B, I, H)
    (1, 1, 1, 1),
    (2, 3, 1, 17),
    (7, 2, 5, 16),
    (5, 7, 3, 37),
    (3, 20, 11, 100),
    (0, 3, 4, 5),
    (4, 0, 4, 5),
]

"""A layer as torch sees it: autograd Functions, operators for what traces and transforms, walks in blocks of time."""
